"""The numbers behind `performance_report`."""

from __future__ import annotations

from datetime import timedelta

import pytest

from retrain_assets.core.outcomes import DecisionRecord
from retrain_assets.operations import performance
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.registry import ModelRegistry
from retrain_assets.store import decisions, outcomes, published, tables
from retrain_assets.testing import FakeClock


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
