"""How an outcome stands in a CSV file: its columns, its cells, and where a row ends.

Holds the encoding of rows and their reading back; does not hold files or locks (`csv_outcomes.py`) or what makes an
outcome right (`core/outcomes.py`).

The columns are those of the table `outcomes` without `seq`, one column for each feature that the configuration named
when the file was made, and last `features`, a JSON object with everything else: features that came later, columns
that are no feature, and text that would not survive in a cell. So a new configuration needs no new file. The object
is written even where it is empty, as `{}`: so a row that was cut off anywhere, also before its last cell, is told from
a whole one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.core.outcomes import FIXED_FIELDS, Outcome, OutcomeRules, read_instant, read_outcome
from retrain_assets.errors import SchemaError, StoreOutdated

FEATURES = "features"
"""The column with the JSON object."""

FIXED = tuple(column.name for column in fields(Outcome) if column.name != FEATURES)
REQUIRED = ("outcome_id", "task_id", "action_attempted", "result", "occurred_at", FEATURES)
"""Columns without which a file is none of ours."""

ROW = "row"
"""The field that a reason names when a row cannot be read at all."""

MAX_RECORD = 64 * 2**20
"""Bytes within which a row must end; more than that is an open quote."""

_STRUCTURE = OutcomeRules()
_LATE = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Refused:
    """A row of a file that is no outcome: what stands there, and why."""

    raw: dict[str, Any]
    error: SchemaError


@dataclass(frozen=True, slots=True)
class Columns:
    """What the cells of a file's rows are, as its header says."""

    names: tuple[str, ...]
    _own: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_own", frozenset(self.names) - {*FIXED, FEATURES})

    @classmethod
    def of_schema(cls, schema: FeatureSchema | None) -> Columns:
        """The columns of a new file."""
        features = schema.names if schema is not None else ()
        return cls((*FIXED, *(name for name in features if name not in {*FIXED, FEATURES}), FEATURES))

    @classmethod
    def of_header(cls, record: bytes, name: str) -> Columns:
        """The columns that a file's first row names.

        Raises
        ------
        StoreOutdated
            It is no file of outcomes as this package writes it.
        """
        try:
            cells = _cells(record)
        except SchemaError:
            cells = []
        missing = [column for column in REQUIRED if column not in cells]
        if missing or len(set(cells)) != len(cells):
            what = f"lacks {', '.join(missing)}" if missing else "names a column twice"
            raise StoreOutdated(
                f"{name} is no file of the csv store: its first line {what}. Was it saved by another program? "
                "Move it away, so that a new one is begun, and bring its rows in with `retrain import`"
            )
        return cls(tuple(cells))

    @classmethod
    def of_file(cls, head: bytes, name: str) -> Columns | None:
        """The columns of a file that begins with `head`; None while its first line has no end yet.

        Raises
        ------
        StoreOutdated
            It is no file of outcomes as this package writes it.
        """
        line, end, _ = head.partition(b"\n")
        if not end and cls.begins_header(line):
            return None
        return cls.of_header(line + end, name)

    @staticmethod
    def begins_header(text: bytes) -> bool:
        """Whether a file without a whole first line began as one of ours."""
        common = ",".join(FIXED).encode()
        return text[: len(common)] == common[: len(text)]

    def header(self) -> bytes:
        """The file's first row."""
        return _record(self.names)

    def encode(self, outcomes: Iterable[Outcome], schema: FeatureSchema | None) -> bytes:
        """Whole rows, each with its line end, as UTF-8.

        Parameters
        ----------
        outcomes : iterable of Outcome
        schema : FeatureSchema or None
            By which their features were read: only a value whose type it knows stands in a column of its own.
        """
        types = {name: known.type for name in self._own if schema is not None and (known := schema.get(name))}
        text = io.StringIO(newline="")
        csv.writer(text).writerows(self._row(outcome, types) for outcome in outcomes)
        return text.getvalue().encode()

    def _row(self, outcome: Outcome, types: Mapping[str, FeatureType]) -> list[str]:
        rest = dict(outcome.features)
        cells = {name: _cell(getattr(outcome, name)) for name in FIXED}
        for name in types:
            value = rest.get(name)
            # NUL would end the text, or the file, for many who read it; JSON escapes it.
            if value is not None and not (isinstance(value, str) and "\x00" in value):
                cells[name] = _cell(rest.pop(name))
        cells[FEATURES] = msgspec.json.encode(rest, enc_hook=_plain).decode()
        return [cells.get(name, "") for name in self.names]

    def decode(self, record: bytes, rules: OutcomeRules, now: datetime) -> Outcome | Refused:
        """Read one row back.

        A row with `received_at` was checked when it was accepted, so only its structure is read, whatever the rules
        say today. A row without it was added by hand or by another program, and is checked now.
        """
        raw: dict[str, Any] = {}
        try:
            cells = _cells(record)
            if len(cells) != len(self.names):
                raise SchemaError(ROW, f"has {len(cells)} cells where the header has {len(self.names)}")
            named = {name: cell for name, cell in zip(self.names, cells, strict=True) if cell != ""}
            received = named.pop("received_at", None)
            raw = self._typed(named, rules.schema)
            return _outcome(raw, received, rules, now)
        except SchemaError as error:
            return Refused(raw or {"content": record.decode(errors="backslashreplace").rstrip("\r\n")}, error)

    def is_row(self, text: bytes) -> bool:
        """Whether text that may have been cut off is a whole row all the same.

        A row as this package writes it ends with its JSON object. One without `received_at`, which comes long before
        the end, was added by hand, and may end with an empty cell.
        """
        if not self._is_readable(text):
            return False
        return not is_cut(dict(zip(self.names, _cells(text), strict=True)))

    def holds_rows(self, text: bytes) -> bool:
        """Whether text that has no end holds rows behind its first line: then it is damaged, not just cut short."""
        return any(self._is_readable(line + b"\n") for line in text.split(b"\n")[1:-1])

    def _is_readable(self, record: bytes) -> bool:
        return isinstance(self.decode(record, _STRUCTURE, _LATE), Outcome)

    def _typed(self, named: Mapping[str, str], schema: FeatureSchema | None) -> dict[str, Any]:
        """Cells in their features' types, and what the JSON object holds."""
        raw: dict[str, Any] = {name: value for name, value in named.items() if name != FEATURES}
        for name in self._own & raw.keys():
            feature = schema.get(name) if schema is not None else None
            if feature is not None:
                raw[name] = _value(feature, named[name])
        if FEATURES in named:
            try:
                others = msgspec.json.decode(named[FEATURES])
            except (msgspec.DecodeError, RecursionError):  # the second one where it is nested too deeply
                others = None
            if not isinstance(others, dict):
                raise SchemaError(FEATURES, "is no JSON object")
            raw |= {name: value for name, value in others.items() if name not in FIXED_FIELDS}
        return raw


