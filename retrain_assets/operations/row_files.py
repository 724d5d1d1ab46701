"""Rows of a source, one at a time, also those that cannot be read.

Holds what a source is, JSON Lines and Parquet; does not hold CSV (`operations/csv_rows.py`), tables of another
database (`operations/row_tables.py`) or what a row means (`core/rows.py`). A source of any size is read in constant
memory.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from retrain_assets.core.columns import QUARANTINE_COLUMNS
from retrain_assets.errors import RetrainError, SchemaError, UsageError
from retrain_assets.operations.text_files import UTF8, OpenText, damage_told, open_bytes
from retrain_assets.store.csv_format import REQUIRED
from retrain_assets.store.source_tables import without_password

KINDS = ".csv, .tsv, .jsonl, .ndjson (each also with .gz) and .parquet"
_JSON_LINES = frozenset({".jsonl", ".ndjson"})
_OWN_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_MOST_HEADER = 1 << 20
_PARQUET_BATCH = 1_000
_ROW = "row"


@dataclass(frozen=True, slots=True)
class FileRow:
    """One row of a source.

    Attributes
    ----------
    number : int
        Line, or for Parquet and tables row, counted from 1.
    values : dict
        What the row holds; for a row that cannot be read, its line and text.
    problem : SchemaError or None
        Why it cannot be read.
    """

    number: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: SchemaError | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """How a source is read, for people.

    Attributes
    ----------
    format : str
        `csv`, `jsonl`, `parquet` or `database`.
    encoding, delimiter : str or None
        Of text.
    is_encoding_guessed : bool
    """

    format: str
    encoding: str | None = None
    is_encoding_guessed: bool = False
    delimiter: str | None = None


class Rows(Protocol):
    """A source being read; close it.

    `columns` is None where every row may have its own. `is_text` where every value is text.
    """

    columns: tuple[str, ...] | None
    is_text: bool
    source: Source

    def __iter__(self) -> Iterator[FileRow]:
        """The rows in order; blank lines do not count."""
        ...

    def share(self) -> float:
        """How much of the source has been read, 0 to 1."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def open_rows(path: Path, *, encoding: str | None = None, delimiter: str | None = None) -> Rows:
    """Open a file by the end of its name.

    Parameters
    ----------
    path : Path
    encoding : str, optional
        Of text; found out otherwise (JSON is UTF-8 where nobody says otherwise).
    delimiter : str, optional
        Of CSV; found out otherwise.

    Raises
    ------
    UsageError
        There is no such file, or its kind is not known.
    RetrainError
        It is not what its name says.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        shown = without_password(str(path))  # a URL with a slash too few is a path
        raise UsageError(f"{shown} {what}; name a .csv, .jsonl or .parquet file of outcomes, or a database's URL")
    match kind_of(path):
        case ".csv" | ".tsv":
            from retrain_assets.operations.csv_rows import CsvRows

            return CsvRows(path, encoding, delimiter)
        case ".jsonl" | ".ndjson":
            return JsonRows(path, encoding)
        case ".parquet":
            return ParquetRows(path)
    hint = "; one JSON object a line is .jsonl" if path.suffix.lower() == ".json" else ""
    raise UsageError(f"{path.name} is none of {KINDS}{hint}")


def kind_of(path: Path) -> str:
    """The end of a file's name that says what it is, in lower case; `.gz` after it does not count."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    is_packed = len(suffixes) > 1 and suffixes[-1] == ".gz"
    return suffixes[-2] if is_packed else suffixes[-1] if suffixes else ""


def own_delimiter(path: Path) -> str | None:
    """The delimiter of a text file that this platform wrote, as it was written; None for any other file.

    Exports of refused rows and the csv store's files are UTF-8 with a point before decimals, whatever the configuration
    says of the files of others; one that a spreadsheet saved in its own way is a file of others. `,` for JSON Lines.
    """
    kind = kind_of(path)
    if not path.is_file() or (kind not in _JSON_LINES and kind not in _OWN_DELIMITERS):
        return None
    with damage_told(path), open_bytes(path) as file:
        line = file.readline(_MOST_HEADER).decode("utf-8-sig", errors="replace")
    delimiter = _OWN_DELIMITERS.get(kind, ",")
    try:
        names = frozenset(json.loads(line) if kind in _JSON_LINES else next(csv.reader([line], delimiter=delimiter)))
    except (ValueError, TypeError, RecursionError, StopIteration, csv.Error):
        return None
    return delimiter if names >= QUARANTINE_COLUMNS or names >= frozenset(REQUIRED) else None


