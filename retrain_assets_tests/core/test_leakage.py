"""Features that give the outcome away are found, and honest ones, however strong, are not accused."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.core.leakage import Leak, LeakReport, find_leaks, sounds_like_a_result
from retrain_assets.demo.automation import SimulatedAutomation
from retrain_assets.settings import Config

NUMBER, CATEGORY, BOOLEAN = FeatureType.NUMBER, FeatureType.CATEGORY, FeatureType.BOOLEAN
LIMIT = 0.98
ROWS = 1_000


def frame(seed: int, rows: int = ROWS, rate: float = 0.7) -> pd.DataFrame:
    """Outcomes that an honest feature `strong` tells much about, and `weak` little."""
    rng = np.random.default_rng(seed)
    strong, weak = rng.normal(size=rows), rng.normal(size=rows)
    offset = np.log(rate / (1 - rate))
    success = rng.random(rows) < 1 / (1 + np.exp(-offset - 2.5 * strong - 0.3 * weak))
    return pd.DataFrame(
        {
            "task_id": [f"task {place}" for place in range(rows)],
            "action": rng.choice(["comment", "forum"], rows),
            "result": np.where(success, "success", "failure"),
            "feature_strong": strong,
            "feature_weak": weak,
        }
    )


def search(rows: pd.DataFrame, **features: FeatureType) -> LeakReport:
    """Search the rows, the first 80 % as training, for the two honest features and these."""
    named = {"strong": NUMBER, "weak": NUMBER, **features}
    schema = FeatureSchema(tuple(Feature(name, kind) for name, kind in named.items()), ("comment", "forum"))
    cut = round(0.8 * len(rows))
    return find_leaks(rows[:cut], rows[cut:], schema, LIMIT)


def kinds(found: LeakReport) -> set[tuple[str, str]]:
    """Feature and kind of what fails the report."""
    return {(leak.feature, leak.kind) for leak in found.certain}


def succeeded(rows: pd.DataFrame) -> np.ndarray:
    """The labels."""
    return np.asarray(rows["result"] == "success")


def test_honest_features_are_never_accused() -> None:
    """100 seeds, 60 to 2,000 rows, success rates of 0.5 to 0.97, values missing at random, flags and closed lists."""
    print("seeds 0 to 99")
    accused: list[Leak] = []
    for seed in range(100):
        rng = np.random.default_rng(seed + 1_000)
        rows = frame(seed, rows=int(rng.choice([60, 200, 600, 2_000])), rate=float(rng.choice([0.5, 0.7, 0.97])))
        rows["feature_gaps"] = np.where(rng.random(len(rows)) < 0.4, np.nan, rows["feature_strong"] + rng.normal())
        rows["feature_kind"] = rng.choice(["blog", "forum", "wiki"], len(rows))
        rows["feature_is_new"] = rng.choice([0.0, 1.0], len(rows))
        accused += search(rows, gaps=NUMBER, kind=CATEGORY, is_new=BOOLEAN).certain
    assert accused == []


def test_the_simulated_automation_has_no_leak() -> None:
    """Its features are what a worker knows before a task; ten weeks of 600 tasks."""
    print("seeds 0 to 9")
    start, end = datetime(2026, 1, 4, tzinfo=UTC), datetime(2026, 1, 11, tzinfo=UTC)
    schema = Config().schema
    accused: list[Leak] = []
    for seed in range(10):
        rows = pd.DataFrame(SimulatedAutomation(seed).history(600, start, end)).rename(
            columns={"action_attempted": "action"}
        )
        rows["result"] = np.where(rows["result"].isin([True, "success"]), "success", "failure")
        accused += find_leaks(rows[:420], rows[420:510], schema, LIMIT).certain
    assert accused == []


@pytest.mark.parametrize("seed", range(5))
def test_a_feature_that_is_the_outcome_in_disguise_is_found(seed: int) -> None:
    """A number with noise, a number that is extreme on both sides, a category, a flag that is wrong at times."""
    rng = np.random.default_rng(seed)
    rows = frame(seed)
    success = succeeded(rows)
    rows["feature_near"] = success + rng.normal(scale=0.2, size=ROWS)
    rows["feature_far"] = np.where(success, 0.0, rng.choice([-5.0, 5.0], ROWS)) + rng.normal(scale=0.5, size=ROWS)
    rows["feature_state"] = np.where(success, rng.choice(["live", "listed"], ROWS), "gone")
    rows["feature_flag"] = np.where(rng.random(ROWS) < 0.005, ~success, success).astype(float)
    found = search(rows, near=NUMBER, far=NUMBER, state=CATEGORY, flag=BOOLEAN)
    assert kinds(found) == {(name, "outcome") for name in ("near", "far", "state", "flag")}
    assert all("alone tells success from failure" in leak.message for leak in found.certain)
    strongest = found.strongest
    assert strongest is not None
    assert strongest[1] > LIMIT


@pytest.mark.parametrize("when", [True, False])
def test_a_feature_that_is_there_with_one_result_only_is_found(when: bool) -> None:  # noqa: FBT001  (a test's parameter)
    """Filled in for half of the successes, or for half of the failures: ROC AUC alone would not see it."""
    rows = frame(1)
    known = (succeeded(rows) == when) & (np.random.default_rng(2).random(ROWS) < 0.5)
    rows["feature_place"] = np.where(known, np.random.default_rng(3).normal(size=ROWS), np.nan)
    found = search(rows, place=NUMBER)
    assert kinds(found) == {("place", "presence")}
    assert found.auc["place"] < LIMIT
    (leak,) = found.certain
    assert leak.message.startswith("place is present in ")
    assert leak.message.endswith(f"all of them are a {'success' if when else 'failure'}: filled in afterwards")


def test_a_feature_that_is_missing_where_no_outcome_came_is_found() -> None:
    """A worker that tells a feature only together with the outcome makes its absence a failure."""
    rows = frame(2)
    silent = ~succeeded(rows) & (np.random.default_rng(0).random(ROWS) < 0.6)
    rows["feature_late"] = pd.Series("a", index=rows.index).mask(silent)
    (leak,) = search(rows, late=CATEGORY).certain
    assert (leak.feature, leak.kind) == ("late", "presence")
    assert leak.message.startswith("late is missing in ")


def test_a_telling_name_needs_less_evidence_and_is_no_evidence_itself() -> None:
    """Thirty rows with one result are enough for `published_at`, not for `rank`; noise under such a name is nothing."""
    rows = frame(3)
    few = np.flatnonzero(~succeeded(rows))[:30]
    told = np.full(ROWS, np.nan)
    told[few] = 1.0
    rows["feature_published_at"], rows["feature_rank"] = told, told
    rows["feature_error_code"] = np.random.default_rng(0).normal(size=ROWS)
    found = search(rows, published_at=NUMBER, rank=NUMBER, error_code=NUMBER)
    assert kinds(found) == {("published_at", "presence")}
    assert sounds_like_a_result("Failure_Reason")
    assert not sounds_like_a_result("url_path_depth")


def test_identifiers_are_found_also_when_tasks_are_tried_again() -> None:
    """A name of each task, and a number that counts up; a measurement with as many values is none."""
    rows = frame(4)
    rows["task_id"] = [f"task {place // 2}" for place in range(ROWS)]
    rows["feature_url"] = rows["task_id"].str.upper()
    rows["feature_row"] = np.arange(ROWS) * 3.0
    found = search(rows, url=CATEGORY, row=NUMBER)
    assert kinds(found) == {("url", "identifier"), ("row", "identifier")}
    assert "names the task" in found.certain[0].message
    assert "counts up with time" in found.certain[1].message


def test_what_honest_features_do_too_is_told_and_does_not_fail() -> None:
    """A site without a forum cannot succeed in the forum; a kind of site may always fail."""
    rows = frame(5)
    rng = np.random.default_rng(5)
    has_forum = rng.random(ROWS) < 0.5
    is_forum = np.asarray(rows["action"] == "forum")
    blocked = rng.random(ROWS) < 0.3
    result = np.where(is_forum, has_forum, succeeded(rows)) & ~blocked
    rows["result"] = np.where(result, "success", "failure")
    rows["feature_forum_supported"] = has_forum.astype(float)
    rows["feature_platform"] = np.where(blocked, "closed", "open")
    found = search(rows[~blocked | ~is_forum], forum_supported=BOOLEAN, platform=CATEGORY)
    assert found.certain == ()
    assert {(leak.feature, leak.kind) for leak in found.leaks} == {
        ("forum_supported", "one_action"),
        ("platform", "pure_category"),
    }


def test_too_few_rows_of_one_result_are_said_to_be_too_few() -> None:
    """And no rows, or a feature that the rows do not have, are no traceback."""
    rows = frame(6, rows=60)
    assert search(rows).note == "fewer than 20 rows of one result: no feature was judged alone"
    assert search(rows[:0]).note == "there are no rows to search"
    assert "absent" not in search(frame(6), absent=NUMBER).auc
    everything_missing = frame(6).assign(feature_empty=np.nan)
    assert search(everything_missing, empty=NUMBER).certain == ()


def test_arrow_columns_are_read_like_others() -> None:
    """Snapshots come as Arrow-backed frames."""
    rows = frame(7)
    rows["feature_state"] = pd.Series("live", index=rows.index).where(succeeded(rows))
    assert search(rows, state=CATEGORY) == search(rows.convert_dtypes(dtype_backend="pyarrow"), state=CATEGORY)
