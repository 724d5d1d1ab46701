"""The watch: each matured task counts once, and a tick is whole or did not happen."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from retrain_assets.core.deployment import Event, EventKind, ModelVersion, Status
from retrain_assets.core.outcomes import DecisionRecord
from retrain_assets.core.promotion import TrialState
from retrain_assets.core.routing import Route
from retrain_assets.operations import deploy, watch
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.watch import tick
from retrain_assets.settings import CanarySettings, Config, RollbackSettings
from retrain_assets.store import decisions, outcomes, published, registry, trials
from retrain_assets.testing import FakeClock

CAUSE = Cause("tests", "because")
HOUR = timedelta(hours=1)
PlatformMaker = Callable[..., Platform]
VersionMaker = Callable[..., ModelVersion]

GOOD = ["success", "success", "success", "failed", *["success"] * 6] * 2
GOOD[5] = "failed"
"""0.85, spread evenly."""
BAD = ["success", "failed"] * 10
"""0.5: as bad as it takes to be seen with a hundred tasks."""


@dataclass
class Trial:
    """A platform with `v1.0.0` in production and, unless told otherwise, `v1.0.1` on trial."""

    platform: Platform
    clock: FakeClock
    number: itertools.count[int]

    def decide(
        self,
        arm: str,
        results: Sequence[str | None],
        *,
        apart_ms: int = 1,
        served: str | None = None,
        version: str | None = None,
        **changes: Any,  # noqa: ANN401  (fields of the record)
    ) -> list[str]:
        """Log a decision for each result, `apart_ms` apart, with its outcome; None: no outcome comes.

        Calls at the same instant overlap, as the arms do in real traffic.
        Returns the task ids; the clock stands where it stood.
        """
        route = self.route()
        now = self.platform.now()
        named = version or (route.canary_version if arm == "canary" else route.production_version)
        records, told = [], []
        for place, result in enumerate(results):
            n = next(self.number)
            at = now + timedelta(milliseconds=place * apart_ms)
            record = DecisionRecord(
                decision_id=f"d{n:06}",
                task_id=f"t{n}",
                attempt=1,
                domain="a.org",
                decided_at=at,
                deadline_at=at + HOUR,
                features={},
                actions=("comment",),
                action="comment",
                scores={"comment": 0.8},
                propensity=1.0,
                assigned_arm=arm,
                arm=served or arm,
                share=route.share,
                model_version=named,
                rollout_id=route.rollout_id,
                stratum="blog",
                latency_ms=0.1,
            )
            records.append(replace(record, **changes))
            if result is not None:
                told.append({"task_id": records[-1].task_id, "decision_id": record.decision_id, "result": result})
        with self.platform.database.write() as connection:
            decisions.append(connection, records)
            raws = [row | {"action_attempted": "comment", "timestamp": now} for row in told]
            outcomes.append(connection, raws, published.outcome_rules(None), now + HOUR, "tests")
        return [record.task_id for record in records]

    def mature(self) -> None:
        """Two hours later everything decided so far is mature."""
        self.clock.advance(hours=2)

    def route(self) -> Route:
        """The route now."""
        with self.platform.database.read() as connection:
            return registry.get_route(connection)

    def state(self) -> TrialState:
        """The trial's evidence."""
        with self.platform.database.read() as connection:
            found = trials.get(connection, str(self.route().rollout_id))
        assert found is not None
        return TrialState.from_dict(found.state)

    def everything(self) -> dict[str, Any]:
        """All that a tick may write."""
        with self.platform.database.read() as connection:
            return {
                table: [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1")]  # noqa: S608
                for table in (
                    "route",
                    "model_versions",
                    "canary_state",
                    "monitor_state",
                    "deployment_events",
                    "notification_outbox",
                )
            }

    def kinds(self) -> list[EventKind]:
        """What was told since the trial began."""
        with self.platform.database.read() as connection:
            kinds = [event.kind for event in registry.events(connection)]
        return kinds[kinds.index(EventKind.CANARY_STARTED) + 1 :]


@pytest.fixture
def new_trial(
    new_platform: PlatformMaker, new_version: VersionMaker, clock: FakeClock
) -> Callable[[str, Config | None], Trial]:
    """Open a platform with a trial under way."""

    def make(url: str, config: Config | None = None) -> Trial:
        platform = new_platform(url, config)
        new_version(platform, Status.PRODUCTION)
        new_version(platform, Status.CANARY)
        return Trial(platform, clock, itertools.count())

    return make


@pytest.fixture
def trial(new_trial: Callable[[str, Config | None], Trial], database_url: str) -> Trial:
    """A trial on SQLite, then on PostgreSQL."""
    return new_trial(database_url, None)


@pytest.fixture
def lone_trial(new_trial: Callable[[str, Config | None], Trial], sqlite_url: str) -> Trial:
    """A trial on SQLite alone, for what does not depend on the kind of database."""
    return new_trial(sqlite_url, None)


# -------------------------------------------------------------------------------------------------- counting once


def test_a_task_counts_when_it_matures_and_once(trial: Trial) -> None:
    """Not before its timeout, and no second time by a second tick."""
    trial.decide("canary", GOOD)
    trial.decide("production", GOOD * 3)
    assert tick(trial.platform).tasks == 0
    trial.mature()
    assert tick(trial.platform).tasks == 80
    state = trial.state()
    again = tick(trial.platform)
    assert (again.tasks, again.monitored, again.events) == (0, 0, ())
    assert trial.state() == state
    assert (state.tally.canary, state.tally.production) == (20, 60)


def test_the_same_tasks_give_the_same_evidence_in_one_tick_or_in_many(
    new_trial: Callable[[str, Config | None], Trial], new_database: Callable[[str], str]
) -> None:
    """How often somebody looks decides nothing."""
    states = []
    for looks in (1, 40):
        trial = new_trial(new_database("sqlite"), None)
        began = trial.platform.now()
        for arm in ("production", "canary", "production"):
            trial.decide(arm, (GOOD * 3)[:50])
        for look in range(1, looks + 1):
            trial.clock.set(began + HOUR + timedelta(milliseconds=200 * look / looks))
            tick(trial.platform)
        state = trial.state()
        assert state.tally.share_sum == pytest.approx(15)
        states.append(replace(state, trace=(), tally=replace(state.tally, share_sum=15.0)))
        trial.clock.set(began)
    assert states[0].tally.canary + states[0].tally.production == 150
    assert states[0] == states[1]


def test_retries_of_a_task_count_once(lone_trial: Trial) -> None:
    """The first decision is the task's, by the arm it was assigned to, whatever came of the second try."""
    (task,) = lone_trial.decide("canary", ["failed"])
    lone_trial.clock.advance(minutes=10)
    lone_trial.decide("canary", ["success"], task_id=task, attempt=2)
    lone_trial.mature()
    assert tick(lone_trial.platform).tasks == 1
    assert lone_trial.state().tally.canary == 1
    assert [task["success"] for task in lone_trial.state().recent_canary] == [False]


def test_a_missing_outcome_is_no_success_and_no_error(lone_trial: Trial) -> None:
    """Silence counts against whoever was silent, and is told apart in the tally."""
    lone_trial.decide("canary", [None])
    lone_trial.decide("production", [None, "success"])
    lone_trial.mature()
    tick(lone_trial.platform)
    state = lone_trial.state()
    assert (state.tally.canary_missing, state.tally.production_missing) == (1, 1)
    (silent,) = state.recent_canary
    assert (silent["success"], silent["error"]) == (False, True)  # `error`: the good event is that there was none


def test_a_fallback_counts_against_the_canary(lone_trial: Trial) -> None:
    """Production answered, and well; the canary did not."""
    lone_trial.decide("canary", ["success"], served="fallback", model_version="v1.0.0")
    lone_trial.mature()
    tick(lone_trial.platform)
    (task,) = lone_trial.state().recent_canary
    assert (task["success"], task["error"]) == (False, False)
    assert lone_trial.state().tally.canary == 1


def test_a_canary_that_only_falls_back_is_rolled_back(trial: Trial) -> None:
    """No task was harmed, and the trial is over all the same."""
    trial.decide("production", GOOD * 5)
    trial.decide("canary", GOOD * 2, served="fallback", model_version="v1.0.0")
    trial.decide("production", GOOD * 5)
    trial.mature()
    assert [event.kind for event in tick(trial.platform).events] == [EventKind.ROLLED_BACK]


def test_what_another_trial_decided_is_no_evidence_here(lone_trial: Trial, new_version: VersionMaker) -> None:
    """A new trial begins with nothing, also when tasks of the last one mature later."""
    lone_trial.decide("canary", BAD * 3)
    lone_trial.clock.advance(minutes=1)
    new_version(lone_trial.platform, Status.CANARY)
    lone_trial.mature()
    assert tick(lone_trial.platform).tasks == 0


# ----------------------------------------------------------------------------------------------- whole or not at all


def _harm(trial: Trial) -> None:
    """Traffic in which the canary is far worse; the next tick ends the trial."""
    trial.decide("production", GOOD * 45)
    trial.decide("canary", BAD * 5, apart_ms=9)
    trial.mature()


def test_a_tick_that_dies_changes_nothing_and_the_next_one_does_it_all(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cursor, evidence, status, route, event and outbox: killed just before the end, all are as they were."""
    _harm(trial)
    before = trial.everything()

    def die(*_arguments: Any) -> None:  # noqa: ANN401  (whatever it is given)
        raise RuntimeError("the power went")

    for name in ("save_monitor", "save"):  # before the commit, and in the middle
        with monkeypatch.context() as patched:
            patched.setattr(trials, name, die)
            with pytest.raises(RuntimeError, match="the power went"):
                tick(trial.platform)
        assert trial.everything() == before
    found = tick(trial.platform)
    assert found.tasks > 0
    assert [event.kind for event in found.events] == [EventKind.ROLLED_BACK]
    assert trial.route().canary_version is None


def test_two_ticks_at_once_count_every_task_once(trial: Trial) -> None:
    """The sensor and the guard may both watch: one does the work, the other finds it done."""
    trial.decide("production", GOOD * 3)
    trial.decide("canary", GOOD)
    trial.mature()
    barrier, found = threading.Barrier(4), []

    def look() -> None:
        barrier.wait(timeout=60)
        found.append(tick(trial.platform))

    watchers = [threading.Thread(target=look) for _ in range(4)]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join()
    assert sorted(f.tasks for f in found) == [0, 0, 0, 80]
    assert sorted(f.monitored for f in found) == [0, 0, 0, 60]
    assert (trial.state().tally.canary, trial.state().tally.production) == (20, 60)


def test_two_ticks_at_once_end_a_trial_once(trial: Trial) -> None:
    """One rollback, one event, one message."""
    _harm(trial)
    barrier, events = threading.Barrier(2), list[Event]()

    def look() -> None:
        barrier.wait(timeout=60)
        events.extend(tick(trial.platform).events)

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join()
    assert [event.kind for event in events] == [EventKind.ROLLED_BACK]
    assert trial.kinds() == [EventKind.ROLLED_BACK]


def test_with_nothing_new_nothing_is_written(lone_trial: Trial) -> None:
    """A watch that looks every second must not wear the disk: without a trial, an idle tick only reads."""
    deploy.promote(lone_trial.platform, "v1.0.1", CAUSE)
    tick(lone_trial.platform)
    before = lone_trial.everything()
    lone_trial.clock.advance(minutes=5)
    assert tick(lone_trial.platform) == watch.Tick()
    assert lone_trial.everything() == before


def test_before_anything_serves_a_tick_does_nothing(new_platform: PlatformMaker, database_url: str) -> None:
    """The watch may start before the first model."""
    assert tick(new_platform(database_url)) == watch.Tick()


# -------------------------------------------------------------------------------------------------------- acting


def test_each_tick_renews_the_lease(trial: Trial) -> None:
    """And a trial that nobody watches keeps the lease it had, which runs out."""
    first = trial.route().lease_until
    trial.clock.advance(seconds=60)
    tick(trial.platform)
    renewed = trial.route()
    assert first is not None
    assert renewed.lease_until == first + timedelta(seconds=60)
    trial.clock.advance(hours=1)
    assert trial.route() == renewed


def test_harm_takes_the_canary_out_of_traffic_with_the_evidence(trial: Trial) -> None:
    """Production is untouched, the trial is closed, and the event says what was seen."""
    _harm(trial)
    rollout = str(trial.route().rollout_id)
    (event,) = tick(trial.platform, "guard").events
    assert (event.kind, event.version, event.actor) == (EventKind.ROLLED_BACK, "v1.0.1", "guard")
    assert event.evidence["relative"] >= event.evidence["needed"]["relative"]
    assert event.evidence["rates"]["success"]
    assert event.evidence["trace"]
    route = trial.route()
    assert (route.production_version, route.canary_version, route.share) == ("v1.0.0", None, 0.0)
    with trial.platform.database.read() as connection:
        closed = trials.get(connection, rollout)
        assert registry.get_version(connection, "v1.0.1").status is Status.ROLLED_BACK  # type: ignore[union-attr]
    assert closed is not None
    assert not closed.is_open


def test_with_auto_rollback_off_harm_is_told_once_and_left_to_people(
    new_trial: Callable[[str, Config | None], Trial], sqlite_url: str
) -> None:
    """Nothing is switched, and nobody is paged every five seconds."""
    trial = new_trial(sqlite_url, Config(rollback=RollbackSettings(auto_rollback=False)))
    _harm(trial)
    for _ in range(3):
        tick(trial.platform)
    assert trial.kinds() == [EventKind.PERFORMANCE_DEGRADATION]
    assert trial.route().canary_version == "v1.0.1"


def _convince(trial: Trial, hours: int = 25) -> list[Event]:
    """A day of traffic in which the canary is as good as production."""
    events: list[Event] = []
    for _ in range(hours):
        share = trial.route().share
        rivals = round((1 - share) / share) if share else 1
        trial.decide("production", GOOD * rivals)
        trial.decide("canary" if share else "production", GOOD, apart_ms=rivals)
        trial.clock.advance(hours=1)
        events.extend(tick(trial.platform).events)
    return events


def test_a_good_canary_is_promoted_when_its_time_is_up(
    new_trial: Callable[[str, Config | None], Trial], sqlite_url: str
) -> None:
    """Not before, and with what the promotion rests on."""
    trial = new_trial(sqlite_url, Config(canary=CanarySettings(evidence="no_harm")))
    assert _convince(trial, hours=23) == []
    (event,) = _convince(trial, hours=3)
    assert (event.kind, event.version, event.from_status) == (EventKind.PROMOTED, "v1.0.1", Status.CANARY)
    assert "weak" in event.evidence
    assert trial.route().production_version == "v1.0.1"


def test_a_ramp_goes_up_step_by_step_and_then_promotes(
    new_trial: Callable[[str, Config | None], Trial], sqlite_url: str
) -> None:
    """Each step has its own duration; the evidence is carried over."""
    canary = CanarySettings(steps=[0.1, 0.25, 0.5], duration_hours=4, evidence="no_harm")
    trial = new_trial(sqlite_url, Config(canary=canary))
    events = _convince(trial, hours=16)
    assert [(event.kind, event.share) for event in events] == [
        (EventKind.CANARY_STEP, 0.25),
        (EventKind.CANARY_STEP, 0.5),
        (EventKind.PROMOTED, 1.0),
    ]


def test_a_step_of_the_ramp_keeps_the_lease_that_its_tick_renewed(
    new_trial: Callable[[str, Config | None], Trial], sqlite_url: str
) -> None:
    """Otherwise the canary would be out of traffic until the next tick, with every step."""
    canary = CanarySettings(steps=[0.1, 0.25], duration_hours=4, evidence="no_harm")
    trial = new_trial(sqlite_url, Config(canary=canary))
    while trial.route().step == 0:
        _convince(trial, hours=1)
    assert trial.route().lease_until == trial.clock.now() + timedelta(seconds=canary.lease_seconds)


def test_while_deployment_is_paused_a_trial_neither_steps_nor_ends_well(
    new_trial: Callable[[str, Config | None], Trial], sqlite_url: str
) -> None:
    """And afterwards it goes on from the step it stood at, not from one that traffic never saw."""
    canary = CanarySettings(steps=[0.1, 0.25], duration_hours=4, evidence="no_harm")
    trial = new_trial(sqlite_url, Config(canary=canary))
    deploy.pause(trial.platform, CAUSE, is_paused=True)
    assert _convince(trial, hours=8) == []
    assert (trial.route().share, trial.state().step) == (0.1, 0)
    deploy.pause(trial.platform, CAUSE, is_paused=False)
    events = _convince(trial, hours=6)
    assert [(event.kind, event.share) for event in events] == [
        (EventKind.CANARY_STEP, 0.25),
        (EventKind.PROMOTED, 1.0),
    ]


def test_rollback_stays_on_while_deployment_is_paused(lone_trial: Trial) -> None:
    """A pause must not keep harm in traffic."""
    deploy.pause(lone_trial.platform, CAUSE, is_paused=True)
    _harm(lone_trial)
    assert [event.kind for event in tick(lone_trial.platform).events] == [EventKind.ROLLED_BACK]


def test_a_trial_whose_evidence_is_gone_ends_without_a_promotion(lone_trial: Trial) -> None:
    """Somebody deleted it: there is nothing to judge by."""
    with lone_trial.platform.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM canary_state")
    (event,) = tick(lone_trial.platform).events
    assert (event.kind, event.reason) == (
        EventKind.NOT_PROMOTED,
        "its trial's evidence is missing from the database",
    )


# ------------------------------------------------------------------------------------------------ production's watch


def _break_production(trial: Trial, results: Sequence[str | None]) -> list[Event]:
    """Five hours of it."""
    events: list[Event] = []
    for _ in range(5):
        trial.decide("production", results)
        trial.mature()
        events.extend(tick(trial.platform).events)
    return events


@pytest.mark.parametrize(
    ("results", "kind"),
    [
        ((["success"] * 3 + ["error"]) * 20, EventKind.ERROR_RATE_INCREASE),
        (BAD * 4, EventKind.SUCCESS_RATE_DROP),
        ([None, "success"] * 40, EventKind.SUCCESS_RATE_DROP),
    ],
    ids=["errors", "failures", "silence"],
)
def test_production_that_breaks_its_limits_is_paged_and_rolled_back(
    trial: Trial, results: Sequence[str | None], kind: EventKind
) -> None:
    """To the version that served before it; the page and the rollback say the numbers."""
    deploy.promote(trial.platform, "v1.0.1", CAUSE)
    events = _break_production(trial, results)
    assert [event.kind for event in events[:2]] == [kind, EventKind.ROLLED_BACK]
    assert "limit" in events[0].reason
    assert events[1].evidence["alarms"][0]["metric"] in {"error", "success"}
    assert trial.route().production_version == "v1.0.0"


def test_what_the_bad_version_left_behind_is_not_held_against_the_one_that_followed(lone_trial: Trial) -> None:
    """Its tasks go on maturing after the rollback; the restored version is judged by its own."""
    deploy.promote(lone_trial.platform, "v1.0.1", CAUSE)
    for _ in range(5):
        lone_trial.decide("production", BAD * 4, version="v1.0.1")
    deploy.roll_back(lone_trial.platform, CAUSE)
    lone_trial.mature()
    found = tick(lone_trial.platform)
    assert (found.monitored, found.events) == (0, ())
    assert lone_trial.route().production_version == "v1.0.0"


def test_an_alarm_during_a_young_trial_is_acted_on_once_the_canary_has_shown_that_the_limit_can_be_met(
    lone_trial: Trial, new_version: VersionMaker
) -> None:
    """Two good canary tasks tell nothing: people are paged. Eighty more tell the version from the times."""
    deploy.promote(lone_trial.platform, "v1.0.1", CAUSE)
    new_version(lone_trial.platform, Status.CANARY)
    lone_trial.decide("canary", ["success"] * 2)
    events = _break_production(lone_trial, BAD * 4)
    assert [event.kind for event in events] == [EventKind.SUCCESS_RATE_DROP]
    assert "the canary on trial is not shown to meet it either" in events[0].reason
    assert lone_trial.route().production_version == "v1.0.1"
    lone_trial.decide("canary", ["success"] * 80)
    lone_trial.decide("production", BAD)
    lone_trial.mature()
    assert EventKind.ROLLED_BACK in [event.kind for event in tick(lone_trial.platform).events]
    assert lone_trial.route().production_version == "v1.0.0"


def test_with_nothing_to_go_back_to_people_are_told(lone_trial: Trial) -> None:
    """The page says that a rollback was due and why none was possible."""
    deploy.roll_back(lone_trial.platform, CAUSE, version="v1.0.1")
    events = _break_production(lone_trial, BAD * 4)
    assert [event.kind for event in events[:2]] == [EventKind.SUCCESS_RATE_DROP, EventKind.ROLLBACK_IMPOSSIBLE]
    assert "no earlier production version is left" in events[1].reason
    assert lone_trial.route().production_version == "v1.0.0"


def test_a_limit_that_stays_broken_pages_once(
    new_trial: Callable[[str, Config | None], Trial], sqlite_url: str
) -> None:
    """With auto_rollback off nothing is switched, and the alarm is not repeated every block."""
    trial = new_trial(sqlite_url, Config(rollback=RollbackSettings(auto_rollback=False)))
    deploy.promote(trial.platform, "v1.0.1", CAUSE)
    events = [*_break_production(trial, BAD * 4), *_break_production(trial, BAD * 4)]
    assert [event.kind for event in events] == [EventKind.SUCCESS_RATE_DROP]
    assert trial.route().production_version == "v1.0.1"


def test_production_that_meets_its_limits_is_left_alone(lone_trial: Trial) -> None:
    """A thousand tasks at 0.85 with a limit of 0.75."""
    deploy.promote(lone_trial.platform, "v1.0.1", CAUSE)
    assert _break_production(lone_trial, GOOD * 10) == []


def test_slow_decisions_of_production_are_paged(lone_trial: Trial) -> None:
    """`rollback.thresholds.max_response_time_ms`."""
    deploy.promote(lone_trial.platform, "v1.0.1", CAUSE)
    events: list[Event] = []
    for _ in range(5):
        lone_trial.decide("production", GOOD * 2, latency_ms=201.0)
        lone_trial.mature()
        events.extend(tick(lone_trial.platform).events)
    assert [event.kind for event in events[:2]] == [EventKind.RESPONSE_TIME_INCREASE, EventKind.ROLLED_BACK]
