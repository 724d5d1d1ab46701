"""Files that are complete or absent: written beside, synced, then renamed.

Holds the atomic write and the digest; does not hold what is in the files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from retrain_assets.errors import StoreUnavailable


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place; durable when this returns.

    Raises
    ------
    StoreUnavailable
        The disk refused; `path` is what it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        make_folder(path.parent)
        write(temporary)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be written: {error}; free space or rights, then try again") from error
    finally:
        with contextlib.suppress(OSError):  # a place that cannot be written has nothing to clean up either
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder with those above it; the names of the new ones are durable when this returns.

    Raises
    ------
    OSError
        The disk refused, or something else has the name.
    """
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)  # a file in a folder whose own name is lost is lost too


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
