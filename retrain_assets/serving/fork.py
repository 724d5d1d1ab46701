"""What a fork means for engines: their threads are out of the database at that instant, and children start anew.

Holds the gate around database calls and the hooks of the operating system's fork; does not hold what an engine renews
in a child (`engine.py`). A lock inside SQLite or libpq that a thread holds while another one forks stays locked in the
child for ever; so a fork waits until the engines' own threads have left their drivers. It cannot do that for a
program's other threads: fork before they are started, or while they wait.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from functools import cache
from typing import Protocol

LONGEST_WAIT_S = 5.0
"""A fork goes on after this time even if a database call has not come back."""


class Forkable(Protocol):
    """What the hooks ask of an engine."""

    def after_fork(self) -> None:
        """Renew, in a child, what belongs to one process."""
        ...


class Gate:
    """Lets any number of threads through, except while the process forks."""

    def __init__(self) -> None:
        self._open()

    def __enter__(self) -> None:
        with self._changed:
            while self._is_shut:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def shut(self) -> None:
        """Keep newcomers out, and wait for those inside."""
        until = time.monotonic() + LONGEST_WAIT_S
        with self._changed:
            self._is_shut = True
            while self._inside and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def reopen(self) -> None:
        """Let threads through again, in the parent."""
        with self._changed:
            self._is_shut = False
            self._changed.notify_all()

    def _open(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._is_shut = False

    def reset(self) -> None:
        """Begin anew in a child, where nobody is inside."""
        self._open()


database_gate = Gate()
"""Around every database call of an engine's threads."""

_engines: weakref.WeakSet[Forkable] = weakref.WeakSet()


def watch(engine: Forkable) -> None:
    """Call `engine.after_fork` in every child process, for as long as the engine lives."""
    _register_hooks()
    _engines.add(engine)


@cache
def _register_hooks() -> None:
    """Once for each process, for hooks cannot be taken back."""
    os.register_at_fork(before=database_gate.shut, after_in_parent=database_gate.reopen, after_in_child=_in_child)


def _in_child() -> None:
    database_gate.reset()
    for engine in list(_engines):
        engine.after_fork()
