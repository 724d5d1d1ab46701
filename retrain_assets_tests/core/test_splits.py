from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain_assets.core.splits import Splits, split_by_time
from retrain_assets.errors import TrainingImpossible

START = datetime(2026, 1, 4, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)


def _times(hours: list[float]) -> list[datetime]:
    return [START + timedelta(hours=hour) for hour in hours]


attempts = st.lists(
    st.tuples(st.integers(min_value=0, max_value=5_000), st.integers(min_value=0, max_value=60)),
    min_size=5,
    max_size=120,
)


def _split_or_none(rows: list[tuple[int, int]], gap: timedelta) -> Splits | None:
    times = [START + timedelta(minutes=minute) for minute, _ in rows]
    try:
        return split_by_time(times, [f"t{task}" for _, task in rows], gap)
    except TrainingImpossible:
        return None


@given(rows=attempts, gap_minutes=st.integers(min_value=0, max_value=300))
@settings(max_examples=200, deadline=None)
def test_no_part_knows_an_outcome_that_was_not_final_when_the_next_part_was_decided(
    rows: list[tuple[int, int]], gap_minutes: int
) -> None:
    """Between the newest row of a part and the oldest of the next lies at least the gap."""
    gap = timedelta(minutes=gap_minutes)
    splits = _split_or_none(rows, gap)
    if splits is None:
        return
    minutes = np.array([minute for minute, _ in rows])
    assert minutes[splits.train].max() + gap_minutes <= minutes[splits.validation].min()
    assert minutes[splits.validation].max() + gap_minutes <= minutes[splits.test].min()
    assert minutes[splits.train].max() < minutes[splits.validation].min()
    assert minutes[splits.validation].max() < minutes[splits.test].min()
    assert minutes[splits.test].max() == minutes.max()


