"""Outcomes as rows for the driver: the same values as by way of the table, and only new ids are told."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from retrain_assets.core.outcomes import Outcome, OutcomeRules, read_outcome, read_values
from retrain_assets.settings import Config
from retrain_assets.store import outcome_rows, published, tables
from retrain_assets.store.database import Database
from retrain_assets.testing import START

RULES = published.outcome_rules(Config())
ROW: dict[str, Any] = {"task_id": "t1", "action_attempted": "comment", "result": True}


def _encoded(raw: dict[str, Any], rules: OutcomeRules = RULES) -> outcome_rows.Row:
    return outcome_rows.encode(read_values(raw, rules, START), outcome_rows.encode_instant(START))


def test_a_row_has_the_columns_of_the_first_schema_in_the_order_of_an_outcome() -> None:
    """Old workers and new databases, new workers and old ones: the insert names what both have."""
    assert tuple(field.name for field in fields(Outcome)) == outcome_rows.COLUMNS
    assert set(outcome_rows.COLUMNS) <= set(tables.outcomes.columns.keys())
    needed = {c.name for c in tables.outcomes.columns if not c.nullable and c.server_default is None} - {"seq"}
    assert needed <= set(outcome_rows.COLUMNS)


@given(st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.timezones()))  # noqa: DTZ001  (the drawn one is aware)
def test_instants_are_written_as_the_table_writes_them(moment: datetime) -> None:
    """Fixed width and UTC, so that text order is time order."""
    assert outcome_rows.encode_instant(moment) == tables.sqlite_instant(moment)


def test_a_naive_instant_never_reaches_the_database() -> None:
    """It would mean another moment on every machine."""
    with pytest.raises(ValueError, match="a naive datetime reached the database"):
        outcome_rows.encode_instant(datetime(2026, 1, 1))  # noqa: DTZ001  (the mistake)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"pa": 40, "https_enabled": False, "site_type": "blöd \N{PILE OF POO}", "shoe_size": 2**53 + 1, "x": 0.1},
        {"domain": "a'b\"c\\d\u2028", "failure_reason": "%s ? :x", "result": "error", "propensity": 1e-300},
        {"timestamp": START - timedelta(days=300, microseconds=1), "execution_time": 1 / 3, "retry_count": 2**31 - 1},
        {"decision_id": "d1", "replaces": "d-d1", "model_version": "v1.0.0", "attempt": 7, "outcome_id": "mine"},
    ],
    ids=["least", "features", "texts", "numbers", "ids"],
)
def test_what_is_written_is_read_as_the_outcome_that_it_was(database: Database, change: dict[str, Any]) -> None:
    """Every value comes back equal through the table's own types, on both databases."""
    with database.write() as connection:
        assert len(outcome_rows.insert(connection, [_encoded(ROW | change)])) == 1
    with database.read() as connection:
        stored = connection.execute(select(*(tables.outcomes.c[name] for name in outcome_rows.COLUMNS))).one()
    expected = read_outcome(ROW | change, RULES, START)
    assert dict(stored._mapping) == {name: getattr(expected, name) for name in outcome_rows.COLUMNS}


@pytest.mark.parametrize("count", [1, 2, 199, 200, 201, 450])
def test_only_new_ids_are_told_whatever_the_size_of_the_batch(database: Database, count: int) -> None:
    """Every other one is known already; numbers follow the order of the batch."""
    rows = [_encoded(ROW | {"outcome_id": f"o{number:03}"}) for number in range(count)]
    with database.write() as connection:
        assert outcome_rows.insert(connection, []) == set()
        assert outcome_rows.insert(connection, rows[::2]) == {row[0] for row in rows[::2]}
        assert outcome_rows.insert(connection, rows) == {row[0] for row in rows[1::2]}
        query = select(tables.outcomes.c.outcome_id).order_by(tables.outcomes.c.seq)
        assert list(connection.execute(query).scalars()) == [row[0] for row in (*rows[::2], *rows[1::2])]
        assert outcome_rows.insert(connection, rows) == set()


def test_the_instant_of_arrival_is_the_batchs() -> None:
    """It is encoded once, and put where the column is."""
    row = dict(zip(outcome_rows.COLUMNS, _encoded(ROW), strict=True))
    assert row["received_at"] == tables.sqlite_instant(START.astimezone(UTC))
    assert (row["result"], type(row["result"]), row["features"]) == ("success", str, "{}")
