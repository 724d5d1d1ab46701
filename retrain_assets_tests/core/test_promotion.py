"""A trial from its first task to its end: what is counted, when the clock stands, what is done."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from retrain_assets.core.canary import CanaryPolicy, VerdictKind
from retrain_assets.core.outcomes import Arm, Result
from retrain_assets.core.promotion import TRACE_POINTS, Advance, Move, Tally, TaskResult, TrialState, advance

START = datetime(2026, 1, 5, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLICY = CanaryPolicy(evidence="no_harm")


def _task(assigned: str = "canary", result: Result | None = Result.SUCCESS, **changes: Any) -> TaskResult:  # noqa: ANN401
    task = TaskResult(
        stratum="blog",
        assigned_arm=assigned,
        arm=assigned,
        share=0.1,
        latency_ms=0.1,
        result=result,
        matured_at=START,
    )
    return replace(task, **changes)


def _traffic(
    rng: np.random.Generator, tasks: int, canary: float, production: float, share: float = 0.1
) -> list[TaskResult]:
    """Tasks of both arms in proportion, with success rates of each."""
    made = []
    for n in range(tasks):
        arm = "canary" if rng.random() < share else "production"
        is_good = rng.random() < (canary if arm == "canary" else production)
        at = START + timedelta(seconds=n)
        made.append(_task(arm, Result.SUCCESS if is_good else Result.FAILURE, share=share, matured_at=at))
    return made


def _trial(steps: tuple[float, ...] = (0.1,), policy: CanaryPolicy = POLICY) -> TrialState:
    return TrialState.start(policy, steps, 24, START, {"expected_canary_outcomes": 100.0})


# -------------------------------------------------------------------------------------------------------- one task


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (_task(result=Result.SUCCESS), (True, True, True)),
        (_task(result=Result.FAILURE), (False, True, True)),
        (_task(result=Result.ERROR), (False, False, True)),
        (_task(result=None), (False, True, True)),
        (_task(latency_ms=100.0), (True, True, True)),
        (_task(latency_ms=100.1), (True, True, False)),
        (_task(arm=Arm.FALLBACK), (False, False, True)),
        (_task("production", arm=Arm.FALLBACK), (True, True, True)),
    ],
)
def test_what_counts_as_good(task: TaskResult, expected: tuple[bool, bool, bool]) -> None:
    """A missing outcome is no success and no error; an answer in the canary's place is the canary's error."""
    assert tuple(task.good(100.0).values()) == expected


def test_the_tally_counts_by_the_arm_a_task_was_assigned_to() -> None:
    """And missing outcomes apart."""
    tasks = [_task(), _task(arm="fallback"), _task(result=None), _task("production"), _task("production", None)]
    tally = Tally().plus(tasks)
    assert (tally.canary, tally.canary_missing) == (3, 1)
    assert (tally.production, tally.production_missing) == (2, 1)
    assert tally.share_sum == pytest.approx(0.5)


# --------------------------------------------------------------------------------------------------------- a trial


def test_a_state_survives_json_at_every_stage() -> None:
    """It is stored after each tick, and must go on as if it had never been."""
    rng = np.random.default_rng(1)
    state = _trial((0.1, 0.25))
    stages = [state]
    for hour in (1, 2, 25, 26):
        state = advance(state, _traffic(rng, 137, 0.85, 0.85), START + hour * HOUR).state
        stages.append(state)
    stages.append(replace(state, condition="incident", frozen_since=START, frozen_hours=1.5, look=2))
    for stage in stages:
        again = TrialState.from_dict(json.loads(json.dumps(stage.to_dict())))
        assert again == stage
        assert advance(again, [_task()], START + 30 * HOUR) == advance(stage, [_task()], START + 30 * HOUR)


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_a_rollback_does_not_depend_on_how_tasks_were_batched(batch: int) -> None:
    """The block that proves the harm is the same, and so is the proof; later blocks do not blur it."""
    tasks = _traffic(np.random.default_rng(2), 3_000, 0.5, 0.85)
    found = []
    for size in (3_000, batch):
        state, ended = _trial(), None
        for start in range(0, len(tasks), size):
            step = advance(state, tasks[start : start + size], START + 2 * HOUR)
            state = step.state
            if step.move is Move.ROLL_BACK:
                proof = step.verdict.evidence
                ended = (proof["updates"], proof["relative"], proof["rates"], step.verdict.kind)
                break
        assert ended is not None
        found.append(ended)
    assert found[0] == found[1]


def test_a_good_trial_is_promoted_at_its_end_and_not_before() -> None:
    """Twenty-four hours, whatever the evidence."""
    tasks = _traffic(np.random.default_rng(3), 1_000, 0.85, 0.85)
    early = advance(_trial(), tasks, START + timedelta(hours=23, minutes=59))
    assert (early.move, early.verdict.kind) == (Move.NONE, VerdictKind.CONTINUE)
    assert advance(early.state, [], START + 24 * HOUR).move is Move.PROMOTE


def test_a_ramp_goes_step_by_step_and_keeps_its_evidence() -> None:
    """Each step has the whole duration; its tasks are told by the share they were decided at."""
    rng = np.random.default_rng(4)
    state, shares = _trial((0.1, 0.25, 0.5)), (0.1, 0.25, 0.5)
    moves = []
    for number, share in enumerate(shares):
        now = START + 24 * (number + 1) * HOUR
        assert advance(state, [], now - HOUR).move is Move.NONE
        step = advance(state, _traffic(rng, 1_000, 0.85, 0.85, share), now)
        moves.append(step.move)
        state = step.state
    assert moves == [Move.NEXT_STEP, Move.NEXT_STEP, Move.PROMOTE]
    assert (state.step, state.tally.canary + state.tally.production) == (2, 3_000)


def test_a_trial_without_an_answer_is_extended_once_and_then_given_up() -> None:
    """Five tasks show nothing; waiting for ever would not either."""
    tasks = [_task(), *[_task("production")] * 9]
    first = advance(_trial(), tasks, START + 24 * HOUR)
    assert (first.move, first.state.look) == (Move.EXTEND, 2)
    assert advance(first.state, [], START + 47 * HOUR).move is Move.NONE
    assert advance(first.state, [], START + 48 * HOUR).move is Move.GIVE_UP


def _hold(state: TrialState, now: datetime) -> Advance:
    """Every fourth outcome is missing on both sides."""
    tasks = [_task(arm, None if n % 4 == 0 else Result.SUCCESS) for n in range(40) for arm in ("canary", "production")]
    return advance(state, [replace(task, share=0.5) for task in tasks], now)


def test_while_outcomes_are_missing_the_clock_stands_still() -> None:
    """The trial is held once, resumes when they come again, and has its whole time left."""
    held = _hold(_trial((0.5,)), START + 2 * HOUR)
    assert (held.move, held.verdict.kind, held.state.condition) == (Move.HOLD, VerdictKind.HOLD, "hold")
    later = advance(held.state, [], START + 40 * HOUR)
    assert later.move is Move.NONE
    assert later.state.elapsed_hours(START + 40 * HOUR) == 2
    rng = np.random.default_rng(5)
    resumed = advance(later.state, _traffic(rng, 400, 0.85, 0.85, 0.5), START + 42 * HOUR)
    assert (resumed.move, resumed.state.condition) == (Move.RESUME, "")
    assert resumed.state.elapsed_hours(START + 42 * HOUR) == 2
    assert advance(resumed.state, [], START + 63 * HOUR).move is Move.NONE
    assert advance(resumed.state, [], START + 64 * HOUR).move is Move.PROMOTE


def test_harm_counts_while_the_clock_stands_still() -> None:
    """A hold freezes the ramp, not the evidence."""
    held = _hold(_trial((0.5,)), START + 2 * HOUR)
    harmed = advance(held.state, _traffic(np.random.default_rng(6), 600, 0.3, 0.85, 0.5), START + 3 * HOUR)
    assert harmed.move is Move.ROLL_BACK


def test_bad_times_for_both_freeze_the_trial_and_end_when_production_is_well_again() -> None:
    """Told once at the beginning and once at the end; the trial itself is never rolled back for it."""
    rng = np.random.default_rng(7)
    state, moves = _trial((0.5,)), []
    for hour, rate in enumerate([0.85] * 2 + [0.4] * 6 + [0.95] * 6):
        step = advance(state, _traffic(rng, 200, rate, rate, 0.5), START + (hour + 1) * HOUR)
        state = step.state
        moves.append(step.move)
    assert moves.count(Move.INCIDENT) == moves.count(Move.RECOVER) == 1
    assert moves.index(Move.INCIDENT) < moves.index(Move.RECOVER)
    assert Move.ROLL_BACK not in moves
    assert 0 < state.frozen_hours < 14


def test_the_course_of_a_long_trial_stays_small() -> None:
    """It is written with every tick: points are thinned out, the first and the last times stay."""
    state = _trial((0.5,))
    rng = np.random.default_rng(8)
    for hour in range(4):
        tasks = _traffic(rng, 8_000, 0.9, 0.9, 0.5)
        state = advance(state, [replace(t, matured_at=START + hour * HOUR) for t in tasks], START + HOUR).state
    assert TRACE_POINTS / 2 <= len(state.trace) <= TRACE_POINTS
    assert state.trace[0][0] == START.isoformat()
    assert state.trace[-1][0] == (START + 3 * HOUR).isoformat()
    assert state.evidence.updates > TRACE_POINTS


def test_changed_settings_do_not_touch_a_trial_under_way() -> None:
    """It is judged by the rule under which it began."""
    strict = replace(POLICY, min_success_rate=0.9)
    state = TrialState.from_dict(_trial(policy=strict).to_dict())
    assert state.policy == strict
