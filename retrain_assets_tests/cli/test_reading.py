"""status, models, show, history, lineage and why: their JSON is the contract's, their text is for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_assets.core.outcomes import DecisionRecord
from retrain_assets.operations.platform import Platform
from retrain_assets.store import decisions
from retrain_assets.store.collector import FeedbackCollector

STATUS_KEYS = {
    "problem", "production", "canary", "share", "holdback", "epoch", "lease_until", "paused", "evidence", "events",
}  # fmt: skip
MODEL_KEYS = {
    "version", "status", "week", "dataset_hash", "schema_version", "metrics", "created_at", "parent", "run_id",
}  # fmt: skip
EVENT_KEYS = {"at", "actor", "kind", "version", "from_status", "to_status", "share", "reason", "evidence"}
LINEAGE_KEYS = {"version", "home", "dataset_hash", "snapshots", "parent", "run_id", "code_version"}


def _is_aware(text: str) -> bool:
    return datetime.fromisoformat(text).utcoffset() is not None


def test_a_fresh_project_has_a_status(made: Platform, retrain: Any) -> None:  # noqa: ANN401
    """Before anything was done, status says so, and what to do first."""
    answer = retrain("status")
    assert answer.code == 0
    assert "Nothing serves yet" in answer.out
    assert "retrain import FILE" in answer.out
    facts = retrain("status", "--json").json
    assert set(facts) >= STATUS_KEYS
    assert (facts["production"], facts["canary"], facts["evidence"], facts["events"]) == (None, None, None, [])


@pytest.mark.parametrize("command", ["status", "models", "history"])
def test_reading_makes_no_database(retrain: Any, home: Path, command: str) -> None:  # noqa: ANN401
    """A configuration that names the wrong place: the answer names the file and what makes it, and nothing is made."""
    answer = retrain(command, "--json")
    assert (answer.code, answer.out) == (3, "")
    file = home / "backlinks" / "retrain.db"
    assert f"there is no database at {file} yet; `retrain doctor --fix` or the first import makes it" in answer.err
    assert not home.exists()


def test_lists_of_a_fresh_project_are_empty(made: Platform, retrain: Any) -> None:  # noqa: ANN401
    """No versions and no events are empty lists, and no error."""
    assert retrain("models", "--json").json == []
    assert retrain("history", "--json").json == []
    assert "No versions yet" in retrain("models").out


def test_status_tells_what_serves_and_what_is_on_trial(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """The JSON has the contract's keys; the text names both versions, the share, the plan and the watch."""
    facts = retrain("status", "--json").json
    assert set(facts) >= STATUS_KEYS
    assert (facts["problem"], facts["production"], facts["canary"]) == ("backlinks", "v1.0.0", "v1.0.1")
    assert facts["share"] == pytest.approx(0.1)
    assert facts["paused"] is False
    assert {"relative", "absolute", "by_metric", "rates"} <= set(facts["evidence"])
    assert facts["evidence"]["relative"] == pytest.approx(1.0)
    assert _is_aware(facts["lease_until"])
    assert _is_aware(facts["production_since"])
    assert [event["kind"] for event in facts["events"]][-1] == "canary_started"
    told = retrain("status").out
    assert "v1.0.0 serves as production since" in told
    assert "v1.0.1 is on trial with 10 % of the tasks" in told
    assert "no outcomes yet" in told
    assert "Plan: " in told


