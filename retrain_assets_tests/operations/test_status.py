"""How things stand, in facts and in words, and what the next run would do."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_assets.cli.output import plain
from retrain_assets.core.deployment import ModelVersion, Status
from retrain_assets.core.outcomes import DecisionRecord
from retrain_assets.demo.automation import SimulatedAutomation
from retrain_assets.operations import deploy, retrain, status
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.operations.watch import tick
from retrain_assets.settings import Config, resolve
from retrain_assets.store import datasets, decisions, registry
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.testing import FakeClock

CAUSE = Cause("ann", "because")


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the platform: Monday noon."""
    return FakeClock()


@pytest.fixture
def platform(home: Path, clock: FakeClock) -> Platform:
    """A fresh problem."""
    return open_platform(resolve(Config(), None), clock)


def _version(platform: Platform, week: str = "2025-12-28") -> ModelVersion:
    """A version that is staged; it has no artefact, since nothing here loads one."""
    draft = ModelVersion(
        version="", status=Status.REGISTERED, week=week, dataset_hash="d" * 64, schema_version="s",
        code_version="c", spec={"schema": platform.config.schema.to_dict()}, seed=0, parent_version=None,
        artefacts={}, metrics={}, report=None, run_id=None, created_at=platform.now(), training_id=week,
    )  # fmt: skip
    model = deploy.register(platform, draft, CAUSE)
    deploy.stage(platform, model, CAUSE)
    return replace(model, status=Status.STAGING)


def _on_trial(platform: Platform, clock: FakeClock) -> None:
    deploy.start(platform, _version(platform), CAUSE)
    clock.advance(hours=1)
    deploy.start(platform, _version(platform, "2026-01-04"), CAUSE)


def _decide(platform: Platform, clock: FakeClock, results: list[tuple[str, str]]) -> None:
    """Decisions of the trial that mature within the next hour, with their outcomes: (arm, result)."""
    with platform.database.read() as connection:
        route = registry.get_route(connection)
    now = clock()
    made = [
        DecisionRecord(
            decision_id=f"d{i}", task_id=f"t{i}", attempt=1, domain="a.org", decided_at=now,
            deadline_at=now + timedelta(minutes=30, seconds=i), features={}, actions=("comment",), action="comment",
            scores={"comment": 0.9}, propensity=1.0, assigned_arm=arm, arm=arm, share=route.share,
            model_version=route.canary_version if arm == "canary" else route.production_version,
            rollout_id=route.rollout_id, stratum="blog", latency_ms=0.1,
        )
        for i, (arm, _) in enumerate(results)
    ]  # fmt: skip
    with platform.database.write() as connection:
        decisions.append(connection, made)
    with FeedbackCollector(platform.settings.database_url, clock=clock) as collector:
        collector.append_outcomes(
            {"task_id": f"t{i}", "action_attempted": "comment", "result": result, "decision_id": f"d{i}"}
            for i, (_, result) in enumerate(results)
        )
    clock.advance(hours=1)


def _words(platform: Platform) -> str:
    return "\n".join(status.gather(platform).in_words())


def test_nothing_yet_is_told_with_the_next_step(platform: Platform, clock: FakeClock) -> None:
    """Without outcomes: import; with outcomes: run; with a version that does not serve: its name."""
    assert "retrain import FILE" in _words(platform)
    with FeedbackCollector(platform.settings.database_url, clock=clock) as collector:
        collector.append_outcome(task_id="t", action_attempted="comment", result=True)
    assert "1 outcomes are there. `retrain run`" in _words(platform)
    _version(platform)
    assert "the newest version is v1.0.0" in _words(platform)


def test_production_is_told_with_the_time_it_serves(platform: Platform, clock: FakeClock) -> None:
    """Since when, and how long that is; nothing on trial is said, too."""
    deploy.start(platform, _version(platform), CAUSE)
    assert "v1.0.0 serves as production since 2026-01-05 12:00 UTC (just now)." in _words(platform)
    clock.advance(hours=50)
    assert "(2 days ago)" in _words(platform)
    assert "Nothing is on trial." in _words(platform)
    assert status.gather(platform).to_dict()["evidence"] is None


def test_the_trial_is_told_with_share_plan_and_watch(platform: Platform, clock: FakeClock) -> None:
    """While the lease lasts it is watched; once it has run out the words say that no task goes to the canary."""
    _on_trial(platform, clock)
    words = _words(platform)
    assert "v1.0.1 is on trial with 10 % of the tasks since 2026-01-05 13:00 UTC" in words
    assert "Time: 0.0 of 24 hours." in words
    assert "Plan: " in words
    assert "It is watched: the lease lasts until 2026-01-05 13:02 UTC." in words
    clock.advance(minutes=5)
    assert "Nobody watches it (its lease ended 2026-01-05 13:02 UTC)" in _words(platform)
    assert "Time: 0.1 of 24 hours." in _words(platform)


