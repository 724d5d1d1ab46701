"""Outcomes in a CSV file that one writer appends to: the store for a single worker without a database.

Holds `CsvOutcomes`, the writer; does not hold how a row looks (`csv_format.py`), the lock (`csv_lock.py`) or how rows
reach the database (`operations/csv_outcomes.py`).

A batch is one write, and is synced before its receipts are given. What a kill leaves of a batch is taken out at the
next opening and kept in the quarantine file, so a batch is whole or not there. After a power cut whole rows of a batch
that was never acknowledged may remain, where the file system kept them and lost the note in the lock file; sent again
they are answered `duplicate`.
"""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from retrain_assets.core.outcomes import Outcome, OutcomeRules, Receipt, read_outcome
from retrain_assets.errors import SchemaError, StoreOutdated, StoreUnavailable
from retrain_assets.store.csv_disk import append_durably, is_same_file, lines_before, open_to_append, sync_folder
from retrain_assets.store.csv_format import MAX_RECORD, ROW, Columns, Refused, outcome_id_of, whole_records
from retrain_assets.store.csv_lock import Batch, WriterLock
from retrain_assets.store.csv_refused import RefusedFile, quarantine_path
from retrain_assets.store.outcomes import UNCHECKED, as_row, refused

_CHUNK = 2**20
_STRUCTURE = OutcomeRules()


class CsvOutcomes:
    """The one writer of a CSV file of outcomes.

    Parameters
    ----------
    path : Path
        Made, with its folder, at the first append. `NAME.quarantine.jsonl` and `NAME.csv.lock` lie beside it.

    Notes
    -----
    Threads may share it. A forked child cannot write while its parent lives: it gets `StoreUnavailable`.
    The first append reads the ids that the file holds and keeps a digest of each of them, 16 bytes that take about
    110 in memory: 110 MB for a million rows. It reads a million rows in about 3 s.
    """

    def __init__(self, path: Path) -> None:
        self._opened: _Opened | None = None
        self._mutex = threading.Lock()
        self.path = path.absolute()
        _register_hooks()
        _writers.add(self)

    def append(
        self, raws: Sequence[Mapping[str, Any]], rules: OutcomeRules, now: datetime, source: str
    ) -> list[Receipt]:
        """Append a batch; it is durable when this returns, or nothing of it is claimed.

        Parameters
        ----------
        raws : sequence of mapping
            Each with the keywords of `FeedbackCollector.append_outcome`.
        rules : OutcomeRules
            By which they are checked. A new file gets a column for each feature of their schema.
        now : datetime
            Aware.
        source : str
            Where the rows come from, for the quarantine.

        Returns
        -------
        list of Receipt
            One for each raw outcome, in order.

        Raises
        ------
        StoreUnavailable
            Another writer has the file, or the disk refused; nothing was stored, try again.
        StoreOutdated
            The file is damaged, or none of ours; the message says where.
        """
        if not raws:
            return []
        with self._mutex, self._reporting():
            opened = self._ready()
            sorted_out = _sort_out(raws, rules, now, opened.known)
            opened.refused.append(sorted_out.refused, now, source)
            opened.append(sorted_out.fresh, rules)
        return sorted_out.receipts

    def close(self) -> None:
        """Let another one write; the next append opens the file again."""
        with self._mutex:
            self._close()

    def _ready(self) -> _Opened:
        """The open file; opened again where somebody moved, replaced or changed it."""
        if self._opened is not None and not self._opened.is_as_left():
            self._close()
        if self._opened is None:
            self._opened = _Opened(self.path)
        return self._opened

    def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """After any failure the file is opened anew, and so looked at; the operating system's errors become ours."""
        try:
            yield
        except BaseException as error:
            self._close()
            if isinstance(error, OSError):
                detail = error.strerror or str(error)
                message = f"{self.path} cannot be written: {detail}; nothing was stored, try again"
                raise StoreUnavailable(message) from error
            raise

    def after_fork(self) -> None:
        """In a child: let go of the parent's files, whose lock the child would keep alive, and of a held mutex."""
        self._close()
        self._mutex = threading.Lock()

    def __del__(self) -> None:
        self._close()


@dataclass(frozen=True, slots=True)
class _SortedOut:
    """A batch after its check."""

    receipts: list[Receipt]
    fresh: list[Outcome]
    refused: list[Refused]


def _sort_out(raws: Sequence[Mapping[str, Any]], rules: OutcomeRules, now: datetime, known: set[bytes]) -> _SortedOut:
    found = _SortedOut([], [], [])
    note = UNCHECKED if rules.schema is None else None
    within: set[str] = set()
    for raw in raws:
        try:
            outcome = read_outcome(raw, rules, now)
        except SchemaError as error:
            found.refused.append(Refused(dict(as_row(raw)), error))
            found.receipts.append(refused(raw, error))
            continue
        if outcome.outcome_id in within or _digest(outcome.outcome_id.encode()) in known:
            found.receipts.append(Receipt(outcome.outcome_id, "duplicate"))
            continue
        within.add(outcome.outcome_id)
        found.fresh.append(outcome)
        found.receipts.append(Receipt(outcome.outcome_id, "accepted", note))
    return found


