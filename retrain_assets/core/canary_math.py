"""Numbers under the canary rule: Wilson bounds, the limit e-value, the share test, the stratified difference.

Holds closed forms on counts, in logs where they can grow, with the standard library alone, so that the base install can
judge a canary. Does not hold state, policies or verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist

Table = tuple[int, int, int, int]
"""Counts of one cell: canary tasks, canary good, production tasks, production good."""

Z_ONE_SIDED_95 = NormalDist().inv_cdf(0.95)
MAX_LOG = 700.0
"""Logs above this are reported as exp(700), about 1e304: evidence stays a finite number in JSON."""

_FRACTION_TOLERANCE = 1e-15
_TINY = 1e-300


def capped_exp(log_value: float) -> float:
    """Exponential that stays finite: values above `MAX_LOG` are reported as exp(`MAX_LOG`)."""
    return math.exp(min(log_value, MAX_LOG))


def log_add(left: float, right: float) -> float:
    """Logarithm of exp(left) + exp(right), without overflow; minus infinity stands for zero."""
    if left < right:
        left, right = right, left
    return left if right == -math.inf else left + math.log1p(math.exp(right - left))


def log_mean(values: Iterable[tuple[float, float]]) -> float:
    """Logarithm of sum(weight * exp(log)) over (weight, log) pairs; weights that add to 1 make it a mean."""
    pairs = list(values)
    top = max(log for _, log in pairs)
    return top + math.log(math.fsum(weight * math.exp(log - top) for weight, log in pairs))


def wilson_bounds(n: float, good: float, z: float = Z_ONE_SIDED_95) -> tuple[float, float]:
    """Wilson score bounds of a rate (E. B. Wilson 1927), each one-sided at the level of `z`.

    Parameters
    ----------
    n : tasks; may be an effective (fractional) number. 0 gives (0, 1): nothing is known.
    good : good events among them, 0 to n.
    z : normal quantile, default the one-sided 95 % one (1.645).
    """
    if n <= 0:
        return 0.0, 1.0
    rate = good / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(max(rate * (1 - rate), 0.0) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Continued fraction h of the incomplete beta function: I_x(a, b) = x^a (1-x)^b h / (a B(a, b)).

    Modified Lentz evaluation of DLMF 8.17.22; converges for x below (a + 1) / (a + b + 2) in about sqrt(a + b) steps.
    """
    c, d = 1.0, 1.0 / (1 - (a + b) * x / (a + 1))
    h = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1.0 / (1 + term * d or _TINY)
            c = 1 + term / c or _TINY
            step = c * d
            h *= step
        if abs(step - 1) < _FRACTION_TOLERANCE:
            return h
    raise ArithmeticError(f"incomplete beta fraction did not converge for a={a}, b={b}, x={x}")


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def log_limit_evidence(n: int, good: int, limit: float) -> float:
    """Log e-value against "the rate of good events is at least `limit`".

    E = B(s+1, f+1) I_p0(s+1, f+1) / (p0 * p0^s (1-p0)^f): the likelihood at p0 against its mean over a uniform p
    below p0. Each such ratio has expectation at most 1 for every true rate >= p0, hence so has the mean, after every
    task: E is an e-process in (s, f). 0 tasks give log 1 = 0.

    Parameters
    ----------
    n, good : tasks and good events, cumulative since the start.
    limit : p0, strictly between 0 and 1.
    """
    if n == 0:
        return 0.0
    a, b = good + 1, n - good + 1
    if limit < (a + 1) / (a + b + 2):
        # B * I is x^a (1-x)^b h / a, so every large factor cancels: no logs of tiny tails.
        return math.log((1 - limit) * _beta_fraction(a, b, limit) / a)
    log_full = _log_beta(a, b) - a * math.log(limit) - (b - 1) * math.log1p(-limit)
    beyond = (1 - limit) * _beta_fraction(b, a, 1 - limit) / b
    return log_full + math.log1p(-beyond * math.exp(-log_full))


