"""Rows of CSV, JSON Lines and Parquet files, one at a time, also those that cannot be read.

Holds how each format is read; does not hold what a row means (`operations/imports.py`). A file of any size
is read in constant memory. An empty cell is a missing value in every format.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Protocol

from retrain_assets.errors import RetrainError, SchemaError, UsageError

DELIMITERS = ",;\t|"
MAX_CELL = 10 * 2**20
"""Characters of one CSV cell; csv's own 131,072 are too few for a page's text."""

_PARQUET_BATCH = 1_000
_ROW = "row"


@dataclass(frozen=True, slots=True)
class FileRow:
    """One row of a file.

    Attributes
    ----------
    number : int
        Line, or for Parquet row, counted from 1.
    values : dict
        What the row holds; for a row that cannot be read, its line and text.
    problem : SchemaError or None
        Why it cannot be read.
    """

    number: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: SchemaError | None = None


class RowFile(Protocol):
    """A file being read; close it. `columns` is None where every row may have its own."""

    columns: tuple[str, ...] | None

    def __iter__(self) -> Iterator[FileRow]:
        """The rows in order; blank lines do not count."""
        ...

    def share(self) -> float:
        """How much of the file has been read, 0 to 1."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


def open_rows(path: Path) -> RowFile:
    """Open a file by the end of its name.

    Raises
    ------
    UsageError
        There is no such file, or its kind is not known.
    RetrainError
        It is not what its name says.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise UsageError(f"{path} {what}; name a .csv, .jsonl or .parquet file of outcomes")
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return CsvRows(path)
        case ".jsonl" | ".ndjson":
            return JsonRows(path)
        case ".parquet":
            return ParquetRows(path)
    hint = "; one JSON object a line is .jsonl" if path.suffix.lower() == ".json" else ""
    raise UsageError(f"{path.name} is none of .csv, .tsv, .jsonl, .ndjson and .parquet{hint}")


class _TextFile:
    """A UTF-8 file read line by line; bytes that are no UTF-8 spoil their own row only."""

    def __init__(self, path: Path) -> None:
        self._bytes = path.open("rb")
        self._size = max(path.stat().st_size, 1)
        # Surrogates mark bytes that are no UTF-8, so that the row can be refused and kept.
        self._text = TextIOWrapper(self._bytes, encoding="utf-8-sig", errors="surrogateescape", newline="")

    def share(self) -> float:
        """How much of the file has been read, 0 to 1."""
        return min(self._bytes.tell() / self._size, 1.0)

    def close(self) -> None:
        """Let go of the file."""
        self._text.close()


class CsvRows(_TextFile):
    """A CSV file with a header; the delimiter is the one its header has most of."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        csv.field_size_limit(MAX_CELL)
        header = self._text.readline()
        delimiter = max(DELIMITERS, key=header.count)
        try:
            self.columns: tuple[str, ...] | None = _header(path.name, header, delimiter)
        except RetrainError:
            self.close()
            raise
        self._reader = csv.reader(self._text, delimiter=delimiter)

    def __iter__(self) -> Iterator[FileRow]:
        while True:
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield _unreadable(self._reader.line_num + 1, "", f"is no CSV: {error}")
                continue
            if cells:
                yield self._row(self._reader.line_num + 1, cells)

    def _row(self, number: int, cells: list[str]) -> FileRow:
        names = self.columns or ()
        if not _is_utf8("".join(cells)):
            return _unreadable(number, cells, "is not UTF-8")
        if len(cells) != len(names):
            return _unreadable(number, cells, f"has {len(cells)} cells where the header has {len(names)}")
        return FileRow(number, dict(zip(names, cells, strict=True)))


class JsonRows(_TextFile):
    """A file with one JSON object a line."""

    columns: tuple[str, ...] | None = None

    def __iter__(self) -> Iterator[FileRow]:
        for number, line in enumerate(self._text, start=1):
            if line.strip():
                yield self._row(number, line.strip())

    @staticmethod
    def _row(number: int, line: str) -> FileRow:
        if not _is_utf8(line):
            return _unreadable(number, line, "is not UTF-8")
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            return _unreadable(number, line, "is no JSON")
        if not isinstance(values, dict):
            return _unreadable(number, line, "is JSON, but no object")
        return FileRow(number, values)


class ParquetRows:
    """A Parquet file; instants keep microseconds, decimals become floats."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise RetrainError(f"{path.name} is no Parquet file: {str(error).splitlines()[0]}") from None
        self.columns: tuple[str, ...] | None = tuple(self._file.schema_arrow.names)
        self._rows = self._file.metadata.num_rows
        self._read = 0

    def __iter__(self) -> Iterator[FileRow]:
        import pyarrow as pa

        fields = [(f.name, _as_microseconds(f.type)) for f in self._file.schema_arrow]
        for batch in self._file.iter_batches(batch_size=_PARQUET_BATCH):
            for values in pa.Table.from_batches([batch]).cast(pa.schema(fields), safe=False).to_pylist():
                self._read += 1
                yield FileRow(self._read, {name: _plain(value) for name, value in values.items()})

    def share(self) -> float:
        """How much of the file has been read, 0 to 1."""
        return float(self._read / max(self._rows, 1))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _header(name: str, line: str, delimiter: str) -> tuple[str, ...]:
    try:
        columns = [column.strip() for column in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error as error:
        raise RetrainError(f"{name}: its first line is no CSV header: {error}") from None
    if doubled := {column for column in columns if columns.count(column) > 1}:
        raise UsageError(f"{name} has two columns called {min(doubled)!r}; rename one")
    return tuple(columns)


def _as_microseconds(kind: Any) -> Any:  # noqa: ANN401  (pyarrow ships no types)
    import pyarrow as pa

    return pa.timestamp("us", tz=kind.tz) if pa.types.is_timestamp(kind) else kind


def _plain(value: Any) -> Any:  # noqa: ANN401  (whatever a file holds)
    return float(value) if isinstance(value, Decimal) else value


def _unreadable(number: int, content: str | list[str], why: str) -> FileRow:
    """A row that cannot be read, with what is there, so that nothing is lost."""
    text = content if isinstance(content, str) else "\x1f".join(content)
    readable = text.encode("utf-8", "backslashreplace").decode()
    kept: Any = readable if isinstance(content, str) else readable.split("\x1f")
    return FileRow(number, {"line": number, "content": kept}, SchemaError(_ROW, why))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
