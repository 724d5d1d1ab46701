"""What a person sees in the UI: rounded numbers, tables, pictures that fit, everything JSON-able."""

from __future__ import annotations

import math

import dagster as dg
import pytest

from retrain_assets.core.dataset import WeekCalendar
from retrain_assets.core.deployment import Event, EventKind
from retrain_assets.core.report import Gate
from retrain_assets.defs import metadata
from retrain_assets.defs.partitions import frame_of
from retrain_assets.settings import Config
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
