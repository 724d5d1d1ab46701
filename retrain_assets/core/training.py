"""Training: from split rows and a spec to a fitted pipeline.

Holds the spec of a training and `train`; does not hold the estimators (`core/estimators.py`,
`core/user_estimator.py`), the search for their parameters (`core/search.py`), the fitted pipeline (`core/pipeline.py`)
or the artefact made of it (`core/model.py`, which offers these names, too).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from retrain_assets.core.encoding import Encoding
from retrain_assets.core.estimators import BoostedTrees, LogisticModel
from retrain_assets.core.features import FeatureSchema
from retrain_assets.core.model_settings import PARAMS, estimator_problems, is_import_path, param_problems
from retrain_assets.core.pipeline import (
    Estimator,
    SuccessPipeline,
    encode_frame,
    fit_calibration,
    fit_encoding,
    success_labels,
)
from retrain_assets.core.probes import probe_rows
from retrain_assets.core.search import MIN_ROWS, Losses, Runner, SearchPlan, SearchResult, one_by_one, search
from retrain_assets.core.user_estimator import Make, UserEstimator
from retrain_assets.errors import ConfigError, TrainingImpossible, UsageError

MODES = ("full", "incremental")

Part = tuple[np.ndarray, np.ndarray]
"""Encoded rows and their success: float32 of shape (rows, width), bool of shape (rows,)."""


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """How to train; together with the rows it fixes the result.

    Attributes
    ----------
    estimator : str, default "hist_gradient_boosting"
        Or "logistic_regression", or the import path of a user's own, `my_package.models:make_model`.
    params : mapping
        Departures from the estimator's defaults (`core.model_settings.PARAMS`); after a search the ones that it chose.
    mode : str, default "full"
        Or "incremental": continue from the parent pipeline where the estimator can.
    seed : int, default 0
    threads : int, default 1
        OpenMP threads. More can be slower on busy machines, where they spin.
    parent_digest : str or None
        SHA-256 of the `pipeline.joblib` that an incremental training continues from.
    schema : mapping
        `FeatureSchema.to_dict()`; empty until training fills it in.
    source : mapping or None
        Of a user's own estimator: module, SHA-256 of its source, and the version of its distribution.
    searched : mapping or None
        Trials and space of the search that chose `params`; told, not repeated.

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
    source: Mapping[str, Any] | None = None
    searched: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        problems = estimator_problems(self.estimator) + param_problems(self.estimator, self.params)
        if self.mode not in MODES:
            problems.append(f"model.mode: {self.mode!r} is not one of {', '.join(MODES)}")
        if self.threads < 1:
            problems.append(f"model.threads: {self.threads} must be at least 1")
        if problems:
            raise ConfigError(problems, "model settings")

    @property
    def all_params(self) -> dict[str, Any]:
        """The estimator's parameters, defaults filled in where they are known."""
        return {**PARAMS.get(self.estimator, {}), **self.params}

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
            "source": None if self.source is None else dict(self.source),
            "searched": None if self.searched is None else dict(self.searched),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainSpec:
        """Read what `to_dict` wrote; absent keys get their defaults."""
        return cls(**data)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """What an estimator is fitted on.

    Attributes
    ----------
    taught, tuned : (ndarray, ndarray)
        Training and validation rows with their success; see `Part`.
    encoding : Encoding
    make : callable or None
        The user's own estimator.
    """

    taught: Part
    tuned: Part
    encoding: Encoding
    make: Make | None = None


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
    search : SearchResult or None
        Every trial, when parameters were searched.
    search_reason : str
        Why none were, when that was asked for; "" otherwise.
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
    search: SearchResult | None = None
    search_reason: str = ""

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
    *,
    make: Make | None = None,
    plan: SearchPlan | None = None,
    run_trials: Runner = one_by_one,
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
    make : callable, optional
        The user's own estimator, when `spec.estimator` is an import path.
    plan : SearchPlan, optional
        Search parameters on the validation part first. Not where training continues from a parent.
    run_trials : callable, optional
        How the trials of the search are run; see `core.search.search`.

    Returns
    -------
    TrainedModel
        With mode "full" also when continuing was asked for and not possible; `mode_reason` says why.

    Raises
    ------
    TrainingImpossible
        When there are no training rows or they have one class only.
    UsageError
        When the spec was recorded for another schema, or its own estimator is not given.
    ConfigError
        When a user's own estimator cannot be fitted.
    """
    success = _checked_labels(rows_train, schema, spec, make)
    obstacle = "" if spec.mode == "full" else _obstacle_to_continuing(parent, schema, spec)
    start = parent if spec.mode == "incremental" and not obstacle else None
    encoding = fit_encoding(schema, rows_train, start.encoding if start else None)
    taught: Part = (encode_frame(encoding, rows_train), success)
    tuned: Part = (encode_frame(encoding, rows_validation), success_labels(rows_validation))
    data, spec = Encoded(taught, tuned, encoding, make), replace(spec, schema=schema.to_dict())
    found, why_not = _searched(data, spec, plan, run_trials, is_continued=start is not None)
    if found is not None and plan is not None:
        told = {"trials": plan.trials, "space": dict(plan.space), "chosen": found.chosen}
        spec = replace(spec, params=found.params, searched=told)
    parent_trees = start.estimator if start and isinstance(start.estimator, BoostedTrees) else None
    pipeline = _fit(data, spec, parent_trees)
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
        search=found,
        search_reason=why_not,
    )


def _checked_labels(rows_train: pd.DataFrame, schema: FeatureSchema, spec: TrainSpec, make: Make | None) -> np.ndarray:
    """Success of the training rows, once everything that training asks for is there."""
    if spec.schema and dict(spec.schema) != schema.to_dict():
        raise UsageError("the spec was recorded for another feature schema; pass the schema it names")
    if is_import_path(spec.estimator) and make is None:
        raise UsageError(f"{spec.estimator} is a user's own estimator; pass what its import path names")
    success = success_labels(rows_train)
    if len(success) == 0 or success.all() or not success.any():
        found = "no training rows" if len(success) == 0 else f"{len(success)} training rows of one class only"
        raise TrainingImpossible(f"there are {found}; a model needs successes and failures to learn from")
    return success


def _fit(data: Encoded, spec: TrainSpec, parent: BoostedTrees | None) -> SuccessPipeline:
    estimator, (matrix, success) = _fit_estimator(data, spec, parent), data.tuned
    # One row at least: an estimator refuses an empty matrix, calibration does not need to see it.
    calibration = fit_calibration(estimator.log_odds(matrix) if len(success) else np.zeros(0), success)
    return SuccessPipeline(data.encoding, estimator, calibration)


def _fit_estimator(data: Encoded, spec: TrainSpec, parent: BoostedTrees | None) -> Estimator:
    params, seed, threads = spec.all_params, spec.seed, spec.threads
    if spec.estimator == "hist_gradient_boosting":
        return BoostedTrees.fit(data.taught, data.tuned, params, seed=seed, threads=threads, parent=parent)
    if spec.estimator == "logistic_regression":
        return LogisticModel.fit(data.taught, data.encoding, params, seed=seed, threads=threads)
    assert data.make is not None  # noqa: S101  (`_checked_labels` has seen to it)
    return UserEstimator.fit(data.taught, data.encoding, data.make, params, seed=seed, threads=threads)


def _searched(
    data: Encoded, spec: TrainSpec, plan: SearchPlan | None, run_trials: Runner, *, is_continued: bool
) -> tuple[SearchResult | None, str]:
    """The search's result, or why there is none."""
    if plan is None or plan.trials == 0:
        return None, ""
    if is_continued:
        return None, "parameters are searched where a training begins anew; this one continues from its parent"
    success = data.tuned[1]
    if len(success) < MIN_ROWS or success.all() or not success.any():
        return None, f"{len(success)} validation rows are too few to tell trials apart, or of one class"
    task = functools.partial(trial_losses, data, spec)
    return search(spec.estimator, spec.params, plan, task, seed=spec.seed, run=run_trials), ""


def trial_losses(data: Encoded, spec: TrainSpec, params: Mapping[str, Any]) -> Losses:
    """One trial of a search: each validation row's log loss before calibration (nats), or why it cannot be fitted.

    At the module's top, so that another process can run it.
    """
    try:
        estimator = _fit_estimator(data, replace(spec, params=params), None)
    except ConfigError as error:
        return "; ".join(error.problems)
    matrix, success = data.tuned
    log_odds = estimator.log_odds(matrix)
    return np.asarray(np.logaddexp(0.0, np.where(success, -log_odds, log_odds)))


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
