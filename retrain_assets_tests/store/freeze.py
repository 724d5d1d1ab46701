"""Writes the rows of this version's database as INSERT statements: run it on a release before its schema changes.

Holds the making of a small database in which every table has rows, through the code itself, and its dump; does not hold
tests. `python retrain_assets_tests/store/freeze.py` writes `frozen/REVISION.sql`, which is kept for good: it tells
`test_migrations.py` what databases of that release look like. The statements run on SQLite and on PostgreSQL alike.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Boolean, Connection, MetaData, Table

from retrain_assets.core.dataset import WeekCalendar
from retrain_assets.core.deployment import ModelVersion, Status
from retrain_assets.core.outcomes import DecisionRecord
from retrain_assets.operations import deploy, watch
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.settings import Config, Settings
from retrain_assets.store import datasets, decisions, models, outbox, outcomes, published, registry, schema, tables
from retrain_assets.store.database import Database
from retrain_assets.testing import START, FakeClock, tiny_artefact

FROZEN = Path(__file__).parent / "frozen"
CAUSE = Cause("tests", 'said "it\'s frozen"; 100 % of it')
WEEK = WeekCalendar().containing(START - timedelta(days=7))


def rows(connection: Connection) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every table's name with each of its rows as plain values, in a fixed order; the revision aside."""
    found = MetaData()
    found.reflect(connection)
    for table in found.sorted_tables:
        if table.name != "alembic_version":
            key = ", ".join(column.name for column in table.primary_key)
            for row in connection.exec_driver_sql(f"SELECT * FROM {table.name} ORDER BY {key}").mappings():  # noqa: S608
                yield table.name, dict(row)


