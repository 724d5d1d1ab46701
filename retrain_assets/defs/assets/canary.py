"""`canary_deployment`: the staged version on trial with a share of live tasks, and what the trial can show.

Holds the asset; does not hold the trial (`core/promotion.py`, `operations/deploy.py`).
"""

from collections.abc import Iterator

import dagster as dg

from retrain_assets.defs import metadata
from retrain_assets.defs.partitions import Frame
from retrain_assets.defs.resources import PlatformParam
from retrain_assets.defs.runs import run_of
from retrain_assets.operations import retrain


def build_canary(frame: Frame) -> dg.AssetsDefinition:
    """The asset `canary_deployment`."""

    @frame.asset(
        "canary_deployment",
        "staging_deployment",
        description="The version on trial with a share of live tasks; straight in production when nothing served yet.",
        kinds={"canary"},
        output_required=False,
        pool="deploy",
    )
    def canary_deployment(context: dg.AssetExecutionContext, platform: PlatformParam) -> Iterator[dg.MaterializeResult]:
        week = platform.calendar.named(context.partition_key)
        event = retrain.start_canary(platform, week, run_of(context))
        if isinstance(event, retrain.Held):
            context.log.info(event.reason)
            return
        for promotion in metadata.materialisations(frame, [event]):
            context.log_event(promotion)
        yield dg.MaterializeResult(metadata=metadata.of_event(event), tags=metadata.tags_of(version=event.version))

    return canary_deployment
