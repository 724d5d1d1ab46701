"""A store that keeps on this machine what the database does not take now, and delivers it later.

Holds when is tried, when is waited and in which order; does not hold the files (`spool.py`) or the insert
(`outcomes.py`). Once something waits, everything newer goes behind it, and each call brings a bounded part of what
waits to the database. After a failure the database is left alone for a while, so that tasks are not slowed by it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from retrain_assets.core.outcomes import OutcomeRules, Receipt, is_absent, read_values
from retrain_assets.errors import RetrainError, SchemaError, StoreUnavailable
from retrain_assets.store import outcomes
from retrain_assets.store.outcome_rows import COLUMNS
from retrain_assets.store.spool import ForeignFile, Rows, Spool, UndeliverableFile

logger = logging.getLogger("retrain_assets.spool")

FIRST_REST_S, LONGEST_REST_S = 1.0, 30.0
"""How long the database is left alone after a failure; doubled with each further one."""

DELIVERED_ROWS = 200
"""Waiting rows that one call brings along at least; one file is never split."""

LOOK_S = 30.0
"""How often the folder is looked at for what other processes left behind."""

KEPT = "kept in the spool of this machine until the database answers"

_identity = itemgetter(*(COLUMNS.index(name) for name in ("outcome_id", "task_id", "occurred_at")))

Store = Callable[[Sequence[Mapping[str, Any]], datetime], list[Receipt]]
Progress = Callable[[int], None]


class SpooledStore:
    """Appends outcomes, come what may.

    Parameters
    ----------
    spool : Spool
    store : callable
        Stores rows durably as received at an instant and returns their receipts; raises `StoreUnavailable` when it
        cannot now.
    rules : callable
        What rows are checked against, as far as that is known.
    clock : callable
        The current instant, aware.
    monotonic : callable
        Seconds that never go back.
    """

    def __init__(
        self,
        spool: Spool,
        store: Store,
        *,
        rules: Callable[[], OutcomeRules],
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spool = spool
        self._store = store
        self._rules = rules
        self._clock = clock
        self._monotonic = monotonic
        self._rest_s, self._rest_until = FIRST_REST_S, float("-inf")
        self._begin()

    def append(self, raws: Sequence[Mapping[str, Any]]) -> list[Receipt]:
        """Store a batch, or keep it on this machine; it is durable when this returns.

        Raises
        ------
        StoreUnavailable
            Neither the database nor this machine's disk took it.
        StoreOutdated, ConfigError
            The database can never take it as it is. It is not kept either: nobody would learn of the fault, and the
            spool would grow until somebody looked.
        """
        if os.getpid() != self._process_id:
            self._begin()
        if not raws:
            return []
        # One instant for both ways: a commit that was done and never confirmed must be the same outcome later.
        now = self._clock()
        if self._monotonic() < self._rest_until:
            return self._keep(raws, now)
        try:
            if self._is_waiting():
                self._deliver(max(DELIVERED_ROWS, 2 * len(raws)))
                if self._is_waiting():
                    return self._keep(raws, now)
            receipts = self._store(raws, now)
        except StoreUnavailable as error:
            self._rest(error)
            return self._keep(raws, now)
        self._rest_s = FIRST_REST_S
        return receipts

    def deliver(self, until: float = float("inf"), progress: Progress | None = None) -> Counter[str]:
        """Bring what waits to the database, all of it or until an instant of `time.monotonic`.

        Parameters
        ----------
        until : float
        progress : callable, optional
            Gets the number of rows delivered so far.

        Returns
        -------
        Counter
            Receipts by status.

        Raises
        ------
        StoreUnavailable, StoreOutdated, ConfigError
            The database does not take it; it goes on waiting.
        """
        return self._bring(until, progress)[0]

    def flush(self, timeout_s: float | None) -> None:
        """Deliver everything.

        Parameters
        ----------
        timeout_s : float or None
            How long to go on trying while the database is away; None tries once.

        Raises
        ------
        StoreUnavailable
            Something still waits.
        StoreOutdated, ConfigError
            The database can never take it as it is.
        """
        until = time.monotonic() + (timeout_s or 0.0)
        reason = "there was no time for more"
        while True:
            try:
                told, is_elsewhere = self._bring(float("inf") if timeout_s is None else until)
                if not self.spool.waiting():
                    return
                if is_elsewhere:
                    reason = "another process is delivering it"
                elif told:
                    reason = "there was no time for more"
            except StoreUnavailable as error:
                reason = str(error)
            if time.monotonic() >= until:
                raise StoreUnavailable(f"outcomes still wait in {self.spool.folder}: {reason}")
            time.sleep(min(0.1, max(0.0, until - time.monotonic())))

    def _begin(self) -> None:
        """Start with a fresh state, also in a forked child: the parent's locks and list of files are not its own."""
        self._process_id = os.getpid()
        self._mutex, self._delivering = threading.Lock(), threading.Lock()
        self._queue: deque[Path] = deque()
        self._look_at = float("-inf")

    def _bring(self, until: float, progress: Progress | None = None) -> tuple[Counter[str], bool]:
        """Receipts by status, and whether it ended because somebody else is delivering."""
        if os.getpid() != self._process_id:
            self._begin()
        self._look()
        told: Counter[str] = Counter()
        while self._queue and time.monotonic() < until:
            found = self._deliver(DELIVERED_ROWS)
            if found is None:
                return told, True
            told.update(found)
            if progress is not None:
                progress(told.total())
        return told, False

    def _is_waiting(self) -> bool:
        if not self._queue and self._monotonic() >= self._look_at:
            try:
                self._look()
            except StoreUnavailable as error:  # no reason not to use a database that answers
                self._look_at = self._monotonic() + LOOK_S
                logger.warning("%s", error)
        return bool(self._queue)

    def _look(self) -> None:
        with self._mutex:
            self._queue = deque(self.spool.waiting())
            self._look_at = self._monotonic() + LOOK_S

    def _deliver(self, rows: int) -> Counter[str] | None:
        """Deliver the oldest files with about so many rows, as one transaction; None if somebody else is doing that."""
        if not self._delivering.acquire(blocking=False):
            return None
        try:
            with self.spool.alone() as is_alone:
                return self._deliver_alone(rows) if is_alone else None
        finally:
            self._delivering.release()

    def _deliver_alone(self, rows: int) -> Counter[str]:
        paths: list[Path] = []
        batch: Rows = []
        for path in list(self._queue):
            read = self._read(path)
            if read is None:
                self._forget([path])
                continue
            paths.append(path)
            batch += read
            if len(batch) >= rows:
                break
        if not paths:
            return Counter()
        try:
            receipts = self._store(batch, self._clock())
        except RetrainError:
            raise
        except Exception as error:  # noqa: BLE001  (one file must not be in the way of the others)
            if len(paths) > 1:
                return self._deliver_alone(1)
            self.spool.refuse(paths[0], f"{type(error).__name__}: {error}")
            receipts = []
        else:
            for path in paths:
                self.spool.remove(path)
        self._forget(paths)
        return Counter(receipt.status for receipt in receipts)

    def _read(self, path: Path) -> Rows | None:
        try:
            return self.spool.read(path)
        except ForeignFile as error:
            self.spool.skip(path, str(error))
        except UndeliverableFile as error:
            self.spool.refuse(path, str(error))
        return None

    def _forget(self, paths: list[Path]) -> None:
        gone = set(paths)
        with self._mutex:
            self._queue = deque(path for path in self._queue if path not in gone)

    def _rest(self, error: RetrainError) -> None:
        now = self._monotonic()
        if now >= self._rest_until:  # else another thread met the same failure
            if self._rest_s == FIRST_REST_S:
                logger.warning("outcomes are kept in %s from now on: %s", self.spool.folder, error)
            self._rest_until = now + self._rest_s
            self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)

    def _keep(self, raws: Sequence[Mapping[str, Any]], now: datetime) -> list[Receipt]:
        rules = self._rules()
        rows: list[Mapping[str, Any]] = []
        receipts: list[Receipt] = []
        known: dict[str, str] = {}
        for raw in raws:
            row, receipt = _stamped(raw, rules, now, known)
            rows.append(row)
            receipts.append(receipt)
        try:
            path = self.spool.keep(rows)
        except StoreUnavailable as error:
            message = f"the database is away, and the spool does not take it either: {error}; nothing was stored"
            raise StoreUnavailable(message) from error
        with self._mutex:
            self._queue.append(path)
        return receipts