def contents(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table."""
    found: dict[str, list[dict[str, Any]]] = {}
    with database.read() as connection:
        for name, row in rows(connection):
            table = tables.metadata.tables[name]
            found.setdefault(name, []).append({column: _plain(table, column, row[column]) for column in row})
    return found


def _plain(table: Table, name: str, value: Any) -> Any:  # noqa: ANN401  (whatever a driver returns)
    """A value as both databases have it: instants as text, JSON parsed, booleans as such."""
    if value is None or name not in table.c:
        return value
    kind = table.c[name].type
    if isinstance(kind, Boolean):
        return bool(value)
    if isinstance(kind, JSON) and isinstance(value, str):
        return json.loads(value)
    return tables.sqlite_instant(value) if isinstance(value, datetime) else value


def statement(table: str, row: dict[str, Any]) -> str:
    """One row as an INSERT."""
    names = ", ".join(f'"{name}"' for name in row)
    values = ", ".join(_literal(table, name, value) for name, value in row.items())
    return f"INSERT INTO {table} ({names}) VALUES ({values});"  # noqa: S608


def _literal(table: str, name: str, value: Any) -> str:  # noqa: ANN401  (whatever SQLite holds)
    if value is None:
        return "NULL"
    if isinstance(tables.metadata.tables[table].c[name].type, Boolean):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def fill(url: str, home: Path) -> Platform:
    """A problem with rows in every table: outcomes of all kinds, a dataset, production, and a canary on trial."""
    clock = FakeClock()
    settings = Settings(config=Config(), config_path=None, home=home, database_url=url)
    platform = open_platform(settings, clock)
    _tell(platform, [_record(n, platform) for n in range(6)])
    with platform.database.write() as connection:
        _quarantine_and_correct(platform, connection)
    _train(platform)
    for n in range(2):
        _deploy(platform, n)
    with platform.database.write() as connection:
        registry.add_metrics(connection, "v1.0.0", {"success_rate": 0.5}, clock(), action="comment", window="7d")
        told = outbox.claim(connection, clock(), limit=1)
        outbox.delivered(connection, told[0], clock())
    _tell(platform, [_record(n, platform) for n in range(10, 16)])
    clock.advance(hours=2)
    watch.tick(platform, "tests")
    _others(platform)
    return platform


def _others(platform: Platform) -> None:
    """Tables that came after revision 0001; rows as their writers leave them."""
    if "imports" in tables.metadata.tables:
        values = {"import_id": "i1", "source": "old.csv", "position": 6, "counts": {"accepted": 6}, "is_complete": True}
        with platform.database.write() as connection:
            connection.execute(tables.metadata.tables["imports"].insert().values(values | {"updated_at": START}))


def _record(n: int, platform: Platform) -> DecisionRecord:
    with platform.database.read() as connection:
        route = registry.get_route(connection)
    is_canary = route.canary_version is not None and n % 3 == 0
    at = platform.now() - timedelta(days=7 if n < 10 else 0, hours=1) + timedelta(minutes=n, microseconds=n)
    return DecisionRecord(
        decision_id=f"d{n:02}",
        task_id=f"task-{n}",
        attempt=1,
        domain=["a.org", None, "ä🙂.org"][n % 3],
        decided_at=at,
        deadline_at=at + timedelta(hours=1),
        features={"pa": [0.1 + 0.2, None, 1e-7][n % 3], "site_type": ["blog", "Füße", None][n % 3]}
        | {"requires_login": n > 2},
        actions=("comment", "forum"),
        action="comment",
        scores={"comment": 0.8, "forum": 1 / 3},
        propensity=1 / 3,
        assigned_arm="canary" if is_canary else "production",
        arm="canary" if is_canary else "production",
        share=route.share,
        model_version=route.canary_version if is_canary else route.production_version,
        rollout_id=route.rollout_id,
        stratum="blog",
        latency_ms=0.1,
        error="ONNXRuntimeError: 'x'" if n == 5 else None,
    )  # fmt: skip


def _tell(platform: Platform, records: list[DecisionRecord]) -> None:
    told = [
        {"task_id": r.task_id, "decision_id": r.decision_id, "result": ["success", "failed", "error"][n % 3]}
        | {"action_attempted": r.action, "domain": r.domain, "timestamp": r.decided_at, "execution_time": n / 7}
        | {"failure_reason": "it's 100 % \\ \"gone\"" if n % 3 else None, "retry_count": n}
        | {"model_version": r.model_version}
        for n, r in enumerate(records)
    ]  # fmt: skip
    with platform.database.write() as connection:
        decisions.append(connection, records)
        outcomes.append(connection, told, published.outcome_rules(platform.config), platform.now(), "tests")


def _quarantine_and_correct(platform: Platform, connection: Connection) -> None:
    alone = {"task_id": "alone", "action_attempted": "forum", "timestamp": START - timedelta(days=6), "note": "kept"}
    raws = [
        alone | {"outcome_id": "wrong", "result": True, "pa": 55.5},
        alone | {"outcome_id": "right", "result": False, "replaces": "wrong", "propensity": 0.25},
        alone | {"result": "perhaps", "pa": float("nan")},
    ]
    outcomes.append(connection, raws, published.outcome_rules(platform.config), platform.now(), "tests")


def _train(platform: Platform) -> None:
    now, features = platform.now(), platform.config.schema
    snapshot = datasets.take_snapshot(platform.database, platform.problem_home, WEEK, features, now)
    with platform.database.write() as connection:
        dataset = datasets.save_manifest(connection, WEEK, [snapshot], features.fingerprint, now)
        for n in range(2):
            values: dict[str, Any] = {
                "training_id": f"training-{n}",
                "week": WEEK.key,
                "dataset_hash": dataset.dataset_hash,
            }
            values |= {"spec": _spec(platform), "splits": {"train": [0, 4]}, "artefacts": _artefacts(platform, n)}
            values |= {"metrics": {"test": {"accuracy": 0.875}}, "code_version": "0.1.0", "libraries": {"numpy": "2"}}
            datasets.save_training(connection, values | {"parent_version": None, "created_at": now})


def _spec(platform: Platform) -> dict[str, Any]:
    return {"schema": platform.config.schema.to_dict(), "estimator": "tiny", "params": {}, "mode": "full"}


def _artefacts(platform: Platform, n: int) -> dict[str, Any]:
    files = tiny_artefact(platform.config.schema, {"comment": 0.7 + n / 10})
    return {name: models.put(platform.problem_home, name, content) for name, content in files.items()}


def _deploy(platform: Platform, n: int) -> ModelVersion:
    with platform.database.read() as connection:
        row = datasets.get_training(connection, f"training-{n}")
    assert row is not None
    draft = ModelVersion(
        version="",
        status=Status.REGISTERED,
        week=row.week,
        dataset_hash=row.dataset_hash,
        schema_version=platform.config.schema.fingerprint,
        code_version=row.code_version,
        spec=row.spec,
        seed=0,
        parent_version="v1.0.0" if n else None,
        artefacts=row.artefacts,
        metrics=row.metrics,
        report={"passed": True, "gates": []} if n else None,
        run_id=f"run-{n}",
        created_at=platform.now() + timedelta(seconds=n),
        training_id=row.training_id,
        is_backfill=not n,
    )
    model = deploy.register(platform, draft, CAUSE)
    deploy.stage(platform, model, CAUSE)
    staged = replace(model, status=Status.STAGING)
    deploy.start(platform, staged, CAUSE)
    return staged


def freeze() -> Path:
    """Write the dump of the present schema; returns the file."""
    with tempfile.TemporaryDirectory() as folder:
        platform = fill(f"sqlite:///{folder}/retrain.db", Path(folder))
        with platform.database.read() as connection:
            text = "\n".join(statement(table, row) for table, row in rows(connection) if table != "route")
            (route,) = [row for table, row in rows(connection) if table == "route"]
        platform.database.close()
    changes = ", ".join(f"{name} = {_literal('route', name, value)}" for name, value in route.items() if name != "id")
    FROZEN.mkdir(exist_ok=True)
    file = FROZEN / f"{schema.HEAD}.sql"
    # The migration itself puts in the one row of the route.
    file.write_text(f"{text}\nUPDATE route SET {changes};\n", encoding="utf-8")
    return file


if __name__ == "__main__":
    print(freeze())