@given(rows=attempts, gap_minutes=st.integers(min_value=0, max_value=300))
@settings(max_examples=200, deadline=None)
def test_no_task_has_attempts_in_two_parts(rows: list[tuple[int, int]], gap_minutes: int) -> None:
    """A task that was tried again later is learned from, or judged by, never both."""
    splits = _split_or_none(rows, timedelta(minutes=gap_minutes))
    if splits is None:
        return
    tasks = np.array([task for _, task in rows])
    parts = [set(tasks[part].tolist()) for part in (splits.train, splits.validation, splits.test)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


@given(rows=attempts, gap_minutes=st.integers(min_value=0, max_value=300))
@settings(max_examples=200, deadline=None)
def test_every_row_is_in_exactly_one_part_or_counted_as_dropped(rows: list[tuple[int, int]], gap_minutes: int) -> None:
    """Nothing is lost without being counted."""
    splits = _split_or_none(rows, timedelta(minutes=gap_minutes))
    if splits is None:
        return
    kept = np.concatenate([splits.train, splits.validation, splits.test])
    assert len(np.unique(kept)) == len(kept)
    assert splits.rows == len(rows)
    assert splits.dropped_in_gap + splits.dropped_straddling == len(rows) - len(kept)


def test_the_hypothesis_tests_do_see_splits() -> None:
    """Ordinary rows split; so the properties above are not vacuous."""
    assert _split_or_none([(minute * 10, minute) for minute in range(40)], HOUR) is not None


def test_parts_have_their_shares_and_the_gaps_are_paid_by_train() -> None:
    """200 hourly tasks with a gap of three hours: 30 test, 30 validation, the rest minus two gaps."""
    splits = split_by_time(_times(list(range(200))), [str(i) for i in range(200)], 3 * HOUR)
    assert len(splits.test) == 30
    assert len(splits.validation) == 30
    assert splits.dropped_in_gap == 4
    assert len(splits.train) == 136
    assert splits.test.tolist() == list(range(170, 200))


def test_thirty_rows_an_hour_apart_are_enough() -> None:
    """Small automations split, too."""
    splits = split_by_time(_times(list(range(30))), [str(i) for i in range(30)], HOUR)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (22, 4, 4)


def test_held_out_parts_stop_growing_at_the_cap() -> None:
    """More test rows than the cap would only keep fresh rows from training."""
    splits = split_by_time(_times(list(range(1_000))), [str(i) for i in range(1_000)], max_held_out_rows=50)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (900, 50, 50)


def test_earlier_attempts_of_a_newer_task_are_dropped_and_counted() -> None:
    """Task "again" is tried in train's time and in test's: only the test attempt stays."""
    tasks = [str(i) for i in range(100)]
    tasks[10] = tasks[95] = "again"
    splits = split_by_time(_times(list(range(100))), tasks, timedelta(0))
    assert splits.dropped_straddling == 1
    assert 10 not in splits.train
    assert 95 in splits.test


def test_the_order_of_the_rows_does_not_matter() -> None:
    """Shuffled rows give the same parts."""
    print("seed 3")
    order = np.random.default_rng(3).permutation(100)
    tasks = np.array([f"t{i // 2}" for i in range(100)])
    times = np.array(_times(list(range(100))), dtype=object)
    straight, shuffled = split_by_time(times, tasks, HOUR), split_by_time(times[order], tasks[order], HOUR)
    for part in ("train", "validation", "test"):
        assert sorted(order[getattr(shuffled, part)]) == getattr(straight, part).tolist()


def test_rows_of_one_instant_stay_together() -> None:
    """A batch import with equal instants is not cut in two."""
    hours = [float(i // 10) for i in range(100)]
    splits = split_by_time(_times(hours), [str(i) for i in range(100)])
    assert len(splits.test) == 20
    assert len(splits.validation) == 20


@pytest.mark.parametrize("dtype", ["datetime64[us, UTC]", "timestamp[us, tz=UTC][pyarrow]", "object"])
def test_a_frame_is_read_as_the_store_gives_it(dtype: str) -> None:
    """`matured_at`, `task_id` and `result` are found; arrow-backed strings and microseconds are fine."""
    frame = pd.DataFrame(
        {
            "matured_at": pd.Series(pd.to_datetime(_times(list(range(60))), utc=True)).astype(dtype),
            "task_id": pd.Series([str(i) for i in range(60)], dtype="string[pyarrow]"),
            "result": pd.Series(["success", "failure"] * 30, dtype="string[pyarrow]"),
        }
    )
    splits = split_by_time(frame, gap=HOUR)
    assert splits.to_dict() == {
        "rows": 60,
        "train": 42,
        "validation": 9,
        "test": 9,
        "dropped_in_gap": 0,
        "dropped_straddling": 0,
        "gap_minutes": 60.0,
        "train_ends_at": (START + 41 * HOUR).isoformat(),
        "validation_starts_at": (START + 42 * HOUR).isoformat(),
        "validation_ends_at": (START + 50 * HOUR).isoformat(),
        "test_starts_at": (START + 51 * HOUR).isoformat(),
    }


def test_training_rows_of_one_class_are_a_named_error() -> None:
    """A model needs both; the message counts."""
    labels = [True] * 90 + [False] * 10
    with pytest.raises(TrainingImpossible, match="all 70 training rows are successes"):
        split_by_time(_times(list(range(100))), [str(i) for i in range(100)], labels=labels)


@pytest.mark.parametrize(
    ("rows", "gap", "message"),
    [
        (0, HOUR, "there are no rows"),
        (1, HOUR, "train part would be empty"),
        (100, 200 * HOUR, "would be empty: 100 rows with a gap of 8 days, 8:00:00"),
    ],
)
def test_too_little_data_is_a_named_error(rows: int, gap: timedelta, message: str) -> None:
    """The message says which part is empty, and why."""
    with pytest.raises(TrainingImpossible, match=message):
        split_by_time(_times(list(range(rows))), [str(i) for i in range(rows)], gap)


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.0, 0.0, 0.0)])
def test_fractions_that_are_no_shares_are_refused(fractions: tuple[float, float, float]) -> None:
    """Three positive numbers that add up to 1."""
    with pytest.raises(ValueError, match="add up to 1"):
        split_by_time(_times([1, 2, 3]), ["a", "b", "c"], fractions=fractions)