def _binomial_upper_tail(n: int, k: int, p: float) -> float:
    """P(X >= k) for X binomial (n, p): the incomplete beta I_p(k, n - k + 1)."""
    if k <= 0:
        return 1.0
    if k > n:
        return 0.0
    a, b = k, n - k + 1
    log_front = a * math.log(p) + b * math.log1p(-p) - _log_beta(a, b)
    if p < (a + 1) / (a + b + 2):
        return math.exp(log_front) * _beta_fraction(a, b, p) / a
    return 1.0 - math.exp(log_front) * _beta_fraction(b, a, 1 - p) / b


def binomial_two_sided(n: int, k: int, p: float) -> float:
    """Two-sided exact binomial p-value, twice the smaller tail, at most 1. `p` strictly between 0 and 1."""
    upper = _binomial_upper_tail(n, k, p)
    lower = 1.0 if k >= n else _binomial_upper_tail(n, n - k, 1 - p)
    return min(1.0, 2 * min(upper, lower))


def _effective_tasks(cells: list[Table], weights: list[float], arm: int) -> float:
    """Tasks that a weighted rate of one arm (0 canary, 2 production) is worth; with one cell, that cell's tasks.

    Rates of both arms together, smoothed, serve the variance only: an arm with two tasks in a cell knows too little of
    its own.
    """
    pooled = [(y_c + y_p + 0.5) / (n_c + n_p + 1) for n_c, y_c, n_p, y_p in cells]
    centre = math.fsum(w * q for w, q in zip(weights, pooled, strict=True))
    spread = math.fsum(w * w * q * (1 - q) / cell[arm] for w, q, cell in zip(weights, pooled, cells, strict=True))
    return centre * (1 - centre) / spread


def _weighted_bounds(cells: list[Table], raw: list[float], arm: int, z: float) -> tuple[float, float, float]:
    """Weighted rate of one arm and its Wilson bounds."""
    whole = math.fsum(raw)
    weights = [weight / whole for weight in raw]
    rate = min(1.0, math.fsum(w * cell[arm + 1] / cell[arm] for w, cell in zip(weights, cells, strict=True)))
    effective = _effective_tasks(cells, weights, arm)
    return (rate, *wilson_bounds(effective, rate * effective, z))


def production_lower_bound(tables: Iterable[Table], z: float = Z_ONE_SIDED_95) -> float:
    """Wilson lower bound of the rate production would have with the canary's tasks.

    Production's rate per stratum x step, weighted by the canary's tasks there. Without this, routing that gives the
    canary more of the hard tasks makes production look fit where the canary fails (30 % false rollbacks simulated).
    With one cell it is production's plain Wilson bound. 0 when no cell holds both arms.
    """
    cells = [table for table in tables if table[0] > 0 and table[2] > 0]
    return _weighted_bounds(cells, [float(cell[0]) for cell in cells], 2, z)[1] if cells else 0.0


def difference_lower_bound(tables: Iterable[Table], z: float) -> float | None:
    """Lower bound of the stratified difference of good rates, canary minus production.

    Cells are weighted as Mantel and Haenszel do (n_c n_p / (n_c + n_p)), so that a mix or share that moves between
    cells cancels. Around the weighted rates stand Wilson bounds at the cells' effective number of tasks, squared and
    added (Newcombe 1998, method 10). Unlike the plain normal bound it stays honest at the small counts of `error`;
    with one cell it is Newcombe's bound exactly.

    Parameters
    ----------
    tables : counts per stratum x step; cells with an empty arm carry nothing.
    z : normal quantile of the one-sided level.

    Returns
    -------
    The bound, or None when no cell holds both arms ("no data" is not zero).
    """
    cells = [table for table in tables if table[0] > 0 and table[2] > 0]
    if not cells:
        return None
    raw = [n_c * n_p / (n_c + n_p) for n_c, _, n_p, _ in cells]
    canary, canary_low, _ = _weighted_bounds(cells, raw, 0, z)
    production, _, production_high = _weighted_bounds(cells, raw, 2, z)
    return canary - production - math.hypot(canary - canary_low, production_high - production)
