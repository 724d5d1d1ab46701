"""`trained_model` and `registered_model`: the fitted artefact, and the version it becomes.

Holds the assets; does not hold training (`core/model.py`) or the registry (`store/registry.py`).
"""

from collections.abc import Iterator

import dagster as dg

from retrain_assets.defs import metadata
from retrain_assets.defs.partitions import Frame
from retrain_assets.defs.resources import PlatformParam
from retrain_assets.defs.runs import run_of
from retrain_assets.defs.training_metadata import of_search
from retrain_assets.operations import retrain


def build_trained_model(frame: Frame) -> dg.AssetsDefinition:
    """The asset `trained_model`."""

    @frame.asset(
        "trained_model",
        "prepared_splits",
        description="The fitted pipeline and its ONNX artefact, equal on 10,000 hard rows.",
        kinds={"sklearn", "onnx"},
        output_required=False,
    )
    def trained_model(context: dg.AssetExecutionContext, platform: PlatformParam) -> Iterator[dg.MaterializeResult]:
        week = platform.calendar.named(context.partition_key)
        training = retrain.train(platform, week, run_of(context), context.log.info)
        if isinstance(training, retrain.Held):
            context.log.info("retrain skipped: %s", training.reason)
            return
        yield dg.MaterializeResult(
            metadata=metadata.of_training(platform, training) | of_search(training),
            data_version=dg.DataVersion(training.training_id),
            tags=metadata.tags_of(dataset_hash=training.dataset_hash),
        )

    return trained_model


def build_registered_model(frame: Frame) -> dg.AssetsDefinition:
    """The asset `registered_model`."""

    @frame.asset(
        "registered_model",
        "trained_model",
        description="The training under its version number, with the dataset that taught it.",
        kinds={"registry"},
    )
    def registered_model(context: dg.AssetExecutionContext, platform: PlatformParam) -> dg.MaterializeResult:
        week = platform.calendar.named(context.partition_key)
        is_backfill = retrain.is_old(platform, week)
        model = retrain.register(platform, week, run_of(context), is_backfill=is_backfill)
        return dg.MaterializeResult(
            metadata=metadata.of_version(platform, model),
            data_version=dg.DataVersion(f"{model.version}-{model.training_id}"),
            tags=metadata.tags_of(version=model.version, dataset_hash=model.dataset_hash, backfill=is_backfill),
        )

    return registered_model
