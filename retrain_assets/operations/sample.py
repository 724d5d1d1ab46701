"""A sample of somebody's log: its first rows, and rows drawn evenly from all the rest.

Holds the drawing; does not hold what is made of it (`core/inference.py`). The whole source is read once, in constant
memory.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrain_assets.core.columns import FEATURES
from retrain_assets.core.rows import flattened
from retrain_assets.core.sample_columns import Sample
from retrain_assets.operations.imports import ImportOptions, open_source
from retrain_assets.operations.row_files import FileRow, Source

FIRST_ROWS = 2_000
SPREAD_ROWS = 3_000
SEED = 0
MOST_COLUMNS = 1_000
_TOLD_EVERY = 10_000

Progress = Callable[[int, float], None]
"""Told now and then: rows read so far, and the share of the source."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sample with the rows as they stand in the source.

    Attributes
    ----------
    sample : Sample
    rows : list of FileRow
        The same rows before they were laid flat.
    unreadable : int
        Rows of the source that are no rows.
    source : Source
    """

    sample: Sample
    rows: list[FileRow]
    unreadable: int
    source: Source


def draw(origin: Path | str, options: ImportOptions, progress: Progress | None = None) -> Drawn:
    """Read a source and keep its first `FIRST_ROWS` rows and `SPREAD_ROWS` of the others, in order.

    The others are a reservoir sample: each of them is as likely as any other; the seed is fixed.
    """
    chance = random.Random(SEED)
    first: list[FileRow] = []
    spread: list[FileRow] = []
    total = unreadable = 0
    with closing(open_source(origin, options)) as rows:
        for row in rows:
            if row.problem is not None:
                unreadable += 1
                continue
            total += 1
            if total <= FIRST_ROWS:
                first.append(row)
            elif len(spread) < SPREAD_ROWS:
                spread.append(row)
            elif (place := chance.randrange(total - FIRST_ROWS)) < SPREAD_ROWS:
                spread[place] = row
            if progress is not None and total % _TOLD_EVERY == 0:
                progress(total, rows.share())
        kept = first + sorted(spread, key=lambda row: row.number)
        flat, columns, inner = _laid_flat(kept, rows.columns or ())
        sample = Sample(columns, flat, total, rows.is_text, inner)
        return Drawn(sample, kept, unreadable, rows.source)


def _laid_flat(
    rows: list[FileRow], columns: tuple[str, ...]
) -> tuple[list[dict[str, Any]], tuple[str, ...], frozenset[str]]:
    """Rows whose nested objects are columns, and which columns came out of `features`."""
    flat: list[dict[str, Any]] = []
    outer: dict[str, None] = dict.fromkeys(columns)
    inner: dict[str, None] = {}
    for row in rows:
        values = flattened(row.values)
        members = _members(values.get(FEATURES))
        if members is not None:
            del values[FEATURES]
            outer.pop(FEATURES, None)
        outer |= dict.fromkeys(values)
        inner |= dict.fromkeys(members or {})
        flat.append({**(members or {}), **values})
    only_inner = [name for name in inner if name not in outer]
    return flat, tuple([*outer, *only_inner][:MOST_COLUMNS]), frozenset(only_inner)


def _members(value: Any) -> dict[str, Any] | None:  # noqa: ANN401  (whatever a file holds)
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return flattened(value) if isinstance(value, dict) else None
