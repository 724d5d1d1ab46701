"""What a reader of matured tasks sees: each task once, by its deadline, with the newest word on it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from retrain_assets.core.outcomes import Arm, DecisionRecord, Result
from retrain_assets.settings import Config
from retrain_assets.store import decision_rows, decisions, tables
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.database import Database
from retrain_assets.store.decisions import Cursor
from retrain_assets.testing import START, FakeClock

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
EPOCH = START - timedelta(days=1)


def _decision(name: str, at: datetime = START, **changes: Any) -> DecisionRecord:  # noqa: ANN401  (fields)
    record = DecisionRecord(
        decision_id=name,
        task_id=f"task-{name}",
        attempt=1,
        domain="a.org",
        decided_at=at,
        deadline_at=at + HOUR,
        features={"pa": 40.0, "site_type": "blog"},
        actions=("comment", "profile"),
        action="comment",
        scores={"comment": 0.8, "profile": 0.6},
        propensity=0.98,
        assigned_arm=Arm.PRODUCTION.value,
        arm=Arm.PRODUCTION.value,
        share=0.1,
        model_version="v1.0.0",
        rollout_id="r1",
        stratum="blog",
        latency_ms=0.1,
    )
    return replace(record, **changes)


def _decide(database: Database, *records: DecisionRecord) -> None:
    with database.write() as connection:
        decisions.append(connection, records)


def _tell(database: Database, at: datetime = START + 10 * MINUTE, **row: Any) -> str:  # noqa: ANN401  (fields)
    """Hand in one outcome; the clock stands a week later, so that nothing lies in the future."""
    collector = FeedbackCollector(database.url, config=Config(), clock=FakeClock(START + timedelta(days=7)))
    told = {"action_attempted": "comment", "result": "success", "timestamp": at} | row
    (receipt,) = collector.append_outcomes([told])
    assert receipt.status == "accepted", receipt
    return str(receipt.outcome_id)


def _matured(database: Database, until: datetime, cursor: Cursor | None = None, **only: Any) -> list[Any]:  # noqa: ANN401
    with database.read() as connection:
        return decisions.matured(connection, cursor or Cursor(EPOCH), until, **only)


# ------------------------------------------------------------------------------------------------------- matured


def test_a_decision_reads_back_as_it_was_logged(database: Database) -> None:
    """Every field, typed and in UTC."""
    record = _decision("d1", error="timeout", domain=None, features={"pa": None, "site_type": "Ümlaut 🙂"})
    _decide(database, record)
    with database.read() as connection:
        assert decisions.get(connection, "d1") == record
        assert decisions.get(connection, "d2") is None


def test_logging_a_decision_again_changes_nothing(database: Database) -> None:
    """The engine may repeat a batch whose answer it never got."""
    _decide(database, _decision("d1"), _decision("d2"))
    _decide(database, _decision("d1", action="profile"), _decision("d3"))
    assert [m.decision_id for m in _matured(database, START + HOUR)] == ["d1", "d2", "d3"]
    assert {m.action for m in _matured(database, START + HOUR)} == {"comment"}


def test_a_task_is_seen_from_its_deadline_on(database: Database) -> None:
    """Not a microsecond before, whatever its outcome."""
    _decide(database, _decision("d1"))
    _tell(database, task_id="task-d1", decision_id="d1")
    assert _matured(database, START + HOUR - timedelta(microseconds=1)) == []
    (seen,) = _matured(database, START + HOUR)
    assert (seen.decision_id, seen.result) == ("d1", Result.SUCCESS)


def test_a_task_without_an_outcome_is_seen_as_missing(database: Database) -> None:
    """`result=None`: counted, as neither success nor error."""
    _decide(database, _decision("d1"))
    assert [m.result for m in _matured(database, START + HOUR)] == [None]


def test_the_newest_word_on_a_task_counts(database: Database) -> None:
    """A correction replaces what was said before."""
    _decide(database, _decision("d1"))
    first = _tell(database, task_id="task-d1", decision_id="d1", result="success")
    _tell(database, task_id="task-d1", decision_id="d1", result="error", replaces=first)
    assert [m.result for m in _matured(database, START + HOUR)] == [Result.ERROR]


def test_an_outcome_that_names_no_decision_finds_it_by_task_and_attempt(database: Database) -> None:
    """Another attempt's outcome is not taken for it."""
    _decide(database, _decision("d1", task_id="t"), _decision("d2", task_id="u"))
    _tell(database, task_id="t", attempt=1, result="error")
    _tell(database, task_id="u", attempt=2, result="error")
    assert [m.result for m in _matured(database, START + HOUR)] == [Result.ERROR, None]


