"""What a worker can rely on when it asks for an action."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sqlalchemy import select

from retrain_assets.errors import NoModelError, SchemaError, StoreOutdated, UsageError
from retrain_assets.serving.engine import DecisionEngine
from retrain_assets.settings import Config, ExplorationSettings, ProblemSettings
from retrain_assets.store import decisions
from retrain_assets.store.database import Database
from retrain_assets.store.tables import decisions as decisions_table
from retrain_assets.testing import FakeClock, SeededDatabase, seeded_database

FEATURES = {"pa": 40.0, "site_type": "blog", "https_enabled": True}
GREEDY = Config(exploration=ExplorationSettings(epsilon=0.0))


def seed(url: str, folder: Path, config: Config = GREEDY, production: str | None = "v1.0.0") -> SeededDatabase:
    """A database with these settings, in which a tiny model serves."""
    return seeded_database(url, folder, config=config, production=production)


def home_of(sqlite_url: str) -> Path:
    """The folder of a SQLite file, where engines look by themselves."""
    return Path(sqlite_url.removeprefix("sqlite:///")).parent


@pytest.fixture
def clock() -> FakeClock:
    """The engine's clock."""
    return FakeClock()


@pytest.fixture
def seeded(sqlite_url: str) -> SeededDatabase:
    """v1.0.0 serves, and nothing is explored."""
    return seed(sqlite_url, home_of(sqlite_url))


@pytest.fixture
def engine(seeded: SeededDatabase, clock: FakeClock) -> Iterator[DecisionEngine]:
    """An engine that refreshes only when asked."""
    with DecisionEngine.from_registry(seeded.url, clock=clock, start_refresh=False) as made:
        yield made


def test_a_decision_says_what_to_do_and_everything_that_led_to_it(engine: DecisionEngine) -> None:
    """Action, scores best first, propensity, version, both arms and latency are in the answer."""
    decision = engine.decide(task_id="t1", domain="a.org", features=FEATURES)
    assert decision.action == "comment"
    assert list(decision.scores) == ["comment", "profile", "forum", "guest"]
    assert list(decision.scores.values()) == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert (decision.propensity, decision.model_version) == (1.0, "v1.0.0")
    assert (decision.arm, decision.assigned_arm, decision.error) == ("production", "production", None)
    assert 0 < decision.latency_ms < math.inf
    assert (decision.share, decision.rollout_id) == (0.0, None)


def test_a_decision_cannot_be_changed(engine: DecisionEngine) -> None:
    """What was decided stays what it was."""
    decision = engine.decide(task_id="t1")
    with pytest.raises(AttributeError, match="immutable"):
        decision.action = "guest"  # type: ignore[misc]


def test_every_decision_is_in_the_log_with_all_its_columns(database_url: str, tmp_path: Path, clock: FakeClock) -> None:
    """After a flush the log holds what was answered, on SQLite and on PostgreSQL."""
    seed(database_url, tmp_path)
    with DecisionEngine.from_registry(database_url, problem_home=tmp_path, clock=clock, start_refresh=False) as engine:
        decision = engine.decide(task_id="t1", domain="a.org", features=FEATURES, actions=["guest", "forum"], attempt=2)
        engine.flush()
    database = Database(database_url)
    with database.read() as connection:
        logged = decisions.get(connection, decision.decision_id)
    database.close()
    assert logged is not None
    names = ("task_id", "attempt", "domain", "action", "scores", "propensity", "arm", "assigned_arm", "model_version")
    assert {name: getattr(logged, name) for name in names} == {name: getattr(decision, name) for name in names}
    assert (logged.decided_at, logged.deadline_at) == (clock(), clock() + timedelta(minutes=60))
    assert (logged.features, logged.stratum) == (FEATURES, "blog")
    assert (logged.actions, logged.share, logged.rollout_id) == (("guest", "forum"), 0.0, None)
    assert logged.latency_ms == decision.latency_ms


