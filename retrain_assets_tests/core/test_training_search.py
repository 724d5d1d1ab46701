"""Parameters searched on the validation part, and users' own estimators: repeatable, recorded, proven at the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from retrain_assets.core.encoding import MAX_CATEGORIES
from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.core.model import SearchPlan, TrainedModel, TrainSpec, fitted_digest, manifest, pack, train
from retrain_assets.core.model_settings import ESTIMATORS, SPACES, estimator_problems, param_problems, space_problems
from retrain_assets.core.search import choose, draw, one_by_one
from retrain_assets.errors import ArtefactRefused, ConfigError, UsageError
from retrain_assets.serving.artefact import Artefact

SCHEMA = FeatureSchema(
    (
        Feature("size", FeatureType.NUMBER),
        Feature("kind", FeatureType.CATEGORY),
        Feature("never", FeatureType.NUMBER),
    ),
    ("post", "mail"),
)
OWN = "my_package.models:make_model"
SOURCE = {"path": OWN, "sha256": "ab" * 32, "distribution": None, "version": None}


def simulate(rows: int, seed: int, noise: float = 0.15) -> pd.DataFrame:
    """Success hangs on size, kind and action, but for a share of noise; a tenth of the values is missing."""
    rng = np.random.default_rng(seed)
    size, kind, action = rng.uniform(0, 1000, rows), rng.integers(0, 5, rows), rng.integers(0, 2, rows)
    truth = ((size > 500) == (action == 1)) ^ (kind == 0)
    success = truth ^ (rng.random(rows) < noise)
    return pd.DataFrame(
        {
            "action": np.array(SCHEMA.actions, dtype=object)[action],
            "result": np.where(success, "success", "failure"),
            "feature_size": np.where(rng.random(rows) < 0.1, np.nan, size),
            "feature_kind": pd.Series([f"k{code}" for code in kind], dtype=object).mask(rng.random(rows) < 0.1),
            "feature_never": np.full(rows, np.nan),
        }
    )


def forest(n_estimators: int = 8) -> Any:  # noqa: ANN401  (a scikit-learn estimator)
    """A forest that bears missing values."""
    return make_pipeline(SimpleImputer(), RandomForestClassifier(n_estimators, max_depth=5))


def linear(C: float = 1.0) -> Any:  # noqa: ANN401  (see `forest`)
    """A scaled linear model."""
    return make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(C=C))


def network() -> Any:  # noqa: ANN401  (see `forest`)
    """A small neural network."""
    return make_pipeline(SimpleImputer(), StandardScaler(), MLPClassifier((4,), solver="lbfgs", max_iter=500, tol=1e-3))


def own(make: Callable[..., Any], seed: int = 0, **params: Any) -> TrainedModel:  # noqa: ANN401
    """A user's estimator fitted on simulated rows."""
    rows = simulate(400, seed)
    return train(rows[:300], rows[300:], SCHEMA, TrainSpec(OWN, params=params, source=SOURCE), make=make)


def side_by_side(task: Any, trials: Any) -> Any:  # noqa: ANN401  (a runner of trials)
    """Two processes."""
    return Parallel(n_jobs=2)(delayed(task)(params) for params in trials)


# ------------------------------------------------------------------------------------------------------- own estimators


@pytest.mark.parametrize("make", [linear, forest, network])
def test_an_estimator_of_ones_own_passes_the_gate_byte_for_byte(make: Callable[..., Any]) -> None:
    """Twice the same fit and graph; engine and pipeline agree on 10,000 hard rows, also on the splits' thresholds."""
    first, second = own(make), own(make)
    packed, again = pack(first, Artefact.load), pack(second, Artefact.load, rows=200)
    assert packed.onnx == again.onnx
    assert fitted_digest(first.pipeline) == fitted_digest(second.pipeline)
    assert fitted_digest(first.pipeline) != fitted_digest(own(make, seed=1).pipeline)
    assert packed.parity.rows == 10_000
    told = json.loads(packed.manifest)
    assert told["estimator"] == OWN
    assert told["training"]["source"] == SOURCE


def test_thresholds_of_own_trees_are_among_the_hard_rows() -> None:
    """And they are float32 values, so that rounding them is no question any more."""
    found = own(forest).pipeline.estimator.thresholds()  # type: ignore[attr-defined]
    assert 0 in found
    for values in found.values():
        assert (values.astype(np.float32).astype(np.float64) == values).all()


def test_own_estimators_see_numbers_within_the_training_range_only() -> None:
    """Where a linear model would run away, the answer stays the one at the end of the range."""
    rows = simulate(400, 2)
    model = own(linear, seed=2)
    top = rows["feature_size"][:300].max()
    task = pd.DataFrame({"feature_size": [top, 1e30], "feature_kind": ["k1"] * 2, "action": ["post"] * 2})
    assert model.predict(task)[0] == model.predict(task)[1]


