"""Decisions as rows for the driver: the fast way into the decision log.

Holds the encoding of one decision and the insert of many; does not hold queries (`decisions.py`). The log is written by
a thread of the worker that decides, so every microsecond in which it holds the interpreter is taken from decisions.
Parameters built through the table's column types took 0.3 ms for a row; a row encoded here takes a fiftieth of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol

import msgspec
from sqlalchemy import Connection, inspect

from retrain_assets.store.tables import decisions

GROUP = 32
"""Rows of one statement: the driver gives the interpreter free once for each statement, not for each row."""

COLUMNS = tuple(column.name for column in decisions.columns if column.name != "received_at")
"""Order of a row's values; also the columns that the first schema had."""

_DEADLINE = COLUMNS.index("deadline_at")  # as text of fixed width in UTC: its order is the order of time

Row = tuple[Any, ...]

_json = msgspec.json.Encoder().encode


class Decided(Protocol):
    """What a row is made of: `core.outcomes.DecisionRecord` has it, and so has the engine's `Decision`."""

    @property
    def decision_id(self) -> str: ...  # noqa: D102  (columns of the table)
    @property
    def task_id(self) -> str: ...  # noqa: D102
    @property
    def attempt(self) -> int: ...  # noqa: D102
    @property
    def domain(self) -> str | None: ...  # noqa: D102
    @property
    def decided_at(self) -> datetime: ...  # noqa: D102
    @property
    def deadline_at(self) -> datetime: ...  # noqa: D102
    @property
    def actions(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def action(self) -> str: ...  # noqa: D102
    @property
    def scores(self) -> Mapping[str, float]: ...  # noqa: D102
    @property
    def propensity(self) -> float: ...  # noqa: D102
    @property
    def assigned_arm(self) -> str: ...  # noqa: D102
    @property
    def arm(self) -> str: ...  # noqa: D102
    @property
    def share(self) -> float: ...  # noqa: D102
    @property
    def model_version(self) -> str | None: ...  # noqa: D102
    @property
    def rollout_id(self) -> str | None: ...  # noqa: D102
    @property
    def latency_ms(self) -> float: ...  # noqa: D102
    @property
    def error(self) -> str | None: ...  # noqa: D102


def encode(decided: Decided, features: Mapping[str, Any], stratum: str) -> Row:
    """The values of one decision in the order of `COLUMNS`; instants and JSON as text, which both drivers take.

    Parameters
    ----------
    decided : Decided
    features : mapping
        As they are to be stored.
    stratum : str

    Raises
    ------
    ValueError
        An instant is naive.
    """
    return (
        decided.decision_id,
        decided.task_id,
        decided.attempt,
        decided.domain,
        _instant(decided.decided_at),
        _instant(decided.deadline_at),
        _json(features).decode(),
        _actions(decided.actions),
        decided.action,
        _json(decided.scores).decode(),
        decided.propensity,
        decided.assigned_arm,
        decided.arm,
        decided.share,
        decided.model_version,
        decided.rollout_id,
        stratum,
        decided.latency_ms,
        decided.error,
    )


def insert(connection: Connection, rows: Sequence[Row], now: datetime | None = None) -> None:
    """Store encoded decisions; one that is already there is left alone, so that a retry is harmless.

    Parameters
    ----------
    connection : Connection
        In a writing transaction.
    rows : sequence of Row
    now : datetime, optional
        The writer's clock. A decision whose deadline lies before it is late: its week may have been taken without it,
        so that it is stored with the instant of its arrival. Without a clock none is late.
    """
    if now is None:
        _insert(connection, COLUMNS, rows)
        return
    received_at = _instant(now)
    on_time = [row for row in rows if row[_DEADLINE] >= received_at]
    _insert(connection, COLUMNS, on_time)
    if len(on_time) < len(rows):
        late = [row for row in rows if row[_DEADLINE] < received_at]
        if _knows_late_ones(connection):
            _insert(connection, (*COLUMNS, "received_at"), [(*row, received_at) for row in late])
        else:
            _insert(connection, COLUMNS, late)


def _insert(connection: Connection, columns: tuple[str, ...], rows: Sequence[Row]) -> None:
    whole = len(rows) - len(rows) % GROUP
    dialect = connection.dialect.name
    for start in range(0, whole, GROUP):
        values = tuple(value for row in rows[start : start + GROUP] for value in row)
        connection.exec_driver_sql(_statement(dialect, columns, GROUP), values)
    if whole < len(rows):
        connection.exec_driver_sql(_statement(dialect, columns, 1), list(rows[whole:]))


def _knows_late_ones(connection: Connection) -> bool:
    """Whether the database has the column: a worker may be newer than it, and its decisions must not wait for that."""
    return "received_at" in {column["name"] for column in inspect(connection).get_columns("decisions")}


def _instant(instant: datetime) -> str:
    """The text of `tables.sqlite_instant`, made at a tenth of the price; PostgreSQL reads it too."""
    if instant.tzinfo is not UTC:
        if instant.tzinfo is None:
            raise ValueError(f"a naive datetime reached the database: {instant!r}")
        instant = instant.astimezone(UTC)
    text = _json(instant)  # "2026-01-31T14:05:00.000001Z" in quotes; without its fraction when that is zero
    return f"{text[1:27].decode()}+00:00" if instant.microsecond else f"{text[1:20].decode()}.000000+00:00"


@lru_cache(maxsize=4_096)
def _actions(actions: tuple[str, ...]) -> str:
    return _json(actions).decode()


@lru_cache
def _statement(dialect: str, columns: tuple[str, ...], rows: int) -> str:
    mark = "?" if dialect == "sqlite" else "%s"
    row = f"({', '.join([mark] * len(columns))})"
    names, values = ", ".join(columns), ", ".join([row] * rows)
    return f"INSERT INTO decisions ({names}) VALUES {values} ON CONFLICT (decision_id) DO NOTHING"  # noqa: S608
