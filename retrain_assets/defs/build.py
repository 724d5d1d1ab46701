"""Puts the definitions of one problem together.

Holds `build_defs`; nothing happens at import, and each call returns fresh definitions.
"""

from __future__ import annotations

import dagster as dg

from retrain_assets.core.dataset import WeekCalendar
from retrain_assets.defs.assets.canary import build_canary
from retrain_assets.defs.assets.dataset import build_dataset
from retrain_assets.defs.assets.deployment import build_deployment
from retrain_assets.defs.assets.model import build_registered_model, build_trained_model
from retrain_assets.defs.assets.outcomes import build_outcomes
from retrain_assets.defs.assets.performance import build_performance
from retrain_assets.defs.assets.promotion import build_promotion, build_rollback
from retrain_assets.defs.assets.report import build_report
from retrain_assets.defs.assets.splits import build_splits
from retrain_assets.defs.checks import build_checks
from retrain_assets.defs.jobs import build_performance_job, build_weekly_job
from retrain_assets.defs.partitions import Frame, frame_of
from retrain_assets.defs.resources import platform_resource
from retrain_assets.defs.schedules import build_schedule
from retrain_assets.defs.sensors import build_canary_watch, build_delivery, build_failure_watch
from retrain_assets.operations.platform import Clock, Platform, system_clock
from retrain_assets.operations.weeks import first_week
from retrain_assets.settings import Settings
from retrain_assets.store.database import Database


def build_defs(settings: Settings, *, clock: Clock = system_clock, earliest: str | None = None) -> dg.Definitions:
    """Everything Dagster needs to know of one problem.

    Parameters
    ----------
    settings : Settings
    clock : callable, optional
        Returns the current instant; the demonstration and tests put their own here.
    earliest : str, optional
        A week that must be among the partitions, beside those with data.
    """
    frame = build_frame(settings, clock, earliest)
    weekly = build_weekly_job(frame)
    return dg.Definitions(
        assets=[
            build_outcomes(frame),
            build_dataset(frame),
            build_splits(frame),
            build_trained_model(frame),
            build_registered_model(frame),
            build_report(frame),
            build_deployment(frame),
            build_canary(frame),
            build_promotion(frame),
            build_rollback(frame),
            build_performance(frame),
        ],
        asset_checks=build_checks(frame),
        jobs=[weekly, build_performance_job(frame)],
        schedules=[build_schedule(weekly)],
        sensors=[build_canary_watch(frame), build_delivery(settings), build_failure_watch(frame, settings, clock)],
        resources={"platform": platform_resource(settings, clock)},
        executor=dg.in_process_executor,
    )


def build_frame(settings: Settings, clock: Clock = system_clock, earliest: str | None = None) -> Frame:
    """Asset keys and partitions of one problem."""
    retrain = settings.config.retrain
    calendar = WeekCalendar(retrain.day, retrain.time, retrain.timezone)
    platform = Platform(settings, Database(settings.database_url), clock)
    found = first_week(platform).key
    return frame_of(settings.config, calendar, min(found, earliest) if earliest else found)
