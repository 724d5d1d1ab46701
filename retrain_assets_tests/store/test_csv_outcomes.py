"""What a single worker may rely on when its outcomes go to a CSV file: nothing acknowledged is lost, no row is torn."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.core.outcomes import Outcome, OutcomeRules, Receipt, read_outcome
from retrain_assets.errors import SchemaError, StoreOutdated, StoreUnavailable
from retrain_assets.settings import Config
from retrain_assets.store import published
from retrain_assets.store.csv_format import Columns, Refused, whole_records
from retrain_assets.store.csv_lock import Batch, WriterLock, lock_path, readable_end
from retrain_assets.store.csv_outcomes import CsvOutcomes
from retrain_assets.store.csv_refused import quarantine_path
from retrain_assets.testing import FakeClock

NOW = FakeClock().now()
RULES = published.outcome_rules(Config())
GOOD: dict[str, Any] = {"task_id": "good", "domain": "a.org", "action_attempted": "comment", "result": True, "pa": 40}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file will be; its folder does not exist yet."""
    return tmp_path / "problem" / "outcomes.csv"


@pytest.fixture
def writer(path: Path) -> Iterator[CsvOutcomes]:
    """The one writer of the file."""
    writer = CsvOutcomes(path)
    yield writer
    writer.close()


def _append(writer: CsvOutcomes, *raws: dict[str, Any], rules: OutcomeRules = RULES) -> list[Receipt]:
    return writer.append(raws, rules, NOW, "collector")


def _tasks(begin: int, end: int) -> list[dict[str, Any]]:
    return [GOOD | {"task_id": f"t{n}", "outcome_id": f"o{n}"} for n in range(begin, end)]


def _statuses(receipts: list[Receipt]) -> list[str]:
    return [receipt.status for receipt in receipts]


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows as any program reads them."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def _ids(path: Path) -> list[str]:
    return [row["outcome_id"] for row in _rows(path)]


def _quarantined(path: Path) -> list[dict[str, Any]]:
    lines = quarantine_path(path).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# ------------------------------------------------------------------------------------------------- what is kept


def test_a_row_has_the_columns_of_the_table_and_of_the_features(writer: CsvOutcomes, path: Path) -> None:
    """The header is that of the table without `seq`, the features by name, and one column for everything else."""
    berlin = datetime(2026, 1, 5, 12, 0, tzinfo=timezone(timedelta(hours=1)))
    row = GOOD | {"timestamp": berlin, "https_enabled": "yes", "execution_time": 2.5, "shoe_size": 43, "da": None}
    (receipt,) = _append(writer, row)
    assert (receipt.status, receipt.reason) == ("accepted", None)
    (found,) = _rows(path)
    assert list(found) == [
        *("outcome_id", "task_id", "attempt", "decision_id", "domain", "action_attempted", "result", "failure_reason"),
        *("execution_time_s", "retry_count", "occurred_at", "received_at", "model_version", "propensity", "replaces"),
        *Config().schema.names,
        "features",
    ]
    assert found["outcome_id"] == receipt.outcome_id
    assert (found["result"], found["pa"], found["https_enabled"], found["da"]) == ("success", "40.0", "true", "")
    assert (found["execution_time_s"], found["features"]) == ("2.5", '{"shoe_size":43}')
    assert found["occurred_at"] == "2026-01-05T11:00:00.000000+00:00"
    assert path.read_bytes().endswith(b"\r\n")


_TEXT = st.text(max_size=20) | st.sampled_from(
    [
        "007",
        "true",
        "1e5",
        "nan",
        "a,b",
        'say "yes"',
        "two\r\nlines",
        "\rold",
        "\x00",
        "Füße 👟",
        "=1+1",
        " x ",
        ";",
        "\\N",
    ]
)
_SCALAR = _TEXT | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_SCHEMA = FeatureSchema(
    (
        Feature("number", FeatureType.NUMBER),
        Feature("whole", FeatureType.INTEGER),
        Feature("flag", FeatureType.BOOLEAN),
        Feature("category", FeatureType.CATEGORY),
        Feature("features", FeatureType.CATEGORY),
        Feature("received_at", FeatureType.CATEGORY),
    ),
    ("comment",),
)
_RAW = st.fixed_dictionaries(
    {"task_id": st.text(min_size=1, max_size=20), "action_attempted": st.just("comment"), "result": st.booleans()},
    optional={
        "domain": _TEXT,
        "failure_reason": _TEXT,
        "decision_id": _TEXT,
        "outcome_id": _TEXT,
        "execution_time": st.floats(0, 1e9),
        "propensity": st.floats(1e-9, 1),
        "attempt": st.integers(1, 100),
        "retry_count": st.integers(0, 100),
        "timestamp": st.integers(10**5, 10**9).map(lambda ms: datetime.fromtimestamp(ms / 1000 + 1e8, tz=UTC)),
        "number": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
        "whole": st.integers(-(2**53), 2**53),
        "flag": st.booleans(),
        "category": _TEXT,
        "features": _TEXT,
        "received_at": _TEXT,
        "Stray": _SCALAR,
        "with, comma": _SCALAR,
    },
)


