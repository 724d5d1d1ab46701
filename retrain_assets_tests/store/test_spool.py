"""The spool: while the database is away nothing is lost, later everything is there once, and nobody waits for it."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from retrain_assets.errors import StoreOutdated, StoreUnavailable
from retrain_assets.settings import Config
from retrain_assets.store import outcomes, payloads, spool_delivery, tables
from retrain_assets.store import spool as spools
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.database import Database
from retrain_assets.store.spool import Spool, name_of
from retrain_assets.store.spool_delivery import KEPT
from retrain_assets.testing import FakeClock

ROW: dict[str, Any] = {"task_id": "t", "action_attempted": "comment", "result": True}


class World:
    """A collector with a spool, a clock, and a database that can be away."""

    def __init__(self, database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database, self.folder = database, folder
        self.is_away, self.seconds, self.attempts = False, 0.0, 0
        self.clock = FakeClock()
        self._patch(monkeypatch)
        self.collector = self.another()

    def another(self) -> FeedbackCollector:
        """A collector of another process, as it were."""
        return FeedbackCollector(
            self.database.url, self.folder, config=Config(), clock=self.clock, monotonic=lambda: self.seconds
        )

    def append(self, *names: str, **change: Any) -> list[Any]:  # noqa: ANN401
        """Report one task per name in one batch."""
        return self.collector.append_outcomes([ROW | {"task_id": name} | change for name in names])

    def files(self) -> list[str]:
        """What lies in the spool, locks aside."""
        return sorted(path.name for path in self.folder.glob("[!.]*"))

    def stored(self) -> list[str]:
        """The tasks in the database in the order in which they came there."""
        query = select(tables.outcomes.c.task_id).order_by(tables.outcomes.c.seq)
        with Database(self.database.url).engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def _patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        write, world = Database.write, self

        @contextmanager
        def unsteady(database: Database) -> Iterator[Connection]:
            world.attempts += 1
            if world.is_away:
                raise StoreUnavailable("the database is away; nothing was stored, try again")
            with write(database) as connection:
                yield connection

        monkeypatch.setattr(Database, "write", unsteady)


@pytest.fixture
def world(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """On SQLite and on PostgreSQL."""
    return World(database, tmp_path / "spool", monkeypatch)


@pytest.fixture
def sqlite_world(sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """For what does not depend on the kind of database."""
    return World(sqlite_database, tmp_path / "spool", monkeypatch)


# ------------------------------------------------------------------------------------------------- what a worker sees


def test_outcomes_of_an_outage_arrive_once_with_the_instants_they_had(world: World) -> None:
    """What the receipt said is the outcome's key; when it was received is when the database took it."""
    world.is_away = True
    kept = world.append("a", "b")
    assert [(r.status, r.is_spooled, r.reason) for r in kept] == [("accepted", True, KEPT)] * 2
    world.clock.advance(hours=2)
    world.is_away, world.seconds = False, 5.0
    (direct,) = world.append("c")
    assert (direct.status, direct.is_spooled, direct.reason) == ("accepted", False, None)
    assert world.stored() == ["a", "b", "c"]
    assert world.files() == []
    with world.database.read() as connection:
        rows = list(connection.execute(select(tables.outcomes).order_by("seq")))
    assert [row.outcome_id for row in rows[:2]] == [receipt.outcome_id for receipt in kept]
    assert rows[0].received_at - rows[0].occurred_at == timedelta(hours=2)
    again = world.append("a", timestamp=rows[0].occurred_at)
    assert again[0].status == "duplicate"


