"""A second try for refused rows, once the settings, a mapping or a time zone makes them fit.

Holds how rows are read again and marked; does not hold the check (`core/outcomes.py`) or how files are read
(`core/rows.py`).

A row is checked as if it came now, with one difference: a worker's row that names no instant happened when it was
refused. When the same attempt of its task has an outcome that came later, such a row may have been sent again, and
stays. So does one that is another report of a stored outcome. One that fits is marked with the outcome that it
became, in the transaction that stores it. So however often rows are tried, and whoever does it at the same time, each
becomes one outcome.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from retrain_assets.core.cells import read_moment
from retrain_assets.core.columns import LEFT_OUT
from retrain_assets.core.features import general_reason
from retrain_assets.core.outcomes import Outcome, is_absent, read_outcome
from retrain_assets.core.rows import INSTANTS
from retrain_assets.errors import SchemaError, StoreUnavailable
from retrain_assets.operations.import_options import (
    PLACING,
    ImportOptions,
    column_names,
    row_reader,
    with_actions,
    zone_of,
)
from retrain_assets.operations.imports import conflict_of
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.quarantine import why_never
from retrain_assets.store import outcomes, published, quarantine
from retrain_assets.store.quarantine import COLLECTOR, Refused, Selection

BATCH_ROWS = 1_000
"""Rows of one transaction."""

SENT_AGAIN = SchemaError(
    "task_id",
    "has a later outcome of the same attempt, and no decision_id, outcome_id or timestamp in the row tells them apart; "
    "dismiss it, or export it and give it one",
)

Later = Mapping[tuple[str, int], datetime]
"""Task and attempt to when its last outcome came."""

Progress = Callable[[int, int], None]
"""Told after each batch: rows done, and how many there are."""


@dataclass(frozen=True, slots=True)
class Mending:
    """What is read differently at a second try.

    Attributes
    ----------
    renames : mapping
        Column to field or feature.
    actions : mapping
        Another spelling of an action to the action.
    timezone : str or None
        What instants without an offset mean, such as `Europe/Berlin`.
    """

    renames: Mapping[str, str] = field(default_factory=dict)
    actions: Mapping[str, str] = field(default_factory=dict)
    timezone: str | None = None


@dataclass(slots=True)
class Retried:
    """What became of rows that were tried again.

    Attributes
    ----------
    rows : int
        Looked at.
    accepted, duplicate : int
        Became an outcome; were found to be one already. Both are resolved.
    refused : int
        Stay, with the reason of now.
    not_retryable : int
        Stay for ever: cut, or never readable. Not in `refused`.
    reasons : Counter
        `field: reason` to the number of rows that stay.
    examples : dict
        The first row of each reason.
    unused, unused_actions : list of str
        Renamed columns, and spellings of actions, that no row had.
    """

    rows: int = 0
    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    not_retryable: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    unused_actions: list[str] = field(default_factory=list)

    @property
    def resolved(self) -> int:
        """Rows that do not wait any more."""
        return self.accepted + self.duplicate

    def stays(self, row: Refused, error: SchemaError) -> None:
        """Count a row that stays."""
        general = f"{error.field}: {general_reason(error.message)}"
        self.reasons[general] += 1
        self.examples.setdefault(general, f"id {row.id}: {error.message}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able; reasons from the commonest on."""
        names = ("rows", "accepted", "duplicate", "refused", "not_retryable", "unused", "unused_actions")
        told = {name: getattr(self, name) for name in names}
        return told | {"reasons": dict(self.reasons.most_common()), "examples": dict(self.examples)}


def retry(
    platform: Platform, selection: Selection, mending: Mending | None = None, progress: Progress | None = None
) -> Retried:
    """Check rows that wait against the present settings; those that fit become outcomes.

    Parameters
    ----------
    platform : Platform
        Opened with `open_platform`.
    selection : Selection
        Rows that are resolved are never looked at, whatever it says.
    mending : Mending, optional
    progress : callable, optional

    Raises
    ------
    UsageError
        The mending names an action or a time zone that there is not.
    StoreUnavailable
        The database went away; what was resolved before stays so, and the call may be repeated.
    """
    mender = _Mender(platform, mending or Mending())
    selection = replace(selection, is_all=False)
    found = Retried()
    with platform.database.read() as connection:
        total = quarantine.count(connection, selection)
    try:
        for part in selection.parts():
            after: int | None = 0
            while after is not None:
                after = _try_batch(platform, mender, part, after, found)
                if progress is not None:
                    progress(found.rows, max(total, found.rows))
    except StoreUnavailable as error:
        done = f"{found.resolved:,} rows before that are resolved; try again, nothing is stored twice"
        raise StoreUnavailable(f"{error} ({done})") from error
    found.unused, found.unused_actions = mender.unused, mender.unused_actions
    return found


