"""The door, whatever comes: every row gets an answer, and what is let in is stored as it was read."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from retrain_assets.core.outcomes import FIXED_FIELDS, Outcome, OutcomeRules, read_outcome
from retrain_assets.errors import SchemaError
from retrain_assets.settings import Config, FeatureSettings, ProblemSettings
from retrain_assets.store import outcomes, payloads, schema, tables
from retrain_assets.store.database import Database
from retrain_assets.testing import START as NOW

GOOD: dict[str, Any] = {"task_id": "good", "action_attempted": "comment", "result": True, "timestamp": NOW}
CONFIG = Config(
    problem=ProblemSettings(
        features={
            "pa": FeatureSettings(type="number", min=0.0, max=100.0),
            "depth": FeatureSettings(type="integer", min=0.0),
            "https": FeatureSettings(type="boolean"),
            "site": FeatureSettings(type="category"),
            "kind": FeatureSettings(type="category", categories=["blog", "shop"]),
        },
        strata=[],
    )
)
KEEPING = OutcomeRules(schema=CONFIG.schema, action_aliases={"guestposting": "guest"})
STRICT = OutcomeRules(schema=CONFIG.schema, unknown_columns="quarantine")
UNPUBLISHED = OutcomeRules()
COLUMNS = [column.name for column in tables.outcomes.columns if column.name != "seq"]
RULES = pytest.mark.parametrize("rules", [KEEPING, STRICT, UNPUBLISHED], ids=["keep", "strict", "unpublished"])


class Colour(str, enum.Enum):  # noqa: UP042  (its str() is its name, which must not be what is stored)
    """A text that is an enumeration's member."""

    BLOG = "blog"


class Mute:
    """An object that says nothing of itself."""

    def __repr__(self) -> str:
        message = "no"
        raise RuntimeError(message)


def _cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append([cycle, cycle])
    return cycle


ODD: list[Any] = [
    -(10**30),
    2**63,
    1.5e308,
    "1_000",
    "9007199254740993",
    "\x00",
    "a\x00b",
    "\ud800",
    "x" * 200_001,
    b"40",
    bytearray(b"x"),
    Decimal("40.50"),
    Decimal("sNaN"),
    Decimal("1E+999999999"),
    Fraction(1, 3),
    1j,
    date(2026, 1, 5),
    timedelta(hours=1),
    datetime.max,  # noqa: DTZ901  (the mistake)
    datetime.min.replace(tzinfo=UTC),
    np.float64(40.5),
    np.float32("nan"),
    np.longdouble(7),
    np.int64(7),
    np.uint8(7),
    np.bool_(True),
    np.str_("blog"),
    np.bytes_(b"blog"),
    np.datetime64("2026-01-05T12:00:00"),
    np.timedelta64(5, "ns"),
    np.array([1.0, 2.0]),
    np.array(5.0),
    np.complex128(1j),
    pd.NA,
    pd.NaT,
    pd.Timestamp("2026-01-05T11:00:00.123456789Z"),
    pd.Timestamp("2026-01-05T11:00:00"),
    pd.Timedelta("1h"),
    pd.Series([1, 2]),
    Colour.BLOG,
    object(),
    {1, 2},
    {"$bytes": "eA=="},
    {"deep": {1: [(), {}]}},
]
# What cannot be shown, so that no property test may hold it.
UNSPEAKABLE: list[Any] = [10**5000, Mute(), {"deep": {1: [Mute()]}}, [10**5000]]
_plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=5),
    st.text(alphabet=st.characters(categories=["Cs", "Cc", "Lu"]), max_size=5), st.decimals(), st.fractions(),
    st.datetimes(timezones=st.one_of(st.none(), st.just(UTC), st.timezones())),
)  # fmt: skip
_values = st.one_of(
    _plain,
    st.sampled_from(ODD),
    st.sampled_from(["success", "failed", "Guestposting", "blog", "40.5", "true", "1", "0", "NaN", "", " "]),
    st.recursive(_plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)),
)
_names = st.one_of(
    st.sampled_from(sorted(FIXED_FIELDS | {"pa", "depth", "https", "site", "kind"})),
    st.text(max_size=5),
    st.sampled_from(["\x00", "\ud800", 7, None, (1, 2), Colour.BLOG]),
)
_changes = st.dictionaries(_names, _values, max_size=4)


