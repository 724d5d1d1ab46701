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
from retrain_assets.operations.performance import LedgerLine
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
    facts = snapshot.facts or {}
    return {
        "dagster/row_count": snapshot.rows,
        "week": snapshot.week,
        "content_hash": snapshot.content_hash,
        "file_sha256": snapshot.file_sha256,
        "schema_version": snapshot.schema_version,
        "file": dg.MetadataValue.path(str(platform.problem_home / snapshot.path)),
        **{f"tasks_{name}": fact for name, fact in facts.items() if isinstance(fact, int)},
        **{name: dg.MetadataValue.json(fact) for name, fact in facts.items() if isinstance(fact, dict)},
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
        **report_page(platform, report),
        "gates": gates_table(report.gates),
        **overall,
        **production,
        **{f"trivial_{name}": value for name, value in of_numbers(report.trivial).items() if name == "log_loss"},
        "by_action": scores_table(report.metrics["by_action"], "action"),
        "by_stratum": scores_table(report.metrics["by_stratum"], "stratum"),
        **report_comparisons(report),
        **report_pictures(model, report),
        "dataset_hash": model.dataset_hash,
        "home": dg.MetadataValue.path(str(platform.problem_home)),
    }


def report_page(platform: Platform, report: ValidationReport) -> Metadata:
    """Where the page lies: as a link, and as a path for those whose browser opens no local files from a web page."""
    page = report.details.get("page")
    if not page:
        return {}
    file = platform.problem_home / page
    return {"report_page": dg.MetadataValue.url(file.as_uri()), "report_file": dg.MetadataValue.path(str(file))}


def report_comparisons(report: ValidationReport) -> Metadata:
    """How the candidate stands against production, against the candidate before, and what its choices are worth."""
    shown: Metadata = {}
    for name, version, found in (
        ("production", report.production_version, report.comparisons),
        ("previous", report.previous_version, report.previous_comparisons),
    ):
        if version is not None and found:
            shown[f"{name}_version"] = version
            shown[f"against_{name}"] = differences_table(found)
    choices = report.details.get("off_policy") or {}
    if choices.get("is_enough"):
        estimate = choices["estimates"][choices["recommended"]]
        shown |= of_numbers({f"off_policy_{name}": estimate[name] for name in ("value", "low", "high")})
    elif choices:
        shown["off_policy"] = choices["reason"]
    total = (report.details.get("drift") or {}).get("total")
    if total:
        shown["drifted_features"] = ", ".join(total["drifted"]) or "none"
    return shown


def differences_table(found: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Each metric's improvement with its interval, and what so many rows can show."""
    columns = ("metric", "improvement", "low", "high", "detectable")
    records = [dg.TableRecord({column: _text(item[column]) for column in columns}) for item in found]
    return dg.MetadataValue.table(records, schema=dg.TableSchema([dg.TableColumn(column) for column in columns]))


def report_pictures(model: ModelVersion, report: ValidationReport) -> Metadata:
    """Calibration, success per action, importance and its change; drift and the weeks before where there are any."""
    production, details = report.production_metrics, report.details
    overall = report.metrics["overall"]
    now = {
        "week": model.week,
        "candidate": overall["log_loss"],
        "production": (production or {}).get("overall", {}).get("log_loss"),
        "trivial": report.trivial.get("log_loss"),
    }
    weeks = [*(details.get("walk_forward") or []), now]
    drifted = (details.get("drift") or {}).get("features")
    pictures = {
        "calibration": plots.calibration_plot(
            report.metrics["calibration"], production["calibration"] if production else None
        ),
        "per_action": plots.action_plot(report.metrics["by_action"]),
        "importance": plots.importance_plot(report.importance, details.get("importance_before")),
    }
    if drifted:
        pictures["drift"] = plots.drift_plot(drifted)
    if len(weeks) > 1:
        pictures["walk_forward"] = plots.walk_forward_plot(weeks)
    course = plots.sparkline_svg([week["candidate"] for week in weeks], "log loss of each week's version")
    sparkline = {"walk_forward_sparkline": dg.MetadataValue.md(course)} if len(weeks) > 1 and course else {}
    return {name: picture(png) for name, png in pictures.items()} | sparkline


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


def of_performance(rows: Sequence[Performance], ledger: Sequence[LedgerLine] = ()) -> Metadata:
    """Counts per version, arm and action, and what each version promised against what came true."""
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
    shown: Metadata = {
        "tasks": sum(row.tasks for row in rows),
        "versions": dg.MetadataValue.table(records, schema=schema),
    }
    return shown | (of_ledger(ledger) if ledger else {})


def of_ledger(lines: Sequence[LedgerLine]) -> Metadata:
    """Predicted against realised success, a row for each version and week."""
    names = ("week", "version", "tasks", "missing", "predicted", "expected", "realised", "low", "high")
    records = [
        dg.TableRecord(
            {name: _text(getattr(line, name)) for name in names}
            | {"as_predicted": _text(line.is_as_predicted), "week_is_over": _text(line.is_complete)}
        )
        for line in lines
    ]
    schema = dg.TableSchema([dg.TableColumn(name) for name in (*names, "as_predicted", "week_is_over")])
    return {
        "missing_outcomes": sum(line.missing for line in lines),
        "ledger": dg.MetadataValue.table(records, schema=schema),
    }


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
                "result": gate.verdict,
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
