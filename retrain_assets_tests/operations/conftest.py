"""What tests of the operations start from: a problem in which tiny models can be registered, and nothing serves yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retrain_assets.core.deployment import ModelVersion, Status
from retrain_assets.operations import deploy
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.settings import Config, Settings
from retrain_assets.store import models, registry
from retrain_assets.testing import FakeClock, tiny_artefact

PlatformMaker = Callable[..., Platform]
VersionMaker = Callable[..., ModelVersion]


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the platform."""
    return FakeClock()


@pytest.fixture
def new_platform(tmp_path: Path, clock: FakeClock) -> Iterator[PlatformMaker]:
    """Open a platform on a database: `new_platform(url, config)`."""
    opened = []

    def make(url: str, config: Config | None = None) -> Platform:
        settings = Settings(config=config or Config(), config_path=None, home=tmp_path / "home", database_url=url)
        opened.append(open_platform(settings, clock))
        return opened[-1]

    yield make
    for platform in opened:
        platform.database.close()


@pytest.fixture
def platform(new_platform: PlatformMaker, database_url: str) -> Platform:
    """A platform on SQLite, then on PostgreSQL."""
    return new_platform(database_url)


@pytest.fixture(scope="session")
def tiny_files() -> dict[str, bytes]:
    """The two files of a tiny model."""
    return tiny_artefact(Config().schema)


@pytest.fixture
def new_version(tiny_files: dict[str, bytes]) -> VersionMaker:
    """Register a version whose artefact is a tiny model, and lead it to a status: `new_version(platform, status)`.

    Each version has files of its own, so that damage to one is damage to one.
    """
    made = 0

    def make(platform: Platform, status: Status = Status.STAGING, **changes: Any) -> ModelVersion:  # noqa: ANN401
        nonlocal made
        made += 1
        folder = platform.problem_home / str(made)
        artefacts = {name: models.put(folder, name, content) for name, content in tiny_files.items()}
        for entry in artefacts.values():
            entry["path"] = f"{made}/{entry['path']}"
        schema = platform.config.schema
        draft = ModelVersion(
            version="",
            status=Status.REGISTERED,
            week="2025-12-28",
            dataset_hash=f"dataset {made}",
            schema_version=schema.fingerprint,
            code_version="tests",
            spec={"schema": schema.to_dict(), "estimator": "tiny", "params": {}, "mode": "full"},
            seed=0,
            parent_version=None,
            artefacts=artefacts,
            metrics={},
            report=None,
            run_id=None,
            created_at=platform.now(),
            training_id=f"training {made}",
        )
        cause = Cause("tests", f"made version number {made}")
        model = deploy.register(platform, replace(draft, **changes), cause)
        if status is Status.REGISTERED:
            return model
        deploy.stage(platform, model, cause)
        model = _now(platform, model)
        if status in {Status.CANARY, Status.PRODUCTION}:
            deploy.start(platform, model, cause)
            model = _now(platform, model)
        if status is Status.PRODUCTION and model.status is Status.CANARY:
            deploy.promote(platform, model.version, cause)
            model = _now(platform, model)
        assert model.status is status
        return model

    return make


def _now(platform: Platform, model: ModelVersion) -> ModelVersion:
    with platform.database.read() as connection:
        found = registry.get_version(connection, model.version)
    assert found is not None
    return found
