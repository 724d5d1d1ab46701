"""`prepared_splits`: train, validation and test by time; nothing when there is too little to learn.

Holds the asset; does not hold the split (`core/splits.py`).
"""

from collections.abc import Iterator

import dagster as dg

from retrain_assets.defs import metadata
from retrain_assets.defs.partitions import Frame
from retrain_assets.defs.resources import PlatformParam
from retrain_assets.defs.runs import run_of
from retrain_assets.operations import retrain


def build_splits(frame: Frame) -> dg.AssetsDefinition:
    """The asset `prepared_splits`."""

    @frame.asset(
        "prepared_splits",
        "merged_dataset",
        description="Train, validation and test by time, a gap of one task timeout between them.",
        kinds={"pandas"},
        output_required=False,
    )
    def prepared_splits(context: dg.AssetExecutionContext, platform: PlatformParam) -> Iterator[dg.MaterializeResult]:
        prepared = retrain.prepare(platform, platform.calendar.named(context.partition_key), run_of(context))
        if isinstance(prepared, retrain.Held):
            context.log.info("retrain skipped: %s", prepared.reason)
            return
        yield dg.MaterializeResult(metadata=metadata.of_splits(prepared))

    return prepared_splits
