"""The command line, `retrain`.

Holds the commands: `data` (init, import), `loop` (run, backfill, demo), `reading` (status, models, show, history,
lineage, why), `reproduce`, `traffic` (promote, rollback, pause, resume), `upkeep` (doctor, guard, notify), `backup`
(backup, restore), `quarantine` (list, retry, export, dismiss), `spool` (status, deliver), `extraction` (extract). What
all of them share lies in `application` (the program, errors, exit codes) and `output` (JSON, tables, progress). Does
not hold what the commands do (`operations/`, `defs/`): those are imported inside the commands, so that the base install
suffices for everything but the loop itself.
"""

from __future__ import annotations

import warnings

from retrain_assets.cli import backup, data, extraction, loop, quarantine, reading, reproduce, spool, traffic, upkeep
from retrain_assets.cli.application import app

__all__ = [
    "app",
    "backup",
    "data",
    "extraction",
    "loop",
    "main",
    "quarantine",
    "reading",
    "reproduce",
    "spool",
    "traffic",
    "upkeep",
]


def main() -> None:
    """Run the command that `sys.argv` names; ends the process with its exit code."""
    warnings.simplefilter("ignore")  # other libraries' deprecations are nothing that a person at a prompt can act on
    app(prog_name="retrain")
