"""What an engine does while a model is on trial: shares, lease, fallback and circuit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrain_assets.core.deployment import Status
from retrain_assets.core.routing import task_position
from retrain_assets.errors import SchemaError
from retrain_assets.serving.circuit import FIRST_WAIT, LONGEST_WAIT, TOLERATED, WINDOW, Circuit
from retrain_assets.serving.decision import Decision
from retrain_assets.serving.engine import DecisionEngine
from retrain_assets.settings import CanarySettings, CanaryThresholds, Config, ExplorationSettings
from retrain_assets.store import decisions
from retrain_assets.testing import FakeClock, SeededDatabase, seeded_database

CANARY_SCORES = {"comment": 0.1, "profile": 0.2, "forum": 0.3, "guest": 0.9}
SHARE = 0.3
PA = {"pa": 0.0}


class Broken:
    """A model whose `score` does what it is told: raise, answer NaN, or take its time."""

    actions = ("comment", "profile", "forum", "guest")

    def __init__(self, answer: Exception | float = math.nan) -> None:
        self.answer = answer
        self.asked = 0

    def score(self, features: Mapping[str, Any], actions: Sequence[str] | None = None) -> np.ndarray:
        """As told."""
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return np.full(len(actions or self.actions), self.answer, dtype=np.float32)


@pytest.fixture
def clock() -> FakeClock:
    """The engine's clock."""
    return FakeClock()


@pytest.fixture
def seeded(sqlite_url: str, clock: FakeClock) -> SeededDatabase:
    """v1.0.0 serves and v1.0.1, which prefers another action, is on trial for two minutes."""
    folder = Path(sqlite_url.removeprefix("sqlite:///")).parent
    made = seeded_database(sqlite_url, folder, config=Config(exploration=ExplorationSettings(epsilon=0.0)))
    made.add_version("v1.0.1", CANARY_SCORES, status=Status.CANARY)
    made.set_route(
        canary_version="v1.0.1", share=SHARE, rollout_id="trial", lease_until=clock() + timedelta(seconds=120)
    )
    return made


@pytest.fixture
def engine(seeded: SeededDatabase, clock: FakeClock) -> Iterator[DecisionEngine]:
    """An engine that refreshes only when asked."""
    with DecisionEngine.from_registry(seeded.url, clock=clock, start_refresh=False) as made:
        yield made


def of_canary(rollout_id: str = "trial", share: float = SHARE) -> Iterator[str]:
    """Task ids that the trial sends to the canary."""
    number = 0
    while True:
        number += 1
        if task_position(f"t{number}", rollout_id) < share:
            yield f"t{number}"


def break_canary(engine: DecisionEngine, answer: Exception | float = math.nan) -> Broken:
    """Put a broken model in the canary's place."""
    broken = Broken(answer)
    assert engine._bundle.canary is not None
    engine._bundle.canary.artefact = broken  # type: ignore[assignment]
    return broken


def ask(engine: DecisionEngine, tasks: Iterator[str], count: int = 1) -> list[Decision]:
    """Decide the next tasks."""
    return [engine.decide(task_id=next(tasks), features=PA, log=False) for _ in range(count)]


def test_the_canary_answers_its_share_and_everybody_is_part_of_the_trial(engine: DecisionEngine) -> None:
    """Of 4,000 tasks 30 % go to the canary (five standard errors); production's decisions carry the trial as well."""
    made = [engine.decide(task_id=f"t{i}", features=PA, log=False) for i in range(4_000)]
    arms = Counter(decision.arm for decision in made)
    assert abs(arms["canary"] / 4_000 - SHARE) < 5 * math.sqrt(SHARE * (1 - SHARE) / 4_000)
    assert set(arms) == {"canary", "production"}
    assert {(d.share, d.rollout_id) for d in made} == {(SHARE, "trial")}
    assert {(d.arm, d.action, d.model_version) for d in made} == {
        ("canary", "guest", "v1.0.1"),
        ("production", "comment", "v1.0.0"),
    }
    assert all(decision.assigned_arm == decision.arm for decision in made)


