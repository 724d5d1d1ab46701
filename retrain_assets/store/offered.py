"""Which actions each decision could choose from, for many decisions at once.

Holds that one query; does not hold other questions to the decision log (`decisions.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select

from retrain_assets.store.tables import decisions

BATCH = 500
"""Ids of one query: below the least number of parameters that a database takes."""


def offered_actions(connection: Connection, decision_ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Decision to the actions it was made among; decisions that are not in the log are left out."""
    found: dict[str, tuple[str, ...]] = {}
    wanted = list(dict.fromkeys(decision_ids))
    for first in range(0, len(wanted), BATCH):
        is_wanted = decisions.c.decision_id.in_(wanted[first : first + BATCH])
        query = select(decisions.c.decision_id, decisions.c.actions).where(is_wanted)
        found.update({row.decision_id: tuple(row.actions) for row in connection.execute(query)})
    return found
