"""Weekly runs in this process: every ending is a green run that says what became of the week."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from retrain_assets.core.dataset import Week
from retrain_assets.core.deployment import Event, EventKind
from retrain_assets.defs.partitions import CHAIN
from retrain_assets.defs.run import WeekResult, forget, run_weeks, watch_once, weeks_between
from retrain_assets.demo.automation import SimulatedAutomation
from retrain_assets.errors import UsageError
from retrain_assets.operations import retrain
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.settings import Config, RetrainSettings, Settings
from retrain_assets.store import registry
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.testing import START, FakeClock

TASKS = 400


@dataclass
class Loop:
    """A platform with a told clock and an instance that keeps nothing."""

    platform: Platform
    clock: FakeClock
    instance: dg.DagsterInstance

    def week(self, number: int) -> Week:
        """Week number 0, 1, ..."""
        return self.platform.calendar.containing(START + timedelta(weeks=number))

    def live(self, number: int, tasks: int = TASKS) -> None:
        """The week passes, with its outcomes."""
        week = self.week(number)
        self.clock.set(max(self.clock.now(), week.end_at + timedelta(minutes=5)))
        rows = SimulatedAutomation(0).history(tasks, week.start_at, week.end_at, first=number * 10_000)
        FeedbackCollector(self.platform.database.url, config=self.platform.config, clock=self.clock).append_outcomes(
            rows
        )

    def run(self, number: int) -> WeekResult:
        """The weekly job for one week."""
        (result,) = run_weeks(self.platform, [self.week(number)], self.instance, "anna")
        return result

    def under(self, **rules: Any) -> Loop:  # noqa: ANN401  (fields of `RetrainSettings`)
        """The same problem under other rules."""
        old = self.platform.settings
        config = Config(retrain=RetrainSettings(**{"validation_threshold": 0.6} | rules))
        settings = Settings(
            config=config,
            config_path=None,
            home=old.home,
            database_url=old.database_url,
            problem_folder=old.problem_folder,
        )
        return replace(self, platform=replace(self.platform, settings=settings))

    def is_green(self, result: WeekResult) -> bool:
        """Whether Dagster calls the run a success."""
        found = self.instance.get_run_by_id(str(result.run_id))
        return found is not None and found.status is dg.DagsterRunStatus.SUCCESS

    def materialised(self, result: WeekResult) -> set[str]:
        """Assets that the run materialised."""
        logs = self.instance.all_logs(str(result.run_id), of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        keys = [log.get_dagster_event().asset_key for log in logs]
        return {key.to_user_string() for key in keys if key is not None}

    def newest(self, name: str) -> dg.AssetMaterialization:
        """The last materialisation of an asset."""
        (record,) = self.instance.fetch_materializations(dg.AssetKey(name), limit=1).records
        assert record.asset_materialization is not None
        return record.asset_materialization

    def events(self, *kinds: EventKind) -> list[Event]:
        """The audit log."""
        with self.platform.database.read() as connection:
            return registry.events(connection, kinds=kinds)


def _open(folder: Path, now: datetime, instance: dg.DagsterInstance) -> Loop:
    url = f"sqlite:///{folder / 'retrain.db'}"
    config = Config(retrain=RetrainSettings(validation_threshold=0.6))
    settings = Settings(config=config, config_path=None, home=folder.parent, database_url=url, problem_folder=folder)
    clock = FakeClock(now)
    return Loop(open_platform(settings, clock), clock, instance)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, datetime]:
    """A home in which week 0 has become production."""
    folder = tmp_path_factory.mktemp("taught")
    with dg.DagsterInstance.ephemeral() as instance:
        loop = _open(folder, START, instance)
        loop.live(0)
        result = loop.run(0)
    assert (result.outcome, result.version) == ("deployed", "v1.0.0"), result
    loop.platform.database.close()
    return folder, loop.clock.now()


@pytest.fixture
def loop(taught: tuple[Path, datetime], tmp_path: Path) -> Iterator[Loop]:
    """A copy of it, with an instance of its own."""
    shutil.copytree(taught[0], tmp_path / "copy")
    with dg.DagsterInstance.ephemeral() as instance:
        loop = _open(tmp_path / "copy", taught[1], instance)
        yield loop
        loop.platform.database.close()


def test_a_new_week_is_deployed_and_every_step_is_on_record(loop: Loop) -> None:
    """Eight materialisations with their hashes; the same dataset hash from the manifest to the version."""
    loop.live(1)
    result = loop.run(1)
    assert (result.week, result.outcome, result.version) == (loop.week(1).key, "deployed", "v1.0.1")
    assert loop.is_green(result)
    assert loop.materialised(result) == set(CHAIN)
    digests = {str(loop.newest(name).metadata["dataset_hash"].value) for name in CHAIN[1:6]}
    assert len(digests) == 1
    version = loop.newest("merged_dataset").tags or {}
    assert version["dagster/data_version"] in digests
    assert version["dataset_hash"] == digests.pop()[:32]
    assert {event.actor for event in loop.events() if event.run_id == result.run_id} == {"anna"}
    assert "plan" in loop.newest("canary_deployment").metadata


def test_too_few_new_tasks_skip_the_retrain_and_the_run_is_green(loop: Loop) -> None:
    """The reason is in the result, and nothing after the manifest is materialised."""
    loop.live(1, tasks=20)
    result = loop.run(1)
    assert (result.outcome, result.version) == ("skipped", None)
    assert result.reason.startswith("20 new tasks since the training of week")
    assert loop.is_green(result)
    assert loop.materialised(result) == {"outcomes", "merged_dataset"}


def test_a_failed_validation_is_recorded_and_the_run_stays_green(loop: Loop) -> None:
    """The version is rejected with its report; neither staging nor trial happened; the checks warn."""
    loop.live(1)
    result = loop.under(validation_threshold=0.999).run(1)
    assert (result.outcome, result.version) == ("rejected", "v1.0.1")
    assert "0.999" in result.reason
    assert loop.is_green(result)
    assert loop.materialised(result) == set(CHAIN[:6])
    assert loop.newest("validation_report").metadata["passed"].value is False
    logs = loop.instance.all_logs(str(result.run_id), of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    checks = [log.get_dagster_event().asset_check_evaluation_data for log in logs]
    failed = [check for check in checks if not check.passed]
    assert "validation_threshold" in {check.check_name for check in failed}
    assert {check.severity for check in failed} == {dg.AssetCheckSeverity.WARN}


def test_a_backfill_of_an_old_week_never_deploys(loop: Loop) -> None:
    """It is marked as such in Dagster and in the registry; what serves does not change."""
    loop.live(1)
    loop.clock.advance(weeks=1)
    result = loop.run(1)
    assert (result.outcome, result.version) == ("trained", "v1.0.1")
    assert f"only the newest closed week, {loop.week(2).key}, may deploy" in result.reason
    found = loop.instance.get_run_by_id(str(result.run_id))
    assert found is not None
    assert found.tags["backfill"] == "true"
    assert loop.materialised(result) == set(CHAIN[:6])
    assert [event.kind for event in loop.events(EventKind.CANARY_STARTED, EventKind.STAGED)] == [EventKind.STAGED]


def test_running_the_newest_week_again_skips(loop: Loop) -> None:
    """Nothing new came, so nothing new is trained, registered or deployed."""
    result = loop.run(0)
    assert (result.outcome, result.version) == ("skipped", None)
    assert result.reason.startswith("0 new tasks since the training of week")
    assert loop.is_green(result)


def test_a_week_that_breaks_is_a_failed_run_with_one_event(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The innermost error in one line, for people; the weeks after it still run."""
    loop.live(1, tasks=20)

    def burst(*_arguments: object) -> None:
        raise RuntimeError("the disk is full\nand more")

    with monkeypatch.context() as patched:
        patched.setattr(retrain, "merge", burst)
        result = loop.run(1)
    assert (result.outcome, result.version) == ("failed", None)
    assert result.reason == "merged_dataset: RuntimeError: the disk is full and more"
    (event,) = loop.events(EventKind.RETRAIN_FAILED)
    assert (event.reason, event.run_id, event.actor) == (result.reason, result.run_id, "anna")
    found = loop.instance.get_run_by_id(str(result.run_id))
    assert found is not None
    assert found.status is dg.DagsterRunStatus.FAILURE
    assert loop.run(1).outcome == "skipped"