def test_only_the_candidates_are_scored_and_chosen(engine: DecisionEngine) -> None:
    """A task for which two actions are possible gets one of the two."""
    decision = engine.decide(task_id="t1", features=FEATURES, actions=["guest", "forum"])
    assert list(decision.scores) == ["forum", "guest"]
    assert (decision.action, decision.actions) == ("forum", ("guest", "forum"))


def test_candidates_are_known_by_any_case_and_alias_and_count_once(engine: DecisionEngine) -> None:
    """The collector's names work here too, and naming an action twice does not double its chance."""
    assert engine.decide(task_id="t1", actions=["GUEST", "guestposting", "Forum"]).actions == ("guest", "forum")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"actions": []}, r"actions: \[\] is no list of at least one action"),
        ({"actions": "guest"}, "actions: 'guest' is no list"),
        ({"actions": ["guest", "spam"]}, "actions: 'spam' is not one of comment, profile, forum, guest"),
        ({"actions": [["guest"]]}, "actions: .* is not a list of names"),
        ({"actions": 7}, "actions: 7 is not a list of names"),
        ({"features": {"pa": "high"}}, "pa: 'high' is not a number"),
        ({"features": {"https_enabled": "perhaps"}}, "https_enabled: 'perhaps' is not a boolean"),
        ({"features": [1]}, "features: is a list; send a mapping"),
        ({"task_id": ""}, "task_id: is required"),
        ({"task_id": None}, "task_id: None is not text"),
        ({"task_id": True}, "task_id: True is not text"),
        ({"task_id": "x" * 201}, "task_id: has 201 characters"),
        ({"task_id": "a\x00b"}, "task_id: holds a NUL"),
        ({"task_id": "a\ud800"}, "task_id: holds half a character"),
        ({"domain": 7}, "domain: 7 is not text"),
        ({"domain": "a\x00b"}, "domain: holds a NUL"),
        ({"domain": "x" * 2001}, "domain: has 2001 characters"),
        ({"attempt": 0}, "attempt: 0 is not a whole number"),
        ({"attempt": True}, "attempt: True is not a whole number"),
        ({"attempt": 1.5}, "attempt: 1.5 is not a whole number"),
    ],
)
def test_what_does_not_fit_is_named(engine: DecisionEngine, arguments: dict[str, object], message: str) -> None:
    """A wrong argument or feature is a SchemaError that names it, and nothing is logged."""
    with pytest.raises(SchemaError, match=message):
        engine.decide(**({"task_id": "t1", "features": FEATURES} | arguments))  # type: ignore[arg-type]
    assert engine.counters.get("log_queued", 0) == 0


def test_task_ids_are_read_as_the_collector_reads_them(engine: DecisionEngine) -> None:
    """Numbers and surrounding spaces are accepted alike on both sides, so that decision and outcome meet."""
    assert engine.decide(task_id=17).task_id == "17"  # type: ignore[arg-type]
    assert engine.decide(task_id=" t1 ").task_id == "t1"
    assert engine.decide(task_id="aufgabe-ü").task_id == "aufgabe-ü"


def test_the_log_keeps_features_in_their_types(engine: DecisionEngine, seeded: SeededDatabase) -> None:
    """Numpy numbers and texts become the schema's types; unusable values are left out, plain extras kept."""
    given = {
        "pa": np.float32(40.0), "da": "12.5", "url_path_depth": 3.0, "https_enabled": "yes", "site_type": " blog ",
        "requires_login": math.nan, "guest_supported": None, "note": "kept", "blob": object(), "ratio": math.inf,
    }  # fmt: skip
    decision = engine.decide(task_id="t1", features=given)
    engine.flush()
    with seeded.database.read() as connection:
        logged = decisions.get(connection, decision.decision_id)
    assert logged is not None
    expected = {"pa": 40.0, "da": 12.5, "site_type": "blog", "url_path_depth": 3, "https_enabled": True, "note": "kept"}
    assert logged.features == expected
    assert json.dumps(logged.features["https_enabled"]) == "true"


def test_the_callers_mapping_may_change_afterwards(engine: DecisionEngine, seeded: SeededDatabase) -> None:
    """A worker may reuse its dict: the log keeps what was decided on."""
    features = dict(FEATURES)
    decision = engine.decide(task_id="t1", features=features)
    features["pa"] = 99.0
    engine.flush()
    with seeded.database.read() as connection:
        logged = decisions.get(connection, decision.decision_id)
    assert logged is not None
    assert logged.features["pa"] == 40.0


