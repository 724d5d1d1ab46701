"""Notifications to be sent: put in with the event's own transaction, claimed, delivered or tried again later.

Holds the SQL on `notification_outbox`; does not hold texts or channels (`notify/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, or_, select, update

from retrain_assets.core.deployment import Event
from retrain_assets.store.tables import notification_outbox

CLAIM = timedelta(minutes=2)
"""How long a deliverer has before another may take the message."""

FIRST_RETRY = timedelta(seconds=10)
LONGEST_RETRY = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Pending:
    """A message that was claimed for delivery."""

    id: int
    event: str
    payload: dict[str, Any]
    created_at: datetime
    attempts: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What still waits: how many messages, how often the worst of them failed, and an error of the last tries."""

    waiting: int
    attempts: int
    last_error: str | None


def put(connection: Connection, event: Event) -> None:
    """Queue a notification about `event`, in the event's transaction."""
    payload = {
        "seq": event.seq,
        "at": event.at.isoformat(),
        "actor": event.actor,
        "version": event.version,
        "from_status": event.from_status,
        "to_status": event.to_status,
        "share": event.share,
        "reason": event.reason,
        "evidence": event.evidence,
        "run_id": event.run_id,
        "epoch": event.epoch,
    }
    values = {"event": event.kind.value, "payload": payload, "created_at": event.at, "attempts": 0}
    connection.execute(notification_outbox.insert().values(values))


def claim(connection: Connection, now: datetime, limit: int = 50) -> list[Pending]:
    """Take messages that are due, so that no other deliverer takes them too."""
    table = notification_outbox
    is_due = or_(table.c.claimed_until.is_(None), table.c.claimed_until <= now)
    due = select(table).where(table.c.delivered_at.is_(None), is_due).order_by(table.c.id).limit(limit)
    rows = connection.execute(due.with_for_update(skip_locked=True)).all()
    if rows:
        connection.execute(
            update(table).where(table.c.id.in_([row.id for row in rows])).values(claimed_until=now + CLAIM)
        )
    return [Pending(row.id, row.event, row.payload, row.created_at, row.attempts) for row in rows]


def delivered(connection: Connection, message: Pending, now: datetime) -> None:
    """Note that every channel has it."""
    _update(connection, message, delivered_at=now, last_error=None)


def failed(connection: Connection, message: Pending, now: datetime, error: str) -> None:
    """Note a failed try; the next one waits twice as long as the last."""
    wait = min(FIRST_RETRY * 2 ** min(message.attempts, 12), LONGEST_RETRY)
    _update(connection, message, claimed_until=now + wait, last_error=error[:2_000])


def told(connection: Connection) -> list[str]:
    """The events that every channel has been told of, in order."""
    table = notification_outbox
    return list(
        connection.execute(
            select(table.c.event).where(table.c.delivered_at.is_not(None)).order_by(table.c.id)
        ).scalars()
    )


def backlog(connection: Connection) -> Backlog:
    """What was not delivered yet."""
    table = notification_outbox
    query = select(func.count(), func.max(table.c.attempts), func.max(table.c.last_error))
    waiting, attempts, error = connection.execute(query.where(table.c.delivered_at.is_(None))).one()
    return Backlog(waiting, attempts or 0, error)


def _update(connection: Connection, message: Pending, **values: Any) -> None:  # noqa: ANN401  (columns)
    table = notification_outbox
    statement = update(table).where(table.c.id == message.id)
    connection.execute(statement.values(attempts=message.attempts + 1, **values))
