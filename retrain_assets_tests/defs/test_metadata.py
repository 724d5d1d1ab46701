"""What a person sees in the UI: rounded numbers, tables, pictures that fit, everything JSON-able."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import pytest

from retrain_assets.core.dataset import Snapshot, WeekCalendar
from retrain_assets.core.deployment import Event, EventKind, ModelVersion
from retrain_assets.core.report import Gate, ValidationReport
from retrain_assets.defs import metadata
from retrain_assets.defs.partitions import frame_of
from retrain_assets.operations.performance import LedgerLine
from retrain_assets.operations.platform import Platform
from retrain_assets.settings import Config, Settings
from retrain_assets.store.database import Database
from retrain_assets.store.decisions import Performance
from retrain_assets.testing import START

FRAME = frame_of(Config(), WeekCalendar(), "2026-01-04")


def _event(kind: EventKind, **evidence: object) -> Event:
    return Event(kind=kind, at=START, actor="anna", reason="because", version="v1.0.1", share=1 / 3, evidence=evidence)


def test_numbers_are_rounded_and_nothing_is_left_as_none() -> None:
    """The UI prints every digit of a float."""
    shown = metadata.of_numbers({"a": 1 / 3, "b": 2, "c": None, "d": "text", "e": True, "f": [1]})
    assert shown == {"a": 0.3333, "b": 2, "d": "text", "e": True, "f": "[1]"}


def test_tags_fit_what_dagster_takes() -> None:
    """63 characters; a hash is cut where it is still unique."""
    tags = metadata.tags_of(dataset_hash="a" * 64, backfill=True, version="v1.0.0")
    assert tags == {"dataset_hash": "a" * 32, "backfill": "true", "version": "v1.0.0"}
    dg.AssetMaterialization("x", tags=tags)


@pytest.mark.parametrize("facts", [None, {"decided": 3, "missing": 1, "late": 0}])
def test_a_snapshots_facts_are_numbers_beside_its_rows(tmp_path: Path, facts: dict[str, int] | None) -> None:
    """So that the UI can chart how many tasks were missing; snapshots of older versions have none."""
    snapshot = Snapshot(
        content_hash="c" * 64,
        file_sha256="f" * 64,
        week="2026-01-04",
        rows=3,
        path="snapshots/2026-01-04/c.parquet",
        first_seq=1,
        last_seq=4,
        schema_version="s",
        created_at=START,
        facts=facts,
    )
    shown = metadata.of_snapshot(SimpleNamespace(problem_home=tmp_path), snapshot)  # type: ignore[arg-type]
    assert shown["dagster/row_count"] == 3
    told = {name: count for name, count in shown.items() if name.startswith("tasks_")}
    assert told == {f"tasks_{name}": count for name, count in (facts or {}).items()}


def test_only_what_came_to_serve_or_left_traffic_is_materialised() -> None:
    """Everything else is in the audit log."""
    events = [_event(kind) for kind in EventKind]
    found = metadata.materialisations(FRAME, events)
    assert [(m.asset_key.to_user_string(), m.metadata["event"].value) for m in found] == [
        ("promotion", "promoted"),
        ("rollback", "rolled_back"),
        ("rollback", "not_promoted"),
    ]


def test_an_event_without_evidence_shows_what_is_known() -> None:
    """A person's rollback has a reason and nothing else."""
    shown = metadata.of_event(_event(EventKind.ROLLED_BACK))
    assert shown["version"] == "v1.0.1"
    assert (shown["reason"], shown["actor"], shown["share"]) == ("because", "anna", 0.3333)
    assert "evidence" not in shown


def test_evidence_without_bound_stays_a_number_that_charts() -> None:
    """An e-value of 10^300 would be no JSON number in some readers, and infinity in none."""
    shown = metadata.of_event(_event(EventKind.ROLLED_BACK, relative=math.inf, absolute=1e300))
    assert (shown["evidence_relative"], shown["evidence_absolute"]) == (1e12, 1e12)


def test_the_course_of_the_evidence_is_a_picture_and_a_line() -> None:
    """Each point with both arms' rates; an arm without tasks has none."""
    trace = [
        ["2026-01-05T12:00:00+00:00", 1.0, 1.0, 0, 0, 20, 17],
        ["2026-01-05T13:00:00+00:00", 200.0, 2.0, 9, 1, 60, 51],
    ]
    points = metadata.evidence_points(trace)
    assert "canary" not in points[0]["rates"]
    assert points[1]["rates"]["canary"]["rate"] == pytest.approx(1 / 9)
    assert points[1]["rates"]["canary"]["low"] < 1 / 9 < points[1]["rates"]["canary"]["high"]
    needed = {"relative": 111.0, "absolute": 1000.0, "hold": 20.0}
    shown = metadata.of_event(_event(EventKind.ROLLED_BACK, trace=trace, needed=needed, relative=200.0))
    assert isinstance(shown["evidence_over_time"], dg.MarkdownMetadataValue)
    assert "<svg" in str(shown["evidence_sparkline"].value) or "data:image/svg" in str(
        shown["evidence_sparkline"].value
    )


def test_gates_and_checks_tell_the_same() -> None:
    """A gate that could not be measured shows a dash instead of a number."""
    gate = Gate("better_than_trivial", passed=False, value=None, limit=0.6931, message="nothing to judge on")
    check = metadata.check_of(gate)
    assert (check.passed, check.severity, check.description) == (
        False,
        dg.AssetCheckSeverity.WARN,
        "nothing to judge on",
    )
    (record,) = metadata.gates_table([gate]).records
    assert (record.data["result"], record.data["value"], record.data["limit"]) == ("refused", "-", "0.6931")


