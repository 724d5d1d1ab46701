"""What an engine serves from, and what it does with a route it cannot serve."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from retrain_assets.core.deployment import EventKind
from retrain_assets.errors import StoreUnavailable
from retrain_assets.serving.engine import DecisionEngine
from retrain_assets.settings import Config, EngineSettings, ExplorationSettings, ProblemSettings
from retrain_assets.store import published, registry
from retrain_assets.store.tables import model_versions
from retrain_assets.testing import FakeClock, SeededDatabase, seeded_database

CONFIG = Config(exploration=ExplorationSettings(epsilon=0.0), engine=EngineSettings(refresh_seconds=0.02))


@pytest.fixture
def clock() -> FakeClock:
    """The engine's clock."""
    return FakeClock()


@pytest.fixture
def seeded(sqlite_url: str) -> SeededDatabase:
    """v1.0.0 serves, v1.0.1 is there."""
    folder = Path(sqlite_url.removeprefix("sqlite:///")).parent
    made = seeded_database(sqlite_url, folder, config=CONFIG)
    made.add_version("v1.0.1", {"guest": 0.9})
    return made


@pytest.fixture
def engine(seeded: SeededDatabase, clock: FakeClock) -> Iterator[DecisionEngine]:
    """An engine that refreshes only when asked."""
    with DecisionEngine.from_registry(seeded.url, clock=clock, start_refresh=False) as made:
        yield made


def damage(seeded: SeededDatabase, version: str, name: str = "model.onnx") -> Path:
    """Flip one byte of a version's file; returns the file."""
    with seeded.database.read() as connection:
        model = registry.get_version(connection, version)
    assert model is not None
    file = seeded.problem_home / str(model.artefacts[name]["path"])
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file


def refusals(seeded: SeededDatabase) -> list[tuple[str | None, int | None, str]]:
    """Version, epoch and reason of every refusal on record."""
    with seeded.database.read() as connection:
        events = registry.events(connection, kinds=(EventKind.ARTEFACT_REFUSED,))
    return [(event.version, event.epoch, event.reason) for event in events]


def until(condition: object, seconds: float = 20.0) -> None:
    """Wait for a condition that another thread brings about."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_a_promotion_is_served_after_the_next_refresh(engine: DecisionEngine, seeded: SeededDatabase) -> None:
    """A new epoch brings the new version; a refresh without a change says so and keeps the same bundle."""
    assert not engine.refresh()
    seeded.set_route(production_version="v1.0.1")
    assert engine.active_version == "v1.0.0"
    assert engine.refresh()
    decision = engine.decide(task_id="t1", log=False)
    assert (decision.model_version, decision.action) == ("v1.0.1", "guest")


def test_the_thread_finds_the_change_by_itself(seeded: SeededDatabase) -> None:
    """With `start_refresh` nobody has to ask."""
    with DecisionEngine.from_registry(seeded.url) as engine:
        seeded.set_route(production_version="v1.0.1")
        until(lambda: engine.active_version == "v1.0.1")


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_changed_file_is_refused_and_the_old_version_goes_on(
    engine: DecisionEngine, seeded: SeededDatabase, name: str
) -> None:
    """One flipped byte keeps the new version out; the engine serves what it has and records the refusal once."""
    damage(seeded, "v1.0.1", name)
    epoch = seeded.set_route(production_version="v1.0.1").epoch
    for _ in range(3):
        engine.refresh()
    assert engine.decide(task_id="t1", log=False).model_version == "v1.0.0"
    found = refusals(seeded)
    assert [(version, at) for version, at, _ in found] == [("v1.0.1", epoch)]
    assert f"v1.0.1: {name} has SHA-256" in found[0][2]
    assert engine.counters["artefacts_refused"] == 1


def test_many_engines_record_one_refusal_for_a_version_and_epoch(seeded: SeededDatabase) -> None:
    """Ten workers that meet the same bad file page once; the next epoch may page again."""
    damage(seeded, "v1.0.1")
    seeded.set_route(production_version="v1.0.1")
    engines = [DecisionEngine.from_registry(seeded.url, start_refresh=False) for _ in range(3)]
    assert len(refusals(seeded)) == 1
    seeded.set_route(paused=True)
    for engine in engines:
        engine.refresh()
        engine.close()
    assert len(refusals(seeded)) == 2


def test_a_mended_file_is_served_without_a_new_epoch(engine: DecisionEngine, seeded: SeededDatabase) -> None:
    """A refused artefact is tried again: its file may only have been late."""
    file = damage(seeded, "v1.0.1")
    seeded.set_route(production_version="v1.0.1")
    engine.refresh()
    assert engine.active_version == "v1.0.0"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert engine.refresh()
    assert engine.active_version == "v1.0.1"


def test_a_version_that_the_registry_does_not_know_is_refused(engine: DecisionEngine, seeded: SeededDatabase) -> None:
    """A route that names a version without a row changes nothing."""
    seeded.set_route(production_version="v9.9.9")
    engine.refresh()
    assert engine.active_version == "v1.0.0"
    assert refusals(seeded)[0][2] == "v9.9.9 is not in the registry"


def test_a_file_outside_the_home_is_refused(engine: DecisionEngine, seeded: SeededDatabase) -> None:
    """A registry row that points out of the problem's folder reads nothing there."""
    with seeded.database.write() as connection:
        model = registry.get_version(connection, "v1.0.1")
        assert model is not None
        stolen = {name: entry | {"path": "../../etc/passwd"} for name, entry in model.artefacts.items()}
        row = model_versions.c.version == "v1.0.1"
        connection.execute(update(model_versions).where(row).values(artefacts=stolen))
    seeded.set_route(production_version="v1.0.1")
    engine.refresh()
    assert engine.active_version == "v1.0.0"
    assert "outside the problem's home" in refusals(seeded)[0][2]


