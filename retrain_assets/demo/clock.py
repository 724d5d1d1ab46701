"""Time that is told instead of waited for.

Holds the clock of the demonstration; does not hold what happens in it.
"""

from __future__ import annotations

from datetime import datetime


class ToldClock:
    """A clock that stands until it is told the next instant; it never goes back.

    Parameters
    ----------
    now : datetime
        Aware.
    """

    def __init__(self, now: datetime) -> None:
        self._now = now

    def __call__(self) -> datetime:
        """The present instant."""
        return self._now

    def tell(self, instant: datetime) -> None:
        """Move to `instant`, unless it lies behind."""
        self._now = max(self._now, instant)
