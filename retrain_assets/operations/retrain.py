"""The weekly loop, a function per step: collect, merge, prepare, train, register, validate, stage, start.

Holds what each asset of the weekly chain does; every step reads what the one before left in the store, by
week, so that any of them can be run again alone. Does not hold the rules (`core/`) or Dagster (`defs/`).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import retrain_assets
from retrain_assets.core.dataset import FEATURE_PREFIX, Dataset, Snapshot, Week, merge_weeks
from retrain_assets.core.deployment import Event, EventKind, ModelVersion, Status
from retrain_assets.core.features import FeatureSchema
from retrain_assets.errors import ArtefactRefused, TrainingImpossible, TransitionRefused, UsageError
from retrain_assets.operations import deploy
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform
from retrain_assets.serving.artefact import Artefact
from retrain_assets.store import datasets, decisions, models, outcomes, registry
from retrain_assets.store.files import write_atomically

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from retrain_assets.core.pipeline import SuccessPipeline
    from retrain_assets.core.report import ReportPolicy, ValidationReport
    from retrain_assets.core.splits import Splits

LIBRARIES = ("numpy", "onnx", "onnxruntime", "pandas", "pyarrow", "scikit-learn", "scipy")
"""Their versions are recorded with each training: they take part in its result."""

PIPELINE_FILE = "pipeline.joblib"


@dataclass(frozen=True, slots=True)
class Run:
    """Who runs a step.

    Attributes
    ----------
    run_id : str or None
        Dagster's.
    actor : str
    """

    run_id: str | None
    actor: str = "weekly_retrain"

    def because(self, reason: str, evidence: Mapping[str, Any] | None = None) -> Cause:
        """The cause of an event in this run."""
        return Cause(self.actor, reason, self.run_id, evidence)


@dataclass(frozen=True, slots=True)
class Held:
    """A step that has nothing to do, and why; not an error."""

    reason: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """The rows of a dataset and their split."""

    dataset: Dataset
    rows: pd.DataFrame
    splits: Splits
    new_tasks: int


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


def collect(platform: Platform, week: Week) -> Snapshot:
    """Freeze the tasks that matured in `week`."""
    now = platform.now()
    if week.end_at > now:
        raise UsageError(f"the week of {week.key} ends at {week.end_at.isoformat()}; it can be taken after that")
    return datasets.take_snapshot(platform.database, platform.problem_home, week, platform.config.schema, now)


def merge(platform: Platform, week: Week) -> tuple[Dataset, list[str]]:
    """List the newest snapshots up to `week`, taking first those that are missing or received late rows.

    Returns
    -------
    Dataset
    list of str
        Keys of the weeks that were taken now.
    """
    retrain, schema = platform.config.retrain, platform.config.schema
    with platform.database.read() as connection:
        first = decisions.first_instant(connection)
    begin = platform.calendar.containing(first) if first is not None else week
    weeks = merge_weeks(platform.calendar.between(min(begin, week), week), retrain.merge_strategy, retrain.window_weeks)
    with platform.database.write() as connection:
        last_seq = outcomes.highest_seq(connection)
    with platform.database.read() as connection:
        known = datasets.newest_snapshots(connection, schema.fingerprint)
        is_refreshing = retrain.late_rows == "refresh"
        due = datasets.weeks_to_take(connection, platform.calendar, weeks, known, last_seq, refresh_late=is_refreshing)
    for late in due:
        known[late.key] = collect(platform, late)
    parts = [known[part.key] for part in weeks]
    with platform.database.write() as connection:
        datasets.checked(connection, parts, last_seq)
        dataset = datasets.save_manifest(connection, week, parts, schema.fingerprint, platform.now())
    return dataset, [part.key for part in due]


def newer_snapshots(platform: Platform, dataset: Dataset) -> list[str]:
    """Weeks of a dataset that have a newer snapshot than the one it uses."""
    with platform.database.read() as connection:
        newest = datasets.newest_snapshots(connection, dataset.schema_version)
    return [part.week for part in dataset.snapshots if newest[part.week].content_hash != part.content_hash]


def newest_dataset(platform: Platform) -> Dataset | None:
    """The dataset of the newest week that has one."""
    with platform.database.read() as connection:
        return datasets.newest_dataset(connection)


def prepare(platform: Platform, week: Week, run: Run) -> Prepared | Held:
    """Load and split a week's dataset; hold when too little of it is new, or it cannot teach anything."""
    dataset = _dataset(platform, week)
    schema = platform.config.schema
    with platform.database.read() as connection:
        trained = datasets.newest_training(connection, up_to=week.key)
        base = datasets.get_dataset(connection, trained.dataset_hash) if trained is not None else None
    new_tasks = datasets.new_tasks(platform.problem_home, dataset, base, schema)
    least = platform.config.retrain.min_new_samples
    if new_tasks < least or dataset.rows == 0:
        since = f"since the training of week {trained.week}" if trained is not None else "so far"
        return _skip(platform, run, week, f"{new_tasks} new tasks {since}; retrain.min_new_samples asks for {least}")
    rows = _rows(platform, dataset, schema)
    try:
        splits = _split(platform, rows)
    except TrainingImpossible as error:
        return _skip(platform, run, week, f"the data of week {week.key} cannot be split: {error}")
    record = {"dataset_hash": dataset.dataset_hash, "new_tasks": new_tasks, **splits.to_dict()}
    write_atomically(_splits_file(platform, dataset), lambda path: _write_json(path, record))
    reason = f"week {week.key}: {dataset.rows:,} tasks, {new_tasks:,} of them new"
    deploy.note(platform, EventKind.RETRAIN_STARTED, run.because(reason, record))
    return Prepared(dataset, rows, splits, new_tasks)


