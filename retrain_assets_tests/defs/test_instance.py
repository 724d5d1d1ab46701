"""Where Dagster's history lies, and that it is created once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dagster import DagsterInstance

from retrain_assets.defs.instance import create_history, open_instance
from retrain_assets.settings import Config, resolve

ROOT = Path(__file__).parents[2]


def _storage(instance: DagsterInstance) -> str:
    """The folder of an instance's runs and events."""
    return str(instance.storage_directory())


def test_the_history_is_the_same_from_whatever_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dagster.yaml leads to `<home>/dagster` from the repository and from elsewhere."""
    folders = set()
    for folder in (ROOT, tmp_path):
        monkeypatch.chdir(folder)
        with DagsterInstance.from_config(str(ROOT)) as instance:
            folders.add(Path(_storage(instance)).parent)
            assert not instance.telemetry_enabled
    assert folders == {home / "dagster"}


def test_the_settings_decide_when_the_environment_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config named on the command line brings its own history, with or without a dagster.yaml beside it."""
    monkeypatch.delenv("RETRAIN_HOME")
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    (tmp_path / "with" / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text(encoding="utf-8"))
    for name in ("with", "without"):
        with open_instance(resolve(Config(), tmp_path / name / "config" / "retrain.yaml")) as instance:
            assert Path(_storage(instance)).parent == tmp_path / name / ".retrain" / "dagster"
            assert not instance.telemetry_enabled


def test_a_dagster_home_that_is_set_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DAGSTER_HOME, with a dagster.yaml of its own, is used as Dagster would use it."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
    with open_instance(resolve(Config(), tmp_path / "config" / "retrain.yaml")) as instance:
        assert Path(_storage(instance)).parent == tmp_path


def test_processes_that_start_together_create_the_history_once(home: Path) -> None:
    """Four processes that open a fresh home at the same moment all get a working instance."""
    code = f"from dagster import DagsterInstance as D; print(D.from_config({str(ROOT)!r}).get_runs_count())"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outputs = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0] * 4, outputs
    assert [out.strip() for out, _ in outputs] == ["0"] * 4
    assert (home / "dagster").is_dir()


def test_a_creation_that_was_killed_is_done_again(tmp_path: Path) -> None:
    """Files without the mark of a complete creation are completed, and a second call changes nothing."""
    create_history(tmp_path)
    (tmp_path / ".created").unlink()
    (tmp_path / "schedules" / "schedules.db").unlink()
    create_history(tmp_path)
    assert (tmp_path / "schedules" / "schedules.db").exists()
    before = (tmp_path / "schedules" / "schedules.db").stat().st_mtime_ns
    create_history(tmp_path)
    assert (tmp_path / "schedules" / "schedules.db").stat().st_mtime_ns == before
