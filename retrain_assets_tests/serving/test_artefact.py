from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest

from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.core.model import PackedModel, TrainedModel, TrainSpec, canonical_json, pack, train
from retrain_assets.errors import ArtefactRefused, SchemaError
from retrain_assets.serving import artefact as module
from retrain_assets.serving.artefact import Artefact, load_artefact

ACTIONS = ("comment", "profile", "forum")
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
TASK = {"pa": 40.5, "depth": 3, "site_type": "blog", "https": True}


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """A small model of simulated rows."""
    rng = np.random.default_rng(0)
    pa, action = rng.uniform(0, 100, 600), rng.integers(0, 3, 600)
    rows = pd.DataFrame(
        {
            "action": np.array(ACTIONS, dtype=object)[action],
            "result": np.where(rng.random(600) < 0.2 + 0.005 * pa + 0.1 * action, "success", "failure"),
            "feature_pa": pa,
            "feature_depth": rng.integers(0, 6, 600).astype(float),
            "feature_site_type": pd.Series(rng.choice(["blog", "forum"], 600), dtype=object),
            "feature_https": pd.Series([(True, False, None)[index] for index in rng.integers(0, 3, 600)], dtype=object),
        }
    )
    return train(rows[:450], rows[450:], SCHEMA, TrainSpec())


@pytest.fixture(scope="module")
def packed(model: TrainedModel) -> PackedModel:
    """The model's three files."""
    return pack(model, Artefact.load, rows=500)


@pytest.fixture(scope="module")
def artefact(packed: PackedModel) -> Artefact:
    """The loaded artefact."""
    return Artefact.load(packed.onnx, packed.manifest)


@pytest.fixture
def folder(packed: PackedModel, tmp_path: Path) -> Path:
    """A folder that holds the artefact's files."""
    for name, content in packed.files.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


# ------------------------------------------------------------------------------------------------------- scoring


def test_scores_are_the_pipelines_probabilities_for_every_action(artefact: Artefact, model: TrainedModel) -> None:
    """One batch for all candidates, in the model's order, equal to the trained pipeline's answer."""
    rows = pd.DataFrame([{**{f"feature_{name}": value for name, value in TASK.items()}, "action": a} for a in ACTIONS])
    np.testing.assert_allclose(artefact.score(TASK), model.predict(rows), atol=1e-6)


def test_candidates_are_scored_in_the_order_they_are_asked_in(artefact: Artefact) -> None:
    """A subset in another order gets the same scores."""
    every = dict(zip(artefact.actions, artefact.score(TASK), strict=True))
    some = artefact.score(TASK, ["forum", "comment"])
    assert some.tolist() == [every["forum"], every["comment"]]


def test_a_score_is_not_overwritten_by_the_next_one(artefact: Artefact) -> None:
    """The answer is the caller's own, although the memory behind it is used again."""
    first = artefact.score(TASK)
    kept = first.copy()
    artefact.score({"pa": 1.0})
    np.testing.assert_array_equal(first, kept)