def test_a_decision_made_without_the_log_can_be_recorded_later_and_twice(
    engine: DecisionEngine, seeded: SeededDatabase
) -> None:
    """`log=False` stores nothing, `record` does, and recording again changes nothing."""
    decision = engine.decide(task_id="t1", features=FEATURES, log=False)
    other = engine.decide(task_id="t2", features=FEATURES, log=False)
    engine.record(decision)
    engine.record(decision)
    engine.flush()
    with seeded.database.read() as connection:
        ids = connection.execute(select(decisions_table.c.decision_id)).scalars().all()
    assert list(ids) == [decision.decision_id]
    assert other.decision_id not in ids


def test_a_durable_decision_is_stored_when_the_call_returns(engine: DecisionEngine, seeded: SeededDatabase) -> None:
    """`durable=True` needs no flush."""
    decision = engine.decide(task_id="t1", durable=True)
    with seeded.database.read() as connection:
        assert decisions.get(connection, decision.decision_id) is not None


def test_predictions_neither_route_nor_log(engine: DecisionEngine) -> None:
    """`predict` and `predict_ranked` give production's scores best first and leave no trace."""
    assert engine.predict(FEATURES) == pytest.approx({"comment": 0.8, "profile": 0.6, "forum": 0.4, "guest": 0.2})
    ranked = engine.predict_ranked(FEATURES, ["guest", "comment"])
    assert [action for action, _ in ranked] == ["comment", "guest"]
    assert engine.counters.get("log_queued", 0) == 0
    assert engine.active_version == "v1.0.0"


class TestExploration:
    """Some decisions are explored, and the log says with which probability."""

    def test_propensities_are_the_true_frequencies(self, sqlite_url: str) -> None:
        """Over 20,000 tasks each action is chosen as often as its propensity says (seed 7, five standard errors)."""
        epsilon, tasks = 0.2, 20_000
        seeded = seed(sqlite_url, home_of(sqlite_url), Config(exploration=ExplorationSettings(epsilon=epsilon)))
        with DecisionEngine.from_registry(seeded.url, seed=7, start_refresh=False) as engine:
            made = [engine.decide(task_id=f"t{i}", log=False) for i in range(tasks)]
        told = {decision.action: decision.propensity for decision in made}
        expected = {"comment": 0.8, "profile": 0.2 / 3, "forum": 0.2 / 3, "guest": 0.2 / 3}
        assert told == pytest.approx(expected)
        chosen = Counter(decision.action for decision in made)
        for action, p in expected.items():
            assert abs(chosen[action] / tasks - p) < 5 * math.sqrt(p * (1 - p) / tasks), action

    def test_a_seed_repeats_the_choices(self, sqlite_url: str) -> None:
        """The same seed explores the same way; another one does not."""
        seeded = seed(sqlite_url, home_of(sqlite_url), Config(exploration=ExplorationSettings(epsilon=0.5)))

        def choices(number: int) -> list[str]:
            with DecisionEngine.from_registry(seeded.url, seed=number, start_refresh=False) as engine:
                return [engine.decide(task_id=f"t{i}", log=False).action for i in range(200)]

        assert choices(1) == choices(1)
        assert choices(1) != choices(2)

    def test_exploration_has_nothing_to_do_with_the_task(self, sqlite_url: str) -> None:
        """One task asked 2,000 times is explored as often as 2,000 tasks asked once (seed 3)."""
        seeded = seed(sqlite_url, home_of(sqlite_url), Config(exploration=ExplorationSettings(epsilon=0.5)))
        with DecisionEngine.from_registry(seeded.url, seed=3, start_refresh=False) as engine:
            same = sum(engine.decide(task_id="t", log=False).action != "comment" for _ in range(2_000))
            different = sum(engine.decide(task_id=f"t{i}", log=False).action != "comment" for i in range(2_000))
        assert abs(same - 1_000) < 5 * math.sqrt(500)
        assert abs(different - 1_000) < 5 * math.sqrt(500)

    def test_a_task_with_one_candidate_is_never_explored(self, sqlite_url: str) -> None:
        """Where there is no choice the propensity is 1."""
        seeded = seed(sqlite_url, home_of(sqlite_url), Config(exploration=ExplorationSettings(epsilon=0.9)))
        with DecisionEngine.from_registry(seeded.url, start_refresh=False) as engine:
            made = [engine.decide(task_id=f"t{i}", actions=["forum"], log=False) for i in range(50)]
        assert {(decision.action, decision.propensity) for decision in made} == {("forum", 1.0)}

    def test_an_action_newer_than_the_model_gets_its_first_tasks_by_exploration(self, sqlite_url: str) -> None:
        """An action the model was not trained for has no score, and is still explored with its propensity told."""
        actions = ["comment", "profile", "forum", "guest"]
        home = home_of(sqlite_url)
        seeded = seed(sqlite_url, home)
        grown = Config(
            problem=ProblemSettings(actions=[*actions, "wiki"]), exploration=ExplorationSettings(epsilon=0.5)
        )
        from retrain_assets.store import published

        with seeded.database.write() as connection:
            published.publish(connection, grown, FakeClock().now())
        with DecisionEngine.from_registry(seeded.url, seed=5, start_refresh=False) as engine:
            made = [engine.decide(task_id=f"t{i}", log=False) for i in range(300)]
        assert {tuple(sorted(decision.scores)) for decision in made} == {tuple(sorted(actions))}
        assert {d.propensity for d in made if d.action == "wiki"} == {0.125}


