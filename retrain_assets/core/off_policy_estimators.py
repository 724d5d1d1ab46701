"""What another policy would have earned, from decisions with known propensities: the estimators.

Holds the policies' action probabilities, the weights and four families of estimators, each with its value and what
every row contributes to its error; does not hold whether the log allows an answer at all (`core/off_policy.py`).

Notation: row i has features x_i, action a_i chosen with probability p_i (its propensity), reward r_i in [0, 1]; the
candidate takes action a with probability pi(a | x); w_i = pi(a_i | x_i) / p_i; q(x, a) is a model of the reward and
d_i = sum over a of pi(a | x_i) q(x_i, a).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval.

    Attributes
    ----------
    value : float
        Never moved into [0, 1]: cutting an unbiased estimate off would bias it.
    standard_error : float
    low, high : float
        Interval of the confidence asked for.
    """

    value: float
    standard_error: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Contributions:
    """An estimator's value and each row's influence on it.

    Differences of two estimators on the same rows are differences of the arrays, so that what both share cancels.

    Attributes
    ----------
    value : float
    influence : ndarray of float64, shape (rows,)
        Mean 0; the variance of the value is that of their mean.
    luck : ndarray of float64, shape (rows,)
        How far the luck of the row's own reward moves the influence: its leverage times the standard deviation of
        rewards, taken from all rows in the mix that the policy would see.
    smooth : ndarray of float64, shape (rows,)
        The part of the influence that does not come from the row's reward.
    """

    value: float
    influence: np.ndarray
    luck: np.ndarray
    smooth: np.ndarray

    def minus(self, other: Contributions) -> Contributions:
        """The paired difference, on the same rows."""
        return Contributions(
            self.value - other.value,
            self.influence - other.influence,
            self.luck - other.luck,
            self.smooth - other.smooth,
        )

    def estimate(self, confidence: float, groups: np.ndarray | None = None) -> Estimate:
        """Value with its interval.

        The error is the larger of two. The sandwich of the influences (Huber 1967), summed over `groups` first where
        rows of one group are not independent (Liang and Zeger 1986), is right with many rows; but where five heavy rows
        count most and happen to succeed, it sees no luck at all. The other takes the luck from all rows, as if it did
        not depend on the weight. Their quantile is that of t with as many degrees of freedom as rows carry the error
        (`carrying_rows`; Satterthwaite 1946).

        Parameters
        ----------
        confidence : float
            Two-sided.
        groups : ndarray of int, shape (rows,), optional
            Task of each row.
        """
        from scipy.special import stdtrit

        rows = len(self.influence)
        parts = (self.influence, self.luck, self.smooth)
        influence, luck, smooth = (part if groups is None else np.bincount(groups, weights=part) for part in parts)
        count = len(influence)
        if count < 2:  # one group alone cannot show how groups differ
            return Estimate(self.value, math.inf, -math.inf, math.inf)
        sandwich = float(np.sum(influence**2)) * count / (count - 1)
        error = math.sqrt(max(sandwich, float(np.sum(luck**2) + np.sum(smooth**2)))) / rows
        freedom = min(carrying_rows(luck) or count, count) - 1
        half = float(stdtrit(max(freedom, 1.0), 0.5 + confidence / 2)) * error
        return Estimate(self.value, error, self.value - half, self.value + half)


