"""`retrain demo`: both acts, told as they happen.

Holds the order of the demonstration and its tables; does not hold the replay (`replay.py`) or the scenarios
(`scenarios.py`). Whatever comes out is reported as it is.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from retrain_assets.core import plots
from retrain_assets.core.deployment import ModelVersion
from retrain_assets.defs.instance import open_instance
from retrain_assets.defs.run import WeekResult, forget
from retrain_assets.demo.automation import SimulatedAutomation
from retrain_assets.demo.clock import ToldClock
from retrain_assets.demo.flights import FlightLog, load_flights, summarise
from retrain_assets.demo.mailbox import FILE, deliver_all, letters_to
from retrain_assets.demo.narrator import Narrator
from retrain_assets.demo.replay import Replay, ReplayedWeek, history_and_rest
from retrain_assets.demo.scenarios import SCENARIOS, Played, play_all, prepare
from retrain_assets.errors import UsageError
from retrain_assets.operations.platform import open_platform
from retrain_assets.settings import Settings, load_settings
from retrain_assets.store import registry
from retrain_assets.store.files import write_atomically

HISTORY_WEEKS = 8
MARKER = ".made-by-retrain-demo"
"""Marks a problem's folder as the demonstration's own: only such a folder is emptied."""


def main(*, weeks: int = 16, config: str | Path | None = None, as_json: bool = False) -> int:
    """Run both acts; returns the command's exit code.

    Parameters
    ----------
    weeks : int
        Weeks of flights, the first eight of them history; 9 to 53.
    config : str or Path, optional
        Default `config/flights.yaml`.
    as_json : bool
        Facts as JSON on standard output, the telling on standard error.
    """
    if not HISTORY_WEEKS < weeks <= 53:
        raise UsageError(f"--weeks is {weeks}; give {HISTORY_WEEKS + 1} to 53, the first {HISTORY_WEEKS} are history")
    began = time.perf_counter()
    narrator = Narrator(Console(stderr=True) if as_json else None)
    settings = load_settings(config or Path("config") / "flights.yaml")
    act_1 = _flights(settings, weeks, narrator)
    act_2 = _scenarios(narrator)
    seconds = time.perf_counter() - began
    narrator.title("Where to look")
    narrator.say(f"History, models and evidence lie in {settings.problem_home}")
    narrator.say(f"Walk-forward picture: {act_1['picture']}")
    narrator.say(f"Notifications of act 1: {settings.problem_home / FILE}")
    narrator.say(f"Both acts took {seconds:.0f} s.")
    narrator.say("Dagster UI with all of it:  make ui CONFIG=config/flights.yaml")
    if as_json:
        sys.stdout.write(json.dumps({"flights": act_1, "scenarios": act_2, "seconds": seconds}, default=str) + "\n")
    return 0 if all(scenario["as_expected"] for scenario in act_2) else 1


def _flights(settings: Settings, weeks: int, narrator: Narrator) -> dict[str, Any]:
    narrator.title("Act 1: from which New York airport should a trip leave? Real flights of 2013")
    log = load_flights(weeks, datetime.now(tz=UTC))
    _tell_log(log, narrator)
    _fresh_home(settings)
    history, rest = history_and_rest(log, HISTORY_WEEKS)
    clock = ToldClock(history[0].week.start_at)
    platform = open_platform(settings, clock)
    (settings.problem_home / MARKER).touch()
    with open_instance(settings) as instance, letters_to(settings.problem_home):
        forget(platform, instance)
        replay = Replay(platform, instance, clock)
        with narrator.progress(f"Importing weeks 1-{len(history)} as history", sum(map(len, history))) as step:
            accepted = replay.import_history(history, step.advance)
        narrator.say(f"Imported {accepted:,} outcomes of weeks 1-{len(history)}.")
        backfilled = []
        with narrator.progress("Backfilling them week by week", len(history)) as step:
            for result in replay.backfill(history):
                backfilled.append(result)
                narrator.say(_week_line(result))
                step.advance()
        if all(result.outcome != "deployed" for result in backfilled):
            raise UsageError("no model of the history passed its validation, so nothing serves; see the lines above")
        replayed: list[ReplayedWeek] = []
        deliver_all(platform)
        with narrator.progress(f"Replaying weeks {len(history) + 1}-{weeks}", sum(map(len, rest))) as step:
            for week in replay.replay(rest, step.advance):
                replayed.append(week)
                deliver_all(platform)
                narrator.say(_replayed_line(week))
    with platform.database.read() as connection:
        models = registry.versions(connection)
        events = registry.events(connection)
    _tell_matches(replayed, narrator)
    _tell_versions(models, narrator)
    _tell_walk_forward(replayed, narrator)
    picture = _draw(settings, replayed)
    return {
        "shift_weeks": log.shift_weeks,
        "imported": accepted,
        "backfilled": [result.to_dict() for result in backfilled],
        "weeks": [_week_facts(week) for week in replayed],
        "versions": [
            {"version": m.version, "status": m.status, "week": m.week, "dataset_hash": m.dataset_hash} for m in models
        ],
        "events": {kind: sum(e.kind == kind for e in events) for kind in sorted({e.kind for e in events})},
        "picture": str(picture),
        "home": str(settings.problem_home),
    }


def _tell_log(log: FlightLog, narrator: Narrator) -> None:
    found = summarise(log)
    narrator.say(
        f"{found.tasks:,} flights in {len(log.weeks)} weeks; on time {found.success_rate:.1%}, cancelled or diverted "
        f"{found.error_rate:.1%}; the weekly rate runs from {found.worst_week.success_rate:.2f} to "
        f"{found.best_week.success_rate:.2f}."
    )
    narrator.say(
        f"One airport allowed: {found.single_share:.0%} of the tasks by the flights so far (known from the whole "
        f"timetable: {found.single_share_hindsight:.0%}). LGA's weather stands for the region."
    )
    narrator.say(
        f"Dates are moved forward by {log.shift_weeks} weeks, so that the UI shows them; month, weekday and hour "
        "keep their original values."
    )


def _fresh_home(settings: Settings) -> None:
    """Empty the folder of an earlier demonstration; refuse a folder that is not the demonstration's."""
    home = settings.problem_home
    if (home / MARKER).exists():
        shutil.rmtree(home)
    elif home.exists() and any(home.iterdir()):
        raise UsageError(
            f"{home} holds something else than an earlier demonstration; set RETRAIN_HOME to another folder"
        )


