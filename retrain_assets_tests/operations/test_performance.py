"""The numbers behind `performance_report`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from retrain_assets.core.deployment import Status
from retrain_assets.core.outcomes import DecisionRecord
from retrain_assets.operations import performance
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.registry import ModelRegistry
from retrain_assets.store import decisions, outcomes, published, registry, tables
from retrain_assets.store.offered import offered_actions
from retrain_assets.testing import START, FakeClock


def _decided(  # noqa: PLR0917  (a table)
    platform: Platform, name: str, age: timedelta, version: str | None, action: str, result: str
) -> None:
    at = platform.now() - age
    record = DecisionRecord(
        decision_id=name,
        task_id=name,
        attempt=1,
        domain=None,
        decided_at=at,
        deadline_at=at + timedelta(hours=1),
        features={},
        actions=(action,),
        action=action,
        scores={action: 0.5},
        propensity=1.0,
        assigned_arm="production",
        arm="production",
        share=0.0,
        model_version=version,
        rollout_id=None,
        stratum="",
        latency_ms=2.0,
    )
    raw = {"task_id": name, "decision_id": name, "action_attempted": action, "result": result, "timestamp": at}
    with platform.database.write() as connection:
        decisions.append(connection, [record])
        outcomes.append(connection, [raw], published.outcome_rules(None), platform.now(), "tests")


def test_the_last_seven_days_are_counted_and_kept(platform: Platform, clock: FakeClock) -> None:
    """Per version and action; an answer without a version (the default action) is counted but belongs to none."""
    hours = timedelta(hours=1)
    _decided(platform, "new", 2 * hours, "v1.0.0", "comment", "success")
    _decided(platform, "bad", 2 * hours, "v1.0.0", "comment", "error")
    _decided(platform, "other", 2 * hours, "v1.0.0", "forum", "failed")
    _decided(platform, "none", 2 * hours, None, "comment", "success")
    _decided(platform, "young", 0 * hours, "v1.0.0", "comment", "success")
    _decided(platform, "old", timedelta(days=8), "v1.0.0", "comment", "success")
    rows = performance.report(platform)
    told = {(row.model_version, row.action): (row.tasks, row.success_rate, row.error_rate) for row in rows}
    assert told == {
        ("v1.0.0", "comment"): (2, 0.5, 0.5),
        ("v1.0.0", "forum"): (1, 0.0, 0.0),
        (None, "comment"): (1, 1.0, 0.0),
    }
    with platform.database.read() as connection:
        kept = connection.execute(tables.model_metrics.select()).all()
    assert {(row.version, row.action, row.window) for row in kept} == {
        ("v1.0.0", "comment", "7d"),
        ("v1.0.0", "forum", "7d"),
    }
    assert {row.metrics["success_rate"] for row in kept} == {0.5, 0.0}
    assert all(row.at == clock.now() for row in kept)


def test_a_report_by_action_does_not_ask_for_a_rollback(platform: Platform) -> None:
    """One action may be bad without the version being so."""
    _decided(platform, "bad", timedelta(hours=2), "v1.0.0", "forum", "error")
    performance.report(platform)
    assert ModelRegistry(platform.database.url, clock=platform.clock).should_rollback("v1.0.0") is False


def test_without_traffic_there_is_nothing_to_report(platform: Platform) -> None:
    """No rows, no numbers made up."""
    assert performance.report(platform, timedelta(days=1)) == []


def test_rates_of_a_row_are_shares_of_its_tasks() -> None:
    """Missing outcomes count as tasks."""
    row = decisions.Performance("v1.0.0", "production", "comment", 8, 4, 1, 3, 0.1)
    assert (row.success_rate, row.error_rate) == pytest.approx((0.5, 0.125))


# ---------------------------------------------------------------------------------------------------------- the ledger


def test_the_ledger_holds_promise_and_truth_for_each_version_and_week(platform: Platform, clock: FakeClock) -> None:
    """Missing outcomes count as no success and are told; what is not mature is not there; newest week first."""
    clock.set(START + timedelta(days=9))
    hours = timedelta(hours=1)
    for name, age, result in (("a", 2, "success"), ("b", 3, "failed"), ("c", 4, "error"), ("young", 0, "success")):
        _decided(platform, name, age * hours, "v1.0.0", "comment", result)
    _decided(platform, "week before", timedelta(days=7), "v1.0.0", 'odd "name"', "success")
    _decided(platform, "other", 2 * hours, "v1.0.1", "forum", "success")
    _decided(platform, "none", 2 * hours, None, "comment", "success")
    with platform.database.write() as connection:
        connection.execute(tables.outcomes.delete().where(tables.outcomes.c.task_id == "c"))
    lines = performance.update_ledger(platform)
    told = [(line.version, line.tasks, line.successes, line.missing, line.is_complete) for line in lines]
    assert told == [("v1.0.0", 3, 1, 1, False), ("v1.0.1", 1, 1, 0, False), ("v1.0.0", 1, 1, 0, True)]
    assert [line.week for line in lines] == ["2026-01-11", "2026-01-11", "2026-01-04"]
    assert all(line.predicted == pytest.approx(0.5) for line in lines)
    first = lines[0]
    assert first.realised == pytest.approx(1 / 3)
    assert first.low < first.realised < first.high
    assert (first.is_as_predicted, first.expected) == (True, None)


def test_the_ledger_keeps_what_changed_and_nothing_twice(platform: Platform, clock: FakeClock) -> None:
    """A late outcome makes one new row; looking again makes none; nobody is rolled back for a past week."""
    clock.set(START + timedelta(days=9))
    for name in ("a", "b"):
        _decided(platform, name, timedelta(hours=2), "v1.0.0", "comment", "error")
    assert len(_kept(platform)) == 0
    performance.update_ledger(platform)
    performance.update_ledger(platform)
    assert [row.metrics["realised"] for row in _kept(platform)] == [0.0]
    _decided(platform, "late", timedelta(hours=3), "v1.0.0", "comment", "success")
    performance.update_ledger(platform)
    assert [row.metrics["tasks"] for row in _kept(platform)] == [2, 3]
    assert {(row.version, row.action, row.window) for row in _kept(platform)} == {("v1.0.0", "*", "ledger 2026-01-11")}
    assert ModelRegistry(platform.database.url, clock=platform.clock).should_rollback("v1.0.0") is False


def _kept(platform: Platform) -> list[Any]:
    with platform.database.read() as connection:
        return list(connection.execute(tables.model_metrics.select().order_by(tables.model_metrics.c.id)))


def test_the_ledger_tells_what_the_report_expected(platform: Platform, clock: FakeClock, new_version: Any) -> None:  # noqa: ANN401  (see conftest)
    """The estimate that the report recommends; none where it refused to give one."""
    clock.set(START + timedelta(days=9))
    model = new_version(platform, Status.REGISTERED)
    estimate = {"value": 0.7, "standard_error": 0.05, "low": 0.6, "high": 0.8}
    for choices, expected in (
        ({"is_enough": True, "recommended": "sndr", "estimates": {"sndr": estimate}}, (0.7, 0.6, 0.8)),
        ({"is_enough": False, "reason": "not enough overlap"}, (None, None, None)),
    ):
        with platform.database.write() as connection:
            registry.set_report(connection, model.version, {"details": {"off_policy": choices}})
        _decided(platform, f"task {expected[0]}", timedelta(hours=2), model.version, "comment", "success")
        (line,) = performance.update_ledger(platform)
        assert (line.expected, line.expected_low, line.expected_high) == expected


def test_the_actions_that_decisions_could_choose_from_are_found_for_many_at_once(platform: Platform) -> None:
    """More of them than one query takes; those that are not in the log are left out."""
    for name, action in (("a", "comment"), ("b", "forum")):
        _decided(platform, name, timedelta(hours=2), "v1.0.0", action, "success")
    with platform.database.read() as connection:
        found = offered_actions(connection, ["a", *(f"unknown {place}" for place in range(1_200)), "b", "a"])
    assert found == {"a": ("comment",), "b": ("forum",)}
