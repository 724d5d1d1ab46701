"""The watch: one tick reads what matured, weighs it, and acts, all in one transaction.

Holds `tick`, called alike by the Dagster sensor and the demonstration; does not hold statistics
(`core/canary.py`), the trial's rules (`core/promotion.py`) or the changes of traffic (`operations/deploy.py`).
Running it twice, concurrently, or dying half-way changes nothing: cursor, evidence, status, route, event
and outbox are written together or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from retrain_assets.core.canary import Verdict
from retrain_assets.core.canary_math import wilson_bounds
from retrain_assets.core.deployment import Event, EventKind, Status
from retrain_assets.core.monitor import ALARM_EVENTS, Alarm, ProductionWatch
from retrain_assets.core.promotion import Advance, Move, TaskResult, TrialState, advance
from retrain_assets.core.routing import Route
from retrain_assets.errors import NothingToRollBackTo
from retrain_assets.operations import csv_outcomes, deploy
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform
from retrain_assets.store import decisions, registry, trials

READ_LIMIT = 10_000
"""Matured tasks of one read; a tick reads again until it has caught up."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What one tick found and did."""

    tasks: int = 0
    verdict: Verdict | None = None
    events: tuple[Event, ...] = ()
    monitored: int = 0
    alarms: tuple[Alarm, ...] = field(default_factory=tuple)


def tick(platform: Platform, actor: str = "watch") -> Tick:
    """Weigh everything that matured since the last tick, and act on it.

    Parameters
    ----------
    platform : Platform
    actor : str
        Who watches, for the audit log.

    Raises
    ------
    StoreUnavailable
        The database, or the file of `storage.outcomes: csv`, is away; nothing changed, and the lease of the canary
        runs out by itself.
    """
    csv_outcomes.absorb(platform)
    with platform.database.read() as connection:
        is_idle = _is_idle(platform, connection)
    if is_idle:
        return Tick()
    with platform.database.write() as connection:
        route = deploy.locked_route(connection)
        found = _watch_canary(platform, connection, route, actor) if route.canary_version else Tick()
        route = deploy.locked_route(connection)
        return _watch_production(platform, connection, route, actor, found)


def _is_idle(platform: Platform, connection: Connection) -> bool:
    """Whether nothing is on trial and nothing new matured: then the tick costs two reads and no write."""
    route = registry.get_route(connection)
    if route.production_version is None:
        return True
    if route.canary_version is not None:
        return False
    since = registry.serving_since(connection, route.production_version)
    monitor = trials.get_monitor(connection, route.production_version, since[0]) if since else None
    if monitor is None:
        return False
    new = decisions.matured(connection, monitor.cursor, platform.now(), version=route.production_version, limit=1)
    return not new


def _watch_canary(platform: Platform, connection: Connection, route: Route, actor: str) -> Tick:
    trial = trials.get(connection, str(route.rollout_id))
    if trial is None:
        cause = Cause(actor, "its trial's evidence is missing from the database")
        return Tick(events=(deploy.end_canary(platform, connection, route, Status.NOT_PROMOTED, cause),))
    now = platform.now()
    rows = _read(connection, trial.cursor, now, rollout_id=trial.rollout_id)
    state = TrialState.from_dict(trial.state)
    step = advance(state, [_task(row) for row in rows], now)
    if route.paused and step.move is Move.NEXT_STEP:
        # Traffic stays where it is, so the trial's own clock and step must not run ahead of it.
        stands = replace(
            step.state,
            step=state.step,
            step_started_at=state.step_started_at,
            frozen_hours=state.frozen_hours,
            look=state.look,
        )
        step = replace(step, state=stands, move=Move.NONE)
    saved = replace(
        trial,
        state=step.state.to_dict(),
        cursor=_after(trial.cursor, rows),
        last_verdict=step.verdict.kind.value,
    )
    trials.save(connection, saved, now)
    until = now + timedelta(seconds=platform.config.canary.lease_seconds)
    registry.renew_lease(connection, until)
    route = replace(route, lease_until=until)  # a step of the ramp writes the whole row
    events = _act(platform, connection, route, step, actor)
    return Tick(tasks=len(rows), verdict=step.verdict, events=events)


