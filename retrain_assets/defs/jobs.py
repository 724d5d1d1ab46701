"""The jobs: the weekly chain, and the report on demand; both run in one process.

Holds job definitions; does not hold the schedule. In process a week's assets take under a second of their
own; a step per process would cost 8-12 s each.
"""

from __future__ import annotations

import dagster as dg

from retrain_assets.defs.partitions import CHAIN, Frame

WEEKLY_JOB = "weekly_retrain"
PERFORMANCE_JOB = "performance"


def build_weekly_job(frame: Frame) -> dg.UnresolvedAssetJobDefinition:
    """Outcomes to canary, for one week."""
    return dg.define_asset_job(
        WEEKLY_JOB,
        selection=dg.AssetSelection.assets(*(frame.key(name) for name in CHAIN)),
        executor_def=dg.in_process_executor,
        description="Collect, merge, prepare, train, register, validate, stage and start the canary of one week.",
    )


def build_performance_job(frame: Frame) -> dg.UnresolvedAssetJobDefinition:
    """`performance_report` alone."""
    return dg.define_asset_job(
        PERFORMANCE_JOB,
        selection=dg.AssetSelection.assets(frame.key("performance_report")),
        executor_def=dg.in_process_executor,
        description="Count how each version did on live tasks over the last seven days.",
    )
