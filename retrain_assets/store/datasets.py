"""Snapshots as Parquet files and manifests as rows.

Holds the folder `snapshots/` of a problem and the SQL on `snapshots`, `datasets` and `trainings`; does
not hold hashes or merge rules (`core/dataset.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, select, update

from retrain_assets.core.dataset import (
    FEATURE_PREFIX,
    Dataset,
    Snapshot,
    Week,
    WeekCalendar,
    arrow_schema,
    content_hash,
    dataset_hash,
    newest_of_each,
)
from retrain_assets.core.features import Feature, FeatureSchema
from retrain_assets.core.outcomes import MISSING, Result
from retrain_assets.errors import ArtefactRefused, SchemaError, StoreUnavailable
from retrain_assets.store import decisions, outcomes
from retrain_assets.store.database import Database, insert_new
from retrain_assets.store.files import sha256_of, write_atomically
from retrain_assets.store.tables import datasets, snapshots, trainings

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FOLDER = "snapshots"


def take_snapshot(database: Database, problem_home: Path, week: Week, schema: FeatureSchema, now: datetime) -> Snapshot:
    """Freeze a week's matured tasks; the same rows give the same snapshot, however often it is taken.

    The file is in place before the row that names it, so a crash in between leaves an unnamed file
    and nothing else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with database.write() as connection:
        last_seq = outcomes.highest_seq(connection)
    with database.read() as connection:
        rows = decisions.week_rows(connection, week.start_at, week.end_at, last_seq)
        columns, seqs = _columns(rows, schema)
    table = pa.table(columns, schema=arrow_schema(schema))
    digest = content_hash(week.key, table)
    relative = Path(FOLDER) / week.key / f"{digest}.parquet"
    path = problem_home / relative
    # A file without a row may be anybody's, and one with other bytes than recorded is damaged: both are written anew.
    if not _is_intact(database, digest, path):
        write_atomically(path, lambda target: pq.write_table(table, target, compression="zstd"))
    snapshot = Snapshot(
        content_hash=digest,
        file_sha256=sha256_of(path),
        week=week.key,
        rows=table.num_rows,
        path=relative.as_posix(),
        first_seq=min(seqs, default=0),
        last_seq=last_seq,
        schema_version=schema.fingerprint,
        created_at=now,
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
    # Another writer version gives the same content other bytes.
    mended = update(snapshots).where(snapshots.c.content_hash == snapshot.content_hash)
    connection.execute(mended.values(file_sha256=snapshot.file_sha256))
    checked(connection, [snapshot], snapshot.last_seq)
    row = connection.execute(select(snapshots).where(snapshots.c.content_hash == snapshot.content_hash)).one()
    return _snapshot(row)


def checked(connection: Connection, known: Sequence[Snapshot], last_seq: int) -> None:
    """Note that outcomes up to `last_seq` were looked at and change nothing in these snapshots."""
    hashes = [snapshot.content_hash for snapshot in known]
    statement = update(snapshots).where(snapshots.c.content_hash.in_(hashes), snapshots.c.last_seq < last_seq)
    connection.execute(statement.values(last_seq=last_seq))


def _columns(rows: Iterable[dict[str, Any]], schema: FeatureSchema) -> tuple[dict[str, list[Any]], list[int]]:
    """Turn joined rows into columns; also the sequence numbers of the outcomes among them."""
    names = arrow_schema(schema).names
    columns: dict[str, list[Any]] = {name: [] for name in names}
    seqs: list[int] = []
    for row in rows:
        if row["seq"] is not None:
            seqs.append(row["seq"])
        result = row["result"]
        row["result"] = result or Result.FAILURE.value
        row["failure_reason"] = row["failure_reason"] if result else MISSING
        values = {f.name: lenient(f, row["features"].get(f.name)) for f in schema.features}
        row["stratum"] = row["stratum"] if row["stratum"] is not None else schema.stratum(values)
        for name in names:
            if not name.startswith(FEATURE_PREFIX):
                columns[name].append(row[name])
        for name, value in values.items():
            columns[FEATURE_PREFIX + name].append(float(value) if isinstance(value, bool | int) else value)
    return columns, seqs


def lenient(feature: Feature, value: Any) -> Any:  # noqa: ANN401  (whatever the row holds)
    """Read a stored value in the feature's present type; one that no longer fits counts as missing.

    Rows outlive schemas: a value that was right under an older schema must not stop a week.
    """
    try:
        return feature.read(value)
    except SchemaError:
        return None


def newest_snapshots(connection: Connection, schema_version: str) -> dict[str, Snapshot]:
    """The newest snapshot of each week under a schema, by week key."""
    query = select(snapshots).where(snapshots.c.schema_version == schema_version)
    rows = connection.execute(query.order_by(snapshots.c.last_seq, snapshots.c.created_at))
    return {row.week: _snapshot(row) for row in rows}


def weeks_to_take(
    connection: Connection,
    calendar: WeekCalendar,
    weeks: Sequence[Week],
    known: dict[str, Snapshot],
    last_seq: int,
    *,
    refresh_late: bool,
) -> list[Week]:
    """Weeks without a snapshot, and (`refresh_late`) those that received rows since their newest one."""
    missing = [week for week in weeks if week.key not in known]
    present = [week for week in weeks if week.key in known]
    if not refresh_late or not present:
        return missing
    oldest_check = min(known[week.key].last_seq for week in present)
    if oldest_check >= last_seq:
        return missing
    touched: dict[str, int] = {}
    for at in decisions.instants_since(connection, oldest_check, last_seq):
        key = calendar.containing(at).key
        touched[key] = touched.get(key, 0) + 1
    late = [week for week in present if week.key in touched and known[week.key].last_seq < last_seq]
    return sorted([*missing, *late])


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
        keys = _keys(problem_home, part) - _keys(problem_home, old)
        count += len(keys)
    return count if schema.fingerprint == trained.schema_version else max(count, dataset.rows)


def _keys(problem_home: Path, part: Snapshot) -> set[tuple[str, int]]:
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(problem_home / part.path, columns=["task_id", "attempt"])
    except OSError as error:
        raise StoreUnavailable(f"the snapshot of week {part.week} cannot be read: {error}") from error
    return set(zip(table["task_id"].to_pylist(), table["attempt"].to_pylist(), strict=True))


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
