"""A version is rebuilt byte for byte from what was recorded, and whatever was changed since is named."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sqlalchemy import delete, select, update

from retrain_assets.demo.automation import SimulatedAutomation
from retrain_assets.errors import ConfigError, NoModelError
from retrain_assets.operations import deploy, estimators, lineage, model_card, reproduce, retrain
from retrain_assets.operations import model as models
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.operations.retrain import Run
from retrain_assets.settings import Config, ModelSettings, RetrainSettings, SearchSettings, Settings
from retrain_assets.store import registry
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.files import sha256_of
from retrain_assets.store.tables import datasets, model_versions, snapshots, trainings
from retrain_assets.testing import START, FakeClock

RUN = Run("run 1", "anna")
QUICK = {"max_iter": 20, "incremental_iter": 5}


def _open(folder: Path, model: ModelSettings, clock: FakeClock) -> Platform:
    config = Config(retrain=RetrainSettings(validation_threshold=0.0, min_new_samples=50), model=model)
    settings = Settings(
        config=config, config_path=None, home=folder, database_url=f"sqlite:///{folder / 'retrain.db'}",
        problem_folder=folder,
    )  # fmt: skip
    return open_platform(settings, clock)


def _train(platform: Platform, clock: FakeClock, number: int, tasks: int = 300) -> str:
    """A week of the automation's life up to its version; without validation, which changes no artefact."""
    week = platform.calendar.containing(START + timedelta(weeks=number))
    clock.set(week.end_at + timedelta(minutes=5))
    rows = SimulatedAutomation(0).history(tasks, week.start_at, week.end_at, first=number * 10_000)
    with FeedbackCollector(platform.database.url, config=platform.config, clock=clock) as collector:
        collector.append_outcomes(rows)
    retrain.merge(platform, week)
    retrain.prepare(platform, week, RUN)
    retrain.train(platform, week, RUN)
    return retrain.register(platform, week, RUN, is_backfill=False).version


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which v1.0.1 continued from v1.0.0."""
    folder, clock = tmp_path_factory.mktemp("trained"), FakeClock()
    platform = _open(folder, ModelSettings(mode="incremental", params=QUICK), clock)
    version = _train(platform, clock, 0)
    deploy.stage(platform, lineage.find_version(platform, version), Cause("anna", "tests"))
    deploy.start(platform, lineage.find_version(platform, version), Cause("anna", "tests"))
    assert _train(platform, clock, 1) == "v1.0.1"
    platform.database.close()
    return folder


@pytest.fixture
def platform(trained: Path, tmp_path: Path) -> Iterator[Platform]:
    """A copy of it. The configuration is another one by now: nothing of it may matter."""
    shutil.copytree(trained, tmp_path / "copy")
    opened = _open(tmp_path / "copy", ModelSettings(estimator="logistic_regression", seed=9), FakeClock())
    yield opened
    opened.database.close()


def _files(folder: Path) -> dict[str, str]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and "db" not in file.name]
    return {str(file): sha256_of(file) for file in files}


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def _tamper(platform: Platform, statement: Any) -> None:  # noqa: ANN401  (any statement)
    with platform.database.write() as connection:
        assert connection.execute(statement).rowcount == 1


# ------------------------------------------------------------------------------------------------------------ identical


def test_an_incremental_version_is_rebuilt_from_its_parent_and_nothing_is_written(platform: Platform) -> None:
    """Byte for byte, whatever the configuration says today; progress is told up to the end."""
    before, told = _files(platform.problem_home), list[tuple[float, str]]()
    with platform.database.read() as connection:
        known = registry.versions(connection), registry.events(connection)
    found = reproduce.reproduce(platform, "v1.0.1", lambda share, text: told.append((share, text)))
    assert found.identical
    assert found.to_dict()["differences"] == []
    assert set(found.digests) == {"model.onnx", "manifest.json", "fitted_arrays"}
    assert all(pair["recorded"] == pair["rebuilt"] for pair in found.digests.values())
    assert (found.threads, found.seed) == (1, 0)
    assert lineage.find_version(platform, "v1.0.1").metrics["mode"] == "incremental"
    assert _files(platform.problem_home) == before
    with platform.database.read() as connection:
        assert (registry.versions(connection), registry.events(connection)) == known
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    assert told[-1][0] == 1.0


OWN_MODULE = """
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

