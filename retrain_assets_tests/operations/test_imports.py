"""Files of outcomes: every format, every name, every kind of bad row, stored once."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from retrain_assets.core.features import general_reason
from retrain_assets.errors import RetrainError, StoreUnavailable, UsageError
from retrain_assets.operations import imports, row_files
from retrain_assets.operations.import_result import remedy
from retrain_assets.operations.imports import Imported, ImportOptions, import_file, import_source
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.operations.quarantine_files import export
from retrain_assets.operations.quarantine_retry import Mending, retry
from retrain_assets.settings import Config, Settings, read_config, resolve
from retrain_assets.store import import_progress, outcomes, published
from retrain_assets.store.csv_outcomes import CsvOutcomes
from retrain_assets.store.database import Database
from retrain_assets.store.quarantine import Selection
from retrain_assets.store.source_tables import without_password
from retrain_assets.store.tables import outcomes as outcomes_table
from retrain_assets.store.tables import quarantine
from retrain_assets.testing import START, FakeClock

SEED = 20261123


@pytest.fixture
def platform(home: Path) -> Platform:
    """A fresh problem whose clock stands at `START`; RETRAIN_HOME names its home."""
    return _open(Config())


def _open(config: Config) -> Platform:
    settings: Settings = resolve(config, None)
    return open_platform(settings, FakeClock())


def _row(number: int = 0, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """A good outcome as a file has it: text, or what JSON knows."""
    at = START - timedelta(days=1) + timedelta(minutes=number)
    row = {
        "task_id": f"t{number}", "domain": "a.org", "action_attempted": "comment", "result": "success",
        "execution_time": "1.5", "timestamp": at.isoformat(), "pa": "40", "https_enabled": "true",
    }  # fmt: skip
    return row | changes


def _csv(path: Path, rows: Sequence[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def _lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def _counts(found: Imported) -> tuple[int, int, int]:
    return found.accepted, found.duplicate, found.quarantined


def _stored(platform: Platform) -> list[Any]:
    with platform.database.read() as connection:
        return list(connection.execute(select(outcomes_table).order_by(outcomes_table.c.seq)))


def _refused(platform: Platform) -> list[Any]:
    with platform.database.read() as connection:
        return list(connection.execute(select(quarantine).order_by(quarantine.c.id)))


def test_csv_json_lines_and_parquet_give_the_same_outcomes(platform: Platform, tmp_path: Path) -> None:
    """The second and third format find every row known: ids follow from content, not from the file."""
    rows = [_row(i) for i in range(5)]
    typed = [row | {"execution_time": 1.5, "pa": 40, "https_enabled": True} for row in rows]
    instants = [row | {"timestamp": datetime.fromisoformat(str(row["timestamp"]))} for row in typed]
    pq.write_table(pa.Table.from_pylist(instants), tmp_path / "o.parquet")
    assert _counts(import_file(platform, _csv(tmp_path / "o.csv", rows))) == (5, 0, 0)
    assert _counts(import_file(platform, _lines(tmp_path / "o.jsonl", typed))) == (0, 5, 0)
    assert _counts(import_file(platform, tmp_path / "o.parquet")) == (0, 5, 0)
    first = _stored(platform)[0]
    assert (first.task_id, first.result, first.execution_time_s) == ("t0", "success", 1.5)
    assert first.features == {"pa": 40.0, "https_enabled": True}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_seen_in_the_header(platform: Platform, tmp_path: Path, delimiter: str) -> None:
    """Comma, semicolon and tab; a cell that holds commas stays one cell."""
    rows = [_row(0, failure_reason='said "no", twice; then left')]
    assert _counts(import_file(platform, _csv(tmp_path / "o.csv", rows, delimiter))) == (1, 0, 0)
    assert _stored(platform)[0].failure_reason == 'said "no", twice; then left'


def test_a_byte_order_mark_belongs_to_the_file(platform: Platform, tmp_path: Path) -> None:
    """A spreadsheet's UTF-8 mark is no part of the first column's name."""
    file = _csv(tmp_path / "o.csv", [_row()])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert _counts(import_file(platform, file)) == (1, 0, 0)


def test_an_empty_cell_is_missing_in_every_field(platform: Platform, tmp_path: Path) -> None:
    """Not an empty text, not a refused number; and never before another name of the same field."""
    at = _row()["timestamp"]
    row = _row(0, pa="", https_enabled="", execution_time="", failure_reason="", timestamp="", occurred_at=at)
    assert _counts(import_file(platform, _csv(tmp_path / "o.csv", [row]))) == (1, 0, 0)
    stored = _stored(platform)[0]
    assert stored.occurred_at == datetime.fromisoformat(at)
    assert (stored.execution_time_s, stored.failure_reason, stored.features) == (None, None, {})


def test_columns_take_other_names(platform: Platform, tmp_path: Path) -> None:
    """Those that are told, and common ones by themselves; what was renamed is said."""
    row = _row()
    theirs = {
        "id": row["task_id"], "domain": "a.org", "task_type": "GuestPosting", "success": "True",
        "created_at": row["timestamp"], "page_authority": "55",
    }  # fmt: skip
    file = _csv(tmp_path / "o.csv", [theirs])
    found = import_file(platform, file, renames={"id": "task_id", "page_authority": "pa"})
    assert _counts(found) == (1, 0, 0)
    assert found.renamed == {
        "id": "task_id", "page_authority": "pa", "task_type": "action_attempted", "success": "result",
        "created_at": "timestamp",
    }  # fmt: skip
    stored = _stored(platform)[0]
    assert (stored.action_attempted, stored.result, stored.features) == ("guest", "success", {"pa": 55.0})


def test_a_field_under_its_own_name_wins_over_a_likeness(platform: Platform, tmp_path: Path) -> None:
    """`action` is read as the action only where `action_attempted` is missing; else it is kept as it is."""
    found = import_file(platform, _csv(tmp_path / "o.csv", [_row(0, action="something else")]))
    assert (_counts(found), found.renamed) == ((1, 0, 0), {})
    assert _stored(platform)[0].features["action"] == "something else"


def test_a_feature_is_never_taken_for_a_field(home: Path, tmp_path: Path) -> None:
    """A problem whose feature is called like a common column keeps it as its feature."""
    config = read_config({"problem": {"name": "own", "actions": ["a"], "features": {"success": {"type": "number"}}}})
    row = {"task_id": "t", "action_attempted": "a", "success": "0.5", "timestamp": _row()["timestamp"]}
    with pytest.raises(RetrainError, match="no column for result"):
        import_file(_open(config), _csv(tmp_path / "o.csv", [row]))
    assert home.exists()


def test_a_column_that_is_told_must_be_there(platform: Platform, tmp_path: Path) -> None:
    """A slip in `renames` is refused before anything is stored, with the nearest column."""
    file = _csv(tmp_path / "o.csv", [_row()])
    with pytest.raises(UsageError, match="did you mean 'task_id'"):
        import_file(platform, file, renames={"taskid": "decision_id"})
    assert _stored(platform) == []


def test_two_columns_cannot_be_one_field(platform: Platform, tmp_path: Path) -> None:
    """Which of both is meant would be a guess: refused for a table, quarantined for a single JSON row."""
    with pytest.raises(UsageError, match="'result' and 'other'"):
        import_file(platform, _csv(tmp_path / "o.csv", [_row(0, other="failed")]), renames={"other": "result"})
    lines = _lines(tmp_path / "o.jsonl", [_row(1), _row(2, other="failed")])
    found = import_file(platform, lines, renames={"other": "result"})
    assert _counts(found) == (1, 0, 1)


def test_a_table_without_a_needed_column_is_refused_whole(platform: Platform, tmp_path: Path) -> None:
    """Instead of a million rows in quarantine: one sentence that names the column and the way to map it."""
    row = {key: value for key, value in _row().items() if key != "result"}
    with pytest.raises(RetrainError, match="--map COLUMN=result"):
        import_file(platform, _csv(tmp_path / "o.csv", [row]))
    assert _refused(platform) == []


def test_a_bad_row_is_kept_with_its_reason_and_spoils_no_other(platform: Platform, tmp_path: Path) -> None:
    """Each kind of fault is quarantined under its field; the good rows of the same batch are stored."""
    bad = {
        "result": _row(1, result="perhaps"),
        "action_attempted": _row(2, action_attempted="dance"),
        "pa": _row(3, pa="140"),
        "execution_time": _row(4, execution_time="-3"),
        "timestamp": _row(5, timestamp="2026-01-04T10:00:00"),
        "task_id": _row(6, task_id=""),
    }
    found = import_file(platform, _csv(tmp_path / "o.csv", [_row(0), *bad.values(), _row(9)]))
    assert _counts(found) == (2, 0, 6)
    assert {row.field for row in _refused(platform)} == set(bad)
    assert {reason.partition(":")[0] for reason in found.reasons} == set(bad)
    assert sum(found.reasons.values()) == 6
    assert all(row.source == "o.csv" for row in _refused(platform))
    assert found.examples["pa: is outside 0 to 100"] == "line 5: '140' is outside 0 to 100"


def test_the_same_fault_in_many_rows_is_one_reason(platform: Platform, tmp_path: Path) -> None:
    """The value is left out of the count, and the first row is the example; twice imported, once in quarantine."""
    rows = [_row(i, timestamp=f"2026-01-04T10:00:{i:02d}") for i in range(30)]
    file = _csv(tmp_path / "o.csv", rows)
    found = import_file(platform, file, source="old log")
    assert dict(found.reasons) == {"timestamp: has no offset from UTC; add one, such as +00:00": 30}
    assert not found.is_readable
    import_file(platform, file, source="old log")
    assert len(_refused(platform)) == 30
    assert {row.source for row in _refused(platform)} == {"old log"}


@pytest.mark.parametrize(
    ("reason", "general"),
    [
        ("'a b' is not one of x, y", "is not one of x, y"),
        ('"it\'s" is not a number', "is not a number"),
        ("is required, but missing", "is required, but missing"),
        ("has 300 characters; at most 200 are accepted", "has too many characters; at most 200 are accepted"),
        (
            "2027-01-01T00:00:00+00:00 lies in the future by the receiver's clock",
            "lies in the future by the receiver's clock",
        ),
        ("datetime.datetime(2026, 1, 1, 0, 0) has no offset from UTC", "has no offset from UTC"),
    ],
)
def test_a_reason_is_told_without_its_value(reason: str, general: str) -> None:
    """What is left is the same for every row with that fault."""
    assert general_reason(reason) == general


def test_a_time_zone_says_what_naive_timestamps_mean(platform: Platform, tmp_path: Path) -> None:
    """They are placed there, also on the other side of a clock change; those with an offset stay what they are."""
    rows = [
        _row(0, timestamp="2025-12-24 18:00:00"),
        _row(1, timestamp="2025-07-01T18:00:00"),
        _row(2, timestamp="2025-07-01T18:00:00+00:00"),
    ]
    found = import_file(platform, _csv(tmp_path / "o.csv", rows), timezone="Europe/Berlin")
    assert _counts(found) == (3, 0, 0)
    assert [row.occurred_at for row in _stored(platform)] == [
        datetime(2025, 12, 24, 17, tzinfo=UTC),
        datetime(2025, 7, 1, 16, tzinfo=UTC),
        datetime(2025, 7, 1, 18, tzinfo=UTC),
    ]
    with pytest.raises(UsageError, match="'Mars/Base' is not a time zone"):
        import_file(platform, tmp_path / "o.csv", timezone="Mars/Base")


def test_history_without_an_instant_is_refused(platform: Platform, tmp_path: Path) -> None:
    """Its id would follow from the time of the import, and a repeated import would store it twice.

    A row that names its decision, or its own id, needs none.
    """
    rows: list[dict[str, Any]] = [{k: v for k, v in _row(i).items() if k != "timestamp"} for i in range(3)]
    rows[1]["decision_id"] = "d1"
    rows[2]["outcome_id"] = "o2"
    file = _lines(tmp_path / "o.jsonl", rows)
    assert _counts(import_file(platform, file)) == (2, 0, 1)
    assert _refused(platform)[0].field == "timestamp"
    assert _counts(import_file(platform, file)) == (0, 2, 1)


def test_rows_that_are_no_rows_are_kept_too(platform: Platform, tmp_path: Path) -> None:
    """Broken JSON, JSON that is no object, a torn CSV line and foreign bytes: quarantined with line and content."""
    lines = tmp_path / "o.jsonl"
    good = json.dumps(_row()).encode()
    lines.write_bytes(good + b"\n\n{broken\n[1, 2]\n\xff\xfe\n")
    found = import_file(platform, lines)
    assert (_counts(found), found.rows) == ((1, 0, 3), 4)
    assert dict(found.reasons) == {"row: is no JSON": 1, "row: is JSON, but no object": 1, "row: is not UTF-8": 1}
    assert json.loads(_refused(platform)[0].payload) == {"line": 3, "content": "{broken"}
    table = _csv(tmp_path / "o.csv", [_row(1), _row(2)])
    table.write_bytes(table.read_bytes() + b"t3,a.org,com")
    found = import_file(platform, table)
    assert _counts(found) == (2, 0, 1)
    assert dict(found.reasons) == {"row: has 3 cells where the header has 8": 1}


def test_parquet_keeps_its_types(platform: Platform, tmp_path: Path) -> None:
    """Nanoseconds, decimals, dictionaries and nulls become what the rules know; a naive instant is refused."""
    at = START - timedelta(days=1)
    table = pa.table({
        "task_id": pa.array([1, 2]),
        "action_attempted": pa.array(["forum", "forum"]).dictionary_encode(),
        "result": pa.array([True, False]),
        "timestamp": pa.array([at, at], pa.timestamp("ns", tz="Europe/Berlin")),
        "pa": pa.array([Decimal("12.5"), None]),
        "retry_count": pa.array([1.0, float("nan")]),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "o.parquet")
    assert _counts(import_file(platform, tmp_path / "o.parquet")) == (2, 0, 0)
    first, second = _stored(platform)
    assert (first.task_id, first.occurred_at, first.features, first.retry_count) == ("1", at, {"pa": 12.5}, 1)
    assert (second.result, second.features, second.retry_count) == ("failure", {}, None)
    naive = table.set_column(3, "timestamp", pa.array([at.replace(tzinfo=None)] * 2))
    pq.write_table(naive, tmp_path / "naive.parquet")
    assert _counts(import_file(platform, tmp_path / "naive.parquet")) == (0, 0, 2)
    assert _counts(import_file(platform, tmp_path / "naive.parquet", timezone="UTC")) == (0, 2, 0)


def test_a_file_is_what_its_name_says(platform: Platform, tmp_path: Path) -> None:
    """No file, a folder, an unknown ending, a Parquet file that is none: each says what would do."""
    (tmp_path / "o.xlsx").touch()
    (tmp_path / "o.json").touch()
    (tmp_path / "o.parquet").write_text("no", encoding="utf-8")
    for name, message in (
        ("none.csv", "does not exist"),
        (".", "is a folder"),
        ("o.xlsx", "none of"),
        ("o.json", "is .jsonl"),
    ):
        with pytest.raises(UsageError, match=message):
            import_file(platform, tmp_path / name)
    with pytest.raises(RetrainError, match="is no Parquet file"):
        import_file(platform, tmp_path / "o.parquet")


def test_an_empty_file_has_no_columns(platform: Platform, tmp_path: Path) -> None:
    """An empty table lacks what every outcome needs; a header alone, or no lines, are no rows."""
    (tmp_path / "o.csv").touch()
    (tmp_path / "o.jsonl").touch()
    with pytest.raises(RetrainError, match="no columns"):
        import_file(platform, tmp_path / "o.csv")
    (tmp_path / "o.csv").write_text("task_id,action_attempted,result,timestamp\n", encoding="utf-8")
    for name in ("o.csv", "o.jsonl"):
        found = import_file(platform, tmp_path / name)
        assert (found.rows, found.is_readable) == (0, False)


def test_progress_rises_to_the_whole_file(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each batch the rows so far and the share of the file are told."""
    monkeypatch.setattr(imports, "BATCH_ROWS", 10)
    told: list[tuple[int, float]] = []
    import_file(
        platform, _csv(tmp_path / "o.csv", [_row(i) for i in range(35)]), progress=lambda *step: told.append(step)
    )
    assert [rows for rows, _ in told] == [10, 20, 30, 35]
    assert told[-1][1] == 1.0
    assert [share for _, share in told] == sorted(share for _, share in told)


