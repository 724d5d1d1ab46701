"""Opening a problem: current schema, published settings, weeks that are known without a database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from retrain_assets.errors import StoreUnavailable
from retrain_assets.operations.platform import Platform, open_platform, system_clock
from retrain_assets.operations.weeks import first_week
from retrain_assets.settings import Config, RetrainSettings, resolve
from retrain_assets.store import outcomes, published, schema
from retrain_assets.store.database import Database
from retrain_assets.testing import FakeClock

PlatformMaker = Callable[..., Platform]


def test_opening_a_platform_migrates_and_publishes(new_platform: PlatformMaker, database_url: str) -> None:
    """Workers find schema and settings; opening again changes nothing."""
    for _ in range(2):
        platform = new_platform(database_url)
        with platform.database.read() as connection:
            assert schema.revision(connection) == schema.HEAD
            assert published.active(connection) == platform.config
            assert connection.exec_driver_sql("SELECT count(*) FROM settings").scalar_one() == 1


def test_changed_settings_are_published_when_the_platform_starts(new_platform: PlatformMaker, sqlite_url: str) -> None:
    """The newest are the active ones, the older ones stay on record."""
    new_platform(sqlite_url)
    changed = Config(retrain=RetrainSettings(min_new_samples=7))
    platform = new_platform(sqlite_url, changed)
    with platform.database.read() as connection:
        assert published.active(connection) == changed
        assert connection.exec_driver_sql("SELECT count(*) FROM settings").scalar_one() == 2


def test_the_system_clock_is_aware() -> None:
    """Naive instants are refused at every door."""
    assert system_clock().utcoffset() == timedelta(0)


def test_a_database_that_is_away_is_told_when_opening() -> None:
    """Here nothing listens."""
    settings = resolve(Config(), None, environ={"RETRAIN_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"})
    with pytest.raises(StoreUnavailable, match="try again"):
        open_platform(settings)


def test_the_weeks_begin_with_the_first_data_or_eight_weeks_back(
    new_platform: PlatformMaker, database_url: str, clock: FakeClock
) -> None:
    """A young database still shows some weeks, an old one all of its own."""
    platform = new_platform(database_url)
    recent = platform.calendar.containing(clock.now() - timedelta(weeks=8))
    assert first_week(platform) == recent
    for age, expected in ((1, recent), (30, platform.calendar.containing(clock.now() - timedelta(weeks=30)))):
        raw = {"task_id": "t", "action_attempted": "comment", "result": True}
        with platform.database.write() as connection:
            at = clock.now() - timedelta(weeks=age)
            outcomes.append(connection, [raw | {"timestamp": at}], published.outcome_rules(None), clock.now(), "tests")
        assert first_week(platform) == expected


def test_the_first_week_can_be_named(new_platform: PlatformMaker, sqlite_url: str) -> None:
    """By any day in it."""
    platform = new_platform(sqlite_url, Config(retrain=RetrainSettings(first_week="2020-01-08")))
    assert first_week(platform).key == "2020-01-05"


@pytest.mark.parametrize("url", ["sqlite:///{}/none.db", "postgresql://nobody@127.0.0.1:1/none"])
def test_weeks_are_known_without_a_database(tmp_path: object, url: str) -> None:
    """The definitions must load before anything exists; nothing is created by looking."""
    environ = {"RETRAIN_DATABASE_URL": url.format(tmp_path)}
    settings = resolve(Config(), None, environ=environ)
    clock = FakeClock()
    platform = Platform(settings, Database(settings.database_url), clock)
    assert first_week(platform) == platform.calendar.containing(clock.now() - timedelta(weeks=8))
    assert platform.database.file is None or not platform.database.file.exists()
