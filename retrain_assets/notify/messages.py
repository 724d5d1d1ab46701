"""The text of every event: what happened, the evidence in numbers, and what to do next.

Holds pure functions from an event of the outbox to a message; does not hold where messages go (`channels.py`) or
when (`deliver.py`). Every `EventKind` has a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from retrain_assets.core.deployment import EventKind, Status

MAX_REASON_LENGTH = 1_500
"""Characters of a reason in a message; the audit log has all of it."""


class Severity(StrEnum):
    """How loud a message is; the values are Apprise's notification types."""

    INFO = "info"
    SUCCESS = "success"
    WARNING = "warning"
    FAILURE = "failure"
    """Somebody should look now."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a channel is given.

    Attributes
    ----------
    title : str
        One line that says what happened to what.
    body : str
        Plain text of a few lines.
    severity : Severity
    """

    title: str
    body: str
    severity: Severity


@dataclass(frozen=True, slots=True)
class _Text:
    """How an event reads: `{version}` stands for the version, in `then` too."""

    severity: Severity
    title: str
    then: str


_SHOW = "`retrain show {version}` has its report and numbers; `retrain status` says what serves."
_STATUS = "`retrain status` says what serves and what is on trial."

_TEXTS: dict[EventKind, _Text] = {
    EventKind.RETRAIN_STARTED: _Text(Severity.INFO, "retraining started", "Nothing to do; its end is reported too."),
    EventKind.RETRAIN_COMPLETED: _Text(Severity.SUCCESS, "retraining completed: {version}", _SHOW),
    EventKind.RETRAIN_SKIPPED: _Text(
        Severity.INFO, "retraining skipped", "Nothing to do; the next weekly run looks again. " + _STATUS
    ),
    EventKind.RETRAIN_FAILED: _Text(
        Severity.FAILURE,
        "retraining failed",
        "The version that serves goes on serving. Mend the cause, then `retrain run`; `retrain doctor` finds the usual "
        "ones.",
    ),
    EventKind.REGISTERED: _Text(Severity.INFO, "{version} registered", _SHOW),
    EventKind.REJECTED: _Text(
        Severity.WARNING, "{version} rejected", "It gets no traffic and production stays. " + _SHOW
    ),
    EventKind.STAGED: _Text(Severity.INFO, "{version} deployed to staging", _SHOW),
    EventKind.CANARY_STARTED: _Text(
        Severity.INFO,
        "{version} deployed to canary",
        "Nothing to do; it is promoted or rolled back by evidence. `retrain status` shows the evidence so far.",
    ),
    EventKind.CANARY_STEP: _Text(Severity.INFO, "canary {version} went one step up", _STATUS),
    EventKind.CANARY_EXTENDED: _Text(
        Severity.INFO, "canary {version} needs more time", "Nothing to do; it is judged once more. " + _STATUS
    ),
    EventKind.CANARY_HELD: _Text(
        Severity.WARNING,
        "canary {version} is on hold",
        "Its share does not rise until the doubt is gone. `retrain rollback --reason TEXT` ends the trial now.",
    ),
    EventKind.CANARY_RESUMED: _Text(Severity.INFO, "canary {version} goes on", _STATUS),
    EventKind.PROMOTED: _Text(
        Severity.SUCCESS,
        "{version} promoted to production",
        _SHOW + " `retrain rollback --reason TEXT` goes back to the version before.",
    ),
    EventKind.ROLLED_BACK: _Text(Severity.FAILURE, "{version} rolled back", _SHOW),
    EventKind.NOT_PROMOTED: _Text(
        Severity.WARNING,
        "{version} not promoted",
        "Production stays. `retrain show {version}` has its numbers; the next weekly run brings a new candidate.",
    ),
    EventKind.SUPERSEDED: _Text(Severity.INFO, "{version} superseded by a newer candidate", _STATUS),
    EventKind.RESTORED: _Text(Severity.WARNING, "{version} serves again", _SHOW),
    EventKind.DEPRECATED: _Text(Severity.INFO, "{version} deprecated", "It stays ready for a rollback. " + _STATUS),
    EventKind.ARCHIVED: _Text(Severity.INFO, "{version} archived", "It is kept for the record only."),
    EventKind.PAUSED: _Text(
        Severity.WARNING, "automatic deployment paused", "Rollback stays on. `retrain resume --reason TEXT` ends it."
    ),
    EventKind.RESUMED: _Text(Severity.INFO, "automatic deployment resumed", _STATUS),
    EventKind.ENVIRONMENT_INCIDENT: _Text(
        Severity.FAILURE,
        "the environment is in trouble, not {version}",
        "Canary and production break the same limit, so nothing is rolled back and the trial waits. "
        "Look at what the tasks depend on: sites, network, accounts.",
    ),
    EventKind.ENVIRONMENT_RECOVERED: _Text(Severity.SUCCESS, "the environment has recovered", "The trial goes on."),
    EventKind.SUCCESS_RATE_DROP: _Text(Severity.FAILURE, "success rate of {version} dropped", _STATUS),
    EventKind.ERROR_RATE_INCREASE: _Text(Severity.FAILURE, "error rate of {version} rose", _STATUS),
    EventKind.RESPONSE_TIME_INCREASE: _Text(Severity.FAILURE, "response time of {version} rose", _STATUS),
    EventKind.PERFORMANCE_DEGRADATION: _Text(
        Severity.FAILURE,
        "{version} performs worse",
        "Nothing was rolled back by itself: rollback.auto_rollback is off. `retrain rollback --reason TEXT` does it.",
    ),
    EventKind.ARTEFACT_REFUSED: _Text(
        Severity.FAILURE,
        "artefact of {version} refused",
        "That engine goes on with the version it has. Restore the file from a backup or another machine, or leave the "
        "version with `retrain rollback --reason TEXT`; `retrain doctor` checks every artefact.",
    ),
    EventKind.ROLLBACK_IMPOSSIBLE: _Text(
        Severity.FAILURE,
        "{version} should be rolled back, and cannot be",
        "It goes on serving. `retrain models` lists what there is; `retrain promote VERSION --reason TEXT` puts "
        "another one in its place.",
    ),
}


