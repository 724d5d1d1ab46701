"""Act 1: a year of real flights through the whole loop.

Holds the replay: history imported and backfilled, then every week decided by the engine, matched with the
log, retrained and put on trial; does not hold the flights (`flights.py`) or what is told of it (`run.py`).

The replay method (Li, Chu, Langford, Wang 2011): a logged task counts only if the engine chooses what was
really done. It is unbiased for a log made at random. This log was not, so the rates of matched tasks are
biased; both models of a comparison are judged on the same logged rows instead.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from retrain_assets.core.metrics import score
from retrain_assets.core.outcomes import Result
from retrain_assets.defs.run import Instance, WeekResult, run_weeks, watch_once
from retrain_assets.demo.clock import ToldClock
from retrain_assets.demo.flights import FlightLog, FlightTask, FlightWeek
from retrain_assets.operations import deploy
from retrain_assets.operations.platform import Platform
from retrain_assets.serving.artefact import Artefact
from retrain_assets.serving.engine import DecisionEngine
from retrain_assets.store import registry
from retrain_assets.store.collector import FeedbackCollector

ACTOR = "demo"
STEP = timedelta(hours=1)
"""Time between two looks of the watch."""
SUNDAY = timedelta(minutes=5)
"""How long after a week's end its retraining starts."""
IMPORT_BATCH = 5_000


@dataclass(slots=True)
class Matched:
    """Tasks of one replayed week, by whether one or several airports were allowed."""

    tasks: int = 0
    matched: int = 0
    succeeded: int = 0
    by_version: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkForward:
    """One week's rows, scored by three models that had not seen them."""

    week: str
    rows: int
    newest_version: str
    newest: dict[str, Any]
    production_version: str
    production: dict[str, Any]
    first_version: str
    first: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedWeek:
    """What happened in one week of the replay."""

    week: str
    single: Matched
    several: Matched
    walk_forward: WalkForward
    result: WeekResult


