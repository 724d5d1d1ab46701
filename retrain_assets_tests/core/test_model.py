from __future__ import annotations

import copy
import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from retrain_assets.core.encoding import Encoding, encode_rows
from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.core.model import (
    ParityResult,
    TrainedModel,
    TrainSpec,
    canonical_json,
    fitted_digest,
    manifest,
    pack,
    parity,
    pipeline_bytes,
    pipeline_from_bytes,
    to_onnx,
    train,
)
from retrain_assets.core.pipeline import Calibration, encode_frame, fit_calibration, fit_encoding, fit_sigmoid
from retrain_assets.errors import ArtefactRefused, ConfigError, SchemaError, TrainingImpossible, UsageError
from retrain_assets.serving.artefact import Artefact

ACTIONS = ("comment", "profile", "forum", "guest")
SCHEMA = FeatureSchema(
    (
        Feature("pa", FeatureType.NUMBER, 0, 100),
        Feature("depth", FeatureType.INTEGER, 0),
        Feature("site_type", FeatureType.CATEGORY),
        Feature("https", FeatureType.BOOLEAN),
    ),
    ACTIONS,
    ("site_type",),
)
ESTIMATORS = ("hist_gradient_boosting", "logistic_regression")


def simulate(rows: int, seed: int, signal: float = 1.0) -> pd.DataFrame:
    """Attempts whose P(success) depends on pa, on the site type and on which action meets it; order is time."""
    rng = np.random.default_rng(seed)
    site = rng.choice(["blog", "forum", "news"], rows, p=[0.6, 0.3, 0.1])
    pa, action = rng.uniform(0, 100, rows), rng.integers(0, 4, rows)
    log_odds = signal * (0.03 * (pa - 50) + 1.5 * ((site == "forum") & (action == 2)) - 1.0 * (action == 3))
    success = rng.random(rows) < 1 / (1 + np.exp(-log_odds))
    return pd.DataFrame(
        {
            "task_id": [f"t{i}" for i in range(rows)],
            "matured_at": pd.to_datetime([datetime(2026, 1, 4, tzinfo=UTC) + timedelta(hours=i) for i in range(rows)]),
            "action": np.array(ACTIONS, dtype=object)[action],
            "result": np.where(success, "success", "failure"),
            "feature_pa": np.where(rng.random(rows) < 0.1, np.nan, pa),
            "feature_depth": rng.integers(0, 6, rows).astype(float),
            "feature_site_type": pd.Series(site, dtype=object).mask(rng.random(rows) < 0.05),
            "feature_https": pd.Series(
                [(True, False, None)[index] for index in rng.integers(0, 3, rows)], dtype=object
            ),
        }
    )


def fitted(data_seed: int = 0, rows: int = 800, **spec: Any) -> TrainedModel:  # noqa: ANN401  (fields of TrainSpec)
    """A model of simulated rows, the newest fifth for validation."""
    data = simulate(rows, data_seed)
    cut = int(rows * 0.8)
    return train(data[:cut], data[cut:], SCHEMA, TrainSpec(**spec))


# ------------------------------------------------------------------------------------------------------- encoding


def test_a_frame_and_a_single_task_are_encoded_alike() -> None:
    """The engine's row-wise encoding equals training's column-wise one, bit for bit."""
    rows = simulate(300, 1)
    encoding = fit_encoding(SCHEMA, rows[:200])
    names = [column.name for column in encoding.columns]
    tasks = [{name: row[f"feature_{name}"] for name in names} for row in rows.to_dict("records")]
    by_row = encode_rows(encoding, tasks, rows["action"].tolist())
    np.testing.assert_array_equal(encode_frame(encoding, rows), by_row)


@pytest.mark.parametrize("backend", ["object", "arrow"])
def test_the_storage_type_of_a_column_does_not_matter(backend: str) -> None:
    """Object, nullable and arrow-backed columns give the same matrix."""
    rows = simulate(200, 2)
    encoding = fit_encoding(SCHEMA, rows)
    arrow, plain = rows.convert_dtypes(dtype_backend="pyarrow"), rows.astype(object).where(rows.notna(), None)
    other = arrow if backend == "arrow" else plain
    assert fit_encoding(SCHEMA, other) == encoding
    np.testing.assert_array_equal(encode_frame(encoding, other), encode_frame(encoding, rows))


