"""What a worker appended to its CSV file is in the database once, whoever reads it, whenever, and however often."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from retrain_assets.core.deployment import ModelVersion, Status
from retrain_assets.core.outcomes import DecisionRecord, Outcome
from retrain_assets.core.promotion import TrialState
from retrain_assets.demo.automation import SimulatedAutomation
from retrain_assets.errors import StoreOutdated, StoreUnavailable
from retrain_assets.operations import csv_outcomes, doctor, performance, retrain, status
from retrain_assets.operations.csv_outcomes import Absorbed, absorb
from retrain_assets.operations.imports import import_file
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.retrain import Prepared, Run
from retrain_assets.operations.watch import tick
from retrain_assets.settings import Config, read_config
from retrain_assets.store import csv_intake, decisions, outcomes, published, registry, tables, trials
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.csv_format import Columns, whole_records
from retrain_assets.store.csv_lock import Batch, WriterLock
from retrain_assets.store.csv_outcomes import CsvOutcomes
from retrain_assets.store.csv_refused import quarantine_path
from retrain_assets.testing import START, FakeClock

PlatformMaker = Callable[..., Platform]
VersionMaker = Callable[..., ModelVersion]

CSV = read_config({"storage": {"outcomes": "csv"}, "retrain": {"validation_threshold": 0.6}})
GOOD: dict[str, Any] = {"task_id": "good", "domain": "a.org", "action_attempted": "comment", "result": True, "pa": 40}


@pytest.fixture
def platform(new_platform: PlatformMaker, database_url: str) -> Platform:
    """A platform whose worker writes a CSV file; on SQLite, then on PostgreSQL."""
    return new_platform(database_url, CSV)


@pytest.fixture
def lone_platform(new_platform: PlatformMaker, sqlite_url: str) -> Platform:
    """The same on SQLite alone."""
    return new_platform(sqlite_url, CSV)


class Worker:
    """A worker with a CSV file."""

    def __init__(self, platform: Platform, path: Path | None = None) -> None:
        self.path = path or platform.settings.csv_file
        self._platform = platform
        self._writer = CsvOutcomes(self.path)

    def tell(self, *raws: dict[str, Any]) -> list[str]:
        """Hand in a batch; the receipts' statuses."""
        now, rules = self._platform.now(), published.outcome_rules(self._platform.config)
        return [receipt.status for receipt in self._writer.append(raws, rules, now, "collector")]

    def close(self) -> None:
        """Let go of the file."""
        self._writer.close()


@pytest.fixture
def new_worker() -> Iterator[Callable[..., Worker]]:
    """Start a worker: `new_worker(platform, path)`."""
    started: list[Worker] = []

    def make(platform: Platform, path: Path | None = None) -> Worker:
        started.append(Worker(platform, path))
        return started[-1]

    yield make
    for worker in started:
        worker.close()


WorkerMaker = Callable[..., Worker]


def _tasks(begin: int, end: int) -> list[dict[str, Any]]:
    return [GOOD | {"task_id": f"t{n}", "outcome_id": f"o{n}"} for n in range(begin, end)]


def _stored(platform: Platform) -> list[dict[str, Any]]:
    """Every outcome, in order of arrival."""
    columns = [column for column in tables.outcomes.columns if column.name != "seq"]
    with platform.database.read() as connection:
        return [dict(row._mapping) for row in connection.execute(select(*columns).order_by(tables.outcomes.c.seq))]


def _ids(platform: Platform) -> list[str]:
    return [row["outcome_id"] for row in _stored(platform)]


def _quarantined(platform: Platform) -> list[dict[str, Any]]:
    with platform.database.read() as connection:
        return [dict(row._mapping) for row in connection.execute(select(tables.quarantine).order_by("id"))]


# ------------------------------------------------------------------------------------------------- the same as ever


