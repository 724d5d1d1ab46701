"""`outcomes`: one week of matured tasks, frozen.

Holds the asset; does not hold how a snapshot is taken (`store/datasets.py`).
"""

import dagster as dg

from retrain_assets.defs import metadata
from retrain_assets.defs.partitions import Frame
from retrain_assets.defs.resources import PlatformParam
from retrain_assets.operations import retrain


def build_outcomes(frame: Frame) -> dg.AssetsDefinition:
    """The asset `outcomes`."""

    @frame.asset(
        "outcomes",
        description="The week's matured tasks with their outcomes, frozen as a content-addressed snapshot.",
        kinds={"parquet", "snapshot"},
        check_specs=[dg.AssetCheckSpec("has_tasks", asset=frame.key("outcomes"))],
    )
    def outcomes(context: dg.AssetExecutionContext, platform: PlatformParam) -> dg.MaterializeResult:
        snapshot = retrain.collect(platform, platform.calendar.named(context.partition_key))
        return dg.MaterializeResult(
            metadata=metadata.of_snapshot(platform, snapshot),
            data_version=dg.DataVersion(snapshot.content_hash),
            check_results=[
                dg.AssetCheckResult(
                    check_name="has_tasks",
                    passed=snapshot.rows > 0,
                    severity=dg.AssetCheckSeverity.WARN,
                    metadata={"tasks": snapshot.rows},
                )
            ],
        )

    return outcomes
