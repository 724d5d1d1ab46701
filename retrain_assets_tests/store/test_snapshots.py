"""Snapshots as a stream: the same name as ever, of one moment, in pieces, and taken again only when something came."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from retrain_assets.core.dataset import ContentHash, Snapshot, Week, WeekCalendar
from retrain_assets.core.outcomes import DecisionRecord
from retrain_assets.errors import StoreUnavailable
from retrain_assets.settings import Config
from retrain_assets.store import datasets, decision_rows, outcomes, schema, snapshot_files, tables, week_rows
from retrain_assets.store.database import Database, insert_new
from retrain_assets.store.week_columns import WeekColumns
from retrain_assets.testing import START

SCHEMA = Config().schema
CALENDAR = WeekCalendar()
WEEK = CALENDAR.containing(START)
NEXT = CALENDAR.after(WEEK)
LATER = START + timedelta(days=21)
HOUR = timedelta(hours=1)

FROZEN = "c9f9637bcdbb9c63c55980663d6b73ba774cc7231d530f164d2887bdb4543f66"
"""Content hash of `_fill`, computed by the code that held a whole week in memory and knew no batches."""

STORED: list[dict[str, Any]] = [
    {"pa": 0.1 + 0.2, "site_type": "blog", "https_enabled": True, "url_path_depth": 3},
    {"pa": None, "site_type": " Füße ", "https_enabled": False},
    {"pa": "12.5", "site_type": 7, "https_enabled": "yes", "url_path_depth": 3.0},
    {"pa": 101, "site_type": True, "https_enabled": 2, "url_path_depth": 2.5},
    {"pa": 2**60, "site_type": "n/a", "https_enabled": 1, "url_path_depth": -1},
    {"pa": "none", "site_type": "", "https_enabled": None, "url_path_depth": "4", "unknown": [1, {"a": 2}]},
    {"pa": True, "site_type": "ä🙂" * 300, "https_enabled": "maybe", "url_path_depth": True},
    {"pa": 0, "site_type": "x" * 2001, "da": 1e-300},
]
"""Features as they may stand in a database that outlived its schema."""


def _decision(n: int, **changes: Any) -> DecisionRecord:  # noqa: ANN401  (fields)
    at = START + timedelta(minutes=n // 3, microseconds=n // 2)
    values: dict[str, Any] = {
        "decision_id": ["d", "D", "é", "_", "~"][n % 5] + f"{n:03}",
        "task_id": f"task-{n}",
        "attempt": 1 + n % 2,
        "domain": ["a.org", None, "ä🙂.org", ""][n % 4],
        "decided_at": at,
        "deadline_at": at + HOUR,
        "features": STORED[n % 8],
        "actions": ("comment", "forum"),
        "action": ["comment", "forum"][n % 2],
        "scores": {"comment": 0.8},
        "propensity": 1 / (1 + n % 7),
        "assigned_arm": "production",
        "arm": ["production", "canary", "fallback"][n % 3],
        "share": 0.1,
        "model_version": [None, "v1.0.0"][n % 2],
        "rollout_id": None,
        "stratum": ["blog", "", "ä"][n % 3],
        "latency_ms": 0.1,
    }
    return DecisionRecord(**values | changes)


def _outcome(n: int, **changes: Any) -> dict[str, Any]:  # noqa: ANN401  (columns)
    at = START + HOUR + timedelta(minutes=n // 3, microseconds=n // 2)
    values: dict[str, Any] = {
        "outcome_id": f"{'oO_é'[n % 4]}{n:03}",
        "task_id": f"task-{n}",
        "attempt": 1 + n % 2,
        "decision_id": None,
        "domain": ["", "b.org"][n % 2],
        "action_attempted": ["comment", "forum"][n % 2],
        "result": ["success", "failure", "error"][n % 3],
        "failure_reason": [None, "ö", "captcha"][n % 3],
        "execution_time_s": [None, n / 7][n % 2],
        "retry_count": None,
        "occurred_at": at,
        "received_at": at,
        "model_version": [None, "v0"][n % 2],
        "propensity": [None, 1 / (1 + n)][n % 2],
        "replaces": None,
        "features": STORED[(n + 3) % 8],
    }
    return values | changes


def _store(database: Database, *rows: dict[str, Any]) -> None:
    with database.write() as connection:
        for row in rows:
            connection.execute(insert_new(connection, tables.outcomes, ["outcome_id"]), [row])


def _decide(database: Database, *records: DecisionRecord, late_at: Any = None) -> None:  # noqa: ANN401  (an instant)
    rows = [decision_rows.encode(record, record.features, record.stratum) for record in records]
    with database.write() as connection:
        decision_rows.insert(connection, rows, late_at)


def _fill(database: Database, *, is_backwards: bool = False) -> None:
    """120 decisions and 190 outcomes: of decisions, by id and by task, told twice, alone, of decisions never logged."""
    records = [_decision(n) for n in range(120)]
    rows = [_outcome(n, decision_id=_decision(n).decision_id) for n in range(0, 120, 3)]
    rows += [_outcome(n) for n in range(1, 120, 6)]
    again = [
        _outcome(n, outcome_id=f"again-{n}", decision_id=_decision(n).decision_id, result="error")
        for n in range(0, 120, 12)
    ]
    rows += [_outcome(n, task_id=f"alone-{n // 2}") for n in range(200, 300)]
    rows += [_outcome(n, decision_id=f"gone-{n}") for n in range(300, 320)]
    _decide(database, *(records[::-1] if is_backwards else records))
    _store(database, *(rows[::-1] if is_backwards else rows), *again)


def _take(database: Database, home: Path, week: Week = WEEK) -> Snapshot:
    return datasets.take_snapshot(database, home, week, SCHEMA, LATER)


def _new(url: str) -> Database:
    database = Database(url)
    schema.migrate(database)
    return database


# ----------------------------------------------------------------------------------------------------------- one name


def test_a_week_has_the_content_hash_that_it_always_had(database: Database, tmp_path: Path) -> None:
    """On both databases, with values of every kind: a snapshot that was trained on is found again."""
    _fill(database)
    snapshot = _take(database, tmp_path)
    assert (snapshot.content_hash, snapshot.rows, snapshot.first_seq) == (FROZEN, 240, 2)
    assert snapshot.facts is not None
    counted = {
        "decided": 120,
        "alone": 120,
        "missing": 60,
        "other_action": 0,
        "other_task": 0,
        "replaced": 0,
        "late": 0,
    }
    assert snapshot.facts == counted


def test_the_order_of_arrival_does_not_matter(sqlite_database: Database, tmp_path: Path) -> None:
    """Rows have an order of their own."""
    _fill(sqlite_database, is_backwards=True)
    assert _take(sqlite_database, tmp_path).content_hash == FROZEN


def test_the_language_of_a_database_does_not_matter(postgresql_url: str) -> None:
    """A PostgreSQL made for a language sorts d, D, é otherwise than by bytes: each text in the order says how.

    The tests' server knows no language, so that the statement is looked at instead of its answer.
    """
    database = _new(postgresql_url)
    with database.read() as connection:
        for query in (week_rows._decided(connection, 1), week_rows._alone(connection, 1)):
            order = str(query.compile(connection.engine)).rsplit("ORDER BY", 1)[1]
            instant, *texts = order.replace("coalesce(outcomes.decision_id, ", "coalesce(").split(",")
            assert instant.strip() in {"decisions.deadline_at", "outcomes.occurred_at"}
            assert texts
            assert all(text.strip().endswith('COLLATE "C"') for text in texts)
    database.close()


@pytest.mark.parametrize("size", [23, 240])
def test_the_size_of_a_batch_does_not_matter(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """And no batch is larger: memory is that of one, whatever the week holds."""
    monkeypatch.setattr(snapshot_files, "BATCH", size)
    monkeypatch.setattr(week_rows, "FETCH", 3)
    _fill(sqlite_database)
    snapshot = _take(sqlite_database, tmp_path)
    assert snapshot.content_hash == FROZEN
    groups = pq.ParquetFile(tmp_path / snapshot.path).metadata
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)][:-1] == [size] * ((240 - 1) // size)


# --------------------------------------------------------------------------------------------------------- one moment


def _meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Do something once, after the first batch of a snapshot was read."""
    real = WeekColumns.batch
    is_done: list[bool] = []

    def batch(self: WeekColumns, rows: Sequence[week_rows.Row], originals: Any) -> Any:  # noqa: ANN401  (as the real)
        made = real(self, rows, originals)
        if not is_done:
            is_done.append(True)
            act()
        return made

    monkeypatch.setattr(WeekColumns, "batch", batch)
    monkeypatch.setattr(snapshot_files, "BATCH", 10)
    monkeypatch.setattr(week_rows, "FETCH", 5)