@given(raws=st.lists(_RAW, max_size=5), is_checked=st.booleans(), knew_features=st.booleans())
def test_every_value_survives_in_its_type(raws: list[dict[str, Any]], is_checked: bool, knew_features: bool) -> None:  # noqa: FBT001
    """What was accepted is what is read back, whatever stands in it, and whether or not a feature has a column."""
    rules = OutcomeRules(schema=_SCHEMA if is_checked else None)
    columns = Columns.of_schema(_SCHEMA if knew_features else None)
    outcomes = []
    for raw in raws:
        try:
            outcomes.append(read_outcome(raw, rules, NOW))
        except SchemaError:
            continue  # refused at the door, so it never reaches the file
    data = columns.header() + columns.encode(outcomes, rules.schema)
    records, span = whole_records(data)
    assert span == len(data)
    assert b"\x00" not in data
    header = Columns.of_header(records[0], "f")
    assert [header.decode(record, rules, NOW) for record in records[1:]] == outcomes


def test_a_category_of_digits_stays_text_beside_numbers(writer: CsvOutcomes, path: Path) -> None:
    """Text like 007 is no number, and true no boolean, where the configuration says category."""
    _append(writer, GOOD | {"site_type": "007", "platform_guess": "true", "pa": 7, "url_path_depth": 7})
    records, _ = whole_records(path.read_bytes())
    read = Columns.of_header(records[0], "f").decode(records[1], RULES, NOW)
    assert isinstance(read, Outcome)
    assert read.features == {"site_type": "007", "platform_guess": "true", "pa": 7.0, "url_path_depth": 7}
    assert [type(value) for value in (read.features["pa"], read.features["url_path_depth"])] == [float, int]


def test_a_feature_that_came_later_needs_no_new_file(writer: CsvOutcomes, path: Path) -> None:
    """It stands in the column `features`; one that went away keeps its column and stays readable."""
    _append(writer, GOOD)
    header = path.read_bytes().splitlines()[0]
    later = FeatureSchema((Feature("pa", FeatureType.NUMBER), Feature("height_m", FeatureType.NUMBER)), ("comment",))
    _append(writer, GOOD | {"task_id": "later", "height_m": 1.5}, rules=replace(RULES, schema=later))
    assert path.read_bytes().splitlines()[0] == header
    first, second = _rows(path)
    assert (second["pa"], second["features"]) == ("40.0", '{"height_m":1.5}')
    assert (first["pa"], first["features"]) == ("40.0", "{}")


def test_limits_of_today_do_not_refuse_what_was_accepted(path: Path) -> None:
    """A row with `received_at` was checked at the door; one without it, added by hand, is checked when it is read."""
    with_range = replace(RULES, schema=FeatureSchema((Feature("pa", FeatureType.NUMBER, max=50.0),), ("comment",)))
    columns = Columns.of_schema(Config().schema)
    outcome = read_outcome(GOOD | {"pa": 99, "timestamp": NOW}, RULES, NOW)
    record = columns.encode([outcome], Config().schema)
    assert columns.decode(record, with_range, NOW) == outcome
    by_hand = record.replace(f",{NOW.isoformat(timespec='microseconds')},,".encode(), b",,,", 1)
    assert by_hand != record
    refused = columns.decode(by_hand, with_range, NOW)
    assert isinstance(refused, Refused)
    assert refused.error.field == "pa"


