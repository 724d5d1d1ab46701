"""The weekly schedule: day, time and time zone are those of the weeks themselves.

Holds the schedule; does not hold the job.
"""

from __future__ import annotations

import dagster as dg


def build_schedule(
    job: dg.UnresolvedAssetJobDefinition,
) -> dg.ScheduleDefinition | dg.UnresolvedPartitionedAssetScheduleDefinition:
    """Start the weekly job as soon as a week has closed, for the week that closed.

    A schedule and not an automation condition: that one silently asks for nothing when an earlier
    partition is missing.
    """
    return dg.build_schedule_from_partitioned_job(
        job, name="weekly_retrain_schedule", default_status=dg.DefaultScheduleStatus.RUNNING
    )