def test_a_commit_whose_answer_was_lost_is_not_doubled_by_the_spool(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcome is in the database and in the spool, with the key of one moment; the delivery finds it known."""
    write = Database.write

    @contextmanager
    def cut(database: Database) -> Iterator[Connection]:
        with write(database) as connection:
            yield connection
        raise StoreUnavailable("it may have been stored or not, try again")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", cut)
        assert world.append("a")[0].is_spooled
    world.clock.advance(minutes=1)
    world.collector.flush()
    assert (world.stored(), world.files()) == (["a"], [])


def test_rows_that_do_not_fit_are_refused_at_the_delivery_as_they_came(world: World) -> None:
    """The receipt says so at once; quarantine gets field, reason and the row with the values that it had.

    The id of a refused row, or of another task's, is not taken: the good row that has it is accepted, no duplicate.
    """
    world.is_away = True
    bad = ROW | {"task_id": "bad", "pa": float("inf"), "notes": b"x", "outcome_id": "o1"}
    good = ROW | {"task_id": "good", "outcome_id": "o1"}
    receipts = world.collector.append_outcomes([bad, good, good, good | {"task_id": "other"}])
    assert all(receipt.is_spooled for receipt in receipts)
    assert [r.status for r in receipts] == ["quarantined", "accepted", "duplicate", "quarantined"]
    assert (receipts[0].field, receipts[0].reason) == ("pa", f"inf is not finite; {KEPT}")
    assert str(receipts[3].reason).startswith("'o1' is the id of an outcome of task 'good'")
    world.is_away = False
    world.collector.flush()
    assert world.stored() == ["good"]
    with world.database.read() as connection:
        row, foreign = connection.execute(select(tables.quarantine).order_by("id"))
    assert (foreign.field, '"task_id":"other"' in foreign.payload) == ("outcome_id", True)
    assert (row.field, row.reason, row.source) == ("pa", "inf is not finite", "collector")
    assert payloads.decode(row.payload).values == bad | {"timestamp": world.clock().isoformat()}


def test_what_is_newer_stays_behind_what_waits_and_no_call_delivers_everything(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order is kept across the outage, and the backlog is carried in parts."""
    world = sqlite_world
    monkeypatch.setattr(spool_delivery, "DELIVERED_ROWS", 3)
    world.is_away = True
    names = [f"{number:02}" for number in range(8)]
    for name in names:
        world.append(name)
    world.is_away, world.seconds = False, 100.0
    assert world.append("08")[0].is_spooled
    assert world.stored() == names[:3]
    assert world.append("09")[0].is_spooled
    assert world.append("10")[0].is_spooled
    assert not world.append("11")[0].is_spooled
    assert world.stored() == [f"{number:02}" for number in range(12)]


def test_a_database_that_is_away_is_left_alone_for_longer_and_longer(sqlite_world: World) -> None:
    """Only one task in a while pays for the attempt: after 1 s, 2 s, ... 30 s; the first success starts anew."""
    world = sqlite_world
    world.is_away = True
    tried = []
    for second in range(160):
        world.seconds, before = float(second), world.attempts
        assert world.append(str(second))[0].is_spooled
        if world.attempts > before:
            tried.append(second)
    assert tried == [0, 1, 3, 7, 15, 31, 61, 91, 121, 151]
    world.is_away, world.seconds = False, 200.0
    world.append("back")
    world.is_away, world.seconds = True, 201.0
    world.append("away again")
    before, world.seconds = world.attempts, 202.0
    world.append("after a second")
    assert world.attempts == before + 1


def test_without_a_spool_the_error_is_clear_and_nothing_is_claimed(sqlite_world: World) -> None:
    """The worker decides what to do; it may simply send the same again."""
    world = sqlite_world
    collector = FeedbackCollector(world.database.url, config=Config())
    world.is_away = True
    with pytest.raises(StoreUnavailable, match="nothing was stored, try again"):
        collector.append_outcomes([ROW])
    collector.flush()
    world.is_away = False
    assert collector.append_outcomes([ROW])[0].status == "accepted"


def test_a_fault_that_no_patience_heals_is_told_although_there_is_a_spool(sqlite_world: World) -> None:
    """Else outcomes would pile up on the machine, and nobody would learn why."""
    world = sqlite_world
    with world.database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE outcomes RENAME TO elsewhere")
    with pytest.raises(StoreOutdated, match="retrain doctor --fix"):
        world.append("a")
    assert world.files() == []


def test_a_spool_that_takes_nothing_claims_nothing(
    sqlite_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full, or the place is a file: a retryable error for the worker, and no half of a file."""
    world = sqlite_world
    world.is_away = True
    (tmp_path / "file").write_text("")
    collector = FeedbackCollector(world.database.url, tmp_path / "file", config=Config())
    with pytest.raises(StoreUnavailable, match=r"the spool does not take it either.*nothing was stored"):
        collector.append_outcomes([ROW])

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spools, "_write", full)
    with pytest.raises(StoreUnavailable, match=r"No space left on device.*nothing was stored"):
        world.append("a")
    assert list(world.folder.iterdir()) == []


def test_a_spool_that_cannot_be_listed_is_not_in_the_way_of_a_database_that_answers(
    sqlite_world: World, tmp_path: Path
) -> None:
    """The worker has no use for it at this moment."""
    (tmp_path / "file").write_text("")
    collector = FeedbackCollector(sqlite_world.database.url, tmp_path / "file", config=Config())
    assert [r.is_spooled for r in collector.append_outcomes([ROW])] == [False]


# ------------------------------------------------------------------------------------------------- flush and close


def test_flush_delivers_all_or_says_that_something_waits(sqlite_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever rest the collector takes; with a time limit it goes on trying until then."""
    world = sqlite_world
    monkeypatch.setattr(spool_delivery, "DELIVERED_ROWS", 2)
    world.is_away = True
    for name in "abcde":
        world.append(name)
    for timeout_s in (None, 0.15):
        before = world.attempts
        with pytest.raises(StoreUnavailable, match=r"outcomes still wait in .*spool: the database is away"):
            world.collector.flush(timeout_s)
        assert (world.attempts - before == 1) == (timeout_s is None)
    world.is_away = False
    world.collector.flush()
    assert (world.stored(), world.files()) == (list("abcde"), [])


def test_a_flush_that_runs_out_of_time_says_so(sqlite_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is delivering, and the database answers; there was only too little time."""
    world = sqlite_world
    world.is_away = True
    world.append("a")
    world.is_away = False
    with pytest.raises(StoreUnavailable, match=r"still wait in .*: there was no time for more"):
        world.collector.flush(0.0)
    world.collector.flush()
    assert world.stored() == ["a"]


def test_closing_tries_once_and_leaves_the_rest_for_the_next_process(
    sqlite_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that ends while the database is away leaves its outcomes; the next one brings them along."""
    world = sqlite_world
    world.is_away = True
    with world.collector:
        world.append("a")
    assert "outcomes go on waiting" in caplog.text
    assert len(world.files()) == 1
    world.is_away = False
    with world.another() as successor:
        successor.append_outcomes([ROW | {"task_id": "b"}])
    assert (world.stored(), world.files()) == (["a", "b"], [])


# ------------------------------------------------------------------------------------------------- the files


def test_what_can_never_be_delivered_is_set_aside_and_blocks_nothing(
    sqlite_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a file, a text, a format that never was: kept under another name, with the reason logged."""
    world = sqlite_world
    world.is_away = True
    world.append("a")
    (name,) = world.files()
    whole = (world.folder / name).read_text(encoding="utf-8")
    header, row = whole.splitlines()
    broken = {
        "1-format.jsonl": json.dumps(json.loads(header) | {"format": "x"}) + f"\n{row}\n",
        "2-half.jsonl": whole[:-30],
        "3-text.jsonl": "dear diary",
        "4-bytes.jsonl": "\xff",
        "5-empty.jsonl": "",
    }
    for place, content in broken.items():
        (world.folder / place).write_text(content, encoding="latin-1")
    world.is_away = False
    with caplog.at_level(logging.ERROR):
        world.collector.flush()
    assert world.stored() == ["a"]
    assert world.files() == [f"{place}.refused" for place in broken]
    assert (world.folder / "2-half.jsonl.refused").read_text(encoding="utf-8") == broken["2-half.jsonl"]
    for reason in ("has format x", "not whole", "is no spool file", "is not text"):
        assert reason in caplog.text
    status = Spool(world.folder, None).status()
    assert (status.waiting_files, status.waiting_rows, status.refused_files) == (0, 0, 5)


def test_databases_and_versions_that_share_a_folder_leave_each_others_files_alone(
    sqlite_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Another problem's worker lives, and will deliver them: they are told once, and are in nobody's way."""
    world = sqlite_world
    world.is_away = True
    world.append("a")
    header, row = (world.folder / world.files()[0]).read_text(encoding="utf-8").splitlines()
    foreign = {"0-other.jsonl": {"database": "sqlite:////other.db"}, "1-later.jsonl": {"format": 2}}
    for name, change in foreign.items():
        (world.folder / name).write_text(json.dumps(json.loads(header) | change) + f"\n{row}\n", encoding="utf-8")
    status = Spool(world.folder, name_of(world.database.url)).status()
    assert (status.waiting_files, status.waiting_rows, status.foreign_files) == (1, 1, 2)
    world.is_away = False
    world.collector.flush()
    for second in range(100, 400, 100):
        world.seconds = float(second)
        assert not world.append(str(second))[0].is_spooled
    assert world.stored() == ["a", "100", "200", "300"]
    assert world.files() == list(foreign)
    assert caplog.text.count("is left alone by this process") == 2
    assert "belongs to sqlite:////other.db" in caplog.text
    assert "has format 2, this version reads 1; upgrade this machine" in caplog.text


@pytest.mark.parametrize("forbidden", ["rename", "read_bytes", "unlink"])
def test_a_file_that_this_user_may_not_touch_is_passed_over(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, forbidden: str
) -> None:
    """A folder shared by several users: what is new goes to the database that answers, and the log says it once."""
    world = sqlite_world
    world.is_away = True
    world.append("a")
    poison = world.folder / "0-poison.jsonl"
    content = "dear diary" if forbidden == "rename" else (world.folder / world.files()[0]).read_text(encoding="utf-8")
    poison.write_text(content, encoding="utf-8")
    allowed = getattr(Path, forbidden)

    def refused(path: Path, *arguments: Any, **more: Any) -> Any:  # noqa: ANN401
        if path == poison:
            raise PermissionError(1, "Operation not permitted")
        return allowed(path, *arguments, **more)

    monkeypatch.setattr(Path, forbidden, refused)
    world.is_away = False
    world.collector.flush()
    for second in range(100, 400, 100):
        world.seconds = float(second)
        assert not world.append(str(second))[0].is_spooled
    assert world.stored() == ["a", "100", "200", "300"]
    assert world.files() == [poison.name]
    assert caplog.text.count("Operation not permitted") == 1


def test_a_file_that_breaks_the_insert_does_not_hold_up_the_others(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that nobody thought of costs its own file's delivery, and the file is kept."""
    world = sqlite_world
    world.is_away = True
    for name in ("a", "poison", "b"):
        world.append(name)
    world.is_away = False
    append = outcomes.append

    def choosy(connection: Connection, raws: list[dict[str, Any]], *rest: Any) -> Any:  # noqa: ANN401
        if any(raw["task_id"] == "poison" for raw in raws):
            raise ZeroDivisionError("nobody thought of this")
        return append(connection, raws, *rest)

    monkeypatch.setattr(outcomes, "append", choosy)
    world.collector.flush()
    assert world.stored() == ["a", "b"]
    assert [name.endswith(".jsonl.refused") for name in world.files()] == [True]


def test_whatever_a_worker_reports_comes_out_of_the_spool_as_it_went_in(tmp_path: Path) -> None:
    """Also line separators that are none in JSON Lines, values without JSON, and half a surrogate pair."""
    row = {
        "a": "x\u2028y\x85z\x1e\nw\r",
        "b": float("-inf"),
        "c": 2**70,
        "d": b"\xff",
        "e": "\ud800",
        "f": [1, {"$float": "nan"}],
        "timestamp": FakeClock().now(),
    }
    spool = Spool(tmp_path, "db")
    quoted = {"task_id": "'t1'", "action_attempted": "'comment'"}
    cut = {"cut": True, "characters": 7, "head": "x"}
    path = spool.keep([row, {}, quoted, cut])
    read = spool.read(path)
    assert read == [row | {"timestamp": FakeClock().now().isoformat()}, {}, quoted, cut]


def test_the_folders_of_a_new_spool_are_durable_before_the_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in a folder whose own name a power cut takes away is lost, too: every new name's folder is synced."""
    synced: list[Path] = []
    sync = os.fsync

    def noted(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink())
        sync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    spool = Spool(tmp_path / "new" / "spool", None)
    file = spool.keep([ROW])
    assert [path for path in synced if path.is_dir()] == [tmp_path, tmp_path / "new", tmp_path / "new" / "spool"]
    synced.clear()
    spool.keep([ROW])
    assert [path for path in synced if path.is_dir()] == [file.parent]


def test_names_sort_in_the_order_of_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the clock is put back in between."""
    spool = Spool(tmp_path, None)
    instants = iter([5_000, 4_000, 4_000, 6_000])
    monkeypatch.setattr("retrain_assets.store.spool.time.time_ns", lambda: next(instants))
    written = [spool.keep([{"n": n}]) for n in range(4)]
    assert written == sorted(written) == spool.waiting()
    assert len(set(written)) == 4


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite:////var/x.db", "sqlite:////var/x.db"),
        ("postgresql://me:s3cret@db.example:5433/x?sslmode=require", "postgresql://db.example:5433/x"),
        ("postgresql+psycopg://you@DB.example/x", "postgresql://db.example:5432/x"),
        ("postgresql://db.example:5432/x", "postgresql://db.example:5432/x"),
        ("postgresql://me@/x?host=/run/Pg", "postgresql:///run/Pg:5432/x"),
        ("postgresql:///x?host=a&host=B&port=1", "postgresql://a,b:1/x"),
    ],
)
def test_a_database_is_named_without_user_and_password(url: str, name: str) -> None:
    """The name lies in every file of the spool; a new password, or another way to write it, makes no other database."""
    assert name_of(url) == name


# ----------------------------------------------------------------------------------------------- threads and processes


def test_threads_lose_and_double_nothing_while_the_database_comes_and_goes(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six threads report while it is away every other moment; in the end every report is there once."""
    world = sqlite_world
    seed = 20261123
    print(f"seed {seed}")
    rng, write = random.Random(seed), Database.write
    monkeypatch.setattr(spool_delivery, "FIRST_REST_S", 0.0)

    @contextmanager
    def flickering(database: Database) -> Iterator[Connection]:
        world.is_away = rng.random() < 0.4
        with write(database) as connection:
            yield connection

    monkeypatch.setattr(Database, "write", flickering)
    collector = world.another()
    statuses: list[str] = []

    def work(who: int) -> None:
        for n in range(12):
            receipts = collector.append_outcomes([ROW | {"task_id": f"{who}-{n}"}])
            statuses.extend(receipt.status for receipt in receipts)

    _all_at_once([lambda who=who: work(who) for who in range(6)])  # type: ignore[misc]
    monkeypatch.setattr(Database, "write", write)
    world.is_away = False
    collector.flush(10.0)
    assert statuses == ["accepted"] * 72
    assert sorted(world.stored()) == sorted(f"{who}-{n}" for who in range(6) for n in range(12))
    assert world.files() == []


def test_a_delivery_leaves_other_deliverers_out(sqlite_world: World) -> None:
    """One process carries the backlog; the others keep what is new, and are not slowed."""
    world = sqlite_world
    world.is_away = True
    world.append("a")
    world.is_away, world.seconds = False, 100.0
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    lock = str(world.folder / ".lock")
    arguments = [sys.executable, "-c", code, lock]
    holder = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert world.append("b")[0].is_spooled
    with pytest.raises(StoreUnavailable, match="another process is delivering it"):
        world.collector.flush(0.1)
    holder.communicate("\n")
    world.collector.flush()
    assert world.stored() == ["a", "b"]


_FORKING = """
import os, sys
from retrain_assets.errors import StoreUnavailable
from retrain_assets.settings import Config
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.database import Database
url, folder = sys.argv[1:]
collector = FeedbackCollector(url, folder, config=Config())
def append(who):
    rows = [dict(task_id=f"{who}-{n}", action_attempted="comment", result=True) for n in range(20)]
    assert [collector.append_outcomes([row])[0].status for row in rows] == ["accepted"] * 20
write = Database.write
def away(database):
    raise StoreUnavailable("away")
Database.write = away
append("before")
Database.write = write
child = os.fork()
append("child" if child == 0 else "parent")
collector.flush(30.0)
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_worker_and_its_parent_deliver_each_outcome_once(world: World) -> None:
    """The backlog of before the fork belongs to both, and is there once."""
    arguments = [sys.executable, "-c", _FORKING, world.database.url, str(world.folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(world.stored()) == sorted(f"{who}-{n}" for who in ("before", "child", "parent") for n in range(20))
    assert world.files() == []


_SPOOLING = """
import sys
from retrain_assets.store.collector import FeedbackCollector
url, folder, who = sys.argv[1:]
collector = FeedbackCollector(url, folder)
print("ready", flush=True)
for n in range(1_000_000):
    rows = [dict(task_id=f"{who}-{n}-{i}", action_attempted="comment", result=True) for i in range(20)]
    assert all(receipt.is_spooled for receipt in collector.append_outcomes(rows))
    print(n, flush=True)
"""


def test_a_worker_that_is_killed_while_it_spools_leaves_whole_batches(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """Kill -9 at random moments: what has a receipt is delivered later, a batch is whole or not there."""
    seed, rng = 20261123, random.Random(20261123)
    print(f"seed {seed}")
    folder = tmp_path / "spool"
    assert sqlite_database.file is not None
    hidden = sqlite_database.file / "retrain.db"  # its folder is a file, and cannot be made: the database is away
    acknowledged: set[str] = set()
    for kill in range(4):
        arguments = [sys.executable, "-c", _SPOOLING, f"sqlite:///{hidden}", str(folder), f"k{kill}"]
        writer = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(rng.randint(2, 12))]
        sum(range(rng.randint(0, 200_000)))
        os.kill(writer.pid, signal.SIGKILL)
        told += writer.communicate()[0].splitlines(keepends=True)
        acknowledged |= {f"k{kill}-{line.strip()}" for line in told[1:] if line.endswith("\n")}
    FeedbackCollector(sqlite_database.url, config=Config()).deliver_spool(folder, is_moved=True)
    with sqlite_database.read() as connection:
        found = Counter(n.rpartition("-")[0] for n in connection.execute(select(tables.outcomes.c.task_id)).scalars())
    assert set(found.values()) == {20}
    assert len(acknowledged) >= 4
    assert acknowledged <= set(found)
    assert [path.name for path in folder.glob("[!.]*")] == []


def _all_at_once(works: list[Callable[[], None]]) -> None:
    failed: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (told by the test)
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
