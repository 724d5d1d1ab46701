"""Commands that only read: status, models, show, history, lineage, why.

Holds their options and tables; does not hold facts or sentences (`operations/status.py`, `operations/lineage.py`).
"""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from retrain_assets.cli import output
from retrain_assets.cli.application import REFUSED, ConfigOption, JsonOption, app, existing, problem
from retrain_assets.core.deployment import Event, ModelVersion, Status
from retrain_assets.errors import UsageError
from retrain_assets.operations import lineage as lineages
from retrain_assets.operations import model_card as model_cards
from retrain_assets.operations import status as reports
from retrain_assets.operations.platform import Platform
from retrain_assets.store import registry

HASH_DIGITS = 12
"""Digits of a hash that tables show; JSON has all of them."""

VersionArgument = Annotated[
    str, typer.Argument(metavar="VERSION", help="A version such as v1.0.3, or production, canary or latest.")
]


@app.command(rich_help_panel="Look")
def status(*, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say in plain words what serves, what is on trial, the evidence so far and the last events."""
    found = reports.gather(existing(problem(config)))
    output.show(found.to_dict(), as_json, lambda: _tell_status(found))


def _tell_status(found: reports.Status) -> None:
    for line in found.in_words():
        output.say(line)
    if found.trial is not None:
        rates = found.trial.evidence.rates
        rows = [
            (metric, rate["canary"], rate["n_canary"], rate["production"], rate["n_production"])
            for metric, rate in rates.items()
        ]
        if rows:
            output.say()
            output.table(("good share of", "canary", "tasks", "production", "tasks"), rows)
    if found.events:
        output.say()
        _tell_events(found.events)


@app.command(rich_help_panel="Look")
def models(
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    status: Annotated[
        Status | None, typer.Option("--status", help="Only versions of this status.", show_default=False)
    ] = None,
) -> None:
    """List the registry: every version, its status and how it did on held-out tasks."""
    platform = existing(problem(config))
    with platform.database.read() as connection:
        found = registry.versions(connection, status)
    output.show([reports.model_dict(model) for model in found], as_json, lambda: _tell_models(platform, found))


def _tell_models(platform: Platform, found: list[ModelVersion]) -> None:
    if not found:
        output.say("No versions yet; `retrain run` trains the first one.")
        return
    metric = platform.config.retrain.validation_metric
    columns = ("version", "status", "week", metric, "log_loss", "test tasks", "parent", "created")
    output.table(columns, [_model_row(model, metric) for model in found])


def _model_row(model: ModelVersion, metric: str) -> tuple[Any, ...]:
    score = (model.metrics.get("test") or {}).get("overall") or {}
    week = f"{model.week} (backfill)" if model.is_backfill else model.week
    facts = (model.version, model.status.value, week, score.get(metric), score.get("log_loss"), score.get("n"))
    return (*facts, model.parent_version, model.created_at)


@app.command(rich_help_panel="Look")
def show(
    *,
    version: VersionArgument,
    is_card: Annotated[bool, typer.Option("--card", help="Print its model card, as Markdown.")] = False,
    is_opened: Annotated[
        bool, typer.Option("--open", help="Open the page of its validation report in a browser, too.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one version: its numbers, every gate of its validation, its files and where its data is told."""
    platform = existing(problem(config))
    if is_card:
        card = model_cards.card(platform, version)
        output.show({"version": version, "card": card}, as_json, lambda: output.say(card.rstrip()))
        return
    model = lineages.find_version(platform, version)
    page = _page_of(platform, model)
    output.show(reports.model_details(model), as_json, lambda: _tell_model(model, page))
    if is_opened:
        _open_page(model, page)


def _page_of(platform: Platform, model: ModelVersion) -> Path | None:
    """The page of a version's validation report, if it is there."""
    name = ((model.report or {}).get("details") or {}).get("page")
    file = platform.problem_home / name if name else None
    return file if file is not None and file.is_file() else None


def _open_page(model: ModelVersion, page: Path | None) -> None:
    if page is None:
        output.complain(f"{model.version} has no page; materialise validation_report of week {model.week} to make it")
        raise typer.Exit(REFUSED)
    if not webbrowser.open(page.as_uri()):
        output.complain(f"no browser could be started; open {page} yourself")
        raise typer.Exit(REFUSED)


def _tell_model(model: ModelVersion, page: Path | None) -> None:
    origin = f"week {model.week}" + (", a backfill" if model.is_backfill else "")
    output.say(f"{model.version} is {model.status}; trained on {origin}, created {output.cell(model.created_at)}.")
    parent = f"parent {model.parent_version}" if model.parent_version else "no parent"
    run = f"run {model.run_id}" if model.run_id else "no run"
    output.say(f"{model.spec.get('estimator')}, seed {model.seed}, {parent}, {run}, code {model.code_version}")
    output.say(f"Its data: `retrain lineage {model.version}` (dataset {model.dataset_hash[:HASH_DIGITS]})")
    scores = {part: (model.metrics.get(part) or {}).get("overall") or {} for part in ("validation", "test")}
    names = [name for name in scores["test"] if isinstance(scores["test"][name], int | float)]
    if names:
        output.say()
        rows = [(name, scores["validation"].get(name), scores["test"][name]) for name in names]
        output.table(("metric", "validation", "test"), rows)
    if model.report:
        output.say()
        output.say(str(model.report.get("summary", "")))
        gates = model.report.get("gates", [])
        output.table(("gate", "", "what was found"), [_gate_row(gate) for gate in gates])
    if page is not None:
        output.say()
        output.say(f"Validation report: {page} (--open shows it in a browser)")
    files = [
        (name, entry.get("bytes"), str(entry["sha256"])[:HASH_DIGITS], entry["path"])
        for name, entry in model.artefacts.items()
    ]
    output.say()
    output.table(("artefact", "bytes", "sha256", "path below the problem's home"), files)


def _gate_row(gate: Mapping[str, Any]) -> tuple[str, str, str]:
    failed = "FAILED" if gate.get("is_refusing", True) else "warning"
    return gate["name"], "passed" if gate["passed"] else failed, gate["message"]


@app.command(rich_help_panel="Look")
def history(
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    since: Annotated[
        str | None, typer.Option(metavar="DATE", help="From this day or ISO 8601 instant on.", show_default=False)
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Up to this day (the whole of it) or instant.", show_default=False),
    ] = None,
    last: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the newest N of them.", show_default=False)
    ] = None,
) -> None:
    """Show the audit log: who or what changed traffic, when, and why."""
    platform = existing(problem(config))
    zone = ZoneInfo(platform.config.retrain.timezone)
    first, end = _instant("--since", since, zone), _instant("--until", until, zone, is_end=True)
    with platform.database.read() as connection:
        events = registry.events(connection, since=first, until=end, last=last)
    output.show([reports.event_dict(event) for event in events], as_json, lambda: _tell_events(events))


