"""Bringing a database to the current schema, and saying where it stands.

Holds the calls into Alembic; does not hold the migrations (`migrations/versions`). A worker never
migrates; on an empty embedded file it may create the current schema, so that its first append works.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Table, inspect, text

from retrain_assets.errors import StoreOutdated
from retrain_assets.store import tables
from retrain_assets.store.database import Database

HEAD = "0002"
"""Revision of the newest migration; a test holds it against the folder."""


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
    """
    with database.read() as connection:
        if revision(connection) == HEAD:
            return HEAD
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with database.write() as connection:
        if not database.is_sqlite:  # SQLite's immediate transaction already lets one in at a time
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(727274)")
        if revision(connection) != HEAD:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    return HEAD


def create_if_empty(database: Database) -> None:
    """Create the current schema in an empty embedded database; leave anything else alone.

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
