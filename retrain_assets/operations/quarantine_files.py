"""Refused rows in a file: for a spreadsheet or an editor, to be mended there and imported again.

Holds the export and the reading of its ids; does not hold the import (`operations/imports.py`), which leaves out the
columns that the export adds. Any number of rows is written in constant memory.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from retrain_assets.core.rows import RowReader
from retrain_assets.errors import RetrainError, UsageError
from retrain_assets.operations.import_options import ImportOptions, column_names, row_reader
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.row_files import open_rows
from retrain_assets.store import quarantine
from retrain_assets.store.files import write_atomically
from retrain_assets.store.quarantine import CHUNK, COLLECTOR, Refused, Selection

ID, FIELD, REASON = "quarantine_id", "quarantine_field", "quarantine_reason"
"""Columns that an export adds to a row's own."""

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = frozenset({".jsonl", ".ndjson"})

Progress = Callable[[int], None]
"""Told after each batch: rows written so far."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote.

    Attributes
    ----------
    path : Path
    rows : int
    cut : int
        Rows that are left out, because they were too long to be kept whole.
    """

    path: Path
    rows: int
    cut: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return {"path": str(self.path), "rows": self.rows, "cut": self.cut}


def export(platform: Platform, selection: Selection, path: Path, progress: Progress | None = None) -> Exported:
    """Write rows to a .csv, .tsv, .jsonl or .ndjson file, one state of the table, in order of id.

    Raises
    ------
    UsageError
        Another kind of file, or one that is there already: it may hold what somebody has mended.
    StoreUnavailable
        The database is away, or the file cannot be written; there is no file then.
    """
    suffix = path.suffix.lower()
    if suffix not in DELIMITERS and suffix not in JSON_LINES:
        raise UsageError(f"{path.name} is none of .csv, .tsv, .jsonl and .ndjson; name such a file")
    if path.exists():
        raise UsageError(f"{path} exists already; name another file, so that nothing mended is lost")
    counts = [0, 0]

    def write(file: Path) -> None:
        with platform.database.read() as connection:
            rows = _counted(connection, selection, _reader(platform), counts, progress)
            if suffix in JSON_LINES:
                _write_json_lines(file, rows)
            else:
                _write_csv(file, _columns(connection, selection), rows, DELIMITERS[suffix])

    write_atomically(path, write)
    return Exported(path, *counts)


def exported_ids(path: Path) -> tuple[int, ...]:
    """The ids of the rows that an exported file holds, also after somebody mended it.

    Raises
    ------
    UsageError
        There is no such file, or of no such kind.
    RetrainError
        No row of it has an id.
    """
    ids: set[int] = set()
    with closing(open_rows(path)) as rows:
        for row in rows:
            given = str(row.values.get(ID, "")).strip()
            if given.isdecimal():
                ids.add(int(given))
    if not ids:
        raise RetrainError(f"{path.name} has no row with a {ID}; name a file that `retrain quarantine export` wrote")
    return tuple(sorted(ids))


def _each(connection: Connection, selection: Selection) -> Iterator[list[Refused]]:
    for part in selection.parts():
        after = 0
        while batch := quarantine.rows(connection, part, after=after, limit=CHUNK):
            yield batch
            after = batch[-1].id


def _reader(platform: Platform) -> RowReader:
    """What knows which cells of a CSV file's row are numbers, and which are missing."""
    options = ImportOptions()
    return row_reader(options, platform.config, column_names(options, platform.config), is_text=True)


def _counted(
    connection: Connection,
    selection: Selection,
    reader: RowReader,
    counts: list[int],
    progress: Progress | None,
) -> Iterator[dict[str, Any]]:
    for batch in _each(connection, selection):
        for row in batch:
            if row.payload.is_cut:
                counts[1] += 1
                continue
            counts[0] += 1
            values = row.payload.readable()
            if row.source != COLLECTOR and all(isinstance(value, str) for value in values.values()):
                values = reader.pointed(values)
            yield values | {ID: row.id, FIELD: row.field, REASON: row.reason}
        if progress is not None:
            progress(counts[0])


def _columns(connection: Connection, selection: Selection) -> list[str]:
    """Every name that a row has, in order of first appearance, before the three that are added."""
    names: dict[str, None] = {}
    for batch in _each(connection, selection):
        for row in batch:
            names |= dict.fromkeys(row.payload.values or {})
    return [*(name for name in names if name not in {ID, FIELD, REASON}), ID, FIELD, REASON]


def _write_csv(file: Path, columns: list[str], rows: Iterator[dict[str, Any]], delimiter: str) -> None:
    # With the mark by which spreadsheets know UTF-8; half a surrogate pair, which it cannot write, as \udXXX.
    with file.open("w", encoding="utf-8-sig", errors="backslashreplace", newline="") as lines:
        writer = csv.writer(lines, delimiter=delimiter, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row.get(column)) for column in columns])


def _write_json_lines(file: Path, rows: Iterator[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8", errors="backslashreplace") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def _cell(value: Any) -> Any:  # noqa: ANN401  (any value of a row)
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return repr(value)
        case list() | dict():
            return json.dumps(value, ensure_ascii=False)
    return value
