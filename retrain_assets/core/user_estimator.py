"""A user's own scikit-learn estimator, fitted on encoded rows.

Holds its fitting, its probabilities as log-odds, and what makes it convertible without loss; does not hold the import
of the user's code (`operations/estimators.py`) or the conversion (`core/user_graph.py`). Like every estimator it enters
the platform only through the parity gate of `core/model.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrain_assets.core.encoding import Encoding
from retrain_assets.core.estimators import loaded_libraries, round_down
from retrain_assets.core.features import FeatureType
from retrain_assets.errors import ConfigError

Make = Callable[..., Any]
"""Parameters to an unfitted estimator with `fit` and `predict_proba`."""

CERTAIN = 1e-3
"""A probability nearer to 0 or 1 counts as this far from it. Engines score in float32, and the log-odds of 0.9999 lose
three digits there: calibrated, they would differ from the pipeline's by more than the parity gate allows."""
_NUMBERS = frozenset({FeatureType.NUMBER, FeatureType.INTEGER})
_DEEPEST = 6


@dataclass(frozen=True)
class UserEstimator:
    """An estimator of scikit-learn's kind behind a fixed preparation of the encoded rows.

    Numbers are held within the range of the training rows, where a linear model would run away and float32 overflow;
    a column that never had a value is 0. Other missing values stay NaN: the estimator has to bear them, or begin with
    an imputer.

    Attributes
    ----------
    fitted : object
        The user's estimator.
    low, high : ndarray of float32, shape (width,)
        Infinite for columns that are not numbers.
    empty : ndarray of bool, shape (width,)
        Columns without any value in the training rows.
    threads : int
    """

    fitted: Any
    low: np.ndarray
    high: np.ndarray
    empty: np.ndarray
    threads: int

    @classmethod
    def fit(
        cls,
        train: tuple[np.ndarray, np.ndarray],
        encoding: Encoding,
        make: Make,
        params: Mapping[str, Any],
        *,
        seed: int,
        threads: int,
    ) -> UserEstimator:
        """Make and fit the estimator on (matrix, success).

        Parameters
        ----------
        train : (ndarray of float32, ndarray of bool)
        encoding : Encoding
        make : callable
            Called with `params`. Every `random_state` that it leaves None becomes the seed.
        params : mapping
        seed, threads : int

        Raises
        ------
        ConfigError
            The user's code failed, with its message, or what it made has no `predict_proba`.
        """
        matrix, success = train
        low, high = _ranges(matrix, encoding)
        blank = cls(None, low, high, np.isnan(matrix).all(axis=0), threads)
        try:
            fitted = seeded(make(**params), seed)
            with loaded_libraries().limit(limits=threads):
                fitted.fit(blank.prepared(matrix), success.astype(np.int64))
        except Exception as error:  # the user's code may raise anything
            raise ConfigError([f"model.estimator: cannot be fitted: {_told(error)}"], "model settings") from error
        if not hasattr(fitted, "predict_proba"):
            raise ConfigError([f"model.estimator: {type(fitted).__name__} has no predict_proba"], "model settings")
        for values in _tree_thresholds(fitted):
            # Trees of scikit-learn read float32, so that no decision changes; and the converted graph decides alike.
            values[:] = round_down(values)
        return cls(fitted, low, high, blank.empty, threads)

    @property
    def success_column(self) -> int:
        """Column of `predict_proba` that is P(success)."""
        return [int(label) for label in self.fitted.classes_].index(1)

    def prepared(self, matrix: np.ndarray) -> np.ndarray:
        """Encoded rows as the estimator sees them: float32, shape (rows, width)."""
        raised = np.where(matrix < self.low, self.low, matrix)
        held = np.where(raised > self.high, self.high, raised)
        return np.where(self.empty, np.float32(0), held)

    def log_odds(self, matrix: np.ndarray) -> np.ndarray:
        """Log-odds of `predict_proba`, held `CERTAIN` away from 0 and 1: float64, shape (rows,)."""
        if len(matrix) == 0:
            return np.zeros(0)
        with loaded_libraries().limit(limits=self.threads):
            p = np.asarray(self.fitted.predict_proba(self.prepared(matrix)), dtype=np.float64)[:, self.success_column]
        p = np.clip(p, CERTAIN, 1 - CERTAIN)
        return np.asarray(np.log(p) - np.log1p(-p))

    def thresholds(self) -> dict[int, np.ndarray]:
        """Input column to the thresholds of the trees inside, for the rows of the parity gate."""
        found: dict[int, list[np.ndarray]] = {}
        for tree in _trees(self.fitted):
            if tree.n_features != len(self.low):
                continue  # a step before it changes the columns
            inner = tree.children_left >= 0
            for column in np.unique(tree.feature[inner]):
                found.setdefault(int(column), []).append(tree.threshold[inner & (tree.feature == column)])
        return {column: np.unique(np.concatenate(values)) for column, values in found.items()}


