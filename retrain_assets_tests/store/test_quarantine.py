"""Refused rows in the table: kept as they came, kept once, found again, and marked without being lost."""

from __future__ import annotations

import json
import threading
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, insert, select

from retrain_assets.core.outcomes import OutcomeRules
from retrain_assets.errors import SchemaError
from retrain_assets.store import outcomes, payloads, quarantine, tables
from retrain_assets.store.database import Database
from retrain_assets.store.quarantine import DISMISSED, Selection, Totals
from retrain_assets.testing import START as NOW

BAD = SchemaError("pa", "101 is outside 0 to 100")


def _refuse(
    database: Database, raw: dict[Any, Any], error: SchemaError = BAD, source: str = "collector", at: datetime = NOW
) -> None:
    with database.write() as connection:
        quarantine.refuse(connection, raw, error, at, source)


def _all(database: Database, selection: Selection | None = None) -> list[quarantine.Refused]:
    with database.read() as connection:
        return quarantine.rows(connection, selection or Selection(is_all=True))


# ---------------------------------------------------------------------------------------------------- what is kept


def test_what_was_sent_can_be_made_again(database: Database) -> None:
    """Numbers, text and marks come back as they were, instants of the row as text that reads as the same instant."""
    raw = {
        "task_id": "Füße ✓",
        "timestamp": datetime(2026, 1, 5, 13, tzinfo=UTC),
        "naive": datetime(2026, 1, 5, 13),  # noqa: DTZ001  (the mistake)
        "nan": float("nan"),
        "inf": float("-inf"),
        "huge": 10**5000,
        "price": Decimal("40.50"),
        "bytes": b"\x00\xff",
        "nul": "a\x00b",
        "half": "\ud800",
        "nested": {"a": [1, None, {"b": True}]},
        "lookalike": {"$bytes": "eA=="},
        "none": None,
    }
    _refuse(database, raw)
    (row,) = _all(database)
    kept = row.payload.values
    assert kept is not None
    assert repr(kept.pop("nan")) == "nan"
    assert kept == {name: value for name, value in raw.items() if name != "nan"} | {
        "timestamp": "2026-01-05T13:00:00+00:00"
    }
    assert (row.field, row.reason, row.source, row.received_at) == ("pa", BAD.message, "collector", NOW)


def test_the_same_bad_row_of_a_source_is_one_row(database: Database) -> None:
    """Also inside one batch; another source, another reason or another value is another row."""
    raw = {"task_id": "t", "pa": 101}
    with database.write() as connection:
        quarantine.refuse_all(connection, [(raw, BAD), (raw, BAD)], NOW, "collector")
        quarantine.refuse_all(connection, [], NOW, "collector")
    _refuse(database, raw, at=NOW + timedelta(days=1))
    assert [row.received_at for row in _all(database)] == [NOW]
    _refuse(database, raw, source="o.csv")
    _refuse(database, raw, SchemaError("da", "is missing"))
    _refuse(database, {"task_id": "t", "pa": 102})
    assert len(_all(database)) == 4