def compose(event_kind: EventKind | str, payload: Mapping[str, Any], problem: str) -> Message:
    """The message about one event.

    Parameters
    ----------
    event_kind : EventKind or str
        A kind that this version does not know still gets a plain message.
    payload : mapping
        As `store.outbox.put` writes it: version, reason, actor, at, statuses, share, evidence, run_id.
    problem : str
        Name of the problem, so that one channel can serve several.
    """
    version = str(payload.get("version") or "the version")
    try:
        kind: EventKind | None = EventKind(event_kind)
    except ValueError:
        kind = None
    text = _TEXTS[kind] if kind else _Text(Severity.WARNING, str(event_kind).replace("_", " "), _STATUS)
    title = _title(kind, text, payload).format(version=version)
    lines = [_reason(payload), *_evidence(payload), *_circumstances(payload), "", _then(kind, text, payload, version)]
    return Message(f"[{problem}] {title}", "\n".join(line for line in lines if line is not None), text.severity)


def sample_message(problem: str) -> Message:
    """What `retrain notify test` sends."""
    body = "If you can read this, the channel works. Nothing happened and nothing is to be done."
    return Message(f"[{problem}] test message", body, Severity.INFO)


def _title(kind: EventKind | None, text: _Text, payload: Mapping[str, Any]) -> str:
    share = payload.get("share")
    if kind in {EventKind.CANARY_STARTED, EventKind.CANARY_STEP} and share is not None:
        return f"{text.title}, with {share:.0%} of the tasks"
    if kind is EventKind.ROLLED_BACK and payload.get("from_status") == Status.CANARY:
        return f"canary {text.title}"
    if kind is EventKind.PROMOTED and _is_weak(payload):
        return f"{text.title} on weak evidence"
    return text.title


def _then(kind: EventKind | None, text: _Text, payload: Mapping[str, Any], version: str) -> str:
    then = text.then
    if kind is EventKind.ROLLED_BACK:
        if payload.get("from_status") == Status.CANARY:
            then = "Production was not touched and serves every task. " + then
        else:
            then = "An earlier version serves again. " + then
    if kind is EventKind.PROMOTED and _is_weak(payload):
        then = "Too few tasks to prove it as good as the version before: keep an eye on `retrain status`. " + then
    return "Next: " + then.format(version=version)


def _reason(payload: Mapping[str, Any]) -> str | None:
    reason = str(payload.get("reason") or "").strip()
    return None if not reason else f"Why: {reason[:MAX_REASON_LENGTH]}"


def _evidence(payload: Mapping[str, Any]) -> list[str]:
    """The numbers, as far as the event has them; a shape from another version is left out, never an error."""
    evidence = payload.get("evidence")
    if not isinstance(evidence, Mapping):
        return []
    lines: list[str] = []
    for read in (_weighed, _rates, _planned):
        try:
            lines += read(evidence)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return lines


def _weighed(evidence: Mapping[str, Any]) -> list[str]:
    """How strong the case against the canary is, beside what ends it."""
    if evidence.get("relative") is None:
        return []
    needed = evidence.get("needed") or {}
    told = [f"against production {_number(evidence['relative'])}{_of(needed.get('relative'))}"]
    if evidence.get("absolute") is not None:
        told.append(f"against the limits {_number(evidence['absolute'])}{_of(needed.get('absolute'))}")
    return [f"Evidence of harm: {', '.join(told)}"]


_RATES: dict[str, tuple[str, Callable[[float], float]]] = {
    "success": ("Success rate", lambda good: good),
    "error": ("Error rate", lambda good: 1 - good),
}


def _rates(evidence: Mapping[str, Any]) -> list[str]:
    lines = []
    for metric, (name, told) in _RATES.items():
        rate = (evidence.get("rates") or {}).get(metric)
        if rate:
            arms = [
                f"{arm} {told(rate[arm]):.3f} of {rate[f'n_{arm}']:,} tasks"
                for arm in ("canary", "production")
                if rate.get(arm) is not None
            ]
            lines.append(f"{name}: {', '.join(arms)}")
    return lines


def _planned(evidence: Mapping[str, Any]) -> list[str]:
    words = (evidence.get("plan") or {}).get("in_words")
    return [f"Plan: {words}"] if words else []


def _circumstances(payload: Mapping[str, Any]) -> list[str]:
    who = [f"by {payload['actor']}"] if payload.get("actor") else []
    if payload.get("at"):
        who.append(f"at {_instant(str(payload['at']))}")
    if payload.get("run_id"):
        who.append(f"in run {payload['run_id']}")
    return [f"Recorded {', '.join(who)}"] if who else []


def _is_weak(payload: Mapping[str, Any]) -> bool:
    evidence = payload.get("evidence")
    return isinstance(evidence, Mapping) and bool(evidence.get("weak"))


def _number(value: float) -> str:
    if value >= 1e6:
        return f"{value:.1e}"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _of(needed: float | None) -> str:
    return f" (acts at {_number(needed)})" if needed is not None else ""


def _instant(text: str) -> str:
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %Z")
    except ValueError:
        return text
