"""What a sample of rows looked like, small enough to be stored with a model and compared years later.

Holds the profile of each feature (quantiles of numbers, counts of categories, missing values) and of the labels, and
its JSON form; does not hold the comparison of two samples (`core/drift.py`). A profile never grows with the rows: a
number keeps at most 201 points, a category at most 10,000 names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retrain_assets.core.dataset import FEATURE_PREFIX
from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.errors import SchemaError

if TYPE_CHECKING:
    import pandas as pd

QUANTILES = 200
"""Steps of a number's sketch. Between two neighbouring points lies less than 1/200 of the rows, so a
Kolmogorov-Smirnov distance read from the points is at most 0.005 below the exact one, and never above it."""
MAX_CATEGORIES = 10_000
"""Names of one feature that a profile keeps, the most frequent ones: as many as a model has codes for."""
FORMAT = 1
NUMERIC = frozenset({FeatureType.NUMBER, FeatureType.INTEGER})

Counts = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class SortedValues:
    """The finite values of one number, all of them: what rows at hand are compared with.

    Attributes
    ----------
    ascending : ndarray of float64, shape (rows - missing,)
    rows, missing : int
    """

    ascending: np.ndarray
    rows: int
    missing: int

    @property
    def present(self) -> int:
        """Rows with a value."""
        return self.rows - self.missing

    def count_at(self, points: np.ndarray) -> Counts:
        """Rows with a value below each point, and with one up to it; two float arrays of the points' shape."""
        below = np.searchsorted(self.ascending, points, side="left")
        up_to = np.searchsorted(self.ascending, points, side="right")
        return below.astype(np.float64), up_to.astype(np.float64)


