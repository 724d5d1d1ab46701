from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.core.metrics import (
    HIGHER_IS_BETTER,
    calibration_table,
    compare,
    evaluate,
    feature_importance,
    metric_value,
    roc_auc,
    score,
    wilson_interval,
)
from retrain_assets.core.model import ParityResult, TrainSpec, train
from retrain_assets.core.report import GATES, DataFacts, HeldOut, ReportPolicy, Rival, ValidationReport, build_report
from retrain_assets.core.report_gates import production_gate, trivial_gate

SCHEMA = FeatureSchema((Feature("pa", FeatureType.NUMBER),), ("comment", "forum"))
PARITY = ParityResult(1e-7, 10_000)
LENIENT = ReportPolicy(validation_threshold=0.0)


def sample(rows: int, seed: int, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """True probabilities and the successes drawn from them."""
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-signal * rng.normal(size=rows)))
    return p, rng.random(rows) < p


def held_out(success: np.ndarray) -> HeldOut:
    """Test rows with two actions and one task each."""
    names = np.array(["comment", "forum"])[np.arange(len(success)) % 2]
    return HeldOut(success, names, np.full(len(success), "blog"), np.arange(len(success)).astype(str))


def judge(success: np.ndarray, candidate: np.ndarray, **changes: Any) -> ValidationReport:  # noqa: ANN401  (build_report's arguments)
    """A report with everything in order but what `changes` says."""
    facts = {name: changes.pop(name) for name in DataFacts.__slots__ if name in changes}
    data = DataFacts(**{"train_success_rate": 0.5, **facts})
    for role in ("production", "previous"):
        if role in changes:
            changes[role] = Rival(changes.pop(f"{role}_version", "v1.0.0"), changes[role])
    arguments = {"policy": LENIENT, "data": data, "schema": SCHEMA, "parity": PARITY, **changes}
    return build_report(held_out(success), candidate, **arguments)


def gate(report: ValidationReport, name: str) -> Any:  # noqa: ANN401  (a Gate)
    """The gate called `name`."""
    return next(item for item in report.gates if item.name == name)


# ------------------------------------------------------------------------------------------------------- metrics


def test_metrics_equal_scikit_learns() -> None:
    """Log loss, Brier score, ROC AUC with ties and accuracy, on rounded probabilities."""
    print("seed 0")
    p, success = sample(500, 0)
    p = np.round(p, 1).clip(0.05, 0.95)
    found = score(success, p)
    assert found["log_loss"] == pytest.approx(reference.log_loss(success, p))
    assert found["brier"] == pytest.approx(reference.brier_score_loss(success, p))
    assert found["roc_auc"] == pytest.approx(reference.roc_auc_score(success, p))
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(success, p > 0.5))
    assert found["success_rate"] == success.mean()


def test_one_class_has_no_roc_auc_and_no_rows_have_nothing() -> None:
    """What could not be measured is None, never a number."""
    assert roc_auc(np.ones(5, dtype=bool), np.linspace(0, 1, 5)) is None
    assert score(np.zeros(0, dtype=bool), np.zeros(0)) == {
        "n": 0,
        **dict.fromkeys(list(score(np.ones(1, dtype=bool), np.ones(1)))[1:]),
    }


def test_a_certain_mistake_costs_much_but_not_infinitely() -> None:
    """One saturated score does not make a model incomparable."""
    assert score(np.array([True]), np.array([0.0]))["log_loss"] == pytest.approx(16.118, abs=0.001)


def test_calibration_error_is_small_for_true_probabilities_and_sees_a_shift() -> None:
    """True probabilities: near 0; the same raised by 0.1: near 0.1."""
    print("seed 1")
    rng = np.random.default_rng(1)
    p = rng.uniform(0.2, 0.8, 20_000)
    success = rng.random(20_000) < p
    assert score(success, p)["calibration_error"] == pytest.approx(0.0, abs=0.015)
    assert score(success, p + 0.1)["calibration_error"] == pytest.approx(0.1, abs=0.015)


def test_the_calibration_table_covers_every_row_once() -> None:
    """Ten bins of equal count, in ascending order, observed rates inside their intervals."""
    p, success = sample(995, 2)
    table = calibration_table(success, p)
    assert [row["n"] for row in table] == [100] * 5 + [99] * 5
    assert [row["predicted"] for row in table] == sorted(row["predicted"] for row in table)
    assert all(row["low"] <= row["observed"] <= row["high"] for row in table)
    assert calibration_table(success[:3], p[:3])[0]["n"] == 1