def test_rows_are_those_that_the_database_store_would_hold(
    platform: Platform, new_worker: WorkerMaker, new_platform: PlatformMaker, new_database: Callable[[str], str]
) -> None:
    """Every column, type and instant, and the same refused row; so nothing behind it can tell the difference."""
    batch = [
        GOOD | {"pa": "40.5", "https_enabled": "yes", "site_type": "007", "shoe_size": 43, "note": "a\x00b"},
        GOOD | {"task_id": "t2", "result": "failed", "failure_reason": 'said "no",\r\ntwice', "execution_time": 0.1},
        GOOD | {"task_id": "t3", "decision_id": "d3", "timestamp": "2026-01-05T12:00:00.000123+01:00", "domain": None},
        GOOD | {"task_id": "t4", "action_attempted": "GuestPosting", "propensity": 1 / 3, "replaces": "d-d3"},
        GOOD | {"task_id": "t5", "result": "perhaps"},
    ]
    new_worker(platform).tell(*batch)
    assert absorb(platform) == Absorbed(accepted=4, duplicate=0, quarantined=1)
    direct = new_platform(new_database("sqlite"), Config())
    with direct.database.write() as connection:
        outcomes.append(connection, batch, published.outcome_rules(CSV), direct.now(), "collector")
    assert _stored(platform) == _stored(direct)
    names = ("received_at", "source", "payload", "payload_hash", "reason", "field")
    (refused,), (expected,) = _quarantined(platform), _quarantined(direct)
    assert {name: refused[name] for name in names} == {name: expected[name] for name in names}


def test_with_the_database_store_the_file_is_not_looked_at(
    new_platform: PlatformMaker, sqlite_url: str, new_worker: WorkerMaker
) -> None:
    """The key decides, not whether there is a file."""
    platform = new_platform(sqlite_url, Config())
    new_worker(platform).tell(*_tasks(0, 2))
    assert absorb(platform) == Absorbed()
    assert _ids(platform) == []


def test_a_file_of_the_worker_is_imported_whole(
    new_platform: PlatformMaker, sqlite_url: str, new_worker: WorkerMaker
) -> None:
    """`retrain import outcomes.csv` is the way to a database: the same outcomes, those in the JSON column included."""
    platform = new_platform(sqlite_url, Config())
    worker = new_worker(platform)
    told = [GOOD | {"outcome_id": f"o{n}", "site_type": "007", "shoe_size": 43, "note": "a,\nb"} for n in range(3)]
    worker.tell(*told)
    found = import_file(platform, worker.path)
    assert (found.accepted, found.duplicate, found.quarantined) == (3, 0, 0)
    features = {"pa": 40.0, "site_type": "007", "shoe_size": 43, "note": "a,\nb"}
    assert [(row["outcome_id"], row["features"]) for row in _stored(platform)] == [
        (f"o{n}", features) for n in range(3)
    ]


# ------------------------------------------------------------------------------------------------- each row once