def test_two_who_refuse_the_same_rows_in_opposite_order_both_succeed(database: Database) -> None:
    """Neither waits for the other while holding what that one waits for."""
    raws = [({"task_id": f"t{number}"}, BAD) for number in range(300)]
    begin, faults = threading.Barrier(2, timeout=30), []

    def work(rows: list[Any]) -> None:
        try:
            for attempt in range(8):
                begin.wait()
                with database.write() as connection:
                    quarantine.refuse_all(connection, rows, NOW, f"{attempt}.csv")
        except Exception as error:  # noqa: BLE001  (told by the assertion below)
            faults.append(error)

    threads = [threading.Thread(target=work, args=(rows,)) for rows in (raws, raws[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert faults == []
    assert len(_all(database, Selection(source="7.csv"))) == 300


def test_days_durations_and_uuids_are_kept_so_that_they_can_be_read_again(sqlite_database: Database) -> None:
    """As a Parquet file or a table has them."""
    raw = {"day": date(2026, 1, 5), "clock": time(14, 5), "id": UUID(int=7), "took": timedelta(seconds=90)}
    _refuse(sqlite_database, raw)
    assert _all(sqlite_database)[0].payload.values == {
        "day": "2026-01-05", "clock": "14:05:00", "id": str(UUID(int=7)), "took": timedelta(seconds=90)
    }  # fmt: skip


def test_a_row_that_is_too_long_says_that_it_was_cut(database: Database) -> None:
    """Its head is kept in JSON; two long rows that differ behind the head are two."""
    long = "x" * payloads.MAX_PAYLOAD
    for end in "ab":
        _refuse(database, {"task_id": "t", "html": long + end})
    first, second = _all(database)
    assert first.payload.is_cut
    assert first.payload.head.startswith('{"task_id":"t","html":"xxx')
    assert first.payload == second.payload
    with database.read() as connection:
        stored = json.loads(connection.execute(select(tables.quarantine.c.payload).limit(1)).scalar_one())
    assert (stored["cut"], stored["characters"]) == (True, len(long) + len('{"task_id":"t","html":"a"}'))
    assert len(stored["head"]) == payloads.MAX_PAYLOAD


PYTHON_ROW = """{"task_id": "'t1'", "result": "True", "x": "<object object>"}"""


@pytest.mark.parametrize(
    ("stored", "values"),
    [
        ('{"task_id":"t1","result":true,"pa":null}', {"task_id": "t1", "result": True, "pa": None}),
        (PYTHON_ROW, {"task_id": "t1", "result": True, "x": "<object object>"}),
        ('{"task_id":"t1","html":"xxxxxx', None),
        ("[1, 2]", None),
        ('{"task_id":"it\'s","attempt":"1"}', {"task_id": "it's", "attempt": "1"}),
    ],
    ids=["json", "python", "cut", "list", "apostrophe"],
)
def test_rows_of_the_first_schema_can_be_read(
    sqlite_database: Database, stored: str, values: dict[str, Any] | None
) -> None:
    """JSON, JSON with values as Python writes them, and a bare head where a row was cut."""
    with sqlite_database.write() as connection:
        row = {"received_at": NOW, "source": "collector", "payload": stored, "payload_hash": "h", "reason": "r"}
        connection.execute(insert(tables.quarantine), [row | {"field": "f"}])
    (read,) = _all(sqlite_database)
    assert read.payload.values == values
    assert read.payload.head == ("" if values is not None else stored)


def test_a_reason_never_fills_the_table(database: Database) -> None:
    """A reason that quotes a page is kept to a thousand characters, without what no database takes."""
    _refuse(database, {"task_id": "t"}, SchemaError("a\x00\ud800", "y" * 100_000 + "\x00"), source="\ud800.csv")
    (row,) = _all(database)
    assert len(row.reason) == quarantine.MAX_REASON
    assert (row.field, row.source) == ("a\\u0000?", "?.csv")


# ---------------------------------------------------------------------------------------------------- what is found


@pytest.fixture
def filled(database: Database) -> Database:
    """Six rows: five that wait, one that was mended; ids from 1 on."""
    for number in range(3):
        reason = f"{101 + number} is outside 0 to 100"
        _refuse(
            database,
            {"task_id": f"t{number}", "pa": 101 + number},
            SchemaError("pa", reason),
            at=NOW + timedelta(days=number),
        )
    _refuse(
        database, {"task_id": "t3"}, SchemaError("result", "is missing"), source="o.csv", at=NOW + timedelta(days=3)
    )
    _refuse(
        database, {"task_id": "t4"}, SchemaError("result", "is missing"), source="o.csv", at=NOW + timedelta(days=4)
    )
    _refuse(database, {"task_id": "t5"}, SchemaError("result", "is missing"), at=NOW + timedelta(days=5))
    with database.write() as connection:
        quarantine.resolve(connection, {6: "t-5"}, NOW + timedelta(days=6))
    return database


@pytest.mark.parametrize(
    ("selection", "ids"),
    [
        (Selection(), [1, 2, 3, 4, 5]),
        (Selection(is_all=True), [1, 2, 3, 4, 5, 6]),
        (Selection(field="result"), [4, 5]),
        (Selection(source="o.csv"), [4, 5]),
        (Selection(source="o.csv", field="pa"), []),
        (Selection(since=NOW + timedelta(days=2)), [3, 4, 5]),
        (Selection(ids=(5, 1, 6, 99)), [1, 5]),
        (Selection(ids=()), []),
    ],
)
def test_every_part_of_a_selection_narrows_it(filled: Database, selection: Selection, ids: list[int]) -> None:
    """Alike for rows in order, the newest, their count, and groups."""
    with filled.read() as connection:
        assert [row.id for row in quarantine.rows(connection, selection)] == ids
        assert [row.id for row in quarantine.newest(connection, selection, 2)] == ids[::-1][:2]
        assert quarantine.count(connection, selection) == len(ids)
        if selection.ids is None:
            assert sum(group.rows for group in quarantine.groups(connection, selection)) == len(ids)
        assert quarantine.totals(connection) == Totals(5, 1, 0)


def test_more_ids_than_one_statement_takes_are_named_in_parts(filled: Database) -> None:
    """Twice a chunk and one; each row is found once."""
    many = Selection(ids=tuple(range(2 * quarantine.CHUNK + 1, 0, -1)) * 2)
    assert [len(part.ids or ()) for part in many.parts()] == [quarantine.CHUNK, quarantine.CHUNK, 1]
    with filled.read() as connection:
        assert quarantine.count(connection, many) == 5


def test_a_mark_is_given_once_and_a_dismissal_spares_what_was_mended(filled: Database) -> None:
    """The outcome that a row became is not overwritten; a dismissal keeps why, as far as the column goes."""
    with filled.write() as connection:
        quarantine.resolve(connection, {6: "another", 1: "t-1"}, NOW)
        quarantine.resolve(connection, {}, NOW)
        assert quarantine.dismiss(connection, Selection(is_all=True), "twice the same\x00" + "y" * 300, NOW) == 4
        assert quarantine.totals(connection) == Totals(0, 2, 4)
    by_id = {row.id: row for row in _all(filled)}
    assert (by_id[6].resolved_as, by_id[1].resolved_as) == ("t-5", "t-1")
    assert str(by_id[2].resolved_as).startswith(DISMISSED + "twice the same")
    assert len(str(by_id[2].resolved_as)) == quarantine.MAX_RESOLVED_AS


def test_a_batch_of_outcomes_keeps_its_bad_rows_with_it(database: Database) -> None:
    """What the collector refuses is in the table in the same transaction: none of it when that fails."""
    batch: list[dict[Any, Any]] = [
        {"task_id": "t", "action_attempted": "a", "result": True}, {"task_id": None}, {1: {2: {3}}}
    ]  # fmt: skip

    def fail() -> None:
        with database.write() as connection:
            receipts = outcomes.append(connection, batch, OutcomeRules(), NOW, "collector")
            assert [receipt.status for receipt in receipts] == ["accepted", "quarantined", "quarantined"]
            assert connection.execute(select(func.count()).select_from(tables.quarantine)).scalar_one() == 2
            raise RuntimeError("the power")

    with pytest.raises(RuntimeError, match="the power"):
        fail()
    assert _all(database) == []
