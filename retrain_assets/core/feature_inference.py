"""Which columns of a log may be features, and what they are like.

Holds the reasons against a column and the description of a feature; does not hold the columns' measures
(`core/sample_columns.py`) or the rest of a problem (`core/inference.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrain_assets.core.columns import folded
from retrain_assets.core.features import MAX_TEXT_LENGTH, FeatureType
from retrain_assets.core.log_words import AFTERWARDS, CLASSES, HISTORY, NAMES_OF_ONE
from retrain_assets.core.outcomes import FIXED_FIELDS, Result
from retrain_assets.core.sample_columns import (
    FITS,
    LONG_TEXT,
    MOST_CATEGORIES,
    NUMERIC,
    UNEXPLAINED,
    SampleColumn,
    unexplained_share,
)

MOST_STRATA = 8
LEAST_STRATUM = 0.05
"""Share of the rows that each stratum must have."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
"""What a feature may be called."""


@dataclass(frozen=True, slots=True)
class InferredFeature:
    """A feature with what the configuration says of it."""

    type: FeatureType
    min: float | None = None
    max: float | None = None
    evidence: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As `problem.features` has it."""
        limits = {"min": self.min, "max": self.max}
        return {"type": self.type.value} | {name: value for name, value in limits.items() if value is not None}


def why_no_feature(column: SampleColumn, results: Sequence[Result | None]) -> str | None:
    """Why a column cannot be, or should not be, a feature; None when it may be one."""
    if not column.values:
        return "is empty"
    if column.is_nested:
        return "holds lists or objects"
    if len(column.counts) == 1 and column.missing_share < 0.02:
        return f"is always {next(iter(column.counts))[:40]}"
    if column.missing_share > 0.98:
        return f"is missing in {column.missing_share:.1%} of the rows"
    if column.are_moments or (not column.is_numeric and column.moment_share >= FITS):
        return "is an instant"
    if column.refused_share() > (1 - NUMERIC if column.is_numeric else 0):
        return "holds values of different types, and no type of feature takes them all"
    if column.key in FIXED_FIELDS or _is_known_afterwards(column):
        return "is known only after the task, by its name"
    left = unexplained_share(column, results)
    if left <= UNEXPLAINED:
        return f"tells the result ({1 - left:.0%} of the rarer one), so it was known only after the task"
    return _text_or_id(column)


def strata_of(columns: Mapping[str, SampleColumn]) -> list[str]:
    """The feature whose few common values split tasks into classes; none where no category has such values.

    Parameters
    ----------
    columns : mapping
        Feature to its column.
    """
    likely = []
    for name, column in columns.items():
        shares = [count / len(column.cells) for count in column.counts.values()]
        is_class = column.type is FeatureType.CATEGORY and 2 <= len(shares) <= MOST_STRATA
        if is_class and min(shares) >= LEAST_STRATUM and column.missing_share <= LEAST_STRATUM:
            likely.append((not column.words & CLASSES, name))
    return [min(likely)[1]] if likely else []


def _is_known_afterwards(column: SampleColumn) -> bool:
    is_code = "status" in column.words and bool(column.words & {"code", "http"})
    return (bool(column.words & AFTERWARDS) or is_code) and not column.words & HISTORY


def _text_or_id(column: SampleColumn) -> str | None:
    """Why a column's values are too many for a feature."""
    kind, rows = column.type, len(column.values)
    if kind is FeatureType.INTEGER and rows >= 20 and column.distinct_share > 0.95:
        is_rising = all(a <= b for a, b in zip(column.numbers, column.numbers[1:], strict=False))
        if is_rising or column.words & NAMES_OF_ONE:
            return "is a number that names each row"
    if kind is not FeatureType.CATEGORY:
        return None
    if column.mean_length > LONG_TEXT or column.longest > MAX_TEXT_LENGTH:
        return f"is free text of {column.mean_length:.0f} characters on average"
    if column.words & NAMES_OF_ONE and column.distinct_share > 0.3:
        return f"names single things: {len(column.counts):,} different values in {rows:,} rows"
    if len(column.counts) > MOST_CATEGORIES or (len(column.counts) > 20 and column.distinct_share > 0.3):
        return f"has too many values for a category: {len(column.counts):,} in {rows:,} rows"
    return None


def described(column: SampleColumn, kind: FeatureType) -> str:
    """What a feature's values are like, in a few words."""
    missing = f", missing in {column.missing_share:.0%}" if column.missing_share >= 0.005 else ""
    if kind in {FeatureType.NUMBER, FeatureType.INTEGER}:
        other = len(column.values) - len(column.numbers)
        odd = f"; {other:,} values are no number, and rows with them will be refused" if other else ""
        return f"{min(column.numbers):g} to {max(column.numbers):g}{missing}{odd}"
    return f"{len(column.counts)} values: {shown(column.counts)}{missing}"


def shown(counts: Counter[str], most: int = 4) -> str:
    """The commonest values, shortened."""
    values = [value if len(value) <= 30 else value[:27] + "..." for value, _ in counts.most_common(most)]
    return ", ".join(values) + (", ..." if len(counts) > most > 1 else "")


def config_name(name: str) -> str:
    """A name that a feature may have; empty when nothing of it can be used."""
    key = folded(name)
    return key[:63] if NAME.fullmatch(key[:63]) else f"x_{key}"[:63] if key else ""
