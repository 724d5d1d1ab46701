"""Refused rows as text: whatever a worker or a file sent, kept so that it can be looked at and tried again.

Holds the JSON form of a row and its way back; does not hold SQL (`quarantine.py`).

**Form.** A row is a JSON object with the row's names. Text, whole numbers, finite floats, booleans, null, lists and
objects stand for themselves; an instant of the row (`timestamp`, `occurred_at`), a day, a time of day and a UUID are
their text. Anything else is an object with one key, its mark: `$bytes` (base64), `$decimal`, `$float` (nan, inf,
-inf), `$datetime`, `$seconds` (a duration), `$integer` (hexadecimal, beyond 64 bits), `$object` (type and what it
says of itself: cannot be tried again). An object of the row's own that looks like a mark is wrapped in `$mapping`. So
what was refused is refused again for the same field as long as the settings are the same: nothing becomes right by
having been stored, but days, times of day and UUIDs, whose text is what was meant.

**Cut.** A row of more than `MAX_PAYLOAD` characters is kept as `{"cut": true, "characters": N, "head": "..."}`. The
first schema kept the bare head, which is no JSON, and values that JSON has not as Python writes them; both are read.
Its rows are known by the blanks between names and values, which no row has had since.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from retrain_assets.core.features import LEAST_WHOLE, MOST_WHOLE, plain_scalar, shown

MAX_PAYLOAD = 100_000
"""Characters of a refused row that are kept."""

MAX_DEPTH = 20
MAX_VALUES = 20_000
"""Values of one row that are written; a list that holds itself would have no end."""

INSTANT_FIELDS = frozenset({"timestamp", "occurred_at"})

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # else the same row from two processes would be two
_FIRST_SCHEMA = re.compile(r'\{"(?:[^"\\]|\\.)*": ')
_CUT = frozenset({"cut", "characters", "head"})


@dataclass(frozen=True, slots=True)
class Payload:
    """A refused row as it was kept.

    Attributes
    ----------
    values : dict or None
        The row as it came; None when it was cut.
    head : str
        The beginning of the text of a row that was cut; else empty.
    """

    values: dict[str, Any] | None
    head: str = ""

    @property
    def is_cut(self) -> bool:
        """Whether the row was too long to be kept whole."""
        return self.values is None

    def readable(self) -> dict[str, Any]:
        """The values for people, spreadsheets and JSON: plain types, without marks."""
        if self.values is None:
            return {}
        return {name: _readable(value) for name, value in self.values.items()}


def encode(raw: Mapping[Any, Any]) -> str:
    """A row as JSON text that every database takes, whatever the row holds.

    A payload that cannot be written must not cost the batch its good rows.
    """
    writer = _Writer()
    row: dict[str, Any] = {}
    for key, value in raw.items():
        name = writer.name(key)
        while name in row:  # 1 and "1" are two keys
            name += "'"
        written = writer.value(value, 0)
        is_instant = name in INSTANT_FIELDS and isinstance(written, dict) and written.keys() == {"$datetime"}
        row[name] = written["$datetime"] if is_instant else written
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair survives as an escape
        text = json.dumps(row, separators=(",", ":"), allow_nan=False)
    return text


def shortened(text: str) -> str:
    """An encoded row as it is stored: whole, or cut and saying so."""
    if len(text) <= MAX_PAYLOAD:
        return text
    cut = {"cut": True, "characters": len(text), "head": text[:MAX_PAYLOAD]}
    return json.dumps(cut, ensure_ascii=False, separators=(",", ":"))


def decode(text: str) -> Payload:
    """Read a stored row, also one that the first schema wrote."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return Payload(None, head=text)
    if not isinstance(data, dict):
        return Payload(None, head=text)
    if data.keys() == _CUT and data["cut"] is True:
        return Payload(None, head=str(data["head"]))
    of_python = _of_python(data) if _FIRST_SCHEMA.match(text) else None
    return Payload(of_python or {name: _value(value) for name, value in data.items()})


