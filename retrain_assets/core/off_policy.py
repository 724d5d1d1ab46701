"""How often a policy would have succeeded on logged tasks, or why this log cannot say.

Holds the evaluation and its result; does not hold the estimators (`core/off_policy_estimators.py`), the overlap and its
limits (`core/off_policy_overlap.py`; the public names of both can be imported from here) or gates (`core/report.py`).

The log need not come from one policy: a propensity is the chance of the action given the version that decided. Which
version decides is drawn independently of the task, so rows of canary and production mix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from retrain_assets.core.off_policy_estimators import (
    Contributions,
    Estimate,
    all_estimators,
    epsilon_greedy,
    on_policy,
)
from retrain_assets.core.off_policy_overlap import (
    LoggedRows,
    Overlap,
    OverlapLimits,
    UsedRows,
    refusal,
    weigh,
)

__all__ = [
    "Estimate",
    "LoggedRows",
    "NotEnoughOverlap",
    "OffPolicy",
    "Overlap",
    "OverlapLimits",
    "epsilon_greedy",
    "evaluate_policy",
]


@dataclass(frozen=True, slots=True)
class NotEnoughOverlap:
    """No number, because the log could not bear it.

    Attributes
    ----------
    reason : str
        A sentence for people, with the numbers and what would be needed.
    overlap : Overlap
    """

    reason: str
    overlap: Overlap

    @property
    def effective_rows(self) -> float:
        """See `Overlap.effective_rows`."""
        return self.overlap.effective_rows

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able; `is_enough` is False."""
        return {"is_enough": False, **asdict(self)}


@dataclass(frozen=True, slots=True)
class OffPolicy:
    """The value of a policy on logged rows.

    Attributes
    ----------
    estimates : mapping
        Estimator (`ips`, `snips`, and with a model of the reward `dm`, `dr`, `sndr`) to its `Estimate`.
    recommended : str
        The estimator to read: `sndr` with a model, else `snips`.
    logged : Estimate
        The mean reward of the same rows.
    gain_over_logging : mapping
        Estimator to the paired difference, policy minus log.
    gain_over_production : mapping or None
        Estimator to the paired difference, policy minus production, both estimated from these rows; None when no
        production was given or the log cannot judge it.
    production_note : str
        Why there is no such difference though production was given.
    overlap : Overlap
    confidence : float
    """

    estimates: Mapping[str, Estimate]
    recommended: str
    logged: Estimate
    gain_over_logging: Mapping[str, Estimate]
    gain_over_production: Mapping[str, Estimate] | None
    production_note: str
    overlap: Overlap
    confidence: float

    @property
    def value(self) -> Estimate:
        """The recommended estimate."""
        return self.estimates[self.recommended]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able; `is_enough` is True."""
        return {"is_enough": True, **asdict(self)}


def evaluate_policy(
    logged: LoggedRows,
    candidate: np.ndarray,
    *,
    reward_model: np.ndarray | None = None,
    production: np.ndarray | None = None,
    limits: OverlapLimits | None = None,
    confidence: float = 0.95,
) -> OffPolicy | NotEnoughOverlap:
    """Estimate how often a policy would have succeeded on logged tasks, or say why it cannot be known.

    Intervals are value plus and minus t errors, see `Contributions.estimate`. The reward model is taken as given: the
    error does not count how it was learned.

    Parameters
    ----------
    logged : LoggedRows
        Rows that taught neither the candidate nor the reward model: the test part.
    candidate : ndarray, shape (rows, actions)
        Its action probabilities, columns as `logged.actions`; see `epsilon_greedy`.
    reward_model : ndarray, shape (rows, actions), optional
        P(success) of each action. The candidate's own scores will do for `dr` and `sndr`; `dm` flatters it then.
    production : ndarray, shape (rows, actions), optional
        Another policy to compare with on the same rows.
    limits : OverlapLimits, optional
    confidence : float, default 0.95
        Of each interval by itself, two-sided.

    Raises
    ------
    ValueError
        When shapes do not fit, or probabilities do not add up to 1.
    """
    limits = limits or OverlapLimits()
    log = UsedRows.of(logged, reward_model)
    weighed = weigh("candidate", candidate, log, limits)
    reason = refusal(weighed, log, limits)
    if reason:
        return NotEnoughOverlap(reason, weighed.overlap)
    base = on_policy(log.reward)
    ours = all_estimators(weighed.chances, log.model, log.action, weighed.weights, log.reward)
    theirs, note = _production(production, log, limits)

    def intervals(found: Mapping[str, Contributions]) -> dict[str, Estimate]:
        return {name: item.estimate(confidence, log.task) for name, item in found.items()}

    return OffPolicy(
        estimates=intervals(ours),
        recommended="snips" if log.model is None else "sndr",
        logged=base.estimate(confidence, log.task),
        gain_over_logging=intervals({name: item.minus(base) for name, item in ours.items()}),
        gain_over_production=intervals({name: item.minus(theirs[name]) for name, item in ours.items()})
        if theirs
        else None,
        production_note=note,
        overlap=weighed.overlap,
        confidence=confidence,
    )


def _production(
    chances: np.ndarray | None, log: UsedRows, limits: OverlapLimits
) -> tuple[Mapping[str, Contributions], str]:
    """Production's estimators on the same rows, none when it was not given or the log cannot judge it; and why."""
    if chances is None:
        return {}, ""
    weighed = weigh("production", chances, log, limits)
    reason = refusal(weighed, log, limits)
    if reason:
        return {}, f"production cannot be judged: {reason}"
    return all_estimators(weighed.chances, log.model, log.action, weighed.weights, log.reward), ""
