"""Appending to a file so that it is whole or absent, and durable.

Holds the calls to the operating system that the CSV store's files share; does not hold what is in them.
"""

from __future__ import annotations

import os
from pathlib import Path

_CHUNK = 2**20


def open_to_append(path: Path) -> int:
    """A descriptor to read and append; the file is made where it is missing."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)


def append_durably(descriptor: int, data: bytes, end: int) -> None:
    """Append to a file of `end` bytes and sync it; where that fails the file is cut back to `end`.

    Raises
    ------
    OSError
    """
    try:
        rest = memoryview(data)
        while rest:  # one write, unless the disk fills up in the middle of it
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except BaseException:
        os.ftruncate(descriptor, end)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names of new files in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_same_file(descriptor: int, path: Path) -> bool:
    """Whether `path` still names the file that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def lines_before(descriptor: int, end: int) -> int:
    """How many line ends lie before byte `end`."""
    begins = range(0, end, _CHUNK)
    return sum(os.pread(descriptor, min(_CHUNK, end - begin), begin).count(b"\n") for begin in begins)
