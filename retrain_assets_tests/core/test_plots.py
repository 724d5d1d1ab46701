from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from retrain_assets.core import plots
from retrain_assets.core.metrics import evaluate

PNG = b"\x89PNG\r\n\x1a\n"
SUCCESS = np.array([True, False, True, True, False] * 20)
P = np.linspace(0.1, 0.9, 100)
METRICS = evaluate(SUCCESS, P, np.array(["a", "b"] * 50), np.array(["x"] * 100))
RATES = {
    "production": {"rate": 0.8, "low": 0.7, "high": 0.9, "n": 90},
    "canary": {"rate": 0.7, "low": 0.4, "high": 0.9, "n": 10},
}
POINT = {"at": "2026-03-01T02:00:00+00:00", "relative": 1.0, "absolute": 0.0, "rates": RATES}
WEEK = {"week": "2026-03-01", "candidate": 0.6, "production": None, "trivial": 0.68}

PICTURES: dict[str, Callable[[], bytes]] = {
    "calibration": lambda: plots.calibration_plot(METRICS["calibration"], METRICS["calibration"]),
    "calibration of nothing": lambda: plots.calibration_plot([]),
    "actions": lambda: plots.action_plot(METRICS["by_action"]),
    "actions of nothing": lambda: plots.action_plot({}),
    "importance": lambda: plots.importance_plot({"feature_pa": 0.1, "action": -0.01}, {"feature_pa": 0.2}),
    "importance of nothing": lambda: plots.importance_plot({}),
    "drift": lambda: plots.drift_plot(
        [
            {"name": "month", "psi": 20.0, "psi_noise": 0.01},
            {"name": "gone", "psi": None, "psi_noise": None},
        ]
    ),
    "drift of nothing": lambda: plots.drift_plot([]),
    "weeks": lambda: plots.walk_forward_plot([WEEK] * 30),
    "one week": lambda: plots.walk_forward_plot([WEEK]),
    "no week": lambda: plots.walk_forward_plot([]),
    "evidence": lambda: plots.evidence_plot([POINT] * 2, {"roll back": 111.1}),
    "evidence of nothing": lambda: plots.evidence_plot([], {"roll back": 111.1}),
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_drawn_also_from_little_or_nothing(name: str) -> None:
    """The first week of an automation has pictures, too, and the same values give the same bytes."""
    first = PICTURES[name]()
    assert first.startswith(PNG)
    assert first == PICTURES[name]()
    assert len(first) < 640_000 * 3 // 4


def test_a_picture_shows_its_values() -> None:
    """Other values give another picture."""
    assert plots.importance_plot({"a": 0.1}) != plots.importance_plot({"a": 0.2})
    assert plots.walk_forward_plot([WEEK]) != plots.walk_forward_plot([WEEK], {"candidate": "newest"})
    assert plots.calibration_plot(METRICS["calibration"]) != plots.calibration_plot(METRICS["calibration"][:5])


def test_evidence_takes_instants_and_their_text_alike() -> None:
    """A stored report draws what the live one drew."""
    at = datetime(2026, 3, 1, 2, tzinfo=UTC)
    points: list[dict[str, Any]] = [{**POINT, "at": at + timedelta(hours=hour)} for hour in range(3)]
    texts = [{**point, "at": point["at"].isoformat()} for point in points]
    assert plots.evidence_plot(points, {}) == plots.evidence_plot(texts, {})


def test_a_data_uri_holds_the_picture() -> None:
    """Markdown metadata shows the very bytes."""
    markdown = plots.markdown_image(PNG, "title")
    assert markdown.startswith("![title](data:image/png;base64,")
    assert base64.b64decode(markdown.split(",", 1)[1][:-1]) == PNG


@pytest.mark.parametrize("count", [1, 2, 60, 500])
def test_a_sparkline_fits_inline(count: int) -> None:
    """Dagster shows markdown inline below 1,000 characters; the worst case is random, with long title and limit."""
    values = np.random.default_rng(count).normal(size=count).tolist()
    markdown = plots.sparkline_svg(values, "t" * 100, limit=5.0)
    assert len(markdown) < 1_000
    picture = ET.fromstring(unquote(markdown.split(",", 1)[1][:-1]))  # noqa: S314  (our own text)
    assert picture.tag.endswith("svg")
    assert len(picture) == 3


def test_a_sparkline_leaves_gaps_where_values_are_missing() -> None:
    """A skipped week is not drawn as zero."""
    path = unquote(plots.sparkline_svg([1.0, 2.0, None, 1.0, float("nan"), 2.0]))
    assert path.count("M") == 3
    assert plots.sparkline_svg([None, float("nan")]) == ""


def test_a_constant_sparkline_is_a_line_in_the_middle() -> None:
    """Equal values do not divide by zero."""
    assert "M4 18L90 18L176 18" in unquote(plots.sparkline_svg([0.5, 0.5, 0.5]))
