"""Training: from split rows and a spec to a fitted pipeline.

Holds the spec of a training and `train`; does not hold the estimators (`core/estimators.py`), the fitted pipeline
(`core/pipeline.py`) or the artefact made of it (`core/model.py`, which offers these names, too).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from retrain_assets.core.estimators import PARAMS, BoostedTrees, LogisticModel
from retrain_assets.core.features import FeatureSchema
from retrain_assets.core.pipeline import SuccessPipeline, encode_frame, fit_calibration, fit_encoding, success_labels
from retrain_assets.core.probes import probe_rows
from retrain_assets.errors import ConfigError, TrainingImpossible, UsageError

MODES = ("full", "incremental")


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """How to train; together with the rows it fixes the result.

    Attributes
    ----------
    estimator : str, default "hist_gradient_boosting"
        Or "logistic_regression".
    params : mapping
        Departures from the estimator's defaults (`core.estimators.PARAMS`).
    mode : str, default "full"
        Or "incremental": continue from the parent pipeline where the estimator can.
    seed : int, default 0
    threads : int, default 1
        OpenMP threads. More can be slower on busy machines, where they spin.
    parent_digest : str or None
        SHA-256 of the `pipeline.joblib` that an incremental training continues from.
    schema : mapping
        `FeatureSchema.to_dict()`; empty until training fills it in.

    Raises
    ------
    ConfigError
        Lists every setting that cannot be used.
    """

    estimator: str = "hist_gradient_boosting"
    params: Mapping[str, Any] = field(default_factory=dict)
    mode: str = "full"
    seed: int = 0
    threads: int = 1
    parent_digest: str | None = None
    schema: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = []
        if self.estimator not in PARAMS:
            problems.append(f"model.estimator: {self.estimator!r} is not one of {', '.join(PARAMS)}")
        else:
            problems += [_unknown_param(name, PARAMS[self.estimator]) for name in self.params]
        if self.mode not in MODES:
            problems.append(f"model.mode: {self.mode!r} is not one of {', '.join(MODES)}")
        if self.threads < 1:
            problems.append(f"model.threads: {self.threads} must be at least 1")
        problems = [problem for problem in problems if problem]
        if problems:
            raise ConfigError(problems, "model settings")

    @property
    def all_params(self) -> dict[str, Any]:
        """The estimator's parameters, defaults filled in."""
        return {**PARAMS[self.estimator], **self.params}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able; `from_dict` is its inverse."""
        return {
            "estimator": self.estimator,
            "params": dict(self.params),
            "mode": self.mode,
            "seed": self.seed,
            "threads": self.threads,
            "parent_digest": self.parent_digest,
            "schema": dict(self.schema),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainSpec:
        """Read what `to_dict` wrote; absent keys get their defaults."""
        return cls(**data)


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A fitted pipeline and what is known about its training.

    Attributes
    ----------
    pipeline : SuccessPipeline
        What `pipeline.joblib` holds.
    schema : FeatureSchema
    spec : TrainSpec
        With the schema filled in.
    rows_train, rows_validation : int
    train_success_rate : float
        The best constant guess, against which the report judges.
    mode : str
        What was done; differs from `spec.mode` where continuing was not possible.
    mode_reason : str
        Why, in words.
    probes : tuple of mapping
        Raw rows (features and "action") for the manifest's self-test.
    """

    pipeline: SuccessPipeline
    schema: FeatureSchema
    spec: TrainSpec
    rows_train: int
    rows_validation: int
    train_success_rate: float
    mode: str
    mode_reason: str
    probes: tuple[Mapping[str, Any], ...]

    @property
    def trees(self) -> int | None:
        """Number of trees; None for other estimators."""
        estimator = self.pipeline.estimator
        return estimator.trees if isinstance(estimator, BoostedTrees) else None

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """Calibrated P(success) of raw rows, float64, shape (rows,)."""
        return np.asarray(self.pipeline.predict_proba(rows)[:, 1])