def _read(raw: dict[Any, Any], rules: OutcomeRules) -> Outcome | SchemaError:
    """What the door says; anything but an outcome or a refusal is a fault of the door."""
    try:
        return read_outcome(raw, rules, NOW)
    except SchemaError as refusal:
        return refusal


def _is_plain(value: Any) -> bool:  # noqa: ANN401  (whatever was let in)
    return type(value) in {str, int, bool, type(None)} or (type(value) is float and math.isfinite(value))


@RULES
@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(change=_changes)
def test_every_row_is_read_or_refused_by_field_and_reason(rules: OutcomeRules, change: dict[Any, Any]) -> None:
    """No other exception; a refusal is one line that a person can read, an outcome has plain values only."""
    found = _read(GOOD | change, rules)
    if isinstance(found, SchemaError):
        assert isinstance(found.field, str)
        assert 0 < len(found.message) < 500
        assert "\n" not in found.message
        return
    assert all(_is_plain(value) for value in found.features.values())
    assert all(type(name) is str for name in found.features)
    assert type(found.occurred_at) is datetime
    assert found.occurred_at.tzinfo is UTC
    others = [getattr(found, name) for name in ("outcome_id", "task_id", "domain", "model_version", "replaces")]
    numbers = [found.attempt, found.execution_time_s, found.retry_count, found.propensity]
    assert all(_is_plain(value) for value in (*others, *numbers))
    assert msgspec.json.decode(msgspec.json.encode(found.features)) == found.features


@RULES
@pytest.mark.parametrize("name", ["task_id", "result", "attempt", "timestamp", "execution_time", "pa", "site", "notes"])
def test_odd_values_are_read_or_refused_in_every_field(rules: OutcomeRules, name: str) -> None:
    """Each of the values that broke a door somewhere, in each kind of field."""
    for value in ODD + UNSPEAKABLE:
        found = _read(GOOD | {name: value}, rules)
        assert isinstance(found, Outcome | SchemaError)
        assert payloads.encode(GOOD | {name: value})


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("pa", np.float64(40.5), 40.5),
        ("pa", np.float32(0.5), 0.5),
        ("pa", Decimal("40.5"), 40.5),
        ("depth", np.int64(3), 3),
        ("depth", Decimal(3), 3),
        ("https", np.bool_(True), True),
        ("site", np.str_("blog"), "blog"),
        ("site", Colour.BLOG, "blog"),
        ("notes", np.float64(40.5), 40.5),
        ("notes", np.int64(7), 7),
        ("notes", Decimal(7), 7),
    ],
)
def test_scalars_as_workers_really_send_them_are_plain_values(name: str, value: Any, plain: Any) -> None:  # noqa: ANN401
    """numpy, Decimal and enumerations: stored as what they mean, in exactly that type."""
    read = read_outcome(GOOD | {name: value}, KEEPING, NOW).features[name]
    assert read == plain
    assert type(read) is type(plain)


@pytest.mark.parametrize("missing", [pd.NA, pd.NaT, np.float64("nan"), Decimal("NaN"), float("nan"), None, ""])
def test_what_pandas_and_numpy_call_missing_is_missing(missing: Any) -> None:  # noqa: ANN401
    """In a feature, an unknown column and an optional field alike."""
    row = GOOD | {"pa": missing, "notes": missing, "domain": missing, "execution_time": missing, "timestamp": missing}
    found = read_outcome(row, KEEPING, NOW)
    assert (found.features, found.domain, found.execution_time_s, found.occurred_at) == ({}, "", None, NOW)


