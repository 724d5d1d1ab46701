"""A table of another database, read row by row.

Holds the opening of somebody else's database for reading and the SQL on it; does not hold this platform's own tables
(`outcomes.py` and the like) or what the rows mean. Nothing is ever written there: an SQLite file is opened read-only.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, NoSuchTableError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from retrain_assets.errors import StoreUnavailable, UsageError

_USER_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*:/*[^:/@?\s]*):.*@", re.IGNORECASE)
_QUERY_PASSWORD = re.compile(r"([?&](?:password|passwd|pwd|sslpassword)=)[^&#\s]*", re.IGNORECASE)

CHUNK_ROWS = 1_000
"""Rows that are held at a time."""


class SourceTable:
    """One table, or view, of another database.

    Parameters
    ----------
    url : str
        `sqlite:///FILE` or `postgresql://...`.
    table : str
        Its name, also `schema.name`.

    Raises
    ------
    UsageError
        The URL is none, the file or the table is not there.
    StoreUnavailable
        The database cannot be reached.
    """

    def __init__(self, url: str, table: str) -> None:
        parsed = _parsed(url)
        self.name = f"{without_password(url)}#{table}"
        self._engine = _engine(parsed)
        schema, _, name = table.rpartition(".")
        self._table, self._schema = name, schema or None
        with self._connected() as connection:
            self.columns = self._find_columns(connection)
            self._order = self._find_order(connection)
            self._quoted = ".".join(self._quote(part) for part in (self._schema, name) if part)
            self.rows = int(connection.exec_driver_sql(f"SELECT count(*) FROM {self._quoted}").scalar_one())  # noqa: S608

    @property
    def is_ordered(self) -> bool:
        """Whether the rows come in the same order every time, so that a place among them can be found again."""
        return bool(self._order)

    def read(self) -> Iterator[Mapping[str, Any]]:
        """The rows as the driver gives them, in order of the table's key where it has one.

        Bytes of an SQLite text that are no UTF-8 come as lone surrogates, an instant of PostgreSQL that Python cannot
        name as its text, such as `infinity`: so their own row can be refused and the others read.
        """
        columns = ", ".join(self._quote(name) for name in self.columns)
        order = f" ORDER BY {self._order}" if self._order else ""
        statement = f"SELECT {columns} FROM {self._quoted}{order}"  # noqa: S608  (names are the table's own, quoted)
        with self._connected() as connection:
            found = connection.execution_options(stream_results=True).exec_driver_sql(statement)
            for chunk in found.mappings().partitions(CHUNK_ROWS):
                for row in chunk:
                    yield dict(row)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _find_columns(self, connection: Connection) -> tuple[str, ...]:
        inspector = inspect(connection)
        try:
            return tuple(str(column["name"]) for column in inspector.get_columns(self._table, self._schema))
        except NoSuchTableError:
            names = [*inspector.get_table_names(self._schema), *inspector.get_view_names(self._schema)]
            hint = f"name one with --table: {', '.join(sorted(names))}" if names else "it has no tables"
            raise UsageError(f"{self.name} is not there; {hint}") from None

    def _find_order(self, connection: Connection) -> str:
        keys = inspect(connection).get_pk_constraint(self._table, self._schema)["constrained_columns"]
        return ", ".join(self._quote(key) for key in keys)

    def _quote(self, name: str) -> str:
        return self._engine.dialect.identifier_preparer.quote_identifier(name).replace("%", "%%")

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            detail = str(getattr(error, "orig", None) or error).strip().splitlines()
            why = without_password(detail[0]) if detail else type(error).__name__
            raise StoreUnavailable(f"{self.name} cannot be read: {why}") from error


def without_password(url: str) -> str:
    """A database's URL, however wrong, with `***` for every password in it: the user's, and those of its query."""
    return _QUERY_PASSWORD.sub(r"\1***", _USER_PASSWORD.sub(r"\1:***@", url))


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):  # a port that is no number is only a ValueError
        shown = without_password(url)
        raise UsageError(f"{shown!r} is no database URL; write sqlite:///FILE or postgresql://...") from None
    if backend not in {"sqlite", "postgresql"}:
        raise UsageError(f"{backend} databases are not read; export the table as CSV, or name sqlite or postgresql")
    if backend == "sqlite" and not Path(parsed.database or "").is_file():
        raise UsageError(f"there is no SQLite file {parsed.database or '(none named)'}; write sqlite:///FILE")
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        engine = create_engine(
            url, poolclass=NullPool, isolation_level="REPEATABLE READ", connect_args={"connect_timeout": 10}
        )
        event.listen(engine, "connect", _read_any_instant)
        return engine
    path = Path(url.database or "").absolute()
    is_still = not path.with_name(f"{path.name}-wal").exists() and not os.access(path.parent, os.W_OK)
    # In WAL mode even a reader makes files beside the database; where it may not, nobody else writes either.
    file = f"file:{quote(str(path))}?mode=ro{'&immutable=1' if is_still else ''}"
    return create_engine("sqlite://", poolclass=NullPool, creator=lambda: _sqlite(file))


def _sqlite(file: str) -> sqlite3.Connection:
    connection = sqlite3.connect(file, uri=True, check_same_thread=False)
    connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    return connection


def _read_any_instant(connection: Any, _: object) -> None:  # noqa: ANN401  (psycopg's, which not every install has)
    """Let instants that Python cannot name (`infinity`, the year 10000, before Christ) come as PostgreSQL's text."""
    from psycopg import DataError
    from psycopg.types import datetime as loaders

    def lenient(loader: Any) -> Any:  # noqa: ANN401  (a class of psycopg's)
        class Lenient(loader):  # type: ignore[misc]
            def load(self, data: Any) -> Any:  # noqa: ANN401
                try:
                    return super().load(data)
                except DataError:
                    return bytes(data).decode()

        return Lenient

    for kind, loader in (
        ("timestamptz", loaders.TimestamptzLoader), ("timestamp", loaders.TimestampLoader), ("date", loaders.DateLoader)
    ):  # fmt: skip
        connection.adapters.register_loader(kind, lenient(loader))
