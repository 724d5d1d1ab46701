"""The rule: what evidence, policy and circumstances amount to.

Holds the verdicts' precedence and every condition of a promotion. Does not hold e-processes (canary_evidence) or
wording (canary_case), and does not act: a verdict is a value with its reason and all its numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from retrain_assets.core.canary_case import HOLD_LEVEL, Case, against_limit, comparison, number, weak_sentence
from retrain_assets.core.canary_context import Context, Verdict, VerdictKind
from retrain_assets.core.canary_evidence import Cell, Counts, Evidence
from retrain_assets.core.canary_math import binomial_two_sided, difference_lower_bound
from retrain_assets.core.canary_plan import SIGNIFICANCE, evidence_kind, outcomes_needed, seen_drop
from retrain_assets.core.canary_policy import CanaryPolicy

SHARE_CHECK_ALPHA = 0.001
POINT_ESTIMATE_TASKS = 200
"""Canary tasks from which the point estimate, too, must meet each limit."""
RECENT_TASKS = 200
"""Production's last tasks over which it must meet a limit again for an incident to end."""
DAY_HOURS = 24.0

_Found = tuple[VerdictKind, str]


def judge(evidence: Evidence, policy: CanaryPolicy, context: Context | Mapping[str, Any]) -> Verdict:
    """The verdict now, in the order of precedence of `VerdictKind`.

    Under `non_inferiority` a promotion needs proof that success and error are within their margins; under `no_harm`
    the absence of evidence of harm, and says how weak that is; `auto` asks for proof whenever the outcomes expected, or
    those that came, could give it. A rollback never waits for the end.

    Raises
    ------
    ValueError : a context field that is unknown or out of range.
    """
    context = Context.of(context)
    case = Case.of(evidence, policy)
    numbers = case.numbers(evidence, context)
    early = _harm(case, policy) or _incident(case, context, policy) or _hold(case, context, policy)
    if early is not None:
        return Verdict(*early, numbers)
    if not context.is_over:
        left = context.duration_hours * context.look - context.elapsed_hours
        return Verdict(VerdictKind.CONTINUE, f"{comparison(case)}; {left:.1f} hours left", numbers)
    return _at_the_end(case, evidence, context, numbers)


def weigh(
    evidence: Evidence, blocks: Iterable[Iterable[Cell]], policy: CanaryPolicy, context: Context | Mapping[str, Any]
) -> tuple[Evidence, Verdict]:
    """Evidence after `blocks`, one after the other, and the verdict; a rollback stops at the block that proves it.

    The same stream ends in the same rollback on the same evidence however its reads were batched, at a fraction of the
    cost of a full `judge` per block.

    Raises
    ------
    ValueError : a context field that is unknown or out of range.
    """
    context = Context.of(context)
    for cells in blocks:
        evidence = evidence.update(cells)
        if _may_be_harm(evidence, policy):
            verdict = judge(evidence, policy, context)
            if verdict.kind is VerdictKind.ROLL_BACK:
                return evidence, verdict
    return evidence, judge(evidence, policy, context)


def _may_be_harm(evidence: Evidence, policy: CanaryPolicy) -> bool:
    """A cheap necessary condition of a rollback: most blocks of a good canary end here."""
    if evidence.relative >= policy.relative_threshold:
        return True
    totals = evidence.totals()
    limits = ((totals.get(metric, Counts()), limit) for metric, limit in policy.limits.items())
    # A canary whose rate meets the limit has an e-value of at most 1 against it.
    if all(total.y_canary >= limit * total.n_canary for total, limit in limits):
        return False
    return evidence.absolute >= policy.absolute_threshold


def _harm(case: Case, policy: CanaryPolicy) -> _Found | None:
    if case.relative >= policy.relative_threshold:
        return VerdictKind.ROLL_BACK, comparison(case)
    if case.absolute_own >= policy.absolute_threshold:
        own = {metric: value for metric, value in case.log_limits.items() if case.production_meets[metric]}
        worst = max(own, key=own.__getitem__)
        against = f"evidence {number(case.absolute_own)} of {policy.absolute_threshold:,.0f} needed"
        return VerdictKind.ROLL_BACK, f"{against_limit(case, worst)}, which production meets, {against}"
    return None


def _incident(case: Case, context: Context, policy: CanaryPolicy) -> _Found | None:
    if case.absolute < policy.absolute_threshold:
        return None
    missed = [m for m, value in case.log_limits.items() if value > 0 and not case.production_meets[m]]
    if missed and all(_recovered(context, metric, policy.limits[metric]) for metric in missed):
        return None
    worst = max(missed, key=case.log_limits.__getitem__, default="success")
    against = f"evidence {number(case.absolute)} of {policy.absolute_threshold:,.0f} needed"
    sentence = f"{against_limit(case, worst)}, and production does not meet it either, {against}"
    return VerdictKind.ENVIRONMENT_INCIDENT, f"{sentence}; share and clock are frozen"


def _recovered(context: Context, metric: str, limit: float) -> bool:
    tasks, good = context.production_recent.get(metric, (0, 0))
    return tasks >= RECENT_TASKS and good / tasks >= limit


