"""Outcomes from files: columns under their right names, batches, counts and reasons.

Holds the import of a file of outcomes; does not hold how files are read (`operations/row_files.py`) or what
makes an outcome right (`core/outcomes.py`). The same file imported twice, or again after a stop half-way,
stores nothing twice.

**Names.** A column called like an outcome's field or a feature is that. `renames` says otherwise, as
`{theirs: ours}`; the spellings in `SYNONYMS` are recognised where their field is not there under its own
name. Values are not renamed here: other spellings of an action belong to `problem.action_aliases`.

**Instants.** A file's rows are history, so a row needs a timestamp (or the decision or outcome id that makes it
one with a known task); one without an offset is refused unless `timezone` says what it means.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from retrain_assets.core.outcomes import FIXED_FIELDS, is_absent
from retrain_assets.errors import RetrainError, SchemaError, StoreUnavailable, UsageError
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.row_files import FileRow, RowFile, open_rows
from retrain_assets.store import outcomes, published, quarantine

BATCH_ROWS = 1_000
"""Rows of one transaction."""

SYNONYMS = {
    "action": "action_attempted",
    "task_type": "action_attempted",
    "success": "result",
    "outcome": "result",
    "created_at": "timestamp",
    "completed_at": "timestamp",
    "datetime": "timestamp",
    "execution_time_seconds": "execution_time",
    "duration_s": "execution_time",
}
"""Columns that are read as a field where the field's own name is not among the columns."""

REQUIRED = ("task_id", "action_attempted", "result")
INSTANTS = ("timestamp", "occurred_at")
NO_INSTANT = SchemaError("timestamp", "is missing; a file's rows are history and need one")

Progress = Callable[[int, float], None]
"""Told after each batch: rows read so far, and the share of the file."""

# The value that begins most messages, so that a million rows with the same fault are one reason.
_VALUE = re.compile(r"""^(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|datetime\.\w+\(.*?\)|\S+) (?=(?:is|has|lies) )""")


