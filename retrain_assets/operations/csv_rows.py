"""Rows of CSV files as people and programs write them.

Holds the reading of CSV; does not hold encodings (`operations/text_files.py`) or what a cell means (`core/cells.py`).

Read are: any of four delimiters or the one that is told, Excel's `sep=;` line, line ends of every system, quotes with
newlines inside, a delimiter at the end of lines, header lines that are repeated because files were put together, also
with the columns in another order. A row with too few or too many cells is refused; where it is long because a quote was
never closed, the lines that it swallowed are read again by themselves.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from retrain_assets.errors import RetrainError, UsageError
from retrain_assets.operations.row_files import FileRow, Source, unreadable
from retrain_assets.operations.text_files import OpenText, damage_told

DELIMITERS = ",;\t|"
MAX_CELL = 10 * 2**20
"""Characters of one CSV cell; csv's own 131,072 are too few for a page's text."""

_QUOTED = re.compile(r'"[^"]*"')
_MARK = "\ufeff"


class _Lines:
    """Lines of a file that can be taken back."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: deque[str] = deque()
        self.taken: list[str] = []
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.number += 1
        self.taken.append(line)
        return line

    def give_back_all_but_first(self) -> str:
        """Let the lines that were taken since `taken` was emptied come again, the first one aside; which it was."""
        first, *rest = self.taken
        self._again.extendleft(reversed(rest))
        self.number -= len(rest)
        self.taken = [first]
        return first


class CsvRows:
    """A CSV file with a header."""

    is_text = True

    def __init__(self, path: Path, encoding: str | None = None, delimiter: str | None = None) -> None:
        csv.field_size_limit(MAX_CELL)
        self._path = path
        self._text = OpenText(path, encoding)
        self._lines = _Lines(iter(self._text.lines))
        try:
            with damage_told(path):
                first = self._first_line()
            self._delimiter = delimiter or self._said or _delimiter(first)
            self._lines.taken = []
            with damage_told(path):
                self._header = self._read_header(first)
        except RetrainError:
            self.close()
            raise
        self.columns: tuple[str, ...] | None = tuple(self._header)
        self.source = Source(
            format="csv",
            encoding=self._text.encoding.name,
            is_encoding_guessed=self._text.encoding.is_guessed,
            delimiter=self._delimiter,
        )

    def __iter__(self) -> Iterator[FileRow]:
        reader = csv.reader(self._lines, delimiter=self._delimiter)
        with damage_told(self._path):
            while True:
                self._lines.taken.clear()
                number = self._lines.number + 1
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield self._swallowed(number) or unreadable(number, "", f"is no CSV: {error}")
                    reader = csv.reader(self._lines, delimiter=self._delimiter)
                    continue
                if self._is_torn():
                    yield self._swallowed(number) or unreadable(number, "", "is no CSV")
                    reader = csv.reader(self._lines, delimiter=self._delimiter)
                elif len(cells) == len(self._header):
                    if any(cells) and not self._is_header(cells):  # spreadsheets end with rows of empty cells
                        yield self._row(number, cells)
                elif cells and not self._is_padded(cells):
                    yield self._swallowed(number) or self._ragged(number, cells)
                    reader = csv.reader(self._lines, delimiter=self._delimiter)
                elif cells and not self._is_header(cells[: len(self._header)]):
                    yield self._row(number, cells[: len(self._header)])

    def share(self) -> float:
        """How much of the file has been read, 0 to 1."""
        return self._text.share()

    def close(self) -> None:
        """Let go of the file."""
        self._text.close()

    def _row(self, number: int, cells: list[str]) -> FileRow:
        if not self._text.is_readable("".join(cells)):
            return unreadable(number, cells, f"is not {self._encoding_name}")
        return FileRow(number, dict(zip(self._header, cells, strict=True)))

    def _ragged(self, number: int, cells: list[str]) -> FileRow:
        if not self._text.is_readable("".join(cells)):
            return unreadable(number, cells, f"is not {self._encoding_name}")
        return unreadable(number, cells, f"has {len(cells)} cells where the header has {len(self._header)}")

    def _swallowed(self, number: int) -> FileRow | None:
        """A row of several lines that does not fit: its first line is refused, the others come again."""
        if len(self._lines.taken) < 2:
            return None
        first = self._lines.give_back_all_but_first()
        return unreadable(number, first.rstrip("\r\n"), "has a quote that is not closed where its cell ends")

    def _is_torn(self) -> bool:
        """Whether a row of several lines has a quote too many: it was opened, and closed by another row or the end."""
        return len(self._lines.taken) > 1 and sum(line.count('"') for line in self._lines.taken) % 2 == 1

    def _is_padded(self, cells: list[str]) -> bool:
        """Whether a row only has an empty cell too many, for a delimiter at the end of its line."""
        return len(cells) == len(self._header) + 1 and not cells[-1].strip()

    def _is_header(self, cells: list[str]) -> bool:
        """Whether a row repeats the header; columns in another order hold from here on."""
        first = cells[0].strip().lstrip(_MARK)
        if first not in self._names:
            return False
        names = [cell.strip().lstrip(_MARK) for cell in cells]
        if sorted(names) != sorted(self._header):
            return False
        self._header = names
        return True

    def _first_line(self) -> str:
        """The header's first line; blank ones and Excel's word on the delimiter are read over."""
        self._said: str | None = None
        for line in self._lines:
            text = line.strip("\r\n").lstrip(_MARK)
            if self._said is None and re.fullmatch(r"sep=.", text):
                self._said = text[-1]
            elif text.strip():
                return line.lstrip(_MARK)
        return ""

    def _read_header(self, first: str) -> list[str]:
        def lines() -> Iterator[str]:
            yield first
            yield from self._lines

        try:
            cells = next(csv.reader(lines(), delimiter=self._delimiter), [])
        except csv.Error as error:
            raise RetrainError(f"{self._path.name}: its first line is no CSV header: {error}") from None
        if not self._text.is_readable("".join(cells)):
            hint = "say how the text is encoded with --encoding cp1252, or with imports.encoding"
            raise RetrainError(f"{self._path.name}: its header is not {self._encoding_name}; {hint}")
        names = [cell.strip() for cell in cells]
        if len(names) > 1 and not names[-1]:
            names.pop()
        # Columns without a name, such as a row number, hold nothing that could be asked for.
        if doubled := {name for name in names if name and names.count(name) > 1}:
            raise UsageError(f"{self._path.name} has two columns called {min(doubled)!r}; rename one")
        self._names = frozenset(names)
        return names

    @property
    def _encoding_name(self) -> str:
        name = self._text.encoding.name
        return name.upper() if name.startswith("utf") else name


def _delimiter(header: str) -> str:
    """The delimiter that the header has most of, outside of quotes."""
    return max(DELIMITERS, key=_QUOTED.sub("", header).count)
