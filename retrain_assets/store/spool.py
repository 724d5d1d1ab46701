"""Outcomes that wait on this machine until the database answers: one batch is one file.

Holds the files: writing, listing, reading, setting aside; does not hold when they are delivered (`spool_delivery.py`).
A file is written beside its place, synced and renamed, so there are no torn ones, and writers need no lock. It is
removed after the commit of its rows; whoever dies in between delivers it again, and `outcome_id` makes that harmless.
Several databases, versions and users may share a folder: each takes its own files, and leaves the others alone.

**Form.** `TIME-PROCESS-RANDOM.jsonl`, so that names sort in the order of writing. The first line is the header:
format, database (without user and password), number of rows, instant. Then a row a line, as `payloads.encode` has it.
A damaged file, which nobody can deliver, goes on as `*.jsonl.refused`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from retrain_assets.errors import StoreUnavailable
from retrain_assets.store import payloads
from retrain_assets.store.files import write_atomically

logger = logging.getLogger("retrain_assets.spool")

FORMAT = 1
SUFFIX, REFUSED = ".jsonl", ".refused"
_LOCK = ".lock"
_PORT = 5432
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
"""Of this process or machine, not of the file."""

Rows = list[dict[str, Any]]


class UndeliverableFile(Exception):
    """A file that nobody can deliver; the message says why."""


class ForeignFile(Exception):
    """A file that somebody else can deliver: of another database, a newer version, another user."""


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """What waits in a spool.

    Attributes
    ----------
    waiting_rows, waiting_files : int
    refused_files : int
        Set aside: damaged.
    foreign_files : int
        Of another database or of a newer version; they wait for that one.
    bytes : int
        Of the files that wait.
    oldest_at : datetime or None
        When the first of them was written.
    """

    waiting_rows: int
    waiting_files: int
    refused_files: int
    foreign_files: int
    bytes: int
    oldest_at: datetime | None


class Spool:
    """A folder of batches.

    Parameters
    ----------
    folder : Path
        Made by the first who writes. Any number of processes of this machine may share it.
    database : str or None
        Whose outcomes these are, as `name_of` tells; files of another one are left alone. None takes every file.
    """

    def __init__(self, folder: Path, database: str | None) -> None:
        self.folder = folder.absolute()
        self._database = database
        self._mutex = threading.Lock()
        self._newest_ns = 0
        self._skipped: set[str] = set()

    def keep(self, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Keep a batch; it is durable when this returns.

        Raises
        ------
        StoreUnavailable
            The disk refused; nothing is kept.
        """
        header = {
            "format": FORMAT,
            "database": self._database,
            "rows": len(rows),
            "spooled_at": datetime.now(tz=UTC).isoformat(),
        }
        lines = [json.dumps(header), *(payloads.encode(row) for row in rows)]
        content = "\n".join(lines).encode() + b"\n"
        path = self.folder / self._new_name()
        write_atomically(path, lambda temporary: _write(temporary, content))
        return path

    def waiting(self) -> list[Path]:
        """The files that wait, oldest first, without those that this process passes over.

        Raises
        ------
        StoreUnavailable
            The folder is there and cannot be read.
        """
        names = self._names()
        with self._mutex:
            self._skipped.intersection_update(names)
            return [self.folder / name for name in names if name.endswith(SUFFIX) and name not in self._skipped]

    def read(self, path: Path) -> Rows | None:
        """The rows of a file; None when somebody else has delivered it.

        Raises
        ------
        UndeliverableFile
            It is damaged, or no spool file.
        ForeignFile
            It is of a newer version, belongs to another database, or this user may not read it.
        StoreUnavailable
            This process can open no more files.
        """
        try:
            lines = path.read_bytes().decode().split("\n")[:-1]
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise ForeignFile(f"it cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UndeliverableFile("it is not text") from None
        except OSError as error:
            if error.errno in _PASSING:
                raise StoreUnavailable(f"{path} cannot be read now: {error.strerror}; try again") from error
            raise UndeliverableFile(f"it cannot be read: {error.strerror}") from None
        header = _header(lines)
        if self._database is not None and header.get("database") != self._database:
            raise ForeignFile(f"it belongs to {header.get('database')}, not to {self._database}")
        rows = [_row(line) for line in lines[1:]]
        if len(rows) != header.get("rows") or any(row is None for row in rows):
            raise UndeliverableFile(f"{header.get('rows')} rows were written, {len(rows)} lines are there or not whole")
        return [row for row in rows if row is not None]

    def remove(self, path: Path) -> None:
        """Take away a file whose rows are committed."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:  # another process delivers it again, which is harmless
            self.skip(path, f"it was delivered and cannot be removed: {error.strerror}")

    def refuse(self, path: Path, why: str) -> None:
        """Set a file aside, for a person to look at; it is in nobody's way any more."""
        try:
            path.rename(path.with_name(path.name + REFUSED))
        except FileNotFoundError:
            return
        except OSError as error:  # in a folder where each user may rename their own files only
            self.skip(path, f"{why}; and it cannot be set aside: {error.strerror}; move it away by hand")
            return
        logger.error("%s cannot be delivered and is kept as %s%s: %s", path, path.name, REFUSED, why)

    def skip(self, path: Path, why: str) -> None:
        """Leave a file where it is, and pass over it as long as this process lives."""
        with self._mutex:
            self._skipped.add(path.name)
        logger.warning("%s is left alone by this process: %s", path, why)

    def status(self) -> SpoolStatus:
        """What waits; reads the first line of every file.

        Raises
        ------
        StoreUnavailable
            The folder is there and cannot be read.
        """
        names = self._names()
        looks = [look for name in names if name.endswith(SUFFIX) and (look := _look(self.folder / name)) is not None]
        own = [look for look in looks if not self._is_foreign(look.header)]
        oldest_ns = next((ns for look in own if (ns := _time_ns(look.name))), None)
        return SpoolStatus(
            waiting_rows=sum(look.rows for look in own),
            waiting_files=len(own),
            refused_files=sum(name.endswith(REFUSED) for name in names),
            foreign_files=len(looks) - len(own),
            bytes=sum(look.bytes for look in own),
            oldest_at=None if oldest_ns is None else datetime.fromtimestamp(oldest_ns / 1e9, tz=UTC),
        )

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether this process alone may deliver now; several at once would be harmless, and do the work several times.

        The lock belongs to the process: a forked child has none, and a killed process leaves none.
        """
        try:
            handle = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:
            yield True  # no folder, or one that only reads: there is nothing to keep apart
            return
        try:
            yield _is_locked(handle)
        finally:
            os.close(handle)

    def _is_foreign(self, header: Mapping[str, Any]) -> bool:
        is_others = self._database is not None and header.get("database", self._database) != self._database
        return is_others or _is_newer(header.get("format"))

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.folder) if not name.startswith("."))  # noqa: PTH208  (fastest)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreUnavailable(f"the spool {self.folder} cannot be read: {error.strerror}; mend that") from error

    def _new_name(self) -> str:
        with self._mutex:  # later also when the clock was put back
            self._newest_ns = max(time.time_ns(), self._newest_ns + 1)
            return f"{self._newest_ns:020}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"


def name_of(database_url: str) -> str:
    """A database as a spool names it: where it is, without user and password; a SQLite file by its absolute path.

    A host has one name in whatever case, and 5432 is PostgreSQL's port also when nobody says so.
    """
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{Path(url.database or '').absolute()}"
    host = url.host or _text(url.query.get("host")) or "localhost"
    port = url.port or _text(url.query.get("port")) or _PORT
    place = host if host.startswith("/") else host.lower()  # a socket's folder is told by its case
    return f"{url.get_backend_name()}://{place}:{port}/{url.database or ''}"


def _text(value: str | tuple[str, ...] | None) -> str:
    return ",".join(value) if isinstance(value, tuple) else value or ""


def _is_locked(handle: int) -> bool:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in {errno.EACCES, errno.EAGAIN}  # another one: a file system without locks
    return True


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _header(lines: Sequence[str]) -> dict[str, Any]:
    try:
        header = json.loads(lines[0]) if lines else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or "format" not in header:
        raise UndeliverableFile("it is no spool file")
    if _is_newer(header["format"]):
        raise ForeignFile(f"it has format {header['format']}, this version reads {FORMAT}; upgrade this machine")
    if header["format"] != FORMAT:
        raise UndeliverableFile(f"it has format {header['format']}, which there never was")
    return header


def _is_newer(version: Any) -> bool:  # noqa: ANN401  (any JSON)
    return isinstance(version, int) and version > FORMAT


def _row(line: str) -> dict[str, Any] | None:
    """A row as it was kept; None for half a line. One that looks as if it had been cut is a row like any other."""
    if (values := payloads.decode(line).values) is not None:
        return values
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


@dataclass(frozen=True, slots=True)
class _Look:
    """What can be told about a file that waits without reading its rows."""

    name: str
    rows: int = 0
    bytes: int = 0
    header: Mapping[str, Any] = field(default_factory=dict)


def _look(path: Path) -> _Look | None:
    """Name, rows, bytes and header of a file that waits; None when it is gone."""
    try:
        with path.open("rb") as handle:
            header = json.loads(handle.readline())
            return _Look(path.name, int(header["rows"]), os.fstat(handle.fileno()).st_size, header)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return _Look(path.name)  # the delivery will say what is wrong with it


def _time_ns(name: str) -> int | None:
    digits = name.partition("-")[0]
    return int(digits) if digits.isdecimal() else None
