"""What the engine makes of a task's URL by itself, so that deciding and training see the same features."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from retrain_assets.core.dataset import WeekCalendar
from retrain_assets.core.url_features import URL_FEATURES
from retrain_assets.errors import SchemaError
from retrain_assets.serving.engine import DecisionEngine
from retrain_assets.settings import (
    Config,
    ExplorationSettings,
    ExtractionSettings,
    FeatureSettings,
    ProblemSettings,
)
from retrain_assets.store import datasets, decisions, published
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.database import Database
from retrain_assets.store.extractors import extraction_of
from retrain_assets.testing import FakeClock, seeded_database

TYPES: dict[str, Any] = {name: FeatureSettings(type=kind) for name, kind in URL_FEATURES.items()}  # type: ignore[arg-type]
PROBLEM = ProblemSettings(features={"pa": FeatureSettings(type="number")} | TYPES, strata=["url_tld"])
CONFIG = Config(problem=PROBLEM, exploration=ExplorationSettings(epsilon=0.0))
TASKS: list[tuple[str | None, dict[str, Any]]] = [
    ("a.org", {"pa": 1.0, "url": "https://www.a.co.uk:8443/x/y?p=1"}),
    ("https://b.org/forum/1", {}),
    ("b.org", {}),
    ("c-1.org", {"url": "not a url"}),
    (None, {"url": "http://bücher.example/ä"}),
    ("nothing", {"url": None, "pa": None}),
    (None, {}),
    ("d.org", {"url": "http://2130706433/", "https_enabled": True, "url_length": 3}),
    ("d.org", {"url": "http://[::1]/", "url_path_depth": None}),
]


@pytest.fixture
def clock() -> FakeClock:
    """The engine's clock."""
    return FakeClock()


def open_engine(url: str, folder: Path, clock: FakeClock, config: Config = CONFIG) -> DecisionEngine:
    """An engine on a database in which a tiny model serves under these settings."""
    seeded_database(url, folder, config=config, production="v1.0.0")
    return DecisionEngine.from_registry(url, problem_home=folder, clock=clock, start_refresh=False)


@pytest.fixture
def engine(sqlite_url: str, tmp_path: Path, clock: FakeClock) -> Iterator[DecisionEngine]:
    """The same on SQLite."""
    with open_engine(sqlite_url, tmp_path, clock) as made:
        yield made


def snapshot_rows(url: str, folder: Path, clock: FakeClock, config: Config = CONFIG) -> list[dict[str, Any]]:
    """The features of the clock's week as a training reads them, in the order of the tasks."""
    calendar = WeekCalendar("sunday", "02:00", "UTC")
    week = calendar.containing(clock())
    database = Database(url)
    snapshot = datasets.take_snapshot(
        database, folder, week, config.schema, week.end_at, extraction=extraction_of(config)
    )
    database.close()
    table = pq.read_table(folder / snapshot.path).sort_by("task_id")
    columns = [name for name in table.column_names if name.startswith("feature_") or name == "stratum"]
    return [
        {name.removeprefix("feature_"): value for name, value in row.items() if value is not None}
        for row in table.select(columns).to_pylist()
    ]


def test_deciding_and_training_see_the_same(database_url: str, tmp_path: Path, clock: FakeClock) -> None:
    """What a model was asked with is what a training finds, for every kind of address, also without a decision."""
    with open_engine(database_url, tmp_path, clock) as engine:
        given = [
            engine.decide(task_id=f"t{place}", domain=domain, features=features)
            for place, (domain, features) in enumerate(TASKS)
        ]
        engine.flush()
    asked = [{n: v for n, v in d.features.items() if n in PROBLEM.features and v is not None} for d in given]
    decided = snapshot_rows(database_url, tmp_path, clock)
    assert [{n: v for n, v in row.items() if n != "stratum"} for row in decided] == asked
    # The same tasks as a log of somebody else's would tell them, a week later.
    clock.advance(timedelta(weeks=1))
    with FeedbackCollector(database_url, config=CONFIG, clock=clock) as collector:
        rows = [
            {"task_id": f"h{place}", "domain": domain, "action_attempted": "forum", "result": True} | features
            for place, (domain, features) in enumerate(TASKS)
        ]
        assert {receipt.status for receipt in collector.append_outcomes(rows)} == {"accepted"}
    assert snapshot_rows(database_url, tmp_path, clock) == decided