def test_an_import_that_was_cut_off_goes_on_where_it_stood(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches before the failure are stored and not checked again; the counts are those of the whole import."""
    monkeypatch.setattr(imports, "BATCH_ROWS", 10)
    file = _csv(tmp_path / "o.csv", [_row(i) for i in range(25)])
    append, calls = outcomes.append, []

    def failing(*arguments: Any) -> Any:  # noqa: ANN401
        calls.append(1)
        if len(calls) == 3:
            raise StoreUnavailable("the database went away")
        return append(*arguments)

    monkeypatch.setattr(outcomes, "append", failing)
    with pytest.raises(StoreUnavailable, match="20 rows before that are stored"):
        import_file(platform, file)
    again = import_file(platform, file)
    assert (_counts(again), again.rows, again.resumed_at) == ((25, 0, 0), 25, 20)
    assert (len(calls), len(_stored(platform))) == (4, 25)
    whole = import_file(platform, file)
    assert (_counts(whole), whole.resumed_at) == ((0, 25, 0), 0)


def test_postgresql_imports_alike(
    postgresql_url: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file into PostgreSQL: stored once, and what is refused is quarantined there."""
    monkeypatch.setenv("RETRAIN_DATABASE_URL", postgresql_url)
    platform = _open(Config())
    file = _csv(tmp_path / "o.csv", [_row(0), _row(1, result="perhaps"), _row(2)])
    assert _counts(import_file(platform, file)) == (2, 0, 1)
    assert _counts(import_file(platform, file)) == (0, 2, 1)
    assert len(_refused(platform)) == 1
    assert not (home / "backlinks" / "retrain.db").exists()


# ------------------------------------------------------------------------------------------ what real logs hold


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(platform: Platform, tmp_path: Path, encoding: str) -> None:
    """A spreadsheet's "Unicode text" is UTF-16; no guess is made."""
    (tmp_path / "o.csv").write_text(
        _csv(tmp_path / "u.csv", [_row(0, site_type="Bücher")]).read_text("utf-8"), encoding
    )
    found = import_file(platform, tmp_path / "o.csv")
    assert _counts(found) == (1, 0, 0)
    assert found.source is not None
    assert (found.source.encoding, found.source.is_encoding_guessed) == (encoding.removesuffix("-sig"), False)
    assert _stored(platform)[0].features["site_type"] == "Bücher"


@pytest.mark.parametrize(
    ("encoding", "words"),
    [("cp1252", ["Größe", "Müller", "Café"]), ("cp1251", ["Москва", "магазин", "форум", "успех"])],
)
def test_another_encoding_is_guessed_and_told_to_be_a_guess(
    platform: Platform, tmp_path: Path, encoding: str, words: list[str]
) -> None:
    """Western text and another alphabet; what somebody says goes before the guess."""
    rows = [_row(i, site_type=words[i % len(words)]) for i in range(40)]
    file = _csv(tmp_path / "o.csv", rows)
    file.write_bytes(file.read_text("utf-8").encode(encoding))
    found = import_file(platform, file)
    assert found.source is not None
    assert (found.source.encoding, found.source.is_encoding_guessed, found.accepted) == (encoding, True, 40)
    assert _stored(platform)[1].features["site_type"] == words[1]
    told = import_source(platform, file, ImportOptions(encoding=encoding)).source
    assert told is not None
    assert not told.is_encoding_guessed


def test_a_few_foreign_bytes_are_damage_and_no_encoding(platform: Platform, tmp_path: Path) -> None:
    """Most lines with other letters are UTF-8, or nothing fits: the broken row is refused, and none is mangled."""
    file = _csv(tmp_path / "o.csv", [_row(i, site_type="Bücher") for i in range(4)])
    junk = b"t9,a.org,comment,success,1,2026-01-04T10:00:00+00:00,40,true,\xff\xfe\x81\n"
    file.write_bytes(file.read_bytes() + junk)
    found = import_file(platform, file)
    assert (_counts(found), dict(found.reasons)) == ((4, 0, 1), {"row: is not UTF-8": 1})
    (tmp_path / "only.csv").write_bytes(file.read_bytes().split(b"\n", 1)[0] + b"\n" + junk)
    assert dict(import_file(platform, tmp_path / "only.csv").reasons) == {"row: is not UTF-8": 1}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_are_read(platform: Platform, tmp_path: Path, end: str) -> None:
    """Also newlines inside quotes, and a delimiter at the end of each line."""
    at = _row()["timestamp"]
    lines = ["task_id;action_attempted;result;timestamp;failure_reason;"]
    lines += [f't{i};comment;success;{at};"two{end}lines; one ""cell""";' for i in range(3)]
    (tmp_path / "o.csv").write_bytes((end.join(lines) + end).encode())
    assert _counts(import_file(platform, tmp_path / "o.csv")) == (3, 0, 0)
    assert _stored(platform)[0].failure_reason == f'two{end}lines; one "cell"'.strip()


def test_files_that_were_put_together_are_read(platform: Platform, tmp_path: Path) -> None:
    """A header, or one with its columns in another order, may come again in the middle, also with a mark before it."""
    at = _row()["timestamp"]
    text = f"""task_id,action_attempted,result,timestamp
t1,comment,success,{at}
task_id,action_attempted,result,timestamp
t2,forum,failed,{at}
\ufeffresult,task_id,timestamp,action_attempted
error,t3,{at},guest

,,,
"""
    (tmp_path / "o.csv").write_text(text, encoding="utf-8")
    assert _counts(import_file(platform, tmp_path / "o.csv")) == (3, 0, 0)
    assert [(r.task_id, r.action_attempted, r.result) for r in _stored(platform)] == [
        ("t1", "comment", "success"), ("t2", "forum", "failure"), ("t3", "guest", "error"),
    ]  # fmt: skip


def test_headers_are_recognised_in_other_spellings(platform: Platform, tmp_path: Path) -> None:
    """Blanks, case and camel case do not matter, of fields and features alike; it is told."""
    at = _row()["timestamp"]
    (tmp_path / "o.csv").write_text(
        f" Task_ID ,Action Attempted,RESULT,timeStamp,PA\nt,comment,success,{at},7\n", "utf-8"
    )
    found = import_file(platform, tmp_path / "o.csv")
    assert (_counts(found), _stored(platform)[0].features) == ((1, 0, 0), {"pa": 7.0})
    assert found.renamed["Task_ID"] == "task_id"


def test_a_quote_that_is_never_closed_costs_its_own_line_only(platform: Platform, tmp_path: Path) -> None:
    """The lines that it would have swallowed are read by themselves."""
    rows = [_row(i, failure_reason="fine") for i in range(6)]
    file = _csv(tmp_path / "o.csv", rows)
    lines = file.read_text("utf-8").splitlines(keepends=True)
    lines[3] = lines[3].replace("fine", '"said')
    file.write_text("".join(lines), encoding="utf-8")
    found = import_file(platform, file)
    assert _counts(found) == (5, 0, 1)
    assert json.loads(_refused(platform)[0].payload)["line"] == 4
    assert "quote" in next(iter(found.remedies.values()))


def test_words_that_mean_nothing_there_are_missing_in_csv_alone(platform: Platform, tmp_path: Path) -> None:
    """NULL, n/a, a dash and the like in any case; in JSON a text is a text."""
    words = ["NULL", "None", "NaN", "N/A", "-", "\\N", "#N/A", ""]
    rows = [_row(i, execution_time=word, failure_reason=word.lower(), domain="unknown") for i, word in enumerate(words)]
    assert _counts(import_file(platform, _csv(tmp_path / "o.csv", rows))) == (8, 0, 0)
    assert {(r.execution_time_s, r.failure_reason, r.domain) for r in _stored(platform)} == {(None, None, "unknown")}
    import_file(platform, _lines(tmp_path / "o.jsonl", [_row(20, failure_reason="-")]))
    assert _stored(platform)[-1].failure_reason == "-"


def test_results_instants_and_durations_are_read_as_logs_write_them(platform: Platform, tmp_path: Path) -> None:
    """1 and 0, `OK`, `timed out`; epochs in seconds and milliseconds; milliseconds in a column that says so."""
    at = datetime(2026, 1, 4, 10, 30, tzinfo=UTC)
    epoch = int(at.timestamp())
    rows = [
        {"id": "a", "action": "comment", "success": 1, "timestamp": epoch, "duration_ms": 1500},
        {"id": "b", "action": "comment", "success": 0, "timestamp": epoch * 1000, "duration_ms": "250"},
        {"id": "c", "action": "comment", "success": "OK", "timestamp": str(epoch), "duration_ms": None},
        {"id": "d", "action": "comment", "success": "Timed Out", "timestamp": "2026-01-04 10:30 UTC", "duration_ms": 1},
    ]  # fmt: skip
    found = import_file(platform, _lines(tmp_path / "o.jsonl", rows), renames={"id": "task_id"})
    assert _counts(found) == (4, 0, 0)
    assert {row.occurred_at for row in _stored(platform)} == {at}
    assert [row.result for row in _stored(platform)] == ["success", "failure", "success", "error"]
    assert [row.execution_time_s for row in _stored(platform)] == [1.5, 0.25, None, 0.001]


def test_the_same_task_several_times_stays_several_outcomes(platform: Platform, tmp_path: Path) -> None:
    """Attempts without a number keep number 1: numbers counted from a file would change with the next file."""
    rows = [_row(i, task_id="t") for i in range(3)]
    assert _counts(import_file(platform, _csv(tmp_path / "o.csv", rows))) == (3, 0, 0)
    assert [row.attempt for row in _stored(platform)] == [1, 1, 1]
    assert _counts(import_file(platform, _csv(tmp_path / "more.csv", [_row(9, task_id="t"), *rows]))) == (1, 3, 0)


def test_features_may_stand_in_one_column_as_json(platform: Platform, tmp_path: Path) -> None:
    """As in our own stores; what the store added is not taken for a feature, and a column of its own goes first."""
    inner = json.dumps({"pa": 12, "site_type": "blog", "note": "x"})
    row = _row(0, outcome_id="o1", received_at="2026-01-05T00:00:00+00:00", seq="9", pa="40", features=inner)
    assert _counts(
        import_file(platform, _csv(tmp_path / "o.csv", [row, _row(1) | row | {"outcome_id": "o2", "features": "{"}]))
    ) == (1, 0, 1)
    assert _stored(platform)[0].features == {"pa": 40.0, "site_type": "blog", "note": "x", "https_enabled": True}
    assert _refused(platform)[0].field == "features"


def test_nested_objects_are_columns_by_their_path(platform: Platform, tmp_path: Path) -> None:
    """`task.id` is the task's id by itself; lists and other instants beside the outcome are kept as text."""
    at = _row()["timestamp"]
    row = {"task": {"id": "t"}, "action": "comment", "result": True, "timestamp": at, "site": {"pa": 5}, "tags": [1, 2]}
    found = import_file(platform, _lines(tmp_path / "o.jsonl", [row]), renames={"site.pa": "pa", "nowhere": "da"})
    assert (_counts(found), found.unused) == ((1, 0, 0), ["nowhere"])
    assert _stored(platform)[0].features == {"pa": 5.0, "tags": "[1, 2]"}


def test_a_column_can_be_left_out(platform: Platform, tmp_path: Path) -> None:
    """`=-` also where the column would be read by itself, or its text is too long to be kept."""
    row = _row(0, page="x" * 3_000, domain="secret.example")
    assert _counts(import_file(platform, _csv(tmp_path / "o.csv", [row]))) == (0, 0, 1)
    found = import_file(platform, _csv(tmp_path / "o.csv", [row]), renames={"page": "-", "domain": "-"})
    assert _counts(found) == (1, 0, 0)
    assert _stored(platform)[0].domain == ""


def test_a_decimal_comma_is_read_where_it_is_told(platform: Platform, tmp_path: Path) -> None:
    """In numbers only; without it the row is refused with the remedy."""
    file = _csv(tmp_path / "o.csv", [_row(0, pa="3,5", execution_time="1.234,5", site_type="a,b")], ";")
    refused = import_file(platform, file)
    assert "--decimal" in refused.remedies["execution_time: is not a finite number"]
    assert _counts(import_source(platform, file, ImportOptions(decimal=","))) == (1, 0, 0)
    stored = _stored(platform)[0]
    assert (stored.features["pa"], stored.execution_time_s, stored.features["site_type"]) == (3.5, 1234.5, "a,b")
    with pytest.raises(UsageError, match=r"use \. or ,"):
        import_source(platform, file, ImportOptions(decimal="x"))


def test_spellings_of_actions_are_told_for_one_import(platform: Platform, tmp_path: Path) -> None:
    """Beside those of the configuration; an action that is none is bad usage, an unknown one names the remedy."""
    file = _csv(tmp_path / "o.csv", [_row(0, action_attempted="Forum Post"), _row(1, action_attempted="GUESTPOSTING")])
    refused = import_file(platform, file)
    assert _counts(refused) == (1, 0, 1)
    assert "--action" in next(iter(refused.remedies.values()))
    assert _counts(import_source(platform, file, ImportOptions(actions={"forum post": "Forum"}))) == (1, 1, 0)
    with pytest.raises(UsageError, match="--action Forum Post=dance: 'dance' is not one of comment"):
        import_source(platform, file, ImportOptions(actions={"Forum Post": "dance"}))


def test_the_configuration_says_how_files_look(home: Path, tmp_path: Path) -> None:
    """`imports` is the default of every option; the command goes before it, also for a field that both name."""
    imports_block = {"columns": {"who": "task_id", "what": "action_attempted"}, "timezone": "Europe/Berlin",
                     "encoding": "latin-1", "delimiter": "|", "decimal": ","}  # fmt: skip
    platform = _open(read_config({"imports": imports_block}))
    text = "who|was|result|timestamp|pa|domain\nt|comment|success|2026-01-04 10:00:00|3,5|Müller\n"
    (tmp_path / "o.csv").write_text(text, encoding="latin-1")
    found = import_file(platform, tmp_path / "o.csv", renames={"was": "action_attempted"})
    assert (_counts(found), found.unused) == ((1, 0, 0), [])
    stored = _stored(platform)[0]
    assert (stored.domain, stored.features, stored.occurred_at) == (
        "Müller",
        {"pa": 3.5},
        datetime(2026, 1, 4, 9, tzinfo=UTC),
    )
    assert home.exists()


def test_a_target_that_is_no_field_is_a_slip(platform: Platform, tmp_path: Path) -> None:
    """The nearest field or feature is named, instead of a column that nobody asked for."""
    with pytest.raises(UsageError, match="did you mean 'execution_time'"):
        import_file(platform, _csv(tmp_path / "o.csv", [_row(0, took="1")]), renames={"took": "executiontime"})


def test_packed_files_are_read_and_damage_is_told(platform: Platform, tmp_path: Path) -> None:
    """.csv.gz and .jsonl.gz; of a file that ends early the rows before the end are stored."""
    rows = [_row(i) for i in range(50)]
    (tmp_path / "o.csv.gz").write_bytes(gzip.compress(_csv(tmp_path / "o.csv", rows).read_bytes()))
    (tmp_path / "o.jsonl.gz").write_bytes(gzip.compress(_lines(tmp_path / "o.jsonl", rows).read_bytes()))
    assert _counts(import_file(platform, tmp_path / "o.csv.gz")) == (50, 0, 0)
    assert _counts(import_file(platform, tmp_path / "o.jsonl.gz")) == (0, 50, 0)
    (tmp_path / "cut.csv.gz").write_bytes((tmp_path / "o.csv.gz").read_bytes()[:-20])
    with pytest.raises(RetrainError, match="is damaged"):
        import_file(platform, tmp_path / "cut.csv.gz")


def test_an_import_that_was_killed_leaves_no_half_batch(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and position change together: a death between the two takes both back."""
    monkeypatch.setattr(imports, "BATCH_ROWS", 10)
    file = _csv(tmp_path / "o.csv", [_row(i, pa="900" if i == 3 else "40") for i in range(30)])
    save, calls = import_progress.save, []

    def dying(*arguments: Any, **state: Any) -> None:  # noqa: ANN401
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt("killed")
        save(*arguments, **state)

    monkeypatch.setattr(import_progress, "save", dying)
    with pytest.raises(KeyboardInterrupt, match=r"^killed$"):
        import_file(platform, file)
    assert len(_stored(platform)) == 9
    again = import_file(platform, file)
    assert (_counts(again), again.resumed_at, sum(again.reasons.values())) == ((29, 0, 1), 10, 1)


def test_a_file_that_has_changed_is_read_from_the_beginning(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A position among rows is worth nothing once the rows are others, or are read in another way."""
    monkeypatch.setattr(imports, "BATCH_ROWS", 10)
    file = _csv(tmp_path / "o.csv", [_row(i) for i in range(15)])
    with monkeypatch.context() as patched:
        patched.setattr(import_progress, "save", _failing_at(2))
        with pytest.raises(StoreUnavailable, match="10 rows before"):
            import_file(platform, file)
    assert _counts(import_file(platform, file, renames={"domain": "-"})) == (5, 10, 0)
    _csv(file, [_row(i) for i in range(20, 40)])
    assert _counts(import_file(platform, file)) == (20, 0, 0)


def _failing_at(call: int) -> Any:  # noqa: ANN401
    save, calls = import_progress.save, []

    def failing(*arguments: Any, **state: Any) -> None:  # noqa: ANN401
        calls.append(1)
        if len(calls) == call:
            raise StoreUnavailable("the database went away")
        save(*arguments, **state)

    return failing


def test_most_rows_refused_is_told_apart_from_a_few(platform: Platform, tmp_path: Path) -> None:
    """More than half, and every common reason has its remedy."""
    rows = [_row(i, timestamp="2026-01-04T10:00:00", task_id=f"t{i}") for i in range(3)]
    found = import_file(platform, _csv(tmp_path / "o.csv", [*rows, _row(8), _row(9)]))
    assert (found.is_mostly_refused, found.refused_share) == (True, 0.6)
    assert "--timezone" in found.to_dict()["remedies"]["timestamp: has no offset from UTC; add one, such as +00:00"]
    assert remedy("attempt: is not a whole number of at least 1") is None


# --------------------------------------------------------------------------------------- what must not go wrong quietly


def test_rows_that_share_an_id_and_differ_are_kept_and_told(platform: Platform, tmp_path: Path) -> None:
    """Days without a time, two results on one of them: neither is dropped as a duplicate, also at a second import."""
    day = "2026-01-04"
    rows = [
        _row(0, task_id="t", timestamp=day),
        _row(0, task_id="t", timestamp=day, result="failed"),
        _row(0, task_id="t", timestamp=day, action_attempted="forum"),
        _row(0, task_id="t", timestamp=day),
        _row(1, decision_id="d1"),
        _row(1, decision_id="d1", result="error"),
    ]
    file = _csv(tmp_path / "o.csv", [{"decision_id": ""} | row for row in rows])
    found = import_file(platform, file, timezone="UTC")
    assert (_counts(found), found.conflicting) == ((2, 1, 3), 3)
    same = "same task, attempt and instant as a stored outcome, with another"
    assert [reason.partition(";")[0] for reason in found.reasons] == [
        f"result: {same} result",
        f"action_attempted: {same} action_attempted",
        "result: same decision_id as a stored outcome, with another result",
    ]
    assert "attempt or outcome_id" in found.remedies[next(iter(found.reasons))]
    again = import_file(platform, file, timezone="UTC")
    assert (_counts(again), again.conflicting, len(_refused(platform))) == ((0, 3, 3), 3, 3)


def test_rows_before_the_damage_of_a_file_are_stored(platform: Platform, tmp_path: Path) -> None:
    """In a database that knows none of them; the whole file afterwards adds what was missing."""
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    rows = [_row(i, note=str(chance.random())) for i in range(400)]
    whole = gzip.compress(_csv(tmp_path / "o.csv", rows).read_bytes())
    (tmp_path / "o.csv.gz").write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(RetrainError, match="is damaged"):
        import_file(platform, tmp_path / "o.csv.gz")
    stored = len(_stored(platform))
    assert 300 < stored < 400
    assert _counts(import_file(platform, tmp_path / "o.csv")) == (400 - stored, stored, 0)


def test_rows_before_the_damage_of_a_parquet_file_are_stored(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row group that is damaged costs none of those before it."""
    monkeypatch.setattr(row_files, "_PARQUET_BATCH", 30)
    file = tmp_path / "o.parquet"
    pq.write_table(pa.Table.from_pylist([_row(i) for i in range(90)]), file, row_group_size=30, compression="gzip")
    place = pq.ParquetFile(file).metadata.row_group(2).column(0).data_page_offset
    content = bytearray(file.read_bytes())
    content[place : place + 60] = b"\xff" * 60
    file.write_bytes(content)
    with pytest.raises(RetrainError, match="is damaged"):
        import_file(platform, file)
    assert len(_stored(platform)) == 60


def test_files_of_our_own_are_read_as_they_were_written(home: Path, tmp_path: Path) -> None:
    """Whatever the configuration says of others' files: UTF-8, commas, points. What somebody says now still counts."""
    imports_block = {"encoding": "cp1252", "delimiter": ";", "decimal": ","}
    platform = _open(read_config({"imports": imports_block}))
    row = _row(0, outcome_id="o1", features='{"note": "Füße"}', pa="3.567", execution_time_s="1.234", domain="Köln")
    row["occurred_at"] = row.pop("timestamp")
    del row["execution_time"]
    file = _csv(tmp_path / "outcomes.csv", [row, row | {"outcome_id": "o2", "pa": "0.125"}])
    found = import_file(platform, file)
    assert _counts(found) == (2, 0, 0)
    first, second = _stored(platform)
    assert (first.features["pa"], first.execution_time_s, first.domain) == (3.567, 1.234, "Köln")
    assert (second.features["pa"], first.features["note"]) == (0.125, "Füße")
    with pytest.raises(RetrainError, match="no column for"):
        import_source(platform, file, ImportOptions(delimiter=";"))
    assert home.exists()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_exports_come_back_as_they_were_whatever_others_files_look_like(home: Path, tmp_path: Path, kind: str) -> None:
    """Numbers of workers and of files with decimal commas in one export, refused again, and tried again."""
    config = {"imports": {"encoding": "cp1252", "delimiter": ";", "decimal": ",", "timezone": "UTC"}}
    platform = _open(read_config(config))
    worker = _row(0, pa=3.567, execution_time=1.5, action_attempted="dance", domain="Köln")
    with platform.database.write() as connection:
        outcomes.append(connection, [worker], published.outcome_rules(platform.config), platform.now(), "collector")
    german = _row(1, pa="3,567", execution_time="1.234,5", action_attempted="dance", domain="Köln", failure_reason="-")
    german_file = _csv(tmp_path / "german.csv", [german], ";")
    german_file.write_bytes(german_file.read_text("utf-8").encode("cp1252"))
    import_file(platform, german_file)
    exported = tmp_path / f"refused.{kind}"
    export(platform, Selection(), exported)
    assert _counts(import_file(platform, exported)) == (0, 0, 2)
    found = import_source(platform, exported, ImportOptions(actions={"dance": "forum"}))
    assert _counts(found) == (2, 0, 0)
    kept = [(row.features["pa"], row.execution_time_s, row.domain) for row in _stored(platform)]
    assert sorted(kept) == [(3.567, 1.5, "Köln"), (3.567, 1234.5, "Köln")]
    retried = retry(platform, Selection(), Mending(actions={"dance": "forum"}))
    assert (retried.rows, retried.accepted, retried.duplicate) == (4, 0, 4)
    assert home.exists()


def test_a_byte_order_mark_goes_before_a_configured_encoding(home: Path, tmp_path: Path) -> None:
    """It belongs to this file, the configuration to most files."""
    platform = _open(read_config({"imports": {"encoding": "cp1252"}}))
    file = _csv(tmp_path / "o.csv", [_row(0, domain="Köln")])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    import_file(platform, file)
    assert [row.domain for row in _stored(platform)] == ["Köln"]
    assert home.exists()


def test_numbers_that_nobody_can_read_cost_their_row_only(platform: Platform, tmp_path: Path) -> None:
    """A timestamp of 401 digits, a whole number beyond all floats."""
    rows = [_row(0, timestamp=int("9" * 401)), _row(1, execution_time=10**400), _row(2)]
    assert _counts(import_file(platform, _lines(tmp_path / "o.jsonl", rows))) == (1, 0, 2)


def test_names_that_no_database_takes_are_told_in_a_form_that_it_takes(platform: Platform, tmp_path: Path) -> None:
    """Half a character as a column, foreign bytes in the file's own name; a header that cannot be read is refused."""
    name = os.fsdecode(b"o\xff.jsonl")
    lines = _lines(tmp_path / name, [_row(0), _row(1) | {"\ud800": 1, "\x00": 2}])
    found = import_file(platform, lines)
    assert _counts(found) == (1, 0, 1)
    assert _refused(platform)[0].source == "o?.jsonl"
    json.dumps(found.to_dict(), ensure_ascii=False).encode()
    file = _csv(tmp_path / "o.csv", [_row(i, site_type="Bücher") for i in range(4)])
    header, rest = file.read_bytes().split(b"\n", 1)
    file.write_bytes(header.replace(b"domain", b"dom\xe4n") + b"\n" + rest)
    with pytest.raises(RetrainError, match="its header is not UTF-8; say how the text is encoded"):
        import_file(platform, file)


def test_an_instant_beyond_the_year_9999_costs_its_row_only(platform: Platform, tmp_path: Path) -> None:
    """In a Parquet file, beside good ones."""
    good = int((START - timedelta(days=1)).timestamp())
    for unit in ("s", "us", "ns"):
        scale = {"s": 1, "us": 10**6, "ns": 10**9}[unit]
        far = 2**62 if unit == "ns" else 300_000_000_000 * scale
        table = pa.table({
            "task_id": [f"{unit}1", f"{unit}2"], "action_attempted": ["forum"] * 2, "result": [True] * 2,
            "timestamp": pa.array([good * scale, far], pa.timestamp(unit, tz="UTC")),
        })  # fmt: skip
        pq.write_table(table, tmp_path / f"{unit}.parquet", version="2.6")
        assert _counts(import_file(platform, tmp_path / f"{unit}.parquet")) == (1, 0, 1)


def test_a_file_in_which_nothing_says_when_is_refused_whole(platform: Platform, tmp_path: Path) -> None:
    """Instead of every row in quarantine; a decision's id says it, too."""
    rows = [{key: value for key, value in _row(i).items() if key != "timestamp"} for i in range(3)]
    with pytest.raises(RetrainError, match="--map COLUMN=timestamp"):
        import_file(platform, _csv(tmp_path / "o.csv", rows))
    assert _refused(platform) == []
    decided = _csv(tmp_path / "d.csv", [rows[0] | {"decision_id": "d"}])
    assert _counts(import_file(platform, decided)) == (1, 0, 0)


def test_spellings_of_actions_that_are_actions_or_that_no_row_has_are_told(platform: Platform, tmp_path: Path) -> None:
    """An action cannot stand for another one, and a slip in a spelling does not go unseen."""
    file = _csv(tmp_path / "o.csv", [_row(0, action_attempted="Forum Post")])
    with pytest.raises(UsageError, match="'comment' is an action itself"):
        import_source(platform, file, ImportOptions(actions={"comment": "forum"}))
    found = import_source(platform, file, ImportOptions(actions={"forum post": "forum", "Forum-Post": "guest"}))
    assert (_counts(found), found.unused_actions) == ((1, 0, 0), ["Forum-Post"])


def test_members_of_features_are_features_in_any_spelling_and_never_fields(platform: Platform, tmp_path: Path) -> None:
    """`PA` is `pa`; a member called like a field is told to be left out."""
    row = {key: value for key, value in _row(0).items() if key != "pa"} | {"features": {"PA": 3, "domain": "b.org"}}
    found = import_file(platform, _lines(tmp_path / "o.jsonl", [row]))
    assert (_counts(found), found.renamed) == ((1, 0, 0), {"features.domain": "-"})
    assert (_stored(platform)[0].features["pa"], _stored(platform)[0].domain) == (3.0, "a.org")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:s3cret@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:s3@cret/x@h/db", "postgresql://u:***@h/db"),
        ("postgresql:/u:s3cret@h/db", "postgresql:/u:***@h/db"),
        ("postgresql://h/db?user=u&password=s3cret&a=b", "postgresql://h/db?user=u&password=***&a=b"),
        ("postgresql://u@h/db?PASSWORD=s3cret", "postgresql://u@h/db?PASSWORD=***"),
        ("sqlite:////srv/a@b/old.db", "sqlite:////srv/a@b/old.db"),
    ],
)
def test_no_password_of_a_url_is_shown(url: str, shown: str) -> None:
    """Neither the user's nor one of the query, also in a URL that is none."""
    assert without_password(url) == shown


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://u:s3cret@h:54x/db", "is no database URL"),
        ("post gresql://u:s3cret@h/db", "is no database URL"),
        ("postgresql://u:s3cret@127.0.0.1:1/db?connect_timeout=1&password=s3cret", "cannot be read"),
    ],
)
def test_a_url_that_leads_nowhere_is_an_error_without_its_password(platform: Platform, url: str, message: str) -> None:
    """Bad usage for one that is none, else a database that is away."""
    with pytest.raises((UsageError, StoreUnavailable), match=message) as caught:
        import_source(platform, url)
    assert "s3cret" not in str(caught.value)


