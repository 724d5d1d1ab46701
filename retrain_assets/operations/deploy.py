"""Every change of what serves: register, reject, stage, start a canary, promote, roll back, pause.

Holds the operations; each is one transaction of status, route, event and outbox, by compare and set. Does
not hold the rules (`core/deployment.py`) or when to act (`operations/watch.py`, people). Rolling back
needs neither Dagster, pandas nor scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from retrain_assets.core.canary import CanaryPolicy, plan
from retrain_assets.core.deployment import (
    Event,
    EventKind,
    ModelVersion,
    Status,
    next_version,
    rollback_candidates,
)
from retrain_assets.core.features import FeatureSchema
from retrain_assets.core.promotion import TrialState
from retrain_assets.core.routing import Route
from retrain_assets.errors import ArtefactRefused, NothingToRollBackTo, TransitionRefused
from retrain_assets.operations.platform import Platform
from retrain_assets.serving.artefact import Artefact
from retrain_assets.serving.refresh import load_version
from retrain_assets.store import decisions, registry, trials

PLAN_WEEKS = 4
"""Weeks of past traffic from which a canary's plan takes its rates."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Who changes something, and why; every event carries it."""

    actor: str
    reason: str
    run_id: str | None = None
    evidence: Mapping[str, Any] | None = None


def register(platform: Platform, draft: ModelVersion, cause: Cause) -> ModelVersion:
    """Give a training its version number and status `registered`; the same training again keeps its version.

    Parameters
    ----------
    draft : ModelVersion
        Everything but the number, which is chosen here.
    """
    with platform.database.write() as connection:
        known = registry.by_training(connection, draft.training_id or "")
        if known is not None:
            return known
        existing = registry.versions(connection)
        newest = max(existing, key=lambda m: _numbers(m.version), default=None)
        version = next_version(
            [m.version for m in existing],
            base_schema=FeatureSchema.from_dict(newest.spec["schema"]) if newest else None,
            base_settings=_estimator(newest.spec) if newest else None,
            schema=FeatureSchema.from_dict(draft.spec["schema"]),
            settings=_estimator(draft.spec),
        )
        model = replace(draft, version=version, status=Status.REGISTERED)
        registry.insert_version(connection, model)
        _note(platform, connection, EventKind.REGISTERED, model, None, Status.REGISTERED, cause)
        return model


def reject(platform: Platform, model: ModelVersion, cause: Cause) -> Event:
    """Discard a version that failed its validation or its smoke test; it stays in the registry with the reason."""
    with platform.database.write() as connection:
        return reject_within(platform, connection, model, cause)


def reject_within(platform: Platform, connection: Connection, model: ModelVersion, cause: Cause) -> Event:
    """`reject` inside the caller's transaction."""
    registry.move(connection, model.version, model.status, Status.REJECTED)
    return _note(platform, connection, EventKind.REJECTED, model, model.status, Status.REJECTED, cause)


def stage(platform: Platform, model: ModelVersion, cause: Cause) -> Event:
    """Let a validated version wait for its smoke test and its trial."""
    with platform.database.write() as connection:
        registry.move(connection, model.version, model.status, Status.STAGING)
        return _note(platform, connection, EventKind.STAGED, model, model.status, Status.STAGING, cause)


def load_artefact(platform: Platform, model: ModelVersion) -> Artefact:
    """Load a version as an engine would: digests first, then the self-test.

    Raises
    ------
    ArtefactRefused
        The files are missing, changed, or give other scores than they should.
    """
    return load_version(platform.problem_home, model.version, model)


def start(platform: Platform, model: ModelVersion, cause: Cause, *, only_first: bool = False) -> Event:
    """Put a staged version on trial; or straight into production when nothing serves yet or canaries are off.

    Parameters
    ----------
    only_first : bool
        Refuse unless nothing serves yet: an older week may bootstrap, but never go on trial. Decided here, in the
        transaction, since two weeks may run side by side.

    Raises
    ------
    TransitionRefused
        Deployment is paused, or somebody else changed traffic first.
    """
    with platform.database.write() as connection:
        route = locked_route(connection)
        if route.paused:
            raise TransitionRefused(
                f"deployment is paused, {model.version} stays {model.status}; `retrain resume` ends it"
            )
        if route.production_version is None:
            first = replace(cause, reason=f"first version that passed validation; {cause.reason}")
            return _serve(platform, connection, route, model, first)
        if only_first:
            raise TransitionRefused(f"{model.version} is of an older week; {route.production_version} serves already")
        if not platform.config.canary.enabled:
            return _serve(platform, connection, route, model, replace(cause, reason=f"canary is off; {cause.reason}"))
        if route.canary_version is not None:
            route = _supersede(platform, connection, route, model.version, cause)
        return _start_trial(platform, connection, route, model, cause)


