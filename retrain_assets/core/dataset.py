"""Which rows teach a model: weeks, snapshots' identity, manifests and the newest row of each attempt.

Holds the calendar of weeks, the canonical content hash and the manifest; does not hold files or SQL
(`store/datasets.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from retrain_assets.core.features import FeatureSchema, FeatureType
from retrain_assets.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
"""Dagster counts a week's day offset from Sunday."""

FEATURE_PREFIX = "feature_"
"""Keeps a feature's column apart from an outcome's own columns in snapshots."""


@dataclass(frozen=True, slots=True, order=True)
class Week:
    """One training week: `[start_at, end_at)`, named by the local date of its start."""

    key: str
    start_at: datetime
    end_at: datetime


@dataclass(frozen=True, slots=True)
class WeekCalendar:
    """Weeks that begin on `day` at `at` local time in `timezone`."""

    day: str = "sunday"
    at: str = "02:00"
    timezone: str = "UTC"

    @property
    def day_offset(self) -> int:
        """Days from Sunday to the week's first day, 0 to 6."""
        return WEEKDAYS.index(self.day)

    @property
    def start_time(self) -> time:
        """Local time at which a week begins."""
        hour, minute = self.at.split(":")
        return time(int(hour), int(minute))

    def starting(self, first_day: date) -> Week:
        """The week whose first local date is `first_day`."""
        return Week(first_day.isoformat(), self._instant(first_day), self._instant(first_day + timedelta(days=7)))

    def containing(self, instant: datetime) -> Week:
        """The week in which an aware instant falls."""
        local = instant.astimezone(ZoneInfo(self.timezone))
        back = (local.isoweekday() - self.day_offset) % 7
        week = self.starting(local.date() - timedelta(days=back))
        return week if instant >= week.start_at else self.before(week)

    def before(self, week: Week) -> Week:
        """The week that ends where `week` begins."""
        return self.starting(date.fromisoformat(week.key) - timedelta(days=7))

    def after(self, week: Week) -> Week:
        """The week that begins where `week` ends."""
        return self.starting(date.fromisoformat(week.key) + timedelta(days=7))

    def newest_closed(self, now: datetime) -> Week:
        """The last week that has ended by `now`."""
        return self.before(self.containing(now))

    def named(self, text: str) -> Week:
        """The week named by its key or by any day in it.

        Raises
        ------
        UsageError
            The text is not a date.
        """
        try:
            day = date.fromisoformat(text)
        except ValueError:
            raise UsageError(f"{text!r} is not a date; write YYYY-MM-DD") from None
        return self.starting(day - timedelta(days=(day.isoweekday() - self.day_offset) % 7))

    def between(self, first: Week, last: Week) -> list[Week]:
        """All weeks from `first` to `last`, both included, in order."""
        weeks = []
        week = first
        while week.start_at <= last.start_at:
            weeks.append(week)
            week = self.after(week)
        return weeks

    def _instant(self, day: date) -> datetime:
        """When the clocks show `start_time` on `day`, by the rules of the scheduler that starts the run.

        From one to four o'clock a time that comes twice is meant the second time, and one that is skipped becomes
        the instant of the change. At other hours, where few zones change, the scheduler does what Python does.
        """
        zone = ZoneInfo(self.timezone)
        wall = datetime.combine(day, self.start_time, tzinfo=zone)
        first, second = (wall.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
        if not 1 <= wall.hour <= 3:
            return first
        if first <= second:
            return second
        before, after = second, first
        while after - before > timedelta(seconds=1):
            middle = before + (after - before) / 2
            is_changed = middle.astimezone(zone).utcoffset() == first.astimezone(zone).utcoffset()
            before, after = (before, middle) if is_changed else (middle, after)
        return after.replace(microsecond=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One week of matured tasks, frozen.

    Attributes
    ----------
    content_hash : str
        SHA-256 over the canonical content; another Parquet writer gives the same.
    file_sha256 : str
        SHA-256 of the file's bytes.
    path : str
        Relative to the problem's home.
    first_seq, last_seq : int
        Outcomes with `seq` above `last_seq` had not arrived when it was taken.
    facts : dict or None
        What its rows are made of, for people: counts by name, and how gaps were filled. Not part of the content.
    """

    content_hash: str
    file_sha256: str
    week: str
    rows: int
    path: str
    first_seq: int
    last_seq: int
    schema_version: str
    created_at: datetime
    facts: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """An ordered list of snapshots and the schema that reads them."""

    dataset_hash: str
    week: str
    snapshots: tuple[Snapshot, ...]
    schema_version: str
    rows: int
    created_at: datetime


def dataset_hash(schema_version: str, content_hashes: Iterable[str]) -> str:
    """SHA-256 over the schema's fingerprint and the ordered snapshot hashes."""
    digest = hashlib.sha256(f"schema:{schema_version}".encode())
    for content_hash in content_hashes:
        digest.update(f"\nsnapshot:{content_hash}".encode())
    return digest.hexdigest()


def merge_weeks(weeks: Sequence[Week], strategy: str, window_weeks: int) -> list[Week]:
    """The weeks a dataset takes in: all (`append`), the last `window_weeks` (`window`) or the last (`replace`)."""
    ordered = sorted(weeks, key=lambda week: week.start_at)
    match strategy:
        case "append":
            return ordered
        case "window":
            return ordered[-window_weeks:]
        case "replace":
            return ordered[-1:]
    raise UsageError(f"merge strategy {strategy!r} is not append, window or replace")


def arrow_schema(schema: FeatureSchema) -> pa.Schema:
    """The columns of a snapshot, in order, with the types that the content hash is taken over."""
    import pyarrow as pa

    instant = pa.timestamp("us", tz="UTC")
    fixed: list[tuple[str, pa.DataType]] = [
        ("task_id", pa.string()),
        ("attempt", pa.int32()),
        ("outcome_id", pa.string()),
        ("decision_id", pa.string()),
        ("domain", pa.string()),
        ("matured_at", instant),
        ("decided_at", instant),
        ("occurred_at", instant),
        ("action", pa.string()),
        ("result", pa.string()),
        ("failure_reason", pa.string()),
        ("execution_time_s", pa.float64()),
        ("propensity", pa.float64()),
        ("model_version", pa.string()),
        ("arm", pa.string()),
        ("stratum", pa.string()),
    ]
    types = {
        FeatureType.NUMBER: pa.float64(),
        FeatureType.INTEGER: pa.float64(),
        FeatureType.BOOLEAN: pa.float64(),
        FeatureType.CATEGORY: pa.string(),
    }
    return pa.schema([*fixed, *((FEATURE_PREFIX + f.name, types[f.type]) for f in schema.features)])


class ContentHash:
    """SHA-256 over a snapshot's week and its columns' names, types and values in row order, fed batch by batch.

    Independent of batches and chunks, of the Parquet writer and of whatever bytes lie under a null.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of every batch.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.rows = 0
        self._schema = schema
        self._columns = [tuple(hashlib.sha256() for _ in ("validity", "lengths", "values")) for _ in schema]

    def update(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Take in the next rows."""
        self.rows += batch.num_rows
        for column, hashers in zip(batch.columns, self._columns, strict=True):
            for chunk in getattr(column, "chunks", [column]):
                for hasher, content in zip(hashers, _canonical(chunk), strict=True):
                    hasher.update(content)

    def hexdigest(self, week: str) -> str:
        """The digest of everything taken in so far, as the content of a week."""
        digest = hashlib.sha256(f"week:{week}\nrows:{self.rows}".encode())
        for field, hashers in zip(self._schema, self._columns, strict=True):
            digest.update(f"\n{field.name}:{field.type}\n".encode())
            for hasher in hashers:
                digest.update(hasher.digest())
        return digest.hexdigest()


def content_hash(week: str, table: pa.Table) -> str:
    """The `ContentHash` of a whole table."""
    digest = ContentHash(table.schema)
    digest.update(table)
    return digest.hexdigest(week)


def _canonical(chunk: pa.Array) -> tuple[Any, Any, Any]:
    """Validity, lengths of texts, and values of an array as little-endian bytes; zeros and nothing under a null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    validity = _bytes(pc.is_valid(chunk).cast(pa.int8()))
    if pa.types.is_string(chunk.type):
        filled = pc.fill_null(chunk, "")
        return validity, _bytes(pc.binary_length(filled)), _text_bytes(filled)
    numbers = chunk.cast(pa.int64()) if pa.types.is_timestamp(chunk.type) else chunk
    return validity, b"", _bytes(pc.fill_null(numbers, 0))


def _text_bytes(texts: pa.Array) -> Any:  # noqa: ANN401  (a buffer)
    """The UTF-8 of all texts of an array without nulls, one after the other."""
    import numpy as np

    _, offsets, content = texts.buffers()
    if content is None or not len(texts):
        return b""
    places = np.frombuffer(offsets, dtype=np.int32)
    first, last = (int(places[place]) for place in (texts.offset, texts.offset + len(texts)))
    return memoryview(content)[first:last]


def newest_of_each(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the last row of each task, in order of maturity; decisions, corrections and refreshed weeks win.

    A row is known by its decision and task, else by its outcome (`row_keys`). A row without a decision gives way to the
    decided one of the same outcome, whichever came first: its decision had not reached the log yet. A correction stands
    under the outcome that it corrects, so that it replaces the row that an earlier snapshot holds.

    Parameters
    ----------
    rows : DataFrame
        Snapshots concatenated in order of the manifest.
    """
    keys, alone = row_keys(rows), rows["decided_at"].isna()
    gone = alone & False
    if alone.any():
        of_decided = rows.loc[~alone, "outcome_id"].dropna()
        gone = alone & (keys.isin(keys[~alone]) | rows["outcome_id"].isin(of_decided))
    gone |= keys[~gone].duplicated(keep="last").reindex(rows.index, fill_value=False)
    told_twice = rows.loc[alone & ~gone, "outcome_id"].duplicated(keep="last")
    gone |= told_twice.reindex(rows.index, fill_value=False)
    kept = rows.loc[~gone]
    return kept.sort_values(["matured_at", "task_id", "attempt"], kind="stable").reset_index(drop=True)


def row_keys(rows: pd.DataFrame) -> pd.Series[str]:
    """What each row of a snapshot is known by: its decision and task, else its outcome."""
    named = rows["decision_id"] + "\x1f" + rows["task_id"]
    return named.where(rows["decision_id"].notna(), rows["outcome_id"])


def _bytes(array: Any) -> memoryview:  # noqa: ANN401  (pyarrow has no public array protocol type)
    numpy_array = array.to_numpy(zero_copy_only=False)
    return memoryview(numpy_array.astype(numpy_array.dtype.newbyteorder("<"), order="C", copy=False)).cast("B")
