"""Connections to SQLite and PostgreSQL with the transactions that the loop relies on.

Holds how a transaction begins and how driver errors become this package's; does not hold queries.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.pool import NullPool, QueuePool

from retrain_assets.errors import ConfigError, StoreOutdated, StoreUnavailable

BUSY_TIMEOUT_S = 30.0
"""How long a SQLite writer waits for another one."""

_ABSENT_TABLE = ("no such table", "undefinedtable", "no such column", "undefinedcolumn")
_UNREADABLE = ("file is not a database", "disk image is malformed")


class Database:
    """One database, reached by many threads and, after a fork, by many processes.

    Parameters
    ----------
    url : str
        SQLAlchemy URL; `sqlite:///path` or `postgresql://...` (psycopg 3).

    Notes
    -----
    SQLite writers begin with `BEGIN IMMEDIATE`: a deferred read-then-write cannot be retried by the
    busy handler and gave 14,147 lock errors with 8 writers, where the immediate one gave none.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = _engine(url, os.getpid())

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine of this process; a fork gets one of its own."""
        if (engine := _engine(self.url, os.getpid())) is not self._engine:
            self._engine = engine
        return self._engine

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self.engine.dialect.name == "sqlite"

    @property
    def file(self) -> Path | None:
        """The SQLite file; None for a server."""
        name = self.engine.url.database
        return Path(name) if self.is_sqlite and name and name != ":memory:" else None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads, seeing one state."""
        with _translated(), self.engine.connect() as connection:
            if not self.is_sqlite:  # SQLite's reads see one state as they are
                connection = connection.execution_options(isolation_level="REPEATABLE READ")  # noqa: PLW2901
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: all of it is durable at the end, or none of it."""
        with _translated(), self.engine.connect() as connection:
            connection = connection.execution_options(begin_immediate=True)  # noqa: PLW2901  (same connection)
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Close this process's pooled connections."""
        self.engine.dispose()


@cache
def _engine(url: str, process_id: int) -> Engine:  # noqa: ARG001  (a fork must not share its parent's sockets)
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError([f"database URL {url!r} is not of the form sqlite:///FILE or postgresql://..."]) from None
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite and parsed.database and parsed.database != ":memory:":
        folder = Path(parsed.database).expanduser().parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"the database's folder {folder} cannot be made: {error.strerror}; nothing was stored, try again"
            raise StoreUnavailable(message) from error
    engine = create_engine(
        parsed,
        poolclass=NullPool if is_sqlite and parsed.database == ":memory:" else QueuePool,
        pool_pre_ping=not is_sqlite,
        pool_size=5,
        max_overflow=20,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False} if is_sqlite else {"connect_timeout": 10},
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
    )
    if is_sqlite:
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)
    return engine


def insert_new(connection: Connection, table: Table, keys: list[str]) -> Any:  # noqa: ANN401  (two dialects' types)
    """An INSERT that leaves a row alone whose `keys` are already there."""
    if connection.dialect.name == "sqlite":
        return sqlite_insert(table).on_conflict_do_nothing(index_elements=keys)
    return postgresql_insert(table).on_conflict_do_nothing(index_elements=keys)


def _on_sqlite_connect(connection: Any, _record: Any) -> None:  # noqa: ANN401  (the driver's own types)
    connection.isolation_level = None  # the driver must not begin transactions of its own
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # WAL with NORMAL may lose an acknowledged commit at a power cut
    cursor.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _on_sqlite_begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("begin_immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    """Turn driver errors into errors that say whether trying again can help."""
    try:
        yield
    except IntegrityError:
        raise
    except (OperationalError, InterfaceError, DBAPIError) as error:
        detail = next(iter(str(error.orig or error).strip().splitlines()), type(error).__name__)
        kind = type(error.orig).__name__.lower() if error.orig else ""
        if any(mark in detail.lower() or mark in kind for mark in _ABSENT_TABLE):
            message = f"the database has another schema than this version needs ({detail}); run `retrain doctor --fix`"
            raise StoreOutdated(message) from error
        if any(mark in detail.lower() for mark in _UNREADABLE):
            message = f"the database cannot be read ({detail}); restore it from a copy, or name another one"
            raise StoreOutdated(message) from error
        if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
            raise StoreUnavailable(
                f"the database cannot be used now: {detail}; nothing was stored, try again"
            ) from error
        raise
