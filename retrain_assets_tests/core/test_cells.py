"""Cells of logs: what they are read as, and that what is not known comes back as it is."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_assets.core.cells import (
    MISSING_TEXTS,
    is_missing_text,
    read_moment,
    read_result_word,
    read_seconds,
    seconds_per_unit,
    with_decimal_point,
)
from retrain_assets.core.columns import ColumnNames, folded
from retrain_assets.core.outcomes import Result
from retrain_assets.errors import SchemaError

AT = datetime(2026, 1, 31, 14, 5, tzinfo=UTC)


@pytest.mark.parametrize("text", [*sorted(MISSING_TEXTS), " NULL ", "None", "N/A", "\\N"])
def test_missing_texts_are_missing_in_any_case(text: str) -> None:
    """Blanks around them do not matter."""
    assert is_missing_text(text)
    assert is_missing_text(text.upper())


@pytest.mark.parametrize("text", ["0", "no", "nobody", "-1", "unknown", "n", "false", "#1"])
def test_other_texts_are_values(text: str) -> None:
    """Also those that begin like a missing one."""
    assert not is_missing_text(text)


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-31T14:05:00+00:00", "2026-01-31 14:05Z", "2026-01-31 14:05:00 UTC", "2026-01-31 15:05:00 +0100",
        "31.01.2026 14:05:00 GMT", "2026/01/31 14:05Z", 1769868300, 1769868300.0, "1769868300", "1769868300000",
        1769868300000, "1769868300000000", 1769868300 * 10**9, Decimal(1769868300), AT,
    ],
)  # fmt: skip
def test_an_instant_is_read_in_the_ways_logs_write_it(value: Any) -> None:  # noqa: ANN401
    """Offsets and epochs say all that is needed; the zone for naive ones does not move them."""
    assert read_moment(value, None) == AT
    assert read_moment(value, ZoneInfo("Europe/Berlin")) == AT


@pytest.mark.parametrize(
    "value", ["31.01.2026 15:05", "2026-01-31 15:05:00", "20260131150500", "2026/1/31 15:05", "31.1.2026, 15:05:00,000"]
)
def test_a_naive_instant_waits_for_its_zone(value: str) -> None:
    """Without one it stays text without an offset, which the door refuses by that name."""
    assert read_moment(value, ZoneInfo("Europe/Berlin")) == AT
    assert datetime.fromisoformat(str(read_moment(value, None))).tzinfo is None


@pytest.mark.parametrize(
    "value",
    [
        "01/02/2026",
        "soon",
        "",
        "12",
        12,
        1.5,
        True,
        None,
        "99.99.2026",
        "1712113012345678901234",
        float("nan"),
        1e30,
        10**400,
        "9" * 401,
        Decimal("sNaN"),
        "2026 UTC UTC",
    ],
)
def test_what_is_no_instant_comes_back_as_it_is(value: Any) -> None:  # noqa: ANN401
    """A day and month in doubtful order is not guessed, and a small number is no epoch."""
    assert read_moment(value, UTC) is value


def test_a_day_is_its_first_instant() -> None:
    """Of a date without a time, in the zone that is told."""
    assert read_moment(date(2026, 1, 31), UTC) == datetime(2026, 1, 31, tzinfo=UTC)


@given(st.datetimes(min_value=datetime(1974, 1, 1), max_value=datetime(2200, 1, 1)))  # noqa: DTZ001
def test_seconds_and_milliseconds_since_1970_are_told_apart_by_size(naive: datetime) -> None:
    """From 1974 on, for as long as anybody will log."""
    at = naive.replace(tzinfo=UTC, microsecond=0)
    epoch = int(at.timestamp())
    assert read_moment(epoch, None) == read_moment(str(epoch * 1000), None) == at


@pytest.mark.parametrize(
    ("value", "result"),
    [(1, Result.SUCCESS), (0.0, Result.FAILURE), ("1", Result.SUCCESS), ("1.0", Result.SUCCESS),
     ("0.0", Result.FAILURE), (" Passed ", Result.SUCCESS),
     ("FEHLGESCHLAGEN", Result.FAILURE), ("timed out", Result.ERROR), ("no", Result.FAILURE)],
)  # fmt: skip
def test_words_and_digits_are_results(value: Any, result: Result) -> None:  # noqa: ANN401
    """In any case, with blanks around."""
    assert read_result_word(value) is result


@pytest.mark.parametrize("value", ["perhaps", 2, -1, None, 0.5, [1], True])
def test_what_is_no_result_word_comes_back_as_it_is(value: Any) -> None:  # noqa: ANN401
    """The door reads true and false itself, and refuses the rest."""
    assert read_result_word(value) is value


@pytest.mark.parametrize(
    ("text", "read"),
    [("3,5", "3.5"), ("1.234,5", "1234.5"), ("1.234.567", "1234567"), ("-0,25", "-0.25"), ("17", "17"), ("3.5", "3.5"),
     ("a,b", "a.b"), ("1,2,3", "1,2,3"), ("1.5,2", "1.5,2"), ("0.125", "0.125"), ("-0.125", "-0.125"),
     ("1.125", "1125"), ("01.125", "01.125")],
)  # fmt: skip
def test_a_decimal_comma_becomes_a_point(text: str, read: str) -> None:
    """Dots between groups of three go; what is no such number is left to the door."""
    assert with_decimal_point(text) == read


@pytest.mark.parametrize(
    ("column", "unit"), [("duration_ms", 0.001), ("took_minutes", 60.0), ("execution_time", 1.0), ("items", 1.0)]
)
def test_the_end_of_a_name_is_the_unit(column: str, unit: float) -> None:
    """`_ms` and `_min`; words that only end alike are none."""
    assert seconds_per_unit(column) == unit


def test_durations_are_seconds() -> None:
    """Numbers, texts and intervals; other text is left to the door."""
    assert [read_seconds(v, 0.001) for v in (1500, "250", timedelta(seconds=2), "x", True)] == [
        1.5,
        0.25,
        2.0,
        "x",
        True,
    ]


@pytest.mark.parametrize("name", [" Task_ID ", "taskId", "Task-Id", "TASK ID", "task.id"])
def test_spellings_of_a_name_are_one(name: str) -> None:
    """Case, blanks, signs and humps do not matter."""
    assert folded(name) == "task_id"
    assert ColumnNames({}, []).of((name,)) == {name: "task_id"}


def test_names_are_given_in_order_of_certainty() -> None:
    """What somebody said, then own names, then other spellings, then synonyms; nothing is taken twice."""
    names = ColumnNames({"x": "pa"}, ["pa", "success"])
    assert names.of(("x", "PA", "result", "outcome", "Action", "task_type", "success")) == {
        "x": "pa", "PA": "PA", "result": "result", "outcome": "outcome", "Action": "action_attempted",
        "task_type": "task_type", "success": "success",
    }  # fmt: skip
    assert names.used == {"x": "pa", "Action": "action_attempted"}
    with pytest.raises(SchemaError, match="'x' and 'pa'"):
        names.of(("x", "pa"))


def test_what_stores_and_exports_add_is_not_read() -> None:
    """Unless somebody maps it, or it is the problem's own feature."""
    columns = ("outcome_id", "received_at", "features", "quarantine_reason", "")
    assert set(ColumnNames({}, []).of(columns).values()) == {"outcome_id", "features", "-"}
    assert ColumnNames({}, ["received_at"]).of(columns)["received_at"] == "received_at"
