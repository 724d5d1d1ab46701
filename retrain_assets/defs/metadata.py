"""What a person sees of a materialisation in the Dagster UI.

Holds the translation of values into metadata: rounded numbers, tables, links, plots; does not hold the
plots themselves (`core/plots.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from retrain_assets.core import plots
from retrain_assets.core.dataset import Dataset, Snapshot
from retrain_assets.core.deployment import Event, EventKind, ModelVersion
from retrain_assets.core.metrics import wilson_interval
from retrain_assets.core.report import Gate, ValidationReport
from retrain_assets.defs.partitions import Frame
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.retrain import Prepared, Training
from retrain_assets.store.decisions import Performance

Metadata = dict[str, Any]
DIGITS = 4
"""Floats print every digit in the UI unless they are rounded here."""


REPORTED = {
    EventKind.PROMOTED: "promotion",
    EventKind.ROLLED_BACK: "rollback",
    EventKind.NOT_PROMOTED: "rollback",
}
"""Events that appear as materialisations: what came to serve, and what was taken out of traffic."""


def of_numbers(values: Mapping[str, Any]) -> Metadata:
    """Numbers rounded, None left out, everything else as text."""
    shown: Metadata = {}
    for name, value in values.items():
        if isinstance(value, bool | int):
            shown[name] = value
        elif isinstance(value, float):
            shown[name] = round(value, DIGITS)
        elif value is not None:
            shown[name] = str(value)
    return shown


def tags_of(**values: str | bool | None) -> dict[str, str]:
    """Tags by which a materialisation is found; Dagster takes 63 characters, so a hash is cut to its first 32."""
    return {name: str(value).lower() if isinstance(value, bool) else str(value)[:32] for name, value in values.items()}


def of_snapshot(platform: Platform, snapshot: Snapshot) -> Metadata:
    """A week's snapshot."""
    return {
        "dagster/row_count": snapshot.rows,
        "week": snapshot.week,
        "content_hash": snapshot.content_hash,
        "file_sha256": snapshot.file_sha256,
        "schema_version": snapshot.schema_version,
        "file": dg.MetadataValue.path(str(platform.problem_home / snapshot.path)),
    }


def of_dataset(platform: Platform, dataset: Dataset, taken: Sequence[str]) -> Metadata:
    """A manifest and its snapshots."""
    columns = [dg.TableColumn("week"), dg.TableColumn("rows", "int"), dg.TableColumn("content_hash")]
    records = [
        dg.TableRecord({"week": part.week, "rows": part.rows, "content_hash": part.content_hash[:16]})
        for part in dataset.snapshots
    ]
    return {
        "dagster/row_count": dataset.rows,
        "dataset_hash": dataset.dataset_hash,
        "schema_version": dataset.schema_version,
        "weeks": len(dataset.snapshots),
        "weeks_taken_now": ", ".join(taken) or "none",
        "snapshots": dg.MetadataValue.table(records, schema=dg.TableSchema(columns)),
        "home": dg.MetadataValue.path(str(platform.problem_home)),
    }


def of_splits(prepared: Prepared) -> Metadata:
    """Counts and boundaries of a split."""
    return {
        "dataset_hash": prepared.dataset.dataset_hash,
        "new_tasks": prepared.new_tasks,
        **of_numbers(prepared.splits.to_dict()),
    }


def of_training(platform: Platform, training: Training) -> Metadata:
    """A training's held-out scores and files."""
    test = training.metrics["test"]
    return {
        "dataset_hash": training.dataset_hash,
        "training_id": training.training_id,
        "parent_version": training.parent_version or "none",
        **{f"test_{name}": value for name, value in of_numbers(test["overall"]).items()},
        "by_action": scores_table(test["by_action"], "action"),
        "artefacts": dg.MetadataValue.json(training.artefacts),
        "home": dg.MetadataValue.path(str(platform.problem_home)),
    }


def of_version(platform: Platform, model: ModelVersion) -> Metadata:
    """A version and where it comes from."""
    return {
        "version": model.version,
        "status": model.status.value,
        "week": model.week,
        "dataset_hash": model.dataset_hash,
        "schema_version": model.schema_version,
        "code_version": model.code_version,
        "parent_version": model.parent_version or "none",
        "is_backfill": model.is_backfill,
        "lineage": dg.MetadataValue.md(f"`retrain lineage {model.version}`"),
        "home": dg.MetadataValue.path(str(platform.problem_home)),
    }


def of_report(platform: Platform, model: ModelVersion, report: ValidationReport) -> Metadata:
    """The gates, the scores beside production's, and the pictures."""
    overall = {f"test_{name}": value for name, value in of_numbers(report.metrics["overall"]).items()}
    production = {
        f"production_{name}": value
        for name, value in of_numbers((report.production_metrics or {}).get("overall", {})).items()
    }
    return {
        "version": model.version,
        "passed": report.passed,
        "summary": report.summary,
        "gates": gates_table(report.gates),
        **overall,
        **production,
        **{f"trivial_{name}": value for name, value in of_numbers(report.trivial).items() if name == "log_loss"},
        "by_action": scores_table(report.metrics["by_action"], "action"),
        "by_stratum": scores_table(report.metrics["by_stratum"], "stratum"),
        **report_pictures(report),
        "dataset_hash": model.dataset_hash,
        "home": dg.MetadataValue.path(str(platform.problem_home)),
    }


def report_pictures(report: ValidationReport) -> Metadata:
    """Calibration, success per action and feature importance of a report."""
    production = report.production_metrics
    return {
        "calibration": picture(
            plots.calibration_plot(report.metrics["calibration"], production["calibration"] if production else None)
        ),
        "per_action": picture(plots.action_plot(report.metrics["by_action"])),
        "importance": picture(plots.importance_plot(report.importance)),
    }


