"""Who may write a CSV file of outcomes, and where the batch lies that is being written.

Holds the lock file beside it, the one exclusive lock on it and the note of the batch in it; does not hold the rows
(`csv_outcomes.py`). The note is made before a batch is written, and closed when it is synced. A write that a kill cut
short is so told from a whole one, also where it was cut behind a whole row; and a reader does not take half of a batch
that is being written.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from retrain_assets.errors import StoreUnavailable
from retrain_assets.store.csv_disk import is_same_file

_NOTE_BYTES = 80
_READS = 5
"""A note that does not agree with its checksum is just being written: it is read this often."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Where a batch lies in the file: bytes from `begin` up to `end`."""

    begin: int
    end: int

    def is_cut(self, size: int) -> bool:
        """Whether a file of `size` bytes holds a part of it only."""
        return self.begin < size < self.end


def lock_path(path: Path) -> Path:
    """The lock file of a CSV file."""
    return path.with_name(f"{path.name}.lock")


def readable_end(path: Path, size: int) -> int:
    """Up to where a reader may read a file that had `size` bytes a moment ago: not into a batch that is not whole."""
    try:
        descriptor = os.open(lock_path(path), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return size
    try:
        batch = _read_note(descriptor)
    finally:
        os.close(descriptor)
    return batch.begin if batch is not None and batch.is_cut(size) else size


class WriterLock:
    """The right to write a file, held until `release` or the end of the process.

    Raises
    ------
    StoreUnavailable
        Somebody else holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = lock_path(path)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise StoreUnavailable(
                f"{path} has another writer already (it holds {self._path.name}); nothing was stored. A csv file is "
                "for one writer: close the other one, or set storage.outcomes to database, which takes any number"
            ) from None
        except OSError:
            os.close(self._descriptor)
            raise

    def is_in_place(self) -> bool:
        """Whether the lock file is still the one that others would lock."""
        return is_same_file(self._descriptor, self._path)

    def last_batch(self) -> Batch | None:
        """The batch that was written last, from its end to its end once it was synced; None where it is not known."""
        return _read_note(self._descriptor)

    def note(self, batch: Batch) -> None:
        """Say where the next batch will lie; to be called before it is written."""
        text = f"{batch.begin} {batch.end}"
        line = f"{text} {zlib.crc32(text.encode())}".ljust(_NOTE_BYTES - 1) + "\n"
        os.pwrite(self._descriptor, line.encode(), 0)

    def release(self) -> None:
        """Let others write. In a forked child this leaves the parent's lock as it is."""
        os.close(self._descriptor)


def _read_note(descriptor: int) -> Batch | None:
    for _ in range(_READS):
        words = os.pread(descriptor, _NOTE_BYTES, 0).split()
        if not words:
            return None
        if len(words) == 3 and str(zlib.crc32(b" ".join(words[:2]))).encode() == words[2]:
            return Batch(int(words[0]), int(words[1]))
    return None
