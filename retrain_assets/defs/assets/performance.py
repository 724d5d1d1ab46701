"""`performance_report`: how each version did on live tasks.

Holds the asset; does not hold the counting (`operations/performance.py`).
"""

import dagster as dg

from retrain_assets.defs import metadata
from retrain_assets.defs.partitions import Frame
from retrain_assets.defs.resources import PlatformParam
from retrain_assets.operations import performance


def build_performance(frame: Frame) -> dg.AssetsDefinition:
    """The asset `performance_report`."""

    @frame.asset(
        "performance_report",
        "outcomes",
        is_weekly=False,
        description="Success, error and latency of the last seven days; what versions promised against what came true.",
        kinds={"report"},
    )
    def performance_report(platform: PlatformParam) -> dg.MaterializeResult:
        rows, ledger = performance.report(platform), performance.update_ledger(platform)
        return dg.MaterializeResult(metadata=metadata.of_performance(rows, ledger))

    return performance_report