def make_model(C=1.0):
    return make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(C=C))

nothing = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's module on the path."""
    file = tmp_path / "modules" / "my_models_for_tests.py"
    file.parent.mkdir()
    file.write_text(OWN_MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(file.parent))
    monkeypatch.delitem(__import__("sys").modules, file.stem, raising=False)
    return file


@pytest.mark.parametrize(
    "settings",
    [
        ModelSettings(params=QUICK, search=SearchSettings(trials=1)),
        ModelSettings(estimator="logistic_regression", seed=3),
        ModelSettings(estimator="my_models_for_tests:make_model", params={"C": 0.5}),
    ],
    ids=["searched trees", "logistic", "own"],
)
def test_every_estimator_is_rebuilt_byte_for_byte(settings: ModelSettings, tmp_path: Path, own_module: Path) -> None:
    """Also after a search, which is not repeated; and a user's own source is watched."""
    clock = FakeClock()
    platform = _open(tmp_path / "fresh", settings, clock)
    version = _train(platform, clock, 0, tasks=400)
    found = reproduce.reproduce(platform, version)
    assert found.identical, found.differences
    model = lineage.find_version(platform, version)
    assert set(model.metrics["profile"]["features"]) == set(platform.config.schema.names)
    if settings.search.trials:
        assert len(model.metrics["search"]["trials"]) == 2
    if model.spec["source"] is not None:
        assert model.spec["source"]["sha256"] == sha256_of(own_module)
        own_module.write_text(OWN_MODULE + "\n# another source\n", encoding="utf-8")
        (changed,) = reproduce.reproduce(platform, version).changed
        assert changed.startswith("sha256 of the estimator my_models_for_tests:make_model is")
    platform.database.close()


# ------------------------------------------------------------------------------------------------ own estimators' paths


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"estimator": "my_models_for_tests:make_modle"}, "has no make_modle; did you mean make_model?"),
        ({"estimator": "my_models_for_test:make_model"}, "cannot be imported (ModuleNotFoundError"),
        ({"estimator": "my_models_for_tests:nothing"}, "is int, not a class or function"),
        ({"estimator": "my_models_for_tests:make_model", "params": {"D": 1}}, "model.params.D: is unknown"),
        ({"estimator": "sklearn.impute:SimpleImputer", "params": {"strateg": 1}}, "did you mean strategy?"),
        ({"estimator": "sklearn.multiclass:OneVsRestClassifier"}, "model.params.estimator: is needed and missing"),
        (
            {"estimator": "my_models_for_tests:make_model", "search": SearchSettings(trials=1, space={"X": [1]})},
            "model.search.space.X: is unknown",
        ),
    ],
    ids=str,
)
def test_a_wrong_import_path_or_parameter_is_named_before_training(
    settings: dict[str, Any], told: str, own_module: Path
) -> None:
    """`retrain run` and `retrain doctor` ask this."""
    with pytest.raises(ConfigError) as caught:  # noqa: PT011  (the text is looked at below)
        estimators.check(ModelSettings(**settings))
    assert told in str(caught.value)


def test_a_right_import_path_passes(own_module: Path) -> None:
    """As do the platform's own estimators, for which nothing is imported."""
    estimators.check(ModelSettings(estimator="my_models_for_tests:make_model", params={"C": 2.0}))
    estimators.check(ModelSettings())


