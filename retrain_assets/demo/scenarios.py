"""Act 2: what the loop does when things go wrong, in a simulated automation whose truth is known.

Holds the scenarios and how they are played; does not hold the truth (`automation.py`) or the telling (`run.py`).
Each scenario starts from its own copy of one prepared problem: `v1.0.0` serves, a second version is staged.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from retrain_assets.core.deployment import Event, EventKind, ModelVersion, Status
from retrain_assets.core.outcomes import Result
from retrain_assets.defs.run import run_weeks, throwaway_instance, watch_once
from retrain_assets.demo.automation import Conditions, SimulatedAutomation, SimulatedTask, outcome_row
from retrain_assets.demo.clock import ToldClock
from retrain_assets.demo.mailbox import deliver_all
from retrain_assets.operations import deploy
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.serving.engine import DecisionEngine
from retrain_assets.settings import CanarySettings, Config, ProblemSettings, Settings, resolve
from retrain_assets.store import decisions, outbox, registry
from retrain_assets.store.collector import FeedbackCollector

ACTOR = "demo"
TASKS_PER_HOUR = 1_200
HISTORY = (1_500, 6_500)
"""Tasks of the two weeks that teach the two versions: the second one has learnt from both, and is the better one."""
TICK = timedelta(minutes=10)
TAKES = timedelta(minutes=10)
"""How long a task takes until its outcome is known; it matures after the task timeout of an hour."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What goes wrong, for whom, and what should happen.

    Attributes
    ----------
    name, story : str
    on_trial : bool
        The second version is on trial; otherwise it serves, with the first one before it.
    harmed : {"second", "both", "none"}
        Whose tasks live in the bad times.
    success_rate, error_rate : float or None
        Of the bad times; None leaves it as it was.
    expected : EventKind or None
        What should end the scenario; None: nothing may be rolled back.
    hours : int
        The longest it may take.
    """

    name: str
    story: str
    on_trial: bool
    harmed: str
    success_rate: float | None
    error_rate: float | None
    expected: EventKind | None
    hours: int


SCENARIOS = (
    Scenario(
        "good canary",
        "the version on trial is as good as production: it must be promoted",
        on_trial=True,
        harmed="none",
        success_rate=None,
        error_rate=None,
        expected=EventKind.PROMOTED,
        hours=50,
    ),
    Scenario(
        "success drop",
        "production drops from 0.85 to 0.70: back to the previous version",
        on_trial=False,
        harmed="second",
        success_rate=0.70,
        error_rate=None,
        expected=EventKind.ROLLED_BACK,
        hours=24,
    ),
    Scenario(
        "error spike",
        "production's errors rise to 0.15: back to the previous version at once",
        on_trial=False,
        harmed="second",
        success_rate=None,
        error_rate=0.15,
        expected=EventKind.ROLLED_BACK,
        hours=24,
    ),
    Scenario(
        "canary failure",
        "the version on trial succeeds at 0.70: the trial ends, production is untouched",
        on_trial=True,
        harmed="second",
        success_rate=0.70,
        error_rate=None,
        expected=EventKind.ROLLED_BACK,
        hours=24,
    ),
    Scenario(
        "dip for both",
        "the world gets worse for both arms, 0.85 to 0.70: nothing may be rolled back",
        on_trial=True,
        harmed="both",
        success_rate=0.70,
        error_rate=None,
        expected=None,
        hours=24,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """How a scenario went.

    Attributes
    ----------
    hours : float
        Simulated time to the verdict, or to the end.
    outcomes : int
        Matured outcomes of the version in question until then.
    harmed : int
        Tasks that failed and would have succeeded in normal times, among those the version in question served.
    """

    scenario: Scenario
    verdict: str
    reason: str
    hours: float
    outcomes: int
    harmed: int
    serves: str | None
    notified: tuple[str, ...]
    events: tuple[Event, ...] = field(default_factory=tuple)

    @property
    def is_as_expected(self) -> bool:
        """Whether the scenario ended as it should."""
        kinds = {event.kind for event in self.events}
        if self.scenario.expected is None:
            return not kinds & {EventKind.ROLLED_BACK, EventKind.NOT_PROMOTED}
        return self.scenario.expected in kinds


def settings_at(home: Path) -> Settings:
    """The shipped automation's settings, everything written below `home`."""
    # The watch looks every ten minutes of told time; the shipped lease of two minutes would run out in between.
    config = Config(problem=ProblemSettings(name="simulated"), canary=CanarySettings(lease_seconds=1_800))
    return resolve(config, None, environ={"RETRAIN_HOME": str(home)})


def prepare(home: Path, automation: SimulatedAutomation, now: datetime) -> datetime:
    """Teach two versions by the real loop below `home`: one serves, the next waits on trial; returns the clock.

    Parameters
    ----------
    home : Path
        An empty folder.
    automation : SimulatedAutomation
    now : datetime
        The scenarios play in the week that contains it.
    """
    clock = ToldClock(now)
    platform = open_platform(settings_at(home), clock)
    week = platform.calendar.newest_closed(now)
    weeks = [platform.calendar.before(week), week]
    with FeedbackCollector(platform.database.url, config=platform.config, clock=clock) as collector:
        first = 0
        for count, taught in zip(HISTORY, weeks, strict=True):
            collector.append_outcomes(automation.history(count, taught.start_at, taught.end_at, first=first))
            first += count
    with throwaway_instance() as instance:
        for taught in weeks:
            clock.tell(taught.end_at + TICK)
            for result in run_weeks(platform, [taught], instance, ACTOR):
                if result.outcome != "deployed":
                    raise RuntimeError(f"the prepared week {result.week} ended as {result.outcome}: {result.reason}")
    platform.database.close()
    return clock()


