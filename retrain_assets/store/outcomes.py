"""Outcomes in the database: append once, set aside what does not fit.

Holds the SQL on `outcomes`; does not hold the check itself (`core/outcomes.py`) or refused rows (`quarantine.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select, text

from retrain_assets.core.outcomes import Outcome, OutcomeRules, Receipt, read_outcome
from retrain_assets.errors import SchemaError
from retrain_assets.store import quarantine
from retrain_assets.store.database import insert_new
from retrain_assets.store.tables import outcomes

UNCHECKED = "stored after a check of its structure only: no settings are published in this database yet"
_COLUMNS = tuple(field.name for field in fields(Outcome))  # `asdict` would copy every feature deeply: 3x slower


def append(
    connection: Connection, raws: Sequence[Mapping[str, Any]], rules: OutcomeRules, now: datetime, source: str
) -> list[Receipt]:
    """Store a batch of raw outcomes in the caller's transaction; the good rows are kept whatever the bad ones are.

    Parameters
    ----------
    connection : Connection
        Inside a writing transaction; nothing is durable before it commits.
    raws : sequence of mapping
    rules : OutcomeRules
    now : datetime
    source : str
        Where the rows come from, for the quarantine.

    Returns
    -------
    list of Receipt
        One for each raw outcome, in order.
    """
    good: dict[int, Outcome] = {}
    receipts: dict[int, Receipt] = {}
    for position, raw in enumerate(raws):
        try:
            good[position] = read_outcome(raw, rules, now)
        except SchemaError as error:
            quarantine.refuse(connection, raw, error, now, source)
            given = raw.get("outcome_id")
            receipts[position] = Receipt(str(given) if given else None, "quarantined", error.message, error.field)
    stored = _insert(connection, list(good.values()))
    note = UNCHECKED if rules.schema is None else None
    for position, outcome in good.items():
        if outcome.outcome_id in stored:
            stored.remove(outcome.outcome_id)
            receipts[position] = Receipt(outcome.outcome_id, "accepted", note)
        else:
            receipts[position] = Receipt(outcome.outcome_id, "duplicate")
    return [receipts[position] for position in range(len(raws))]


def _insert(connection: Connection, batch: Sequence[Outcome]) -> set[str]:
    """Insert and return the ids that were new."""
    if not batch:
        return set()
    rows = [{name: getattr(outcome, name) for name in _COLUMNS} for outcome in _first_of_each(batch)]
    statement = insert_new(connection, outcomes, ["outcome_id"]).returning(outcomes.c.outcome_id)
    return set(connection.execute(statement, rows).scalars())


def _first_of_each(batch: Sequence[Outcome]) -> list[Outcome]:
    """One outcome for each id: the first, as if they had come one after the other."""
    return list({outcome.outcome_id: outcome for outcome in reversed(batch)}.values())[::-1]


def count(connection: Connection) -> int:
    """How many outcomes are stored."""
    return connection.execute(select(func.count()).select_from(outcomes)).scalar_one()


def highest_seq(connection: Connection) -> int:
    """The highest `seq` below which no row can still appear; 0 when there is none.

    PostgreSQL gives numbers before it commits them: the lock waits for writers that hold a lower one.
    Call it in a transaction of its own, which ends at once.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE outcomes IN SHARE MODE"))
    return int(connection.execute(select(func.coalesce(func.max(outcomes.c.seq), 0))).scalar_one())