# -------------------------------------------------------------------------------------------------------- flipped bytes


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "pipeline.joblib"])
@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_damaged_artefact_is_named_and_rebuilt_all_the_same(platform: Platform, name: str, damage: str) -> None:
    """The rebuilt digest is the recorded one: the file can be had back."""
    file = platform.problem_home / lineage.find_version(platform, "v1.0.1").artefacts[name]["path"]
    if damage == "flipped":
        _flip(file)
    else:
        file.unlink()
    found = reproduce.reproduce(platform, "v1.0.1")
    assert not found.identical
    assert found.differences[0].startswith(f"v1.0.1: {name} ")
    assert {"flipped": "has SHA-256", "gone": "cannot be read"}[damage] in found.differences[0]
    assert len(found.differences) == 1
    assert found.digests["model.onnx"]["recorded"] == found.digests["model.onnx"]["rebuilt"]
    assert lineage.trace(platform, "v1.0.1").faults == list(found.differences)


@pytest.mark.parametrize("week", ["2026-01-04", "2026-01-11"])
def test_a_flipped_byte_in_a_snapshot_is_named_by_its_week(platform: Platform, week: str) -> None:
    """Nothing is trained on it."""
    part = next(p.snapshot for p in lineage.trace(platform, "v1.0.1").links if p.snapshot.week == week)
    _flip(platform.problem_home / part.path)
    found = reproduce.reproduce(platform, "v1.0.1")
    assert (found.identical, found.digests) == (False, {})
    assert found.differences[0].startswith(f"week {week}: {part.path} has SHA-256")


def test_a_flipped_byte_in_the_parents_pipeline_is_named(platform: Platform) -> None:
    """It takes part in an incremental training."""
    _flip(platform.problem_home / lineage.find_version(platform, "v1.0.0").artefacts["pipeline.joblib"]["path"])
    found = reproduce.reproduce(platform, "v1.0.1")
    assert not found.identical
    assert "parent v1.0.0: pipeline.joblib has SHA-256" in found.differences[0]
    assert lineage.trace(platform, "v1.0.1").faults == list(found.differences)


# ---------------------------------------------------------------------------------------------- changes in the database


def test_a_row_changed_together_with_its_recorded_digest_is_found_by_content(platform: Platform) -> None:
    """The file's SHA-256 fits; the rows do not. `retrain lineage` finds it when asked to look at the rows."""
    part = lineage.trace(platform, "v1.0.1").links[0].snapshot
    file = platform.problem_home / part.path
    table = pq.read_table(file)
    place = table.schema.get_field_index("result")
    changed = pc.if_else(pa.array([row == 0 for row in range(len(table))]), "error", table["result"])
    pq.write_table(table.set_column(place, "result", changed.cast(pa.string())), file)
    chosen = snapshots.c.content_hash == part.content_hash
    _tamper(platform, update(snapshots).where(chosen).values(file_sha256=sha256_of(file)))
    assert lineage.trace(platform, "v1.0.1").faults == []
    (fault,) = lineage.trace(platform, "v1.0.1", is_deep=True).faults
    assert fault.startswith(f"week {part.week}: {part.path} holds rows of content hash")
    assert reproduce.reproduce(platform, "v1.0.1").differences == (fault,)


def _other_spec(platform: Platform) -> Any:  # noqa: ANN401  (a statement)
    spec = lineage.find_version(platform, "v1.0.1").spec | {"seed": 5}
    return update(model_versions).where(model_versions.c.version == "v1.0.1").values(spec=spec)


def _other_libraries(platform: Platform) -> Any:  # noqa: ANN401  (a statement)
    chosen = trainings.c.training_id == lineage.find_version(platform, "v1.0.1").training_id
    with platform.database.read() as connection:
        known = connection.execute(select(trainings.c.libraries).where(chosen)).scalar_one()
    return update(trainings).where(chosen).values(libraries=known | {"numpy": "1.0"})


def _of_version(platform: Platform, table: Any, column: str) -> Any:  # noqa: ANN401  (a table; a condition)
    return table.c[column] == getattr(lineage.find_version(platform, "v1.0.1"), column)


