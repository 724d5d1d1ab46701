"""Snapshots: one week's truth under one hash, the same on every database, found out when a byte changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from retrain_assets.core.dataset import Snapshot, Week, WeekCalendar
from retrain_assets.core.outcomes import DecisionRecord
from retrain_assets.errors import ArtefactRefused
from retrain_assets.settings import Config, FeatureSettings, ProblemSettings
from retrain_assets.store import datasets, decisions, schema
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.database import Database
from retrain_assets.testing import START, FakeClock

CONFIG = Config()
SCHEMA = CONFIG.schema
CALENDAR = WeekCalendar()
WEEK = CALENDAR.containing(START)
LATER = START + timedelta(days=21)


def _decision(n: int, **changes: Any) -> DecisionRecord:  # noqa: ANN401  (fields)
    at = START + timedelta(minutes=n, microseconds=n)
    record = DecisionRecord(
        decision_id=f"d{n:02}",
        task_id=f"task-{n}",
        attempt=1,
        domain=["a.org", None, "ä🙂.org"][n % 3],
        decided_at=at,
        deadline_at=at + timedelta(hours=1),
        features={"pa": [0.1 + 0.2, None, 1e-7, 100.0][n % 4], "site_type": ["blog", "", "Füße", None][n % 4]}
        | {"https_enabled": [True, False, None][n % 3], "url_path_depth": n},
        actions=("comment", "forum"),
        action="comment",
        scores={"comment": 0.8, "forum": 0.1},
        propensity=1 / 3,
        assigned_arm="production",
        arm="production",
        share=0.1,
        model_version="v1.0.0",
        rollout_id=None,
        stratum="blog",
        latency_ms=0.1,
    )
    return replace(record, **changes)


def _rows() -> list[dict[str, Any]]:
    """Outcomes of every kind: of decisions, alone, tried again, corrected."""
    rows: list[dict[str, Any]] = [
        {"task_id": f"task-{n}", "decision_id": f"d{n:02}", "result": ["success", "failed", "error"][n % 3]}
        for n in range(0, 30, 2)
    ]
    rows += [{"task_id": f"alone-{n}", "result": n % 2 == 0, "pa": n / 7, "execution_time": n / 3} for n in range(10)]
    rows += [{"task_id": "tried", "attempt": n, "result": n == 3, "site_type": "blog"} for n in (1, 2, 3)]
    rows += [{"task_id": "wrong", "outcome_id": "wrong", "result": True}]
    rows += [{"task_id": "wrong", "outcome_id": "right", "result": False, "replaces": "wrong", "failure_reason": "ö"}]
    told = {"action_attempted": "comment", "domain": "b.org"}
    return [told | {"timestamp": START + timedelta(minutes=n, microseconds=7)} | row for n, row in enumerate(rows)]


def _fill(database: Database, *, is_shuffled: bool = False) -> None:
    """The same truth, in one order of arrival or another."""
    records, rows = [_decision(n) for n in range(30)], _rows()
    if is_shuffled:
        records, rows = records[::-1], [rows[-2], rows[-1], *rows[-3::-1]]
    with database.write() as connection:
        decisions.append(connection, records)
    _tell(database, *rows)


def _tell(database: Database, *rows: dict[str, Any]) -> None:
    collector = FeedbackCollector(database.url, config=CONFIG, clock=FakeClock(LATER))
    for row in rows:
        (receipt,) = collector.append_outcomes(
            [{"action_attempted": "comment", "result": True, "timestamp": START} | row]
        )
        assert receipt.status == "accepted", receipt


def _take(database: Database, home: Path, week: Week = WEEK, now: datetime = LATER) -> Snapshot:
    return datasets.take_snapshot(database, home, week, SCHEMA, now)


def _frame(database: Database, home: Path, *parts: Snapshot) -> pd.DataFrame:
    with database.write() as connection:
        dataset = datasets.save_manifest(connection, WEEK, parts, SCHEMA.fingerprint, LATER)
    return datasets.load_rows(home, dataset, SCHEMA)


# ------------------------------------------------------------------------------------------------------- identity


def test_the_same_truth_has_one_hash_on_every_database_and_in_every_order(
    new_database: Callable[[str], str], tmp_path: Path
) -> None:
    """SQLite and PostgreSQL, rows in order and backwards: one content hash, and the same table in the file."""
    taken = []
    for place, (kind, is_shuffled) in enumerate((("sqlite", False), ("postgresql", False), ("sqlite", True))):
        database = Database(new_database(kind))
        schema.migrate(database)
        _fill(database, is_shuffled=is_shuffled)
        snapshot = _take(database, tmp_path / str(place))
        taken.append((snapshot.content_hash, snapshot.rows, pq.read_table(tmp_path / str(place) / snapshot.path)))
    assert taken[0][1] == 30 + 10 + 3 + 1
    for digest, rows, table in taken[1:]:
        assert (digest, rows) == taken[0][:2]
        assert table.equals(taken[0][2])


def test_taking_a_week_again_gives_the_snapshot_that_is_there(database: Database, tmp_path: Path) -> None:
    """Also for another process at another time: same file, same row, first creation kept."""
    _fill(database)
    first = _take(database, tmp_path)
    again = _take(Database(database.url), tmp_path, now=LATER + timedelta(days=1))
    assert again == first
    assert len(list((tmp_path / "snapshots").rglob("*.parquet"))) == 1
    assert not [path for path in (tmp_path / "snapshots").rglob(".*") if path.is_file()]


def test_an_empty_week_has_a_snapshot_of_its_own(sqlite_database: Database, tmp_path: Path) -> None:
    """No tasks is a fact about a week; two empty weeks are two facts."""
    empty = [_take(sqlite_database, tmp_path, week) for week in (WEEK, CALENDAR.before(WEEK))]
    assert [part.rows for part in empty] == [0, 0]
    assert empty[0].content_hash != empty[1].content_hash
    assert _frame(sqlite_database, tmp_path, *empty).empty


# ------------------------------------------------------------------------------------------------------- content


def test_a_decision_without_an_outcome_teaches_a_failure_called_missing(database: Database, tmp_path: Path) -> None:
    """By the task's timeout silence is an answer."""
    _fill(database)
    frame = _frame(database, tmp_path, _take(database, tmp_path)).set_index("task_id")
    silent = frame.loc["task-1"]
    assert (silent["result"], silent["failure_reason"]) == ("failure", "missing")
    assert silent["propensity"] == 1 / 3
    assert (frame.loc[[f"task-{n}" for n in range(1, 30, 2)], "failure_reason"] == "missing").all()


