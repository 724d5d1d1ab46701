"""spool status and spool deliver: what a dead worker left behind is seen, and brought to the database once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retrain_assets.operations.platform import Platform
from retrain_assets.settings import load_settings
from retrain_assets.store import outcomes
from retrain_assets.store.database import Database
from retrain_assets.store.spool import Spool, name_of

FACTS = {"spool_dir", "waiting_rows", "waiting_files", "refused_files", "foreign_files", "bytes", "oldest_at"}
ROW = {"action_attempted": "comment", "result": True, "timestamp": "2026-01-05T12:00:00+00:00"}


@pytest.fixture
def folder(config: Path, tmp_path: Path) -> Path:
    """The spool that the configuration names."""
    place = tmp_path / "spool"
    with config.open("a", encoding="utf-8") as file:
        file.write(f"storage: {{spool_dir: {place}}}\n")
    return place


def _leave(config: Path, folder: Path, *names: str, url: str | None = None) -> None:
    """One file a task, as a worker leaves them that dies while the database is away."""
    spool = Spool(folder, name_of(url or load_settings(config).database_url))
    for name in names:
        spool.keep([ROW | {"task_id": name}])


def _count(config: Path) -> int:
    with Database(load_settings(config).database_url).read() as connection:
        return outcomes.count(connection)


def test_what_waits_is_told(config: Path, retrain: Any, folder: Path) -> None:  # noqa: ANN401
    """Also before anything was ever spooled, and before there is a database."""
    empty = retrain("spool", "status", "--json")
    assert (empty.code, set(empty.json)) == (0, FACTS)
    assert (empty.json["waiting_rows"], empty.json["oldest_at"]) == (0, None)
    assert "Nothing waits in" in retrain("spool", "status").out
    _leave(config, folder, "a", "b")
    facts = retrain("spool", "status", "--json").json
    assert (facts["waiting_rows"], facts["waiting_files"], facts["refused_files"]) == (2, 2, 0)
    assert facts["oldest_at"].endswith("+00:00")
    assert "2 outcomes wait in" in retrain("spool", "status").out


def test_what_waits_is_delivered_once(config: Path, folder: Path, made: Platform, retrain: Any) -> None:  # noqa: ANN401
    """A second delivery finds nothing; rows that the database knows are told as known."""
    _leave(config, folder, "a", "b", "a")
    told = retrain("spool", "deliver", "--json")
    assert told.code == 0
    assert set(told.json) == FACTS | {"delivered_rows", "accepted", "duplicate", "quarantined"}
    assert (told.json["delivered_rows"], told.json["accepted"], told.json["duplicate"]) == (3, 2, 1)
    assert told.json["waiting_files"] == 0
    assert _count(config) == 2
    again = retrain("spool", "deliver")
    assert (again.code, "0 outcomes delivered" in again.out) == (0, True)


def test_a_database_that_is_away_is_exit_code_3_and_everything_goes_on_waiting(
    config: Path,
    retrain: Any,  # noqa: ANN401
    folder: Path,
) -> None:
    """A wrong address must not become a new database with the outcomes in it."""
    _leave(config, folder, "a")
    answer = retrain("spool", "deliver", "--json")
    assert (answer.code, answer.out) == (3, "")
    assert "there is no database at" in answer.err
    assert retrain("spool", "status", "--json").json["waiting_rows"] == 1


def test_files_of_another_database_are_left_alone_unless_it_has_moved(
    made: Platform,
    config: Path,
    retrain: Any,  # noqa: ANN401
    tmp_path: Path,
) -> None:
    """They may be those of a problem that shares the folder; `--moved` takes what was meant for the old address."""
    left = tmp_path / "left"
    _leave(config, left, "a", url="postgresql://old.example/x")
    passed = retrain("spool", "deliver", str(left), "--json")
    assert (passed.code, passed.json["foreign_files"], passed.json["delivered_rows"]) == (0, 1, 0)
    assert "1 files of another database" in retrain("spool", "status", str(left)).out
    _leave(config, left, "b", url="postgresql://old.example/x")
    moved = retrain("spool", "deliver", str(left), "--moved", "--json")
    assert (moved.code, moved.json["accepted"], moved.json["foreign_files"]) == (0, 2, 0)


def test_a_damaged_file_is_set_aside_and_the_exit_code_says_so(
    made: Platform,
    config: Path,
    retrain: Any,  # noqa: ANN401
    folder: Path,
) -> None:
    """The others are delivered."""
    _leave(config, folder, "a")
    (folder / "0-damaged.jsonl").write_text("dear diary", encoding="utf-8")
    told = retrain("spool", "deliver", "--json")
    assert (told.code, told.json["refused_files"], told.json["accepted"]) == (1, 1, 1)
    assert "set aside" in retrain("spool", "status").out


def test_a_folder_must_be_known_and_there(retrain: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """Bad usage names the key that is missing, or the folder that is none."""
    answer = retrain("spool", "status")
    assert (answer.code, "storage.spool_dir" in answer.err) == (2, True)
    answer = retrain("spool", "deliver", str(tmp_path / "none"))
    assert (answer.code, "is no folder" in answer.err) == (2, True)
