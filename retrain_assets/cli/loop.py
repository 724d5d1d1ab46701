"""Commands that run the loop: run, backfill, demo.

Holds their options and progress; does not hold the weekly run (`defs/run.py`) or the demonstration (`demo/`). They
need the extra `platform`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrain_assets.cli import output
from retrain_assets.cli.application import REFUSED, ConfigOption, JsonOption, app, existing, opened, problem, user
from retrain_assets.core.dataset import Week
from retrain_assets.errors import UsageError
from retrain_assets.operations import estimators, extraction, status
from retrain_assets.operations.platform import Platform
from retrain_assets.settings import Settings

if TYPE_CHECKING:
    from retrain_assets.defs.run import WeekResult

FAILED = "failed"


@app.command(rich_help_panel="Run")
def run(
    *,
    week: Annotated[
        str | None,
        typer.Option(
            "--week", metavar="DATE", show_default=False,
            help="The week's key or any day in it (default: the newest week that has closed).",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Run the weekly loop for one week here and now, recorded in Dagster: collect, train, validate, deploy."""
    settings = problem(config)
    if dry_run:
        platform = existing(settings)
        found = status.outlook(platform, _week(platform, week))
        output.show(found.to_dict(), as_json, lambda: output.say(f"Week {found.week}: {found.reason}."))
        return
    estimators.check(settings.config.model)
    extraction.check(settings.config)
    platform = opened(settings)
    chosen = _week(platform, week)
    with _recorded(settings, f"Week {chosen.key}: collecting, training, validating", None) as (work, runner):
        result = next(iter(runner(platform, [chosen])))
        work.at(1.0)
    output.show(result.to_dict(), as_json, lambda: output.say(_sentence(result)))
    _end_on_failure([result])


@app.command(rich_help_panel="Run")
def backfill(
    *,
    first: Annotated[str, typer.Option("--from", metavar="DATE", help="The first week, by its key or any day in it.")],
    last: Annotated[str, typer.Option("--to", metavar="DATE", help="The last week, which is run as well.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the weekly loop for a range of weeks, in order; old weeks train, only the newest one deploys."""
    from retrain_assets.defs.run import weeks_between

    settings = problem(config)
    estimators.check(settings.config.model)
    extraction.check(settings.config)
    platform = opened(settings)
    weeks = weeks_between(platform, first, last)
    results = []
    with _recorded(settings, f"Backfilling {len(weeks)} weeks", len(weeks)) as (work, runner):
        for result in runner(platform, weeks):
            results.append(result)
            work.line(_sentence(result))
            work.at(len(results), f"Backfilling, {len(results)} of {len(weeks)} weeks done")
    output.show([result.to_dict() for result in results], as_json, lambda: _tell_weeks(results))
    _end_on_failure(results)


class _Runner:
    """Runs weeks in an instance that is open."""

    def __init__(self, settings: Settings) -> None:
        # Here, where progress already shows: importing Dagster takes a second or more.
        from retrain_assets.defs.instance import open_instance

        self.instance = open_instance(settings)

    def __call__(self, platform: Platform, weeks: Sequence[Week]) -> Iterator[WeekResult]:
        """Results as they come."""
        from retrain_assets.defs.run import run_weeks

        return run_weeks(platform, weeks, self.instance, user())


@contextmanager
def _recorded(settings: Settings, text: str, total: float | None) -> Iterator[tuple[output.Work, _Runner]]:
    """Progress, and a runner whose runs Dagster keeps."""
    with output.work(text, total) as work:
        runner = _Runner(settings)
        with runner.instance:
            yield work, runner


def _week(platform: Platform, text: str | None) -> Week:
    newest = platform.calendar.newest_closed(platform.now())
    if text is None:
        return newest
    week = platform.calendar.named(text)
    if week > newest:
        raise UsageError(f"week {week.key} has not closed yet; the newest closed week is {newest.key}")
    return week


def _sentence(result: WeekResult) -> str:
    version = f" {result.version}" if result.version else ""
    return f"Week {result.week}: {result.outcome}{version}: {result.reason}"


def _tell_weeks(results: Sequence[WeekResult]) -> None:
    counts = {outcome: sum(r.outcome == outcome for r in results) for outcome in {r.outcome for r in results}}
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    output.say(f"{len(results)} weeks: {told}.")


def _end_on_failure(results: Sequence[WeekResult]) -> None:
    if any(result.outcome == FAILED for result in results):
        raise typer.Exit(REFUSED)


@app.command(rich_help_panel="Run")
def demo(
    *,
    weeks: Annotated[
        int, typer.Option(metavar="N", help="Weeks of flights; the first eight of them are history.")
    ] = 16,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Default: config/flights.yaml.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the whole loop at work: real flights replayed week by week, then failures staged and survived."""
    from retrain_assets.demo import run as demonstration

    code = demonstration.main(weeks=weeks, config=config, as_json=as_json)
    if code:
        raise typer.Exit(code)
