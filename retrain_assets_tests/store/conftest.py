"""What tests of the store start from: a database with the current schema, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from retrain_assets.store import schema
from retrain_assets.store.database import Database


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with the current schema; the test runs once on SQLite and once on PostgreSQL."""
    database = Database(database_url)
    schema.migrate(database)
    yield database
    database.close()


@pytest.fixture
def sqlite_database(sqlite_url: str) -> Iterator[Database]:
    """The same on SQLite alone, for what does not depend on the kind of database."""
    database = Database(sqlite_url)
    schema.migrate(database)
    yield database
    database.close()
