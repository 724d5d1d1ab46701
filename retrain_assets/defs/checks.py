"""Checks that stand beside the assets: what a later look at an older materialisation can find.

Holds the check of `merged_dataset`; does not hold the report's gates (`core/report.py`).
"""

import dagster as dg

from retrain_assets.defs.partitions import Frame
from retrain_assets.defs.resources import PlatformParam
from retrain_assets.operations import retrain


def build_checks(frame: Frame) -> list[dg.AssetChecksDefinition]:
    """All checks that are definitions of their own."""

    @dg.asset_check(
        asset=frame.key("merged_dataset"),
        name="uses_newest_snapshots",
        description="Says when an older week has received rows since, so that its snapshot is newer than the one used.",
    )
    def uses_newest_snapshots(platform: PlatformParam) -> dg.AssetCheckResult:
        dataset = retrain.newest_dataset(platform)
        stale = retrain.newer_snapshots(platform, dataset) if dataset else []
        return dg.AssetCheckResult(
            passed=not stale,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"newer snapshots exist for {', '.join(stale)}" if stale else "every snapshot is the newest",
            metadata={"weeks_with_newer_snapshots": ", ".join(stale) or "none"},
        )

    return [uses_newest_snapshots]
