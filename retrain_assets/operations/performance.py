"""How versions did on live tasks: the numbers behind `performance_report`.

Holds the counting over matured decisions; does not hold verdicts (`operations/watch.py`).
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

from retrain_assets.operations.platform import Platform
from retrain_assets.store import decisions, registry

WINDOW = timedelta(days=7)


def report(platform: Platform, window: timedelta = WINDOW) -> list[decisions.Performance]:
    """Count matured tasks per version, arm and action, and keep the numbers in `model_metrics`.

    Parameters
    ----------
    platform : Platform
    window : timedelta
        How far back from now, by the tasks' deadline.
    """
    now = platform.now()
    with platform.database.read() as connection:
        rows = decisions.performance(connection, now - window, now)
    with platform.database.write() as connection:
        for row in rows:
            if row.model_version is not None:
                registry.add_metrics(
                    connection,
                    row.model_version,
                    {**asdict(row), "success_rate": row.success_rate, "error_rate": row.error_rate},
                    now,
                    action=row.action,
                    window=f"{window.days}d",
                )
    return rows
