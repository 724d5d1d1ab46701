"""Rows made to test a model with: the manifest's probes and the hard rows of the parity gate.

Holds the making of raw rows from a fitted pipeline; does not hold scoring or judging (`core/model.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from retrain_assets.core.encoding import FLOAT32_MAX, ColumnEncoding, Encoding
from retrain_assets.core.features import Feature, FeatureType
from retrain_assets.core.pipeline import FEATURE_PREFIX, SuccessPipeline

PROBES = 16
UNSEEN = "\u00fcnseen \u2603"
"""A category that no data holds, outside ASCII on purpose."""
_EXTREMES = (0.0, -0.0, 1e-45, -1e-45, 1e30, -1e30, FLOAT32_MAX, -FLOAT32_MAX, 1e300, -1e300)


def rows_frame(encoding: Encoding, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Raw rows as the frame that training reads: `feature_<name>` columns and `action`."""
    columns: dict[str, Any] = {
        FEATURE_PREFIX + column.name: pd.Series([row.get(column.name) for row in rows], dtype=object)
        for column in encoding.columns
    }
    return pd.DataFrame({**columns, "action": pd.Series([row["action"] for row in rows], dtype=object)})


def probe_rows(encoding: Encoding, rows: pd.DataFrame, count: int = PROBES) -> list[dict[str, Any]]:
    """`count` raw rows that touch every action: most from the data, four made up.

    Parameters
    ----------
    encoding : Encoding
    rows : DataFrame
        Raw rows to pick from, evenly over time.
    count : int, default 16

    Returns
    -------
    list of dict
        Feature values, JSON-able, and "action".
    """
    spread = np.linspace(0, len(rows) - 1, num=max(count - 4, 1))
    positions = np.unique(spread[spread >= 0].astype(int))
    picked = rows.iloc[positions]
    readers = [(column, _plain_reader(column), _find(picked, column.name)) for column in encoding.columns]
    probes = [
        {column.name: read(None if series is None else series.iloc[position]) for column, read, series in readers}
        for position in range(len(picked))
    ]
    probes += [
        {column.name: _made_up(column, kind) for column in encoding.columns}
        for kind in ("missing", "unseen", "low", "high")
    ]
    for position, probe in enumerate(probes):
        for column in encoding.columns:
            if column.required and probe[column.name] is None:
                probe[column.name] = _made_up(column, "low")
        probe["action"] = encoding.actions[position % len(encoding.actions)]
    return probes


def hard_rows(pipeline: SuccessPipeline, count: int, seed: int) -> list[dict[str, Any]]:
    """Rows on which a converted model is likeliest to differ.

    Each value is drawn from: the range seen in training, its ends and the schema's, the trees' own
    thresholds and the float32 values beside them, zeros, denormals, extremes, unseen and known categories, and
    missing.

    Parameters
    ----------
    pipeline : SuccessPipeline
    count : int
    seed : int

    Returns
    -------
    list of dict
        Feature values by name, and "action".
    """
    rng = np.random.default_rng(seed)
    encoding = pipeline.encoding
    thresholds = _thresholds(pipeline)
    values = [
        _hard_values(column, thresholds.get(position, np.zeros(0)), count, rng)
        for position, column in enumerate(encoding.columns)
    ]
    actions = rng.integers(0, len(encoding.actions), count)
    names = [column.name for column in encoding.columns]
    return [
        {**dict(zip(names, row, strict=True)), "action": encoding.actions[action]}
        for row, action in zip(zip(*values, strict=True) if values else [()] * count, actions, strict=True)
    ]


def _hard_values(column: ColumnEncoding, thresholds: np.ndarray, count: int, rng: np.random.Generator) -> list[Any]:
    if column.type is FeatureType.CATEGORY:
        choices: list[Any] = [*(column.categories or ()), UNSEEN, UNSEEN + "2"]
        values = [choices[index] for index in rng.integers(0, len(choices), count)]
    elif column.type is FeatureType.BOOLEAN:
        values = (rng.random(count) < 0.5).tolist()
    else:
        values = _hard_numbers(column, thresholds, count, rng)
    if column.required:
        return values
    missing = rng.random(count) < 0.15
    return [None if gone else value for gone, value in zip(missing, values, strict=True)]


def _hard_numbers(column: ColumnEncoding, thresholds: np.ndarray, count: int, rng: np.random.Generator) -> list[Any]:
    low, high = _low(column), _high(column)
    below = thresholds.astype(np.float32)
    neighbours = [np.nextafter(below, np.float32(end)).astype(np.float64) for end in (-np.inf, np.inf)]
    special = np.concatenate([thresholds, below.astype(np.float64), *neighbours, [low, high, low - 1, high + 1]])
    special = np.concatenate([special[np.isfinite(special)], _EXTREMES])
    usual = rng.uniform(max(low, -1e30), min(high, 1e30), count)
    values = np.where(rng.random(count) < 0.5, usual, rng.choice(special, count))
    if column.type is FeatureType.INTEGER:
        return [int(value) for value in np.round(values)]
    return list(values.tolist())


def _thresholds(pipeline: SuccessPipeline) -> dict[int, np.ndarray]:
    """Input column to the distinct thresholds of its splits, where the estimator knows any."""
    thresholds = getattr(pipeline.estimator, "thresholds", dict)
    return dict(thresholds())


def _low(column: ColumnEncoding) -> float:
    found = [limit for limit in (column.observed_min, column.min) if limit is not None]
    return min(found, default=0.0)


def _high(column: ColumnEncoding) -> float:
    found = [limit for limit in (column.observed_max, column.max) if limit is not None]
    return max(found, default=1.0)


def _made_up(column: ColumnEncoding, kind: str) -> Any:  # noqa: ANN401  (a raw value of any feature type)
    if kind == "missing":
        return None
    if column.type is FeatureType.CATEGORY:
        categories = column.categories or (UNSEEN,)
        return {"unseen": UNSEEN, "low": categories[0], "high": categories[-1]}[kind]
    if column.type is FeatureType.BOOLEAN:
        return kind == "high"
    number = {"unseen": _high(column) + 1, "low": _low(column), "high": _high(column)}[kind]
    return int(number) if column.type is FeatureType.INTEGER else number


def _find(rows: pd.DataFrame, name: str) -> pd.Series | None:
    for candidate in (FEATURE_PREFIX + name, name):
        if candidate in rows.columns:
            return rows[candidate]
    return None


def _plain_reader(column: ColumnEncoding) -> Any:  # noqa: ANN401  (a function of any raw value)
    feature = Feature(column.name, column.type)

    def read(value: Any) -> Any:  # noqa: ANN401  (a raw value of any feature type)
        if value is None or value is pd.NA or value is pd.NaT:
            return None
        return feature.read(value.item() if isinstance(value, np.generic) else value)

    return read