class JsonRows:
    """A file with one JSON object a line."""

    columns: tuple[str, ...] | None = None
    is_text = False

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        self._path = path
        self._text = OpenText(path, encoding)
        if self._text.encoding.is_guessed:  # JSON is UTF-8: other bytes are damage, not another encoding
            self._text.close()
            self._text = OpenText(path, UTF8)
        self.source = Source(format="jsonl", encoding=self._text.encoding.name)

    def __iter__(self) -> Iterator[FileRow]:
        with damage_told(self._path):
            for number, line in enumerate(self._text.lines, start=1):
                if line.strip():
                    yield self._row(number, line.strip().lstrip("\ufeff"))

    def share(self) -> float:
        """How much of the file has been read, 0 to 1."""
        return self._text.share()

    def close(self) -> None:
        """Let go of the file."""
        self._text.close()

    def _row(self, number: int, line: str) -> FileRow:
        if not self._text.is_readable(line):
            return unreadable(number, line, f"is not {self._text.encoding.name.upper()}")
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            return unreadable(number, line, "is no JSON")
        if not isinstance(values, dict):
            return unreadable(number, line, "is JSON, but no object")
        return FileRow(number, values)


class ParquetRows:
    """A Parquet file; instants keep microseconds."""

    is_text = False

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise RetrainError(f"{path.name} is no Parquet file: {str(error).splitlines()[0]}") from None
        self.columns: tuple[str, ...] | None = tuple(self._file.schema_arrow.names)
        self.source = Source(format="parquet")
        self._name = path.name
        self._rows = self._file.metadata.num_rows
        self._read = 0

    def __iter__(self) -> Iterator[FileRow]:
        import pyarrow as pa

        fields = [(f.name, _as_microseconds(f.type)) for f in self._file.schema_arrow]
        batches = self._file.iter_batches(batch_size=_PARQUET_BATCH)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise RetrainError(f"{self._name} is damaged: {error}; what stands before that was read") from error
            if batch is None:
                return
            for values in _plain_rows(pa.Table.from_batches([batch]).cast(pa.schema(fields), safe=False)):
                self._read += 1
                yield FileRow(self._read, values)

    def share(self) -> float:
        """How much of the file has been read, 0 to 1."""
        return float(self._read / max(self._rows, 1))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _as_microseconds(kind: Any) -> Any:  # noqa: ANN401  (pyarrow ships no types)
    import pyarrow as pa

    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", tz=kind.tz)
    return pa.duration("us") if pa.types.is_duration(kind) and kind.unit == "ns" else kind


def _plain_rows(table: Any) -> list[dict[str, Any]]:  # noqa: ANN401  (pyarrow ships no types)
    """Rows as Python has them; an instant that Python cannot name, such as one of the year 10000, as text."""
    try:
        rows: list[dict[str, Any]] = table.to_pylist()
    except (OverflowError, ValueError):
        columns = {name: [_plain(value) for value in table.column(name)] for name in table.column_names}
        return [{name: values[number] for name, values in columns.items()} for number in range(table.num_rows)]
    return rows


def _plain(value: Any) -> Any:  # noqa: ANN401  (any Arrow scalar)
    import pyarrow as pa

    try:
        return value.as_py()
    except (OverflowError, ValueError):
        pass
    try:
        return value.cast(pa.string()).as_py()
    except pa.ArrowException:
        return f"a {value.type} that cannot be read"


def unreadable(number: int, content: str | list[str], why: str) -> FileRow:
    """A row that cannot be read, with what is there, so that nothing is lost."""
    text = content if isinstance(content, str) else "\x1f".join(content)
    readable = text.encode("utf-8", "backslashreplace").decode()
    kept: Any = readable if isinstance(content, str) else readable.split("\x1f")
    return FileRow(number, {"line": number, "content": kept}, SchemaError(_ROW, why))
