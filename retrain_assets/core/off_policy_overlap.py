"""How much of what a policy would do a log of decisions has seen, and whether that is enough for an answer.

Holds the logged rows, the overlap with its limits and the reason of a refusal; does not hold estimators
(`core/off_policy_estimators.py`) or the evaluation (`core/off_policy.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from retrain_assets.core.off_policy_estimators import carrying_rows, check_chances, effective_rows, importance_weights

CERTAIN = 1 - 1e-9
"""Propensities above this left no other action a chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapLimits:
    """What a log must offer before a number is given.

    Attributes
    ----------
    min_effective_rows : float, default 50
        Fewer give an interval of a success rate that is at least 0.2 wide, too wide to decide by.
    min_carrying_rows : float, default 5
        Effective rows count the many light rows where policy and log agree; the error rests on the few heavy ones where
        they do not. With fewer than five nobody knows it, and Student's t is above 2.8.
    max_row_share : float, default 0.1
        Largest part of all weight that one row may have. Above it one task's luck decides.
    max_unsupported : float, default 0.05
        Largest part of the policy's choices that the log gave no chance: the answer may be wrong by as much.
    mean_weight_errors : float, default 4.0
        The mean weight is 1 when propensities are right and nothing is unsupported. Farther from 1 than this many of
        its standard errors, and than `max_unsupported`, the log is refused.
    max_weight : float, default 1_000
        Weights above it are cut to it; the bias this may cause is stated (`Overlap.clip_bias`). An epsilon of
        0.02 among ten actions gives weights up to 441, so only broken propensities meet it.

    Raises
    ------
    ValueError
        Naming the field that is out of range.
    """

    min_effective_rows: float = 50.0
    min_carrying_rows: float = 5.0
    max_row_share: float = 0.1
    max_unsupported: float = 0.05
    mean_weight_errors: float = 4.0
    max_weight: float = 1_000.0

    def __post_init__(self) -> None:
        for name in ("min_effective_rows", "min_carrying_rows"):
            if not getattr(self, name) >= 2:
                raise ValueError(f"{name} must be at least 2, got {getattr(self, name)}")
        for name in ("max_row_share", "max_unsupported"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        for name in ("mean_weight_errors", "max_weight"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, eq=False)
class LoggedRows:
    """Decisions with what became of them, arrays of one length.

    Attributes
    ----------
    actions : tuple of str
        The columns of every policy that is asked about.
    action : ndarray of str, shape (rows,)
        What was done. An action that is not in `actions` stays in: it is one that the policy would not take.
    propensity : ndarray, shape (rows,)
        With which it was chosen; rows where it is NaN or outside (0, 1] are left out and counted.
    reward : ndarray, shape (rows,)
        0 to 1; success is 1.
    task : ndarray of str, shape (rows,), optional
        Rows of one task are not independent; default: every row is its own.

    Raises
    ------
    ValueError
        When lengths differ or a reward is out of range.
    """

    actions: tuple[str, ...]
    action: np.ndarray
    propensity: np.ndarray
    reward: np.ndarray
    task: np.ndarray | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.action), len(self.propensity), len(self.reward)}
        lengths |= set() if self.task is None else {len(self.task)}
        if len(lengths) != 1:
            raise ValueError(f"the logged rows' arrays differ in length: {sorted(lengths)}")
        reward = np.asarray(self.reward, dtype=np.float64)
        if not ((reward >= 0) & (reward <= 1)).all():
            raise ValueError("reward must lie between 0 and 1 in every row")

    @property
    def usable(self) -> np.ndarray:
        """True where the propensity lies in (0, 1], shape (rows,)."""
        propensity = np.asarray(self.propensity, dtype=np.float64)
        return np.asarray((propensity > 0) & (propensity <= 1))

    @property
    def codes(self) -> np.ndarray:
        """Column of each row's action in `actions`, -1 for others."""
        action, columns = np.asarray(self.action), np.full(len(self.action), -1)
        for position, name in enumerate(self.actions):
            columns[action == name] = position
        return columns


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much of what the policy would do the log has seen.

    Attributes
    ----------
    rows, left_out : int
        Rows used, and rows without a propensity.
    effective_rows : float
        Kish (1965), of the weights that were used.
    carrying_rows : float
        The rows that the error rests on, see `core.off_policy_estimators.carrying_rows`.
    max_weight : float
        Before cutting.
    max_row_share : float
        The heaviest row's part of all weight.
    zero_share : float
        Rows whose action the policy would never take.
    mean_weight, mean_weight_error : float
        Before cutting; about 1 when all is well.
    never_logged_share : float
        Part of the policy's choices that are actions the log never holds.
    unsupported_share : float
        The same plus choices other than the logged one in rows of propensity 1: what is known to have had no chance.
    clipped_share : float
        Rows whose weight was cut.
    clip_bias : float
        Mean of the weight that was cut off: the value of IPS is too low by at most this, and of the others off by at
        most this (dr) and this / (1 - this) (snips, sndr), to either side.
    """

    rows: int
    left_out: int
    effective_rows: float
    carrying_rows: float
    max_weight: float
    max_row_share: float
    zero_share: float
    mean_weight: float
    mean_weight_error: float
    never_logged_share: float
    unsupported_share: float
    clipped_share: float
    clip_bias: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class UsedRows:
    """The rows with a propensity: `used` is True for them among all, `actions` counts the columns of a policy."""

    used: np.ndarray
    actions: int
    action: np.ndarray
    propensity: np.ndarray
    reward: np.ndarray
    task: np.ndarray | None
    model: np.ndarray | None

    @classmethod
    def of(cls, logged: LoggedRows, model: np.ndarray | None) -> UsedRows:
        """Leave out the rows without a propensity; a `ValueError` says what is wrong with the model of the reward."""
        used, shape = logged.usable, (len(logged.action), len(logged.actions))
        if model is not None:
            model = np.asarray(model, dtype=np.float64)
            if model.shape != shape:
                raise ValueError(f"reward_model must have the shape (rows, actions) = {shape}, got {model.shape}")
            model = model[used]
            if not ((model >= 0) & (model <= 1)).all():
                raise ValueError("reward_model must lie between 0 and 1 in every row")
        task = logged.task
        groups = None if task is None else np.unique(np.asarray(task, dtype=str)[used], return_inverse=True)[1]
        propensity, reward = (np.asarray(part, dtype=np.float64)[used] for part in (logged.propensity, logged.reward))
        return cls(used, shape[1], logged.codes[used], propensity, reward, groups, model)


@dataclass(frozen=True, slots=True, eq=False)
class Weighed:
    """A policy on the used rows: its action probabilities, its weights after cutting, and the overlap."""

    chances: np.ndarray
    weights: np.ndarray
    overlap: Overlap


def weigh(name: str, chances: np.ndarray, log: UsedRows, limits: OverlapLimits) -> Weighed:
    """Weigh the used rows for a policy.

    Parameters
    ----------
    name : str
        What the policy is called in an error.
    chances : ndarray, shape (rows, actions)
        Of all logged rows, those without a propensity included.
    log : UsedRows
    limits : OverlapLimits

    Raises
    ------
    ValueError
        When the shape does not fit, or probabilities do not add up to 1.
    """
    chances = check_chances(name, chances, (len(log.used), log.actions))[log.used]
    raw = importance_weights(chances, log.action, log.propensity)
    weights = np.minimum(raw, limits.max_weight)
    rows, total = len(raw), float(weights.sum())
    never = chances[:, ~np.isin(np.arange(chances.shape[1]), log.action)].sum(axis=1)
    elsewhere = np.where(log.propensity > CERTAIN, 1.0 - raw * log.propensity, never)
    overlap = Overlap(
        rows=rows,
        left_out=len(log.used) - rows,
        effective_rows=effective_rows(weights),
        carrying_rows=carrying_rows(weights),
        max_weight=float(raw.max(initial=0.0)),
        max_row_share=float(weights.max() / total) if total else 0.0,
        zero_share=_share(raw == 0),
        mean_weight=_share(raw),
        mean_weight_error=float(raw.std(ddof=1) / math.sqrt(rows)) if rows > 1 else math.inf,
        never_logged_share=_share(never),
        unsupported_share=_share(elsewhere),
        clipped_share=_share(raw > limits.max_weight),
        clip_bias=_share(raw - weights),
    )
    return Weighed(chances, weights, overlap)


def refusal(weighed: Weighed, log: UsedRows, limits: OverlapLimits) -> str:
    """Why there is no answer; empty when there is one."""
    found = weighed.overlap
    if not found.rows:
        return (
            f"no logged row has a propensity ({found.left_out:,} rows without): nothing can be said about other choices"
        )
    if (log.propensity > CERTAIN).all() and found.unsupported_share > 1 - CERTAIN:
        return (
            "every logged action was chosen with certainty, so the log holds nothing about other choices "
            f"({found.unsupported_share:.1%} of this policy's); set exploration.epsilon above 0"
        )
    if found.unsupported_share > limits.max_unsupported:
        return (
            f"{found.unsupported_share:.1%} of the policy's choices had no chance in the log; "
            f"at most {limits.max_unsupported:.1%} are tolerated"
        )
    if found.effective_rows < limits.min_effective_rows or found.carrying_rows < limits.min_carrying_rows:
        return (
            f"not enough overlap: effective sample size {found.effective_rows:,.0f} of {found.rows:,} rows, and "
            f"{found.carrying_rows:,.0f} rows carry the error; at least {limits.min_effective_rows:,.0f} and "
            f"{limits.min_carrying_rows:,.0f} are needed: collect more rows or explore more"
        )
    if found.max_row_share > limits.max_row_share:
        return (
            f"not enough overlap: one row holds {found.max_row_share:.1%} of all weight; "
            f"at most {limits.max_row_share:.1%} is tolerated"
        )
    off = abs(found.mean_weight - 1)
    if off > max(limits.max_unsupported, limits.mean_weight_errors * found.mean_weight_error):
        return (
            f"the mean weight is {found.mean_weight:.3f} +- {found.mean_weight_error:.3f} instead of 1: "
            "the propensities are wrong, or many of the policy's choices had no chance in the log"
        )
    return ""


def _share(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else 0.0
