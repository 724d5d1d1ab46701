"""The page of a report: complete, self-contained, and safe against whatever stands in the data."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from retrain_assets.core.drift import drift, label_drift, profile, total_drift
from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.core.leakage import find_leaks
from retrain_assets.core.model import ParityResult
from retrain_assets.core.off_policy import LoggedRows, epsilon_greedy, evaluate_policy
from retrain_assets.core.report import DataFacts, HeldOut, ReportPolicy, Rival, build_report
from retrain_assets.core.report_page import render
from retrain_assets.core.report_svg import Chart, Mark, bars, escaped, intervals, lines

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></svg></table><h1>pwned",
    "&lt;b&gt; & 'quoted'",
    "line\nbreak\x00\x1b[31m",
    "\u202egnp.exe",
    "x" * 2_000,
)
HEADLINE = {"problem": "links <&>", "version": "v1.0.2", "week": "2026-01-11", "dataset": "0" * 64}
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Reader(HTMLParser):
    """Checks that tags are closed in order, and notes tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Shapes of a chart."""
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """The innermost one."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """What people read."""
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every such tag."""
        return [attributes for name, attributes in self.seen if name == tag]


def read(page: str) -> Reader:
    """Parse a page."""
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def made(names: tuple[str, ...] = ("a", "b"), *, strata: tuple[str, ...] = ("s",), rows: int = 400) -> dict[str, Any]:
    """A report with everything in it, as it is stored; `names` are actions, `strata` are categories, too."""
    rng = np.random.default_rng(0)
    p = 1 / (1 + np.exp(-rng.normal(size=rows)))
    success = rng.random(rows) < p
    action = np.array(names, dtype=object)[np.arange(rows) % len(names)]
    frame = pd.DataFrame({
        "task_id": [f"t{place}" for place in range(rows)],
        "action": action,
        "result": np.where(success, "success", "failure"),
        "feature_pa": p,
        "feature_kind": np.array(strata, dtype=object)[np.arange(rows) % len(strata)],
        "feature_leak": np.where(success, strata[0], "other " + names[0]),
    })  # fmt: skip
    kinds = {"pa": FeatureType.NUMBER, "kind": FeatureType.CATEGORY, "leak": FeatureType.CATEGORY}
    schema = FeatureSchema(tuple(Feature(name, kind) for name, kind in kinds.items()), names)
    old = frame.assign(feature_pa=frame["feature_pa"] + 0.5, feature_kind="before")
    features = drift(profile(old, schema), frame, schema)
    labels = label_drift(profile(old, schema), frame)
    leaks = find_leaks(frame[:300], frame[300:], schema, 0.98)
    scores = np.column_stack([p, *[1 - p for _ in names[1:]]])
    logged = LoggedRows(names, action.astype(str), np.full(rows, 1 / len(names)), success.astype(float))
    choices = evaluate_policy(logged, epsilon_greedy(scores, 0.1), reward_model=scores)
    week = {"week": "2026-01-04", "version": "v1.0.1", "passed": False, "n": 300, "candidate": 0.6, "production": None,
            "trivial": 0.68, "roc_auc": 0.7}  # fmt: skip
    data = DataFacts(0.5, 0.5, 400, leaks, features, labels, 3.0)
    report = build_report(
        HeldOut(success, action.astype(str), frame["feature_kind"].to_numpy().astype(str), frame["task_id"].to_numpy()),
        p, policy=ReportPolicy(validation_threshold=0.0, max_staleness_weeks=1), data=data, schema=schema,
        parity=ParityResult(0.0, 10), production=Rival("v1.0.0", p**2), previous=Rival("v1.0.1", p**3),
        importance={"feature_pa": 0.2, "action": 0.0},
        details={
            "importance_before": {"feature_pa": 0.1, "gone": 0.3}, "walk_forward": [week],
            "off_policy": choices.to_dict(), "leakage": leaks.to_dict(), "label_drift": labels.to_dict(),
            "splits": {"train": 300, "test": 100},
            "drift": {
                "features": [item.to_dict() for item in features], "rows": rows, "what": "rows",
                "reference": "v1.0.0", "reference_rows": rows, "total": total_drift(features).to_dict(),
            },
        },
    )  # fmt: skip
    return dict(json.loads(json.dumps(report.to_dict(), allow_nan=False)))


def test_the_verdict_stands_on_top_in_words_with_every_reason() -> None:
    """Rejected, by which gates and why; what only warns stands apart."""
    report = made()
    page = render(report, HEADLINE)
    text = " ".join(read(page).text)
    head = page[: page.index("<nav")]
    assert "rejected" in head
    assert "It was rejected: 1 of 12 gates refused it." in head
    assert "leak alone tells success from failure" in head
    assert head.index("leakage") < head.index("To be looked at") < head.index("model_staleness")
    assert "it is better than production v1.0.0" in text
    passed = json.loads(json.dumps(report)) | {"passed": True}
    for gate in passed["gates"]:
        gate["passed"] = True
    assert "It passed all 12 gates and may be deployed." in render(passed, HEADLINE)


