"""The command that rebuilds a version: reproduce.

Holds its options and words; does not hold the rebuilding (`operations/reproduce.py`). Needs the extra `platform`.
"""

from __future__ import annotations

import typer

from retrain_assets.cli import output
from retrain_assets.cli.application import REFUSED, ConfigOption, JsonOption, app, existing, problem
from retrain_assets.cli.reading import VersionArgument
from retrain_assets.operations import reproduce as rebuilding


@app.command(rich_help_panel="Look")
def reproduce(*, version: VersionArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Train a version again from its recorded data and settings, and compare it byte for byte; nothing is written."""
    platform = existing(problem(config))
    with output.work(f"Rebuilding {version}", 1.0) as work:
        found = rebuilding.reproduce(platform, version, lambda share, text: work.at(share, f"Rebuilding: {text}"))
    output.show(found.to_dict(), as_json, lambda: _tell(found))
    for difference in found.differences:
        output.complain(difference)
    if not found.identical:
        raise typer.Exit(REFUSED)


def _tell(found: rebuilding.Reproduction) -> None:
    settings = f"seed {found.seed}, threads {found.threads}"
    if found.identical:
        output.say(f"{found.version} was rebuilt from its recorded data and is identical ({settings}).")
    elif found.digests:
        output.say(f"{found.version} was rebuilt and is not what was recorded ({settings}).")
    else:
        output.say(f"{found.version} cannot be rebuilt: what it was made of is not what was recorded.")
    rows = [(name, pair["recorded"], pair["rebuilt"]) for name, pair in found.digests.items()]
    if rows:
        output.table(("what", "recorded sha256", "rebuilt sha256"), rows)
    for change in found.changed if found.identical else ():
        output.say(f"Identical although {change}.")
