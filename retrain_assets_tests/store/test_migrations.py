"""Migrations with data in every table, and workers whose version is not the database's.

The rows of each released schema lie in `frozen/REVISION.sql`, as that release wrote them; `freeze.py` makes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import alembic.op
import pytest
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import IntegrityError

from retrain_assets.core.dataset import WeekCalendar
from retrain_assets.core.deployment import EventKind, Status
from retrain_assets.core.outcomes import DecisionRecord
from retrain_assets.errors import SchemaError, StoreOutdated
from retrain_assets.operations import status, watch
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.operations.registry import ModelRegistry
from retrain_assets.settings import Config, Settings
from retrain_assets.store import datasets, decision_rows, decisions, outcomes, quarantine, schema, tables
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.database import Database
from retrain_assets.testing import START, FakeClock
from retrain_assets_tests.store import freeze

OLDER = schema.revisions()[:-1]
"""Every revision that a database in the field may have and that is not the newest."""

LATER = START + timedelta(days=21)
WEEK = WeekCalendar().containing(START - timedelta(days=7))


def build(database: Database, revision: str) -> None:
    """Bring an empty database to a revision by its migrations, and put in the frozen rows."""
    with database.write() as connection:
        schema.upgrade(connection, revision)
        driver = connection.connection.driver_connection
        assert driver is not None
        for line in (freeze.FROZEN / f"{revision}.sql").read_text(encoding="utf-8").split(";\n"):
            driver.execute(line)
        if not database.is_sqlite:  # the release's own inserts drew their numbers from the sequence
            for name, key in _serials(connection).items():
                highest = f"(SELECT max({key}) FROM {name})"  # noqa: S608
                connection.exec_driver_sql(f"SELECT setval(pg_get_serial_sequence('{name}', '{key}'), {highest})")


def _serials(connection: Connection) -> dict[str, str]:
    found = inspect(connection)
    keys = {name: found.get_pk_constraint(name)["constrained_columns"] for name in found.get_table_names()}
    return {name: key[0] for name, key in keys.items() if key in (["seq"], ["id"]) and name != "route"}


def shape(connection: Connection) -> dict[str, dict[str, Any]]:
    """Columns, keys, checks and indexes of every table."""
    found = inspect(connection)
    return {
        name: {
            "columns": {c["name"]: (str(c["type"]), c["nullable"]) for c in found.get_columns(name)},
            "key": found.get_pk_constraint(name)["constrained_columns"],
            "unique": sorted(str(u["column_names"]) for u in found.get_unique_constraints(name)),
            "checks": sorted(str(c["name"]) for c in found.get_check_constraints(name)),
            "references": sorted(str(f["constrained_columns"]) for f in found.get_foreign_keys(name)),
            "indexes": {str(i["name"]): (str(i["column_names"]), bool(i["unique"])) for i in found.get_indexes(name)},
        }
        for name in found.get_table_names()
        if name != "alembic_version"
    }


@pytest.fixture
def old(database_url: str) -> Database:
    """A database of the first release, with rows in every table."""
    database = Database(database_url)
    build(database, "0001")
    return database


def opened(database: Database, home: Path) -> Platform:
    """A platform of this version on the database."""
    settings = Settings(config=Config(), config_path=None, home=home, database_url=database.url)
    return open_platform(settings, FakeClock(LATER))


# ------------------------------------------------------------------------------------------------ data come through


def test_every_released_schema_has_its_frozen_rows() -> None:
    """Whoever adds a revision first keeps rows as the release before it wrote them."""
    missing = [revision for revision in OLDER if not (freeze.FROZEN / f"{revision}.sql").exists()]
    how = (
        "on the commit before the new revision run `python retrain_assets_tests/store/freeze.py`, "
        "which writes retrain_assets_tests/store/frozen/REVISION.sql, and add that file with the migration"
    )
    assert missing == [], f"no frozen rows of revision {', '.join(missing)}: {how}"


@pytest.mark.parametrize("revision", OLDER)
def test_the_frozen_rows_fill_every_table_of_their_schema(sqlite_url: str, revision: str) -> None:
    """A table without rows would pass every migration."""
    database = Database(sqlite_url)
    build(database, revision)
    with database.read() as connection:
        names = {name for name in inspect(connection).get_table_names() if name != "alembic_version"}
    assert set(freeze.contents(database)) == names


def test_this_version_can_freeze_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script that writes frozen rows works, fills every table, and its dump gives the same rows."""
    monkeypatch.setattr(freeze, "FROZEN", tmp_path / "frozen")
    written = freeze.freeze()
    database = Database(f"sqlite:///{tmp_path / 'loaded.db'}")
    build(database, schema.HEAD)
    assert written.name == f"{schema.HEAD}.sql"
    assert set(freeze.contents(database)) == set(tables.metadata.tables)


