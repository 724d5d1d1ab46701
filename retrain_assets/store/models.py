"""Artefact files by content: put once, checked on every read.

Holds the folder `artefacts/` of a problem; does not hold what an artefact means (`serving/artefact.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrain_assets.errors import ArtefactRefused
from retrain_assets.store.files import write_atomically

FOLDER = "artefacts"
MAX_BYTES = 512 * 1024 * 1024
"""A larger artefact is refused before it is read."""


def put(problem_home: Path, name: str, content: bytes) -> dict[str, Any]:
    """Keep `content` under its digest.

    Returns
    -------
    dict
        `{"sha256", "path", "bytes"}`; the path is relative to the problem's home.
    """
    digest = hashlib.sha256(content).hexdigest()
    relative = Path(FOLDER) / digest[:2] / digest / name
    target = problem_home / relative
    if not target.exists() or hashlib.sha256(target.read_bytes()).hexdigest() != digest:
        write_atomically(target, lambda path: _write(path, content))
    return {"sha256": digest, "path": relative.as_posix(), "bytes": len(content)}


def read(problem_home: Path, name: str, entry: Mapping[str, Any]) -> bytes:
    """The bytes of an artefact, checked against the registry's digest before anything parses them.

    Raises
    ------
    ArtefactRefused
        The file is missing, outside the home, too large, or not what was registered.
    """
    path = (problem_home / str(entry["path"])).resolve()
    if not path.is_relative_to(problem_home.resolve()):
        raise ArtefactRefused(f"{name} lies outside the problem's home; the registry row was tampered with")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ArtefactRefused(f"{name} has {size} bytes, more than the {MAX_BYTES} that are accepted")
        content = path.read_bytes()
    except OSError as error:
        raise ArtefactRefused(f"{name} cannot be read at {entry['path']}: {error.strerror or error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != entry["sha256"]:
        raise ArtefactRefused(f"{name} has SHA-256 {found[:16]}..., the registry says {str(entry['sha256'])[:16]}...")
    return content


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