_NOTED = {
    Move.HOLD: EventKind.CANARY_HELD,
    Move.RESUME: EventKind.CANARY_RESUMED,
    Move.EXTEND: EventKind.CANARY_EXTENDED,
    Move.INCIDENT: EventKind.ENVIRONMENT_INCIDENT,
    Move.RECOVER: EventKind.ENVIRONMENT_RECOVERED,
}


def _act(platform: Platform, connection: Connection, route: Route, step: Advance, actor: str) -> tuple[Event, ...]:
    verdict, version = step.verdict, str(route.canary_version)
    evidence = trial_evidence(step.state, verdict)
    cause = Cause(actor, verdict.reason, evidence=evidence)
    match step.move:
        case Move.NONE:
            return ()
        case Move.ROLL_BACK if not platform.config.rollback.auto_rollback:
            return _page_once(connection, platform, EventKind.PERFORMANCE_DEGRADATION, cause, version)
        case Move.ROLL_BACK:
            return (deploy.end_canary(platform, connection, route, Status.ROLLED_BACK, cause),)
        case Move.GIVE_UP:
            return (deploy.end_canary(platform, connection, route, Status.NOT_PROMOTED, cause),)
        case Move.PROMOTE | Move.NEXT_STEP if route.paused:
            return ()
        case Move.PROMOTE:
            weak = {"weak": verdict.weak}
            return (
                deploy.promote_within(platform, connection, route, version, replace(cause, evidence=evidence | weak)),
            )
        case Move.NEXT_STEP:
            share = step.state.steps[step.state.step]
            return (deploy.next_step(platform, connection, route, share, cause),)
    return (deploy.record_event(platform, connection, _NOTED[step.move], cause, version=version, share=route.share),)


def trial_evidence(state: TrialState, verdict: Verdict) -> dict[str, Any]:
    """All numbers of a verdict with the course that led to it, for the audit log and the pictures."""
    return {
        **verdict.evidence,
        "verdict": verdict.kind.value,
        "tally": {name: getattr(state.tally, name) for name in type(state.tally).__slots__},
        "step": state.step,
        "look": state.look,
        "trace": [list(point) for point in state.trace],
    }


def _watch_production(platform: Platform, connection: Connection, route: Route, actor: str, found: Tick) -> Tick:
    version = route.production_version
    if version is None:
        return found
    now = platform.now()
    epoch, since = registry.serving_since(connection, version) or (route.epoch, now)
    monitor = trials.get_monitor(connection, version, epoch) or _fresh_monitor(platform, version, epoch, since)
    rows = _read(connection, monitor.cursor, now, version=version)
    watch, alarms = ProductionWatch.from_dict(monitor.state).update([_task(row) for row in rows])
    saved = replace(monitor, state=watch.to_dict(), cursor=_after(monitor.cursor, rows))
    trials.save_monitor(connection, saved, now)
    raised = {alarm.metric for alarm in alarms}
    standing = [alarm for alarm in watch.pending() if alarm.metric not in raised] if rows else []
    events = _answer(platform, connection, route, actor, alarms=alarms, standing=standing) if alarms or standing else ()
    return replace(found, monitored=len(rows), alarms=tuple(alarms), events=(*found.events, *events))