class _Opened:
    """The file while this process has the right to write it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = WriterLock(path)
        self._file = -1
        self.columns: Columns | None = None
        self.known: set[bytes] = set()
        try:
            self._file = open_to_append(path)
            self.refused = RefusedFile(quarantine_path(path))
            self._end = self._mend()
            # What a killed writer wrote may not be on the disk yet, and is about to be answered `duplicate`.
            os.fsync(self._file)
            sync_folder(path.parent)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file and the right to write it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.release()

    def is_as_left(self) -> bool:
        """Whether nobody moved, replaced or changed the file since the last append."""
        is_in_place = self._lock.is_in_place() and is_same_file(self._file, self._path)
        return is_in_place and os.fstat(self._file).st_size == self._end and self.refused.is_as_left()

    def append(self, outcomes: Sequence[Outcome], rules: OutcomeRules) -> None:
        """Write whole rows and sync them; where that fails, nothing of them stays."""
        if not outcomes:
            return
        columns = self.columns or Columns.of_schema(rules.schema)
        data = columns.encode(outcomes, rules.schema)
        if self.columns is None:
            data = columns.header() + data
        self._lock.note(Batch(self._end, self._end + len(data)))
        append_durably(self._file, data, self._end)
        self._end += len(data)
        self._lock.note(Batch(self._end, self._end))  # a row that somebody takes out later was not cut by a kill
        self.columns = columns
        self.known.update(_digest(outcome.outcome_id.encode()) for outcome in outcomes)

    def _mend(self) -> int:
        """Read the ids, and take out what a writer left half-written; returns the size of what stays."""
        size = os.fstat(self._file).st_size
        batch = self._lock.last_batch()
        cut = batch.begin if batch is not None and batch.is_cut(size) else None
        stop = size if cut is None else cut
        end = self._scan(stop)
        torn = os.pread(self._file, size - end, end)
        if torn and self.columns is None:
            Columns.of_file(torn, str(self._path))  # refuses what is no beginning of ours, and must not be cut
        if end < stop and (cut is not None or self._is_damage(torn)):
            raise StoreOutdated(open_quote(self._path, lines_before(self._file, end) + 1))
        if cut is None and self.columns is not None and self.columns.is_row(torn):
            append_durably(self._file, b"\r\n", size)  # a whole row: an editor took away its line end
            return self._mend()
        if torn:
            content = {"content": torn.decode(errors="backslashreplace")}
            error = SchemaError(ROW, "was cut off when its writer stopped; it was not acknowledged")
            self.refused.append([Refused(content, error)], datetime.now(tz=UTC), self._path.name)
            os.ftruncate(self._file, end)
        self._lock.note(Batch(end, end))
        return end

    def _is_damage(self, torn: bytes) -> bool:
        return len(torn) > MAX_RECORD or (self.columns is not None and self.columns.holds_rows(torn))

    def _scan(self, stop: int) -> int:
        """Read header and ids of the whole rows before `stop`; returns where the last of them ends."""
        self.columns = None
        place, begin, rest = 0, 0, b""
        while begin + len(rest) < stop:
            at = begin + len(rest)
            chunk = os.pread(self._file, min(_CHUNK, stop - at), at)
            if not chunk:
                break
            records, span = whole_records(rest + chunk)
            rest, begin = (rest + chunk)[span:], begin + span
            if records and self.columns is None:
                self.columns = Columns.of_header(records.pop(0), str(self._path))
                place = self.columns.names.index("outcome_id")
            ids = (outcome_id_of(record, place) for record in records)
            self.known.update(_digest(outcome_id) for outcome_id in ids if outcome_id)
            if len(rest) > MAX_RECORD:
                break
        return begin


def open_quote(path: Path, line: int) -> str:
    """What to say of a file with a row that never ends."""
    return (
        f"{path}: the row in line {line} opens a quote that is never closed, and rows follow it, so this is no write "
        "that was cut short. Mend that line by hand; until then nothing behind it is read or written"
    )


def _digest(outcome_id: bytes) -> bytes:
    return hashlib.blake2b(outcome_id, digest_size=16).digest()


_writers: weakref.WeakSet[CsvOutcomes] = weakref.WeakSet()


@cache
def _register_hooks() -> None:
    """Once for each process, for hooks cannot be taken back."""
    os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    for writer in list(_writers):
        writer.after_fork()
