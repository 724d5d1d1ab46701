"""backup and restore as a person types them: what is printed, how they end, and that the restored problem works."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from retrain_assets.operations.backup import restore
from retrain_assets.operations.platform import Platform
from retrain_assets.serving.engine import DecisionEngine
from retrain_assets.settings import load_settings
from retrain_assets.store.backup_folder import BackupFolder
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets_tests.store import freeze

ROOT = Path(__file__).parents[2]
CONTRACT = {"path", "revision", "tables", "files", "bytes"}


@pytest.fixture
def filled(config: Path) -> Platform:
    """The project with rows in every table."""
    settings = load_settings(config)
    return freeze.fill(settings.database_url, settings.home)


@pytest.fixture
def elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_database: Callable[[str], str]
) -> Callable[[str], None]:
    """Go on at a new place: another home, with SQLite in it or a new database on a server."""

    def move(kind: str) -> None:
        monkeypatch.setenv("RETRAIN_HOME", str(tmp_path / "new home"))
        if kind != "sqlite":
            monkeypatch.setenv("RETRAIN_DATABASE_URL", new_database(kind))

    return move


@dataclass(frozen=True)
class Person:
    """Somebody at a prompt who has a problem with rows in every table, and a place for backups."""

    retrain: Callable[..., Any]
    platform: Platform
    config: Path
    folder: Path


@pytest.fixture
def person(filled: Platform, retrain: Callable[..., Any], config: Path, tmp_path: Path) -> Person:
    """With the frozen problem."""
    return Person(retrain, filled, config, tmp_path / "b")


def test_a_backup_and_its_restore_say_the_same_in_json(person: Person, elsewhere: Callable[[str], None]) -> None:
    """The contract's keys, and standard output is JSON alone; from SQLite to PostgreSQL."""
    made = person.retrain("backup", str(person.folder), "--json")
    elsewhere("postgresql")
    restored = person.retrain("restore", str(person.folder), "--json")
    assert (made.code, restored.code) == (0, 0), (made, restored)
    assert set(made.json) >= CONTRACT
    assert {key: made.json[key] for key in CONTRACT} == {key: restored.json[key] for key in CONTRACT}
    assert made.json["tables"]["outcomes"] == 14
    assert person.retrain("status", "--json").json["production"] == "v1.0.0"
    chain = person.retrain("lineage", "v1.0.0", "--json").json
    assert [file["fault"] for file in (*chain["snapshots"], *chain["artefacts"])] == [None, None, None]
    person.platform.database.close()


def test_people_read_what_was_copied_and_what_was_left_out(person: Person) -> None:
    """Also that nothing was copied a second time."""
    first, second = person.retrain("backup", str(person.folder)), person.retrain("backup", str(person.folder))
    assert "Copied now: 5 files. Left out: storage.database_url, notifications.urls, dagster." in first.out
    assert "Copied now: 0 files." in second.out
    assert "Backing up backlinks ..." in first.err


def test_a_damaged_description_is_told_and_the_backup_is_made(person: Person) -> None:
    """On standard error, so that the answer stays what it is, and among the facts of the JSON."""
    for flags in ([], ["--json"]):
        person.retrain("backup", str(person.folder))
        (person.folder / "backup.json").write_text("{")
        answer = person.retrain("backup", str(person.folder), *flags)
        assert answer.code == 0
        assert "Warning: the last backup in" in answer.err
    assert "backup.json cannot be read" in answer.json["warnings"][0]
    assert person.retrain("backup", str(person.folder), "--json").json["warnings"] == []


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (lambda path: (path / "retrain.db").write_bytes(b""), 1, "retrain.db: has 0 bytes instead of"),
        (lambda path: (path / "backup.json").write_text("{"), 1, "backup.json cannot be read"),
        (shutil.rmtree, 2, "holds no backup"),
    ],
)
def test_a_backup_that_cannot_be_relied_on_ends_with_its_code(
    person: Person, elsewhere: Callable[[str], None], spoil: Callable[[Path], Any], code: int, message: str
) -> None:
    """1 for a damaged one, 2 for a wrong folder."""
    assert person.retrain("backup", str(person.folder)).code == 0
    spoil(person.folder)
    elsewhere("sqlite")
    answer = person.retrain("restore", str(person.folder))
    assert answer.code == code
    assert message in answer.err


