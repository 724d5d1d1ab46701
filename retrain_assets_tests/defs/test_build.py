"""The definitions as people and dashboards know them; loadable before anything exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from retrain_assets.core.dataset import WeekCalendar
from retrain_assets.core.report import GATES
from retrain_assets.defs.build import build_defs
from retrain_assets.defs.jobs import PERFORMANCE_JOB, WEEKLY_JOB
from retrain_assets.defs.partitions import CHAIN, GROUPS
from retrain_assets.settings import Config, ProblemSettings, RetrainSettings, Settings, load_settings, resolve
from retrain_assets.testing import START, FakeClock

ROOT = Path(__file__).parents[2]
ON_DEMAND = {"promotion", "rollback", "performance_report"}


def _settings(config: Config | None = None) -> Settings:
    return resolve(config or Config(), None)


def _graph(config: Config | None = None) -> dg.Definitions:
    return build_defs(_settings(config), clock=FakeClock())


def test_the_keys_are_those_that_people_and_dashboards_know() -> None:
    """Fixed by the design; renaming one breaks links, alerts and history."""
    keys = {key.to_user_string() for key in _graph().resolve_asset_graph().get_all_asset_keys()}
    assert keys == {
        "outcomes",
        "merged_dataset",
        "prepared_splits",
        "trained_model",
        "registered_model",
        "validation_report",
        "staging_deployment",
        "canary_deployment",
        "promotion",
        "rollback",
        "performance_report",
    }


@pytest.mark.parametrize("name", GROUPS)
def test_each_asset_tells_people_what_it_is(name: str) -> None:
    """Group, kinds, an owner, and one or two sentences: longer ones push the metadata off the screen."""
    node = _graph().resolve_asset_graph().get(dg.AssetKey(name))
    assert node.group_name == GROUPS[name]
    assert node.kinds
    assert node.owners == ["team:model-owners"]
    assert node.description
    assert 1 <= len(re.findall(r"[.!?](?:\s|$)", node.description.strip())) <= 2
    assert len(node.description) <= 160


@pytest.mark.parametrize("name", GROUPS)
def test_the_chain_is_weekly_and_what_people_ask_for_is_not(name: str) -> None:
    """The same weeks everywhere, so that one week can be materialised alone."""
    graph = _graph().resolve_asset_graph()
    partitions = graph.get(dg.AssetKey(name)).partitions_def
    if name in ON_DEMAND:
        assert partitions is None
    else:
        assert isinstance(partitions, dg.WeeklyPartitionsDefinition)
        assert partitions == graph.get(dg.AssetKey("outcomes")).partitions_def


def test_the_order_of_the_flow_is_the_order_of_the_graph() -> None:
    """Each step reads what the one before left."""
    graph = _graph().resolve_asset_graph()
    for upstream, name in pairwise(CHAIN):
        assert graph.get(dg.AssetKey(name)).parent_keys == {dg.AssetKey(upstream)}
    for name in ("promotion", "rollback"):
        assert graph.get(dg.AssetKey(name)).parent_keys == {dg.AssetKey("canary_deployment")}


def test_a_problem_that_shares_an_instance_has_keys_of_its_own() -> None:
    """`problem.prefix_asset_keys` puts its name before every key, also of the checks."""
    graph = _graph(Config(problem=ProblemSettings(name="flights", prefix_asset_keys=True))).resolve_asset_graph()
    assert {key.path[0] for key in graph.get_all_asset_keys()} == {"flights"}
    assert {key.path[1] for key in graph.get_all_asset_keys()} == set(GROUPS)
    assert {check.asset_key.path[0] for check in graph.asset_check_keys} == {"flights"}


def test_the_checks_stand_beside_their_assets_and_block_nothing() -> None:
    """Every gate of the report, the volume of a week, and the freshness of a manifest."""
    graph = _graph().resolve_asset_graph()
    named = {(key.asset_key.to_user_string(), key.name) for key in graph.asset_check_keys}
    assert named == {
        *(("validation_report", gate) for gate in GATES),
        ("outcomes", "has_tasks"),
        ("merged_dataset", "uses_newest_snapshots"),
    }
    assert not any(graph.get_check_spec(key).blocking for key in graph.asset_check_keys)


@pytest.mark.filterwarnings("ignore:Function `JobDefinition.run_request_for_partition` is deprecated")  # by itself
@pytest.mark.parametrize(
    ("rules", "cron"),
    [
        ({}, "0 2 * * 0"),
        ({"day": "wednesday", "time": "23:30", "timezone": "Europe/Berlin"}, "30 23 * * 3"),
        ({"day": "saturday", "time": "00:05", "timezone": "America/New_York"}, "5 0 * * 6"),
    ],
    ids=str,
)
def test_the_schedule_follows_the_config(rules: dict[str, str], cron: str) -> None:
    """Day, time and time zone; it runs by itself, and asks for the week that has just closed."""
    retrain = RetrainSettings(**rules)  # type: ignore[arg-type]
    definitions = _graph(Config(retrain=retrain))
    schedule = definitions.resolve_schedule_def("weekly_retrain_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == (cron, retrain.timezone)
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert schedule.job_name == WEEKLY_JOB
    closed_at = WeekCalendar(retrain.day, retrain.time, retrain.timezone).containing(START).end_at
    tick = closed_at.astimezone(ZoneInfo(retrain.timezone))
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(instance=instance, scheduled_execution_time=tick)
        (request,) = schedule.evaluate_tick(context).run_requests or []
    assert request.partition_key == (tick.date() - timedelta(days=7)).isoformat()


def test_the_sensors_run_by_themselves() -> None:
    """Nobody has to switch the watch on."""
    definitions = _graph()
    for name in ("canary_watch", "notification_delivery", "retrain_failure_watch"):
        assert definitions.resolve_sensor_def(name).default_status is dg.DefaultSensorStatus.RUNNING


def test_the_jobs_hold_the_chain_and_the_report() -> None:
    """Promotions and rollbacks are never part of a weekly run."""
    definitions = _graph()
    for job, names in ((WEEKLY_JOB, set(CHAIN)), (PERFORMANCE_JOB, {"performance_report"})):
        layer = definitions.resolve_job_def(job).asset_layer
        assert {key.to_user_string() for key in layer.executable_asset_keys} == names


def test_each_call_gives_fresh_definitions() -> None:
    """Two problems in one process do not share anything."""
    first, second = _graph(), _graph()
    assert first is not second
    assert first.resolve_job_def(WEEKLY_JOB) is not second.resolve_job_def(WEEKLY_JOB)


def test_definitions_load_before_there_is_a_database(home: Path) -> None:
    """And loading creates none: the UI of a fresh clone opens, with the weeks up to now."""
    settings = load_settings(ROOT / "config" / "retrain.yaml")
    definitions = build_defs(settings)
    dg.Definitions.validate_loadable(definitions)
    weeks = definitions.resolve_job_def(WEEKLY_JOB).partitions_def
    assert weeks is not None
    assert len(weeks.get_partition_keys()) >= 8
    assert not (home / "backlinks" / "retrain.db").exists()


def test_what_dagster_loads_imports_in_a_clean_process(home: Path) -> None:
    """`retrain_assets.definitions` with the shipped config, from the folder of the repository."""
    code = "from retrain_assets.definitions import defs; print(len(defs.resolve_asset_graph().get_all_asset_keys()))"
    environ = {**os.environ, "RETRAIN_HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "11"
