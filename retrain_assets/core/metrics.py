"""How good probabilities are, on rows that did not teach them: numbers with their uncertainty.

Holds the metrics, the paired bootstrap of two models and feature importance; does not hold the comparison by group
(`core/paired.py`), gates or verdicts (`core/report_gates.py`). All functions are pure and take arrays of one
length; `success` is bool, `p` is P(success).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

BINS = 10
RESAMPLES = 1_000
IMPORTANCE_BATCH_ROWS = 20_000
"""Shuffled rows that are predicted at once: a call for each column and repeat costs more than the prediction."""
CONFIDENCE = 0.95
HIGHER_IS_BETTER = {"accuracy": True, "roc_auc": True, "log_loss": False, "brier": False}
"""The metrics a threshold may be set on."""
_SMALLEST_P = 1e-7  # float32 near 1 knows no finer step, and a single certain mistake must not cost infinity
POWER_80 = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.80)
"""Standard errors that a difference must have to be shown (5 %, two-sided) with 80 % probability."""


def losses(success: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Log loss of each row in nats, shape (rows,); probabilities are kept 1e-7 off 0 and 1."""
    p = np.clip(np.asarray(p, dtype=np.float64), _SMALLEST_P, 1 - _SMALLEST_P)
    return np.asarray(-np.where(success, np.log(p), np.log1p(-p)))


