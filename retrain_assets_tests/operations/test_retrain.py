"""The weekly loop step by step, on a simulated automation: what teaches, what is skipped, what may deploy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrain_assets.core.dataset import Week
from retrain_assets.core.deployment import Event, EventKind, ModelVersion, Status
from retrain_assets.core.drift import profile
from retrain_assets.demo.automation import SimulatedAutomation
from retrain_assets.errors import UsageError
from retrain_assets.operations import deploy, report_facts, retrain
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.operations.retrain import Held, Run
from retrain_assets.settings import Config, RetrainSettings, Settings
from retrain_assets.store import datasets, registry
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.testing import START, FakeClock

RUN = Run("run 1", "anna")
TASKS = 500
RULES = RetrainSettings(validation_threshold=0.6)
"""Few tasks teach little; what a model must reach is `core/test_report.py`'s matter."""


@dataclass(frozen=True)
class Problem:
    """A platform with a told clock; weeks are counted from 0, the first that has data."""

    platform: Platform
    clock: FakeClock

    def week(self, number: int) -> Week:
        """Week number 0, 1, ..."""
        return self.platform.calendar.containing(START + timedelta(weeks=number))

    def close(self, number: int) -> Week:
        """Let the week end; the clock never goes back."""
        week = self.week(number)
        self.clock.set(max(self.clock.now(), week.end_at + timedelta(minutes=5)))
        return week

    def append(self, *rows: dict[str, Any]) -> None:
        """Hand in outcomes."""
        collector = FeedbackCollector(self.platform.database.url, config=self.platform.config, clock=self.clock)
        receipts = collector.append_outcomes(rows)
        assert {receipt.status for receipt in receipts} == {"accepted"}

    def live(self, number: int, tasks: int = TASKS, *, is_misleading: bool = False) -> None:
        """A week of the automation's life; with `is_misleading` its end is the opposite of all that came before."""
        week = self.close(number)
        rows = SimulatedAutomation(0).history(tasks, week.start_at, week.end_at, first=number * 10_000)
        if is_misleading:
            for place, row in enumerate(rows):
                row["result"] = (row["action_attempted"] in {"comment", "forum"}) == (place < 0.7 * tasks)
        self.append(*rows)

    def run(self, number: int) -> list[Any]:
        """Every step for one week, up to the first that holds."""
        week, done = self.week(number), list[Any]()
        retrain.collect(self.platform, week)
        retrain.merge(self.platform, week)
        steps: tuple[Callable[[], Any], ...] = (
            lambda: retrain.prepare(self.platform, week, RUN),
            lambda: retrain.train(self.platform, week, RUN),
            lambda: retrain.register(self.platform, week, RUN, is_backfill=retrain.is_old(self.platform, week)),
            lambda: retrain.validate(self.platform, week, RUN),
            lambda: retrain.stage(self.platform, week, RUN),
            lambda: retrain.start_canary(self.platform, week, RUN),
        )
        for step in steps:
            done.append(step())
            if isinstance(done[-1], Held):
                break
        return done

    def statuses(self) -> list[str]:
        """Of all versions, oldest first."""
        with self.platform.database.read() as connection:
            return [model.status.value for model in registry.versions(connection)]

    def events(self, *kinds: EventKind) -> list[Event]:
        """The audit log."""
        with self.platform.database.read() as connection:
            return registry.events(connection, kinds=kinds)

    def version(self, version: str) -> ModelVersion:
        """One of them."""
        with self.platform.database.read() as connection:
            found = registry.get_version(connection, version)
        assert found is not None
        return found


def _open(folder: Path, now: datetime = START, rules: RetrainSettings = RULES) -> Problem:
    clock = FakeClock(now)
    url = f"sqlite:///{folder / 'retrain.db'}"
    settings = Settings(
        config=Config(retrain=rules), config_path=None, home=folder.parent, database_url=url, problem_folder=folder
    )
    return Problem(open_platform(settings, clock), clock)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, datetime, list[Any]]:
    """A home in which the loop ran for week 0, when it closed; and what its steps gave."""
    folder = tmp_path_factory.mktemp("taught")
    problem = _open(folder)
    problem.live(0)
    done = problem.run(0)
    problem.platform.database.close()
    return folder, problem.clock.now(), done


