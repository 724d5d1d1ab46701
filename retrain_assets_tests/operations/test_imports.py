"""Files of outcomes: every format, every name, every kind of bad row, stored once."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from retrain_assets.errors import RetrainError, StoreUnavailable, UsageError
from retrain_assets.operations import imports
from retrain_assets.operations.imports import Imported, general_reason, import_file
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.settings import Config, Settings, read_config, resolve
from retrain_assets.store import outcomes
from retrain_assets.store.tables import outcomes as outcomes_table
from retrain_assets.store.tables import quarantine
from retrain_assets.testing import START, FakeClock


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
        ("has 300 characters; at most 200 are accepted", "has 300 characters; at most 200 are accepted"),
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
    (tmp_path / "o.csv").write_text("task_id,action_attempted,result\n", encoding="utf-8")
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


def test_an_import_that_was_cut_off_is_simply_repeated(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches before the failure are stored, the error says how many, and the second time brings the rest."""
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
    assert _counts(import_file(platform, file)) == (5, 20, 0)
    assert len(_stored(platform)) == 25


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
