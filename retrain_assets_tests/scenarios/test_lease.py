"""Nobody watches, no canary: the engine stops sending tasks to a trial whose lease has run out."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from retrain_assets.core.outcomes import Arm
from retrain_assets.operations import deploy
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.watch import tick
from retrain_assets.serving.engine import DecisionEngine
from retrain_assets.settings import CanarySettings, Config, Settings
from retrain_assets.testing import FakeClock, seeded_database

CAUSE = Cause("tests", "because")
CONFIG = Config(canary=CanarySettings(percentage=0.5, lease_seconds=120))


@pytest.fixture
def platform(sqlite_url: str, tmp_path: Path) -> Platform:
    """`v1.0.0` serves, `v1.0.1` is on trial with half of the tasks and a lease of two minutes."""
    home = tmp_path / "problem"
    seeded = seeded_database(sqlite_url, home, config=CONFIG, production=None)
    settings = Settings(config=CONFIG, config_path=None, home=tmp_path, database_url=sqlite_url, problem_folder=home)
    platform = Platform(settings, seeded.database, FakeClock())
    for version in ("v1.0.0", "v1.0.1"):
        deploy.start(platform, seeded.add_version(version), CAUSE)
    return platform


def test_the_engine_stops_the_canary_when_the_lease_expires(platform: Platform) -> None:
    """Every task then goes to production, at once and without a new route; a tick brings the trial back."""
    clock = platform.clock
    assert isinstance(clock, FakeClock)
    with DecisionEngine.from_registry(
        platform.database.url, problem_home=platform.problem_home, clock=clock, start_refresh=False
    ) as engine:

        def arms() -> set[str]:
            engine.refresh()
            return {str(engine.decide(task_id=f"task-{n}", features={}).assigned_arm) for n in range(50)}

        assert arms() == {Arm.CANARY, Arm.PRODUCTION}
        clock.advance(seconds=119)
        assert arms() == {Arm.CANARY, Arm.PRODUCTION}
        clock.advance(seconds=1)
        assert arms() == {Arm.PRODUCTION}
        tick(platform)
        assert arms() == {Arm.CANARY, Arm.PRODUCTION}
        clock.advance(timedelta(hours=1))
        assert arms() == {Arm.PRODUCTION}