def promote(platform: Platform, version: str, cause: Cause) -> Event:
    """Let a canary, or a staged version, serve all tasks.

    Raises
    ------
    TransitionRefused
        The version is neither, or somebody else changed traffic first.
    ArtefactRefused
        Its artefact does not pass.
    """
    with platform.database.read() as connection:
        load_artefact(platform, _known(connection, version))
    with platform.database.write() as connection:
        route = locked_route(connection)
        return promote_within(platform, connection, route, version, cause)


def promote_within(platform: Platform, connection: Connection, route: Route, version: str, cause: Cause) -> Event:
    """`promote` inside the caller's transaction."""
    model = _known(connection, version)
    if model.status is Status.DEPRECATED:
        raise TransitionRefused(f"{version} served before; go back to it with `retrain rollback --to {version}`")
    if model.status not in {Status.CANARY, Status.STAGING}:
        raise TransitionRefused(f"{version} is {model.status}; a canary or a staged version can be promoted")
    if model.status is Status.STAGING and route.canary_version is not None:
        route = _supersede(platform, connection, route, version, cause)
    return _serve(platform, connection, route, model, cause)


def next_step(platform: Platform, connection: Connection, route: Route, share: float, cause: Cause) -> Event:
    """Raise the canary's share to the next step of its ramp."""
    model = _known(connection, str(route.canary_version))
    route = registry.set_route(connection, route, replace(route, share=share, step=route.step + 1))
    return _note(
        platform,
        connection,
        EventKind.CANARY_STEP,
        model,
        Status.CANARY,
        Status.CANARY,
        cause,
        route=route,
        share=share,
    )


def end_canary(platform: Platform, connection: Connection, route: Route, target: Status, cause: Cause) -> Event:
    """Take the canary out of traffic: `rolled_back`, `not_promoted` or `superseded`; production is untouched."""
    kinds = {
        Status.ROLLED_BACK: EventKind.ROLLED_BACK,
        Status.NOT_PROMOTED: EventKind.NOT_PROMOTED,
        Status.SUPERSEDED: EventKind.SUPERSEDED,
    }
    if route.canary_version is None:
        raise TransitionRefused("no canary is on trial")
    model = _known(connection, route.canary_version)
    registry.move(connection, model.version, Status.CANARY, target)
    if route.rollout_id:
        trials.close(connection, route.rollout_id, target.value, platform.now())
    route = registry.set_route(connection, route, _without_canary(route))
    return _note(platform, connection, kinds[target], model, Status.CANARY, target, cause, route=route, share=0.0)


def roll_back(platform: Platform, cause: Cause, *, version: str | None = None, to: str | None = None) -> Event:
    """Go back: from a canary to production alone, or from production to an earlier version.

    Parameters
    ----------
    version : str, optional
        The version to leave; default production. Refused when it does not serve any more.
    to : str, optional
        The version to go to; default the last one that served and was not itself rolled back.

    Raises
    ------
    TransitionRefused
        `version` does not serve, `to` never served or was itself rolled back.
    NothingToRollBackTo
        No earlier version is left whose artefact is intact; production stays.
    """
    with platform.database.read() as connection:
        route = registry.get_route(connection)
        if version is not None and version == route.canary_version:
            target = None
        else:
            _check_leaving(route, version)
            target = _intact_target(platform, connection, route, to)
    with platform.database.write() as connection:
        now_route = locked_route(connection)
        if now_route.epoch != route.epoch:
            raise TransitionRefused(f"traffic was changed by somebody else since epoch {route.epoch}; look again")
        if target is None:
            return end_canary(platform, connection, now_route, Status.ROLLED_BACK, cause)
        return roll_back_within(platform, connection, now_route, target, cause)


def canary_to_leave(platform: Platform, to: str | None) -> str | None:
    """The canary on trial, when a rollback that names no version to leave means it; None for production.

    What was deployed last is taken back first: without `to`, or with production as `to`, that is the canary.
    """
    with platform.database.read() as connection:
        route = registry.get_route(connection)
    return route.canary_version if to in {None, route.production_version} else None