def test_unseen_categories_are_minus_one_and_missing_values_are_nan() -> None:
    """The two are different facts and have different codes."""
    encoding = fit_encoding(SCHEMA, simulate(100, 0))
    encode = encoding.row_encoder()
    assert encode({"site_type": "never seen"})[2] == -1
    assert all(math.isnan(value) for value in encode({}))


def test_rarer_categories_lie_nearer_to_the_unseen_ones() -> None:
    """Codes ascend with frequency, so that a split treats the unseen like the rare."""
    encoding = fit_encoding(SCHEMA, simulate(1_000, 0))
    assert encoding.columns[2].categories == ("news", "forum", "blog")


def test_an_encoding_survives_json() -> None:
    """What the manifest holds is the whole encoding."""
    encoding = fit_encoding(SCHEMA, simulate(100, 0))
    assert Encoding.from_dict(json.loads(json.dumps(encoding.to_dict()))) == encoding


def test_a_feature_that_history_does_not_know_is_missing() -> None:
    """A snapshot from before a feature was added trains on."""
    rows = simulate(100, 0).drop(columns=["feature_https"])
    assert np.isnan(encode_frame(fit_encoding(SCHEMA, rows), rows)[:, 3]).all()


def test_text_in_a_number_column_names_the_feature() -> None:
    """A broken snapshot is told apart from a missing value."""
    rows = simulate(50, 0)
    broken = rows.assign(feature_pa=pd.Series(["high"] * 50, dtype=object))
    with pytest.raises(SchemaError, match="pa: holds a value that is not a number"):
        fit_encoding(SCHEMA, broken)


# ------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_model_learns_what_the_simulation_taught(estimator: str) -> None:
    """On fresh rows it saves two thirds of what the true probabilities save over a constant guess."""
    print("seeds 0 and 77")
    model, fresh = fitted(0, 3_000, estimator=estimator), simulate(3_000, 77)
    success = (fresh["result"] == "success").to_numpy()
    p = model.predict(fresh)
    loss = -np.where(success, np.log(p), np.log1p(-p)).mean()
    rate = success.mean()
    constant = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    # The true probabilities of these rows reach 0.5805 against 0.6915 of a constant.
    assert constant - loss > 2 / 3 * (0.6915 - 0.5805)


def test_the_action_is_the_last_column_and_changes_the_answer() -> None:
    """Posting in a forum is the simulation's best choice, and the model ranks it first."""
    model = fitted(0, 3_000)
    task = pd.DataFrame({"feature_pa": [60.0] * 4, "feature_site_type": ["forum"] * 4, "action": ACTIONS})
    assert ACTIONS[int(np.argmax(model.predict(task)))] == "forum"
    assert encode_frame(model.pipeline.encoding, task)[:, -1].tolist() == [0, 1, 2, 3]


def test_one_class_is_a_named_error() -> None:
    """Nothing is fitted on rows that all succeeded."""
    rows = simulate(100, 0).assign(result="success")
    with pytest.raises(TrainingImpossible, match="100 training rows of one class only"):
        train(rows, rows, SCHEMA, TrainSpec())


def test_no_rows_are_a_named_error() -> None:
    """An empty part is not taken for one class."""
    rows = simulate(10, 0)
    with pytest.raises(TrainingImpossible, match="no training rows"):
        train(rows[:0], rows, SCHEMA, TrainSpec())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_two_fits_give_the_same_bytes(estimator: str) -> None:
    """model.onnx, manifest.json and the fitted arrays are functions of rows and spec."""
    first, second = (pack(fitted(5, 400, estimator=estimator), Artefact.load, rows=500) for _ in range(2))
    assert first.onnx == second.onnx
    assert first.manifest == second.manifest
    digests = [fitted_digest(fitted(5, 400, estimator=estimator).pipeline) for _ in range(2)]
    assert digests[0] == digests[1]
    assert digests[0] != fitted_digest(fitted(6, 400, estimator=estimator).pipeline)