def test_the_seed_reaches_an_own_estimators_steps() -> None:
    """A factory that leaves `random_state` open is as repeatable as one that sets it."""
    rows = simulate(400, 0)
    digests = {
        fitted_digest(train(rows[:300], rows[300:], SCHEMA, TrainSpec(OWN, seed=seed), make=forest).pipeline)
        for seed in (1, 1, 2)
    }
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (LogisticRegression, ConfigError, "cannot be fitted: ValueError: Input X contains NaN"),
        (lambda: make_pipeline(SimpleImputer(), OneClassSVM()), ConfigError, "Pipeline has no predict_proba"),
        (lambda: 3, ConfigError, "cannot be fitted: AttributeError"),
        (lambda: RandomForestClassifier(5), ArtefactRefused, f"the estimator {OWN} with these parameters cannot be"),
    ],
    ids=["no missing values", "no probabilities", "no estimator", "wrong with missing values"],
)
def test_an_estimator_that_cannot_be_served_is_refused_with_its_reason(
    make: Callable[..., Any], error: type[Exception], told: str
) -> None:
    """The last one trains, converts without an error and answers wrongly where values are missing."""
    with pytest.raises(error, match=told):
        pack(own(make), Artefact.load, rows=500)


def test_an_own_estimator_that_is_not_given_is_named() -> None:
    """A spec alone cannot import anything."""
    rows = simulate(100, 0)
    with pytest.raises(UsageError, match=f"{OWN} is a user's own estimator"):
        train(rows, rows, SCHEMA, TrainSpec(OWN))


def test_without_the_converter_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training works; only serving needs it."""
    model = own(linear)
    monkeypatch.setitem(__import__("sys").modules, "skl2onnx", None)
    with pytest.raises(ConfigError, match="install the extra `convert`"):
        pack(model, Artefact.load, rows=100)


# ------------------------------------------------------------------------------------------------------- the search


def test_the_search_is_the_same_however_many_run_at_once() -> None:
    """Trials in two processes and one after the other give the same losses, choice and bytes."""
    rows, plan = simulate(500, 3), SearchPlan(4)
    spec = TrainSpec("logistic_regression")
    found = [
        train(rows[:350], rows[350:], SCHEMA, spec, plan=plan, run_trials=run) for run in (one_by_one, side_by_side)
    ]
    get_reusable_executor().shutdown(wait=True)
    assert found[0].search is not None
    assert found[0].search == found[1].search
    assert fitted_digest(found[0].pipeline) == fitted_digest(found[1].pipeline)
    assert len(found[0].search.trials) == 5


def test_what_the_search_chose_is_what_the_spec_tells() -> None:
    """Training again with the recorded spec, without a search, gives the same model."""
    print("seed 5")
    rows = simulate(1_500, 5)
    bad = TrainSpec(params={"max_iter": 20, "learning_rate": 0.001})
    plan = SearchPlan(4, {"learning_rate": {"low": 0.05, "high": 0.5, "log": True}})
    searched = train(rows[:1_000], rows[1_000:], SCHEMA, bad, plan=plan)
    assert searched.search is not None
    assert searched.search.chosen > 0
    assert searched.spec.params["learning_rate"] >= 0.05
    assert searched.spec.searched == {"trials": 4, "space": plan.space, "chosen": searched.search.chosen}
    spec = TrainSpec.from_dict(json.loads(json.dumps(searched.spec.to_dict())))
    again = train(rows[:1_000], rows[1_000:], SCHEMA, spec)
    assert fitted_digest(again.pipeline) == fitted_digest(searched.pipeline)
    assert manifest(again, b"") == manifest(searched, b"")


def test_the_configuration_stays_where_the_best_trial_is_no_more_than_luck() -> None:
    """Over 40 seeds of trials that differ by noise alone, the configured parameters are kept in most."""
    print("seeds 0 to 39")
    kept = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        losses = [rng.exponential(0.5, 400) for _ in range(3)]
        kept += choose([{}, {"C": 1}, {"C": 2}], losses).chosen == 0
    # The better of two independent trials exceeds its standard error in about 29 % of the cases.
    assert 20 <= kept <= 36


def test_a_trial_that_cannot_be_fitted_is_told_and_left_out() -> None:
    """Also when it is the configuration itself."""
    found = choose([{}, {"C": 1}, {"C": 2}], ["fails", np.array([0.5, 0.7]), np.array([np.nan, 0.1])])
    assert found.chosen == 1
    assert [trial.fault for trial in found.trials] == ["fails", "", "scores that are no numbers"]
    assert "could not be fitted: fails" in found.reason


def test_nothing_is_searched_where_it_cannot_be_judged_or_training_continues() -> None:
    """And the reason is recorded."""
    rows, plan = simulate(400, 0), SearchPlan(2)
    few = train(rows[:360], rows[360:], SCHEMA, TrainSpec("logistic_regression"), plan=plan)
    assert few.search is None
    assert "40 validation rows are too few" in few.search_reason
    parent = train(rows[:200], rows[200:], SCHEMA, TrainSpec(params={"max_iter": 5})).pipeline
    spec = TrainSpec(mode="incremental", params={"incremental_iter": 2})
    continued = train(rows[:300], rows[300:], SCHEMA, spec, parent, plan=plan)
    assert continued.mode == "incremental"
    assert "continues from its parent" in continued.search_reason


def test_draws_lie_in_the_space_and_hang_on_the_seed_alone() -> None:
    """Whole numbers where both ends are; both ends can be drawn."""
    space = {"depth": {"low": 1, "high": 3}, "rate": {"low": 0.01, "high": 1.0, "log": True}, "kind": ["a", "b"]}
    drawn = draw(space, 200, seed=4)
    assert draw(space, 200, seed=4) == drawn != draw(space, 200, seed=5)
    assert {trial["depth"] for trial in drawn} == {1, 2, 3}
    assert {trial["kind"] for trial in drawn} == {"a", "b"}
    rates = [trial["rate"] for trial in drawn]
    assert 0.01 <= min(rates) < max(rates) <= 1.0
    # Half of the draws lie below the geometric middle, 0.1; 200 draws show that to 0.11 (three standard errors).
    assert abs(np.mean(np.array(rates) < 0.1) - 0.5) < 0.11


# ------------------------------------------------------------------------------------------------------- settings


def test_every_default_and_every_default_space_is_allowed() -> None:
    """The platform's own settings pass its own check."""
    for estimator, params in ESTIMATORS.items():
        assert param_problems(estimator, {name: param.default for name, param in params.items()}) == []
        assert space_problems(estimator, SPACES[estimator], 3) == []


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"learning_rates": 1}, "model.params.learning_rates: is unknown; did you mean learning_rate?"),
        ({"learning_rate": 0}, "model.params.learning_rate: 0 must be above 0"),
        ({"max_iter": 2.5}, "model.params.max_iter: 2.5 must be a whole number"),
        ({"max_iter": True}, "model.params.max_iter: True must be a whole number"),
        ({"max_bins": 300}, "model.params.max_bins: 300 must be at least 2 and at most 255"),
        ({"max_iter": None}, "model.params.max_iter: must not be null"),
        ({"stop_on_validation": 1}, "model.params.stop_on_validation: 1 must be true or false"),
    ],
    ids=str,
)
def test_a_wrong_parameter_is_named_with_what_would_be_right(params: dict[str, Any], told: str) -> None:
    """Before there is any training."""
    assert param_problems("hist_gradient_boosting", params) == [told]


