"""What became of a task: outcomes, their check at the door, and their join with decisions.

Holds the outcome and decision values and the rules that turn raw input into them; does not hold
where they are stored (`store/outcomes.py`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from retrain_assets.core.features import FeatureSchema, FeatureValue, check_encodable
from retrain_assets.errors import SchemaError

MISSING = "missing"
"""Failure reason of a decision that has no outcome when its task times out."""

FUTURE_SKEW = timedelta(minutes=5)
"""How far ahead of the receiver's clock a timestamp may lie before it is refused."""

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
"""A timestamp before it is a mistake; years below 1000 would also not sort as text."""

MAX_ID_LENGTH = 200
MAX_REASON_LENGTH = 2_000


class Result(StrEnum):
    """What became of an attempt."""

    SUCCESS = "success"
    FAILURE = "failure"
    """Tried, and did not succeed."""
    ERROR = "error"
    """Crashed, timed out or could not be tried."""


_RESULTS = {
    "success": Result.SUCCESS,
    "true": Result.SUCCESS,
    "failed": Result.FAILURE,
    "failure": Result.FAILURE,
    "false": Result.FAILURE,
    "error": Result.ERROR,
}


class Arm(StrEnum):
    """Which side served a decision."""

    PRODUCTION = "production"
    CANARY = "canary"
    HOLDBACK = "holdback"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one attempt. `features` holds what the caller sent beyond the fixed fields."""

    outcome_id: str
    task_id: str
    attempt: int
    decision_id: str | None
    domain: str
    action_attempted: str
    result: Result
    failure_reason: str | None
    execution_time_s: float | None
    retry_count: int | None
    occurred_at: datetime
    received_at: datetime
    model_version: str | None
    propensity: float | None
    replaces: str | None
    features: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """One answer of the engine as the decision log keeps it."""

    decision_id: str
    task_id: str
    attempt: int
    domain: str | None
    decided_at: datetime
    deadline_at: datetime
    features: dict[str, FeatureValue]
    actions: tuple[str, ...]
    action: str
    scores: dict[str, float]
    propensity: float
    assigned_arm: str
    arm: str
    share: float
    model_version: str | None
    rollout_id: str | None
    stratum: str
    latency_ms: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the store says about one outcome that was handed to it.

    Attributes
    ----------
    outcome_id : str
        The id under which it is known (its own, or the derived one).
    status : str
        `accepted`, `duplicate` or `quarantined`; in all three cases it is durable.
    reason : str or None
        Why it was quarantined; or, for an accepted one, that only its structure was checked.
    field : str or None
        The field the reason speaks of.
    """

    outcome_id: str | None
    status: str
    reason: str | None = None
    field: str | None = None


@dataclass(frozen=True, slots=True)
class OutcomeRules:
    """What the configuration says about outcomes.

    `schema=None` checks structure only: the types of the fixed fields, not actions and features.
    """

    schema: FeatureSchema | None = None
    action_aliases: Mapping[str, str] = field(default_factory=dict)
    unknown_columns: str = "keep"

    def action(self, value: Any) -> str:  # noqa: ANN401  (the door takes whatever a worker sends)
        """The configured action that `value` names, by any case or alias.

        Raises
        ------
        SchemaError
            When it names none of them.
        """
        text = _text("action_attempted", value, MAX_ID_LENGTH)
        if self.schema is None:
            return text
        folded = text.casefold()
        for action in self.schema.actions:
            if action.casefold() == folded:
                return action
        for alias, action in self.action_aliases.items():
            if alias.casefold() == folded:
                return action
        raise SchemaError("action_attempted", f"{text!r} is not one of {', '.join(self.schema.actions)}")


FIXED_FIELDS = frozenset(
    {
        "task_id",
        "domain",
        "action_attempted",
        "result",
        "failure_reason",
        "execution_time",
        "execution_time_s",
        "decision_id",
        "attempt",
        "timestamp",
        "occurred_at",
        "model_version",
        "propensity",
        "outcome_id",
        "retry_count",
        "replaces",
    }
)
"""Names of an outcome's own fields; every other key is a feature."""