def test_models_are_listed_oldest_first(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """Each version with the contract's keys; `--status` picks some."""
    found = retrain("models", "--json").json
    assert [model["version"] for model in found] == ["v1.0.0", "v1.0.1"]
    assert all(set(model) >= MODEL_KEYS for model in found)
    assert all(_is_aware(model["created_at"]) for model in found)
    assert found[1]["parent"] == "v1.0.0"
    assert 0.5 < found[0]["metrics"]["test"]["overall"]["accuracy"] <= 1.0
    only = retrain("models", "--status", "canary", "--json").json
    assert [model["version"] for model in only] == ["v1.0.1"]
    assert "v1.0.1" in retrain("models").out
    assert retrain("models", "--status", "great").code == 2


def test_show_has_the_gates_and_the_files(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """One version by its number or its role, with its report, its artefacts and the way to its data."""
    model = retrain("show", "production", "--json").json
    assert model["version"] == "v1.0.0"
    assert MODEL_KEYS | {"report", "artefacts", "spec", "seed", "code_version"} <= set(model)
    assert model["report"]["passed"] is True
    for name, entry in model["artefacts"].items():
        assert (trained.problem_home / entry["path"]).stat().st_size == entry["bytes"], name
    assert retrain("show", "latest", "--json").json["version"] == "v1.0.1"
    told = retrain("show", "canary").out
    assert "v1.0.1 is canary" in told
    assert "better_than_trivial" in told
    assert "retrain lineage v1.0.1" in told


def test_show_opens_the_page_of_the_report(trained: Platform, retrain: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401
    """It says where the page is; without a browser, or without the page, it says so and ends with 1."""
    opened: list[str] = []

    def browser(url: str) -> bool:
        opened.append(url)
        return len(opened) == 1

    monkeypatch.setattr("webbrowser.open", browser)
    page = trained.problem_home / "reports" / "v1.0.1.html"
    assert page.is_file()
    assert "Validation report:" in retrain("show", "v1.0.1").out
    assert opened == []
    assert retrain("show", "v1.0.1", "--open", "--json").json["version"] == "v1.0.1"
    assert opened == [page.as_uri()]
    without = retrain("show", "v1.0.1", "--open")
    assert (without.code, "no browser could be started" in without.err) == (1, True)
    page.unlink()
    lost = retrain("show", "v1.0.1", "--open")
    assert (lost.code, "v1.0.1 has no page" in lost.err) == (1, True)


@pytest.mark.parametrize("command", ["show", "lineage"])
def test_a_version_that_is_not_there_is_refused(made: Platform, command: str, retrain: Any) -> None:  # noqa: ANN401
    """Exit code 1 and the way to the list, also for a role that nobody has."""
    for version in ("v9.9.9", "production", "canary", "latest"):
        answer = retrain(command, version)
        assert (answer.code, answer.out) == (1, "")
        assert "retrain models" in answer.err or "retrain run" in answer.err


def test_history_is_the_audit_log(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """Events in order with the contract's keys; `--since`, `--until` and `--last` narrow it, ends included."""
    events = retrain("history", "--json").json
    assert all(set(event) >= EVENT_KEYS for event in events)
    assert all(_is_aware(event["at"]) for event in events)
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    promoted = next(event for event in events if event["kind"] == "promoted")
    assert (promoted["version"], promoted["from_status"], promoted["to_status"]) == ("v1.0.0", "staging", "production")
    day = datetime.fromisoformat(events[0]["at"]).date()
    last_day = datetime.fromisoformat(events[-1]["at"]).date()
    assert retrain("history", "--since", str(day), "--until", str(last_day), "--json").json == events
    assert retrain("history", "--since", str(last_day + timedelta(days=1)), "--json").json == []
    assert retrain("history", "--since", events[3]["at"], "--json").json == events[3:]
    assert retrain("history", "--last", "2", "--json").json == events[-2:]
    assert "canary_started" in retrain("history").out
    assert retrain("history", "--since", "yesterday").code == 2


def test_lineage_leads_to_files_that_are_there(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """Each snapshot's path, below `home`, holds the bytes that were recorded."""
    facts = retrain("lineage", "v1.0.1", "--json").json
    assert set(facts) >= LINEAGE_KEYS
    assert facts["home"] == str(trained.problem_home)
    assert facts["parent"] == "v1.0.0"
    assert len(facts["snapshots"]) == 3
    for snapshot in facts["snapshots"]:
        assert {"week", "content_hash", "file_sha256", "rows", "path"} <= set(snapshot)
        assert (trained.problem_home / snapshot["path"]).is_file()
    assert sum(snapshot["rows"] for snapshot in facts["snapshots"]) == 1800
    assert "1,800 tasks" in retrain("lineage", "v1.0.1").out


def test_a_changed_snapshot_is_no_lineage_any_more(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """A flipped byte, and a file that is gone, are named; the facts are printed, and the exit code is 1."""
    paths = [trained.problem_home / part["path"] for part in retrain("lineage", "v1.0.1", "--json").json["snapshots"]]
    content = bytearray(paths[0].read_bytes())
    content[len(content) // 2] ^= 1
    paths[0].write_bytes(bytes(content))
    paths[1].unlink()
    answer = retrain("lineage", "v1.0.1", "--json")
    assert answer.code == 1
    assert answer.json["intact"] is False
    assert [part["fault"] is None for part in answer.json["snapshots"]] == [False, False, True]
    assert "has SHA-256" in answer.err
    assert "cannot be read" in answer.err


def _decide(platform: Platform, decision_id: str, *, deadline_at: datetime) -> None:
    record = DecisionRecord(
        decision_id=decision_id, task_id=f"task-{decision_id}", attempt=1, domain="a.org",
        decided_at=deadline_at - timedelta(hours=1), deadline_at=deadline_at, features={"pa": 10.0},
        actions=("comment", "guest"), action="comment", scores={"guest": 0.9, "comment": 0.4}, propensity=0.02,
        assigned_arm="production", arm="production", share=0.1, model_version="v1.0.0", rollout_id=None,
        stratum="blog", latency_ms=0.05,
    )  # fmt: skip
    with platform.database.write() as connection:
        decisions.append(connection, [record])


def test_why_walks_from_a_decision_to_the_data(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """Decision, outcome and lineage in one answer, and in words why a lower score was chosen."""
    now = datetime.now(tz=UTC)
    _decide(trained, "d1", deadline_at=now)
    _decide(trained, "d2", deadline_at=now + timedelta(hours=1))
    with FeedbackCollector(trained.settings.database_url) as collector:
        collector.append_outcome(
            task_id="task-d1", domain="a.org", action_attempted="comment", result="failed",
            failure_reason="not published", decision_id="d1",
        )  # fmt: skip
    facts = retrain("why", "d1", "--json").json
    assert set(facts) == {"decision", "outcome", "lineage"}
    assert facts["decision"]["action"] == "comment"
    assert facts["outcome"]["result"] == "failure"
    assert facts["lineage"]["version"] == "v1.0.0"
    assert facts["lineage"]["snapshots"]
    told = retrain("why", "d1").out
    assert "guest scored higher" in told
    assert "failure (not published)" in told
    assert retrain("why", "d2", "--json").json["outcome"] is None
    assert "none yet" in retrain("why", "d2").out


def test_a_decision_that_nobody_made_is_refused(made: Platform, retrain: Any) -> None:  # noqa: ANN401
    """Exit code 1, and where an id is found."""
    answer = retrain("why", "nobody")
    assert (answer.code, answer.out) == (1, "")
    assert "Decision.decision_id" in answer.err
