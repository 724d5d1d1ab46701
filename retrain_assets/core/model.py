"""From a trained model to the artefact that engines load; also the one place to import training from.

Holds the manifest, the parity gate, the packing of an artefact and the check of a pickled pipeline, and offers
`train` and its spec; does not hold the training itself (`core/training.py`), the ONNX graph (`core/conversion.py`),
its scoring (`serving/artefact.py`) or files. Everything here is a function of its
arguments: the same rows, spec and library versions give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import joblib
import numpy as np

from retrain_assets.core.conversion import OPSET, convert
from retrain_assets.core.estimators import BoostedTrees
from retrain_assets.core.model_settings import PARAMS
from retrain_assets.core.pipeline import SuccessPipeline
from retrain_assets.core.probes import hard_rows, rows_frame
from retrain_assets.core.search import SearchPlan
from retrain_assets.core.training import MODES, TrainedModel, TrainSpec, train
from retrain_assets.core.user_estimator import UserEstimator, state_bytes
from retrain_assets.errors import ArtefactRefused

__all__ = [
    "MODES",
    "PARAMS",
    "PARITY_LIMIT",
    "PARITY_ROWS",
    "PackedModel",
    "ParityResult",
    "SearchPlan",
    "SuccessPipeline",
    "TrainSpec",
    "TrainedModel",
    "canonical_json",
    "fitted_digest",
    "manifest",
    "pack",
    "parity",
    "pipeline_bytes",
    "pipeline_from_bytes",
    "to_onnx",
    "train",
]

MANIFEST_FORMAT = 1
PARITY_LIMIT = 1e-5
"""Largest accepted difference between pipeline and engine on any row."""
PARITY_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class ParityResult:
    """How far engine and pipeline differ at most.

    Attributes
    ----------
    max_abs_difference : float
        Of P(success); NaN when the engine answered NaN.
    rows : int
    limit : float
    seed : int
        Of the rows.
    """

    max_abs_difference: float
    rows: int
    limit: float = PARITY_LIMIT
    seed: int = 0

    @property
    def passed(self) -> bool:
        """True within the limit; NaN never passes."""
        return self.max_abs_difference <= self.limit

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able, the difference as the power of ten it lies below.

        The exact difference depends on the processor's last bits, the power of ten hardly ever: so
        the manifest stays byte-identical.
        """
        exponent = math.ceil(math.log10(max(self.max_abs_difference, 1e-9) * (1 + 1e-9)))
        return {"rows": self.rows, "below": float(f"1e{exponent}"), "limit": self.limit, "seed": self.seed}


class Scorer(Protocol):
    """What the parity gate asks of a loaded artefact (`serving.artefact.Artefact` has it)."""

    def score_many(self, rows: Sequence[Mapping[str, Any]], actions: Sequence[str]) -> np.ndarray:
        """P(success) of each row with its action."""
        ...


@dataclass(frozen=True, slots=True)
class PackedModel:
    """An artefact's three files as bytes, parity proven.

    Attributes
    ----------
    onnx, manifest, pipeline : bytes
        `model.onnx`, `manifest.json`, `pipeline.joblib`.
    parity : ParityResult
    """

    onnx: bytes
    manifest: bytes
    pipeline: bytes
    parity: ParityResult

    @property
    def files(self) -> dict[str, bytes]:
        """File name to content."""
        return {"model.onnx": self.onnx, "manifest.json": self.manifest, "pipeline.joblib": self.pipeline}

    @property
    def digests(self) -> dict[str, str]:
        """File name to SHA-256 in hex."""
        return {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}


def to_onnx(model: TrainedModel) -> bytes:
    """The model's ONNX graph, encoded float32 rows to calibrated P(success); see `core.conversion`."""
    return convert(model.pipeline)


def manifest(model: TrainedModel, onnx_bytes: bytes, parity_result: ParityResult | None = None) -> dict[str, Any]:
    """What `manifest.json` says about `model.onnx`; nothing in it depends on time or machine.

    Parameters
    ----------
    model : TrainedModel
    onnx_bytes : bytes
        The graph that the manifest describes; its SHA-256 is recorded.
    parity_result : ParityResult, optional
        Unknown while the artefact is being tested.
    """
    calibration, probes = model.pipeline.calibration, list(model.probes)
    scores = model.pipeline.predict_proba(rows_frame(model.pipeline.encoding, probes))[:, 1]
    return {
        "format": MANIFEST_FORMAT,
        "estimator": model.spec.estimator,
        "schema": model.schema.to_dict(),
        "schema_fingerprint": model.schema.fingerprint,
        **model.pipeline.encoding.to_dict(),
        "strata": list(model.schema.strata),
        "calibration": {
            "method": calibration.method,
            "slope": calibration.slope,
            "intercept": calibration.intercept,
        },
        "opset": dict(OPSET),
        "onnx_sha256": hashlib.sha256(onnx_bytes).hexdigest(),
        "probes": [
            {
                "features": {name: value for name, value in probe.items() if name != "action"},
                "action": probe["action"],
                "score": round(float(score), 7),
            }
            for probe, score in zip(probes, scores, strict=True)
        ],
        "parity": None if parity_result is None else parity_result.to_dict(),
        "training": {
            "mode": model.mode,
            "parent_digest": model.spec.parent_digest if model.mode == "incremental" else None,
            "seed": model.spec.seed,
            "params": model.spec.all_params,
            "rows": model.rows_train,
            "success_rate": model.train_success_rate,
            "trees": model.trees,
            **({} if model.spec.source is None else {"source": dict(model.spec.source)}),
        },
    }


