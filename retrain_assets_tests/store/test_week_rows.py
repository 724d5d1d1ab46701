"""Which row a task becomes: outcomes joined to decisions, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.json import encode as json_of

from retrain_assets.core.outcomes import DecisionRecord
from retrain_assets.errors import StoreUnavailable
from retrain_assets.settings import Config
from retrain_assets.store import decisions, week_rows
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.database import Database
from retrain_assets.store.week_columns import WeekColumns, corrections_alone
from retrain_assets.testing import START, FakeClock

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
EVERYTHING = 10**9


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
        assigned_arm="production",
        arm="production",
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


def _read(database: Database, last_seq: int = EVERYTHING) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The week's rows as a snapshot holds them, and what they are counted by."""
    columns = WeekColumns(Config().schema)
    with database.read() as connection:
        rows = list(week_rows.stream(connection, START, START + timedelta(days=7), last_seq))
        assert week_rows.count(connection, START, START + timedelta(days=7), last_seq) == len(rows)
        if not rows:
            return [], dict(columns.facts)
        originals = week_rows.originals(connection, corrections_alone(rows))
    return columns.batch(rows, originals).to_pylist(), dict(columns.facts)


def _week(database: Database, last_seq: int = EVERYTHING) -> list[dict[str, Any]]:
    return _read(database, last_seq)[0]


# ------------------------------------------------------------------------------------------------------ what a week is


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


def test_a_decision_without_an_outcome_is_a_failure_called_missing(database: Database) -> None:
    """And keeps its features, action and propensity."""
    _decide(database, _decision("d1"))
    (row,), facts = _read(database)
    assert (row["result"], row["failure_reason"], row["outcome_id"]) == ("failure", "missing", None)
    assert (row["action"], row["propensity"], row["occurred_at"]) == ("comment", 0.98, None)
    assert (row["feature_pa"], row["feature_site_type"], row["stratum"]) == (40.0, "blog", "blog")
    assert (facts["decided"], facts["missing"], facts["alone"]) == (1, 1, 0)


def test_an_outcome_without_a_decision_is_a_row_of_the_week_in_which_it_occurred(database: Database) -> None:
    """Imported history has no decisions."""
    _tell(database, START + MINUTE, task_id="t", action_attempted="forum", pa=12, result="failed", site_type="wiki")
    _tell(database, START - MINUTE, task_id="u")
    (row,), facts = _read(database)
    assert (row["task_id"], row["action"], row["result"]) == ("t", "forum", "failure")
    assert row["matured_at"] == row["occurred_at"] == START + MINUTE
    assert (row["decision_id"], row["decided_at"], row["arm"], row["stratum"]) == (None, None, None, "wiki")
    assert row["feature_pa"] == 12.0
    assert (facts["decided"], facts["alone"]) == (0, 1)


def test_what_was_decided_on_is_what_a_row_teaches(database: Database) -> None:
    """The outcome's features fill what the decision did not know, and change nothing that it did, not even a gap."""
    _decide(database, _decision("d1", task_id="t", features={"pa": 40.0, "da": None}))
    _tell(database, task_id="t", decision_id="d1", pa=1, da=2, url_path_depth=3)
    (row,) = _week(database)
    assert (row["feature_pa"], row["feature_da"], row["feature_url_path_depth"]) == (40.0, None, 3.0)


def test_rows_come_in_one_order_however_they_arrived(database: Database) -> None:
    """By maturity, then decision, then outcome; text by its bytes, so that capitals come first on every database."""
    _decide(
        database, _decision("d2"), _decision("é"), _decision("D3"), _decision("d1"), _decision("d0", START + MINUTE)
    )
    for number, name in enumerate(("o3", "O1", "o2")):
        _tell(database, START + HOUR, task_id="t", outcome_id=name, attempt=number + 1)
    named = [row["decision_id"] or row["outcome_id"] for row in _week(database)]
    assert named == ["O1", "o2", "o3", "D3", "d1", "d2", "é", "d0"]


def test_what_arrives_while_a_week_is_read_is_left_to_the_next_reading(database: Database) -> None:
    """A correction above `last_seq` neither shows nor hides the word it corrects."""
    _decide(database, _decision("d1", task_id="t"))
    first = _tell(database, task_id="t", decision_id="d1", result="success")
    other = _tell(database, task_id="u", result="success")
    _tell(database, task_id="t", decision_id="d1", result="error", replaces=first)
    _tell(database, START + 20 * MINUTE, task_id="u", result="error", replaces=other)
    assert [row["result"] for row in _week(database, last_seq=2)] == ["success", "success"]
    assert [row["result"] for row in _week(database)] == ["error", "error"]


# --------------------------------------------------------------------------------------------- whose outcome it is


def test_three_attempts_of_one_task_are_three_rows(database: Database) -> None:
    """With decisions or without, numbered or told apart by their instants alone."""
    _decide(database, *(_decision(f"d{n}", START + n * MINUTE, task_id="t", attempt=n) for n in (1, 2, 3)))
    for n in (1, 2, 3):
        _tell(database, START + n * MINUTE, task_id="t", attempt=n, decision_id=f"d{n}", result="failed")
        _tell(database, START + n * MINUTE, task_id="u", attempt=n)
        _tell(database, START + n * MINUTE, task_id="v")
    counts = [sum(row["task_id"] == task for row in _week(database)) for task in ("t", "u", "v")]
    assert counts == [3, 3, 3]


