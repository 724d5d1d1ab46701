"""The copy of a database: every value exactly, both ways, from one moment; and the folder that changes as a whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect

from retrain_assets.errors import RetrainError, StoreOutdated, UsageError
from retrain_assets.store import backup, backup_folder, schema
from retrain_assets.store.backup_folder import BackupFolder, Entry, Manifest
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.database import Database
from retrain_assets.testing import START, FakeClock
from retrain_assets_tests.store import freeze

EDGES = [
    {"task_id": "tab\tnew\nline\r\\back\\N", "failure_reason": "'\"; -- % %s \\. 🙂", "result": False},
    {
        "task_id": "floats",
        "result": "error",
        "execution_time": 0.1 + 0.2,
        "propensity": 5e-324,
        "retry_count": 2**31 - 1,
    },
    {"task_id": "json", "result": True, "pa": 1e-7, "note": "\\u0041 \u2028 é", "deep": None, "big": 2**53 + 1},
    {"task_id": "instants", "result": True, "timestamp": datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)},
    {"task_id": "empty", "result": True, "domain": "", "failure_reason": " "},
]
"""Outcomes whose values a careless copy would change."""

SILENT: Callable[[float], None] = lambda _: None  # noqa: E731  (a value among others)


def _fill(url: str, home: Path) -> Database:
    """A database that the product itself filled, with the edges of every type."""
    database = freeze.fill(url, home).database
    rows = [{"domain": "a.org", "action_attempted": "comment", "timestamp": START} | row for row in EDGES]
    receipts = FeedbackCollector(url, clock=FakeClock()).append_outcomes(rows)
    assert [receipt.status for receipt in receipts] == ["accepted"] * len(EDGES), receipts
    return database


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with rows in every table; not to be changed."""
    folder = tmp_path_factory.mktemp("original")
    source = _fill(f"sqlite:///{folder / 'source.db'}", folder)
    backup.copy_out(source, folder / "copy.db", SILENT)
    return folder / "copy.db"


@pytest.fixture
def source(database_url: str, original: Path) -> Database:
    """A database with the same rows, on SQLite and on PostgreSQL."""
    database = Database(database_url)
    backup.load(database, original, schema.HEAD, SILENT)
    return database