def epsilon_greedy(scores: np.ndarray, epsilon: float, allowed: np.ndarray | None = None) -> np.ndarray:
    """Action probabilities of an engine: the best action with 1 - epsilon, every other one with an equal part.

    Of equal scores the first wins, as in the engine. With one allowed action that one is certain.

    Parameters
    ----------
    scores : ndarray, shape (rows, actions)
        P(success) of each action.
    epsilon : float
        0 to 1; `exploration.epsilon`.
    allowed : ndarray of bool, shape (rows, actions), optional
        Actions that a task could get; default all. Scores of the others do not matter.

    Returns
    -------
    ndarray of float64, shape (rows, actions)
        Rows add up to 1.

    Raises
    ------
    ValueError
        When epsilon is out of range, a score of an allowed action is NaN, or a row has no allowed action.
    """
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon must lie between 0 and 1, got {epsilon}")
    scores = np.asarray(scores, dtype=np.float64)
    open_to = np.ones(scores.shape, dtype=bool) if allowed is None else np.asarray(allowed, dtype=bool)
    if open_to.shape != scores.shape or not open_to.any(axis=1).all():
        raise ValueError("allowed must have the scores' shape and at least one action in every row")
    if np.isnan(scores[open_to]).any():
        raise ValueError("scores must not be NaN where the action is allowed")
    others = open_to.sum(axis=1) - 1
    part = np.divide(epsilon, others, out=np.zeros(len(scores)), where=others > 0)
    chances = np.where(open_to, part[:, None], 0.0)
    best = np.argmax(np.where(open_to, scores, -np.inf), axis=1)
    chances[np.arange(len(scores)), best] = np.where(others > 0, 1.0 - epsilon, 1.0)
    return chances


def importance_weights(chances: np.ndarray, action: np.ndarray, propensity: np.ndarray) -> np.ndarray:
    """Weights pi(a | x) / p, shape (rows,); 0 where the logged action is none of the policy's.

    Parameters
    ----------
    chances : ndarray, shape (rows, actions)
    action : ndarray of int, shape (rows,)
        Column of the logged action, -1 for one that the policy does not have.
    propensity : ndarray, shape (rows,)
        In (0, 1].
    """
    taken = chances[np.arange(len(action)), np.maximum(action, 0)]
    return np.asarray(np.where(action >= 0, taken, 0.0) / propensity)


def ips(weights: np.ndarray, reward: np.ndarray) -> Contributions:
    """Inverse propensity scoring, mean(w r): Horvitz and Thompson (1952).

    Unbiased when the propensities are right and every action of the policy had a chance. Wide: it varies with the
    weights even when all rewards are equal, and is not bound to [0, 1].
    """
    value = float(np.mean(weights * reward))
    luck = reward - value
    return Contributions(value, weights * reward - value, _luck(weights, weights, luck), (weights - 1) * value)


def snips(weights: np.ndarray, reward: np.ndarray) -> Contributions:
    """Self-normalised inverse propensity scoring, sum(w r) / sum(w): Swaminathan and Joachims (2015).

    Biased by O(1/rows), always within the range of the rewards, and a constant added to all rewards is added to the
    answer. The influences come from the delta method.

    Raises
    ------
    ValueError
        When all weights are 0.
    """
    total = float(weights.sum())
    if total <= 0:
        raise ValueError("all weights are 0: no logged action is one that the policy would take")
    value = float(weights @ reward / total)
    leverage = weights * (len(weights) / total)
    luck = reward - value
    return Contributions(value, leverage * luck, _luck(leverage, weights, luck), np.zeros(len(weights)))


def direct_method(chances: np.ndarray, model: np.ndarray) -> Contributions:
    """Mean of d: what the model of the reward says, and nothing else (Dudik, Langford and Li 2011).

    As wrong as the model; its error counts the rows only, never that the model may be wrong. A candidate judged by its
    own scores looks better than it is: it chose the actions that it overrates.

    Parameters
    ----------
    chances, model : ndarray, shape (rows, actions)
    """
    expected = _expected(chances, model)
    spread = expected - expected.mean()
    return Contributions(float(expected.mean()), spread, np.zeros(len(spread)), spread)


def doubly_robust(
    chances: np.ndarray, model: np.ndarray, action: np.ndarray, weights: np.ndarray, reward: np.ndarray
) -> Contributions:
    """Mean of d + w (r - q): Dudik, Langford and Li (2011).

    Unbiased when the propensities or the model are right; the better the model, the narrower. The model must not have
    learned from these rows.

    Parameters
    ----------
    chances, model : ndarray, shape (rows, actions)
    action : ndarray of int, shape (rows,)
    weights, reward : ndarray, shape (rows,)
    """
    base, luck = direct_method(chances, model), reward - _taken(model, action)
    correction = float(np.mean(weights * luck))
    influence = base.influence + weights * luck - correction
    return Contributions(base.value + correction, influence, _luck(weights, weights, luck), base.smooth)


