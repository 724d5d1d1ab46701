"""Outcomes as rows for the driver: the fast way into the table.

Holds the encoding of one outcome and the insert of many; does not hold receipts or queries (`outcomes.py`). Parameters
built through the table's column types cost three times what the driver needs for the insert itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec
from sqlalchemy import Connection

from retrain_assets.core.outcomes import Values

GROUP = 200
"""Rows of one statement on a server, each of which is a journey there and back; it takes 65,535 values at most."""

COLUMNS = (
    "outcome_id",
    "task_id",
    "attempt",
    "decision_id",
    "domain",
    "action_attempted",
    "result",
    "failure_reason",
    "execution_time_s",
    "retry_count",
    "occurred_at",
    "received_at",
    "model_version",
    "propensity",
    "replaces",
    "features",
)
"""Order of a row's values, that of `Outcome`'s fields.

These are the columns of the first schema, and stay so: a worker then appends to an older database, and to a newer one.
"""

Row = tuple[Any, ...]

_json = msgspec.json.Encoder().encode


def encode(values: Values, received_at: str) -> Row:
    """The values of one outcome in the order of `COLUMNS`; instants and JSON as text, which both drivers take.

    Parameters
    ----------
    values : tuple
        As `core.outcomes.read_values` gives them.
    received_at : str
        Their instant of arrival as text; a batch has one.
    """
    # Taken apart and put together in one go: five slices would be five more tuples for each row.
    (
        outcome_id, task_id, attempt, decision_id, domain, action, result, failure_reason, execution_time_s,
        retry_count, occurred_at, _, model_version, propensity, replaces, features,
    ) = values  # fmt: skip
    return (
        outcome_id, task_id, attempt, decision_id, domain, action, result._value_, failure_reason, execution_time_s,
        retry_count, encode_instant(occurred_at), received_at, model_version, propensity, replaces,
        _json(features).decode(),
    )  # fmt: skip


def encode_instant(instant: datetime) -> str:
    """The text of `tables.sqlite_instant`, made at a tenth of the price; PostgreSQL reads it too.

    Raises
    ------
    ValueError
        The instant is naive.
    """
    if instant.tzinfo is not UTC:
        if instant.tzinfo is None:
            raise ValueError(f"a naive datetime reached the database: {instant!r}")
        instant = instant.astimezone(UTC)
    text = _json(instant)  # "2026-01-31T14:05:00.000001Z" in quotes; without its fraction when that is zero
    return f"{text[1:27].decode()}+00:00" if instant.microsecond else f"{text[1:20].decode()}.000000+00:00"


def insert(connection: Connection, rows: Sequence[Row]) -> set[str]:
    """Store encoded outcomes, each under another id; one that is already there is left alone.

    Parameters
    ----------
    connection : Connection
        Inside a writing transaction.
    rows : sequence of tuple

    Returns
    -------
    set of str
        The ids that were new.
    """
    if not rows:
        return set()
    return _insert_alone(connection, rows) if connection.dialect.name == "sqlite" else _insert_beside(connection, rows)


def _insert_alone(connection: Connection, rows: Sequence[Row]) -> set[str]:
    """For SQLite, whose writer is the only one: the new rows are the last ones, and mostly all of them are new.

    So no row has to say that it is new; a RETURNING cost 5 us a row, a third of the insert.
    """
    count = connection.exec_driver_sql(_statement("?", 1), list(rows)).rowcount
    if count == len(rows):
        return {row[0] for row in rows}
    newest = connection.exec_driver_sql("SELECT outcome_id FROM outcomes ORDER BY seq DESC LIMIT ?", (count,))
    return {row[0] for row in newest}


def _insert_beside(connection: Connection, rows: Sequence[Row]) -> set[str]:
    """For a server, where others write at the same time: each new row says so."""
    new: set[str] = set()
    for start in range(0, len(rows), GROUP):
        group = rows[start : start + GROUP]
        statement = f"{_statement('%s', len(group))} RETURNING outcome_id"
        new.update(row[0] for row in connection.exec_driver_sql(statement, tuple(chain.from_iterable(group))))
    return new


@lru_cache(maxsize=2 * GROUP)
def _statement(mark: str, rows: int) -> str:
    row = f"({', '.join([mark] * len(COLUMNS))})"
    columns, values = ", ".join(COLUMNS), ", ".join([row] * rows)
    return f"INSERT INTO outcomes ({columns}) VALUES {values} ON CONFLICT (outcome_id) DO NOTHING"  # noqa: S608
