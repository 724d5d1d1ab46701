"""Whether a candidate may be deployed, and why: the validation report with its gates.

Holds the held-out rows' values, the gates and the report; does not hold the metrics themselves
(`core/metrics.py`), pictures (`core/plots.py`) or acting on the answer (`operations/`).

A candidate that fails a gate is discarded with its report; that is a normal end of a week, not an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from retrain_assets.core.features import FeatureSchema, SchemaChange, compare_schemas
from retrain_assets.core.metrics import HIGHER_IS_BETTER, RESAMPLES, Difference, compare, evaluate, score
from retrain_assets.core.model import ParityResult
from retrain_assets.core.pipeline import success_labels

GATES = (
    "schema_compatible",
    "parity",
    "volume",
    "enough_test_rows",
    "validation_threshold",
    "better_than_trivial",
    "not_worse_than_production",
)
"""The gates of every report, in its order."""
TRIVIAL_MARGIN = 0.005
"""Share of the constant guess's log loss that a model must save. A model of pure noise stops after a
few trees and is almost a constant itself: it beats the constant by luck half the time, but never by this."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition of deployment.

    Attributes
    ----------
    name : str
    passed : bool
    value : float, str or None
        What was found; None when it could not be measured.
    limit : float, str or None
        What was asked; None when nothing is.
    message : str
        A sentence for people, with the numbers.
    """

    name: str
    passed: bool
    value: float | str | None
    limit: float | str | None
    message: str


@dataclass(frozen=True, slots=True)
class ReportPolicy:
    """What the gates ask for.

    Attributes
    ----------
    validation_metric : str, default "accuracy"
        accuracy or roc_auc (at least the threshold), log_loss or brier (at most).
    validation_threshold : float, default 0.80
    min_test_rows : int, default 10
    min_new_samples : int, default 100
    margin : float, default 0.02
        Log loss (nats) by which a candidate may look worse than production while nothing is proven.
    resamples : int, default 1_000
    seed : int, default 0
    """

    validation_metric: str = "accuracy"
    validation_threshold: float = 0.80
    min_test_rows: int = 10
    min_new_samples: int = 100
    margin: float = 0.02
    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.validation_metric not in HIGHER_IS_BETTER:
            raise ValueError(f"validation_metric must be one of {', '.join(HIGHER_IS_BETTER)}")


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """The test rows' facts, arrays of one length.

    Attributes
    ----------
    success : ndarray of bool
    action, stratum, task : ndarray of str
    """

    success: np.ndarray
    action: np.ndarray
    stratum: np.ndarray
    task: np.ndarray

    @classmethod
    def from_rows(cls, rows: pd.DataFrame) -> HeldOut:
        """Read `result`, `action`, `stratum` (optional) and `task_id`."""
        stratum = rows["stratum"] if "stratum" in rows.columns else pd.Series([""] * len(rows), dtype=object)
        action, strata, task = (
            series.to_numpy(dtype=object, na_value="missing").astype(str)
            for series in (rows["action"], stratum, rows["task_id"])
        )
        return cls(success_labels(rows), action, strata, task)


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """The gates with everything they were judged on; JSON round-trips.

    Attributes
    ----------
    gates : tuple of Gate
    metrics : mapping
        `core.metrics.evaluate` of the candidate.
    production_metrics : mapping or None
        The same of production on the same rows.
    production_version : str or None
    trivial : mapping
        Metrics of the best constant guess, the training part's success rate.
    comparisons : tuple of mapping
        `core.metrics.Difference` against production: log loss, and the validation metric.
    importance : mapping
        Column to the rise of log loss when it is shuffled (nats).
    details : mapping
        Whatever the caller adds: splits, off-policy value, training facts.
    """

    gates: tuple[Gate, ...]
    metrics: Mapping[str, Any]
    production_metrics: Mapping[str, Any] | None
    production_version: str | None
    trivial: Mapping[str, Any]
    comparisons: tuple[Mapping[str, Any], ...]
    importance: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """True when every gate passed."""
        return all(gate.passed for gate in self.gates)

    @property
    def failures(self) -> list[str]:
        """The messages of the gates that did not pass."""
        return [gate.message for gate in self.gates if not gate.passed]

    @property
    def summary(self) -> str:
        """One sentence: passed, or why not."""
        return "passed all gates" if self.passed else "; ".join(self.failures)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able, `passed` and `summary` included; `from_dict` is its inverse."""
        return {**asdict(self), "passed": self.passed, "summary": self.summary}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ValidationReport:
        """Read what `to_dict` wrote."""
        values = {key: value for key, value in data.items() if key not in {"passed", "summary"}}
        values["gates"] = tuple(Gate(**gate) for gate in values["gates"])
        values["comparisons"] = tuple(values["comparisons"])
        return cls(**values)