def roll_back_within(
    platform: Platform, connection: Connection, route: Route, target: ModelVersion, cause: Cause
) -> Event:
    """Leave production for `target` inside the caller's transaction."""
    if route.canary_version is not None:
        ended = replace(cause, reason=f"production was rolled back under its trial; {cause.reason}")
        end_canary(platform, connection, route, Status.NOT_PROMOTED, ended)
        route = locked_route(connection)
    leaving = _known(connection, str(route.production_version))
    registry.move(connection, leaving.version, Status.PRODUCTION, Status.ROLLED_BACK)
    registry.move(connection, target.version, Status.DEPRECATED, Status.PRODUCTION)
    route = registry.set_route(connection, route, replace(route, production_version=target.version))
    event = _note(
        platform, connection, EventKind.ROLLED_BACK, leaving, Status.PRODUCTION, Status.ROLLED_BACK, cause, route=route
    )
    back = replace(cause, reason=f"serves again after the rollback of {leaving.version}")
    _note(platform, connection, EventKind.RESTORED, target, Status.DEPRECATED, Status.PRODUCTION, back, route=route)
    return event


def find_target(platform: Platform, connection: Connection, route: Route) -> ModelVersion:
    """The last version that served as production, was not itself rolled back and is intact.

    Raises
    ------
    NothingToRollBackTo
        There is none; says what was looked at.
    """
    statuses = {model.version: model.status for model in registry.versions(connection)}
    refused = []
    for candidate in rollback_candidates(registry.events(connection), statuses, route.production_version):
        model = _known(connection, candidate)
        try:
            load_artefact(platform, model)
        except ArtefactRefused as error:
            refused.append(str(error))
            continue
        return model
    looked = f" (looked at: {'; '.join(refused)})" if refused else ""
    raise NothingToRollBackTo(
        f"no earlier production version is left to go back to{looked}; {route.production_version} goes on serving"
    )


def pause(platform: Platform, cause: Cause, *, is_paused: bool) -> Event:
    """Stop or restart automatic deployment; rollback stays on.

    Raises
    ------
    TransitionRefused
        It already is so.
    """
    with platform.database.write() as connection:
        route = locked_route(connection)
        if route.paused == is_paused:
            raise TransitionRefused(f"deployment is already {'paused' if is_paused else 'running'}")
        route = registry.set_route(connection, route, replace(route, paused=is_paused))
        kind = EventKind.PAUSED if is_paused else EventKind.RESUMED
        return _note(platform, connection, kind, None, None, None, cause, route=route)


def note(platform: Platform, kind: EventKind, cause: Cause, version: str | None = None) -> Event:
    """Record an event that changes no traffic."""
    with platform.database.write() as connection:
        model = registry.get_version(connection, version) if version else None
        return _note(platform, connection, kind, model, None, None, cause)


def locked_route(connection: Connection) -> Route:
    """The route, held until the transaction ends: two actors take turns."""
    return registry.get_route(connection, is_locked=True)


def _serve(platform: Platform, connection: Connection, route: Route, model: ModelVersion, cause: Cause) -> Event:
    previous = route.production_version
    if previous is not None:
        registry.move(connection, previous, Status.PRODUCTION, Status.DEPRECATED)
    registry.move(connection, model.version, model.status, Status.PRODUCTION)
    if model.status is Status.CANARY and route.rollout_id:
        trials.close(connection, route.rollout_id, "PROMOTE", platform.now())
    changed = replace(_without_canary(route), production_version=model.version)
    route = registry.set_route(connection, route, changed)
    if previous is not None:
        after = replace(cause, reason=f"followed by {model.version}", evidence=None)
        old = _known(connection, previous)
        _note(platform, connection, EventKind.DEPRECATED, old, Status.PRODUCTION, Status.DEPRECATED, after, route=route)
    return _note(
        platform, connection, EventKind.PROMOTED, model, model.status, Status.PRODUCTION, cause, route=route, share=1.0
    )


def _supersede(platform: Platform, connection: Connection, route: Route, by: str, cause: Cause) -> Route:
    followed = replace(cause, reason=f"{by} took its place before the trial ended")
    end_canary(platform, connection, route, Status.SUPERSEDED, followed)
    return locked_route(connection)


