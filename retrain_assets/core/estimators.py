"""The estimators that come with the platform, fitted on encoded rows.

Holds boosted trees with their continuation from a parent, and logistic regression; does not hold their parameters'
names and defaults (`core/model_settings.py`), a user's own estimator (`core/user_estimator.py`), encoding or
calibration (`core/pipeline.py`) or conversion (`core/conversion.py`). An estimator enters the platform
only through the parity gate of `core/model.py`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from retrain_assets.core.encoding import Encoding
from retrain_assets.core.features import FeatureType

_SKLEARN_TREE_PARAMS = (
    "learning_rate",
    "max_leaf_nodes",
    "max_depth",
    "min_samples_leaf",
    "l2_regularization",
    "max_features",
    "max_bins",
)


@functools.lru_cache(maxsize=1)
def loaded_libraries() -> ThreadpoolController:
    """The process's thread pools; looking them up anew at each call took as long as scoring 1,000 rows."""
    return ThreadpoolController()


def _openmp_threads(count: int) -> AbstractContextManager[Any]:
    """Limit scikit-learn's OpenMP threads for a while."""
    limiter: AbstractContextManager[Any] = loaded_libraries().limit(limits=count, user_api="openmp")
    return limiter


def round_down(values: np.ndarray) -> np.ndarray:
    """The largest float32 not above each float64: `x <= value` is unchanged for every float32 `x`."""
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)


@dataclass(frozen=True)
class BoostedTrees:
    """Gradient-boosted trees on ordinal codes, missing values handled by the trees.

    `categorical_features` stays unused: it converts to wrong probabilities (0.84 off, measured).

    Attributes
    ----------
    booster : HistGradientBoostingClassifier
    threads : int
        OpenMP threads for fitting and predicting.
    """

    booster: HistGradientBoostingClassifier
    threads: int

    @classmethod
    def fit(
        cls,
        train: tuple[np.ndarray, np.ndarray],
        validation: tuple[np.ndarray, np.ndarray],
        params: Mapping[str, Any],
        *,
        seed: int,
        threads: int,
        parent: BoostedTrees | None = None,
    ) -> BoostedTrees:
        """Fit on (matrix, success); with a parent, add trees to its own.

        Parameters
        ----------
        train, validation : (ndarray of float32, ndarray of bool)
        params : mapping
            Complete; see `core.model_settings.PARAMS`.
        seed, threads : int
        parent : BoostedTrees, optional
            Not changed.
        """
        matrix, success = _teachable(train[0]), train[1]
        with _openmp_threads(threads):
            if parent is None:
                booster = HistGradientBoostingClassifier(
                    max_iter=params["max_iter"],
                    early_stopping=False,
                    random_state=seed,
                    **{name: params[name] for name in _SKLEARN_TREE_PARAMS},
                )
                booster.fit(matrix, success)
                kept = 0
            else:
                kept = parent.trees
                booster = _continued(parent.booster, matrix, success, params, seed)
            if params["stop_on_validation"]:
                _keep_best_trees(booster, *validation, at_least=max(kept, 1))
        return cls(booster, threads)

    @property
    def trees(self) -> int:
        """Number of trees."""
        return int(self.booster.n_iter_)

    def log_odds(self, matrix: np.ndarray) -> np.ndarray:
        """Uncalibrated log-odds of success, float64, shape (rows,)."""
        with _openmp_threads(self.threads):
            return np.asarray(self.booster.decision_function(matrix), dtype=np.float64)

    def node_arrays(self) -> list[np.ndarray]:
        """Each tree's nodes, scikit-learn's structured array."""
        return [predictors[0].nodes for predictors in self.booster._predictors]  # noqa: SLF001  (no public access)

    def thresholds(self) -> dict[int, np.ndarray]:
        """Input column to the distinct thresholds of its splits: where a converted model is likeliest to differ."""
        nodes = np.concatenate(self.node_arrays())
        inner = nodes[nodes["is_leaf"] == 0]
        return {
            int(position): np.unique(inner["num_threshold"][inner["feature_idx"] == position])
            for position in np.unique(inner["feature_idx"])
        }

    @property
    def baseline(self) -> float:
        """Log-odds before the first tree."""
        return float(np.ravel(self.booster._baseline_prediction)[0])  # noqa: SLF001  (no public access)


