"""From a decision to its model, from a model to its rows, and every broken link said."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from retrain_assets.core.dataset import Dataset
from retrain_assets.core.deployment import ModelVersion, Status
from retrain_assets.core.outcomes import DecisionRecord
from retrain_assets.demo.automation import SimulatedAutomation
from retrain_assets.errors import NoModelError, RetrainError
from retrain_assets.operations import deploy, lineage, retrain
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.model import training_id
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.settings import Config, resolve
from retrain_assets.store import datasets, decisions, models
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.files import sha256_of
from retrain_assets.testing import FakeClock

CAUSE = Cause("ann", "because")


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the platform: Monday noon."""
    return FakeClock()


@pytest.fixture
def platform(home: Path, clock: FakeClock) -> Platform:
    """A problem with three weeks of outcomes."""
    opened = open_platform(resolve(Config(), None), clock)
    newest = opened.calendar.newest_closed(opened.now())
    rows = SimulatedAutomation(5).history(90, newest.end_at - timedelta(weeks=3), newest.end_at)
    with FeedbackCollector(opened.settings.database_url, clock=clock) as collector:
        collector.append_outcomes(rows)
    return opened


@pytest.fixture
def dataset(platform: Platform) -> Dataset:
    """The newest week's dataset, frozen as the weekly loop does it."""
    return retrain.merge(platform, platform.calendar.newest_closed(platform.now()))[0]


@pytest.fixture
def model(platform: Platform, dataset: Dataset) -> ModelVersion:
    """A version that serves and learnt from the dataset."""
    spec, libraries = {"schema": platform.config.schema.to_dict()}, {"numpy": "2.0"}
    told = training_id(dataset.dataset_hash, spec, "0.1.0+abc", libraries)
    artefacts = {"model.onnx": models.put(platform.problem_home, "model.onnx", b"a graph")}
    draft = ModelVersion(
        version="", status=Status.REGISTERED, week=dataset.week, dataset_hash=dataset.dataset_hash,
        schema_version=dataset.schema_version, code_version="0.1.0+abc", spec=spec,
        seed=0, parent_version="v0.9.0", artefacts=artefacts, metrics={}, report=None, run_id="run-1",
        created_at=platform.now(), training_id=told,
    )  # fmt: skip
    training = {
        "training_id": told, "week": dataset.week, "dataset_hash": dataset.dataset_hash, "spec": spec, "splits": {},
        "artefacts": artefacts, "metrics": {}, "code_version": "0.1.0+abc", "libraries": libraries,
        "parent_version": "v0.9.0", "created_at": platform.now(),
    }  # fmt: skip
    with platform.database.write() as connection:
        datasets.save_training(connection, training)
    registered = deploy.register(platform, draft, CAUSE)
    deploy.stage(platform, registered, CAUSE)
    deploy.start(platform, replace(registered, status=Status.STAGING), CAUSE)
    return registered


def _decision(clock: FakeClock, decision_id: str, version: str | None) -> DecisionRecord:
    return DecisionRecord(
        decision_id=decision_id, task_id=f"task-{decision_id}", attempt=1, domain="a.org", decided_at=clock(),
        deadline_at=clock() + timedelta(hours=1), features={"pa": 3.0}, actions=("comment",), action="comment",
        scores={"comment": 0.5}, propensity=1.0, assigned_arm="production", arm="production", share=0.0,
        model_version=version, rollout_id=None, stratum="blog", latency_ms=0.1,
    )  # fmt: skip


def _keep(platform: Platform, *records: DecisionRecord) -> None:
    with platform.database.write() as connection:
        decisions.append(connection, list(records))


def test_a_version_leads_to_its_snapshots(platform: Platform, dataset: Dataset, model: ModelVersion) -> None:
    """Each week once, in order, with hashes that the files on disk have; paths are relative to the absolute home."""
    found = lineage.trace(platform, model.version)
    facts = found.to_dict()
    assert (facts["version"], facts["parent"], facts["run_id"]) == ("v1.0.0", "v0.9.0", "run-1")
    assert (facts["dataset_hash"], facts["code_version"]) == (dataset.dataset_hash, "0.1.0+abc")
    assert [part["content_hash"] for part in facts["snapshots"]] == [part.content_hash for part in dataset.snapshots]
    weeks = [part["week"] for part in facts["snapshots"]]
    assert weeks == sorted(set(weeks))
    assert len(weeks) == 3
    assert Path(facts["home"]).is_absolute()
    for part in facts["snapshots"]:
        assert not Path(part["path"]).is_absolute()
        assert sha256_of(Path(facts["home"]) / part["path"]) == part["file_sha256"]
    assert facts["rows"] == dataset.rows == 90
    assert facts["intact"] is True
    assert found.faults == []


