"""Real flights become tasks without knowing their result early, and their weeks move close to today."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_assets.core.outcomes import OutcomeRules, Result, read_outcome
from retrain_assets.demo.flight_data import AIRPORTS, STATION, data_folder
from retrain_assets.demo.flights import (
    FLIGHT_CALENDAR,
    LEAD,
    TASK_TIMEOUT,
    FlightLog,
    FlightTask,
    load_flights,
    summarise,
    week_shift,
)
from retrain_assets.errors import UsageError
from retrain_assets.settings import Config, load_settings

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
CONFIG = Path(__file__).parents[2] / "config" / "flights.yaml"


@pytest.fixture(scope="module")
def year() -> FlightLog:
    """All 53 weeks."""
    return load_flights(53, NOW)


@pytest.fixture(scope="module")
def tasks(year: FlightLog) -> list[FlightTask]:
    """The tasks of the first six weeks; the sixth has the blizzard."""
    return [task for week in year.weeks[:6] for task in week.tasks()]


@pytest.fixture(scope="module")
def config() -> Config:
    """The shipped configuration of the demonstration."""
    return load_settings(CONFIG, environ={}).config


def test_every_flight_of_the_year_becomes_exactly_one_task(year: FlightLog) -> None:
    """Nothing is lost at the weeks' edges or counted twice: 336,776 rows, as many identities."""
    identities = pd.concat([week.rows["task_id"] for week in year.weeks])
    assert len(year) == 336_776
    assert identities.is_unique


def test_results_are_the_ones_the_airlines_reported(year: FlightLog) -> None:
    """The parts of the year's log: 8,255 cancelled, 1,175 diverted, the rest split at 15 and 60 minutes."""
    counts = pd.concat([week.rows["kind"] for week in year.weeks]).value_counts().sort_index()
    rows = pd.concat([week.rows for week in year.weeks])
    delay = rows["arr_delay"]
    late = int(((delay >= 15) & (delay < 60)).sum())
    assert counts.tolist() == [int((delay < 15).sum()), late, int((delay >= 60).sum()), 8_255, 1_175]


def test_the_airport_really_used_is_always_allowed(tasks: list[FlightTask]) -> None:
    """Otherwise the replay could never match that flight."""
    assert all(task.flown_from in task.allowed_actions for task in tasks)
    assert {airport for task in tasks for airport in task.allowed_actions} == set(AIRPORTS)


def test_allowed_airports_come_from_flights_scheduled_no_later(tasks: list[FlightTask]) -> None:
    """An independent count, flight by flight, gives the same sets: the future does not show in them."""
    seen: dict[tuple[str, str], set[str]] = {}
    waiting: list[FlightTask] = []
    for task, following in pairwise(tasks[:20_001]):
        waiting.append(task)
        if following.scheduled_at > task.scheduled_at:
            for known in waiting:
                seen.setdefault((known.features["carrier"], known.domain), set()).add(known.flown_from)
            for known in waiting:
                assert set(known.allowed_actions) == seen[known.features["carrier"], known.domain]
                assert known.features["choice"] == ("single" if len(known.allowed_actions) == 1 else "several")
            waiting = []


def test_features_are_the_same_whichever_airport_was_used(year: FlightLog) -> None:
    """Distance belongs to the destination and weather to the hour, so neither tells which airport was chosen."""
    rows = year.weeks[20].rows
    by_destination = rows.drop_duplicates(["dest", "origin"])["dest"]
    assert by_destination.duplicated().any()
    assert not rows.drop_duplicates(["dest", "distance"])["dest"].duplicated().any()
    assert not rows.drop_duplicates(["time_hour", "temp", "precip"])["time_hour"].duplicated().any()


def test_a_missing_weather_report_stays_missing(year: FlightLog) -> None:
    """None, not NaN and not a neighbour's value; the last day of the year has no report at all."""
    last_day = [task for task in year.weeks[-1].tasks() if task.task_id.startswith("2013-12-31")]
    assert len(last_day) > 500
    assert all(task.features["temp"] is None and task.features["pressure"] is None for task in last_day)


def test_the_station_for_the_region_is_the_most_complete_one(year: FlightLog) -> None:
    """LGA reports temperature, wind, rain and sight in more of the hours with flights than JFK and EWR do."""
    hours = pd.concat([week.rows["time_hour"] for week in year.weeks]).unique()
    weather = pd.read_csv(data_folder() / "weather.csv")
    complete = weather[weather["time_hour"].isin(hours)].dropna(subset=["temp", "wind_speed", "precip", "visib"])
    assert complete.groupby("origin").size().idxmax() == STATION