@dataclass(frozen=True)
class LogisticModel:
    """Logistic regression with a weight for every value and action, so that actions rank per task.

    The design of a row: standardised numbers (missing: 0), missing flags, one flag for each frequent
    category; each of them once for all actions and once for the row's action. Arrays instead of a
    scikit-learn pipeline, so that conversion is exact.

    Attributes
    ----------
    numbers : ndarray of int
        Input columns that are numbers, booleans included.
    mean, scale : ndarray of float64, shape (len(numbers),)
        Of the training rows.
    flag_columns, flag_codes : ndarray, shape (flags,)
        Input column and code that each category flag stands for.
    weights : ndarray of float64, shape (design, actions)
        One column for each action; the design's first entry is the constant 1.
    shared : ndarray of float64, shape (design,)
        For an action that is unknown.
    """

    numbers: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    flag_columns: np.ndarray
    flag_codes: np.ndarray
    weights: np.ndarray
    shared: np.ndarray

    @classmethod
    def fit(
        cls,
        train: tuple[np.ndarray, np.ndarray],
        encoding: Encoding,
        params: Mapping[str, Any],
        *,
        seed: int,
        threads: int,
    ) -> LogisticModel:
        """Fit on (matrix, success); see `BoostedTrees.fit`."""
        matrix, success = train
        numbers, mean, scale, columns, codes = _logistic_layout(matrix, encoding, params["max_categories"])
        blank = cls(numbers, mean, scale, columns, codes, np.zeros((0, 0)), np.zeros(0))
        design = blank.design(matrix)
        of_action = matrix[:, -1:] == np.arange(len(encoding.actions), dtype=np.float32)
        crossed = (of_action[:, :, None] * design[:, None, :]).reshape(len(design), -1)
        model = LogisticRegression(C=params["C"], max_iter=params["max_iter"], random_state=seed, fit_intercept=False)
        with loaded_libraries().limit(limits=threads):
            model.fit(np.hstack([design, crossed]), success)
        coefficients = model.coef_[0]
        shared, own = coefficients[: design.shape[1]], coefficients[design.shape[1] :]
        weights = shared[:, None] + own.reshape(len(encoding.actions), -1).T
        return cls(numbers, mean, scale, columns, codes, weights, shared)

    def design(self, matrix: np.ndarray) -> np.ndarray:
        """The design rows of encoded rows, float64, shape (rows, design)."""
        values = matrix[:, self.numbers].astype(np.float64)
        missing = np.isnan(matrix[:, :-1]).astype(np.float64)
        # Beyond ten deviations a linear model would run away; the clip keeps float32 exact, too.
        scaled = np.clip((values - self.mean) / self.scale, -10.0, 10.0)
        flags = (matrix[:, self.flag_columns] == self.flag_codes).astype(np.float64)
        return np.hstack([np.ones((len(matrix), 1)), np.where(np.isnan(scaled), 0.0, scaled), missing, flags])

    def log_odds(self, matrix: np.ndarray) -> np.ndarray:
        """Uncalibrated log-odds of success, float64, shape (rows,)."""
        all_weights = np.column_stack([self.weights, self.shared])
        action = matrix[:, -1].astype(int)
        return np.asarray(np.einsum("ij,ij->i", self.design(matrix), all_weights.T[action]))


def _teachable(matrix: np.ndarray) -> np.ndarray:
    """Give columns without any value a constant one: the binning fails on them, and no tree splits a constant."""
    is_empty = np.isnan(matrix).all(axis=0)
    return np.where(is_empty, np.float32(0), matrix) if is_empty.any() else matrix


def _continued(
    parent: HistGradientBoostingClassifier,
    matrix: np.ndarray,
    success: np.ndarray,
    params: Mapping[str, Any],
    seed: int,
) -> HistGradientBoostingClassifier:
    booster = copy.deepcopy(parent)
    booster.set_params(
        warm_start=True,
        max_iter=parent.n_iter_ + params["incremental_iter"],
        random_state=seed,
        **{name: params[name] for name in _SKLEARN_TREE_PARAMS},
    )
    start = np.asfortranarray(np.asarray(parent.decision_function(matrix), dtype=np.float64)[:, None])
    # A warm start bins the new rows afresh but walks the old trees by their old bin numbers, which gives wrong
    # starting values on data that is not the parent's own. So it gets the right ones.
    booster._raw_predict = lambda *_args, **_kwargs: start.copy(order="F")  # noqa: SLF001  (no public way)
    try:
        booster.fit(matrix, success)
    finally:
        del booster._raw_predict  # noqa: SLF001  (the class's own method shows again)
    return booster.set_params(warm_start=False)


def _keep_best_trees(
    booster: HistGradientBoostingClassifier, matrix: np.ndarray, success: np.ndarray, at_least: int
) -> None:
    """Drop the trees after the one with the lowest validation log loss."""
    if len(success) == 0:
        return
    signs = np.where(success, -1.0, 1.0)
    losses = [np.logaddexp(0.0, signs * np.ravel(score)).mean() for score in booster.staged_decision_function(matrix)]
    best = int(np.argmin(losses)) + 1
    del booster._predictors[max(best, at_least) :]  # noqa: SLF001  (no public way to shorten a fitted model)
    booster.set_params(max_iter=booster.n_iter_)


def _logistic_layout(
    matrix: np.ndarray, encoding: Encoding, max_categories: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    numbers, columns, codes = [], [], []
    for position, column in enumerate(encoding.columns):
        if column.type is not FeatureType.CATEGORY:
            numbers.append(position)
            continue
        seen, counts = np.unique(matrix[matrix[:, position] >= 0, position], return_counts=True)
        frequent = np.sort(seen[np.argsort(-counts, kind="stable")[:max_categories]])
        columns += [position] * len(frequent)
        codes += frequent.tolist()
    indices = np.array(numbers, dtype=int)
    values = matrix[:, indices].astype(np.float64)
    known = np.maximum((~np.isnan(values)).sum(axis=0), 1)
    mean = np.nansum(values, axis=0) / known
    spread = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / known)
    scale = np.where(spread > 0, spread, 1.0)
    # Rounded to what the graph holds, so that a large mean beside a small spread converts exactly.
    mean, scale = (values.astype(np.float32).astype(np.float64) for values in (mean, scale))
    return indices, mean, scale, np.array(columns, dtype=int), np.array(codes, dtype=np.float32)
