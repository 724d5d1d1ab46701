"""Weekly runs in this process, recorded in the Dagster instance.

Holds what `retrain run`, `retrain backfill` and the demonstration share; does not hold the job
(`defs/jobs.py`). A UI backfill goes through Dagster's daemon instead, whose loop sleeps 30 s between
iterations; here the weeks follow each other at once, in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import dagster as dg

from retrain_assets.core.dataset import Week
from retrain_assets.core.deployment import EventKind, Status
from retrain_assets.defs.build import build_defs, build_frame
from retrain_assets.defs.jobs import WEEKLY_JOB
from retrain_assets.defs.metadata import materialisations
from retrain_assets.defs.partitions import GROUPS
from retrain_assets.defs.runs import ACTOR_TAG
from retrain_assets.errors import UsageError
from retrain_assets.operations import retrain
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.watch import Tick, tick
from retrain_assets.store import registry

Instance = dg.DagsterInstance
"""Where runs are recorded; named here for callers that do not import dagster."""

BACKFILL_TAG = "backfill"
# Events go to the instance; on the console the caller's own lines say what people need.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True, slots=True)
class WeekResult:
    """What became of one week's run.

    Attributes
    ----------
    outcome : str
        `trained` (registered and validated), `skipped`, `rejected`, `deployed` (on trial or serving) or
        `failed`.
    """

    week: str
    outcome: str
    version: str | None
    reason: str
    run_id: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return asdict(self)


def throwaway_instance() -> Instance:
    """An instance that keeps nothing: for what nobody will look up."""
    return dg.DagsterInstance.ephemeral()


def forget(platform: Platform, instance: Instance) -> None:
    """Take the problem's materialisations out of the instance; its runs stay."""
    frame = build_frame(platform.settings, platform.clock)
    known = set(instance.all_asset_keys())
    instance.wipe_assets([key for key in map(frame.key, GROUPS) if key in known])


def weeks_between(platform: Platform, first: str, last: str) -> list[Week]:
    """The closed weeks of a range of dates, both ends included.

    Raises
    ------
    UsageError
        The range is empty, or ends in a week that has not closed.
    """
    calendar = platform.calendar
    begin, end = calendar.named(first), calendar.named(last)
    newest = calendar.newest_closed(platform.now())
    if begin > end:
        raise UsageError(f"the range begins with week {begin.key}, after its end {end.key}; swap them")
    if end > newest:
        raise UsageError(f"week {end.key} has not closed yet; the newest closed week is {newest.key}")
    return calendar.between(begin, end)


def run_weeks(platform: Platform, weeks: Sequence[Week], instance: Instance, actor: str) -> Iterator[WeekResult]:
    """Run the weekly job for each week in order, in this process.

    Parameters
    ----------
    platform : Platform
    weeks : sequence of Week
    instance : DagsterInstance
        Where the runs are recorded.
    actor : str
        Who runs them, for the audit log.
    """
    if not weeks:
        return
    definitions = build_defs(platform.settings, clock=platform.clock, earliest=min(weeks).key)
    job = definitions.resolve_job_def(WEEKLY_JOB)
    for week in weeks:
        tags = {ACTOR_TAG: actor}
        if retrain.is_old(platform, week):
            tags[BACKFILL_TAG] = "true"
        done = job.execute_in_process(
            partition_key=week.key, instance=instance, tags=tags, run_config=_QUIET, raise_on_error=False
        )
        yield _result(platform, week, done, actor)


def watch_once(platform: Platform, instance: Instance, actor: str) -> Tick:
    """One tick of the watch, with what it changed reported to the instance as the sensor would."""
    found = tick(platform, actor)
    frame = build_frame(platform.settings, platform.clock)
    for materialisation in materialisations(frame, found.events):
        instance.report_runless_asset_event(materialisation)
    return found


def _result(platform: Platform, week: Week, done: dg.ExecuteInProcessResult, actor: str) -> WeekResult:
    if not done.success:
        reason = _failure(done)
        retrain.fail(platform, retrain.Run(done.run_id, actor), reason)
        return WeekResult(week.key, "failed", None, reason, done.run_id)
    with platform.database.read() as connection:
        events = registry.events(connection, run_id=done.run_id)
        by_kind = {event.kind: event for event in events}
        version = next((event.version for event in events if event.version), None)
        model = registry.get_version(connection, version) if version else None
    if (skipped := by_kind.get(EventKind.RETRAIN_SKIPPED)) is not None:
        return WeekResult(week.key, "skipped", None, skipped.reason, done.run_id)
    if model is None:
        newest = retrain.newest_version(platform, week)
        reason = f"{newest.version} was trained on this very data before" if newest else "nothing was done"
        return WeekResult(week.key, "trained", newest.version if newest else None, reason, done.run_id)
    if (rejected := by_kind.get(EventKind.REJECTED)) is not None:
        return WeekResult(week.key, "rejected", model.version, rejected.reason, done.run_id)
    deployed = by_kind.get(EventKind.CANARY_STARTED) or by_kind.get(EventKind.PROMOTED)
    if deployed is not None:
        reason = deployed.evidence.get("plan", {}).get("in_words") or deployed.reason
        return WeekResult(week.key, "deployed", model.version, reason, done.run_id)
    kept = "staged" if model.status is Status.STAGING else "registered, not deployed"
    reason = f"passed validation; {kept}: {retrain.why_not_deployed(platform, week) or 'nothing asked for it'}"
    return WeekResult(week.key, "trained", model.version, reason, done.run_id)


def _failure(done: dg.ExecuteInProcessResult) -> str:
    """The innermost error of the step that failed, in one line."""
    for event in done.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and error.cause is not None:
                error = error.cause
            if error is not None:
                return f"{event.step_key}: {' '.join(error.message.split())}"
    return "the run failed before a step began"