def train(
    rows_train: pd.DataFrame,
    rows_validation: pd.DataFrame,
    schema: FeatureSchema,
    spec: TrainSpec,
    parent: SuccessPipeline | None = None,
) -> TrainedModel:
    """Fit encoding and estimator on train, then number of trees and calibration on validation.

    Parameters
    ----------
    rows_train, rows_validation : DataFrame
        Raw rows: `feature_<name>` columns, `action`, `result`; in order of time.
    schema : FeatureSchema
    spec : TrainSpec
    parent : SuccessPipeline, optional
        What an incremental training continues from; not changed. Ignored in mode "full".

    Returns
    -------
    TrainedModel
        With mode "full" also when continuing was asked for and not possible; `mode_reason` says why.

    Raises
    ------
    TrainingImpossible
        When there are no training rows or they have one class only.
    UsageError
        When the spec was recorded for another schema.
    """
    if spec.schema and dict(spec.schema) != schema.to_dict():
        raise UsageError("the spec was recorded for another feature schema; pass the schema it names")
    success = success_labels(rows_train)
    if len(success) == 0 or success.all() or not success.any():
        found = "no training rows" if len(success) == 0 else f"{len(success)} training rows of one class only"
        raise TrainingImpossible(f"there are {found}; a model needs successes and failures to learn from")
    obstacle = "" if spec.mode == "full" else _obstacle_to_continuing(parent, schema, spec)
    start = parent if spec.mode == "incremental" and not obstacle else None
    spec = replace(spec, schema=schema.to_dict())
    pipeline = _fit(rows_train, rows_validation, success, spec, start)
    return TrainedModel(
        pipeline=pipeline,
        schema=schema,
        spec=spec,
        rows_train=len(rows_train),
        rows_validation=len(rows_validation),
        train_success_rate=float(success.mean()),
        mode="full" if start is None else "incremental",
        mode_reason=obstacle or ("continues from the parent" if start else "fitted on the whole training part"),
        probes=tuple(probe_rows(pipeline.encoding, rows_train if len(rows_validation) == 0 else rows_validation)),
    )


def _fit(
    rows_train: pd.DataFrame,
    rows_validation: pd.DataFrame,
    success: np.ndarray,
    spec: TrainSpec,
    parent: SuccessPipeline | None,
) -> SuccessPipeline:
    encoding = fit_encoding(FeatureSchema.from_dict(spec.schema), rows_train, parent.encoding if parent else None)
    taught = encode_frame(encoding, rows_train), success
    tuned = encode_frame(encoding, rows_validation), success_labels(rows_validation)
    estimator: BoostedTrees | LogisticModel
    if spec.estimator == "logistic_regression":
        estimator = LogisticModel.fit(taught, encoding, spec.all_params, seed=spec.seed, threads=spec.threads)
    else:
        start = parent.estimator if parent and isinstance(parent.estimator, BoostedTrees) else None
        estimator = BoostedTrees.fit(taught, tuned, spec.all_params, seed=spec.seed, threads=spec.threads, parent=start)
    # One row at least: an estimator refuses an empty matrix, calibration does not need to see it.
    calibration = fit_calibration(estimator.log_odds(tuned[0]) if len(tuned[1]) else np.zeros(0), tuned[1])
    return SuccessPipeline(encoding, estimator, calibration)


def _obstacle_to_continuing(parent: SuccessPipeline | None, schema: FeatureSchema, spec: TrainSpec) -> str:
    """Why training cannot continue from the parent; "" when it can."""
    if parent is None:
        return "there is no parent to continue from"
    if spec.estimator != "hist_gradient_boosting" or not isinstance(parent.estimator, BoostedTrees):
        return f"{spec.estimator} cannot continue from {type(parent.estimator).__name__}"
    columns = [(column.name, column.type) for column in parent.encoding.columns]
    if columns != [(feature.name, feature.type) for feature in schema.features]:
        return "the features differ from the parent's"
    if parent.encoding.actions != schema.actions:
        return "the actions differ from the parent's"
    if parent.estimator.trees + spec.all_params["incremental_iter"] > spec.all_params["max_trees"]:
        return f"the parent's {parent.estimator.trees} trees leave no room below max_trees"
    return ""


def _unknown_param(name: str, known: Mapping[str, Any]) -> str:
    if name in known:
        return ""
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else f"; known are {', '.join(known)}"
    return f"model.params.{name}: is unknown{hint}"
