"""The sensors: watch the canary, deliver notifications, note failed runs.

Holds thin wrappers and the reporting of promotions and rollbacks as materialisations; does not hold the
watch (`operations/watch.py`) or delivery (`notify/deliver.py`).
"""

import dagster as dg

from retrain_assets.defs import metadata
from retrain_assets.defs.jobs import WEEKLY_JOB
from retrain_assets.defs.partitions import CHAIN, Frame
from retrain_assets.defs.resources import PlatformParam
from retrain_assets.defs.runs import ACTOR_TAG
from retrain_assets.notify.channels import Channels
from retrain_assets.notify.deliver import deliver_pending
from retrain_assets.operations import retrain
from retrain_assets.operations.platform import Clock, open_platform
from retrain_assets.operations.watch import tick
from retrain_assets.settings import Settings


def build_canary_watch(frame: Frame) -> dg.SensorDefinition:
    """Tick the watch; traffic is switched inside the tick, and reported here."""

    @dg.sensor(
        name="canary_watch",
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Weighs what matured, then promotes or rolls back by itself, and reports it with the evidence.",
    )
    def canary_watch(platform: PlatformParam) -> dg.SensorResult | dg.SkipReason:
        found = tick(platform, "canary_watch")
        reported = metadata.materialisations(frame, found.events)
        if not reported:
            reason = found.verdict.reason if found.verdict else "no canary is on trial"
            return dg.SkipReason(f"{found.tasks} tasks matured on trial: {reason}")
        return dg.SensorResult(asset_events=reported)

    return canary_watch


def build_delivery(settings: Settings) -> dg.SensorDefinition:
    """Deliver what waits in the outbox."""
    channels = Channels(settings.config.notifications.urls)

    @dg.sensor(
        name="notification_delivery",
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends queued notifications to every channel; a dead channel delays nothing but itself.",
    )
    def notification_delivery(platform: PlatformParam) -> dg.SkipReason:
        done = deliver_pending(platform.database, channels, settings.config.problem.name, platform.now())
        return dg.SkipReason(f"{done.delivered} delivered, {done.failed} to be tried again")

    return notification_delivery


def build_failure_watch(frame: Frame, settings: Settings, clock: Clock) -> dg.SensorDefinition:
    """Note failed runs in the audit log, and so notify about them."""
    chain = {frame.key(name) for name in CHAIN}

    @dg.run_failure_sensor(
        name="retrain_failure_watch",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Records a failed run once, with its error, and notifies.",
    )
    def retrain_failure_watch(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        if run.job_name != WEEKLY_JOB and not (run.asset_selection or set()) & chain:
            return  # a refused promotion by hand, or a report, is no failed retraining
        actor = run.tags.get(ACTOR_TAG, "dagster")
        retrain.fail(
            open_platform(settings, clock), retrain.Run(run.run_id, actor), context.failure_event.message or ""
        )

    return retrain_failure_watch
