"""Outcomes in the database: append once, set aside what does not fit.

Holds how a batch becomes receipts, and the queries on `outcomes`; does not hold the check itself (`core/outcomes.py`),
the insert (`outcome_rows.py`) or refused rows (`quarantine.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select, text

from retrain_assets.core.outcomes import OutcomeRules, Receipt, read_values
from retrain_assets.errors import SchemaError
from retrain_assets.store import outcome_rows, quarantine
from retrain_assets.store.tables import outcomes

UNCHECKED = "stored after a check of its structure only: no settings are published in this database yet"

_LOOKED_UP = 500
"""Known outcomes of one query: SQLite's older versions take 999 values at most."""

_COMPARED = ("task_id", "result", "action_attempted", "failure_reason")
"""What makes a second report of the same outcome another one, the gravest first; instants differ between retries."""
_PLACES = tuple((name, outcome_rows.COLUMNS.index(name)) for name in _COMPARED)


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
        One for each raw outcome, in order. A duplicate says in what it differs from the stored outcome, if it does.
    """
    received_at = outcome_rows.encode_instant(now)
    found: list[outcome_rows.Row | Receipt] = []
    bad: list[tuple[Mapping[str, Any], SchemaError]] = []
    rows: dict[str, outcome_rows.Row] = {}
    for raw in raws:
        try:
            row = outcome_rows.encode(read_values(raw, rules, now), received_at)
        except SchemaError as error:
            bad.append((as_row(raw), error))
            found.append(refused(raw, error))
        else:
            found.append(row)
            rows.setdefault(row[0], row)  # the first of each id, as if they had come one after the other
    quarantine.refuse_all(connection, bad, now, source)
    new = outcome_rows.insert(connection, list(rows.values()))
    return _receipts(connection, found, new, UNCHECKED if rules.schema is None else None)


def _receipts(
    connection: Connection, found: Sequence[outcome_rows.Row | Receipt], new: set[str], note: str | None
) -> list[Receipt]:
    """One for each row: refused rows have theirs; of the others the first of each new id is accepted."""
    receipts: list[Receipt] = []
    known: list[tuple[int, outcome_rows.Row]] = []
    for row in found:
        if isinstance(row, Receipt):
            receipts.append(row)
        elif row[0] in new:
            new.remove(row[0])  # the same id again in this batch is a duplicate
            receipts.append(Receipt(row[0], "accepted", note))
        else:
            known.append((len(receipts), row))
            receipts.append(Receipt(row[0], "duplicate"))
    stored = _stored(connection, {row[0] for _, row in known})
    for position, row in known:
        receipts[position] = _duplicate(row, stored.get(row[0]))
    return receipts


def refuse_foreign(
    connection: Connection, raws: Sequence[Mapping[str, Any]], receipts: list[Receipt], now: datetime, source: str
) -> list[Receipt]:
    """Set aside, in the transaction of `append`, what came under the id of another task's outcome.

    It is no second report of that one, and would be lost as its duplicate.

    Parameters
    ----------
    connection : Connection
    raws : sequence of mapping
    receipts : list of Receipt
        What `append` answered about them.
    now : datetime
    source : str

    Returns
    -------
    list of Receipt
        The same, with `quarantined` for those.
    """
    places = [place for place, told in enumerate(receipts) if told.status == "duplicate" and told.field == "task_id"]
    if not places:
        return receipts
    stored = _stored(connection, {str(receipts[place].outcome_id) for place in places})
    bad: list[tuple[Mapping[str, Any], SchemaError]] = []
    told = list(receipts)
    for place in places:
        known = str(told[place].outcome_id)
        error = of_another_task(known, stored[known].task_id)
        bad.append((raws[place], error))
        told[place] = Receipt(known, "quarantined", error.message, error.field)
    quarantine.refuse_all(connection, bad, now, source)
    return told


def of_another_task(outcome_id: str, task_id: str) -> SchemaError:
    """What is wrong with an outcome whose id names an outcome of `task_id`, which is not its own."""
    mend = "send an outcome_id of its own, or the right decision_id"
    return SchemaError("outcome_id", f"{outcome_id!r} is the id of an outcome of task {task_id!r}; {mend}")


def refused(raw: Any, error: SchemaError) -> Receipt:  # noqa: ANN401  (whatever a worker sends)
    """The receipt of a raw outcome that does not fit."""
    given = raw.get("outcome_id") if isinstance(raw, Mapping) else None
    try:
        named = str(given) if given else None
    except Exception:  # noqa: BLE001  (a class of somebody else's, an integer of 5,000 digits, an array)
        named = None
    return Receipt(named, "quarantined", error.message, error.field)


def as_row(raw: Any) -> Mapping[str, Any]:  # noqa: ANN401  (whatever a worker sends)
    """A raw outcome as something that has fields, also when it is none."""
    return raw if isinstance(raw, Mapping) else {"row": raw}


def _stored(connection: Connection, ids: Iterable[str]) -> dict[str, Row[Any]]:
    """What is compared of known outcomes, by their id."""
    columns = [outcomes.c.outcome_id, *(outcomes.c[name] for name in _COMPARED)]
    wanted, found = list(ids), {}
    for start in range(0, len(wanted), _LOOKED_UP):
        query = select(*columns).where(outcomes.c.outcome_id.in_(wanted[start : start + _LOOKED_UP]))
        found.update({row.outcome_id: row for row in connection.execute(query)})
    return found


def _duplicate(row: outcome_rows.Row, stored: Row[Any] | None) -> Receipt:
    for place, (name, own) in enumerate(_PLACES, start=1):
        if stored is not None and stored[place] != row[own]:
            known = f"known with another {name}: {stored[place]}"
            return Receipt(row[0], "duplicate", f'{known}; send replaces="{row[0]}" to correct it', name)
    return Receipt(row[0], "duplicate")


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
