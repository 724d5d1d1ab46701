"""Versions, route, events: what served when, and why.

Holds the SQL on `model_versions`, `route`, `deployment_events` and `model_metrics`; does not hold the
rules (`core/deployment.py`) or the operations that string these writes together (`operations/deploy.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update
from sqlalchemy.exc import IntegrityError

from retrain_assets.core.deployment import SILENT, Event, EventKind, ModelVersion, Status, check_transition
from retrain_assets.core.routing import Route
from retrain_assets.errors import TransitionRefused
from retrain_assets.store import outbox
from retrain_assets.store.tables import deployment_events, model_metrics, model_versions, route


def get_route(connection: Connection, *, is_locked: bool = False) -> Route:
    """The one row that says which versions serve; `is_locked` holds it until the transaction ends."""
    query = select(route).with_for_update() if is_locked else select(route)
    row = connection.execute(query).one()
    return Route(**{name: value for name, value in row._mapping.items() if name != "id"})  # noqa: SLF001


def set_route(connection: Connection, expected: Route, new: Route) -> Route:
    """Change the route if nobody else did since `expected` was read; the epoch rises by one.

    Raises
    ------
    TransitionRefused
        Another actor changed traffic first.
    """
    changed = replace(new, epoch=expected.epoch + 1)
    result = connection.execute(update(route).where(route.c.epoch == expected.epoch).values(asdict(changed)))
    if result.rowcount != 1:
        raise TransitionRefused(f"traffic was changed by somebody else since epoch {expected.epoch}; look again")
    return changed


def renew_lease(connection: Connection, until: datetime) -> None:
    """Promise to watch the canary until then; traffic and epoch stay."""
    connection.execute(update(route).values(lease_until=until))


def insert_version(connection: Connection, model: ModelVersion) -> None:
    """Add a version.

    Raises
    ------
    TransitionRefused
        The number or the training is already registered.
    """
    try:
        connection.execute(model_versions.insert().values(asdict(model)))
    except IntegrityError:
        raise TransitionRefused(f"{model.version} was registered by somebody else first; run again") from None


def get_version(connection: Connection, version: str) -> ModelVersion | None:
    """One version by its number."""
    row = connection.execute(select(model_versions).where(model_versions.c.version == version)).one_or_none()
    return None if row is None else _model(row)


def versions(connection: Connection, status: Status | None = None) -> list[ModelVersion]:
    """All versions, oldest first."""
    query = select(model_versions).order_by(model_versions.c.created_at, model_versions.c.version)
    if status is not None:
        query = query.where(model_versions.c.status == status)
    return [_model(row) for row in connection.execute(query)]


def newest_of_week(connection: Connection, week: str) -> ModelVersion | None:
    """The version registered last for a week."""
    query = select(model_versions).where(model_versions.c.week == week)
    row = connection.execute(query.order_by(model_versions.c.created_at.desc()).limit(1)).one_or_none()
    return None if row is None else _model(row)


def by_training(connection: Connection, training_id: str) -> ModelVersion | None:
    """The version that a training became."""
    row = connection.execute(select(model_versions).where(model_versions.c.training_id == training_id)).one_or_none()
    return None if row is None else _model(row)


def set_report(connection: Connection, version: str, report: dict[str, Any]) -> None:
    """Keep the validation report of a version."""
    connection.execute(update(model_versions).where(model_versions.c.version == version).values(report=report))


def move(connection: Connection, version: str, current: Status, target: Status) -> None:
    """Compare and set: `version` becomes `target` if it still is `current`.

    Raises
    ------
    TransitionRefused
        The table of transitions forbids it, or another actor was faster.
    """
    check_transition(version, current, target)
    statement = update(model_versions).where(
        model_versions.c.version == version, model_versions.c.status == current.value
    )
    try:
        changed = connection.execute(statement.values(status=target.value)).rowcount
    except IntegrityError:
        raise TransitionRefused(f"{version} cannot become {target}: another version already is") from None
    if changed != 1:
        found = get_version(connection, version)
        now = found.status if found else "not registered"
        raise TransitionRefused(f"{version} is {now}, not {current}: somebody else was faster")


def record(connection: Connection, event: Event) -> Event:
    """Append to the audit log and, unless the event is silent, to the outbox; returns it with its `seq`."""
    values = {name: value for name, value in asdict(event).items() if name != "seq"}
    seq = connection.execute(deployment_events.insert().values(values).returning(deployment_events.c.seq)).scalar_one()
    stored = replace(event, seq=seq)
    if event.kind not in SILENT:
        outbox.put(connection, stored)
    return stored


def events(
    connection: Connection,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    kinds: Sequence[EventKind] = (),
    run_id: str | None = None,
    last: int | None = None,
) -> list[Event]:
    """The audit log in order, newest `last` only when given."""
    query = select(deployment_events).order_by(deployment_events.c.seq.desc())
    if since is not None:
        query = query.where(deployment_events.c.at >= since)
    if until is not None:
        query = query.where(deployment_events.c.at <= until)
    if kinds:
        query = query.where(deployment_events.c.kind.in_([kind.value for kind in kinds]))
    if run_id is not None:
        query = query.where(deployment_events.c.run_id == run_id)
    if last is not None:
        query = query.limit(last)
    return [_event(row) for row in connection.execute(query)][::-1]


def serving_since(connection: Connection, version: str) -> tuple[int, datetime] | None:
    """Epoch and instant at which a version last began to serve as production."""
    query = (
        select(deployment_events.c.epoch, deployment_events.c.at)
        .where(
            deployment_events.c.kind.in_([EventKind.PROMOTED.value, EventKind.RESTORED.value]),
            deployment_events.c.version == version,
        )
        .order_by(deployment_events.c.seq.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else (row.epoch, row.at)


def add_metrics(
    connection: Connection,
    version: str,
    metrics: dict[str, Any],
    at: datetime,
    *,
    action: str | None = None,
    window: str | None = None,
) -> None:
    """Keep reported metrics of a version."""
    values = {"version": version, "action": action, "window": window, "metrics": metrics, "at": at}
    connection.execute(model_metrics.insert().values(values))


def newest_metrics(connection: Connection, version: str) -> dict[str, Any] | None:
    """The metrics reported last for a version over all actions."""
    query = select(model_metrics.c.metrics).where(model_metrics.c.version == version, model_metrics.c.action.is_(None))
    return connection.execute(query.order_by(model_metrics.c.id.desc()).limit(1)).scalar()


def _model(row: Row[Any]) -> ModelVersion:
    values = dict(row._mapping)  # noqa: SLF001  (SQLAlchemy's documented way to a row's names)
    return ModelVersion(**values | {"status": Status(values["status"])})


def _event(row: Row[Any]) -> Event:
    values = dict(row._mapping)  # noqa: SLF001  (see `_model`)
    statuses = {name: None if values[name] is None else Status(values[name]) for name in ("from_status", "to_status")}
    return Event(**values | statuses | {"kind": EventKind(values["kind"])})