def test_every_gate_stands_in_the_table_with_number_and_limit() -> None:
    """And every section is reached from the list of sections."""
    report = made()
    page = render(report, HEADLINE)
    for gate in report["gates"]:
        assert f'<th scope="row">{gate["name"]}</th>' in page
        assert escaped(gate["message"]) in page
    reader = read(page)
    targets = {str(link["href"]).removeprefix("#") for link in reader.all("a")}
    sections = {section["id"] for section in reader.all("section")}
    assert targets | {"gates"} == sections
    assert {"scores", "calibrated", "groups", "features", "drift", "weeks", "choices", "leaks", "version"} == targets


def test_the_page_needs_nothing_but_itself() -> None:
    """No script, no address that is loaded, a policy that forbids both, and a size that can be mailed."""
    names = tuple(f"action {place}" for place in range(12))
    page = render(made(names, strata=tuple(f"stratum {place}" for place in range(200)), rows=3_000), HEADLINE)
    assert len(page.encode()) < 300_000
    reader = read(page)
    tags = {name for name, _ in reader.seen}
    assert not tags & {"script", "img", "link", "iframe", "object", "form"}
    assert not [name for _, attributes in reader.seen for name in attributes if name.startswith("on") or name == "src"]
    assert all(str(link["href"]).startswith("#") for link in reader.all("a"))
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    for media in ("prefers-color-scheme:dark", "@media print"):
        assert media in page


def test_charts_can_be_read_without_seeing_them() -> None:
    """Each is an image with a title and a description, and well-formed; headings go down one step at a time."""
    page = render(made(), HEADLINE)
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) == 7
    idents = []
    for chart in charts:
        root = ET.fromstring(chart)  # noqa: S314  (our own text)
        assert root.get("role") == "img"
        told = {child.get("id"): child.text for child in root if child.tag in {"title", "desc"}}
        assert str(root.get("aria-labelledby")).split() == list(told)
        assert all(told.values())
        idents += list(told)
    assert len(set(idents)) == len(idents)
    assert '<html lang="en">' in page
    levels = [int(tag[1]) for tag, _ in read(page).seen if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(cell.get("scope") in {"row", "col"} for cell in read(page).all("th"))


def test_hostile_names_are_text_and_nothing_else() -> None:
    """Names with markup, control characters and broken Unicode make no tag and break no chart."""
    page = render(made(HOSTILE, strata=HOSTILE), HEADLINE | {"settings": HOSTILE[0], "run": "\ud800"})
    plain = read(render(made(), HEADLINE))
    reader = read(page)
    tags = {name for name, _ in reader.seen}
    assert tags == {name for name, _ in plain.seen}
    assert {name for _, attributes in reader.seen for name in attributes} == {
        name for _, attributes in plain.seen for name in attributes
    }
    for chart in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(chart)  # noqa: S314  (our own text)
    assert "<script>alert(1)</script>" in "".join(reader.text)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", page)
    assert len(page.encode("utf-8")) < 400_000
    assert f'<th scope="row">{"x" * 79}\u2026</th>' in page


def test_a_page_is_made_of_a_report_of_an_earlier_version_too() -> None:
    """And of a first version without production, history or decisions."""
    report = made()
    for name in ("groups", "previous_version", "previous_metrics", "previous_comparisons", "details", "importance"):
        del report[name]
    for gate in report["gates"]:
        del gate["is_refusing"]
    report |= {"production_version": None, "production_metrics": None, "comparisons": []}
    page = render(report, HEADLINE)
    read(page)
    assert "There was nothing to compare it with but the constant guess, on 400 test rows." in page
    details = {
        "off_policy": {"is_enough": False, "reason": "not enough overlap: 3 rows"},
        "drift": {"note": "no rival"},
    }
    with_reasons = render(report | {"details": details}, HEADLINE)
    assert "No number: not enough overlap: 3 rows." in with_reasons
    assert "Nothing was compared: no rival." in with_reasons


def test_a_single_class_and_a_single_row_have_a_page() -> None:
    """What could not be measured is a dash."""
    one = HeldOut(np.array([True]), np.array(["a"]), np.array(["s"]), np.array(["t"]))
    schema = FeatureSchema((), ("a",))
    rival, parity = Rival("v1.0.0", np.array([0.8])), ParityResult(float("nan"), 10)
    report = build_report(
        one, np.array([0.9]), policy=ReportPolicy(), data=DataFacts(0.8), schema=schema, parity=parity, production=rival
    )
    page = render(json.loads(json.dumps(report.to_dict(), allow_nan=False)), HEADLINE)
    read(page)
    assert '<td class="n">-</td>' in page


CHART = Chart("ident", "title", "description", "axis", {"candidate": "this"})


@pytest.mark.parametrize("values", [[], [0.0], [1.0, 1.0], [-0.5, 0.25, 1e-9], [1e9, -3.0], [None, 2.0]])
def test_charts_are_drawn_of_any_numbers(values: list[float | None]) -> None:
    """Nothing, equal values, tiny and huge ones; every coordinate is finite."""
    marks = [(f"row {place}", Mark("candidate", value, value, value)) for place, value in enumerate(values)]
    drawn = [
        bars(CHART, [(label, [mark]) for label, mark in marks], {"limit": 0.25}, cap=1.0),
        intervals(CHART, marks, ("line", 0.5)),
        lines(CHART, [label for label, _ in marks], {"candidate": values}),
    ]
    for figure in drawn:
        chart = figure[figure.index("<svg") : figure.index("</figure>")]
        ET.fromstring(chart)  # noqa: S314  (our own text)
        assert not re.search(r"nan|inf", chart)
