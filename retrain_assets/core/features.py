"""What a task is described by: typed features, their check at the door, and the schema's identity.

Holds the feature schema, the reading of one task's feature values and the comparison of two
schemas; does not hold the numeric encoding learned from data (`core/model.py`, `serving/artefact.py`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from retrain_assets.errors import SchemaError

MAX_TEXT_LENGTH = 2_000
"""Characters of one text value; longer ones are refused at the door."""

_TRUE = frozenset({"true", "1", "yes", "y", "t"})
_FALSE = frozenset({"false", "0", "no", "n", "f"})
_MISSING_TEXT = frozenset({"", "null", "none", "nan", "na", "n/a"})

FeatureValue = float | int | bool | str | None


class FeatureType(StrEnum):
    """The four types a feature may have."""

    NUMBER = "number"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    CATEGORY = "category"


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of a task, known before the decision.

    Attributes
    ----------
    name : str
    type : FeatureType
    min, max : float or None
        Inclusive limits of a number or integer.
    required : bool
        When False (default) a missing value is allowed and kept as missing.
    categories : tuple of str or None
        The allowed values of a category; None accepts any text.
    """

    name: str
    type: FeatureType
    min: float | None = None
    max: float | None = None
    required: bool = False
    categories: tuple[str, ...] | None = None

    def read(self, value: Any) -> FeatureValue:  # noqa: ANN401  (the door takes whatever a worker sends)
        """Return `value` in this feature's type, or None when it is missing.

        Raises
        ------
        SchemaError
            Names this feature, the value and what would be accepted.
        """
        if isinstance(value, float) and self.type is FeatureType.NUMBER and self._is_within(value):
            return value  # what most rows hold; the rest is looked at closely below
        if isinstance(value, bool) and self.type is FeatureType.BOOLEAN:
            return value
        if _is_missing(value):
            if self.required:
                raise SchemaError(self.name, "is required, but missing")
            return None
        match self.type:
            case FeatureType.BOOLEAN:
                return self._read_boolean(value)
            case FeatureType.CATEGORY:
                return self._read_category(value)
            case _:
                return self._read_number(value)

    def _is_within(self, number: float) -> bool:
        """Whether a number is finite and within the limits; false for NaN."""
        low = -math.inf if self.min is None else self.min
        high = math.inf if self.max is None else self.max
        return low <= number <= high and -math.inf < number < math.inf

    def _read_boolean(self, value: Any) -> bool:  # noqa: ANN401  (see `read`)
        if isinstance(value, bool):
            return value
        if isinstance(value, int | float) and value in (0, 1):
            return bool(value)
        text = str(value).strip().lower() if isinstance(value, str) else ""
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        raise SchemaError(self.name, f"{_shown(value)} is not a boolean; use true or false")

    def _read_category(self, value: Any) -> str:  # noqa: ANN401  (see `read`)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise SchemaError(self.name, f"{_shown(value)} is not a category; use text")
        text = str(value).strip()
        if len(text) > MAX_TEXT_LENGTH:
            raise SchemaError(self.name, f"has {len(text)} characters; at most {MAX_TEXT_LENGTH} are accepted")
        check_encodable(self.name, text)
        if self.categories is not None and text not in self.categories:
            raise SchemaError(self.name, f"{_shown(value)} is not one of {', '.join(self.categories)}")
        return text

    def _read_number(self, value: Any) -> float | int:  # noqa: ANN401  (see `read`)
        if isinstance(value, bool):
            raise SchemaError(self.name, f"{_shown(value)} is a boolean, not a number")
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise SchemaError(self.name, f"{_shown(value)} is not a number") from None
        if not math.isfinite(number):
            raise SchemaError(self.name, f"{_shown(value)} is not finite")
        if self.type is FeatureType.INTEGER and not number.is_integer():
            raise SchemaError(self.name, f"{_shown(value)} is not a whole number")
        if not self._is_within(number):
            low = "-inf" if self.min is None else f"{self.min:g}"
            high = "inf" if self.max is None else f"{self.max:g}"
            raise SchemaError(self.name, f"{_shown(value)} is outside {low} to {high}")
        return int(number) if self.type is FeatureType.INTEGER else number


