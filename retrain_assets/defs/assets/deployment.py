"""`staging_deployment`: the validated version, loaded and tested as an engine would; nothing for a rejected one.

Holds the asset; does not hold the smoke test (`operations/retrain.py`).
"""

from collections.abc import Iterator

import dagster as dg

from retrain_assets.defs import metadata
from retrain_assets.defs.partitions import Frame
from retrain_assets.defs.resources import PlatformParam
from retrain_assets.defs.runs import run_of
from retrain_assets.operations import retrain


def build_deployment(frame: Frame) -> dg.AssetsDefinition:
    """The asset `staging_deployment`."""

    @frame.asset(
        "staging_deployment",
        "validation_report",
        description="A version that passed validation, staged and smoke-tested; only the newest closed week gets here.",
        kinds={"onnx"},
        output_required=False,
        pool="deploy",
    )
    def staging_deployment(
        context: dg.AssetExecutionContext, platform: PlatformParam
    ) -> Iterator[dg.MaterializeResult]:
        staged = retrain.stage(platform, platform.calendar.named(context.partition_key), run_of(context))
        if isinstance(staged, retrain.Held):
            context.log.info(staged.reason)
            return
        yield dg.MaterializeResult(
            metadata=metadata.of_version(platform, staged.model) | metadata.of_numbers(staged.tests),
            tags=metadata.tags_of(version=staged.model.version),
        )

    return staging_deployment
