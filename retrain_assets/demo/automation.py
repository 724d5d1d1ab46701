"""A simulated automation whose truth is known: the seed's features, four actions, calibrated rates.

Holds tasks, the true success probability of every action, and the drawing of outcomes under conditions that a
scenario chooses; does not hold a database, a clock or a model. Everything is a function of the seed.

**The truth.** For a task with features x, action a succeeds, when it does not end in an error, with probability

    P(success | x, a, no error) = expit(b + c_a + sum over features of effect(x, a) + shift)

where an effect is a coefficient (the tables of `automation_truth.py`) times the feature: 0 or 1 for a boolean,
(value - centre) / scale for a number, 1 for the value a category has; a missing feature has no effect. The strongest
effects are whether the site supports the action at all and whether the action suits the kind of site, so the best
action differs from task to task and no constant guess comes close. An error strikes first and regardless of
features, with `error_rate`. Hence P(success | x, a) = (1 - error_rate) P(success | x, a, no error).

**Calibration.** The intercept b is solved so that the best action succeeds with `success_rate` (0.85, errors counted
against it) over a reference population of 20,000 tasks; a scenario's `Conditions` carry a shift on the log-odds,
solved the same way for the rate it names. A shift keeps the order of the actions: times are worse, not different.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from retrain_assets.core.outcomes import Result
from retrain_assets.demo.automation_truth import (
    ACTIONS,
    FEATURES,
    Floats,
    all_logits,
    draw_features,
    expit,
    one_logit,
    solve_shift,
)

REFERENCE_TASKS = 20_000
"""Size of the population on which rates are calibrated; its own Monte Carlo error is below 0.002."""

# Tasks are drawn in blocks of this size, each from its own generator.
_BLOCK = 256

Policy = Literal["uniform", "best", "worst"]

_FAILURE_REASONS = ("comment_not_published", "profile_rejected", "post_removed", "no_reply")
_ERROR_REASONS = ("timeout", "connection_lost", "page_crashed")
_MEDIAN_TIME_S = (12.0, 25.0, 18.0, 45.0)
_TIME_SPREAD = 0.35
_FAILURE_TIME_FACTOR = 1.4
_ERROR_TIME_FACTOR = 2.5


@dataclass(frozen=True, slots=True)
class SimulatedTask:
    """One task; `features` has the twelve of the seed (pa and da may be None)."""

    task_id: str
    domain: str
    features: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SimulatedOutcome:
    """What became of an attempt."""

    result: Result
    failure_reason: str | None
    execution_time_s: float


@dataclass(frozen=True, slots=True)
class Conditions:
    """The times in which an outcome is drawn.

    Attributes
    ----------
    shift : float
        Added to the log-odds of success of every task and action (default 0: the automation as it was made).
    error_rate : float
        Probability of an error, whatever the task and action.
    """

    shift: float
    error_rate: float


class SimulatedAutomation:
    """Tasks, truth and outcomes, all from one seed.

    Parameters
    ----------
    seed : int
        Decides the tasks. The truth is the same for every seed but for the calibrated intercept.
    success_rate : float
        Success of the best action over the population, errors counted against it (default 0.85).
    error_rate : float
        Default 0.02.

    Raises
    ------
    ValueError
        The rates contradict each other: success must lie above 0 and below 1 - error_rate.
    """

    def __init__(self, seed: int = 0, *, success_rate: float = 0.85, error_rate: float = 0.02) -> None:
        self.seed = seed
        self.success_rate = success_rate
        best = self._reference_logits.max(axis=1)
        self.intercept = solve_shift(best, success_rate, error_rate)
        self.normal = Conditions(shift=0.0, error_rate=error_rate)

    def tasks(self, n: int, *, first: int = 0) -> list[SimulatedTask]:
        """Tasks number `first` to `first + n - 1`; a number names the same task in every call."""
        made: list[SimulatedTask] = []
        for block in range(first // _BLOCK, -(-(first + n) // _BLOCK)):
            columns = draw_features(np.random.default_rng([self.seed, 1, block]), _BLOCK)
            made += _as_tasks(columns, f"sim{self.seed}", block * _BLOCK)
        offset = first % _BLOCK
        return made[offset : offset + n]

    def success_probability(self, tasks: Sequence[SimulatedTask], conditions: Conditions | None = None) -> Floats:
        """True P(success) of every task and action, errors counted against it.

        Returns
        -------
        array of shape (len(tasks), 4)
            Columns in the order of `ACTIONS`.
        """
        now = conditions or self.normal
        columns = {name: [task.features[name] for task in tasks] for name in FEATURES}
        logits = all_logits(columns) if tasks else np.empty((0, len(ACTIONS)))
        return (1 - now.error_rate) * expit(self.intercept + now.shift + logits)

    def best_action(self, task: SimulatedTask, allowed: Sequence[str] = ACTIONS) -> str:
        """The action of `allowed` with the highest true probability of success."""
        return max(allowed, key=lambda action: one_logit(task.features, ACTIONS.index(action)))

    def conditions(
        self,
        *,
        success_rate: float | None = None,
        error_rate: float | None = None,
        choose: Callable[[Sequence[SimulatedTask]], Sequence[str]] | None = None,
    ) -> Conditions:
        """Times in which the overall rates are the ones named.

        One `Conditions` for every arm is a dip that hits both; one for the tasks of a single version alone is a
        worse version.

        Parameters
        ----------
        success_rate : float, optional
            Overall success, errors counted against it; None leaves the log-odds as they are, so that a higher
            error rate alone lowers success in proportion.
        error_rate : float, optional
            None keeps the automation's.
        choose : callable, optional
            The policy whose rate is meant: actions for a list of tasks (default: the best action). With a learned
            policy here, its own success becomes `success_rate`; 2,000 tasks of the population are shown to it.

        Raises
        ------
        ValueError
            `success_rate` does not lie above 0 and below 1 - error_rate.
        """
        errors = self.normal.error_rate if error_rate is None else error_rate
        if success_rate is None:
            return Conditions(shift=0.0, error_rate=errors)
        if choose is None:
            logits = self._reference_logits.max(axis=1)
        else:
            columns = draw_features(np.random.default_rng([self.seed, 3]), 2_000)
            actions = [ACTIONS.index(action) for action in choose(_as_tasks(columns, f"plan{self.seed}", 0))]
            logits = all_logits(columns)[np.arange(len(actions)), actions]
        return Conditions(shift=solve_shift(self.intercept + logits, success_rate, errors), error_rate=errors)

    def outcome(
        self,
        task: SimulatedTask,
        action: str,
        rng: np.random.Generator,
        conditions: Conditions | None = None,
    ) -> SimulatedOutcome:
        """Draw what becomes of `action` on `task`.

        Four numbers are always taken from `rng`, whatever the result, so that two runs with the same generator
        and other conditions differ in nothing but the conditions.

        Raises
        ------
        ValueError
            `action` is not one of `ACTIONS`.
        """
        if action not in ACTIONS:
            raise ValueError(f"{action!r} is not one of {', '.join(ACTIONS)}")
        now = conditions or self.normal
        index = ACTIONS.index(action)
        success = 1 / (1 + np.exp(-(self.intercept + now.shift + one_logit(task.features, index))))
        draws = rng.random(3)
        return _outcome(index, success, now.error_rate, draws, float(rng.standard_normal()))

    def history(
        self,
        n: int,
        start_at: datetime,
        end_at: datetime,
        *,
        policy: Policy = "uniform",
        conditions: Conditions | None = None,
        first: int = 0,
    ) -> list[dict[str, Any]]:
        """Outcomes of `n` tasks as `FeedbackCollector.append_outcomes` takes them, in order of time.

        Parameters
        ----------
        start_at, end_at : datetime
            Aware; timestamps lie evenly in `[start_at, end_at)`.
        policy : {"uniform", "best", "worst"}
            Who chose: a uniformly random action (default; a model can learn every action from it), always the
            truly best, always the truly worst.
        conditions : Conditions, optional
            Default: as the automation was made.
        first : int
            Number of the first task (see `tasks`).

        Raises
        ------
        ValueError
            An instant is naive, `end_at` does not lie after `start_at`, or the policy is unknown.
        """
        if start_at.tzinfo is None or end_at.tzinfo is None or end_at <= start_at:
            raise ValueError(f"start_at and end_at must be aware and in order, got {start_at} and {end_at}")
        if policy not in get_args(Policy):
            raise ValueError(f"policy {policy!r} is not one of {', '.join(get_args(Policy))}")
        now = conditions or self.normal
        rng = np.random.default_rng([self.seed, 2, first])
        tasks = self.tasks(n, first=first)
        success = self.success_probability(tasks, Conditions(now.shift, error_rate=0.0))
        chosen = {
            "uniform": rng.integers(len(ACTIONS), size=n),
            "best": success.argmax(axis=1),
            "worst": success.argmin(axis=1),
        }[policy]
        draws, normals = rng.random((n, 3)), rng.standard_normal(n)
        step = (end_at - start_at) / max(n, 1)
        rows = []
        for i, task in enumerate(tasks):
            action = int(chosen[i])
            outcome = _outcome(action, success[i, action], now.error_rate, draws[i], normals[i])
            rows.append(outcome_row(task, ACTIONS[action], outcome, start_at + i * step))
        return rows

    @cached_property
    def _reference_logits(self) -> Floats:
        return all_logits(draw_features(np.random.default_rng([self.seed, 0]), REFERENCE_TASKS))


def outcome_row(
    task: SimulatedTask, action: str, outcome: SimulatedOutcome, at: datetime, *, decision_id: str | None = None
) -> dict[str, Any]:
    """One outcome as `FeedbackCollector.append_outcomes` takes it; features only where no decision has them."""
    row: dict[str, Any] = {
        "task_id": task.task_id,
        "domain": task.domain,
        "action_attempted": action,
        "result": outcome.result.value,
        "failure_reason": outcome.failure_reason,
        "execution_time": outcome.execution_time_s,
        "timestamp": at,
    }
    return row | (task.features if decision_id is None else {"decision_id": decision_id})


def _as_tasks(columns: Mapping[str, Sequence[Any]], prefix: str, first: int) -> list[SimulatedTask]:
    rows = zip(*(columns[name] for name in FEATURES), strict=True)
    return [
        SimulatedTask(
            task_id=f"{prefix}-{number:08d}",
            domain=f"{values[2]}-{number % 997:03d}.example",
            features=dict(zip(FEATURES, values, strict=True)),
        )
        for number, values in enumerate(rows, start=first)
    ]


def _outcome(action: int, success: float, error_rate: float, draws: Floats, normal: float) -> SimulatedOutcome:
    time_s = _MEDIAN_TIME_S[action] * float(np.exp(_TIME_SPREAD * normal))
    if draws[0] < error_rate:
        reason = _ERROR_REASONS[int(draws[2] * len(_ERROR_REASONS))]
        return SimulatedOutcome(Result.ERROR, reason, round(time_s * _ERROR_TIME_FACTOR, 3))
    if draws[1] < success:
        return SimulatedOutcome(Result.SUCCESS, None, round(time_s, 3))
    return SimulatedOutcome(Result.FAILURE, _FAILURE_REASONS[action], round(time_s * _FAILURE_TIME_FACTOR, 3))
