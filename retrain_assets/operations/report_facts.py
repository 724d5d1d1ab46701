"""What a report is judged on besides the candidate itself: rivals, drift, other choices, the weeks before.

Holds the gathering from registry, files and rows; does not hold gates (`core/report_gates.py`) or the verdict
(`operations/report.py`). What cannot be had is a note in the report, never a reason to fail the run; the one exception
is production's own artefact, whose damage must not be passed over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from retrain_assets.core.dataset import Dataset, Week
from retrain_assets.core.deployment import ModelVersion
from retrain_assets.core.features import FeatureSchema
from retrain_assets.errors import RetrainError, SchemaError
from retrain_assets.operations.dataset import rows_of, split
from retrain_assets.operations.model import pipeline_file, production
from retrain_assets.operations.platform import Platform
from retrain_assets.store import datasets, registry
from retrain_assets.store.offered import offered_actions

if TYPE_CHECKING:
    import pandas as pd

    from retrain_assets.core.drift import FeatureDrift, LabelDrift, Profile
    from retrain_assets.core.pipeline import SuccessPipeline
    from retrain_assets.core.report import Rival
    from retrain_assets.core.splits import Splits

WALK_FORWARD_WEEKS = 26
MAX_DRIFT_ROWS = 100_000
"""Newest rows that are compared with production's data: they show a PSI of 0.001."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate with the rows it is judged on."""

    model: ModelVersion
    week: Week
    dataset: Dataset
    schema: FeatureSchema
    rows: pd.DataFrame
    splits: Splits
    pipeline: SuccessPipeline

    @property
    def test(self) -> pd.DataFrame:
        """The rows that taught nothing."""
        return self.rows.iloc[self.splits.test]


@dataclass(frozen=True, slots=True)
class Opponent:
    """Another version on the same test rows.

    Attributes
    ----------
    model : ModelVersion or None
        None when there is none.
    pipeline : SuccessPipeline or None
    rival : Rival or None
        None when it cannot score these rows.
    note : str
        Why it is not compared; else empty.
    """

    model: ModelVersion | None = None
    pipeline: SuccessPipeline | None = None
    rival: Rival | None = None
    note: str = ""

    @property
    def schema(self) -> FeatureSchema | None:
        """The schema it was trained with."""
        return None if self.model is None else FeatureSchema.from_dict(self.model.spec["schema"])


@dataclass(frozen=True, slots=True)
class Drifted:
    """How the newest rows differ from those that taught production; None where nothing was compared."""

    features: tuple[FeatureDrift, ...] | None = None
    labels: LabelDrift | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def judged(platform: Platform, model: ModelVersion, week: Week) -> Judged:
    """Load a version's pipeline, rows and split."""
    from retrain_assets.core.model import pipeline_from_bytes

    with platform.database.read() as connection:
        dataset = datasets.get_dataset(connection, model.dataset_hash)
    assert dataset is not None  # noqa: S101  (a version's dataset is never deleted)
    schema = FeatureSchema.from_dict(model.spec["schema"])
    rows = rows_of(platform, dataset, schema)
    pipeline = pipeline_from_bytes(*pipeline_file(platform, model))
    return Judged(model, week, dataset, schema, rows, split(platform, rows), pipeline)


def serving_rival(platform: Platform, candidate: Judged) -> Opponent:
    """Production, to be judged on the same rows; nothing when nothing else serves.

    Also nothing when production was trained on a later week: it has learnt the very rows of this test.

    Raises
    ------
    ArtefactRefused
        Production's pipeline is not what was registered.
    """
    serving = production(platform)
    if serving is None or serving.version == candidate.model.version:
        return Opponent(note="there is no other version in production")
    if serving.week > candidate.model.week:
        return Opponent(note=f"{serving.version} in production has learnt these rows: it was trained on {serving.week}")
    return _opponent(platform, serving, candidate.test)


def previous_candidate(platform: Platform, candidate: Judged, serving: Opponent) -> Opponent:
    """The newest other version that was ever judged, also a rejected one, on the same rows."""
    with platform.database.read() as connection:
        known = registry.versions(connection)
    earlier = [item for item in known if item.version != candidate.model.version and item.report is not None]
    earlier = [item for item in earlier if item.week <= candidate.model.week]
    if not earlier:
        return Opponent(note="this is the first candidate")
    newest = earlier[-1]
    if serving.model is not None and newest.version == serving.model.version:
        return Opponent(note=f"{newest.version}, the candidate before, is in production")
    try:
        return _opponent(platform, newest, candidate.test)
    except RetrainError as error:
        return Opponent(note=f"{newest.version}, the candidate before, cannot be loaded any more: {error}")


def _opponent(platform: Platform, model: ModelVersion, test: pd.DataFrame) -> Opponent:
    from retrain_assets.core.model import pipeline_from_bytes
    from retrain_assets.core.report import Rival

    pipeline = pipeline_from_bytes(*pipeline_file(platform, model))
    try:
        return Opponent(model, pipeline, Rival(model.version, pipeline.predict_proba(test)[:, 1]))
    except (SchemaError, KeyError, ValueError) as error:
        return Opponent(model, None, None, f"{model.version} cannot score these rows: {error}")


