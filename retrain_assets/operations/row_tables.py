"""Rows of a table of another database, as an import takes them.

Holds the rows' shape; does not hold SQL (`store/source_tables.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from retrain_assets.operations.row_files import FileRow, Source
from retrain_assets.store.source_tables import SourceTable

DEFAULT_TABLE = "outcomes"


def is_url(source: str) -> bool:
    """Whether a source names a database instead of a file."""
    return "://" in source


class TableRows:
    """A table being read; close it."""

    is_text = False

    def __init__(self, url: str, table: str | None = None) -> None:
        self.table = SourceTable(url, table or DEFAULT_TABLE)
        self.columns: tuple[str, ...] | None = self.table.columns
        self.source = Source(format="database")
        self._read = 0

    def __iter__(self) -> Iterator[FileRow]:
        self._read = 0
        for values in self.table.read():
            self._read += 1
            yield FileRow(self._read, dict(values))

    def share(self) -> float:
        """How much of the table has been read, 0 to 1."""
        return min(self._read / max(self.table.rows, 1), 1.0)

    def close(self) -> None:
        """Let go of the database."""
        self.table.close()