class TestACanaryThatCannotBeLoaded:
    """The new route's production serves, and this engine takes no part in the trial."""

    def test_production_moves_on_without_the_canary(
        self, engine: DecisionEngine, seeded: SeededDatabase, clock: FakeClock
    ) -> None:
        """v1.0.1 is promoted and v1.0.2's file is broken: v1.0.1 serves, and no decision is part of the trial."""
        seeded.add_version("v1.0.2", {"forum": 0.9})
        damage(seeded, "v1.0.2")
        lease = clock() + timedelta(minutes=2)
        seeded.set_route(
            production_version="v1.0.1", canary_version="v1.0.2", share=0.5, rollout_id="trial", lease_until=lease
        )
        engine.refresh()
        made = [engine.decide(task_id=f"t{i}", log=False) for i in range(50)]
        assert {(d.model_version, d.arm, d.assigned_arm, d.rollout_id, d.share) for d in made} == {
            ("v1.0.1", "production", "production", None, 0.0)
        }
        assert [version for version, _, _ in refusals(seeded)] == ["v1.0.2"]

    def test_an_old_canary_ends_with_its_lease_when_the_new_production_is_refused(
        self, engine: DecisionEngine, seeded: SeededDatabase, clock: FakeClock
    ) -> None:
        """The bundle that is kept keeps its own lease, and nobody renews that one."""
        lease = clock() + timedelta(minutes=2)
        seeded.set_route(canary_version="v1.0.1", share=0.5, rollout_id="trial", lease_until=lease)
        engine.refresh()
        seeded.add_version("v1.0.2")
        damage(seeded, "v1.0.2")
        seeded.set_route(production_version="v1.0.2", canary_version=None, share=0.0, rollout_id=None, lease_until=None)
        engine.refresh()

        def arms() -> set[str]:
            return {engine.decide(task_id=f"t{i}", log=False).arm for i in range(50)}

        assert arms() == {"production", "canary"}
        clock.advance(minutes=2)
        engine.refresh()
        assert arms() == {"production"}
        assert engine.active_version == "v1.0.0"


