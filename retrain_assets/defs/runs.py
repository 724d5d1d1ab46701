"""Who runs a step, as the loop records it.

Holds the translation of a Dagster context; does not hold the steps (`operations/retrain.py`).
"""

from __future__ import annotations

import dagster as dg

from retrain_assets.operations.retrain import Run

ACTOR_TAG = "retrain/actor"
"""Run tag under which the command line and people name themselves."""


def run_of(context: dg.AssetExecutionContext) -> Run:
    """The run of an asset's execution."""
    run = context.run
    return Run(run.run_id, run.tags.get(ACTOR_TAG) or run.tags.get("user") or "dagster")