def test_threads_that_share_an_artefact_get_their_own_answers(artefact: Artefact) -> None:
    """Eight threads with different tasks never see each other's scores."""
    tasks = [{**TASK, "pa": float(pa)} for pa in range(0, 96, 12)]
    expected = [artefact.score(task) for task in tasks]
    wrong: list[int] = []

    def work(position: int) -> None:
        answers = (artefact.score(tasks[position]) for _ in range(400))
        wrong.extend(position for scores in answers if not np.array_equal(scores, expected[position]))

    threads = [threading.Thread(target=work, args=(position,)) for position in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({tuple(scores.tolist()) for scores in expected}) > 4
    assert wrong == []


def test_an_empty_task_still_gets_an_answer(artefact: Artefact) -> None:
    """Missing values are known to the model; no feature is required here."""
    scores = artefact.score({})
    assert np.isfinite(scores).all()
    assert np.isnan(artefact.encode({})).all()


def test_an_unknown_action_is_refused_by_name(artefact: Artefact) -> None:
    """A typing error in the candidates is not scored as something else."""
    with pytest.raises(SchemaError, match="action: 'guest' is not one of comment, profile, forum"):
        artefact.score(TASK, ["comment", "guest"])


def test_scoring_goes_on_after_a_task_that_was_refused(artefact: Artefact) -> None:
    """An error leaves no half-written memory behind."""
    before = artefact.score(TASK)
    with pytest.raises(SchemaError, match="https"):
        artefact.score({**TASK, "https": "perhaps"})
    np.testing.assert_array_equal(artefact.score(TASK), before)


# ------------------------------------------------------------------------------------------------------- encoding


def test_values_are_encoded_as_the_collector_reads_them(artefact: Artefact) -> None:
    """Texts that mean a number, a boolean or nothing at all are the same for engine and collector."""
    row = artefact.encode({"pa": " 40.5 ", "depth": 3.0, "site_type": " blog ", "https": "yes"})
    np.testing.assert_array_equal(row, artefact.encode(TASK))
    assert np.isnan(artefact.encode({"pa": "null", "depth": math.nan, "site_type": "", "https": None})).all()
    assert row.dtype == np.float32


def test_an_unknown_category_is_minus_one(artefact: Artefact) -> None:
    """The model has learned nothing about it, and is told so."""
    assert artefact.encode({"site_type": "wiki"})[2] == -1


def test_numbers_beyond_the_schemas_limits_are_scored(artefact: Artefact) -> None:
    """The collector refuses them; a decision at run time needs an answer, however large they are."""
    for pa in (-5.0, 101.0, 1e300, -1e300, 10**30):
        assert np.isfinite(artefact.score({**TASK, "pa": pa})).all()
    assert artefact.encode({"pa": 1e300})[0] == np.finfo(np.float32).max


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        ("pa", "high"),
        ("pa", True),
        ("pa", [1]),
        ("pa", math.inf),
        ("pa", 10**400),
        ("depth", 2.5),
        ("site_type", 1.5),
        ("site_type", {"a": 1}),
        ("https", "perhaps"),
        ("https", 2),
    ],
)
def test_a_wrong_type_is_an_error_that_names_the_feature(artefact: Artefact, feature: str, value: Any) -> None:  # noqa: ANN401  (any wrong value)
    """A worker's mistake is reported, not scored."""
    with pytest.raises(SchemaError, match=f"^{feature}: "):
        artefact.score({**TASK, feature: value})


def test_a_required_feature_that_is_missing_is_an_error() -> None:
    """`required: true` holds for decisions as it does for outcomes."""
    schema = FeatureSchema((Feature("pa", FeatureType.NUMBER, required=True),), ACTIONS)
    rows = pd.DataFrame({"feature_pa": np.arange(80.0), "action": "comment", "result": ["success", "failure"] * 40})
    packed = pack(train(rows, rows, schema, TrainSpec()), Artefact.load, rows=100)
    with pytest.raises(SchemaError, match="pa: is required, but missing"):
        Artefact.load(packed.onnx, packed.manifest).score({})


# ------------------------------------------------------------------------------------------------------- refusing


