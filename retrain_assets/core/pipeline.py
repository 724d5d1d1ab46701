"""The fitted pipeline: raw rows in, P(success) out; what `pipeline.joblib` holds.

Holds the encoding of data frames, the calibration and the class that joins encoding, estimator and
calibration; does not hold the fitting of estimators (`core/estimators.py`), training as a whole (`core/model.py`)
or conversion (`core/conversion.py`). Moving a class out of this module breaks older `pipeline.joblib` files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin

from retrain_assets.core.encoding import FLOAT32_MAX, UNKNOWN_CODE, ColumnEncoding, Encoding, fit_columns
from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.errors import SchemaError

FEATURE_PREFIX = "feature_"
CALIBRATION_FOLDS = 5
MIN_CALIBRATION_ROWS = 50
"""Validation rows below which calibration is not even tried: each fold would judge fewer than ten."""


class Estimator(Protocol):
    """What the pipeline asks of a fitted estimator."""

    def log_odds(self, matrix: np.ndarray) -> np.ndarray:
        """Uncalibrated log-odds of success, float64, shape (rows,), of encoded rows."""
        ...


@dataclass(frozen=True, slots=True)
class Calibration:
    """Sigmoid calibration of log-odds; the identity when `method` is "none".

    Attributes
    ----------
    method : str
        "sigmoid" or "none".
    slope, intercept : float
        P(success) = expit(slope * log_odds + intercept).
    gain : float or None
        Log loss saved per row, judged on folds that the parameters were not fitted on (nats); None
        when there were too few rows to try.
    gain_error : float or None
        Standard error of `gain`.
    """

    method: str = "none"
    slope: float = 1.0
    intercept: float = 0.0
    gain: float | None = None
    gain_error: float | None = None

    def apply(self, log_odds: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float64, same shape."""
        return np.asarray(expit(self.slope * log_odds + self.intercept))


