"""Which rows teach, which tune and which judge: by time, never at random.

Holds the split of matured attempts into train, validation and test and its record; does not hold reading of
rows (`store`) or training (`core/model.py`).

A row's instant is when its outcome was final (decision plus task timeout). A gap of one timeout
between parts means that every training outcome was known before the first validation task was even
decided, and so on: exactly what a model trained on that day could have known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from retrain_assets.errors import TrainingImpossible

FRACTIONS = (0.70, 0.15, 0.15)
MAX_HELD_OUT_ROWS = 10_000
"""Rows of validation and of test beyond which more would only take fresh data from training: at
10,000 a success rate is known to 0.01 (95 %)."""


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """Positions of the rows of each part, and why the others are in none.

    Attributes
    ----------
    train, validation, test : ndarray of int
        Row positions, ascending. Disjoint.
    train_ends_at, validation_ends_at : datetime
        Latest instant (UTC) of the part; the gap follows.
    validation_starts_at, test_starts_at : datetime
        Earliest instant (UTC) of the part.
    gap : timedelta
    dropped_in_gap : int
        Rows whose instant lies between two parts.
    dropped_straddling : int
        Earlier attempts of tasks whose later attempts are in a newer part.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    train_ends_at: datetime
    validation_starts_at: datetime
    validation_ends_at: datetime
    test_starts_at: datetime
    gap: timedelta
    dropped_in_gap: int
    dropped_straddling: int

    @property
    def rows(self) -> int:
        """All rows that were split, the dropped ones included."""
        held = len(self.train) + len(self.validation) + len(self.test)
        return held + self.dropped_in_gap + self.dropped_straddling

    def to_dict(self) -> dict[str, Any]:
        """Counts and boundaries, JSON-able; not the positions."""
        return {
            "rows": self.rows,
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
            "dropped_in_gap": self.dropped_in_gap,
            "dropped_straddling": self.dropped_straddling,
            "gap_minutes": self.gap.total_seconds() / 60,
            "train_ends_at": self.train_ends_at.isoformat(),
            "validation_starts_at": self.validation_starts_at.isoformat(),
            "validation_ends_at": self.validation_ends_at.isoformat(),
            "test_starts_at": self.test_starts_at.isoformat(),
        }


def split_by_time(
    rows_or_times: pd.DataFrame | Sequence[datetime] | pd.Series | np.ndarray,
    task_ids: Sequence[str] | pd.Series | np.ndarray | None = None,
    gap: timedelta = timedelta(0),
    fractions: tuple[float, float, float] = FRACTIONS,
    *,
    labels: Sequence[bool] | pd.Series | np.ndarray | None = None,
    max_held_out_rows: int | None = MAX_HELD_OUT_ROWS,
) -> Splits:
    """Split rows by time, newest last, with a gap between parts and no task in two of them.

    Test takes its share of the newest rows, validation its share of what lies a gap before; the
    gaps are paid by the older neighbour and in the end by train, so that little data keeps a test part.
    A task belongs to the newest part that one of its attempts falls in; its attempts in older parts are
    dropped and counted. The order of the rows does not matter.

    Parameters
    ----------
    rows_or_times : DataFrame or sequence of datetime
        Rows with `matured_at`, `task_id` and, for the check of labels, `result`; or instants alone.
    task_ids : sequence of str, optional
        Needed unless a frame is given.
    gap : timedelta, default 0
        The task timeout.
    fractions : (float, float, float), default (0.70, 0.15, 0.15)
        Shares of train, validation and test.
    labels : sequence of bool, optional
        Success of each row; default `result == "success"` of the frame.
    max_held_out_rows : int or None, default 10_000
        Cap on validation and on test; None for no cap.

    Raises
    ------
    TrainingImpossible
        When a part would be empty or train would hold one class only.
    """
    _check_arguments(gap, fractions)
    times, tasks, success = _columns(rows_or_times, task_ids, labels)
    if len(times) == 0:
        raise TrainingImpossible("there are no rows to train on; collect outcomes first")
    gap_us = gap // timedelta(microseconds=1)
    test_start, validation_start = _boundaries(np.sort(times), gap_us, fractions, max_held_out_rows)
    part = _parts_by_time(times, gap_us, validation_start, test_start)
    in_gap = int(np.sum(part < 0))
    straddling = _straddling(part, tasks)
    part[straddling] = -1
    train, validation, test = (np.flatnonzero(part == index) for index in range(3))
    _check_parts((train, validation, test), success, len(times), gap)
    return Splits(
        train=train,
        validation=validation,
        test=test,
        train_ends_at=_instant(times[train].max()),
        validation_starts_at=_instant(times[validation].min()),
        validation_ends_at=_instant(times[validation].max()),
        test_starts_at=_instant(times[test].min()),
        gap=gap,
        dropped_in_gap=in_gap,
        dropped_straddling=int(straddling.sum()),
    )


