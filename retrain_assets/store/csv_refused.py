"""The quarantine beside a CSV file: rows that were refused, one JSON object a line.

Holds the file `NAME.quarantine.jsonl`, its writing and its reading back; does not hold the table `quarantine`, into
which its rows are taken (`operations/csv_outcomes.py`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from retrain_assets.errors import SchemaError
from retrain_assets.store import payloads
from retrain_assets.store.csv_disk import append_durably, open_to_append, sync_folder
from retrain_assets.store.csv_format import Refused


class _Line(msgspec.Struct, frozen=True):
    """One line of the file."""

    received_at: datetime
    source: str
    field: str
    reason: str
    payload: msgspec.Raw

    @property
    def digest(self) -> bytes:
        """What makes it the same row as another: all but the instant."""
        told = f"{self.source}\x1f{self.field}\x1f{self.reason}".encode()
        return hashlib.blake2b(told + b"\x1f" + bytes(self.payload), digest_size=16).digest()


_decoder = msgspec.json.Decoder(_Line)


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """One line of the file."""

    refused: Refused
    received_at: datetime
    source: str


def quarantine_path(path: Path) -> Path:
    """The quarantine of a CSV file: `outcomes.quarantine.jsonl` beside `outcomes.csv`."""
    return path.with_name(f"{path.stem}.quarantine.jsonl")


class RefusedFile:
    """The quarantine file, held by the one writer of its CSV file; the same row twice is one line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: set[bytes] = set()
        self._end = 0
        if path.exists():
            self._read()

    def is_as_left(self) -> bool:
        """Whether nobody changed or removed the file since it was written last."""
        try:
            return self._path.stat().st_size == self._end
        except FileNotFoundError:
            return self._end == 0

    def append(self, refused: Sequence[Refused], now: datetime, source: str) -> None:
        """Keep refused rows; durable when this returns.

        Raises
        ------
        OSError
            Nothing was kept.
        """
        lines = [
            _Line(
                received_at=now,
                source=_writable(source),
                field=_writable(row.error.field),
                reason=_writable(row.error.message),
                payload=msgspec.Raw(payloads.encode(row.raw).encode()),
            )
            for row in refused
        ]
        new = {line.digest: msgspec.json.encode(line) + b"\n" for line in lines if line.digest not in self._known}
        if not new:
            return
        data = b"".join(new.values())
        self._append(data)
        if self._end == 0:
            sync_folder(self._path.parent)  # the file is new: without its name in the folder a power cut takes it away
        self._end += len(data)
        self._known |= new.keys()

    def _append(self, data: bytes) -> None:
        descriptor = open_to_append(self._path)
        try:
            append_durably(descriptor, data, self._end)
        finally:
            os.close(descriptor)

    def _read(self) -> None:
        """Read what is known, and take away a line that a kill cut short: nobody was told that it is kept.

        A whole line without its end stays and gets it: an editor took it away.
        """
        tail = b""
        with self._path.open("rb+") as file:
            for line in file:
                known = _read(line)
                if not line.endswith(b"\n"):
                    if known is None:
                        file.truncate(self._end)
                        break
                    tail = line
                self._end += len(line)
                if known is not None:
                    self._known.add(known.digest)
        if tail:
            self._append(b"\n")
            self._end += 1


def read_line(line: bytes) -> RefusedRow | None:
    """Read one line back; None where it is none that this module wrote."""
    read = _read(line)
    if read is None or read.received_at.tzinfo is None:
        return None
    payload = payloads.decode(bytes(read.payload).decode())
    raw = payload.values if payload.values is not None else {"content": payload.head}
    return RefusedRow(Refused(raw, SchemaError(read.field, read.reason)), read.received_at, read.source)


def _read(line: bytes) -> _Line | None:
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        return None


def _writable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