def _stamped(
    raw: Any,  # noqa: ANN401  (whatever a worker sends)
    rules: OutcomeRules,
    now: datetime,
    known: dict[str, str],
) -> tuple[Mapping[str, Any], Receipt]:
    """A row with what its id depends on, so that it is the same outcome whenever it is delivered.

    `known` are the tasks of the ids that the batch's rows before it have; an accepted row is added.
    """
    try:
        outcome_id, task_id, occurred_at = _identity(read_values(raw, rules, now))
    except SchemaError as error:
        receipt, row = outcomes.refused(raw, error), outcomes.as_row(raw)
        if is_absent(row.get("timestamp")) and is_absent(row.get("occurred_at")):
            row = {**row, "timestamp": now}
        return row, replace(receipt, reason=f"{error.message}; {KEPT}", is_spooled=True)
    row = {**raw, "timestamp": occurred_at, "outcome_id": outcome_id}
    status = "duplicate" if outcome_id in known else "accepted"
    if (task := known.setdefault(outcome_id, task_id)) != task_id:
        foreign = outcomes.of_another_task(outcome_id, task)
        return row, Receipt(outcome_id, "quarantined", f"{foreign.message}; {KEPT}", foreign.field, is_spooled=True)
    return row, Receipt(outcome_id, status, KEPT, is_spooled=True)
