"""Commands that keep a copy of a problem and bring it back: backup, restore.

Holds their options and what they print; does not hold the copying (`operations/backup.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retrain_assets.cli import output
from retrain_assets.cli.application import ConfigOption, JsonOption, app, problem
from retrain_assets.operations import backup as backups
from retrain_assets.operations.backup import Done
from retrain_assets.operations.platform import Platform
from retrain_assets.store.database import Database

MEGABYTE = 1e6


@app.command(rich_help_panel="Keep well")
def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or the one of the last backup.")],
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy database, files and configuration while workers go on; a second time only what is new.

    The last backup in DIR stays valid until the new one is complete. Passwords (storage.database_url,
    notifications.urls) and Dagster's run history are left out.
    """
    settings = problem(config)
    with output.work(f"Backing up {settings.config.problem.name}", 1.0) as work:
        platform = Platform(settings, Database(settings.database_url))  # nothing is created or migrated
        done = backups.back_up(platform, folder, work.at)
    for warning in done.warnings:
        output.note(f"Warning: {warning}.")
    output.show(done.to_dict(), as_json, lambda: _tell(done, "Backed up to"))


@app.command(rich_help_panel="Keep well")
def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a backup; it is only read.")],
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a backup back into an empty database, SQLite or PostgreSQL, and the problem's folder.

    Every file is checked first. A database that has rows is refused: nothing is ever overwritten.
    """
    settings = problem(config)
    with output.work(f"Restoring {settings.config.problem.name}", 1.0) as work:
        done = backups.restore(settings, folder, work.at)
    output.show(done.to_dict(), as_json, lambda: _tell(done, "Restored from"))


def _tell(done: Done, what: str) -> None:
    manifest = done.manifest
    rows = sum(manifest.tables.values())
    output.say(f"{what} {done.path}: the state of {output.cell(manifest.created_at)}, schema revision {done.revision}.")
    size = done.bytes / MEGABYTE
    output.say(f"{rows:,} rows in {len(manifest.tables)} tables, {len(manifest.files):,} files, {size:,.1f} MB.")
    output.say(f"Copied now: {done.copied:,} files. Left out: {', '.join(manifest.left_out)}.")
