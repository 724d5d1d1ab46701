"""One answer of the engine, and what the decision log keeps of it.

Holds the public `Decision` and its translation into a row of the log; does not hold how a decision is made
(`engine.py`) or written (`decision_log.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from retrain_assets.core.features import Feature, FeatureSchema, FeatureType, FeatureValue
from retrain_assets.errors import SchemaError
from retrain_assets.store import decision_rows
from retrain_assets.store.decision_rows import Row

MAX_REMEMBERED = 4_096
"""Category texts whose reading is remembered, per feature."""

Reader = Callable[[Any], FeatureValue]

_USUAL: dict[FeatureType, type] = {FeatureType.NUMBER: float, FeatureType.INTEGER: int, FeatureType.BOOLEAN: bool}
"""The class of a value that needs no reading; a category is looked up instead."""


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the engine answered for one task.

    Attributes
    ----------
    decision_id : str
        Hand it to `FeedbackCollector.append_outcome`.
    task_id : str
    action : str
        What to do.
    scores : dict
        Action to calibrated P(success), best first; empty when no model answered.
    propensity : float
        Probability with which `action` was chosen.
    model_version : str or None
        The version that answered; None for the default action.
    arm : str
        `production`, `canary`, `holdback` or `fallback`: which side answered.
    assigned_arm : str
        Which side the task belongs to, whoever answered.
    latency_ms : float
    attempt, domain, features, actions
        What was asked; `actions` are the candidates.
    decided_at, deadline_at : datetime
        The deadline is when a task without an outcome counts as failed.
    share : float
        Of tasks for the model on trial when this was decided; 0 without one.
    rollout_id : str or None
        The trial during which it was decided.
    error : str or None
        Why the assigned arm did not answer.
    """

    decision_id: str
    task_id: str
    action: str
    scores: dict[str, float]
    propensity: float
    model_version: str | None
    arm: str
    assigned_arm: str
    latency_ms: float
    attempt: int
    domain: str | None
    features: dict[str, Any]
    actions: tuple[str, ...]
    decided_at: datetime
    deadline_at: datetime
    share: float
    rollout_id: str | None
    error: str | None


class Recorder:
    """Turns decisions into rows of the log under one feature schema.

    Features are kept in their schema's type, since what a worker sends ("12", numpy numbers) need not be what training
    reads; a value that does not fit is kept as it came, for the log never refuses what was decided. Limits are the
    collector's business.

    Parameters
    ----------
    schema : FeatureSchema
    is_keeping_unknown : bool
        Also keep plain values of names that the schema does not have.
    """

    __slots__ = ("_is_keeping_unknown", "_names", "_readers", "_schema")

    def __init__(self, schema: FeatureSchema, *, is_keeping_unknown: bool) -> None:
        self._schema = schema
        self._names = frozenset(schema.names)
        self._readers = [(feature.name, _USUAL.get(feature.type), _reader(feature)) for feature in schema.features]
        self._is_keeping_unknown = is_keeping_unknown

    def features(self, given: Mapping[str, Any]) -> dict[str, FeatureValue]:
        """The values to keep; missing ones are left out."""
        kept: dict[str, FeatureValue] = {}
        for name, usual, read in self._readers:
            value: Any = given.get(name)
            if value is None:
                continue
            # What has its type already is kept as it is; less itself only a finite number gives 0.
            is_usual = value.__class__ is usual
            if (is_usual and value - value == 0) or (value := read(value)) is not None:
                kept[name] = value
        if self._is_keeping_unknown and not given.keys() <= self._names:
            for name, value in given.items():
                if name not in self._names and (plain := _plain(value)) is not None:
                    kept[str(name)] = plain
        return kept

    def row(self, decision: Decision) -> Row:
        """The log's row of one decision."""
        features = self.features(decision.features)
        return decision_rows.encode(decision, features, self._schema.stratum(features))


def _reader(declared: Feature) -> Reader:
    """Read a value in the feature's type, without limits; one that does not fit comes back plain, or as None."""
    feature = Feature(declared.name, declared.type)

    def read(value: Any) -> FeatureValue:  # noqa: ANN401  (a worker sends whatever it has)
        try:
            return feature.read(value)
        except SchemaError:
            return _plain(value)

    return _remembering(read) if declared.type is FeatureType.CATEGORY else read


def _remembering(read: Reader) -> Reader:
    """Categories repeat: the reading of a text is looked up instead of done again."""
    known: dict[str, FeatureValue] = {}

    def remembered(value: Any) -> FeatureValue:  # noqa: ANN401  (see `_reader`)
        if value.__class__ is not str:
            return read(value)
        if value not in known:
            if len(known) >= MAX_REMEMBERED:
                known.clear()
            known[value] = read(value)
        return known[value]

    return remembered


def _plain(value: Any) -> FeatureValue:  # noqa: ANN401  (see `_reader`)
    """The value if JSON can hold it and it says something; else None."""
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return None
