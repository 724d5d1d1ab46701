"""From rows to a registered version: train, register.

Holds what the assets `trained_model` and `registered_model` do, and the one list of libraries that take part in a
training; does not hold training (`core/model.py`), the import of a user's own estimator (`operations/estimators.py`) or
the registry (`store/registry.py`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import retrain_assets
from retrain_assets.core.dataset import Week
from retrain_assets.core.deployment import ModelVersion, Status
from retrain_assets.core.features import FeatureSchema
from retrain_assets.core.model_settings import is_import_path
from retrain_assets.errors import TrainingImpossible, UsageError
from retrain_assets.operations import deploy
from retrain_assets.operations.dataset import dataset_of, recorded_splits, rows_of, split
from retrain_assets.operations.estimators import CONVERTER, OwnEstimator, own_estimator
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.runs import Held, Run, skip
from retrain_assets.serving.artefact import Artefact
from retrain_assets.store import datasets, models, registry

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from retrain_assets.core.model import PackedModel, TrainedModel, TrainSpec
    from retrain_assets.core.pipeline import SuccessPipeline
    from retrain_assets.core.search import Losses, Runner, Task
    from retrain_assets.core.splits import Splits

LIBRARIES = ("numpy", "onnx", "onnxruntime", "pandas", "pyarrow", "scikit-learn", "scipy")
"""Their versions are recorded with each training: they take part in its result."""

OPTIONAL_LIBRARIES = ("publicsuffixlist",)
"""The same, where they are installed: the list of public suffixes that URL features are made with."""

Tell = Callable[[str], None]
"""Takes a line about work that lasts."""

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


def train(platform: Platform, week: Week, run: Run, tell: Tell | None = None) -> Training | Held:
    """Fit, convert, prove parity, keep the artefact; the same data and settings give the same training.

    Parameters
    ----------
    platform : Platform
    week : Week
    run : Run
    tell : callable, optional
        Is told how far a search for parameters is.

    Raises
    ------
    ConfigError
        The estimator or its parameters cannot be used.
    ArtefactRefused
        The estimator cannot be served: it cannot be converted, or engine and pipeline differ.
    """
    dataset, schema = dataset_of(platform, week), platform.config.schema
    settings = platform.config.model
    own = own_estimator(settings.estimator, settings.params)
    rows = rows_of(platform, dataset, schema)
    splits = split(platform, rows)
    parent = production(platform)
    spec, pipeline = _spec(platform, parent, own)
    try:
        model, packed = rebuild(rows, splits, schema, spec, parent=pipeline, own=own, search=_search(platform, tell))
    except TrainingImpossible as error:
        return skip(platform, run, week, f"week {week.key} cannot teach a model: {error}")
    metrics = _metrics(model, packed, rows, splits)
    metrics["new_tasks"] = recorded_splits(platform, dataset)["new_tasks"]
    libraries = library_versions(spec.estimator)
    training = Training(
        training_id=training_id(dataset.dataset_hash, model.spec.to_dict(), code_version(), libraries),
        week=week.key,
        dataset_hash=dataset.dataset_hash,
        spec=model.spec.to_dict(),
        splits=splits.to_dict(),
        artefacts={name: models.put(platform.problem_home, name, content) for name, content in packed.files.items()},
        metrics=metrics,
        parent_version=parent.version if parent else None,
    )
    _keep(platform, training)
    return training


def rebuild(
    rows: pd.DataFrame,
    splits: Splits,
    schema: FeatureSchema,
    spec: TrainSpec,
    *,
    parent: SuccessPipeline | None,
    own: OwnEstimator | None,
    search: Mapping[str, Any] | None = None,
) -> tuple[TrainedModel, PackedModel]:
    """Fit and pack: a function of its arguments, the same for a first training and for `retrain reproduce`.

    Parameters
    ----------
    search : mapping, optional
        `plan` and `run_trials` of `core.training.train`.
    """
    from retrain_assets.core.model import pack
    from retrain_assets.core.model import train as fit

    taught, tuned = rows.iloc[splits.train], rows.iloc[splits.validation]
    model = fit(taught, tuned, schema, spec, parent, make=own.make if own else None, **(search or {}))
    return model, pack(model, Artefact.load)


def _metrics(model: TrainedModel, packed: PackedModel, rows: pd.DataFrame, splits: Splits) -> dict[str, Any]:
    """What is recorded of a training beside its artefacts; JSON-able."""
    from retrain_assets.core.drift import profile
    from retrain_assets.core.metrics import evaluate
    from retrain_assets.core.model_card import intervals

    taught, tuned, held_out = (rows.iloc[part] for part in (splits.train, splits.validation, splits.test))
    found = {"search": model.search.to_dict()} if model.search else {}
    success, p, action, stratum = _judged(held_out, model.predict(held_out))
    return {
        "validation": evaluate(*_judged(tuned, model.predict(tuned))),
        "test": evaluate(success, p, action, stratum),
        "intervals": intervals(success, p, held_out["task_id"].to_numpy(dtype=object), action),
        "parity": asdict(packed.parity),
        "mode": model.mode,
        "mode_reason": model.mode_reason,
        "train_success_rate": model.train_success_rate,
        "profile": profile(taught, model.schema).to_dict(),
        **found,
        **({"search_reason": model.search_reason} if model.search_reason else {}),
    }


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


def library_versions(estimator: str = "") -> dict[str, str]:
    """Versions of the libraries that take part in a training of an estimator, `model.estimator`."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    for name in (*OPTIONAL_LIBRARIES, *([CONVERTER] if is_import_path(estimator) else [])):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def training_id(dataset_hash: str, spec: Mapping[str, Any], code: str, libraries: Mapping[str, str]) -> str:
    """32 hex digits over all that decides what a training gives."""
    told = json.dumps([dataset_hash, spec, code, libraries], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


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


def _spec(
    platform: Platform, parent: ModelVersion | None, own: OwnEstimator | None
) -> tuple[TrainSpec, SuccessPipeline | None]:
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
        source=own.source if own else None,
    )
    return spec, pipeline