def test_receipts_are_those_of_the_database(writer: CsvOutcomes, path: Path) -> None:
    """In order of the batch; a refused row is kept with its field and reason, and costs the others nothing."""
    receipts = _append(writer, *_tasks(0, 2), GOOD | {"result": "perhaps"}, *_tasks(1, 3))
    assert _statuses(receipts) == ["accepted", "accepted", "quarantined", "duplicate", "accepted"]
    assert (receipts[2].field, receipts[2].outcome_id) == ("result", None)
    assert _ids(path) == ["o0", "o1", "o2"]
    (refused,) = _quarantined(path)
    assert refused["field"] == "result"
    assert refused["reason"] == receipts[2].reason
    assert refused["payload"]["task_id"] == "good"


def test_whatever_a_worker_sends_gets_a_receipt(writer: CsvOutcomes, path: Path) -> None:
    """Values that neither CSV nor JSON has, and rows that are none, are kept and cost the others nothing."""
    odd: list[Any] = [
        GOOD | {"pa": float("nan"), "note": object()},
        GOOD | {"note": b"\xff"},
        GOOD | {1: "\ud800"},
        "row",
    ]
    receipts = writer.append([*odd, *_tasks(0, 1)], RULES, NOW, "collector")
    assert _statuses(receipts) == ["quarantined"] * 4 + ["accepted"]
    assert len(_quarantined(path)) == 4


def test_without_published_settings_the_receipt_says_so(writer: CsvOutcomes) -> None:
    """Only the structure was checked, and the worker is told."""
    (receipt,) = _append(writer, GOOD, rules=OutcomeRules())
    assert receipt.status == "accepted"
    assert "no settings are published" in str(receipt.reason)


def test_known_ids_are_known_after_a_restart(path: Path) -> None:
    """What was sent again after the worker restarted is a duplicate; a refused row is kept once."""
    for expected in ("accepted", "duplicate"):
        writer = CsvOutcomes(path)
        receipts = _append(writer, *_tasks(0, 3), GOOD | {"outcome_id": 'a "quoted", id'}, GOOD | {"result": None})
        assert _statuses(receipts) == [expected] * 4 + ["quarantined"]
        writer.close()
    assert len(_rows(path)) == 4
    assert len(_quarantined(path)) == 1


# ------------------------------------------------------------------------------------------------- one writer


def test_a_second_writer_is_told_why_and_may_begin_when_the_first_ends(path: Path) -> None:
    """The message names the file and the way out; nothing of the second one's batch is stored."""
    first, second = CsvOutcomes(path), CsvOutcomes(path)
    _append(first, *_tasks(0, 1))
    with pytest.raises(StoreUnavailable, match=r"outcomes\.csv has another writer.*storage\.outcomes to database"):
        _append(second, *_tasks(1, 2))
    assert _ids(path) == ["o0"]
    first.close()
    assert _statuses(_append(second, *_tasks(0, 2))) == ["duplicate", "accepted"]
    second.close()


def test_a_forked_child_cannot_write_while_its_parent_can(writer: CsvOutcomes, path: Path) -> None:
    """The child gets the error of a second writer, and its end does not take the lock from the parent."""
    _append(writer, *_tasks(0, 1))
    child = os.fork()
    if child == 0:  # no assertion may leave this process by way of pytest
        code = 1
        try:
            _append(writer, *_tasks(1, 2))
        except StoreUnavailable:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(StoreUnavailable, match="another writer"):
        _append(CsvOutcomes(path), *_tasks(2, 3))
    _append(writer, *_tasks(3, 4))
    assert _ids(path) == ["o0", "o3"]