class SuccessPipeline(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """P(success | features, action) from raw rows, everything fitted inside.

    Predicts like a scikit-learn classifier with the classes 0 (failure or error) and 1 (success).

    Parameters
    ----------
    encoding : Encoding
    estimator : Estimator
        Already fitted on the encoded training rows.
    calibration : Calibration
    """

    def __init__(self, encoding: Encoding, estimator: Estimator, calibration: Calibration) -> None:
        self.encoding = encoding
        self.estimator = estimator
        self.calibration = calibration

    @property
    def classes_(self) -> np.ndarray:
        """The two classes, failure first."""
        return np.array([0, 1])

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def decision_function(self, rows: pd.DataFrame) -> np.ndarray:
        """Uncalibrated log-odds of success, float64, shape (rows,)."""
        return self.estimator.log_odds(encode_frame(self.encoding, rows))

    def predict_proba(self, rows: pd.DataFrame) -> np.ndarray:
        """Calibrated probabilities, float64, shape (rows, 2), of raw rows.

        Parameters
        ----------
        rows : DataFrame
            `feature_<name>` (or `<name>`) for each feature, and `action`. An absent feature is missing.
        """
        success = self.calibration.apply(self.decision_function(rows))
        return np.column_stack([1.0 - success, success])

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """The likelier class of each row."""
        return (self.predict_proba(rows)[:, 1] > 0.5).astype(int)


def success_labels(rows: pd.DataFrame) -> np.ndarray:
    """True where a row's result is success, shape (rows,)."""
    return np.asarray((rows["result"] == "success").to_numpy(dtype=bool, na_value=False))


def fit_encoding(schema: FeatureSchema, rows: pd.DataFrame, parent: Encoding | None = None) -> Encoding:
    """Learn category codes and ranges from the training rows; see `core.encoding.fit_columns`."""
    counts: dict[str, Mapping[str, int]] = {}
    ranges: dict[str, tuple[float, float] | None] = {}
    for feature in schema.features:
        series = _series(rows, feature.name)
        if feature.type is FeatureType.CATEGORY:
            counts[feature.name] = _category_counts(feature, series)
            continue
        values = _encode_series(ColumnEncoding(feature.name, feature.type), series, len(rows))
        seen = values[~np.isnan(values)]
        ranges[feature.name] = (float(seen.min()), float(seen.max())) if len(seen) else None
    return fit_columns(schema, counts, ranges, parent)


def encode_frame(encoding: Encoding, rows: pd.DataFrame) -> np.ndarray:
    """Encode raw rows column by column: float32, shape (rows, width); equals `core.encoding.encode_rows`.

    Raises
    ------
    SchemaError
        Names the feature that holds a value of a wrong type.
    """
    # Columns are written one at a time, so column order is several times faster.
    matrix = np.empty((len(rows), encoding.width), dtype=np.float32, order="F")
    for position, column in enumerate(encoding.columns):
        matrix[:, position] = _encode_series(column, _series(rows, column.name), len(rows))
    codes, actions = pd.factorize(rows["action"])
    lookup = np.array([encoding.action_codes.get(action, UNKNOWN_CODE) for action in actions] + [UNKNOWN_CODE])
    matrix[:, -1] = lookup[codes]
    return matrix


def fit_calibration(log_odds: np.ndarray, success: np.ndarray) -> Calibration:
    """Fit sigmoid calibration on validation rows, and keep it only where it helps.

    Whether it helps is judged by cross-validation within the validation part: on each of five
    consecutive stretches of time the log loss is taken with parameters from the other four. It is kept
    when the mean saving exceeds its standard error. The test part is never looked at, so
    that its numbers stay honest. What is kept is then fitted on the whole part.

    Parameters
    ----------
    log_odds : ndarray of float64, shape (rows,)
        Of rows that the estimator was not fitted on, in order of time.
    success : ndarray of bool, shape (rows,)

    Returns
    -------
    Calibration
    """
    if len(success) < MIN_CALIBRATION_ROWS or success.all() or not success.any():
        return Calibration()
    saved = np.empty(len(success))
    for fold in np.array_split(np.arange(len(success)), CALIBRATION_FOLDS):
        others = np.delete(np.arange(len(success)), fold)
        slope, intercept = fit_sigmoid(log_odds[others], success[others])
        saved[fold] = _loss(log_odds[fold], success[fold]) - _loss(slope * log_odds[fold] + intercept, success[fold])
    gain, gain_error = float(saved.mean()), float(saved.std(ddof=1) / np.sqrt(len(saved)))
    slope, intercept = fit_sigmoid(log_odds, success)
    # A negative slope would turn the ranking of actions round: that is no calibration.
    if gain <= gain_error or slope <= 0:
        return Calibration(gain=gain, gain_error=gain_error)
    return Calibration("sigmoid", slope, intercept, gain, gain_error)


def fit_sigmoid(log_odds: np.ndarray, success: np.ndarray) -> tuple[float, float]:
    """Slope and intercept that calibrate log-odds: Platt (1999), with a prior around the identity.

    Maximises the likelihood times N(slope; 1, 1) N(intercept; 0, 1) by Newton steps. The prior keeps the
    answer finite on separable data and weighs as little as one row against hundreds.

    Parameters
    ----------
    log_odds : ndarray of float64, shape (rows,)
    success : ndarray of bool, shape (rows,)
    """
    design = np.column_stack([log_odds, np.ones(len(log_odds))])
    prior = np.array([1.0, 0.0])
    theta = prior.copy()

    def objective(candidate: np.ndarray) -> float:
        return float(_loss(design @ candidate, success).sum() + 0.5 * np.sum((candidate - prior) ** 2))

    for _ in range(50):
        p = expit(design @ theta)
        gradient = design.T @ (p - success) + (theta - prior)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + np.eye(2)
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while size > 1e-4 and objective(theta - size * step) > objective(theta):
            size /= 2
        theta = theta - size * step
        if np.abs(step).max() < 1e-10:
            break
    return float(theta[0]), float(theta[1])


def _loss(log_odds: np.ndarray, success: np.ndarray) -> np.ndarray:
    return np.asarray(np.logaddexp(0.0, np.where(success, -log_odds, log_odds)))


def _series(rows: pd.DataFrame, name: str) -> pd.Series | None:
    for column in (FEATURE_PREFIX + name, name):
        if column in rows.columns:
            return rows[column]
    # A snapshot older than a feature has no such column: its rows do not know the value.
    return None


def _encode_series(column: ColumnEncoding, series: pd.Series | None, rows: int) -> np.ndarray:
    if series is None:
        return np.full(rows, np.nan, dtype=np.float32)
    if column.type is not FeatureType.CATEGORY and (
        column.type is not FeatureType.BOOLEAN or pd.api.types.is_any_real_numeric_dtype(series.dtype)
    ):
        try:
            values = series.to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise SchemaError(column.name, f"holds a value that is not a number: {error}") from None
        return np.asarray(np.clip(values, -FLOAT32_MAX, FLOAT32_MAX), dtype=np.float32)
    # Few distinct values: read each once, as the engine would. A required value that is missing
    # is for the collector to refuse; history may be older than the requirement.
    read = ColumnEncoding(column.name, column.type, categories=column.categories).reader()
    codes, distinct = pd.factorize(series)
    lookup = np.array([read(_native(value)) for value in distinct] + [np.nan], dtype=np.float32)
    return np.asarray(lookup[codes])


def _category_counts(feature: Feature, series: pd.Series | None) -> dict[str, int]:
    counts: dict[str, int] = {}
    if series is None:
        return counts
    unlimited = Feature(feature.name, feature.type)
    for value, count in series.value_counts(dropna=True, sort=False).items():
        text = unlimited.read(_native(value))
        if text is not None:
            counts[str(text)] = counts.get(str(text), 0) + int(count)
    return counts


def _native(value: Any) -> Any:  # noqa: ANN401  (numpy and arrow scalars become Python's own)
    return value.item() if isinstance(value, np.generic) else value
