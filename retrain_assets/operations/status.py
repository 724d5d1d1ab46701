"""How things stand: what serves, what is on trial with which evidence, what the next run would do.

Holds the gathering of facts and their plain words; does not hold their layout (`cli/`). Reading only, and
neither Dagster, pandas nor scikit-learn is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from retrain_assets.core.canary import describe
from retrain_assets.core.dataset import Week, merge_weeks
from retrain_assets.core.deployment import Event, EventKind, ModelVersion
from retrain_assets.core.promotion import TrialState
from retrain_assets.core.routing import Route
from retrain_assets.errors import RetrainError
from retrain_assets.operations import csv_outcomes, extraction, quarantine, retrain
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.quarantine import Recent
from retrain_assets.store import datasets, decisions, outcomes, registry, trials, week_rows

LAST_EVENTS = 10


@dataclass(frozen=True, slots=True)
class Status:
    """What `retrain status` knows.

    Attributes
    ----------
    problem : str
    route : Route
    now, since : datetime
        When this was read; when production began to serve (None: nothing serves).
    weak : str or None
        How weak the evidence was on which production was promoted; None for proof, or a person's word.
    trial : TrialState or None
        The canary's trial.
    trial_since : datetime or None
    last_verdict : str or None
        Of the trial's last tick.
    paused_by : Event or None
    outcomes, newest_version : what there is to work with.
    events : tuple of Event
        The last ones, oldest first.
    refused : Recent or None
        Outcomes that were refused lately and wait.
    unread : str or None
        What of the csv store is not in the numbers yet.
    """

    problem: str
    route: Route
    now: datetime
    since: datetime | None
    weak: str | None
    trial: TrialState | None
    trial_since: datetime | None
    last_verdict: str | None
    paused_by: Event | None
    outcomes: int
    newest_version: str | None
    events: tuple[Event, ...]
    refused: Recent | None = None
    unread: str | None = None

    @property
    def is_watched(self) -> bool:
        """Whether somebody watches the canary: without a lease engines send it no task."""
        return self.route.lease_until is not None and self.now < self.route.lease_until

    def to_dict(self) -> dict[str, Any]:
        """The contract's JSON, with a few keys more."""
        route, trial = self.route, self.trial
        return {
            "problem": self.problem,
            "production": route.production_version,
            "production_since": self.since,
            "canary": route.canary_version,
            "canary_since": self.trial_since,
            "share": route.share,
            "holdback": _holdback(route),
            "epoch": route.epoch,
            "lease_until": route.lease_until,
            "paused": route.paused,
            "evidence": None if trial is None else evidence_of(trial),
            "verdict": self.last_verdict,
            "plan": None if trial is None else dict(trial.plan),
            "outcomes": self.outcomes,
            "newest_version": self.newest_version,
            "refused": None if self.refused is None else self.refused.to_dict(),
            "in_words": self.in_words(),
            "events": [event_dict(event) for event in self.events],
        }

    def in_words(self) -> list[str]:
        """The same in sentences, the most important first."""
        lines = [self._production()]
        if self.weak:
            lines.append(f"It was promoted on {self.weak}.")
        if self.route.canary_version is not None:
            lines += self._canary()
        elif self.route.production_version is not None:
            lines.append("Nothing is on trial.")
        if self.route.holdback_version is not None:
            share = _percent(self.route.holdback_share)
            lines.append(f"{self.route.holdback_version} stays on {share} of the tasks, as holdback.")
        if self.route.paused:
            told = f" since {instant(self.paused_by.at)}: {self.paused_by.reason}" if self.paused_by else ""
            lines.append(f"Automatic deployment is paused{told}. Rollback stays on; `retrain resume` ends the pause.")
        if self.refused is not None:
            lines.append(f"{self.refused.in_words()}.")
        if self.unread is not None:
            lines.append(f"{self.unread}.")
        return lines

    def _production(self) -> str:
        version = self.route.production_version
        if version is None:
            if not self.outcomes:
                return "Nothing serves yet, and there are no outcomes: `retrain import FILE` brings some in."
            newest = f"; the newest version is {self.newest_version}" if self.newest_version else ""
            return f"Nothing serves yet; {self.outcomes:,} outcomes are there{newest}. `retrain run` trains on them."
        since = f" since {instant(self.since)} ({ago(self.since, self.now)})" if self.since else ""
        return f"{version} serves as production{since}."

    def _canary(self) -> list[str]:
        route, trial = self.route, self.trial
        since = f" since {instant(self.trial_since)} ({ago(self.trial_since, self.now)})" if self.trial_since else ""
        lines = [f"{route.canary_version} is on trial with {_percent(route.share)} of the tasks{since}."]
        if trial is None:
            return [*lines, "Its evidence is missing from the database; the watch will end the trial."]
        hours = trial.duration_hours * trial.look
        steps = f", step {trial.step + 1} of {len(trial.steps)}" if len(trial.steps) > 1 else ""
        extended = ", extended once" if trial.look > 1 else ""
        lines.append(f"Time: {trial.elapsed_hours(self.now):.1f} of {hours:g} hours{steps}{extended}.")
        lines.append(f"Evidence: {describe(trial.evidence, trial.policy)}.")
        if self.last_verdict:
            lines.append(f"Last verdict: {self.last_verdict}.")
        if trial.condition:
            held = {"hold": "The trial is held", "incident": "The environment is at fault: the trial stands still"}
            lines.append(f"{held.get(trial.condition, trial.condition)} since {instant(trial.frozen_since)}.")
        if trial.plan.get("in_words"):
            lines.append(f"Plan: {trial.plan['in_words']}.")
        return [*lines, self._lease()]

    def _lease(self) -> str:
        until = self.route.lease_until
        if self.is_watched:
            return f"It is watched: the lease lasts until {instant(until)}."
        ended = f"its lease ended {instant(until)}" if until else "it has no lease"
        return (
            f"Nobody watches it ({ended}), so engines send it no task. "
            "Start `retrain guard`, or Dagster's daemon with `make ui`."
        )