class TestAnotherDatabase:
    """A table is a source like a file, on both databases."""

    def test_our_own_outcomes_move_with_their_features(self, database_url: str, tmp_path: Path, home: Path) -> None:
        """Ids and instants are kept, so nothing is stored twice whichever way the rows come."""
        old = _open_at(database_url, tmp_path / "old")
        file = _csv(tmp_path / "o.csv", [_row(i, note="n") for i in range(25)])
        import_file(old, file)
        new = _open(Config())
        found = import_source(new, database_url)
        assert (_counts(found), found.renamed) == ((25, 0, 0), {})
        assert [r.features for r in _stored(new)] == [r.features for r in _stored(old)]
        assert [r.outcome_id for r in _stored(new)] == [r.outcome_id for r in _stored(old)]
        assert _counts(import_file(new, file)) == (0, 25, 0)
        with pytest.raises(UsageError, match="own database"):
            import_source(old, database_url)
        assert home.exists()
        old.database.close()

    def test_a_foreign_table_is_mapped_like_a_file(self, database_url: str, platform: Platform) -> None:
        """Its types are read as they are; another name is bad usage with the names there are."""
        foreign = Database(database_url)
        with foreign.write() as connection:
            connection.exec_driver_sql(
                'CREATE TABLE "Old Runs" (nr INTEGER PRIMARY KEY, what TEXT, ok BOOLEAN, "at" TIMESTAMP, pa NUMERIC)'
            )
            for values in ("0, 'comment', false, '2026-01-04 10:00'", "1, 'comment', true, '2026-01-04 10:01'"):
                connection.exec_driver_sql(f'INSERT INTO "Old Runs" VALUES ({values}, 1.5)')  # noqa: S608  (our own text)
        renames = {"nr": "task_id", "what": "action_attempted", "ok": "result", "at": "timestamp"}
        options = ImportOptions(table="Old Runs", timezone="UTC", renames=renames)
        assert _counts(import_source(platform, database_url, options)) == (2, 0, 0)
        assert _counts(import_source(platform, database_url, options)) == (0, 2, 0)
        assert [(r.task_id, r.result, r.features["pa"]) for r in _stored(platform)] == [
            ("0", "failure", 1.5),
            ("1", "success", 1.5),
        ]
        with pytest.raises(UsageError, match="name one with --table: Old Runs"):
            import_source(platform, database_url, ImportOptions(table="nothing"))
        foreign.close()

    @pytest.mark.parametrize("change", ["none", "appended", "inserted", "deleted"])
    def test_a_stopped_import_of_a_table_goes_on_only_behind_rows_that_are_the_same(
        self, new_database: Any, platform: Platform, monkeypatch: pytest.MonkeyPatch, change: str  # noqa: ANN401
    ) -> None:  # fmt: skip
        """With a key of text, rows may come and go anywhere; none is lost for it."""
        monkeypatch.setattr(imports, "BATCH_ROWS", 10)
        url = new_database("sqlite")
        foreign = Database(url)
        insert = "INSERT INTO outcomes VALUES ('{}', 'comment', 'failed', '2026-01-04T10:00:00+00:00')"
        with foreign.write() as connection:
            columns = "task_id TEXT PRIMARY KEY, action TEXT, result TEXT, timestamp TEXT"
            connection.exec_driver_sql(f"CREATE TABLE outcomes ({columns})")
            for number in range(25):
                connection.exec_driver_sql(insert.format(f"k{number:02d}"))
        with monkeypatch.context() as patched:
            patched.setattr(import_progress, "save", _failing_at(2))
            with pytest.raises(StoreUnavailable, match="10 rows before"):
                import_source(platform, url)
        with foreign.write() as connection:
            if change == "appended":
                connection.exec_driver_sql(insert.format("k99"))
            elif change == "inserted":
                connection.exec_driver_sql("DELETE FROM outcomes WHERE task_id = 'k20'")
                connection.exec_driver_sql(insert.format("k03x"))
            elif change == "deleted":
                connection.exec_driver_sql("DELETE FROM outcomes WHERE task_id = 'k03'")
                connection.exec_driver_sql(insert.format("k99"))
        again = import_source(platform, url)
        assert again.resumed_at == (10 if change in {"none", "appended"} else 0)
        with foreign.read() as connection:
            there = set(connection.exec_driver_sql("SELECT task_id FROM outcomes").scalars())
        assert there <= {row.task_id for row in _stored(platform)}
        foreign.close()