@pytest.mark.parametrize("value", [np.bool_(True), Colour.BLOG])
def test_fields_of_an_outcome_take_the_same_scalars(value: Any) -> None:  # noqa: ANN401
    """A worker's own fields come from the same frames as its features."""
    change = {"result": value} if isinstance(value, np.bool_) else {"domain": value}
    found = read_outcome(GOOD | change | {"task_id": np.int64(5), "attempt": np.int64(2)}, KEEPING, NOW)
    assert (found.task_id, found.attempt) == ("5", 2)
    assert found.result == "success"


# ------------------------------------------------------------------------------------------------ and through the store


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with the current schema, on SQLite and on PostgreSQL."""
    database = Database(database_url)
    schema.migrate(database)
    yield database
    database.close()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(changes=st.lists(_changes, min_size=1, max_size=12))
def test_what_is_accepted_comes_back_equal_and_what_is_not_is_kept(
    database: Database, changes: list[dict[Any, Any]]
) -> None:
    """On both databases: a receipt for each row, accepted values unchanged, a payload for each refused one."""
    batch = [GOOD | {"task_id": f"t{i}"} | change for i, change in enumerate(changes)]
    with database.write() as connection:
        for table in (tables.outcomes, tables.quarantine):
            connection.execute(table.delete())
        receipts = outcomes.append(connection, batch, KEEPING, NOW, "collector")
    with database.read() as connection:
        stored = {row.outcome_id: row for row in connection.execute(select(tables.outcomes))}
        refused = connection.execute(select(tables.quarantine)).all()
    assert len(receipts) == len(batch)
    known = set()
    for raw, receipt in zip(batch, receipts, strict=True):
        assert receipt.status in {"accepted", "duplicate", "quarantined"}
        if receipt.status == "quarantined":
            assert receipt.reason
            assert receipt.field is not None
        elif receipt.outcome_id not in known:
            expected, row = read_outcome(raw, KEEPING, NOW), stored[str(receipt.outcome_id)]
            known.add(receipt.outcome_id)
            assert {name: getattr(row, name) for name in COLUMNS} == {name: getattr(expected, name) for name in COLUMNS}
    assert (len(refused) > 0) == any(receipt.status == "quarantined" for receipt in receipts)
    assert all(payloads.decode(row.payload) for row in refused)


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(change=_changes)
def test_a_refused_row_is_refused_again_for_the_same_field(change: dict[Any, Any]) -> None:
    """Nothing becomes right by having been stored: a second try under the same settings ends as the first did."""
    raw = GOOD | change
    first = _read(raw, KEEPING)
    payload = payloads.decode(payloads.shortened(payloads.encode(raw)))
    kept = payload.values  # noqa: PD011  (no frame)
    if kept is None:
        assert len(payload.head) == payloads.MAX_PAYLOAD
        return
    second = _read(kept, KEEPING)
    if isinstance(first, Outcome):
        assert second == first
    # A key that is no text has become one: the one thing that text cannot keep.
    elif all(isinstance(name, str) for name in change):
        assert isinstance(second, SchemaError)
        assert second.field == first.field


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(_names, _values, max_size=5))
def test_a_payload_is_text_that_every_database_takes(raw: dict[Any, Any]) -> None:
    """UTF-8 without NUL, whatever the row holds; the same row gives the same text, so that it is kept once."""
    text = payloads.encode(raw)
    assert "\x00" not in text
    text.encode()
    assert payloads.encode(raw) == text
    assert json.dumps(payloads.decode(payloads.shortened(text)).readable(), allow_nan=False)


def test_a_row_that_holds_itself_has_an_end() -> None:
    """So has one whose parts are shared without end."""
    wide: Any = "x"
    for _ in range(30):
        wide = [wide, wide, wide]
    for value in (_cycle(), wide):
        assert "too deep or too much" in payloads.encode(GOOD | {"notes": value})
