"""Published settings: what a worker reads from the database, also when a newer platform wrote it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from retrain_assets.errors import ConfigError
from retrain_assets.settings import Config, EngineSettings, read_config
from retrain_assets.store import published, tables
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.database import Database
from retrain_assets.testing import START


def test_settings_are_published_once_and_read_as_they_were(database: Database) -> None:
    """The same settings again are no new row; others are, and the newest count."""
    other = Config(engine=EngineSettings(refresh_seconds=2.5))
    with database.write() as connection:
        assert published.active(connection) is None
        told = [published.publish(connection, config, START) for config in (Config(), Config(), other)]
        assert told == [True, False, True]
        active = published.active(connection)
    assert active is not None
    assert active.config_hash == other.config_hash


def _publish(database: Database, change: Callable[[dict[str, Any]], None]) -> None:
    data = Config().to_dict()
    change(data)
    values = {"config_hash": "future", "config": data, "activated_at": START}
    with database.write() as connection:
        connection.execute(tables.settings.insert().values(values))


def _invent(data: dict[str, Any]) -> None:
    data["budget"] = {"per_day": 5}
    data["engine"]["batching"] = {"size": 3}
    data["canary"]["thresholds"]["max_cost"] = 1.5
    data["problem"]["features"]["pa"]["unit"] = "points"
    data["problem"]["features"]["pa"]["max"] = 10


def test_settings_of_a_newer_platform_are_read_as_far_as_they_are_known(
    sqlite_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Unknown keys are passed over, on every level, and told in the debug log; known ones count."""
    caplog.set_level(logging.DEBUG, "retrain_assets")
    _publish(sqlite_database, _invent)
    with sqlite_database.read() as connection:
        config = published.active(connection)
    assert config is not None
    assert config.problem.features["pa"].max == 10
    named = {record.getMessage().split()[0] for record in caplog.records}
    unknown = {"budget", "engine.batching", "canary.thresholds.max_cost", "problem.features.pa.unit"}
    assert named == unknown
    with FeedbackCollector(sqlite_database.url) as collector:
        receipt = collector.append_outcome(task_id="t", domain="a.org", action_attempted="forum", result=True, pa=11)
    assert (receipt.status, receipt.field) == ("quarantined", "pa")


def test_a_wrong_value_in_published_settings_stays_an_error(sqlite_database: Database) -> None:
    """Lenient with what is unknown, strict with what is known."""
    _publish(sqlite_database, lambda data: data["problem"].update(unknown_columns="perhaps"))
    with pytest.raises(ConfigError, match=r"problem\.unknown_columns"), sqlite_database.read() as connection:
        published.active(connection)


def test_a_file_of_a_person_with_an_unknown_key_stays_an_error() -> None:
    """Only what another version published is read leniently: in a file an unknown key is a slip."""
    with pytest.raises(
        ConfigError, match=r"engine\.refresh_second: unknown key .*did you mean engine\.refresh_seconds"
    ):
        read_config({"engine": {"refresh_second": 1}})