@dataclass(frozen=True, slots=True)
class FeatureSchema:
    """The ordered features and actions that a dataset, a model and an engine agree on.

    Attributes
    ----------
    features : tuple of Feature
        In the order of the model's input columns; the action follows as the last column.
    actions : tuple of str
    strata : tuple of str
        Features whose values name a task's stratum.
    """

    features: tuple[Feature, ...]
    actions: tuple[str, ...]
    strata: tuple[str, ...] = ()
    _by_name: dict[str, Feature] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {feature.name: feature for feature in self.features})

    @property
    def names(self) -> tuple[str, ...]:
        """Feature names in order."""
        return tuple(self._by_name)

    def get(self, name: str) -> Feature | None:
        """The feature called `name`, or None."""
        return self._by_name.get(name)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (first 16 hex digits) over features, types, limits and actions, in order."""
        content = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able; `from_dict` is its inverse."""
        return {
            "features": [
                {
                    "name": f.name,
                    "type": f.type.value,
                    "min": f.min,
                    "max": f.max,
                    "required": f.required,
                    "categories": list(f.categories) if f.categories is not None else None,
                }
                for f in self.features
            ],
            "actions": list(self.actions),
            "strata": list(self.strata),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FeatureSchema:
        """Read what `to_dict` wrote."""
        features = tuple(
            Feature(
                name=f["name"],
                type=FeatureType(f["type"]),
                min=f["min"],
                max=f["max"],
                required=f["required"],
                categories=tuple(f["categories"]) if f["categories"] is not None else None,
            )
            for f in data["features"]
        )
        return cls(features, tuple(data["actions"]), tuple(data["strata"]))

    def read(self, values: Mapping[str, Any]) -> dict[str, FeatureValue]:
        """Return every feature of the schema in its type; unknown names are left out.

        Raises
        ------
        SchemaError
            For the first feature that does not fit.
        """
        return {f.name: f.read(values.get(f.name)) for f in self.features}

    def stratum(self, values: Mapping[str, Any]) -> str:
        """The stratum of a task: its strata values joined by `|`; `""` when none are configured."""
        return "|".join("missing" if values.get(name) is None else str(values[name]) for name in self.strata)


class SchemaChange(StrEnum):
    """How a newer schema relates to an older one."""

    SAME = "same"
    COMPATIBLE = "compatible"
    BREAKING = "breaking"


def compare_schemas(old: FeatureSchema, new: FeatureSchema) -> tuple[SchemaChange, list[str]]:
    """Say whether `new` still serves callers of `old`, with every difference in words.

    Breaking: a feature removed, its type changed, a required feature added, an action removed.
    Compatible: anything else that differs (an optional feature or an action added, a limit moved).
    """
    breaking = [f"action {action} was removed" for action in old.actions if action not in new.actions]
    compatible = [f"action {action} was added" for action in new.actions if action not in old.actions]
    for feature in old.features:
        successor = new.get(feature.name)
        if successor is None:
            breaking.append(f"feature {feature.name} was removed")
        elif successor.type is not feature.type:
            breaking.append(f"feature {feature.name} changed from {feature.type} to {successor.type}")
        elif successor.required and not feature.required:
            breaking.append(f"feature {feature.name} became required")
        elif successor != feature:
            compatible.append(f"feature {feature.name} changed its limits")
    for feature in new.features:
        if old.get(feature.name) is None:
            (breaking if feature.required else compatible).append(
                f"{'required ' if feature.required else ''}feature {feature.name} was added"
            )
    if breaking:
        return SchemaChange.BREAKING, breaking + compatible
    if compatible or old.to_dict() != new.to_dict():
        return SchemaChange.COMPATIBLE, compatible or ["features, actions or strata were reordered"]
    return SchemaChange.SAME, []


def check_encodable(name: str, text: str) -> None:
    """Refuse text with half a surrogate pair: no driver and no JSON can write it, so the whole batch would fail.

    Raises
    ------
    SchemaError
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SchemaError(name, f"{_shown(text)} cannot be written as UTF-8") from None


def _is_missing(value: Any) -> bool:  # noqa: ANN401  (see `Feature.read`)
    if value is None:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    return isinstance(value, str) and value.strip().lower() in _MISSING_TEXT


def _shown(value: Any) -> str:  # noqa: ANN401  (see `Feature.read`)
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