def train(platform: Platform, week: Week, run: Run) -> Training | Held:
    """Fit, convert, prove parity, keep the artefact; the same data and settings give the same training."""
    from retrain_assets.core.metrics import evaluate
    from retrain_assets.core.model import pack
    from retrain_assets.core.model import train as fit

    dataset, schema = _dataset(platform, week), platform.config.schema
    rows = _rows(platform, dataset, schema)
    splits = _split(platform, rows)
    parent = _production(platform)
    spec, pipeline = _spec(platform, parent)
    taught, tuned, held_out = (rows.iloc[part] for part in (splits.train, splits.validation, splits.test))
    try:
        model = fit(taught, tuned, schema, spec, pipeline)
    except TrainingImpossible as error:
        return _skip(platform, run, week, f"week {week.key} cannot teach a model: {error}")
    packed = pack(model, Artefact.load)
    artefacts = {name: models.put(platform.problem_home, name, content) for name, content in packed.files.items()}
    metrics = {
        "validation": evaluate(*_judged(tuned, model.predict(tuned))),
        "test": evaluate(*_judged(held_out, model.predict(held_out))),
        "parity": asdict(packed.parity),
        "new_tasks": _recorded_splits(platform, dataset)["new_tasks"],
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


def validate(platform: Platform, week: Week, run: Run) -> tuple[ModelVersion, ValidationReport]:
    """Judge the week's version on held-out rows, beside production and the best constant guess."""
    from retrain_assets.core.metrics import feature_importance
    from retrain_assets.core.model import ParityResult, pipeline_from_bytes
    from retrain_assets.core.report import HeldOut, build_report

    model = _version(platform, week)
    with platform.database.read() as connection:
        dataset = datasets.get_dataset(connection, model.dataset_hash)
    assert dataset is not None  # noqa: S101  (a version's dataset is never deleted)
    schema = FeatureSchema.from_dict(model.spec["schema"])
    rows = _rows(platform, dataset, schema)
    test = rows.iloc[_split(platform, rows).test]
    held_out = HeldOut.from_rows(test)
    pipeline = pipeline_from_bytes(*_pipeline_file(platform, model))
    rival = _rival(platform, model)
    report = build_report(
        held_out,
        pipeline.predict_proba(test)[:, 1],
        policy=_report_policy(platform, model.seed),
        train_success_rate=model.metrics["train_success_rate"],
        schema=schema,
        parity=ParityResult(**model.metrics["parity"]),
        new_samples=model.metrics["new_tasks"],
        production=rival[1].predict_proba(test)[:, 1] if rival else None,
        production_schema=FeatureSchema.from_dict(rival[0].spec["schema"]) if rival else None,
        production_version=rival[0].version if rival else None,
        importance=feature_importance(
            lambda part: pipeline.predict_proba(part)[:, 1],
            test,
            [*(FEATURE_PREFIX + name for name in schema.names), "action"],
            held_out.success,
            seed=model.seed,
        ),
        details={"week": week.key, "dataset_hash": dataset.dataset_hash},
    )
    _judge(platform, model, report, run)
    return model, report


def _rival(platform: Platform, model: ModelVersion) -> tuple[ModelVersion, SuccessPipeline] | None:
    """Production and its pipeline, to be judged on the same rows; None when nothing else serves.

    Also None when production was trained on a later week: it has learnt the very rows of this test.
    """
    from retrain_assets.core.model import pipeline_from_bytes

    production = _production(platform)
    if production is None or production.version == model.version or production.week > model.week:
        return None
    return production, pipeline_from_bytes(*_pipeline_file(platform, production))


def _report_policy(platform: Platform, seed: int) -> ReportPolicy:
    from retrain_assets.core.report import ReportPolicy

    retrain = platform.config.retrain
    return ReportPolicy(
        validation_metric=retrain.validation_metric,
        validation_threshold=retrain.validation_threshold,
        min_new_samples=retrain.min_new_samples,
        seed=seed,
    )


def _judge(platform: Platform, model: ModelVersion, report: ValidationReport, run: Run) -> None:
    with platform.database.write() as connection:
        registry.set_report(connection, model.version, report.to_dict())
    evidence = {"gates": [asdict(gate) for gate in report.gates]}
    if not report.passed and model.status is Status.REGISTERED:
        deploy.reject(platform, model, run.because(report.summary, evidence))
    found = "passed validation" if report.passed else "failed validation"
    cause = run.because(f"{model.version} of week {model.week} {found}", evidence)
    deploy.note(platform, EventKind.RETRAIN_COMPLETED, cause, model.version)


def stage(platform: Platform, week: Week, run: Run) -> ModelVersion | Held:
    """Stage a validated version of the newest week and run its smoke test; hold anything else."""
    model = _version(platform, week)
    if model.status is Status.STAGING:
        return model
    if model.status is not Status.REGISTERED:
        return Held(f"{model.version} is {model.status}: nothing to stage")
    if (reason := why_not_deployed(platform, week)) is not None:
        return Held(f"{model.version} stays registered: {reason}")
    if not (model.report or {}).get("passed"):
        return Held(f"{model.version} has no passed validation report")
    deploy.stage(platform, model, run.because("passed validation"))
    staged = _version(platform, week)
    try:
        smoke_test(platform, staged)
    except ArtefactRefused as error:
        deploy.reject(platform, staged, run.because(f"smoke test: {error}"))
        return Held(f"rejected: {error}")
    return staged


def smoke_test(platform: Platform, model: ModelVersion) -> dict[str, float]:
    """Load the artefact as an engine would and score its probes over every action.

    Returns
    -------
    dict
        `self_test_difference`, and the median `latency_ms` of scoring all actions of one task.

    Raises
    ------
    ArtefactRefused
        Wrong bytes, wrong scores, a score that is no probability, or slower than the canary's limit.
    """
    import time

    artefact = deploy.load_artefact(platform, model)
    latencies_ms = []
    for probe in artefact.manifest.probes:
        began = time.perf_counter()
        scores = artefact.score(probe.features)
        latencies_ms.append((time.perf_counter() - began) * 1000)
        if not all(0.0 <= float(score) <= 1.0 for score in scores):
            raise ArtefactRefused(f"a probe's scores are no probabilities: {scores.tolist()}")
    middle = sorted(latencies_ms)[len(latencies_ms) // 2]
    limit = platform.config.canary.thresholds.max_response_time_ms
    if middle > limit:
        raise ArtefactRefused(f"a decision takes {middle:.1f} ms, canary.thresholds.max_response_time_ms is {limit}")
    return {"self_test_difference": artefact.self_test(), "latency_ms": middle}


def start_canary(platform: Platform, week: Week, run: Run) -> Event | Held:
    """Put the week's staged version on trial, judging the one that is on trial once more before."""
    from retrain_assets.operations.watch import tick

    model = _version(platform, week)
    if model.status is not Status.STAGING:
        return Held(f"{model.version} is {model.status}: nothing to start")
    if (reason := why_not_deployed(platform, week)) is not None:
        return Held(f"{model.version} stays staged: {reason}")
    tick(platform, run.actor)
    try:
        return deploy.start(platform, model, run.because(f"week {week.key} passed validation and smoke test"))
    except TransitionRefused as error:
        return Held(str(error))


def fail(platform: Platform, run: Run, reason: str) -> None:
    """Record a failed run, once."""
    with platform.database.read() as connection:
        known = registry.events(connection, kinds=(EventKind.RETRAIN_FAILED,), run_id=run.run_id)
    if not known:
        deploy.note(platform, EventKind.RETRAIN_FAILED, run.because(reason))


def is_old(platform: Platform, week: Week) -> bool:
    """Whether a newer week has already closed: then a run of `week` is a backfill."""
    return week.key != platform.calendar.newest_closed(platform.now()).key


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


def why_not_deployed(platform: Platform, week: Week) -> str | None:
    """Why a version of `week` may not deploy now; None when it may."""
    with platform.database.read() as connection:
        route = registry.get_route(connection)
    if route.production_version is None:
        return None  # bootstrap: the first version that passes becomes production, whatever its week
    if is_old(platform, week):
        newest = platform.calendar.newest_closed(platform.now()).key
        return f"only the newest closed week, {newest}, may deploy"
    return "deployment is paused" if route.paused else None


def _skip(platform: Platform, run: Run, week: Week, reason: str) -> Held:
    deploy.note(platform, EventKind.RETRAIN_SKIPPED, run.because(reason, {"week": week.key}))
    return Held(reason)


def _dataset(platform: Platform, week: Week) -> Dataset:
    with platform.database.read() as connection:
        dataset = datasets.newest_dataset(connection, week.key)
    if dataset is None:
        raise UsageError(f"week {week.key} has no dataset yet; materialise merged_dataset for it first")
    return dataset


def newest_version(platform: Platform, week: Week) -> ModelVersion | None:
    """The version registered last for a week."""
    with platform.database.read() as connection:
        return registry.newest_of_week(connection, week.key)


def _version(platform: Platform, week: Week) -> ModelVersion:
    model = newest_version(platform, week)
    if model is None:
        raise UsageError(f"week {week.key} has no version yet; materialise registered_model for it first")
    return model


def _production(platform: Platform) -> ModelVersion | None:
    with platform.database.read() as connection:
        version = registry.get_route(connection).production_version
        return registry.get_version(connection, version) if version else None


_last_rows: dict[tuple[str, str, str], pd.DataFrame] = {}


def _rows(platform: Platform, dataset: Dataset, schema: FeatureSchema) -> pd.DataFrame:
    """The rows of a dataset; the last one stays in memory, since four steps of one run read it."""
    key = (str(platform.problem_home), dataset.dataset_hash, schema.fingerprint)
    if key not in _last_rows:
        rows = datasets.load_rows(platform.problem_home, dataset, schema)
        _last_rows.clear()
        _last_rows[key] = rows
    return _last_rows[key]


def _split(platform: Platform, rows: pd.DataFrame) -> Splits:
    from retrain_assets.core.splits import split_by_time

    gap: timedelta = platform.config.task_timeout
    return split_by_time(rows, gap=gap)


def _spec(platform: Platform, parent: ModelVersion | None) -> tuple[Any, SuccessPipeline | None]:
    """The spec of a training now, and the pipeline it continues from when `model.mode` is incremental."""
    from retrain_assets.core.model import TrainSpec, pipeline_from_bytes

    settings = platform.config.model
    pipeline, digest = None, None
    if settings.mode == "incremental" and parent is not None:
        content, digest = _pipeline_file(platform, parent)
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


def _pipeline_file(platform: Platform, model: ModelVersion) -> tuple[bytes, str]:
    entry = model.artefacts[PIPELINE_FILE]
    return models.read(platform.problem_home, PIPELINE_FILE, entry), str(entry["sha256"])


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


def _splits_file(platform: Platform, dataset: Dataset) -> Path:
    return platform.problem_home / "splits" / f"{dataset.dataset_hash}.json"


def _recorded_splits(platform: Platform, dataset: Dataset) -> dict[str, Any]:
    """What `prepare` recorded of a dataset's split."""
    try:
        record: dict[str, Any] = json.loads(_splits_file(platform, dataset).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"week {dataset.week} has no split yet; materialise prepared_splits for it first") from None
    return record


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
