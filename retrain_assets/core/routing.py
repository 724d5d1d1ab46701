"""Which version answers a task: the route and the sticky assignment of tasks to arms.

Holds the route value and the hash that spreads tasks; does not hold who changes the route
(`operations/deploy.py`) or who reads it (`serving/refresh.py`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from retrain_assets.core.outcomes import Arm

_SPAN = 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The one row that says which versions serve.

    Attributes
    ----------
    production_version, canary_version, holdback_version : str or None
    share, holdback_share : float
        Fractions of tasks, 0 to 1, for the canary and the holdback.
    rollout_id : str or None
        The canary on trial; a new trial has a new id and so assigns tasks afresh.
    step : int
        Position on the canary's ramp, from 0.
    epoch : int
        Rises by one with every change of traffic.
    lease_until : datetime or None
        Until when someone promises to watch the canary; after it engines send it no task.
    paused : bool
        Automatic deployment is stopped; rollback stays on.
    """

    production_version: str | None = None
    canary_version: str | None = None
    share: float = 0.0
    holdback_version: str | None = None
    holdback_share: float = 0.0
    rollout_id: str | None = None
    step: int = 0
    epoch: int = 0
    lease_until: datetime | None = None
    paused: bool = False

    def version_of(self, arm: Arm) -> str | None:
        """The version that answers for `arm`."""
        match arm:
            case Arm.CANARY:
                return self.canary_version
            case Arm.HOLDBACK:
                return self.holdback_version
            case _:
                return self.production_version


def task_position(task_id: str, salt: str) -> float:
    """Where a task falls in [0, 1): the same for the same task and salt, uniform over tasks.

    Keyed BLAKE2b, so that a share of task ids cannot line up with a pattern in them.
    """
    digest = hashlib.blake2b(task_id.encode(), digest_size=8, key=salt.encode()[:64]).digest()
    return int.from_bytes(digest, "big") / _SPAN


def assign(route: Route, task_id: str, now: datetime) -> Arm:
    """The arm of a task, before circuit and fallback are looked at.

    The canary takes positions below its share; a larger share keeps the tasks it had (sticky over
    the ramp). The holdback takes positions at the other end, so both never want one task.
    """
    if route.rollout_id is None:
        return Arm.PRODUCTION
    position = task_position(task_id, route.rollout_id)
    watched = route.lease_until is not None and now < route.lease_until
    if route.canary_version and watched and position < route.share:
        return Arm.CANARY
    if route.holdback_version and position >= 1 - route.holdback_share:
        return Arm.HOLDBACK
    return Arm.PRODUCTION