def test_several_weeks_run_in_order(loop: Loop) -> None:
    """One result each; the results of one become the past of the next."""
    for number in (1, 2):
        loop.live(number, tasks=60)
    results = list(run_weeks(loop.platform, [loop.week(1), loop.week(2)], loop.instance, "anna"))
    assert [result.outcome for result in results] == ["skipped", "deployed"]
    assert results[0].reason.startswith("60 new tasks")
    assert list(run_weeks(loop.platform, [], loop.instance, "anna")) == []


def test_a_range_is_named_by_any_days_and_ends_with_a_closed_week(loop: Loop) -> None:
    """Both ends included; an open week, or a range backwards, is refused."""
    loop.clock.advance(weeks=2)
    named = weeks_between(loop.platform, "2026-01-08", "2026-01-20")
    assert [week.key for week in named] == ["2026-01-04", "2026-01-11", "2026-01-18"]
    with pytest.raises(UsageError, match="week 2026-01-25 has not closed yet; the newest closed week is 2026-01-18"):
        weeks_between(loop.platform, "2026-01-04", "2026-01-30")
    with pytest.raises(UsageError, match="after its end 2026-01-04; swap them"):
        weeks_between(loop.platform, "2026-01-11", "2026-01-04")
    with pytest.raises(UsageError, match="'soon' is not a date"):
        weeks_between(loop.platform, "soon", "2026-01-04")


def test_forgetting_takes_the_problems_assets_out_of_the_instance_and_leaves_its_runs(loop: Loop) -> None:
    """What a demonstration leaves behind can be removed; other problems of the instance are not touched."""
    loop.live(1, tasks=20)
    result = loop.run(1)
    other = dg.AssetKey("theirs")
    loop.instance.report_runless_asset_event(dg.AssetMaterialization(other))
    assert dg.AssetKey("outcomes") in loop.instance.all_asset_keys()
    forget(loop.platform, loop.instance)
    assert list(loop.instance.all_asset_keys()) == [other]
    assert loop.is_green(result)


def test_a_tick_outside_the_daemon_reports_what_the_sensor_would(loop: Loop) -> None:
    """Here a trial whose evidence is gone; a tick that changes nothing reports nothing."""
    loop.live(1)
    loop.run(1)
    watch_once(loop.platform, loop.instance, "anna")
    assert not loop.instance.fetch_materializations(dg.AssetKey("rollback"), limit=1).records
    with loop.platform.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM canary_state")
    (event,) = watch_once(loop.platform, loop.instance, "anna").events
    reported = loop.newest("rollback")
    assert (reported.metadata["event"].value, reported.metadata["version"].value) == ("not_promoted", "v1.0.1")
    assert reported.description == event.reason
