"""The features that come with an outcome, read for many rows.

Holds the two ways in: all features of a usual row at once, and one after the other for every other row; does not hold
what a feature accepts (`core/features.py`). The first way is taken only where it cannot differ from the second: a row
whose values have exactly their features' types and limits, with texts that were read before.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from retrain_assets.core.features import LEAST_WHOLE, MOST_WHOLE, Feature, FeatureType, shown
from retrain_assets.core.outcome_values import MAX_REASON_LENGTH, unknown_column
from retrain_assets.errors import SchemaError

_REMEMBERED = 1_000
"""Different texts of one category that are known by heart."""


class FeatureReader:
    """Reads the features of outcomes, and what else their rows hold.

    Parameters
    ----------
    features : tuple of Feature
    fixed_fields : frozenset of str
        Names that are not features.
    """

    def __init__(self, features: tuple[Feature, ...], fixed_fields: frozenset[str]) -> None:
        self._features = features
        self._known = fixed_fields | {feature.name for feature in features}
        self._usual = _usual_row(features)
        texts = ((f"f{place}", feature) for place, feature in enumerate(features))
        self._texts = [(key, f, dict[str, str]()) for key, f in texts if f.type is FeatureType.CATEGORY]

    def read(self, raw: Mapping[str, Any], *, is_decided: bool, is_strict: bool) -> Struct | dict[str, Any]:
        """What a row tells beyond the fixed fields: features in their types, then unknown columns as they came.

        Parameters
        ----------
        raw : mapping
        is_decided : bool
            The outcome names its decision, and the decision log has the features that were decided on: a worker need
            not send them again, and a value that does not fit must not cost the outcome, which would then count as
            missing.
        is_strict : bool
            Unknown columns are refused.

        Returns
        -------
        Struct or dict
            Both are the same JSON; `plain` makes a dict of either.

        Raises
        ------
        SchemaError
        """
        if not raw.keys() <= self._known:
            if is_strict:
                unknown: Any = next(name for name in raw if name not in self._known)
                name = unknown if isinstance(unknown, str) else shown(unknown)
                raise SchemaError(name, "is not a feature of this problem, and problem.unknown_columns is quarantine")
            found = self._one_by_one(raw, is_decided=is_decided) if self._features else {}
            self._add_unknown(raw, found)
            return found
        try:
            row = msgspec.convert(raw, self._usual)
        except (msgspec.ValidationError, ValueError, TypeError):
            return self._one_by_one(raw, is_decided=is_decided)
        for key, feature, known in self._texts:
            value = getattr(row, key)
            is_known = value is None or (value.__class__ is str and value in known)
            if not is_known and not _learn(feature, known, value):
                return self._one_by_one(raw, is_decided=is_decided)
        return row

    def _one_by_one(self, raw: Mapping[str, Any], *, is_decided: bool) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for feature in self._features:
            try:
                value = feature.read(raw.get(feature.name))
            except SchemaError:
                if not is_decided:
                    raise
                continue
            if value is not None:
                found[feature.name] = value
        return found

    def _add_unknown(self, raw: Mapping[str, Any], found: dict[str, Any]) -> None:
        known = self._known
        for name, value in raw.items():
            if name in known:
                continue
            # What `unknown_column` keeps as it is, told without it: before settings are published every feature comes
            # this way, and the calls took half of the time in which a batch is read.
            kind = value.__class__
            is_usual = kind is bool or (
                (0 < len(value) <= MAX_REASON_LENGTH and value.isascii())
                if kind is str
                else (-math.inf < value < math.inf)
                if kind is float
                else (kind is int and LEAST_WHOLE <= value <= MOST_WHOLE)
            )
            if not is_usual or name.__class__ is not str or not name.isascii():
                name, value = unknown_column(name, value)  # noqa: PLW2901
            if value is not None:
                found[name] = value


def plain(features: Struct | dict[str, Any]) -> dict[str, Any]:
    """What `FeatureReader.read` found, as a dict; missing features are left out."""
    return features if isinstance(features, dict) else msgspec.to_builtins(features)


@lru_cache(maxsize=64)
def reader_of(features: tuple[Feature, ...], fixed_fields: frozenset[str]) -> FeatureReader:
    """The reader of some features: making one takes longer than reading a hundred rows."""
    return FeatureReader(tuple(f for f in features if f.name not in fixed_fields), fixed_fields)


def _learn(feature: Feature, known: dict[str, str], value: str) -> bool:
    """Whether a category's text is kept exactly as it came; such texts are remembered."""
    try:
        is_kept = value.__class__ is str and feature.read(value) == value
    except SchemaError:
        return False
    if is_kept and len(known) < _REMEMBERED:
        known[value] = value
    return is_kept


def _usual_row(features: tuple[Feature, ...]) -> type[Struct]:
    """A row whose values have their features' types and limits; every other row does not convert to it."""
    fields: list[Any] = []
    for place, feature in enumerate(features):
        kind = _KINDS[feature.type](feature)
        fields.append((f"f{place}", kind) if feature.required else (f"f{place}", kind | None, None))
    names = {f"f{place}": feature.name for place, feature in enumerate(features)}
    return msgspec.defstruct("UsualRow", fields, rename=names, omit_defaults=True, kw_only=True, gc=False)


def _number(feature: Feature) -> Any:  # noqa: ANN401  (a type made of limits)
    low = -math.inf if feature.min is None else feature.min
    high = math.inf if feature.max is None else feature.max
    # The largest float as a limit refuses infinities; NaN is within no limits.
    return Annotated[float, Meta(ge=max(low, -sys.float_info.max), le=min(high, sys.float_info.max))]


def _integer(feature: Feature) -> Any:  # noqa: ANN401  (a type made of limits)
    low = LEAST_WHOLE if feature.min is None else max(math.ceil(feature.min), LEAST_WHOLE)
    high = MOST_WHOLE if feature.max is None else min(math.floor(feature.max), MOST_WHOLE)
    return Annotated[int, Meta(ge=low, le=high)]


_KINDS: dict[FeatureType, Callable[[Feature], Any]] = {
    FeatureType.NUMBER: _number,
    FeatureType.INTEGER: _integer,
    FeatureType.BOOLEAN: lambda _: bool,
    FeatureType.CATEGORY: lambda _: str,
}