def test_every_result_is_known_within_the_task_timeout(year: FlightLog) -> None:
    """No flight is taken for missing; and no result is known before the choice."""
    after = pd.concat([week.rows["known_after_s"] for week in year.weeks])
    longest = timedelta(seconds=float(after.max())) + LEAD
    assert float(after.min()) == 0.0
    assert timedelta(hours=12) < longest < TASK_TIMEOUT


def test_a_result_is_known_when_the_flight_lands_or_is_late(year: FlightLog) -> None:
    """UA 1545 of 1 January 2013: due in Houston at 8:19 Central, 11 minutes late, so known at 14:30 UTC."""
    task = next(task for task in year.weeks[0].tasks() if task.task_id == "2013-01-01-UA1545-IAH")
    assert task.result is Result.SUCCESS
    assert (task.scheduled_at.hour, task.scheduled_at.minute) == (10, 15)
    assert task.known_at - task.scheduled_at == timedelta(hours=4, minutes=15)
    assert task.execution_time_s == 227 * 60


def test_tasks_lie_in_the_week_in_which_they_mature(year: FlightLog) -> None:
    """The calendar of the configuration puts each task into the very week it is listed in."""
    for week in (year.weeks[0], year.weeks[10], year.weeks[44]):
        assert {FLIGHT_CALENDAR.containing(task.matured_at) for task in week.tasks()} == {week.week}


def test_weeks_follow_one_another_and_only_the_ends_are_partial(year: FlightLog) -> None:
    """Keys are Sundays, seven days apart; the first is the week of 1 January 2013."""
    keys = [date.fromisoformat(week.week.key) for week in year.weeks]
    assert {key.isoweekday() for key in keys} == {7}
    assert all(later - earlier == timedelta(days=7) for earlier, later in pairwise(keys))
    assert [week.number for week in year.weeks if week.is_partial] == [1, 53]
    assert year.weeks[0].original_key == "2012-12-30"


def test_moved_flights_keep_weekday_clock_time_and_season(tasks: list[FlightTask]) -> None:
    """Month, weekday and hour in the features are the original ones, and still those of the moved departure."""
    zone = ZoneInfo("America/New_York")
    for task in tasks[::50]:
        local = task.scheduled_at.astimezone(zone)
        original = date.fromisoformat(task.task_id[:10])
        assert task.features["day_of_week"] == local.isoweekday() == original.isoweekday()
        assert task.features["hour"] == local.hour
        assert task.features["month"] == original.month
        assert abs((local.date().replace(year=original.year) - original).days) in {0, 1, 2, 3, 362, 363, 364, 365}


def test_loading_twice_gives_the_same_tasks(year: FlightLog) -> None:
    """Order and values depend on the clock given and on nothing else."""
    again = load_flights(53, NOW)
    assert again.shift_weeks == year.shift_weeks
    assert list(again.weeks[3].tasks()) == list(year.weeks[3].tasks())


def test_the_last_replayed_week_lies_in_the_past() -> None:
    """Sixteen weeks end in April, so this year's fit; the year ends in December, so last year's is taken."""
    for weeks, end in ((16, date(2026, 4, 19)), (52, date(2025, 12, 28))):
        log = load_flights(weeks, NOW)
        assert log.weeks[-1].week.end_at.date() == end
        assert log.weeks[-1].week.end_at < NOW


@pytest.mark.parametrize(
    ("last_day", "now", "weeks"),
    [
        (date(2013, 4, 21), datetime(2026, 11, 23, tzinfo=UTC), 678),  # 13 years are 678.3 weeks
        (date(2013, 12, 29), datetime(2026, 11, 23, tzinfo=UTC), 626),  # 12 years: the 13th is not over
        (date(2012, 2, 29), datetime(2013, 3, 10, tzinfo=UTC), 52),  # 29 February has 1 March for anniversary
        (date(2012, 2, 29), datetime(2016, 3, 10, tzinfo=UTC), 209),  # 1,461 days are 208.7 weeks
        (date(2012, 2, 29), datetime(2016, 3, 2, tzinfo=UTC), 157),  # not over: moved, it would be 2 March 2016
        (date(2013, 4, 21), datetime(2013, 5, 1, tzinfo=UTC), 0),  # no year has passed
    ],
)
def test_the_shift_is_the_number_of_weeks_nearest_to_whole_years(last_day: date, now: datetime, weeks: int) -> None:
    """Known cases, leap years among them, counted by hand."""
    assert week_shift(last_day, now) == weeks


