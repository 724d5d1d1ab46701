"""Commands about outcomes that wait on this machine: spool status, spool deliver.

Holds their options and tables; does not hold the files (`store/spool.py`) or how they are delivered
(`store/spool_delivery.py`).
A worker delivers by itself as long as it lives; these commands are for what a dead one left behind.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from retrain_assets.cli import output
from retrain_assets.cli.application import REFUSED, ConfigOption, JsonOption, app, existing, problem
from retrain_assets.errors import UsageError
from retrain_assets.settings import Settings
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.spool import Spool, name_of

FolderArgument = Annotated[
    Path | None,
    typer.Argument(metavar="DIR", help="The spool's folder (default: storage.spool_dir).", show_default=False),
]

spool = typer.Typer(no_args_is_help=True, help="Outcomes that wait on this machine for the database.")
app.add_typer(spool, name="spool", rich_help_panel="Keep well")


@spool.command("status")
def spool_status(*, folder: FolderArgument = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say how many outcomes wait on this machine, since when, and which files are another database's or damaged."""
    settings = problem(config)
    waiting = Spool(_folder(settings, folder), name_of(settings.database_url))
    facts = _facts(waiting)
    output.show(facts, as_json, lambda: _tell(facts))


@spool.command("deliver")
def spool_deliver(
    *,
    folder: FolderArgument = None,
    moved: Annotated[
        bool,
        typer.Option("--moved", help="Deliver also what was meant for a database at another address, after a move."),
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the waiting outcomes to the database; what it knows already counts once."""
    settings = problem(config)
    place = _folder(settings, folder)
    existing(settings)  # a wrong address must not become a new database with somebody's outcomes
    left = Spool(place, None if moved else name_of(settings.database_url))
    before = left.status()
    with (
        output.work("Delivering outcomes", before.waiting_rows) as work,
        FeedbackCollector(settings.database_url, config=settings.config) as collector,
    ):
        found = collector.deliver_spool(
            place, is_moved=moved, progress=lambda rows: work.at(rows, f"Delivering outcomes: {rows:,}")
        )
        told = {status: found[status] for status in ("accepted", "duplicate", "quarantined")}
    facts = {"delivered_rows": sum(told.values())} | told | _facts(left)
    output.show(facts, as_json, lambda: _tell(facts))
    if facts["waiting_files"] or facts["refused_files"] > before.refused_files:
        raise typer.Exit(REFUSED)


def _folder(settings: Settings, folder: Path | None) -> Path:
    chosen = folder or settings.spool_dir
    if chosen is None:
        raise UsageError("no spool is configured; name its folder, or set storage.spool_dir")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"{folder} is no folder; name the one that the workers were given as spool_dir")
    return chosen


def _facts(waiting: Spool) -> dict[str, Any]:
    return {"spool_dir": str(waiting.folder)} | asdict(waiting.status())


def _tell(facts: dict[str, Any]) -> None:
    if "delivered_rows" in facts:
        output.say(
            f"{facts['delivered_rows']:,} outcomes delivered: {facts['accepted']:,} new, "
            f"{facts['duplicate']:,} known, {facts['quarantined']:,} refused."
        )
    if facts["waiting_files"]:
        since = f", the oldest since {output.cell(facts['oldest_at'])}" if facts["oldest_at"] else ""
        output.say(f"{facts['waiting_rows']:,} outcomes wait in {facts['spool_dir']}{since}.")
    else:
        output.say(f"Nothing waits in {facts['spool_dir']}.")
    if facts["refused_files"]:
        output.say(f"{facts['refused_files']:,} files were set aside as *.refused; the log says why.")
    if facts["foreign_files"]:
        output.say(f"{facts['foreign_files']:,} files of another database or a newer version wait for that.")