TAMPERING = {
    "spec": (_other_spec, ["what v1.0.1 was told is not what was recorded", "spec of v1.0.1 differs"]),
    "libraries": (_other_libraries, ["spec, dataset, code and libraries give the training id"]),
    "training": (lambda p: delete(trainings).where(_of_version(p, trainings, "training_id")), ["the training "]),
    "dataset": (lambda p: delete(datasets).where(_of_version(p, datasets, "dataset_hash")), ["the dataset "]),
    "snapshot": (
        lambda p: delete(snapshots).where(snapshots.c.week == "2026-01-04"), ["the snapshot ", "not in the database"],
    ),
    "rows": (
        lambda p: update(datasets).where(_of_version(p, datasets, "dataset_hash")).values(rows=5),
        ["recorded with 5 rows"],
    ),
    "manifest": (
        lambda p: update(datasets)
        .where(_of_version(p, datasets, "dataset_hash"))
        .values(manifest=[lineage.trace(p, "v1.0.1").links[1].snapshot.content_hash]),
        ["the dataset of v1.0.1 is not the one recorded"],
    ),
    "parent": (
        lambda _: update(model_versions).where(model_versions.c.version == "v1.0.0").values(artefacts={}),
        ["the parent of v1.0.1, whose pipeline.joblib is"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERING)
def test_a_changed_or_missing_row_of_the_database_is_named(platform: Platform, what: str) -> None:
    """By `reproduce` and by `lineage` alike; nothing is trained from records that contradict themselves."""
    change, told = TAMPERING[what]
    _tamper(platform, change(platform))
    found = reproduce.reproduce(platform, "v1.0.1")
    assert (found.identical, found.digests) == (False, {})
    for sentence in told:
        assert sentence in " ".join(found.differences)
    assert lineage.trace(platform, "v1.0.1").to_dict()["intact"] is False


# ---------------------------------------------------------------------------------------------- other code or libraries


def test_another_library_is_told_and_identical_bytes_stay_identical(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is the model; the versions explain a difference where there is one."""
    present = models.library_versions()
    monkeypatch.setattr(reproduce, "library_versions", lambda _estimator: present | {"scikit-learn": "9.9"})
    monkeypatch.setattr(reproduce, "code_version", lambda: "9.0+abc")
    found = reproduce.reproduce(platform, "v1.0.0")
    assert found.identical
    assert found.differences == ()
    assert found.changed[0].startswith("the code of retrain_assets is 9.0+abc, recorded is")
    assert found.changed[1].startswith("scikit-learn is 9.9, recorded is")


def test_a_model_that_comes_out_otherwise_is_compared_on_the_recorded_probes(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another library might do it: here one that learns faster. Numbers say how far the models differ."""
    right = models.rebuild

    def other(rows: Any, splits: Any, schema: Any, spec: Any, **rest: Any) -> Any:  # noqa: ANN401  (`rebuild`'s own)
        return right(rows, splits, schema, replace(spec, params={**spec.params, "learning_rate": 0.2}), **rest)

    monkeypatch.setattr(reproduce, "rebuild", other)
    monkeypatch.setattr(reproduce, "code_version", lambda: "9.0+abc")
    found = reproduce.reproduce(platform, "v1.0.0")
    assert not found.identical
    told = "\n".join(found.differences)
    assert "model.onnx: recorded SHA-256" in told
    assert "fitted_arrays: recorded SHA-256" in told
    assert "predictions on the 16 recorded probe rows differ by 0." in told
    assert "manifest.json.training.params.learning_rate: recorded 0.05, rebuilt 0.2" in told
    assert found.differences[-1].startswith("the code of retrain_assets is 9.0+abc")


def test_a_version_that_is_not_there_is_refused(platform: Platform) -> None:
    """As everywhere."""
    with pytest.raises(NoModelError, match=r"v9\.9\.9 is not registered"):
        reproduce.reproduce(platform, "v9.9.9")


# ------------------------------------------------------------------------------------------------------------- the card


def test_a_card_of_a_version_that_was_not_validated_says_so(platform: Platform) -> None:
    """And it can be written as a file."""
    text = model_card.write(platform, "v1.0.1").read_text(encoding="utf-8")
    assert text == model_card.card(platform, "v1.0.1")
    assert "Not validated yet." in text
    assert "- Not validated: no gate has been judged." in text
