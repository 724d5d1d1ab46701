"""What a column of a sampled log is like: its values, its type, its range, and whether it tells the result.

Holds the measures that an inference weighs; does not hold the inference (`core/inference.py`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property, lru_cache
from typing import Any

from retrain_assets.core.cells import is_missing_text, plain_value, read_moment, read_result_word, with_decimal_point
from retrain_assets.core.columns import folded
from retrain_assets.core.features import Feature, FeatureType
from retrain_assets.core.outcome_values import unknown_column
from retrain_assets.core.outcomes import Result, is_absent
from retrain_assets.errors import SchemaError

FITS = 0.95
"""Share of a column's values that must be readable as what it is taken for."""
NUMERIC = 0.98
"""The same for numbers: rows with other values will be refused."""
MOST_CATEGORIES = 200
LONG_TEXT = 80
"""Characters, on average, above which text is taken for prose."""
LEAST_FOR_A_RANGE = 50
"""Values below which no range is guessed."""
LEAST_FOR_A_LEAK = 20
"""Rows of the rarer result below which nothing is said about what tells the result."""
UNEXPLAINED = 0.05
"""A column that leaves less of the rarer result unexplained than this share knew it, and did not foretell it."""

_NUMERIC = frozenset({FeatureType.NUMBER, FeatureType.INTEGER})
_BOOLEANS = frozenset({"true", "false", "yes", "no", "y", "n", "t", "f", "0", "1"})
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[+-]?0[0-9]+")
_DECIMAL_COMMA = re.compile(
    r"[+-]?[0-9]+,(?:[0-9]{1,2}|[0-9]{4,})|[+-]?0,[0-9]{3}|[+-]?[1-9][0-9]{0,2}(?:\.[0-9]{3})+,[0-9]+"
)
_DECIMAL_POINT = re.compile(r"[+-]?(?![1-9][0-9]{0,2}(?:\.[0-9]{3})+$)[0-9]+\.[0-9]+")
"""`1.477` may be a number of thousands, and says nothing."""
_ANY_TEXT = Feature("any", FeatureType.CATEGORY)
_UNSAID = timezone(timedelta(), "unsaid")  # stands where a text has no offset


@dataclass(frozen=True)
class Sample:
    """Some rows of a log.

    Attributes
    ----------
    columns : tuple of str
    rows : sequence of mapping
        With nested objects laid flat, and the members of a column `features` beside the others.
    total : int
        Rows of the whole log.
    is_text : bool
        Whether every value is text, as in CSV.
    inner : frozenset of str
        Columns that are members of the column `features`.
    """

    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    total: int
    is_text: bool
    inner: frozenset[str] = frozenset()