def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(path: Path) -> None:
    """A worker that forked a helper and died can be started again while the helper lives."""
    program = f"""
        import os, sys, time
        from pathlib import Path
        from retrain_assets.core.outcomes import OutcomeRules
        from retrain_assets.store.csv_outcomes import CsvOutcomes
        from retrain_assets.testing import START
        writer = CsvOutcomes(Path({str(path)!r}))
        writer.append([{{"task_id": "t", "action_attempted": "a", "result": True}}], OutcomeRules(), START, "tests")
        if os.fork() == 0:
            print("ready", os.getpid(), flush=True)
            time.sleep(600)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    helper = int(process.stdout.readline().split()[1])
    try:
        process.kill()
        process.wait()
        writer = CsvOutcomes(path)
        assert _statuses(_append(writer, *_tasks(0, 1))) == ["accepted"]
        writer.close()
    finally:
        os.kill(helper, signal.SIGKILL)
        process.stdin.close()
        process.stdout.close()


def test_threads_of_one_writer_take_turns(writer: CsvOutcomes, path: Path) -> None:
    """Eight threads that report overlapping tasks: each task stands there once, and exactly one was told so."""
    receipts: list[Receipt] = []
    threads = [
        threading.Thread(
            target=lambda: receipts.extend(r for n in range(40) for r in _append(writer, *_tasks(n, n + 2)))
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(_ids(path)) == sorted(f"o{n}" for n in range(41))
    assert _statuses(receipts).count("accepted") == 41


def test_a_file_that_was_moved_away_is_begun_anew(writer: CsvOutcomes, path: Path) -> None:
    """Rows go where people look for them, not into the renamed file; an edited file is read again."""
    _append(writer, *_tasks(0, 2))
    path.rename(path.with_name("old.csv"))
    assert _statuses(_append(writer, *_tasks(1, 3))) == ["accepted", "accepted"]
    assert _ids(path) == ["o1", "o2"]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert _statuses(_append(writer, *_tasks(1, 3))) == ["duplicate", "accepted"]


# ------------------------------------------------------------------------------------------------- all or nothing


def _restore_note(path: Path, batch: Batch) -> None:
    """The note as it stands while a batch is being written."""
    lock = WriterLock(path)
    lock.note(batch)
    lock.release()


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_half_a_batch_is_taken_out_and_kept_in_the_quarantine(path: Path, share: float) -> None:
    """Also where it ends behind a whole row; the batch is accepted when it is sent again."""
    writer = CsvOutcomes(path)
    _append(writer, *_tasks(0, 3))
    begin = path.stat().st_size
    _append(writer, *[row | {"failure_reason": "two\r\nlines"} for row in _tasks(3, 23)])
    writer.close()
    data = path.read_bytes()
    row_ends = [at + 2 for at in range(begin, len(data)) if data[at - 1 : at + 3] == b"}\r\no"]
    middle = row_ends[int(share * len(row_ends))]
    for cut in (begin + int(share * (len(data) - begin)), middle):
        path.write_bytes(data[:cut])
        _restore_note(path, Batch(begin, len(data)))
        assert readable_end(path, cut) == begin
        again = CsvOutcomes(path)
        assert _statuses(_append(again, *_tasks(2, 24))) == ["duplicate"] + ["accepted"] * 21
        again.close()
        assert _ids(path) == [f"o{n}" for n in range(24)]
        assert _quarantined(path)[-1]["payload"]["content"].encode() == data[begin:cut]
        assert "was cut off when its writer stopped" in _quarantined(path)[-1]["reason"]


@pytest.mark.parametrize("tail", [b"o9,t9,1,,a.o", b'o9,t9,1,,"an open\r\nquote', b"o9,t9,1,,\xc3"])
def test_a_torn_tail_is_found_without_the_note(path: Path, tail: bytes) -> None:
    """After a power cut the note may be old, or the file was copied without it: the last whole row is the end."""
    writer = CsvOutcomes(path)
    _append(writer, *_tasks(0, 2))
    writer.close()
    lock_path(path).unlink()
    with path.open("ab") as file:
        file.write(tail)
    again = CsvOutcomes(path)
    assert _statuses(_append(again, *_tasks(1, 3))) == ["duplicate", "accepted"]
    again.close()
    assert _ids(path) == ["o0", "o1", "o2"]
    assert _quarantined(path)[0]["payload"]["content"] == tail.decode(errors="backslashreplace")


def test_a_whole_row_without_its_line_end_is_kept(path: Path) -> None:
    """Editors take the last line end away; the row was acknowledged."""
    writer = CsvOutcomes(path)
    _append(writer, *_tasks(0, 2))
    writer.close()
    lock_path(path).unlink()
    os.truncate(path, path.stat().st_size - 2)
    again = CsvOutcomes(path)
    assert _statuses(_append(again, *_tasks(1, 3))) == ["duplicate", "accepted"]
    again.close()
    assert _ids(path) == ["o0", "o1", "o2"]
    assert not quarantine_path(path).exists()


def test_no_beginning_of_a_row_is_taken_for_the_whole() -> None:
    """Cut at any byte, also before the last cell, it is no row; only its line end may be missing."""
    columns = Columns.of_schema(Config().schema)
    for extra in ({}, {"shoe_size": 43, "note": 'a,\n"b"'}):
        outcome = read_outcome(GOOD | {"timestamp": NOW} | extra, RULES, NOW)
        record = columns.encode([outcome], Config().schema)
        whole = [length for length in range(len(record) + 1) if columns.is_row(record[:length])]
        assert whole == [len(record) - 2, len(record) - 1, len(record)]


def test_a_row_cut_before_its_last_cell_is_taken_out_without_the_note(path: Path) -> None:
    """A power cut took the note, or a backup was restored without it: the row was not acknowledged, and comes again."""
    writer = CsvOutcomes(path)
    _append(writer, *_tasks(0, 2))
    writer.close()
    lock_path(path).unlink()
    os.truncate(path, path.stat().st_size - len(b"{}\r\n"))
    again = CsvOutcomes(path)
    assert _statuses(_append(again, *[row | {"pa": 41} for row in _tasks(0, 2)])) == ["duplicate", "accepted"]
    again.close()
    assert [row["pa"] for row in _rows(path)] == ["40.0", "41.0"]
    assert _quarantined(path)[0]["payload"]["content"].startswith("o1,t1,")


def test_a_row_added_by_hand_may_leave_its_last_cell_empty(path: Path) -> None:
    """It has no `received_at`, so no writer of ours began it; a line end that is missing is added."""
    writer = CsvOutcomes(path)
    _append(writer, *_tasks(0, 1))
    writer.close()
    lock_path(path).unlink()
    names = path.read_text(encoding="utf-8").splitlines()[0].split(",")
    by_hand = {"outcome_id": "o1", "task_id": "t1", "action_attempted": "comment", "result": "success"}
    by_hand["occurred_at"] = NOW.isoformat()
    with path.open("ab") as file:
        file.write(",".join(by_hand.get(name, "") for name in names).encode())
    again = CsvOutcomes(path)
    assert _statuses(_append(again, *_tasks(1, 3))) == ["duplicate", "accepted"]
    again.close()
    assert _ids(path) == ["o0", "o1", "o2"]


@pytest.mark.parametrize("torn", [b"", b'{"received_at":"2026'])
def test_a_refused_row_whose_line_end_an_editor_took_away_is_kept(path: Path, torn: bytes) -> None:
    """The row was answered `quarantined`; only what a kill cut short is taken away."""
    writer = CsvOutcomes(path)
    _append(writer, GOOD | {"result": "first"}, GOOD | {"result": "second"})
    writer.close()
    refused = quarantine_path(path)
    refused.write_bytes(refused.read_bytes() + torn if torn else refused.read_bytes().removesuffix(b"\n"))
    again = CsvOutcomes(path)
    _append(again, GOOD | {"result": "third"})
    _append(again, GOOD | {"result": "second"})
    again.close()
    assert [row["payload"]["result"] for row in _quarantined(path)] == ["first", "second", "third"]


def test_the_name_of_a_new_quarantine_file_is_durable_before_the_receipt(
    writer: CsvOutcomes, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a file whose folder was not synced is gone, and the refused row with it."""
    _append(writer, *_tasks(0, 1))
    synced: list[str] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    monkeypatch.setattr("retrain_assets.store.csv_disk.os.fsync", note)
    assert _statuses(_append(writer, GOOD | {"result": "first"})) == ["quarantined"]
    assert synced == ["outcomes.quarantine.jsonl", path.parent.name]
    _append(writer, GOOD | {"result": "second"})
    assert synced[2:] == ["outcomes.quarantine.jsonl"]