def test_attempts_corrections_and_lone_outcomes_are_what_they_were(database: Database, tmp_path: Path) -> None:
    """Three attempts are three rows, a correction is the only row of its task, an outcome alone has its stratum."""
    _fill(database)
    frame = _frame(database, tmp_path, _take(database, tmp_path))
    tried = frame[frame["task_id"] == "tried"]
    assert tried["attempt"].tolist() == [1, 2, 3]
    assert tried["result"].tolist() == ["failure", "failure", "success"]
    assert tried["stratum"].tolist() == ["blog"] * 3
    (corrected,) = frame[frame["task_id"] == "wrong"].itertuples()
    assert (corrected.result, corrected.failure_reason) == ("failure", "ö")


def test_features_come_in_their_types_and_missing_ones_as_missing(database: Database, tmp_path: Path) -> None:
    """Numbers and booleans as numbers, categories as text; nothing is guessed for what was not sent."""
    _fill(database)
    frame = _frame(database, tmp_path, _take(database, tmp_path)).set_index("decision_id")
    assert frame.loc["d00", "feature_pa"] == 0.1 + 0.2
    assert pd.isna(frame.loc["d01", "feature_pa"])
    assert (frame.loc["d00", "feature_https_enabled"], frame.loc["d01", "feature_https_enabled"]) == (1.0, 0.0)
    assert frame.loc["d02", "feature_site_type"] == "Füße"
    assert pd.isna(frame.loc["d03", "feature_site_type"])
    assert frame["feature_da"].isna().all()


