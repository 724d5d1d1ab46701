"""What a canary can show before it starts, and what it could not have shown once it is over.

Holds the planning formulas and the plan. Does not hold verdicts, or the search over shares and durations: a search is a
loop over `plan`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from retrain_assets.core.canary_evidence import LOG_ODDS_DROPS
from retrain_assets.core.canary_policy import RELATIVE_WEIGHTS, CanaryPolicy, EvidenceKind

POWER = 0.8
SIGNIFICANCE = 0.05

_NORMAL = NormalDist()
# The mean over alternatives, the first restart weight and the neighbours' help together cost the best alternative
# about this factor; chosen against simulation at n = 30 to 1,000 (the tests simulate the promise again).
_MIXTURE_COST = 6.0


def outcomes_needed(success_rate: float, error_rate: float | None, share: float, policy: CanaryPolicy) -> float:
    """Canary outcomes with which an equal canary passes either margin, success or error, with 80 % probability.

    n = (z_0.95 + z_0.80)^2 p (1-p) (1 + n_c/n_p) / margin^2, which is 6.18 p (1-p) 1.11 / margin^2 at share 0.1; the
    larger of both metrics' n. That is for one look at 5 %. A canary that may be extended has two at 2.5 %: about 70 %
    pass at the first, at n, and about 94 % by the second, at 2n.
    """
    z = _NORMAL.inv_cdf(1 - SIGNIFICANCE) + _NORMAL.inv_cdf(POWER)
    need = success_rate * (1 - success_rate) / policy.margin**2
    if error_rate is not None:
        need = max(need, error_rate * (1 - error_rate) / policy.error_margin**2)
    return z * z * need / (1 - share)


def _moments(rate: float, weight: float, good_log: float, bad_log: float) -> tuple[float, float]:
    return weight * (rate * good_log + (1 - rate) * bad_log), weight * rate * (1 - rate) * (good_log - bad_log) ** 2


def _crossing(n: float, drift: float, variance: float, level: float) -> float:
    """P(a Brownian path with this drift and variance per task reaches `level` within n tasks)."""
    if variance <= 0:
        return 0.0
    sigma = math.sqrt(n * variance)
    reflected = 2 * drift * level / variance
    late = _NORMAL.cdf((-n * drift - level) / sigma)
    return _NORMAL.cdf((n * drift - level) / sigma) + (math.exp(reflected) * late if late > 0 else 0.0)


def detection_power(n_canary: float, drop: float, rate: float, share: float, policy: CanaryPolicy) -> float:
    """Probability that a success rate lower by `drop` is rolled back within `n_canary` canary outcomes.

    The log e-value of the alternative that does best is taken as a random walk with the exact mean and variance per
    canary outcome; success alone must lift E_rel over its threshold. An approximation, good to about 0.1.
    """
    if n_canary <= 0 or drop <= 0:
        return 0.0
    canary_rate = max(rate - drop, 0.0)
    level = math.log(policy.relative_threshold / RELATIVE_WEIGHTS["success"] * _MIXTURE_COST)
    best = 0.0
    for fall in LOG_ODDS_DROPS:
        odds = math.exp(-fall)
        q_c = rate * odds / (1 - rate + rate * odds)
        q_0 = share * q_c + (1 - share) * rate
        own = _moments(canary_rate, 1.0, math.log(q_c / q_0), math.log((1 - q_c) / (1 - q_0)))
        others = _moments(rate, (1 - share) / share, math.log(rate / q_0), math.log((1 - rate) / (1 - q_0)))
        best = max(best, _crossing(n_canary, own[0] + others[0], own[1] + others[1], level))
    return min(best, 1.0)


def seen_drop(n_canary: float, rate: float, share: float, policy: CanaryPolicy) -> float | None:
    """Smallest drop of the success rate that is rolled back with 80 % probability within `n_canary` outcomes.

    None when even a canary that never succeeds would not be seen.
    """
    rate = min(max(rate, 0.001), 0.999)
    share = min(max(share, 0.001), 0.999)
    if detection_power(n_canary, rate, rate, share, policy) < POWER:
        return None
    low, high = 0.0, rate
    for _ in range(40):
        middle = (low + high) / 2
        if detection_power(n_canary, middle, rate, share, policy) < POWER:
            low = middle
        else:
            high = middle
    return high


def passing_power(
    n_canary: float, success_rate: float, error_rate: float, share: float, policy: CanaryPolicy, *, looks: int = 1
) -> float:
    """Probability that an equal canary passes the success and the error margin together at `n_canary` outcomes.

    Normal approximation. The two estimates are correlated, since a task in error is no success:
    rho = sqrt(p e / ((1-p)(1-e))).
    """
    if n_canary <= 0:
        return 0.0
    z = _NORMAL.inv_cdf(1 - SIGNIFICANCE / looks)
    reach = []
    for rate, margin in ((success_rate, policy.margin), (error_rate, policy.error_margin)):
        deviation = math.sqrt(max(rate * (1 - rate), 1e-9) / n_canary / (1 - share))
        reach.append(margin / deviation - z)
    odds = success_rate / max(1 - success_rate, 1e-9) * error_rate / max(1 - error_rate, 1e-9)
    rho = min(math.sqrt(odds), 0.999)
    return _both_below(reach[0], reach[1], rho)


def _both_below(a: float, b: float, rho: float) -> float:
    """P(X <= a, Y <= b) of standard normals with correlation rho, by the midpoint rule."""
    low, steps = -8.0, 400
    width = (min(a, 8.0) - low) / steps
    spread = math.sqrt(1 - rho * rho)
    middles = [low + (i + 0.5) * width for i in range(steps)]
    return max(0.0, width * math.fsum(_NORMAL.pdf(x) * _NORMAL.cdf((b - rho * x) / spread) for x in middles))


def evidence_kind(policy: CanaryPolicy, n_canary: float, needed: float) -> EvidenceKind:
    """What a promotion asks for: the policy's kind, or for `auto` proof when `n_canary` outcomes could give it."""
    if policy.evidence != "auto":
        return policy.evidence
    return "non_inferiority" if n_canary >= needed else "no_harm"