def seeded(estimator: Any, seed: int) -> Any:  # noqa: ANN401  (scikit-learn's types are untyped)
    """Give every `random_state` that is None the seed, also those of steps inside."""
    params = estimator.get_params() if hasattr(estimator, "get_params") else {}
    free = [name for name, value in params.items() if name.split("__")[-1] == "random_state" and value is None]
    return estimator.set_params(**dict.fromkeys(free, seed)) if free else estimator


def state_bytes(fitted: Any, depth: int = 0) -> Iterator[bytes]:  # noqa: ANN401  (any fitted object)
    """What a fitted object holds, as bytes in a stated order: arrays, numbers and texts, objects inside by their state.

    Two fits are the same model when these are the same; object identities and caches do not count.
    """
    match fitted:
        case np.ndarray() if fitted.dtype != object:
            yield f"{fitted.dtype.descr}{fitted.shape}".encode()
            yield np.ascontiguousarray(fitted).tobytes()
        case np.ndarray() | list() | tuple():
            for item in np.ravel(fitted) if isinstance(fitted, np.ndarray) else fitted:
                yield from state_bytes(item, depth + 1)
        case Mapping():
            for name in sorted(fitted, key=str):
                yield str(name).encode()
                yield from state_bytes(fitted[name], depth + 1)
        case None | bool() | int() | float() | str() | bytes() | np.generic():
            yield repr(fitted).encode()
        case _:
            yield type(fitted).__qualname__.encode()
            state = fitted.__getstate__() if depth < 4 * _DEEPEST else None
            if isinstance(state, Mapping | tuple):
                yield from state_bytes(state, depth + 1)


def _ranges(matrix: np.ndarray, encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    low, high = (np.full(encoding.width, end, dtype=np.float32) for end in (-np.inf, np.inf))
    for position, column in enumerate(encoding.columns):
        seen = matrix[~np.isnan(matrix[:, position]), position]
        if column.type in _NUMBERS and len(seen):
            low[position], high[position] = seen.min(), seen.max()
    return low, high


def _trees(estimator: Any, depth: int = 0) -> Iterator[Any]:  # noqa: ANN401  (any fitted estimator)
    """Every tree of scikit-learn inside an estimator: its own, those of an ensemble's members and of a pipeline's."""
    if hasattr(estimator, "tree_"):
        yield estimator.tree_
        return
    inner = getattr(estimator, "estimators_", None)
    members = [] if inner is None else list(np.ravel(np.asarray(inner, dtype=object)))
    members += [step for _, step in getattr(estimator, "steps", [])]
    members += [item for name in ("estimator_", "estimator") if (item := getattr(estimator, name, None)) is not None]
    for member in members if depth < _DEEPEST else []:
        yield from _trees(member, depth + 1)


def _tree_thresholds(estimator: Any) -> Iterator[np.ndarray]:  # noqa: ANN401  (any fitted estimator)
    return (tree.threshold for tree in _trees(estimator))


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