def _raw(file: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every value as SQLite holds it: JSON and instants as their text."""
    with backup.read_only(file) as copy:
        tables = backup.count_rows(copy)
        return {name: copy.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in sorted(tables)}  # noqa: S608


def _append(url: str, outcome_id: str) -> str:
    """Report an outcome; the collector stays open, since it shares its connections with the copy."""
    collector = FeedbackCollector(url, clock=FakeClock())
    return collector.append_outcome(
        task_id=outcome_id, domain="a.org", action_attempted="forum", result=True, outcome_id=outcome_id
    ).status


# ----------------------------------------------------------------------------------------------------- every value


def test_every_value_comes_back_exactly_on_either_kind_of_database(
    database_url: str, new_database: Callable[[str], str], tmp_path: Path
) -> None:
    """From each kind into each kind: the same rows, to the last digit, character and microsecond."""
    filled = _fill(database_url, tmp_path / "home")
    revision = backup.copy_out(filled, tmp_path / "first.db", SILENT)
    first = _raw(tmp_path / "first.db")
    assert sum(map(len, first.values())) > 50
    for kind in ("sqlite", "postgresql"):
        target = Database(new_database(kind))
        backup.load(target, tmp_path / "first.db", revision, SILENT)
        backup.copy_out(target, tmp_path / f"{kind}.db", SILENT)
        assert freeze.contents(target) == freeze.contents(filled)
        assert _raw(tmp_path / f"{kind}.db") == first


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_new_rows_get_numbers_that_were_never_given(
    source: Database, new_database: Callable[[str], str], tmp_path: Path, kind: str
) -> None:
    """A cursor that stands behind the last row of the backup sees what is appended after the restore."""
    target = Database(new_database(kind))
    highest = max(row["seq"] for row in freeze.contents(source)["outcomes"])
    with source.write() as connection:  # the highest number is not in the table any more
        connection.exec_driver_sql(f"DELETE FROM outcomes WHERE seq = {highest}")  # noqa: S608
    backup.load(target, tmp_path / "copy.db", backup.copy_out(source, tmp_path / "copy.db", SILENT), SILENT)
    assert _append(target.url, "after the restore") == "accepted"
    assert max(row["seq"] for row in freeze.contents(target)["outcomes"]) == highest + 1


def test_a_copy_of_an_older_schema_is_brought_up_to_date(
    database_url: str, new_database: Callable[[str], str], tmp_path: Path
) -> None:
    """A backup may be made before an upgrade: it keeps its revision, and its restore migrates."""
    source = Database(database_url)
    target = Database(new_database("postgresql" if source.is_sqlite else "sqlite"))
    with source.write() as connection:
        schema.upgrade(connection, "0001")
        driver: Any = connection.connection.driver_connection
        for line in (freeze.FROZEN / "0001.sql").read_text(encoding="utf-8").split(";\n"):
            driver.execute(line)
    before = freeze.contents(source)
    assert backup.copy_out(source, tmp_path / "copy.db", SILENT) == "0001"
    backup.load(target, tmp_path / "copy.db", "0001", SILENT)
    with target.read() as connection:
        assert schema.revision(connection) == schema.HEAD
    for name, rows in freeze.contents(target).items():
        assert [{column: row[column] for column in before[name][0]} for row in rows] == before[name]


# ------------------------------------------------------------------------------------------------------ one moment


def test_the_copy_is_of_one_moment_while_others_write(
    source: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers do not wait for the copy, the copy does not begin anew, and nothing that came later is in it."""
    monkeypatch.setattr(backup, "PAGES", 8)
    monkeypatch.setattr(backup, "GROUP", 3)
    before, shares = freeze.contents(source), []

    def write_meanwhile(share: float) -> None:
        shares.append(share)
        assert _append(source.url, f"meanwhile {len(shares)}") == "accepted"

    backup.copy_out(source, tmp_path / "copy.db", write_meanwhile)
    assert len(shares) > 5
    assert shares == sorted(shares)
    copied = Database(f"sqlite:///{tmp_path / 'copy.db'}")
    assert freeze.contents(copied) == before
    assert len(freeze.contents(source)["outcomes"]) == len(before["outcomes"]) + len(shares)


def test_rows_are_held_in_memory_a_group_at_a_time(
    source: Database, postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways: however many rows a table has, never more than a group of them at once."""
    sizes: list[int] = []
    insert = backup._insert

    def weighed(connection: Any, table: str, names: list[str], rows: list[tuple[Any, ...]]) -> None:  # noqa: ANN401
        sizes.append(len(rows))
        insert(connection, table, names, rows)

    monkeypatch.setattr(backup, "GROUP", 3)
    monkeypatch.setattr(backup, "_insert", weighed)
    backup.copy_out(source, tmp_path / "copy.db", SILENT)
    backup.load(Database(postgresql_url), tmp_path / "copy.db", schema.HEAD, SILENT)
    backup.copy_out(Database(postgresql_url), tmp_path / "again.db", SILENT)
    assert max(sizes) == 3
    assert _raw(tmp_path / "again.db") == _raw(tmp_path / "copy.db")


def test_the_copy_is_one_file(source: Database, tmp_path: Path) -> None:
    """No log beside it that could be forgotten, and reading leaves none."""
    folder = tmp_path / "copy"
    folder.mkdir()
    backup.copy_out(source, folder / "copy.db", SILENT)
    assert _raw(folder / "copy.db")["route"]
    assert [file.name for file in folder.iterdir()] == ["copy.db"]


def test_a_database_that_is_newer_or_has_no_schema_is_not_copied(database: Database, tmp_path: Path) -> None:
    """What this version does not know it could copy in part only."""
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreOutdated, match="revision 9999"):
        backup.copy_out(database, tmp_path / "copy.db", SILENT)
    with database.write() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    with pytest.raises(StoreOutdated, match="nothing to back up"):
        backup.copy_out(database, tmp_path / "copy.db", SILENT)


# ----------------------------------------------------------------------------------------------------- empty or not


def test_a_schema_without_rows_is_empty(database: Database, original: Path) -> None:
    """A worker or `retrain doctor` may have made the tables already."""
    backup.load(database, original, schema.HEAD, SILENT)
    assert len(freeze.contents(database)["outcomes"]) == 14 + len(EDGES)


def test_a_database_with_rows_is_refused_and_left_as_it_is(database: Database, original: Path) -> None:
    """The error names the tables, and one outcome is enough."""
    _append(database.url, "precious")
    with pytest.raises(
        RetrainError, match=r"not empty: there are rows in outcomes; nothing was restored.*name an empty"
    ):
        backup.load(database, original, schema.HEAD, SILENT)
    assert [row["outcome_id"] for row in freeze.contents(database)["outcomes"]] == ["precious"]


def test_a_load_that_dies_leaves_an_empty_database(database_url: str, original: Path) -> None:
    """Schema and rows come in one transaction, so the restore can be repeated."""
    database = Database(database_url)

    def die(share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt("the process is killed")

    with pytest.raises(KeyboardInterrupt, match="killed"):
        backup.load(database, original, schema.HEAD, die)
    with database.read() as connection:
        assert inspect(connection).get_table_names() == []
    backup.load(database, original, schema.HEAD, SILENT)


def test_a_value_that_the_database_cannot_hold_is_named_by_its_table(
    postgresql_url: str, original: Path, tmp_path: Path
) -> None:
    """SQLite takes any text, PostgreSQL does not: the error says where, and nothing is restored."""
    copy = Path(shutil.copy(original, tmp_path))
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("UPDATE quarantine SET reason = 'a' || char(0) || 'b'")
    with pytest.raises(RetrainError, match=r"quarantine cannot be restored into this database: .*NUL"):
        backup.load(Database(postgresql_url), copy, schema.HEAD, SILENT)


# -------------------------------------------------------------------------------------------------------- the folder


def _manifest(files: dict[str, Entry], **changes: Any) -> Manifest:  # noqa: ANN401  (fields)
    values: dict[str, Any] = {
        "problem": "p",
        "created_at": START,
        "revision": "0002",
        "source": "sqlite",
        "tables": {"route": 1},
    }
    return Manifest(**values | {"files": files, "left_out": ("a",)} | changes)


def _renew(path: Path, home: Path, text: str) -> None:
    """Make a backup of a home whose two files hold `text`, one under a name of its own and one under the same name."""
    for name in (f"{text}.bin", "same.csv"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    folder = BackupFolder(path)
    with folder.renewed() as before:
        files = {"retrain.db": folder.stage("retrain.db", lambda file: backup_folder._write(file, text))}
        for source in sorted(home.iterdir()):
            name = f"files/{source.name}"
            files[name], _ = folder.keep(name, source, before.files.get(name) if before else None)
        folder.commit(_manifest(files, problem=text))


def test_a_description_comes_back_as_it_was() -> None:
    """`backup.json` holds everything, and nothing that was not said."""
    manifest = _manifest({"retrain.db": Entry("ab", 1), "files/a": Entry("cd", 2, 3)})
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read"),
        (lambda text: text.replace("0002", "0001"), "does not match its own digest"),
        (lambda _: "[]", "cannot be read"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "format 2, this version reads 1"),
    ],
)
def test_a_description_that_was_damaged_is_refused(change: Callable[[str], str], message: str) -> None:
    """Torn, tampered with, not ours, or newer: each is told apart."""
    with pytest.raises(RetrainError, match=message):
        Manifest.from_json(change(_manifest({"retrain.db": Entry("ab", 1)}).to_json()))


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "files/../../outside"])
def test_a_description_cannot_point_outside(name: str) -> None:
    """Whoever can write a backup cannot make a restore read or write elsewhere."""
    with pytest.raises(RetrainError, match="lies outside the backup"):
        Manifest.from_json(_manifest({name: Entry("ab", 1)}).to_json())


def test_every_damaged_file_is_named(tmp_path: Path) -> None:
    """Missing, shortened, and changed without a change of size: three files, three lines."""
    _renew(tmp_path / "b", tmp_path / "home", "first")
    folder = BackupFolder(tmp_path / "b")
    assert folder.faults(folder.read()) == []
    (folder.path / "retrain.db").unlink()
    (folder.path / "files" / "first.bin").write_text("fir")
    (folder.path / "files" / "same.csv").write_text("First")
    assert folder.faults(folder.read()) == [
        "files/first.bin: has 3 bytes instead of 5",
        "files/same.csv: other content than recorded",
        "retrain.db: No such file or directory",
    ]


def test_a_second_backup_copies_only_what_is_new_and_mends_what_was_damaged(tmp_path: Path) -> None:
    """A file that is there and right is left alone; one that was damaged in the folder is copied again."""
    home = tmp_path / "home"
    _renew(tmp_path / "b", home, "first")
    kept = tmp_path / "b" / "files"
    (kept / "first.bin").write_text("FIRST")
    (home / "more").write_text("more")
    folder = BackupFolder(tmp_path / "b")
    with folder.renewed() as before:
        assert before is not None
        again = {
            file.name: folder.keep(f"files/{file.name}", file, before.files.get(f"files/{file.name}"))[1]
            for file in home.iterdir()
        }
    assert again == {"first.bin": True, "same.csv": False, "more": True}


def test_an_old_backup_is_valid_until_the_new_one_is(tmp_path: Path) -> None:
    """A new backup that fails halfway changes nothing that the old one names."""
    home = tmp_path / "home"
    _renew(tmp_path / "b", home, "first")
    folder = BackupFolder(tmp_path / "b")
    (home / "same.csv").write_text("second")

    def fail() -> None:
        with folder.renewed():
            folder.stage("retrain.db", lambda file: backup_folder._write(file, "second"))
            folder.keep("files/same.csv", home / "same.csv", None)
            raise RetrainError("the disk is full")

    with pytest.raises(RetrainError, match="full"):
        fail()
    assert folder.read().problem == "first"
    assert folder.faults(folder.read()) == []
    _renew(tmp_path / "b", home, "third")
    assert folder.read().problem == "third"
    assert folder.faults(folder.read()) == []


def test_a_folder_with_something_else_is_not_touched(tmp_path: Path) -> None:
    """A slip of the hand must not mix a backup into a folder of other things."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    with (
        pytest.raises(UsageError, match="is not empty and holds no backup"),
        BackupFolder(tmp_path / "photos").renewed(),
    ):
        pass
    with pytest.raises(UsageError, match="is a file"), BackupFolder(tmp_path / "photos" / "cat.jpg").renewed():
        pass
    with pytest.raises(UsageError, match="holds no backup"):
        BackupFolder(tmp_path / "photos").read()
    assert [file.name for file in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


@pytest.mark.parametrize("names", [[".next/page.js", "package.json"], [".retrain-next/x"], ["backup.json", ".lock"]])
def test_a_folder_whose_files_only_have_our_names_is_not_touched(tmp_path: Path, names: list[str]) -> None:
    """Web builds live in `.next`, and anybody may write a `backup.json`: known is only a folder that we began."""
    for name in names:
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_text("precious")
    with pytest.raises(UsageError, match="is not empty and holds no"), BackupFolder(tmp_path / "site").renewed():
        pass
    assert {file: file.read_text() for file in (tmp_path / "site").rglob("*") if file.is_file()} == {
        tmp_path / "site" / name: "precious" for name in names
    }


def test_a_begun_backup_that_died_does_not_block_the_next(tmp_path: Path) -> None:
    """It left the lock alone, or with it what it had begun."""
    for names in ([".lock"], [".lock", ".retrain-next/files/half"]):
        folder = tmp_path / str(len(names))
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        _renew(folder, tmp_path / "home", "first")
        assert BackupFolder(folder).faults(BackupFolder(folder).read()) == []
        assert not (folder / "files" / "half").exists()


def test_a_damaged_description_does_not_block_the_next_backup(tmp_path: Path) -> None:
    """Nothing that it said is relied on: a damaged file is mended, and people are told."""
    _renew(tmp_path / "b", tmp_path / "home", "first")
    (tmp_path / "b" / "backup.json").write_bytes(b'{"for\xff')
    (tmp_path / "b" / "files" / "same.csv").write_text("First")
    folder = BackupFolder(tmp_path / "b")
    with folder.renewed() as before:
        assert before is None
    assert "backup.json cannot be read" in folder.warnings[0]
    _renew(tmp_path / "b", tmp_path / "home", "second")
    assert folder.read().problem == "second"
    assert folder.faults(folder.read()) == []


def test_a_backup_of_a_newer_version_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    """An old program that runs by mistake leaves it as it is."""
    _renew(tmp_path / "b", tmp_path / "home", "first")
    newer = (tmp_path / "b" / "backup.json").read_text().replace('"format": 1', '"format": 2')
    (tmp_path / "b" / "backup.json").write_text(newer)
    with pytest.raises(StoreOutdated, match="upgrade retrain-assets"), BackupFolder(tmp_path / "b").renewed():
        pass
    assert (tmp_path / "b" / "backup.json").read_text() == newer


def test_two_backups_into_one_folder_do_not_mix(tmp_path: Path) -> None:
    """The second is refused while the first is at work, and a dead one holds nothing."""
    folder = BackupFolder(tmp_path / "b")
    with (
        folder.renewed(),
        pytest.raises(RetrainError, match="another backup is being made"),
        BackupFolder(tmp_path / "b").renewed(),
    ):
        pass
    with folder.renewed() as before:
        assert before is None


# Makes a second backup over a copy of the first in a forked child that kills itself at its n-th step on disk, for every
# n until a child gets through; prints one line for each: the step, and what a reader then finds.
_KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from retrain_assets.store.backup_folder import BackupFolder
from retrain_assets_tests.store import test_backup
base = Path(sys.argv[2])
os.fsync = lambda _: None  # processes die here, never the operating system
step = 0
while True:
    step += 1
    shutil.copytree(base / "b", base / f"b{step}")
    shutil.copytree(base / "home", base / f"home{step}")
    child = os.fork()
    if child == 0:
        seen = 0
        def dying(act):
            def call(*args, **options):
                global seen
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return act(*args, **options)
            return call
        os.fsync, Path.replace, Path.mkdir = dying(os.fsync), dying(Path.replace), dying(Path.mkdir)
        Path.unlink, shutil.rmtree, os.utime = dying(Path.unlink), dying(shutil.rmtree), dying(os.utime)
        test_backup._renew(base / f"b{step}", base / f"home{step}", "second")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    folder = BackupFolder(base / f"b{step}")
    found = folder.read()
    values = {name: folder.locate(name).read_text() for name in found.files}
    faults = folder.faults(found)
    test_backup._renew(base / f"b{step}", base / f"home{step}", "third")
    after = folder.read()
    repeated = [after.problem, folder.faults(after)]
    print(json.dumps([step, status, found.problem, values, faults, repeated]), flush=True)
    if status == 0:
        break
"""


def test_a_kill_at_any_step_leaves_the_old_or_the_new_backup_whole(tmp_path: Path) -> None:
    """SIGKILL before every single step on disk: what a reader finds is one backup, and the next one succeeds."""
    _renew(tmp_path / "b", tmp_path / "home", "first")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(root), str(tmp_path)], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) > 20
    for step, status, problem, values, faults, repeated in lines:
        is_last = step == len(lines)
        assert os.WIFEXITED(status) if is_last else os.WTERMSIG(status) == signal.SIGKILL
        old = {"retrain.db": "first", "files/first.bin": "first", "files/same.csv": "first"}
        new = {"retrain.db": "second", "files/first.bin": "first"}
        new |= {"files/second.bin": "second", "files/same.csv": "second"}
        assert (problem, values) in (("first", old), ("second", new)), step
        assert (faults, repeated) == ([], ["third", []]), step
    assert {line[2] for line in lines} == {"first", "second"}
