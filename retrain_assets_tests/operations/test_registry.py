"""`ModelRegistry`: what monitoring code and people on call may rely on, with the base install alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_assets.core.deployment import EventKind, ModelVersion, Status
from retrain_assets.errors import NoModelError, NothingToRollBackTo, TransitionRefused
from retrain_assets.operations import deploy
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.registry import ModelRegistry
from retrain_assets.settings import Config, RollbackSettings, RollbackThresholds, Settings
from retrain_assets.testing import FakeClock, seeded_database

VersionMaker = Callable[..., ModelVersion]
CAUSE = Cause("tests", "because")


def _client(platform: Platform) -> ModelRegistry:
    return ModelRegistry(platform.database.url, problem_home=platform.problem_home, clock=platform.clock)


def test_versions_are_found_by_role_and_by_number(platform: Platform, new_version: VersionMaker) -> None:
    """`production`, `canary`, `v1.2.3`; what is not there is told as such."""
    client = _client(platform)
    with pytest.raises(NoModelError, match="there is no production version; `retrain models`"):
        client.get_model("production")
    with pytest.raises(NoModelError, match="no version is registered yet; `retrain run`"):
        client.get_latest_model()
    serves, on_trial = new_version(platform, Status.PRODUCTION), new_version(platform, Status.CANARY)
    rejected = new_version(platform, Status.REGISTERED)
    assert client.get_model("production") == serves
    assert client.get_model("canary") == on_trial
    assert client.get_model("v1.0.2") == rejected == client.get_latest_model()
    assert client.list_models("canary") == [on_trial]
    assert len(client.list_models()) == 3
    with pytest.raises(TransitionRefused, match="'bad' is not a status; the statuses are registered, staging"):
        client.list_models("bad")
    route = client.route()
    assert (route.production_version, route.canary_version) == ("v1.0.0", "v1.0.1")


def test_the_history_can_be_asked_for_a_span(platform: Platform, new_version: VersionMaker, clock: FakeClock) -> None:
    """Oldest first, both ends included."""
    new_version(platform, Status.PRODUCTION)
    later = clock.advance(hours=1)
    new_version(platform, Status.REGISTERED)
    client = _client(platform)
    assert [event.version for event in client.history(since=later)] == ["v1.0.1"]
    assert {event.version for event in client.history(until=later - timedelta(minutes=1))} == {"v1.0.0"}
    assert len(client.history()) == 4


def test_a_rollback_names_who_and_why(platform: Platform, new_version: VersionMaker) -> None:
    """The actor is the user of the machine unless one is named."""
    for _ in range(3):
        new_version(platform, Status.PRODUCTION)
    client = _client(platform)
    event = client.rollback_to_previous(reason="complaints", actor="anna")
    assert (event.kind, event.version, event.actor, event.reason) == (
        EventKind.ROLLED_BACK,
        "v1.0.2",
        "anna",
        "complaints",
    )
    assert client.rollback_to_version("v1.0.0").actor
    assert client.get_model("production").version == "v1.0.0"
    with pytest.raises(NothingToRollBackTo, match="no earlier production version is left"):
        client.rollback_to_previous()


def test_a_rollback_of_what_serves_no_more_is_refused(platform: Platform, new_version: VersionMaker) -> None:
    """Monitoring code that is late must not take down the version that followed."""
    for _ in range(2):
        new_version(platform, Status.PRODUCTION)
    with pytest.raises(TransitionRefused, match=r"v1\.0\.0 does not serve; production is v1\.0\.1"):
        _client(platform).rollback_to_previous("v1.0.0")


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"success_rate": 0.74}, True),
        ({"success_rate": 0.76}, False),
        ({"success_rate": 0.70, "count": 10}, False),  # seven of ten proves nothing
        ({"success_rate": 0.70, "count": 10_000}, True),
        ({"error_rate": 0.11}, True),
        ({"error_rate": 0.15, "count": 20}, False),
        ({"error_rate": 0.15, "count": 2_000}, True),
        ({"avg_response_time": 201}, True),
        ({"avg_response_time": 199}, False),
        ({"action_distribution": {"comment": 1.0}}, False),
    ],
    ids=str,
)
def test_reported_metrics_ask_for_a_rollback_beyond_the_limits_alone(
    platform: Platform,
    new_version: VersionMaker,
    metrics: dict[str, Any],
    expected: bool,  # noqa: FBT001  (a table)
) -> None:
    """With a count the whole interval has to lie beyond the limit; without one the rate is taken at its word."""
    new_version(platform, Status.PRODUCTION)
    client = _client(platform)
    assert client.should_rollback("v1.0.0") is False
    client.update_model_metrics("v1.0.0", metrics)
    assert client.should_rollback("v1.0.0") is expected


def test_the_limits_are_those_of_the_published_settings(
    new_platform: Callable[..., Platform], sqlite_url: str, new_version: VersionMaker
) -> None:
    """A client needs the URL alone."""
    limits = RollbackThresholds(min_success_rate=0.99)
    platform = new_platform(sqlite_url, Config(rollback=RollbackSettings(thresholds=limits)))
    new_version(platform, Status.PRODUCTION)
    client = _client(platform)
    client.update_model_metrics("v1.0.0", {"success_rate": 0.98})
    assert client.should_rollback("v1.0.0")
    with pytest.raises(TransitionRefused, match=r"v9\.0\.0 is not registered"):
        client.update_model_metrics("v9.0.0", {"success_rate": 0.98})


_ROLL_BACK = """
import importlib.abc, json, sys

BLOCKED = {"dagster", "pandas", "sklearn", "scipy", "pyarrow", "joblib", "matplotlib", "onnx", "skl2onnx"}

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from retrain_assets import ModelRegistry

registry = ModelRegistry(sys.argv[1])
event = registry.rollback_to_previous(reason="complaints", actor="on call")
assert not BLOCKED & {name.partition(".")[0] for name in sys.modules}
print(json.dumps([event.kind, event.version, registry.get_model("production").version]))
"""


def test_a_rollback_needs_the_base_install_alone(sqlite_url: str) -> None:
    """Without dagster, pandas, scikit-learn, scipy and pyarrow; the artefact of the target is verified all the same."""
    home = Path(sqlite_url.removeprefix("sqlite:///")).parent
    seeded = seeded_database(sqlite_url, home, production=None)
    settings = Settings(
        config=seeded.config, config_path=None, home=home.parent, database_url=sqlite_url, problem_folder=home
    )
    platform = Platform(settings, seeded.database, FakeClock())
    models = [seeded.add_version(version) for version in ("v1.0.0", "v1.0.1", "v1.0.2")]
    for model in models:
        deploy.promote(platform, model.version, CAUSE)
    done = subprocess.run([sys.executable, "-c", _ROLL_BACK, sqlite_url], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["rolled_back", "v1.0.2", "v1.0.1"]