@dataclass(frozen=True, slots=True)
class Replay:
    """The parties of the replay."""

    platform: Platform
    instance: Instance
    clock: ToldClock
    seed: int = 0

    def import_history(self, weeks: Sequence[FlightWeek], advance: Callable[[int], None]) -> int:
        """Hand the first weeks' flights to the collector, as a user's import would; returns how many it took."""
        accepted = 0
        self.clock.tell(weeks[-1].week.end_at)
        with self._collector() as collector:
            for week in weeks:
                rows = [task.outcome() for task in week.tasks()]
                for begin in range(0, len(rows), IMPORT_BATCH):
                    receipts = collector.append_outcomes(rows[begin : begin + IMPORT_BATCH])
                    accepted += sum(receipt.status == "accepted" for receipt in receipts)
                advance(len(rows))
        return accepted

    def backfill(self, weeks: Sequence[FlightWeek]) -> Iterator[WeekResult]:
        """Run the loop for the history, week by week; the first model that passes becomes production."""
        self.clock.tell(weeks[-1].week.end_at + SUNDAY)
        yield from run_weeks(self.platform, [week.week for week in weeks], self.instance, ACTOR)

    def replay(self, weeks: Sequence[FlightWeek], advance: Callable[[int], None]) -> Iterator[ReplayedWeek]:
        """Decide, match, append, watch and retrain, a week at a time."""
        first = self._serving()
        engine = DecisionEngine.from_registry(
            self.platform.database.url,
            problem_home=self.platform.problem_home,
            clock=self.clock,
            seed=self.seed,
            start_refresh=False,
        )
        stream, waiting = _Stream(weeks), _Waiting()
        for task in stream.until(weeks[0].week.start_at):  # under way when the engine takes over: history, too
            waiting.push(task.known_at, task.outcome())
        with engine, self._collector() as collector:
            for week in weeks:
                compared = self._walk_forward(week, first)
                single, several = Matched(), Matched()
                end = week.week.start_at
                while end < week.week.end_at:
                    end += STEP
                    hour = stream.until(end)
                    for task in hour:
                        self._decide(engine, task, single if len(task.allowed_actions) == 1 else several, waiting)
                    self._end_of_hour(engine, collector, waiting, end)
                    advance(len(hour))
                self.clock.tell(week.week.end_at + SUNDAY)
                (result,) = run_weeks(self.platform, [week.week], self.instance, ACTOR)
                engine.refresh()
                yield ReplayedWeek(
                    week=week.week.key, single=single, several=several, walk_forward=compared, result=result
                )

    def _decide(
        self,
        engine: DecisionEngine,
        task: FlightTask,
        tally: Matched,
        waiting: _Waiting,
    ) -> None:
        self.clock.tell(task.decided_at)
        decision = engine.decide(
            task_id=task.task_id,
            domain=task.domain,
            features=task.features,
            actions=task.allowed_actions,
            log=False,
        )
        tally.tasks += 1
        if decision.action != task.flown_from:
            return  # not logged at all: nobody knows what would have become of it, and it is not missing either
        engine.record(decision)
        tally.matched += 1
        tally.succeeded += task.result is Result.SUCCESS
        version = decision.model_version or "none"
        tally.by_version[version] = tally.by_version.get(version, 0) + 1
        waiting.push(task.known_at, task.outcome(decision.decision_id))

    def _end_of_hour(
        self,
        engine: DecisionEngine,
        collector: FeedbackCollector,
        waiting: _Waiting,
        end: datetime,
    ) -> None:
        self.clock.tell(end)
        engine.flush()
        if known := waiting.due(end):
            collector.append_outcomes(known)
        watch_once(self.platform, self.instance, ACTOR)
        engine.refresh()

    def _walk_forward(self, week: FlightWeek, first: str) -> WalkForward:
        """Score the coming week's rows with the newest, the serving and the first model: none has seen them."""
        newest, tasks = self._newest(), list(week.tasks())
        rows = [task.features for task in tasks]
        actions = [task.flown_from for task in tasks]
        success = np.array([task.result is Result.SUCCESS for task in tasks])
        versions = {"newest": newest, "production": self._serving(), "first": first}
        found: dict[str, dict[str, Any]] = {}
        for version in set(versions.values()):
            found[version] = score(success, np.asarray(self._artefact(version).score_many(rows, actions), dtype=float))
        return WalkForward(
            week=week.week.key,
            rows=len(rows),
            newest_version=versions["newest"],
            newest=found[versions["newest"]],
            production_version=versions["production"],
            production=found[versions["production"]],
            first_version=first,
            first=found[first],
        )

    def _artefact(self, version: str) -> Artefact:
        with self.platform.database.read() as connection:
            model = registry.get_version(connection, version)
        assert model is not None  # noqa: S101  (it serves, so it is registered)
        return deploy.load_artefact(self.platform, model)

    def _serving(self) -> str:
        with self.platform.database.read() as connection:
            version = registry.get_route(connection).production_version
        assert version is not None  # noqa: S101  (the caller backfilled until something serves)
        return version

    def _newest(self) -> str:
        """The version trained last that passed its validation: what weekly retraining would serve."""
        with self.platform.database.read() as connection:
            models = registry.versions(connection)
        passed = [model.version for model in models if (model.report or {}).get("passed")]
        return passed[-1]

    def _collector(self) -> FeedbackCollector:
        return FeedbackCollector(self.platform.database.url, config=self.platform.config, clock=self.clock)


class _Stream:
    """The tasks of several weeks in the order of their decisions."""

    def __init__(self, weeks: Sequence[FlightWeek]) -> None:
        self._tasks = itertools.chain.from_iterable(week.tasks() for week in weeks)
        self._next = next(self._tasks, None)

    def until(self, end: datetime) -> list[FlightTask]:
        """The tasks decided before `end` that were not given yet."""
        given = []
        while self._next is not None and self._next.decided_at < end:
            given.append(self._next)
            self._next = next(self._tasks, None)
        return given


class _Waiting:
    """Outcomes that will be known later."""

    def __init__(self) -> None:
        self._heap: list[tuple[datetime, int, dict[str, Any]]] = []
        self._serial = itertools.count()  # keeps equal instants in order, and rows out of the comparison

    def push(self, known_at: datetime, row: dict[str, Any]) -> None:
        """Keep an outcome until it is known."""
        heapq.heappush(self._heap, (known_at, next(self._serial), row))

    def due(self, now: datetime) -> list[dict[str, Any]]:
        """The outcomes known by now, earliest first."""
        known = []
        while self._heap and self._heap[0][0] <= now:
            known.append(heapq.heappop(self._heap)[2])
        return known


def history_and_rest(log: FlightLog, history: int) -> tuple[Sequence[FlightWeek], Sequence[FlightWeek]]:
    """The weeks that are imported, and those that are replayed."""
    return log.weeks[:history], log.weeks[history:]