def _hold(case: Case, context: Context, policy: CanaryPolicy) -> _Found | None:
    reasons = []
    if case.relative >= HOLD_LEVEL:
        reasons.append(f"{comparison(case)}, {HOLD_LEVEL:.0f} hold the ramp")
    for arm, tasks, missing in (
        ("canary", context.tasks_canary, context.missing_canary),
        ("production", context.tasks_production, context.missing_production),
    ):
        if tasks and missing / tasks > policy.max_missing_share:
            allowed = f"more than the {policy.max_missing_share:.0%} allowed"
            reasons.append(f"{missing:,} of {tasks:,} {arm} tasks have no outcome, {allowed}")
    return (VerdictKind.HOLD, "; ".join(reasons)) if reasons else None


def _at_the_end(case: Case, evidence: Evidence, context: Context, numbers: dict[str, Any]) -> Verdict:
    policy = case.policy
    success, error = case.totals.get("success", Counts()), case.totals.get("error", Counts())
    success_rate = success.y_production / success.n_production if success.n_production else 0.9
    error_rate = 1 - error.y_production / error.n_production if error.n_production else None
    needed = outcomes_needed(success_rate, error_rate, context.share, policy)
    asked = evidence_kind(policy, max(case.n, context.expected_canary_outcomes or 0.0), needed)
    failed = _failed_checks(case, context)
    margins = _margins(evidence, policy, context)
    if asked == "non_inferiority":
        failed += [margin.failure for margin in margins if margin.failure] + _points_beyond(case)
    numbers |= {
        "asked": asked,
        "needed_canary_outcomes": needed,
        "lower_bounds": {margin.metric: margin.lower for margin in margins},
        "failed": failed,
    }
    if failed:
        then = "the canary is extended once" if context.look < context.looks else "production stays"
        return Verdict(VerdictKind.INCONCLUSIVE, f"{'; '.join(failed)}; {then}", numbers)
    target = "production" if context.is_last_step else "the next ramp step"
    if asked == "non_inferiority":
        proof = ", ".join(margin.sentence for margin in margins)
        return Verdict(VerdictKind.PROMOTE, f"to {target}: {proof}; {comparison(case)}", numbers)
    drop = seen_drop(case.n, success_rate, context.share, policy)
    numbers["unseen_drop"] = drop
    weak = weak_sentence(case.n, drop)
    return Verdict(VerdictKind.PROMOTE, f"to {target}: {comparison(case)}; {weak}", numbers, weak=True)


def _failed_checks(case: Case, context: Context) -> list[str]:
    """Conditions that every promotion needs, whatever evidence it asks for."""
    policy = case.policy
    failed = []
    if case.n < policy.min_canary_outcomes:
        failed.append(f"{case.n:,} canary outcomes, {policy.min_canary_outcomes:,} are needed")
    failed += _share_failure(case, context)
    hours = min(DAY_HOURS, context.duration_hours)
    seen = context.elapsed_hours >= hours if context.daily_cycle_seen is None else context.daily_cycle_seen
    if not seen and context.duration_hours >= DAY_HOURS:
        failed.append("a whole daily cycle has not been seen")
    if context.offline_refused:
        failed.append("the offline report refused the candidate")
    failed += [f"{against_limit(case, metric)}, proven broken" for metric, is_so in case.limit_broken.items() if is_so]
    return failed


def _share_failure(case: Case, context: Context) -> list[str]:
    counted = case.totals.get("success", Counts())
    if context.assigned_total is None or context.assigned_canary is None:
        canary, total = counted.n_canary, counted.n_canary + counted.n_production
    else:
        canary, total = context.assigned_canary, context.assigned_total
    if total == 0:
        return ["no decision to check the share on"]
    chance = binomial_two_sided(total, canary, context.share)
    if chance >= SHARE_CHECK_ALPHA:
        return []
    found = f"{canary:,} of {total:,} tasks were assigned to the canary, {canary / total:.3f}"
    return [f"{found} where the share logged is {context.share:.3f} (chance {chance:.1g})"]


@dataclass(frozen=True, slots=True)
class _Margin:
    metric: str
    lower: float | None
    margin: float

    @property
    def sentence(self) -> str:
        return f"{self.metric} difference at least {self.lower:+.3f} (margin {-self.margin:+.3f})"

    @property
    def failure(self) -> str | None:
        if self.lower is None:
            return f"{self.metric}: no data to compare"
        if self.lower > -self.margin:
            return None
        return f"{self.metric}: the difference could be {self.lower:+.3f}, beyond the margin {-self.margin:+.3f}"


def _margins(evidence: Evidence, policy: CanaryPolicy, context: Context) -> list[_Margin]:
    z = NormalDist().inv_cdf(1 - SIGNIFICANCE / context.looks)
    return [
        _Margin(metric, difference_lower_bound(evidence.tables(metric), z), margin)
        for metric, margin in (("success", policy.margin), ("error", policy.error_margin))
    ]


def _points_beyond(case: Case) -> list[str]:
    failed = []
    for metric, limit in case.policy.limits.items():
        total = case.totals.get(metric, Counts())
        enough = total.n_canary >= POINT_ESTIMATE_TASKS
        if enough and not case.limit_broken[metric] and total.y_canary / total.n_canary < limit:
            failed.append(against_limit(case, metric))
    return failed
