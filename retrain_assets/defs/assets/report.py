"""`validation_report`: the candidate on held-out rows, beside production and the best constant guess.

Holds the asset and its checks, one for each gate; does not hold the gates (`core/report.py`).
"""

import dagster as dg

from retrain_assets.core.report import GATES
from retrain_assets.defs import metadata
from retrain_assets.defs.partitions import Frame
from retrain_assets.defs.resources import PlatformParam
from retrain_assets.defs.runs import run_of
from retrain_assets.operations import retrain


def build_report(frame: Frame) -> dg.AssetsDefinition:
    """The asset `validation_report`."""

    @frame.asset(
        "validation_report",
        "registered_model",
        description="Every gate with its number and limit; a version that fails one is rejected, the run stays green.",
        kinds={"report"},
        check_specs=[dg.AssetCheckSpec(gate, asset=frame.key("validation_report")) for gate in GATES],
    )
    def validation_report(context: dg.AssetExecutionContext, platform: PlatformParam) -> dg.MaterializeResult:
        week = platform.calendar.named(context.partition_key)
        model, report = retrain.validate(platform, week, run_of(context))
        return dg.MaterializeResult(
            metadata=metadata.of_report(platform, model, report),
            tags=metadata.tags_of(version=model.version, passed=report.passed),
            check_results=[metadata.check_of(gate) for gate in report.gates],
        )

    return validation_report
