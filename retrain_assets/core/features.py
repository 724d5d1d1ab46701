"""What a task is described by: typed features, their check at the door, and the schema's identity.

Holds the feature schema, the reading of one task's feature values, how a refusal shows a value, and the
comparison of two schemas; does not hold the numeric encoding learned from data (`core/model.py`,
`serving/artefact.py`).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from retrain_assets.errors import SchemaError

MAX_TEXT_LENGTH = 2_000
"""Characters of one text value; longer ones are refused at the door."""

LEAST_WHOLE, MOST_WHOLE = -(2**63), 2**63 - 1
"""What a whole number of 64 bits holds."""

SHOWN_LENGTH = 60
"""Characters of a value that a refusal shows."""

# pandas writes a column of booleans with a gap as 1.0 and 0.0.
_TRUE = frozenset({"true", "1", "yes", "y", "t", "1.0"})
_FALSE = frozenset({"false", "0", "no", "n", "f", "0.0"})
_MISSING_TEXT = frozenset({"", "null", "none", "nan", "na", "n/a", "<na>"})
_PLAIN = frozenset({float, int, bool, str, type(None)})
_WHOLE_DIGITS = 20
"""Text of at most so many characters may be a whole number of 64 bits."""
_OF_NUMPY: dict[str, Callable[[Any], Any]] = {"b": bool, "i": int, "u": int, "f": float}
_OF_PANDAS = frozenset({"NAType", "NaTType"})

# The value that begins most refusals, so that a million of them with the same fault are one.
_VALUE = re.compile(
    r"""^(?:b?'(?:[^'\\]|\\.)*'|b?"(?:[^"\\]|\\.)*"|\[.*?\]|\{.*?\}|[\w.]+\(.*?\)|<.*?>|\S+)(?:\.\.\.)? """
    r"""(?=(?:is|has|lies|holds|cannot) )""",
    re.DOTALL,
)
_LENGTH = re.compile(r"^has \d+ characters;")
_CLOCK = re.compile(r" \(now .*\)$")

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
        kind = type(value)
        if kind is float:  # what most rows hold comes first; the rest is looked at closely below
            if self.type is FeatureType.NUMBER and self._is_within(value):
                return value  # type: ignore[no-any-return]  # its class is float
        elif kind is bool:
            if self.type is FeatureType.BOOLEAN:
                return value  # type: ignore[no-any-return]  # its class is bool
        elif kind not in _PLAIN:
            value = plain_scalar(value)
        if _is_missing(value):
            if self.required:
                raise SchemaError(self.name, "is required, but missing")
            return None
        return self._read_present(value)

    def _read_present(self, value: Any) -> FeatureValue:  # noqa: ANN401  (see `read`)
        match self.type:
            case FeatureType.BOOLEAN:
                return self._read_boolean(value)
            case FeatureType.CATEGORY:
                return self._read_category(value)
            case FeatureType.INTEGER:
                return self._read_integer(value)
            case _:
                return self._read_number(value)

    def _is_within(self, number: float) -> bool:
        """Whether a number is finite and within the limits; false for NaN."""
        if self.min is not None and not number >= self.min:
            return False
        if self.max is not None and not number <= self.max:
            return False
        return -math.inf < number < math.inf

    def _read_boolean(self, value: Any) -> bool:  # noqa: ANN401  (see `read`)
        if isinstance(value, bool):
            return value
        if isinstance(value, int | float) and value in (0, 1):
            return bool(value)
        text = value.strip().lower() if isinstance(value, str) else ""
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        raise SchemaError(self.name, f"{shown(value)} is not a boolean; use true or false")

    def _read_category(self, value: Any) -> str:  # noqa: ANN401  (see `read`)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise SchemaError(self.name, f"{shown(value)} is not a category; use text")
        if isinstance(value, int) and not LEAST_WHOLE <= value <= MOST_WHOLE:
            raise SchemaError(self.name, f"{shown(value)} is too large for a whole number of 64 bits; use text")
        text = str(value).strip()
        if len(text) > MAX_TEXT_LENGTH:
            raise SchemaError(self.name, f"has {len(text)} characters; at most {MAX_TEXT_LENGTH} are accepted")
        check_encodable(self.name, text)
        if self.categories is not None and text not in self.categories:
            raise SchemaError(self.name, f"{shown(text)} is not one of {', '.join(self.categories)}")
        return text

    def _read_integer(self, value: Any) -> int:  # noqa: ANN401  (see `read`)
        number = self._number(value)
        # By way of a float 9007199254740993 would silently become 9007199254740992.
        if isinstance(value, int):
            number = value
        elif isinstance(value, str) and len(value) <= _WHOLE_DIGITS:
            number = _exact(value, number)
        whole = int(number)
        if whole != number:
            raise SchemaError(self.name, f"{shown(value)} is not a whole number")
        self._check_limits(whole, value)
        return whole

    def _read_number(self, value: Any) -> float:  # noqa: ANN401  (see `read`)
        number = self._number(value)
        self._check_limits(number, value)
        return number

    def _number(self, value: Any) -> float:  # noqa: ANN401  (see `read`)
        """A finite float; text is read without Python's own liberties, such as 1_000."""
        if isinstance(value, bool):
            raise SchemaError(self.name, f"{shown(value)} is a boolean, not a number")
        is_numeric = isinstance(value, int | float) or (isinstance(value, str) and "_" not in value)
        try:
            number = float(value) if is_numeric else None
        except (ValueError, OverflowError):
            number = None
        if number is None:
            raise SchemaError(self.name, f"{shown(value)} is not a number")
        if not math.isfinite(number):
            raise SchemaError(self.name, f"{shown(value)} is not finite")
        return number

    def _check_limits(self, number: float, value: Any) -> None:  # noqa: ANN401  (see `read`)
        if not self._is_within(number):
            low = "-inf" if self.min is None else f"{self.min:g}"
            high = "inf" if self.max is None else f"{self.max:g}"
            raise SchemaError(self.name, f"{shown(value)} is outside {low} to {high}")


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
        raise SchemaError(name, f"{shown(text)} cannot be written as UTF-8") from None