def build_report(
    held_out: HeldOut,
    candidate: np.ndarray,
    *,
    policy: ReportPolicy,
    train_success_rate: float,
    schema: FeatureSchema,
    parity: ParityResult,
    new_samples: int | None = None,
    production: np.ndarray | None = None,
    production_schema: FeatureSchema | None = None,
    production_version: str | None = None,
    importance: Mapping[str, float] | None = None,
    details: Mapping[str, Any] | None = None,
) -> ValidationReport:
    """Judge a candidate on held-out rows.

    Parameters
    ----------
    held_out : HeldOut
        The test part.
    candidate : ndarray, shape (rows,)
        P(success) by the candidate.
    policy : ReportPolicy
    train_success_rate : float
        The best constant guess known before the test part.
    schema : FeatureSchema
    parity : ParityResult
    new_samples : int, optional
        Tasks that the last trained dataset did not hold; None when the caller does not ask for a minimum.
    production : ndarray, optional
        P(success) of the same rows by production; None when there is none, or it cannot score them.
    production_schema, production_version : optional
    importance : mapping, optional
        From `core.metrics.feature_importance`.
    details : mapping, optional

    Returns
    -------
    ValidationReport
    """
    _check_lengths(held_out, candidate, production)
    success = held_out.success
    constant = np.full(len(success), train_success_rate)
    metrics = evaluate(success, candidate, held_out.action, held_out.stratum)
    against_production = _comparisons(held_out, candidate, production, policy)
    gates = (
        schema_gate(schema, production_schema),
        parity_gate(parity),
        volume_gate(new_samples, policy.min_new_samples),
        held_out_gate(len(success), policy.min_test_rows),
        threshold_gate(metrics["overall"], score(success, constant), policy),
        trivial_gate(held_out, candidate, constant, policy),
        production_gate(against_production, len(success), policy),
    )
    return ValidationReport(
        gates=gates,
        metrics=metrics,
        production_metrics=None
        if production is None
        else evaluate(success, production, held_out.action, held_out.stratum),
        production_version=production_version,
        trivial=score(success, constant),
        comparisons=tuple(difference.to_dict() for difference in against_production),
        importance=dict(importance or {}),
        details=dict(details or {}),
    )


def schema_gate(schema: FeatureSchema, production_schema: FeatureSchema | None) -> Gate:
    """Say how the schema relates to production's.

    A breaking change passes: someone made it on purpose in the config, and it is answered by a new MAJOR
    version, which every worker and the registry can see. The gate puts it into the report in words.
    """
    if production_schema is None:
        return Gate("schema_compatible", True, "first", None, "there is no production schema to be compatible with")
    change, differences = compare_schemas(production_schema, schema)
    words = {
        SchemaChange.SAME: "the feature schema is production's",
        SchemaChange.COMPATIBLE: f"the feature schema grew compatibly: {'; '.join(differences)}",
        SchemaChange.BREAKING: f"the feature schema breaks, so this is a MAJOR version: {'; '.join(differences)}",
    }
    return Gate("schema_compatible", True, change.value, "a breaking change needs a MAJOR version", words[change])


def parity_gate(parity: ParityResult) -> Gate:
    """The engine's artefact must answer like the pipeline that was judged."""
    found = parity.max_abs_difference
    verb = "agree" if parity.passed else "disagree"
    message = f"engine and pipeline {verb} within {found:.2g} on {parity.rows} hard rows (limit {parity.limit:g})"
    return Gate("parity", parity.passed, found if np.isfinite(found) else None, parity.limit, message)


def volume_gate(new_samples: int | None, minimum: int) -> Gate:
    """Enough tasks that the last trained dataset did not hold."""
    if new_samples is None:
        return Gate("volume", True, None, None, "no minimum of new samples was asked for")
    message = f"{new_samples} new samples, {minimum} are needed"
    return Gate("volume", new_samples >= minimum, new_samples, minimum, message)


