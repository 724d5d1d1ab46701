"""Single values of an outcome at the door: text, numbers, instants, results.

Holds the check of one value each and its message; does not hold which fields an outcome has (`core/outcomes.py`) or
how features are read (`core/features.py`). Every check looks first at what most rows hold, and closely at the rest
only: an outcome has sixteen fields of its own, and a batch is to be read in the time that its insert takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from retrain_assets.core.features import check_encodable, plain_scalar, shown
from retrain_assets.errors import SchemaError

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
"""A timestamp before it is a mistake; years below 1000 would also not sort as text."""

MAX_ID_LENGTH = 200
MAX_REASON_LENGTH = 2_000
_MAX_DIGITS_BITS = 600
"""Bits of a whole number that may stand for text: more than `MAX_ID_LENGTH` digits, far below Python's own limit."""

_json = msgspec.json.Encoder().encode


class Result(StrEnum):
    """What became of an attempt."""

    SUCCESS = "success"
    FAILURE = "failure"
    """Tried, and did not succeed."""
    ERROR = "error"
    """Crashed, timed out or could not be tried."""


_RESULTS = {
    "success": Result.SUCCESS,
    "true": Result.SUCCESS,
    "1": Result.SUCCESS,
    "failed": Result.FAILURE,
    "failure": Result.FAILURE,
    "false": Result.FAILURE,
    "0": Result.FAILURE,
    "error": Result.ERROR,
}


def read_result(value: Any) -> Result:  # noqa: ANN401  (the door takes whatever a worker sends)
    """Read `True/False`, `1/0` or `success | failed | failure | error` in any case.

    Raises
    ------
    SchemaError
        For anything else, also for 1.0: a number there may be a score.
    """
    kind = value.__class__
    if kind is bool:
        return Result.SUCCESS if value else Result.FAILURE
    if kind is str and value in _RESULTS:
        return _RESULTS[value]
    plain = plain_scalar(value)
    if isinstance(plain, str | int):
        known = _RESULTS.get(plain.strip().casefold() if isinstance(plain, str) else shown(int(plain)))
        if known is not None:
            return known
    raise SchemaError("result", f"{shown(value)} is not one of true, false, success, failed, failure, error, 1, 0")


def read_instant(name: str, value: Any) -> datetime:  # noqa: ANN401  (see `read_result`)
    """Read an aware datetime or ISO 8601 text with an offset; the result is in UTC.

    Raises
    ------
    SchemaError
        For a naive instant, or text that is not ISO 8601.
    """
    if value.__class__ is datetime and value.tzinfo is UTC and value >= EARLIEST:
        return value
    instant = value
    if isinstance(value, str):
        try:
            instant = datetime.fromisoformat(value.strip())
        except ValueError:
            raise SchemaError(name, f"{shown(value)} is not ISO 8601, such as 2026-01-31T14:05:00+00:00") from None
    if not isinstance(instant, datetime):
        raise SchemaError(name, f"{shown(value)} is not a datetime or ISO 8601 text")
    if instant.tzinfo is None or instant.utcoffset() is None:
        raise SchemaError(name, f"{shown(value)} has no offset from UTC; add one, such as +00:00")
    try:
        instant = instant.astimezone(UTC)
    except (OverflowError, ValueError):
        raise SchemaError(name, f"{shown(value)} is not an instant that UTC can name") from None
    if instant.__class__ is not datetime:  # pandas' instants are datetimes, and write themselves with nanoseconds
        instant = datetime.combine(instant.date(), instant.time(), UTC)
    if instant < EARLIEST:
        raise SchemaError(name, f"{shown(value)} lies before 1970")
    return instant


def instant_text(instant: datetime) -> str:
    """An instant in UTC as `isoformat()` writes it, made at a fifth of the price."""
    return f"{_json(instant)[1:-2].decode()}+00:00"


def is_absent(value: Any) -> bool:  # noqa: ANN401  (see `read_result`)
    """True for None, NaN, NA, NaT and empty text: what files and tables hold where a value is missing."""
    kind = value.__class__
    if kind is str:
        return not value
    if kind is float:
        return math.isnan(value)
    if value is None or kind is int or kind is bool:
        return value is None
    plain = plain_scalar(value)
    return plain is not value and is_absent(plain)


def first_of(get: Callable[[str], Any], *names: str) -> Any:  # noqa: ANN401  (see `read_result`)
    """The value of a field that has several names: of the first under which there is one."""
    for name in names:
        value = get(name)
        if value is not None and not is_absent(value):
            return value
    return None


