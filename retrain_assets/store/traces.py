"""What came of a decision: the one row that `retrain why` tells.

Holds the query from a decision to its newest outcome; does not hold how outcomes join decisions (`decisions.py`).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from retrain_assets.store import decisions
from retrain_assets.store.tables import decisions as decisions_table
from retrain_assets.store.tables import outcomes as outcomes_table


def outcome_of(connection: Connection, decision_id: str) -> dict[str, Any] | None:
    """The outcome that counts for a decision, as weekly snapshots have it; None when there is none."""
    query = (
        select(outcomes_table)
        .select_from(decisions_table)
        .join(outcomes_table, outcomes_table.c.seq == decisions.newest_outcome_seq())
        .where(decisions_table.c.decision_id == decision_id)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else dict(row._mapping)  # noqa: SLF001  (SQLAlchemy's documented way to a row's names)