def test_values_that_python_cannot_name_cost_their_row_only(
    platform: Platform, postgresql_url: str, tmp_path: Path
) -> None:
    """SQLite's text that is no UTF-8, PostgreSQL's infinite instants: the import does not stop at them for ever."""
    columns = "task_id TEXT, action TEXT, result TEXT, timestamp {}"
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.execute(f"CREATE TABLE outcomes ({columns.format('TEXT')}, domain TEXT)")
        good = "'comment', 'failed', '2026-01-04T10:00:00+00:00'"
        connection.execute(f"INSERT INTO outcomes VALUES ('t1', {good}, CAST(x'4dfc6c6c6572' AS TEXT))")  # noqa: S608
        connection.execute(f"INSERT INTO outcomes VALUES ('t2', {good}, 'Müller')")  # noqa: S608
    connection.close()
    found = import_source(platform, f"sqlite:///{tmp_path / 'old.db'}")
    assert (_counts(found), next(iter(found.reasons))) == ((1, 0, 1), "domain: cannot be written as UTF-8")
    foreign = Database(postgresql_url)
    with foreign.write() as connection_:
        connection_.exec_driver_sql(
            f"CREATE TABLE outcomes ({columns.format('TIMESTAMPTZ')}, seen TIMESTAMP, day DATE)"
        )
        for task, at in (("t3", "infinity"), ("t4", "2026-01-04 10:00+00"), ("t5", "0044-03-15 BC")):
            values = f"'{task}', 'comment', 'failed', '{at}', 'infinity', '-infinity'"
            connection_.exec_driver_sql(f"INSERT INTO outcomes VALUES ({values})")  # noqa: S608
    assert _counts(import_source(platform, postgresql_url)) == (1, 0, 2)
    assert {row.field for row in _refused(platform)} == {"domain", "timestamp"}
    foreign.close()


