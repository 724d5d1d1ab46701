"""What a verdict is made of: its kinds, the circumstances it depends on, and the verdict itself.

Holds three values. Does not hold the rule that turns them into one another (canary_verdict).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any


class VerdictKind(StrEnum):
    """Result of weighing the evidence, in order of precedence."""

    ROLL_BACK = "ROLL_BACK"
    """The canary is worse than production, or breaks a limit that production meets."""
    ENVIRONMENT_INCIDENT = "ENVIRONMENT_INCIDENT"
    """A limit is broken, and production breaks it too: freeze share and clock, page once, never roll back."""
    HOLD = "HOLD"
    """Not enough for a rollback, too much to go on: freeze the ramp; reversible."""
    PROMOTE = "PROMOTE"
    """The duration is over and every condition holds: next ramp step, or production at the last."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """The duration is over and a condition failed: extend once, then `not_promoted`."""
    CONTINUE = "CONTINUE"
    """Nothing to do yet."""


@dataclass(frozen=True, slots=True)
class Context:
    """The circumstances a verdict depends on, beside the evidence.

    Attributes
    ----------
    elapsed_hours : time on trial, without the time frozen by incidents.
    duration_hours : length of one look; look 2 ends at twice this.
    look, looks : this look and the looks allowed, each 1 or 2; the 5 % of the margins is split over `looks`. Pass
        `looks=2` from the start for a canary that may be extended.
    share : mean share logged with the decisions.
    assigned_canary, assigned_total : decisions assigned to the canary, and to both arms, for the share check; None
        takes the tasks counted in the evidence.
    tasks_canary, missing_canary, tasks_production, missing_production : mature tasks per arm, and how many of them
        have no outcome.
    expected_canary_outcomes : from the plan; what `auto` decides by, together with the outcomes that came.
    offline_refused : the offline report refused the candidate.
    is_last_step : whether a promotion means production (else the next ramp step).
    daily_cycle_seen : whether a whole daily cycle was observed; None derives it from `elapsed_hours`.
    production_recent : per limit metric (tasks, good) of production's last 200 tasks; ends an incident.

    Raises
    ------
    ValueError : naming the field that is out of range.
    """

    elapsed_hours: float = 0.0
    duration_hours: float = 24.0
    look: int = 1
    looks: int = 1
    share: float = 0.1
    assigned_canary: int | None = None
    assigned_total: int | None = None
    tasks_canary: int = 0
    missing_canary: int = 0
    tasks_production: int = 0
    missing_production: int = 0
    expected_canary_outcomes: float | None = None
    offline_refused: bool = False
    is_last_step: bool = True
    daily_cycle_seen: bool | None = None
    production_recent: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (1 <= self.look <= self.looks <= 2):
            raise ValueError(f"need 1 <= look <= looks <= 2, got look={self.look!r}, looks={self.looks!r}")
        if not 0 < self.share < 1:
            raise ValueError(f"share must lie between 0 and 1, both excluded, got {self.share!r}")
        if not self.duration_hours > 0:
            raise ValueError(f"duration_hours must be positive, got {self.duration_hours!r}")
        if (self.assigned_canary is None) != (self.assigned_total is None):
            raise ValueError("assigned_canary and assigned_total belong together: give both or neither")
        for part, whole in (
            ("assigned_canary", "assigned_total"),
            ("missing_canary", "tasks_canary"),
            ("missing_production", "tasks_production"),
        ):
            few, all_ = getattr(self, part), getattr(self, whole)
            if not 0 <= (few or 0) <= (all_ or 0):
                raise ValueError(f"{part} must lie in 0..{whole}, got {few!r} of {all_!r}")

    @classmethod
    def of(cls, given: Context | Mapping[str, Any]) -> Context:
        """A context from a context or a plain mapping; unknown keys are a ValueError that lists the known ones."""
        if isinstance(given, Context):
            return given
        unknown = sorted(set(given) - set(_CONTEXT_FIELDS))
        if unknown:
            raise ValueError(f"unknown context keys {', '.join(unknown)}; known are {', '.join(_CONTEXT_FIELDS)}")
        return cls(**given)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the audit log."""
        recent = {metric: list(counts) for metric, counts in self.production_recent.items()}
        return {**{name: getattr(self, name) for name in _CONTEXT_FIELDS}, "production_recent": recent}

    @property
    def is_over(self) -> bool:
        """Whether this look has ended."""
        return self.elapsed_hours >= self.duration_hours * self.look


_CONTEXT_FIELDS = tuple(f.name for f in fields(Context))


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict, why, and every number behind it.

    Attributes
    ----------
    kind : what to do.
    reason : plain sentence with numbers.
    evidence : JSON-able numbers, for the audit log and metadata.
    weak : a promotion without proof of non-inferiority.
    """

    kind: VerdictKind
    reason: str
    evidence: dict[str, Any]
    weak: bool = False
