"""Snapshots and the manifests that list them.

Holds the SQL on `snapshots`, `datasets` and `trainings`, which weeks are to be taken again, and the reading of a
dataset's files; does not hold how a file is written (`snapshot_files.py`), hashes or merge rules (`core/dataset.py`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, select, update

from retrain_assets.core.dataset import (
    Dataset,
    Snapshot,
    Week,
    WeekCalendar,
    arrow_schema,
    dataset_hash,
    newest_of_each,
    row_keys,
)
from retrain_assets.core.extraction import Extraction
from retrain_assets.core.features import FeatureSchema
from retrain_assets.errors import ArtefactRefused, StoreUnavailable
from retrain_assets.store import decisions, outcomes, snapshot_files
from retrain_assets.store.database import Database, insert_new
from retrain_assets.store.files import sha256_of, write_atomically
from retrain_assets.store.snapshot_files import FOLDER
from retrain_assets.store.tables import datasets, snapshots, trainings
from retrain_assets.store.week_filling import EXTRACTION

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

LATE = "late"
"""The fact by which a snapshot remembers how many late decisions it saw (`decisions_touching`)."""


def take_snapshot(
    database: Database,
    problem_home: Path,
    week: Week,
    schema: FeatureSchema,
    now: datetime,
    *,
    extraction: Extraction | None = None,
) -> Snapshot:
    """Freeze a week's matured tasks; the same rows give the same snapshot, however often it is taken.

    Rows are streamed: memory does not grow with the week. The file is in place before the row that names it, so a
    crash in between leaves an unnamed file and nothing else. `extraction` fills gaps in the features.
    """
    with database.write() as connection:
        last_seq = outcomes.highest_seq(connection)
    with snapshot_files.draft(problem_home / FOLDER / week.key) as draft:
        with database.read() as connection:
            written = snapshot_files.write(connection, draft, week, schema, last_seq, extraction=extraction)
            late = decisions_touching(connection, [week])[week.key]
        relative = Path(FOLDER) / week.key / f"{written.content_hash}.parquet"
        path = problem_home / relative
        # A file without a row may be anybody's, and one with other bytes than recorded is damaged: both are replaced.
        if not _is_intact(database, written.content_hash, path):
            write_atomically(path, partial(snapshot_files.move, draft))
    snapshot = Snapshot(
        content_hash=written.content_hash,
        file_sha256=sha256_of(path),
        week=week.key,
        rows=written.rows,
        path=relative.as_posix(),
        first_seq=written.first_seq,
        last_seq=last_seq,
        schema_version=schema.fingerprint,
        created_at=now,
        facts=written.facts | {LATE: late},
    )
    with database.write() as connection:
        return _remember(connection, snapshot)


def _is_intact(database: Database, digest: str, path: Path) -> bool:
    with database.read() as connection:
        recorded = connection.execute(
            select(snapshots.c.file_sha256).where(snapshots.c.content_hash == digest)
        ).scalar()
    return recorded is not None and path.exists() and sha256_of(path) == recorded


def _remember(connection: Connection, snapshot: Snapshot) -> Snapshot:
    values = {name: getattr(snapshot, name) for name in Snapshot.__slots__}
    connection.execute(insert_new(connection, snapshots, ["content_hash"]), [values])
    # Another writer version gives the same content other bytes, and late decisions may have changed nothing in it.
    mended = update(snapshots).where(snapshots.c.content_hash == snapshot.content_hash)
    connection.execute(mended.values(file_sha256=snapshot.file_sha256, facts=snapshot.facts))
    checked(connection, [snapshot], snapshot.last_seq)
    row = connection.execute(select(snapshots).where(snapshots.c.content_hash == snapshot.content_hash)).one()
    return _snapshot(row)


def checked(connection: Connection, known: Sequence[Snapshot], last_seq: int) -> None:
    """Note that outcomes up to `last_seq` were looked at and change nothing in these snapshots."""
    hashes = [snapshot.content_hash for snapshot in known]
    statement = update(snapshots).where(snapshots.c.content_hash.in_(hashes), snapshots.c.last_seq < last_seq)
    connection.execute(statement.values(last_seq=last_seq))


def newest_snapshots(connection: Connection, schema_version: str, extraction: str | None = None) -> dict[str, Snapshot]:
    """The newest snapshot of each week under a schema, by week key.

    Those whose gaps were filled in the present way (`extraction`, a fingerprint) go before others: whoever takes back
    a change of an extractor has the older snapshots again.
    """
    query = select(snapshots).where(snapshots.c.schema_version == schema_version)
    rows = [_snapshot(row) for row in connection.execute(query.order_by(snapshots.c.last_seq, snapshots.c.created_at))]
    return {row.week: row for row in sorted(rows, key=lambda row: _filled_by(row) == extraction)}


def _filled_by(snapshot: Snapshot) -> str | None:
    """The fingerprint of the extraction that filled a snapshot's gaps; None for none."""
    fingerprint: str | None = (snapshot.facts or {}).get(EXTRACTION, {}).get("fingerprint")
    return fingerprint


