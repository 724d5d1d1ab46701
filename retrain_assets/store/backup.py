"""A whole database as one SQLite file, and back into an empty database of either kind.

Holds the copying of tables with every value kept exactly; does not hold files, the backup's folder or its description
(`backup_folder.py`, `operations/backup.py`).

A SQLite file keeps instants and JSON as text and booleans as 0 and 1. That is the form in which values travel:
PostgreSQL is asked for it and reads it, so no value passes through a Python type that could change it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import JSON, Boolean, Connection, Table, inspect

from retrain_assets.errors import RetrainError, StoreOutdated, StoreUnavailable
from retrain_assets.store import schema, tables
from retrain_assets.store.database import Database

PAGES = 2_000
"""Pages of a SQLite file copied between two reports of progress: 8 MB."""

GROUP = 5_000
"""Rows held in memory at a time."""

_INSTANT = """to_char("{0}" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')"""
"""PostgreSQL's spelling of `tables.sqlite_instant`."""

Progress = Callable[[float], None]
"""Told how much is done, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that a row says is there: its path in the problem's home, its SHA-256, and what names it."""

    path: str
    sha256: str
    named_by: str


def copy_out(database: Database, target: Path, progress: Progress) -> str:
    """Write the state of this moment to a new SQLite file, while others go on writing.

    Parameters
    ----------
    database : Database
        SQLite or PostgreSQL, at any revision that this version knows.
    target : Path
        A file that is not there yet. It has no sidecar files in the end.
    progress : callable

    Returns
    -------
    str
        The schema revision of the copy.

    Raises
    ------
    StoreOutdated
        The database has no schema, or a newer one than this version knows.
    """
    with database.read() as connection:
        found = schema.revision(connection)
        if found is None:
            raise StoreOutdated("the database has no schema of this platform: there is nothing to back up")
        if found not in schema.revisions():
            raise StoreOutdated(schema.newer(found))
        if database.is_sqlite:
            _copy_pages(connection, target, progress)
        else:
            _copy_rows(connection, found, target, progress)
    with closing(sqlite3.connect(target)) as copy:
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, complete in itself
    return found


def _copy_pages(connection: Connection, target: Path, progress: Progress) -> None:
    """SQLite's own online copy.

    The reading transaction, which has begun, holds one state: without it every write of another process would make
    the copy start anew, and under load it would never end. In WAL mode it keeps no writer waiting.
    """
    source: Any = connection.connection.driver_connection
    with closing(sqlite3.connect(target)) as copy:
        source.backup(copy, pages=PAGES, progress=lambda _, left, total: progress(1 - left / max(total, 1)))


def _copy_rows(connection: Connection, revision: str, target: Path, progress: Progress) -> None:
    """Stream every table, all in the caller's one transaction."""
    copy = Database(f"sqlite:///{target}")
    counts = {table.name: _count(connection, table) for table in _present(connection)}
    total, done = max(sum(counts.values()), 1), 0
    try:
        with copy.write() as written:
            schema.upgrade(written, revision)
            written.exec_driver_sql("DELETE FROM route")
            for table in _present(connection):
                names = _columns(connection, table)
                for rows in _server_rows(connection, table, names):
                    _insert(written, table.name, names, rows)
                    done += len(rows)
                    progress(done / total)
            for name, last in _counters(connection).items():
                _set_sqlite_counter(written, name, last)
    finally:
        copy.close()


def _server_rows(connection: Connection, table: Table, names: list[str]) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of a PostgreSQL table as SQLite would hold them, in groups."""
    told = ", ".join(_as_sqlite(table, name) for name in names)
    streamed = {"stream_results": True, "max_row_buffer": GROUP}
    found = connection.exec_driver_sql(f"SELECT {told} FROM {table.name}", execution_options=streamed)  # noqa: S608
    for rows in found.partitions(GROUP):  # without its size a partition would be the whole table
        yield [tuple(row) for row in rows]


def _as_sqlite(table: Table, name: str) -> str:
    kind = table.c[name].type
    if isinstance(kind, tables.Instant):
        return _INSTANT.format(name)
    if isinstance(kind, JSON):
        return f'CAST("{name}" AS TEXT)'
    return f'CAST("{name}" AS INTEGER)' if isinstance(kind, Boolean) else f'"{name}"'


def check_empty(connection: Connection) -> None:
    """Refuse a database that holds anything but the tables of this platform without rows.

    Raises
    ------
    RetrainError
        Names the tables that have rows.
    """
    found = [table for table in _present(connection) if table.name != "route"]
    filled = [table.name for table in found if _has_rows(connection, f"SELECT 1 FROM {table.name} LIMIT 1")]  # noqa: S608
    if _is_present(connection, tables.route) and _has_rows(connection, "SELECT 1 FROM route WHERE epoch > 0"):
        filled.append("route")
    if filled:
        message = f"the database is not empty: there are rows in {', '.join(filled)}; nothing was restored"
        hint = "name an empty one with storage.database_url or RETRAIN_DATABASE_URL"
        raise RetrainError(f"{message}. A restore overwrites nothing: {hint}")


def load(database: Database, source: Path, revision: str, progress: Progress) -> None:
    """Put a copy into an empty database and bring it to the newest schema, all in one transaction.

    Parameters
    ----------
    database : Database
        SQLite or PostgreSQL.
    source : Path
        What `copy_out` wrote; it is only read.
    revision : str
        What `copy_out` returned.
    progress : callable

    Raises
    ------
    RetrainError
        The database is not empty, or cannot hold a value of the copy.
    """
    with read_only(source) as copy, database.write() as connection:
        schema.lock(connection)
        for table in _present(connection) if not database.is_sqlite else ():
            connection.exec_driver_sql(f"LOCK TABLE {table.name} IN ACCESS EXCLUSIVE MODE")
        check_empty(connection)
        tables.metadata.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE IF EXISTS alembic_version")
        schema.upgrade(connection, revision)
        connection.exec_driver_sql("DELETE FROM route")
        _load_rows(connection, copy, progress)
        counters = dict(copy.execute("SELECT name, seq FROM sqlite_sequence"))
        for table in _present(connection):
            if table.name in counters:
                _set_counter(connection, table, counters[table.name])
        if revision != schema.HEAD:
            schema.upgrade(connection)


def _load_rows(connection: Connection, copy: sqlite3.Connection, progress: Progress) -> None:
    present = _present(connection)
    counts = count_rows(copy, [table.name for table in present])
    total, done = max(sum(counts.values()), 1), 0
    for table in present:
        names = _columns(connection, table)
        cursor = copy.execute(f"SELECT {_listed(names)} FROM {table.name}")  # noqa: S608
        try:
            while rows := cursor.fetchmany(GROUP):
                _insert(connection, table.name, names, rows)
                done += len(rows)
                progress(done / total)
        except Exception as error:
            line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            driver: Any = connection.dialect.loaded_dbapi
            if isinstance(error, driver.OperationalError):  # the server went away, or the disk is full
                raise StoreUnavailable(f"{table.name} could not be written: {line}; nothing was restored") from error
            raise RetrainError(f"{table.name} cannot be restored into this database: {line}") from error


def _insert(connection: Connection, table: str, names: list[str], rows: list[tuple[Any, ...]]) -> None:
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(names))
        driver.executemany(f"INSERT INTO {table} ({_listed(names)}) VALUES ({marks})", rows)  # noqa: S608
        return
    with driver.cursor() as cursor, cursor.copy(f"COPY {table} ({_listed(names)}) FROM STDIN") as stream:
        for row in rows:
            stream.write_row(row)


def _set_counter(connection: Connection, table: Table, last: int) -> None:
    """New rows get numbers above every number that was ever given."""
    if connection.dialect.name == "sqlite":
        _set_sqlite_counter(connection, table.name, last)
    elif last > 0:
        sequence = f"pg_get_serial_sequence('{table.name}', '{_serial(table)}')"
        connection.exec_driver_sql(f"SELECT setval({sequence}, {int(last)})")


def _set_sqlite_counter(connection: Connection, table: str, last: int) -> None:
    connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
    connection.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, last))


def _counters(connection: Connection) -> dict[str, int]:
    """The last number that PostgreSQL gave in each table that counts."""
    found = {}
    for table in _present(connection):
        if (key := _serial(table)) is not None:
            query = f"SELECT pg_get_serial_sequence('{table.name}', '{key}')"
            sequence = connection.exec_driver_sql(query).scalar_one()
            query = f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}"  # noqa: S608
            given = connection.exec_driver_sql(query).scalar_one()
            # A transaction that has not committed yet may have drawn numbers already; both are safe to pass over.
            highest = connection.exec_driver_sql(f"SELECT coalesce(max({key}), 0) FROM {table.name}").scalar_one()  # noqa: S608
            found[table.name] = max(given, highest)
    return found


def _serial(table: Table) -> str | None:
    return table.autoincrement_column.name if table.autoincrement_column is not None else None


@contextmanager
def read_only(file: Path) -> Iterator[sqlite3.Connection]:
    """A copy opened so that neither it nor its folder changes."""
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        yield connection


def count_rows(copy: sqlite3.Connection, names: list[str] | None = None) -> dict[str, int]:
    """Rows of each table of a copy."""
    if names is None:
        held = {name for (name,) in copy.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        names = [name for name in tables.metadata.tables if name in held]
    return {name: copy.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}  # noqa: S608


def named_files(copy: sqlite3.Connection) -> list[NamedFile]:
    """Every file that snapshots, trainings and versions of a copy name."""
    query = "SELECT week, path, file_sha256 FROM snapshots ORDER BY week"
    found = [NamedFile(path, digest, f"the snapshot of week {week}") for week, path, digest in copy.execute(query)]
    for query, kind in (
        ("SELECT training_id, artefacts FROM trainings ORDER BY 1", "training"),
        ("SELECT version, artefacts FROM model_versions ORDER BY 1", "version"),
    ):
        for name, artefacts in copy.execute(query):
            entries = msgspec.json.decode(artefacts).values()
            found += [NamedFile(entry["path"], entry["sha256"], f"{kind} {name}") for entry in entries]
    return found


def _present(connection: Connection) -> list[Table]:
    """Our tables that the database has; an older revision has fewer."""
    return [table for table in tables.metadata.sorted_tables if _is_present(connection, table)]


def _is_present(connection: Connection, table: Table) -> bool:
    return bool(inspect(connection).has_table(table.name))


def _columns(connection: Connection, table: Table) -> list[str]:
    """The columns of ours that the database has, in its order; an older revision has fewer."""
    return [c["name"] for c in inspect(connection).get_columns(table.name) if c["name"] in table.c]


def _listed(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _count(connection: Connection, table: Table) -> int:
    return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table.name}").scalar_one())  # noqa: S608


def _has_rows(connection: Connection, query: str) -> bool:
    return connection.exec_driver_sql(query).first() is not None
