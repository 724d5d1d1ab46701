"""Outcomes from files and other databases: batches, counts, and going on after a stop.

Holds the import of a source; does not hold how sources are read (`operations/row_files.py`, `operations/csv_rows.py`,
`operations/row_tables.py`), what their columns and cells mean (`core/columns.py`, `core/rows.py`) or what makes an
outcome right (`core/outcomes.py`).

The same source imported twice stores nothing twice. An import that was stopped goes on where it stood, because its
position is stored with each batch, in the batch's own transaction; its counts are those of the whole import. An
import that came to its end starts at the beginning again, and counts everything as known.

**Instants.** A file's rows are history, so a row needs a timestamp (or the decision or outcome id that makes it
one with a known task); one without an offset is refused unless `timezone` says what it means.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from retrain_assets.core.outcomes import OutcomeRules, Receipt, is_absent, read_values
from retrain_assets.core.rows import RowReader
from retrain_assets.errors import RetrainError, SchemaError, StoreUnavailable, UsageError
from retrain_assets.operations.import_options import (
    ImportOptions,
    check_columns,
    column_names,
    completed,
    row_reader,
    with_actions,
)
from retrain_assets.operations.import_result import Imported
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.row_files import FileRow, Rows, open_rows, own_delimiter
from retrain_assets.operations.row_tables import TableRows, is_url
from retrain_assets.settings import Config
from retrain_assets.store import csv_format, import_progress, outcomes, published, quarantine

__all__ = ["ImportOptions", "Imported", "conflict_of", "import_file", "import_source", "open_source"]

BATCH_ROWS = 1_000
"""Rows of one transaction."""

_HEAD_BYTES = 1 << 16
_DIGEST = "digest"

Progress = Callable[[int, float], None]
"""Told after each batch: rows read so far, and the share of the source."""


def import_file(
    platform: Platform,
    path: Path,
    *,
    renames: Mapping[str, str] | None = None,
    timezone: str | None = None,
    source: str | None = None,
    progress: Progress | None = None,
) -> Imported:
    """`import_source` for a file, with the commonest options by name."""
    options = ImportOptions(renames=renames, timezone=timezone)
    return import_source(platform, path, options, source=source, progress=progress)


def import_source(
    platform: Platform,
    origin: Path | str,
    options: ImportOptions | None = None,
    *,
    source: str | None = None,
    progress: Progress | None = None,
) -> Imported:
    """Store a source's rows as outcomes, `BATCH_ROWS` in a transaction.

    Parameters
    ----------
    platform : Platform
        Opened with `open_platform`, so that the rows are checked against its settings.
    origin : Path or str
        A .csv, .tsv, .jsonl, .ndjson or .parquet file, the text ones also with .gz; or the URL of another database.
    options : ImportOptions, optional
    source : str, optional
        Under which name refused rows are kept (default: the file's, or the URL without its password).
    progress : callable, optional

    Raises
    ------
    UsageError
        No such file or table, a mapped column that is not there, an unknown time zone, encoding or action.
    RetrainError
        The file is not what its name says, or lacks a column that every outcome needs.
    StoreUnavailable
        A database went away; what was stored before stays, and the import may be repeated.
    """
    own = None if isinstance(origin, str) and is_url(origin) else own_delimiter(Path(origin))
    options = completed(options or ImportOptions(), platform.config, own)
    if isinstance(origin, str) and is_url(origin) and origin == platform.settings.database_url:
        raise UsageError("that is the problem's own database; name another one")
    with closing(open_source(origin, options)) as rows:
        names = column_names(options, platform.config)
        label = _label(origin, rows)
        if rows.columns is not None:
            check_columns(label, rows.columns, names, (options.renames or {}))
        reader = row_reader(options, platform.config, names, is_text=rows.is_text, is_own=own is not None)
        rules = with_actions(published.outcome_rules(platform.config), options.actions or {})
        run = _Run(platform, reader, rules, options.actions or {})
        run.source = quarantine.writable(source or label)
        run.is_csv_store = (
            own is not None and rows.columns is not None and set(csv_format.REQUIRED) <= set(rows.columns)
        )
        run.import_id = _import_id(origin, rows, options, platform.config)
        found = run.all(rows, progress)
    found.renamed, found.unused, found.source = names.used, names.unused, rows.source
    found.unused_actions = run.unused_actions
    return found


def open_source(origin: Path | str, options: ImportOptions) -> Rows:
    """Open a file, or a table of another database, by what its name is."""
    if isinstance(origin, str) and is_url(origin):
        return TableRows(origin, options.table)
    if options.table is not None:
        raise UsageError("--table goes with the URL of a database, not with a file")
    if options.delimiter is not None and len(options.delimiter) != 1:
        raise UsageError(f"{options.delimiter!r} is no delimiter; name one sign, such as ; or |")
    return open_rows(Path(origin), encoding=options.encoding, delimiter=options.delimiter)


class _Run:
    """One import: its rows, batch by batch."""

    source: str
    import_id: str | None
    is_csv_store: bool = False
    """Whether the rows come from a worker's `outcomes.csv`, whose whole rows have no empty last cell."""

    def __init__(self, platform: Platform, reader: RowReader, rules: OutcomeRules, actions: Mapping[str, str]) -> None:
        self._platform = platform
        self._reader = reader
        self._rules = rules
        self._found = Imported()
        self._digest: hashlib._Hash | None = None
        self._unseen = {variant.casefold(): variant for variant in actions}

    @property
    def unused_actions(self) -> list[str]:
        """Spellings of actions that no row had; not known of rows that an earlier import read."""
        return [] if self._found.resumed_at else list(self._unseen.values())

    def all(self, rows: Rows, progress: Progress | None) -> Imported:
        """Store every row that is not stored yet; of a source that breaks off, those before the break."""
        remaining = self._go_on(rows)
        try:
            for batch in _batches(remaining):
                self._store(batch)
                if progress is not None:
                    progress(self._found.rows, rows.share())
            self._end()
        except StoreUnavailable as error:
            done = f"{self._found.rows:,} rows before that are stored; the same import again goes on from there"
            raise StoreUnavailable(f"{error} ({done})") from error
        return self._found

    def _go_on(self, rows: Rows) -> Iterator[FileRow]:
        """The rows that are left of an import of this very source that did not come to its end; else all of them."""
        self._digest = hashlib.sha256() if isinstance(rows, TableRows) and self.import_id is not None else None
        remaining = iter(rows)
        if self.import_id is None:
            return remaining
        with self._platform.database.read() as connection:
            before = import_progress.find(connection, self.import_id)
        if before is None or before.is_complete:
            return remaining
        for row in islice(remaining, before.position):
            self._glance(row)
        if self._digest is not None and self._digest.hexdigest() != before.counts.get(_DIGEST):
            # Rows came or went among those that were read: a place among them says nothing any more.
            self._digest = hashlib.sha256()
            return iter(rows)
        self._found = Imported.from_counts(before.counts)
        self._found.resumed_at = before.position
        return remaining

    def _glance(self, row: FileRow) -> None:
        """A row that is stored already; its columns still count as seen."""
        self._remember(row)
        if row.problem is None:
            self._reader.note_columns(row.values)

    def _remember(self, row: FileRow) -> None:
        """A file is known by its size and time; of a table only the rows say whether they are the same."""
        if self._digest is not None:
            self._digest.update(repr(row.values).encode(errors="surrogateescape"))

    def _read(self, row: FileRow, now: datetime) -> _Read:
        self._remember(row)
        if row.problem is not None:
            return _Read(row, row.values, row.problem)
        try:
            if self.is_csv_store and csv_format.is_cut(row.values):
                raise SchemaError(csv_format.ROW, "was cut off before its last cell; nobody was told that it is stored")
            values = self._reader.read(row.values)
            if self._unseen and isinstance(action := values.get("action_attempted"), str):
                self._unseen.pop(action.strip().casefold(), None)
            read_values(values, self._rules, now)
        except SchemaError as error:
            return _Read(row, self._reader.kept(row.values), error)
        return _Read(row, values)

    def _store(self, batch: Sequence[FileRow]) -> None:
        """Store one batch in one transaction with its counts."""
        after, now = self._found.copy(), self._platform.now()
        reads = [self._read(row, now) for row in batch]
        good = [read for read in reads if read.problem is None]
        bad = [(read.row, read.values, read.problem) for read in reads if read.problem is not None]
        after.rows += len(batch)
        conflicts = []
        with self._platform.database.write() as connection:
            # First what is refused, as the collector does: two who hold what the other waits for would be a deadlock.
            quarantine.refuse_all(connection, [(values, problem) for _, values, problem in bad], now, self.source)
            receipts = outcomes.append(connection, [read.values for read in good], self._rules, now, self.source)
            for read, receipt in zip(good, receipts, strict=True):
                conflict = conflict_of(read.values, receipt)
                if conflict is not None:
                    conflicts.append((read.row, self._reader.kept(read.row.values), conflict))
                _count(after, receipt, is_conflict=conflict is not None)
            quarantine.refuse_all(connection, [(values, problem) for _, values, problem in conflicts], now, self.source)
            for row, _, problem in sorted(bad + conflicts, key=lambda refused: refused[0].number):
                after.refuse(row, problem.field, problem.message)
            self._note(connection, after, is_complete=False)
        after.resumed_at = self._found.resumed_at
        self._found = after

    def _end(self) -> None:
        if self.import_id is not None:
            with self._platform.database.write() as connection:
                self._note(connection, self._found, is_complete=True)

    def _note(self, connection: Connection, found: Imported, *, is_complete: bool) -> None:
        if self.import_id is None:
            return
        import_progress.save(
            connection,
            self.import_id,
            self.source,
            position=found.rows,
            counts=found.to_counts() | ({_DIGEST: self._digest.hexdigest()} if self._digest is not None else {}),
            is_complete=is_complete,
            now=self._platform.now(),
        )


@dataclass(frozen=True, slots=True)
class _Read:
    """A row under its right names, or (`problem`) as it stands with why it is none."""

    row: FileRow
    values: dict[str, Any]
    problem: SchemaError | None = None


def _batches(rows: Iterator[FileRow]) -> Iterator[list[FileRow]]:
    """Rows in batches; where a source breaks off, first what was read of the last one, then the error."""
    batch: list[FileRow] = []
    try:
        for row in rows:
            batch.append(row)
            if len(batch) == BATCH_ROWS:
                yield batch
                batch = []
    except RetrainError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _count(found: Imported, receipt: Receipt, *, is_conflict: bool) -> None:
    if is_conflict:
        found.conflicting += 1
    elif receipt.status == "accepted":
        found.accepted += 1
    else:
        found.duplicate += 1


def conflict_of(values: Mapping[str, Any], receipt: Receipt) -> SchemaError | None:
    """What is wrong with a row that is no new outcome and not the same as the stored one; None for any other row.

    Parameters
    ----------
    values : mapping
        The row as it was handed to the store.
    receipt : Receipt
    """
    if receipt.status != "duplicate" or receipt.reason is None:
        return None
    name = receipt.field or "result"
    own = next((key for key in ("outcome_id", "decision_id") if not is_absent(values.get(key))), None)
    if own is not None:
        return SchemaError(name, f"same {own} as a stored outcome, with another {name}; see replaces for corrections")
    same = f"same task, attempt and instant as a stored outcome, with another {name}"
    return SchemaError(name, f"{same}; give an attempt or outcome_id column, or a finer time")


def _label(origin: Path | str, rows: Rows) -> str:
    return rows.table.name if isinstance(rows, TableRows) else Path(origin).name


def _import_id(origin: Path | str, rows: Rows, options: ImportOptions, config: Config) -> str | None:
    """What an import is known by: the source as it is now, and everything that decides how it is read.

    None for a table without a key: its rows may come in another order next time, so no position can be kept.
    """
    if isinstance(rows, TableRows):
        if not rows.table.is_ordered:
            return None
        identity: list[Any] = [rows.table.name]  # the rows themselves are compared when it goes on
    else:
        path = Path(origin).resolve()
        with path.open("rb") as file:
            head = hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()
        identity = [str(path), path.stat().st_size, path.stat().st_mtime_ns, head]
    how = [dict(options.renames or {}), dict(options.actions or {}), options.timezone, options.encoding,
           options.delimiter, options.decimal, config.imports.columns, config.config_hash]  # fmt: skip
    return hashlib.sha256(json.dumps([*identity, *how], sort_keys=True).encode()).hexdigest()
