"""The watch on production alone: limits are judged with evidence, block by block, and told once."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from retrain_assets.core.deployment import EventKind
from retrain_assets.core.monitor import ALARM_EVENTS, Alarm, ProductionWatch
from retrain_assets.core.outcomes import Result
from retrain_assets.core.promotion import TaskResult

AT = datetime(2026, 1, 5, 12, tzinfo=UTC)


def _watch(**changes: Any) -> ProductionWatch:  # noqa: ANN401  (arguments of `start`)
    limits = {"min_success_rate": 0.75, "max_error_rate": 0.10, "max_response_time_ms": 200.0, "block_tasks": 20}
    return ProductionWatch.start(**limits | changes)


def _tasks(rng: np.random.Generator, n: int, success: float, error: float = 0.0, slow: float = 0.0) -> list[TaskResult]:
    draws = rng.random((n, 3))
    made = []
    for is_success, is_error, is_slow in zip(
        draws[:, 0] < success, draws[:, 1] < error, draws[:, 2] < slow, strict=True
    ):
        result = Result.ERROR if is_error else Result.SUCCESS if is_success else Result.FAILURE
        latency_ms = 201.0 if is_slow else 1.0
        made.append(
            TaskResult(
                stratum="",
                assigned_arm="production",
                arm="production",
                share=0.0,
                latency_ms=latency_ms,
                result=result,
                matured_at=AT,
            )
        )
    return made


def _first_alarm(watch: ProductionWatch, tasks: list[TaskResult]) -> tuple[int, Alarm] | None:
    """After how many tasks, and which."""
    for n in range(0, len(tasks), 20):
        watch, alarms = watch.update(tasks[n : n + 20])
        if alarms:
            return n + 20, alarms[0]
    return None


@pytest.mark.parametrize(
    ("rates", "metric"),
    [((0.55,), "success"), ((1.0, 0.25), "error"), ((1.0, 0.0, 0.2), "response_time")],
    ids=["success", "error", "response time"],
)
def test_a_broken_limit_is_found_within_a_few_hundred_tasks(rates: tuple[float, ...], metric: str) -> None:
    """In each of 40 runs, by the right metric first."""
    seeds = range(40)
    print(f"seeds {seeds}")
    needed = []
    for seed in seeds:
        found = _first_alarm(_watch(), _tasks(np.random.default_rng(seed), 2_000, *rates))
        assert found is not None, seed
        assert found[1].metric == metric, seed
        needed.append(found[0])
    assert np.median(needed) < 400


def test_production_at_its_limits_raises_no_alarm() -> None:
    """A hundred runs of 2,000 tasks exactly at the limits: at 10,000 blocks between false alarms, at most a few."""
    seeds = range(100)
    print(f"seeds {seeds}")
    # 100 runs of 100 blocks are 10,000 blocks; each limit may raise 1 on average. Poisson(3) exceeds 11 once in 10,000.
    found = sum(
        _first_alarm(_watch(), _tasks(np.random.default_rng(1_000 + seed), 2_000, 0.8334, 0.10, 0.05)) is not None
        for seed in seeds
    )
    assert found <= 11


def test_idle_time_is_no_evidence() -> None:
    """Only tasks advance the watch."""
    watch, _ = _watch().update(_tasks(np.random.default_rng(0), 30, 0.5))
    for _ in range(100):
        again, alarms = watch.update([])
        assert (again, alarms) == (watch, [])


def test_how_tasks_are_batched_changes_nothing() -> None:
    """Blocks are closed by count."""
    tasks = _tasks(np.random.default_rng(1), 300, 0.7)
    whole, alarms = _watch().update(tasks)
    watch, found = _watch(), []
    for task in tasks:
        watch, raised = watch.update([task])
        found += raised
    assert (watch, found) == (whole, alarms)


def test_an_alarm_is_raised_once_until_the_limit_is_met_again() -> None:
    """Bad, bad, bad: one page. Well again, then bad: another."""
    rng = np.random.default_rng(2)
    watch, told = _watch(), []
    for success in [0.4] * 3 + [0.95] * 3 + [0.4] * 3:
        watch, alarms = watch.update(_tasks(rng, 400, success))
        told.append(len(alarms))
    assert told == [1, 0, 0, 0, 0, 0, 1, 0, 0]


def test_a_watch_survives_json() -> None:
    """With an open block, closed ones and an alarm."""
    watch, alarms = _watch().update(_tasks(np.random.default_rng(3), 333, 0.3))
    assert alarms
    again = ProductionWatch.from_dict(json.loads(json.dumps(watch.to_dict())))
    assert again == watch
    tasks = _tasks(np.random.default_rng(4), 333, 0.9)
    assert again.update(tasks) == watch.update(tasks)


@pytest.mark.parametrize(
    ("metric", "limit", "good", "sentence"),
    [
        (
            "success",
            0.75,
            100,
            "success rate 0.500 on the last 200 tasks, limit 0.750 (evidence 12,345 of 10,000 needed)",
        ),
        ("error", 0.90, 150, "error rate 0.250 on the last 200 tasks, limit 0.100 (evidence 12,345 of 10,000 needed)"),
        (
            "response_time",
            0.95,
            150,
            "25.0% of the last 200 decisions were over the response time limit (evidence 12,345 of 10,000 needed)",
        ),
    ],
)
def test_an_alarm_reads_as_a_sentence_with_its_numbers(metric: str, limit: float, good: int, sentence: str) -> None:
    """Whoever is paged at night reads nothing else."""
    alarm = Alarm(metric=metric, value=12_345.0, threshold=10_000.0, limit=limit, tasks=200, good=good)
    assert alarm.sentence == sentence
    assert json.loads(json.dumps(alarm.to_dict()))["metric"] == metric


def test_each_limit_has_its_alert() -> None:
    """The seed's three, and no limit without one."""
    assert set(ALARM_EVENTS) == set(_watch().detectors)
    assert set(ALARM_EVENTS.values()) == {
        EventKind.SUCCESS_RATE_DROP,
        EventKind.ERROR_RATE_INCREASE,
        EventKind.RESPONSE_TIME_INCREASE,
    }