def test_a_stored_value_that_no_longer_fits_does_not_stop_a_week(sqlite_database: Database, tmp_path: Path) -> None:
    """Schemas change after rows were stored: the value counts as missing."""
    _fill(sqlite_database)
    stricter = dict(CONFIG.problem.features) | {"pa": FeatureSettings(type="number", min=50, max=60)}
    narrow = Config(problem=ProblemSettings(features=stricter)).schema
    snapshot = datasets.take_snapshot(sqlite_database, tmp_path, WEEK, narrow, LATER)
    column = pq.read_table(tmp_path / snapshot.path)["feature_pa"]
    assert column.null_count == snapshot.rows == 44


# ------------------------------------------------------------------------------------------------------ late rows


def _due(database: Database, known: Snapshot, *, refresh_late: bool = True) -> list[str]:
    weeks = [WEEK, CALENDAR.after(WEEK)]
    with database.read() as connection:
        newest = datasets.newest_snapshots(connection, SCHEMA.fingerprint)
        assert newest[WEEK.key] == known
        due = datasets.weeks_to_take(connection, CALENDAR, weeks, newest, 10**6, refresh_late=refresh_late)
    return [week.key for week in due]


def test_a_late_outcome_refreshes_its_week_and_the_old_snapshot_stays(database: Database, tmp_path: Path) -> None:
    """What was trained on the old one can still be rebuilt."""
    _fill(database)
    old = _take(database, tmp_path)
    assert _due(database, old) == [CALENDAR.after(WEEK).key]
    _tell(database, {"task_id": "task-1", "decision_id": "d01", "timestamp": START + timedelta(days=8)})
    assert _due(database, old) == [WEEK.key, CALENDAR.after(WEEK).key]
    assert _due(database, old, refresh_late=False) == [CALENDAR.after(WEEK).key]
    new = _take(database, tmp_path)
    assert new.content_hash != old.content_hash
    before, after = (_frame(database, tmp_path, part).set_index("task_id") for part in (old, new))
    assert (before.loc["task-1", "result"], after.loc["task-1", "result"]) == ("failure", "success")
    assert len(before) == len(after)
    with database.read() as connection:
        assert datasets.newest_snapshots(connection, SCHEMA.fingerprint)[WEEK.key] == new


def test_a_correction_in_a_later_week_refreshes_the_week_it_corrects(database: Database, tmp_path: Path) -> None:
    """Otherwise the dataset would hold both words on one attempt."""
    _fill(database)
    old = _take(database, tmp_path)
    later = START + timedelta(days=8)
    _tell(database, {"task_id": "alone-0", "replaces": _id_of(old, tmp_path), "result": "error", "timestamp": later})
    assert WEEK.key in _due(database, old)
    new, next_week = _take(database, tmp_path), _take(database, tmp_path, CALENDAR.after(WEEK))
    told = _frame(database, tmp_path, new, next_week)
    assert told.loc[told["task_id"] == "alone-0", "result"].tolist() == ["error"]


def _id_of(snapshot: Snapshot, home: Path, task_id: str = "alone-0") -> str:
    frame = pq.read_table(home / snapshot.path).to_pandas()
    return str(frame.loc[frame["task_id"] == task_id, "outcome_id"].item())


def test_rows_of_another_week_do_not_refresh_this_one(database: Database, tmp_path: Path) -> None:
    """The weekly run costs the new rows, not the history."""
    _fill(database)
    old = _take(database, tmp_path)
    _tell(database, {"task_id": "new", "timestamp": START + timedelta(days=8)})
    assert _due(database, old) == [CALENDAR.after(WEEK).key]


