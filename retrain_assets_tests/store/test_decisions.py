"""What a reader of matured tasks sees: each task once, by its deadline, with the newest word on it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from retrain_assets.core.outcomes import Arm, DecisionRecord, Result
from retrain_assets.settings import Config
from retrain_assets.store import decisions
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


# ----------------------------------------------------------------------------------------------------- week rows


def _week(database: Database, last_seq: int = 10**9) -> list[dict[str, Any]]:
    with database.read() as connection:
        return list(decisions.week_rows(connection, START, START + timedelta(days=7), last_seq))


def test_a_week_holds_the_tasks_that_matured_in_it(database: Database) -> None:
    """Its first instant belongs to it, its last to the next; a task decided before it may mature in it."""
    before, end = START - HOUR, START + timedelta(days=7) - HOUR
    _decide(
        database,
        _decision("too early", before - timedelta(microseconds=1)),
        _decision("first", before),
        _decision("last", end - timedelta(microseconds=1)),
        _decision("too late", end),
    )
    assert [row["decision_id"] for row in _week(database)] == ["first", "last"]


def test_a_decision_without_an_outcome_is_a_row_without_a_result(database: Database) -> None:
    """And keeps its features, action and propensity."""
    _decide(database, _decision("d1"))
    (row,) = _week(database)
    assert (row["result"], row["outcome_id"], row["action"], row["propensity"]) == (None, None, "comment", 0.98)
    assert row["features"] == {"pa": 40.0, "site_type": "blog"}


def test_an_outcome_without_a_decision_is_a_row_of_the_week_in_which_it_occurred(database: Database) -> None:
    """Imported history has no decisions."""
    _tell(database, START + MINUTE, task_id="t", action_attempted="forum", pa=12, result="failed")
    _tell(database, START - MINUTE, task_id="u")
    (row,) = _week(database)
    assert (row["task_id"], row["action"], row["result"], row["matured_at"]) == (
        "t",
        "forum",
        "failure",
        START + MINUTE,
    )
    assert (row["decision_id"], row["decided_at"], row["arm"]) == (None, None, None)
    assert row["features"] == {"pa": 12.0}


def test_an_outcome_whose_decision_was_never_logged_is_not_lost(database: Database) -> None:
    """A dropped decision log costs the join, not the outcome."""
    _tell(database, task_id="t", decision_id="gone")
    assert [(row["task_id"], row["decision_id"]) for row in _week(database)] == [("t", "gone")]


def test_three_attempts_of_one_task_are_three_rows(database: Database) -> None:
    """With decisions or without, numbered or told apart by their instants alone."""
    _decide(database, *(_decision(f"d{n}", START + n * MINUTE, task_id="t", attempt=n) for n in (1, 2, 3)))
    for n in (1, 2, 3):
        _tell(database, START + n * MINUTE, task_id="t", attempt=n, decision_id=f"d{n}", result="failed")
        _tell(database, START + n * MINUTE, task_id="u", attempt=n)
        _tell(database, START + n * MINUTE, task_id="v")
    counts = [sum(row["task_id"] == task for row in _week(database)) for task in ("t", "u", "v")]
    assert counts == [3, 3, 3]


def test_a_correction_wins_with_a_decision_and_without(database: Database) -> None:
    """The corrected row is not there any more."""
    _decide(database, _decision("d1", task_id="t"))
    first = _tell(database, task_id="t", decision_id="d1", result="success")
    _tell(database, task_id="t", decision_id="d1", result="error", replaces=first)
    first = _tell(database, task_id="u", result="success")
    _tell(database, START + 20 * MINUTE, task_id="u", result="failed", replaces=first)
    assert [(row["task_id"], row["result"]) for row in _week(database)] == [("u", "failure"), ("t", "error")]


def test_what_arrives_while_a_week_is_read_is_left_to_the_next_reading(database: Database) -> None:
    """A correction above `last_seq` neither shows nor hides the word it corrects."""
    _decide(database, _decision("d1", task_id="t"))
    first = _tell(database, task_id="t", decision_id="d1", result="success")
    other = _tell(database, task_id="u", result="success")
    _tell(database, task_id="t", decision_id="d1", result="error", replaces=first)
    _tell(database, START + 20 * MINUTE, task_id="u", result="error", replaces=other)
    assert [row["result"] for row in _week(database, last_seq=2)] == ["success", "success"]
    assert [row["result"] for row in _week(database)] == ["error", "error"]


def test_rows_come_in_one_order_however_they_arrived(database: Database) -> None:
    """By maturity, then decision, then outcome."""
    _decide(database, _decision("d2"), _decision("d1"), _decision("d0", START + MINUTE))
    for name in ("o3", "o1", "o2"):
        _tell(database, START + HOUR, task_id="t", outcome_id=name, attempt=int(name[1]))
    named = [row["decision_id"] or row["outcome_id"] for row in _week(database)]
    assert named == ["o1", "o2", "o3", "d1", "d2", "d0"]


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
