"""The truth of the simulated automation: who the tasks are and what every action is worth on them.

Holds the population, the coefficients and the solving of a shift; does not hold outcomes (`automation.py`, which
states the formula).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ACTIONS = ("comment", "profile", "forum", "guest")
"""The actions, in the order of `config/retrain.yaml` and of the coefficient tables."""

FEATURES = (
    "pa",
    "da",
    "site_type",
    "platform_guess",
    "url_path_depth",
    "https_enabled",
    "comment_supported",
    "profile_supported",
    "forum_supported",
    "guest_supported",
    "requires_login",
    "registration_detected",
)
"""The features of every task, in the order of `config/retrain.yaml`."""

_SITE_TYPES = ("blog", "community", "directory", "news")
_SITE_SHARES = (0.4, 0.25, 0.2, 0.15)
_PLATFORMS = ("wordpress", "custom", "phpbb", "discourse", "drupal")
# P(platform | site type), rows in the order of _SITE_TYPES
_PLATFORM_SHARES = (
    (0.70, 0.15, 0.01, 0.02, 0.12),
    (0.10, 0.15, 0.40, 0.30, 0.05),
    (0.30, 0.50, 0.02, 0.03, 0.15),
    (0.35, 0.45, 0.00, 0.02, 0.18),
)
# P(the site supports the action | site type), columns in the order of ACTIONS
_SUPPORT_SHARES = (
    (0.85, 0.35, 0.08, 0.45),
    (0.15, 0.80, 0.90, 0.10),
    (0.10, 0.90, 0.08, 0.30),
    (0.65, 0.40, 0.05, 0.50),
)
_MISSING_SHARE = 0.05

# Coefficients on the log-odds, one per action: comment, profile, forum, guest.
_ACTION_EFFECTS = (-1.6, -1.2, -1.4, -2.2)
_BOOLEAN_EFFECTS: Mapping[str, tuple[float, ...]] = {
    "comment_supported": (4.2, 0.0, 0.0, 0.0),
    "profile_supported": (0.0, 4.0, 0.0, 0.0),
    "forum_supported": (0.0, 0.0, 4.4, 0.0),
    "guest_supported": (0.0, 0.0, 0.0, 4.2),
    "https_enabled": (0.1, 0.2, 0.1, 0.2),
    "requires_login": (-1.6, -0.2, -0.6, 0.0),
    "registration_detected": (0.2, 0.9, 0.7, 0.0),
}
# centre, scale, coefficients
_NUMBER_EFFECTS: Mapping[str, tuple[float, float, tuple[float, ...]]] = {
    "pa": (40.0, 20.0, (-0.4, 0.1, -0.1, -0.4)),
    "da": (45.0, 20.0, (-0.8, 0.1, -0.3, -0.7)),
    "url_path_depth": (2.0, 1.0, (0.2, -0.3, 0.1, -0.1)),
}
_CATEGORY_EFFECTS: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "site_type": {
        "blog": (1.2, -0.8, -1.5, 0.4),
        "community": (-0.6, 0.6, 1.4, -1.2),
        "directory": (-1.2, 1.3, -1.2, -0.2),
        "news": (0.5, -0.4, -1.5, 0.6),
    },
    "platform_guess": {
        "wordpress": (0.6, 0.0, -0.3, 0.3),
        "phpbb": (-0.5, 0.3, 0.7, -0.5),
        "discourse": (-0.5, 0.2, 0.3, -0.5),
        "drupal": (-0.1, 0.1, 0.0, 0.0),
        "custom": (-0.3, -0.2, -0.2, 0.1),
    },
}


def draw_features(rng: np.random.Generator, n: int) -> dict[str, list[Any]]:
    """Columns of Python values; None where pa or da is missing."""
    kind = rng.choice(len(_SITE_TYPES), size=n, p=_SITE_SHARES)
    platform = (rng.random((n, 1)) > np.cumsum(_PLATFORM_SHARES, axis=1)[kind, :-1]).sum(axis=1)
    supported = rng.random((n, len(ACTIONS))) < np.asarray(_SUPPORT_SHARES)[kind]
    # A task is worth queueing only where something can be done: at least what suits the site best is supported.
    nothing = ~supported.any(axis=1)
    supported[nothing, np.asarray(_SUPPORT_SHARES).argmax(axis=1)[kind[nothing]]] = True
    authority = rng.normal(0, 1, n)
    pa = np.clip(40 + 16 * authority + rng.normal(0, 8, n), 1, 99).round(1)
    da = np.clip(45 + 18 * authority + rng.normal(0, 8, n), 1, 99).round(1)
    login = rng.random(n) < np.array([0.25, 0.6, 0.4, 0.5])[kind]
    columns: dict[str, list[Any]] = {
        "pa": _with_gaps(rng, pa),
        "da": _with_gaps(rng, da),
        "site_type": [_SITE_TYPES[i] for i in kind],
        "platform_guess": [_PLATFORMS[i] for i in platform],
        "url_path_depth": np.minimum(rng.poisson(2.0, n), 8).tolist(),
        "https_enabled": (rng.random(n) < 0.85).tolist(),
    }
    columns |= {f"{action}_supported": supported[:, i].tolist() for i, action in enumerate(ACTIONS)}
    return columns | {
        "requires_login": login.tolist(),
        "registration_detected": (rng.random(n) < np.where(login, 0.7, 0.1)).tolist(),
    }


def _with_gaps(rng: np.random.Generator, values: Floats) -> list[float | None]:
    missing = rng.random(len(values)) < _MISSING_SHARE
    return [None if gap else value for gap, value in zip(missing.tolist(), values.tolist(), strict=True)]


def one_logit(features: Mapping[str, Any], action: int) -> float:
    """Log-odds of one action on one task, without the intercept; the same sum as `all_logits`."""
    total = _ACTION_EFFECTS[action]
    total += sum(effect[action] for name, effect in _BOOLEAN_EFFECTS.items() if features[name])
    for name, (centre, scale, effect) in _NUMBER_EFFECTS.items():
        value = features[name]
        total += 0.0 if value is None else (value - centre) / scale * effect[action]
    for name, effects in _CATEGORY_EFFECTS.items():
        total += effects[features[name]][action] if features[name] in effects else 0.0
    return total


def all_logits(columns: Mapping[str, Sequence[Any]]) -> Floats:
    """Log-odds of every action, without the intercept; shape (n, 4)."""
    n = len(columns["site_type"])
    total = np.tile(np.asarray(_ACTION_EFFECTS, dtype=np.float64), (n, 1))
    for name, effect in _BOOLEAN_EFFECTS.items():
        total += np.outer(np.asarray(columns[name], dtype=np.float64), effect)
    for name, (centre, scale, effect) in _NUMBER_EFFECTS.items():
        values = np.asarray(columns[name], dtype=np.float64)  # None becomes NaN
        total += np.outer(np.nan_to_num((values - centre) / scale), effect)
    for name, effects in _CATEGORY_EFFECTS.items():
        none = (0.0,) * len(ACTIONS)
        total += np.asarray([effects.get(value, none) for value in columns[name]])
    return total


def expit(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), dtype=np.float64)


def solve_shift(logits: Floats, success_rate: float, error_rate: float) -> float:
    """The shift s with mean((1 - error_rate) expit(logits + s)) = success_rate, by bisection to 1e-9.

    Parameters
    ----------
    logits : array, shape (n,)
        Log-odds of success without an error, one per task.
    success_rate, error_rate : float
        Probabilities.

    Raises
    ------
    ValueError
        The rates contradict each other.
    """
    if not 0 <= error_rate < 1 or not 0 < success_rate < 1 - error_rate:
        raise ValueError(f"success_rate {success_rate} must lie between 0 and 1 - error_rate {error_rate}")
    target = success_rate / (1 - error_rate)
    low, high = -60.0, 60.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if expit(logits + middle).mean() < target else (low, middle)
    return (low + high) / 2