def test_a_quote_left_open_by_hand_stops_the_writer_and_costs_no_row(path: Path) -> None:
    """Everything behind it looks torn; cutting it away would take acknowledged rows, so a person has to look."""
    writer = CsvOutcomes(path)
    _append(writer, *_tasks(0, 3))
    writer.close()
    spoilt = path.read_bytes().replace(b"o1,t1,", b'o1,"t1,')
    path.write_bytes(spoilt)
    with pytest.raises(StoreOutdated, match=r"outcomes\.csv: the row in line 3 opens a quote that is never closed"):
        _append(CsvOutcomes(path), *_tasks(3, 4))
    assert path.read_bytes() == spoilt


@pytest.mark.parametrize(
    "content", ["task;result\nt1;1\n", "id,task_id\n", "no line end", "\ufeffoutcome_id,task_id\n"]
)
def test_a_file_of_another_program_is_left_alone(path: Path, content: str) -> None:
    """It says what to do with it, and changes not a byte."""
    path.parent.mkdir()
    path.write_text(content, encoding="utf-8")
    with pytest.raises(StoreOutdated, match=r"is no file of the csv store.*retrain import"):
        _append(CsvOutcomes(path), *_tasks(0, 1))
    assert path.read_text(encoding="utf-8") == content


def test_a_batch_that_does_not_fit_on_the_disk_is_not_claimed(path: Path) -> None:
    """The real thing: a limit on the file's size stops the write in its middle; what went in is taken out again."""
    program = f"""
        import resource
        from pathlib import Path
        from retrain_assets.core.outcomes import OutcomeRules
        from retrain_assets.errors import StoreUnavailable
        from retrain_assets.store.csv_outcomes import CsvOutcomes
        from retrain_assets.testing import START
        def tasks(begin, end):
            return [{{"task_id": f"t{{n}}", "outcome_id": f"o{{n}}", "action_attempted": "a", "result": True}}
                    for n in range(begin, end)]
        writer = CsvOutcomes(Path({str(path)!r}))
        writer.append(tasks(0, 10), OutcomeRules(), START, "tests")
        size = Path({str(path)!r}).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5_000, resource.RLIM_INFINITY))
        try:
            writer.append(tasks(10, 200), OutcomeRules(), START, "tests")
        except StoreUnavailable as error:
            print(error)
        assert Path({str(path)!r}).stat().st_size == size
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print({{receipt.status for receipt in writer.append(tasks(10, 200), OutcomeRules(), START, "tests")}})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    message, statuses = done.stdout.splitlines()
    assert "outcomes.csv cannot be written" in message
    assert "nothing was stored, try again" in message
    assert statuses == "{'accepted'}"
    assert _ids(path) == [f"o{n}" for n in range(200)]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_disk_that_refuses_leaves_the_file_as_it_was(
    writer: CsvOutcomes, path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whether writing or syncing fails: an error that may be retried, and the retry is accepted, not a duplicate."""
    _append(writer, *_tasks(0, 2))
    before = path.read_bytes()

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"retrain_assets.store.csv_disk.os.{call}", refuse)
        with pytest.raises(StoreUnavailable, match="No space left on device; nothing was stored"):
            _append(writer, *_tasks(2, 4))
    assert path.read_bytes() == before
    assert _statuses(_append(writer, *_tasks(1, 4))) == ["duplicate", "accepted", "accepted"]


