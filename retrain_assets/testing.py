"""What tests of workers need: a clock that stands still, a tiny model, and a database that serves it.

Holds fakes and factories; does not hold fixtures (each test suite has its own). Making a tiny model needs `onnx`,
which the platform extra brings; the rest works with the base install.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from retrain_assets.core.deployment import ModelVersion, Status
from retrain_assets.core.encoding import fit_columns
from retrain_assets.core.features import FeatureSchema
from retrain_assets.core.routing import Route
from retrain_assets.serving.artefact import INPUT_NAME, MANIFEST_FILE, MANIFEST_FORMAT, ONNX_FILE, OUTPUT_NAME
from retrain_assets.settings import Config
from retrain_assets.store import models, published, registry, schema
from retrain_assets.store.database import Database

START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
"""Where a `FakeClock` stands when nothing else is said: a Monday noon."""

SCORES = (0.8, 0.6, 0.4, 0.2)
"""P(success) that a tiny model gives the first actions of its problem; further ones get 0.1."""


class FakeClock:
    """A clock that moves only when told to; pass it wherever a `clock` is asked for.

    Parameters
    ----------
    start : datetime, optional
        Aware; default `START`.

    Examples
    --------
    >>> clock = FakeClock()
    >>> before = clock()
    >>> clock.advance(minutes=5) - before
    datetime.timedelta(seconds=300)
    """

    def __init__(self, start: datetime = START) -> None:
        self.set(start)

    def __call__(self) -> datetime:
        """As `now`."""
        return self._now

    def now(self) -> datetime:
        """The instant at which the clock stands, in UTC."""
        return self._now

    def set(self, instant: datetime) -> None:
        """Put the clock to an aware instant; also back."""
        if instant.tzinfo is None:
            raise ValueError(f"{instant!r} is naive; a clock tells aware instants")
        self._now = instant.astimezone(UTC)

    def advance(self, by: timedelta | None = None, **parts: float) -> datetime:
        """Move by a timedelta, or by `timedelta`'s keywords (`minutes=5`); the new instant."""
        self._now += (by or timedelta()) + timedelta(**parts)
        return self._now


def tiny_artefact(
    features: FeatureSchema, scores: Mapping[str, float] | None = None, *, shifts: str | None = None
) -> dict[str, bytes]:
    """The files of a model whose scores are chosen by hand.

    Parameters
    ----------
    features : FeatureSchema
        What it is said to be trained for.
    scores : mapping, optional
        Action to P(success), between 0 and 1 and neither; default `SCORES` in order.
    shifts : str, optional
        A number, integer or boolean feature that is added to the log-odds of every action. A task that
        lacks it gets NaN: a model that passes its self-test and then fails.

    Returns
    -------
    dict
        `model.onnx` and `manifest.json` as bytes.
    """
    chosen = dict(zip(features.actions, (*SCORES, *[0.1] * len(features.actions)), strict=False)) | dict(scores or {})
    onnx_bytes = _tiny_graph(features, [math.log(p / (1 - p)) for p in chosen.values()], shifts)
    manifest = {
        "format": MANIFEST_FORMAT,
        "estimator": "tiny",
        "schema": features.to_dict(),
        "schema_fingerprint": features.fingerprint,
        **fit_columns(features, {}, {}).to_dict(),
        "strata": list(features.strata),
        "calibration": {"method": "none", "slope": 1.0, "intercept": 0.0},
        "opset": {"": 17},
        "onnx_sha256": hashlib.sha256(onnx_bytes).hexdigest(),
        "probes": [
            {"features": _probe(features), "action": action, "score": score} for action, score in chosen.items()
        ],
        "parity": None,
        "training": {},
    }
    return {ONNX_FILE: onnx_bytes, MANIFEST_FILE: json.dumps(manifest, sort_keys=True).encode()}