def test_columns_that_never_had_a_value_do_not_stop_training() -> None:
    """A feature that is configured but not sent yet is just missing."""
    rows = simulate(400, 0).assign(feature_pa=np.nan, feature_site_type=None)
    packed = pack(train(rows[:300], rows[300:], SCHEMA, TrainSpec()), Artefact.load, rows=500)
    assert packed.parity.passed


# ------------------------------------------------------------------------------------------------------- calibration


def test_calibration_recovers_a_known_distortion() -> None:
    """Log-odds that are three times too large and shifted get slope 1/3 and the shift back."""
    print("seed 11")
    rng = np.random.default_rng(11)
    truth = rng.normal(0, 1.5, 20_000)
    success = rng.random(20_000) < 1 / (1 + np.exp(-truth))
    slope, intercept = fit_sigmoid(3 * truth + 1.2, success)
    assert slope == pytest.approx(1 / 3, abs=0.02)
    assert intercept == pytest.approx(-0.4, abs=0.06)


def test_calibration_is_kept_where_it_helps_and_lowers_the_loss_on_fresh_rows() -> None:
    """Over 20 seeds of an overconfident model: always kept, and always better on rows it never saw."""
    print("seeds 0 to 19")
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth = rng.normal(0, 1, 2_000)
        success = rng.random(2_000) < 1 / (1 + np.exp(-truth))
        calibration = fit_calibration(3 * truth[:400], success[:400])
        assert calibration.method == "sigmoid"
        losses = [
            np.logaddexp(0, np.where(success[400:], -z, z)).mean()
            for z in (3 * truth[400:], calibration.slope * 3 * truth[400:] + calibration.intercept)
        ]
        assert losses[1] < losses[0]


def test_calibration_is_seldom_kept_on_probabilities_that_are_right_already() -> None:
    """Over 100 seeds of true log-odds it is kept in at most 15, and never turns the ranking round."""
    print("seeds 0 to 99")
    kept = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        truth = rng.normal(0, 1, 300)
        calibration = fit_calibration(truth, rng.random(300) < 1 / (1 + np.exp(-truth)))
        kept += calibration.method == "sigmoid"
        assert calibration.slope > 0
    assert kept <= 15


def test_calibration_is_not_tried_on_few_rows_or_on_one_class() -> None:
    """What cannot be judged is left alone."""
    scores = np.linspace(-2, 2, 49)
    assert fit_calibration(scores, scores > 0) == Calibration()
    assert fit_calibration(np.zeros(500), np.ones(500, dtype=bool)) == Calibration()


def test_engine_and_pipeline_apply_the_same_calibration() -> None:
    """A calibrated overfitted model passes the parity gate, and the manifest tells its parameters."""
    model = fitted(
        0,
        1_500,
        params={"stop_on_validation": False, "min_samples_leaf": 1, "learning_rate": 0.3, "max_leaf_nodes": 31},
    )
    assert model.pipeline.calibration.method == "sigmoid"
    packed = pack(model, Artefact.load, rows=3_000)
    told = json.loads(packed.manifest)["calibration"]
    assert told == {
        "method": "sigmoid",
        "slope": model.pipeline.calibration.slope,
        "intercept": model.pipeline.calibration.intercept,
    }


# ------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_engine_and_pipeline_agree_on_ten_thousand_hard_rows(estimator: str, seed: int) -> None:
    """Unseen categories, missing values, thresholds, their neighbours and extremes: below 1e-5."""
    print(f"seed {seed}")
    packed = pack(fitted(seed, 1_000, estimator=estimator, seed=seed), Artefact.load)
    assert packed.parity.rows == 10_000
    assert packed.parity.max_abs_difference < 1e-5
    assert json.loads(packed.manifest)["parity"]["below"] <= 1e-5