def test_a_restore_onto_the_problem_itself_is_refused(person: Person) -> None:
    """Exit code 1, the tables are named, and nothing has changed."""
    person.retrain("backup", str(person.folder))
    before = freeze.contents(person.platform.database)
    answer = person.retrain("restore", str(person.folder))
    assert answer.code == 1
    assert "the database is not empty" in answer.err
    assert freeze.contents(person.platform.database) == before


def test_a_backup_without_a_database_ends_with_the_code_for_an_absent_one(retrain: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """Exit code 3, and no folder."""
    answer = retrain("backup", str(tmp_path / "b"))
    assert answer.code == 3
    assert "there is nothing to back up" in answer.err
    assert not (tmp_path / "b").exists()


def _decide(settings: Any) -> tuple[str | None, dict[str, float]]:  # noqa: ANN401  (settings)
    url, home = settings.database_url, settings.problem_home
    with DecisionEngine.from_registry(url, problem_home=home, start_refresh=False) as engine:
        return engine.active_version, engine.predict({"pa": 50.0, "da": 40.0, "site_type": "blog"})


@pytest.mark.slow
def test_a_trained_problem_serves_the_same_after_a_restore(
    trained: Platform, retrain: Callable[..., Any], config: Path, tmp_path: Path, elsewhere: Callable[[str], None]
) -> None:
    """With models of the real weekly loop: status, lineage, scores and a rollback, on PostgreSQL instead of SQLite."""
    before = retrain("status", "--json").json
    lineage = retrain("lineage", before["production"], "--json").json
    served = _decide(trained.settings)
    assert retrain("backup", str(tmp_path / "b")).code == 0
    elsewhere("postgresql")
    assert retrain("restore", str(tmp_path / "b")).code == 0
    assert retrain("status", "--json").json == before
    assert retrain("lineage", before["production"], "--json").json == lineage | {
        "home": str(load_settings(config).problem_home)
    }
    assert _decide(load_settings(config)) == served
    assert retrain("rollback", "--reason", "a drill", "--json").code == 0


# The command in a process of its own, with pauses, so that a kill meets it in the middle.
_SLOW = """
import os, sys, time
from pathlib import Path
def slow(act):
    def call(*args, **options):
        time.sleep(0.02)
        return act(*args, **options)
    return call
os.fsync, Path.replace = slow(os.fsync), slow(Path.replace)
from retrain_assets.cli import main
main()
"""


def test_a_killed_command_leaves_a_backup_that_can_be_restored(
    person: Person, elsewhere: Callable[[str], None]
) -> None:
    """SIGKILL while the second backup is made: the folder holds the first or the second, whole."""
    assert person.retrain("backup", str(person.folder)).code == 0
    FeedbackCollector(person.platform.database.url).append_outcome(
        task_id="after", domain="a.org", action_attempted="forum", result=True
    )
    (person.platform.problem_home / "more").mkdir()
    for n in range(20):
        (person.platform.problem_home / "more" / str(n)).write_text(str(n))
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW, "backup", str(person.folder), "--config", str(person.config)],
        cwd=ROOT,
        env=os.environ | {"RETRAIN_HOME": str(person.platform.settings.home)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    while not (person.folder / "files" / "more").exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    folder = BackupFolder(person.folder)
    assert folder.faults(folder.read()) == []
    elsewhere("sqlite")
    settings = load_settings(person.config)
    assert restore(settings, person.folder).manifest.tables["outcomes"] in {14, 15}
    assert person.retrain("status", "--json").json["production"] == "v1.0.0"
