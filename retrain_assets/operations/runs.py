"""Who runs a step of the weekly loop, and how a step says that it has nothing to do.

Holds `Run`, `Held` and the events of a run as a whole; does not hold the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retrain_assets.core.dataset import Week
from retrain_assets.core.deployment import EventKind
from retrain_assets.operations import deploy
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform
from retrain_assets.store import registry


@dataclass(frozen=True, slots=True)
class Run:
    """Who runs a step.

    Attributes
    ----------
    run_id : str or None
        Dagster's.
    actor : str
    """

    run_id: str | None
    actor: str = "weekly_retrain"

    def because(self, reason: str, evidence: Mapping[str, Any] | None = None) -> Cause:
        """The cause of an event in this run."""
        return Cause(self.actor, reason, self.run_id, evidence)


@dataclass(frozen=True, slots=True)
class Held:
    """A step that has nothing to do, and why; not an error."""

    reason: str


def skip(platform: Platform, run: Run, week: Week, reason: str) -> Held:
    """Record that a week's retraining is skipped, and why; it is no error."""
    deploy.note(platform, EventKind.RETRAIN_SKIPPED, run.because(reason, {"week": week.key}))
    return Held(reason)


def fail(platform: Platform, run: Run, reason: str) -> None:
    """Record a failed run, once."""
    with platform.database.read() as connection:
        known = registry.events(connection, kinds=(EventKind.RETRAIN_FAILED,), run_id=run.run_id)
    if not known:
        deploy.note(platform, EventKind.RETRAIN_FAILED, run.because(reason))


def is_old(platform: Platform, week: Week) -> bool:
    """Whether a newer week has already closed: then a run of `week` is a backfill."""
    return week.key != platform.calendar.newest_closed(platform.now()).key