def _try_batch(platform: Platform, mender: _Mender, part: Selection, after: int, found: Retried) -> int | None:
    """One batch in one transaction, then its counts; returns its last id, None when it was empty."""
    with platform.database.write() as connection:
        # Locked: a second try elsewhere waits, and then finds them resolved.
        rows = quarantine.rows(connection, part, after=after, limit=BATCH_ROWS, is_locking=True)
        now = platform.now()
        good, stays = mender.sort(rows, now, lambda ids: quarantine.later_outcomes(connection, ids))
        receipts = outcomes.append(connection, [values for _, values in good], mender.rules, now, COLLECTOR)
        told = []
        for (row, values), receipt in zip(good, receipts, strict=True):
            conflict = conflict_of(values, receipt)
            if conflict is not None:
                stays.append((row, conflict))
            else:
                told.append((row, receipt))
        resolved = {row.id: str(receipt.outcome_id) for row, receipt in told if receipt.status != "quarantined"}
        quarantine.resolve(connection, resolved, now)
        changed = {row.id: error for row, error in stays if quarantine.stored_reason(error) != (row.field, row.reason)}
        quarantine.give_reason(connection, changed)
    found.rows += len(rows)
    found.accepted += sum(receipt.status == "accepted" for _, receipt in told)
    found.duplicate += sum(receipt.status == "duplicate" for _, receipt in told)
    for row, error in stays:
        found.refused += 1
        found.stays(row, error)
    for row in rows:
        if (why := why_never(row)) is not None:
            found.not_retryable += 1
            found.stays(row, SchemaError(row.field, why))
    return rows[-1].id if rows else None


class _Mender:
    """Reads refused rows again."""

    def __init__(self, platform: Platform, mending: Mending) -> None:
        config = platform.config
        self.rules = with_actions(published.outcome_rules(config), mending.actions)
        self._renames = dict(mending.renames)
        self._zone = zone_of(mending.timezone)
        self._used: set[str] = set()
        self._unseen = {variant.casefold(): variant for variant in mending.actions}
        options = ImportOptions(renames=mending.renames, timezone=mending.timezone)
        self._names = column_names(options, config)
        # A row of CSV is text alone: how its cells were read can be told from the row.
        self._readers = {
            is_text: row_reader(options, config, self._names, is_text=is_text) for is_text in (True, False)
        }

    @property
    def unused(self) -> list[str]:
        """Columns to be renamed that no row had."""
        of_files = set(self._names.unused)
        return [theirs for theirs in self._renames if theirs not in self._used and theirs in of_files]

    @property
    def unused_actions(self) -> list[str]:
        """Spellings of actions that no row had."""
        return list(self._unseen.values())

    def sort(
        self, rows: Iterable[Refused], now: datetime, later: Callable[[Iterable[str]], Later]
    ) -> tuple[list[tuple[Refused, dict[str, Any]]], list[tuple[Refused, SchemaError]]]:
        """Rows that fit, with their values; rows that stay, with the reason; those that never can are in neither."""
        fits: list[tuple[Refused, dict[str, Any], Outcome]] = []
        good, stays = [], []
        for row in rows:
            if why_never(row) is not None:
                continue
            try:
                values = self._values(row)
                if isinstance(action := values.get("action_attempted"), str):
                    self._unseen.pop(action.strip().casefold(), None)
                fits.append((row, values, read_outcome(values, self.rules, now)))
            except SchemaError as error:
                stays.append((row, error))
        doubtful = {row.id for row, _, _ in fits if self._names_nothing(row)}
        since = later({outcome.task_id for row, _, outcome in fits if row.id in doubtful})
        for row, values, outcome in fits:
            came_at = since.get((outcome.task_id, outcome.attempt)) if row.id in doubtful else None
            if came_at is not None and came_at > row.received_at:
                stays.append((row, SENT_AGAIN))
            else:
                good.append((row, values))
        return good, stays

    def _names_nothing(self, row: Refused) -> bool:
        """Whether nothing in a worker's row tells it from the same attempt's next report."""
        sent = row.payload.values or {}
        named = {self._renames.get(name, name) for name, value in sent.items() if not is_absent(value)}
        return row.source == COLLECTOR and not named & PLACING

    def _values(self, row: Refused) -> dict[str, Any]:
        values = dict(row.payload.values or {})
        if row.source != COLLECTOR:
            is_text = all(isinstance(value, str) for value in values.values())
            return self._readers[is_text].read(values)
        return self._of_worker(row, values)

    def _of_worker(self, row: Refused, values: dict[str, Any]) -> dict[str, Any]:
        """A worker's row: names are only what somebody says they are, and an instant that is not there was then."""
        renamed = {theirs: ours for theirs, ours in self._renames.items() if theirs in values}
        self._used |= renamed.keys()
        sent, values = values, {name: value for name, value in values.items() if name not in renamed}
        for theirs, ours in renamed.items():
            if ours == LEFT_OUT:
                continue
            if not is_absent(values.get(ours)):
                raise SchemaError(ours, f"is given twice, by {ours!r} and {theirs!r}")
            values[ours] = sent[theirs]
        given = next((name for name in INSTANTS if not is_absent(values.get(name))), None)
        if given is None:
            values["timestamp"] = row.received_at
        elif self._zone is not None:
            values[given] = read_moment(values[given], self._zone)
        return values
