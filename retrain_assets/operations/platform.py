"""What every operation needs: the settings, the database and the clock.

Holds their bundle and how it is opened; does not hold operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from retrain_assets.core.dataset import WeekCalendar
from retrain_assets.settings import Config, Settings
from retrain_assets.store import published, schema
from retrain_assets.store.database import Database

Clock = Callable[[], datetime]


def system_clock() -> datetime:
    """The present instant in UTC."""
    return datetime.now(tz=UTC)


@dataclass(frozen=True, slots=True)
class Platform:
    """One problem on this machine.

    Attributes
    ----------
    settings : Settings
    database : Database
    clock : callable
        Returns the current instant, aware; the demonstration and tests put their own here.
    """

    settings: Settings
    database: Database
    clock: Clock = system_clock

    @property
    def config(self) -> Config:
        """The configuration."""
        return self.settings.config

    @property
    def problem_home(self) -> Path:
        """Where the problem's files lie."""
        return self.settings.problem_home

    @property
    def calendar(self) -> WeekCalendar:
        """The problem's training weeks."""
        retrain = self.config.retrain
        return WeekCalendar(retrain.day, retrain.time, retrain.timezone)

    def now(self) -> datetime:
        """The current instant by the platform's clock."""
        return self.clock()


def open_platform(settings: Settings, clock: Clock = system_clock, *, is_published: bool = True) -> Platform:
    """Open a problem: bring its database to the newest schema and publish its settings for workers.

    Raises
    ------
    StoreUnavailable
        The database is away.
    """
    database = Database(settings.database_url)
    schema.migrate(database)
    platform = Platform(settings, database, clock)
    if is_published:
        publish_settings(platform)
    return platform


def publish_settings(platform: Platform) -> None:
    """Make the platform's settings the ones that workers read."""
    with platform.database.read() as connection:
        known = published.active(connection)
    if known is None or known.config_hash != platform.config.config_hash:
        with platform.database.write() as connection:
            published.publish(connection, platform.config, platform.now())