def _start_trial(platform: Platform, connection: Connection, route: Route, model: ModelVersion, cause: Cause) -> Event:
    now, canary = platform.now(), platform.config.canary
    registry.move(connection, model.version, model.status, Status.CANARY)
    policy, planned = plan_trial(platform, connection, now)
    rollout_id = f"{model.version}-e{route.epoch + 1}"  # no chance in it: a replay assigns tasks alike
    state = TrialState.start(policy, canary.ramp, canary.duration_hours, now, planned)
    trials.start(
        connection,
        trials.Trial(
            rollout_id=rollout_id,
            version=model.version,
            started_at=now,
            cursor=decisions.Cursor(now),
            state=state.to_dict(),
            last_verdict=None,
            is_open=True,
            updated_at=now,
        ),
    )
    trial_route = replace(
        route,
        canary_version=model.version,
        share=canary.ramp[0],
        rollout_id=rollout_id,
        step=0,
        lease_until=now + timedelta(seconds=canary.lease_seconds),
    )
    route = registry.set_route(connection, route, trial_route)
    planned_cause = replace(cause, evidence={"plan": planned})
    return _note(
        platform,
        connection,
        EventKind.CANARY_STARTED,
        model,
        model.status,
        Status.CANARY,
        planned_cause,
        route=route,
        share=route.share,
    )


def plan_trial(platform: Platform, connection: Connection, now: datetime) -> tuple[CanaryPolicy, dict[str, Any]]:
    """The rule of a trial that would begin now, and what it can show."""
    config = platform.config
    canary = config.canary
    policy = CanaryPolicy(
        alpha=canary.alpha,
        margin=canary.margin,
        error_margin=canary.error_margin,
        min_canary_outcomes=canary.min_canary_outcomes,
        block_tasks=canary.block_tasks,
        max_missing_share=canary.max_missing_share,
        min_success_rate=canary.thresholds.min_success_rate,
        max_error_rate=canary.thresholds.max_error_rate,
        max_response_time_ms=canary.thresholds.max_response_time_ms,
        evidence=canary.evidence,
    )
    traffic = decisions.recent_traffic(connection, now - timedelta(weeks=PLAN_WEEKS), now)
    planned = plan(
        policy,
        tasks_per_hour=traffic.tasks_per_hour,
        share=canary.ramp[0],
        duration_hours=canary.duration_hours,
        success_rate=traffic.success_rate,
        error_rate=traffic.error_rate,
        maturity_hours=config.task_timeout.total_seconds() / 3600,
        steps=len(canary.ramp),
    )
    if traffic.tasks_per_hour:  # without past decisions the policy's own default stands
        policy = replace(policy, planned_ticks=planned.expected_blocks)
    return policy, {**planned.as_dict(), "in_words": planned.describe()}


def _intact_target(platform: Platform, connection: Connection, route: Route, to: str | None) -> ModelVersion:
    if to is None:
        return find_target(platform, connection, route)
    model = _known(connection, to)
    if to == route.production_version:
        raise TransitionRefused(f"{to} already serves")
    if model.status is not Status.DEPRECATED:
        raise TransitionRefused(
            f"{to} is {model.status}; only a version that served and was not rolled back can return"
        )
    load_artefact(platform, model)
    return model


def _check_leaving(route: Route, version: str | None) -> None:
    if route.production_version is None:
        raise NothingToRollBackTo("nothing serves yet, so there is nothing to roll back")
    if version is not None and version != route.production_version:
        raise TransitionRefused(f"{version} does not serve; production is {route.production_version}")


def _without_canary(route: Route) -> Route:
    return replace(route, canary_version=None, share=0.0, rollout_id=None, step=0, lease_until=None)


def _known(connection: Connection, version: str) -> ModelVersion:
    model = registry.get_version(connection, version)
    if model is None:
        raise TransitionRefused(f"{version} is not registered; `retrain models` lists the versions")
    return model


def _note(  # noqa: PLR0917  (an event's own columns)
    platform: Platform,
    connection: Connection,
    kind: EventKind,
    model: ModelVersion | None,
    from_status: Status | None,
    to_status: Status | None,
    cause: Cause,
    *,
    route: Route | None = None,
    share: float | None = None,
) -> Event:
    version = model.version if model else None
    epoch = route.epoch if route else None
    return record_event(
        platform, connection, kind, cause, version=version, change=(from_status, to_status), share=share, epoch=epoch
    )


def record_event(
    platform: Platform,
    connection: Connection,
    kind: EventKind,
    cause: Cause,
    *,
    version: str | None,
    change: tuple[Status | None, Status | None] = (None, None),
    share: float | None = None,
    epoch: int | None = None,
) -> Event:
    """Put an event, and the notification of it, into the caller's transaction."""
    event = Event(
        kind=kind,
        at=platform.now(),
        actor=cause.actor,
        reason=cause.reason,
        version=version,
        from_status=change[0],
        to_status=change[1],
        share=share,
        evidence=dict(cause.evidence or {}),
        run_id=cause.run_id,
        epoch=epoch,
    )
    return registry.record(connection, event)


def _estimator(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: spec.get(key) for key in ("estimator", "params", "mode")}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version[1:].split("."))