@pytest.fixture
def problem(taught: tuple[Path, datetime, list[Any]], tmp_path: Path) -> Iterator[Problem]:
    """A copy of it."""
    folder = tmp_path / "copy"
    shutil.copytree(taught[0], folder)
    problem = _open(folder, taught[1])
    yield problem
    problem.platform.database.close()


@pytest.fixture(scope="module")
def compared_home(
    taught: tuple[Path, datetime, list[Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, datetime, list[Any]]:
    """A home in which week 1 was rejected and week 2 went on trial; and what the steps of week 2 gave."""
    folder = tmp_path_factory.mktemp("compared") / "home"
    shutil.copytree(taught[0], folder)
    problem = _open(folder, taught[1])
    problem.live(1)
    replace_rules(problem, validation_threshold=0.999).run(1)
    problem.live(2)
    done = problem.run(2)
    problem.platform.database.close()
    return folder, problem.clock.now(), done


@pytest.fixture
def compared(compared_home: tuple[Path, datetime, list[Any]]) -> Iterator[Problem]:
    """It, to be read only."""
    problem = _open(compared_home[0], compared_home[1])
    yield problem
    problem.platform.database.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Callable[..., Problem]]:
    """Open an empty problem: `fresh(rules)`."""
    opened = []

    def make(rules: RetrainSettings = RULES) -> Problem:
        opened.append(_open(tmp_path / "fresh", rules=rules))
        return opened[-1]

    yield make
    for problem in opened:
        problem.platform.database.close()


# --------------------------------------------------------------------------------------------------------- deploying


def test_the_first_version_that_passes_serves_at_once(
    taught: tuple[Path, datetime, list[Any]], problem: Problem
) -> None:
    """Each step is told, and the version names the data and the run that made it."""
    prepared, training, model, (_, report), _, event = taught[2]
    assert prepared.new_tasks == TASKS
    assert report.passed
    assert (event.kind, event.version) == (EventKind.PROMOTED, "v1.0.0")
    assert problem.statuses() == ["production"]
    assert [event.kind for event in problem.events()] == [
        EventKind.RETRAIN_STARTED,
        EventKind.REGISTERED,
        EventKind.RETRAIN_COMPLETED,
        EventKind.STAGED,
        EventKind.PROMOTED,
    ]
    assert {event.run_id for event in problem.events()} == {"run 1"}
    assert {event.actor for event in problem.events()} == {"anna"}
    kept = problem.version("v1.0.0")
    assert (kept.week, kept.dataset_hash, kept.run_id) == (problem.week(0).key, training.dataset_hash, "run 1")
    assert (kept.is_backfill, kept.parent_version, model.version) == (False, None, "v1.0.0")
    assert kept.report is not None
    assert kept.report["passed"] is True
    assert kept.code_version == retrain.code_version()


def test_the_next_week_is_compared_with_production_and_goes_on_trial(problem: Problem) -> None:
    """On the same held-out rows; production serves on."""
    problem.live(1)
    *_, (model, report), _, event = problem.run(1)
    assert (event.kind, event.version) == (EventKind.CANARY_STARTED, "v1.0.1")
    assert report.production_version == "v1.0.0"
    assert report.production_metrics is not None
    assert model.parent_version == "v1.0.0"
    assert problem.statuses() == ["production", "canary"]


def test_a_backfill_of_an_old_week_never_deploys(problem: Problem) -> None:
    """It trains, registers and validates; only the newest closed week may go on trial."""
    problem.live(1)
    problem.close(3)
    *_, held = problem.run(1)
    assert held == Held(f"v1.0.1 stays registered: only the newest closed week, {problem.week(3).key}, may deploy")
    assert problem.statuses() == ["production", "registered"]
    assert problem.version("v1.0.1").is_backfill


def test_an_old_week_may_be_the_first_to_serve(fresh: Callable[..., Problem]) -> None:
    """Bootstrap: while there is no production, whatever passes is better than nothing."""
    problem = fresh()
    problem.live(0)
    problem.close(4)
    assert problem.run(0)[-1].kind is EventKind.PROMOTED
    assert problem.version("v1.0.0").is_backfill


def test_a_paused_deployment_keeps_the_version_registered(problem: Problem) -> None:
    """Training goes on, so that nothing is missed afterwards."""
    problem.live(1)
    deploy.pause(problem.platform, Cause("anna", "holidays"), is_paused=True)
    *_, held = problem.run(1)
    assert held == Held("v1.0.1 stays registered: deployment is paused")


def test_a_version_worse_than_the_trivial_baseline_never_deploys(fresh: Callable[..., Problem]) -> None:
    """Also with `validation_threshold: 0`, and also as the very first; it stays in the registry with its report."""
    problem = fresh(RetrainSettings(validation_threshold=0.0))
    problem.live(0, is_misleading=True)
    *_, (model, report), held = problem.run(0)
    assert not report.passed
    assert [gate.name for gate in report.gates if not gate.passed] == ["better_than_trivial"]
    assert held == Held("v1.0.0 is rejected: nothing to stage")
    assert problem.statuses() == ["rejected"]
    (event,) = problem.events(EventKind.REJECTED)
    assert event.reason == report.summary
    assert problem.version(model.version).report is not None


def test_a_failed_validation_is_recorded_and_the_week_is_complete(problem: Problem) -> None:
    """Discarded is not an error: the limit and the number are in the audit log, production serves on."""
    problem.live(1)
    strict = replace_rules(problem, validation_threshold=0.999)
    *_, (_, report), held = strict.run(1)
    assert isinstance(held, Held)
    assert "validation_threshold" in [gate.name for gate in report.gates if not gate.passed]
    rejected, completed = problem.events(EventKind.REJECTED, EventKind.RETRAIN_COMPLETED)[-2:]
    assert (rejected.version, completed.reason) == ("v1.0.1", f"v1.0.1 of week {problem.week(1).key} failed validation")
    assert rejected.evidence["gates"]
    assert problem.statuses() == ["production", "rejected"]


def replace_rules(problem: Problem, **rules: Any) -> Problem:  # noqa: ANN401  (fields of `RetrainSettings`)
    """The same problem under other rules."""
    settings = problem.platform.settings
    changed = Config(retrain=RetrainSettings(**{"validation_threshold": 0.6} | rules))
    kept = Settings(
        config=changed,
        config_path=None,
        home=settings.home,
        database_url=settings.database_url,
        problem_folder=settings.problem_folder,
    )
    return Problem(replace(problem.platform, settings=kept), problem.clock)


def test_a_version_whose_artefact_changed_fails_its_smoke_test(problem: Problem) -> None:
    """Between validation and staging somebody wrote to the file."""
    problem.live(1)
    week = problem.week(1)
    retrain.merge(problem.platform, week)
    retrain.prepare(problem.platform, week, RUN)
    retrain.train(problem.platform, week, RUN)
    model = retrain.register(problem.platform, week, RUN, is_backfill=False)
    retrain.validate(problem.platform, week, RUN)
    file = problem.platform.problem_home / model.artefacts["model.onnx"]["path"]
    file.write_bytes(file.read_bytes()[:-1])
    held = retrain.stage(problem.platform, week, RUN)
    assert isinstance(held, Held)
    assert held.reason.startswith("rejected: v1.0.1: model.onnx has SHA-256")
    assert problem.statuses() == ["production", "rejected"]


# --------------------------------------------------------------------------------------------------------- the report


def details(problem: Problem, version: str) -> dict[str, Any]:
    """What the report that is kept holds beside its gates."""
    report = problem.version(version).report
    assert report is not None
    return dict(report["details"])


def test_a_validated_version_has_a_page_that_its_report_names(problem: Problem) -> None:
    """In the problem's `reports` folder; the kept report and the page tell the same verdict."""
    page = problem.platform.problem_home / details(problem, "v1.0.0")["page"]
    assert page == problem.platform.problem_home / "reports" / "v1.0.0.html"
    text = page.read_text(encoding="utf-8")
    assert "It passed all 12 gates and may be deployed." in text
    assert problem.version("v1.0.0").dataset_hash in text


def test_a_page_that_is_gone_comes_back_as_it_was_judged(problem: Problem) -> None:
    """Validating a version again keeps its first report, and the page is of that one."""
    page = problem.platform.problem_home / "reports" / "v1.0.0.html"
    before = page.read_text(encoding="utf-8")
    page.unlink()
    strict = replace_rules(problem, validation_threshold=0.999)
    _, again = retrain.validate(strict.platform, problem.week(0), RUN)
    assert not again.passed
    assert page.read_text(encoding="utf-8") == before


def test_the_first_report_says_that_there_is_nothing_to_compare_with(problem: Problem) -> None:
    """No production, no candidate before, no decisions: a reason each, and no number made up."""
    found = details(problem, "v1.0.0")
    assert found["previous_note"] == "this is the first candidate"
    assert found["drift"] == {"note": "there is no other version in production"}
    assert (found["staleness_weeks"], found["walk_forward"], found["label_drift"]) == (None, [], None)
    assert found["off_policy"]["is_enough"] is False
    assert "has a propensity: outcomes without a decision cannot tell" in found["off_policy"]["reason"]
    assert found["leakage"]["auc"] or found["leakage"]["note"]


def test_a_rejected_candidate_is_the_next_ones_rival_too(
    compared: Problem, compared_home: tuple[Path, datetime, list[Any]]
) -> None:
    """On the same rows, beside production; drift, importance and the weeks before are told."""
    *_, (model, report), _, _ = compared_home[2]
    assert (model.version, report.production_version, report.previous_version) == ("v1.0.2", "v1.0.0", "v1.0.1")
    assert report.previous_metrics is not None
    assert report.previous_metrics["overall"]["n"] == report.metrics["overall"]["n"]
    assert set(report.groups["by_action"]) == {"comment", "forum", "guest", "profile"}
    found = details(compared, "v1.0.2")
    assert found["drift"]["reference"] == "v1.0.0"
    assert found["drift"]["what"] == "rows since production's data"
    assert 900 <= found["drift"]["rows"] <= 1_000
    assert {item["name"] for item in found["drift"]["features"]} == set(compared.platform.config.schema.names)
    assert found["label_drift"]["overall"]["rows_after"] == found["drift"]["rows"]
    assert found["staleness_weeks"] == 2.0
    assert set(found["importance_before"]) == set(report.importance)
    assert [(point["version"], point["passed"]) for point in found["walk_forward"]] == [
        ("v1.0.0", True),
        ("v1.0.1", False),
    ]


def test_a_profile_that_was_kept_is_used_and_one_that_was_not_is_made_again(compared: Problem) -> None:
    """Both give the same drift: what is stored is what the rows say."""
    candidate = report_facts.judged(compared.platform, compared.version("v1.0.2"), compared.week(2))
    serving = report_facts.serving_rival(compared.platform, candidate)
    assert serving.model is not None
    first = compared.version("v1.0.0")
    metrics = {name: value for name, value in first.metrics.items() if name != "profile"}
    made = report_facts.drifted(compared.platform, candidate, replace(serving, model=replace(first, metrics=metrics)))
    taught = report_facts.judged(compared.platform, first, compared.week(0))
    kept = profile(taught.rows.iloc[taught.splits.train], taught.schema).to_dict()
    recorded = replace(first, metrics={**metrics, "profile": kept})
    assert report_facts.drifted(compared.platform, candidate, replace(serving, model=recorded)).facts == made.facts
    broken = replace(first, metrics={**metrics, "profile": {"format": 99}})
    told = report_facts.drifted(compared.platform, candidate, replace(serving, model=broken))
    assert "the data of v1.0.0 cannot be compared: the drift profile has format 99" in told.facts["note"]


def test_a_feature_that_gives_the_outcome_away_rejects_the_version(fresh: Callable[..., Problem]) -> None:
    """The reason names the feature; every other gate is glad about it."""
    problem = fresh()
    week = problem.close(0)
    rows = SimulatedAutomation(0).history(TASKS, week.start_at, week.end_at)
    for row in rows:
        row["platform_guess"] = "seen" if row["result"] in {True, "success"} else "never"
    problem.append(*rows)
    *_, (_, report), held = problem.run(0)
    assert held == Held("v1.0.0 is rejected: nothing to stage")
    assert [gate.name for gate in report.gates if not gate.passed] == ["leakage"]
    (event,) = problem.events(EventKind.REJECTED)
    assert event.reason.startswith("platform_guess alone tells success from failure with ROC AUC 1.000")
    assert "platform_guess" in (problem.platform.problem_home / "reports" / "v1.0.0.html").read_text(encoding="utf-8")


def test_other_choices_are_weighed_where_decisions_have_propensities(compared: Problem) -> None:
    """A log that chose at random shows what the model's choices are worth: more than chance, with an interval."""
    print("seed 0")
    candidate = report_facts.judged(compared.platform, compared.version("v1.0.2"), compared.week(2))
    serving = report_facts.serving_rival(compared.platform, candidate)
    rng, count = np.random.default_rng(0), len(candidate.rows)
    drawn = candidate.rows.assign(propensity=0.25, action=rng.choice(candidate.schema.actions, count))
    found = report_facts.other_choices(compared.platform, replace(candidate, rows=drawn), serving)
    assert found["is_enough"] or "overlap" in found["reason"]
    assert found["overlap"]["rows"] == len(candidate.splits.test)
    wide = replace(candidate.splits, test=np.arange(count))
    found = report_facts.other_choices(compared.platform, replace(candidate, rows=drawn, splits=wide), serving)
    assert found["is_enough"]
    assert set(found["estimates"]) == {"ips", "snips", "dm", "dr", "sndr"}
    assert found["gain_over_production"] is not None
    certain = replace(candidate, rows=drawn.assign(propensity=1.0), splits=wide)
    refused = report_facts.other_choices(compared.platform, certain, serving)
    assert refused["is_enough"] is False
    assert "no chance in the log" in refused["reason"] or "with certainty" in refused["reason"]


# ---------------------------------------------------------------------------------------------------------- skipping


def test_too_few_new_tasks_skip_the_retrain_with_the_reason(problem: Problem) -> None:
    """The message says how many there are and what is asked for; no version is made."""
    problem.live(1, tasks=40)
    (held,) = problem.run(1)
    key = problem.week(0).key
    assert held == Held(f"40 new tasks since the training of week {key}; retrain.min_new_samples asks for 100")
    (event,) = problem.events(EventKind.RETRAIN_SKIPPED)
    assert (event.reason, event.evidence) == (held.reason, {"week": problem.week(1).key})
    assert problem.statuses() == ["production"]


def test_a_slow_automation_trains_when_enough_has_come_together(problem: Problem) -> None:
    """New tasks are counted since the last training, not since last week."""
    for number in (1, 2, 3):
        problem.live(number, tasks=40)
    assert isinstance(problem.run(1)[-1], Held)
    assert isinstance(problem.run(2)[-1], Held)
    prepared = problem.run(3)[0]
    assert prepared.new_tasks == 120


def test_running_a_week_again_finds_nothing_new(problem: Problem) -> None:
    """The same rows do not become a second version."""
    (held,) = problem.run(0)
    assert held.reason.startswith("0 new tasks since the training of week")
    assert problem.statuses() == ["production"]


def test_an_empty_week_is_skipped(fresh: Callable[..., Problem]) -> None:
    """Also when nothing is asked for."""
    problem = fresh(RetrainSettings(min_new_samples=0))
    problem.close(0)
    (held,) = problem.run(0)
    assert held == Held("0 new tasks so far; retrain.min_new_samples asks for 0")


def test_data_that_cannot_be_split_is_skipped_and_not_failed(fresh: Callable[..., Problem]) -> None:
    """All tasks within an hour: there is no later part to test on."""
    problem = fresh(RetrainSettings(min_new_samples=1))
    week = problem.close(0)
    rows = SimulatedAutomation(0).history(30, week.start_at, week.start_at + timedelta(minutes=1))
    problem.append(*rows)
    (held,) = problem.run(0)
    assert f"the data of week {week.key} cannot be split" in held.reason


# ---------------------------------------------------------------------------------------------------------- datasets


def test_a_week_that_has_not_closed_cannot_be_taken(problem: Problem) -> None:
    """Half a week would become a truth of its own."""
    with pytest.raises(UsageError, match=f"the week of {problem.week(1).key} ends at .*it can be taken after that"):
        retrain.collect(problem.platform, problem.week(1))


def test_steps_say_which_one_is_missing_before_them(problem: Problem) -> None:
    """A person who materialises one asset alone is told what to do."""
    problem.close(1)
    week = problem.week(1)
    with pytest.raises(UsageError, match="has no dataset yet; materialise merged_dataset"):
        retrain.prepare(problem.platform, week, RUN)
    with pytest.raises(UsageError, match="has no training yet; materialise trained_model"):
        retrain.register(problem.platform, week, RUN, is_backfill=False)
    with pytest.raises(UsageError, match="has no version yet; materialise registered_model"):
        retrain.validate(problem.platform, week, RUN)
    retrain.merge(problem.platform, week)
    with pytest.raises(UsageError, match="has no split yet; materialise prepared_splits"):
        retrain.train(problem.platform, week, RUN)


def test_a_manifest_takes_missing_weeks_and_late_rows_and_keeps_the_old_ones(problem: Problem) -> None:
    """A refreshed week is a new snapshot in a new manifest; what was trained on the old one still loads."""
    home, schema = problem.platform.problem_home, problem.platform.config.schema
    old, _ = retrain.merge(problem.platform, problem.week(0))
    problem.live(1, tasks=5)
    late = {"task_id": "late", "action_attempted": "comment", "result": True}
    problem.append(late | {"timestamp": problem.week(0).start_at + timedelta(hours=1)})
    problem.close(2)
    assert retrain.newer_snapshots(problem.platform, old) == []
    new, taken = retrain.merge(problem.platform, problem.week(2))
    assert taken == [problem.week(n).key for n in (0, 1, 2)]
    assert [part.week for part in new.snapshots] == taken
    assert new.rows == old.rows + 1 + 5
    assert retrain.newer_snapshots(problem.platform, old) == [problem.week(0).key]
    assert len(datasets.load_rows(home, old, schema)) == old.rows
    assert len(datasets.load_rows(home, new, schema)) == new.rows
    again, taken = retrain.merge(problem.platform, problem.week(2))
    assert (again.dataset_hash, taken) == (new.dataset_hash, [])
    assert retrain.newest_dataset(problem.platform) == again


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"merge_strategy": "append"}, [0, 1, 2]),
        ({"merge_strategy": "window", "window_weeks": 2}, [1, 2]),
        ({"merge_strategy": "replace"}, [2]),
        ({"late_rows": "ignore"}, [0, 1, 2]),
    ],
    ids=str,
)
def test_the_strategy_decides_which_weeks_teach(problem: Problem, rules: dict[str, Any], expected: list[int]) -> None:
    """And with `late_rows: ignore` the weeks that were taken stay as they were."""
    problem.close(2)
    late = {"task_id": "late", "action_attempted": "comment", "result": True}
    problem.append(late | {"timestamp": problem.week(0).start_at + timedelta(hours=1)})
    dataset, _ = retrain.merge(replace_rules(problem, **rules).platform, problem.week(2))
    assert [part.week for part in dataset.snapshots] == [problem.week(n).key for n in expected]
    assert dataset.rows == (0 if 0 not in expected else TASKS + (rules.get("late_rows") != "ignore"))