def test_estimators_are_named_or_found_by_import_path() -> None:
    """A slip of the finger gets the nearest name."""
    assert estimator_problems("hist_gradient_boosting") == estimator_problems("a.b:C") == []
    assert "did you mean hist_gradient_boosting?" in estimator_problems("hist_gradient_bosting")[0]
    assert estimator_problems("a.b")
    assert estimator_problems("a b:c")


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"C": []}, "needs at least one value"),
        ({"C": 3}, "must be a list of values, or a range"),
        ({"C": {"low": 1, "hihg": 2}}, "hihg is unknown"),
        ({"C": {"low": 2, "high": 1}}, "low 2 must be below high 1"),
        ({"C": {"low": 0, "high": 1, "log": True}}, "low 0 must be above 0 where log is true"),
        ({"C": {"low": "a", "high": 1}}, "needs the numbers low and high"),
        ({"D": [1]}, "is unknown"),
        ({"C": [1, -1, "x"]}, "-1 must be above 0"),
    ],
    ids=str,
)
def test_a_wrong_search_space_is_named(space: dict[str, Any], told: str) -> None:
    """Every value that could be drawn is held against the parameter's limits."""
    assert told in space_problems("logistic_regression", space, 3)[0]


def test_an_own_estimator_needs_a_space_of_its_own() -> None:
    """Nobody else knows its parameters."""
    assert "needs to be told where to search" in space_problems(OWN, {}, 3)[0]
    assert space_problems(OWN, {}, 0) == []


# ------------------------------------------------------------------------------------------------------ many categories


def test_more_categories_than_codes_train_and_the_rarest_count_as_unseen() -> None:
    """12,000 rows with 10,500 categories: the model trains, is proven, and its artefact loads."""
    rows = simulate(12_000, 0)
    rows["feature_kind"] = [f"k{number % 10_500}" for number in range(len(rows))]
    model = train(rows[:11_000], rows[11_000:], SCHEMA, TrainSpec(params={"max_iter": 10}))
    assert len(model.pipeline.encoding.columns[1].categories or ()) == MAX_CATEGORIES
    assert pack(model, Artefact.load, rows=500).parity.passed
