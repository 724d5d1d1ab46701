"""From a registered version to one on trial: validate, stage, start.

Holds what the assets `validation_report`, `staging_deployment` and `canary_deployment` do; does not hold the gates
(`core/report.py`) or the changes of traffic (`operations/deploy.py`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from retrain_assets.core.dataset import FEATURE_PREFIX, Week
from retrain_assets.core.deployment import Event, EventKind, ModelVersion, Status
from retrain_assets.core.features import FeatureSchema
from retrain_assets.errors import ArtefactRefused, TransitionRefused
from retrain_assets.operations import deploy
from retrain_assets.operations.dataset import rows_of, split
from retrain_assets.operations.model import pipeline_file, production, version_of
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.runs import Held, Run, is_old
from retrain_assets.store import datasets, registry

if TYPE_CHECKING:
    from retrain_assets.core.pipeline import SuccessPipeline
    from retrain_assets.core.report import ReportPolicy, ValidationReport


def validate(platform: Platform, week: Week, run: Run) -> tuple[ModelVersion, ValidationReport]:
    """Judge the week's version on held-out rows, beside production and the best constant guess."""
    from retrain_assets.core.metrics import feature_importance
    from retrain_assets.core.model import ParityResult, pipeline_from_bytes
    from retrain_assets.core.report import HeldOut, build_report

    model = version_of(platform, week)
    with platform.database.read() as connection:
        dataset = datasets.get_dataset(connection, model.dataset_hash)
    assert dataset is not None  # noqa: S101  (a version's dataset is never deleted)
    schema = FeatureSchema.from_dict(model.spec["schema"])
    rows = rows_of(platform, dataset, schema)
    test = rows.iloc[split(platform, rows).test]
    held_out = HeldOut.from_rows(test)
    pipeline = pipeline_from_bytes(*pipeline_file(platform, model))
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

    serving = production(platform)
    if serving is None or serving.version == model.version or serving.week > model.week:
        return None
    return serving, pipeline_from_bytes(*pipeline_file(platform, serving))


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
    """Keep the report and reject what failed; a version judged before keeps the report it was judged by."""
    if model.status is not Status.REGISTERED or model.report is not None:
        return
    evidence = {"gates": [asdict(gate) for gate in report.gates]}
    found = "passed validation" if report.passed else "failed validation"
    completed = run.because(f"{model.version} of week {model.week} {found}", evidence)
    with platform.database.write() as connection:
        registry.set_report(connection, model.version, report.to_dict())
        if not report.passed:
            deploy.reject_within(platform, connection, model, run.because(report.summary, evidence))
        kind = EventKind.RETRAIN_COMPLETED
        deploy.record_event(platform, connection, kind, completed, version=model.version)


@dataclass(frozen=True, slots=True)
class Staged:
    """A staged version and what its smoke test found."""

    model: ModelVersion
    tests: dict[str, float]


def stage(platform: Platform, week: Week, run: Run) -> Staged | Held:
    """Stage a validated version of the newest week and run its smoke test; hold anything else.

    A version that is staged already is tested again: the run that staged it may have died before its test.
    """
    model = version_of(platform, week)
    if model.status not in {Status.REGISTERED, Status.STAGING}:
        return Held(f"{model.version} is {model.status}: nothing to stage")
    if (reason := why_not_deployed(platform, week)) is not None:
        return Held(f"{model.version} stays {model.status}: {reason}")
    if not (model.report or {}).get("passed"):
        return Held(f"{model.version} has no passed validation report")
    if model.status is Status.REGISTERED:
        deploy.stage(platform, model, run.because("passed validation"))
    staged = version_of(platform, week)
    try:
        return Staged(staged, smoke_test(platform, staged))
    except ArtefactRefused as error:
        deploy.reject(platform, staged, run.because(f"smoke test: {error}"))
        return Held(f"rejected: {error}")


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

    model = version_of(platform, week)
    if model.status is not Status.STAGING:
        return Held(f"{model.version} is {model.status}: nothing to start")
    if (reason := why_not_deployed(platform, week)) is not None:
        return Held(f"{model.version} stays staged: {reason}")
    tick(platform, run.actor)
    try:
        cause = run.because(f"week {week.key} passed validation and smoke test")
        return deploy.start(platform, model, cause, only_first=is_old(platform, week))
    except TransitionRefused as error:
        return Held(str(error))


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
