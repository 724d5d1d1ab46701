"""The life of a model version: its states, the allowed transitions, its number, and where to roll back to.

Holds the state machine as data; does not hold the writes that carry it out (`store/registry.py`,
`operations/deploy.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from retrain_assets.core.features import FeatureSchema, SchemaChange, compare_schemas
from retrain_assets.errors import TransitionRefused

_VERSION = re.compile(r"^v(\d+)\.(\d+)\.(\d+)$")


class Status(StrEnum):
    """Where a model version is in its life."""

    REGISTERED = "registered"
    """Trained and recorded; nothing is known of it yet but its training metrics."""
    STAGING = "staging"
    """Passed validation; waits for its smoke test or its trial."""
    CANARY = "canary"
    """On trial with a share of live tasks."""
    PRODUCTION = "production"
    """Serves; there is at most one."""
    DEPRECATED = "deprecated"
    """Served as production and was followed by a newer version: where a rollback goes."""
    REJECTED = "rejected"
    """Failed validation or its smoke test."""
    ROLLED_BACK = "rolled_back"
    """Taken out of traffic for cause; never serves again."""
    NOT_PROMOTED = "not_promoted"
    """Its trial ended without enough evidence."""
    SUPERSEDED = "superseded"
    """A newer candidate took its place before its trial ended."""
    ARCHIVED = "archived"
    """Kept for the record only."""


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.REGISTERED: frozenset({Status.STAGING, Status.REJECTED}),
    Status.STAGING: frozenset({Status.CANARY, Status.PRODUCTION, Status.REJECTED, Status.SUPERSEDED}),
    Status.CANARY: frozenset({Status.PRODUCTION, Status.ROLLED_BACK, Status.NOT_PROMOTED, Status.SUPERSEDED}),
    Status.PRODUCTION: frozenset({Status.DEPRECATED, Status.ROLLED_BACK}),
    Status.DEPRECATED: frozenset({Status.PRODUCTION, Status.ARCHIVED}),
    Status.REJECTED: frozenset({Status.ARCHIVED}),
    Status.ROLLED_BACK: frozenset({Status.ARCHIVED}),
    Status.NOT_PROMOTED: frozenset({Status.ARCHIVED}),
    Status.SUPERSEDED: frozenset({Status.ARCHIVED}),
    Status.ARCHIVED: frozenset(),
}
"""Every allowed change of status; anything else is refused."""


class EventKind(StrEnum):
    """What the audit log records; the seed's events and alerts keep their meaning."""

    RETRAIN_STARTED = "retrain_started"
    RETRAIN_COMPLETED = "retrain_completed"
    RETRAIN_SKIPPED = "retrain_skipped"
    RETRAIN_FAILED = "retrain_failed"
    REGISTERED = "registered"
    REJECTED = "rejected"
    STAGED = "staged"
    CANARY_STARTED = "canary_started"
    CANARY_STEP = "canary_step"
    CANARY_EXTENDED = "canary_extended"
    CANARY_HELD = "canary_held"
    CANARY_RESUMED = "canary_resumed"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    NOT_PROMOTED = "not_promoted"
    SUPERSEDED = "superseded"
    RESTORED = "restored"
    DEPRECATED = "deprecated"
    ARCHIVED = "archived"
    PAUSED = "paused"
    RESUMED = "resumed"
    ENVIRONMENT_INCIDENT = "environment_incident"
    ENVIRONMENT_RECOVERED = "environment_recovered"
    SUCCESS_RATE_DROP = "success_rate_drop"
    ERROR_RATE_INCREASE = "error_rate_increase"
    RESPONSE_TIME_INCREASE = "response_time_increase"
    PERFORMANCE_DEGRADATION = "performance_degradation"
    ARTEFACT_REFUSED = "artefact_refused"
    ROLLBACK_IMPOSSIBLE = "rollback_impossible"


SILENT = frozenset({EventKind.REGISTERED, EventKind.DEPRECATED, EventKind.ARCHIVED, EventKind.SUPERSEDED})
"""Events that are recorded but send no notification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One row of the audit log."""

    kind: EventKind
    at: datetime
    actor: str
    reason: str
    version: str | None = None
    from_status: Status | None = None
    to_status: Status | None = None
    share: float | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    epoch: int | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One row of the registry.

    Attributes
    ----------
    artefacts : dict
        File name to `{"sha256", "path", "bytes"}`; paths are relative to the problem's home.
    spec : dict
        Everything training was told: estimator, parameters, mode, threads, schema.
    """

    version: str
    status: Status
    week: str
    dataset_hash: str
    schema_version: str
    code_version: str
    spec: dict[str, Any]
    seed: int
    parent_version: str | None
    artefacts: dict[str, dict[str, Any]]
    metrics: dict[str, Any]
    report: dict[str, Any] | None
    run_id: str | None
    created_at: datetime
    training_id: str | None = None
    is_backfill: bool = False


def check_transition(version: str, current: Status, target: Status) -> None:
    """Refuse a transition that the table does not hold.

    Raises
    ------
    TransitionRefused
        Says which changes are possible from the current status.
    """
    if target not in TRANSITIONS[current]:
        possible = ", ".join(sorted(TRANSITIONS[current])) or "none"
        raise TransitionRefused(f"{version} is {current}; it cannot become {target} (possible: {possible})")


def parse_version(version: str) -> tuple[int, int, int]:
    """The three numbers of `v{MAJOR}.{MINOR}.{PATCH}`.

    Raises
    ------
    TransitionRefused
        The text is not a version.
    """
    match = _VERSION.match(version)
    if match is None:
        raise TransitionRefused(f"{version!r} is not a version; write it as v1.2.3")
    return int(match[1]), int(match[2]), int(match[3])


def next_version(
    existing: Sequence[str],
    *,
    base_schema: FeatureSchema | None,
    base_settings: dict[str, Any] | None,
    schema: FeatureSchema,
    settings: dict[str, Any],
) -> str:
    """Number the next version after the highest one.

    Parameters
    ----------
    existing : sequence of str
        All versions of the registry.
    base_schema, base_settings
        Schema, and estimator settings, of the highest existing version.
    schema, settings
        The same of the new one.

    Returns
    -------
    str
        MAJOR rises when the schema breaks, MINOR when it grows or the estimator or its settings
        change, PATCH for newer data alone.
    """
    if not existing or base_schema is None:
        return "v1.0.0"
    major, minor, patch = max(parse_version(v) for v in existing)
    change, _ = compare_schemas(base_schema, schema)
    if change is SchemaChange.BREAKING:
        return f"v{major + 1}.0.0"
    if change is SchemaChange.COMPATIBLE or settings != base_settings:
        return f"v{major}.{minor + 1}.0"
    return f"v{major}.{minor}.{patch + 1}"


def rollback_candidates(history: Sequence[Event], statuses: dict[str, Status], serving: str | None) -> list[str]:
    """Versions a rollback may go to, best first: those that served last, never rolled back themselves.

    Parameters
    ----------
    history : sequence of Event
        The audit log in order of `seq`.
    statuses : dict
        Current status of every version.
    serving : str or None
        The version that serves now and is to be left.
    """
    served = [e.version for e in history if e.to_status is Status.PRODUCTION and e.version]
    seen: list[str] = []
    for version in reversed(served):
        if version != serving and version not in seen and statuses.get(version) is Status.DEPRECATED:
            seen.append(version)
    return seen
