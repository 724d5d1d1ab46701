"""Commands by which a person changes traffic: promote, rollback, pause, resume.

Holds their options, and what follows a change: its notification is sent at once, and the materialisation is
reported to Dagster where there is one. Both come after the change is done and told, so neither can delay or
undo it. Rolling back needs neither Dagster, pandas nor scikit-learn.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from retrain_assets.cli import output
from retrain_assets.cli.application import (
    ActorOption,
    ConfigOption,
    JsonOption,
    ReasonOption,
    app,
    existing,
    problem,
    user,
)
from retrain_assets.core.deployment import Event
from retrain_assets.errors import UsageError
from retrain_assets.operations import deploy, status
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform

NOTIFY_BUDGET_S = 10.0
"""How long a command waits for its channels; what they did not take is sent later by the watch."""


@app.command(rich_help_panel="Act")
def promote(
    *,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A version on trial, or a staged one.")],
    reason: ReasonOption,
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a version that is on trial or staged serve all tasks."""
    platform = existing(problem(config))
    event = deploy.promote(platform, version, _cause(reason, actor))
    _tell(platform, event, as_json=as_json)
    _follow(platform, event)


@app.command(rich_help_panel="Act")
def rollback(
    *,
    reason: ReasonOption,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="VERSION", help="Go back to this version, which served before.", show_default=False
        ),
    ] = None,
    production: Annotated[
        bool, typer.Option("--production", help="Leave production also while a canary is on trial.")
    ] = False,
    actor: ActorOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take back what was deployed last: the canary on trial, else production, also when Dagster is down.

    While a canary is on trial it ends the trial, and production serves every task again. Otherwise, and with
    --production or --to, traffic goes to the last version that served before and was not itself rolled back.
    """
    platform = existing(problem(config))
    leaving = None if production else deploy.canary_to_leave(platform, to)
    target = None if leaving is not None else to
    event = deploy.roll_back(platform, _cause(reason, actor), version=leaving, to=target)
    _tell(platform, event, as_json=as_json)
    _follow(platform, event)


@app.command(rich_help_panel="Act")
def pause(
    *, reason: ReasonOption, actor: ActorOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Stop automatic deployment; training goes on, and rollback stays on."""
    _pause(config, _cause(reason, actor), is_paused=True, as_json=as_json)


@app.command(rich_help_panel="Act")
def resume(
    *, reason: ReasonOption, actor: ActorOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Restart automatic deployment after a pause."""
    _pause(config, _cause(reason, actor), is_paused=False, as_json=as_json)


def _pause(config: Path | None, cause: Cause, *, is_paused: bool, as_json: bool) -> None:
    platform = existing(problem(config))
    event = deploy.pause(platform, cause, is_paused=is_paused)
    _tell(platform, event, as_json=as_json)
    _notify(platform)


def _cause(reason: str, actor: str | None) -> Cause:
    if not reason.strip():
        raise UsageError("--reason is empty; say why, for those who read the audit log later")
    return Cause(actor or user(), reason.strip())


def _tell(platform: Platform, event: Event, *, as_json: bool) -> None:
    """Print the event, and for people what serves now."""
    if as_json:
        output.emit(status.event_dict(event))
        return
    what = f"{event.version}: {event.from_status} -> {event.to_status}" if event.to_status else event.kind.value
    output.say(f"{what} (by {event.actor}: {event.reason})")
    for line in status.gather(platform).in_words():
        output.say(line)


def _follow(platform: Platform, event: Event) -> None:
    """Send the notification and report to Dagster; the change stands whatever becomes of them."""
    _notify(platform)
    try:
        _report(platform, event)
    except ModuleNotFoundError:
        return  # the base install has no Dagster to report to
    except Exception as error:  # noqa: BLE001  (see above)
        output.note(f"The change is done; Dagster could not be told: {_line(error)}")


def _notify(platform: Platform) -> None:
    from retrain_assets.notify import channels, deliver

    # The terminal already shows the event: without a handler of its own Python would print the log's copy, too.
    channels.logger.addHandler(logging.NullHandler())
    try:
        to = channels.Channels(platform.config.notifications.urls)
        name, now = platform.config.problem.name, platform.now()
        report = deliver.deliver_pending(platform.database, to, name, now, budget_s=NOTIFY_BUDGET_S)
    except Exception as error:  # noqa: BLE001  (see `_follow`)
        output.note(f"The change is done; its notification waits: {_line(error)}")
        return
    for problem_found in report.errors:
        output.note(f"The change is done; a notification will be tried again: {problem_found}")


def _report(platform: Platform, event: Event) -> None:
    """Show the change in Dagster as the watch would have."""
    from retrain_assets.defs.build import build_frame
    from retrain_assets.defs.instance import open_instance
    from retrain_assets.defs.metadata import materialisations

    found = materialisations(build_frame(platform.settings, platform.clock), [event])
    with open_instance(platform.settings) as instance:
        for materialisation in found:
            instance.report_runless_asset_event(materialisation)


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