@given(
    st.dates(date(2000, 1, 1), date(2020, 12, 31)),
    st.datetimes(datetime(2021, 1, 2), datetime(2060, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  (hypothesis adds it)
)
def test_the_shift_keeps_the_season_and_stays_in_the_past(last_day: date, now: datetime) -> None:
    """For any day: over by now, at most 4 days off the calendar date, and not a whole year too early."""
    moved = last_day + timedelta(weeks=week_shift(last_day, now))
    assert moved < now.date()
    assert now.date() - moved <= timedelta(days=366 + 4)
    assert (
        min(abs((moved - last_day.replace(year=moved.year + k, day=min(last_day.day, 28))).days) for k in (-1, 0, 1))
        <= 7
    )


def test_a_naive_clock_and_a_day_that_is_not_over_are_refused() -> None:
    """Both would move flights into the future or by a zone's offset."""
    with pytest.raises(UsageError, match="no time zone"):
        week_shift(date(2013, 4, 21), datetime(2026, 1, 1))  # noqa: DTZ001  (the promise is about naive ones)
    with pytest.raises(UsageError, match="not over"):
        week_shift(date(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(UsageError, match="1 to 53"):
        load_flights(54, NOW)


def test_the_summary_counts_what_the_weeks_hold(year: FlightLog) -> None:
    """The figures that `config/flights.yaml` reasons with, over 52 weeks, to the digits it states."""
    summary = summarise(FlightLog(year.weeks[:52], year.shift_weeks))
    assert summary.tasks == sum(week.tasks for week in summary.weekly)
    assert round(summary.success_rate, 3) == 0.734
    assert round(summary.error_rate, 3) == 0.028
    assert round(summary.worst_week.success_rate, 2) == 0.55
    assert round(summary.best_week.success_rate, 2) == 0.90
    assert round(summary.single_share, 2) == 0.41
    assert round(summary.single_share_hindsight, 2) == 0.36
    assert round(summary.random_match_share, 2) == 0.67


def test_the_configuration_fits_the_flights(config: Config) -> None:
    """Name, actions, timeout and calendar are those of the data; limits lie below every ordinary week."""
    assert config.problem.name == "flights"
    assert config.problem.prefix_asset_keys
    assert tuple(config.problem.actions) == AIRPORTS
    assert config.task_timeout == TASK_TIMEOUT
    assert (config.retrain.day, config.retrain.time, config.retrain.timezone) == (
        FLIGHT_CALENDAR.day,
        FLIGHT_CALENDAR.at,
        FLIGHT_CALENDAR.timezone,
    )


def test_ordinary_weeks_do_not_read_as_harm(config: Config, year: FlightLog) -> None:
    """No week of the year breaks an absolute limit, and every rollback limit lies beyond the canary's."""
    weekly = summarise(year).weekly
    canary, rollback = config.canary.thresholds, config.rollback.thresholds
    assert min(week.success_rate for week in weekly) > canary.min_success_rate > rollback.min_success_rate
    assert max(week.error_rate for week in weekly) < canary.max_error_rate < rollback.max_error_rate


def test_the_collector_accepts_every_flight_as_it_stands(config: Config, tasks: list[FlightTask]) -> None:
    """A task's features are exactly the configuration's and fit its types and limits, storms and gaps included."""
    rules = OutcomeRules(schema=config.schema, unknown_columns="quarantine")
    for task in tasks[::7]:
        stored = read_outcome(task.outcome(), rules, NOW)
        assert stored.result is task.result
        assert stored.occurred_at == task.known_at
        assert stored.features == {name: value for name, value in task.features.items() if value is not None}
    assert set(tasks[0].features) == set(config.schema.names)


def test_an_outcome_of_a_decision_leaves_the_features_to_the_decision_log(tasks: list[FlightTask]) -> None:
    """With a decision the row names it and carries no feature."""
    row = tasks[0].outcome("d-1")
    assert row["decision_id"] == "d-1"
    assert not set(tasks[0].features) & set(row)