def _week_line(result: WeekResult) -> str:
    version = f" {result.version}" if result.version else ""
    return f"  week {result.week}: {result.outcome}{version} ({result.reason})"


def _replayed_line(week: ReplayedWeek) -> str:
    tasks = week.single.tasks + week.several.tasks
    matched = week.single.matched + week.several.matched
    return f"  week {week.week}: {matched:,} of {tasks:,} matched; then {_week_line(week.result).strip()}"


def _tell_matches(weeks: Sequence[ReplayedWeek], narrator: Narrator) -> None:
    narrator.title("How many tasks the replay could use")
    rows = []
    for name, tallies in (
        ("one airport allowed", [week.single for week in weeks]),
        ("several allowed", [week.several for week in weeks]),
    ):
        tasks, matched = sum(t.tasks for t in tallies), sum(t.matched for t in tallies)
        succeeded = sum(t.succeeded for t in tallies)
        rate = f"{succeeded / matched:.3f}" if matched else "-"
        rows.append([name, f"{tasks:,}", f"{matched:,}", f"{matched / tasks:.1%}" if tasks else "-", rate])
    narrator.table(["tasks with", "decided", "matched the log", "share", "on time of the matched"], rows)
    narrator.say(
        "A task counts only if the engine chose the airport really used (replay method, Li et al. 2011); the others "
        "are not logged at all."
    )
    narrator.say("Airlines did not choose airports at random, so these rates are biased: compare models below instead.")


def _tell_versions(models: Sequence[ModelVersion], narrator: Narrator) -> None:
    narrator.title("Versions")
    rows = []
    for model in models:
        test = model.metrics["test"]["overall"]
        auc = "-" if test["roc_auc"] is None else f"{test['roc_auc']:.3f}"
        rows.append(
            [
                model.version,
                model.status.value,
                model.week,
                model.dataset_hash[:12],
                f"{test['n']:,}",
                f"{test['log_loss']:.4f}",
                auc,
                f"{test['calibration_error']:.3f}",
            ]
        )
    narrator.table(
        ["version", "status", "week", "dataset", "held-out rows", "log loss", "ROC AUC", "calibration error"], rows
    )


