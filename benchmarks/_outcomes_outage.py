"""Databases that go away and come back, for the spool's benchmark.

Holds how one is put out of reach; does not hold what is measured meanwhile (`_outcomes_crash.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import make_url

from benchmarks._outcomes_base import Bench, sqlite_file


class Outage:
    """A database that can be put out of reach and back."""

    url: str

    def cut(self) -> None:
        """Take it away, also from connections that are open."""

    def back(self) -> None:
        """Put it back where it was."""

    @contextmanager
    def away(self) -> Iterator[None]:
        """Away for the length of the block."""
        self.cut()
        try:
            yield
        finally:
            self.back()


class FileOutage(Outage):
    """SQLite: a file stands where the database's folder was. Only while nobody has it open, or SQLite loses its log."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._folder = sqlite_file(url).parent
        self._elsewhere = self._folder.with_name(self._folder.name + "-away")

    def cut(self) -> None:
        """Put a file in its folder's place."""
        self._folder.rename(self._elsewhere)
        self._folder.touch()

    def back(self) -> None:
        """Put the folder back."""
        if self._elsewhere.exists():
            self._folder.unlink()
            self._elsewhere.rename(self._folder)


class SocketOutage(Outage):
    """PostgreSQL: the URL goes through a link to the socket's folder; the link is taken away and sessions are ended."""

    def __init__(self, bench: Bench, url: str) -> None:
        parsed = make_url(url)
        host = parsed.query["host"]
        assert isinstance(host, str)
        self._bench, self._database, self._host = bench, parsed.database, host
        self._link = bench.new_folder() / "socket"
        self._link.symlink_to(host)
        self.url = url.split("?", maxsplit=1)[0] + f"?host={self._link}"

    def cut(self) -> None:
        """Take the link away and end every session."""
        self._link.unlink()
        sessions = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._database}'"
        self._bench.on_server(sessions)

    def back(self) -> None:
        """Put the link back, where it was taken away."""
        if not self._link.is_symlink():
            self._link.symlink_to(self._host)


def outage_of(bench: Bench, kind: str) -> Outage:
    """A fresh database of a kind that can go away."""
    url = bench.new_database(kind)
    return FileOutage(url) if kind == "sqlite" else SocketOutage(bench, url)