def test_workers_write_while_a_week_is_read_and_the_snapshot_is_of_one_moment(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for the reader, and nothing that came while it read is in the snapshot: neither all nor half."""
    _fill(database)

    def work() -> None:
        worker = Database(database.url)
        _decide(worker, _decision(90, decision_id="new"), _decision(119, decision_id="newer"))
        _store(worker, _outcome(250, outcome_id="o-new"), _outcome(310, outcome_id="fix", replaces="é299"))

    _meanwhile(monkeypatch, work)
    first = _take(database, tmp_path)
    assert (first.content_hash, first.rows) == (FROZEN, 240)
    assert _take(database, tmp_path).rows == 240 + 2 + 1


def test_a_snapshot_that_fails_leaves_no_file_and_no_row(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a week must never have a name."""
    _fill(sqlite_database)

    def fail() -> None:
        raise RuntimeError("the power is gone")

    with monkeypatch.context() as patch:
        _meanwhile(patch, fail)
        with pytest.raises(RuntimeError, match="the power is gone"):
            _take(sqlite_database, tmp_path)
    assert not [path for path in (tmp_path / "snapshots").rglob("*") if path.is_file()]
    with sqlite_database.read() as connection:
        assert connection.execute(select(tables.snapshots.c.content_hash)).all() == []
        assert connection.exec_driver_sql("PRAGMA cache_size").scalar_one() == -2000
    assert _take(sqlite_database, tmp_path).content_hash == FROZEN


def test_a_fault_between_two_batches_ends_reading_and_writing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever side it is on: the folder is named, nothing is left behind, and the next try is whole."""
    _fill(database)
    monkeypatch.setattr(snapshot_files, "BATCH", 10)

    def fail(*_: object) -> Any:  # noqa: ANN401  (nothing comes back)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ContentHash, "update", fail)
        with pytest.raises(StoreUnavailable, match="No space left on device; free space or rights, then try again"):
            _take(database, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(week_rows, "originals", fail)
        with pytest.raises(StoreUnavailable, match="No space left on device"):
            _take(database, tmp_path)
    assert not [path for path in (tmp_path / "snapshots").rglob("*") if path.is_file()]
    assert _take(database, tmp_path).content_hash == FROZEN


def test_drafts_of_killed_processes_go_after_a_day_and_others_stay(sqlite_database: Database, tmp_path: Path) -> None:
    """A process that still writes keeps its file."""
    folder = tmp_path / "snapshots" / WEEK.key
    folder.mkdir(parents=True)
    for name, age_s in ((".draft.1.old", 86_500), (".draft.2.running", 80_000), ("named.parquet", 999_999)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age_s,) * 2)
    snapshot = _take(sqlite_database, tmp_path)
    expected = {".draft.2.running", "named.parquet", f"{snapshot.content_hash}.parquet"}
    assert {path.name for path in folder.iterdir()} == expected


def test_an_intact_file_is_left_alone(sqlite_database: Database, tmp_path: Path) -> None:
    """Copies and mounts see a file that never changes."""
    _fill(sqlite_database)
    path = tmp_path / _take(sqlite_database, tmp_path).path
    before = path.stat()
    _take(sqlite_database, tmp_path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_disk_that_refuses_is_told_with_its_folder(sqlite_database: Database, tmp_path: Path) -> None:
    """And can be tried again."""
    (tmp_path / "snapshots").write_text("in the way")
    with pytest.raises(StoreUnavailable, match=rf"snapshots/{WEEK.key} cannot be written: .*then try again"):
        _take(sqlite_database, tmp_path)


# ------------------------------------------------------------------------------------------------------ taken again


def _due(database: Database, *, refresh_late: bool = True) -> list[str]:
    with database.write() as connection:
        last_seq = outcomes.highest_seq(connection)
    with database.read() as connection:
        known = datasets.newest_snapshots(connection, SCHEMA.fingerprint)
        weeks = [WEEK, NEXT]
        due = datasets.weeks_to_take(connection, CALENDAR, weeks, known, last_seq, refresh_late=refresh_late)
    return [week.key for week in due]


def _tasks(database: Database, home: Path, *parts: Snapshot) -> list[tuple[str, str]]:
    with database.write() as connection:
        dataset = datasets.save_manifest(connection, WEEK, parts, SCHEMA.fingerprint, LATER)
    rows = datasets.load_rows(home, dataset, SCHEMA)
    return list(zip(rows["task_id"], rows["result"], strict=True))


def test_a_late_decision_refreshes_its_week_once(database: Database, tmp_path: Path) -> None:
    """Also without any outcome: it is a missing one. Decisions on time never do."""
    _take(database, tmp_path)
    _take(database, tmp_path, NEXT)
    assert _due(database) == []
    late = _decision(1)
    _decide(database, late, late_at=late.deadline_at + HOUR)
    assert _due(database) == [WEEK.key]
    assert _due(database, refresh_late=False) == []
    assert _take(database, tmp_path).rows == 1
    assert _due(database) == []
    _decide(database, late, _decision(2), late_at=late.deadline_at)
    assert _due(database) == []


def test_a_late_decision_that_changes_nothing_is_looked_at_once(database: Database, tmp_path: Path) -> None:
    """Two decisions share the task's attempt: the week of the outcome is taken again, finds what it had, and rests."""
    week_later = START + timedelta(days=7)
    first = _decision(1, task_id="t")
    _decide(database, first)
    _store(database, _outcome(1, task_id="t"))
    taken = _take(database, tmp_path)
    _take(database, tmp_path, NEXT)
    late = _decision(3, task_id="t", decided_at=week_later, deadline_at=week_later + HOUR)
    _decide(database, late, late_at=LATER)
    assert _due(database) == [WEEK.key, NEXT.key]
    again = _take(database, tmp_path)
    assert (again.content_hash, again.created_at) == (taken.content_hash, taken.created_at)
    _take(database, tmp_path, NEXT)
    assert _due(database) == []


@pytest.mark.parametrize("is_named", [True, False])
def test_a_task_whose_decision_comes_late_is_one_row_in_two_weeks(
    database: Database, tmp_path: Path, *, is_named: bool
) -> None:
    """It stood alone where it occurred, and is decided where its deadline lies; the first week gives it up."""
    end = WEEK.end_at
    late = _decision(1, task_id="t", decided_at=end - HOUR / 2, deadline_at=end + HOUR / 2)
    told = {"decision_id": late.decision_id if is_named else None, "occurred_at": end - HOUR / 4, "result": "error"}
    _store(database, _outcome(1, task_id="t", **told))
    alone = _take(database, tmp_path)
    assert (alone.rows, _take(database, tmp_path, NEXT).rows) == (1, 0)
    _decide(database, late, late_at=LATER)
    assert _due(database) == [WEEK.key, NEXT.key]
    decided = _take(database, tmp_path, NEXT)
    assert _tasks(database, tmp_path, alone, decided) == [("t", "error")]  # `late_rows: ignore` keeps the first
    parts = [_take(database, tmp_path), decided]
    assert [part.rows for part in parts] == [0, 1]
    assert _tasks(database, tmp_path, *parts) == [("t", "error")]
    assert _due(database) == []


def test_a_correction_in_a_later_week_replaces_a_row_of_a_week_that_is_not_taken_again(
    database: Database, tmp_path: Path
) -> None:
    """With `late_rows: ignore` the old snapshot still holds the corrected row; the dataset holds one."""
    _store(database, _outcome(0, outcome_id="o"), _outcome(2, outcome_id="other"))
    old = _take(database, tmp_path)
    then = START + timedelta(days=8)
    _store(database, _outcome(0, outcome_id="c1", replaces="o", occurred_at=then, result="error"))
    first = _take(database, tmp_path, NEXT)
    _store(database, _outcome(0, outcome_id="c2", replaces="c1", occurred_at=then, result="failure"))
    second = _take(database, tmp_path, NEXT)
    assert WEEK.key not in _due(database, refresh_late=False)
    assert _tasks(database, tmp_path, old, first) == [("task-2", "error"), ("task-0", "error")]
    assert _tasks(database, tmp_path, old, second) == [("task-2", "error"), ("task-0", "failure")]
    assert [part.facts["replaced"] for part in (old, first, second) if part.facts] == [0, 1, 1]


def test_new_tasks_are_counted_as_the_dataset_counts_rows(database: Database, tmp_path: Path) -> None:
    """Two outcomes of one task and attempt are two; a decision or an outcome that came late is none."""
    silent = _decision(1)
    _decide(database, silent)
    _store(database, _outcome(3, task_id="t"))
    before = _take(database, tmp_path)
    _store(database, _outcome(5, task_id="t"), _outcome(1))
    _decide(database, _decision(7, task_id="t", attempt=2), late_at=LATER)
    _store(database, _outcome(9, task_id="u"), _outcome(11, task_id="u"))
    after = _take(database, tmp_path)
    with database.write() as connection:
        trained = datasets.save_manifest(connection, WEEK, [before], SCHEMA.fingerprint, LATER)
        dataset = datasets.save_manifest(connection, WEEK, [after], SCHEMA.fingerprint, LATER)
    assert (before.rows, after.rows) == (2, 4)
    assert datasets.new_tasks(tmp_path, dataset, trained, SCHEMA) == 3