def test_a_task_stays_on_its_side_and_a_larger_share_keeps_the_tasks_it_had(
    engine: DecisionEngine, seeded: SeededDatabase
) -> None:
    """The same task gets the same arm each time; raising the share only adds tasks to the canary."""
    names = [f"t{i}" for i in range(500)]

    def on_canary() -> set[str]:
        return {name for name in names if engine.decide(task_id=name, features=PA, log=False).arm == "canary"}

    before = on_canary()
    assert before == on_canary()
    seeded.set_route(share=0.6, step=1)
    assert engine.refresh()
    assert before < on_canary()


def test_without_a_lease_the_canary_gets_no_task_and_there_is_no_trial(
    engine: DecisionEngine, seeded: SeededDatabase, clock: FakeClock
) -> None:
    """Nobody watching means no canary, without a word from the database; the share that was applied is logged."""
    tasks = of_canary()
    assert ask(engine, tasks)[0].arm == "canary"
    clock.advance(seconds=120)
    decision = ask(engine, tasks)[0]
    assert (decision.arm, decision.assigned_arm, decision.model_version) == ("production", "production", "v1.0.0")
    assert (decision.share, decision.rollout_id) == (0.0, None)


def test_a_renewed_lease_is_seen_without_a_new_epoch(
    engine: DecisionEngine, seeded: SeededDatabase, clock: FakeClock
) -> None:
    """Renewing the lease changes no epoch, and the canary goes on."""
    from retrain_assets.store import registry

    epoch = engine._bundle.route.epoch
    clock.advance(seconds=119)
    with seeded.database.write() as connection:
        registry.renew_lease(connection, clock() + timedelta(seconds=120))
    assert engine.refresh()
    clock.advance(seconds=60)
    assert ask(engine, of_canary())[0].arm == "canary"
    assert engine._bundle.route.epoch == epoch


@pytest.mark.parametrize("answer", [RuntimeError("kernel fault"), math.nan, math.inf, -math.inf, 1.5])
def test_a_canary_that_fails_costs_no_task(engine: DecisionEngine, answer: Exception | float) -> None:
    """Whatever the canary does, production answers; the task stays the canary's and the reason is told."""
    break_canary(engine, answer)
    decision = ask(engine, of_canary())[0]
    assert (decision.action, decision.arm, decision.assigned_arm) == ("comment", "fallback", "canary")
    assert decision.model_version == "v1.0.0"
    assert decision.error is not None
    assert decision.error.startswith("v1.0.1: ")
    assert (decision.share, decision.rollout_id) == (SHARE, "trial")
    assert engine.counters["fallbacks"] == engine.counters["trial_failures"] == 1


def test_a_fallback_is_in_the_log_with_its_error(engine: DecisionEngine, seeded: SeededDatabase) -> None:
    """The watch counts a fallback against the canary: it needs both arms and the reason."""
    break_canary(engine, RuntimeError("kernel fault"))
    made = engine.decide(task_id=next(of_canary()), features=PA, durable=True)
    with seeded.database.read() as connection:
        logged = decisions.get(connection, made.decision_id)
    assert logged is not None
    assert (logged.arm, logged.assigned_arm) == ("fallback", "canary")
    assert logged.error == "v1.0.1: RuntimeError: kernel fault"


def test_repeated_failures_open_the_circuit_and_the_canary_is_left_alone(engine: DecisionEngine) -> None:
    """After five failures the canary is not asked any more; its tasks are still counted as its own."""
    broken, tasks = break_canary(engine), of_canary()
    made = ask(engine, tasks, 30)
    assert broken.asked == TOLERATED + 1
    assert {(d.arm, d.assigned_arm) for d in made} == {("fallback", "canary")}
    assert made[-1].error == "the circuit of v1.0.1 is open after repeated failures"
    assert engine.counters["circuit_opened"] == 1
    assert engine.counters["fallbacks"] == 30