def test_evidence_is_counted_from_matured_tasks(platform: Platform, clock: FakeClock) -> None:
    """Rates of both arms in the JSON are those of the tasks; the words have them, and the last verdict."""
    _on_trial(platform, clock)
    arms = itertools.cycle(["canary"] + ["production"] * 3)
    _decide(platform, clock, [(next(arms), "success" if i % 5 else "failed") for i in range(80)])
    tick(platform)
    found = status.gather(platform)
    evidence = found.to_dict()["evidence"]
    assert set(evidence) >= {"relative", "absolute", "by_metric", "rates"}
    assert evidence["rates"]["success"] == {"canary": 0.8, "production": 0.8, "n_canary": 20, "n_production": 60}
    assert evidence["rates"]["error"]["canary"] == 1.0
    assert evidence["relative"] < 20
    assert found.last_verdict == "CONTINUE"
    assert "canary 0.80 on 20 tasks, production 0.80 on 60 tasks" in _words(platform)
    assert "Last verdict: CONTINUE." in _words(platform)


def test_facts_are_json_with_aware_instants(platform: Platform, clock: FakeClock) -> None:
    """Every value of the status survives JSON, and instants carry their offset."""
    _on_trial(platform, clock)
    facts = json.loads(json.dumps(plain(status.gather(platform).to_dict()), allow_nan=False))
    assert facts["lease_until"] == "2026-01-05T13:02:00+00:00"
    assert facts["production_since"] == "2026-01-05T12:00:00+00:00"
    assert facts["holdback"] is None or facts["holdback"]["version"] == "v1.0.0"
    assert facts["events"][-1]["kind"] == "canary_started"
    assert facts["events"][-1]["to_status"] == "canary"


def test_a_pause_is_told_with_its_reason(platform: Platform) -> None:
    """Who reads the status knows why nothing deploys, and how to end it."""
    deploy.pause(platform, Cause("bob", "holidays"), is_paused=True)
    assert "Automatic deployment is paused since 2026-01-05 12:00 UTC: holidays." in _words(platform)
    assert "`retrain resume` ends the pause" in _words(platform)


def test_only_the_last_events_are_listed(platform: Platform) -> None:
    """Oldest first, no more than asked for."""
    for is_paused in (True, False) * 4:
        deploy.pause(platform, CAUSE, is_paused=is_paused)
    events = status.gather(platform, last=3).events
    assert [event.kind for event in events] == ["resumed", "paused", "resumed"]


@pytest.mark.parametrize(
    ("passed", "told"),
    [
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=1), "1 minute ago"),
        (timedelta(minutes=119), "1 hour ago"),
        (timedelta(hours=47), "1 day ago"),
        (timedelta(days=30), "30 days ago"),
    ],
)
def test_a_span_is_told_in_its_largest_unit(passed: timedelta, told: str) -> None:
    """Whole units, singular and plural."""
    now = FakeClock()()
    assert status.ago(now - passed, now) == told


def _history(platform: Platform, clock: FakeClock, n: int, *, first: int = 0, weeks: int = 2) -> None:
    newest = platform.calendar.newest_closed(platform.now())
    start_at = newest.end_at - timedelta(weeks=weeks)
    rows: list[dict[str, Any]] = SimulatedAutomation(4).history(n, start_at, newest.end_at, first=first)
    with FeedbackCollector(platform.settings.database_url, clock=clock) as collector:
        assert {receipt.status for receipt in collector.append_outcomes(rows)} == {"accepted"}


def test_the_outlook_agrees_with_what_the_run_then_finds(platform: Platform, clock: FakeClock) -> None:
    """Counted without a snapshot first, then beside the one that was trained on: always the run's own new tasks."""
    week = platform.calendar.newest_closed(platform.now())
    _history(platform, clock, 300)
    before = status.outlook(platform, week)
    assert (before.would_train, before.rows, before.new_tasks) == (True, 300, 300)
    run = retrain.Run(None)
    dataset, _ = retrain.merge(platform, week)
    prepared = retrain.prepare(platform, week, run)
    assert isinstance(prepared, retrain.Prepared)
    assert (prepared.new_tasks, dataset.rows) == (300, 300)
    _keep_training(platform, week.key, dataset.dataset_hash)
    assert status.outlook(platform, week).new_tasks == 0
    _history(platform, clock, 150, first=1_000, weeks=1)
    late = status.outlook(platform, week)
    assert (late.would_train, late.rows, late.new_tasks) == (True, 450, 150)
    retrain.merge(platform, week)
    again = retrain.prepare(platform, week, run)
    assert isinstance(again, retrain.Prepared)
    assert again.new_tasks == 150


def _keep_training(platform: Platform, week: str, dataset_hash: str) -> None:
    values: dict[str, Any] = {
        "training_id": "t", "week": week, "dataset_hash": dataset_hash, "spec": {}, "splits": {}, "artefacts": {},
        "metrics": {}, "code_version": "c", "libraries": {}, "parent_version": None, "created_at": platform.now(),
    }  # fmt: skip
    with platform.database.write() as connection:
        datasets.save_training(connection, values)


def test_the_outlook_says_why_nothing_would_deploy(platform: Platform, clock: FakeClock) -> None:
    """Too little is a skip with both numbers; an old week trains and would not deploy once something serves."""
    week = platform.calendar.newest_closed(platform.now())
    _history(platform, clock, 60)
    skip = status.outlook(platform, week)
    assert not skip.would_train
    assert "60 new tasks so far; retrain.min_new_samples asks for 100" in skip.reason
    _history(platform, clock, 300, first=2_000)
    deploy.start(platform, _version(platform), CAUSE)
    assert "may deploy" in status.outlook(platform, week).reason
    old = platform.calendar.before(week)
    assert "would not deploy: only the newest closed week" in status.outlook(platform, old).reason