class _Writer:
    """Values as JSON has them, up to a number of values."""

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def name(self, key: Any) -> str:  # noqa: ANN401  (whatever a worker sends)
        """A key as text."""
        key = plain_scalar(key)
        return key if isinstance(key, str) else shown(key)

    def value(self, value: Any, depth: int) -> Any:  # noqa: ANN401  (see `name`)
        """A value, or its mark."""
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            return {"$object": "too deep or too much"}
        if isinstance(value, Decimal):
            return {"$decimal": str(value)}  # all of its digits
        value = plain_scalar(value)
        if isinstance(value, date | time | timedelta | UUID):
            return _of_calendar(value)
        match value:
            case None | bool() | str():
                return value
            case int():
                return value if LEAST_WHOLE <= value <= MOST_WHOLE else {"$integer": hex(value)}
            case float():
                return value if math.isfinite(value) else {"$float": repr(value)}
            case bytes() | bytearray():
                return {"$bytes": base64.b64encode(value).decode()}
            case list() | tuple():
                return [self.value(item, depth + 1) for item in self._first(value)]
            case Mapping():
                return self._mapping(value, depth)
        return {"$object": f"{type(value).__name__} {_ADDRESS.sub('', shown(value))}"}

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        found = {self.name(key): self.value(item, depth + 1) for key, item in self._first(value.items())}
        return {"$mapping": found} if _is_mark(found) else found

    def _first(self, items: Any) -> Any:  # noqa: ANN401  (any collection)
        """As many of them as may still be written, and one to say that there were more."""
        for item in items:
            yield item
            if self._left < 0:
                return


def _of_calendar(value: date | time | timedelta | UUID) -> Any:  # noqa: ANN401  (JSON)
    if isinstance(value, datetime):
        return {"$datetime": _iso(value)}
    return {"$seconds": value.total_seconds()} if isinstance(value, timedelta) else str(value)


def _is_mark(found: dict[str, Any]) -> bool:
    return len(found) == 1 and next(iter(found)).startswith("$")


_MARKS: dict[str, Callable[[Any], Any]] = {
    "$bytes": base64.b64decode,
    "$datetime": datetime.fromisoformat,
    "$decimal": Decimal,
    "$float": float,
    "$integer": lambda text: int(text, 16),
    "$seconds": lambda seconds: timedelta(seconds=seconds),
    "$mapping": lambda found: {name: _value(item) for name, item in found.items()},
}


def _value(data: Any) -> Any:  # noqa: ANN401  (any JSON)
    """A value of a row out of its JSON; a mark that cannot be read stays a mapping."""
    if isinstance(data, list):
        return [_value(item) for item in data]
    if not isinstance(data, dict):
        return data
    if _is_mark(data):
        name, content = next(iter(data.items()))
        with contextlib.suppress(KeyError, ValueError, TypeError, AttributeError, ArithmeticError):
            return _MARKS[name](content)
        return data
    return {name: _value(item) for name, item in data.items()}


def _of_python(data: dict[str, Any]) -> dict[str, Any] | None:
    """The row of the first schema whose values are text as Python writes them (`"'t1'"`); None for any other row."""
    task = data.get("task_id")
    is_quoted = isinstance(task, str) and len(task) > 1 and task[0] == task[-1] and task[0] in "'\""
    if not is_quoted or not all(isinstance(value, str) for value in data.values()):
        return None
    return {name: _literal(text) for name, text in data.items()}


def _literal(text: str) -> Any:  # noqa: ANN401  (any literal)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _readable(value: Any) -> Any:  # noqa: ANN401  (any value of a row)
    match value:
        case float():
            return value if math.isfinite(value) else repr(value)
        case int():
            return value if LEAST_WHOLE <= value <= MOST_WHOLE else hex(value)
        case bytes():
            return base64.b64encode(value).decode()
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case list():
            return [_readable(item) for item in value]
        case dict():
            return {name: _readable(item) for name, item in value.items()}
        case Decimal():
            return str(value)
    return value


def _iso(instant: date) -> str:
    """ISO 8601 of an instant, also of a time zone that fails on it."""
    try:
        return instant.isoformat()
    except Exception:  # noqa: BLE001  (a time zone of somebody else's may raise anything)
        return shown(instant)