def text(name: str, value: Any, limit: int) -> str:  # noqa: ANN401  (see `read_result`)
    """Text that must be there, without the blanks around it.

    Raises
    ------
    SchemaError
    """
    read = optional_text(name, value, limit)
    if read is None:
        raise SchemaError(name, "is required, but missing")
    return read


def optional_text(name: str, value: Any, limit: int) -> str | None:  # noqa: ANN401  (see `read_result`)
    """Text or a whole number, at most `limit` characters, without the blanks around it; None when it is missing.

    Raises
    ------
    SchemaError
    """
    if value is None:
        return None
    # Printable ASCII holds no NUL, no half a surrogate pair and no white space but blanks.
    if (
        value.__class__ is str
        and value.isascii()
        and value.isprintable()
        and 0 < len(value) <= limit
        and value[0] != " "
        and value[-1] != " "
    ):
        return value
    return _unusual_text(name, value, limit)


def _unusual_text(name: str, value: Any, limit: int) -> str | None:  # noqa: ANN401  (see `read_result`)
    plain = plain_scalar(value)
    if is_absent(plain):
        return None
    if isinstance(plain, bool) or not isinstance(plain, str | int):
        raise SchemaError(name, f"{shown(value)} is not text")
    if isinstance(plain, int) and plain.bit_length() > _MAX_DIGITS_BITS:
        raise SchemaError(name, f"is a whole number of {plain.bit_length()} bits; send text")
    read = str(plain).strip()
    if len(read) > limit:
        raise SchemaError(name, f"has {len(read)} characters; at most {limit} are accepted")
    if "\x00" in read:
        raise SchemaError(name, "holds a NUL character, which no database keeps")
    check_encodable(name, read)
    return read or None


def whole(name: str, value: Any, least: int) -> int:  # noqa: ANN401  (see `read_result`)
    """A whole number of at least `least` that fits 32 bits.

    Raises
    ------
    SchemaError
    """
    if value.__class__ is int and least <= value < 2**31:
        return value
    number = _number(name, value)
    if not number.is_integer() or not least <= number < 2**31:
        raise SchemaError(name, f"{shown(value)} is not a whole number of at least {least}")
    return int(number)


def seconds(name: str, value: Any) -> float:  # noqa: ANN401  (see `read_result`)
    """A finite duration in seconds.

    Raises
    ------
    SchemaError
    """
    if value.__class__ is float and 0 <= value < math.inf:
        return value
    number = _number(name, value)
    if number < 0:
        raise SchemaError(name, f"{shown(value)} is negative; it is in seconds")
    return number


def probability(name: str, value: Any) -> float:  # noqa: ANN401  (see `read_result`)
    """A probability above 0.

    Raises
    ------
    SchemaError
    """
    if value.__class__ is float and 0 < value <= 1:
        return value
    number = _number(name, value)
    if not 0 < number <= 1:
        raise SchemaError(name, f"{shown(value)} is not a probability above 0 and at most 1")
    return number


def _number(name: str, value: Any) -> float:  # noqa: ANN401  (see `read_result`)
    plain = plain_scalar(value)
    is_numeric = isinstance(plain, int | float) or (isinstance(plain, str) and "_" not in plain)
    try:
        number = float(plain) if is_numeric and not isinstance(plain, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise SchemaError(name, f"{shown(value)} is not a finite number")
    return number


def unknown_column(name: Any, value: Any) -> tuple[str, Any]:  # noqa: ANN401  (see `read_result`)
    """Name and value of a column that is no feature, as they are kept; the value is None when it is missing.

    Raises
    ------
    SchemaError
        The name is no text, or the value neither text, a number, a boolean nor missing.
    """
    if not isinstance(name, str):
        raise SchemaError(shown(name), "is no column name; names are text")
    name = str.__str__(name)
    check_encodable(name, name)
    plain = plain_scalar(value)
    if plain is not None and not isinstance(plain, str | int | float | bool):
        raise SchemaError(name, f"is a {type(value).__name__}; send text, a number or a boolean")
    if isinstance(plain, str):
        if len(plain) > MAX_REASON_LENGTH:
            raise SchemaError(name, f"has {len(plain)} characters; at most {MAX_REASON_LENGTH} are accepted")
        check_encodable(name, plain)
    elif isinstance(plain, float) and math.isinf(plain):
        raise SchemaError(name, f"{shown(value)} is not finite")
    elif isinstance(plain, int) and not -(2**63) <= plain < 2**63:
        raise SchemaError(name, "is too large for a whole number of 64 bits")
    return name, None if is_absent(plain) else plain
