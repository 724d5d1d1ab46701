"""The persisted state of a canary's trial and of the watch on production.

Holds the SQL on `canary_state` and `monitor_state`; does not hold what the state means (`core/canary.py`).
Cursor and evidence are written together, in the caller's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from retrain_assets.store.database import insert_new
from retrain_assets.store.decisions import Cursor
from retrain_assets.store.tables import canary_state, monitor_state


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One canary's trial: where the reader stands and what is known."""

    rollout_id: str
    version: str
    started_at: datetime
    cursor: Cursor
    state: dict[str, Any]
    last_verdict: str | None
    is_open: bool
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """The watch on one production version since one change of traffic."""

    version: str
    epoch: int
    cursor: Cursor
    state: dict[str, Any]
    updated_at: datetime


def start(connection: Connection, trial: Trial) -> None:
    """Add a trial."""
    connection.execute(canary_state.insert().values(rollout_id=trial.rollout_id, **_columns(trial)))


def get(connection: Connection, rollout_id: str) -> Trial | None:
    """A trial by its rollout."""
    row = connection.execute(select(canary_state).where(canary_state.c.rollout_id == rollout_id)).one_or_none()
    if row is None:
        return None
    values = dict(row._mapping)  # noqa: SLF001  (SQLAlchemy's documented way to a row's names)
    cursor = Cursor(values.pop("cursor_at"), values.pop("cursor_id"))
    return Trial(cursor=cursor, **values)


def save(connection: Connection, trial: Trial, now: datetime) -> None:
    """Write a trial's state and cursor."""
    changed = replace(trial, updated_at=now)
    statement = update(canary_state).where(canary_state.c.rollout_id == trial.rollout_id)
    connection.execute(statement.values(_columns(changed)))


def close(connection: Connection, rollout_id: str, verdict: str, now: datetime) -> None:
    """End a trial."""
    statement = update(canary_state).where(canary_state.c.rollout_id == rollout_id)
    connection.execute(statement.values(is_open=False, last_verdict=verdict, updated_at=now))


def get_monitor(connection: Connection, version: str, epoch: int) -> Monitor | None:
    """The watch on a production version."""
    where = (monitor_state.c.version == version, monitor_state.c.epoch == epoch)
    row = connection.execute(select(monitor_state).where(*where)).one_or_none()
    return None if row is None else _monitor(row)


def newest_monitor(connection: Connection, version: str) -> Monitor | None:
    """The watch on a version since it last began to serve."""
    query = select(monitor_state).where(monitor_state.c.version == version).order_by(monitor_state.c.epoch.desc())
    row = connection.execute(query.limit(1)).one_or_none()
    return None if row is None else _monitor(row)


def save_monitor(connection: Connection, monitor: Monitor, now: datetime) -> None:
    """Write the watch's state and cursor, adding it when it is new."""
    key = {"version": monitor.version, "epoch": monitor.epoch}
    values = {
        "cursor_at": monitor.cursor.at,
        "cursor_id": monitor.cursor.decision_id,
        "state": monitor.state,
        "updated_at": now,
    }
    connection.execute(insert_new(connection, monitor_state, list(key)), [key | values])
    where = (monitor_state.c.version == monitor.version, monitor_state.c.epoch == monitor.epoch)
    connection.execute(update(monitor_state).where(*where).values(values))


def _monitor(row: Row[Any]) -> Monitor:
    values = dict(row._mapping)  # noqa: SLF001  (see `get`)
    cursor = Cursor(values.pop("cursor_at"), values.pop("cursor_id"))
    return Monitor(cursor=cursor, **values)


def _columns(trial: Trial) -> dict[str, Any]:
    return {
        "version": trial.version,
        "started_at": trial.started_at,
        "cursor_at": trial.cursor.at,
        "cursor_id": trial.cursor.decision_id,
        "state": trial.state,
        "last_verdict": trial.last_verdict,
        "is_open": trial.is_open,
        "updated_at": trial.updated_at,
    }