def weeks_to_take(
    connection: Connection,
    calendar: WeekCalendar,
    weeks: Sequence[Week],
    known: dict[str, Snapshot],
    last_seq: int,
    *,
    refresh_late: bool,
    extraction: str | None = None,
) -> list[Week]:
    """Weeks without a snapshot, and (`refresh_late`) those that received rows since their newest one.

    Also (`refresh_late`) those whose gaps were filled in another way than the present one, `extraction`.
    """
    missing = [week for week in weeks if week.key not in known]
    present = [week for week in weeks if week.key in known]
    if not refresh_late or not present:
        return missing
    touched: set[str] = set()
    oldest_check = min(known[week.key].last_seq for week in present)
    if oldest_check < last_seq:
        touched = {calendar.containing(at).key for at in decisions.instants_since(connection, oldest_check, last_seq)}
    late = decisions_touching(connection, present)
    due = [
        week
        for week in present
        if (week.key in touched and known[week.key].last_seq < last_seq)
        or late[week.key] != (known[week.key].facts or {}).get(LATE, 0)
        or _filled_by(known[week.key]) != extraction
    ]
    return sorted([*missing, *due])


def decisions_touching(connection: Connection, weeks: Sequence[Week]) -> Counter[str]:
    """How often decisions that reached the log after their deadline touch each week, by week key.

    A snapshot keeps the number that it saw. Decisions are never changed or deleted, so that another number, and only
    that, tells of one that was not there yet: no clocks are compared, and a commit cannot be overtaken.
    """
    ordered = sorted(weeks, key=lambda week: week.start_at)
    starts = [week.start_at for week in ordered]
    counts: Counter[str] = Counter()
    for at in decisions.late_instants(connection):
        place = bisect_right(starts, at) - 1
        if place >= 0 and at < ordered[place].end_at:
            counts[ordered[place].key] += 1
    return counts


def save_manifest(
    connection: Connection, week: Week, parts: Sequence[Snapshot], schema_version: str, now: datetime
) -> Dataset:
    """Keep the ordered list of snapshots that make up a week's dataset."""
    digest = dataset_hash(schema_version, [part.content_hash for part in parts])
    values = {
        "dataset_hash": digest,
        "week": week.key,
        "manifest": [part.content_hash for part in parts],
        "schema_version": schema_version,
        "rows": sum(part.rows for part in parts),
        "created_at": now,
    }
    connection.execute(insert_new(connection, datasets, ["dataset_hash"]), [values])
    # The newest manifest of a week is the one its later assets read, also when an older content came back.
    connection.execute(update(datasets).where(datasets.c.dataset_hash == digest).values(created_at=now))
    found = get_dataset(connection, digest)
    assert found is not None  # noqa: S101  (written in this very transaction)
    return found


def get_dataset(connection: Connection, digest: str) -> Dataset | None:
    """A manifest with its snapshots, by dataset hash."""
    row = connection.execute(select(datasets).where(datasets.c.dataset_hash == digest)).one_or_none()
    return None if row is None else _dataset(connection, row)