def _check_arguments(gap: timedelta, fractions: tuple[float, float, float]) -> None:
    if gap < timedelta(0):
        raise ValueError(f"gap must not be negative, got {gap}")
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions must be three positive numbers that add up to 1, got {fractions}")


def _columns(
    rows_or_times: Any,  # noqa: ANN401  (a frame or anything that pandas reads as instants)
    task_ids: Any,  # noqa: ANN401  (any sequence)
    labels: Any,  # noqa: ANN401  (any sequence)
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Instants as int64 microseconds, task codes, and success or None; all of one length."""
    if isinstance(rows_or_times, pd.DataFrame):
        frame = rows_or_times
        task_ids = frame["task_id"] if task_ids is None else task_ids
        if labels is None and "result" in frame.columns:
            labels = (frame["result"] == "success").to_numpy(dtype=bool, na_value=False)
        rows_or_times = frame["matured_at"]
    if task_ids is None:
        raise ValueError("task_ids are needed when instants are given instead of rows")
    if isinstance(getattr(rows_or_times, "dtype", None), pd.ArrowDtype):
        # Otherwise pandas walks a million instants as Python objects: 5 s instead of 0.01 s.
        rows_or_times = rows_or_times.to_numpy(dtype="datetime64[us]")
    instants = pd.DatetimeIndex(pd.to_datetime(rows_or_times, utc=True))
    if instants.hasnans:
        raise ValueError("every row needs an instant; some are missing")
    times = instants.as_unit("us").asi8
    if not isinstance(task_ids, pd.Series):
        task_ids = np.asarray(task_ids, dtype=object)
    tasks = pd.factorize(task_ids, use_na_sentinel=False)[0]
    success = None if labels is None else np.asarray(labels, dtype=bool)
    if len(tasks) != len(times) or (success is not None and len(success) != len(times)):
        raise ValueError("instants, task_ids and labels must have the same length")
    return times, tasks, success


def _boundaries(
    order: np.ndarray, gap_us: int, fractions: tuple[float, float, float], cap: int | None
) -> tuple[int, int]:
    """Earliest instants of test and validation, in microseconds; `order` is sorted."""
    limit = len(order) if cap is None else cap
    test_rows = min(round(fractions[2] * len(order)), limit)
    validation_rows = min(round(fractions[1] * len(order)), limit)
    test_start = _start_of_newest(order, test_rows)
    older = order[_is_before(order, test_start, gap_us)]
    # With nothing before the gap, validation is empty, and the check of the parts says so.
    validation_start = _start_of_newest(older, validation_rows) if len(older) else test_start
    return test_start, validation_start


def _start_of_newest(order: np.ndarray, count: int) -> int:
    """The instant from which on about `count` rows remain; rows of one instant stay together."""
    count = max(count, 1)
    instant = order[max(len(order) - count, 0)]
    with_ties = len(order) - int(np.searchsorted(order, instant, side="left"))
    without_ties = len(order) - int(np.searchsorted(order, instant, side="right"))
    if without_ties and count - without_ties < with_ties - count:
        return int(order[-without_ties])
    return int(instant)


def _is_before(times: np.ndarray, start: int, gap_us: int) -> np.ndarray:
    return (times < start) & (times <= start - gap_us)


def _parts_by_time(times: np.ndarray, gap_us: int, validation_start: int, test_start: int) -> np.ndarray:
    """0 train, 1 validation, 2 test, -1 between two parts."""
    part = np.full(len(times), -1)
    part[_is_before(times, validation_start, gap_us)] = 0
    part[(times >= validation_start) & _is_before(times, test_start, gap_us)] = 1
    part[times >= test_start] = 2
    return part


def _straddling(part: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    newest = np.full(int(tasks.max()) + 1, -1)
    np.maximum.at(newest, tasks, part)
    return np.asarray((part >= 0) & (part < newest[tasks]))


def _check_parts(
    parts: tuple[np.ndarray, np.ndarray, np.ndarray], success: np.ndarray | None, rows: int, gap: timedelta
) -> None:
    for name, positions in zip(("train", "validation", "test"), parts, strict=True):
        if len(positions) == 0:
            raise TrainingImpossible(
                f"the {name} part would be empty: {rows} rows with a gap of {gap} between parts; "
                "collect outcomes over a longer time"
            )
    if success is None:
        return
    train = parts[0]
    successes = int(success[train].sum())
    if successes in (0, len(train)):
        kind = "failures" if successes == 0 else "successes"
        raise TrainingImpossible(
            f"all {len(train)} training rows are {kind}; a model needs both, collect outcomes that differ"
        )


def _instant(microseconds: int) -> datetime:
    # Integer arithmetic: a float of seconds would lose the last microsecond.
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(microseconds))