def test_an_open_circuit_lets_one_task_try_after_a_while(engine: DecisionEngine, clock: FakeClock) -> None:
    """A canary that has recovered answers again; one that has not waits twice as long."""
    broken, tasks = break_canary(engine), of_canary()
    assert engine._bundle.canary is not None
    ask(engine, tasks, TOLERATED + 2)
    clock.advance(FIRST_WAIT)
    ask(engine, tasks, 3)
    assert broken.asked == TOLERATED + 2  # one try, and it failed
    clock.advance(FIRST_WAIT)
    ask(engine, tasks, 3)
    assert broken.asked == TOLERATED + 2  # the wait has doubled
    clock.advance(FIRST_WAIT)
    broken.answer = 0.5
    assert [decision.arm for decision in ask(engine, tasks, 3)] == ["canary"] * 3


def test_the_circuit_belongs_to_its_rollout(engine: DecisionEngine, seeded: SeededDatabase) -> None:
    """An open circuit survives a new epoch of the same trial, and a new trial starts with a closed one."""
    break_canary(engine)
    ask(engine, of_canary(), TOLERATED + 1)
    seeded.set_route(share=0.6, step=1)
    engine.refresh()
    assert engine._bundle.circuit.is_open
    seeded.set_route(rollout_id="another")
    engine.refresh()
    assert not engine._bundle.circuit.is_open


def test_a_canary_that_is_slow_again_and_again_is_replaced_by_production(sqlite_url: str, clock: FakeClock) -> None:
    """A slow answer is used, for it is there; after five of them production answers."""
    folder = Path(sqlite_url.removeprefix("sqlite:///")).parent
    canary = CanarySettings(thresholds=CanaryThresholds(max_response_time_ms=1e-6))  # nothing is as quick as that
    config = Config(canary=canary, exploration=ExplorationSettings(epsilon=0.0))
    seeded = seeded_database(sqlite_url, folder, config=config)
    seeded.add_version("v1.0.1", CANARY_SCORES, status=Status.CANARY)
    lease = clock() + timedelta(hours=1)
    seeded.set_route(canary_version="v1.0.1", share=SHARE, rollout_id="trial", lease_until=lease)
    with DecisionEngine.from_registry(sqlite_url, clock=clock, start_refresh=False) as engine:
        arms = [decision.arm for decision in ask(engine, of_canary(), 10)]
        assert arms == ["canary"] * (TOLERATED + 1) + ["fallback"] * (9 - TOLERATED)
        assert engine.counters["trial_slow"] == TOLERATED + 1


def test_a_task_that_fits_no_model_is_not_the_canarys_fault(engine: DecisionEngine) -> None:
    """A worker that sends nonsense gets its error and cannot open the circuit."""
    tasks = of_canary()
    for _ in range(3 * WINDOW):
        with pytest.raises(SchemaError, match="pa: 'high' is not a number"):
            engine.decide(task_id=next(tasks), features={"pa": "high"})
    assert "trial_failures" not in engine.counters
    assert ask(engine, tasks)[0].arm == "canary"


def test_a_canary_that_fails_only_on_missing_values_falls_back_only_there(
    seeded: SeededDatabase, clock: FakeClock
) -> None:
    """A real model that passes its self-test and then answers NaN for some tasks costs none of them."""
    seeded.add_version("v1.0.2", CANARY_SCORES, status=Status.STAGING, shifts="pa")
    seeded.set_route(canary_version="v1.0.2", rollout_id="trial")
    with DecisionEngine.from_registry(seeded.url, clock=clock, start_refresh=False) as engine:
        tasks = of_canary()
        whole = engine.decide(task_id=next(tasks), features={"pa": 0.0}, log=False)
        lacking = engine.decide(task_id=next(tasks), features={}, log=False)
    assert (whole.arm, whole.action) == ("canary", "guest")
    assert (lacking.arm, lacking.action) == ("fallback", "comment")
    assert lacking.error is not None
    assert "not probabilities" in lacking.error


