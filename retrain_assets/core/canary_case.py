"""The numbers of one canary at one moment, and how they read.

Holds what several verdicts share, computed once from the evidence, and every sentence part made from it. Does not hold
the rule (canary_verdict).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from retrain_assets.core.canary_context import Context
from retrain_assets.core.canary_evidence import Counts, Evidence
from retrain_assets.core.canary_math import capped_exp, log_mean, production_lower_bound, wilson_bounds
from retrain_assets.core.canary_policy import RELATIVE_WEIGHTS, CanaryPolicy

HOLD_LEVEL = 20.0
"""E_rel at which the ramp holds."""


@dataclass(frozen=True, slots=True)
class Case:
    """Numbers that several verdicts share, computed once, and how they read."""

    policy: CanaryPolicy
    log_relative: float
    log_metrics: dict[str, float]
    log_limits: dict[str, float]
    totals: dict[str, Counts]
    production_meets: dict[str, bool]
    limit_broken: dict[str, bool]

    @classmethod
    def of(cls, evidence: Evidence, policy: CanaryPolicy) -> Case:
        """The numbers of `evidence` under `policy`."""
        totals = evidence.totals()
        log_metrics = {metric: evidence.log_metric(metric) for metric in RELATIVE_WEIGHTS}
        meets, broken = {}, {}
        for metric, limit in policy.limits.items():
            total = totals.get(metric, Counts())
            meets[metric] = production_lower_bound(evidence.tables(metric)) >= limit
            broken[metric] = wilson_bounds(total.n_canary, total.y_canary)[1] < limit
        log_relative = log_mean((weight, log_metrics[metric]) for metric, weight in RELATIVE_WEIGHTS.items())
        return cls(policy, log_relative, log_metrics, evidence.log_limits(totals), totals, meets, broken)

    @property
    def relative(self) -> float:
        """E_rel, capped."""
        return capped_exp(self.log_relative)

    @property
    def absolute(self) -> float:
        """E_abs, capped."""
        return capped_exp(_mean_of(self.log_limits.values()))

    @property
    def absolute_own(self) -> float:
        """E_abs with the evidence on limits that production misses too capped at 1: what the canary alone broke.

        Never above E_abs, so the bound on false rollbacks holds for it as well.
        """
        own = [value if self.production_meets[metric] else min(value, 0.0) for metric, value in self.log_limits.items()]
        return capped_exp(_mean_of(own))

    @property
    def n(self) -> int:
        """Canary outcomes: its tasks with a result on `success`."""
        return self.totals.get("success", Counts()).n_canary

    def numbers(self, evidence: Evidence, context: Context) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {
            "relative": self.relative,
            "absolute": self.absolute,
            "absolute_own": self.absolute_own,
            "by_metric": {metric: capped_exp(value) for metric, value in self.log_metrics.items()},
            "by_limit": {metric: capped_exp(value) for metric, value in self.log_limits.items()},
            "rates": {metric: total.rates() for metric, total in self.totals.items()},
            "limits": self.policy.limits,
            "production_meets": dict(self.production_meets),
            "updates": evidence.updates,
            "needed": {
                "relative": self.policy.relative_threshold,
                "absolute": self.policy.absolute_threshold,
                "hold": HOLD_LEVEL,
            },
            "context": context.as_dict(),
        }


def _mean_of(logs: Iterable[float]) -> float:
    values = list(logs)
    return log_mean((1 / len(values), value) for value in values)


def describe(evidence: Evidence, policy: CanaryPolicy) -> str:
    """The evidence so far in one plain sentence, for `retrain status`."""
    total = evidence.total("success")
    if not (total.n_canary or total.n_production):
        return "no outcomes yet"
    parts = [
        f"canary {_rate_of(total.n_canary, total.y_canary)}",
        f"production {_rate_of(total.n_production, total.y_production)}",
    ]
    needed = f"evidence {number(evidence.relative)} of {policy.relative_threshold:.0f} needed to stop"
    return f"{', '.join(parts)}; {needed}"


def weak_sentence(n: int, drop: float | None) -> str:
    """How weak a promotion without proof is; `drop` from `seen_drop`."""
    unseen = "any drop could" if drop is None else f"a drop below {drop:.2f} would"
    return f"weak evidence: n = {n:,}, {unseen} have gone unseen"


# How each metric reads: its name, and whether good or bad events are told.
_TOLD = {
    "success": ("success", True),
    "error": ("error", False),
    "error_early": ("early error", False),
    "latency_p95": ("decisions slower than production's p95", False),
    "latency_p99": ("decisions slower than production's p99", False),
    "response_time": ("decisions over the response time limit", False),
}


def number(value: float) -> str:
    """An e-value for people: whole from 10 on, powers of ten from a million on."""
    if value >= 1e6:
        return f"{value:.1e}"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _rate_of(tasks: int, good: int) -> str:
    return f"{good / tasks:.2f} on {tasks:,} tasks" if tasks else "no tasks"


def _told(metric: str, tasks: int, good: int) -> str:
    count = good if _TOLD[metric][1] else tasks - good
    return f"{count / tasks:.2f} ({count:,} of {tasks:,})" if tasks else "no tasks"


def comparison(case: Case) -> str:
    """The metric that weighs most, in both arms, and E_rel."""
    counted = [name for name in RELATIVE_WEIGHTS if name in case.totals] or ["success"]
    metric = max(counted, key=lambda name: math.log(RELATIVE_WEIGHTS[name]) + case.log_metrics[name])
    total = case.totals.get(metric, Counts())
    arms = f"canary {_told(metric, total.n_canary, total.y_canary)}"
    arms += f", production {_told(metric, total.n_production, total.y_production)}"
    return (
        f"{_TOLD[metric][0]}: {arms}, evidence {number(case.relative)} of {case.policy.relative_threshold:.0f} needed"
    )


def against_limit(case: Case, metric: str) -> str:
    """Both arms on one limit metric, and the limit."""
    total, limit = case.totals.get(metric, Counts()), case.policy.limits[metric]
    name, is_good = _TOLD[metric]
    bound = f"at least {limit:.2f}" if is_good else f"at most {1 - limit:.2f}"
    canary = _told(metric, total.n_canary, total.y_canary)
    production = _told(metric, total.n_production, total.y_production)
    return f"{name}: canary {canary} where {bound} is the limit, production {production}"
