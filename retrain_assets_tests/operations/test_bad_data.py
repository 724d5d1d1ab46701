"""Data that no one would choose, through every step from collecting to validating, and what becomes of each.

Each case ends in one of three ways, with a sentence that names the cause, and never in an exception.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_assets.operations import retrain
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.operations.retrain import Held, Run
from retrain_assets.settings import Config, FeatureSettings, ModelSettings, ProblemSettings, RetrainSettings, Settings
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.testing import START, FakeClock

RUN = Run("run 1", "anna")
TASKS = 300
ACTIONS = ["post", "mail"]
Row = dict[str, Any]


def _problem(**features: str) -> ProblemSettings:
    named = {name: FeatureSettings(type=kind) for name, kind in features.items()}  # type: ignore[arg-type]
    return ProblemSettings(name="bad", actions=ACTIONS, action_aliases={}, strata=[], features=named)


USUAL = _problem(size="number", kind="category")


def usual_week(start: Any, week: int = 0, tasks: int = TASKS) -> list[Row]:  # noqa: ANN401  (an aware datetime)
    """Tasks spread over a week whose success hangs on size and action; seed = week."""
    rng = random.Random(week)
    rows = []
    for number in range(tasks):
        size, action = rng.random(), rng.choice(ACTIONS)
        rows.append(
            {
                "task_id": f"{week}-{number}",
                "action_attempted": action,
                "result": rng.random() < (0.9 if (size > 0.5) == (action == "post") else 0.1),
                "timestamp": start + number * timedelta(days=6.9) / tasks,
                "size": size,
                "kind": rng.choice(["a", "b", "c"]),
            }
        )
    return rows


def _each(change: Callable[[int, Row], Row | None]) -> Callable[[list[Row]], list[Row]]:
    """Change or leave out rows one by one."""
    return lambda rows: [new for number, row in enumerate(rows) if (new := change(number, dict(row))) is not None]


@dataclass(frozen=True)
class Case:
    """One kind of bad data.

    `ends` is trained, skipped or rejected; `told` stands in the reason, or in the gate that refused. `change` is made
    to the last week's rows, `change_before` to those of the weeks before.
    """

    name: str
    ends: str
    told: str
    change: Callable[[list[Row]], list[Row]] = field(default=list)
    problem: ProblemSettings = USUAL
    weeks: int = 1
    empty: tuple[int, ...] = ()
    before: ProblemSettings | None = None
    change_before: Callable[[list[Row]], list[Row]] = field(default=list)


def _posted(row: Row) -> Row:
    """The same task with `post`, which succeeds as often as `post` does for its size."""
    return row | {"action_attempted": "post", "result": row["result"] == (row["action_attempted"] == "post")}


only_post = _each(lambda _, row: _posted(row))


CASES = [
    Case("all succeed", "skipped", "cannot be split: all 208 training rows are successes",
         _each(lambda _, row: row | {"result": True})),
    Case("one action is missing", "trained", "passed", only_post),
    Case("a constant feature", "trained", "passed", _each(lambda _, row: row | {"kind": "a"})),
    Case("an all-missing feature", "trained", "passed",
         problem=_problem(size="number", kind="category", never="number")),
    Case("a feature all missing in the test part", "trained", "passed",
         _each(lambda number, row: row | ({"kind": None} if number > 0.8 * TASKS else {}))),
    Case("a category as good as an id", "rejected", "leakage", _each(lambda number, row: row | {"kind": f"k{number}"})),
    Case("a week without rows", "trained", "passed", weeks=2, empty=(0,)),
    Case("no rows in the week that is run", "skipped", "0 new tasks since the training of week", weeks=2, empty=(1,)),
    Case("an action new this week", "trained", "passed", weeks=2, change_before=only_post),
    Case("the same column twice", "trained", "passed", _each(lambda _, row: row | {"copy": row["size"]}),
         problem=_problem(size="number", kind="category", copy="number")),
    Case("a feature of another type than before", "trained", "passed as v2.0.0",
         _each(lambda _, row: row | {"size": "large" if row["size"] > 0.5 else "small"}),
         problem=_problem(size="category", kind="category"), weeks=2, before=USUAL),
    Case("all rows in one instant", "skipped", "cannot be split: the train part would be empty",
         lambda rows: [row | {"timestamp": rows[0]["timestamp"]} for row in rows]),
    Case("one task alone", "skipped", "cannot be split",
         lambda rows: [row | {"task_id": "t", "attempt": number + 1} for number, row in enumerate(rows)]),
    Case("a test part without an action", "trained", "passed",
         _each(lambda number, row: _posted(row) if number > 0.8 * TASKS else row)),
    Case("a validation part of one class", "trained", "passed",
         _each(lambda number, row: row | ({"result": True} if 0.7 * TASKS < number < 0.86 * TASKS else {}))),
    Case("a test part of one class", "rejected", "better_than_trivial",
         _each(lambda number, row: row | ({"result": False} if number > 0.84 * TASKS else {}))),
    Case("noise", "rejected", "better_than_trivial",
         _each(lambda number, row: row | {"result": random.Random(number).random() < 0.5})),
]  # fmt: skip


def _open(home: Path, clock: FakeClock, problem: ProblemSettings) -> Platform:
    rules = RetrainSettings(validation_threshold=0.0, min_new_samples=50)
    config = Config(problem=problem, retrain=rules, model=ModelSettings(params={"max_iter": 30}))
    url = f"sqlite:///{home / 'retrain.db'}"
    return open_platform(Settings(config=config, config_path=None, home=home, database_url=url), clock)


def _run(platform: Platform, week: Any) -> tuple[str, str]:  # noqa: ANN401  (a `Week`)
    """How a week ends, and the sentence."""
    retrain.collect(platform, week)
    retrain.merge(platform, week)
    for step in (retrain.prepare, retrain.train):
        done = step(platform, week, RUN)
        if isinstance(done, Held):
            return "skipped", done.reason
    model = retrain.register(platform, week, RUN, is_backfill=False)
    _, report = retrain.validate(platform, week, RUN)
    if report.passed:
        retrain.stage(platform, week, RUN)
        retrain.start_canary(platform, week, RUN)
        return "trained", f"passed as {model.version}"
    return "rejected", " ".join(gate.name for gate in report.gates if not gate.passed)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_data_ends_the_week_in_a_stated_way(case: Case, home: Path) -> None:
    """Trained, skipped or rejected, and the reason names what is wrong."""
    clock = FakeClock()
    ended = ("", "")
    for number in range(case.weeks):
        is_last = number == case.weeks - 1
        platform = _open(home, clock, case.before if case.before and not is_last else case.problem)
        week = platform.calendar.containing(START + timedelta(weeks=number))
        clock.set(week.end_at + timedelta(minutes=5))
        rows = [] if number in case.empty else usual_week(week.start_at, number)
        with FeedbackCollector(platform.database.url, config=platform.config, clock=clock) as collector:
            receipts = collector.append_outcomes(case.change(rows) if is_last else case.change_before(rows))
        assert {receipt.status for receipt in receipts} <= {"accepted"}
        ended = _run(platform, week)
        platform.database.close()
    assert ended[0] == case.ends, ended
    assert case.told in ended[1]
