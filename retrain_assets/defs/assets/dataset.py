"""`merged_dataset`: the manifest of all snapshots up to a week.

Holds the asset; does not hold merge rules (`core/dataset.py`).
"""

import dagster as dg

from retrain_assets.defs import metadata
from retrain_assets.defs.partitions import Frame
from retrain_assets.defs.resources import PlatformParam
from retrain_assets.operations import retrain


def build_dataset(frame: Frame) -> dg.AssetsDefinition:
    """The asset `merged_dataset`."""

    @frame.asset(
        "merged_dataset",
        "outcomes",
        description="The ordered list of snapshots up to this week; nothing is copied.",
        kinds={"parquet", "manifest"},
    )
    def merged_dataset(context: dg.AssetExecutionContext, platform: PlatformParam) -> dg.MaterializeResult:
        dataset, taken = retrain.merge(platform, platform.calendar.named(context.partition_key))
        return dg.MaterializeResult(
            metadata=metadata.of_dataset(platform, dataset, taken),
            data_version=dg.DataVersion(dataset.dataset_hash),
            tags=metadata.tags_of(dataset_hash=dataset.dataset_hash),
        )

    return merged_dataset
