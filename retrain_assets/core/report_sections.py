"""The sections of the report's page: each a chart, a table and a sentence, made of the report's JSON.

Holds calibration, groups, importance, drift, the weeks before, other choices and leaks; does not hold the page around
them (`core/report_page.py`) or how a chart is drawn (`core/report_svg.py`). A report of an earlier version that lacks
something lacks the section.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrain_assets.core import report_svg
from retrain_assets.core.report_svg import Chart, Mark, escaped

MAX_BARS = 20
MAX_TABLE_ROWS = 60
SMALL = 0.0005
ESTIMATORS = {
    "ips": "inverse propensity (IPS)",
    "snips": "self-normalised (SNIPS)",
    "dm": "direct method (DM)",
    "dr": "doubly robust (DR)",
    "sndr": "self-normalised doubly robust",
}
_RIVALS = {"candidate": "this version", "production": "production"}


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page; `lead` is text, `body` is HTML."""

    ident: str
    title: str
    lead: str
    body: str

    def to_html(self) -> str:
        """The section with its heading."""
        return (
            f'<section id="{self.ident}"><h2>{escaped(self.title)}</h2><p class="lead">{escaped(self.lead)}</p>'
            f"{self.body}</section>"
        )


def number(value: Any, *, signed: bool = False) -> str:  # noqa: ANN401  (a number or nothing)
    """A number with four digits after the point, more for very small ones; a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    form = ".4f" if value == 0 or abs(value) >= SMALL else ".2g"
    return f"{value:+{form}}" if signed else f"{value:{form}}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names the row; at most `MAX_TABLE_ROWS`, and what is left out is said."""
    head = "".join(f'<th scope="col"{_numeric(place)}>{escaped(name, 60)}</th>' for place, name in enumerate(heads))
    body = "".join(
        f'<tr><th scope="row">{escaped(row[0], 80)}</th>'
        + "".join(f'<td class="n">{escaped(cell, 80)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows[:MAX_TABLE_ROWS]
    )
    rest = len(rows) - MAX_TABLE_ROWS
    more = f'<p class="note">{rest:,} more are not shown.</p>' if rest > 0 else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}'


def _numeric(place: int) -> str:
    return ' class="n"' if place else ""


def calibration_section(report: Mapping[str, Any]) -> Section:
    """Whether a predicted 70 % comes true seven times in ten."""
    ours, theirs = report["metrics"], report.get("production_metrics")
    tables = {"production": theirs["calibration"]} if theirs else {}
    tables["candidate"] = ours["calibration"]
    error = ours["overall"]["calibration_error"]
    chart = Chart(
        "calibration",
        "Predicted and observed success rate",
        f"Ten groups of test rows by predicted rate; calibration error {number(error)}. The diagonal is perfect.",
        "predicted success rate",
        {name: _RIVALS[name] for name in ("candidate", "production") if name in tables},
    )
    rows = [
        [f"{row['predicted']:.3f}", f"{row['observed']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}", f"{row['n']:,}"]
        for row in ours["calibration"]
    ]
    body = report_svg.calibration(chart, tables) + table(["predicted", "observed", "95 % interval", "rows"], rows)
    lead = f"Of the tasks predicted to succeed at some rate, how many did. Calibration error: {number(error)}."
    return Section("calibrated", "Calibration", lead, body)


def groups_section(report: Mapping[str, Any]) -> Section | None:
    """Each action and stratum by itself, against production or the constant guess."""
    groups = report.get("groups") or {}
    if not groups:
        return None
    reference = groups["reference"]
    is_production = report.get("production_version") is not None
    body = ""
    for key, title in (("by_action", "By action"), ("by_stratum", "By stratum")):
        parts = sorted(groups[key].items(), key=lambda item: -item[1]["rows"])
        chart = Chart(
            key.replace("_", ""),
            f"{title}: log loss with 95 % interval",
            f"Log loss of this version and of {reference} in each group; shorter bars are better.",
            "log loss (nats)",
            {"candidate": "this version", "production" if is_production else "neutral": reference},
        )
        bars = [
            (
                f"{name or 'all'} ({row['rows']:,})",
                [_side(row, "candidate", "candidate"),
                 _side(row, "reference", "production" if is_production else "neutral")],
            )
            for name, row in parts[:MAX_BARS]
        ]  # fmt: skip
        cells = [[name or "all", *_group_cells(row)] for name, row in parts]
        heads = ["", "rows", "succeeded", "log loss", f"of {reference}", "better by", "95 % interval", "rows can show"]
        body += f"<h3>{title}</h3>{report_svg.bars(chart, bars)}{table(heads, cells)}"
    left = groups.get("strata_left_out") or 0
    lead = f"Against {reference}, on the same rows." + (f" {left:,} rarer strata are left out." if left else "")
    return Section("groups", "Actions and strata", lead, body)