def test_what_was_filled_is_in_the_log(database_url: str, tmp_path: Path, clock: FakeClock) -> None:
    """The log holds what the model was asked with, so that a later list of suffixes changes nothing in the past."""
    with open_engine(database_url, tmp_path, clock) as engine:
        decision = engine.decide(task_id="t1", domain="a.org", features={"url": "https://a.co.uk/x"})
        engine.flush()
    database = Database(database_url)
    with database.read() as connection:
        logged = decisions.get(connection, decision.decision_id)
    database.close()
    assert logged is not None
    assert (logged.features["url_tld"], logged.features["url_path_depth"], logged.stratum) == ("co.uk", 1, "co.uk")


def test_what_a_worker_sends_stands(engine: DecisionEngine) -> None:
    """The engine fills gaps and corrects nobody, also where a value does not fit."""
    sent = {"url": "https://a.org/x", "https_enabled": False, "url_path_depth": 7}
    found = engine.decide(task_id="t1", features=sent).features
    assert (found["https_enabled"], found["url_path_depth"], found["url_tld"]) == (False, 7, "org")
    assert sent == {"url": "https://a.org/x", "https_enabled": False, "url_path_depth": 7}
    with pytest.raises(SchemaError, match="url_path_depth"):
        engine.decide(task_id="t1", features={"url": "https://a.org/x", "url_path_depth": "many"})


@pytest.mark.parametrize("url", [5, b"x", ["https://a.org"], {"a": 1}, "\ud800", "https://a.org/" + "x" * 100_000])
def test_a_url_of_any_kind_costs_no_decision(engine: DecisionEngine, url: object) -> None:
    """What is no address leaves the features missing."""
    decision = engine.decide(task_id="t1", features={"url": url, "pa": 1.0})
    assert decision.features.keys() == {"url", "pa"}


def test_predict_fills_as_decide_does(engine: DecisionEngine) -> None:
    """Both ask the model with the same features."""
    features = {"url": "https://a.co.uk/x", "pa": 50.0}
    assert engine.predict(features) == engine.decide(task_id="t1", features=features).scores


def test_a_model_is_asked_with_features_that_the_settings_no_longer_have(
    sqlite_url: str, tmp_path: Path, clock: FakeClock
) -> None:
    """A feature that was taken out of the config is still what the model of last week learnt from."""
    seeded = seeded_database(sqlite_url, tmp_path, config=CONFIG, production="v1.0.0")
    smaller = Config(problem=ProblemSettings(features={"pa": FeatureSettings(type="number")}, strata=[]))
    clock.advance(minutes=1)
    with seeded.database.write() as connection:
        published.publish(connection, smaller, clock())
    with DecisionEngine.from_registry(sqlite_url, problem_home=tmp_path, clock=clock, start_refresh=False) as engine:
        assert engine.decide(task_id="t1", features={"url": "https://a.org/x"}).features["url_tld"] == "org"


def test_functions_run_where_they_can_be_imported(
    sqlite_url: str, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that is here fills, one that raises costs nothing, one that is not here is told once."""
    folder = tmp_path / "own"
    folder.mkdir()
    text = "def letters(row):\n    return {'pa': 1 / (row['domain'] != 'bad.org') * len(row['domain'])}\n"
    (folder / "engine_extractors.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    functions = ["engine_extractors:letters", "not_installed_here:letters"]
    config = Config(problem=PROBLEM, extraction=ExtractionSettings(functions=functions))
    with caplog.at_level(logging.WARNING), open_engine(sqlite_url, tmp_path, clock, config) as engine:
        assert engine.decide(task_id="t1", domain="a.org").features["pa"] == 5.0
        for number in range(3):
            assert "pa" not in engine.decide(task_id=f"b{number}", domain="bad.org").features
        assert engine.counters["extraction_faults"] == 3
    told = [record.getMessage() for record in caplog.records]
    absent = [line for line in told if "not_installed_here" in line]
    assert len(absent) == 1
    assert "extraction.functions[1]: 'not_installed_here:letters' cannot be imported" in absent[0]
    assert told.count("a feature stays missing: engine_extractors:letters: raised ZeroDivisionError") == 1
