"""What a worker appended to its CSV file, taken into the problem's database.

Holds `absorb`, called at the start of every step that looks at outcomes, and how far it has come; does not hold the
file's rows (`store/csv_format.py`), its writer (`store/csv_outcomes.py`) or the SQL (`store/csv_intake.py`).

Rows and the place up to which the file was read change in one transaction, and an outcome's id is known only once: so
any number of processes may absorb at once, die half-way or begin again. A file that was replaced, shortened or edited
before that place is known by digests of its head and of the bytes before the place, and is read from its start. What
has no end yet is left for the next time. Under a writer that never rests each look ends where the file ended when it
began. With nothing new it costs two looks at a file's size and two at the place in the database.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from sqlalchemy import Connection

from retrain_assets.core.outcomes import Outcome, OutcomeRules
from retrain_assets.errors import SchemaError, StoreOutdated, StoreUnavailable
from retrain_assets.operations.platform import Platform
from retrain_assets.store import csv_intake, published, quarantine
from retrain_assets.store.csv_disk import lines_before
from retrain_assets.store.csv_format import MAX_RECORD, ROW, Columns, Refused, whole_records
from retrain_assets.store.csv_intake import Place
from retrain_assets.store.csv_lock import readable_end
from retrain_assets.store.csv_outcomes import open_quote
from retrain_assets.store.csv_refused import RefusedRow, quarantine_path, read_line

BATCH_BYTES = 2**20
"""Bytes of one transaction, unless a single row is longer."""

KNOWN_BYTES = 4_096
"""Bytes at the head, and before the place, by which a file is known again."""

LOOKS = 4
"""How often a file is looked at in a row while each look finds something new."""

_Signature = tuple[int, int, int, int]
_seen: dict[tuple[str, str], tuple[_Signature, Place | None]] = {}
"""How each file looked when everything in it was read, and which place the database held then: one that was emptied
or restored under a process that lives holds another, and the file is read again."""


@dataclass(frozen=True, slots=True)
class Absorbed:
    """What became of the rows that were new in the file."""

    accepted: int = 0
    duplicate: int = 0
    quarantined: int = 0


def absorb(platform: Platform) -> Absorbed:
    """Take in what is new in the problem's CSV file and in its quarantine; nothing with `storage.outcomes: database`.

    Raises
    ------
    StoreUnavailable
        The file cannot be read, or is gone after it was read before. Going on would take outcomes for missing.
    StoreOutdated
        It is no file of the csv store, or damaged; the message says where.
    """
    if platform.config.storage.outcomes != "csv":
        return Absorbed()
    file = platform.settings.csv_file
    counts: Counter[str] = Counter()
    # Again while something is new: a watch that read for a minute must not take the outcomes of that minute for
    # missing. Each look takes a fraction of the one before, so a few do, and a busy writer cannot hold the watch up.
    for _ in range(LOOKS):
        if not (new := _absorb(platform, file, _rows_of, is_kept=True)):
            break
        counts.update(new)
    counts.update(_absorb(platform, quarantine_path(file), _refused_of, is_kept=False))
    return Absorbed(**counts)


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a CSV file has been read.

    Attributes
    ----------
    path : Path
    unread : int
        Bytes behind what was read; all of a file that is another one than was read.
    is_there, was_read : bool
        Whether the file exists; whether anything of it ever was read.
    unread_since : datetime or None
        When the file was written last, if something in it is unread.
    """

    path: Path
    unread: int
    is_there: bool
    was_read: bool
    unread_since: datetime | None

    def in_words(self) -> str:
        """The same in a sentence."""
        if not self.is_there:
            gone = "is gone, but was read before" if self.was_read else "is not there yet; the first outcome makes it"
            return f"{self.path} {gone}"
        if self.unread:
            return f"{self.unread:,} bytes of {self.path} wait to be read; the watch and every run read them"
        return f"{self.path} is read to its end"


def standing(platform: Platform) -> Standing:
    """How far the problem's CSV file has been read, without reading on.

    Raises
    ------
    StoreUnavailable
        The file or the database cannot be looked at.
    StoreOutdated
        It is no file of the csv store.
    """
    path = platform.settings.csv_file
    with platform.database.read() as connection:
        place = csv_intake.place(connection, path)
    signature = _signature(path)
    if signature is None:
        return Standing(path, 0, is_there=False, was_read=place is not None, unread_since=None)
    with _reading(path), _opened(path) as file:
        if platform.config.storage.outcomes == "csv":
            _ = file.columns  # refuses another program's file
        read = place.position if place is not None and file.continues(place) else 0
        unread = os.fstat(file.descriptor).st_size - read
    changed_at = datetime.fromtimestamp(signature[3] / 1e9, tz=UTC) if unread else None
    return Standing(path, unread, is_there=True, was_read=place is not None, unread_since=changed_at)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of one batch, the bytes that they span, and the digest of what lies before their end."""

    span: int
    tail: str = ""
    outcomes: list[Outcome] = field(default_factory=list)
    refused: list[RefusedRow] = field(default_factory=list)

    def store(self, connection: Connection) -> dict[str, int]:
        """Store them; how many became what."""
        new = csv_intake.store(connection, self.outcomes)
        for (received_at, source), rows in groupby(self.refused, key=attrgetter("received_at", "source")):
            found = [(row.refused.raw, row.refused.error) for row in rows]
            quarantine.refuse_all(connection, found, received_at, source)
        return {"accepted": new, "duplicate": len(self.outcomes) - new, "quarantined": len(self.refused)}


_Reader = Callable[["_File", bytes, int, OutcomeRules, datetime], _Rows]


class _File:
    """A file that is being read, and up to where it may be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.end = 0
        self.look()
        self._columns: Columns | None = None

    @property
    def columns(self) -> Columns | None:
        """What its first line says; None while that has no end yet."""
        if self._columns is None:
            self._columns = Columns.of_file(self.read(0, BATCH_BYTES), str(self.path))
        return self._columns

    def look(self) -> None:
        """See how far it has grown; another reader may be further than this one could read when it opened it."""
        size = os.fstat(self.descriptor).st_size
        self.end = min(size, readable_end(self.path, size))

    def read(self, begin: int, end: int) -> bytes:
        """Bytes from `begin` up to `end`, or up to what is there."""
        return os.pread(self.descriptor, max(0, min(end, self.end) - begin), begin)

    def head(self, position: int) -> str:
        """The digest of the first bytes of what lies before `position`."""
        return _digest(self.read(0, min(KNOWN_BYTES, position)))

    def tail(self, position: int) -> str:
        """The digest of the last bytes of what lies before `position`."""
        return _digest(self.read(max(0, position - KNOWN_BYTES), position))

    def continues(self, place: Place) -> bool:
        """Whether this is the file that was read up to `place`."""
        position = place.position
        if position > self.end:
            return False
        return position == 0 or (self.head(position), self.tail(position)) == (place.head, place.tail)