def _side(row: Mapping[str, Any], name: str, series: str) -> Mark:
    return Mark(series, row[name], row[f"{name}_low"], row[f"{name}_high"])


def _group_cells(row: Mapping[str, Any]) -> list[str]:
    low, high = number(row["low"], signed=True), number(row["high"], signed=True)
    return [
        number(row["rows"]),
        f"{row['successes'] / row['rows']:.1%}" if row["rows"] else "-",
        number(row["candidate"]),
        number(row["reference"]),
        number(row["improvement"], signed=True),
        f"{low} to {high}",
        number(row["detectable"]),
    ]


def importance_section(report: Mapping[str, Any]) -> Section | None:
    """What the model leans on, and how that changed."""
    now = report.get("importance") or {}
    if not now:
        return None
    before = (report.get("details") or {}).get("importance_before") or {}
    names = sorted({*now, *before}, key=lambda name: -max(now.get(name, 0.0), before.get(name, 0.0)))
    chart = Chart(
        "importance",
        "Rise of log loss when a column is shuffled",
        "Permutation importance on test rows, this version" + (" and production's own report." if before else "."),
        "rise of log loss (nats)",
        {"candidate": "this version", **({"production": "production, on its own test rows"} if before else {})},
    )
    bars = [
        (_plain(name), [Mark("candidate", now.get(name)), Mark("production", before.get(name))])
        for name in names[:MAX_BARS]
    ]
    rows = []
    for name in names:
        change = now[name] - before[name] if name in now and name in before else None
        cells = [number(now.get(name)), number(before.get(name)), number(change, signed=True)]
        rows.append([_plain(name), *(cells if before else cells[:1])])
    heads = ["column", "now", *(["production's report", "change"] if before else [])]
    lead = "How much worse the predictions of test rows get when one column is shuffled; about 0: not needed."
    return Section("features", "Feature importance", lead, report_svg.bars(chart, bars) + table(heads, rows))


def drift_section(report: Mapping[str, Any]) -> Section | None:
    """How the newest rows differ from those that taught production."""
    details = report.get("details") or {}
    found, labels = details.get("drift") or {}, details.get("label_drift")
    features = sorted(found.get("features") or (), key=lambda item: -(item["psi"] or 0.0))
    if not features:
        note = found.get("note")
        return Section("drift", "Drift", f"Nothing was compared: {note}.", "") if note else None
    chart = Chart(
        "driftchart",
        "Population stability index of each feature",
        "Bars beyond 0.25 are called drift when they are beyond what chance gives, too. Cut at 1, with the number.",
        "PSI",
        {"candidate": "PSI", "neutral": "what chance stays below (95 %)"},
    )
    bars = [
        (item["name"], [Mark("candidate", item["psi"]), Mark("neutral", item["psi_noise"])])
        for item in features[:MAX_BARS]
        if item["psi"] is not None
    ]
    body = report_svg.bars(chart, bars, {"notice 0.1": 0.1, "drift 0.25": 0.25}, cap=1.0)
    rows = [
        [item["name"], str(item["level"]).replace("_", " "), number(item["psi"]), number(item["psi_noise"]),
         number(item["ks"]), _share(item["missing_share_before"]), _share(item["missing_share_after"]),
         ", ".join(str(new) for new in item["new_categories"][:3]) or (item["note"] or "-")]
        for item in features
    ]  # fmt: skip
    heads = ["feature", "level", "PSI", "chance", "KS", "missing before", "missing now", "new categories"]
    body += table(heads, rows)
    if labels:
        body += "<h3>Success rates</h3>" + _label_table(labels)
    lead = (
        f"{found['rows']:,} {found['what']} against the {found.get('reference_rows', 0):,} rows that taught "
        f"{found['reference']}. Drift is a reason to look, not proof of harm."
    )
    return Section("drift", "Drift since production's data", lead, body)


def _label_table(labels: Mapping[str, Any]) -> str:
    rows = [
        [item["name"], number(item["rows_before"]), _share(item["before"]), number(item["rows_after"]),
         _share(item["after"]), number(item["difference"], signed=True),
         f"{number(item['low'], signed=True)} to {number(item['high'], signed=True)}"]
        for item in (labels["overall"], *labels["by_action"])
    ]  # fmt: skip
    return table(["", "rows then", "succeeded", "rows now", "succeeded", "change", "95 % interval"], rows)


