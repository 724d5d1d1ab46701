"""What is wrong with refused rows, and putting those aside that nobody will mend.

Holds the rows' grouping, their JSON and their dismissal; does not hold their second try
(`operations/quarantine_retry.py`), their export (`operations/quarantine_files.py`) or the table
(`store/quarantine.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from retrain_assets.core.features import general_reason
from retrain_assets.errors import UsageError
from retrain_assets.operations.platform import Platform
from retrain_assets.store import quarantine
from retrain_assets.store.quarantine import Refused, Selection, Totals

RECENT = timedelta(days=7)
"""Refused rows of so long ago are told by `retrain status` and `retrain doctor`."""

WAS_CUT = "was too long to be kept whole; it cannot be tried again"
NEVER_READ = "could not be read from its file; it cannot be tried again"


@dataclass(slots=True)
class Kind:
    """Rows with the same fault.

    Attributes
    ----------
    field, reason : str
        The reason without what differs from row to row.
    rows : int
    first_id : int
        The oldest of them.
    first_at, last_at : datetime
    example : Refused or None
        The oldest row; None where it was not asked for.
    """

    field: str
    reason: str
    rows: int
    first_id: int
    first_at: datetime
    last_at: datetime
    example: Refused | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        told: dict[str, Any] = {"field": self.field, "reason": self.reason, "rows": self.rows}
        told |= {"first_at": self.first_at, "last_at": self.last_at}
        return told | {"example": None if self.example is None else row_dict(self.example)}


@dataclass(frozen=True, slots=True)
class Overview:
    """What waits in quarantine: counts of everything, and the kinds of fault of what was asked for."""

    totals: Totals
    kinds: list[Kind]
    more: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return _totals_dict(self.totals) | {"reasons": [kind.to_dict() for kind in self.kinds], "more": self.more}


@dataclass(frozen=True, slots=True)
class Rows:
    """Single rows, newest first, beside the counts of everything."""

    totals: Totals
    rows: list[Refused]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return _totals_dict(self.totals) | {"rows": [row_dict(row) for row in self.rows]}


@dataclass(frozen=True, slots=True)
class Recent:
    """Rows of the last days that wait: how many, and their commonest fault."""

    rows: int
    field: str
    reason: str

    def in_words(self) -> str:
        """One sentence."""
        many = f"{self.rows:,} outcomes" if self.rows != 1 else "1 outcome"
        were = "were" if self.rows != 1 else "was"
        return (
            f"{many} of the last {RECENT.days} days {were} refused, most: {self.field}: {self.reason}; "
            "see `retrain quarantine list`"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return {"rows": self.rows, "days": RECENT.days, "field": self.field, "reason": self.reason}


def row_dict(row: Refused) -> dict[str, Any]:
    """A refused row as JSON carries it."""
    names = ("id", "received_at", "source", "field", "reason", "resolved_at", "resolved_as")
    told = {name: getattr(row, name) for name in names} | {"is_retryable": why_never(row) is None}
    return told | {"payload": row.payload.readable() if row.payload.values is not None else row.payload.head}


def why_never(row: Refused) -> str | None:
    """Why a row cannot be tried again; None when it can."""
    if row.payload.values is None:
        return WAS_CUT
    is_unreadable = row.field == "row" and row.payload.values.keys() == {"line", "content"}
    return NEVER_READ if is_unreadable else None


def overview(platform: Platform, selection: Selection, limit: int) -> Overview:
    """Rows by field and reason, the commonest first; `limit` of these kinds with an example each."""
    with platform.database.read() as connection:
        kinds = _kinds(connection, selection)
        shown = kinds[:limit]
        examples = quarantine.by_id(connection, [kind.first_id for kind in shown])
        totals = quarantine.totals(connection)
    for kind in shown:
        kind.example = examples.get(kind.first_id)
    return Overview(totals, shown, len(kinds) - len(shown))


def newest(platform: Platform, selection: Selection, limit: int) -> Rows:
    """Single rows, newest first."""
    with platform.database.read() as connection:
        return Rows(quarantine.totals(connection), quarantine.newest(connection, selection, limit))


def recent(connection: Connection, now: datetime) -> Recent | None:
    """What was refused lately and waits; None when nothing was."""
    kinds = _kinds(connection, Selection(since=now - RECENT))
    if not kinds:
        return None
    return Recent(sum(kind.rows for kind in kinds), kinds[0].field, kinds[0].reason)


def _kinds(connection: Connection, selection: Selection) -> list[Kind]:
    found: dict[tuple[str, str], Kind] = {}
    for group in quarantine.groups(connection, selection):
        key = (group.field, general_reason(group.reason))
        if (kind := found.get(key)) is None:
            found[key] = Kind(*key, group.rows, group.first_id, group.first_at, group.last_at)
            continue
        kind.rows += group.rows
        kind.first_id = min(kind.first_id, group.first_id)
        kind.first_at = min(kind.first_at, group.first_at)
        kind.last_at = max(kind.last_at, group.last_at)
    return sorted(found.values(), key=lambda kind: (-kind.rows, kind.first_id))


def _totals_dict(totals: Totals) -> dict[str, int]:
    return {"unresolved": totals.unresolved, "resolved": totals.resolved, "dismissed": totals.dismissed}


def dismiss(platform: Platform, selection: Selection, why: str) -> int:
    """Put rows that wait aside, with the reason; they stay in the table. Returns how many.

    Raises
    ------
    UsageError
        No reason is given.
    """
    if not why.strip():
        raise UsageError("say why the rows are put aside; the reason is kept with them")
    dismissed = 0
    for part in selection.parts():
        with platform.database.write() as connection:
            dismissed += quarantine.dismiss(connection, part, why.strip(), platform.now())
    return dismissed
