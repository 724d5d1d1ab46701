"""One week's matured tasks as the database holds them: outcomes joined to decisions, in one order, as a stream.

Holds the two queries and their merge; does not hold which outcome belongs to a decision (`decisions.py`), nor what
the values mean (`week_columns.py`). Rows are plain tuples in the order of `NAMES`, with instants and JSON as the driver
gives them: a week has millions of them, and each microsecond spent on one is a second for a million.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    String,
    Text,
    bindparam,
    case,
    cast,
    collate,
    func,
    literal_column,
    null,
    select,
    text,
    type_coerce,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import ColumnElement

from retrain_assets.store.decisions import belongs_by_task, is_replaced, newest_outcome_seq
from retrain_assets.store.tables import decisions, outcomes

Row = tuple[Any, ...]

NAMES = (
    "matured_at",
    "named_id",  # the decision that is named, "" for none: second part of the order
    "told_id",  # the outcome's id, "" for none: third part of the order
    "seq",
    "task_id",
    "attempt",
    "decision_id",
    "domain",
    "decided_at",
    "occurred_at",
    "decided_action",
    "attempted_action",
    "result",
    "failure_reason",
    "execution_time_s",
    "propensity",
    "model_version",
    "arm",
    "stratum",
    "decided_features",
    "told_features",
    "replaces",
    "names_another",  # 1 where an outcome names a decision of another task
)

_ORDER = itemgetter(0, 1, 2)

FETCH = 1_000
"""Rows that a driver hands over at a time."""

_CACHE_KIB = 65_536
"""SQLite's page cache while a week is read; with its default of 2 MB most look-ups went to the file: half the speed."""


def stream(connection: Connection, start_at: datetime, end_at: datetime, last_seq: int) -> Generator[Row, None, None]:
    """One week's matured tasks in an order that is part of the snapshot's identity, in bounded memory.

    A decision belongs to the week of its deadline, with its newest outcome or none. An outcome without a decision
    belongs to the week in which it occurred. Order: maturity, the decision that is named, outcome id; text by its
    UTF-8 bytes, whatever the database's language.

    Parameters
    ----------
    connection : Connection
        In a reading transaction: both halves must see one state.
    start_at, end_at : datetime
        The week, `[start, end)`.
    last_seq : int
        Outcomes above it are left to a later snapshot.
    """
    queries = (_decided(connection, last_seq), _alone(connection, last_seq))
    times = {"start_at": start_at, "end_at": end_at}
    with _prepared(connection):
        halves = [_blocks(connection, query, times) for query in queries]
        try:
            for block in _merged(halves):
                yield from block
        finally:
            for half in halves:
                half.close()


def count(connection: Connection, start_at: datetime, end_at: datetime, last_seq: int) -> int:
    """How many rows `stream` would give."""
    return sum(1 for _ in stream(connection, start_at, end_at, last_seq))


def originals(connection: Connection, outcome_ids: Sequence[str]) -> dict[str, str]:
    """The outcome at the beginning of each correction's chain; one that corrects nothing known begins its own.

    A correction counts for what was stored before it: each step goes to a smaller `seq`, so that a circle ends.
    """
    found: dict[str, tuple[int, str]] = {}
    for start in range(0, len(outcome_ids), 500):
        given = {"ids": list(outcome_ids[start : start + 500])}
        for first, outcome_id, seq in connection.execute(_CHAIN, given):
            found[first] = min(found.get(first, (seq, outcome_id)), (seq, outcome_id))
    return {first: outcome_id for first, (_, outcome_id) in found.items()}


_CHAIN = text(
    """
    WITH RECURSIVE chain (first, outcome_id, replaces, seq) AS (
        SELECT outcome_id, outcome_id, replaces, seq FROM outcomes WHERE outcome_id IN :ids
        UNION ALL
        SELECT chain.first, older.outcome_id, older.replaces, older.seq
        FROM chain JOIN outcomes AS older ON older.outcome_id = chain.replaces AND older.seq < chain.seq
    )
    SELECT first, outcome_id, seq FROM chain
    """
).bindparams(bindparam("ids", expanding=True))


def _blocks(
    connection: Connection, query: Select[Any], times: Mapping[str, datetime]
) -> Generator[list[Row], None, None]:
    if connection.dialect.name == "sqlite":
        with connection.execute(query, times) as result, _as_of_sqlalchemy():
            cursor: Any = result.cursor
            while rows := cursor.fetchmany(FETCH):
                yield rows
        return
    options = {"stream_results": True, "yield_per": FETCH}
    with connection.execute(query, times, execution_options=options) as result:
        for part in result.partitions():
            # To the collector of garbage plain tuples of text and numbers are nothing; rows of SQLAlchemy are.
            yield list(map(tuple, part))


@contextmanager
def _as_of_sqlalchemy() -> Iterator[None]:
    """The driver's errors as `Database` translates them: SQLAlchemy's rows, a sixth of the time, are gone without."""
    try:
        yield
    except sqlite3.Error as error:
        raise DBAPIError(None, None, error) from error


