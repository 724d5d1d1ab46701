"""What became of a task: outcomes, their check at the door, and the key under which each counts once.

Holds the outcome and decision values and the rules that turn raw input into them; does not hold the check of single
values (`core/outcome_values.py`) or where outcomes are stored (`store/outcomes.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from msgspec import Struct

from retrain_assets.core.features import Feature, FeatureSchema, FeatureValue
from retrain_assets.core.outcome_features import FeatureReader, plain, reader_of
from retrain_assets.core.outcome_values import (
    EARLIEST,
    MAX_ID_LENGTH,
    MAX_REASON_LENGTH,
    Result,
    first_of,
    instant_text,
    is_absent,
    optional_text,
    probability,
    read_instant,
    read_result,
    seconds,
    text,
    whole,
)
from retrain_assets.errors import SchemaError

__all__ = [
    "EARLIEST",
    "FIXED_FIELDS",
    "FUTURE_SKEW",
    "MAX_ID_LENGTH",
    "MAX_REASON_LENGTH",
    "MISSING",
    "Arm",
    "DecisionRecord",
    "Outcome",
    "OutcomeRules",
    "Receipt",
    "Result",
    "Values",
    "derive_outcome_id",
    "is_absent",
    "read_instant",
    "read_outcome",
    "read_result",
    "read_values",
]

MISSING = "missing"
"""Failure reason of a decision that has no outcome when its task times out."""

FUTURE_SKEW = timedelta(minutes=5)
"""How far ahead of the receiver's clock a timestamp may lie before it is refused."""


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


# A Struct, because each row of a batch gets one: a frozen dataclass takes five times as long to make.
class Receipt(Struct, frozen=True, gc=False):
    """What the store says about one outcome that was handed to it.

    Attributes
    ----------
    outcome_id : str
        The id under which it is known (its own, or the derived one).
    status : str
        `accepted`, `duplicate` or `quarantined`; in all three cases it is durable.
    reason : str or None
        Why it was quarantined; for an accepted one, that only its structure was checked; for a duplicate, in what it
        differs from the outcome that is stored under this id.
    field : str or None
        The field the reason speaks of.
    is_spooled : bool
        It is durable on this machine, and reaches the database when that answers again.
    """

    outcome_id: str | None
    status: str
    reason: str | None = None
    field: str | None = None
    is_spooled: bool = False


@dataclass(frozen=True, slots=True)
class OutcomeRules:
    """What the configuration says about outcomes.

    `schema=None` checks structure only: the types of the fixed fields, not actions and features.
    """

    schema: FeatureSchema | None = None
    action_aliases: Mapping[str, str] = field(default_factory=dict)
    unknown_columns: str = "keep"
    _actions: dict[str, str] = field(init=False, repr=False, compare=False)
    _reader: FeatureReader = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        features: tuple[Feature, ...] = ()
        actions: dict[str, str] = {}
        if self.schema is not None:
            features = self.schema.features
            actions = {alias.casefold(): action for alias, action in self.action_aliases.items()}
            actions |= {action.casefold(): action for action in reversed(self.schema.actions)}
        object.__setattr__(self, "_actions", actions)
        object.__setattr__(self, "_reader", reader_of(features, FIXED_FIELDS))

    def action(self, value: Any) -> str:  # noqa: ANN401  (the door takes whatever a worker sends)
        """The configured action that `value` names, by any case or alias.

        Raises
        ------
        SchemaError
            When it names none of them.
        """
        if value.__class__ is str and value in self._actions:
            return self._actions[value]
        read = text("action_attempted", value, MAX_ID_LENGTH)
        if self.schema is None:
            return read
        known = self._actions.get(read.casefold())
        if known is None:
            raise SchemaError("action_attempted", f"{read!r} is not one of {', '.join(self.schema.actions)}")
        return known

    def features(self, raw: Mapping[str, Any], *, is_decided: bool) -> Struct | dict[str, Any]:
        """What an outcome tells beyond its own fields, as `FeatureReader.read` gives it.

        Raises
        ------
        SchemaError
        """
        is_strict = self.schema is not None and self.unknown_columns == "quarantine"
        return self._reader.read(raw, is_decided=is_decided, is_strict=is_strict)


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

Values = tuple[Any, ...]
"""The values of an `Outcome` in the order of its fields; the features may be a `Struct` that is the same JSON."""

_NAMES = tuple(Outcome.__dataclass_fields__)
_Get = Callable[[str], Any]


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
    values = read_values(raw, rules, now)
    return Outcome(**dict(zip(_NAMES, (*values[:-1], plain(values[-1])), strict=True)))


def read_values(raw: Mapping[str, Any], rules: OutcomeRules, now: datetime) -> Values:
    """`read_outcome` as plain values in the order of `Outcome`'s fields, for stores that take many rows at once.

    Raises
    ------
    SchemaError
        As `read_outcome`; also when `raw` is no mapping.
    """
    if raw.__class__ is not dict and not isinstance(raw, Mapping):
        raise SchemaError("row", f"is a {type(raw).__name__}; send a mapping of field names to values")
    get = raw.get
    task_id = text("task_id", get("task_id"), MAX_ID_LENGTH)
    attempt = get("attempt")
    attempt = 1 if attempt is None or is_absent(attempt) else whole("attempt", attempt, 1)
    decision_id = optional_text("decision_id", get("decision_id"), MAX_ID_LENGTH)
    occurred_at = _occurred_at(get, now)
    outcome_id = optional_text("outcome_id", get("outcome_id"), MAX_ID_LENGTH)
    replaces = optional_text("replaces", get("replaces"), MAX_ID_LENGTH)
    retry_count, propensity = get("retry_count"), get("propensity")
    return (
        outcome_id or derive_outcome_id(task_id, attempt, decision_id, occurred_at, replaces),
        task_id,
        attempt,
        decision_id,
        optional_text("domain", get("domain"), MAX_REASON_LENGTH) or "",
        rules.action(get("action_attempted")),
        read_result(get("result")),
        optional_text("failure_reason", get("failure_reason"), MAX_REASON_LENGTH),
        _execution_time_s(get),
        None if retry_count is None or is_absent(retry_count) else whole("retry_count", retry_count, 0),
        occurred_at,
        now,
        optional_text("model_version", get("model_version"), MAX_ID_LENGTH),
        None if propensity is None or is_absent(propensity) else probability("propensity", propensity),
        replaces,
        rules.features(raw, is_decided=decision_id is not None),
    )


def _execution_time_s(get: _Get) -> float | None:
    given = get("execution_time")
    if get("execution_time_s") is not None:
        given = first_of(get, "execution_time_s", "execution_time")
    return None if given is None or is_absent(given) else seconds("execution_time", given)


def _occurred_at(get: _Get, now: datetime) -> datetime:
    given = get("timestamp")
    if given is None or (given.__class__ is not datetime and is_absent(given)):
        given = first_of(get, "occurred_at")
        if given is None:
            return now
    occurred_at = read_instant("timestamp", given)
    if occurred_at > now and occurred_at > now + FUTURE_SKEW:
        raise SchemaError("timestamp", f"{occurred_at.isoformat()} lies in the future by the receiver's clock")
    return occurred_at


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
    content = f"{task_id}\x1f{attempt}\x1f{instant_text(occurred_at.astimezone(UTC))}"
    if not replaces:
        return "t-" + hashlib.sha256(content.encode()).hexdigest()[:32]
    return "r-" + hashlib.sha256(f"{content}\x1f{replaces}".encode()).hexdigest()[:32]
