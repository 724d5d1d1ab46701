"""Whether one model is better than another on the same rows, overall and group by group, without resampling.

Holds the paired mean with its interval and p-values, the comparison by action or stratum, and the correction for many
of them; does not hold the metrics (`core/metrics.py`) or verdicts (`core/report_gates.py`). Pure functions of arrays of
one length; `success` is bool.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from retrain_assets.core.metrics import CONFIDENCE, POWER_80, losses


@dataclass(frozen=True, slots=True)
class PairedMean:
    """The mean of what each row differs by between two models, with its error over whole tasks.

    Attributes
    ----------
    rows, tasks : int
    mean : float or None
        None without rows.
    standard_error, low, high : float or None
        Two-sided 95 % interval by Student's t with tasks - 1 degrees of freedom; None with fewer than two tasks.
    p_worse : float
        One-sided probability of so low a mean when the truth is 0; 1 where it cannot be judged.
    p_better : float
        The same for so high a mean.
    """

    rows: int
    tasks: int
    mean: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    p_worse: float = 1.0
    p_better: float = 1.0

    @property
    def detectable(self) -> float | None:
        """The difference that so many rows would show with 80 % probability (5 %, two-sided)."""
        return None if self.standard_error is None else POWER_80 * self.standard_error


def paired_mean(difference: np.ndarray, task: Sequence[str] | np.ndarray | None = None) -> PairedMean:
    """Judge the mean of row-wise differences; rows of one task count as one piece of evidence.

    The error is that of a ratio of sums over tasks (linearised, Liang and Zeger 1986).

    Parameters
    ----------
    difference : ndarray, shape (rows,)
        For example the reference's loss minus the candidate's: positive means better.
    task : sequence of str, optional
        Task of each row; default: every row is its own.
    """
    rows = len(difference)
    groups = np.arange(rows) if task is None else np.unique(np.asarray(task, dtype=str), return_inverse=True)[1]
    tasks = int(groups.max()) + 1 if rows else 0
    if rows == 0:
        return PairedMean(0, 0, None, None, None, None)
    mean = float(np.mean(difference))
    if tasks < 2:  # one task alone cannot show how tasks differ
        return PairedMean(rows, tasks, mean, None, None, None)
    sums = np.bincount(groups, weights=difference - mean)
    error = math.sqrt(float(np.sum(sums**2)) * tasks / (tasks - 1)) / rows
    half = float(stdtrit(tasks - 1, 0.5 + CONFIDENCE / 2)) * error
    if error == 0:
        return PairedMean(rows, tasks, mean, 0.0, mean, mean, float(mean >= 0), float(mean <= 0))
    below = float(stdtr(tasks - 1, mean / error))
    return PairedMean(rows, tasks, mean, error, mean - half, mean + half, below, 1.0 - below)


def compare_groups(
    candidate: np.ndarray, reference: np.ndarray, success: np.ndarray, group: np.ndarray, task: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Log loss of two models on the same rows, group by group, such as action or stratum.

    Parameters
    ----------
    candidate, reference : ndarray, shape (rows,)
        P(success).
    success : ndarray of bool, shape (rows,)
    group, task : ndarray of str, shape (rows,)

    Returns
    -------
    dict
        Group to `rows`, `tasks`, `successes`; `candidate` and `reference` (log loss, nats) with `candidate_low` and so
        on; `improvement` (positive: the candidate is better) with `low`, `high`, `standard_error`, `detectable` and
        `p_worse`. Intervals are 95 %, each by itself.
    """
    ours, theirs = losses(success, candidate), losses(success, reference)
    found = {}
    for name in np.unique(group):
        rows = group == name
        sides = {"candidate": paired_mean(ours[rows], task[rows]), "reference": paired_mean(theirs[rows], task[rows])}
        gain = paired_mean(theirs[rows] - ours[rows], task[rows])
        found[str(name)] = {
            "rows": gain.rows,
            "tasks": gain.tasks,
            "successes": int(np.sum(success[rows])),
            **{side: item.mean for side, item in sides.items()},
            **{f"{side}_{end}": getattr(item, end) for side, item in sides.items() for end in ("low", "high")},
            "improvement": gain.mean,
            **{name: getattr(gain, name) for name in ("low", "high", "standard_error", "detectable", "p_worse")},
        }
    return found


def holm(p_values: Mapping[str, float], level: float) -> dict[str, float]:
    """Which of several tests are significant when at most `level` of such families may hold one false alarm.

    Holm (1979): the k-th smallest p-value is asked to lie below level / (tests - k + 1), up to the first that does not.

    Returns
    -------
    dict
        The significant ones with the limit each was below, smallest p-value first.
    """
    kept: dict[str, float] = {}
    for place, name in enumerate(sorted(p_values, key=lambda name: (p_values[name], name))):
        limit = level / (len(p_values) - place)
        if p_values[name] > limit:
            break
        kept[name] = limit
    return kept
