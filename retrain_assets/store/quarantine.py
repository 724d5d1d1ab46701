"""Rows that were refused: kept as they came, with the field and the reason, until somebody mends them.

Holds the SQL on `quarantine`, and on `outcomes` what tells whether a row was sent again; does not hold the check that
refuses (`core/outcomes.py`), how a row becomes text (`store/payloads.py`) or what may be done with refused rows
(`operations/quarantine.py`). No row is ever deleted: one that was mended names the outcome that it became, one that
was put aside says why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, case, func, select, true

from retrain_assets.errors import SchemaError
from retrain_assets.store import payloads
from retrain_assets.store.database import insert_new
from retrain_assets.store.payloads import Payload
from retrain_assets.store.tables import outcomes, quarantine

MAX_REASON = 1_000
"""Characters of a reason that are kept; a reason may quote the value that it refuses."""

COLLECTOR = "collector"
"""The source of rows that workers hand in; any other is a file's name, or what its import called it."""

DISMISSED = "dismissed: "
"""`resolved_as` of a row that was put aside begins so and goes on with the reason; else it is an outcome's id."""

MAX_RESOLVED_AS = 200
CHUNK = 1_000
"""Ids of one statement; SQLite binds 32,766 values at most."""


@dataclass(frozen=True, slots=True)
class Refused:
    """One refused row.

    Attributes
    ----------
    id : int
    received_at : datetime
        When it came first.
    source, field, reason : str
    payload : Payload
    resolved_at : datetime or None
        None as long as nobody has mended it or put it aside.
    resolved_as : str or None
        The outcome that it became, or `DISMISSED` and why.
    """

    id: int
    received_at: datetime
    source: str
    field: str
    reason: str
    payload: Payload
    resolved_at: datetime | None = None
    resolved_as: str | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which refused rows are meant; every part narrows it.

    Attributes
    ----------
    source, field : str or None
    ids : tuple of int or None
    since : datetime or None
        Refused at or after this instant.
    is_all : bool
        Also those that are mended or put aside.
    """

    source: str | None = None
    field: str | None = None
    ids: tuple[int, ...] | None = None
    since: datetime | None = None
    is_all: bool = False

    def parts(self) -> Iterator[Selection]:
        """The same in parts that one statement can name, in order of id."""
        if self.ids is None:
            yield self
            return
        ids = sorted(set(self.ids))
        for start in range(0, len(ids), CHUNK):
            yield replace(self, ids=tuple(ids[start : start + CHUNK]))


@dataclass(frozen=True, slots=True)
class Totals:
    """How many rows wait, became outcomes, were put aside."""

    unresolved: int
    resolved: int
    dismissed: int


@dataclass(frozen=True, slots=True)
class Group:
    """Rows with the same field and the same reason, word for word."""

    field: str
    reason: str
    rows: int
    first_id: int
    first_at: datetime
    last_at: datetime


def refuse(connection: Connection, raw: Mapping[str, Any], error: SchemaError, now: datetime, source: str) -> None:
    """Keep a raw outcome that does not fit, with the reason and the field; the same one twice is one row."""
    refuse_all(connection, [(raw, error)], now, source)


def refuse_all(
    connection: Connection, refused: Sequence[tuple[Mapping[str, Any], SchemaError]], now: datetime, source: str
) -> None:
    """`refuse` for many rows of one source in one statement: six times as fast as one by one."""
    if refused:
        values = [_values(raw, error, now, source) for raw, error in refused]
        if connection.dialect.name == "postgresql":  # or two who refuse the same rows wait for each other
            values.sort(key=itemgetter("payload_hash"))
        connection.execute(insert_new(connection, quarantine, ["payload_hash"]), values)


def _values(raw: Mapping[str, Any], error: SchemaError, now: datetime, source: str) -> dict[str, Any]:
    text = payloads.encode(raw)
    content = hashlib.sha256(f"{source}\x1f{text}\x1f{error}".encode(errors="replace")).hexdigest()
    return {
        "received_at": now,
        "source": writable(source),
        "payload": payloads.shortened(text),
        "payload_hash": content,
        "reason": writable(error.message),
        "field": writable(error.field),
    }


def totals(connection: Connection) -> Totals:
    """Count every row there is."""
    is_open = quarantine.c.resolved_at.is_(None)
    is_dismissed = quarantine.c.resolved_as.startswith(DISMISSED, autoescape=True)
    kind = case((is_open, "unresolved"), (is_dismissed, "dismissed"), else_="resolved")
    counts = {row[0]: row[1] for row in connection.execute(select(kind, func.count()).group_by(kind))}
    return Totals(**{name: counts.get(name, 0) for name in ("unresolved", "resolved", "dismissed")})


def count(connection: Connection, selection: Selection) -> int:
    """How many rows are meant."""
    query = select(func.count()).select_from(quarantine)
    return sum(connection.execute(query.where(_where(part))).scalar_one() for part in selection.parts())


def groups(connection: Connection, selection: Selection) -> Iterator[Group]:
    """Rows by field and reason, word for word; `ids` of the selection are not looked at."""
    table = quarantine.c
    query = select(
        table.field,
        table.reason,
        func.count(),
        func.min(table.id),
        func.min(table.received_at),
        func.max(table.received_at),
    ).where(_where(replace(selection, ids=None)))
    for row in connection.execute(query.group_by(table.field, table.reason)):
        yield Group(*row)


def rows(
    connection: Connection, selection: Selection, *, after: int = 0, limit: int = CHUNK, is_locking: bool = False
) -> list[Refused]:
    """The next rows by id.

    Parameters
    ----------
    connection : Connection
    selection : Selection
        With at most `CHUNK` ids; see `Selection.parts`.
    after : int
        Only ids above it.
    limit : int
    is_locking : bool
        Keep others from resolving them until the transaction ends. On SQLite a writing transaction does so by itself.
    """
    query = select(quarantine).where(_where(selection), quarantine.c.id > after).order_by(quarantine.c.id).limit(limit)
    return [_refused(row) for row in connection.execute(query.with_for_update() if is_locking else query)]


def newest(connection: Connection, selection: Selection, limit: int) -> list[Refused]:
    """The newest rows, newest first; `selection` has at most `CHUNK` ids."""
    query = select(quarantine).where(_where(selection)).order_by(quarantine.c.id.desc()).limit(limit)
    return [_refused(row) for row in connection.execute(query)]


def resolve(connection: Connection, resolved: Mapping[int, str], now: datetime) -> None:
    """Mark rows that wait: each id with the outcome that it became, or `DISMISSED` and why."""
    if not resolved:
        return
    table = quarantine.c
    statement = quarantine.update().where(table.id == bindparam("row_id"), table.resolved_at.is_(None))
    marks = {"resolved_at": now, "resolved_as": bindparam("mark")}
    values = [{"row_id": row_id, "mark": mark[:MAX_RESOLVED_AS]} for row_id, mark in resolved.items()]
    connection.execute(statement.values(marks), values)


def give_reason(connection: Connection, reasons: Mapping[int, SchemaError]) -> None:
    """Note why rows that stay are refused now."""
    if not reasons:
        return
    statement = quarantine.update().where(quarantine.c.id == bindparam("row_id"))
    values = [
        {"row_id": row_id, "new_field": writable(error.field), "new_reason": writable(error.message)}
        for row_id, error in reasons.items()
    ]
    connection.execute(statement.values(field=bindparam("new_field"), reason=bindparam("new_reason")), values)


def dismiss(connection: Connection, selection: Selection, why: str, now: datetime) -> int:
    """Put rows that wait aside, with the reason; returns how many. `selection` has at most `CHUNK` ids."""
    mark = (DISMISSED + writable(why))[:MAX_RESOLVED_AS]
    statement = quarantine.update().where(_where(replace(selection, is_all=False)))
    return connection.execute(statement.values(resolved_at=now, resolved_as=mark)).rowcount


def stored_reason(error: SchemaError) -> tuple[str, str]:
    """Field and reason of an error as they are kept."""
    return writable(error.field), writable(error.message)


def by_id(connection: Connection, ids: Sequence[int]) -> dict[int, Refused]:
    """Single rows by id."""
    query = select(quarantine).where(quarantine.c.id.in_(ids))
    return {row.id: _refused(row) for row in connection.execute(query)}


def later_outcomes(connection: Connection, task_ids: Iterable[str]) -> dict[tuple[str, int], datetime]:
    """When the last outcome of each attempt of some tasks came, those aside that refused rows became."""
    table, last = outcomes.c, func.max(outcomes.c.received_at)
    mended = select(quarantine.c.resolved_as).where(quarantine.c.resolved_as == table.outcome_id).exists()
    wanted, found = sorted(task_ids), {}
    for start in range(0, len(wanted), CHUNK):
        query = select(table.task_id, table.attempt, last).where(
            table.task_id.in_(wanted[start : start + CHUNK]), ~mended
        )
        for task_id, attempt, received_at in connection.execute(query.group_by(table.task_id, table.attempt)):
            found[task_id, attempt] = received_at
    return found


def _where(selection: Selection) -> ColumnElement[bool]:
    table = quarantine.c
    wanted: list[ColumnElement[bool]] = [true()]
    if not selection.is_all:
        wanted.append(table.resolved_at.is_(None))
    if selection.source is not None:
        wanted.append(table.source == selection.source)
    if selection.field is not None:
        wanted.append(table.field == selection.field)
    if selection.since is not None:
        wanted.append(table.received_at >= selection.since)
    if selection.ids is not None:
        wanted.append(table.id.in_(selection.ids))
    return and_(*wanted)


def _refused(row: Row[Any]) -> Refused:
    return Refused(
        id=row.id,
        received_at=row.received_at,
        source=row.source,
        field=row.field,
        reason=row.reason,
        payload=payloads.decode(row.payload),
        resolved_at=row.resolved_at,
        resolved_as=row.resolved_as,
    )


def writable(text: str) -> str:
    """Text that every database takes, and not more of it than a reason needs."""
    return text[:MAX_REASON].replace("\x00", "\\u0000").encode(errors="replace").decode()