def test_an_intact_folder_loads(folder: Path, packed: PackedModel, artefact: Artefact) -> None:
    """By folder and by paths, with the registry's digests; further files are left alone."""
    paths = {name: folder / name for name in ("model.onnx", "manifest.json")}
    for location in (folder, str(folder), paths):
        loaded = load_artefact(location, packed.digests)
        np.testing.assert_array_equal(loaded.score(TASK), artefact.score(TASK))
    assert loaded.schema == SCHEMA
    assert loaded.self_test() <= 1e-6


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
@pytest.mark.parametrize("position", [0, 1_000, -1])
def test_a_flipped_byte_is_refused_before_anything_is_parsed(
    folder: Path, packed: PackedModel, name: str, position: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the file, the digest expected and the digest found."""

    def parsed(*_: object) -> None:
        raise AssertionError("parsed before the digest was checked")

    monkeypatch.setattr(module, "_read_manifest", parsed)
    monkeypatch.setattr(module, "_session", parsed)
    content = bytearray(packed.files[name])
    content[position] ^= 1
    (folder / name).write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(ArtefactRefused, match=f"{name} is not the registered file.*{packed.digests[name]}.*{found}"):
        load_artefact(folder, packed.digests)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_truncated_or_missing_file_is_refused(folder: Path, packed: PackedModel, name: str) -> None:
    """A half-written download never serves."""
    (folder / name).write_bytes(packed.files[name][:-10])
    with pytest.raises(ArtefactRefused, match=f"{name} is not the registered file"):
        load_artefact(folder, packed.digests)
    (folder / name).unlink()
    with pytest.raises(ArtefactRefused, match=f"{name} cannot be read at .*No such file"):
        load_artefact(folder, packed.digests)


def test_a_digest_that_the_registry_does_not_have_is_refused(folder: Path, packed: PackedModel) -> None:
    """No digest means no trust."""
    with pytest.raises(ArtefactRefused, match=r"manifest.json is not the registered file: expected SHA-256 None"):
        load_artefact(folder, {"model.onnx": packed.digests["model.onnx"]})
    with pytest.raises(ArtefactRefused, match=r"manifest.json has no path in the registry"):
        load_artefact({"model.onnx": folder / "model.onnx"}, packed.digests)


def test_an_oversized_file_is_refused_unread(
    folder: Path, packed: PackedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's memory is not the artefact store's to fill."""
    monkeypatch.setitem(module.MAX_BYTES, "model.onnx", 100)
    with pytest.raises(ArtefactRefused, match=r"model.onnx has \d+ bytes; at most 100"):
        load_artefact(folder, packed.digests)


def test_a_graph_and_a_manifest_of_two_models_are_refused(packed: PackedModel) -> None:
    """Also where both files match digests of their own."""
    told = {**json.loads(packed.manifest), "onnx_sha256": "0" * 64}
    with pytest.raises(ArtefactRefused, match=r"model.onnx is not the registered file: expected SHA-256 0000"):
        Artefact.load(packed.onnx, canonical_json(told))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "has format 99; this version reads 1"),
        ({"probes": []}, "has no probe rows"),
        ({"schema_fingerprint": "other"}, "has a schema of fingerprint"),
        ({"features": "none"}, r"cannot be read: Expected `array`, got `str` - at `\$.features`"),
        ({"schema": {"features": []}}, "cannot be read"),
        ({"features": []}, r"model.onnx has inputs .* not those of its manifest"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(packed: PackedModel, change: dict[str, Any], message: str) -> None:
    """The message says what is wrong with it."""
    with pytest.raises(ArtefactRefused, match=message):
        Artefact.load(packed.onnx, canonical_json({**json.loads(packed.manifest), **change}))


def test_bytes_that_are_no_graph_are_refused(packed: PackedModel) -> None:
    """Whatever the runtime raises becomes the one error that the engine handles."""
    told = {**json.loads(packed.manifest), "onnx_sha256": hashlib.sha256(b"no graph").hexdigest()}
    with pytest.raises(ArtefactRefused, match=r"model.onnx cannot be loaded"):
        Artefact.load(b"no graph", canonical_json(told))


@pytest.mark.parametrize("broken", ["shifted", "nan"])
def test_a_graph_that_answers_otherwise_than_recorded_fails_its_self_test(packed: PackedModel, broken: str) -> None:
    """A runtime or a conversion that computes something else is caught on the probe rows."""
    graph = onnx.load_from_string(packed.onnx)
    for attribute in graph.graph.node[0].attribute:
        if attribute.name == "base_values":
            attribute.floats[0] = math.nan if broken == "nan" else attribute.floats[0] + 0.001
    content = graph.SerializeToString()
    told = {**json.loads(packed.manifest), "onnx_sha256": hashlib.sha256(content).hexdigest()}
    with pytest.raises(ArtefactRefused, match=r"model.onnx differs from its recorded probe scores by"):
        Artefact.load(content, canonical_json(told))


def test_loading_needs_no_data_frames_and_no_learning_library(folder: Path, packed: PackedModel) -> None:
    """A worker with the base install scores: pandas, scikit-learn, onnx and dagster stay unimported."""
    script = (
        "import sys, json; from retrain_assets.serving.artefact import load_artefact\n"
        f"a = load_artefact({str(folder)!r}, {packed.digests!r}); a.score({TASK!r})\n"
        "print(json.dumps([m for m in ('pandas', 'sklearn', 'onnx', 'dagster', 'joblib') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