def canonical_json(data: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and no spaces: the same data gives the same bytes."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def parity(model: TrainedModel, scorer: Scorer, rows: int = PARITY_ROWS, seed: int = 0) -> ParityResult:
    """Score hard rows with the pipeline and with the loaded artefact, both from raw values.

    The rows hold unseen categories, missing values, range ends, extremes, and numbers exactly on the trees'
    thresholds and one float32 beside them.

    Parameters
    ----------
    model : TrainedModel
    scorer : Scorer
        The artefact, loaded from the bytes that would be registered.
    rows : int, default 10_000
    seed : int, default 0
    """
    encoding = model.pipeline.encoding
    tasks = hard_rows(model.pipeline, rows, seed)
    expected = model.pipeline.predict_proba(rows_frame(encoding, tasks))[:, 1]
    found = scorer.score_many(tasks, [task["action"] for task in tasks])
    return ParityResult(float(np.max(np.abs(found - expected))), rows, seed=seed)


def pack(model: TrainedModel, load: Callable[[bytes, bytes], Scorer], rows: int = PARITY_ROWS) -> PackedModel:
    """Convert, prove and pack a model.

    Parameters
    ----------
    model : TrainedModel
    load : callable
        (model.onnx, manifest.json) to a scorer: `serving.artefact.Artefact.load`.
    rows : int, default 10_000
        Of the parity gate.

    Raises
    ------
    ArtefactRefused
        When engine and pipeline differ by more than `PARITY_LIMIT` on any row, or a user's own estimator cannot be
        converted.
    """
    onnx_bytes = to_onnx(model)
    try:
        scorer = load(onnx_bytes, canonical_json(manifest(model, onnx_bytes)))
    except ArtefactRefused as error:
        told = f"the estimator {model.spec.estimator} with these parameters cannot be served"
        raise ArtefactRefused(f"{told}: {error}") from error
    result = parity(model, scorer, rows, model.spec.seed)
    if not result.passed:
        raise ArtefactRefused(
            f"model.onnx differs from its pipeline by {result.max_abs_difference:.2g} on {rows} hard rows, more than "
            f"{result.limit:g}; the estimator {model.spec.estimator} with these parameters cannot be served"
        )
    final = canonical_json(manifest(model, onnx_bytes, result))
    return PackedModel(onnx_bytes, final, pipeline_bytes(model.pipeline), result)


def pipeline_bytes(pipeline: SuccessPipeline) -> bytes:
    """The content of `pipeline.joblib`."""
    buffer = io.BytesIO()
    joblib.dump(pipeline, buffer, compress=3)
    return buffer.getvalue()


def pipeline_from_bytes(content: bytes, expected_digest: str) -> SuccessPipeline:
    """Read `pipeline.joblib`, which can run code, only after its SHA-256 matches.

    Raises
    ------
    ArtefactRefused
        When the bytes are not the registered ones, or hold something else than a pipeline.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != expected_digest:
        raise ArtefactRefused(
            f"pipeline.joblib is not the registered file: expected SHA-256 {expected_digest}, found {found}"
        )
    loaded = joblib.load(io.BytesIO(content))
    if not isinstance(loaded, SuccessPipeline):
        raise ArtefactRefused(f"pipeline.joblib holds a {type(loaded).__name__}, not a pipeline; train the model again")
    return loaded


def fitted_digest(pipeline: SuccessPipeline) -> str:
    """SHA-256 over encoding, fitted arrays and calibration: what "the same model" means to `reproduce`."""
    digest = hashlib.sha256(canonical_json(pipeline.encoding.to_dict()))
    calibration = pipeline.calibration
    digest.update(canonical_json({"slope": calibration.slope, "intercept": calibration.intercept}))
    estimator = pipeline.estimator
    if isinstance(estimator, UserEstimator):
        for part in state_bytes(vars(estimator) | {"threads": None}):
            digest.update(part)
        return digest.hexdigest()
    if isinstance(estimator, BoostedTrees):
        digest.update(np.float64(estimator.baseline).tobytes())
        arrays = [array[name] for array in estimator.node_arrays() for name in array.dtype.names or ()]
    else:
        arrays = [value for value in vars(estimator).values() if isinstance(value, np.ndarray)]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
