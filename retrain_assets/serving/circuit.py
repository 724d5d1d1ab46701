"""The circuit of a model on trial: after repeated failures it gets no task until it has been left alone for a while.

Holds the window of its last answers and the open, half-open and closed states; does not hold what a failure is or
who answers instead (`engine.py`).
"""

from __future__ import annotations

from datetime import datetime, timedelta

WINDOW = 20
"""Last answers of a trial that are looked at."""
TOLERATED = 4
"""Failures within the window that keep the circuit closed; one more opens it."""
FIRST_WAIT = timedelta(seconds=30)
"""How long an open circuit waits before it lets one task try again; doubles with each failed try."""
LONGEST_WAIT = timedelta(minutes=10)

_MASK = (1 << WINDOW) - 1


class Circuit:
    """Whether a model on trial may be asked; one for each rollout and version.

    The window is one integer, a bit for each answer, so that threads need no lock: of two notes at the same instant one
    may be lost, which delays the opening by one failure and never breaks it.

    Attributes
    ----------
    opened : int
        How often it opened from closed.
    """

    __slots__ = ("_is_trying", "_retry_at", "_wait", "_window", "opened")

    def __init__(self) -> None:
        self._window = 0
        self._wait = FIRST_WAIT
        self._retry_at: datetime | None = None
        self._is_trying = False
        self.opened = 0

    @property
    def is_open(self) -> bool:
        """True while the model gets no task, or one task to try again with."""
        return self._retry_at is not None

    def allows(self, now: datetime) -> bool:
        """Whether the model may answer this task; an open circuit allows one try after its wait."""
        if self._retry_at is None:
            return True
        if now < self._retry_at:
            return False
        self._retry_at = now + self._wait  # others keep waiting while this one tries
        self._is_trying = True
        return True

    def note(self, *, is_failure: bool, now: datetime) -> None:
        """Take in one answer; a good one closes an open circuit, a bad one keeps it open for twice as long."""
        if self._retry_at is not None:
            if not self._is_trying:
                return  # asked before the circuit opened: says nothing about whether it has recovered
            self._is_trying = False
            if is_failure:
                self._wait = min(self._wait * 2, LONGEST_WAIT)
                self._retry_at = now + self._wait
            else:
                self._window, self._wait, self._retry_at = 0, FIRST_WAIT, None
            return
        self._window = ((self._window << 1) | is_failure) & _MASK
        if is_failure and self._window.bit_count() > TOLERATED:
            self._retry_at = now + self._wait
            self.opened += 1
