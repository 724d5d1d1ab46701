"""The decision log of one engine: a bounded queue and the one background thread that writes it in batches.

Holds the queue, its bound, the writing with retries, the flush at the end and what a fork means for it; does not hold
the SQL (`store/decision_rows.py`) or what a row says (`decision.py`). A batch is one transaction, and a decision that
is already stored is left alone, so that a batch may be tried again at will.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from retrain_assets.errors import RetrainError, StoreUnavailable, UsageError
from retrain_assets.serving.decision import Decision
from retrain_assets.serving.fork import database_gate
from retrain_assets.store import decision_rows
from retrain_assets.store.database import Database
from retrain_assets.store.decision_rows import Row

BATCH = 256
"""Decisions of one transaction."""
LINGER_S = 0.05
"""How long the writer lets decisions gather before it writes."""
TURN = 32
"""Decisions that are encoded, in about 0.2 ms, before the writer lets other threads run."""
FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 5.0
CLOSE_TIMEOUT_S = 10.0
"""How long closing tries to write what is left."""

logger = logging.getLogger(__name__)


class DecisionLog:
    """Takes decisions at once and stores them soon.

    While the database is away decisions wait in the queue, up to its bound, and are tried again. At the bound a
    blocking log makes `put` wait for room; otherwise the oldest decision is dropped and counted.

    Parameters
    ----------
    database : Database
    to_row : callable
        Makes the row of a decision; called on the writer's thread.
    capacity : int
        Decisions that may wait, those being written included.
    is_blocking : bool
    clock : callable, optional
        By which a decision is late when it is written; without one none is.

    Attributes
    ----------
    counts : Counter
        `queued`, `written`, `dropped` (oldest at the bound), `refused` (the database can never take them), `lost`
        (still waiting when the log was closed), `retries`.
    """

    def __init__(
        self,
        database: Database,
        to_row: Callable[[Decision], Row],
        *,
        capacity: int = 10_000,
        is_blocking: bool = True,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._to_row = to_row
        self.capacity = capacity
        self.is_blocking = is_blocking
        self._is_closed = False
        self.reset_after_fork()
        atexit.register(self.close)

    def reset_after_fork(self) -> None:
        """Start anew in a child process: what waits in the parent's queue is the parent's to write."""
        self.counts: Counter[str] = Counter()
        self._queue: deque[Decision] = deque()
        self._writing = 0
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)  # tells the writer
        self._settled = threading.Condition(self._lock)  # tells those who wait for room or for a flush
        self._thread: threading.Thread | None = None
        self._finalizer: Any = None
        self._is_idle = False
        self._is_hurried = False
        self._last_error: Exception | None = None

    def put(self, decision: Decision) -> None:
        """Queue a decision.

        Raises
        ------
        UsageError
            The log is closed.
        """
        with self._lock:
            if len(self._queue) + self._writing >= self.capacity or self._thread is None or self._is_closed:
                self._prepare()
            self._queue.append(decision)
            self.counts["queued"] += 1
            if self._is_idle:
                self._is_idle = False
                self._wake.notify()

    def write_now(self, decision: Decision) -> None:
        """Store a decision before returning.

        Raises
        ------
        StoreUnavailable
            The database is away; it was not stored.
        """
        self._store([decision])
        with self._lock:
            self.counts["written"] += 1

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until everything queued so far is stored.

        Raises
        ------
        StoreUnavailable
            The database is away, or the time is over; what was not stored goes on waiting in the queue.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            if not self._waiting:
                return
            self._start()
            goal, retries = self.counts["queued"], self.counts["retries"]
            self._hurry()
            while self._done < goal and self._waiting:
                left = None if until is None else until - time.monotonic()
                if self.counts["retries"] > retries or (left is not None and left <= 0):
                    why = self._last_error or "the time is over"
                    raise StoreUnavailable(f"{self._waiting} decisions are not stored yet, they go on waiting: {why}")
                self._settled.wait(left)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what waits and stop; what cannot be written within the time is counted as lost, and logged."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._close_until = time.monotonic() + timeout_s
            thread = self._thread
            self._hurry()
            self._settled.notify_all()
        atexit.unregister(self.close)
        if self._finalizer is not None:
            self._finalizer.cancel()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)
        with self._lock:
            lost = self._waiting
            self.counts["lost"] += lost
            self._queue.clear()
        if lost:
            logger.error("%d decisions were not stored when the engine closed: %s", lost, self._last_error)

    @property
    def _waiting(self) -> int:
        return len(self._queue) + self._writing

    @property
    def _done(self) -> int:
        return self.counts["queued"] - self._waiting

    def _prepare(self) -> None:
        """Start the writer, or make room; called with the lock held."""
        if self._is_closed:
            raise UsageError("the engine is closed; make a new one to decide with")
        self._start()
        while self._waiting >= self.capacity:
            if self._last_error is None:  # while the database is away its retries keep their pace
                self._hurry()
            if self.is_blocking:
                self._settled.wait()
                if self._is_closed:
                    raise UsageError("the engine was closed while a decision waited for room in its log")
            elif self._queue:
                self._queue.popleft()
                self.counts["dropped"] += 1
            else:
                return  # everything is being written: one more may wait

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="retrain-decision-log", daemon=True)
            # A child made by multiprocessing ends without `atexit`, but runs its own finalizers.
            if (util := sys.modules.get("multiprocessing.util")) is not None:
                self._finalizer = util.Finalize(None, self.close, exitpriority=10)
            self._thread.start()

    def _hurry(self) -> None:
        self._is_hurried = True
        self._wake.notify_all()

    def _run(self) -> None:
        wait_s = 0.0
        while (batch := self._next_batch(wait_s)) is not None:
            wait_s = self._attempt(batch, wait_s)

    def _next_batch(self, wait_s: float) -> list[Decision] | None:
        """Decisions to write, after `wait_s` or a short while for more to gather; None at the end."""
        with self._lock:
            while not self._queue and not self._is_closed:
                self._is_idle = True
                self._is_hurried = False
                self._wake.wait()
            self._is_idle = False
            if not self._queue:
                return None
            if self._is_closed and wait_s:
                if time.monotonic() + FIRST_RETRY_S >= self._close_until:
                    return None
                self._wake.wait(FIRST_RETRY_S)
            elif not self._is_hurried and (wait_s or len(self._queue) < BATCH):
                self._wake.wait(wait_s or LINGER_S)
            self._is_hurried = self._is_hurried and wait_s == 0.0
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            self._writing = len(batch)
            return batch

    def _attempt(self, batch: list[Decision], wait_s: float) -> float:
        """Write a batch; seconds to wait before the next try, 0 when it is settled."""
        try:
            refused = self._write(batch)
        except RetrainError as error:  # away, or waiting for its migration
            with self._lock:
                self._queue.extendleft(reversed(batch))
                self._writing = 0
                self.counts["retries"] += 1
                if self._last_error is None:
                    logger.warning("decisions wait for the database: %s", error)
                self._last_error = error
                self._settled.notify_all()
            return min(max(wait_s * 2, FIRST_RETRY_S), LONGEST_RETRY_S)
        with self._lock:
            self._writing = 0
            self.counts["written"] += len(batch) - refused
            self.counts["refused"] += refused
            self._last_error = None
            self._settled.notify_all()
        return 0.0

    def _write(self, batch: Sequence[Decision]) -> int:
        """Store a batch; one that the database refuses is split, so that a bad row takes no good one with it."""
        try:
            self._store(batch)
        except RetrainError:
            raise
        except Exception as error:
            if len(batch) > 1:
                return sum(self._write([decision]) for decision in batch)
            logger.exception("decision %s cannot be stored", batch[0].decision_id, exc_info=error)
            return 1
        return 0

    def _store(self, batch: Sequence[Decision]) -> None:
        rows = []
        for start in range(0, len(batch), TURN):
            rows += [self._to_row(decision) for decision in batch[start : start + TURN]]
            time.sleep(0)  # the interpreter's own switch interval, 5 ms, would show in the latency of decisions
        with database_gate, self._database.write() as connection:
            decision_rows.insert(connection, rows, self._clock() if self._clock is not None else None)
