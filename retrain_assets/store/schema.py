"""Bringing a database to the current schema, and saying where it stands.

Holds the calls into Alembic; does not hold the migrations (`migrations/versions`). A worker never
migrates; on an empty embedded file it may create the current schema, so that its first append works.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sqlalchemy import Connection, Table, inspect, text

from retrain_assets.errors import StoreOutdated
from retrain_assets.store import tables
from retrain_assets.store.database import Database

HEAD = "0002"
"""Revision of the newest migration; a test holds it against the folder."""

MIGRATIONS = Path(__file__).parent / "migrations"

_LOCK = 727274
"""PostgreSQL's advisory lock that a migrating platform holds."""


def revision(connection: Connection) -> str | None:
    """The schema revision of the database; None when it has none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one_or_none()


def migrate(database: Database) -> str:
    """Bring the database to the newest schema; safe to call twice and side by side.

    Returns
    -------
    str
        The revision it now has.

    Raises
    ------
    StoreOutdated
        The database is newer than this version, or holds tables of ours without a revision.
    """
    with database.read() as connection:
        if revision(connection) == HEAD:
            return HEAD
    with database.write() as connection:
        lock(connection)
        if revision(connection) != HEAD:
            upgrade(connection)
    return HEAD


def lock(connection: Connection) -> None:
    """Let one at a time change the schema; SQLite's immediate transaction does so by itself."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def upgrade(connection: Connection, target: str = HEAD) -> None:
    """Run the migrations up to `target` in the caller's writing transaction: all of them, or none.

    Parameters
    ----------
    connection : Connection
        Inside a writing transaction that holds `lock`.
    target : str
        A known revision, not older than the database's.

    Raises
    ------
    StoreOutdated
        As `migrate`; `target` too may be unknown.
    """
    from alembic import command
    from alembic.config import Config

    known = revisions()
    found = revision(connection)
    if found is None and (ours := _tables_of_ours(connection)):
        named = ", ".join(ours[:3]) + (", ..." if len(ours) > 3 else "")
        message = f"the database holds tables of this platform ({named}) and no schema revision (`alembic_version`)"
        raise StoreOutdated(f"{message}: it was copied in part; restore it from a backup, or name an empty database")
    for name in (found, target):
        if name is not None and name not in known:
            raise StoreOutdated(newer(name))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def newer(found: str) -> str:
    """What a person is told about a schema that this version does not know."""
    return (
        f"the database has schema revision {found}, the newest that this version knows is {HEAD}: "
        "upgrade retrain-assets on this machine"
    )


@cache
def revisions() -> tuple[str, ...]:
    """The revisions that this version knows, oldest first."""
    from alembic.script import ScriptDirectory

    return tuple(script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions())[::-1]


def _tables_of_ours(connection: Connection) -> list[str]:
    return sorted(set(inspect(connection).get_table_names()) & set(tables.metadata.tables))


def create_if_empty(database: Database) -> None:
    """Create the current schema in an empty embedded database; leave anything else alone.

    A revision that this version does not know is no fault here: a worker may be older than its database.

    Raises
    ------
    StoreOutdated
        The database is a server without a schema, or holds something else.
    """
    with database.read() as connection:
        found = revision(connection)
        names = inspect(connection).get_table_names()
    if found is not None:
        return
    if names or not database.is_sqlite:
        message = "the database has no schema of this platform; create it with `retrain doctor --fix`"
        raise StoreOutdated(message)
    with database.write() as connection:
        if revision(connection) is None:  # two workers may have come at once
            create_all(connection)


def create_all(connection: Connection) -> None:
    """Create every table of this version and mark the database with the newest revision."""
    tables.metadata.create_all(connection)
    connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})
    insert_route(connection, tables.route)


def insert_route(connection: Connection, route: Table) -> None:
    """Put in the one row of the route: nothing serves yet."""
    connection.execute(route.insert().values(id=1, share=0.0, holdback_share=0.0, step=0, epoch=0, paused=False))