@dataclass(frozen=True)
class SampleColumn:
    """One column of a sample.

    Attributes
    ----------
    name : str
    cells : sequence
        One for each row; None where it is missing.
    decimal : str
        What stands before the decimals of its numbers.
    """

    name: str
    cells: Sequence[Any]
    decimal: str = "."

    @cached_property
    def key(self) -> str:
        """Its name in lower case with `_` between words."""
        return folded(self.name)

    @cached_property
    def words(self) -> frozenset[str]:
        """The words of its name."""
        return frozenset(self.key.split("_"))

    @cached_property
    def values(self) -> list[Any]:
        """The values that are not missing."""
        return [cell for cell in self.cells if cell is not None]

    @property
    def missing_share(self) -> float:
        """Share of rows without a value, 0 to 1."""
        return 1 - len(self.values) / len(self.cells) if self.cells else 1.0

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each value comes, as text."""
        return Counter(str(value).strip() for value in self.values)

    @property
    def distinct_share(self) -> float:
        """Different values for each value, above 0 to 1."""
        return len(self.counts) / max(len(self.values), 1)

    @cached_property
    def results(self) -> list[Result | None]:
        """What each cell is as a result; None where it is none, or missing."""
        known: dict[Any, Result | None] = {}
        return [
            None if cell is None else known.setdefault((type(cell), str(cell)), _result(cell)) for cell in self.cells
        ]

    @property
    def result_share(self) -> float:
        """Share of the values that are a result."""
        return sum(result is not None for result in self.results) / max(len(self.values), 1)

    @cached_property
    def moments(self) -> list[datetime]:
        """The values that are instants, those without an offset naive."""
        moments = (read_moment(value, _UNSAID) for value in self.values)
        found = [moment for moment in moments if isinstance(moment, datetime)]
        return [moment.replace(tzinfo=None) if moment.tzinfo is _UNSAID else moment for moment in found]

    @property
    def are_moments(self) -> bool:
        """Whether nearly all values are instants that a log may have; some instant or other is any large number."""
        return sum(2000 <= moment.year < 2100 for moment in self.moments) >= FITS * max(len(self.values), 1)

    @property
    def moment_share(self) -> float:
        """Share of the values that are instants."""
        return len(self.moments) / max(len(self.values), 1)

    @cached_property
    def numbers(self) -> list[float]:
        """The values that are finite numbers; booleans are none."""
        found = (self.number(value) for value in self.values)
        return [number for number in found if number is not None]

    @property
    def is_boolean(self) -> bool:
        """Whether every value is a yes or a no."""
        return bool(self.values) and all(text.casefold() in _BOOLEANS for text in self.counts)

    @property
    def is_coded(self) -> bool:
        """Whether digits are a code: `01067` would lose its zero as a number."""
        return any(_LEADING_ZERO.fullmatch(text) for text in self.counts)

    @property
    def is_numeric(self) -> bool:
        """Whether nearly every value is a number and none is a code."""
        return bool(self.values) and not self.is_coded and len(self.numbers) >= NUMERIC * len(self.values)

    @property
    def is_nested(self) -> bool:
        """Whether it holds lists, bytes or the like."""
        return any(not isinstance(value, str | int | float | bool) for value in self.values)

    @property
    def is_mixed(self) -> bool:
        """Whether texts, numbers and booleans stand side by side."""
        kinds = {bool if isinstance(value, bool) else str if isinstance(value, str) else float for value in self.values}
        return len(kinds) > 1

    @cached_property
    def mean_length(self) -> float:
        """Characters of a value, on average."""
        return sum(len(str(value)) for value in self.values) / max(len(self.values), 1)

    @cached_property
    def longest(self) -> int:
        """Characters of the longest value."""
        return max((len(str(value)) for value in self.values), default=0)

    def number(self, value: Any) -> float | None:  # noqa: ANN401  (whatever a file holds)
        """A value as a finite number; None where it is none."""
        if isinstance(value, bool):
            return None
        if isinstance(value, str):
            text = with_decimal_point(value.strip()) if self.decimal == "," else value.strip()
            if not _NUMBER.fullmatch(text):
                return None
            value = text
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            return None
        return number if math.isfinite(number) else None

    @property
    def type(self) -> FeatureType:
        """The type that a feature of these values has."""
        if self.is_boolean:
            return FeatureType.BOOLEAN
        if not self.is_numeric:
            return FeatureType.CATEGORY
        is_whole = all(number.is_integer() for number in self.numbers)
        return FeatureType.INTEGER if is_whole else FeatureType.NUMBER

    def refused_share(self) -> float:
        """Share of the values that a feature of this type would refuse, its limits aside."""
        feature = Feature(self.name, self.type)
        sign = with_decimal_point if self.decimal == "," and feature.type in _NUMERIC else str
        refused = 0
        for value in self.values:
            try:
                feature.read(sign(value) if isinstance(value, str) else value)
            except SchemaError:
                refused += 1
        return refused / max(len(self.values), 1)

    def is_refused_beside(self) -> bool:
        """Whether the door would refuse a row for one of the values, although the column is no feature."""
        for value in self.values:
            try:
                unknown_column(self.name, value)
            except SchemaError:
                return True
        return False

    def range(self) -> tuple[float | None, float | None]:
        """Limits wide enough for what was not sampled: zero, and round numbers twice (ten times for long tails) as far.

        Returns
        -------
        low, high : float or None
            None for both with fewer than `LEAST_FOR_A_RANGE` values.
        """
        numbers = sorted(self.numbers)
        if len(numbers) < LEAST_FOR_A_RANGE:
            return None, None
        return -_beyond([-number for number in reversed(numbers)]) if numbers[0] < 0 else 0.0, _beyond(numbers)


def column_of(sample: Sample, name: str, decimal: str = ".") -> SampleColumn:
    """One column of a sample; texts that mean a missing value are missing."""
    return SampleColumn(name, [_cell(row.get(name), is_text=sample.is_text) for row in sample.rows], decimal)


def has_decimal_comma(columns: Sequence[SampleColumn]) -> bool:
    """Whether numbers are written with a decimal comma: some are, and ten times as many as with a point."""
    texts = [text for column in columns for text in column.counts]
    commas = sum(bool(_DECIMAL_COMMA.fullmatch(text)) for text in texts)
    points = sum(bool(_DECIMAL_POINT.fullmatch(text)) for text in texts)
    return commas > 0 and commas >= 10 * points


def unexplained_share(column: SampleColumn, results: Sequence[Result | None]) -> float:
    """Share of the rarer result that the best guess from this column alone still gets wrong, 0 to about 1.

    The guess is the commoner result of each value (of at least five rows), of present or missing, or on each side of
    the best threshold of a number. 1.0 where there is too little to tell.
    """
    rows = [(cell, result is Result.SUCCESS) for cell, result in zip(column.cells, results, strict=True) if result]
    rarer = min(sum(good for _, good in rows), sum(not good for _, good in rows))
    if rarer < LEAST_FOR_A_LEAK:
        return 1.0
    wrong = [_wrong_by_group([cell is None for cell, _ in rows], rows)]
    if len(column.counts) <= 50:
        wrong.append(_wrong_by_group([str(cell).strip() for cell, _ in rows], rows))
    if column.is_numeric:
        wrong.append(_wrong_by_threshold([(column.number(cell), good) for cell, good in rows]))
    return min(wrong) / rarer


def _wrong_by_group(groups: Sequence[Any], rows: Sequence[tuple[Any, bool]]) -> int:
    goods: Counter[Any] = Counter()
    sizes: Counter[Any] = Counter(groups)
    for group, (_, good) in zip(groups, rows, strict=True):
        goods[group] += good
    # A value of one or two rows always knows their result, and says nothing.
    return sum(min(goods[group], size - goods[group]) if size >= 5 else size for group, size in sizes.items())


def _wrong_by_threshold(pairs: Sequence[tuple[float | None, bool]]) -> int:
    known = sorted((number, good) for number, good in pairs if number is not None)
    absent_goods = [good for number, good in pairs if number is None]
    absent = min(sum(absent_goods), len(absent_goods) - sum(absent_goods))
    goods, size = sum(good for _, good in known), len(known)
    best, below = min(goods, size - goods), 0
    for count, (number, good) in enumerate(known, start=1):
        below += good
        if count == size or known[count][0] != number:
            wrong_if_low_is_good = (count - below) + (goods - below)
            best = min(best, wrong_if_low_is_good, size - wrong_if_low_is_good)
    return best + absent


def _cell(value: Any, *, is_text: bool) -> Any:  # noqa: ANN401  (whatever a file holds)
    if is_text and (value is None or is_missing_text(value)):
        return None
    if is_absent(value) or (isinstance(value, str) and _is_missing_at_the_door(value)):
        return None
    return value if is_text else plain_value(value)


@lru_cache(maxsize=10_000)
def _is_missing_at_the_door(text: str) -> bool:
    """Whether a feature's text means that there is none: `N/A`, `null` and the like."""
    if len(text) > LONG_TEXT:
        return False
    try:
        return _ANY_TEXT.read(text) is None
    except SchemaError:
        return False


def _result(cell: Any) -> Result | None:  # noqa: ANN401  (whatever a file holds)
    if isinstance(cell, bool):
        return Result.SUCCESS if cell else Result.FAILURE
    found = read_result_word(cell)
    return found if isinstance(found, Result) else None


def _beyond(ordered: Sequence[float]) -> float:
    """A round number well above the largest of rising numbers."""
    largest = ordered[-1]
    if largest <= 0:
        return 0.0
    usual = ordered[int(0.9 * (len(ordered) - 1))]
    wide = largest * (10 if largest > 5 * max(usual, 0.0) else 2)
    power = 10 ** math.floor(math.log10(wide))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= wide))
