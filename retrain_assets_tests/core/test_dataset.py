"""Weeks, and the identity of what teaches a model."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_assets.core.dataset import (
    WEEKDAYS,
    ContentHash,
    WeekCalendar,
    arrow_schema,
    content_hash,
    dataset_hash,
    merge_weeks,
    newest_of_each,
)
from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.errors import UsageError

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia")
calendars = st.builds(
    WeekCalendar,
    st.sampled_from(WEEKDAYS),
    st.tuples(st.integers(0, 23), st.integers(0, 59)).map(lambda t: f"{t[0]:02}:{t[1]:02}"),
    st.sampled_from(ZONES),
)
instants = st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  (hypothesis)


# ------------------------------------------------------------------------------------------------------------- weeks


@given(calendars, instants)
def test_every_instant_falls_in_one_week(calendar: WeekCalendar, instant: datetime) -> None:
    """Weeks follow each other without gap or overlap, and each is found by its key and by any day in it."""
    week = calendar.containing(instant)
    assert week.start_at <= instant < week.end_at
    assert calendar.after(week).start_at == week.end_at
    assert calendar.before(calendar.after(week)) == week
    first = date.fromisoformat(week.key)
    assert calendar.starting(first) == week
    assert {calendar.named((first + timedelta(days=n)).isoformat()) for n in range(7)} == {week}


@given(calendars, instants)
def test_the_newest_closed_week_has_ended(calendar: WeekCalendar, instant: datetime) -> None:
    """And the next one has not."""
    week = calendar.newest_closed(instant)
    assert week.end_at <= instant < calendar.after(week).end_at


def test_a_range_includes_both_ends() -> None:
    """In order; a range backwards is empty."""
    calendar = WeekCalendar()
    first, last = calendar.named("2026-01-06"), calendar.named("2026-01-20")
    assert [week.key for week in calendar.between(first, last)] == ["2026-01-04", "2026-01-11", "2026-01-18"]
    assert calendar.between(last, first) == []


def test_a_week_is_named_by_a_date() -> None:
    """Anything else is told with an example."""
    with pytest.raises(UsageError, match="'next week' is not a date; write YYYY-MM-DD"):
        WeekCalendar().named("next week")


def test_weeks_of_a_dataset_by_strategy() -> None:
    """All, the last few, the last; whatever order they come in."""
    calendar = WeekCalendar()
    weeks = calendar.between(calendar.named("2026-01-06"), calendar.named("2026-01-20"))
    assert merge_weeks(weeks[::-1], "append", 2) == weeks
    assert merge_weeks(weeks[::-1], "window", 2) == weeks[1:]
    assert merge_weeks(weeks, "replace", 2) == weeks[2:]
    with pytest.raises(UsageError, match="'union' is not append, window or replace"):
        merge_weeks(weeks, "union", 2)


# ---------------------------------------------------------------------------------------------------------- identity

SCHEMA = FeatureSchema((Feature("pa", FeatureType.NUMBER), Feature("site", FeatureType.CATEGORY)), ("a",))
MOMENT = datetime(2026, 1, 5, 12, tzinfo=UTC)
FROZEN = "f57b6be406854d1ba0490a70c92f65a29b8bde159dd22c1fd85de31faeb9ad80"
FROZEN_EMPTY = "8f9e6b48fb6033dc5c07d7fca4c15625b5b27e619a9e17ded0791e2c2611d2b7"


def _table(rows: int = 9) -> pa.Table:
    columns: dict[str, list[object]] = {}
    for field in arrow_schema(SCHEMA):
        if pa.types.is_string(field.type):
            columns[field.name] = [[None, "", "ä", "long" * 40][n % 4] for n in range(rows)]
        elif pa.types.is_timestamp(field.type):
            columns[field.name] = [None if n % 5 == 4 else MOMENT + timedelta(microseconds=n) for n in range(rows)]
        else:
            columns[field.name] = [None if n % 3 == 2 else n for n in range(rows)]
    return pa.table(columns, schema=arrow_schema(SCHEMA))


@given(st.lists(st.integers(0, 9), max_size=4))
def test_chunking_does_not_change_the_content_hash(cuts: list[int]) -> None:
    """Nor do slices into larger buffers, or whatever bytes lie under a null."""
    table = _table()
    places = [0, *sorted(cuts), table.num_rows]
    parts = [table.slice(start, end - start) for start, end in pairwise(places)]
    assert content_hash("2026-01-04", pa.concat_tables(parts)) == content_hash("2026-01-04", table)


@given(st.lists(st.integers(0, 9), max_size=4))
def test_a_hash_fed_batch_by_batch_is_the_hash_of_the_whole(cuts: list[int]) -> None:
    """Empty batches too: a week that is streamed has the name that it had when it was held in memory."""
    table = _table()
    digest = ContentHash(table.schema)
    for start, end in pairwise([0, *sorted(cuts), table.num_rows]):
        digest.update(table.slice(start, end - start).combine_chunks())
    assert digest.hexdigest("2026-01-04") == content_hash("2026-01-04", table)
    assert digest.rows == table.num_rows


def test_the_content_hash_is_what_it_has_been_since_the_first_snapshots() -> None:
    """Snapshots lie under it: another value would lose them all. Both were computed before batches were known."""
    assert content_hash("2026-01-04", _table()) == FROZEN
    assert content_hash("2026-01-04", _table(0)) == FROZEN_EMPTY


def test_bytes_under_a_null_do_not_change_the_content_hash() -> None:
    """Two writers may leave different rubbish there."""
    column = pa.array([1.0, 2.0, 3.0], mask=pd.array([False, True, False], dtype=bool).to_numpy())
    other = pa.array([1.0, 99.0, 3.0], mask=pd.array([False, True, False], dtype=bool).to_numpy())
    names = ["x"]
    assert content_hash("w", pa.table([column], names)) == content_hash("w", pa.table([other], names))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.slice(0, 8),
        lambda t: t.take(list(range(8, -1, -1))),
        lambda t: t.set_column(0, t.field(0), pa.array(["", *t.column(0).to_pylist()[1:]], pa.string())),
        lambda t: t.rename_columns(["renamed", *t.column_names[1:]]),
        lambda t: t.set_column(1, "attempt", t.column(1).cast(pa.int64())),
        lambda t: t.set_column(5, t.field(5), pa.array([None, *t.column(5).to_pylist()[1:]], t.field(5).type)),
    ],
    ids=["a row less", "another order", "null to empty", "a name", "a type", "an instant to null"],
)
def test_whatever_differs_changes_the_content_hash(change: object) -> None:
    """A hash that forgot something would let two truths pass for one."""
    assert content_hash("w", change(_table())) != content_hash("w", _table())  # type: ignore[operator]


def test_text_that_moves_from_one_row_to_the_next_changes_the_content_hash() -> None:
    """Lengths take part, not only the bytes in a row."""
    first, second = (pa.table({"x": pa.array(texts, pa.string())}) for texts in (["ab", "c"], ["a", "bc"]))
    assert content_hash("w", first) != content_hash("w", second)


def test_the_week_takes_part_in_the_content_hash() -> None:
    """Two empty weeks are two facts."""
    assert content_hash("2026-01-04", _table(0)) != content_hash("2026-01-11", _table(0))


def test_a_datasets_hash_is_the_schema_and_the_order_of_its_snapshots() -> None:
    """Stable: it is written to registries, tags and reports."""
    assert dataset_hash("s", ["a", "b"]) == dataset_hash("s", iter(["a", "b"]))
    hashes = [dataset_hash("s", ["a", "b"]), dataset_hash("s", ["b", "a"]), dataset_hash("s", ["ab"])]
    hashes += [dataset_hash("t", ["a", "b"]), dataset_hash("s", [])]
    assert len(set(hashes)) == 5


def _rows(*rows: tuple[str | None, str | None, int, str], **columns: list[object]) -> pd.DataFrame:
    """Rows of one task by decision, outcome, minute and result; those that name a decision are decided."""
    frame = pd.DataFrame(rows, columns=["decision_id", "outcome_id", "minute", "result"])
    frame["matured_at"] = [MOMENT + timedelta(minutes=minute) for minute in frame["minute"]]
    frame["decided_at"] = frame["matured_at"].where(frame["decision_id"].notna())
    return frame.assign(**{"task_id": "t", "attempt": 1} | columns)


def test_the_newest_row_of_each_outcome_is_kept_in_order_of_maturity() -> None:
    """A refreshed week follows the old one in the manifest, and its rows win; a missing outcome that came late too."""
    rows = _rows(
        ("d1", None, 5, "missing"),
        (None, "o1", 3, "old"),
        ("d2", "x", 1, "kept"),
        (None, "o1", 3, "new"),
        ("d1", "d-d1", 5, "came"),
    )
    assert newest_of_each(rows)["result"].tolist() == ["kept", "new", "came"]


@pytest.mark.parametrize("is_turned", [False, True])
def test_a_decided_row_wins_over_the_same_outcome_without_its_decision(*, is_turned: bool) -> None:
    """The decision reached the log late, and one of the two weeks was not taken again; known by id or by task."""
    rows = _rows(
        ("d1", "o1", 1, "not logged yet"),
        ("d1", "o1", 5, "decided"),
        (None, "o2", 2, "told alone"),
        ("d2", "o2", 6, "decided too"),
    )
    rows.loc[0, "decided_at"] = pd.NaT
    rows = rows.iloc[::-1].reset_index(drop=True) if is_turned else rows
    assert newest_of_each(rows)["result"].tolist() == ["decided", "decided too"]


def test_another_tasks_decision_does_not_take_a_row_with_it() -> None:
    """Two tasks name one decision that is not logged: whose it is shows only when it comes."""
    rows = _rows(("d1", "o1", 1, "theirs"), ("d1", "o2", 2, "mine"), task_id=["a", "b"])
    rows["decided_at"] = pd.NaT
    assert newest_of_each(rows)["result"].tolist() == ["theirs", "mine"]


def test_a_correction_in_a_later_snapshot_replaces_the_row_of_an_older_one() -> None:
    """It stands under the outcome that it corrects, also where that one named a decision that never came."""
    rows = _rows(
        (None, "o1", 1, "wrong"), ("gone", "o2", 2, "wrong"), (None, "o1", 8, "right"), (None, "o2", 9, "right")
    )
    rows["decided_at"] = pd.NaT
    assert newest_of_each(rows)["result"].tolist() == ["right", "right"]


def test_two_tries_of_one_task_are_two_rows() -> None:
    """With one task id and one attempt number: their outcomes tell them apart."""
    assert len(newest_of_each(_rows((None, "o1", 1, "a"), (None, "o2", 2, "b"), ("d1", None, 3, "c")))) == 3
