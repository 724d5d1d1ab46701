"""Text of files as it was written: plain or gzipped, in whatever encoding.

Holds how an encoding is found and how a file is opened; does not hold rows (`operations/row_files.py`).

An encoding is, in this order: what a byte order mark says, what somebody said, UTF-8 where the text is UTF-8, else
a guess, which the caller is told to be one. Bytes that the encoding does not know come out as lone surrogates, so
that their own row can be refused and kept while the others are read.
"""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import IO, cast

from retrain_assets.errors import RetrainError, UsageError

UTF8 = "utf-8"
SAMPLE_LINES = 2_000
"""Lines with other than ASCII characters on which a guess is made."""

_MARKS = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WIDE = ("utf-16", "utf-32")
_BLOCK = 1 << 20
_GZIP_MARK = b"\x1f\x8b"
# What Western European text holds beyond ASCII; letters of other alphabets would look like rows of these.
_WESTERN = frozenset("äöüÄÖÜßéèêëÉÈÊàâáåãæÀÂÁÅÃÆçÇñÑóòôõøœÓÔÕØúùûÚíìîïÍîýÿ€£§°–—‘’‚“”„…«»´·")
# They share most letters with the code pages of Windows, win ties against them, and nobody has written them since 2001.
_OF_OLD_MACS = ("mac_cyrillic", "mac_greek", "mac_iceland", "mac_latin2", "mac_roman", "mac_turkish")
_WORDS = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a file's bytes are text; `is_guessed` when neither a person, a mark nor the bytes themselves say it."""

    name: str
    is_guessed: bool = False


class OpenText:
    """A file opened as text; close it."""

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        self.encoding = find_encoding(path, encoding)
        self.is_wide = self.encoding.name.startswith(_WIDE)
        self._raw = path.open("rb")
        self._size = max(path.stat().st_size, 1)
        binary = gzip.GzipFile(fileobj=self._raw) if _is_gzip(path) else self._raw
        name = "utf-8-sig" if self.encoding.name == UTF8 else self.encoding.name
        errors = "replace" if self.is_wide else "surrogateescape"
        self.lines = TextIOWrapper(cast("BufferedReader", binary), encoding=name, errors=errors, newline="")

    def share(self) -> float:
        """How much of the file has been read, 0 to 1."""
        return min(self._raw.tell() / self._size, 1.0)

    def is_readable(self, text: str) -> bool:
        """Whether every byte of a text was known to the encoding."""
        if text.isascii():
            return True
        if self.is_wide:
            return "\ufffd" not in text
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
        return True

    def close(self) -> None:
        """Let go of the file."""
        self.lines.close()
        self._raw.close()


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Turn a gzip that ends early, or is none, into an error that says so."""
    try:
        yield
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise RetrainError(f"{path.name} is damaged: {error}; what stands before that was read") from error


def find_encoding(path: Path, said: str | None) -> Encoding:
    """The encoding of a text file.

    Parameters
    ----------
    path : Path
    said : str, optional
        What somebody said it is.

    Raises
    ------
    UsageError
        `said` is no encoding.
    """
    name = None if said is None else _named(said)
    with damage_told(path), open_bytes(path) as file:
        head = file.read(4)
    for mark, marked in _MARKS:
        if head.startswith(mark):  # it belongs to this very file; what was said may be meant for others
            return Encoding(marked)
    if name is not None:
        return Encoding(name)
    if _is_utf8(path):
        return Encoding(UTF8)
    return _guess(path)


def _named(said: str) -> str:
    try:
        name = codecs.lookup(said).name
    except (LookupError, ValueError):
        raise UsageError(f"{said!r} is not a known encoding; use a name such as utf-8, cp1252 or utf-16") from None
    return UTF8 if name == "utf-8-sig" else name


def open_bytes(path: Path) -> IO[bytes]:
    """A file's bytes, unpacked where it is gzipped."""
    return cast("IO[bytes]", gzip.open(path, "rb")) if _is_gzip(path) else path.open("rb")


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == _GZIP_MARK


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder(UTF8)()
    try:
        with damage_told(path), open_bytes(path) as file:
            while block := file.read(_BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    except RetrainError:  # the rows before the damage are worth reading
        return True
    return True


def _guess(path: Path) -> Encoding:
    """What the lines that are no UTF-8 are most likely; UTF-8 where those are the exception or nothing fits."""
    lines = _foreign_lines(path)
    broken = [line for line in lines if not _decodes(line)]
    if len(broken) * 2 <= len(lines):
        return Encoding(UTF8)
    text = b"".join(broken)
    if _looks_western(text):
        return Encoding("cp1252", is_guessed=True)
    from charset_normalizer import from_bytes

    best = from_bytes(text, cp_exclusion=list(_OF_OLD_MACS)).best()
    # Without coherence the library has only ruled out what cannot be, and names the first that is left.
    if best is None or best.coherence == 0 or best.encoding.startswith("utf"):
        return Encoding(UTF8)
    return Encoding(best.encoding, is_guessed=True)


def _foreign_lines(path: Path) -> list[bytes]:
    lines: list[bytes] = []
    with damage_told(path), open_bytes(path) as file:
        for line in file:
            if not line.isascii():
                lines.append(line[:_BLOCK])
                if len(lines) == SAMPLE_LINES:
                    break
    return lines


def _decodes(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _looks_western(text: bytes) -> bool:
    """Whether cp1252 makes words of it: known signs only, and most letters of the words that have them plain."""
    try:
        decoded = text.decode("cp1252")
    except UnicodeDecodeError:
        return False
    foreign = [sign for sign in decoded if not sign.isascii()]
    words = [word for word in _WORDS.findall(decoded) if not word.isascii()]
    if not set(foreign) <= _WESTERN:
        return False
    letters = sum(map(len, words))
    return sum(sign.isalpha() for sign in foreign) * 2 <= letters