def drifted(platform: Platform, candidate: Judged, serving: Opponent) -> Drifted:
    """Compare the rows that are newer than production's data with the rows that taught it."""
    from retrain_assets.core.drift import drift, label_drift, total_drift

    if serving.model is None:
        return Drifted(facts={"note": serving.note})
    ends = platform.calendar.named(serving.model.week).end_at
    matured = np.asarray(candidate.rows["matured_at"].to_numpy(dtype="datetime64[us]"))
    fresh = candidate.rows.iloc[np.flatnonzero(matured >= np.datetime64(ends.replace(tzinfo=None), "us"))]
    is_fresh = len(fresh) > 0
    present = (fresh if is_fresh else candidate.test).iloc[-MAX_DRIFT_ROWS:]
    what = "rows since production's data" if is_fresh else "test rows"
    facts: dict[str, Any] = {"reference": serving.model.version, "rows": len(present), "what": what}
    try:
        reference = _profile(platform, serving.model)
        features = drift(reference, present, candidate.schema)
    except (RetrainError, ValueError) as error:
        return Drifted(facts={**facts, "note": f"the data of {serving.model.version} cannot be compared: {error}"})
    listed = [item.to_dict() for item in features]
    facts |= {"reference_rows": reference.rows, "features": listed, "total": total_drift(features).to_dict()}
    return Drifted(features, label_drift(reference, present), facts)


def _profile(platform: Platform, model: ModelVersion) -> Profile:
    """What taught a version, as it was recorded; from its rows for a version that recorded nothing."""
    from retrain_assets.core.drift import Profile, profile

    recorded = model.metrics.get("profile")
    if recorded is not None:
        return Profile.from_dict(recorded)
    with platform.database.read() as connection:
        dataset = datasets.get_dataset(connection, model.dataset_hash)
    assert dataset is not None  # noqa: S101  (a version's dataset is never deleted)
    schema = FeatureSchema.from_dict(model.spec["schema"])
    # Not `rows_of`: it would drop the candidate's rows, which the steps after this one read again.
    rows = datasets.load_rows(platform.problem_home, dataset, schema)
    return profile(rows.iloc[split(platform, rows).train], schema)


def staleness_weeks(platform: Platform, candidate: Judged, serving: Opponent) -> float | None:
    """By how many weeks production's data ends before the candidate's."""
    if serving.model is None:
        return None
    behind = candidate.week.end_at - platform.calendar.named(serving.model.week).end_at
    return round(behind.total_seconds() / (7 * 86_400), 1)


def other_choices(platform: Platform, candidate: Judged, serving: Opponent) -> dict[str, Any]:
    """What the candidate's choices would have been worth on the decided test rows, or why that cannot be known."""
    from retrain_assets.core.off_policy import LoggedRows, epsilon_greedy, evaluate_policy
    from retrain_assets.core.pipeline import success_labels

    test = candidate.test
    propensity = np.asarray(test["propensity"].to_numpy(dtype=np.float64, na_value=np.nan))
    decided = test.iloc[np.flatnonzero(~np.isnan(propensity))]
    if decided.empty:
        reason = f"none of the {len(test):,} test rows has a propensity: outcomes without a decision cannot tell"
        return {"is_enough": False, "reason": reason}
    actions, epsilon = candidate.schema.actions, platform.config.exploration.epsilon
    allowed = _allowed(platform, decided, actions)
    scores = _scores(candidate.pipeline, decided, actions)
    theirs = None if serving.pipeline is None else _scores(serving.pipeline, decided, actions)
    found = evaluate_policy(
        LoggedRows(
            actions,
            decided["action"].to_numpy(dtype=object).astype(str),
            propensity[~np.isnan(propensity)],
            success_labels(decided).astype(np.float64),
            decided["task_id"].to_numpy(dtype=object).astype(str),
        ),
        epsilon_greedy(scores, epsilon, allowed),
        reward_model=np.clip(scores, 0.0, 1.0),
        production=None if theirs is None else epsilon_greedy(theirs, epsilon, allowed),
    )
    return {**found.to_dict(), "rows_without_propensity": len(test) - len(decided), "epsilon": epsilon}


def _scores(pipeline: SuccessPipeline, rows: pd.DataFrame, actions: tuple[str, ...]) -> np.ndarray:
    return np.column_stack([pipeline.predict_proba(rows.assign(action=action))[:, 1] for action in actions])


def _allowed(platform: Platform, decided: pd.DataFrame, actions: tuple[str, ...]) -> np.ndarray:
    """Which actions each decision was made among, shape (rows, actions); all of them where the log does not know."""
    ids = decided["decision_id"].to_numpy(dtype=object, na_value=None)
    with platform.database.read() as connection:
        offered = offered_actions(connection, (str(name) for name in ids if name is not None))
    allowed = np.array([[action in offered.get(name, actions) for action in actions] for name in ids])
    allowed[~allowed.any(axis=1)] = True  # an action that the schema does not have any more was the only one
    return allowed


def walk_forward(platform: Platform, candidate: Judged) -> list[dict[str, Any]]:
    """How each week's version did on its own test rows, oldest first: what a person would have seen in that week."""
    with platform.database.read() as connection:
        known = registry.versions(connection)
    newest = {item.week: item for item in known if item.week <= candidate.model.week and item.report is not None}
    newest.pop(candidate.model.week, None)
    points = [_point(newest[week]) for week in sorted(newest)]
    return points[-(WALK_FORWARD_WEEKS - 1) :]


def _point(model: ModelVersion) -> dict[str, Any]:
    report = model.report or {}
    overall = (report.get("metrics") or {}).get("overall") or {}
    rival = (report.get("production_metrics") or {}).get("overall") or {}
    return {
        "week": model.week,
        "version": model.version,
        "passed": bool(report.get("passed")),
        "n": overall.get("n"),
        "candidate": overall.get("log_loss"),
        "production": rival.get("log_loss"),
        "trivial": (report.get("trivial") or {}).get("log_loss"),
        "roc_auc": overall.get("roc_auc"),
    }
