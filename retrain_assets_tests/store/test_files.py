"""Files that are whole or absent, and artefacts that are what the registry says."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrain_assets.errors import ArtefactRefused, StoreUnavailable
from retrain_assets.store import models
from retrain_assets.store.files import sha256_of, write_atomically


def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    """A reader sees the old content or the new, never a part."""
    file = tmp_path / "folder" / "file"
    write_atomically(file, lambda path: _write(path, "old"))

    def half(path: Path) -> None:
        path.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreUnavailable, match=r"No space left on device.*free space or rights, then try again"):
        write_atomically(file, half)
    assert file.read_text() == "old"
    assert [path.name for path in file.parent.iterdir()] == ["file"]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """Here a file stands where a folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        write_atomically(tmp_path / "file" / "below", lambda path: _write(path, "new"))


def test_an_artefact_is_put_once_and_read_back(tmp_path: Path) -> None:
    """Its place is its content, so the same bytes are one file."""
    entry = models.put(tmp_path, "model.onnx", b"bytes")
    assert models.put(tmp_path, "model.onnx", b"bytes") == entry
    assert models.read(tmp_path, "model.onnx", entry) == b"bytes"
    assert entry["sha256"] == sha256_of(tmp_path / entry["path"])
    assert entry["bytes"] == 5
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_putting_an_artefact_again_mends_a_damaged_file(tmp_path: Path) -> None:
    """A training that is repeated brings the right bytes back."""
    entry = models.put(tmp_path, "model.onnx", b"bytes")
    (tmp_path / entry["path"]).write_bytes(b"bites")
    models.put(tmp_path, "model.onnx", b"bytes")
    assert models.read(tmp_path, "model.onnx", entry) == b"bytes"


def test_an_artefact_that_is_not_what_was_registered_is_refused(tmp_path: Path) -> None:
    """Changed, gone, somewhere else, or too large to be read: each is told, none is parsed."""
    entry = models.put(tmp_path / "home", "model.onnx", b"bytes")
    file = tmp_path / "home" / entry["path"]
    file.write_bytes(b"bites")
    with pytest.raises(ArtefactRefused, match=r"model\.onnx has SHA-256 \w{16}\.\.\., the registry says"):
        models.read(tmp_path / "home", "model.onnx", entry)
    file.unlink()
    with pytest.raises(ArtefactRefused, match=r"model\.onnx cannot be read at artefacts/.*No such file"):
        models.read(tmp_path / "home", "model.onnx", entry)
    (tmp_path / "elsewhere").write_bytes(b"bytes")
    with pytest.raises(ArtefactRefused, match="outside the problem's home"):
        models.read(tmp_path / "home", "model.onnx", entry | {"path": "../elsewhere"})
    with file.open("wb") as sparse:
        sparse.truncate(models.MAX_BYTES + 1)
    with pytest.raises(ArtefactRefused, match="more than the 536870912 that are accepted"):
        models.read(tmp_path / "home", "model.onnx", entry)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