def test_the_same_data_and_settings_give_the_same_training(
    taught: tuple[Path, datetime, list[Any]], problem: Problem
) -> None:
    """Byte for byte, and no second version."""
    again = retrain.train(problem.platform, problem.week(0), RUN)
    first = taught[2][1]
    assert not isinstance(again, Held)
    assert again.training_id == first.training_id
    assert again.artefacts == first.artefacts
    model = retrain.register(problem.platform, problem.week(0), RUN, is_backfill=False)
    assert model.version == "v1.0.0"


# ----------------------------------------------------------------------------------------------------------- failing


def test_a_failed_run_is_noted_once(problem: Problem) -> None:
    """The command and the failure sensor may both see it."""
    for _ in range(2):
        retrain.fail(problem.platform, Run("run 9", "dagster"), "disk full")
    (event,) = problem.events(EventKind.RETRAIN_FAILED)
    assert (event.run_id, event.reason) == ("run 9", "disk full")


def test_only_the_newest_closed_week_is_no_backfill(problem: Problem) -> None:
    """By the injected clock."""
    assert not retrain.is_old(problem.platform, problem.week(0))
    problem.clock.advance(weeks=1)
    assert retrain.is_old(problem.platform, problem.week(0))


def test_statuses_that_are_past_staging_are_left_alone(problem: Problem) -> None:
    """A week run again does not stage or start what already serves."""
    week = problem.week(0)
    assert retrain.stage(problem.platform, week, RUN) == Held("v1.0.0 is production: nothing to stage")
    assert retrain.start_canary(problem.platform, week, RUN) == Held("v1.0.0 is production: nothing to start")
    assert problem.version("v1.0.0").status is Status.PRODUCTION