def held_out_gate(rows: int, minimum: int) -> Gate:
    """Enough held-out rows to judge by."""
    return Gate("enough_test_rows", rows >= minimum, rows, minimum, f"{rows} test rows, {minimum} are needed")


def threshold_gate(overall: Mapping[str, Any], trivial: Mapping[str, Any], policy: ReportPolicy) -> Gate:
    """The owner's own limit on the owner's own metric."""
    metric, limit, value = policy.validation_metric, policy.validation_threshold, overall[policy.validation_metric]
    if value is None:
        message = f"{metric} cannot be measured: the {overall['n']} test rows have one class only"
        return Gate("validation_threshold", False, None, limit, message)
    at_least = HIGHER_IS_BETTER[metric]
    passed = value >= limit if at_least else value <= limit
    guess = trivial[metric]
    hint = "" if guess is None else f"; guessing the training rate gives {guess:.3f}"
    message = f"{metric} is {value:.3f}, at {'least' if at_least else 'most'} {limit:.3f} is asked{hint}"
    return Gate("validation_threshold", passed, value, limit, message)


def trivial_gate(held_out: HeldOut, candidate: np.ndarray, constant: np.ndarray, policy: ReportPolicy) -> Gate:
    """The log loss must be lower than that of the best constant guess, on the same rows, by more than luck.

    Lower by at least one standard error and by `TRIVIAL_MARGIN` of the constant's loss. Always enforced: a
    model that cannot beat a constant ranks actions at random.
    """
    if len(candidate) == 0:
        return Gate("better_than_trivial", False, None, None, "there are no test rows to beat a constant guess on")
    found = compare(
        candidate, constant, held_out.success, task=held_out.task, seed=policy.seed, resamples=policy.resamples
    )
    saved, error = found.improvement or 0.0, found.standard_error or 0.0
    needed = max(error, TRIVIAL_MARGIN * (found.reference or 0.0))
    passed = bool(saved > needed)
    message = (
        f"log loss {found.candidate:.4f} against {found.reference:.4f} of a constant guess: "
        f"{'saves' if passed else 'must save'} more than {needed:.4f}, saved {saved:.4f}"
    )
    return Gate("better_than_trivial", passed, saved, needed, message)


def production_gate(comparisons: tuple[Difference, ...], rows: int, policy: ReportPolicy) -> Gate:
    """Refuse a candidate that is shown to be worse than production, or looks it by more than the margin.

    Shown: the 95 % interval of the improvement, in log loss or in the validation metric, lies below zero.
    Looks: log loss is worse by more than the margin and by more than one standard error. With few rows
    the error is larger than the margin, so chance alone refuses an equal candidate at most one time in
    six, and does not block for ever; the message says what the rows could show.
    """
    name = "not_worse_than_production"
    if not comparisons:
        return Gate(name, True, None, None, "there is no production model to compare with")
    log_loss = comparisons[0]
    improvement, error = log_loss.improvement or 0.0, log_loss.standard_error or 0.0
    worse = [item.metric for item in comparisons if item.high is not None and item.high < 0]
    looks_worse = improvement < -max(policy.margin, error)
    if worse:
        verdict = f"{' and '.join(worse)} shown to be worse than production"
    elif looks_worse:
        verdict = "log loss is worse than production's by more than the margin"
    else:
        verdict = "not worse than production"
    message = (
        f"{verdict}: log loss improves by {improvement:+.4f} ({log_loss.low:+.4f} to {log_loss.high:+.4f}); "
        f"{rows} rows can show a difference of {log_loss.detectable:.4f}"
    )
    return Gate(name, not worse and not looks_worse, improvement, -policy.margin, message)


def _comparisons(
    held_out: HeldOut, candidate: np.ndarray, production: np.ndarray | None, policy: ReportPolicy
) -> tuple[Difference, ...]:
    if production is None or len(candidate) == 0:
        return ()
    return tuple(
        compare(
            candidate,
            production,
            held_out.success,
            metric=metric,
            task=held_out.task,
            seed=policy.seed,
            resamples=policy.resamples,
        )
        for metric in dict.fromkeys(("log_loss", policy.validation_metric))
    )


def _check_lengths(held_out: HeldOut, candidate: np.ndarray, production: np.ndarray | None) -> None:
    lengths = {len(held_out.success), len(candidate)} | (set() if production is None else {len(production)})
    if len(lengths) != 1:
        raise ValueError(f"held-out rows and predictions differ in length: {sorted(lengths)}")
