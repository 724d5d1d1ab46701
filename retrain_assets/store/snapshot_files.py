"""Snapshots as Parquet files: a week streamed into a file whose name is known only when it is written.

Holds the writing and the place of files below `snapshots/`; does not hold the rows' making (`week_rows.py`,
`week_columns.py`) or the tables that name them (`datasets.py`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from retrain_assets.core.dataset import ContentHash, Week
from retrain_assets.core.extraction import Extraction
from retrain_assets.core.features import FeatureSchema
from retrain_assets.errors import StoreUnavailable
from retrain_assets.store import week_rows
from retrain_assets.store.week_columns import WeekColumns, corrections_alone

FOLDER = "snapshots"

BATCH = 25_000
"""Rows that are in memory at a time; a row group of the file."""

ABANDONED_S = 86_400.0
"""A draft of this age belongs to a process that was killed: a week of millions of rows takes minutes."""

_DRAFT = ".draft."

_UNIQUE = frozenset(("task_id", "outcome_id", "decision_id", "matured_at", "decided_at", "occurred_at"))
"""Columns whose values seldom repeat: a dictionary of them is built and thrown away."""


@dataclass(frozen=True, slots=True)
class Written:
    """What went into a file.

    Attributes
    ----------
    first_seq : int
        The lowest number among the outcomes; 0 when there is none.
    facts : dict
        Counts by the names of `week_columns.FACTS`, and under `week_filling.EXTRACTION` how gaps were filled.
    """

    content_hash: str
    rows: int
    first_seq: int
    facts: dict[str, Any]


@contextmanager
def draft(folder: Path) -> Iterator[Path]:
    """The path of a file that is not there yet and will not be there afterwards, unless it was moved into place.

    Drafts that killed processes left in the folder go first, once they are `ABANDONED_S` old.

    Raises
    ------
    StoreUnavailable
        The disk refused.
    """
    path = folder / f"{_DRAFT}{os.getpid()}.{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        yield path
    except OSError as error:
        raise StoreUnavailable(f"{folder} cannot be written: {error}; free space or rights, then try again") from error
    finally:
        with contextlib.suppress(OSError):  # a place that cannot be written has nothing to clean up either
            path.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    oldest = time.time() - ABANDONED_S
    for path in folder.glob(f"{_DRAFT}*"):
        with contextlib.suppress(OSError):  # another process sweeps too, and what cannot be deleted is not in the way
            if path.stat().st_mtime < oldest:
                path.unlink()


def move(path: Path, target: Path) -> None:
    """Give a finished draft its name; the way in which `write_atomically` fills a file."""
    path.replace(target)


def write(
    connection: Connection,
    path: Path,
    week: Week,
    schema: FeatureSchema,
    last_seq: int,
    *,
    extraction: Extraction | None = None,
) -> Written:
    """Stream a week's rows into `path`, in memory that does not grow with the week.

    Parameters
    ----------
    connection : Connection
        In a reading transaction.
    path : Path
    week : Week
    schema : FeatureSchema
    last_seq : int
        Outcomes above it are left to a later snapshot.
    extraction : Extraction, optional
        Fills gaps in the features.
    """
    import pyarrow.parquet as pq

    columns = WeekColumns(schema, extraction)
    digest = ContentHash(columns.arrow_schema)
    rows = week_rows.stream(connection, week.start_at, week.end_at, last_seq)
    repeated = [name for name in columns.arrow_schema.names if name not in _UNIQUE]
    with (
        contextlib.closing(rows),
        pq.ParquetWriter(path, columns.arrow_schema, compression="zstd", use_dictionary=repeated) as file,
    ):
        # In turn, and in one thread: SQLite asks for the interpreter at each row, and beside a thread that types a week
        # took twice as long; beside one that only hashes and writes, and on PostgreSQL, nothing was won on two cores.
        while part := list(islice(rows, BATCH)):
            batch = columns.batch(part, week_rows.originals(connection, corrections_alone(part)))
            digest.update(batch)
            file.write_batch(batch)
    facts = dict(columns.facts) | (columns.filling.facts() if columns.filling is not None else {})
    return Written(digest.hexdigest(week.key), digest.rows, columns.first_seq or 0, facts)
