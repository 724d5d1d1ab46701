"""Every fault that the doctor knows is found, told with its mend, and hides no other."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import update

from retrain_assets.core.deployment import ModelVersion, Status
from retrain_assets.operations import deploy, doctor
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.doctor import Check, examine
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.settings import Config, Settings, read_config, resolve
from retrain_assets.store.database import Database
from retrain_assets.store.tables import notification_outbox
from retrain_assets.testing import FakeClock

CAUSE = Cause("ann", "because")


@pytest.fixture
def settings(home: Path) -> Settings:
    """Settings of a problem that has no database yet."""
    return resolve(Config(), None)


def _named(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def _faults(checks: list[Check]) -> set[str]:
    assert all(check.mend for check in checks if not check.ok)
    return {check.name for check in checks if not check.ok}


def test_a_fresh_problem_is_looked_at_without_being_made(settings: Settings, home: Path) -> None:
    """The missing database is the one fault, with its mend; looking creates nothing."""
    checks = examine(settings)
    assert _faults(checks) == {"database"}
    assert "retrain doctor --fix" in str(_named(checks)["database"].mend)
    assert not (home / "backlinks" / "retrain.db").exists()


def test_fixing_makes_everything_well(settings: Settings) -> None:
    """The schema is there and the settings are published; a second look finds the same without fixing."""
    assert _faults(examine(settings, is_fixing=True)) == set()
    assert _faults(examine(settings)) == set()


def test_settings_that_workers_do_not_have_are_a_fault(settings: Settings) -> None:
    """The keys that differ are named; fixing publishes the new ones."""
    examine(settings, is_fixing=True)
    changed = resolve(read_config({"canary": {"alpha": 0.02}, "exploration": {"epsilon": 0.1}}), None)
    found = _named(examine(changed))["settings"]
    assert not found.ok
    assert "canary.alpha" in found.detail
    assert "exploration.epsilon" in found.detail
    assert _faults(examine(changed, is_fixing=True)) == set()


def test_a_schema_of_another_version_is_a_fault(settings: Settings) -> None:
    """A database that is newer than the package cannot be fixed here: it says so, and what helps."""
    examine(settings, is_fixing=True)
    with Database(settings.database_url).write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for is_fixing in (False, True):
        checks = examine(settings, is_fixing=is_fixing)
        assert _faults(checks) == {"schema"}
        assert "revision 9999" in _named(checks)["schema"].detail
        assert "upgrade this package" in str(_named(checks)["schema"].mend)


def test_a_database_that_is_away_leaves_the_other_checks(settings: Settings) -> None:
    """No exception escapes, whatever the database does."""
    away = SimpleNamespace(url="postgresql://nobody@127.0.0.1:1/none?connect_timeout=2")
    checks = examine(_with_url(settings, away.url), is_fixing=True)
    assert _faults(checks) == {"database"}
    assert {"config", "home", "disk"} <= set(_named(checks))
    damaged = settings.problem_home / "retrain.db"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no database" * 1000)
    assert _faults(examine(settings)) == {"database"}


def _with_url(settings: Settings, url: str) -> Settings:
    return Settings(config=settings.config, config_path=None, home=settings.home, database_url=url)


def test_a_home_that_is_a_file_is_a_fault(settings: Settings, home: Path) -> None:
    """Told with the name of the variable that moves it."""
    home.write_text("", encoding="utf-8")
    found = _named(examine(_with_url(settings, "sqlite://")))["home"]
    assert not found.ok
    assert "RETRAIN_HOME" in str(found.mend)


def test_a_full_disk_is_a_fault(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below half a gibibyte a training may not find room."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100 * 2**20))
    found = _named(examine(settings))["disk"]
    assert not found.ok
    assert found.detail.startswith("0.1 GiB free")


def _serving(platform: Platform) -> ModelVersion:
    draft = ModelVersion(
        version="", status=Status.REGISTERED, week="2025-12-28", dataset_hash="d", schema_version="s",
        code_version="c", spec={"schema": platform.config.schema.to_dict()}, seed=0, parent_version=None,
        artefacts={}, metrics={}, report=None, run_id=None, created_at=platform.now(), training_id="t",
    )  # fmt: skip
    registered = deploy.register(platform, draft, CAUSE)
    deploy.stage(platform, registered, CAUSE)
    deploy.start(platform, replace(registered, status=Status.STAGING), CAUSE)
    return registered


def test_production_without_its_artefact_is_a_fault_and_no_target_a_warning(settings: Settings) -> None:
    """What serves must load; having nothing to go back to is told and is no fault."""
    _serving(open_platform(settings, FakeClock()))
    checks = examine(settings)
    assert _faults(checks) == {"production"}
    assert "v1.0.0" in _named(checks)["production"].detail
    target = _named(checks)["rollback_target"]
    assert target.ok
    assert target.detail.startswith("warning: no earlier production version")


def test_messages_that_keep_failing_are_a_fault(settings: Settings) -> None:
    """Waiting is normal; failing again and again points to a dead channel."""
    platform = open_platform(settings, FakeClock())
    deploy.pause(platform, CAUSE, is_paused=True)
    waiting = _named(examine(settings))["notifications"]
    assert waiting.ok
    assert waiting.detail.startswith("1 wait to be delivered")
    with platform.database.write() as connection:
        connection.execute(update(notification_outbox).values(attempts=5, last_error="mail server says no"))
    failing = _named(examine(settings))["notifications"]
    assert not failing.ok
    assert "mail server says no" in failing.detail
    assert "retrain notify test" in str(failing.mend)


def test_a_check_that_breaks_hides_no_other(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error inside one check is its fault; the later checks are made all the same."""

    def broken(_: Platform) -> Check:
        raise KeyError("surprise")

    monkeypatch.setattr(doctor, "_production", broken)
    checks = examine(settings, is_fixing=True)
    assert _faults(checks) == {"production"}
    assert "notifications" in _named(checks)


def test_further_checks_are_added(settings: Settings) -> None:
    """The command line brings Dagster's; they get the settings and come last."""
    extra = Check("extra", ok=True, detail="fine")
    checks = examine(settings, also=[lambda given: extra if given is settings else Check("x", ok=False, detail="")])
    assert checks[-1] == extra