def test_a_folder_without_the_right_to_write_is_told(tmp_path: Path) -> None:
    """The message names the file; a file that stands where the folder should be does, too."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match=r"outcomes\.csv cannot be written"):
        _append(CsvOutcomes(tmp_path / "file" / "outcomes.csv"), GOOD)


# ------------------------------------------------------------------------------------------------- kill -9

BATCH = 50


def _write_until_killed(path: Path, begin: int, told: int) -> None:
    """Append batch after batch and tell of each that was acknowledged; for a process that is about to be killed."""
    writer = CsvOutcomes(path)
    for batch in range(begin, begin + 10_000):
        rows = _tasks(batch * BATCH, (batch + 1) * BATCH)
        rows[7]["failure_reason"] = 'several\r\nlines, "quoted"'
        receipts = _append(writer, *rows)
        if {receipt.status for receipt in receipts} != {"accepted"}:
            os._exit(3)
        os.write(told, f"{batch}\n".encode())


def test_kill_at_any_moment_loses_no_acknowledged_row_and_leaves_no_half_batch(path: Path) -> None:
    """Ten writers, each killed at a random moment: each batch is whole or absent, and a told one is there."""
    seed = 20261123
    print(f"seed {seed}")
    chance = random.Random(seed)
    acknowledged: set[int] = set()
    begin = 0
    for _ in range(10):
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _write_until_killed(path, begin, write_end)
            finally:
                os._exit(4)
        os.close(write_end)
        time.sleep(chance.uniform(0.005, 0.15))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with os.fdopen(read_end) as told:
            acknowledged.update(int(line) for line in told)
        begin += 10_000
        writer = CsvOutcomes(path)
        assert _statuses(_append(writer, GOOD | {"outcome_id": f"after {begin}"})) == ["accepted"]
        writer.close()
        ids = [name for name in _ids(path) if name.startswith("o")]
        assert len(ids) == len(set(ids))
        batches = [int(name[1:]) // BATCH for name in ids]
        assert acknowledged <= set(batches)
        assert all(batches.count(batch) == BATCH for batch in set(batches))
    print(f"{len(acknowledged)} batches were acknowledged")
    assert acknowledged
