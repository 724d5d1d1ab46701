"""How far a file of outcomes has been taken into the database, and its rows on their way in.

Holds the SQL with which rows of the CSV store become rows of `outcomes` and `quarantine`, and the place in the table
`imports` up to which that has happened; does not hold the reading of the files (`operations/csv_outcomes.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from retrain_assets.core.outcomes import Outcome
from retrain_assets.store import outcome_rows
from retrain_assets.store.database import insert_new
from retrain_assets.store.tables import imports

_values = attrgetter(*outcome_rows.COLUMNS)


@dataclass(frozen=True, slots=True)
class Place:
    """How far a file has been read.

    Attributes
    ----------
    position : int
        Bytes; everything before it is in the database.
    head, tail : str
        Digests of the file's first bytes and of those before `position`, by which the same file is known again.
    counts : mapping
        Rows by what became of them: `accepted`, `duplicate`, `quarantined`.
    """

    position: int = 0
    head: str = ""
    tail: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


def import_id(path: Path) -> str:
    """Under which key of `imports` a file's place is kept."""
    return "csv-" + hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:32]


def place(connection: Connection, path: Path, *, is_locking: bool = False) -> Place | None:
    """The place up to which a file was read; None when it never was.

    Parameters
    ----------
    connection : Connection
    path : Path
    is_locking : bool
        Keep others from moving it until the transaction ends. On SQLite a writing transaction does so by itself.
    """
    query = select(imports.c.position, imports.c.counts).where(imports.c.import_id == import_id(path))
    row = connection.execute(query.with_for_update() if is_locking else query).one_or_none()
    return _place(row.position, row.counts) if row is not None else None


def first_place(connection: Connection, path: Path, now: datetime) -> None:
    """Begin to keep a file's place, so that there is a row to lock."""
    values = {
        "import_id": import_id(path),
        "source": str(path).encode(errors="backslashreplace").decode(),
        "position": 0,
        "counts": _counts(Place()),
        "is_complete": False,
        "updated_at": now,
    }
    connection.execute(insert_new(connection, imports, ["import_id"]), [values])


def move(connection: Connection, path: Path, to: Place, now: datetime) -> None:
    """Keep a new place, in the transaction of the rows before it."""
    changed = {"position": to.position, "counts": _counts(to), "updated_at": now}
    connection.execute(imports.update().where(imports.c.import_id == import_id(path)).values(changed))


def store(connection: Connection, batch: Sequence[Outcome]) -> int:
    """Store outcomes as they were accepted, with the instant at which they were; known ones are left alone.

    Returns
    -------
    int
        How many were new.
    """
    rows: dict[str, outcome_rows.Row] = {}
    for outcome in batch:
        received_at = outcome_rows.encode_instant(outcome.received_at)
        rows.setdefault(outcome.outcome_id, outcome_rows.encode(_values(outcome), received_at))
    return len(outcome_rows.insert(connection, list(rows.values())))


def _place(position: int, kept: Mapping[str, Any]) -> Place:
    counts = dict(kept)
    return Place(position, str(counts.pop("head", "")), str(counts.pop("tail", "")), counts)


def _counts(place: Place) -> dict[str, Any]:
    return {**place.counts, "head": place.head, "tail": place.tail}