def _instant(option: str, text: str | None, zone: ZoneInfo, *, is_end: bool = False) -> datetime | None:
    """A day (its beginning, or its end) or an instant; without an offset it is in the problem's time zone."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        known = "write 2026-01-31 or 2026-01-31T14:05"
        raise UsageError(f"{option}: {text!r} is neither a day nor an instant; {known}") from None
    if len(text) <= len("2026-01-31") and found.time() == time.min and is_end:
        found += timedelta(days=1) - timedelta(microseconds=1)
    return found if found.tzinfo else found.replace(tzinfo=zone)


def _tell_events(events: tuple[Event, ...] | list[Event]) -> None:
    if not events:
        output.say("No events.")
        return
    rows = [(event.at, event.kind.value, event.version, event.actor, event.reason) for event in events]
    output.table(("at", "event", "version", "by", "why"), rows)


@app.command(rich_help_panel="Look")
def lineage(
    *,
    version: VersionArgument,
    is_deep: Annotated[
        bool, typer.Option("--deep", help="Also read every row and compare with the content hash; needs `platform`.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which data taught a version, and check that everything it was made of is still what was recorded."""
    found = lineages.trace(existing(problem(config)), version, is_deep=is_deep)
    output.show(found.to_dict(), as_json, lambda: _tell_lineage(found))
    _end_on_faults(found)


def _tell_lineage(found: lineages.Lineage) -> None:
    model = found.model
    rows = sum(link.snapshot.rows for link in found.links)
    parent = f"; parent {model.parent_version}" if model.parent_version else ""
    output.say(f"{model.version} learnt from dataset {model.dataset_hash[:HASH_DIGITS]}: {rows:,} tasks{parent}.")
    output.say(f"Run {model.run_id or '-'}, code {model.code_version}. Files lie below {found.home}:")
    shown = [
        (part.week, part.rows, part.content_hash[:HASH_DIGITS], part.file_sha256[:HASH_DIGITS], part.path)
        for part in (link.snapshot for link in found.links)
    ]
    output.table(("week", "tasks", "content", "file sha256", "path"), shown)
    output.table(("artefact", "sha256", "path"), [(f.name, f.sha256[:HASH_DIGITS], f.path) for f in found.artefacts])
    checked = "files, hashes and rows" if found.is_deep else "files and hashes"
    output.say(f"Checked {checked}: " + ("everything is what was recorded." if not found.faults else "see the faults."))


def _end_on_faults(found: lineages.Lineage | None) -> None:
    """A file that is gone or changed is not true lineage any more: say which, and end with 1."""
    if found is None or not found.faults:
        return
    for fault in found.faults:
        output.complain(fault)
    raise typer.Exit(REFUSED)


@app.command(rich_help_panel="Look")
def why(
    *,
    decision_id: Annotated[str, typer.Argument(metavar="DECISION_ID", help="As Decision.decision_id gave it.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain one decision: what was chosen and why, what came of it, and which data taught the model."""
    found = lineages.explain(existing(problem(config)), decision_id)
    output.show(found.to_dict(), as_json, lambda: _tell_decision(found))
    _end_on_faults(found.lineage)


def _tell_decision(found: lineages.Explanation) -> None:
    made = found.decision
    output.say(f"Task {made.task_id}, attempt {made.attempt}: {made.action}, decided {output.cell(made.decided_at)}.")
    served = f"by {made.model_version}" if made.model_version else "by the default action: nothing served"
    output.say(f"Answered {served} as {made.arm} (assigned to {made.assigned_arm}) in {made.latency_ms:.2f} ms.")
    best = max(made.scores, key=lambda action: made.scores[action], default=None)
    if best is not None and best != made.action:
        output.say(f"{best} scored higher; {made.action} was drawn to explore (probability {made.propensity:.3g}).")
    scores = sorted(made.scores.items(), key=lambda pair: -pair[1])
    output.table(("action", "P(success)"), scores)
    output.say(f"Outcome: {found.outcome_in_words}.")
    if made.error:
        output.say(f"Error of the canary: {made.error}")
    if found.lineage is not None:
        output.say()
        _tell_lineage(found.lineage)