def self_normalised_doubly_robust(
    chances: np.ndarray, model: np.ndarray, action: np.ndarray, weights: np.ndarray, reward: np.ndarray
) -> Contributions:
    """Mean of d plus sum(w (r - q)) / sum(w): the correction of `doubly_robust` normalised like `snips`.

    Steadier with uneven weights, at the price of a bias of O(1/rows); Thomas and Brunskill (2016) call the sequential
    form weighted doubly robust. Parameters as in `doubly_robust`.

    Raises
    ------
    ValueError
        When all weights are 0.
    """
    base, correction = direct_method(chances, model), snips(weights, reward - _taken(model, action))
    influence = base.influence + correction.influence
    return Contributions(base.value + correction.value, influence, correction.luck, base.smooth)


def all_estimators(
    chances: np.ndarray, model: np.ndarray | None, action: np.ndarray, weights: np.ndarray, reward: np.ndarray
) -> Mapping[str, Contributions]:
    """Every estimator that can be had: `ips`, `snips`, and with a model `dm`, `dr`, `sndr`."""
    found = {"ips": ips(weights, reward), "snips": snips(weights, reward)}
    if model is None:
        return found
    return {
        **found,
        "dm": direct_method(chances, model),
        "dr": doubly_robust(chances, model, action, weights, reward),
        "sndr": self_normalised_doubly_robust(chances, model, action, weights, reward),
    }


def on_policy(reward: np.ndarray) -> Contributions:
    """The mean reward: the value of whatever policies made the log."""
    return snips(np.ones(len(reward)), np.asarray(reward, dtype=np.float64))


def effective_rows(weights: np.ndarray) -> float:
    """How many rows of equal weight would tell as much: sum(w)^2 / sum(w^2), Kish (1965); 0 when all weights are 0."""
    squares = float(np.sum(weights**2))
    return float(weights.sum() ** 2 / squares) if squares > 0 else 0.0


def carrying_rows(weights: np.ndarray) -> float:
    """How many rows the error of a weighted mean rests on: sum(w^2)^2 / sum(w^4), Satterthwaite (1946); 0 without any.

    Ten thousand rows of weight 1 and six of weight 147 have 850 effective rows, and 7 that carry the error.
    """
    fourth = float(np.sum(weights**4))
    return float(np.sum(weights**2) ** 2 / fourth) if fourth > 0 else 0.0


def check_chances(name: str, chances: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Action probabilities as float64, or a `ValueError` that says what is wrong with them."""
    chances = np.asarray(chances, dtype=np.float64)
    if chances.shape != shape:
        raise ValueError(f"{name} must have the shape (rows, actions) = {shape}, got {chances.shape}")
    if not (chances >= 0).all() or not np.allclose(chances.sum(axis=1), 1.0, rtol=0, atol=SUM_TOLERANCE):
        raise ValueError(f"{name} must hold probabilities that add up to 1 in every row")
    return chances


def _luck(leverage: np.ndarray, weights: np.ndarray, residual: np.ndarray) -> np.ndarray:
    total = float(weights.sum())
    deviation = math.sqrt(float(weights @ residual**2) / total) if total > 0 else 0.0
    return leverage * deviation


def _expected(chances: np.ndarray, model: np.ndarray) -> np.ndarray:
    # Where the policy never goes the model need not know an answer.
    return np.asarray(np.sum(np.where(chances > 0, chances * model, 0.0), axis=1))


def _taken(model: np.ndarray, action: np.ndarray) -> np.ndarray:
    return np.where(action >= 0, model[np.arange(len(action)), np.maximum(action, 0)], 0.0)