def _search(platform: Platform, tell: Tell | None) -> dict[str, Any]:
    """The arguments of `core.training.train` that search parameters; none when nothing is searched."""
    from retrain_assets.core.search import SearchPlan

    settings = platform.config.model.search
    if not settings.trials:
        return {}
    return {"plan": SearchPlan(settings.trials, settings.space), "run_trials": _side_by_side(settings.jobs, tell)}


def _side_by_side(jobs: int, tell: Tell | None) -> Runner:
    """Run trials in `jobs` processes; each is a function of its arguments, so that the number changes no result."""

    def run(task: Task, trials: Sequence[Mapping[str, Any]]) -> Iterator[Losses]:
        from joblib import Parallel, delayed

        started = Parallel(n_jobs=jobs, return_as="generator")(delayed(task)(params) for params in trials)
        for number, losses in enumerate(started):
            if tell is not None:
                found = losses if isinstance(losses, str) else f"log loss {losses.mean():.4f}"
                tell(f"search: trial {number} of {len(trials) - 1}: {found}")
            yield losses

    return run


def _judged(rows: pd.DataFrame, scores: np.ndarray) -> tuple[Any, ...]:
    """The arguments of `evaluate`: labels, scores, actions, strata."""
    return (
        (rows["result"] == "success").to_numpy(dtype=bool),
        scores,
        rows["action"].to_numpy(dtype=object),
        rows["stratum"].to_numpy(dtype=object),
    )


def _keep(platform: Platform, training: Training) -> None:
    values = {name: getattr(training, name) for name in Training.__slots__}
    libraries = library_versions(training.spec["estimator"])
    recorded = {"code_version": code_version(), "libraries": libraries, "created_at": platform.now()}
    with platform.database.write() as connection:
        datasets.save_training(connection, values | recorded)