def _tell_walk_forward(weeks: Sequence[ReplayedWeek], narrator: Narrator) -> None:
    narrator.title("Retrained weekly against the first model for ever (same rows, log loss / calibration error)")
    rows = []
    for week in weeks:
        found = week.walk_forward
        rows.append(
            [
                found.week,
                f"{found.rows:,}",
                *(
                    _scores(v, s)
                    for v, s in (
                        (found.newest_version, found.newest),
                        (found.production_version, found.production),
                        (found.first_version, found.first),
                    )
                ),
            ]
        )
    rows.append(["all", f"{sum(week.walk_forward.rows for week in weeks):,}", *map(_mean_scores, _columns(weeks))])
    narrator.table(["week", "rows", "newest that passed", "serving", "first for ever"], rows)


def _columns(weeks: Sequence[ReplayedWeek]) -> list[list[tuple[int, dict[str, Any]]]]:
    found = [week.walk_forward for week in weeks]
    return [
        [(w.rows, w.newest) for w in found],
        [(w.rows, w.production) for w in found],
        [(w.rows, w.first) for w in found],
    ]


def _mean_scores(column: Sequence[tuple[int, dict[str, Any]]]) -> str:
    rows = sum(n for n, _ in column)
    log_loss = sum(n * s["log_loss"] for n, s in column) / rows
    error = sum(n * s["calibration_error"] for n, s in column) / rows
    return f"{log_loss:.4f} / {error:.3f}"


def _scores(version: str, found: dict[str, Any]) -> str:
    return f"{found['log_loss']:.4f} / {found['calibration_error']:.3f}  {version}"


def _draw(settings: Settings, weeks: Sequence[ReplayedWeek]) -> Path:
    points = [
        {
            "week": week.week,
            "candidate": week.walk_forward.newest["log_loss"],
            "production": week.walk_forward.production["log_loss"],
            "trivial": week.walk_forward.first["log_loss"],
        }
        for week in weeks
    ]
    picture = settings.problem_home / "reports" / "walk_forward.png"
    labels = {"candidate": "newest that passed", "production": "serving", "trivial": "first for ever"}
    png = plots.walk_forward_plot(points, labels)
    write_atomically(picture, lambda path: _write(path, png))
    return picture


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _week_facts(week: ReplayedWeek) -> dict[str, Any]:
    found = week.walk_forward
    return {
        "week": week.week,
        "decided": week.single.tasks + week.several.tasks,
        "matched": week.single.matched + week.several.matched,
        "several_decided": week.several.tasks,
        "several_matched": week.several.matched,
        "result": week.result.to_dict(),
        "walk_forward": {
            "newest": [found.newest_version, found.newest["log_loss"]],
            "production": [found.production_version, found.production["log_loss"]],
            "first": [found.first_version, found.first["log_loss"]],
        },
    }


def _scenarios(narrator: Narrator) -> list[dict[str, Any]]:
    narrator.title("Act 2: what happens when things go wrong (simulated, truth known, seed 7)")
    automation = SimulatedAutomation(7)
    played: list[Played] = []
    with tempfile.TemporaryDirectory(prefix="retrain-demo-") as scratch, letters_to(Path(scratch)):
        base = Path(scratch) / "base"
        with narrator.progress("Playing the scenarios", len(SCENARIOS) + 1) as step:
            now = prepare(base, automation, datetime.now(tz=UTC))
            step.advance()
            for scenario in play_all(base, Path(scratch), automation, now):
                played.append(scenario)
                narrator.say(f"  {scenario.scenario.name}: {scenario.scenario.story}")
                narrator.say(f"    -> {scenario.verdict}: {scenario.reason}")
                step.advance()
    rows = [
        [
            one.scenario.name,
            one.verdict,
            f"{one.hours:.1f}",
            f"{one.outcomes:,}",
            f"{one.harmed:,}",
            one.serves or "-",
            ", ".join(one.notified) or "nobody",
            "as it should" if one.is_as_expected else "NOT AS IT SHOULD",
        ]
        for one in played
    ]
    headers = ["scenario", "verdict", "hours", "outcomes needed", "tasks harmed", "serves", "notified (log)", ""]
    narrator.table(headers, rows)
    narrator.say(
        "Harmed: tasks of the version in question that failed and would have succeeded in normal times. Production "
        "alone has nothing to be compared with, so a drop there needs more outcomes than one on a canary."
    )
    return [
        {
            "scenario": one.scenario.name,
            "verdict": one.verdict,
            "reason": one.reason,
            "hours": one.hours,
            "outcomes": one.outcomes,
            "harmed": one.harmed,
            "serves": one.serves,
            "notified": list(one.notified),
            "as_expected": one.is_as_expected,
        }
        for one in played
    ]
