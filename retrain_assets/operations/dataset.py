"""From outcomes to rows a model can learn from: collect, merge, prepare.

Holds what the assets `outcomes`, `merged_dataset` and `prepared_splits` do; does not hold snapshots' files
(`store/datasets.py`), merge rules (`core/dataset.py`) or the split (`core/splits.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row as DatasetRow

from retrain_assets.core.dataset import Dataset, Snapshot, Week, merge_weeks
from retrain_assets.core.deployment import EventKind, Status
from retrain_assets.core.features import FeatureSchema
from retrain_assets.errors import TrainingImpossible, UsageError
from retrain_assets.operations import csv_outcomes, deploy, extraction
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.runs import Held, Run, is_old, skip
from retrain_assets.store import datasets, decisions, outcomes, registry
from retrain_assets.store.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

    from retrain_assets.core.splits import Splits


@dataclass(frozen=True, slots=True)
class Prepared:
    """The rows of a dataset and their split."""

    dataset: Dataset
    rows: pd.DataFrame
    splits: Splits
    new_tasks: int


def collect(platform: Platform, week: Week) -> Snapshot:
    """Freeze the tasks that matured in `week`."""
    now = platform.now()
    if week.end_at > now:
        raise UsageError(f"the week of {week.key} ends at {week.end_at.isoformat()}; it can be taken after that")
    csv_outcomes.absorb(platform)
    filling = extraction.for_week(platform, week)  # pages are fetched here, while no transaction is open
    schema = platform.config.schema
    return datasets.take_snapshot(platform.database, platform.problem_home, week, schema, now, extraction=filling)


def merge(platform: Platform, week: Week) -> tuple[Dataset, list[str]]:
    """List the newest snapshots up to `week`, taking first those that are missing or received late rows.

    Returns
    -------
    Dataset
    list of str
        Keys of the weeks that were taken now.
    """
    csv_outcomes.absorb(platform)
    retrain, schema = platform.config.retrain, platform.config.schema
    with platform.database.read() as connection:
        first = decisions.first_instant(connection)
    begin = platform.calendar.containing(first) if first is not None else week
    filling = extraction.of(platform).fingerprint
    weeks = merge_weeks(platform.calendar.between(min(begin, week), week), retrain.merge_strategy, retrain.window_weeks)
    with platform.database.write() as connection:
        last_seq = outcomes.highest_seq(connection)
    with platform.database.read() as connection:
        known = datasets.newest_snapshots(connection, schema.fingerprint, filling)
        is_refreshing = retrain.late_rows == "refresh"
        due = datasets.weeks_to_take(
            connection, platform.calendar, weeks, known, last_seq, refresh_late=is_refreshing, extraction=filling
        )
    for late in due:
        known[late.key] = collect(platform, late)
    parts = [known[part.key] for part in weeks]
    with platform.database.write() as connection:
        if is_refreshing:
            datasets.checked(connection, parts, last_seq)
        dataset = datasets.save_manifest(connection, week, parts, schema.fingerprint, platform.now())
    return dataset, [part.key for part in due]


def newer_snapshots(platform: Platform, dataset: Dataset) -> list[str]:
    """Weeks of a dataset that have a newer snapshot than the one it uses."""
    with platform.database.read() as connection:
        newest = datasets.newest_snapshots(connection, dataset.schema_version, extraction.of(platform).fingerprint)
    return [part.week for part in dataset.snapshots if newest[part.week].content_hash != part.content_hash]


def newest_dataset(platform: Platform) -> Dataset | None:
    """The dataset of the newest week that has one."""
    with platform.database.read() as connection:
        return datasets.newest_dataset(connection)


def prepare(platform: Platform, week: Week, run: Run) -> Prepared | Held:
    """Load and split a week's dataset; hold when too little of it is new, or it cannot teach anything."""
    dataset = dataset_of(platform, week)
    schema = platform.config.schema
    with platform.database.read() as connection:
        trained = datasets.newest_training(connection, up_to=week.key)
        base = datasets.get_dataset(connection, trained.dataset_hash) if trained is not None else None
    new_tasks = datasets.new_tasks(platform.problem_home, dataset, base, schema)
    least = platform.config.retrain.min_new_samples
    if (new_tasks < least and not _is_unfinished(platform, week, dataset, trained)) or dataset.rows == 0:
        since = f"since the training of week {trained.week}" if trained is not None else "so far"
        return skip(platform, run, week, f"{new_tasks} new tasks {since}; retrain.min_new_samples asks for {least}")
    rows = rows_of(platform, dataset, schema)
    try:
        splits = split(platform, rows)
    except TrainingImpossible as error:
        return skip(platform, run, week, f"the data of week {week.key} cannot be split: {error}")
    record = {"dataset_hash": dataset.dataset_hash, "new_tasks": new_tasks, **splits.to_dict()}
    write_atomically(_splits_file(platform, dataset), lambda path: _write_json(path, record))
    reason = f"week {week.key}: {dataset.rows:,} tasks, {new_tasks:,} of them new"
    deploy.note(platform, EventKind.RETRAIN_STARTED, run.because(reason, record))
    return Prepared(dataset, rows, splits, new_tasks)


def _is_unfinished(platform: Platform, week: Week, dataset: Dataset, trained: DatasetRow[Any] | None) -> bool:
    """Whether this very dataset was trained on, and its version then stopped on the way to its trial.

    A run may have died before the version was registered, or deployment was paused that Sunday: then running the week
    again goes on where it stopped, although nothing in its data is new.
    """
    if trained is None or (trained.week, trained.dataset_hash) != (week.key, dataset.dataset_hash):
        return False
    with platform.database.read() as connection:
        model = registry.by_training(connection, trained.training_id)
    waits = model is not None and model.status in {Status.REGISTERED, Status.STAGING}
    return model is None or (waits and not is_old(platform, week))


def dataset_of(platform: Platform, week: Week) -> Dataset:
    """The dataset merged last for a week; says what to do when there is none."""
    with platform.database.read() as connection:
        dataset = datasets.newest_dataset(connection, week.key)
    if dataset is None:
        raise UsageError(f"week {week.key} has no dataset yet; materialise merged_dataset for it first")
    return dataset


_last_rows: dict[tuple[str, str, str], pd.DataFrame] = {}


def rows_of(platform: Platform, dataset: Dataset, schema: FeatureSchema) -> pd.DataFrame:
    """The rows of a dataset; the last one stays in memory, since four steps of one run read it."""
    key = (str(platform.problem_home), dataset.dataset_hash, schema.fingerprint)
    rows = _last_rows.get(key)
    if rows is None:
        rows = datasets.load_rows(platform.problem_home, dataset, schema)
        _last_rows.clear()
        _last_rows[key] = rows
    return rows


def split(platform: Platform, rows: pd.DataFrame) -> Splits:
    """Split a dataset's rows by time; the same rows give the same parts in every step."""
    from retrain_assets.core.splits import split_by_time

    gap: timedelta = platform.config.task_timeout
    return split_by_time(rows, gap=gap)


def recorded_splits(platform: Platform, dataset: Dataset) -> dict[str, Any]:
    """What `prepare` recorded of a dataset's split."""
    try:
        record: dict[str, Any] = json.loads(_splits_file(platform, dataset).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"week {dataset.week} has no split yet; materialise prepared_splits for it first") from None
    return record


def _splits_file(platform: Platform, dataset: Dataset) -> Path:
    return platform.problem_home / "splits" / f"{dataset.dataset_hash}.json"


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