def of_event(event: Event) -> Metadata:
    """A change of what serves, with the evidence for it."""
    evidence = event.evidence
    shown: Metadata = {
        "version": event.version or "none",
        "event": event.kind.value,
        "reason": event.reason,
        "actor": event.actor,
        "at": event.at.isoformat(),
        "epoch": event.epoch if event.epoch is not None else -1,
    }
    if event.share is not None:
        shown["share"] = round(event.share, DIGITS)
    for name in ("relative", "absolute"):
        if name in evidence:
            shown[f"evidence_{name}"] = round(min(float(evidence[name]), 1e12), DIGITS)
    if "rates" in evidence:
        shown["rates"] = rates_table(evidence["rates"])
    if evidence.get("trace"):
        limits = {"roll back": evidence["needed"]["relative"], "hold": evidence["needed"]["hold"]}
        points = evidence_points(evidence["trace"])
        shown["evidence_over_time"] = picture(plots.evidence_plot(points, limits))
        course = [math.log10(max(point["relative"], 1e-3)) for point in points]
        shown["evidence_sparkline"] = dg.MetadataValue.md(plots.sparkline_svg(course, "log10 of the evidence"))
    if "plan" in evidence:
        shown["plan"] = str(evidence["plan"].get("in_words", ""))
    rest = {name: value for name, value in evidence.items() if name != "trace"}
    if rest:
        shown["evidence"] = dg.MetadataValue.json(rest)
    return shown


def evidence_points(trace: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """The course of a trial (`TrialState.trace`) as `plots.evidence_plot` takes it."""
    points = []
    for at, relative, absolute, *counts in trace:
        rates = {}
        for arm, tasks, good in (("canary", *counts[:2]), ("production", *counts[2:])):
            if tasks:
                low, high = wilson_interval(good, tasks)
                rates[arm] = {"rate": good / tasks, "low": low, "high": high, "n": tasks}
        points.append({"at": at, "relative": relative, "absolute": absolute, "rates": rates})
    return points


def materialisations(frame: Frame, events: Sequence[Event]) -> list[dg.AssetMaterialization]:
    """The events of a tick as asset materialisations with the evidence as metadata."""
    return [
        dg.AssetMaterialization(
            asset_key=frame.key(REPORTED[event.kind]),
            description=event.reason,
            metadata=of_event(event),
            tags=tags_of(version=event.version),
        )
        for event in events
        if event.kind in REPORTED
    ]


def of_performance(rows: Sequence[Performance]) -> Metadata:
    """Counts per version, arm and action."""
    names = ("version", "arm", "action", "tasks", "success_rate", "error_rate", "missing", "mean_latency_ms")
    records = [
        dg.TableRecord(
            {
                "version": row.model_version or "none",
                "arm": row.arm,
                "action": row.action,
                "tasks": row.tasks,
                "success_rate": round(row.success_rate, DIGITS),
                "error_rate": round(row.error_rate, DIGITS),
                "missing": row.missing,
                "mean_latency_ms": round(row.mean_latency_ms, DIGITS),
            }
        )
        for row in rows
    ]
    schema = dg.TableSchema([dg.TableColumn(name) for name in names])
    return {"tasks": sum(row.tasks for row in rows), "versions": dg.MetadataValue.table(records, schema=schema)}


def check_of(gate: Gate) -> dg.AssetCheckResult:
    """A gate as an asset check: a warning, since a rejected version is no failed run."""
    return dg.AssetCheckResult(
        check_name=gate.name,
        passed=gate.passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=gate.message,
        metadata=of_numbers({"value": gate.value, "limit": gate.limit}),
    )


def gates_table(gates: Sequence[Gate]) -> dg.TableMetadataValue:
    """Every gate with its number, limit and sentence."""
    records = [
        dg.TableRecord(
            {
                "gate": gate.name,
                "result": "passed" if gate.passed else "refused",
                "value": _text(gate.value),
                "limit": _text(gate.limit),
                "message": gate.message,
            }
        )
        for gate in gates
    ]
    names = ("gate", "result", "value", "limit", "message")
    return dg.MetadataValue.table(records, schema=dg.TableSchema([dg.TableColumn(name) for name in names]))


def scores_table(groups: Mapping[str, Mapping[str, Any]], name: str) -> dg.TableMetadataValue:
    """Scores of each action or stratum."""
    columns = ("n", "success_rate", "predicted_rate", "log_loss", "brier", "roc_auc", "accuracy")
    records = [
        dg.TableRecord({name: group or "all"} | {column: _text(scores.get(column)) for column in columns})
        for group, scores in groups.items()
    ]
    schema = dg.TableSchema([dg.TableColumn(column) for column in (name, *columns)])
    return dg.MetadataValue.table(records, schema=schema)


def rates_table(rates: Mapping[str, Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Good events of both arms for each metric."""
    columns = sorted({column for row in rates.values() for column in row})
    records = [
        dg.TableRecord({"metric": metric} | {column: _text(row.get(column)) for column in columns})
        for metric, row in rates.items()
    ]
    schema = dg.TableSchema([dg.TableColumn(column) for column in ("metric", *columns)])
    return dg.MetadataValue.table(records, schema=schema)


def picture(png: bytes) -> dg.MarkdownMetadataValue:
    """A picture as the UI can show it: Markdown with the image in it."""
    return dg.MetadataValue.md(f"![plot]({plots.data_uri(png)})")


def _text(value: Any) -> str:  # noqa: ANN401  (a number, text or nothing)
    if value is None:
        return "-"
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)
