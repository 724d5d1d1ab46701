"""A canary's trial as a value: evidence, ramp and clock, advanced by matured tasks, ending in a move.

Holds what a verdict means for the trial (next step, extend, promote, give up, roll back); does not
hold statistics (`core/canary.py`), reading of rows or acting (`operations/watch.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from retrain_assets.core.canary import (
    BlockBuffer,
    CanaryPolicy,
    Context,
    Evidence,
    MaturedTask,
    Verdict,
    VerdictKind,
    judge,
)
from retrain_assets.core.outcomes import Arm, Result

RECENT_TASKS = 200
"""Production's last tasks that must meet a limit again before an incident ends."""
RESUME_LEVEL = 10.0
"""Evidence below which a held trial goes on; it is held at 20. With one level for both it would flap."""
COUNTED = ("success", "error", "response_time")
"""The metrics that count at the task's timeout."""
TRACE_POINTS = 400
"""Points of the evidence's course that are kept for its picture."""


class Move(StrEnum):
    """What is to be done now."""

    NONE = "none"
    ROLL_BACK = "roll_back"
    PROMOTE = "promote"
    NEXT_STEP = "next_step"
    EXTEND = "extend"
    GIVE_UP = "give_up"
    HOLD = "hold"
    RESUME = "resume"
    INCIDENT = "incident"
    RECOVER = "recover"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """One matured task as evidence: assigned where, and what came of it (`result=None`: missing)."""

    stratum: str
    assigned_arm: str
    arm: str
    share: float
    latency_ms: float
    result: Result | None
    matured_at: datetime

    @property
    def is_canary(self) -> bool:
        """Whether the task counts for the canary, whatever arm served it in the end."""
        return self.assigned_arm == Arm.CANARY

    def good(self, max_response_time_ms: float) -> dict[str, bool]:
        """The good event of each metric; a missing outcome is no success and no error."""
        fell_back = self.is_canary and self.arm == Arm.FALLBACK
        return {
            "success": self.result is Result.SUCCESS and not fell_back,
            "error": self.result is not Result.ERROR and not fell_back,
            "response_time": self.latency_ms <= max_response_time_ms,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Mature tasks of both arms so far, and those without an outcome."""

    canary: int = 0
    canary_missing: int = 0
    production: int = 0
    production_missing: int = 0
    share_sum: float = 0.0

    def plus(self, tasks: Sequence[TaskResult]) -> Tally:
        """The tally with some more tasks."""
        canary = [task for task in tasks if task.is_canary]
        missing = sum(task.result is None for task in tasks)
        canary_missing = sum(task.result is None for task in canary)
        return Tally(
            canary=self.canary + len(canary),
            canary_missing=self.canary_missing + canary_missing,
            production=self.production + len(tasks) - len(canary),
            production_missing=self.production_missing + missing - canary_missing,
            share_sum=self.share_sum + sum(task.share for task in tasks),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialState:
    """Everything a trial knows; it round-trips through JSON.

    Attributes
    ----------
    evidence, buffer : what the matured tasks amount to.
    steps : shares of the ramp; `step` is the position on it.
    step_started_at : when this step's clock began.
    look : 1, or 2 once extended.
    frozen_since, frozen_hours : the clock stands still during a hold or an incident.
    recent, recent_canary : the last `RECENT_TASKS` tasks of each arm.
    plan : what was expected of the trial before it began.
    trace : `(instant, E_rel, E_abs, canary tasks, good, production tasks, good)` over time.
    """

    evidence: Evidence
    buffer: BlockBuffer
    steps: tuple[float, ...]
    step: int
    step_started_at: datetime
    duration_hours: float
    look: int = 1
    tally: Tally = field(default_factory=Tally)
    frozen_since: datetime | None = None
    frozen_hours: float = 0.0
    condition: str = ""
    recent: tuple[dict[str, bool], ...] = ()
    recent_canary: tuple[dict[str, bool], ...] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)
    trace: tuple[tuple[Any, ...], ...] = ()

    @classmethod
    def start(
        cls, policy: CanaryPolicy, steps: Sequence[float], duration_hours: float, now: datetime, plan: dict[str, Any]
    ) -> TrialState:
        """A fresh trial."""
        return cls(
            evidence=Evidence.start(policy),
            buffer=BlockBuffer(policy.block_tasks),
            steps=tuple(steps),
            step=0,
            step_started_at=now,
            duration_hours=duration_hours,
            plan=plan,
        )

    @property
    def policy(self) -> CanaryPolicy:
        """The rule under which this trial began; later changes of the configuration do not touch it."""
        return self.evidence.policy

    def elapsed_hours(self, now: datetime) -> float:
        """Hours of this step's clock, without the time it stood still."""
        until = self.frozen_since or now
        return max(0.0, (until - self.step_started_at).total_seconds() / 3600 - self.frozen_hours)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return {
            "evidence": json.loads(self.evidence.to_json()),
            "buffer": json.loads(self.buffer.to_json()),
            "steps": list(self.steps),
            "step": self.step,
            "step_started_at": self.step_started_at.isoformat(),
            "duration_hours": self.duration_hours,
            "look": self.look,
            "tally": {name: getattr(self.tally, name) for name in Tally.__slots__},
            "frozen_since": self.frozen_since.isoformat() if self.frozen_since else None,
            "frozen_hours": self.frozen_hours,
            "condition": self.condition,
            "recent": _packed(self.recent),
            "recent_canary": _packed(self.recent_canary),
            "plan": dict(self.plan),
            "trace": [list(point) for point in self.trace],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialState:
        """Read what `to_dict` wrote."""
        frozen = data["frozen_since"]
        return cls(
            evidence=Evidence.from_json(json.dumps(data["evidence"])),
            buffer=BlockBuffer.from_json(json.dumps(data["buffer"])),
            steps=tuple(data["steps"]),
            step=data["step"],
            step_started_at=datetime.fromisoformat(data["step_started_at"]),
            duration_hours=data["duration_hours"],
            look=data["look"],
            tally=Tally(**data["tally"]),
            frozen_since=datetime.fromisoformat(frozen) if frozen else None,
            frozen_hours=data["frozen_hours"],
            condition=data["condition"],
            recent=_unpacked(data["recent"]),
            recent_canary=_unpacked(data["recent_canary"]),
            plan=data["plan"],
            trace=tuple(tuple(point) for point in data["trace"]),
        )


@dataclass(frozen=True, slots=True)
class Advance:
    """A trial after some more tasks: its new state, the verdict, and what to do."""

    state: TrialState
    verdict: Verdict
    move: Move


def advance(state: TrialState, tasks: Sequence[TaskResult], now: datetime) -> Advance:
    """Take in matured tasks in order, and judge.

    Harm is judged after every block, so that a rollback does not depend on how tasks were batched.
    """
    buffer, blocks = state.buffer.add(_as_evidence(state, task) for task in tasks)
    recent = (*state.recent, *(_good(state, task) for task in tasks if not task.is_canary))
    recent_canary = (*state.recent_canary, *(_good(state, task) for task in tasks if task.is_canary))
    state = replace(
        state,
        buffer=buffer,
        tally=state.tally.plus(tasks),
        recent=recent[-RECENT_TASKS:],
        recent_canary=recent_canary[-RECENT_TASKS:],
    )
    at = tasks[-1].matured_at if tasks else now
    proven: Verdict | None = None
    for cells in blocks:
        state = _traced(replace(state, evidence=state.evidence.update(cells)), at)
        verdict = _judge(state, now)
        if proven is None and verdict.kind is VerdictKind.ROLL_BACK:
            proven = verdict  # the first proof decides; later blocks still count, for those who only watch
    if proven is not None:
        return Advance(state, proven, Move.ROLL_BACK)
    verdict = _judge(state, now)
    return _moved(state, verdict, now)


def _as_evidence(state: TrialState, task: TaskResult) -> MaturedTask:
    """The share at which a task was decided names its ramp step: shares rise strictly."""
    step = next((i for i, share in enumerate(state.steps) if abs(share - task.share) < 1e-9), state.step)
    return MaturedTask(task.stratum, step, "canary" if task.is_canary else "production", _good(state, task))


def _packed(tasks: Sequence[Mapping[str, bool]]) -> list[list[bool]]:
    return [[task[metric] for metric in COUNTED] for task in tasks]


def _unpacked(rows: Sequence[Sequence[bool]]) -> tuple[dict[str, bool], ...]:
    return tuple(dict(zip(COUNTED, row, strict=True)) for row in rows)


def _good(state: TrialState, task: TaskResult) -> dict[str, bool]:
    return task.good(state.policy.max_response_time_ms)


def _judge(state: TrialState, at: datetime) -> Verdict:
    tally = state.tally
    total = tally.canary + tally.production
    recent = {metric: (len(state.recent), sum(task[metric] for task in state.recent)) for metric in COUNTED}
    context = Context(
        elapsed_hours=state.elapsed_hours(at),
        duration_hours=state.duration_hours,
        look=state.look,
        looks=2,
        share=tally.share_sum / total if total else state.steps[state.step],
        assigned_canary=tally.canary,
        assigned_total=total,
        tasks_canary=tally.canary,
        missing_canary=tally.canary_missing,
        tasks_production=tally.production,
        missing_production=tally.production_missing,
        expected_canary_outcomes=state.plan.get("expected_canary_outcomes"),
        is_last_step=state.step == len(state.steps) - 1,
        production_recent=recent,
    )
    return judge(state.evidence, state.policy, context)


_FREEZES = {
    VerdictKind.ENVIRONMENT_INCIDENT: ("incident", Move.INCIDENT),
    VerdictKind.HOLD: ("hold", Move.HOLD),
}


def _moved(state: TrialState, verdict: Verdict, now: datetime) -> Advance:
    if verdict.kind is VerdictKind.ROLL_BACK:
        return Advance(state, verdict, Move.ROLL_BACK)
    if verdict.kind in _FREEZES:
        return _frozen(state, verdict, *_FREEZES[verdict.kind], now)
    if state.condition:
        return _maybe_thawed(state, verdict, now)
    if verdict.kind is VerdictKind.PROMOTE:
        if state.step == len(state.steps) - 1:
            return Advance(state, verdict, Move.PROMOTE)
        ahead = replace(state, step=state.step + 1, step_started_at=now, frozen_hours=0.0, look=1)
        return Advance(ahead, verdict, Move.NEXT_STEP)
    if verdict.kind is VerdictKind.INCONCLUSIVE:
        if state.look == 1:
            return Advance(replace(state, look=2), verdict, Move.EXTEND)
        return Advance(state, verdict, Move.GIVE_UP)
    return Advance(state, verdict, Move.NONE)


def _frozen(state: TrialState, verdict: Verdict, condition: str, move: Move, now: datetime) -> Advance:
    if state.condition == condition:
        return Advance(state, verdict, Move.NONE)
    return Advance(replace(state, condition=condition, frozen_since=state.frozen_since or now), verdict, move)


def _maybe_thawed(state: TrialState, verdict: Verdict, now: datetime) -> Advance:
    """Let the clock go on when what stopped it is over."""
    is_incident = state.condition == "incident"
    is_over = _has_recovered(state) if is_incident else state.evidence.relative < RESUME_LEVEL
    if not is_over:
        return Advance(state, verdict, Move.NONE)
    stood = (now - state.frozen_since).total_seconds() / 3600 if state.frozen_since else 0.0
    thawed = replace(state, condition="", frozen_since=None, frozen_hours=state.frozen_hours + stood)
    return Advance(thawed, _judge(thawed, now), Move.RECOVER if is_incident else Move.RESUME)


def _has_recovered(state: TrialState) -> bool:
    """Whether production meets every limit over its last `RECENT_TASKS` tasks: evidence alone may dip and rise."""
    tasks = len(state.recent)
    limits = state.policy.limits.items()
    return tasks >= RECENT_TASKS and all(
        sum(t[metric] for t in state.recent) >= limit * tasks for metric, limit in limits
    )


def _traced(state: TrialState, at: datetime) -> TrialState:
    total = state.evidence.total("success")
    relative, absolute = (min(value, 1e12) for value in (state.evidence.relative, state.evidence.absolute))
    trace = (*state.trace, (at.isoformat(), relative, absolute, *total))
    # Every second point is dropped when the list is full: the course stays whole, its grain grows.
    return replace(state, trace=trace[::2] if len(trace) > TRACE_POINTS else trace)