@pytest.mark.parametrize("revision", OLDER)
def test_every_row_and_value_survives_the_migrations(
    database_url: str, new_database: Callable[[str], str], revision: str
) -> None:
    """From each released schema to the newest one: what was there is there; what is new is empty."""
    before, migrated = Database(new_database("sqlite")), Database(database_url)
    build(before, revision)
    build(migrated, revision)
    assert schema.migrate(migrated) == schema.HEAD
    old, new = freeze.contents(before), freeze.contents(migrated)
    for name, rows in old.items():
        told = [{column: row[column] for column in rows[0]} for row in new[name]]
        assert told == rows, name
        assert all(row[column] is None for row in new[name] for column in row.keys() - rows[0].keys())
    assert sum(map(len, old.values())) > 40


def test_the_platform_reads_a_migrated_database(old: Database, tmp_path: Path) -> None:
    """Registry, history, status, the watch's tick and the weekly snapshot work on rows that an older version wrote."""
    platform = opened(old, tmp_path)
    registry = ModelRegistry(old.url)
    assert [(m.version, m.status) for m in registry.list_models()] == [
        ("v1.0.0", Status.PRODUCTION),
        ("v1.0.1", Status.CANARY),
    ]
    assert registry.history()[0].kind is EventKind.REGISTERED
    found = status.gather(platform)
    assert (found.route.production_version, found.route.canary_version) == ("v1.0.0", "v1.0.1")
    assert found.trial is not None
    watch.tick(platform, "tests")
    snapshot = datasets.take_snapshot(old, platform.problem_home, WEEK, platform.config.schema, LATER)
    assert snapshot.rows == 6 + 1  # six decided tasks, and one alone with its correction


def test_a_migrated_database_still_refuses_what_it_refused(old: Database) -> None:
    """Keys, checks and the one production hold after the migration too."""
    schema.migrate(old)
    changes = {
        "uq_model_versions_one_production|model_versions.status": "UPDATE model_versions SET status = 'production'",
        "ck_route_share": "UPDATE route SET share = 1.0",
        "ck_decisions_propensity": "UPDATE decisions SET propensity = 0",
        "ck_outcomes_result": "UPDATE outcomes SET result = 'maybe'",
        "outcome_id": "UPDATE outcomes SET outcome_id = 'same'",
    }
    for mark, change in changes.items():
        with pytest.raises(IntegrityError, match=mark), old.write() as connection:
            connection.exec_driver_sql(change)


def test_new_rows_come_after_the_old_ones(old: Database) -> None:
    """The cursor `seq` goes on where the older version stood."""
    before = max(row["seq"] for row in freeze.contents(old)["outcomes"])
    schema.migrate(old)
    assert _append(old, "after the migration") == "accepted"
    assert max(row["seq"] for row in freeze.contents(old)["outcomes"]) > before


# --------------------------------------------------------------------------------------------- interrupted, together