def read_outcome(raw: Mapping[str, Any], rules: OutcomeRules, now: datetime) -> Outcome:
    """Turn one raw outcome, as a worker or a file gives it, into an `Outcome`.

    Parameters
    ----------
    raw : mapping
        The fields of `FeedbackCollector.append_outcome`; other keys are features.
    rules : OutcomeRules
    now : datetime
        The receiver's clock, aware.

    Raises
    ------
    SchemaError
        Names the first field that does not fit and says what would.
    """
    task_id = _text("task_id", raw.get("task_id"), MAX_ID_LENGTH)
    attempt = _whole("attempt", raw.get("attempt"), 1, default=1)
    decision_id = _optional_text("decision_id", raw.get("decision_id"), MAX_ID_LENGTH)
    given_at = raw.get("timestamp", raw.get("occurred_at"))
    occurred_at = now if is_absent(given_at) else read_instant("timestamp", given_at)
    if occurred_at > now + FUTURE_SKEW:
        raise SchemaError("timestamp", f"{occurred_at.isoformat()} lies in the future by the receiver's clock")
    outcome_id = _optional_text("outcome_id", raw.get("outcome_id"), MAX_ID_LENGTH)
    replaces = _optional_text("replaces", raw.get("replaces"), MAX_ID_LENGTH)
    return Outcome(
        outcome_id=outcome_id or derive_outcome_id(task_id, attempt, decision_id, occurred_at, replaces),
        task_id=task_id,
        attempt=attempt,
        decision_id=decision_id,
        domain=_optional_text("domain", raw.get("domain"), MAX_REASON_LENGTH) or "",
        action_attempted=rules.action(raw.get("action_attempted")),
        result=read_result(raw.get("result")),
        failure_reason=_optional_text("failure_reason", raw.get("failure_reason"), MAX_REASON_LENGTH),
        execution_time_s=_seconds(raw.get("execution_time_s", raw.get("execution_time"))),
        retry_count=None if is_absent(raw.get("retry_count")) else _whole("retry_count", raw["retry_count"], 0),
        occurred_at=occurred_at,
        received_at=now,
        model_version=_optional_text("model_version", raw.get("model_version"), MAX_ID_LENGTH),
        propensity=_propensity(raw.get("propensity")),
        replaces=replaces,
        features=_features({k: v for k, v in raw.items() if k not in FIXED_FIELDS}, rules, decision_id),
    )


def derive_outcome_id(
    task_id: str, attempt: int, decision_id: str | None, occurred_at: datetime, replaces: str | None = None
) -> str:
    """The idempotency key of an outcome that names none.

    One outcome a decision; without a decision, one outcome a task, attempt and instant. `task_id` alone is
    not unique: one task may be tried three times within twenty minutes. A correction has a key of its own,
    or it would be taken for the row that it `replaces`.
    """
    if decision_id and not replaces:
        return f"d-{decision_id}"
    content = f"{task_id}\x1f{attempt}\x1f{occurred_at.astimezone(UTC).isoformat()}"
    if not replaces:
        return "t-" + hashlib.sha256(content.encode()).hexdigest()[:32]
    return "r-" + hashlib.sha256(f"{content}\x1f{replaces}".encode()).hexdigest()[:32]


def read_result(value: Any) -> Result:  # noqa: ANN401  (see `OutcomeRules.action`)
    """Read `True/False` or `success | failed | failure | error` in any case.

    Raises
    ------
    SchemaError
        For anything else.
    """
    known = _RESULTS.get(str(value).strip().casefold()) if isinstance(value, str | bool) else None
    if known is None:
        raise SchemaError("result", f"{value!r} is not one of true, false, success, failed, failure, error")
    return known


def read_instant(name: str, value: Any) -> datetime:  # noqa: ANN401  (see `OutcomeRules.action`)
    """Read an aware datetime or ISO 8601 text with an offset; the result is in UTC.

    Raises
    ------
    SchemaError
        For a naive instant, or text that is not ISO 8601.
    """
    instant = value
    if isinstance(value, str):
        try:
            instant = datetime.fromisoformat(value.strip())
        except ValueError:
            raise SchemaError(name, f"{value!r} is not ISO 8601, such as 2026-01-31T14:05:00+00:00") from None
    if not isinstance(instant, datetime):
        raise SchemaError(name, f"{value!r} is not a datetime or ISO 8601 text")
    if instant.tzinfo is None or instant.utcoffset() is None:
        raise SchemaError(name, f"{value!r} has no offset from UTC; add one, such as +00:00")
    try:
        instant = instant.astimezone(UTC)
    except OverflowError:
        raise SchemaError(name, f"{value!r} is not an instant that UTC can name") from None
    if instant < EARLIEST:
        raise SchemaError(name, f"{value!r} lies before 1970")
    return instant