@dataclass(frozen=True, slots=True)
class SeededDatabase:
    """A database with published settings, and the folder of its artefacts.

    Attributes
    ----------
    url : str
    problem_home : Path
    config : Config
    database : Database
    """

    url: str
    problem_home: Path
    config: Config
    database: Database

    def add_version(
        self,
        version: str,
        scores: Mapping[str, float] | None = None,
        *,
        status: Status = Status.STAGING,
        shifts: str | None = None,
        at: datetime = START,
    ) -> ModelVersion:
        """Register a tiny model under `version`; see `tiny_artefact`."""
        files = tiny_artefact(self.config.schema, scores, shifts=shifts)
        artefacts = {name: models.put(self.problem_home, name, content) for name, content in files.items()}
        model = ModelVersion(
            version=version,
            status=status,
            week="2025-12-28",
            dataset_hash="tiny",
            schema_version=self.config.schema.fingerprint,
            code_version="tiny",
            spec={"schema": self.config.schema.to_dict()},
            seed=0,
            parent_version=None,
            artefacts=artefacts,
            metrics={},
            report=None,
            run_id=None,
            created_at=at,
            training_id=f"tiny-{version}",
        )
        with self.database.write() as connection:
            registry.insert_version(connection, model)
        return model

    def set_route(self, **changes: Any) -> Route:  # noqa: ANN401  (the fields of `Route`)
        """Change fields of the route, as an operation would; the epoch rises by one."""
        with self.database.write() as connection:
            route = registry.get_route(connection, is_locked=True)
            return registry.set_route(connection, route, replace(route, **changes))


def seeded_database(
    database_url: str,
    problem_home: Path | str,
    *,
    config: Config | None = None,
    scores: Mapping[str, float] | None = None,
    production: str | None = "v1.0.0",
    at: datetime = START,
) -> SeededDatabase:
    """Make a database in which a tiny model serves.

    Parameters
    ----------
    database_url : str
        Of an empty database.
    problem_home : Path or str
        Where artefacts go. For SQLite, give the folder of its file: engines look there by themselves.
    config : Config, optional
        Default the shipped settings.
    scores : mapping, optional
        Of the model; see `tiny_artefact`.
    production : str or None
        The version that serves; None for a database without a model.
    at : datetime
        When all this was done.
    """
    seeded = SeededDatabase(database_url, Path(problem_home), config or Config(), Database(database_url))
    if seeded.database.is_sqlite:
        schema.create_if_empty(seeded.database)  # the same tables as by migration, at a fraction of the time
    else:
        schema.migrate(seeded.database)
    with seeded.database.write() as connection:
        published.publish(connection, seeded.config, at)
    if production is not None:
        seeded.add_version(production, scores, status=Status.PRODUCTION, at=at)
        seeded.set_route(production_version=production)
    return seeded


def _tiny_graph(features: FeatureSchema, log_odds: list[float], shifts: str | None) -> bytes:
    """A graph: sigmoid(log-odds of the row's action, plus one feature)."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    width, column = len(features.features) + 1, features.names.index(shifts) if shifts else 0
    constants: dict[str, np.ndarray] = {
        "action_column": np.array([width - 1], dtype=np.int64),
        "shift_column": np.array([column], dtype=np.int64),
        "codes": np.arange(len(log_odds), dtype=np.float32)[None, :],
        "log_odds_of": np.array(log_odds, dtype=np.float32)[:, None],
    }
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Gather", [INPUT_NAME, "action_column"], "action", {"axis": 1}),
        ("Equal", ["action", "codes"], "is_action", {}),
        ("Cast", ["is_action"], "one_hot", {"to": TensorProto.FLOAT}),
        ("MatMul", ["one_hot", "log_odds_of"], "log_odds", {}),
    ]
    if shifts:
        steps += [
            ("Gather", [INPUT_NAME, "shift_column"], "shift", {"axis": 1}),
            ("Add", ["log_odds", "shift"], "shifted", {}),
        ]
    nodes = [helper.make_node(kind, inputs, [output], **settings) for kind, inputs, output, settings in steps]
    nodes.append(helper.make_node("Sigmoid", ["shifted" if shifts else "log_odds"], [OUTPUT_NAME]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if shifts or name != "shift_column"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString(deterministic=True))


def _probe(features: FeatureSchema) -> dict[str, Any]:
    """A task with every feature at zero, which leaves the scores as they were chosen."""
    zero: dict[str, Any] = {"number": 0.0, "integer": 0, "boolean": False, "category": "a"}
    return {feature.name: zero[feature.type.value] for feature in features.features}