class TestADatabaseThatIsAway:
    """Serving goes on with the last state."""

    @pytest.fixture
    def away(self, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
        """While it is set, every read of the route fails."""
        is_away, real = threading.Event(), registry.get_route

        def get_route(*arguments: object, **keywords: object) -> object:
            if is_away.is_set():
                raise StoreUnavailable("the database cannot be used now")
            return real(*arguments, **keywords)  # type: ignore[arg-type]

        monkeypatch.setattr(registry, "get_route", get_route)
        return is_away

    def test_a_refresh_says_so_and_decisions_go_on(self, engine: DecisionEngine, away: threading.Event) -> None:
        """What could not be read is an error of `refresh`, never a reason not to decide."""
        away.set()
        with pytest.raises(StoreUnavailable, match="cannot be used now"):
            engine.refresh()
        assert engine.decide(task_id="t1", log=False).model_version == "v1.0.0"

    def test_the_thread_survives_and_catches_up(
        self, seeded: SeededDatabase, away: threading.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Failures are counted and told once; when the database is back, so is the newest version."""
        caplog.set_level("INFO", "retrain_assets")
        with DecisionEngine.from_registry(seeded.url) as engine:
            away.set()
            until(lambda: engine.counters.get("refresh_failures", 0) >= 3)
            away.clear()
            seeded.set_route(production_version="v1.0.1")
            until(lambda: engine.active_version == "v1.0.1")
        told = [record.getMessage() for record in caplog.records]
        assert sum("goes on with the last state" in line for line in told) == 1
        assert sum("answers again" in line for line in told) == 1

    def test_an_engine_cannot_begin_without_it(self, seeded: SeededDatabase, away: threading.Event) -> None:
        """At the start there is nothing to go on with: the error can be retried."""
        away.set()
        with pytest.raises(StoreUnavailable, match="cannot be used now"):
            DecisionEngine.from_registry(seeded.url)


def test_new_settings_come_with_the_next_epoch(engine: DecisionEngine, seeded: SeededDatabase) -> None:
    """Settings that the platform publishes reach workers that run."""
    changed = Config(problem=ProblemSettings(task_timeout_minutes=5), exploration=ExplorationSettings(epsilon=0.4))
    with seeded.database.write() as connection:
        published.publish(connection, changed, FakeClock()())
    seeded.set_route(paused=True)
    engine.refresh()
    decision = engine.decide(task_id="t1", log=False)
    assert decision.deadline_at - decision.decided_at == timedelta(minutes=5)
    assert min(abs(decision.propensity - p) for p in (0.6, 0.4 / 3)) < 1e-12


def test_settings_that_cannot_be_read_leave_the_known_ones(engine: DecisionEngine, seeded: SeededDatabase) -> None:
    """A newer platform may publish keys that this worker does not know: it goes on with those it has."""
    from retrain_assets.store.tables import settings

    with seeded.database.write() as connection:
        values = {"config_hash": "new", "config": {"telepathy": {}}, "activated_at": FakeClock()()}
        connection.execute(settings.insert().values(values))
    seeded.set_route(production_version="v1.0.1")
    assert engine.refresh()
    assert engine.decide(task_id="t1", log=False).model_version == "v1.0.1"


def test_no_decision_mixes_two_states_while_traffic_switches(seeded: SeededDatabase) -> None:
    """Three threads decide through 60 switches: no failure, and action and version always belong together."""
    own = {"v1.0.0": "comment", "v1.0.1": "guest"}
    mixed: list[tuple[str | None, str]] = []
    failed: list[Exception] = []
    stop = threading.Event()
    with DecisionEngine.from_registry(seeded.url, start_refresh=False) as engine:

        def work(name: str) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    made = engine.decide(task_id=f"{name}-{number}", log=False)
                except Exception as error:  # noqa: BLE001  (any failure breaks the promise)
                    failed.append(error)
                    return
                if own.get(str(made.model_version)) != made.action:
                    mixed.append((made.model_version, made.action))

        threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(3)]
        for thread in threads:
            thread.start()
        for number in range(60):
            seeded.set_route(production_version=f"v1.0.{(number + 1) % 2}")
            assert engine.refresh()
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert not mixed


def test_a_database_file_that_was_moved_away_is_not_replaced(seeded: SeededDatabase, engine: DecisionEngine) -> None:
    """An empty file in its place would take the outcomes that workers report meanwhile; the last model goes on."""
    file = seeded.database.file
    assert file is not None
    before = engine.decide(task_id="t1", features={}, log=False).model_version
    file.rename(file.with_suffix(".moved"))
    with pytest.raises(StoreUnavailable, match="there is no database at"):
        engine.refresh()
    assert not file.exists()
    assert engine.decide(task_id="t2", features={}, log=False).model_version == before
    file.with_suffix(".moved").rename(file)
    engine.refresh()
    assert engine.active_version == before
