"""The validation report as one HTML file that people read, print and keep.

Holds the page's order, words and tables; does not hold its charts (`core/report_svg.py`), its style
(`core/report_style.py`) or the report itself (`core/report.py`). A page is made of the report's JSON alone, needs no
script, loads nothing, and everything that comes from data is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from retrain_assets.core.report_sections import (
    Section,
    calibration_section,
    choices_section,
    drift_section,
    groups_section,
    importance_section,
    leakage_section,
    number,
    table,
    walk_forward_section,
)
from retrain_assets.core.report_style import STYLE
from retrain_assets.core.report_svg import escaped

METRICS = {
    "log_loss": "log loss (nats, lower is better)",
    "brier": "Brier score (lower is better)",
    "calibration_error": "calibration error (lower is better)",
    "roc_auc": "ROC AUC (higher is better)",
    "accuracy": "accuracy at 0.5 (higher is better)",
    "success_rate": "observed success rate",
    "predicted_rate": "predicted success rate",
}


def render(report: Mapping[str, Any], headline: Mapping[str, str]) -> str:
    """Make the page of a report.

    Parameters
    ----------
    report : mapping
        `ValidationReport.to_dict`, also one that was stored by an earlier version and holds less.
    headline : mapping
        Facts of the version, such as `problem`, `version` and `week`; they are listed under "The version".

    Returns
    -------
    str
        A whole HTML document.
    """
    version = headline["version"]
    sections = [
        _scores(report, version),
        calibration_section(report),
        groups_section(report),
        importance_section(report),
        drift_section(report),
        walk_forward_section(report, headline),
        choices_section(report),
        leakage_section(report),
        _version(report, headline),
    ]
    shown = [section for section in sections if section is not None]
    links = "".join(f'<li><a href="#{section.ident}">{escaped(section.title)}</a></li>' for section in shown)
    title = f"{version}: {'passed' if report['passed'] else 'rejected'}, {headline['problem']}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head><body>"
        f'<header>{_verdict(report, headline)}</header><nav aria-label="Sections"><ul>{links}</ul></nav>'
        f"<main>{_gates(report)}{''.join(section.to_html() for section in shown)}</main>"
        f"<footer>{_footer(version)}</footer></body></html>\n"
    )


def _verdict(report: Mapping[str, Any], headline: Mapping[str, str]) -> str:
    """What came out, in words: the first thing that a reader sees."""
    gates, passed = report["gates"], report["passed"]
    refused = [gate for gate in gates if not gate["passed"] and gate.get("is_refusing", True)]
    warned = [gate for gate in gates if not gate["passed"] and not gate.get("is_refusing", True)]
    what = (
        f"It passed {'all' if not warned else 'the'} {len(gates) - len(warned)} gates and may be deployed."
        if passed
        else f"It was rejected: {len(refused)} of {len(gates)} gates refused it."
    )
    reasons = "".join(f"<li><b>{escaped(gate['name'])}</b>: {escaped(gate['message'])}</li>" for gate in refused)
    doubts = "".join(f"<li><b>{escaped(gate['name'])}</b>: {escaped(gate['message'])}</li>" for gate in warned)
    return (
        f'<p class="over">{escaped(headline["problem"])}, week {escaped(headline["week"])}</p>'
        f'<h1>{escaped(headline["version"])} <span class="badge {"ok" if passed else "bad"}">'
        f"{'passed' if passed else 'rejected'}</span></h1>"
        f'<p class="verdict">{what} {escaped(_standing(report))}</p>'
        + (f'<ul class="reasons bad">{reasons}</ul>' if reasons else "")
        + (f'<p>To be looked at:</p><ul class="reasons warn">{doubts}</ul>' if doubts else "")
    )


def _standing(report: Mapping[str, Any]) -> str:
    """One sentence on how the candidate stands against production, or against the constant guess."""
    rows = report["metrics"]["overall"]["n"]
    against = [("production", report.get("production_version"), report["comparisons"])]
    against.append(("the candidate before", report.get("previous_version"), report.get("previous_comparisons") or ()))
    told = []
    for name, version, comparisons in against:
        found = next((item for item in comparisons if item["metric"] == "log_loss"), None)
        if found is None or found["improvement"] is None:
            continue
        low, high = found["low"], found["high"]
        word = "cannot be told apart from" if low is None or high is None or low <= 0 <= high else "is better than"
        word = "is worse than" if high is not None and high < 0 else word
        told.append(f"it {word} {name} {version} (log loss saved: {number(found['improvement'])}, "
                    f"95 % interval {number(low)} to {number(high)})")  # fmt: skip
    if not told:
        return f"There was nothing to compare it with but the constant guess, on {rows:,} test rows."
    return f"On the same {rows:,} test rows {', and '.join(told)}."


def _gates(report: Mapping[str, Any]) -> str:
    rows = []
    for gate in report["gates"]:
        is_refusing = gate.get("is_refusing", True)
        kind, word = ("ok", "passed") if gate["passed"] else ("bad", "refused") if is_refusing else ("warn", "warning")
        rows.append(
            [
                f'<th scope="row">{escaped(gate["name"])}</th>',
                f'<td><span class="badge {kind}">{word}</span></td>',
                _value(gate["value"]),
                _value(gate["limit"]),
                f"<td>{escaped(gate['message'])}</td>",
            ]
        )
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("gate", "", "number", "limit", "what was found"))
    return (
        '<section id="gates"><h2>Gates</h2><div class="scroll"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _value(value: Any) -> str:  # noqa: ANN401  (a number, text or nothing)
    if isinstance(value, str):
        return f"<td>{escaped(value, 60)}</td>"
    return f'<td class="n">{number(value)}</td>'


def _scores(report: Mapping[str, Any], version: str) -> Section:
    rivals: list[tuple[str, Mapping[str, Any] | None]] = [(version, report["metrics"]["overall"])]
    for name, key in (("production_version", "production_metrics"), ("previous_version", "previous_metrics")):
        if report.get(name) and report.get(key):
            role = "production" if key.startswith("production") else "candidate before"
            rivals.append((f"{report[name]} ({role})", report[key]["overall"]))
    rivals.append(("constant guess", report["trivial"]))
    rows = [[words, *(number((scores or {}).get(name)) for _, scores in rivals)] for name, words in METRICS.items()]
    body = table(["on the same test rows", *(name for name, _ in rivals)], rows)
    compared: list[Sequence[str]] = []
    for name, comparisons in (("production_version", "comparisons"), ("previous_version", "previous_comparisons")):
        compared.extend(
            [
                f"{report.get(name)}: {item['metric']}",
                number(item["improvement"], signed=True),
                f"{number(item['low'], signed=True)} to {number(item['high'], signed=True)}",
                number(item["detectable"]),
            ]
            for item in report.get(comparisons) or ()
        )
    if compared:
        heads = ["against", "better by", "95 % interval (paired)", "so many rows can show"]
        body += "<h3>Differences</h3>" + table(heads, compared)
    details = report.get("details") or {}
    notes = [details.get("production_note"), details.get("previous_note")]
    body += "".join(f'<p class="note">{escaped(note)}.</p>' for note in notes if note)
    return Section("scores", "Scores", f"{report['metrics']['overall']['n']:,} test rows, the newest ones.", body)


def _version(report: Mapping[str, Any], headline: Mapping[str, str]) -> Section:
    splits = (report.get("details") or {}).get("splits") or {}
    facts: Iterable[tuple[str, Any]] = [
        *headline.items(),
        *((f"split: {name}", value) for name, value in splits.items()),
    ]
    body = "".join(f"<dt>{escaped(name.replace('_', ' '))}</dt><dd>{escaped(value, 200)}</dd>" for name, value in facts)
    return Section("version", "The version", "What it was made of.", f"<dl>{body}</dl>")


def _footer(version: str) -> str:
    return (
        "<p>Gates are judged on test rows that taught nothing. Intervals are 95 %, each by itself; rows of one task "
        f"count as one. Its data: <code>retrain lineage {escaped(version)}</code>.</p>"
    )
