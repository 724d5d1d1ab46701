"""`promotion` and `rollback`: reported by the watch with the evidence; a person can materialise them too.

Holds the assets for people; does not hold the watch (`defs/sensors.py`) or the changes themselves
(`operations/deploy.py`), which both share.
"""

import dagster as dg

from retrain_assets.defs import metadata
from retrain_assets.defs.partitions import Frame
from retrain_assets.defs.resources import PlatformParam
from retrain_assets.operations import deploy


class PromotionConfig(dg.Config):
    """Which version to promote, who says so, and why."""

    version: str
    reason: str
    actor: str


class RollbackConfig(dg.Config):
    """Why to roll back and who says so; what to leave (empty: the canary on trial, else production) and where to go."""

    reason: str
    actor: str
    version: str = ""
    to: str = ""


def build_promotion(frame: Frame) -> dg.AssetsDefinition:
    """The asset `promotion`."""

    @frame.asset(
        "promotion",
        "canary_deployment",
        is_weekly=False,
        description="A version that came to serve all tasks, with the evidence. Materialise it to promote by hand.",
        kinds={"registry"},
        pool="deploy",
    )
    def promotion(
        context: dg.AssetExecutionContext, config: PromotionConfig, platform: PlatformParam
    ) -> dg.MaterializeResult:
        cause = deploy.Cause(config.actor, config.reason, context.run.run_id)
        event = deploy.promote(platform, config.version, cause)
        return dg.MaterializeResult(metadata=metadata.of_event(event), tags=metadata.tags_of(version=event.version))

    return promotion


def build_rollback(frame: Frame) -> dg.AssetsDefinition:
    """The asset `rollback`."""

    @frame.asset(
        "rollback",
        "canary_deployment",
        is_weekly=False,
        description="A version that was taken out of traffic, with the evidence. Materialise it to roll back by hand.",
        kinds={"registry"},
        pool="deploy",
    )
    def rollback(
        context: dg.AssetExecutionContext, config: RollbackConfig, platform: PlatformParam
    ) -> dg.MaterializeResult:
        cause = deploy.Cause(config.actor, config.reason, context.run.run_id)
        leaving = config.version or deploy.canary_to_leave(platform, config.to or None)
        event = deploy.roll_back(platform, cause, version=leaving, to=config.to or None)
        return dg.MaterializeResult(metadata=metadata.of_event(event), tags=metadata.tags_of(version=event.version))

    return rollback