def walk_forward_section(report: Mapping[str, Any], headline: Mapping[str, str]) -> Section | None:
    """How each week's version did on its own test rows."""
    earlier = (report.get("details") or {}).get("walk_forward") or []
    overall, rival = report["metrics"]["overall"], (report.get("production_metrics") or {}).get("overall") or {}
    now = {
        "week": headline["week"], "version": headline["version"], "passed": report["passed"], "n": overall["n"],
        "candidate": overall["log_loss"], "production": rival.get("log_loss"),
        "trivial": report["trivial"].get("log_loss"), "roc_auc": overall["roc_auc"],
    }  # fmt: skip
    points = [*earlier, now]
    if len(points) < 2:
        return None
    names = {"neutral": "trivial", "production": "production", "candidate": "candidate"}
    chart = Chart(
        "walk",
        "Log loss of each week's version on its own test rows",
        f"{len(points)} weeks, lower is better. The constant guess shows how hard the week was.",
        "log loss (nats)",
        {"candidate": "the week's version", "production": "production then", "neutral": "constant guess"},
    )
    body = report_svg.lines(
        chart,
        [point["week"] for point in points],
        {series: [point[name] for point in points] for series, name in names.items()},
    )
    rows = [
        [point["week"], point["version"], "passed" if point["passed"] else "rejected", number(point["n"]),
         *(number(point[name]) for name in ("candidate", "production", "trivial", "roc_auc"))]
        for point in reversed(points)
    ]  # fmt: skip
    body += table(["week", "version", "", "test rows", "log loss", "of production", "of the constant", "ROC AUC"], rows)
    return Section("weeks", "The weeks before", "Each version on the test rows of its own week: a walk forward.", body)


def choices_section(report: Mapping[str, Any]) -> Section | None:
    """What other choices were worth, or why that cannot be known."""
    found = (report.get("details") or {}).get("off_policy")
    if not found:
        return None
    title = "What its choices would be worth"
    overlap = found.get("overlap") or {}
    if not found["is_enough"]:
        return Section("choices", title, f"No number: {found['reason']}.", _overlap(overlap) if overlap else "")
    marks = [("what was done", _estimate(found["logged"], "neutral"))]
    marks += [(ESTIMATORS.get(name, name), _estimate(item, "candidate")) for name, item in found["estimates"].items()]
    chart = Chart(
        "offpolicy",
        "Success rate that this version's choices would have had",
        "Estimates from decisions with known propensities, each with its 95 % interval.",
        "success rate",
        {"neutral": "the log itself", "candidate": "this version"},
    )
    gains = found.get("gain_over_production") or {}
    rows = [
        [ESTIMATORS.get(name, name), number(item["value"]), f"{number(item['low'])} to {number(item['high'])}",
         _signed(found["gain_over_logging"].get(name)), _signed(gains.get(name))]
        for name, item in found["estimates"].items()
    ]  # fmt: skip
    heads = ["estimator", "value", "95 % interval", "gain over the log", "gain over production"]
    body = report_svg.intervals(chart, marks, ("what was done", found["logged"]["value"])) + table(heads, rows)
    note = found.get("production_note")
    body += f'<p class="note">{escaped(note)}.</p>' if note else ""
    words = ESTIMATORS.get(found["recommended"], found["recommended"])
    lead = f"Read the {words} estimate; the direct method alone flatters a candidate that is judged by its own scores."
    return Section("choices", title, lead, body + _overlap(overlap))


def _estimate(item: Mapping[str, Any], series: str) -> Mark:
    return Mark(series, item["value"], item["low"], item["high"])


def _signed(item: Mapping[str, Any] | None) -> str:
    if item is None:
        return "-"
    low, high = number(item["low"], signed=True), number(item["high"], signed=True)
    return f"{number(item['value'], signed=True)} ({low} to {high})"


def _overlap(overlap: Mapping[str, Any]) -> str:
    return "<h3>Overlap</h3>" + table(["", "found"], [[n.replace("_", " "), number(v)] for n, v in overlap.items()])


def leakage_section(report: Mapping[str, Any]) -> Section | None:
    """What each feature tells alone."""
    found = (report.get("details") or {}).get("leakage")
    if not found:
        return None
    ordered = sorted(found["auc"].items(), key=lambda item: -item[1])
    doubts = "".join(f"<li>{escaped(leak['message'])}</li>" for leak in found["leaks"])
    body = (f"<ul>{doubts}</ul>" if doubts else "") + (
        table(["feature", "ROC AUC alone"], [[name, number(auc)] for name, auc in ordered]) if ordered else ""
    )
    lead = found["note"] or "What each feature tells alone, learned from training rows and judged on newer ones."
    return Section("leaks", "Single features", lead, body)


def _plain(column: str) -> str:
    return column.removeprefix("feature_")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