# -------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_flipped_byte_is_found_and_the_file_is_named(sqlite_database: Database, tmp_path: Path, place: int) -> None:
    """Nothing is trained on a damaged snapshot."""
    _fill(sqlite_database)
    snapshot = _take(sqlite_database, tmp_path)
    file = tmp_path / snapshot.path
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtefactRefused, match=rf"the snapshot of week {WEEK.key} at {snapshot.path} has SHA-256"):
        _frame(sqlite_database, tmp_path, snapshot)


def test_a_snapshot_that_is_gone_is_named_and_can_be_taken_again(sqlite_database: Database, tmp_path: Path) -> None:
    """The rows are still in the database: the same week gives the same content back."""
    _fill(sqlite_database)
    snapshot = _take(sqlite_database, tmp_path)
    (tmp_path / snapshot.path).unlink()
    with pytest.raises(ArtefactRefused, match=f"the snapshot of week {WEEK.key} cannot be read at {snapshot.path}"):
        _frame(sqlite_database, tmp_path, snapshot)
    assert _take(sqlite_database, tmp_path).content_hash == snapshot.content_hash
    assert len(_frame(sqlite_database, tmp_path, snapshot)) == 44


def test_a_damaged_snapshot_is_mended_by_taking_its_week_again(sqlite_database: Database, tmp_path: Path) -> None:
    """As long as the week has received nothing since."""
    _fill(sqlite_database)
    snapshot = _take(sqlite_database, tmp_path)
    (tmp_path / snapshot.path).write_bytes(b"PAR1")
    assert _take(sqlite_database, tmp_path).content_hash == snapshot.content_hash
    assert len(_frame(sqlite_database, tmp_path, snapshot)) == 44


# ------------------------------------------------------------------------------------------------------ manifests


def test_a_manifest_keeps_the_order_of_its_snapshots(database: Database, tmp_path: Path) -> None:
    """Its hash names them all; the same list twice is one dataset."""
    _fill(database)
    parts = [_take(database, tmp_path, week) for week in (CALENDAR.before(WEEK), WEEK)]
    with database.write() as connection:
        made = datasets.save_manifest(connection, WEEK, parts, SCHEMA.fingerprint, LATER)
        again = datasets.save_manifest(connection, WEEK, parts, SCHEMA.fingerprint, LATER)
        turned = datasets.save_manifest(connection, WEEK, parts[::-1], SCHEMA.fingerprint, LATER + timedelta(1))
    with database.read() as connection:
        found = datasets.get_dataset(connection, made.dataset_hash)
        newest = datasets.newest_dataset(connection, WEEK.key)
        assert datasets.get_dataset(connection, "none") is None
    assert found == made == again
    assert [part.week for part in made.snapshots] == [CALENDAR.before(WEEK).key, WEEK.key]
    assert made.rows == 44
    assert newest == turned
    assert turned.dataset_hash != made.dataset_hash


def test_new_tasks_are_those_that_the_last_training_did_not_hold(database: Database, tmp_path: Path) -> None:
    """A refreshed week counts with what came to it; an outcome that only arrived late is no new task."""
    _fill(database)
    first = _take(database, tmp_path)
    _tell(database, {"task_id": "task-1", "decision_id": "d01"}, {"task_id": "extra"})
    second = _take(database, tmp_path)
    with database.write() as connection:
        trained = datasets.save_manifest(connection, WEEK, [first], SCHEMA.fingerprint, LATER)
        dataset = datasets.save_manifest(connection, WEEK, [second], SCHEMA.fingerprint, LATER)
    assert datasets.new_tasks(tmp_path, dataset, None, SCHEMA) == 45
    assert datasets.new_tasks(tmp_path, dataset, trained, SCHEMA) == 1
    assert datasets.new_tasks(tmp_path, trained, trained, SCHEMA) == 0