def test_an_outcome_whose_decision_was_never_logged_is_not_lost(database: Database) -> None:
    """A dropped decision log costs the join, not the outcome; once the decision is there both are one row."""
    _tell(database, task_id="t", decision_id="d1", result="error")
    (row,) = _week(database)
    assert (row["task_id"], row["decision_id"], row["decided_at"], row["result"]) == ("t", "d1", None, "error")
    _decide(database, _decision("d1", task_id="t"))
    (row,) = _week(database)
    assert (row["decision_id"], row["decided_at"], row["result"]) == ("d1", START, "error")


def test_an_outcome_that_names_another_tasks_decision_is_a_task_without_one(database: Database) -> None:
    """The decision is missing an outcome until its own comes."""
    _decide(database, _decision("d1", task_id="t"))
    _tell(database, task_id="u", decision_id="d1", result="error")
    rows, facts = _read(database)
    assert [(row["task_id"], row["decision_id"], row["failure_reason"]) for row in rows] == [
        ("u", None, None),
        ("t", "d1", "missing"),
    ]
    assert (facts["other_task"], facts["alone"], facts["missing"]) == (1, 1, 1)
    _tell(database, task_id="t", decision_id="d1", outcome_id="own", result="success")
    rows = _week(database)
    assert [(row["task_id"], row["result"]) for row in rows] == [("u", "error"), ("t", "success")]


def test_an_outcome_without_a_decision_id_belongs_to_its_tasks_attempt(database: Database) -> None:
    """Unless the decision has one that names it."""
    _decide(database, _decision("d1", task_id="t"), _decision("d2", task_id="u", attempt=2))
    _tell(database, task_id="t", result="error")
    _tell(database, task_id="u", attempt=2, decision_id="d2", result="success")
    _tell(database, START + 20 * MINUTE, task_id="u", attempt=2, result="error")
    assert [(row["decision_id"], row["result"]) for row in _week(database)] == [("d1", "error"), ("d2", "success")]


def test_another_action_than_decided_is_what_the_row_teaches(database: Database) -> None:
    """Without a propensity, since the policy did not draw it; the rest stays the decision's."""
    _decide(database, _decision("d1"), _decision("d2", START + MINUTE))
    _tell(database, task_id="task-d1", decision_id="d1", action_attempted="forum", result="failed")
    _tell(database, task_id="task-d2", decision_id="d2", action_attempted="comment")
    (other, same), facts = _read(database)
    assert (other["action"], other["propensity"], other["result"]) == ("forum", None, "failure")
    assert (other["arm"], other["model_version"], other["stratum"]) == ("production", "v1.0.0", "blog")
    assert (same["action"], same["propensity"]) == ("comment", 0.98)
    assert facts["other_action"] == 1


def test_the_same_action_in_another_case_is_the_decided_one(database: Database) -> None:
    """A worker without published settings writes what it likes."""
    _decide(database, _decision("d1", action="Comment"))
    _tell(database, task_id="task-d1", decision_id="d1", action_attempted="comment")
    (row,), facts = _read(database)
    assert (row["action"], row["propensity"], facts["other_action"]) == ("Comment", 0.98, 0)


