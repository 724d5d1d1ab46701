"""What the cells of a log mean: missing values, results, instants, seconds and numbers as people write them.

Holds the readings that an import adds to those of the door; does not hold the door's own check
(`core/outcomes.py`) or which column is which field (`core/columns.py`). A value that no reading knows comes back
as it is, so that the door refuses it with its own reason.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any

from retrain_assets.core.features import plain_scalar
from retrain_assets.core.outcomes import Result

MISSING_TEXTS = frozenset({"", "-", "\\n", "na", "n/a", "#n/a", "nan", "nil", "none", "null"})
"""Texts of a CSV cell that mean a missing value, in any case; `\\n` stands for the `\\N` of database dumps."""

# Asked of every cell of a file: the first sign answers for nearly all of them.
_MISSING_BEGINS = frozenset("-\\nN# \t")

RESULT_TEXTS = {
    **dict.fromkeys(
        ("success", "successful", "succeeded", "true", "1", "1.0", "yes", "y", "t", "ok", "okay", "passed", "pass",
         "ja", "completed", "erfolg", "erfolgreich"), Result.SUCCESS
    ),
    **dict.fromkeys(
        ("failure", "failed", "fail", "false", "0", "0.0", "no", "n", "f", "unsuccessful", "rejected", "nein",
         "fehlschlag", "fehlgeschlagen", "misserfolg", "erfolglos"), Result.FAILURE
    ),
    **dict.fromkeys(
        ("error", "errored", "exception", "crash", "crashed", "timeout", "timed out", "timed_out", "aborted",
         "fehler", "abgebrochen"), Result.ERROR
    ),
}  # fmt: skip
"""Words for a result that an import reads beside those of the door, in any case."""

TELLING_RESULTS = frozenset(RESULT_TEXTS) - {
    "true", "1", "1.0", "yes", "y", "t", "false", "0", "0.0", "no", "n", "f", "ja", "nein"
}  # fmt: skip
"""Words that only a result has; any other yes or no may be anything."""

_EPOCH_UNITS = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (1e20, 1e9))
"""Below which number an epoch counts in 1/unit seconds; a second of 1973 is a millisecond of 1970."""

_LEAST_EPOCH = 1e8
_DIGITS = re.compile(r"[0-9]{9,19}(?:\.[0-9]+)?")
_LATE_OFFSET = re.compile(r"\s+(?:(?P<utc>UTC|GMT|Z)|(?P<offset>[+-][0-9]{2}:?[0-9]{2}))$", re.IGNORECASE)
_DAY_FIRST = re.compile(
    r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{4})(?:,?[ T]+([0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?))?"
)
_YEAR_FIRST = re.compile(r"([0-9]{4})/([0-9]{1,2})/([0-9]{1,2})(?=$|[ T])")
_GROUPED = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:\.[0-9]{3})+(?:,[0-9]+)?")

_SECONDS_PER = (
    (re.compile(r"(?:^|_)(?:ms|msec|millis|milliseconds?|millisekunden)$"), 0.001),
    (re.compile(r"(?:^|_)(?:min|mins|minutes?|minuten)$"), 60.0),
)


def is_missing_text(text: str) -> bool:
    """Whether a CSV cell holds one of `MISSING_TEXTS`."""
    return not text or (text[0] in _MISSING_BEGINS and text.strip().casefold() in MISSING_TEXTS)


def read_result_word(value: Any) -> Any:  # noqa: ANN401  (whatever a file holds)
    """The result that a word, or the number 1 or 0, stands for; anything else as it is."""
    if isinstance(value, str):
        return RESULT_TEXTS.get(value.strip().casefold(), value)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and value in (0, 1):
        return Result.SUCCESS if value else Result.FAILURE
    return value


def read_moment(value: Any, zone: tzinfo | None) -> Any:  # noqa: ANN401  (whatever a file holds)
    """An aware instant from the ways in which logs write one; anything else as it is.

    Parameters
    ----------
    value : any
        ISO 8601 (also with a blank before the offset, and `UTC` for it), `31.01.2026 14:05`, `2026/01/31 14:05`,
        `20260131140500`, an epoch in seconds, milli-, micro- or nanoseconds (told apart by size), a datetime or a date.
        `01/02/2026` is not read: which is the day and which the month, nobody can tell.
    zone : tzinfo, optional
        What an instant without an offset means; without it, such an instant comes back as ISO 8601 without offset.
    """
    instant = _moment(value)
    if instant is None:
        return value
    if instant.tzinfo is None:
        if zone is not None:
            return instant.replace(tzinfo=zone)
        return value if isinstance(value, datetime) or _is_iso(value) else instant.isoformat()
    return instant


def _moment(value: Any) -> datetime | None:  # noqa: ANN401  (see `read_moment`)
    if isinstance(value, str):
        return _moment_of_text(value.strip())
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time())  # a day is placed by whoever knows the zone
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        try:
            return _from_epoch(float(value))
        except (OverflowError, ValueError):  # a whole number of hundreds of digits, a signalling NaN
            return None
    return None


def _moment_of_text(text: str) -> datetime | None:
    if late := _LATE_OFFSET.search(text):
        placed = _moment_without_blank(text[: late.start()])
        if placed is None or placed.tzinfo is not None:
            return None
        return _from_iso(placed.isoformat() + ("+00:00" if late["utc"] else late["offset"]))
    return _moment_without_blank(text)


def _moment_without_blank(text: str) -> datetime | None:
    """An instant whose offset, if there is one, follows without a blank."""
    if _DIGITS.fullmatch(text):  # first: `fromisoformat` takes 1712113012345 for a quarter to midnight in 1712
        if len(text) == 14 and text[:2] in {"19", "20"}:
            return _from_iso(f"{text[:8]}T{text[8:]}")
        return _from_epoch(float(text))
    found = _from_iso(text)
    if found is not None:
        return found
    if german := _DAY_FIRST.fullmatch(text):
        day, month, year, clock = german.groups()
        hour, _, rest = (clock or "00:00").partition(":")
        return _from_iso(f"{year}-{month:0>2}-{day:0>2}T{hour:0>2}:{rest}")
    if slashed := _YEAR_FIRST.match(text):
        year, month, day = slashed.groups()
        return _from_iso(f"{year}-{month:0>2}-{day:0>2}{text[slashed.end() :]}")
    return None


def _from_iso(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _is_iso(value: Any) -> bool:  # noqa: ANN401  (see `read_moment`)
    return isinstance(value, str) and _from_iso(value.strip()) is not None and not _DIGITS.fullmatch(value.strip())


def _from_epoch(number: float) -> datetime | None:
    if number < _LEAST_EPOCH or number != number:  # noqa: PLR0124  (NaN)
        return None
    for limit, per_second in _EPOCH_UNITS:
        if number < limit:
            return datetime.fromtimestamp(number / per_second, UTC)
    return None


def seconds_per_unit(column: str) -> float:
    """How many seconds one unit of a duration is, by the end of its column's folded name: `_ms` 0.001, `_min` 60."""
    return next((seconds for ending, seconds in _SECONDS_PER if ending.search(column)), 1.0)


def read_seconds(value: Any, per_unit: float) -> Any:  # noqa: ANN401  (whatever a file holds)
    """A duration in seconds; what is no number comes back as it is."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if per_unit == 1.0 or isinstance(value, bool):
        return value
    try:
        return round(float(value) * per_unit, 9)
    except (TypeError, ValueError, OverflowError):
        return value


def with_decimal_point(text: str) -> str:
    """A number with a decimal comma, such as `3,5` or `1.234,5`, as one with a point; other text as it is.

    Points between groups of three are for thousands; no number begins with a group of zero, so `0.125` is not one of
    them.
    """
    if "," not in text and "." not in text:
        return text
    cell = text.strip()
    if _GROUPED.fullmatch(cell):
        cell = cell.replace(".", "")
    return cell.replace(",", ".") if cell.count(",") == 1 and "." not in cell else cell


def plain_value(value: Any) -> Any:  # noqa: ANN401  (whatever a file holds)
    """What a database or Parquet file holds beyond JSON's types, as text or a number."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Decimal):
        return plain_scalar(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray | memoryview | dict | list | tuple | set):
        return value
    return str(value)
