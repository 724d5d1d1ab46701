"""The public client of the registry: `ModelRegistry`.

Holds the class that people and monitoring code call; does not hold the operations (`deploy.py`). It
needs neither Dagster, pandas nor scikit-learn.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from retrain_assets.core.canary_math import wilson_bounds
from retrain_assets.core.deployment import Event, ModelVersion, Status
from retrain_assets.core.monitor import ProductionWatch
from retrain_assets.core.routing import Route
from retrain_assets.errors import NoModelError, TransitionRefused
from retrain_assets.operations import deploy
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform, system_clock
from retrain_assets.settings import Config, RollbackThresholds, Settings, load_settings, resolve
from retrain_assets.store import published, registry, trials
from retrain_assets.store.database import Database


class ModelRegistry:
    """Versions, what serves, and the way back.

    Parameters
    ----------
    database_url : str
        SQLAlchemy URL of the problem's database.
    problem_home : str or Path, optional
        Where the problem's files lie; default the folder of the SQLite file, else
        `RETRAIN_HOME/<problem.name>`.
    clock : callable, optional
        Returns the current instant, aware.

    Examples
    --------
    >>> registry = ModelRegistry("sqlite:///.retrain/backlinks/retrain.db")  # doctest: +SKIP
    >>> registry.get_model("production").version  # doctest: +SKIP
    'v1.0.3'
    """

    def __init__(
        self,
        database_url: str,
        *,
        problem_home: str | Path | None = None,
        clock: Callable[[], datetime] = system_clock,
    ) -> None:
        self._database = Database(database_url, absent="refuse")
        self._url = database_url
        self._problem_home = Path(problem_home) if problem_home else None
        self._clock = clock

    @classmethod
    def from_config(cls, path: str | Path | None = None) -> ModelRegistry:
        """Make a client for the problem that a configuration file describes."""
        settings = load_settings(path)
        return cls(settings.database_url, problem_home=settings.problem_home)

    def get_model(self, which: str) -> ModelVersion:
        """The version that serves as `"production"` or is on trial as `"canary"`, or one by its number.

        Raises
        ------
        NoModelError
            There is none.
        """
        with self._database.read() as connection:
            route = registry.get_route(connection)
            named = {"production": route.production_version, "canary": route.canary_version}
            version = named.get(which, which)
            model = registry.get_version(connection, version) if version else None
        if model is None:
            raise NoModelError(f"there is no {which} version; `retrain models` lists what there is")
        return model

    def get_latest_model(self) -> ModelVersion:
        """The version registered last, whatever its status.

        Raises
        ------
        NoModelError
            None is registered yet.
        """
        models = self.list_models()
        if not models:
            raise NoModelError("no version is registered yet; `retrain run` trains the first one")
        return models[-1]

    def list_models(self, status: str | None = None) -> list[ModelVersion]:
        """All versions, oldest first, or those of one status."""
        try:
            wanted = Status(status) if status is not None else None
        except ValueError:
            known = ", ".join(Status)
            raise TransitionRefused(f"{status!r} is not a status; the statuses are {known}") from None
        with self._database.read() as connection:
            return registry.versions(connection, wanted)

    def history(self, since: datetime | None = None, until: datetime | None = None) -> list[Event]:
        """The audit log, oldest first."""
        with self._database.read() as connection:
            return registry.events(connection, since=since, until=until)

    def route(self) -> Route:
        """Which versions serve, at which share, since which epoch."""
        with self._database.read() as connection:
            return registry.get_route(connection)

    def update_model_metrics(
        self,
        version: str,
        metrics: Mapping[str, Any],
        *,
        action: str | None = None,
        window: str | None = None,
    ) -> None:
        """Keep metrics that somebody measured for a version.

        Parameters
        ----------
        metrics : mapping
            For example `success_rate`, `error_rate`, `avg_response_time` (ms) and `count` (tasks).
        """
        with self._database.write() as connection:
            if registry.get_version(connection, version) is None:
                raise TransitionRefused(f"{version} is not registered; `retrain models` lists the versions")
            registry.add_metrics(connection, version, dict(metrics), self._clock(), action=action, window=window)

    def should_rollback(self, version: str) -> bool:
        """Whether `version` is proven to break a limit of `rollback.thresholds`.

        True when the watch on production raised an alarm, or when the metrics reported last break a
        limit: with a `count` the whole 95 % interval must lie beyond it, without one the rate is
        taken at its word.
        """
        with self._database.read() as connection:
            config = published.active(connection) or Config()
            metrics = registry.newest_metrics(connection, version)
            route = registry.get_route(connection)
            watch = self._watch(connection, version) if version == route.production_version else None
        has_alarm = watch is not None and bool(watch.alarmed)
        return has_alarm or (metrics is not None and breaks_limit(metrics, config.rollback.thresholds))

    def rollback_to_previous(
        self, version: str | None = None, reason: str = "manual", actor: str | None = None
    ) -> Event:
        """Go back to the last version that served and was not itself rolled back.

        Parameters
        ----------
        version : str, optional
            The version to leave (production or the canary); refused when it does not serve any more.

        Raises
        ------
        NothingToRollBackTo, TransitionRefused
        """
        return deploy.roll_back(self._platform(), Cause(actor or _user(), reason), version=version)

    def rollback_to_version(self, version: str, reason: str = "manual", actor: str | None = None) -> Event:
        """Go back to a named version that served before.

        Raises
        ------
        NothingToRollBackTo, TransitionRefused, ArtefactRefused
        """
        return deploy.roll_back(self._platform(), Cause(actor or _user(), reason), to=version)

    def _watch(self, connection: Any, version: str) -> ProductionWatch | None:  # noqa: ANN401  (a connection)
        monitor = trials.newest_monitor(connection, version)
        return None if monitor is None else ProductionWatch.from_dict(monitor.state)

    def _platform(self) -> Platform:
        with self._database.read() as connection:
            config = published.active(connection) or Config()
        home = self._problem_home
        if home is None and self._database.file is not None:
            home = self._database.file.resolve().parent
        resolved = resolve(config, None)
        settings = Settings(
            config=config,
            config_path=None,
            home=home.parent if home else resolved.home,
            database_url=self._url,
            problem_folder=home,
        )
        return Platform(settings, self._database, self._clock)


def breaks_limit(metrics: Mapping[str, Any], limits: RollbackThresholds) -> bool:
    """Whether reported metrics break a limit; see `ModelRegistry.should_rollback`."""
    count = metrics.get("count") or metrics.get("n")
    success, error = metrics.get("success_rate"), metrics.get("error_rate")
    if success is not None:
        best = wilson_bounds(count, success * count)[1] if count else success
        if best < limits.min_success_rate:
            return True
    if error is not None:
        least = wilson_bounds(count, error * count)[0] if count else error
        if least > limits.max_error_rate:
            return True
    response = metrics.get("avg_response_time", metrics.get("avg_response_time_ms"))
    return response is not None and response > limits.max_response_time_ms


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