def _absorb(platform: Platform, path: Path, reader: _Reader, *, is_kept: bool) -> Mapping[str, int]:
    """Read one file on from its place to where it ends now; `is_kept`: it must not disappear."""
    key = (platform.database.url, str(path))
    signature = _signature(path)
    with platform.database.read() as connection:
        place = csv_intake.place(connection, path)
    if signature is None:
        if place is not None and is_kept:
            raise StoreUnavailable(
                f"{path} is gone, but {place.position:,} bytes of it were read before; put it back, or an empty file "
                "in its place to begin anew. Without it every outcome would be taken for missing"
            )
        return {}
    if _seen.get(key) == (signature, place):
        return {}
    total: Counter[str] = Counter()
    with _reading(path), _opened(path) as file:
        for counts, at in _batches(platform, file, place, reader):
            total.update(counts)
            place = at
    _seen[key] = signature, place
    return total


def _batches(
    platform: Platform, file: _File, place: Place | None, reader: _Reader
) -> Iterator[tuple[Mapping[str, int], Place]]:
    """Store batch after batch, each with the new place in one transaction, up to the file's present end."""
    rules, until = published.outcome_rules(platform.config), file.end
    while True:
        now = platform.now()
        known = place or Place()
        file.look()
        begin = known if file.continues(known) else Place()
        if begin.position >= until or (rows := _next_rows(file, begin.position, reader, rules, now)) is None:
            return
        with platform.database.write() as connection:
            if place is None:
                csv_intake.first_place(connection, file.path, now)
            place = csv_intake.place(connection, file.path, is_locking=True) or Place()
            if place != known:
                continue  # another process was faster; go on where it stopped
            counts = rows.store(connection)
            at = begin.position + rows.span
            sums = dict(Counter(begin.counts) + Counter(counts))
            moved = Place(at, file.head(at), rows.tail, sums)
            csv_intake.move(connection, file.path, moved, now)
        place = moved
        yield counts, moved


def _next_rows(file: _File, begin: int, reader: _Reader, rules: OutcomeRules, now: datetime) -> _Rows | None:
    """The next batch of whole rows; None when there is none."""
    known, length = min(KNOWN_BYTES, begin), BATCH_BYTES
    while True:
        block = file.read(begin - known, begin + length)
        rows = reader(file, block[known:], begin, rules, now)
        if rows.span:
            # From the bytes that were read: the file may be cut back and grow again before it is looked at once more.
            return replace(rows, tail=_digest(block[: known + rows.span][-KNOWN_BYTES:]))
        if begin - known + len(block) >= file.end:
            return None
        if length > MAX_RECORD:
            raise StoreOutdated(open_quote(file.path, lines_before(file.descriptor, begin) + 1))
        length *= 2


def _rows_of(file: _File, data: bytes, begin: int, rules: OutcomeRules, now: datetime) -> _Rows:
    """The rows of a CSV file."""
    records, span = whole_records(data)
    columns = file.columns if data else None
    if columns is None:
        return _Rows(0)
    if not records and b"\n" in data and begin + len(data) >= file.end and columns.holds_rows(data):
        # To wait for the end of a row that never comes would take all outcomes behind it for missing.
        raise StoreOutdated(open_quote(file.path, lines_before(file.descriptor, begin) + 1))
    found = _Rows(span)
    for record in records[1:] if begin == 0 else records:
        if not record.strip():
            continue
        read = columns.decode(record, rules, now)
        if isinstance(read, Refused):
            found.refused.append(RefusedRow(read, now, file.path.name))
        else:
            found.outcomes.append(read)
    return found


def _refused_of(file: _File, data: bytes, begin: int, rules: OutcomeRules, now: datetime) -> _Rows:  # noqa: ARG001
    """The lines of a quarantine file."""
    span = data.rfind(b"\n") + 1
    return _Rows(span, refused=[_refused(line, file, now) for line in data[:span].splitlines() if line.strip()])


def _refused(line: bytes, file: _File, now: datetime) -> RefusedRow:
    row = read_line(line)
    if row is not None:
        return row
    content = {"content": line.decode(errors="backslashreplace")}
    error = SchemaError(ROW, "is no line of a quarantine file; was it edited?")
    return RefusedRow(Refused(content, error), now, file.path.name)


def _signature(path: Path) -> _Signature | None:
    """What changes when a file does; None when it is not there."""
    with _reading(path):
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def _opened(path: Path) -> Iterator[_File]:
    file = _File(path)
    try:
        yield file
    finally:
        os.close(file.descriptor)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be read: {error.strerror or error}; mend that and try again") from error


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
