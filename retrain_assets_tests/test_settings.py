"""The configuration: the seed's blocks as they stand, every mistake at once, and where things lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from retrain_assets.core.features import FeatureType
from retrain_assets.errors import ConfigError
from retrain_assets.settings import (
    CanarySettings,
    Config,
    dagster_folder,
    dagster_home,
    load_settings,
    read_config,
    resolve,
)

ROOT = Path(__file__).parents[1]

SEED = """{
  "retrain": {
    "schedule": "weekly",
    "day": "sunday",
    "time": "02:00",
    "min_new_samples": 100,
    "merge_strategy": "append",
    "validation_threshold": 0.80
  },
  "canary": {
    "enabled": true,
    "percentage": 0.1,
    "duration_hours": 24,
    "thresholds": {
      "min_success_rate": 0.80,
      "max_error_rate": 0.05,
      "max_response_time_ms": 100
    }
  },
  "rollback": {
    "auto_rollback": true,
    "thresholds": {
      "min_success_rate": 0.75,
      "max_error_rate": 0.10,
      "max_response_time_ms": 200
    }
  }
}"""

SEED_CANARY = """{
  "canary_enabled": true,
  "canary_percentage": 0.1,
  "canary_duration_hours": 24,
  "canary_thresholds": {
    "min_success_rate": 0.80,
    "max_error_rate": 0.05,
    "max_response_time_ms": 100
  }
}"""


def _problems(data: Any) -> list[str]:  # noqa: ANN401  (whatever YAML holds)
    with pytest.raises(ConfigError, match="problem") as caught:
        read_config(data)
    return caught.value.problems


# -------------------------------------------------------------------------------------------------- what is accepted


@pytest.mark.parametrize("name", ["retrain.json", "retrain.yaml"])
@pytest.mark.parametrize("text", [SEED, SEED_CANARY, "", "{}"], ids=["blocks", "flat canary", "empty", "no keys"])
def test_the_seeds_json_loads_verbatim(tmp_path: Path, name: str, text: str) -> None:
    """As JSON or YAML; its values are the defaults."""
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    assert load_settings(file).config == Config()


def test_the_seeds_values_are_really_read() -> None:
    """Not taken from the defaults by accident."""
    changed = json.loads(SEED.replace("0.80", "0.7").replace("100", "99").replace("sunday", "friday"))
    config = read_config(changed)
    assert (config.retrain.validation_threshold, config.retrain.min_new_samples, config.retrain.day) == (
        0.7,
        99,
        "friday",
    )
    assert config.canary.thresholds.max_response_time_ms == 99
    flat = json.loads(SEED_CANARY.replace("24", "12").replace("true", "false"))
    for data in (flat, {"canary": flat}):
        assert (read_config(data).canary.duration_hours, read_config(data).canary.enabled) == (12, False)


def test_the_shipped_configuration_holds_every_key_with_its_default() -> None:
    """It documents them, so it must neither miss one nor say another value."""
    data = yaml.safe_load((ROOT / "config" / "retrain.yaml").read_text(encoding="utf-8"))
    assert read_config(data) == Config()
    everything = msgspec.to_builtins(Config())
    for block, keys in everything.items():
        assert set(data[block]) == set(keys), block
    assert set(data) == set(everything)


def test_the_flights_configuration_is_valid() -> None:
    """Two problems may share one Dagster instance: its keys are prefixed."""
    config = load_settings(ROOT / "config" / "flights.yaml").config
    assert config.problem.prefix_asset_keys
    assert config.problem.name != Config().problem.name


def test_dates_and_times_may_stand_without_quotes() -> None:
    """YAML makes a date of one and a number of the other."""
    config = read_config(yaml.safe_load("retrain: {first_week: 2026-01-04, time: 12:30}"))
    assert (config.retrain.first_week, config.retrain.time) == ("2026-01-04", "12:30")


def test_a_problem_of_ones_own_does_not_inherit_the_seeds_names() -> None:
    """Its aliases and strata would name what is not there."""
    config = read_config({"problem": {"actions": ["a", "b"], "features": {"x": {"type": "number"}}}})
    assert (config.problem.action_aliases, config.problem.strata) == ({}, [])
    assert config.schema.actions == ("a", "b")
    assert config.schema.get("x") is not None


def test_the_schema_is_that_of_the_problem() -> None:
    """Twelve features in the order of the config, their types and limits."""
    schema = Config().schema
    assert len(schema.features) == 12
    assert schema.features[0].name == "pa"
    assert (schema.features[0].type, schema.features[0].max) == (FeatureType.NUMBER, 100)
    assert schema.strata == ("site_type",)


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"retrian": {}}, "retrian: unknown key (value {}); did you mean retrain?"),
        ({"retrain": {"tiem": "02:00"}}, "retrain.tiem: unknown key (value '02:00'); did you mean retrain.time?"),
        (
            {"canary": {"thresholds": {"max_eror_rate": 1}}},
            "canary.thresholds.max_eror_rate: unknown key (value 1); did you mean canary.thresholds.max_error_rate?",
        ),
        ({"canary_precentage": 0.2}, None),
        (
            {"problem": {"features": {"pa": {"type": "number", "mim": 0}}}},
            "problem.features.pa.mim: unknown key (value 0); did you mean problem.features.pa.min?",
        ),
        ({"engine": {"zzz": 1}}, "engine.zzz: unknown key (value 1); known keys: refresh_seconds, log_queue, log_full"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_is_named(data: dict[str, Any], problem: str | None) -> None:
    """A key that is ignored is a setting that somebody believes in."""
    (found,) = _problems(data)
    assert problem is None or found == problem
    assert "unknown key" in found


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ({"canary": {"percentage": 10}}, "canary.percentage"),
        ({"canary": {"percentage": "10%"}}, "canary.percentage"),
        ({"canary": {"enabled": "yes"}}, "canary.enabled"),
        ({"canary": {"steps": [0.5, 0.1]}}, "canary.steps"),
        ({"canary": {"steps": []}}, "canary.steps"),
        ({"canary": {"steps": [0.1, 1.0]}}, "canary.steps"),
        ({"canary": {"percentage": 0.6}}, "canary.percentage"),
        ({"canary": {"duration_hours": 24, "max_duration_hours": 12}}, "canary.max_duration_hours"),
        ({"canary": {"thresholds": {"max_error_rate": 5}}}, "canary.thresholds.max_error_rate"),
        ({"retrain": {"day": "Sunday"}}, "retrain.day"),
        ({"retrain": {"time": "2:00"}}, "retrain.time"),
        ({"retrain": {"time": "24:00"}}, "retrain.time"),
        ({"retrain": {"timezone": "Berlin"}}, "retrain.timezone"),
        ({"retrain": {"first_week": "2026-02-30"}}, "retrain.first_week"),
        ({"retrain": {"validation_threshold": 80}}, "retrain.validation_threshold"),
        ({"retrain": {"min_new_samples": -1}}, "retrain.min_new_samples"),
        ({"model": {"seed": 1.5}}, "model.seed"),
        ({"problem": {"name": "my problem"}}, "problem.name"),
        ({"problem": {"name": "../elsewhere"}}, "problem.name"),
        ({"problem": {"actions": []}}, "problem.actions"),
        ({"problem": {"actions": ["A", "a"]}}, "problem.actions"),
        ({"problem": {"default_action": "fax"}}, "problem.default_action"),
        ({"problem": {"action_aliases": {"x": "fax"}}}, "problem.action_aliases.x"),
        ({"problem": {"strata": ["shoe_size"]}}, "problem.strata"),
        ({"problem": {"features": {"pa": {"type": "text"}}}}, "problem.features.pa.type"),
        ({"problem": {"features": {"pa": {}}}}, "problem.features.pa"),
        ({"problem": {"features": {"pa": {"type": "number", "min": 2, "max": 1}}}}, "problem.features.pa"),
        ({"problem": {"features": {"pa": {"type": "boolean", "min": 0}}}}, "problem.features.pa"),
        ({"problem": {"features": {"pa": {"type": "number", "categories": ["a"]}}}}, "problem.features.pa"),
        ({"problem": {"features": {"pa-1": {"type": "number"}}}}, "problem.features.pa-1"),
        ({"problem": {"features": ["pa"]}}, "problem.features"),
        ({"retrain": "weekly"}, "retrain"),
        ({"storage": {"outcomes": "excel"}}, "storage.outcomes"),
        ({"imports": {"timezone": "Mars/Olympus"}}, "imports.timezone"),
        ({"imports": {"encoding": "utf-99"}}, "imports.encoding"),
        ({"imports": {"delimiter": "ab"}}, "imports.delimiter"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_with_its_path(data: dict[str, Any], where: str) -> None:
    """Out of range, of another type, or in contradiction to another key."""
    (found,) = _problems(data)
    assert found.startswith(f"{where}: ")


def test_all_problems_are_listed_at_once() -> None:
    """One run, one list: nobody mends a config a line at a time."""
    data = {
        "retrain": {"day": "someday", "time": "25:00", "tiemzone": "UTC"},
        "canary": {"percentage": 2, "thresholds": {"min_success_rate": 80}},
        "nonsense": 1,
    }
    found = _problems(data)
    assert [line.partition(":")[0] for line in found] == [
        "retrain.day",
        "retrain.time",
        "retrain.tiemzone",
        "canary.percentage",
        "canary.thresholds.min_success_rate",
        "nonsense",
    ]
    with pytest.raises(ConfigError, match=r"retrain\.yaml has 6 problems:\n  - retrain\.day"):
        read_config(data, "retrain.yaml")


@pytest.mark.parametrize("data", [[], "weekly", 3], ids=str)
def test_what_is_no_mapping_is_refused(data: Any) -> None:  # noqa: ANN401  (whatever YAML holds)
    """A file that holds something else altogether."""
    assert _problems(data) == [f"must be a mapping of blocks, not {type(data).__name__}"]


def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    """Missing, a folder, not YAML, not text."""
    with pytest.raises(ConfigError, match=r"none\.yaml does not exist; name one with --config or RETRAIN_CONFIG"):
        load_settings(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path)
    for content, message in ((b"retrain: [", "not valid YAML or JSON"), (b"\xff\xfe\x00a", "cannot be read")):
        (tmp_path / "bad.yaml").write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            load_settings(tmp_path / "bad.yaml")


# ------------------------------------------------------------------------------------------------------ where it lies


def test_the_config_is_the_one_named_or_the_environments_or_the_one_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order."""
    for name in ("named", "environment", "here"):
        (tmp_path / name / "config").mkdir(parents=True)
        text = f"problem: {{name: {name}}}"
        (tmp_path / name / "config" / "retrain.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "here")
    environ = {"RETRAIN_CONFIG": str(tmp_path / "environment" / "config" / "retrain.yaml")}
    named = tmp_path / "named" / "config" / "retrain.yaml"
    assert load_settings(named, environ=environ).config.problem.name == "named"
    assert load_settings(environ=environ).config.problem.name == "environment"
    here = load_settings(environ={})
    assert (here.config.problem.name, here.home) == ("here", tmp_path / "here" / ".retrain")


def test_everything_of_a_problem_lies_in_its_own_folder(tmp_path: Path) -> None:
    """Below RETRAIN_HOME, else below `.retrain` beside the folder that holds the config."""
    file = tmp_path / "config" / "retrain.yaml"
    settings = resolve(Config(), file, environ={})
    assert settings.problem_home == tmp_path / ".retrain" / "backlinks"
    assert settings.database_url == f"sqlite:///{tmp_path / '.retrain' / 'backlinks' / 'retrain.db'}"
    elsewhere = resolve(Config(), file, environ={"RETRAIN_HOME": str(tmp_path / "elsewhere")})
    assert elsewhere.problem_home == tmp_path / "elsewhere" / "backlinks"
    assert elsewhere.home.is_absolute()


def test_the_environment_names_the_database_before_the_config_does(tmp_path: Path) -> None:
    """So that secrets need not stand in files."""
    config = read_config({"storage": {"database_url": "postgresql://config/db"}})
    assert resolve(config, None, environ={}).database_url == "postgresql://config/db"
    environ = {"RETRAIN_DATABASE_URL": "postgresql://environment/db"}
    assert resolve(config, None, environ=environ).database_url == "postgresql://environment/db"


def test_dagsters_history_lies_beside_the_problems(tmp_path: Path) -> None:
    """The same folder, with or without a config."""
    assert dagster_folder(environ={"RETRAIN_HOME": str(tmp_path)}) == tmp_path / "dagster"
    environ = {"RETRAIN_CONFIG": str(tmp_path / "config" / "retrain.yaml")}
    assert dagster_folder(environ=environ) == tmp_path / ".retrain" / "dagster"
    assert dagster_home(environ={}) is None
    assert dagster_home(environ={"DAGSTER_HOME": str(tmp_path)}) == tmp_path


def test_published_settings_hold_no_secrets() -> None:
    """Every worker reads them; the hash does not depend on them either."""
    secret = {"storage": {"database_url": "postgresql://u:secret@h/db"}, "notifications": {"urls": ["slack://secret"]}}
    config = read_config(secret)
    assert "secret" not in json.dumps(config.to_dict())
    assert config.config_hash == Config().config_hash
    assert read_config(config.to_dict()) == Config()


def test_any_other_difference_changes_the_hash() -> None:
    """It tells workers that something is new."""
    assert Config(canary=CanarySettings(alpha=0.02)).config_hash != Config().config_hash


def test_the_ramp_is_the_steps_or_the_percentage() -> None:
    """The seed knows one share only."""
    assert CanarySettings().ramp == (0.1,)
    assert CanarySettings(percentage=0.3).ramp == (0.3,)
    assert CanarySettings(steps=[0.1, 0.25, 0.5]).ramp == (0.1, 0.25, 0.5)