class TestWithoutAModel:
    """A worker that starts before the first model gets the default action, or is told what to do."""

    def test_the_default_action_answers(self, sqlite_url: str) -> None:
        """The default action is production's answer with propensity 1, no version and no scores."""
        config = Config(problem=ProblemSettings(default_action="guest"))
        seeded = seed(sqlite_url, home_of(sqlite_url), config, production=None)
        with DecisionEngine.from_registry(seeded.url, start_refresh=False) as engine:
            decision = engine.decide(task_id="t1", features=FEATURES)
            assert (decision.action, decision.arm, decision.model_version) == ("guest", "production", None)
            assert (decision.scores, decision.propensity) == ({}, 1.0)
            assert engine.active_version is None
            engine.flush()
            assert engine.counters["defaults"] == engine.counters["log_written"] == 1

    def test_without_a_default_the_error_says_what_to_do(self, sqlite_url: str) -> None:
        """NoModelError names the command that makes a model and the setting that would answer."""
        seeded = seed(sqlite_url, home_of(sqlite_url), production=None)
        with DecisionEngine.from_registry(seeded.url, start_refresh=False) as engine:
            with pytest.raises(NoModelError, match=r"no version serves yet.*retrain run.*problem.default_action"):
                engine.decide(task_id="t1")
            with pytest.raises(NoModelError, match="no version serves yet"):
                engine.predict({})

    def test_a_default_that_is_no_candidate_is_not_forced_on_the_task(self, sqlite_url: str) -> None:
        """A task that cannot take the default action is told so."""
        config = Config(problem=ProblemSettings(default_action="guest"))
        seeded = seed(sqlite_url, home_of(sqlite_url), config, production=None)
        with (
            DecisionEngine.from_registry(seeded.url, start_refresh=False) as engine,
            pytest.raises(NoModelError, match="'guest' is none of the candidates forum"),
        ):
            engine.decide(task_id="t1", actions=["forum"])

    def test_an_empty_embedded_database_waits_for_the_platform(self, sqlite_url: str) -> None:
        """A worker may start first: it says what is missing, and serves as soon as a model is there."""
        with DecisionEngine.from_registry(sqlite_url, start_refresh=False) as engine:
            with pytest.raises(NoModelError, match="no settings are published"):
                engine.decide(task_id="t1")
            seeded_database(sqlite_url, home_of(sqlite_url), config=GREEDY)
            assert engine.refresh()
            assert engine.decide(task_id="t1").action == "comment"

    def test_a_server_without_a_schema_is_left_alone(self, postgresql_url: str) -> None:
        """A worker creates nothing on a server."""
        with pytest.raises(StoreOutdated, match="retrain doctor --fix"):
            DecisionEngine.from_registry(postgresql_url, start_refresh=False)
        Database(postgresql_url).close()


