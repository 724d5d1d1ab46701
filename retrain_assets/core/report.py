"""Whether a candidate may be deployed, and why: the validation report with its gates.

Holds the held-out rows' values and the report; does not hold the gates (`core/report_gates.py`; their public names can
be imported from here too), the metrics (`core/metrics.py`), pictures (`core/plots.py`), the page that people read
(`core/report_page.py`) or acting on the answer (`operations/`).

A candidate that fails a gate is discarded with its report; that is a normal end of a week, not an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from retrain_assets.core.drift import FeatureDrift, LabelDrift
from retrain_assets.core.features import FeatureSchema
from retrain_assets.core.leakage import LeakReport
from retrain_assets.core.metrics import Difference, compare, evaluate, score
from retrain_assets.core.model import ParityResult
from retrain_assets.core.paired import compare_groups
from retrain_assets.core.pipeline import success_labels
from retrain_assets.core.report_gates import (
    GATES,
    Gate,
    ReportPolicy,
    action_gate,
    data_drift_gate,
    held_out_gate,
    label_drift_gate,
    leakage_gate,
    parity_gate,
    production_gate,
    schema_gate,
    staleness_gate,
    threshold_gate,
    trivial_gate,
    volume_gate,
)

__all__ = ["GATES", "Gate", "HeldOut", "ReportPolicy", "ValidationReport", "build_report"]

MAX_STRATA = 40
"""Strata that are compared one by one, those with the most rows."""


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
        Whatever the caller adds: week, leaks, drift, off-policy value, walk-forward, the page's place.
    groups : mapping
        `reference` (production's version, or "constant guess"), and `by_action` and `by_stratum`: `compare_groups`
        against it.
    previous_version : str or None
        The newest other candidate, rejected ones included.
    previous_metrics : mapping or None
        Its `evaluate` on the same rows.
    previous_comparisons : tuple of mapping
        Like `comparisons`, against it.
    """

    gates: tuple[Gate, ...]
    metrics: Mapping[str, Any]
    production_metrics: Mapping[str, Any] | None
    production_version: str | None
    trivial: Mapping[str, Any]
    comparisons: tuple[Mapping[str, Any], ...]
    importance: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Any] = field(default_factory=dict)
    previous_version: str | None = None
    previous_metrics: Mapping[str, Any] | None = None
    previous_comparisons: tuple[Mapping[str, Any], ...] = ()

    @property
    def passed(self) -> bool:
        """True when every gate that may refuse passed."""
        return all(gate.passed or not gate.is_refusing for gate in self.gates)

    @property
    def failures(self) -> list[str]:
        """The messages of the gates that refuse the candidate."""
        return [gate.message for gate in self.gates if not gate.passed and gate.is_refusing]

    @property
    def summary(self) -> str:
        """One sentence: passed, or why not."""
        return "passed all gates" if self.passed else "; ".join(self.failures)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able, `passed` and `summary` included; `from_dict` is its inverse.

        A number that JSON does not have, such as the error of a single row, becomes None.
        """
        plain: dict[str, Any] = _finite({**asdict(self), "passed": self.passed, "summary": self.summary})
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ValidationReport:
        """Read what `to_dict` wrote."""
        values = {key: value for key, value in data.items() if key not in {"passed", "summary"}}
        values["gates"] = tuple(Gate(**gate) for gate in values["gates"])
        for name in ("comparisons", "previous_comparisons"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)


@dataclass(frozen=True, slots=True, eq=False)
class Rival:
    """Another version's answers on the test rows.

    Attributes
    ----------
    version : str
    p : ndarray, shape (rows,)
        P(success).
    """

    version: str
    p: np.ndarray


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What is known about the candidate's data besides the test rows; None where it was not looked at.

    Attributes
    ----------
    train_success_rate : float
        The constant guess known before the test part.
    validation_success_rate : float or None
        A newer one.
    new_samples : int or None
        Tasks that the last trained dataset did not hold; None when the caller does not ask for a minimum.
    leaks : LeakReport or None
    drift : tuple of FeatureDrift or None
        Against the data that taught production.
    labels : LabelDrift or None
        The same for success rates.
    staleness_weeks : float or None
        By how much production's data is older.
    """

    train_success_rate: float
    validation_success_rate: float | None = None
    new_samples: int | None = None
    leaks: LeakReport | None = None
    drift: tuple[FeatureDrift, ...] | None = None
    labels: LabelDrift | None = None
    staleness_weeks: float | None = None