def test_the_holdback_keeps_its_tasks_on_the_old_model(seeded: SeededDatabase, clock: FakeClock) -> None:
    """After a promotion 20 % stay on the version before, whose decisions and shares are told."""
    seeded.set_route(
        canary_version=None, share=0.0, lease_until=None, rollout_id="bake", production_version="v1.0.1",
        holdback_version="v1.0.0", holdback_share=0.2,
    )  # fmt: skip
    with DecisionEngine.from_registry(seeded.url, clock=clock, start_refresh=False) as engine:
        made = [engine.decide(task_id=f"t{i}", features=PA, log=False) for i in range(2_000)]
    arms = Counter(decision.arm for decision in made)
    assert abs(arms["holdback"] / 2_000 - 0.2) < 5 * math.sqrt(0.16 / 2_000)
    assert {(d.arm, d.model_version, d.share, d.rollout_id) for d in made} == {
        ("holdback", "v1.0.0", 0.2, "bake"),
        ("production", "v1.0.1", 0.2, "bake"),
    }


def test_a_production_that_fails_at_run_time_leaves_the_default_action(sqlite_url: str) -> None:
    """With a default action no task is lost even then, and the log says why no model answered."""
    from retrain_assets.errors import NoModelError
    from retrain_assets.settings import ProblemSettings

    folder = Path(sqlite_url.removeprefix("sqlite:///")).parent
    config = Config(problem=ProblemSettings(default_action="guest"))
    seeded = seeded_database(sqlite_url, folder, config=config)
    with DecisionEngine.from_registry(seeded.url, start_refresh=False) as engine:
        assert engine._bundle.production is not None
        engine._bundle.production.artefact = Broken(RuntimeError("kernel fault"))  # type: ignore[assignment]
        decision = engine.decide(task_id="t1", log=False)
        assert (decision.action, decision.model_version, decision.arm) == ("guest", None, "production")
        assert decision.error == "v1.0.0: RuntimeError: kernel fault"
        with pytest.raises(NoModelError, match=r"production cannot answer: v1.0.0: RuntimeError: kernel.*rollback"):
            engine.decide(task_id="t1", actions=["forum"], log=False)


class TestCircuit:
    """The circuit by itself."""

    def test_occasional_failures_keep_it_closed(self) -> None:
        """Four failures in every twenty answers, for ever, never open it."""
        circuit, now = Circuit(), FakeClock()()
        for number in range(1_000):
            circuit.note(is_failure=number % 5 == 0, now=now)
        assert circuit.allows(now)
        assert circuit.opened == 0

    def test_five_failures_of_twenty_open_it(self) -> None:
        """One failure more within the window opens it."""
        circuit, now = Circuit(), FakeClock()()
        for number in range(WINDOW):
            circuit.note(is_failure=number % 4 == 3, now=now)
        assert not circuit.allows(now)
        assert (circuit.is_open, circuit.opened) == (True, 1)

    def test_a_late_good_answer_does_not_close_it(self) -> None:
        """A task that was asked before the circuit opened may answer well afterwards: only a new try counts."""
        circuit, now = Circuit(), FakeClock()()
        for _ in range(TOLERATED + 1):
            circuit.note(is_failure=True, now=now)
        circuit.note(is_failure=False, now=now)
        assert not circuit.allows(now)

    def test_its_waits_double_up_to_a_limit_and_start_anew_after_a_success(self) -> None:
        """30 s, 60 s, 120 s ... at most ten minutes; a good answer closes it and forgets the past."""
        circuit, clock = Circuit(), FakeClock()
        for _ in range(TOLERATED + 1):
            circuit.note(is_failure=True, now=clock())
        wait = FIRST_WAIT
        for _ in range(8):
            clock.advance(wait - timedelta(seconds=1))
            assert not circuit.allows(clock())
            clock.advance(seconds=1)
            assert circuit.allows(clock())
            circuit.note(is_failure=True, now=clock())
            wait = min(wait * 2, LONGEST_WAIT)
        clock.advance(LONGEST_WAIT)
        assert circuit.allows(clock())
        circuit.note(is_failure=False, now=clock())
        for _ in range(TOLERATED):
            circuit.note(is_failure=True, now=clock())
        assert circuit.allows(clock())
