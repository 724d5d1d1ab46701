"""Weeks as Dagster partitions and the names under which assets are known.

Holds the partitions definition and asset keys; does not hold the calendar itself (`core/dataset.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from retrain_assets.core.dataset import WeekCalendar
from retrain_assets.settings import Config

CHAIN = (
    "outcomes",
    "merged_dataset",
    "prepared_splits",
    "trained_model",
    "registered_model",
    "validation_report",
    "staging_deployment",
    "canary_deployment",
)
"""The weekly chain in order; each depends on the one before, week by week."""

GROUPS = {
    "outcomes": "1_data",
    "merged_dataset": "1_data",
    "prepared_splits": "1_data",
    "trained_model": "2_training",
    "registered_model": "2_training",
    "validation_report": "2_training",
    "staging_deployment": "3_deployment",
    "canary_deployment": "3_deployment",
    "promotion": "3_deployment",
    "rollback": "3_deployment",
    "performance_report": "4_monitoring",
}
"""The UI sorts groups by name: numbers keep the order of the flow."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What every definition of one problem shares.

    Attributes
    ----------
    prefix : sequence of str
        Put before each asset's name; empty for the problem that has the names to itself.
    weeks : WeeklyPartitionsDefinition
    """

    prefix: Sequence[str]
    weeks: dg.WeeklyPartitionsDefinition
    owner: str = "team:model-owners"

    def key(self, name: str) -> dg.AssetKey:
        """The asset key of `name`."""
        return dg.AssetKey([*self.prefix, name])

    def asset(
        self,
        name: str,
        upstream: str | None = None,
        *,
        is_weekly: bool = True,
        **options: Any,  # noqa: ANN401  (passed on to `dg.asset`)
    ) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
        """`dg.asset` with what every asset of the flow has in common: key, group, partitions, owner."""
        decorate: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
            key=self.key(name),
            deps=[self.key(upstream)] if upstream else [],
            group_name=GROUPS[name],
            partitions_def=self.weeks if is_weekly else None,
            owners=[self.owner],
            **options,
        )
        return decorate


def weekly_partitions(calendar: WeekCalendar, first_week: str) -> dg.WeeklyPartitionsDefinition:
    """Weeks from `first_week` (a key) on, beginning where the calendar says."""
    return dg.WeeklyPartitionsDefinition(
        start_date=first_week,
        timezone=calendar.timezone,
        day_offset=calendar.day_offset,
        hour_offset=calendar.start_time.hour,
        minute_offset=calendar.start_time.minute,
    )


def frame_of(config: Config, calendar: WeekCalendar, first_week: str) -> Frame:
    """The frame of one problem."""
    prefix = [config.problem.name] if config.problem.prefix_asset_keys else []
    return Frame(prefix, weekly_partitions(calendar, first_week))
