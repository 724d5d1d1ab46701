"""From a registered version to one on trial: validate, stage, start.

Holds what the assets `validation_report`, `staging_deployment` and `canary_deployment` do; does not hold the gates
(`core/report_gates.py`), the gathering of what they are judged on (`report_facts.py`) or the changes of traffic
(`operations/deploy.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retrain_assets.core.dataset import FEATURE_PREFIX, Week
from retrain_assets.core.deployment import Event, EventKind, ModelVersion, Status
from retrain_assets.errors import ArtefactRefused, TransitionRefused
from retrain_assets.operations import deploy, model_card, report_facts
from retrain_assets.operations.model import version_of
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.runs import Held, Run, is_old
from retrain_assets.store import registry
from retrain_assets.store.files import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from retrain_assets.core.report import DataFacts, ReportPolicy, ValidationReport
    from retrain_assets.operations.report_facts import Judged, Opponent


def validate(platform: Platform, week: Week, run: Run) -> tuple[ModelVersion, ValidationReport]:
    """Judge the week's version on held-out rows, beside production, the candidate before and the best constant guess.

    The page `reports/<version>.html` is written before the verdict is recorded, so that a report never names a page
    that is not there.
    """
    from retrain_assets.core.metrics import feature_importance
    from retrain_assets.core.model import ParityResult
    from retrain_assets.core.report import HeldOut, build_report

    model = version_of(platform, week)
    candidate = report_facts.judged(platform, model, week)
    test, schema = candidate.test, candidate.schema
    held_out = HeldOut.from_rows(test)
    own = candidate.pipeline.predict_proba(test)[:, 1]
    serving = report_facts.serving_rival(platform, candidate)
    before = report_facts.previous_candidate(platform, candidate, serving)
    data, facts = _data(platform, candidate, serving)
    columns = [*(FEATURE_PREFIX + name for name in schema.names), "action"]
    report = build_report(
        held_out,
        own,
        policy=_report_policy(platform, model.seed),
        data=data,
        schema=schema,
        parity=ParityResult(**model.metrics["parity"]),
        production=serving.rival,
        production_schema=serving.schema,
        previous=before.rival,
        importance=feature_importance(
            lambda part: candidate.pipeline.predict_proba(part)[:, 1], test, columns, held_out.success, seed=model.seed
        ),
        details={**facts, "previous_note": before.note, "page": page_path(model.version)},
    )
    write_page(platform, model, report)
    _judge(platform, model, report, run)
    model_card.write(platform, model.version)
    return model, report


def _data(platform: Platform, candidate: Judged, serving: Opponent) -> tuple[DataFacts, dict[str, Any]]:
    """What the gates ask about the data, and all of it for the report's details."""
    from retrain_assets.core.leakage import find_leaks
    from retrain_assets.core.pipeline import success_labels
    from retrain_assets.core.report import DataFacts

    model, splits, limit = candidate.model, candidate.splits, platform.config.report.leakage_auc
    taught, tuned = (candidate.rows.iloc[part] for part in (splits.train, splits.validation))
    leaks = None if limit is None else find_leaks(taught, tuned, candidate.schema, limit)
    moved = report_facts.drifted(platform, candidate, serving)
    behind = report_facts.staleness_weeks(platform, candidate, serving)
    data = DataFacts(
        train_success_rate=model.metrics["train_success_rate"],
        validation_success_rate=float(success_labels(tuned).mean()),
        new_samples=model.metrics["new_tasks"],
        leaks=leaks,
        drift=moved.features,
        labels=moved.labels,
        staleness_weeks=behind,
    )
    return data, {
        "week": candidate.week.key,
        "dataset_hash": candidate.dataset.dataset_hash,
        "weeks": len(candidate.dataset.snapshots),
        "splits": splits.to_dict(),
        "leakage": None if leaks is None else leaks.to_dict(),
        "drift": moved.facts,
        "label_drift": None if moved.labels is None else moved.labels.to_dict(),
        "staleness_weeks": behind,
        "production_note": serving.note,
        "importance_before": None if serving.model is None else (serving.model.report or {}).get("importance"),
        "off_policy": report_facts.other_choices(platform, candidate, serving),
        "walk_forward": report_facts.walk_forward(platform, candidate),
    }


def page_path(version: str) -> str:
    """Where a version's page lies, below the problem's home."""
    return f"reports/{version}.html"


def write_page(platform: Platform, model: ModelVersion, report: ValidationReport) -> Path:
    """Write the page that people read: of the report that the version was judged by, when it was judged before."""
    from retrain_assets.core.report_page import render

    told = model.report or report.to_dict()
    file = platform.problem_home / page_path(model.version)
    page = render(told, _headline(platform, model)).encode("utf-8")

    def write(place: Path) -> None:
        place.write_bytes(page)

    write_atomically(file, write)
    return file


def _headline(platform: Platform, model: ModelVersion) -> dict[str, str]:
    """What the page says about the version itself."""
    spec = model.spec
    return {
        "problem": platform.config.problem.name,
        "version": model.version,
        "week": model.week,
        "created": f"{model.created_at:%Y-%m-%d %H:%M} UTC",
        "estimator": str(spec.get("estimator")),
        "settings": json.dumps(spec.get("params") or {}, sort_keys=True),
        "mode": str(spec.get("mode")),
        "seed": str(model.seed),
        "parent": model.parent_version or "none",
        "dataset": model.dataset_hash,
        "schema": model.schema_version,
        "code": model.code_version,
        "run": model.run_id or "none",
    }


def _report_policy(platform: Platform, seed: int) -> ReportPolicy:
    from retrain_assets.core.report import ReportPolicy

    retrain, asked = platform.config.retrain, platform.config.report
    return ReportPolicy(
        validation_metric=retrain.validation_metric,
        validation_threshold=retrain.validation_threshold,
        min_new_samples=retrain.min_new_samples,
        leakage_auc=asked.leakage_auc,
        max_psi=asked.max_psi,
        max_label_shift=asked.max_label_shift,
        max_staleness_weeks=asked.max_staleness_weeks,
        seed=seed,
    )


def _judge(platform: Platform, model: ModelVersion, report: ValidationReport, run: Run) -> None:
    """Keep the report and reject what failed; a version judged before keeps the report it was judged by."""
    if model.status is not Status.REGISTERED or model.report is not None:
        return
    evidence = {"gates": report.to_dict()["gates"]}
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