def test_a_reading_that_breaks_off_is_an_error_worth_a_retry(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the middle of a week, where rows come straight from the driver: half a week must not pass for one."""
    _decide(sqlite_database, *(_decision(f"d{n}", START + n * MINUTE) for n in range(9)))
    monkeypatch.setattr(week_rows, "FETCH", 2)

    def read() -> None:
        with sqlite_database.read() as connection:
            rows = week_rows.stream(connection, START, START + timedelta(days=7), EVERYTHING)
            next(rows)
            driver: Any = connection.connection.driver_connection
            driver.interrupt()
            list(rows)

    with pytest.raises(StoreUnavailable, match="the database cannot be used now: interrupted"):
        read()
    assert len(_week(sqlite_database)) == 9


# ---------------------------------------------------------------------------------------------- stored features

_NUMBERS = st.none() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
_TEXTS = (
    st.none() | st.sampled_from(["blog", " Füße ", "n/a", "", "a-0,b", "a\nb"]) | st.text(st.characters(codec="utf-8"))
)
_FITTING = st.fixed_dictionaries(
    {},
    optional={
        "pa": _NUMBERS,
        "url_path_depth": st.none() | st.integers(-3, 9) | st.sampled_from([2.0, 2.5, -0.0]),
        "site_type": _TEXTS,
        "https_enabled": st.none() | st.booleans(),
        "unknown": st.none() | st.lists(st.integers()) | st.text(max_size=3),
    },
)
_ODD = st.sampled_from(
    [{"pa": "12.5"}, {"site_type": 7}, {"https_enabled": "yes"}, {"pa": True, "url_path_depth": "4"}]
)
_PAIRS = st.lists(
    st.tuples(_FITTING, st.none()) | st.tuples(st.none(), _FITTING) | st.tuples(_FITTING, _FITTING),
    min_size=1,
    max_size=6,
)


def _features(pairs: Sequence[tuple[Any, Any]]) -> list[list[bytes]]:
    """Each feature's column as Arrow holds it, so that 0.0 and -0.0 are two."""
    decided, told = ([None if v is None else json_of(v).decode() for v in side] for side in zip(*pairs, strict=True))
    columns = WeekColumns(Config().schema)._features.columns(decided, told, [None] * len(pairs))
    return [[repr(value).encode() for value in column.to_pylist()] for column in columns.values()]


@given(_PAIRS, _ODD)
def test_a_row_is_read_alike_whatever_rows_stand_beside_it(
    pairs: list[tuple[dict[str, Any] | None, dict[str, Any] | None]], odd: dict[str, Any]
) -> None:
    """A batch that fits the schema is read in one go, and one with a row that does not fit row by row."""
    alone = _features(pairs)
    assert alone == [column[:-1] for column in _features([*pairs, (odd, None)])]


@pytest.mark.parametrize("stored", ['{"pa": -0}', '{"pa":-0,"da":1}', '{"pa":1,"pa":0}', '{\n"pa" :\n0}', '{"pa":0}  '])
def test_features_in_another_spelling_are_the_same_features(stored: str) -> None:
    """Whoever filled the database by hand: a signed zero that is whole is 0.0, and of two values the last counts."""
    columns = WeekColumns(Config().schema)._features.columns([stored, None], [None, "{}"], [None, None])
    assert [repr(value) for value in columns["pa"].to_pylist()] == ["0.0", "None"]


# -------------------------------------------------------------------------------------------------------- corrections


def test_a_correction_wins_with_a_decision_and_without(database: Database) -> None:
    """The corrected row is not there any more; without a decision the correction stands under its name."""
    _decide(database, _decision("d1", task_id="t"))
    first = _tell(database, task_id="t", decision_id="d1", result="success")
    _tell(database, task_id="t", decision_id="d1", result="error", replaces=first)
    first = _tell(database, task_id="u", result="success")
    _tell(database, START + 20 * MINUTE, task_id="u", result="failed", replaces=first)
    rows, facts = _read(database)
    assert [(row["task_id"], row["result"]) for row in rows] == [("u", "failure"), ("t", "error")]
    assert rows[0]["outcome_id"] == first
    assert facts["replaced"] == 2


def test_a_correction_that_names_no_decision_corrects_its_tasks_all_the_same(database: Database) -> None:
    """Who corrects by hand knows the outcome, and seldom the decision."""
    _decide(database, _decision("d1", task_id="t"))
    first = _tell(database, task_id="t", decision_id="d1", result="success")
    _tell(database, START + 3 * HOUR, task_id="t", result="error", replaces=first)
    (row,) = _week(database)
    assert (row["decision_id"], row["result"]) == ("d1", "error")


@pytest.mark.parametrize("length", [2, 300])
def test_a_chain_of_corrections_is_one_row_under_its_first_name(database: Database, length: int) -> None:
    """However long: the last word, and the name by which an older snapshot knows the task."""
    _tell(database, task_id="t", outcome_id="o0")
    collector = FeedbackCollector(database.url, config=Config(), clock=FakeClock(START + timedelta(days=7)))
    told = {"task_id": "t", "action_attempted": "comment", "result": "error", "timestamp": START + HOUR}
    collector.append_outcomes(
        [told | {"outcome_id": f"o{n + 1}", "replaces": f"o{n}", "pa": n % 100} for n in range(length)]
    )
    (row,) = _week(database)
    assert (row["outcome_id"], row["result"], row["feature_pa"]) == ("o0", "error", (length - 1) % 100)


def test_corrections_in_a_circle_or_of_nothing_lose_no_row(database: Database) -> None:
    """What is corrected must have been stored before: a circle ends there, and an unknown name corrects nothing."""
    _tell(database, task_id="t", outcome_id="a", replaces="b", result="success")
    _tell(database, task_id="t", outcome_id="b", replaces="a", result="error")
    _tell(database, task_id="u", outcome_id="c", replaces="c")
    _tell(database, task_id="v", outcome_id="d", replaces="never stored")
    rows = {row["task_id"]: (row["outcome_id"], row["result"]) for row in _week(database)}
    assert rows == {"t": ("a", "error"), "u": ("c", "success"), "v": ("d", "success")}


# ---------------------------------------------------------------------------------------------------------------- plans


def test_no_part_of_the_queries_reads_a_whole_table(sqlite_database: Database) -> None:
    """Each task is found by an index, also where no statistics were ever gathered: a week costs its own rows."""
    with sqlite_database.read() as connection:
        for query in (week_rows._decided(connection, 1), week_rows._alone(connection, 1)):
            compiled = query.compile(connection.engine)
            marks = tuple(0 for _ in compiled.positiontup or ())
            plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", marks)]
            assert any("SEARCH" in step for step in plan)
            assert not [step for step in plan if "SCAN" in step]
