"""The platform as a Dagster resource, opened for each run and each tick.

Holds the resource; does not hold what it opens (`operations/platform.py`).
"""

from __future__ import annotations

import dagster as dg

from retrain_assets.operations.platform import Clock, Platform, open_platform
from retrain_assets.settings import Settings

PlatformParam = dg.ResourceParam[Platform]
"""Type of the `platform` argument of assets and sensors."""


def platform_resource(settings: Settings, clock: Clock) -> dg.ResourceDefinition:
    """Open the platform when a run or a tick begins: the schema is current and the settings are published."""

    def _open(_context: dg.InitResourceContext) -> Platform:
        return open_platform(settings, clock)

    return dg.ResourceDefinition(_open, description="Database, files, settings and clock of one problem.")