def test_roles_name_versions(platform: Platform, model: ModelVersion) -> None:
    """`production` and `latest` are answered; a role that nobody has, or an unknown version, is refused."""
    assert lineage.find_version(platform, "production").version == model.version
    assert lineage.find_version(platform, "latest").version == model.version
    with pytest.raises(NoModelError, match="no canary is on trial"):
        lineage.find_version(platform, "canary")
    with pytest.raises(NoModelError, match=r"v3\.0\.0 is not registered"):
        lineage.trace(platform, "v3.0.0")


def test_a_flipped_byte_and_a_missing_file_are_named(platform: Platform, model: ModelVersion) -> None:
    """The fault names week and path; whole snapshots beside it stay without one."""
    first, second, _ = (
        platform.problem_home / link.snapshot.path for link in lineage.trace(platform, model.version).links
    )
    content = bytearray(first.read_bytes())
    content[0] ^= 1
    first.write_bytes(bytes(content))
    second.unlink()
    found = lineage.trace(platform, model.version)
    assert [link.fault is None for link in found.links] == [False, False, True]
    assert "recorded is" in found.faults[0]
    assert "cannot be read" in found.faults[1]
    assert found.to_dict()["intact"] is False


def test_the_artefact_of_a_version_is_checked_with_its_data(platform: Platform, model: ModelVersion) -> None:
    """Digest and path are told; a file that changed is named with its version."""
    (entry,) = lineage.trace(platform, model.version).to_dict()["artefacts"]
    assert entry == {"name": "model.onnx", "fault": None} | {
        name: model.artefacts["model.onnx"][name] for name in ("sha256", "path")
    }
    (platform.problem_home / entry["path"]).write_bytes(b"another graph")
    found = lineage.trace(platform, model.version)
    assert found.to_dict()["intact"] is False
    assert found.faults[0].startswith("v1.0.0: model.onnx has SHA-256")
    assert lineage.trace(platform, model.version, is_deep=True).faults == found.faults


def test_a_decision_is_explained_by_its_outcome_and_its_model(
    platform: Platform, model: ModelVersion, clock: FakeClock
) -> None:
    """An outcome that names the decision counts; else the one of its task and attempt; else the words say why none."""
    _keep(
        platform,
        _decision(clock, "d1", model.version),
        _decision(clock, "d2", model.version),
        _decision(clock, "d3", None),
    )
    with FeedbackCollector(platform.settings.database_url, clock=clock) as collector:
        collector.append_outcome(task_id="task-d1", action_attempted="comment", result="error", decision_id="d1")
        mixed_up = {"task_id": "elsewhere", "decision_id": "d3", "action_attempted": "comment", "result": True}
        collector.append_outcomes([mixed_up])  # of another task: not this decision's
        collector.append_outcome(task_id="task-d2", action_attempted="comment", result=True)
    first, second, third = (lineage.explain(platform, name) for name in ("d1", "d2", "d3"))
    assert first.outcome is not None
    assert (first.outcome["result"], first.outcome["task_id"]) == ("error", "task-d1")
    assert second.outcome is not None
    assert second.outcome["result"] == "success"
    assert second.to_dict()["lineage"]["version"] == model.version
    assert (third.outcome, third.lineage, third.to_dict()["lineage"]) == (None, None, None)
    assert third.outcome_in_words == "none yet; it has until 2026-01-05 13:00 UTC"
    clock.advance(hours=2)
    assert "reason missing" in lineage.explain(platform, "d3").outcome_in_words
    with pytest.raises(RetrainError, match="no decision 'd9'"):
        lineage.explain(platform, "d9")


def test_the_newest_outcome_of_a_decision_counts(platform: Platform, model: ModelVersion, clock: FakeClock) -> None:
    """A correction is the answer, as it is for the next training."""
    _keep(platform, _decision(clock, "d1", model.version))
    first = {"task_id": "task-d1", "action_attempted": "comment", "decision_id": "d1"}
    with FeedbackCollector(platform.settings.database_url, clock=clock) as collector:
        collector.append_outcomes([
            first | {"result": "failed"},
            first | {"result": "success", "outcome_id": "later"},
        ])  # fmt: skip
    found = lineage.explain(platform, "d1")
    assert found.outcome is not None
    assert found.outcome["outcome_id"] == "later"
    assert found.outcome_in_words.startswith("success at ")