def newest_dataset(connection: Connection, week_key: str | None = None) -> Dataset | None:
    """The manifest made last for a week, or for the newest week that has one."""
    query = select(datasets) if week_key is None else select(datasets).where(datasets.c.week == week_key)
    query = query.order_by(datasets.c.week.desc(), datasets.c.created_at.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else _dataset(connection, row)


def load_rows(problem_home: Path, dataset: Dataset, schema: FeatureSchema) -> pd.DataFrame:
    """All rows of a dataset, newest of each outcome, in order of maturity.

    Raises
    ------
    ArtefactRefused
        A snapshot's file is missing or its bytes are not what was recorded; it is named.
    """
    import pandas as pd
    import pyarrow as pa

    parts = [_load_snapshot(problem_home, part, schema) for part in dataset.snapshots]
    table = pa.concat_tables(parts) if parts else arrow_schema(schema).empty_table()
    frame = table.to_pandas(types_mapper={pa.string(): pd.StringDtype("pyarrow")}.get)
    return newest_of_each(frame)


def _load_snapshot(problem_home: Path, part: Snapshot, schema: FeatureSchema) -> pa.Table:
    import pyarrow.parquet as pq

    path = problem_home / part.path
    try:
        found = sha256_of(path)
    except OSError as error:
        raise ArtefactRefused(f"the snapshot of week {part.week} cannot be read at {part.path}: {error}") from error
    if found != part.file_sha256:
        message = f"the snapshot of week {part.week} at {part.path} has SHA-256 {found[:16]}..., recorded is "
        raise ArtefactRefused(f"{message}{part.file_sha256[:16]}...")
    return pq.read_table(path, schema=arrow_schema(schema))


def new_tasks(problem_home: Path, dataset: Dataset, trained: Dataset | None, schema: FeatureSchema) -> int:
    """How many rows of `dataset` the one trained last did not hold."""
    if trained is None:
        return dataset.rows
    known = {part.content_hash for part in trained.snapshots}
    fresh = [part for part in dataset.snapshots if part.content_hash not in known]
    weeks = {part.week for part in trained.snapshots}
    count = sum(part.rows for part in fresh if part.week not in weeks)
    refreshed = [part for part in fresh if part.week in weeks]
    for part in refreshed:
        old = next(p for p in trained.snapshots if p.week == part.week)
        rows, held = _identities(problem_home, part), _identities(problem_home, old)
        # By its outcome too: a task whose decision reached the log late has another key now.
        is_held = rows["key"].isin(held["key"]) | rows["outcome_id"].isin(held["outcome_id"].dropna())
        count += rows.loc[~is_held, "key"].nunique()
    return count if schema.fingerprint == trained.schema_version else max(count, dataset.rows)


def _identities(problem_home: Path, part: Snapshot) -> pd.DataFrame:
    """What the rows of a snapshot are known by: their key, and their outcome if one came."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(problem_home / part.path, columns=["task_id", "decision_id", "outcome_id"])
    except OSError as error:
        raise StoreUnavailable(f"the snapshot of week {part.week} cannot be read: {error}") from error
    rows = table.to_pandas(types_mapper={pa.string(): pd.StringDtype("pyarrow")}.get)
    return pd.DataFrame({"key": row_keys(rows), "outcome_id": rows["outcome_id"]})


def save_training(connection: Connection, values: dict[str, Any]) -> None:
    """Keep what a training was told and what came of it; the same training twice is one row."""
    connection.execute(insert_new(connection, trainings, ["training_id"]), [values])


def newest_training(connection: Connection, *, week: str | None = None, up_to: str | None = None) -> Row[Any] | None:
    """The training made last, for one week or for all weeks up to one."""
    query = select(trainings)
    if week is not None:
        query = query.where(trainings.c.week == week)
    if up_to is not None:
        query = query.where(trainings.c.week <= up_to)
    return connection.execute(
        query.order_by(trainings.c.week.desc(), trainings.c.created_at.desc()).limit(1)
    ).one_or_none()


def get_training(connection: Connection, training_id: str) -> Row[Any] | None:
    """A training by its id."""
    return connection.execute(select(trainings).where(trainings.c.training_id == training_id)).one_or_none()


def _snapshot(row: Row[Any]) -> Snapshot:
    return Snapshot(**dict(row._mapping))  # noqa: SLF001  (SQLAlchemy's documented way to a row's names)


def _dataset(connection: Connection, row: Row[Any]) -> Dataset:
    found = connection.execute(select(snapshots).where(snapshots.c.content_hash.in_(row.manifest)))
    by_hash = {part.content_hash: part for part in (_snapshot(r) for r in found)}
    return Dataset(
        dataset_hash=row.dataset_hash,
        week=row.week,
        snapshots=tuple(by_hash[digest] for digest in row.manifest),
        schema_version=row.schema_version,
        rows=row.rows,
        created_at=row.created_at,
    )