def whole_records(data: bytes) -> tuple[list[bytes], int]:
    """Split at the line ends that stand outside quotes.

    A quote inside a quoted cell is written twice, so a row ends where a line ends and the quotes so far are even.
    Neither byte occurs inside a character of UTF-8.

    Returns
    -------
    list of bytes
        Rows, each with its line end.
    int
        Bytes that they span; what follows is no whole row yet.
    """
    records: list[bytes] = []
    start = end = 0
    is_open = False
    for line in data.split(b"\n")[:-1]:
        end += len(line) + 1
        is_open ^= bool(line.count(b'"') & 1)
        if not is_open:
            records.append(data[start:end])
            start = end
    return records, start


def is_cut(cells: Mapping[str, str]) -> bool:
    """Whether a row by its columns' names was cut off before its last cell, which no row of this package has empty."""
    return bool(cells.get("received_at")) and cells.get(FEATURES) == ""


def outcome_id_of(record: bytes, place: int) -> bytes:
    """The cell with the outcome's id; empty where there is none."""
    if place == 0 and not record.startswith(b'"'):
        return record.partition(b",")[0].strip()
    try:
        cells = _cells(record)
    except SchemaError:
        return b""
    return cells[place].encode() if place < len(cells) else b""


def _outcome(raw: Mapping[str, Any], received: str | None, rules: OutcomeRules, now: datetime) -> Outcome:
    if received is not None:
        # By the clock of its receiver: a machine whose clock is behind must not take the row for the future.
        return read_outcome(raw, _STRUCTURE, read_instant("received_at", received))
    if not raw.keys() & {"outcome_id", "occurred_at", "decision_id"}:
        raise SchemaError("occurred_at", "is missing; a row without it would be another outcome at each reading")
    return read_outcome(raw, rules, now)


def _value(feature: Feature, cell: str) -> Any:  # noqa: ANN401  (a feature value)
    """A cell in its feature's type; text where it is not of that type."""
    try:
        return _without_limits(feature).read(cell)
    except SchemaError:
        return cell


@lru_cache(maxsize=1_024)
def _without_limits(feature: Feature) -> Feature:
    """The feature's type alone: what was accepted stays accepted, whatever limits the configuration has today."""
    return replace(feature, min=None, max=None, required=False, categories=None)


def _cell(value: Any) -> str:  # noqa: ANN401  (an outcome's field or feature)
    if value is None:
        return ""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return repr(_plain(value))


def _plain(value: Any) -> float | int:  # noqa: ANN401  (a number of any kind)
    """A plain number for one of a library's own type."""
    return float(value) if isinstance(value, float) else int(value)


def _cells(record: bytes) -> list[str]:
    """The cells of one row.

    Raises
    ------
    SchemaError
        It is not UTF-8, or no CSV.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD))
    try:
        return next(csv.reader([record.decode("utf-8")], strict=True), [])
    except UnicodeDecodeError:
        raise SchemaError(ROW, "is not UTF-8") from None
    except csv.Error as error:
        raise SchemaError(ROW, f"is no CSV: {error}") from None


def _record(cells: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()