def test_wilson_intervals_are_the_published_ones() -> None:
    """81 of 263: Newcombe (1998), method 3, prints 0.2553 to 0.3662."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_groups_are_judged_apart() -> None:
    """Each action and each stratum has its own numbers, and they add up."""
    p, success = sample(100, 3)
    found = evaluate(success, p, np.array(["a"] * 30 + ["b"] * 70), np.array(["x"] * 100))
    assert {name: part["n"] for name, part in found["by_action"].items()} == {"a": 30, "b": 70}
    assert found["by_action"]["a"]["success_rate"] == success[:30].mean()
    assert found["by_stratum"]["x"] == found["overall"]


def test_importance_finds_the_column_that_matters() -> None:
    """Shuffling the one column that the predictions use costs; shuffling another costs nothing."""
    print("seed 4")
    p, success = sample(1_000, 4)
    rows = pd.DataFrame({"used": p, "unused": p})
    found = feature_importance(lambda frame: frame["used"].to_numpy(), rows, ["unused", "used", "absent"], success)
    assert list(found) == ["used", "unused"]
    assert found["used"] > 0.05
    assert found["unused"] == 0.0


# ------------------------------------------------------------------------------------------------------- comparing


@pytest.mark.parametrize("metric", HIGHER_IS_BETTER)
def test_improvement_is_positive_for_the_better_model_whichever_way_the_metric_counts(metric: str) -> None:
    """The truth against the truth blurred: better in all four metrics, with an interval around the estimate."""
    print("seed 5")
    p, success = sample(3_000, 5)
    blurred = 1 / (1 + np.exp(-(np.log(p / (1 - p)) + np.random.default_rng(6).normal(size=3_000))))
    found = compare(p, blurred, success, metric=metric, resamples=300)
    assert found.improvement is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.improvement < found.high
    assert found.low > 0
    assert compare(blurred, p, success, metric=metric, resamples=300).improvement == pytest.approx(-found.improvement)


def test_the_resampled_roc_auc_is_the_real_one() -> None:
    """The interval of a model against itself is exactly zero, and draws centre on the estimate."""
    p, success = sample(400, 7)
    same = compare(p, p, success, metric="roc_auc", resamples=50)
    assert (same.improvement, same.low, same.high) == (0.0, 0.0, 0.0)
    found = compare(p, np.full(400, 0.5), success, metric="roc_auc", resamples=400)
    value = metric_value("roc_auc", success, p)
    assert value is not None
    assert found.improvement == pytest.approx(value - 0.5)
    assert found.low is not None
    assert found.high is not None
    assert (found.low + found.high) / 2 == pytest.approx(value - 0.5, abs=0.01)


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    """Over 200 seeds of 200 rows, the 95 % interval covers in at least 89 %."""
    print("seeds 0 to 199")
    big, _ = sample(200_000, 999)
    truth = float(np.mean(_entropy_loss(big, 0.5) - _entropy_loss(big, big)))
    covered = 0
    for seed in range(200):
        p, success = sample(200, seed)
        found = compare(p, np.full(200, 0.5), success, resamples=200, seed=seed)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert covered >= 178


def _entropy_loss(p: np.ndarray, q: np.ndarray | float) -> np.ndarray:
    return np.asarray(-(p * np.log(q) + (1 - p) * np.log(1 - np.asarray(q))))


def test_attempts_of_one_task_count_as_one_piece_of_evidence() -> None:
    """Every row four times over is no more evidence: the error stays that of the tasks."""
    p, success = sample(300, 8)
    once = compare(p, np.full(300, 0.5), success)
    copied = compare(np.repeat(p, 4), np.full(1_200, 0.5), np.repeat(success, 4), task=np.repeat(np.arange(300), 4))
    assert copied.improvement == pytest.approx(once.improvement)
    assert copied.standard_error == pytest.approx(once.standard_error, rel=0.15)


def test_the_same_seed_gives_the_same_interval() -> None:
    """A report can be reproduced."""
    p, success = sample(100, 9)
    assert compare(p, p**2, success, seed=1) == compare(p, p**2, success, seed=1)
    assert compare(p, p**2, success, seed=1) != compare(p, p**2, success, seed=2)


# ------------------------------------------------------------------------------------------------------- gates


def test_a_good_first_model_passes_every_gate() -> None:
    """Without production there is nothing to be worse than, and the report says so."""
    p, success = sample(400, 10)
    report = judge(success, p)
    assert report.passed
    assert report.summary == "passed all gates"
    assert gate(report, "not_worse_than_production").message == "there is no production model to compare with"
    assert tuple(item.name for item in report.gates) == GATES


def test_a_report_survives_json() -> None:
    """What is stored is what was judged, without NaN."""
    p, success = sample(100, 11)
    odd = {"error": float("inf"), "nested": [float("nan"), 1.5]}
    report = judge(success, p, production=p**2, previous=p**3, importance={"action": 0.1}, details=odd)
    stored = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert stored["passed"] is report.passed
    assert stored["details"] == {"error": None, "nested": [None, 1.5]}
    again = json.loads(json.dumps(ValidationReport.from_dict(stored).to_dict(), allow_nan=False))
    assert again == stored


def test_a_report_of_an_earlier_version_is_still_read() -> None:
    """It knows neither groups nor the candidate before, and its gates all refuse."""
    p, success = sample(100, 11)
    stored = judge(success, p).to_dict()
    for name in ("groups", "previous_version", "previous_metrics", "previous_comparisons"):
        del stored[name]
    for old in stored["gates"]:
        del old["is_refusing"]
    read = ValidationReport.from_dict(stored)
    assert (read.passed, read.groups, read.previous_comparisons) == (True, {}, ())
    assert all(item.is_refusing for item in read.gates)


def _noise_passes(seeds: range, rows: int, drift: float) -> tuple[int, int]:
    """How many models of coin flips pass: the gate, and one that knows the training rate alone; `drift` in logits."""
    both = alone = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        rate = 1 / (1 + np.exp(-0.6 - np.linspace(-drift / 2, drift / 2, rows)))
        frame = pd.DataFrame(
            {
                "task_id": np.arange(rows).astype(str),
                "feature_pa": rng.normal(size=rows),
                "action": rng.choice(["comment", "forum"], rows),
                "result": np.where(rng.random(rows) < rate, "success", "failure"),
            }
        )
        first, second = round(0.7 * rows), round(0.85 * rows)
        model = train(frame[:first], frame[first:second], SCHEMA, TrainSpec(params={"max_iter": 40}))
        test = HeldOut.from_rows(frame[second:])
        rates = [model.train_success_rate, float((frame["result"][first:second] == "success").mean())]
        p = model.predict(frame[second:])
        both += trivial_gate(test.success, p, rates, test.task).passed
        alone += trivial_gate(test.success, p, rates[:1], test.task).passed
    return both, alone


def test_models_of_pure_noise_do_not_beat_the_constant_guess() -> None:
    """Trained on labels that are coin flips, with 75 test rows, at most 2 of 40 candidates slip through."""
    print("seeds 0 to 39")
    passed, _ = _noise_passes(range(40), 500, 0.0)
    print(f"{passed} of 40")
    assert passed <= 2


def test_following_the_success_rate_is_not_learning() -> None:
    """Where the rate rises all the time, coin flips beat the old rate, and do not beat the newest one."""
    print("seeds 0 to 9")
    passed, against_training_alone = _noise_passes(range(10), 3_333, 0.8)
    print(f"{passed} and {against_training_alone} of 10")
    assert passed == 0
    assert against_training_alone >= 3


def test_an_honest_signal_passes_and_thirty_rows_do_not_block_for_ever() -> None:
    """The truth itself: at 30 test rows it passes in at least a fifth of the weeks, at 300 nearly always."""
    print("seeds 0 to 199")
    shares = {}
    for rows in (30, 300):
        found = [trivial_gate(success, p, [0.5, 0.52], np.arange(rows).astype(str)).passed
                 for p, success in (sample(rows, seed) for seed in range(200))]  # fmt: skip
        shares[rows] = float(np.mean(found))
    print(shares)
    assert shares[30] >= 0.2
    assert shares[300] >= 0.95


def test_the_constant_guess_itself_never_passes() -> None:
    """Nor does a model that is a hair better by luck."""
    p, success = sample(1_000, 12)
    assert not gate(judge(success, np.full(1_000, 0.5)), "better_than_trivial").passed
    assert not gate(judge(success, np.where(success, 0.5001, 0.5)), "better_than_trivial").passed
    assert gate(judge(success, p), "better_than_trivial").passed


def test_a_candidate_that_is_shown_to_be_worse_than_production_is_refused() -> None:
    """The message has the interval and what so many rows can show."""
    p, success = sample(1_000, 13)
    worse = 1 / (1 + np.exp(-3 * np.log(p / (1 - p))))
    found = gate(judge(success, worse, production=p), "not_worse_than_production")
    assert not found.passed
    assert found.message.startswith("log_loss shown to be worse than production")
    assert "1000 rows can show a difference of" in found.message
    assert gate(judge(success, p, production=worse), "not_worse_than_production").passed


@pytest.mark.parametrize("rows", [30, 300])
def test_an_equal_candidate_is_seldom_refused(rows: int) -> None:
    """Two models that differ by noise alone: over 200 seeds at most 22 % are held back, so no one blocks for ever."""
    print("seeds 0 to 199")
    refused = 0
    for seed in range(200):
        p, success = sample(rows, seed)
        rng = np.random.default_rng(seed + 10_000)
        first, second = (1 / (1 + np.exp(-(np.log(p / (1 - p)) + 0.4 * rng.normal(size=rows)))) for _ in range(2))
        found = compare(first, second, success, resamples=100)
        refused += not production_gate((found,), rows, LENIENT).passed
    print(f"{refused} of 200")
    assert refused <= 44


@pytest.mark.parametrize(
    ("metric", "threshold", "passes"),
    [("accuracy", 0.6, True), ("accuracy", 0.95, False), ("roc_auc", 0.6, True), ("log_loss", 0.65, True),
     ("log_loss", 0.3, False), ("brier", 0.24, True), ("brier", 0.05, False)],
)  # fmt: skip
def test_the_threshold_is_a_floor_or_a_ceiling_as_the_metric_wants(metric: str, threshold: float, passes: bool) -> None:  # noqa: FBT001  (a test's parameter)
    """Accuracy and ROC AUC at least, log loss and Brier score at most."""
    p, success = sample(2_000, 14, signal=1.5)
    policy = ReportPolicy(validation_metric=metric, validation_threshold=threshold)
    found = gate(judge(success, p, policy=policy), "validation_threshold")
    assert found.passed is passes
    assert ("at least" in found.message) is HIGHER_IS_BETTER[metric]


def test_what_cannot_be_measured_does_not_pass() -> None:
    """ROC AUC of test rows of one class is no reason to deploy."""
    policy = ReportPolicy(validation_metric="roc_auc", validation_threshold=0.5)
    found = gate(judge(np.ones(50, dtype=bool), np.full(50, 0.9), policy=policy), "validation_threshold")
    assert not found.passed
    assert found.message == "roc_auc cannot be measured: the 50 test rows have one class only"


def test_small_and_broken_candidates_are_refused_with_a_reason() -> None:
    """Too few test rows, too few new samples, an engine that disagrees: each says its number."""
    p, success = sample(9, 15)
    report = judge(success, p, parity=ParityResult(float("nan"), 10), new_samples=99)
    assert not report.passed
    assert gate(report, "parity").value is None
    assert "99 new samples, 100 are needed" in report.summary
    assert "9 test rows, 10 are needed" in report.summary
    assert not judge(np.zeros(0, dtype=bool), np.zeros(0)).passed


@pytest.mark.parametrize(
    ("production", "value", "message"),
    [
        (SCHEMA, "same", "is production's"),
        (FeatureSchema((), ("comment", "forum")), "compatible", "feature pa was added"),
        (
            FeatureSchema(SCHEMA.features, ("comment", "forum", "guest")),
            "breaking",
            "MAJOR version: action guest was removed",
        ),
    ],
)
def test_a_changed_schema_is_told_and_a_breaking_one_is_a_major_version(
    production: FeatureSchema, value: str, message: str
) -> None:
    """A breaking change is somebody's decision in the config: it passes, and is written down."""
    p, success = sample(100, 16)
    found = gate(judge(success, p, production_schema=production), "schema_compatible")
    assert found.passed
    assert found.value == value
    assert message in found.message


def test_held_out_rows_are_read_from_a_frame() -> None:
    """Arrow-backed columns and a missing stratum are fine; lengths that differ are not."""
    rows = pd.DataFrame({"task_id": ["a", "b"], "action": ["x", "y"], "result": ["success", "error"]})
    for frame in (rows, rows.convert_dtypes(dtype_backend="pyarrow")):
        read = HeldOut.from_rows(frame.assign(stratum=pd.Series(["s", None], dtype=object)))
        assert read.success.tolist() == [True, False]
        assert read.stratum.tolist() == ["s", "missing"]
        assert HeldOut.from_rows(frame).stratum.tolist() == ["", ""]
    with pytest.raises(ValueError, match="differ in length"):
        judge(np.ones(3, dtype=bool), np.ones(2))


def test_a_metric_nobody_knows_is_refused() -> None:
    """The policy names the ones there are."""
    with pytest.raises(ValueError, match="one of accuracy, roc_auc, log_loss, brier"):
        ReportPolicy(validation_metric="f1")