def test_only_what_is_new_is_read(
    lone_platform: Platform, new_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row comes with the next call; with nothing new no file is opened and nothing is written."""
    worker = new_worker(lone_platform)
    assert absorb(lone_platform) == Absorbed()
    worker.tell(*_tasks(0, 3))
    assert absorb(lone_platform).accepted == 3
    worker.tell(*_tasks(2, 5))
    assert absorb(lone_platform) == Absorbed(accepted=2)
    with monkeypatch.context() as patch:
        patch.setattr(csv_outcomes, "_File", None)
        patch.setattr(type(lone_platform.database), "write", None)
        assert absorb(lone_platform) == Absorbed()
    assert _ids(lone_platform) == [f"o{n}" for n in range(5)]


def _awkward_file(platform: Platform, new_worker: WorkerMaker, path: Path, rows: int) -> bytes:
    """A file whose rows have quotes, line ends and characters of several bytes."""
    worker = new_worker(platform, path)
    told = _tasks(0, rows)
    for row in told[1::2]:
        row["failure_reason"] = 'Füße "sagte",\r\nsie\n\n,,"o9,t9"'
    worker.tell(*told)
    worker.close()
    return path.read_bytes()


def test_every_prefix_of_a_file_holds_a_prefix_of_its_rows(
    lone_platform: Platform, new_worker: WorkerMaker, tmp_path: Path
) -> None:
    """Whatever byte the file ends with at that moment, no half row is taken for one, and none too few."""
    data = _awkward_file(lone_platform, new_worker, tmp_path / "all.csv", 8)
    records, span = whole_records(data)
    assert span == len(data)
    columns, rules = Columns.of_header(records[0], "f"), published.outcome_rules(CSV)
    ends = [sum(map(len, records[: n + 1])) for n in range(len(records))]
    for length in range(len(data) + 1):
        found, span = whole_records(data[:length])
        assert found == records[: sum(end <= length for end in ends)]
        assert span == sum(map(len, found))
        assert all(isinstance(columns.decode(record, rules, START), Outcome) for record in found[1:])


def test_a_file_read_while_it_grows_gives_each_row_once(
    platform: Platform, new_worker: WorkerMaker, tmp_path: Path
) -> None:
    """Forty looks at random lengths: after each the database holds exactly the whole rows, in order."""
    seed = 20261123
    print(f"seed {seed}")
    chance = random.Random(seed)
    data = _awkward_file(platform, new_worker, tmp_path / "all.csv", 40)
    path = platform.settings.csv_file
    path.parent.mkdir(parents=True, exist_ok=True)
    for cut in [*sorted(chance.sample(range(len(data)), 39)), len(data)]:
        path.write_bytes(data[:cut])
        absorb(platform)
        whole = len(whole_records(data[:cut])[0]) - 1
        assert _ids(platform) == [f"o{n}" for n in range(whole)]
    assert len(_ids(platform)) == 40
    assert _quarantined(platform) == []


def test_several_readers_beside_a_writer_take_each_row_once(
    platform: Platform, new_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three read in small batches while the worker appends: nothing is lost, doubled or torn."""
    monkeypatch.setattr(csv_outcomes, "BATCH_BYTES", 2_000)
    worker = new_worker(platform)
    is_done = threading.Event()
    counts: list[Absorbed] = []
    errors: list[BaseException] = []

    def read() -> None:
        try:
            while not is_done.is_set():
                counts.append(absorb(platform))
        except BaseException as error:  # noqa: BLE001  (told to the test)
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for begin in range(0, 400, 20):
        worker.tell(*[row | {"failure_reason": 'a\r\n"b"'} for row in _tasks(begin, begin + 20)])
    is_done.set()
    for reader in readers:
        reader.join()
    counts.append(absorb(platform))
    assert errors == []
    assert sorted(_ids(platform)) == sorted(f"o{n}" for n in range(400))
    assert sum(count.accepted for count in counts) == 400
    assert sum(count.duplicate + count.quarantined for count in counts) == 0


def test_a_writer_that_never_rests_does_not_hold_a_reader(
    lone_platform: Platform, new_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It appends during each batch that is read: the look ends, and the next ones bring the rest."""
    monkeypatch.setattr(csv_outcomes, "BATCH_BYTES", 2_000)
    worker = new_worker(lone_platform)
    worker.tell(*_tasks(0, 50))
    told, move = 50, csv_intake.move

    def tell_more(*args: object) -> None:
        nonlocal told
        assert told < 2_000, "the reader runs after the writer for ever"
        worker.tell(*_tasks(told, told + 20))
        told += 20
        move(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(csv_intake, "move", tell_more)
        assert 50 <= absorb(lone_platform).accepted < told
    absorb(lone_platform)
    assert _ids(lone_platform) == [f"o{n}" for n in range(told)]


def test_a_database_that_was_emptied_under_a_live_platform_is_filled_again(
    lone_platform: Platform, new_worker: WorkerMaker
) -> None:
    """The file did not change, but what was read of it is gone."""
    new_worker(lone_platform).tell(*_tasks(0, 3), GOOD | {"result": None})
    absorb(lone_platform)
    with lone_platform.database.write() as connection:
        for table in (tables.outcomes, tables.quarantine, tables.imports):
            connection.execute(table.delete())
    assert absorb(lone_platform) == Absorbed(accepted=3, quarantined=1)


def test_a_batch_that_is_being_written_is_not_taken_in_half(lone_platform: Platform, new_worker: WorkerMaker) -> None:
    """Its whole rows wait for the others: a worker that is killed there sends all of them again."""
    worker = new_worker(lone_platform)
    worker.tell(*_tasks(0, 2))
    begin = worker.path.stat().st_size
    worker.tell(*_tasks(2, 6))
    worker.close()
    data = worker.path.read_bytes()
    lock = WriterLock(worker.path)
    lock.note(Batch(begin, len(data)))
    lock.release()
    half = begin + len(b"".join(whole_records(data[begin:])[0][:2]))
    worker.path.write_bytes(data[:half])
    assert absorb(lone_platform).accepted == 2
    worker.path.write_bytes(data)
    assert absorb(lone_platform).accepted == 4


def test_a_reader_that_dies_between_rows_and_place_has_taken_nothing(
    platform: Platform, new_worker: WorkerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and place are one transaction, so the next reader takes them all."""
    new_worker(platform).tell(*_tasks(0, 5), GOOD | {"result": None})

    def die(*_: object) -> None:
        raise KeyboardInterrupt("killed")

    with monkeypatch.context() as patch:
        patch.setattr(csv_intake, "move", die)
        with pytest.raises(KeyboardInterrupt, match="killed"):
            absorb(platform)
    assert (_ids(platform), _quarantined(platform)) == ([], [])
    assert absorb(platform) == Absorbed(accepted=5, quarantined=1)


@pytest.mark.parametrize("change", ["shorter", "other head", "other tail", "empty"])
def test_a_file_that_was_replaced_is_read_from_its_start(
    lone_platform: Platform, new_worker: WorkerMaker, change: str
) -> None:
    """Whatever it was replaced by, new rows are taken and known ones are not taken twice."""
    worker = new_worker(lone_platform)
    worker.tell(*_tasks(0, 200))
    assert absorb(lone_platform).accepted == 200
    worker.close()
    header, *rows = worker.path.read_bytes().splitlines(keepends=True)
    new = [row.replace(b"o1,t1,", b"n1,t1,").replace(b"o198,t198,", b"n198,t198,") for row in rows]
    kept = {"shorter": rows[:50], "other head": [new[1], *rows], "other tail": [*rows[:198], new[198], rows[199]]}
    worker.path.write_bytes(header + b"".join(kept[change]) if change in kept else b"")
    absorb(lone_platform)
    if change == "empty":
        worker.tell(*_tasks(199, 201))
    else:
        worker.tell(*_tasks(200, 201))
    absorb(lone_platform)
    ids = _ids(lone_platform)
    extra = {"other head": ["n1"], "other tail": ["n198"]}.get(change, [])
    assert sorted(ids) == sorted([f"o{n}" for n in range(201)] + extra)


# ------------------------------------------------------------------------------------------------- what is no row


def test_a_row_that_is_none_is_set_aside_once_and_stops_nothing(platform: Platform, new_worker: WorkerMaker) -> None:
    """A person edited the file: each bad row is kept with its field and reason, the others are taken."""
    worker = new_worker(platform)
    worker.tell(*_tasks(0, 5))
    worker.close()
    header, *rows = worker.path.read_bytes().splitlines(keepends=True)
    rows[1] = rows[1].replace(b"success", b"perhaps")
    rows[2] = b"only,three,cells\r\n"
    rows[3] = rows[3].replace(b"a.org", b"\xff.org")
    for content in ([header, *rows], [header, rows[4], *rows]):  # the second time as another file, read from the start
        worker.path.write_bytes(b"".join(content))
        absorb(platform)
    assert _ids(platform) == ["o0", "o4"]
    found = sorted((row["field"], row["reason"].partition(",")[0]) for row in _quarantined(platform))
    assert found == [
        ("result", "'perhaps' is not one of true"),
        ("row", f"has 3 cells where the header has {header.count(b',') + 1}"),
        ("row", "is not UTF-8"),
    ]


def test_what_the_worker_refused_and_what_was_torn_reaches_the_quarantine_once(
    platform: Platform, new_worker: WorkerMaker
) -> None:
    """The file beside it is read like the first one; the worker's source, instant and reason are kept."""
    worker = new_worker(platform)
    worker.tell(GOOD | {"result": None}, GOOD | {"pa": float("inf"), "note": b"\xff"}, *_tasks(0, 1))
    worker.close()
    with worker.path.open("ab") as file:
        file.write(b"o1,t1,,a.o")
    worker.tell(*_tasks(2, 3))
    assert absorb(platform).quarantined == 3
    assert absorb(platform) == Absorbed()
    with quarantine_path(worker.path).open("a") as file:
        file.write('{"edited": true}\n{"half a li')
    assert absorb(platform).quarantined == 1
    found = [(row["source"], row["field"]) for row in _quarantined(platform)]
    assert sorted(found[:2]) == [("collector", "pa"), ("collector", "result")]
    assert found[2:] == [("outcomes.csv", "row"), ("outcomes.quarantine.jsonl", "row")]
    assert _quarantined(platform)[0]["received_at"] == START


def test_a_file_that_is_gone_is_an_error_and_no_lack_of_outcomes(
    lone_platform: Platform, new_worker: WorkerMaker
) -> None:
    """A watch that went on would take every outcome for missing, and roll back a good version."""
    worker = new_worker(lone_platform)
    worker.tell(*_tasks(0, 2))
    absorb(lone_platform)
    away = worker.path.rename(worker.path.with_name("away"))
    for step in (absorb, tick):
        with pytest.raises(StoreUnavailable, match=r"outcomes\.csv is gone, but .* bytes of it were read before"):
            step(lone_platform)
    away.rename(worker.path)
    worker.tell(*_tasks(2, 3))
    assert absorb(lone_platform).accepted == 1


def test_features_nested_beyond_all_measure_cost_one_row(lone_platform: Platform, new_worker: WorkerMaker) -> None:
    """A program that added rows by hand nested them: each is kept with its reason, and the steps go on."""
    worker = new_worker(lone_platform)
    worker.tell(*_tasks(0, 8))
    worker.close()
    header, *rows = worker.path.read_bytes().splitlines(keepends=True)
    depths = [2, 30, 400, 900, 1_100, 20_000]
    for place, depth in enumerate(depths, start=1):
        nested = b'{""note"":' + b"[" * depth + b"]" * depth + b"}"
        rows[place] = rows[place].replace(b"{}", b'"' + nested + b'"')
    worker.path.write_bytes(header + b"".join(rows))
    assert absorb(lone_platform) == Absorbed(accepted=2, quarantined=len(depths))
    assert {row["field"] for row in _quarantined(lone_platform)} == {"note", "features"}


@pytest.mark.parametrize("place", [1, 3])
def test_an_open_quote_is_an_error_and_no_lack_of_outcomes(
    lone_platform: Platform, new_worker: WorkerMaker, place: int
) -> None:
    """Nothing behind it can be read, so the steps stop and say in which line it is."""
    worker = new_worker(lone_platform)
    worker.tell(*_tasks(0, 6))
    worker.close()
    spoilt = worker.path.read_bytes().replace(f"o{place},t{place},".encode(), f'o{place},"t{place},'.encode())
    worker.path.write_bytes(spoilt)
    with pytest.raises(StoreOutdated, match=rf"the row in line {place + 2} opens a quote that is never closed"):
        absorb(lone_platform)
    assert _ids(lone_platform) == [f"o{n}" for n in range(place)]


def test_a_file_of_another_program_is_an_error(lone_platform: Platform) -> None:
    """A spreadsheet saved it with semicolons: the message says so, and what to do."""
    path = lone_platform.settings.csv_file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("outcome_id;task_id\no1;t1\n", encoding="utf-8")
    with pytest.raises(StoreOutdated, match="Was it saved by another program"):
        absorb(lone_platform)


# ------------------------------------------------------------------------------------------------- the loop on it


def test_the_weekly_loop_learns_from_the_file(lone_platform: Platform, clock: FakeClock) -> None:
    """Collected, merged and prepared for training, and a row that comes late refreshes its week."""
    week = lone_platform.calendar.containing(START)
    rows = SimulatedAutomation(0).history(400, week.start_at, week.end_at)
    clock.set(week.end_at + timedelta(minutes=5))
    with FeedbackCollector(f"csv://{lone_platform.settings.csv_file}", config=CSV, clock=clock) as collector:
        assert {receipt.status for receipt in collector.append_outcomes(rows[:-1])} == {"accepted"}
        assert retrain.collect(lone_platform, week).rows == 399
        assert collector.append_outcomes(rows[-1:])[0].status == "accepted"
    merged, taken = retrain.merge(lone_platform, week)
    assert (merged.rows, taken) == (400, [week.key])
    prepared = retrain.prepare(lone_platform, week, Run("run 1", "anna"))
    assert isinstance(prepared, Prepared)
    assert prepared.new_tasks == 400


def test_what_a_run_would_do_counts_the_file(
    lone_platform: Platform, clock: FakeClock, new_worker: WorkerMaker
) -> None:
    """`retrain run --dry-run` does not say that there is nothing while the file is full."""
    week = lone_platform.calendar.containing(START)
    rows = SimulatedAutomation(0).history(150, week.start_at, week.end_at)
    clock.set(week.end_at + timedelta(minutes=5))
    new_worker(lone_platform).tell(*rows)
    found = status.outlook(lone_platform, week)
    assert (found.would_train, found.rows, found.new_tasks) == (True, 150, 150)


def _decided_on_canary(platform: Platform, count: int) -> list[dict[str, Any]]:
    """Decide tasks now, each with an hour's time; returns a success for each of them, not reported yet."""
    now = platform.now()
    with platform.database.write() as connection:
        route = registry.get_route(connection)
        records = [
            DecisionRecord(
                decision_id=f"d{n:02}",
                task_id=f"t{n}",
                attempt=1,
                domain="a.org",
                decided_at=now,
                deadline_at=now + timedelta(hours=1),
                features={},
                actions=("comment",),
                action="comment",
                scores={"comment": 0.8},
                propensity=1.0,
                assigned_arm="canary",
                arm="canary",
                share=route.share,
                model_version=route.canary_version,
                rollout_id=route.rollout_id,
                stratum="blog",
                latency_ms=0.1,
            )
            for n in range(count)
        ]
        decisions.append(connection, records)
    return [GOOD | {"task_id": record.task_id, "decision_id": record.decision_id} for record in records]


def test_the_performance_report_counts_the_file(
    lone_platform: Platform, clock: FakeClock, new_version: VersionMaker, new_worker: WorkerMaker
) -> None:
    """It stands by itself in the loop: outcomes in the file are no missing ones, also when nothing else read them."""
    new_version(lone_platform, Status.PRODUCTION)
    new_version(lone_platform, Status.CANARY)
    new_worker(lone_platform).tell(*_decided_on_canary(lone_platform, 3)[:2])
    clock.advance(hours=2)
    assert [(row.tasks, row.successes) for row in performance.report(lone_platform)] == [(3, 2)]


def test_the_watch_sees_outcomes_that_stand_in_the_file_only(
    platform: Platform, clock: FakeClock, new_version: VersionMaker, new_worker: WorkerMaker
) -> None:
    """They count as what they are; a decision without one counts as missing, as ever."""
    new_version(platform, Status.PRODUCTION)
    new_version(platform, Status.CANARY)
    tasks = _decided_on_canary(platform, 20)
    new_worker(platform).tell(*tasks[:18])
    clock.advance(hours=2)
    assert tick(platform).tasks == 20
    with platform.database.read() as connection:
        trial = trials.get(connection, str(registry.get_route(connection).rollout_id))
    assert trial is not None
    results = [task["success"] for task in TrialState.from_dict(trial.state).recent_canary]
    assert (len(results), sum(results)) == (20, 18)


# ------------------------------------------------------------------------------------------------- being told


def _check(platform: Platform) -> doctor.Check:
    return {check.name: check for check in doctor.examine(platform.settings)}["outcomes"]


def test_the_doctor_says_how_far_the_file_is_read(
    new_platform: PlatformMaker, sqlite_url: str, new_worker: WorkerMaker
) -> None:
    """Rows that wait long, a file that is gone or another program's are faults with a mend; the rest is told."""
    platform = new_platform(sqlite_url, CSV)
    path = platform.settings.csv_file
    assert _check(platform).detail.endswith("outcomes.csv is not there yet; the first outcome makes it")
    worker = new_worker(platform)
    worker.tell(*_tasks(0, 2))
    assert (_check(platform).ok, "wait to be read" in _check(platform).detail) == (True, True)
    assert any("wait to be read" in line for line in status.gather(platform).in_words())
    hour_ago = datetime.now(tz=UTC) - timedelta(hours=1)
    os.utime(path, (hour_ago.timestamp(), hour_ago.timestamp()))
    assert not _check(platform).ok
    assert "retrain guard" in str(_check(platform).mend)
    absorb(platform)
    assert _check(platform).detail.endswith("is read to its end")
    assert not any("read" in line for line in status.gather(platform).in_words())
    path.rename(path.with_name("away"))
    assert "is gone, but was read before" in _check(platform).detail
    assert "put it back" in str(_check(platform).mend)
    assert any("is gone" in line for line in status.gather(platform).in_words())
    path.write_text("a;b\n", encoding="utf-8")
    assert "is no file of the csv store" in _check(platform).detail
    assert any("is no file of the csv store" in line for line in status.gather(platform).in_words())


def test_the_doctor_finds_rows_that_a_change_to_the_database_left_behind(
    new_platform: PlatformMaker, sqlite_url: str, new_worker: WorkerMaker
) -> None:
    """The key was switched before the last rows were read: they are named, with the import that brings them in."""
    platform = new_platform(sqlite_url, CSV)
    worker = new_worker(platform)
    worker.tell(*_tasks(0, 2))
    absorb(platform)
    switched = new_platform(sqlite_url, Config())
    assert _check(switched).ok
    worker.tell(*_tasks(2, 3))
    assert not _check(switched).ok
    assert f"retrain import {worker.path}" in str(_check(switched).mend)


def test_the_place_is_kept_with_counts(lone_platform: Platform, new_worker: WorkerMaker) -> None:
    """The table `imports` tells how far each file was read and what became of its rows."""
    worker = new_worker(lone_platform)
    worker.tell(*_tasks(0, 3), GOOD | {"result": None})
    absorb(lone_platform)
    with lone_platform.database.read() as connection:
        rows = connection.execute(select(tables.imports).order_by("source")).all()
    found = {Path(row.source).name: (row.position, row.counts) for row in rows}
    position, counts = found["outcomes.csv"]
    assert position == worker.path.stat().st_size
    assert counts["accepted"] == 3
    assert found["outcomes.quarantine.jsonl"][1]["quarantined"] == 1
    assert msgspec.json.encode(counts)
