"""How one task's features become the numbers a model reads, the same in training and in the engine.

Holds the fitted encoding (column order, category codes, ranges seen), its JSON form and the encoding of one
task; does not hold data frames (`core/pipeline.py`), models, or the check at the collector's door
(`core/features.py`, whose reading of a value this reuses so that both agree). Standard library and numpy
alone: workers import it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.errors import SchemaError

FLOAT32_MAX = float(np.finfo(np.float32).max)
UNKNOWN_CODE = -1.0
"""Code of a category, or an action, that the encoding was not fitted on."""
MAX_CATEGORIES = 10_000
"""Categories of one feature that get a code of their own; the rarest beyond it count as unknown."""

Reader = Callable[[Any], float]
RowEncoder = Callable[[Mapping[str, Any]], list[float]]


@dataclass(frozen=True, slots=True)
class ColumnEncoding:
    """One input column of the model.

    Attributes
    ----------
    name : str
    type : FeatureType
    required : bool
        A missing value is an error instead of NaN.
    min, max : float or None
        The schema's limits. Recorded, not enforced: the collector refuses values beyond them, the
        engine scores them.
    observed_min, observed_max : float or None
        Range of the training rows; None when a column is a category or was always missing.
    categories : tuple of str or None
        A category's texts, position = code.
    """

    name: str
    type: FeatureType
    required: bool = False
    min: float | None = None
    max: float | None = None
    observed_min: float | None = None
    observed_max: float | None = None
    categories: tuple[str, ...] | None = None

    @property
    def codes(self) -> dict[str, float]:
        """Category text to code; empty for the other types."""
        return {text: float(code) for code, text in enumerate(self.categories or ())}

    def reader(self) -> Reader:
        """A function from one raw value to its float: missing is NaN, an unknown category is -1.

        The function raises `SchemaError`, naming this feature, for a value of a wrong type, a number
        that is not finite, or a required value that is missing.
        """
        match self.type:
            case FeatureType.CATEGORY:
                return _category_reader(self)
            case FeatureType.BOOLEAN:
                return _boolean_reader(self)
            case _:
                return _number_reader(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able; `from_dict` is its inverse."""
        return {
            "name": self.name,
            "type": self.type.value,
            "required": self.required,
            "min": self.min,
            "max": self.max,
            "observed_min": self.observed_min,
            "observed_max": self.observed_max,
            "categories": None if self.categories is None else list(self.categories),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ColumnEncoding:
        """Read what `to_dict` wrote."""
        categories = data["categories"]
        return cls(
            name=data["name"],
            type=FeatureType(data["type"]),
            required=data["required"],
            min=data["min"],
            max=data["max"],
            observed_min=data["observed_min"],
            observed_max=data["observed_max"],
            categories=None if categories is None else tuple(categories),
        )


@dataclass(frozen=True, slots=True)
class Encoding:
    """All input columns of a model, in order; the action is the last one.

    Attributes
    ----------
    columns : tuple of ColumnEncoding
    actions : tuple of str
        Position = code. Fixed by the schema, never by data.
    """

    columns: tuple[ColumnEncoding, ...]
    actions: tuple[str, ...]

    @property
    def width(self) -> int:
        """Number of input columns, the action included."""
        return len(self.columns) + 1

    @property
    def action_codes(self) -> dict[str, float]:
        """Action to code."""
        return {action: float(code) for code, action in enumerate(self.actions)}

    def row_encoder(self) -> RowEncoder:
        """A function from one task's features to its `width - 1` floats, in column order.

        Features the encoding does not know are left out; absent ones are missing.
        """
        pairs = [(column.name, column.reader()) for column in self.columns]

        def encode(features: Mapping[str, Any]) -> list[float]:
            get = features.get
            return [read(get(name)) for name, read in pairs]

        return encode

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able; `from_dict` is its inverse."""
        return {"features": [column.to_dict() for column in self.columns], "actions": list(self.actions)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Encoding:
        """Read what `to_dict` wrote; further keys are ignored."""
        return cls(tuple(ColumnEncoding.from_dict(item) for item in data["features"]), tuple(data["actions"]))


def encode_rows(encoding: Encoding, rows: Sequence[Mapping[str, Any]], actions: Sequence[str]) -> np.ndarray:
    """Encode tasks one by one: float32 matrix of shape (len(rows), width).

    Parameters
    ----------
    encoding : Encoding
    rows : sequence of mapping
        Raw feature values by name.
    actions : sequence of str
        One action for each row; an unknown one is -1.

    Raises
    ------
    SchemaError
        For the first value of a wrong type.
    """
    encode, codes = encoding.row_encoder(), encoding.action_codes
    matrix = np.empty((len(rows), encoding.width), dtype=np.float32)
    for position, (row, action) in enumerate(zip(rows, actions, strict=True)):
        matrix[position] = [*encode(row), codes.get(action, UNKNOWN_CODE)]
    return matrix


def fit_columns(
    schema: FeatureSchema,
    counts: Mapping[str, Mapping[str, int]],
    ranges: Mapping[str, tuple[float, float] | None],
    parent: Encoding | None = None,
) -> Encoding:
    """Build the encoding from what the training rows show.

    Categories are coded by ascending frequency, ties by name, so that an unseen category (-1) lies
    beside the rarest ones, and trees treat it like them. A category with a closed list in the schema
    keeps the list's order. With a parent its codes stay, and new categories follow after them.

    Parameters
    ----------
    schema : FeatureSchema
    counts : mapping
        Feature name to {category text: rows}, for category features.
    ranges : mapping
        Feature name to (lowest, highest) seen, or None when always missing, for the other features.
    parent : Encoding, optional
        The encoding of the model that training continues from; must have the same columns.
    """
    known = {column.name: column.categories or () for column in parent.columns} if parent else {}
    columns = []
    for feature in schema.features:
        if feature.type is FeatureType.CATEGORY:
            categories = _ordered_categories(feature, counts.get(feature.name, {}), known.get(feature.name, ()))
            columns.append(ColumnEncoding(feature.name, feature.type, feature.required, categories=categories))
            continue
        low, high = ranges.get(feature.name) or (None, None)
        columns.append(
            ColumnEncoding(feature.name, feature.type, feature.required, feature.min, feature.max, low, high)
        )
    return Encoding(tuple(columns), schema.actions)


def _ordered_categories(feature: Feature, counts: Mapping[str, int], known: tuple[str, ...]) -> tuple[str, ...]:
    if feature.categories is not None:
        return feature.categories
    most_frequent = sorted(set(counts) - set(known), key=lambda text: (-counts[text], text))
    fresh = most_frequent[: MAX_CATEGORIES - len(known)]
    # A parent's codes are fixed, so its new categories follow by frequency instead.
    return known + tuple(fresh) if known else tuple(reversed(fresh))


def _number_reader(column: ColumnEncoding) -> Reader:
    feature, optional, is_integer = _as_collected(column), not column.required, column.type is FeatureType.INTEGER

    def read(value: Any) -> float:  # noqa: ANN401  (a worker sends whatever it has)
        kind = value.__class__
        # One chained comparison also finds NaN, infinities and what float32 cannot hold. A float in an
        # integer column takes the long way, which refuses fractions.
        if (kind is int or (kind is float and not is_integer)) and -FLOAT32_MAX <= value <= FLOAT32_MAX:
            return value  # type: ignore[no-any-return]  # an int packs like a float
        if value is None and optional:
            return math.nan
        number = feature.read(value)
        return math.nan if number is None else min(max(float(number), -FLOAT32_MAX), FLOAT32_MAX)

    return read


def _boolean_reader(column: ColumnEncoding) -> Reader:
    feature, optional = _as_collected(column), not column.required

    def read(value: Any) -> float:  # noqa: ANN401  (see `_number_reader`)
        if value is True:
            return 1.0
        if value is False:
            return 0.0
        truth = None if value is None and optional else feature.read(value)
        return math.nan if truth is None else float(truth)

    return read


def _category_reader(column: ColumnEncoding) -> Reader:
    feature, codes, optional = _as_collected(column), column.codes, not column.required

    def read(value: Any) -> float:  # noqa: ANN401  (see `_number_reader`)
        if value.__class__ is str:
            code = codes.get(value)
            if code is not None:
                return code
        text = None if value is None and optional else feature.read(value)
        return math.nan if text is None else codes.get(str(text), UNKNOWN_CODE)

    return read


def _as_collected(column: ColumnEncoding) -> Feature:
    """The feature as the collector reads it, but without limits and closed lists: the engine scores those."""
    return Feature(column.name, column.type, required=column.required)


def check_actions(encoding: Encoding, actions: Sequence[str]) -> list[float]:
    """Codes of candidate actions.

    Raises
    ------
    SchemaError
        When an action is none of the model's.
    """
    codes = encoding.action_codes
    for action in actions:
        if action not in codes:
            raise SchemaError("action", f"{action!r} is not one of {', '.join(encoding.actions)}")
    return [codes[action] for action in actions]