def is_absent(value: Any) -> bool:  # noqa: ANN401  (see `OutcomeRules.action`)
    """True for None, NaN and empty text: what files hold where a value is missing."""
    if value is None or value == "":
        return True
    return isinstance(value, float) and math.isnan(value)


def _features(given: dict[str, Any], rules: OutcomeRules, decision_id: str | None) -> dict[str, Any]:
    if rules.schema is None:
        return {k: v for k, v in given.items() if _plain(k, v)}
    unknown = [name for name in given if rules.schema.get(name) is None]
    if unknown and rules.unknown_columns == "quarantine":
        raise SchemaError(unknown[0], "is not a feature of this problem, and problem.unknown_columns is quarantine")
    read: dict[str, Any] = {}
    for feature in rules.schema.features:
        # The decision log has the features that a decision was made on: a worker need not send them again, and a
        # value that does not fit must not cost the outcome, which would then count as missing.
        try:
            value = feature.read(given.get(feature.name)) if feature.name in given or not decision_id else None
        except SchemaError:
            if not decision_id:
                raise
            value = None
        if value is not None:
            read[feature.name] = value
    return read | {name: given[name] for name in unknown if not is_absent(given[name]) and _plain(name, given[name])}


def _plain(name: Any, value: Any) -> bool:  # noqa: ANN401  (see `OutcomeRules.action`)
    if not isinstance(name, str):
        raise SchemaError(str(name), "is no column name; names are text")
    check_encodable(name, name)
    if isinstance(value, str) and len(value) > MAX_REASON_LENGTH:
        raise SchemaError(name, f"has {len(value)} characters; at most {MAX_REASON_LENGTH} are accepted")
    if value is not None and not isinstance(value, str | int | float | bool):
        raise SchemaError(name, f"is a {type(value).__name__}; send text, a number or a boolean")
    if isinstance(value, str):
        check_encodable(name, value)
    elif isinstance(value, float) and math.isinf(value):
        raise SchemaError(name, f"{value!r} is not finite")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise SchemaError(name, "is too large for a whole number of 64 bits")
    return not is_absent(value)


def _text(name: str, value: Any, limit: int) -> str:  # noqa: ANN401  (see `OutcomeRules.action`)
    text = _optional_text(name, value, limit)
    if text is None:
        raise SchemaError(name, "is required, but missing")
    return text


def _optional_text(name: str, value: Any, limit: int) -> str | None:  # noqa: ANN401  (see `OutcomeRules.action`)
    if is_absent(value):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise SchemaError(name, f"{value!r} is not text")
    text = str(value).strip()
    if len(text) > limit:
        raise SchemaError(name, f"has {len(text)} characters; at most {limit} are accepted")
    if "\x00" in text:
        raise SchemaError(name, "holds a NUL character, which no database keeps")
    check_encodable(name, text)
    return text or None


def _number(name: str, value: Any) -> float:  # noqa: ANN401  (see `OutcomeRules.action`)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise SchemaError(name, f"{value!r} is not a finite number")
    return number


def _whole(name: str, value: Any, least: int, default: int | None = None) -> int:  # noqa: ANN401
    if is_absent(value) and default is not None:
        return default
    number = _number(name, value)
    if not number.is_integer() or not least <= number < 2**31:
        raise SchemaError(name, f"{value!r} is not a whole number of at least {least}")
    return int(number)


def _seconds(value: Any) -> float | None:  # noqa: ANN401  (see `OutcomeRules.action`)
    if is_absent(value):
        return None
    number = _number("execution_time", value)
    if number < 0:
        raise SchemaError("execution_time", f"{value!r} is negative; it is in seconds")
    return number


def _propensity(value: Any) -> float | None:  # noqa: ANN401  (see `OutcomeRules.action`)
    if is_absent(value):
        return None
    number = _number("propensity", value)
    if not 0 < number <= 1:
        raise SchemaError("propensity", f"{value!r} is not a probability above 0 and at most 1")
    return number