def test_a_source_database_is_never_written_to(platform: Platform, tmp_path: Path) -> None:
    """Its bytes stay the same; a file that is not there is not made, and other databases are named as not read."""
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.execute("CREATE TABLE outcomes (task_id TEXT, action TEXT, result TEXT, timestamp TEXT)")
        connection.execute("INSERT INTO outcomes VALUES ('t', 'comment', 'failed', '2026-01-04T10:00:00+00:00')")
    connection.close()
    before = (tmp_path / "old.db").read_bytes()
    assert _counts(import_source(platform, f"sqlite:///{tmp_path / 'old.db'}")) == (1, 0, 0)
    assert (tmp_path / "old.db").read_bytes() == before
    for url, message in ((f"sqlite:///{tmp_path / 'none.db'}", "no SQLite file"), ("mysql://a/b", "are not read")):
        with pytest.raises(UsageError, match=message):
            import_source(platform, url)
    assert not (tmp_path / "none.db").exists()


def _open_at(url: str, folder: Path) -> Platform:
    """A problem in a database of its own."""
    settings = Settings(config=Config(), config_path=None, home=folder, database_url=url)
    return open_platform(settings, FakeClock())


def test_a_torn_row_of_a_csv_store_is_refused_and_its_file_imported(platform: Platform, tmp_path: Path) -> None:
    """A copy taken while the worker wrote may end in half a row; nobody was told that it is stored."""
    store = CsvOutcomes(tmp_path / "outcomes.csv")
    rules = published.outcome_rules(platform.config)
    row = {"task_id": "t1", "action_attempted": "comment", "result": True, "note": "kept beside"}
    receipts = store.append([row, row | {"task_id": "t2"}], rules, platform.now(), "test")
    assert [receipt.status for receipt in receipts] == ["accepted", "accepted"]
    store.close()
    content = (tmp_path / "outcomes.csv").read_bytes()
    cut = content.rindex(b'"{')
    (tmp_path / "copy.csv").write_bytes(content[:cut])
    found = import_file(platform, tmp_path / "copy.csv")
    assert (found.accepted, found.quarantined) == (1, 1)
    assert list(found.reasons) == ["row: was cut off before its last cell; nobody was told that it is stored"]
