from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from retrain_assets.core.canary import CanaryPolicy, Cell, Context, Evidence, VerdictKind, plan, seen_drop, weigh
from retrain_assets.core.canary_plan import outcomes_needed, passing_power

POLICY = CanaryPolicy()


def test_non_inferiority_at_the_default_margin_needs_973_canary_outcomes() -> None:
    """6.18 * 0.85 * 0.15 * 1.11 / 0.03^2; a margin twice as wide needs a quarter."""
    assert outcomes_needed(0.85, None, 0.1, POLICY) == pytest.approx(973, abs=1)
    assert outcomes_needed(0.85, None, 0.1, CanaryPolicy(margin=0.06)) == pytest.approx(973 / 4, abs=1)


def test_a_high_error_rate_can_need_more_than_success_does() -> None:
    """At 10 % errors the error margin of 0.02 is the harder one."""
    assert outcomes_needed(0.85, 0.1, 0.1, POLICY) == pytest.approx(6.18 * 0.09 * 1.111 / 0.02**2, rel=0.01)


def test_an_equal_canary_passes_both_margins_in_58_percent_of_trials_at_a_tight_error_margin() -> None:
    """At n = 1,000 and error margin 0.01: the joint power of correlated metrics, against simulated tasks."""
    told = passing_power(1000, 0.85, 0.02, 0.1, CanaryPolicy(error_margin=0.01))
    rng, runs, seed = np.random.default_rng(41), 20_000, 41
    rates = [0.85, 0.13, 0.02]
    own, other = rng.multinomial(1000, rates, runs) / 1000, rng.multinomial(9000, rates, runs) / 9000
    passed = np.ones(runs, dtype=bool)
    for column, margin in ((0, 0.03), (2, 0.01)):
        deviation = np.sqrt(
            own[:, column] * (1 - own[:, column]) / 1000 + other[:, column] * (1 - other[:, column]) / 9000
        )
        worse = other[:, column] - own[:, column] if column == 0 else own[:, column] - other[:, column]
        passed &= worse + 1.645 * deviation < margin
    print(f"seed {seed}: told {told:.3f}, simulated {passed.mean():.3f}")
    assert told == pytest.approx(0.58, abs=0.02)
    assert told == pytest.approx(passed.mean(), abs=0.03)


@pytest.mark.parametrize(
    ("n_canary", "rate", "share"), [(40, 0.85, 0.1), (240, 0.85, 0.1), (400, 0.6, 0.1), (300, 0.85, 0.5)]
)
def test_the_drop_a_plan_promises_to_see_is_seen_in_four_of_five_trials(
    n_canary: int, rate: float, share: float
) -> None:
    """The promised drop, simulated with the whole rule on success alone: seen in 0.80 of runs, give or take 0.13."""
    drop = seen_drop(n_canary, rate, share, POLICY)
    assert drop is not None
    runs, seed = 120, 42
    rng = np.random.default_rng(seed)
    own_tasks = round(20 * share)
    blocks, policy = n_canary // own_tasks, CanaryPolicy(planned_ticks=n_canary // own_tasks)
    seen = 0
    for _ in range(runs):
        own = rng.binomial(own_tasks, rate - drop, blocks).tolist()
        other = rng.binomial(20 - own_tasks, rate, blocks).tolist()
        cells = [[Cell("success", "a", own_tasks, a, 20 - own_tasks, b)] for a, b in zip(own, other, strict=True)]
        _, verdict = weigh(Evidence.start(policy), cells, policy, Context())
        seen += verdict.kind is VerdictKind.ROLL_BACK and verdict.evidence["relative"] >= policy.relative_threshold
    print(f"seed {seed}: n {n_canary}, share {share}: drop {drop:.3f} seen in {seen} of {runs}")
    assert 0.67 <= seen / runs <= 0.93


def test_more_outcomes_show_smaller_drops() -> None:
    """The promise sharpens with n, and with too few outcomes there is none."""
    drops = [seen_drop(n, 0.85, 0.1, POLICY) for n in (30, 100, 300, 1000, 3000)]
    assert all(d is not None for d in drops)
    assert drops == sorted(drops, reverse=True, key=lambda d: d or 0.0)
    assert seen_drop(2, 0.85, 0.1, POLICY) is None
    assert seen_drop(0, 0.85, 0.1, POLICY) is None


def test_a_busy_automation_is_asked_for_proof() -> None:
    """1,000 tasks an hour at 10 % for 24 hours: 2,400 canary outcomes, more than the 973 needed."""
    made = plan(POLICY, tasks_per_hour=1000)
    assert made.expected_canary_outcomes == pytest.approx(2400)
    assert made.evidence == "non_inferiority"
    assert made.expected_blocks == 2400
    assert made.is_enough
    assert made.equal_canary_passes > 0.95


def test_a_small_automation_is_asked_for_no_harm_and_told_what_that_is_worth() -> None:
    """100 outcomes a week: 1.4 canary outcomes a day, too few even to promote, and the plan says so."""
    made = plan(POLICY, tasks_per_hour=100 / 168)
    assert made.evidence == "no_harm"
    assert not made.is_enough
    assert made.seen_success_drop is None
    assert "too few to promote at all" in made.describe()
    assert "no drop of success would be seen" in made.describe()


def test_the_time_tasks_need_to_mature_is_taken_off() -> None:
    """Tasks decided in the last hour of 24 do not count when they take an hour to mature."""
    assert plan(POLICY, tasks_per_hour=100, maturity_hours=1).expected_canary_outcomes == pytest.approx(230)


def test_a_policy_that_names_its_evidence_is_obeyed() -> None:
    """Only `auto` chooses."""
    assert plan(CanaryPolicy(evidence="non_inferiority"), tasks_per_hour=1).evidence == "non_inferiority"
    assert plan(CanaryPolicy(evidence="no_harm"), tasks_per_hour=10_000).evidence == "no_harm"


def test_a_plan_is_plain_json() -> None:
    """It goes into the deployment event as it is."""
    made = plan(POLICY, tasks_per_hour=100, steps=3)
    assert json.loads(json.dumps(made.as_dict()))["expected_blocks"] == math.ceil(100 * 24 * 2 * 3 / 20)
    assert made.describe().startswith("240 canary outcomes expected in 24 hours at share 0.1; a drop of success by 0.")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"tasks_per_hour": -1.0}, "must not be negative"),
        ({"tasks_per_hour": 1.0, "share": 1.0}, "share must"),
        ({"tasks_per_hour": 1.0, "success_rate": 1.1}, "success_rate must"),
        ({"tasks_per_hour": 1.0, "duration_hours": 0.0}, "duration_hours must be positive"),
        ({"tasks_per_hour": 1.0, "looks": 3}, "looks must"),
    ],
)
def test_a_plan_out_of_range_is_refused(given: dict[str, Any], match: str) -> None:
    """The message names the parameter."""
    with pytest.raises(ValueError, match=match):
        plan(POLICY, **given)
