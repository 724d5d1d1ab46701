"""The sensors: what the watch changed appears as a materialisation with its evidence, once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from retrain_assets.core.deployment import EventKind
from retrain_assets.core.outcomes import DecisionRecord
from retrain_assets.defs.build import build_defs
from retrain_assets.operations import deploy
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform
from retrain_assets.settings import CanarySettings, Config, Settings
from retrain_assets.store import decisions, outbox, outcomes, published, registry
from retrain_assets.testing import FakeClock, seeded_database

CAUSE = Cause("tests", "because")
CONFIG = Config(canary=CanarySettings(percentage=0.5, evidence="no_harm", duration_hours=1))


@dataclass
class Watched:
    """A platform with `v1.0.1` on trial, and its definitions."""

    platform: Platform
    clock: FakeClock
    definitions: dg.Definitions
    instance: dg.DagsterInstance

    def tick(self, name: str) -> dg.SensorResult | dg.SkipReason:
        """Run a sensor once, as the daemon does."""
        sensor = self.definitions.resolve_sensor_def(name)
        with dg.build_sensor_context(instance=self.instance, resources={"platform": self.platform}) as context:
            found = sensor(context)
        assert isinstance(found, dg.SensorResult | dg.SkipReason)
        return found

    def live(self, canary_success: float) -> datetime:
        """Two hundred tasks of each arm, matured."""
        with self.platform.database.read() as connection:
            route = registry.get_route(connection)
        now = self.clock.now()
        records, told = [], []
        for n in range(400):
            arm = "canary" if n % 2 else "production"
            at = now + timedelta(seconds=n)
            record = DecisionRecord(
                decision_id=f"d{now:%d%H%M}{n:03}",
                task_id=f"t{now:%d%H%M}{n}",
                attempt=1,
                domain=None,
                decided_at=at,
                deadline_at=at + timedelta(hours=1),
                features={},
                actions=("comment",),
                action="comment",
                scores={"comment": 0.5},
                propensity=1.0,
                assigned_arm=arm,
                arm=arm,
                share=route.share,
                model_version=route.canary_version if arm == "canary" else route.production_version,
                rollout_id=route.rollout_id,
                stratum="",
                latency_ms=0.1,
            )
            rate = canary_success if arm == "canary" else 0.9
            is_good = (n // 2 * 7 % 10) < rate * 10
            records.append(record)
            told.append({"task_id": record.task_id, "decision_id": record.decision_id, "result": is_good})
        raws = [row | {"action_attempted": "comment", "timestamp": now} for row in told]
        with self.platform.database.write() as connection:
            decisions.append(connection, records)
            outcomes.append(connection, raws, published.outcome_rules(None), now, "tests")
        return self.clock.advance(hours=2)


@pytest.fixture
def watched(sqlite_url: str, tmp_path: Path) -> Iterator[Watched]:
    """A trial of one hour with half of the tasks."""
    folder = tmp_path / "problem"
    seeded = seeded_database(sqlite_url, folder, config=CONFIG, production=None)
    settings = Settings(config=CONFIG, config_path=None, home=tmp_path, database_url=sqlite_url, problem_folder=folder)
    clock = FakeClock()
    platform = Platform(settings, seeded.database, clock)
    for version in ("v1.0.0", "v1.0.1"):
        deploy.start(platform, seeded.add_version(version), CAUSE)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Watched(platform, clock, build_defs(settings, clock=clock), instance)
    seeded.database.close()


def _reported(result: dg.SensorResult | dg.SkipReason) -> dg.AssetMaterialization:
    assert isinstance(result, dg.SensorResult)
    (event,) = result.asset_events
    assert isinstance(event, dg.AssetMaterialization)
    return event


def test_a_rollback_is_reported_with_the_evidence(watched: Watched) -> None:
    """Numbers, the rates of both arms, the course as a picture; and only once."""
    watched.live(canary_success=0.4)
    materialisation = _reported(watched.tick("canary_watch"))
    assert materialisation.asset_key == dg.AssetKey("rollback")
    assert materialisation.tags == {"version": "v1.0.1"}
    metadata = materialisation.metadata
    assert (metadata["event"].value, metadata["actor"].value) == ("rolled_back", "canary_watch")
    assert float(str(metadata["evidence_relative"].value)) > 111
    assert isinstance(metadata["rates"], dg.TableMetadataValue)
    assert str(metadata["evidence_over_time"].value).startswith("![plot](data:image/png;base64,")
    sparkline = str(metadata["evidence_sparkline"].value)
    assert len(sparkline) < 1_000  # longer Markdown hides behind a button
    assert "trace" not in str(metadata["evidence"].value)
    assert isinstance(watched.tick("canary_watch"), dg.SkipReason)


def test_a_promotion_is_reported_with_the_evidence(watched: Watched) -> None:
    """At the end of a good trial."""
    watched.live(canary_success=0.9)
    watched.clock.advance(hours=1)
    materialisation = _reported(watched.tick("canary_watch"))
    assert materialisation.asset_key == dg.AssetKey("promotion")
    assert materialisation.metadata["event"].value == "promoted"
    assert "weak evidence" in str(materialisation.description)
    with watched.platform.database.read() as connection:
        assert registry.get_route(connection).production_version == "v1.0.1"


def test_while_nothing_is_decided_the_sensor_says_what_it_saw(watched: Watched) -> None:
    """Skip reasons are cheap; asset events every five seconds would fill the log."""
    result = watched.tick("canary_watch")
    assert isinstance(result, dg.SkipReason)
    assert str(result.skip_message).startswith("0 tasks matured on trial: ")


def test_notifications_are_delivered_by_their_own_sensor(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """The log is always told; nothing is told twice."""
    with caplog.at_level("INFO"):
        result = watched.tick("notification_delivery")
    assert isinstance(result, dg.SkipReason)
    assert str(result.skip_message) == "2 delivered, 0 to be tried again"
    again = watched.tick("notification_delivery")
    assert isinstance(again, dg.SkipReason)
    assert str(again.skip_message) == "0 delivered, 0 to be tried again"
    with watched.platform.database.write() as connection:
        assert outbox.claim(connection, watched.clock.advance(days=1)) == []


@pytest.mark.parametrize("name", ["weekly_retrain", "performance"])
def test_a_failed_weekly_run_is_noted_with_its_error(watched: Watched, name: str) -> None:
    """Also one that the daemon started and nobody looked at; another job's failure is no failed retraining."""

    @dg.op
    def burst() -> None:
        raise RuntimeError("the disk is full")

    @dg.job(name=name)
    def bad() -> None:
        burst()

    result = bad.execute_in_process(instance=watched.instance, raise_on_error=False, tags={"retrain/actor": "anna"})
    sensor = watched.definitions.resolve_sensor_def("retrain_failure_watch")
    context = dg.build_run_status_sensor_context(
        sensor_name="retrain_failure_watch",
        dagster_instance=watched.instance,
        dagster_run=result.dagster_run,
        dagster_event=result.get_run_failure_event(),
    ).for_run_failure()
    for _ in range(2):
        sensor(context)
    with watched.platform.database.read() as connection:
        events = registry.events(connection, kinds=(EventKind.RETRAIN_FAILED,))
    noted = [(event.run_id, event.actor) for event in events]
    assert noted == ([(result.run_id, "anna")] if name == "weekly_retrain" else [])
    assert all("failed" in event.reason for event in events)


@pytest.mark.parametrize("name", ["promotion", "rollback"])
def test_a_person_can_materialise_what_the_watch_reports(watched: Watched, name: str) -> None:
    """From the launchpad, with a reason and a name: the same operation, the same metadata."""
    config = {"reason": "complaints", "actor": "anna", "version": "v1.0.1"}
    asset = watched.definitions.resolve_assets_def(dg.AssetKey(name))
    result = dg.materialize(
        [asset],
        instance=watched.instance,
        run_config={"ops": {name: {"config": config}}},
    )
    (materialisation,) = result.asset_materializations_for_node(name)
    assert materialisation.metadata["reason"].value == "complaints"
    with watched.platform.database.read() as connection:
        event = next(e for e in registry.events(connection) if e.run_id == result.run_id and e.version == "v1.0.1")
        route = registry.get_route(connection)
    assert (event.actor, event.reason) == ("anna", "complaints")
    assert route.production_version == ("v1.0.1" if name == "promotion" else "v1.0.0")
    assert route.canary_version is None
