"""How far an import has come, so that one that was stopped goes on where it stood.

Holds the SQL on `imports`; does not hold what is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from retrain_assets.store.database import insert_new
from retrain_assets.store.tables import imports


@dataclass(frozen=True, slots=True)
class Progress:
    """What was done of an import.

    Attributes
    ----------
    position : int
        Rows of the source that are stored.
    counts : dict
        What became of them.
    is_complete : bool
        Whether those are all.
    """

    position: int
    counts: dict[str, Any]
    is_complete: bool


def find(connection: Connection, import_id: str) -> Progress | None:
    """How far an import has come; None when it never began."""
    query = select(imports.c.position, imports.c.counts, imports.c.is_complete).where(imports.c.import_id == import_id)
    row = connection.execute(query).one_or_none()
    return None if row is None else Progress(row.position, row.counts, row.is_complete)


def save(
    connection: Connection,
    import_id: str,
    source: str,
    *,
    position: int,
    counts: Mapping[str, Any],
    is_complete: bool,
    now: datetime,
) -> None:
    """Note how far an import has come; belongs into the transaction that stores its rows."""
    state = {"position": position, "counts": dict(counts), "is_complete": is_complete, "updated_at": now}
    update = imports.update().where(imports.c.import_id == import_id).values(state)
    if connection.execute(update).rowcount == 0:
        row = {"import_id": import_id, "source": source, **state}
        connection.execute(insert_new(connection, imports, ["import_id"]), [row])
