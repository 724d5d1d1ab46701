"""A project on disk, the same with trained models in it, and a way to run commands as a person would.

Holds fixtures of the command line's tests; does not hold tests. The models are trained once per run by the real
weekly loop on simulated outcomes; each test gets a copy of its own.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from retrain_assets.cli import app
from retrain_assets.core.dataset import Week, WeekCalendar
from retrain_assets.demo.automation import SimulatedAutomation
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.settings import load_settings
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.database import Database

SEED = 1
TASKS_PER_WEEK = 600
CONFIG = """\
problem: {name: backlinks}
retrain: {day: sunday, time: "02:00", timezone: UTC, min_new_samples: 100}
"""


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401  (whatever the command prints)
        """Standard output, which must be JSON and nothing else."""
        return json.loads(self.out)


Retrain = Callable[..., Answer]


def run_command(config: Path, *args: str) -> Answer:
    """Run a command in this process with `--config`; other libraries' warnings stay silent, as `main` keeps them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = CliRunner().invoke(app, [*args, "--config", str(config)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def newest_weeks(count: int) -> list[Week]:
    """The last closed weeks by the system's clock, oldest first."""
    calendar = WeekCalendar()
    newest = calendar.newest_closed(datetime.now(tz=UTC))
    return calendar.between(calendar.named((newest.start_at - timedelta(weeks=count - 1)).date().isoformat()), newest)


def simulated(weeks: list[Week]) -> list[dict[str, Any]]:
    """Outcomes over some weeks; the same tasks in every run, whatever the date."""
    automation = SimulatedAutomation(SEED)
    return automation.history(TASKS_PER_WEEK * len(weeks), weeks[0].start_at, weeks[-1].end_at)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of a fresh project."""
    file = tmp_path / "project" / "config" / "retrain.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(CONFIG, encoding="utf-8")
    return file


@pytest.fixture
def retrain(config: Path) -> Retrain:
    """Run a command of the project."""

    def run(*args: str) -> Answer:
        return run_command(config, *args)

    return run


@pytest.fixture
def made(config: Path) -> Platform:
    """The project's database is there and empty, as after `retrain doctor --fix` or the first import."""
    return open_platform(load_settings(config))


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with v1.0.0 in production and v1.0.1 on trial; not to be changed (see `trained`)."""
    project = tmp_path_factory.mktemp("trained")
    config = project / "config" / "retrain.yaml"
    config.parent.mkdir()
    config.write_text(CONFIG, encoding="utf-8")
    weeks = newest_weeks(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRAIN_HOME", str(project / "home"))
        settings = load_settings(config)
        with FeedbackCollector.from_config(config) as collector:
            collector.append_outcomes(simulated(weeks))
        first = run_command(config, "run", "--week", weeks[-2].key, "--json")
        second = run_command(config, "run", "--json")
        assert first.code == 0, first
        assert (first.json["outcome"], first.json["version"]) == ("deployed", "v1.0.0"), first
        assert (second.json["outcome"], second.json["version"]) == ("deployed", "v1.0.1"), second
        Database(settings.database_url).close()
    return project / "home"


@pytest.fixture
def trained(trained_home: Path, home: Path, config: Path) -> Platform:
    """A copy of the trained home as this test's own."""
    shutil.copytree(trained_home, home)
    settings = load_settings(config)
    return Platform(settings, Database(settings.database_url))