class TestWhereTheFilesLie:
    """The home of the artefacts is found without being told, or told what to tell."""

    def test_an_argument_goes_before_the_folder_of_the_file(self, sqlite_url: str, tmp_path: Path) -> None:
        """`problem_home=` wins over the SQLite file's folder."""
        seed(sqlite_url, tmp_path / "elsewhere")
        with DecisionEngine.from_registry(
            sqlite_url, problem_home=tmp_path / "elsewhere", start_refresh=False
        ) as engine:
            assert engine.active_version == "v1.0.0"

    def test_a_servers_files_are_looked_for_under_the_home(self, postgresql_url: str, home: Path) -> None:
        """Without a SQLite file it is RETRAIN_HOME/<problem.name>."""
        seed(postgresql_url, home / "backlinks")
        with DecisionEngine.from_registry(postgresql_url, start_refresh=False) as engine:
            assert engine.active_version == "v1.0.0"

    def test_files_that_are_not_there_are_named_with_the_folder_and_the_way_out(
        self, sqlite_url: str, tmp_path: Path
    ) -> None:
        """The error says which file, where it was looked for, and how to name another folder."""
        seed(sqlite_url, tmp_path / "elsewhere")
        with (
            DecisionEngine.from_registry(sqlite_url, start_refresh=False) as engine,
            pytest.raises(NoModelError, match=r"v1.0.0: model.onnx cannot be read.*problem_home=.*RETRAIN_HOME"),
        ):
            engine.decide(task_id="t1")

    def test_a_config_file_is_enough(self, home: Path, tmp_path: Path) -> None:
        """`from_config` finds database and files, and keeps to the file's settings."""
        (tmp_path / "config").mkdir()
        file = tmp_path / "config" / "retrain.yaml"
        file.write_text("exploration: {epsilon: 0.0}\nproblem: {default_action: guest}\n", encoding="utf-8")
        folder = home / "backlinks"
        seeded_database(f"sqlite:///{folder / 'retrain.db'}", folder, config=Config())
        with DecisionEngine.from_config(file, start_refresh=False) as engine:
            assert engine.decide(task_id="t1").propensity == 1.0
            assert engine.active_version == "v1.0.0"


def test_a_closed_engine_says_so(seeded: SeededDatabase) -> None:
    """Closing twice is fine; deciding with the log afterwards is a usage error, not a silent loss."""
    engine = DecisionEngine.from_registry(seeded.url)
    engine.decide(task_id="t1")
    engine.close()
    engine.close()
    with pytest.raises(UsageError, match="the engine is closed"):
        engine.decide(task_id="t2")
    with seeded.database.read() as connection:
        assert connection.execute(select(decisions_table.c.task_id)).scalars().all() == ["t1"]


def test_decision_ids_do_not_repeat_and_follow_time(engine: DecisionEngine) -> None:
    """10,000 ids are all different, and ids of later milliseconds sort later."""
    made = [engine.decide(task_id="t", log=False).decision_id for _ in range(10_000)]
    assert len(set(made)) == 10_000
    prefixes = [name[:12] for name in made]
    assert prefixes == sorted(prefixes)
    assert {len(name) for name in made} == {32}


def test_a_decision_travels_as_json(engine: DecisionEngine) -> None:
    """Workers can send decisions on: msgspec encodes them as they are."""
    decision = engine.decide(task_id="t1", features=FEATURES)
    assert msgspec.json.decode(msgspec.json.encode(decision))["action"] == "comment"


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    import threading

    before = set(threading.enumerate())
    yield
    left: Callable[[threading.Thread], bool] = lambda t: t.name.startswith("retrain-") and t not in before  # noqa: E731
    assert not [thread.name for thread in threading.enumerate() if left(thread)]