def gather(platform: Platform, last: int = LAST_EVENTS) -> Status:
    """Read how things stand, all in one transaction.

    Raises
    ------
    StoreUnavailable
        The database is away.
    """
    unread = _unread(platform)
    with platform.database.read() as connection:
        route = registry.get_route(connection)
        trial = trials.get(connection, route.rollout_id) if route.rollout_id else None
        since, weak = _serving(connection, route)
        paused = registry.events(connection, kinds=(EventKind.PAUSED,), last=1) if route.paused else []
        versions = registry.versions(connection)
        return Status(
            problem=platform.config.problem.name,
            route=route,
            now=platform.now(),
            since=since,
            weak=weak,
            trial=TrialState.from_dict(trial.state) if trial else None,
            trial_since=trial.started_at if trial else None,
            last_verdict=trial.last_verdict if trial else None,
            paused_by=paused[0] if paused else None,
            outcomes=outcomes.count(connection),
            newest_version=versions[-1].version if versions else None,
            events=tuple(registry.events(connection, last=last)),
            refused=quarantine.recent(connection, platform.now()),
            unread=unread,
        )


def _unread(platform: Platform) -> str | None:
    """What of the csv store waits to be read; a file that cannot be looked at is told, and hides nothing else."""
    if platform.config.storage.outcomes != "csv":
        return None
    try:
        found = csv_outcomes.standing(platform)
    except RetrainError as error:
        return str(error)
    return found.in_words() if found.unread or (found.was_read and not found.is_there) else None


def _serving(connection: Connection, route: Route) -> tuple[datetime | None, str | None]:
    """Since when production serves, and how weak the evidence for its promotion was."""
    version = route.production_version
    found = registry.serving_since(connection, version) if version else None
    if found is None:
        return None, None
    promotions = registry.events(connection, kinds=(EventKind.PROMOTED,))
    newest = next((event for event in reversed(promotions) if event.version == version), None)
    weak = newest.evidence.get("weak") if newest else None
    return found[1], weak if isinstance(weak, str) and weak else None


def evidence_of(trial: TrialState) -> dict[str, Any]:
    """The evidence of a trial as JSON carries it."""
    evidence = trial.evidence
    return {
        "relative": evidence.relative,
        "absolute": evidence.absolute,
        "by_metric": evidence.by_metric,
        "by_limit": evidence.by_limit,
        "rates": evidence.rates,
        "in_words": describe(evidence, trial.policy),
    }


def event_dict(event: Event) -> dict[str, Any]:
    """An event as JSON carries it."""
    names = ("at", "actor", "kind", "version", "from_status", "to_status", "share", "reason", "evidence")
    return {name: getattr(event, name) for name in (*names, "run_id", "epoch", "seq")}