def test_splits_between_neighbouring_float32_values_convert_exactly() -> None:
    """The one place where rounding a threshold to the nearest float32 is visibly wrong (0.99 off)."""
    ladder = np.float32(1) + np.arange(3, dtype=np.float32) * np.spacing(np.float32(1))
    rows = pd.DataFrame(
        {
            "feature_pa": np.repeat(ladder.astype(float), 200),
            "action": "comment",
            "result": np.repeat(["failure", "success", "failure"], 200),
        }
    )
    packed = pack(train(rows, rows, SCHEMA, TrainSpec()), Artefact.load)
    assert packed.parity.max_abs_difference < 1e-6


def test_the_gate_refuses_an_engine_that_differs() -> None:
    """A scorer that is 2e-5 off on one row in three is refused, with the number."""

    class Skewed:
        def __init__(self, onnx_bytes: bytes, manifest_bytes: bytes) -> None:
            self.inner = Artefact.load(onnx_bytes, manifest_bytes)

        def score_many(self, rows: Any, actions: Any) -> np.ndarray:  # noqa: ANN401  (Scorer's arguments)
            scores = self.inner.score_many(rows, actions).astype(float)
            scores[::3] += 2e-5
            return scores

    with pytest.raises(ArtefactRefused, match=r"differs from its pipeline by 2e-05 on 900 hard rows"):
        pack(fitted(), Skewed, rows=900)


def test_an_engine_that_answers_nan_never_passes() -> None:
    """NaN compares false with every limit, and must not slip through."""

    class Silent:
        def score_many(self, rows: Any, actions: Any) -> np.ndarray:  # noqa: ANN401  (Scorer's arguments)
            return np.full(len(rows), np.nan)

    assert not parity(fitted(), Silent(), rows=50).passed


def test_the_recorded_parity_is_a_power_of_ten() -> None:
    """The last bits of another processor do not change the manifest."""
    assert ParityResult(1.3e-7, 10).to_dict()["below"] == 1e-6
    assert ParityResult(9.9e-7, 10).to_dict()["below"] == 1e-6
    assert ParityResult(0.0, 10).to_dict()["below"] <= 1e-8


# ------------------------------------------------------------------------------------------------------- incremental


def test_incremental_training_keeps_the_parents_trees_and_adds_to_them() -> None:
    """The parent is unchanged, its trees come first, and new categories get codes after its own."""
    parent = fitted(0, 1_000)
    before = fitted_digest(parent.pipeline)
    newer = simulate(1_000, 9)
    newer.loc[:400, "feature_site_type"] = "wiki"
    spec = TrainSpec(mode="incremental", parent_digest="d" * 64)
    model = train(newer[:800], newer[800:], SCHEMA, spec, parent.pipeline)
    assert model.mode == "incremental"
    assert fitted_digest(parent.pipeline) == before
    old, new = parent.pipeline.estimator, model.pipeline.estimator
    for first, second in zip(old.node_arrays(), new.node_arrays(), strict=False):  # type: ignore[attr-defined]
        np.testing.assert_array_equal(first["value"], second["value"])
    assert model.trees is not None
    assert parent.trees is not None
    assert model.trees >= parent.trees
    known = parent.pipeline.encoding.columns[2].categories or ()
    assert model.pipeline.encoding.columns[2].categories == (*known, "wiki")
    assert pack(model, Artefact.load, rows=2_000).parity.passed
    assert manifest(model, b"")["training"]["parent_digest"] == "d" * 64


def test_continuing_starts_from_the_parents_true_scores() -> None:
    """On rows whose bins differ from the parent's, added trees lower the training loss.

    scikit-learn's own warm start walks the old trees by old bin numbers on new bins, and begins from
    scores that no model has.
    """
    print("seeds 0 and 4")
    parent = fitted(0, 1_000, params={"stop_on_validation": False, "max_iter": 30})
    newer = simulate(1_000, 4)
    newer["feature_pa"] = newer["feature_pa"] ** 2 / 100
    params = {"stop_on_validation": False, "incremental_iter": 40}
    model = train(newer, newer[:0], SCHEMA, TrainSpec(mode="incremental", params=params), parent.pipeline)
    success = (newer["result"] == "success").to_numpy()
    parent_loss, loss = (
        -np.where(success, np.log(p), np.log1p(-p)).mean() for p in (parent.predict(newer), model.predict(newer))
    )
    assert model.trees == 70
    assert loss < parent_loss - 0.01