@dataclass(frozen=True, slots=True)
class CanaryPlan:
    """What one canary can show.

    Attributes
    ----------
    share, duration_hours, tasks_per_hour : what was assumed; tasks of both arms.
    expected_canary_outcomes : canary tasks that mature within the duration.
    needed_canary_outcomes : what non-inferiority of success and of error needs, for 80 % power.
    seen_success_drop : smallest drop seen with 80 % probability within the duration, None when none would be.
    equal_canary_passes : probability that an equal canary passes both margins at the expected outcomes.
    evidence : what the promotion will ask for, `non_inferiority` or `no_harm`.
    expected_blocks : blocks over the longest extension: the policy's `planned_ticks`.
    is_enough : whether the expected outcomes reach `min_canary_outcomes`; if not, no promotion is to be expected.
    """

    share: float
    duration_hours: float
    tasks_per_hour: float
    expected_canary_outcomes: float
    needed_canary_outcomes: float
    seen_success_drop: float | None
    equal_canary_passes: float
    evidence: EvidenceKind
    expected_blocks: int
    is_enough: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the deployment event and asset metadata."""
        return asdict(self)

    def describe(self) -> str:
        """The plan in plain words."""
        expected = f"{self.expected_canary_outcomes:,.0f} canary outcomes expected in {self.duration_hours:g} hours"
        seen = "no drop of success would be seen reliably"
        if self.seen_success_drop is not None:
            seen = f"a drop of success by {self.seen_success_drop:.2f} would be seen with {POWER:.0%} probability"
        needed = f"non-inferiority needs {self.needed_canary_outcomes:,.0f}, so the promotion asks for {self.evidence}"
        few = "" if self.is_enough else "; too few to promote at all"
        return f"{expected} at share {self.share:g}; {seen}; {needed}{few}"


def plan(
    policy: CanaryPolicy,
    *,
    tasks_per_hour: float,
    share: float = 0.1,
    duration_hours: float = 24.0,
    success_rate: float = 0.85,
    error_rate: float = 0.02,
    maturity_hours: float = 0.0,
    looks: int = 2,
    steps: int = 1,
) -> CanaryPlan:
    """Plan for one share and one duration.

    Parameters
    ----------
    tasks_per_hour : tasks of both arms together, from recent weeks.
    share : fraction of tasks routed to the canary, strictly between 0 and 1.
    duration_hours : length of the first look, of one ramp step.
    success_rate, error_rate : production's, from recent weeks.
    maturity_hours : task timeout; tasks decided later than this before the end do not count.
    looks : looks allowed, 2 when the canary may be extended once; sets `expected_blocks`. The power is that of the
        first look at the level the looks leave it.
    steps : ramp steps, each of the same duration; sets `expected_blocks`.

    Raises
    ------
    ValueError : naming the parameter that is out of range.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, both excluded, got {share!r}")
    for name, rate in (("success_rate", success_rate), ("error_rate", error_rate)):
        if not 0 <= rate <= 1:
            raise ValueError(f"{name} must lie in 0..1, got {rate!r}")
    if min(tasks_per_hour, maturity_hours) < 0 or duration_hours <= 0:
        raise ValueError("tasks_per_hour and maturity_hours must not be negative, duration_hours must be positive")
    if looks not in (1, 2) or steps < 1:
        raise ValueError(f"looks must be 1 or 2 and steps at least 1, got {looks!r} and {steps!r}")
    expected = tasks_per_hour * share * max(duration_hours - maturity_hours, 0.0)
    needed = outcomes_needed(success_rate, error_rate, share, policy)
    blocks = tasks_per_hour * duration_hours * looks * steps / policy.block_tasks
    return CanaryPlan(
        share=share,
        duration_hours=duration_hours,
        tasks_per_hour=tasks_per_hour,
        expected_canary_outcomes=expected,
        needed_canary_outcomes=needed,
        seen_success_drop=seen_drop(expected, success_rate, share, policy),
        equal_canary_passes=passing_power(expected, success_rate, error_rate, share, policy, looks=looks),
        evidence=evidence_kind(policy, expected, needed),
        expected_blocks=max(1, math.ceil(blocks)),
        is_enough=expected >= policy.min_canary_outcomes,
    )