@pytest.mark.parametrize("step", ["create_table", "add_column"])
def test_a_migration_that_dies_in_the_middle_changes_nothing(
    old: Database, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Schema changes are part of the transaction on both databases: all of a migration, or none of it."""
    before_rows = freeze.contents(old)
    with old.read() as connection:
        before = shape(connection)
    done = getattr(alembic.op, step)

    def change_and_die(*args: Any, **options: Any) -> None:  # noqa: ANN401  (Alembic's)
        done(*args, **options)
        raise KeyboardInterrupt("the process is killed")

    with monkeypatch.context() as patch:
        patch.setattr(alembic.op, step, change_and_die)
        with pytest.raises(KeyboardInterrupt, match="killed"):
            schema.migrate(old)
    with old.read() as connection:
        assert schema.revision(connection) == "0001"
        assert shape(connection) == before
    assert freeze.contents(old) == before_rows
    assert schema.migrate(old) == schema.HEAD


def test_platforms_that_come_together_migrate_old_data_once(old: Database) -> None:
    """Four at the same moment: one migrates, the others find it done, and no row is lost."""
    before = freeze.contents(old)
    start, errors = threading.Barrier(4), []

    def begin() -> None:
        try:
            start.wait()
            schema.migrate(Database(old.url))
        except Exception as error:  # noqa: BLE001  (whatever it is, the test shall tell)
            errors.append(error)

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with old.read() as connection:
        assert schema.revision(connection) == schema.HEAD
    assert {name: len(rows) for name, rows in freeze.contents(old).items()} == {
        n: len(rows) for n, rows in before.items()
    }


# ------------------------------------------------------------------------------------------ what a migration may do


@pytest.mark.parametrize("revision", schema.revisions()[1:])
def test_a_migration_only_adds_what_an_older_worker_need_not_know(database_url: str, revision: str) -> None:
    """After the first schema: new tables, columns that may be empty, and indexes that refuse nothing."""
    database = Database(database_url)
    known = schema.revisions()
    with database.write() as connection:
        schema.upgrade(connection, known[known.index(revision) - 1])
        before = shape(connection)
    with database.write() as connection:
        schema.upgrade(connection, revision)
        after = shape(connection)
    assert offences(before, after) == []


def offences(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> list[str]:
    """What a migration did that an older worker, which names its columns, would run into."""
    found = [f"{name} is gone" for name in before.keys() - after.keys()]
    for name, old in before.items():
        new = after.get(name, old)
        for column, kind in old["columns"].items():
            if new["columns"].get(column) != kind:
                found.append(f"{name}.{column} was {kind}, is {new['columns'].get(column, 'gone')}")
        added = {column: kind for column, kind in new["columns"].items() if column not in old["columns"]}
        found += [f"{name}.{column} must be nullable" for column, (_, nullable) in added.items() if not nullable]
        found += [
            f"{name}: {part} changed" for part in ("key", "unique", "checks", "references") if new[part] != old[part]
        ]
        indexes = {index: told for index, told in new["indexes"].items() if index not in old["indexes"]}
        found += [f"{name}: the new index {index} is unique" for index, (_, unique) in indexes.items() if unique]
    return sorted(found)


@pytest.mark.parametrize(
    ("change", "offence"),
    [
        ("ALTER TABLE outcomes RENAME COLUMN domain TO site", r"outcomes\.domain was .* is gone"),
        ("ALTER TABLE outcomes ADD COLUMN cost FLOAT DEFAULT 0 NOT NULL", r"outcomes\.cost must be nullable"),
        ("CREATE UNIQUE INDEX one_each ON outcomes (task_id)", "the new index one_each is unique"),
        ("DROP TABLE quarantine", "quarantine is gone"),
    ],
)
def test_the_guard_finds_a_migration_that_does_more(sqlite_database: Database, change: str, offence: str) -> None:
    """The measure itself: each of these would stop an older worker."""
    with sqlite_database.write() as connection:
        before = shape(connection)
        connection.exec_driver_sql(change)
        after = shape(connection)
    with pytest.raises(AssertionError, match=offence):
        assert offences(before, after) == []


# ---------------------------------------------------------------------------------------------- not the same version


def _append(database: Database, outcome_id: str) -> str:
    """Report one outcome with this version's collector."""
    with FeedbackCollector(database.url, clock=FakeClock(LATER)) as collector:
        return collector.append_outcome(
            task_id="late", domain="a.org", action_attempted="comment", result=True, outcome_id=outcome_id, pa=5.0
        ).status


def _decision() -> DecisionRecord:
    return DecisionRecord(
        decision_id="late",
        task_id="late",
        attempt=1,
        domain="a.org",
        decided_at=LATER,
        deadline_at=LATER + timedelta(hours=1),
        features={"pa": 5.0},
        actions=("comment",),
        action="comment",
        scores={"comment": 0.5},
        propensity=1.0,
        assigned_arm="production",
        arm="production",
        share=0.0,
        model_version="v1.0.0",
        rollout_id=None,
        stratum="",
        latency_ms=0.1,
    )


NOON = "2026-01-26T12:00:00.000000+00:00"

# As version 0.1.0 sent them, and the values that it sent with them.
SENT = {
    "outcomes": (
        "INSERT INTO outcomes (outcome_id, task_id, attempt, decision_id, domain, action_attempted, result, "
        "failure_reason, execution_time_s, retry_count, occurred_at, received_at, model_version, propensity, replaces, "
        "features) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (outcome_id) DO NOTHING "
        "RETURNING outcome_id"
    ),
    "decisions": (
        "INSERT INTO decisions (decision_id, task_id, attempt, domain, decided_at, deadline_at, features, actions, "
        "action, scores, propensity, assigned_arm, arm, share, model_version, rollout_id, stratum, latency_ms, error) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (decision_id) DO NOTHING"
    ),
    "quarantine": (
        "INSERT INTO quarantine (received_at, source, payload, payload_hash, reason, field) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (payload_hash) DO NOTHING"
    ),
}
# fmt: off
VALUES: dict[str, tuple[Any, ...]] = {
    "outcomes": (
        "new", "t", 1, None, "a.org", "comment", "success", None, 1.5, None, NOON, NOON, None, None, None, '{"pa":5.0}',
    ),
    "decisions": (
        "late", "t", 1, "a.org", NOON, NOON.replace("T12", "T13"), '{"pa":5.0}', '["comment"]', "comment",
        '{"comment":0.5}', 1.0, "production", "production", 0.0, "v1.0.0", None, "", 0.1, None,
    ),
    "quarantine": (NOON, "collector", "{}", "ab" * 32, "is required", "task_id"),
}
# fmt: on


def _send(database: Database, table: str) -> None:
    statement = SENT[table] if database.is_sqlite else SENT[table].replace("?", "%s")
    with database.write() as connection:
        connection.exec_driver_sql(statement, VALUES[table])


@pytest.mark.parametrize("table", SENT)
def test_a_worker_of_the_first_release_goes_on_writing(old: Database, table: str) -> None:
    """Its statements, word for word, work on the newest schema; sent twice they store one row."""
    schema.migrate(old)
    before = len(freeze.contents(old)[table])
    _send(old, table)
    _send(old, table)
    assert len(freeze.contents(old)[table]) == before + 1


def test_what_an_old_worker_wrote_is_read_by_the_new_platform(old: Database, tmp_path: Path) -> None:
    """A decision and its outcome of an older worker meet in the week like any others."""
    platform = opened(old, tmp_path)
    week = WeekCalendar().containing(LATER)
    _send(old, "decisions")
    _send(old, "outcomes")
    snapshot = datasets.take_snapshot(old, tmp_path, week, platform.config.schema, LATER + timedelta(days=7))
    assert (snapshot.rows, snapshot.first_seq) == (1, snapshot.last_seq)


def test_a_new_worker_writes_into_a_database_of_the_first_release(old: Database) -> None:
    """Workers may be upgraded before the platform: outcomes, refused rows and decisions are stored."""
    before = {name: len(rows) for name, rows in freeze.contents(old).items()}
    assert _append(old, "early") == "accepted"
    with FeedbackCollector(old.url, clock=FakeClock(LATER)) as collector:
        refused = collector.append_outcome(task_id="t", domain="a.org", action_attempted="no such", result=True)
    assert (refused.status, refused.field) == ("quarantined", "action_attempted")
    with old.write() as connection:
        record = _decision()
        decision_rows.insert(connection, [decision_rows.encode(record, record.features, record.stratum)])
    with old.read() as connection:
        assert schema.revision(connection) == "0001"  # a worker never migrates
    added = {name: len(rows) - before[name] for name, rows in freeze.contents(old).items() if len(rows) != before[name]}
    assert added == {"outcomes": 1, "quarantine": 1, "decisions": 1}


def test_refusing_a_row_names_only_columns_of_the_first_release(old: Database) -> None:
    """Also called by itself, as the import does."""
    with old.write() as connection:
        quarantine.refuse(connection, {"task_id": 1}, SchemaError("task_id", "is not text"), LATER, "tests")
    assert freeze.contents(old)["quarantine"][-1]["field"] == "task_id"


@pytest.fixture
def future(old: Database) -> Database:
    """A database of a version that this one does not know: another revision, a column and a table more."""
    schema.migrate(old)
    with old.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        connection.exec_driver_sql("ALTER TABLE outcomes ADD COLUMN cost FLOAT")
        connection.exec_driver_sql("CREATE TABLE budgets (id INTEGER PRIMARY KEY)")
    return old


def test_a_worker_goes_on_with_a_schema_it_does_not_know(future: Database) -> None:
    """A worker that is older than its database reports outcomes and logs decisions as before."""
    assert _append(future, "from an old worker") == "accepted"
    with future.write() as connection:
        decisions.append(connection, [_decision()])
    with future.read() as connection:
        assert outcomes.count(connection) == 15


def test_a_platform_refuses_a_schema_it_does_not_know_and_says_what_to_do(future: Database) -> None:
    """Both revisions and the remedy; nothing of Alembic's."""
    message = f"schema revision 9999, the newest that this version knows is {schema.HEAD}: upgrade retrain-assets on"
    with pytest.raises(StoreOutdated, match=message):
        schema.migrate(future)


def test_tables_without_a_revision_are_not_built_upon(old: Database) -> None:
    """A copy that lost its revision could be of any version: the error names tables and the remedy."""
    with old.write() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    with pytest.raises(StoreOutdated, match=r"canary_state, datasets, decisions, \.\.\..*restore it from a backup"):
        schema.migrate(old)


def test_tables_of_others_do_not_stand_in_the_way_on_a_server(postgresql_url: str) -> None:
    """A PostgreSQL database may be shared with another program."""
    database = Database(postgresql_url)
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE theirs (id INTEGER)")
    assert schema.migrate(database) == schema.HEAD