def _answer(
    platform: Platform,
    connection: Connection,
    route: Route,
    actor: str,
    *,
    alarms: Sequence[Alarm],
    standing: Sequence[Alarm],
) -> tuple[Event, ...]:
    """Page for each alarm once; then go back to the last good version, unless the world itself is at fault.

    `standing` alarms were paged before without a rollback: they are weighed again at every tick, since the canary
    may have shown since then that the limit can be met, or its trial may be over.
    """
    version = str(route.production_version)
    both = [*alarms, *standing]
    shared = {alarm.metric for alarm in both if _canary_misses(connection, route, alarm)}
    events = [
        deploy.record_event(
            platform, connection, ALARM_EVENTS[alarm.metric], _alarm_cause(alarm, actor, shared), version=version
        )
        for alarm in alarms
    ]
    own = [alarm for alarm in both if alarm.metric not in shared]
    if not own or not platform.config.rollback.auto_rollback:
        return tuple(events)
    evidence = {"alarms": [alarm.to_dict() for alarm in own]}
    cause = Cause(actor, "; ".join(alarm.sentence for alarm in own), evidence=evidence)
    try:
        target = deploy.find_target(platform, connection, route)
    except NothingToRollBackTo as error:
        if not alarms:  # told when the alarm was raised
            return tuple(events)
        kept = replace(cause, reason=f"{cause.reason}; {error}")
        kind = EventKind.ROLLBACK_IMPOSSIBLE
        return (*events, deploy.record_event(platform, connection, kind, kept, version=version))
    return (*events, deploy.roll_back_within(platform, connection, route, target, cause))


def _alarm_cause(alarm: Alarm, actor: str, shared: set[str]) -> Cause:
    reason = alarm.sentence
    if alarm.metric in shared:
        reason += "; the canary on trial is not shown to meet it either, so the times may be to blame: no rollback"
    return Cause(actor, reason, evidence=alarm.to_dict())


def _canary_misses(connection: Connection, route: Route, alarm: Alarm) -> bool:
    """Whether another model, on trial at the same time, is not shown to meet the limit either.

    It is the only thing that can tell a bad model from bad times; without a trial nothing can.
    """
    trial = trials.get(connection, route.rollout_id) if route.rollout_id else None
    if trial is None or not trial.is_open:
        return False
    recent = TrialState.from_dict(trial.state).recent_canary
    return wilson_bounds(len(recent), sum(task[alarm.metric] for task in recent))[0] < alarm.limit


def _fresh_monitor(platform: Platform, version: str, epoch: int, since: datetime) -> trials.Monitor:
    """A watch that begins when the version began to serve: it must not judge what another one did."""
    limits = platform.config.rollback.thresholds
    watch = ProductionWatch.start(
        min_success_rate=limits.min_success_rate,
        max_error_rate=limits.max_error_rate,
        max_response_time_ms=limits.max_response_time_ms,
        block_tasks=platform.config.canary.block_tasks,
    )
    return trials.Monitor(
        version=version, epoch=epoch, cursor=decisions.Cursor(since), state=watch.to_dict(), updated_at=since
    )


def _read(
    connection: Connection,
    cursor: decisions.Cursor,
    until: datetime,
    *,
    rollout_id: str | None = None,
    version: str | None = None,
) -> list[decisions.Matured]:
    rows: list[decisions.Matured] = []
    while True:
        part = decisions.matured(connection, cursor, until, rollout_id=rollout_id, version=version, limit=READ_LIMIT)
        rows.extend(part)
        if len(part) < READ_LIMIT:
            return rows
        cursor = _after(cursor, part)


def _after(cursor: decisions.Cursor, rows: Sequence[decisions.Matured]) -> decisions.Cursor:
    return decisions.Cursor(rows[-1].deadline_at, rows[-1].decision_id) if rows else cursor


def _task(row: decisions.Matured) -> TaskResult:
    return TaskResult(
        stratum=row.stratum,
        assigned_arm=row.assigned_arm,
        arm=row.arm,
        share=row.share,
        latency_ms=row.latency_ms,
        result=row.result,
        matured_at=row.deadline_at,
    )


def _page_once(
    connection: Connection, platform: Platform, kind: EventKind, cause: Cause, version: str
) -> tuple[Event, ...]:
    """With `auto_rollback: false` harm is told once, and acting is left to people."""
    told = any(event.version == version for event in registry.events(connection, kinds=(kind,)))
    return () if told else (deploy.record_event(platform, connection, kind, cause, version=version),)
