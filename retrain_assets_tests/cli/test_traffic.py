"""promote, rollback, pause and resume: the event is told, traffic has changed, and who must know is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from retrain_assets.cli import traffic
from retrain_assets.operations.platform import Platform
from retrain_assets.store import registry
from retrain_assets.store.tables import notification_outbox

EVENT_KEYS = {"at", "actor", "kind", "version", "from_status", "to_status", "share", "reason", "evidence"}
ROOT = Path(__file__).parents[2]

# Runs the command where every library of the extra `platform` is missing.
BASE_INSTALL = """
import sys
GONE = {"dagster", "pandas", "sklearn", "joblib", "pyarrow", "matplotlib", "scipy", "skl2onnx"}
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from retrain_assets.cli import main
main()
"""


def _route(platform: Platform) -> tuple[str | None, str | None]:
    with platform.database.read() as connection:
        route = registry.get_route(connection)
    return route.production_version, route.canary_version


def _undelivered(platform: Platform) -> int:
    query = select(func.count()).where(notification_outbox.c.delivered_at.is_(None))
    with platform.database.read() as connection:
        return connection.execute(query).scalar_one()


def test_a_rollback_ends_the_canary_first_and_then_leaves_production(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """What was deployed last is taken back: the canary on trial; with nothing on trial and no target, a refusal."""
    answer = retrain("rollback", "--reason", "looks odd", "--actor", "ann", "--json")
    assert answer.code == 0, answer.err
    event = answer.json
    assert set(event) >= EVENT_KEYS
    assert (event["kind"], event["version"], event["actor"]) == ("rolled_back", "v1.0.1", "ann")
    assert (event["from_status"], event["to_status"], event["reason"]) == ("canary", "rolled_back", "looks odd")
    assert datetime.fromisoformat(event["at"]).utcoffset() is not None
    assert _route(trained) == ("v1.0.0", None)
    refused = retrain("rollback", "--reason", "more")
    assert (refused.code, refused.out) == (1, "")
    assert "no earlier production version" in refused.err
    assert _route(trained) == ("v1.0.0", None)


def test_promote_and_roll_back_return_to_the_version_before(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """A canary that a person promotes serves; a rollback brings the version before it back, and says so."""
    promoted = retrain("promote", "v1.0.1", "--reason", "seen enough", "--json")
    assert (promoted.code, promoted.json["kind"], promoted.json["to_status"]) == (0, "promoted", "production")
    assert _route(trained) == ("v1.0.1", None)
    answer = retrain("rollback", "--reason", "success dropped")
    assert answer.code == 0
    assert "v1.0.1: production -> rolled_back" in answer.out
    assert "v1.0.0 serves as production" in answer.out
    assert _route(trained) == ("v1.0.0", None)
    assert retrain("promote", "v1.0.1", "--reason", "again").code == 1


def test_rollback_goes_to_a_named_version_that_served(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """`--to` names the target; one that serves, never served or does not exist is refused with 1."""
    assert retrain("promote", "v1.0.1", "--reason", "x").code == 0
    for wrong in ("v1.0.1", "v7.0.0"):
        assert retrain("rollback", "--to", wrong, "--reason", "x").code == 1
    assert retrain("rollback", "--to", "v1.0.0", "--reason", "x").code == 0
    assert _route(trained) == ("v1.0.0", None)


def test_production_can_be_left_under_a_trial(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """`--to` production's own version ends the trial; `--production` means production although a canary is on trial."""
    refused = retrain("rollback", "--production", "--reason", "x")
    assert (refused.code, _route(trained)) == (1, ("v1.0.0", "v1.0.1"))
    assert retrain("rollback", "--to", "v1.0.0", "--reason", "x").code == 0
    assert _route(trained) == ("v1.0.0", None)


def test_a_rollback_works_with_the_base_install(trained: Platform, config: Path) -> None:
    """Without dagster, pandas and scikit-learn the rollback is done, told and notified, with no complaint."""
    done = subprocess.run(
        [sys.executable, "-c", BASE_INSTALL, "rollback", "--reason", "alone", "--json", "--config", str(config)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == "v1.0.1"
    assert done.stderr == ""
    assert _route(trained) == ("v1.0.0", None)
    assert _undelivered(trained) == 0


def test_notifications_go_out_at_once_and_dagster_is_told(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """After the command nothing waits in the outbox, and the asset `rollback` has a materialisation."""
    from dagster import AssetKey

    from retrain_assets.defs.instance import open_instance

    assert retrain("rollback", "--reason", "told").code == 0
    assert _undelivered(trained) == 0
    with open_instance(trained.settings) as instance:
        event = instance.get_latest_materialization_event(AssetKey(["rollback"]))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.description == "told"


def test_what_follows_cannot_undo_the_change(
    trained: Platform, config: Path, retrain: Any, monkeypatch: pytest.MonkeyPatch, home: Path  # noqa: ANN401
) -> None:  # fmt: skip
    """A dead channel and a broken Dagster are told on standard error; the rollback stands, with exit code 0."""
    config.write_text(
        config.read_text(encoding="utf-8") + 'notifications: {urls: ["nonsense://x"]}\n', encoding="utf-8"
    )
    shutil.rmtree(home / "dagster")
    (home / "dagster").write_text("no folder", encoding="utf-8")
    monkeypatch.setattr(traffic, "NOTIFY_BUDGET_S", 5.0)
    answer = retrain("rollback", "--reason", "still", "--json")
    assert answer.code == 0
    assert answer.json["kind"] == "rolled_back"
    assert "a notification will be tried again" in answer.err
    assert "Dagster could not be told" in answer.err
    assert _route(trained) == ("v1.0.0", None)


def test_a_change_needs_a_reason(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """Without one, or with an empty one, it is bad usage and nothing happens."""
    assert retrain("rollback").code == 2
    assert retrain("rollback", "--reason", "  ").code == 2
    assert retrain("promote", "v1.0.1").code == 2
    assert _route(trained) == ("v1.0.0", "v1.0.1")


def test_pause_and_resume_are_events(made: Platform, retrain: Any) -> None:  # noqa: ANN401
    """Each prints its event, shows in the status, and is refused when it is so already."""
    paused = retrain("pause", "--reason", "holidays", "--actor", "bob", "--json")
    assert (paused.code, paused.json["kind"], paused.json["actor"]) == (0, "paused", "bob")
    assert set(paused.json) >= EVENT_KEYS
    assert retrain("status", "--json").json["paused"] is True
    assert "holidays" in retrain("status").out
    assert retrain("pause", "--reason", "twice").code == 1
    assert retrain("resume", "--reason", "back", "--json").json["kind"] == "resumed"
    assert retrain("resume", "--reason", "back").code == 1
    assert retrain("status", "--json").json["paused"] is False
