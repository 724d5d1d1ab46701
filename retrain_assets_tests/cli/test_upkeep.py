"""doctor, guard and notify test: faults are found and mended, the watch goes on, channels answer."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_assets.cli import upkeep
from retrain_assets.cli.upkeep import Guard
from retrain_assets.core.outcomes import DecisionRecord
from retrain_assets.errors import StoreUnavailable
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.watch import Tick
from retrain_assets.settings import load_settings
from retrain_assets.store import decisions, registry, trials
from retrain_assets.store.collector import FeedbackCollector

ROOT = Path(__file__).parents[2]


def _check(answer: Any, name: str) -> dict[str, Any]:  # noqa: ANN401
    return next(check for check in answer.json["checks"] if check["name"] == name)


def test_the_doctor_finds_and_mends_a_fresh_project(retrain: Any) -> None:  # noqa: ANN401
    """Without `--fix` nothing is created and the exit code is 1; with it the database is there, and all is well."""
    ill = retrain("doctor", "--json")
    assert ill.code == 1
    assert ill.json["ok"] is False
    assert all(set(check) == {"name", "ok", "detail", "mend"} for check in ill.json["checks"])
    assert "doctor --fix" in _check(ill, "database")["mend"]
    mended = retrain("doctor", "--fix", "--json")
    assert (mended.code, mended.json["ok"]) == (0, True)
    names = {check["name"] for check in mended.json["checks"]}
    assert {"config", "home", "disk", "database", "schema", "settings", "production", "dagster"} <= names
    assert retrain("doctor").code == 0
    assert "Everything is well." in retrain("doctor").out


def test_the_doctor_reports_a_bad_config_as_a_check(config: Path, retrain: Any) -> None:  # noqa: ANN401
    """The JSON holds every problem, and the exit code is that of a bad config."""
    config.write_text("canary: {percentage: 3}\n", encoding="utf-8")
    answer = retrain("doctor", "--json")
    assert answer.code == 2
    assert answer.json["ok"] is False
    assert "canary.percentage" in _check(answer, "config")["detail"]


def test_the_doctor_finds_a_damaged_artefact(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """Production's artefact is loaded as an engine would; a flipped byte is a fault that names the version."""
    assert retrain("doctor").code == 0
    for file in trained.problem_home.rglob("model.onnx"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    answer = retrain("doctor", "--json")
    assert answer.code == 1
    assert not _check(answer, "production")["ok"]
    assert "v1.0.0" in _check(answer, "production")["detail"]
    assert "rollback" in _check(answer, "production")["mend"]


def test_the_doctor_finds_a_dagster_that_cannot_be_opened(retrain: Any, home: Path) -> None:  # noqa: ANN401
    """A file where Dagster's history should be is a fault with a mend; the other checks stand."""
    retrain("doctor", "--fix")
    home.joinpath("dagster").rename(home / "moved")
    home.joinpath("dagster").write_text("", encoding="utf-8")
    answer = retrain("doctor", "--json")
    assert answer.code == 1
    assert [check["name"] for check in answer.json["checks"] if not check["ok"]] == ["dagster"]


def _make_the_canary_fail(platform: Platform, tasks: int = 300) -> None:
    """Matured decisions in which the canary always errs and production always succeeds."""
    with platform.database.read() as connection:
        route = registry.get_route(connection)
        trial = trials.get(connection, str(route.rollout_id))
    assert trial is not None
    made, results = [], []
    for i in range(tasks):
        is_canary = i % 3 == 0
        deadline_at = trial.started_at + timedelta(microseconds=i + 1)
        made.append(
            DecisionRecord(
                decision_id=f"d{i}",
                task_id=f"t{i}",
                attempt=1,
                domain="a.org",
                decided_at=deadline_at - timedelta(hours=1),
                deadline_at=deadline_at,
                features={},
                actions=("comment",),
                action="comment",
                scores={"comment": 0.9},
                propensity=1.0,
                assigned_arm="canary" if is_canary else "production",
                arm="canary" if is_canary else "production",
                share=route.share,
                model_version=route.canary_version if is_canary else route.production_version,
                rollout_id=trial.rollout_id,
                stratum="blog",
                latency_ms=0.1,
            )
        )  # fmt: skip
        result = "error" if is_canary else "success"
        results.append(
            {
                "task_id": f"t{i}",
                "domain": "a.org",
                "action_attempted": "comment",
                "result": result,
                "decision_id": f"d{i}",
            }
        )
    with platform.database.write() as connection:
        decisions.append(connection, made)
    with FeedbackCollector(platform.settings.database_url) as collector:
        collector.append_outcomes(results)


def test_the_guard_rolls_a_bad_canary_back_by_itself(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """One look at proven harm is enough: the event is a line of JSON, the canary is out, the message is sent."""
    _make_the_canary_fail(trained)
    answer = retrain("guard", "--once", "--json")
    assert answer.code == 0, answer.err
    events = [json.loads(line) for line in answer.out.splitlines()]
    assert [(event["kind"], event["version"], event["actor"]) for event in events] == [
        ("rolled_back", "v1.0.1", "guard")
    ]
    facts = retrain("status", "--json").json
    assert (facts["production"], facts["canary"]) == ("v1.0.0", None)
    assert retrain("guard", "--once").out == ""


def test_the_evidence_shows_in_the_status(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """With auto_rollback off a look keeps the canary, and the status has rates and evidence for people and programs."""
    config = Path(str(trained.settings.config_path))
    config.write_text(config.read_text(encoding="utf-8") + "rollback: {auto_rollback: false}\n", encoding="utf-8")
    _make_the_canary_fail(trained)
    assert retrain("guard", "--once").code == 0
    facts = retrain("status", "--json").json
    assert facts["canary"] == "v1.0.1"
    assert facts["verdict"] == "ROLL_BACK"
    assert facts["evidence"]["absolute"] > 1_000
    assert facts["evidence"]["rates"]["success"]["canary"] == 0.0
    assert facts["evidence"]["rates"]["success"]["production"] == 1.0
    told = retrain("status").out
    assert "canary 0.00" in told
    assert "needed to stop" in told


def test_the_guard_outlives_a_database_that_is_away(
    made: Platform, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so once, goes on looking, and says once that it works again."""
    looks: list[int] = []
    end = threading.Event()

    def tick(*_: Any) -> Tick:  # noqa: ANN401
        looks.append(1)
        if len(looks) in {2, 3}:
            raise StoreUnavailable("the database cannot be used now")
        if len(looks) == 5:
            end.set()
        return Tick()

    monkeypatch.setattr(upkeep, "tick", tick)
    Guard(load_settings(config)).run(0.01, end)
    told = capsys.readouterr().err
    assert len(looks) == 5
    assert told.count("cannot work now and goes on trying") == 1
    assert told.count("The watch works again.") == 1


def test_the_guard_ends_cleanly_on_a_signal(made: Platform, config: Path) -> None:
    """SIGTERM, as a service manager sends it, ends the loop with exit code 0 and a last word."""
    code = "from retrain_assets.cli import main; main()"
    guard = subprocess.Popen(
        [sys.executable, "-c", code, "guard", "--interval", "0.05", "--config", str(config)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert guard.stderr is not None
    assert "Watching backlinks" in guard.stderr.readline()
    guard.send_signal(signal.SIGTERM)
    out, err = guard.communicate(timeout=60)
    assert (guard.returncode, out) == (0, "")
    assert "The watch has ended" in err


def test_the_guard_refuses_to_look_too_rarely(retrain: Any) -> None:  # noqa: ANN401
    """A guard slower than the lease would leave the canary without tasks: bad usage."""
    answer = retrain("guard", "--interval", "500")
    assert answer.code == 2
    assert "canary.lease_seconds" in answer.err


def test_each_channel_answers_for_itself(config: Path, retrain: Any) -> None:  # noqa: ANN401
    """With the log alone all is well; an address that nobody knows fails by name, and its secret is not shown."""
    fine = retrain("notify", "test", "--json")
    assert fine.code == 0
    assert fine.json == {"ok": True, "channels": [{"channel": "log", "ok": True, "error": None}]}
    config.write_text('notifications: {urls: ["nonsense://secret-token"]}\n', encoding="utf-8")
    failed = retrain("notify", "test", "--json")
    assert failed.code == 1
    assert [channel["ok"] for channel in failed.json["channels"]] == [True, False]
    assert "secret-token" not in failed.out + failed.err


def test_the_guard_delivers_what_waits(retrain: Any, config: Path) -> None:  # noqa: ANN401
    """A message whose channel was dead is counted by the doctor, and gone once a look could send it."""
    good = config.read_text(encoding="utf-8")
    config.write_text(good + 'notifications: {urls: ["nonsense://x"]}\n', encoding="utf-8")
    retrain("doctor", "--fix")
    assert retrain("pause", "--reason", "x").code == 0
    waiting = _check(retrain("doctor", "--json"), "notifications")["detail"]
    assert waiting.startswith("1 wait")
    config.write_text(good, encoding="utf-8")
    settings = load_settings(config)
    later = Guard(settings)
    platform = later._open()
    later._platform = Platform(settings, platform.database, lambda: datetime.now(tz=UTC) + timedelta(hours=2))
    later.deliver()
    assert "nothing waits" in _check(retrain("doctor", "--json"), "notifications")["detail"]