@dataclass(frozen=True, slots=True)
class NumberProfile:
    """A number or integer: its quantiles with the exact number of rows below and up to each.

    Attributes
    ----------
    rows, missing : int
        All rows, and those without a finite value.
    points : tuple of float
        Distinct values at the quantiles 0, 1/200, ..., 1, ascending; with at most 200 rows every distinct value.
    below, up_to : tuple of int
        Rows with a value below the point, and not above it.
    """

    rows: int
    missing: int
    points: tuple[float, ...]
    below: tuple[int, ...]
    up_to: tuple[int, ...]

    @classmethod
    def of(cls, sample: SortedValues) -> NumberProfile:
        """Sketch a sample: quantiles by the inverse of the empirical distribution, so that each is a value seen."""
        present = sample.present
        steps = -(-np.arange(QUANTILES + 1) * present // QUANTILES) - 1  # ceil(k n / 200) - 1
        points = np.unique(sample.ascending[np.maximum(steps, 0)]) if present else np.empty(0)
        below, up_to = (counts.astype(int).tolist() for counts in sample.count_at(points))
        return cls(sample.rows, sample.missing, tuple(points.tolist()), tuple(below), tuple(up_to))

    @property
    def present(self) -> int:
        """Rows with a value."""
        return self.rows - self.missing

    def count_at(self, points: np.ndarray) -> Counts:
        """Like `SortedValues.count_at`: exact at the sketch's own points.

        Between two of them the count is taken to be in the middle, wrong by at most 1/400 of the rows.
        """
        if not self.points:
            return np.zeros(len(points)), np.zeros(len(points))
        below, up_to = (np.asarray(counts, dtype=np.float64) for counts in (self.below, self.up_to))
        left = np.searchsorted(self.points, points, side="left")
        right = np.searchsorted(self.points, points, side="right")
        hit = right > left
        between = (np.append(0.0, up_to)[left] + np.append(below, up_to[-1])[left]) / 2
        at = np.minimum(left, len(below) - 1)
        return np.where(hit, below[at], between), np.where(hit, up_to[at], between)


@dataclass(frozen=True, slots=True)
class CategoryProfile:
    """A category or boolean: how often each value was seen.

    Attributes
    ----------
    rows, missing : int
    counts : tuple of (str, int)
        Most frequent first, equal ones by name.
    beyond : int
        Rows of the values that were left out because there were more than `MAX_CATEGORIES`.
    """

    rows: int
    missing: int
    counts: tuple[tuple[str, int], ...]
    beyond: int = 0

    @property
    def present(self) -> int:
        """Rows with a value."""
        return self.rows - self.missing

    def bounded(self) -> CategoryProfile:
        """The same with at most `MAX_CATEGORIES` names."""
        dropped = sum(count for _, count in self.counts[MAX_CATEGORIES:])
        return CategoryProfile(self.rows, self.missing, self.counts[:MAX_CATEGORIES], self.beyond + dropped)


FeatureProfile = NumberProfile | CategoryProfile
Sample = NumberProfile | SortedValues | CategoryProfile


@dataclass(frozen=True, slots=True)
class ActionCount:
    """Rows of one action and the successes among them."""

    action: str
    rows: int
    successes: int


@dataclass(frozen=True, slots=True)
class Profile:
    """A sample's features and labels; JSON round-trips exactly.

    Attributes
    ----------
    rows : int
    features : mapping
        Feature name to its profile.
    types : mapping
        Feature name to its type when the profile was taken.
    actions : tuple of ActionCount
        By name; empty when the rows had no `action` and `result`.
    """

    rows: int
    features: Mapping[str, FeatureProfile]
    types: Mapping[str, FeatureType]
    actions: tuple[ActionCount, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able; `from_dict` is its inverse."""
        return {
            "format": FORMAT,
            "rows": self.rows,
            "features": {name: _feature_dict(self.types[name], kept) for name, kept in self.features.items()},
            "actions": {item.action: [item.rows, item.successes] for item in self.actions},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Profile:
        """Read what `to_dict` wrote.

        Raises
        ------
        ValueError
            When a newer version wrote it.
        """
        if data.get("format") != FORMAT:
            raise ValueError(f"the drift profile has format {data.get('format')!r}, this version reads {FORMAT}")
        return cls(
            rows=data["rows"],
            features={name: _read_feature(item) for name, item in data["features"].items()},
            types={name: FeatureType(item["type"]) for name, item in data["features"].items()},
            actions=tuple(ActionCount(action, *counts) for action, counts in data["actions"].items()),
        )


def profile(rows: pd.DataFrame, schema: FeatureSchema) -> Profile:
    """Summarise rows once, so that later weeks are compared without them.

    Parameters
    ----------
    rows : DataFrame
        `feature_<name>` (or `<name>`) for each feature; an absent column is all missing. With `action` and `result`
        the labels are counted too.
    schema : FeatureSchema

    Raises
    ------
    SchemaError
        Names the feature that holds a value of a wrong type.
    """
    kept: dict[str, FeatureProfile] = {}
    for feature in schema.features:
        sample = read_sample(rows, feature)
        match sample:
            case SortedValues():
                kept[feature.name] = NumberProfile.of(sample)
            case CategoryProfile():
                kept[feature.name] = sample.bounded()
    return Profile(len(rows), kept, {f.name: f.type for f in schema.features}, count_actions(rows))


def read_sample(rows: pd.DataFrame, feature: Feature) -> SortedValues | CategoryProfile:
    """One feature of rows at hand, complete: no sketch, no bound on names.

    A value that is not finite counts as missing.

    Raises
    ------
    SchemaError
        When a value is of a wrong type.
    """
    series = next((rows[name] for name in (FEATURE_PREFIX + feature.name, feature.name) if name in rows.columns), None)
    if series is None:
        # Rows older than a feature have no such column: they do not know the value.
        empty = SortedValues(np.empty(0), len(rows), len(rows))
        return empty if feature.type in NUMERIC else CategoryProfile(len(rows), len(rows), ())
    if feature.type not in NUMERIC:
        return _count_values(series, feature)
    try:
        values = np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    except (TypeError, ValueError) as error:
        raise SchemaError(feature.name, f"holds a value that is not a number: {error}") from None
    finite = np.sort(values[np.isfinite(values)])
    return SortedValues(finite, len(values), len(values) - len(finite))


def count_actions(rows: pd.DataFrame) -> tuple[ActionCount, ...]:
    """Rows and successes of each action, by name; empty without the columns `action` and `result`."""
    import pandas as pd

    if "action" not in rows.columns or "result" not in rows.columns:
        return ()
    codes, names = pd.factorize(rows["action"])
    texts = [*(str(name) for name in names), "missing"]
    codes = np.where(codes < 0, len(names), codes)
    success = (rows["result"] == "success").to_numpy(dtype=bool, na_value=False)
    totals, good = (np.bincount(part, minlength=len(texts)) for part in (codes, codes[success]))
    found = [ActionCount(text, int(n), int(s)) for text, n, s in zip(texts, totals, good, strict=True) if n]
    return tuple(sorted(found, key=lambda item: item.action))


def _count_values(series: pd.Series, feature: Feature) -> CategoryProfile:
    """Counts of each value as the collector would read it; a closed list and `required` are the collector's to hold."""
    import pandas as pd

    reader = Feature(feature.name, feature.type)
    codes, distinct = pd.factorize(series)
    totals = np.bincount(codes + 1, minlength=len(distinct) + 1)
    found: dict[str, int] = {}
    for value, count in zip(distinct, totals[1:].tolist(), strict=True):
        read = reader.read(value.item() if isinstance(value, np.generic) else value)
        if read is not None:
            text = str(read).lower() if feature.type is FeatureType.BOOLEAN else str(read)
            found[text] = found.get(text, 0) + count
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return CategoryProfile(len(series), len(series) - sum(found.values()), tuple(ordered))


def _feature_dict(kind: FeatureType, kept: FeatureProfile) -> dict[str, Any]:
    base = {"type": kind.value, "rows": kept.rows, "missing": kept.missing}
    if isinstance(kept, CategoryProfile):
        return {**base, "counts": [list(pair) for pair in kept.counts], "beyond": kept.beyond}
    return {**base, "points": list(kept.points), "below": list(kept.below), "up_to": list(kept.up_to)}


def _read_feature(data: Mapping[str, Any]) -> FeatureProfile:
    if FeatureType(data["type"]) in NUMERIC:
        points, below, up_to = (tuple(data[name]) for name in ("points", "below", "up_to"))
        if not all(math.isfinite(point) for point in points) or not len(points) == len(below) == len(up_to):
            raise ValueError("the drift profile of a number needs finite points with one count each")
        return NumberProfile(data["rows"], data["missing"], points, below, up_to)
    counts = tuple((name, count) for name, count in data["counts"])
    return CategoryProfile(data["rows"], data["missing"], counts, data["beyond"])
