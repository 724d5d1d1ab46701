"""The real daemon, in a process of its own, takes a bad canary out of traffic and ends without a trace."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from retrain_assets.core.deployment import EventKind, ModelVersion, Status
from retrain_assets.core.outcomes import DecisionRecord
from retrain_assets.defs.instance import open_instance
from retrain_assets.operations import deploy
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.settings import load_settings
from retrain_assets.store import decisions, outcomes, published, registry
from retrain_assets.testing import FakeClock, SeededDatabase

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120
CAUSE = Cause("tests", "because")


@pytest.fixture
def project(tmp_path: Path, home: Path) -> Path:
    """A project of its own: dagster.yaml of this repository, and a config."""
    folder = tmp_path / "project"
    (folder / "config").mkdir(parents=True)
    shutil.copy(ROOT / "dagster.yaml", folder / "dagster.yaml")
    (folder / "config" / "retrain.yaml").write_text("problem: {name: watched}\n", encoding="utf-8")
    return folder


def _trial_under_way(project: Path) -> Platform:
    """`v1.0.0` serves; `v1.0.1` has been on trial for three hours."""
    clock = FakeClock(datetime.now(tz=UTC) - timedelta(hours=3))
    platform = open_platform(load_settings(project / "config" / "retrain.yaml"), clock)
    seeded = SeededDatabase(platform.database.url, platform.problem_home, platform.config, platform.database)
    models: list[ModelVersion] = [seeded.add_version(version, at=clock.now()) for version in ("v1.0.0", "v1.0.1")]
    for model in models:
        deploy.start(platform, model, CAUSE)
    return platform


def _harm(platform: Platform) -> datetime:
    """Write matured traffic in which the canary fails half of its tasks; returns when it was committed."""
    now = datetime.now(tz=UTC)
    records, told = [], []
    with platform.database.read() as connection:
        route = registry.get_route(connection)
    for n in range(1_000):
        arm = "canary" if n % 10 == 0 else "production"
        decided_at = now - timedelta(hours=2) + timedelta(seconds=n)
        record = DecisionRecord(
            decision_id=f"d{n:04}",
            task_id=f"t{n}",
            attempt=1,
            domain="a.org",
            decided_at=decided_at,
            deadline_at=decided_at + platform.config.task_timeout,
            features={},
            actions=("comment",),
            action="comment",
            scores={"comment": 0.8},
            propensity=1.0,
            assigned_arm=arm,
            arm=arm,
            share=route.share,
            model_version=route.canary_version if arm == "canary" else route.production_version,
            rollout_id=route.rollout_id,
            stratum="blog",
            latency_ms=0.1,
        )
        is_good = n % 20 == 0 if arm == "canary" else n % 8 != 1
        records.append(record)
        told.append({"task_id": record.task_id, "decision_id": record.decision_id, "result": is_good})
    raws = [row | {"action_attempted": "comment", "timestamp": now} for row in told]
    with platform.database.write() as connection:
        decisions.append(connection, records)
        outcomes.append(connection, raws, published.outcome_rules(None), now, "tests")
    return datetime.now(tz=UTC)


@contextmanager
def _daemon(project: Path, home: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon as `make ui` starts it, in a process group of its own, ended with all it started."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RETRAIN_", "DAGSTER_"))}
    environ |= {
        "RETRAIN_HOME": str(home),
        "RETRAIN_CONFIG": str(project / "config" / "retrain.yaml"),
        "DAGSTER_HOME": str(project),  # a daemon by itself refuses to start without one; dagster.yaml names the history
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-m", "dagster._daemon", "run", "-m", "retrain_assets.definitions"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=project, env=environ, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        finally:
            left = _wait_until(lambda: not _group(process.pid), 30)
            if not left:
                os.killpg(process.pid, signal.SIGKILL)
            assert left, f"the daemon left processes behind: {log.read_text()[-2_000:]}"


def _group(leader: int) -> list[int]:
    """Processes of a process group that are alive; slim machines have no `ps`, and macOS has no /proc."""
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,stat="], capture_output=True, text=True, check=True)
        rows = [line.split() for line in listed.stdout.splitlines()]
        return [int(pid) for pid, group, state in rows if int(group) == leader and not state.startswith("Z")]
    alive = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _parent, group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            continue
        if int(group) == leader and state != "Z":
            alive.append(int(process.name))
    return alive


def _wait_until(is_so: Callable[[], object], patience_s: float = PATIENCE_S) -> bool:
    """Look once a second."""
    ends = time.monotonic() + patience_s
    while not is_so():
        if time.monotonic() > ends:
            return False
        time.sleep(1)
    return True


@pytest.mark.slow
def test_the_daemon_rolls_a_bad_canary_back_and_reports_it(project: Path, home: Path, tmp_path: Path) -> None:
    """Harmful rows are committed; traffic is switched, `rollback` is materialised, no process is left."""
    platform = _trial_under_way(project)
    log = tmp_path / "daemon.log"
    key = dg.AssetKey("rollback")

    def is_watched() -> bool:
        with platform.database.read() as connection:
            lease_until = registry.get_route(connection).lease_until
        return lease_until is not None and lease_until > datetime.now(tz=UTC)

    with open_instance(platform.settings) as instance:
        with _daemon(project, home, log) as process:
            watched = _wait_until(lambda: is_watched() or process.poll() is not None)
            assert watched, log.read_text()[-4_000:]
            assert process.poll() is None, log.read_text()[-4_000:]
            committed_at = _harm(platform)
            reported = _wait_until(lambda: instance.fetch_materializations(key, limit=1).records)
            assert reported, log.read_text()[-4_000:]
        (record,) = instance.fetch_materializations(key, limit=1).records
    with platform.database.read() as connection:
        now = registry.get_route(connection)
        (event,) = registry.events(connection, kinds=(EventKind.ROLLED_BACK,))
        left = registry.get_version(connection, "v1.0.1")
    platform.database.close()
    assert (now.production_version, now.canary_version, now.share) == ("v1.0.0", None, 0.0)
    assert left is not None
    assert left.status is Status.ROLLED_BACK
    assert (event.actor, event.version) == ("canary_watch", "v1.0.1")
    materialisation = record.asset_materialization
    assert materialisation is not None
    assert materialisation.metadata["version"].value == "v1.0.1"
    assert float(str(materialisation.metadata["evidence_relative"].value)) > 111
    assert {"rates", "evidence_over_time", "evidence_sparkline", "reason"} <= set(materialisation.metadata)
    took_s = (event.at - committed_at).total_seconds()
    reported_s = record.timestamp - committed_at.timestamp()
    print(f"harmful rows committed -> route switched: {took_s:.1f} s; -> materialisation: {reported_s:.1f} s")
