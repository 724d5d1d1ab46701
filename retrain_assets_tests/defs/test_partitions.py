"""Our weeks are Dagster's partitions, to the second, also when clocks change."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from retrain_assets.core.dataset import WeekCalendar
from retrain_assets.defs.partitions import frame_of, weekly_partitions
from retrain_assets.settings import Config, ProblemSettings

FIRST = datetime(2024, 12, 25, 12, tzinfo=UTC)
NOW = datetime(2027, 1, 6, 12, tzinfo=UTC)
"""Two years and four changes of the clock in each zone that has them."""


@pytest.mark.parametrize(
    ("day", "at", "zone"),
    [
        ("sunday", "02:00", "UTC"),
        ("sunday", "02:00", "Europe/Berlin"),  # the hour that is skipped in March and doubled in October begins at 2
        ("sunday", "02:30", "Europe/Berlin"),
        ("sunday", "03:00", "Europe/Berlin"),
        ("sunday", "02:00", "America/New_York"),
        ("sunday", "01:30", "America/New_York"),
        ("monday", "00:00", "America/Sao_Paulo"),
        ("wednesday", "23:30", "Asia/Kolkata"),
        ("saturday", "12:15", "Australia/Lord_Howe"),  # changes by half an hour
        ("friday", "00:00", "Pacific/Chatham"),
        ("friday", "00:00", "Africa/Cairo"),  # the day of the change has no midnight
        ("sunday", "00:30", "Asia/Beirut"),
    ],
)
def test_weeks_are_dagsters_partitions_over_two_years(day: str, at: str, zone: str) -> None:
    """Keys, beginnings and ends; each instant falls in the week whose window holds it."""
    calendar = WeekCalendar(day, at, zone)
    weeks = calendar.between(calendar.containing(FIRST), calendar.newest_closed(NOW))
    partitions = weekly_partitions(calendar, weeks[0].key)
    assert [week.key for week in weeks] == list(partitions.get_partition_keys(current_time=NOW))
    assert len(weeks) > 104
    for week in weeks:
        window = partitions.time_window_for_partition_key(week.key)
        assert (week.start_at, week.end_at) == (window.start.astimezone(UTC), window.end.astimezone(UTC)), week.key
        assert calendar.containing(week.start_at) == week


def test_keys_carry_the_problems_name_only_when_asked() -> None:
    """One problem has the names to itself."""
    calendar = WeekCalendar()
    assert frame_of(Config(), calendar, "2026-01-04").key("outcomes").path == ["outcomes"]
    shared = Config(problem=ProblemSettings(name="flights", prefix_asset_keys=True))
    assert frame_of(shared, calendar, "2026-01-04").key("outcomes").path == ["flights", "outcomes"]
