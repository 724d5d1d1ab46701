"""From rows to a registered version: train, register.

Holds what the assets `trained_model` and `registered_model` do; does not hold training (`core/model.py`) or the
registry (`store/registry.py`).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import retrain_assets
from retrain_assets.core.dataset import Dataset, Week
from retrain_assets.core.deployment import ModelVersion, Status
from retrain_assets.core.features import FeatureSchema
from retrain_assets.errors import TrainingImpossible, UsageError
from retrain_assets.operations import deploy
from retrain_assets.operations.dataset import dataset_of, recorded_splits, rows_of, split
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.runs import Held, Run, skip
from retrain_assets.serving.artefact import Artefact
from retrain_assets.store import datasets, models, registry

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from retrain_assets.core.pipeline import SuccessPipeline

LIBRARIES = ("numpy", "onnx", "onnxruntime", "pandas", "pyarrow", "scikit-learn", "scipy")
"""Their versions are recorded with each training: they take part in its result."""

PIPELINE_FILE = "pipeline.joblib"


@dataclass(frozen=True, slots=True)
class Training:
    """A finished training as the store keeps it."""

    training_id: str
    week: str
    dataset_hash: str
    spec: dict[str, Any]
    splits: dict[str, Any]
    artefacts: dict[str, dict[str, Any]]
    metrics: dict[str, Any]
    parent_version: str | None


def train(platform: Platform, week: Week, run: Run) -> Training | Held:
    """Fit, convert, prove parity, keep the artefact; the same data and settings give the same training."""
    from retrain_assets.core.metrics import evaluate
    from retrain_assets.core.model import pack
    from retrain_assets.core.model import train as fit

    dataset, schema = dataset_of(platform, week), platform.config.schema
    rows = rows_of(platform, dataset, schema)
    splits = split(platform, rows)
    parent = production(platform)
    spec, pipeline = _spec(platform, parent)
    taught, tuned, held_out = (rows.iloc[part] for part in (splits.train, splits.validation, splits.test))
    try:
        model = fit(taught, tuned, schema, spec, pipeline)
    except TrainingImpossible as error:
        return skip(platform, run, week, f"week {week.key} cannot teach a model: {error}")
    packed = pack(model, Artefact.load)
    artefacts = {name: models.put(platform.problem_home, name, content) for name, content in packed.files.items()}
    metrics = {
        "validation": evaluate(*_judged(tuned, model.predict(tuned))),
        "test": evaluate(*_judged(held_out, model.predict(held_out))),
        "parity": asdict(packed.parity),
        "new_tasks": recorded_splits(platform, dataset)["new_tasks"],
        "mode": model.mode,
        "mode_reason": model.mode_reason,
        "train_success_rate": model.train_success_rate,
    }
    training = Training(
        training_id=_training_id(dataset, model.spec.to_dict()),
        week=week.key,
        dataset_hash=dataset.dataset_hash,
        spec=model.spec.to_dict(),
        splits=splits.to_dict(),
        artefacts=artefacts,
        metrics=metrics,
        parent_version=parent.version if parent else None,
    )
    _keep(platform, training)
    return training


def register(platform: Platform, week: Week, run: Run, *, is_backfill: bool) -> ModelVersion:
    """Give the week's newest training its version."""
    with platform.database.read() as connection:
        row = datasets.newest_training(connection, week=week.key)
    if row is None:
        raise UsageError(f"week {week.key} has no training yet; materialise trained_model for it first")
    draft = ModelVersion(
        version="",
        status=Status.REGISTERED,
        week=row.week,
        dataset_hash=row.dataset_hash,
        schema_version=FeatureSchema.from_dict(row.spec["schema"]).fingerprint,
        code_version=row.code_version,
        spec=row.spec,
        seed=row.spec["seed"],
        parent_version=row.parent_version,
        artefacts=row.artefacts,
        metrics=row.metrics,
        report=None,
        run_id=run.run_id,
        created_at=platform.now(),
        training_id=row.training_id,
        is_backfill=is_backfill,
    )
    return deploy.register(platform, draft, run.because(f"trained on week {week.key}"))


@functools.lru_cache(maxsize=1)
def code_version() -> str:
    """Package version and a digest over the code that decides what a training gives."""
    digest = hashlib.sha256()
    for path in sorted((Path(retrain_assets.__file__).parent / "core").glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"{retrain_assets.__version__}+{digest.hexdigest()[:12]}"


def library_versions() -> dict[str, str]:
    """Versions of the libraries that take part in a training."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def newest_version(platform: Platform, week: Week) -> ModelVersion | None:
    """The version registered last for a week."""
    with platform.database.read() as connection:
        return registry.newest_of_week(connection, week.key)


def version_of(platform: Platform, week: Week) -> ModelVersion:
    """The version registered last for a week; says what to do when there is none."""
    model = newest_version(platform, week)
    if model is None:
        raise UsageError(f"week {week.key} has no version yet; materialise registered_model for it first")
    return model


def production(platform: Platform) -> ModelVersion | None:
    """The version that serves now."""
    with platform.database.read() as connection:
        version = registry.get_route(connection).production_version
        return registry.get_version(connection, version) if version else None


def pipeline_file(platform: Platform, model: ModelVersion) -> tuple[bytes, str]:
    """The bytes of a version's `pipeline.joblib`, verified, and the digest they must have."""
    entry = model.artefacts[PIPELINE_FILE]
    return models.read(platform.problem_home, PIPELINE_FILE, entry), str(entry["sha256"])


def _spec(platform: Platform, parent: ModelVersion | None) -> tuple[Any, SuccessPipeline | None]:
    """The spec of a training now, and the pipeline it continues from when `model.mode` is incremental."""
    from retrain_assets.core.model import TrainSpec, pipeline_from_bytes

    settings = platform.config.model
    pipeline, digest = None, None
    if settings.mode == "incremental" and parent is not None:
        content, digest = pipeline_file(platform, parent)
        pipeline = pipeline_from_bytes(content, digest)
    spec = TrainSpec(
        estimator=settings.estimator,
        params=settings.params,
        mode=settings.mode,
        seed=settings.seed,
        threads=settings.threads,
        parent_digest=digest,
    )
    return spec, pipeline


def _judged(rows: pd.DataFrame, scores: np.ndarray) -> tuple[Any, ...]:
    """The arguments of `evaluate`: labels, scores, actions, strata."""
    return (
        (rows["result"] == "success").to_numpy(dtype=bool),
        scores,
        rows["action"].to_numpy(dtype=object),
        rows["stratum"].to_numpy(dtype=object),
    )


def _training_id(dataset: Dataset, spec: Mapping[str, Any]) -> str:
    told = json.dumps([dataset.dataset_hash, spec, code_version(), library_versions()], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _keep(platform: Platform, training: Training) -> None:
    values = {name: getattr(training, name) for name in Training.__slots__}
    now = platform.now()
    with platform.database.write() as connection:
        datasets.save_training(
            connection,
            values | {"code_version": code_version(), "libraries": library_versions(), "created_at": now},
        )