def plain_scalar(value: Any) -> Any:  # noqa: ANN401  (see `Feature.read`)
    """A scalar as workers really have it, as the plain value that it means; anything else as it is.

    numpy's booleans and numbers, Decimal, subclasses of text and numbers (an enumeration's member), and pandas' NA and
    NaT (None). Only what has exactly a plain type can be written to every database and comes back equal.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, str):
        return str.__str__(value)  # str() of an enumeration's member would be its name
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Decimal):
        return _of_decimal(value)
    if kind.__name__ in _OF_PANDAS and kind.__module__.startswith("pandas."):
        return None
    # Told by its bases, so that nothing is imported and no attribute of a stranger is asked for.
    if any(base.__module__ == "numpy" and base.__name__ == "generic" for base in kind.__mro__):
        read = _OF_NUMPY.get(value.dtype.kind)
        return value if read is None else read(value)
    return value


def shown(value: Any) -> str:  # noqa: ANN401  (see `Feature.read`)
    """A value as a refusal shows it: one line of at most `SHOWN_LENGTH` characters, whatever it is."""
    if isinstance(value, str | bytes) and len(value) > SHOWN_LENGTH:
        value = value[:SHOWN_LENGTH]
    try:
        text = repr(value).replace("\n", " ")
    except Exception:  # noqa: BLE001  (a whole number of 5,000 digits, or a class of somebody else's)
        return f"<{type(value).__name__}>"
    if len(text) <= SHOWN_LENGTH:
        return text
    quote = text[0] if text[0] in "'\"" else ""
    # The quote is closed, so that what follows can be told from the value.
    return text[: SHOWN_LENGTH - 3 - len(quote)].rstrip("\\") + quote + "..."


def general_reason(reason: str) -> str:
    """A refusal's reason without what differs from row to row: the value that it begins with, a length, a clock.

    Examples
    --------
    >>> general_reason("101 is outside 0 to 100")
    'is outside 0 to 100'
    """
    general = _VALUE.sub("", reason, count=1)
    return _CLOCK.sub("", _LENGTH.sub("has too many characters;", general, count=1), count=1)


def _of_decimal(value: Decimal) -> float | int:
    if value.is_nan():  # also the signalling one, which float() refuses
        return math.nan
    is_whole = value.is_finite() and value.as_tuple().exponent == 0 and value.adjusted() < _WHOLE_DIGITS
    return int(value) if is_whole else float(value)


def _exact(text: str, number: float) -> float:
    """The whole number that a text says to the last digit; `number` where it is written otherwise (3.0, 1e5)."""
    try:
        return int(text)
    except ValueError:
        return number


def _is_missing(value: Any) -> bool:  # noqa: ANN401  (see `Feature.read`)
    if value is None:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    return isinstance(value, str) and value.strip().lower() in _MISSING_TEXT