def play_all(base: Path, scratch: Path, automation: SimulatedAutomation, now: datetime) -> Iterator[Played]:
    """Play every scenario from its own copy of the prepared problem."""
    for number, scenario in enumerate(SCENARIOS):
        home = scratch / f"scenario-{number}"
        shutil.copytree(base, home)
        yield play(scenario, home, automation, now)


def play(scenario: Scenario, home: Path, automation: SimulatedAutomation, now: datetime) -> Played:
    """Play one scenario to its verdict, or to its end."""
    clock = ToldClock(now)
    platform = open_platform(settings_at(home), clock)
    second = _put_on(platform, scenario)
    since = len(_events(platform))
    deliver_all(platform)
    with platform.database.read() as connection:
        already_told = len(outbox.told(connection))
    play_ = _Play(platform, clock, automation, scenario, second)
    ends = now + timedelta(hours=scenario.hours)
    with (
        throwaway_instance() as instance,
        FeedbackCollector(platform.database.url, config=platform.config, clock=clock) as collector,
        DecisionEngine.from_registry(
            platform.database.url, problem_home=platform.problem_home, clock=clock, seed=1, start_refresh=False
        ) as engine,
    ):
        while clock() < ends:
            play_.one_tick(engine, collector)
            watch_once(platform, instance, ACTOR)
            deliver_all(platform)
            if _ended(_events(platform)[since:], scenario):
                break
    return _played(platform, play_, _events(platform)[since:], now, already_told)


class _Play:
    """One scenario's traffic, from one look of the watch to the next."""

    def __init__(
        self,
        platform: Platform,
        clock: ToldClock,
        automation: SimulatedAutomation,
        scenario: Scenario,
        second: ModelVersion,
    ) -> None:
        self.platform = platform
        self.clock = clock
        self.second = second.version
        self.harmed = 0
        self._automation = automation
        self.scenario = scenario
        self._bad: Conditions | None = None
        self._rng = np.random.default_rng(11)
        self._next = 1_000_000  # far from the tasks of the history
        self._waiting: list[tuple[datetime, dict[str, Any]]] = []

    def one_tick(self, engine: DecisionEngine, collector: FeedbackCollector) -> None:
        """Decide, let outcomes become known, hand them in."""
        engine.refresh()
        bad = self._bad or self._solve(engine)
        count = int(TASKS_PER_HOUR * TICK.total_seconds() / 3600)
        for task in self._automation.tasks(count, first=self._next):
            self.clock.tell(self.clock() + TICK / count)
            decision = engine.decide(task_id=task.task_id, domain=task.domain, features=task.features)
            self._serve(task, decision.decision_id, decision.action, decision.model_version, bad)
        self._next += count
        engine.flush()
        now = self.clock()
        known = [row for at, row in self._waiting if at <= now]
        self._waiting = [(at, row) for at, row in self._waiting if at > now]
        collector.append_outcomes(known)

    def _serve(self, task: SimulatedTask, decision_id: str, action: str, version: str | None, bad: Conditions) -> None:
        state = self._rng.bit_generator.state
        normal = self._automation.outcome(task, action, self._rng)
        is_harmed = self.scenario.harmed == "both" or (self.scenario.harmed == "second" and version == self.second)
        outcome = normal
        if is_harmed:
            self._rng.bit_generator.state = state  # the same draws in both times: what differs is the times' doing
            outcome = self._automation.outcome(task, action, self._rng, bad)
            self.harmed += normal.result is Result.SUCCESS and outcome.result is not Result.SUCCESS
        at = self.clock() + TAKES
        self._waiting.append((at, outcome_row(task, action, outcome, at, decision_id=decision_id)))

    def _solve(self, engine: DecisionEngine) -> Conditions:
        """Bad times in which this engine's own choices succeed at the named rate."""

        def choose(tasks: Sequence[SimulatedTask]) -> list[str]:
            return [engine.predict_ranked(task.features)[0][0] for task in tasks]

        self._bad = self._automation.conditions(
            success_rate=self.scenario.success_rate, error_rate=self.scenario.error_rate, choose=choose
        )
        return self._bad


def _put_on(platform: Platform, scenario: Scenario) -> ModelVersion:
    """Leave the second version on trial, or let it serve."""
    with platform.database.read() as connection:
        (second,) = registry.versions(connection, Status.CANARY)
    if scenario.on_trial:
        return second
    deploy.promote(platform, second.version, Cause(ACTOR, "the scenario begins with it in production"))
    return second


def _events(platform: Platform) -> list[Event]:
    with platform.database.read() as connection:
        return registry.events(connection)


_ENDS = frozenset({EventKind.PROMOTED, EventKind.ROLLED_BACK, EventKind.NOT_PROMOTED, EventKind.ROLLBACK_IMPOSSIBLE})


def _ended(events: Sequence[Event], scenario: Scenario) -> bool:
    return scenario.expected is not None and any(event.kind in _ENDS for event in events)


def _played(platform: Platform, play_: _Play, events: Sequence[Event], began: datetime, already_told: int) -> Played:
    with platform.database.read() as connection:
        route = registry.get_route(connection)
        notified = outbox.told(connection)[already_told:]
        outcomes = decisions.matured_count(connection, play_.second, began, platform.now())
    told = [event for event in events if event.kind is not EventKind.DEPRECATED]
    ending = next((event for event in reversed(told) if event.kind in _ENDS), told[-1] if told else None)
    return Played(
        scenario=play_.scenario,
        verdict=ending.kind.value if ending else "nothing was done",
        reason=ending.reason if ending else "the evidence never asked for anything",
        hours=(platform.now() - began).total_seconds() / 3600,
        outcomes=outcomes,
        harmed=play_.harmed,
        serves=route.production_version,
        notified=tuple(notified),
        events=tuple(events),
    )