def test_performance_is_a_table_per_version_arm_and_action() -> None:
    """Answers without a version are shown as such."""
    shown = metadata.of_performance([Performance(None, "production", "comment", 3, 1, 1, 1, 0.123456)])
    assert shown["tasks"] == 3
    (record,) = shown["versions"].records
    assert (record.data["version"], record.data["success_rate"], record.data["mean_latency_ms"]) == (
        "none",
        0.3333,
        0.1235,
    )


def test_a_gate_that_only_warns_is_not_called_refused() -> None:
    """The table tells a warning from a refusal."""
    gate = Gate("model_staleness", passed=False, value=6.0, limit=4.0, message="old", is_refusing=False)
    (record,) = metadata.gates_table([gate]).records
    assert record.data["result"] == "warning"


def _line(**changes: Any) -> LedgerLine:  # noqa: ANN401  (fields of the line)
    values: dict[str, Any] = {
        "version": "v1.0.0", "week": "2026-01-04", "tasks": 100, "successes": 70, "missing": 3, "predicted": 0.72,
        "expected": None, "expected_low": None, "expected_high": None, "realised": 0.7, "low": 0.6, "high": 0.78,
        "is_complete": True,
    }  # fmt: skip
    return LedgerLine(**values | changes)


def test_the_ledger_shows_promise_and_truth_side_by_side() -> None:
    """A row for each version and week; missing outcomes are counted; a promise outside the interval is told."""
    shown = metadata.of_performance([], [_line(), _line(predicted=0.9, missing=2), _line(predicted=None)])
    records = shown["ledger"].records
    assert [record.data["as_predicted"] for record in records] == ["True", "False", "-"]
    assert (records[0].data["predicted"], records[0].data["realised"], records[0].data["expected"]) == (
        "0.72", "0.7", "-",
    )  # fmt: skip
    assert shown["missing_outcomes"] == 8
    assert "ledger" not in metadata.of_performance([])


def _report(**changes: Any) -> ValidationReport:  # noqa: ANN401  (fields of the report)
    overall = {"log_loss": 0.6, "n": 3}
    metrics = {"overall": overall, "by_action": {}, "by_stratum": {}, "calibration": []}
    gates = (Gate("volume", passed=True, value=1, limit=1, message="enough"),)
    values: dict[str, Any] = {
        "gates": gates, "metrics": metrics, "production_metrics": None, "production_version": None,
        "trivial": {"log_loss": 0.7}, "comparisons": (), "importance": {"feature_pa": 0.1},
    }  # fmt: skip
    return ValidationReport(**values | changes)


def test_a_report_leads_to_its_page(tmp_path: Path) -> None:
    """As a link and as a path; a report without a page has neither."""
    settings = Settings(config=Config(), config_path=None, home=tmp_path, database_url="sqlite://")
    platform = Platform(settings, Database("sqlite://"))
    shown = metadata.report_page(platform, _report(details={"page": "reports/v1.0.0.html"}))
    file = tmp_path / "backlinks" / "reports" / "v1.0.0.html"
    assert (shown["report_page"].value, shown["report_file"].value) == (file.as_uri(), str(file))
    assert metadata.report_page(platform, _report()) == {}


def test_a_report_shows_what_it_was_compared_with() -> None:
    """The candidate before, other choices or why they cannot be judged, and what drifted."""
    difference = {"metric": "log_loss", "improvement": 0.01, "low": -0.01, "high": 0.03, "detectable": 0.02}
    found = metadata.report_comparisons(
        _report(
            previous_version="v1.0.0",
            previous_comparisons=(difference,),
            details={
                "off_policy": {"is_enough": False, "reason": "not enough overlap"},
                "drift": {"total": {"drifted": ["pa"]}},
            },
        )
    )
    assert found["previous_version"] == "v1.0.0"
    assert found["against_previous"].records[0].data["improvement"] == "0.01"
    assert (found["off_policy"], found["drifted_features"]) == ("not enough overlap", "pa")
    estimate = {"value": 0.7123456, "low": 0.6, "high": 0.8}
    choices = {"is_enough": True, "recommended": "snips", "estimates": {"snips": estimate}}
    assert metadata.report_comparisons(_report(details={"off_policy": choices})) == {
        "off_policy_value": 0.7123, "off_policy_low": 0.6, "off_policy_high": 0.8,
    }  # fmt: skip


def test_drift_and_the_weeks_before_are_pictures_where_there_are_any() -> None:
    """A first report has neither; a later one also has a line that the UI shows without a click."""
    model = cast("ModelVersion", SimpleNamespace(week="2026-01-11"))
    assert set(metadata.report_pictures(model, _report())) == {"calibration", "per_action", "importance"}
    week = {"week": "2026-01-04", "candidate": 0.5, "production": None, "trivial": 0.6}
    drifted = [{"name": "pa", "psi": 0.4, "psi_noise": 0.01}, {"name": "gone", "psi": None, "psi_noise": None}]
    later = metadata.report_pictures(model, _report(details={"walk_forward": [week], "drift": {"features": drifted}}))
    assert set(later) == {
        "calibration", "per_action", "importance", "drift", "walk_forward", "walk_forward_sparkline",
    }  # fmt: skip