def roc_auc(success: np.ndarray, p: np.ndarray) -> float | None:
    """Probability that a success is scored above a failure, ties counting half; None with one class."""
    positives = int(np.sum(success))
    negatives = len(success) - positives
    if positives == 0 or negatives == 0:
        return None
    ranks = rankdata(p)[np.asarray(success, dtype=bool)].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def wilson_interval(successes: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Two-sided interval of a rate, Wilson (1927); (0, 1) without rows."""
    if n <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, spread = successes / n, z * z / n
    middle = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def calibration_table(success: np.ndarray, p: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """Predicted against observed success rates in bins of equal count, lowest first.

    Returns
    -------
    list of dict
        `n`, `predicted`, `observed`, and the 95 % Wilson interval `low`, `high` of the observed rate.
    """
    table = []
    for members in np.array_split(np.argsort(p, kind="stable"), min(bins, len(p)) or 1):
        if len(members) == 0:
            continue
        hits = float(np.sum(success[members]))
        low, high = wilson_interval(hits, len(members))
        table.append(
            {
                "n": len(members),
                "predicted": float(np.mean(p[members])),
                "observed": hits / len(members),
                "low": low,
                "high": high,
            }
        )
    return table


def score(success: np.ndarray, p: np.ndarray) -> dict[str, float | int | None]:
    """All metrics of one group of rows.

    Returns
    -------
    dict
        `n`; `success_rate`; `predicted_rate`; `log_loss` (nats); `brier`; `calibration_error` (expected
        calibration error over ten bins of equal count); `roc_auc` (None with one class); `accuracy` at 0.5.
        Every value but n is None without rows.
    """
    n = len(success)
    names = ("success_rate", "predicted_rate", "log_loss", "brier", "calibration_error", "roc_auc", "accuracy")
    if n == 0:
        return {"n": 0, **dict.fromkeys(names)}
    table = calibration_table(success, p)
    return {
        "n": n,
        "success_rate": float(np.mean(success)),
        "predicted_rate": float(np.mean(p)),
        "log_loss": float(losses(success, p).mean()),
        "brier": float(np.mean((p - success) ** 2)),
        "calibration_error": float(sum(row["n"] * abs(row["predicted"] - row["observed"]) for row in table) / n),
        "roc_auc": roc_auc(success, p),
        "accuracy": float(np.mean((p > 0.5) == success)),
    }


def evaluate(success: np.ndarray, p: np.ndarray, action: np.ndarray, stratum: np.ndarray) -> dict[str, Any]:
    """`score` over all rows, per action and per stratum, and the calibration table.

    Returns
    -------
    dict
        `overall`, `by_action` (action to metrics), `by_stratum`, `calibration`; JSON-able.
    """
    success, p = np.asarray(success, dtype=bool), np.asarray(p, dtype=np.float64)

    def grouped(keys: np.ndarray) -> dict[str, Any]:
        names = np.asarray(keys, dtype=object).astype(str)
        return {str(name): score(success[names == name], p[names == name]) for name in np.unique(names)}

    return {
        "overall": score(success, p),
        "by_action": grouped(action),
        "by_stratum": grouped(stratum),
        "calibration": calibration_table(success, p),
    }


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two models on the same rows.

    Attributes
    ----------
    metric : str
    candidate, reference : float or None
        Each model's value; None where the rows cannot show it (ROC AUC of one class).
    improvement : float or None
        How much better the candidate is: positive is better, whichever way the metric counts.
    low, high : float or None
        95 % interval of the improvement, from paired resampling of whole tasks.
    standard_error : float or None
    detectable : float or None
        The difference that this many rows would show with 80 % probability (5 %, two-sided).
    """

    metric: str
    candidate: float | None
    reference: float | None
    improvement: float | None
    low: float | None
    high: float | None
    standard_error: float | None
    detectable: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return asdict(self)


def compare(
    candidate: np.ndarray,
    reference: np.ndarray,
    success: np.ndarray,
    *,
    metric: str = "log_loss",
    task: Sequence[str] | np.ndarray | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """Compare two models' probabilities of the same rows.

    The interval comes from a paired bootstrap (Efron and Tibshirani 1993, percentile): tasks are drawn with
    replacement, with all their attempts, and both models are judged on the same draw.

    Parameters
    ----------
    candidate, reference : ndarray, shape (rows,)
        P(success).
    success : ndarray of bool, shape (rows,)
    metric : str, default "log_loss"
        One of `HIGHER_IS_BETTER`.
    task : sequence of str, optional
        Task of each row; default: every row is its own.
    seed : int, default 0
    resamples : int, default 1_000
    """
    success = np.asarray(success, dtype=bool)
    sign = 1.0 if HIGHER_IS_BETTER[metric] else -1.0
    values = [metric_value(metric, success, np.asarray(p, dtype=np.float64)) for p in (candidate, reference)]
    if values[0] is None or values[1] is None:
        return Difference(metric, values[0], values[1], None, None, None, None, None)
    groups = np.arange(len(success)) if task is None else np.unique(np.asarray(task, dtype=str), return_inverse=True)[1]
    draws = sign * _resampled(
        metric, np.asarray(candidate), np.asarray(reference), success, groups=groups, seed=seed, resamples=resamples
    )
    draws = draws[np.isfinite(draws)]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(draws, [tail, 100 - tail]) if len(draws) else (math.nan, math.nan)
    error = float(draws.std(ddof=1)) if len(draws) > 1 else math.nan
    return Difference(
        metric=metric,
        candidate=values[0],
        reference=values[1],
        improvement=sign * (values[0] - values[1]),
        low=float(low),
        high=float(high),
        standard_error=error,
        detectable=POWER_80 * error,
    )


def metric_value(metric: str, success: np.ndarray, p: np.ndarray) -> float | None:
    """One metric of `HIGHER_IS_BETTER`; None where the rows cannot show it."""
    if metric == "roc_auc":
        return roc_auc(success, p)
    return float(_per_row(metric, success, p).mean()) if len(success) else None


def feature_importance(
    predict: Callable[[pd.DataFrame], np.ndarray],
    rows: pd.DataFrame,
    columns: Sequence[str],
    success: np.ndarray,
    *,
    seed: int = 0,
    sample: int = 1_000,
    repeats: int = 3,
) -> dict[str, float]:
    """How much log loss rises when one column is shuffled: permutation importance, Breiman (2001).

    Parameters
    ----------
    predict : callable
        Rows to P(success).
    rows : DataFrame
        Held-out rows.
    columns : sequence of str
        Columns to shuffle; absent ones are left out of the answer.
    success : ndarray of bool, shape (rows,)
    seed : int, default 0
    sample : int, default 1_000
        At most this many rows are used.
    repeats : int, default 3

    Returns
    -------
    dict
        Column to the mean rise in nats, largest first. About 0: the model does not need the column.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(rows))[:sample])
    rows, success = rows.iloc[chosen], np.asarray(success, dtype=bool)[chosen]
    if len(rows) == 0:
        return {}
    base = losses(success, predict(rows)).mean()
    known = [column for column in columns if column in rows.columns]
    orders = [(column, rng.permutation(len(rows))) for column in known for _ in range(repeats)]
    step = max(1, IMPORTANCE_BATCH_ROWS // len(rows))
    worse: list[float] = []
    for first in range(0, len(orders), step):
        batch = orders[first : first + step]
        p = predict(_shuffled(rows, batch)).reshape(len(batch), len(rows))
        worse.extend(losses(success, part).mean() for part in p)
    means = np.reshape(worse, (len(known), repeats)).mean(axis=1) if known else []
    rises = {column: float(mean - base) for column, mean in zip(known, means, strict=True)}
    return dict(sorted(rises.items(), key=lambda item: (-item[1], item[0])))


def _shuffled(rows: pd.DataFrame, orders: Sequence[tuple[str, np.ndarray]]) -> pd.DataFrame:
    """A copy of the rows for each order, one below the other, in which that one column follows the order."""
    size = len(rows)
    places = {column: np.tile(np.arange(size), len(orders)) for column in rows.columns}
    for copy, (column, order) in enumerate(orders):
        places[column][copy * size : (copy + 1) * size] = order
    return pd.DataFrame({column: rows[column].array.take(places[column]) for column in rows.columns})


def _per_row(metric: str, success: np.ndarray, p: np.ndarray) -> np.ndarray:
    if metric == "log_loss":
        return losses(success, p)
    if metric == "brier":
        return np.asarray((p - success) ** 2)
    return np.asarray((p > 0.5) == success, dtype=np.float64)


def _resampled(
    metric: str,
    candidate: np.ndarray,
    reference: np.ndarray,
    success: np.ndarray,
    *,
    groups: np.ndarray,
    seed: int,
    resamples: int,
) -> np.ndarray:
    """Candidate minus reference on each resample, shape (resamples,); NaN where a draw has one class."""
    rng = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    if metric == "roc_auc":
        first, second = _weighted_auc(candidate, success), _weighted_auc(reference, success)
        weights = (np.bincount(rng.integers(0, count, count), minlength=count)[groups] for _ in range(resamples))
        return np.array([first(weight) - second(weight) for weight in weights])
    difference = _per_row(metric, success, candidate) - _per_row(metric, success, reference)
    sums, sizes = np.bincount(groups, weights=difference), np.bincount(groups)
    draws = (rng.integers(0, count, count) for _ in range(resamples))
    return np.array([sums[draw].sum() / sizes[draw].sum() for draw in draws])


def _weighted_auc(p: np.ndarray, success: np.ndarray) -> Callable[[np.ndarray], float]:
    """ROC AUC as a function of row weights; sorting is done once for all resamples."""
    order = np.argsort(p, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(p[order]) > 0])
    good = success[order].astype(np.float64)

    def auc(weights: np.ndarray) -> float:
        weight = weights[order]
        positives, negatives = (np.add.reduceat(weight * part, starts) for part in (good, 1.0 - good))
        if positives.sum() == 0 or negatives.sum() == 0:
            return math.nan
        below = np.cumsum(negatives) - negatives
        return float(np.sum(positives * (below + negatives / 2)) / (positives.sum() * negatives.sum()))

    return auc