@pytest.mark.parametrize("obstacle", ["no parent", "features differ", "actions differ", "no room"])
def test_what_cannot_be_continued_is_fitted_afresh_and_says_why(obstacle: str) -> None:
    """`incremental` never fails a week: it falls back to a full fit."""
    rows, schema, params = simulate(300, 0), SCHEMA, {}
    parent = None if obstacle == "no parent" else fitted(0, 400).pipeline
    if obstacle == "features differ":
        schema = FeatureSchema(SCHEMA.features[:3], ACTIONS)
    if obstacle == "actions differ":
        schema = FeatureSchema(SCHEMA.features, ACTIONS[::-1])
    if obstacle == "no room":
        params = {"max_trees": 20}
    model = train(rows, rows[:0], schema, TrainSpec(mode="incremental", params=params), parent)
    assert model.mode == "full"
    assert {"no parent": "no parent", "no room": "leave no room"}.get(obstacle, "differ") in model.mode_reason


# ------------------------------------------------------------------------------------------------------- files and spec


def test_a_pipeline_survives_its_file_and_refuses_a_changed_one() -> None:
    """`pipeline.joblib` is unpickled only when its digest matches."""
    model, rows = fitted(), simulate(50, 3)
    packed = pack(model, Artefact.load, rows=100)
    loaded = pipeline_from_bytes(packed.pipeline, packed.digests["pipeline.joblib"])
    np.testing.assert_array_equal(loaded.predict_proba(rows), model.pipeline.predict_proba(rows))
    flipped = packed.pipeline[:-1] + bytes([packed.pipeline[-1] ^ 1])
    with pytest.raises(ArtefactRefused, match=r"pipeline.joblib is not the registered file"):
        pipeline_from_bytes(flipped, packed.digests["pipeline.joblib"])


def test_predicting_leaves_the_pipeline_as_it_was() -> None:
    """Scoring never refits anything."""
    model = fitted()
    before = copy.deepcopy(model.pipeline)
    model.predict(simulate(500, 8))
    assert fitted_digest(before) == fitted_digest(model.pipeline)
    assert pipeline_bytes(before)


def test_the_manifest_is_json_that_depends_on_nothing_else() -> None:
    """Canonical, with a probe for every action and the schema's fingerprint."""
    model = fitted()
    told = manifest(model, to_onnx(model))
    assert canonical_json(told) == canonical_json(json.loads(canonical_json(told)))
    assert told["schema_fingerprint"] == SCHEMA.fingerprint
    assert len(told["probes"]) == 16
    assert {probe["action"] for probe in told["probes"]} == set(ACTIONS)


def test_a_spec_survives_json_and_names_every_wrong_setting() -> None:
    """A typing error in the config is answered with the nearest key."""
    spec = TrainSpec(params={"max_iter": 10}, seed=3, mode="incremental")
    assert TrainSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    with pytest.raises(
        ConfigError, match=r"(?s)learning_rates: is unknown; did you mean learning_rate.*mode: 'x'.*threads"
    ):
        TrainSpec(params={"learning_rates": 1}, mode="x", threads=0)
    with pytest.raises(ConfigError, match="'forest' is not one of"):
        TrainSpec(estimator="forest")


def test_a_spec_of_another_schema_is_refused() -> None:
    """Reproducing with the wrong schema would silently train another model."""
    rows = simulate(100, 0)
    other = FeatureSchema(SCHEMA.features[:2], ACTIONS)
    with pytest.raises(UsageError, match="another feature schema"):
        train(rows, rows, SCHEMA, TrainSpec(schema=other.to_dict()))