def test_retries_of_a_task_count_once_by_its_first_decision(database: Database) -> None:
    """Three tries within twenty minutes are one task of one trial; in another trial it is a task again."""
    tries = [_decision(f"d{n}", START + n * 10 * MINUTE, task_id="t", attempt=n + 1) for n in range(3)]
    _decide(database, *tries, _decision("e0", START + 30 * MINUTE, task_id="t", rollout_id="r2"))
    _tell(database, task_id="t", decision_id="d0", result="failed")
    _tell(database, task_id="t", decision_id="d2", result="success")
    assert [(m.decision_id, m.result) for m in _matured(database, START + 2 * HOUR, rollout_id="r1")] == [
        ("d0", Result.FAILURE)
    ]
    assert [m.decision_id for m in _matured(database, START + 2 * HOUR, rollout_id="r2")] == ["e0"]


def test_retries_without_a_trial_count_once_as_well(database: Database) -> None:
    """No trial is the same trial."""
    tries = [_decision(f"d{n}", START + n * MINUTE, task_id="t", rollout_id=None) for n in range(3)]
    _decide(database, *tries)
    assert [m.decision_id for m in _matured(database, START + 2 * HOUR)] == ["d0"]


def test_reading_on_from_the_cursor_sees_each_task_once(database: Database) -> None:
    """Also when many tasks share one deadline and the pages are small."""
    _decide(database, *(_decision(f"d{n:02}", START + (n // 7) * MINUTE) for n in range(21)))
    cursor, seen = Cursor(EPOCH), []
    while page := _matured(database, START + 2 * HOUR, cursor, limit=4):
        assert len(page) <= 4
        seen += [m.decision_id for m in page]
        cursor = Cursor(page[-1].deadline_at, page[-1].decision_id)
    assert seen == [f"d{n:02}" for n in range(21)]


def test_the_watch_on_a_version_sees_its_own_tasks_alone(database: Database) -> None:
    """Neither the canary's, nor a holdback's, nor those another version served."""
    _decide(
        database,
        _decision("mine"),
        _decision("canary", assigned_arm="canary", arm="canary", model_version="v1.0.1"),
        _decision("fell back", assigned_arm="canary", arm="fallback"),
        _decision("held back", assigned_arm="holdback", arm="holdback"),
        _decision("older", model_version="v0.9.0"),
    )
    assert [m.decision_id for m in _matured(database, START + HOUR, version="v1.0.0")] == ["mine"]


def test_past_traffic_is_counted_from_its_first_task(database: Database) -> None:
    """Ten tasks in two hours are five an hour, however far back one asks; missing outcomes are no success."""
    _decide(database, *(_decision(f"d{n}", START + n * 12 * MINUTE) for n in range(10)))
    for n in range(6):
        _tell(database, task_id=f"task-d{n}", decision_id=f"d{n}", result="success" if n < 5 else "error")
    until = START + 3 * HOUR
    with database.read() as connection:
        traffic = decisions.recent_traffic(connection, START - timedelta(weeks=4), until)
        nothing = decisions.recent_traffic(connection, until, until + HOUR)
    assert (traffic.tasks_per_hour, traffic.success_rate, traffic.error_rate) == pytest.approx((5.0, 0.5, 0.1))
    assert nothing.tasks_per_hour == 0


def test_an_outcome_of_another_task_is_not_a_decisions_outcome(database: Database) -> None:
    """A worker mixed up two ids: the decision waits for its own; the watch must not count a stranger's."""
    _decide(database, _decision("d1", task_id="t"), _decision("d2", task_id="u"))
    _tell(database, task_id="u", decision_id="d1", result="error")
    _tell(database, task_id="u", decision_id="d2", result="success")
    assert [(m.decision_id, m.result) for m in _matured(database, START + HOUR)] == [
        ("d1", None),
        ("d2", Result.SUCCESS),
    ]


def test_another_action_than_decided_still_counts_for_the_arm_that_decided(database: Database) -> None:
    """Intention to treat: who assigned the task answers for what came of it, whatever the worker then did."""
    _decide(database, _decision("d1", assigned_arm="canary", arm="canary"))
    _tell(database, task_id="task-d1", decision_id="d1", action_attempted="forum", result="error")
    (found,) = _matured(database, START + HOUR)
    assert (found.assigned_arm, found.action, found.result) == ("canary", "comment", Result.ERROR)


def test_a_correction_that_names_no_decision_is_still_its_decisions_newest_word(database: Database) -> None:
    """By task and attempt; where two decisions share them it belongs to the one whose outcome it corrects."""
    _decide(database, _decision("d1", task_id="t"), _decision("d2", START + MINUTE, task_id="t", rollout_id="r2"))
    first = _tell(database, task_id="t", decision_id="d1", result="success")
    _tell(database, task_id="t", decision_id="d2", result="success")
    _tell(database, task_id="t", replaces=first, result="error")
    results = [(m.decision_id, m.result) for m in _matured(database, START + 2 * HOUR)]
    assert results == [("d1", Result.ERROR), ("d2", Result.SUCCESS)]


# ---------------------------------------------------------------------------------------------------- what is touched


def test_which_instants_new_rows_touch(database: Database) -> None:
    """Their decision's deadline, else when they occurred; a correction also touches what it replaces."""
    _decide(database, _decision("d1", task_id="t"), _decision("d2", START + HOUR, task_id="u"))
    _tell(database, task_id="t", decision_id="d1")
    _tell(database, task_id="u", attempt=1)
    alone = _tell(database, START + MINUTE, task_id="v")
    _tell(database, START + timedelta(days=3), task_id="v", replaces=alone)
    with database.read() as connection:
        assert sorted(decisions.instants_since(connection, 0, 3)) == [START + MINUTE, START + HOUR, START + 2 * HOUR]
        assert sorted(decisions.instants_since(connection, 3, 4)) == [START + MINUTE, START + timedelta(days=3)]
        assert decisions.instants_since(connection, 4, 9) == []


def test_an_outcome_that_names_another_tasks_decision_touches_its_own_week(database: Database) -> None:
    """There it stands as a task without a decision."""
    _decide(database, _decision("d1", START + 9 * HOUR, task_id="t"))
    _tell(database, START + MINUTE, task_id="u", decision_id="d1")
    with database.read() as connection:
        assert decisions.instants_since(connection, 0, 9) == [START + MINUTE]


def test_which_instants_late_decisions_touch(database: Database) -> None:
    """Their own deadline, and where their outcomes stood alone; decisions on time touch nothing."""
    _tell(database, START + MINUTE, task_id="t", decision_id="d1")
    _tell(database, START + 2 * MINUTE, task_id="u")
    _tell(database, START + 3 * MINUTE, task_id="w", decision_id="d1", outcome_id="mixed up")
    records = [_decision("d1", task_id="t"), _decision("d2", START + HOUR, task_id="u"), _decision("d3", START + HOUR)]
    rows = [decision_rows.encode(record, record.features, record.stratum) for record in records]
    with database.write() as connection:
        decision_rows.insert(connection, rows[:2], START + 2 * HOUR + timedelta(microseconds=1))
        decision_rows.insert(connection, rows[2:], START + 2 * HOUR)
    with database.read() as connection:
        touched = sorted(decisions.late_instants(connection))
    minutes = [START + n * MINUTE for n in (1, 2, 3)]
    assert touched == [*minutes, START + HOUR, START + 2 * HOUR]


def test_late_decisions_are_told_from_the_others_by_when_they_arrived(database: Database) -> None:
    """In groups and alone, stored once; without a clock nothing is late."""
    records = [_decision(f"d{n:03}", START - HOUR + n * MINUTE) for n in range(2 * decision_rows.GROUP + 3)]
    rows = [decision_rows.encode(record, record.features, record.stratum) for record in records]
    now = START + 40 * MINUTE
    with database.write() as connection:
        decision_rows.insert(connection, rows[:5])
        decision_rows.insert(connection, rows, now)
        decision_rows.insert(connection, rows, now + HOUR)
    with database.read() as connection:
        received = connection.execute(select(tables.decisions.c.received_at).order_by("decision_id")).scalars().all()
    assert received == [None] * 5 + [now] * 35 + [None] * 27


def test_a_late_decision_does_not_wait_for_the_databases_migration(database: Database) -> None:
    """A newer worker writes to a database of the first schema: only the instant of arrival is lost."""
    with database.write() as connection:
        connection.exec_driver_sql("DROP INDEX ix_decisions_late")
        connection.exec_driver_sql("ALTER TABLE decisions DROP COLUMN received_at")
        record = _decision("d1")
        row = decision_rows.encode(record, record.features, record.stratum)
        decision_rows.insert(connection, [row], START + 2 * HOUR)
    with database.read() as connection:
        assert connection.execute(select(tables.decisions.c.decision_id)).scalars().all() == ["d1"]


def test_the_first_instant_is_the_earliest_of_both_tables(database: Database) -> None:
    """It says where the weeks begin."""
    with database.read() as connection:
        assert decisions.first_instant(connection) is None
    _decide(database, _decision("d1"))
    _tell(database, START - timedelta(days=9), task_id="t")
    with database.read() as connection:
        assert decisions.first_instant(connection) == START - timedelta(days=9)


def test_performance_counts_by_version_arm_and_action(database: Database) -> None:
    """Missing outcomes are tasks without a success; what has not matured is not counted."""
    _decide(
        database,
        *(_decision(f"d{n}", latency_ms=float(n)) for n in range(4)),
        _decision("c1", assigned_arm="canary", arm="fallback", model_version="v1.0.0"),
        _decision("young", START + HOUR),
    )
    for n, result in enumerate(("success", "error", "failed")):
        _tell(database, task_id=f"task-d{n}", decision_id=f"d{n}", result=result)
    with database.read() as connection:
        canary, production = decisions.performance(connection, START, START + HOUR + MINUTE)
    assert (canary.arm, canary.tasks, canary.missing) == ("canary", 1, 1)
    counted = (production.tasks, production.successes, production.errors, production.missing)
    assert counted == (4, 1, 1, 1)
    assert (production.success_rate, production.error_rate, production.mean_latency_ms) == (0.25, 0.25, 1.5)
