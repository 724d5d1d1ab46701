"""The schema: one way to it by migration, one by creation, both the same; and what the database refuses by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import IntegrityError

from retrain_assets.core.deployment import Status
from retrain_assets.errors import StoreOutdated, TransitionRefused
from retrain_assets.store import registry, schema, tables
from retrain_assets.store.database import Database
from retrain_assets.testing import START, SeededDatabase, seeded_database

MIGRATIONS = Path(schema.__file__).parent / "migrations"


def _shape(connection: Connection) -> dict[str, object]:
    """Everything the database knows about its tables that the loop relies on."""
    inspector = inspect(connection)
    return {
        name: {
            "columns": [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(name)],
            "key": inspector.get_pk_constraint(name)["constrained_columns"],
            "unique": sorted(str(u["column_names"]) for u in inspector.get_unique_constraints(name)),
            "checks": sorted(str(c["name"]) for c in inspector.get_check_constraints(name)),
            "indexes": sorted(
                (str(i["name"]), str(i["column_names"]), i["unique"]) for i in inspector.get_indexes(name)
            ),
        }
        for name in inspector.get_table_names()
        if name != "alembic_version"
    }


def test_the_migrations_lead_to_the_tables_that_the_code_describes(database: Database) -> None:
    """Alembic finds no difference in tables, columns, types, nullability, keys or indexes."""
    with database.write() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, tables.metadata) == []


def test_creating_and_migrating_give_the_same_schema(new_database: Callable[[str], str]) -> None:
    """Also the constraints that Alembic does not compare."""
    created, migrated = Database(new_database("sqlite")), Database(new_database("sqlite"))
    schema.create_if_empty(created)
    schema.migrate(migrated)
    with created.read() as first, migrated.read() as second:
        assert _shape(first) == _shape(second)
        assert schema.revision(first) == schema.revision(second) == schema.HEAD
        assert registry.get_route(first) == registry.get_route(second)


def test_a_server_gets_the_same_tables_by_creation(new_database: Callable[[str], str]) -> None:
    """`create_all` and the migrations agree on PostgreSQL as well."""
    created, migrated = Database(new_database("postgresql")), Database(new_database("postgresql"))
    with created.write() as connection:
        schema.create_all(connection)
    schema.migrate(migrated)
    with created.read() as first, migrated.read() as second:
        assert _shape(first) == _shape(second)


def test_the_head_is_the_newest_migration() -> None:
    """Somebody who adds a migration cannot forget to say so."""
    assert ScriptDirectory(str(MIGRATIONS)).get_heads() == [schema.HEAD]


def test_migrating_again_changes_nothing(database: Database) -> None:
    """A platform that starts twice finds everything in place, also its route."""
    with database.write() as connection:
        connection.execute(tables.route.update().values(epoch=7))
    assert schema.migrate(database) == schema.HEAD
    with database.read() as connection:
        assert registry.get_route(connection).epoch == 7


def test_platforms_that_start_together_migrate_once(database_url: str) -> None:
    """Four at the same moment: one migrates, the others find it done."""
    start, errors = threading.Barrier(4), []

    def begin() -> None:
        try:
            start.wait()
            schema.migrate(Database(database_url))
        except Exception as error:  # noqa: BLE001  (whatever it is, the test shall tell)
            errors.append(error)

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with Database(database_url).read() as connection:
        assert connection.execute(text("SELECT count(*) FROM route")).scalar_one() == 1


def test_a_database_of_somebody_else_is_left_alone(sqlite_url: str) -> None:
    """A worker creates its schema in an empty file only."""
    database = Database(sqlite_url)
    with database.write() as connection:
        connection.execute(text("CREATE TABLE theirs (id INTEGER)"))
    with pytest.raises(StoreOutdated, match="has no schema of this platform"):
        schema.create_if_empty(database)
    with database.read() as connection:
        assert inspect(connection).get_table_names() == ["theirs"]


def test_an_absent_schema_is_told_from_an_absent_database(database_url: str) -> None:
    """Retrying cannot help; `retrain doctor --fix` can."""
    message = "the database has another schema than this version needs .* run `retrain doctor --fix`"
    with pytest.raises(StoreOutdated, match=message), Database(database_url).read() as connection:
        registry.get_route(connection)


def test_an_outdated_schema_is_told_from_an_absent_database(database: Database) -> None:
    """The same for a column that an older version did not have."""
    with database.write() as connection:
        connection.execute(text("ALTER TABLE route DROP COLUMN holdback_version"))
    with pytest.raises(StoreOutdated, match="holdback_version"), database.read() as connection:
        registry.get_route(connection)


# ---------------------------------------------------------------------------------- what the database refuses itself


@pytest.fixture
def seeded(database_url: str, tmp_path: Path) -> SeededDatabase:
    """`v1.0.0` serves, `v1.0.1` is on trial, `v1.0.2` waits."""
    seeded = seeded_database(database_url, tmp_path)
    seeded.add_version("v1.0.1", status=Status.CANARY)
    seeded.add_version("v1.0.2")
    return seeded


@pytest.mark.parametrize("status", ["production", "canary"])
def test_the_database_itself_refuses_a_second_version_in_traffic(seeded: SeededDatabase, status: str) -> None:
    """Whatever code or person writes: one production, one canary."""
    change = tables.model_versions.update().where(tables.model_versions.c.version == "v1.0.2").values(status=status)
    with pytest.raises(IntegrityError, match="model_versions"), seeded.database.write() as connection:
        connection.execute(change)
    with seeded.database.read() as connection:
        assert registry.get_version(connection, "v1.0.2").status is Status.STAGING  # type: ignore[union-attr]


def test_a_second_production_is_told_to_people_as_a_refusal(seeded: SeededDatabase) -> None:
    """The operation's error names what is in the way instead of an index."""
    with (
        pytest.raises(TransitionRefused, match=r"v1\.0\.2 cannot become production: another version already is"),
        seeded.database.write() as connection,
    ):
        registry.move(connection, "v1.0.2", Status.STAGING, Status.PRODUCTION)


@pytest.mark.parametrize(
    "values",
    [
        {"id": 2},
        {"share": 1.0},
        {"share": -0.1},
        {"share": 0.1},
        {"canary_version": "v1.0.1", "production_version": None},
    ],
    ids=str,
)
def test_the_database_itself_refuses_a_route_that_makes_no_sense(
    seeded: SeededDatabase, values: dict[str, object]
) -> None:
    """One row; a share from 0 to below 1, and only with a canary; no canary without production."""
    change = tables.route.update().values(values)
    with pytest.raises(IntegrityError, match="ck_route_"), seeded.database.write() as connection:
        connection.execute(change)


def test_the_database_itself_refuses_an_outcome_without_a_known_result(database: Database) -> None:
    """A writer that goes around the collector cannot poison a week."""
    values = {"outcome_id": "o", "task_id": "t", "attempt": 1, "domain": "", "action_attempted": "a", "features": {}}
    row = values | {"result": "maybe", "occurred_at": START, "received_at": START}
    with pytest.raises(IntegrityError, match="ck_outcomes_result"), database.write() as connection:
        connection.execute(tables.outcomes.insert().values(row))


def test_a_naive_instant_never_reaches_a_table(database: Database) -> None:
    """Also when code forgets it: the column type refuses."""
    with pytest.raises(Exception, match="a naive datetime reached the database"), database.write() as connection:
        connection.execute(tables.route.update().values(lease_until=START.replace(tzinfo=None)))
