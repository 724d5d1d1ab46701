"""The sticky assignment of tasks: exact in share, blind to patterns in ids, safe without a watch."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from retrain_assets.core.outcomes import Arm
from retrain_assets.core.routing import Route, assign, task_position

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
ROUTE = Route(
    production_version="v1",
    canary_version="v2",
    share=0.1,
    holdback_version="v0",
    holdback_share=0.05,
    rollout_id="r1",
    lease_until=NOW + timedelta(minutes=2),
)
IDS = {
    "numbers": [str(n) for n in range(20_000)],
    "steps of ten": [f"task-{n}" for n in range(0, 200_000, 10)],
    "addresses": [f"https://example.org/{n % 100}/{n}" for n in range(20_000)],
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_the_shares_are_met_whatever_the_ids_look_like(ids: list[str]) -> None:
    """Within five standard errors of 20,000 tasks."""
    arms = [assign(ROUTE, task, NOW) for task in ids]
    for arm, share in ((Arm.CANARY, 0.1), (Arm.HOLDBACK, 0.05), (Arm.PRODUCTION, 0.85)):
        found = arms.count(arm) / len(ids)
        assert abs(found - share) < 5 * math.sqrt(share * (1 - share) / len(ids))


def test_a_task_keeps_its_arm() -> None:
    """However often it is tried, on whatever machine: it depends on the id and the trial alone."""
    assert (task_position("task-1", "r1"), task_position("ä", "r1")) == (0.8157141056000343, 0.7881819135838152)
    assert len({assign(ROUTE, "task-1", NOW + timedelta(seconds=n)) for n in range(100)}) == 1


def test_a_larger_share_keeps_the_tasks_it_had() -> None:
    """Going up the ramp moves nobody out of the canary."""
    tasks = IDS["numbers"][:5_000]
    before = {task for task in tasks if assign(ROUTE, task, NOW) is Arm.CANARY}
    after = {task for task in tasks if assign(replace(ROUTE, share=0.25), task, NOW) is Arm.CANARY}
    assert before < after


def test_a_new_trial_assigns_afresh() -> None:
    """Otherwise the same tasks would be the guinea pigs every week."""
    tasks = IDS["numbers"][:5_000]
    first, second = (
        {task for task in tasks if assign(replace(ROUTE, rollout_id=rollout), task, NOW) is Arm.CANARY}
        for rollout in ("r1", "r2")
    )
    expected = 5_000 * 0.1 * 0.1
    assert abs(len(first & second) - expected) < 5 * math.sqrt(expected)


@pytest.mark.parametrize(
    "change",
    [
        {"lease_until": NOW},
        {"lease_until": NOW - timedelta(seconds=1)},
        {"lease_until": None},
        {"canary_version": None, "share": 0.0},
        {"share": 0.0},
        {"rollout_id": None},
    ],
    ids=str,
)
def test_without_a_lease_or_a_trial_no_task_goes_to_the_canary(change: dict[str, object]) -> None:
    """Nobody watching means no canary; the holdback goes on."""
    route = replace(ROUTE, **change)  # type: ignore[arg-type]
    arms = {assign(route, task, NOW) for task in IDS["numbers"][:2_000]}
    assert Arm.CANARY not in arms
    assert Arm.PRODUCTION in arms


def test_each_arm_has_its_version_and_a_fallback_is_production() -> None:
    """A canary that fails costs no task."""
    versions = {arm: ROUTE.version_of(arm) for arm in Arm}
    assert versions == {Arm.PRODUCTION: "v1", Arm.CANARY: "v2", Arm.HOLDBACK: "v0", Arm.FALLBACK: "v1"}


def test_positions_are_spread_evenly() -> None:
    """Ten equal parts of [0, 1), each within five standard errors."""
    positions = [task_position(task, "r") for task in IDS["addresses"]]
    assert 0 <= min(positions) < max(positions) < 1
    for part in range(10):
        found = sum(part / 10 <= position < (part + 1) / 10 for position in positions)
        assert abs(found - 2_000) < 5 * math.sqrt(20_000 * 0.1 * 0.9)


def test_long_trial_names_are_salts_too() -> None:
    """The hash takes 64 bytes of key; a longer name must not fail."""
    assert 0 <= task_position("t", "r" * 200) < 1