def model_dict(model: ModelVersion) -> dict[str, Any]:
    """A version as the list of versions carries it."""
    return {
        "version": model.version,
        "status": model.status,
        "week": model.week,
        "dataset_hash": model.dataset_hash,
        "schema_version": model.schema_version,
        "metrics": model.metrics,
        "created_at": model.created_at,
        "parent": model.parent_version,
        "run_id": model.run_id,
    }


def model_details(model: ModelVersion) -> dict[str, Any]:
    """A version with everything that is recorded of it."""
    return model_dict(model) | {
        "code_version": model.code_version,
        "seed": model.seed,
        "is_backfill": model.is_backfill,
        "spec": model.spec,
        "artefacts": model.artefacts,
        "report": model.report,
    }


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a run of a week would do now.

    Attributes
    ----------
    rows, new_tasks : int
        Tasks of the dataset; those that the last trained one did not hold.
    """

    week: str
    would_train: bool
    reason: str
    rows: int
    new_tasks: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON of a run that is not done: no version and no run."""
        outcome = "would_train" if self.would_train else "would_skip"
        told = {"week": self.week, "outcome": outcome, "version": None, "reason": self.reason, "run_id": None}
        return told | {"dry_run": True, "rows": self.rows, "new_tasks": self.new_tasks}


def outlook(platform: Platform, week: Week) -> Outlook:
    """Count what a run of `week` would learn from; nothing is written but what is new in the csv store."""
    csv_outcomes.absorb(platform)
    with platform.database.read() as connection:  # its own transaction: on PostgreSQL it holds writers back
        last_seq = outcomes.highest_seq(connection)
    with platform.database.read() as connection:
        trained = datasets.newest_training(connection, up_to=week.key)
        base = datasets.get_dataset(connection, trained.dataset_hash) if trained is not None else None
        counts = _week_counts(platform, connection, week, last_seq)
    schema_is_old = base is not None and base.schema_version != platform.config.schema.fingerprint
    held = {part.week: part.rows for part in base.snapshots} if base is not None and not schema_is_old else {}
    rows = sum(counts.values())
    new = sum(max(0, count - held.get(key, 0)) for key, count in counts.items())
    least = platform.config.retrain.min_new_samples
    since = f"since the training of week {trained.week}" if trained is not None else "so far"
    told = f"{new:,} new tasks {since}; retrain.min_new_samples asks for {least:,}"
    if new < least or not rows:
        return Outlook(week.key, would_train=False, reason=f"would skip: {told}", rows=rows, new_tasks=new)
    held_back = retrain.why_not_deployed(platform, week)
    then = "may deploy" if held_back is None else f"would not deploy: {held_back}"
    reason = f"would train on {rows:,} tasks ({told}); a version that passes {then}"
    return Outlook(week.key, would_train=True, reason=reason, rows=rows, new_tasks=new)


def _week_counts(platform: Platform, connection: Connection, week: Week, last_seq: int) -> dict[str, int]:
    """Tasks of each week that the dataset of `week` would hold; a snapshot that is still valid answers for its week."""
    config = platform.config.retrain
    weeks = _weeks(platform, connection, week)
    weeks = merge_weeks(weeks, config.merge_strategy, config.window_weeks)
    filling = extraction.of(platform).fingerprint
    is_refreshing = config.late_rows == "refresh"
    known = datasets.newest_snapshots(connection, platform.config.schema.fingerprint, filling)
    due = datasets.weeks_to_take(
        connection, platform.calendar, weeks, known, last_seq, refresh_late=is_refreshing, extraction=filling
    )
    open_keys = {late.key for late in due}
    counts = {part.key: known[part.key].rows for part in weeks if part.key not in open_keys}
    for late in due:
        counts[late.key] = week_rows.count(connection, late.start_at, late.end_at, last_seq)
    return counts


def _weeks(platform: Platform, connection: Connection, week: Week) -> Sequence[Week]:
    first = decisions.first_instant(connection)
    begin = platform.calendar.containing(first) if first is not None else week
    return platform.calendar.between(min(begin, week), week)


def instant(at: datetime | None) -> str:
    """An instant for people, in UTC to the minute."""
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def ago(then: datetime | None, now: datetime) -> str:
    """How long ago, in the largest unit that says something."""
    if then is None:
        return "-"
    passed = now - then
    for unit, length in (("day", timedelta(days=1)), ("hour", timedelta(hours=1)), ("minute", timedelta(minutes=1))):
        count = int(passed / length)
        if count >= 1:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def _holdback(route: Route) -> dict[str, Any] | None:
    if route.holdback_version is None:
        return None
    return {"version": route.holdback_version, "share": route.holdback_share}


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"