@dataclass(slots=True)
class Imported:
    """What became of a file's rows.

    Attributes
    ----------
    rows, accepted, duplicate, quarantined : int
    reasons : Counter
        `field: reason`, without the value, to the number of rows.
    examples : dict
        The first row of each reason: `line 7: ` and the reason with its value.
    renamed : dict
        Columns that were read under another name than their own.
    """

    rows: int = 0
    accepted: int = 0
    duplicate: int = 0
    quarantined: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    @property
    def is_readable(self) -> bool:
        """Whether at least one row was an outcome, new or known."""
        return self.accepted + self.duplicate > 0

    def refuse(self, row: FileRow, name: str | None, reason: str | None) -> None:
        """Count a row that went into quarantine."""
        general = f"{name}: {general_reason(reason or '')}"
        self.quarantined += 1
        self.reasons[general] += 1
        self.examples.setdefault(general, f"line {row.number}: {reason}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able; reasons from the commonest on."""
        counts = {name: getattr(self, name) for name in ("rows", "accepted", "duplicate", "quarantined")}
        told = {"reasons": dict(self.reasons.most_common()), "examples": dict(self.examples)}
        return counts | told | {"renamed": dict(self.renamed)}


def import_file(
    platform: Platform,
    path: Path,
    *,
    renames: Mapping[str, str] | None = None,
    timezone: str | None = None,
    source: str | None = None,
    progress: Progress | None = None,
) -> Imported:
    """Store a file's rows as outcomes, `BATCH_ROWS` in a transaction.

    Parameters
    ----------
    platform : Platform
        Opened with `open_platform`, so that the rows are checked against its settings.
    path : Path
        A .csv, .tsv, .jsonl, .ndjson or .parquet file.
    renames : mapping, optional
        Column to field or feature.
    timezone : str, optional
        What timestamps without an offset mean, such as `Europe/Berlin`.
    source : str, optional
        Under which name refused rows are kept (default: the file's).
    progress : callable, optional

    Raises
    ------
    UsageError
        No such file, a mapped column that is not there, an unknown time zone.
    RetrainError
        The file is not what its name says, or lacks a column that every outcome needs.
    StoreUnavailable
        The database went away; what was stored before stays, and the import may be repeated.
    """
    zone = _zone(timezone)
    names = _Names(renames or {}, set(platform.config.schema.names))
    found = Imported()
    with closing(open_rows(path)) as rows:
        if rows.columns is not None:
            _check_columns(path, rows.columns, names)
        try:
            for batch in _batches(rows):
                _store(platform, [_read(row, names, zone) for row in batch], source or path.name, found)
                if progress is not None:
                    progress(found.rows, rows.share())
        except StoreUnavailable as error:
            done = f"{found.rows:,} rows before that are stored; run the same import again, nothing is stored twice"
            raise StoreUnavailable(f"{error} ({done})") from error
    found.renamed = names.used
    return found


def general_reason(reason: str) -> str:
    """A quarantine's reason without the value that it begins with and the clock that it may end with."""
    return re.sub(r" \(now .*\)$", "", _VALUE.sub("", reason, count=1))


class _Names:
    """Which column is which field; worked out once for each set of columns."""

    def __init__(self, renames: Mapping[str, str], features: set[str]) -> None:
        self.renames = renames
        self.used: dict[str, str] = {}
        self._own = FIXED_FIELDS | features
        self._known: dict[tuple[str, ...], dict[str, str]] = {}

    def of(self, columns: tuple[str, ...]) -> dict[str, str]:
        """Column to field for columns that are read under another name than their own.

        Raises
        ------
        SchemaError
            Two columns would be the same field.
        """
        if columns not in self._known:
            self._known[columns] = self._work_out(columns)
        return self._known[columns]

    def _work_out(self, columns: tuple[str, ...]) -> dict[str, str]:
        chosen = {theirs: ours for theirs, ours in self.renames.items() if theirs in columns}
        taken = {chosen.get(column, column) for column in columns}
        if "occurred_at" in taken:
            taken.add("timestamp")
        for theirs, ours in SYNONYMS.items():
            if theirs in columns and theirs not in chosen and theirs not in self._own and ours not in taken:
                chosen[theirs] = ours
                taken.add(ours)
        final = [chosen.get(column, column) for column in columns]
        for name, count in Counter(final).items():
            if count > 1:
                both = " and ".join(repr(column) for column in columns if chosen.get(column, column) == name)
                raise SchemaError(name, f"is given twice, by {both}; map one of them to another name")
        self.used |= chosen
        return chosen

    def apply(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A row's values under their right names."""
        chosen = self.of(tuple(values))
        return {chosen.get(name, name): value for name, value in values.items()}


def _check_columns(path: Path, columns: tuple[str, ...], names: _Names) -> None:
    """Refuse a file whose every row would be refused, before anything is written."""
    for theirs in names.renames:
        if theirs not in columns:
            near = difflib.get_close_matches(theirs, columns, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(columns) or 'none'}"
            raise UsageError(f"{path.name} has no column {theirs!r}{hint}")
    try:
        chosen = names.of(columns)
    except SchemaError as error:
        raise UsageError(f"{path.name}: {error}") from None
    present = {chosen.get(column, column) for column in columns}
    missing = [name for name in REQUIRED if name not in present]
    if missing:
        hint = f"say which column it is with --map COLUMN={missing[0]}"
        has = ", ".join(columns) or "no columns"
        raise RetrainError(f"{path.name} has no column for {', '.join(missing)}: {hint}; the file has: {has}")


def _batches(rows: RowFile) -> Iterator[list[FileRow]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH_ROWS)):
        yield batch


@dataclass(frozen=True, slots=True)
class _Read:
    """A row under its right names, or (`problem`) as it stands with why it is none."""

    row: FileRow
    values: dict[str, Any]
    problem: SchemaError | None = None


def _read(row: FileRow, names: _Names, zone: ZoneInfo | None) -> _Read:
    try:
        return _Read(row, _prepared(row, names, zone))
    except SchemaError as error:
        return _Read(row, row.values, error)


def _store(platform: Platform, batch: Sequence[_Read], source: str, found: Imported) -> None:
    """Store one batch in one transaction, then count it."""
    good = [read for read in batch if read.problem is None]
    bad = [(read, read.problem) for read in batch if read.problem is not None]
    now, rules = platform.now(), published.outcome_rules(platform.config)
    with platform.database.write() as connection:
        receipts = outcomes.append(connection, [read.values for read in good], rules, now, source)
        for read, problem in bad:
            quarantine.refuse(connection, read.values, problem, now, source)
    found.rows += len(batch)
    for read, receipt in zip(good, receipts, strict=True):
        if receipt.status == "quarantined":
            found.refuse(read.row, receipt.field, receipt.reason)
        elif receipt.status == "accepted":
            found.accepted += 1
        else:
            found.duplicate += 1
    for read, problem in bad:
        found.refuse(read.row, problem.field, problem.message)


def _prepared(row: FileRow, names: _Names, zone: ZoneInfo | None) -> dict[str, Any]:
    """A row as `store.outcomes.append` takes it."""
    if row.problem is not None:
        raise row.problem
    named = names.apply(row.values)
    # An empty cell must not stand before another name of the same field that has a value.
    values = {name: value for name, value in named.items() if name not in FIXED_FIELDS or not is_absent(value)}
    given = next((name for name in INSTANTS if name in values), None)
    if given is None:
        if "decision_id" not in values and "outcome_id" not in values:
            # Without any of the three its id would follow from the time of the import: twice imported, twice stored.
            raise NO_INSTANT
    elif zone is not None:
        values[given] = _placed(values[given], zone)
    return values


def _placed(value: Any, zone: ZoneInfo) -> Any:  # noqa: ANN401  (whatever a file holds)
    """An instant without an offset, put into `zone`; anything else as it is."""
    instant = value
    if isinstance(value, str):
        try:
            instant = datetime.fromisoformat(value.strip())
        except ValueError:
            return value
    is_naive = isinstance(instant, datetime) and instant.tzinfo is None
    return instant.replace(tzinfo=zone) if is_naive else value


def _zone(name: str | None) -> ZoneInfo | None:
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"{name!r} is not a time zone; write it as Europe/Berlin or UTC") from None
