"""Changes of what serves: each whole or not at all, by compare and set, with an event that says who and why."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from retrain_assets.core.deployment import Event, EventKind, ModelVersion, Status
from retrain_assets.core.routing import Route
from retrain_assets.errors import ArtefactRefused, NothingToRollBackTo, RetrainError, TransitionRefused
from retrain_assets.operations import deploy
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform
from retrain_assets.settings import CanarySettings, Config
from retrain_assets.store import outbox, registry, trials
from retrain_assets.store.database import Database

CAUSE = Cause("anna", "because", evidence={"n": 12})
VersionMaker = Callable[..., ModelVersion]
PlatformMaker = Callable[..., Platform]


def _route(platform: Platform) -> Route:
    with platform.database.read() as connection:
        return registry.get_route(connection)


def _statuses(platform: Platform) -> dict[str, str]:
    with platform.database.read() as connection:
        return {model.version: model.status.value for model in registry.versions(connection)}


def _events(platform: Platform) -> list[Event]:
    with platform.database.read() as connection:
        return registry.events(connection)


def _damage(platform: Platform, model: ModelVersion) -> None:
    file = platform.problem_home / model.artefacts["model.onnx"]["path"]
    file.write_bytes(file.read_bytes() + b"!")


# ----------------------------------------------------------------------------------------------------- the way in


def test_the_same_training_keeps_its_version(platform: Platform, new_version: VersionMaker) -> None:
    """A run that is repeated registers nothing new; another training of the same schema is a patch."""
    first = new_version(platform, Status.REGISTERED)
    assert deploy.register(platform, replace(first, version=""), CAUSE) == first
    second = new_version(platform, Status.REGISTERED)
    assert (first.version, second.version) == ("v1.0.0", "v1.0.1")
    assert [event.kind for event in _events(platform)] == [EventKind.REGISTERED] * 2


def test_another_estimator_is_a_minor_version(platform: Platform, new_version: VersionMaker) -> None:
    """MAJOR.MINOR.PATCH tells people what changed."""
    first = new_version(platform, Status.REGISTERED)
    second = new_version(platform, Status.REGISTERED, spec=first.spec | {"estimator": "other"})
    assert second.version == "v1.1.0"


def test_the_first_version_that_passes_serves_at_once(platform: Platform, new_version: VersionMaker) -> None:
    """There is nothing to compare it with."""
    model = new_version(platform)
    event = deploy.start(platform, model, CAUSE)
    assert (event.kind, event.version, event.to_status) == (EventKind.PROMOTED, "v1.0.0", Status.PRODUCTION)
    assert event.reason == "first version that passed validation; because"
    route = _route(platform)
    assert (route.production_version, route.canary_version, route.epoch) == ("v1.0.0", None, 1)


def test_the_next_version_goes_on_trial_with_its_share(platform: Platform, new_version: VersionMaker) -> None:
    """The lease begins at once, the plan is in the event, production is untouched."""
    new_version(platform, Status.PRODUCTION)
    model = new_version(platform)
    event = deploy.start(platform, model, CAUSE)
    assert (event.kind, event.share, event.from_status) == (EventKind.CANARY_STARTED, 0.1, Status.STAGING)
    assert "in_words" in event.evidence["plan"]
    route = _route(platform)
    assert (route.production_version, route.canary_version, route.share) == ("v1.0.0", "v1.0.1", 0.1)
    assert route.lease_until is not None
    assert (route.lease_until - platform.now()).total_seconds() == platform.config.canary.lease_seconds
    with platform.database.read() as connection:
        trial = trials.get(connection, str(route.rollout_id))
    assert trial is not None
    assert (trial.version, trial.is_open, trial.cursor.at) == ("v1.0.1", True, platform.now())


def test_without_canaries_a_staged_version_serves_at_once(
    new_platform: PlatformMaker, sqlite_url: str, new_version: VersionMaker
) -> None:
    """`canary.enabled: false`."""
    platform = new_platform(sqlite_url, Config(canary=CanarySettings(enabled=False)))
    new_version(platform, Status.PRODUCTION)
    event = deploy.start(platform, new_version(platform), CAUSE)
    assert event.reason == "canary is off; because"
    assert _statuses(platform) == {"v1.0.0": "deprecated", "v1.0.1": "production"}


def test_a_newer_candidate_takes_the_place_of_the_one_on_trial(platform: Platform, new_version: VersionMaker) -> None:
    """The older one is superseded, its trial is closed, and the new trial assigns tasks afresh."""
    new_version(platform, Status.PRODUCTION)
    new_version(platform, Status.CANARY)
    before = _route(platform)
    deploy.start(platform, new_version(platform), CAUSE)
    route = _route(platform)
    assert _statuses(platform) == {"v1.0.0": "production", "v1.0.1": "superseded", "v1.0.2": "canary"}
    assert route.canary_version == "v1.0.2"
    assert route.rollout_id != before.rollout_id
    with platform.database.read() as connection:
        closed = trials.get(connection, str(before.rollout_id))
    assert closed is not None
    assert (closed.is_open, closed.last_verdict) == (False, "superseded")


def test_a_discarded_version_stays_in_the_registry_with_the_reason(
    platform: Platform, new_version: VersionMaker
) -> None:
    """Before or after staging; afterwards nothing leads out of it."""
    for status in (Status.REGISTERED, Status.STAGING):
        model = new_version(platform, status)
        event = deploy.reject(platform, model, CAUSE)
        assert (event.from_status, event.to_status, event.reason) == (status, Status.REJECTED, "because")
        with pytest.raises(TransitionRefused, match=r"is rejected; .*(promoted|production)"):
            deploy.promote(platform, model.version, CAUSE)


def test_a_person_can_promote_what_is_on_trial_or_staged(platform: Platform, new_version: VersionMaker) -> None:
    """What served before is deprecated; a trial under way is superseded."""
    new_version(platform, Status.PRODUCTION)
    on_trial, staged = new_version(platform, Status.CANARY), new_version(platform)
    deploy.promote(platform, staged.version, CAUSE)
    assert _statuses(platform) == {"v1.0.0": "deprecated", on_trial.version: "superseded", staged.version: "production"}
    route = _route(platform)
    assert (route.canary_version, route.share, route.rollout_id, route.lease_until) == (None, 0.0, None, None)


def test_nothing_is_promoted_whose_bytes_changed(platform: Platform, new_version: VersionMaker) -> None:
    """The engines would refuse it; production goes on."""
    new_version(platform, Status.PRODUCTION)
    model = new_version(platform)
    _damage(platform, model)
    before = _route(platform)
    with pytest.raises(ArtefactRefused, match=r"model\.onnx has SHA-256"):
        deploy.promote(platform, model.version, CAUSE)
    assert _route(platform) == before


@pytest.mark.parametrize("status", [Status.REGISTERED, Status.PRODUCTION])
def test_what_cannot_be_promoted_is_refused_and_changes_nothing(
    platform: Platform, new_version: VersionMaker, status: Status
) -> None:
    """Not validated yet, or serving already; also a version nobody knows."""
    new_version(platform, Status.PRODUCTION)
    model = new_version(platform, status)
    before = (_route(platform), _statuses(platform), _events(platform))
    with pytest.raises(TransitionRefused, match=rf"is {status}; .*(promoted|production)"):
        deploy.promote(platform, model.version, CAUSE)
    with pytest.raises(TransitionRefused, match=r"v7\.0\.0 is not registered; `retrain models`"):
        deploy.promote(platform, "v7.0.0", CAUSE)
    assert (_route(platform), _statuses(platform), _events(platform)) == before


# -------------------------------------------------------------------------------------------------------- the way back


def test_what_served_before_comes_back_by_a_rollback_and_not_by_a_promotion(
    platform: Platform, new_version: VersionMaker
) -> None:
    """Going back says that the version which serves now is bad; a promotion would leave it as a place to go back to."""
    for _ in range(2):
        new_version(platform, Status.PRODUCTION)
    with pytest.raises(TransitionRefused, match=r"v1\.0\.0 (is deprecated|served before)"):
        deploy.promote(platform, "v1.0.0", CAUSE)
    assert _route(platform).production_version == "v1.0.1"
    deploy.roll_back(platform, CAUSE, to="v1.0.0")
    assert _statuses(platform) == {"v1.0.0": "production", "v1.0.1": "rolled_back"}


def test_an_older_week_may_be_first_and_never_goes_on_trial(platform: Platform, new_version: VersionMaker) -> None:
    """Decided in the transaction, since two weeks may run side by side."""
    first, second = new_version(platform), new_version(platform)
    assert deploy.start(platform, first, CAUSE, only_first=True).kind is EventKind.PROMOTED
    with pytest.raises(TransitionRefused, match=r"v1\.0\.1 is of an older week; v1\.0\.0 serves already"):
        deploy.start(platform, second, CAUSE, only_first=True)


def test_rolling_back_a_canary_leaves_production_alone(platform: Platform, new_version: VersionMaker) -> None:
    """Named as the version to leave."""
    new_version(platform, Status.PRODUCTION)
    model = new_version(platform, Status.CANARY)
    event = deploy.roll_back(platform, CAUSE, version=model.version)
    assert (event.kind, event.version, event.share) == (EventKind.ROLLED_BACK, "v1.0.1", 0.0)
    assert _statuses(platform) == {"v1.0.0": "production", "v1.0.1": "rolled_back"}


def test_rolling_back_production_brings_the_previous_version_back(
    platform: Platform, new_version: VersionMaker
) -> None:
    """And ends a trial under way, which compared with what is gone."""
    for _ in range(2):
        new_version(platform, Status.PRODUCTION)
    new_version(platform, Status.CANARY)
    event = deploy.roll_back(platform, CAUSE)
    assert (event.kind, event.version, event.evidence) == (EventKind.ROLLED_BACK, "v1.0.1", {"n": 12})
    assert _statuses(platform) == {"v1.0.0": "production", "v1.0.1": "rolled_back", "v1.0.2": "not_promoted"}
    route = _route(platform)
    assert (route.production_version, route.canary_version, route.share) == ("v1.0.0", None, 0.0)
    restored = _events(platform)[-1]
    assert (restored.kind, restored.version, restored.epoch) == (EventKind.RESTORED, "v1.0.0", route.epoch)


def test_with_nothing_to_go_back_to_a_rollback_is_refused(platform: Platform, new_version: VersionMaker) -> None:
    """Neither before anything serves nor from the very first version; production goes on."""
    with pytest.raises(NothingToRollBackTo, match="nothing serves yet"):
        deploy.roll_back(platform, CAUSE)
    new_version(platform, Status.PRODUCTION)
    with pytest.raises(NothingToRollBackTo, match=r"no earlier production version is left.*v1\.0\.0 goes on serving"):
        deploy.roll_back(platform, CAUSE)
    assert _route(platform).production_version == "v1.0.0"


def test_a_rollback_never_goes_to_what_was_rolled_back_itself(platform: Platform, new_version: VersionMaker) -> None:
    """Three served, the last two went bad: the first serves again, and then there is nothing left."""
    for _ in range(3):
        new_version(platform, Status.PRODUCTION)
    deploy.roll_back(platform, CAUSE)
    deploy.roll_back(platform, CAUSE)
    assert _statuses(platform) == {"v1.0.0": "production", "v1.0.1": "rolled_back", "v1.0.2": "rolled_back"}
    with pytest.raises(NothingToRollBackTo, match="no earlier production version is left"):
        deploy.roll_back(platform, CAUSE)
    with pytest.raises(TransitionRefused, match=r"v1\.0\.2 is rolled_back; only a version that served"):
        deploy.roll_back(platform, CAUSE, to="v1.0.2")


def test_a_rollback_goes_to_who_served_last_and_not_to_the_highest_number(
    platform: Platform, new_version: VersionMaker
) -> None:
    """A person went back to an older version; when its follower goes bad, it is the one that served before that."""
    for _ in range(3):
        new_version(platform, Status.PRODUCTION)
    deploy.roll_back(platform, CAUSE, to="v1.0.0")
    new_version(platform, Status.PRODUCTION)
    deploy.roll_back(platform, CAUSE)
    assert _route(platform).production_version == "v1.0.0"
    assert _statuses(platform)["v1.0.1"] == "deprecated"


def test_a_damaged_version_is_passed_over_for_the_next_older_one(platform: Platform, new_version: VersionMaker) -> None:
    """Its bytes are not what was registered; named as the target it is refused outright."""
    first, second, _third = (new_version(platform, Status.PRODUCTION) for _ in range(3))
    _damage(platform, second)
    with pytest.raises(ArtefactRefused, match=r"model\.onnx has SHA-256"):
        deploy.roll_back(platform, CAUSE, to=second.version)
    deploy.roll_back(platform, CAUSE)
    assert _route(platform).production_version == first.version


def test_with_every_target_damaged_the_refusal_says_what_was_looked_at(
    platform: Platform, new_version: VersionMaker
) -> None:
    """Serving something unknown would be worse than serving what is there."""
    first, second, _third = (new_version(platform, Status.PRODUCTION) for _ in range(3))
    _damage(platform, first)
    (platform.problem_home / second.artefacts["manifest.json"]["path"]).unlink()
    with pytest.raises(
        NothingToRollBackTo, match=r"v1\.0\.1: manifest\.json cannot be read.*v1\.0\.0: model\.onnx has"
    ):
        deploy.roll_back(platform, CAUSE)
    assert _route(platform).production_version == "v1.0.2"


def test_a_named_version_can_be_gone_back_to_if_it_served(platform: Platform, new_version: VersionMaker) -> None:
    """Not one that never did, not the one that serves, and the version to leave must be serving."""
    for _ in range(3):
        new_version(platform, Status.PRODUCTION)
    staged = new_version(platform)
    with pytest.raises(TransitionRefused, match=r"v1\.0\.3 is staging; only a version that served"):
        deploy.roll_back(platform, CAUSE, to=staged.version)
    with pytest.raises(TransitionRefused, match=r"v1\.0\.2 already serves"):
        deploy.roll_back(platform, CAUSE, to="v1.0.2")
    with pytest.raises(TransitionRefused, match=r"v1\.0\.1 does not serve; production is v1\.0\.2"):
        deploy.roll_back(platform, CAUSE, version="v1.0.1")
    deploy.roll_back(platform, CAUSE, version="v1.0.2", to="v1.0.0")
    assert _route(platform).production_version == "v1.0.0"


def test_pausing_stops_deployment_and_leaves_rollback_on(platform: Platform, new_version: VersionMaker) -> None:
    """Pausing twice is told, so that two people notice each other."""
    for _ in range(2):
        new_version(platform, Status.PRODUCTION)
    staged = new_version(platform)
    deploy.pause(platform, CAUSE, is_paused=True)
    with pytest.raises(TransitionRefused, match="deployment is already paused"):
        deploy.pause(platform, CAUSE, is_paused=True)
    with pytest.raises(TransitionRefused, match=r"deployment is paused, v1\.0\.2 stays staging; `retrain resume`"):
        deploy.start(platform, staged, CAUSE)
    deploy.roll_back(platform, CAUSE)
    assert (_route(platform).production_version, _route(platform).paused) == ("v1.0.0", True)
    deploy.pause(platform, CAUSE, is_paused=False)
    assert deploy.start(platform, staged, CAUSE).kind is EventKind.CANARY_STARTED


# ------------------------------------------------------------------------------------------------ whole or not at all


def test_every_change_is_told_once_with_who_and_why(platform: Platform, new_version: VersionMaker) -> None:
    """Event and outbox hold the same; the epoch of the event is the one that engines saw."""
    new_version(platform, Status.PRODUCTION)
    model = new_version(platform)
    with platform.database.write() as connection:
        outbox.claim(connection, platform.now())
    deploy.start(platform, model, replace(CAUSE, run_id="run 7"))
    with platform.database.write() as connection:
        (message,) = outbox.claim(connection, platform.now())
    event = _events(platform)[-1]
    assert (event.actor, event.reason, event.run_id, event.at) == ("anna", "because", "run 7", platform.now())
    assert event.epoch == _route(platform).epoch
    assert (message.event, message.payload["seq"], message.payload["reason"]) == (
        "canary_started",
        event.seq,
        "because",
    )


@pytest.mark.parametrize("operation", ["start", "promote", "roll_back"])
def test_a_change_that_dies_before_its_end_changes_nothing(
    platform: Platform, new_version: VersionMaker, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """Statuses, route, events and outbox: all or none; the same call then goes through."""
    for _ in range(2):
        new_version(platform, Status.PRODUCTION)
    model = new_version(platform)
    acts: dict[str, Callable[[], Event]] = {
        "start": lambda: deploy.start(platform, model, CAUSE),
        "promote": lambda: deploy.promote(platform, model.version, CAUSE),
        "roll_back": lambda: deploy.roll_back(platform, CAUSE),
    }
    act = acts[operation]
    before = (_route(platform), _statuses(platform), _events(platform))
    record = registry.record

    def die(*arguments: Any) -> Event:  # noqa: ANN401  (those of `record`)
        record(*arguments)
        raise RuntimeError("the power went")

    with monkeypatch.context() as patched:
        patched.setattr(registry, "record", die)
        with pytest.raises(RuntimeError, match="the power went"):
            act()
    assert (_route(platform), _statuses(platform), _events(platform)) == before
    act()
    assert _route(platform).epoch == before[0].epoch + 1


# --------------------------------------------------------------------------------------------------------- two actors


class _Together(Database):
    """A database whose writing transactions begin only when two actors want one: both have read the same state."""

    def __init__(self, url: str, barrier: threading.Barrier) -> None:
        super().__init__(url)
        self.barrier = barrier

    def write(self) -> Any:  # noqa: ANN401  (the context manager of `Database.write`)
        self.barrier.wait(timeout=60)
        return super().write()


@pytest.mark.parametrize("rival", ["roll_back_canary", "roll_back_production", "promote"])
def test_of_two_actors_at_once_one_wins_and_the_other_is_told(
    platform: Platform, new_version: VersionMaker, rival: str
) -> None:
    """Both decided on the same state; whoever is second is refused, and what is left is what the first one did."""
    for _ in range(2):
        new_version(platform, Status.PRODUCTION)
    model = new_version(platform, Status.CANARY)
    before = _route(platform)
    barrier = threading.Barrier(2)
    ours = replace(platform, database=_Together(platform.database.url, barrier))
    acts: dict[str, Callable[[], Event]] = {
        "promote": lambda: deploy.promote(ours, model.version, Cause("first", "better")),
        "roll_back_canary": lambda: deploy.roll_back(ours, Cause("second", "worse"), version=model.version),
        "roll_back_production": lambda: deploy.roll_back(ours, Cause("second", "worse"), version="v1.0.1"),
    }
    won: list[Event] = []
    lost: list[RetrainError] = []

    def act(which: str) -> None:
        try:
            won.append(acts[which]())
        except TransitionRefused as error:
            lost.append(error)

    actors = [threading.Thread(target=act, args=(which,)) for which in ("promote", rival)]
    for actor in actors:
        actor.start()
    for actor in actors:
        actor.join()
    assert (len(won), len(lost)) == (1, 1)
    route, statuses = _route(platform), _statuses(platform)
    assert sorted(statuses.values()).count("production") == 1
    assert statuses[str(route.production_version)] == "production"
    assert route.canary_version is None
    assert {e.actor for e in _events(platform) if (e.epoch or 0) > before.epoch} == {won[0].actor}
    left_serving = {"first": "v1.0.2", "second": "v1.0.1" if rival == "roll_back_canary" else "v1.0.0"}
    assert route.production_version == left_serving[won[0].actor]


def test_two_people_who_roll_back_at_once_do_it_once(platform: Platform, new_version: VersionMaker) -> None:
    """Both saw the same bad version; the second one must not take down the one that has just come back."""
    for _ in range(3):
        new_version(platform, Status.PRODUCTION)
    ours = replace(platform, database=_Together(platform.database.url, threading.Barrier(2)))
    won: list[Event] = []
    lost: list[RetrainError] = []

    def act(to: str | None) -> None:
        try:
            won.append(deploy.roll_back(ours, CAUSE, to=to))
        except TransitionRefused as error:
            lost.append(error)

    actors = [threading.Thread(target=act, args=(to,)) for to in (None, "v1.0.0")]
    for actor in actors:
        actor.start()
    for actor in actors:
        actor.join()
    assert [event.version for event in won] == ["v1.0.2"]
    assert len(lost) == 1
    assert list(_statuses(platform).values()).count("rolled_back") == 1
