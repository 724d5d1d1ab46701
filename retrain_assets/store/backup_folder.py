"""The folder of a backup: which files it holds, and how a new backup takes the old one's place.

Holds the description `backup.json`, the copying of files and the change from one backup to the next; does not hold what
is backed up (`operations/backup.py`) or the copy of the database (`backup.py`).

    backup.json     which files belong to the backup, each with its SHA-256; written last
    retrain.db      the database as a SQLite file
    files/...       the problem's files
    outcomes/...    the file of the csv store and its quarantine, wherever they lie
    config/...      the configuration
    .retrain-next/  a newer backup that is being made
    .lock           held while one is made

What replaces a file of the old backup waits in `.retrain-next` until everything is there. `backup.json` in it makes the
new backup the valid one: from then on a file is looked for there first, and moving the files to their places can be
interrupted and taken up again at any point. Before that the old backup is untouched.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from retrain_assets.errors import RetrainError, StoreOutdated, UsageError
from retrain_assets.store.files import sha256_of, write_atomically

FORMAT = 1
MANIFEST = "backup.json"
NEXT = ".retrain-next"
DATABASE = "retrain.db"
FILES = "files"
OUTCOMES = "outcomes"
CONFIG = "config/retrain.yaml"

_LOCK = ".lock"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a backup.

    Attributes
    ----------
    sha256 : str
    bytes : int
    mtime_ns : int or None
        When the original was last changed; None for what the backup made itself.
    """

    sha256: str
    bytes: int
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds.

    Attributes
    ----------
    problem : str
        Name of the problem.
    created_at : datetime
        The instant whose state the database copy holds.
    revision : str
        Schema revision of the copy.
    source : str
        `sqlite` or `postgresql`.
    tables : mapping
        Rows by table.
    files : mapping
        Every file by its name in the folder.
    left_out : tuple of str
        What was left out on purpose.
    """

    problem: str
    created_at: datetime
    revision: str
    source: str
    tables: Mapping[str, int]
    files: Mapping[str, Entry]
    left_out: tuple[str, ...] = field(default=())

    def to_json(self) -> str:
        """The text of `backup.json`, with a digest over everything else in it."""
        data = {"format": FORMAT, **asdict(self), "created_at": self.created_at.isoformat()}
        return json.dumps(data | {"digest": _digest(data)}, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read `backup.json`.

        Raises
        ------
        StoreOutdated
            It is of a newer format.
        RetrainError
            It is torn or tampered with.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            digest, version = data.pop("digest"), data.pop("format")
            if version != FORMAT:
                message = f"{MANIFEST} has format {version}, this version reads {FORMAT}: upgrade retrain-assets"
                raise StoreOutdated(message)
            if digest != _digest({"format": version, **data}):
                raise RetrainError(f"{MANIFEST} does not match its own digest: it was changed or damaged")
            files = {_checked(name): Entry(**entry) for name, entry in data.pop("files").items()}
            created_at = datetime.fromisoformat(data.pop("created_at"))
            return cls(**data | {"left_out": tuple(data["left_out"])}, created_at=created_at, files=files)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RetrainError(f"{MANIFEST} cannot be read ({error}): it was changed or damaged") from error


def _digest(data: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(data))  # as it will be read again: tuples become lists
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _checked(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
        raise RetrainError(f"{MANIFEST} names {name!r}, which lies outside the backup: it was tampered with")
    return name


class BackupFolder:
    """A folder that holds a backup, or will.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = path / NEXT
        self.warnings: list[str] = []
        """What was found while the folder was taken for a new backup, in sentences."""

    def read(self) -> Manifest:
        """The description of the valid backup.

        Raises
        ------
        UsageError
            There is none.
        RetrainError
            It cannot be relied on.
        """
        file = self.locate(MANIFEST)
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UsageError(f"{self.path} holds no backup: there is no {MANIFEST} in it") from None
        except UnicodeDecodeError as error:
            raise RetrainError(f"{MANIFEST} cannot be read ({error}): it was changed or damaged") from error
        return Manifest.from_json(text)

    def locate(self, name: str) -> Path:
        """Where a file of the valid backup lies."""
        waiting = self._next / name
        return waiting if (self._next / MANIFEST).exists() and waiting.exists() else self.path / name

    def faults(self, manifest: Manifest, progress: Callable[[int], None] = lambda _: None) -> list[str]:
        """What is wrong with the files, a line each; `progress` is told the bytes that were read."""
        found = []
        for name, entry in sorted(manifest.files.items()):
            try:
                file = self.locate(name)
                if (size := file.stat().st_size) != entry.bytes:
                    found.append(f"{name}: has {size} bytes instead of {entry.bytes}")
                elif sha256_of(file) != entry.sha256:
                    found.append(f"{name}: other content than recorded")
            except OSError as error:
                found.append(f"{name}: {error.strerror or error}")
            progress(entry.bytes)
        return found

    @contextmanager
    def renewed(self) -> Iterator[Manifest | None]:
        """Hold the folder for a new backup; gives the description of the one that is there, None without a usable one.

        Raises
        ------
        UsageError
            The folder holds something else.
        StoreOutdated
            A newer version made the backup that is there.
        RetrainError
            Another process makes a backup there.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; name a folder for the backup")
        if self.path.is_dir() and not self._is_ours() and any(child.name != _LOCK for child in self.path.iterdir()):
            raise UsageError(f"{self.path} is not empty and holds no backup; name a new folder, or the last backup's")
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / _LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends, however it ends
            except BlockingIOError:
                raise RetrainError(f"another backup is being made in {self.path}; wait for it") from None
            self._finish()
            before = self._before()
            if self._next.exists():
                shutil.rmtree(self._next)
            self._next.mkdir()
            yield before

    def _is_ours(self) -> bool:
        """Whether a backup is here, or was begun: others use these names too, and their files are not to be touched."""
        has_lock = (self.path / _LOCK).is_file()
        if has_lock and self._next.is_dir():
            return True
        try:
            self.read()
        except UsageError:
            return False
        except StoreOutdated:
            return True
        except RetrainError:  # damaged, or another program's
            return has_lock and (self.path / DATABASE).is_file()
        return True

    def _before(self) -> Manifest | None:
        """The description of the last backup; a damaged one must not stand in the way of every later backup."""
        if not (self.path / MANIFEST).exists():
            return None
        try:
            return self.read()
        except StoreOutdated:
            raise
        except RetrainError as error:
            self.warnings.append(f"the last backup in {self.path} could not be used: {error}. Every file is read anew")
            return None

    def keep(self, name: str, source: Path, before: Entry | None) -> tuple[Entry, bool]:
        """Copy a file, unless the folder has it already.

        What the folder has is read and hashed in any case. The original is read only when its size or the time of
        its last change is not what the last backup recorded.

        Parameters
        ----------
        name : str
            In the folder.
        source : Path
        before : Entry or None
            The last backup's.

        Returns
        -------
        tuple
            The entry, and whether the file was copied.

        Raises
        ------
        OSError
            The original cannot be read.
        """
        told = source.stat()
        kept = self.path / name
        if kept.is_file() and kept.stat().st_size == told.st_size:
            is_known = before is not None and (before.bytes, before.mtime_ns) == (told.st_size, told.st_mtime_ns)
            digest = before.sha256 if before is not None and is_known else sha256_of(source)
            if sha256_of(kept) == digest:
                return Entry(digest, told.st_size, told.st_mtime_ns), False
        return copy_file(source, self._next / name if kept.exists() else kept), True

    def stage(self, name: str, write: Callable[[Path], None]) -> Entry:
        """Let `write` make a file of the new backup."""
        file = self._next / name
        write_atomically(file, write)
        return Entry(sha256_of(file), file.stat().st_size)

    def staged(self, name: str) -> Path:
        """Where a file lies that `stage` made."""
        return self._next / name

    def commit(self, manifest: Manifest) -> None:
        """Make the new backup the valid one."""
        write_atomically(self._next / MANIFEST, lambda path: _write(path, manifest.to_json()))
        self._finish()

    def _finish(self) -> None:
        """Move what a valid new backup still has in `.retrain-next` to its place, the description last."""
        if not (self._next / MANIFEST).exists():
            return
        waiting = [file for file in sorted(self._next.rglob("*")) if file.is_file() and file.name[0] != "."]
        for file in [file for file in waiting if file != self._next / MANIFEST] + [self._next / MANIFEST]:
            target = self.path / file.relative_to(self._next)
            target.parent.mkdir(parents=True, exist_ok=True)
            _sync(target.parent)
            file.replace(target)
            _sync(target.parent)


def copy_file(source: Path, target: Path) -> Entry:
    """Copy a file into place; it is complete or absent. What grows meanwhile is copied as far as it was read.

    Returns
    -------
    Entry
        Of the bytes that were written; the copy keeps the original's time.
    """
    found = hashlib.sha256()
    with source.open("rb") as read:
        told = os.fstat(read.fileno())

        def copy(path: Path) -> None:
            with path.open("wb") as written:
                while chunk := read.read(_CHUNK):
                    found.update(chunk)
                    written.write(chunk)
            os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))

        write_atomically(target, copy)
    return Entry(found.hexdigest(), target.stat().st_size, told.st_mtime_ns)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