def _merged(halves: Sequence[Iterator[list[Row]]]) -> Iterator[list[Row]]:
    """Two ordered streams of blocks as one; blocks are sorted, since a step of a heap for each row cost a microsecond.

    What both halves have shown up to the lesser of their last rows can be told; the rest waits for the next block.
    """
    waiting = [next(half, []) for half in halves]
    while all(waiting):
        until = min(_ORDER(rows[-1]) for rows in waiting)
        ready: list[Row] = []
        for place, rows in enumerate(waiting):
            cut = bisect_right(rows, until, key=_ORDER)
            ready += rows[:cut]
            waiting[place] = rows[cut:] or next(halves[place], [])
        ready.sort(key=_ORDER)  # two ordered runs, which are merged and not sorted anew
        yield ready
    for rows, half in zip(waiting, halves, strict=True):
        yield rows
        yield from half


@contextmanager
def _prepared(connection: Connection) -> Iterator[None]:
    """Settings for one long read: on SQLite given back at its end, on PostgreSQL with the transaction's."""
    if connection.dialect.name == "postgresql":
        # Row by row along the indexes. A hash join read all outcomes ever told, wrote them to the server's disk in 128
        # parts, looked most decisions' outcomes up twice, and sorted: 20 s for 500,000 decisions instead of 8.
        for setting in ("enable_hashjoin", "enable_mergejoin", "jit"):
            connection.exec_driver_sql(f"SET LOCAL {setting} = off")
        yield
        return
    before = connection.exec_driver_sql("PRAGMA cache_size").scalar_one()
    connection.exec_driver_sql(f"PRAGMA cache_size = -{_CACHE_KIB}")
    try:
        yield
    finally:
        connection.exec_driver_sql(f"PRAGMA cache_size = {int(before)}")


def _decided(connection: Connection, last_seq: int) -> Select[Any]:
    d, o = decisions.c, outcomes.c
    values = {
        "matured_at": d.deadline_at,
        "named_id": d.decision_id,
        "told_id": func.coalesce(o.outcome_id, ""),
        "seq": o.seq,
        "task_id": d.task_id,
        "attempt": d.attempt,
        "decision_id": d.decision_id,
        "domain": d.domain,
        "decided_at": d.decided_at,
        "occurred_at": o.occurred_at,
        "decided_action": d.action,
        "attempted_action": o.action_attempted,
        "result": o.result,
        "failure_reason": o.failure_reason,
        "execution_time_s": o.execution_time_s,
        "propensity": d.propensity,
        "model_version": d.model_version,
        "arm": d.arm,
        "stratum": d.stratum,
        "decided_features": cast(d.features, Text),
        "told_features": cast(o.features, Text),
        "replaces": o.replaces,
        "names_another": literal_column("0"),
    }
    return (
        _select(values)
        .select_from(decisions)
        .outerjoin(outcomes, o.seq == newest_outcome_seq(last_seq))
        .where(d.deadline_at >= bindparam("start_at"), d.deadline_at < bindparam("end_at"))
        .order_by(d.deadline_at, _bytewise(connection, d.decision_id))
    )


def _alone(connection: Connection, last_seq: int) -> Select[Any]:
    o = outcomes.c
    named = decisions.alias("named")
    values = {
        "matured_at": o.occurred_at,
        "named_id": func.coalesce(o.decision_id, ""),
        "told_id": o.outcome_id,
        "seq": o.seq,
        "task_id": o.task_id,
        "attempt": o.attempt,
        # A decision of another task is not this one's; one that is not known may still reach the log.
        "decision_id": case((named.c.decision_id.is_(None), o.decision_id)),
        "domain": o.domain,
        "decided_at": null(),
        "occurred_at": o.occurred_at,
        "decided_action": null(),
        "attempted_action": o.action_attempted,
        "result": o.result,
        "failure_reason": o.failure_reason,
        "execution_time_s": o.execution_time_s,
        "propensity": o.propensity,
        "model_version": o.model_version,
        "arm": null(),
        "stratum": null(),
        "decided_features": null(),
        "told_features": cast(o.features, Text),
        "replaces": o.replaces,
        "names_another": case((named.c.decision_id.is_(None), 0), else_=1),
    }
    return (
        _select(values)
        .select_from(outcomes)
        .outerjoin(named, named.c.decision_id == o.decision_id)
        .where(
            o.occurred_at >= bindparam("start_at"),
            o.occurred_at < bindparam("end_at"),
            o.seq <= last_seq,
            named.c.decision_id.is_(None) | (named.c.task_id != o.task_id),
            ~belongs_by_task(outcomes),
            ~is_replaced(last_seq),
        )
        .order_by(
            o.occurred_at,
            _bytewise(connection, func.coalesce(o.decision_id, "")),
            _bytewise(connection, o.outcome_id),
        )
    )


def _select(values: Mapping[str, ColumnElement[Any]]) -> Select[Any]:
    """Columns in the order of `NAMES`, as the driver gives them: no type of ours looks at each value."""
    columns: list[ColumnElement[Any]] = [type_coerce(values[name], _AS_IT_IS).label(name) for name in NAMES]
    return select(*columns)


_AS_IT_IS = String()  # nothing is done to a result of this type, whatever it is


def _bytewise(connection: Connection, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Text in the order of its bytes: SQLite's own way, and not that of a PostgreSQL made for a language."""
    return collate(column, "C") if connection.dialect.name == "postgresql" else column
