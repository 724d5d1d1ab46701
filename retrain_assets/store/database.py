"""Connections to SQLite and PostgreSQL with the transactions that the loop relies on.

Holds how a transaction begins, and what is done about a file that is not there or was moved; does not hold what a
driver's error means (`database_errors.py`) or queries.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import ArgumentError, DisconnectionError, NoSuchModuleError
from sqlalchemy.pool import NullPool, QueuePool

from retrain_assets.errors import ConfigError, StoreUnavailable
from retrain_assets.store.database_errors import FORM, commit_translated, masked, translated
from retrain_assets.store.files import make_folder

BUSY_TIMEOUT_S = 30.0
"""How long a SQLite writer waits for another one."""

CONNECT_TIMEOUT_S = 10
"""How long a server has to take a connection."""

# A server that vanished without a word is noticed within about a minute, not after the operating system's two hours.
_SERVER_DEFAULTS = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}

Absent = Literal["create", "refuse"]


class Database:
    """One database, reached by many threads and, after a fork, by many processes.

    Parameters
    ----------
    url : str
        SQLAlchemy URL; `sqlite:///path` or `postgresql://...` (psycopg 3). What a PostgreSQL URL says itself, such as
        `?connect_timeout=3`, goes before the defaults here.
    absent : str
        What to do about a SQLite file that is not there: `create` it with its folders (default), or `refuse`, which is
        for those who only read: a URL with a typo must not become a new, empty database.

    Raises
    ------
    ConfigError
        The URL is none.

    Notes
    -----
    SQLite writers begin with `BEGIN IMMEDIATE`: a deferred read-then-write cannot be retried by the
    busy handler and gave 14,147 lock errors with 8 writers, where the immediate one gave none.
    """

    def __init__(self, url: str, *, absent: Absent = "create") -> None:
        self.url = url
        self.absent: Absent = absent
        self._engine = _engine(url, os.getpid())
        self._file = self.file
        self.place = str(self._file) if self._file else masked(url)
        """The database as messages name it: the file, or the URL without its password."""

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
        return _file_of(self.engine.url)

    @property
    def is_in_memory(self) -> bool:
        """Whether this is an embedded database without a file, which ends with its connection."""
        url = self.engine.url
        name = url.database or ""
        return self.is_sqlite and (not name or ":memory:" in name or url.query.get("mode") == "memory")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads, seeing one state.

        Raises
        ------
        StoreUnavailable, StoreOutdated, ConfigError
            As `database_errors.translated`; `StoreUnavailable` also for a file that is not there.
        """
        with self._connected() as connection:
            if not self.is_sqlite:  # SQLite's reads see one state as they are
                connection = connection.execution_options(isolation_level="REPEATABLE READ")  # noqa: PLW2901
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: all of it is durable at the end, or none of it.

        Raises
        ------
        StoreUnavailable, StoreOutdated, ConfigError
            As for `read`. When a server goes away during the commit itself, nobody knows whether it was done; the
            message says so.
        """
        with self._connected() as connection:
            connection = connection.execution_options(begin_immediate=True)  # noqa: PLW2901  (same connection)
            with connection.begin() as transaction:
                yield connection
                with commit_translated(self.place, is_certain=self.is_sqlite):
                    transaction.commit()

    def close(self) -> None:
        """Close this process's pooled connections."""
        self.engine.dispose()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        if self._file is not None and not self._file.exists():
            self._make_room(self._file)
        with translated(self.place), self.engine.connect() as connection:
            yield connection

    def _make_room(self, file: Path) -> None:
        """Decide about a file that is not there."""
        if self.absent == "refuse":
            made = "`retrain doctor --fix` or the first import makes it; if it was moved away, bring it back instead"
            raise StoreUnavailable(f"there is no database at {file} yet; {made}")
        try:
            make_folder(file.parent)
        except OSError as error:
            message = f"the database's folder {file.parent} cannot be made: {error.strerror}"
            raise StoreUnavailable(f"{message}; nothing was stored, try again") from error


def _file_of(url: URL) -> Path | None:
    name = url.database
    if url.get_backend_name() != "sqlite" or not name or name == ":memory:" or name.startswith("file:"):
        return None
    return Path(name)


@cache
def _engine(url: str, process_id: int) -> Engine:  # noqa: ARG001  (a fork must not share its parent's sockets)
    try:
        parsed = make_url(url)
        if "@" in (parsed.host or ""):  # the end of a password that the driver would print as the host
            raise ConfigError([f"database URL {masked(url)!r}: write an @ in user or password as %40"])
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() == "sqlite":
            return _sqlite_engine(parsed)
        return _made(parsed, QueuePool, {k: v for k, v in _SERVER_DEFAULTS.items() if k not in parsed.query})
    except (ArgumentError, NoSuchModuleError, ValueError):  # a port that is no number is only a ValueError
        raise ConfigError([f"database URL {masked(url)!r} is not of the form {FORM}"]) from None


def _sqlite_engine(url: URL) -> Engine:
    arguments = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
    engine = _made(url, NullPool if url.database == ":memory:" else QueuePool, arguments)
    event.listen(engine, "connect", _on_sqlite_connect)
    event.listen(engine, "begin", _on_sqlite_begin)
    if (file := _file_of(url)) is not None:
        _watch_file(engine, file)
    return engine


def _made(url: URL, pool: type[QueuePool | NullPool], arguments: dict[str, Any]) -> Engine:
    sizes = {"pool_size": 5, "max_overflow": 20} if pool is QueuePool else {}
    return create_engine(
        url,
        poolclass=pool,
        pool_pre_ping=url.get_backend_name() != "sqlite",
        connect_args=arguments,
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
        **sizes,
    )


def insert_new(connection: Connection, table: Table, keys: list[str]) -> Any:  # noqa: ANN401  (two dialects' types)
    """An INSERT that leaves a row alone whose `keys` are already there."""
    if connection.dialect.name == "sqlite":
        return sqlite_insert(table).on_conflict_do_nothing(index_elements=keys)
    # 30 ms that a worker on SQLite has no use for.
    from sqlalchemy.dialects.postgresql import insert as postgresql_insert

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


def _watch_file(engine: Engine, file: Path) -> None:
    """Give up connections to a file that was deleted or replaced: what they write, nobody would find again."""

    def identity() -> tuple[int, int] | None:
        try:
            found = file.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def on_connect(_connection: Any, record: Any) -> None:  # noqa: ANN401  (the driver's own types)
        record.info["file"] = identity()

    def on_checkout(_connection: Any, record: Any, _proxy: Any) -> None:  # noqa: ANN401  (the driver's own types)
        if record.info.get("file") != identity():
            raise DisconnectionError(f"{file} is another file than before")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "checkout", on_checkout)