def build_report(
    held_out: HeldOut,
    candidate: np.ndarray,
    *,
    policy: ReportPolicy,
    data: DataFacts,
    schema: FeatureSchema,
    parity: ParityResult,
    production: Rival | None = None,
    production_schema: FeatureSchema | None = None,
    previous: Rival | None = None,
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
    data : DataFacts
    schema : FeatureSchema
    parity : ParityResult
    production : Rival, optional
        None when there is none, or it cannot score these rows.
    production_schema : optional
    previous : Rival, optional
        The newest other candidate; it is compared and decides nothing.
    importance : mapping, optional
        From `core.metrics.feature_importance`.
    details : mapping, optional

    Returns
    -------
    ValidationReport
    """
    _check_lengths(held_out, candidate, production, previous)
    success = held_out.success
    rates = [rate for rate in (data.train_success_rate, data.validation_success_rate) if rate is not None]
    constant = np.full(len(success), data.train_success_rate)
    metrics, trivial = evaluate(success, candidate, held_out.action, held_out.stratum), score(success, constant)
    against_production = _comparisons(held_out, candidate, production, policy)
    groups = _groups(held_out, candidate, production, constant)
    gates = (
        schema_gate(schema, production_schema),
        parity_gate(parity),
        volume_gate(data.new_samples, policy.min_new_samples),
        held_out_gate(len(success), policy.min_test_rows),
        leakage_gate(data.leaks, policy),
        threshold_gate(metrics["overall"], trivial, policy),
        trivial_gate(success, candidate, rates, held_out.task),
        production_gate(against_production, len(success), policy),
        action_gate(groups["by_action"] if production is not None else None, policy),
        data_drift_gate(data.drift, policy),
        label_drift_gate(data.labels, policy),
        staleness_gate(data.staleness_weeks, policy),
    )
    return ValidationReport(
        gates=gates,
        metrics=metrics,
        production_metrics=_evaluated(held_out, production),
        production_version=production.version if production else None,
        trivial=trivial,
        comparisons=tuple(difference.to_dict() for difference in against_production),
        importance=dict(importance or {}),
        details=dict(details or {}),
        groups=groups,
        previous_version=previous.version if previous else None,
        previous_metrics=_evaluated(held_out, previous),
        previous_comparisons=tuple(d.to_dict() for d in _comparisons(held_out, candidate, previous, policy)),
    )


def _evaluated(held_out: HeldOut, rival: Rival | None) -> dict[str, Any] | None:
    return None if rival is None else evaluate(held_out.success, rival.p, held_out.action, held_out.stratum)


def _groups(held_out: HeldOut, candidate: np.ndarray, production: Rival | None, constant: np.ndarray) -> dict[str, Any]:
    reference = constant if production is None else production.p
    names, counts = np.unique(held_out.stratum, return_counts=True)
    frequent = names[np.argsort(-counts, kind="stable")[:MAX_STRATA]]
    kept = np.isin(held_out.stratum, frequent)

    def grouped(keys: np.ndarray, rows: np.ndarray) -> dict[str, dict[str, Any]]:
        return compare_groups(candidate[rows], reference[rows], held_out.success[rows], keys[rows], held_out.task[rows])

    return {
        "reference": "constant guess" if production is None else production.version,
        "by_action": grouped(held_out.action, np.ones(len(candidate), dtype=bool)),
        "by_stratum": grouped(held_out.stratum, kept),
        "strata_left_out": len(names) - len(frequent),
    }


def _comparisons(
    held_out: HeldOut, candidate: np.ndarray, rival: Rival | None, policy: ReportPolicy
) -> tuple[Difference, ...]:
    if rival is None or len(candidate) == 0:
        return ()
    return tuple(
        compare(
            candidate,
            rival.p,
            held_out.success,
            metric=metric,
            task=held_out.task,
            seed=policy.seed,
            resamples=policy.resamples,
        )
        for metric in dict.fromkeys(("log_loss", policy.validation_metric))
    )


def _check_lengths(held_out: HeldOut, candidate: np.ndarray, *rivals: Rival | None) -> None:
    lengths = {len(held_out.success), len(candidate), *(len(rival.p) for rival in rivals if rival is not None)}
    if len(lengths) != 1:
        raise ValueError(f"held-out rows and predictions differ in length: {sorted(lengths)}")


def _finite(value: Any) -> Any:  # noqa: ANN401  (anything that a report holds)
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(_finite(item) for item in value)
    return value
