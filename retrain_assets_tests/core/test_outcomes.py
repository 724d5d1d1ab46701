"""Outcomes at the door: what each field accepts, and the key under which an outcome counts once."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_assets.core.features import Feature
from retrain_assets.core.outcome_features import FeatureReader, plain
from retrain_assets.core.outcomes import (
    FIXED_FIELDS,
    FUTURE_SKEW,
    OutcomeRules,
    Result,
    derive_outcome_id,
    is_absent,
    read_instant,
    read_outcome,
    read_result,
)
from retrain_assets.errors import SchemaError
from retrain_assets.settings import Config

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
CONFIG = Config()
RULES = OutcomeRules(schema=CONFIG.schema, action_aliases=CONFIG.problem.action_aliases)
LEAST = {"task_id": "t1", "action_attempted": "comment", "result": True}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (True, Result.SUCCESS),
        (False, Result.FAILURE),
        ("Success", Result.SUCCESS),
        ("FAILED", Result.FAILURE),
        (" failure ", Result.FAILURE),
        ("Error", Result.ERROR),
        ("True", Result.SUCCESS),
        (1, Result.SUCCESS),
        (0, Result.FAILURE),
        ("1", Result.SUCCESS),
        (" 0 ", Result.FAILURE),
        (np.bool_(1), Result.SUCCESS),
        (np.int64(0), Result.FAILURE),
    ],
)
def test_results_are_read_in_any_spelling_of_the_contract(given: Any, expected: Result) -> None:  # noqa: ANN401
    """Also as CSV files hold booleans."""
    assert read_result(given) is expected


@pytest.mark.parametrize("given", [None, 2, -1, 1.0, "", "ok", "yes", "timeout", ["success"], 10**30, b"1"])
def test_nothing_else_is_taken_for_a_result(given: Any) -> None:  # noqa: ANN401
    """A guess here would teach the model a lie."""
    with pytest.raises(
        SchemaError, match=r"^result: .* is not one of true, false, success, failed, failure, error, 1, 0$"
    ):
        read_result(given)


def test_instants_are_kept_in_utc() -> None:
    """Whatever offset they came with, as text or as datetime."""
    expected = datetime(2026, 1, 5, 11, tzinfo=UTC)
    berlin = datetime(2026, 1, 5, 12, tzinfo=timezone(timedelta(hours=1)))
    for told in (berlin, "2026-01-05T12:00:00+01:00", " 2026-01-05T11:00:00Z "):
        read = read_instant("timestamp", told)
        assert read == expected
        assert read.tzinfo is UTC


def test_a_clock_may_be_a_little_ahead_and_no_more() -> None:
    """Workers' clocks differ by seconds; an hour is a mistake."""
    assert read_outcome(LEAST | {"timestamp": NOW + FUTURE_SKEW}, RULES, NOW).occurred_at == NOW + FUTURE_SKEW
    with pytest.raises(SchemaError, match=r"^timestamp: .* lies in the future"):
        read_outcome(LEAST | {"timestamp": NOW + FUTURE_SKEW + timedelta(seconds=1)}, RULES, NOW)


def test_what_is_not_said_has_its_default() -> None:
    """The least an outcome needs is a task, an action and a result."""
    outcome = read_outcome(LEAST, RULES, NOW)
    assert (outcome.occurred_at, outcome.received_at, outcome.attempt, outcome.domain) == (NOW, NOW, 1, "")
    assert (outcome.decision_id, outcome.failure_reason, outcome.execution_time_s, outcome.replaces) == (None,) * 4
    assert outcome.features == {}


@pytest.mark.parametrize("name", ["comment", "COMMENT", " Comment "])
def test_actions_match_in_any_case(name: str) -> None:
    """And are stored as the config writes them."""
    assert RULES.action(name) == "comment"


def test_actions_match_through_aliases() -> None:
    """The seed's workers say `guestposting`."""
    assert RULES.action("GuestPosting") == "guest"
    with pytest.raises(SchemaError, match="'telegram' is not one of comment, profile, forum, guest"):
        RULES.action("telegram")


def test_without_settings_actions_and_features_are_kept_as_they_came() -> None:
    """Structure alone is checked: there is nothing to check against."""
    outcome = read_outcome(LEAST | {"action_attempted": "Telegram", "pa": "high", "x": None}, OutcomeRules(), NOW)
    assert (outcome.action_attempted, outcome.features) == ("Telegram", {"pa": "high"})


def test_an_outcomes_key_is_its_own_or_its_decisions_or_its_moment() -> None:
    """Each attempt has one, the same whenever it is handed in again."""
    moment = read_outcome(LEAST | {"timestamp": NOW}, RULES, NOW).outcome_id
    assert read_outcome(LEAST | {"timestamp": "2026-01-05T13:00:00+01:00"}, RULES, NOW).outcome_id == moment
    others = [LEAST | {"timestamp": NOW} | change for change in ({"task_id": "t2"}, {"attempt": 2})]
    others.append(LEAST | {"timestamp": NOW - timedelta(microseconds=1)})
    keys = {read_outcome(other, RULES, NOW).outcome_id for other in others}
    assert len(keys | {moment}) == 4
    assert read_outcome(LEAST | {"decision_id": "d1"}, RULES, NOW).outcome_id == "d-d1"
    assert read_outcome(LEAST | {"decision_id": "d1", "outcome_id": "mine"}, RULES, NOW).outcome_id == "mine"


def test_a_key_is_not_made_by_gluing_fields_together() -> None:
    """Task `1` in attempt 12 is not task `11` in attempt 2."""
    assert derive_outcome_id("1", 12, None, NOW) != derive_outcome_id("11", 2, None, NOW)


def test_a_correction_has_a_key_of_its_own() -> None:
    """Else it would be a duplicate of what it corrects."""
    first = read_outcome(LEAST | {"decision_id": "d1", "timestamp": NOW}, RULES, NOW)
    correction = LEAST | {"decision_id": "d1", "timestamp": NOW, "replaces": first.outcome_id}
    second = read_outcome(correction, RULES, NOW)
    assert second.outcome_id != first.outcome_id
    assert read_outcome(correction, RULES, NOW) == second
    third = read_outcome(correction | {"replaces": second.outcome_id}, RULES, NOW)
    assert len({first.outcome_id, second.outcome_id, third.outcome_id}) == 3


def test_execution_time_goes_by_both_its_names() -> None:
    """Workers say `execution_time`; tables and files say `execution_time_s`."""
    for name in ("execution_time", "execution_time_s"):
        assert read_outcome(LEAST | {name: "2.5"}, RULES, NOW).execution_time_s == 2.5


@pytest.mark.parametrize(
    ("value", "expected"), [(None, True), ("", True), (float("nan"), True), (0, False), (" ", False)]
)
def test_what_files_hold_where_nothing_is(value: Any, expected: bool) -> None:  # noqa: ANN401, FBT001  (a table)
    """Zero is a value."""
    assert is_absent(value) is expected


def test_what_pandas_and_numpy_hold_is_read_as_what_it_means() -> None:
    """A worker that keeps its tasks in a table sends its scalars; what is missing there is missing here."""
    row = LEAST | {
        "attempt": np.int64(2),
        "execution_time": np.float64(2.5),
        "timestamp": pd.Timestamp("2026-01-05T12:00:00.123456789", tz="Europe/Berlin"),
        "domain": pd.NA,
        "propensity": np.nan,
        "pa": np.float32(40),
        "https_enabled": np.bool_(1),
        "shoe_size": np.int32(43),
    }
    outcome = read_outcome(row, RULES, NOW)
    assert (outcome.attempt, outcome.execution_time_s, outcome.domain, outcome.propensity) == (2, 2.5, "", None)
    assert outcome.occurred_at == datetime(2026, 1, 5, 11, 0, 0, 123456, tzinfo=UTC)
    assert type(outcome.occurred_at) is datetime
    assert outcome.features == {"pa": 40.0, "https_enabled": True, "shoe_size": 43}
    assert [type(value) for value in outcome.features.values()] == [float, bool, int]
    assert read_outcome(LEAST | {"timestamp": pd.NaT, "occurred_at": NOW}, RULES, NOW).occurred_at == NOW


def test_a_row_without_fields_is_refused_as_one() -> None:
    """Whatever else is handed in has no fields to name."""
    rows: list[Any] = [("t1", "comment"), "t1", None]
    for row in rows:
        with pytest.raises(SchemaError, match=r"^row: is a \w+; send a mapping of field names to values$"):
            read_outcome(row, RULES, NOW)


_NAMES = [feature.name for feature in CONFIG.schema.features]
_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 102),
    st.integers(),
    st.floats(-2, 102),
    st.floats(),
    st.sampled_from(["blog", " blog ", "none", "", "40", "yes", "a\ud800", "x" * 2_001, "\x00"]),
    st.text(max_size=4),
    st.sampled_from([Decimal("1.5"), np.float64(3.5), np.int64(3), np.bool_(0), np.nan, math.inf, b"x", [1], object()]),
)


@given(
    raw=st.dictionaries(st.sampled_from([*_NAMES, "task_id", "domain"]), _VALUES, max_size=8),
    is_decided=st.booleans(),
    is_strict=st.booleans(),
    requires=st.booleans(),
)
def test_the_quick_way_through_the_features_is_the_slow_one(
    raw: dict[str, Any],
    is_decided: bool,  # noqa: FBT001  (drawn)
    is_strict: bool,  # noqa: FBT001
    requires: bool,  # noqa: FBT001
) -> None:
    """Whatever a row holds: the same features in the same order and types, the same JSON, or the same refusal."""
    features = tuple(replace(f, required=requires and f.name == "pa") for f in CONFIG.schema.features)
    reader, told = FeatureReader(features, FIXED_FIELDS), []
    for _ in range(2):  # the second time its texts are known by heart
        try:
            read = reader.read(raw, is_decided=is_decided, is_strict=is_strict)
            assert msgspec.json.encode(read) == msgspec.json.encode(plain(read))
            told.append(repr(plain(read)))
        except SchemaError as error:
            told.append(str(error))
    try:
        told.append(repr(_by_hand(features, raw, is_decided=is_decided)))
    except SchemaError as error:
        told.append(str(error))
    assert len(set(told)) == 1


def _by_hand(features: tuple[Feature, ...], raw: dict[str, Any], *, is_decided: bool) -> dict[str, Any]:
    found = {}
    for feature in features:
        try:
            value = feature.read(raw.get(feature.name))
        except SchemaError:
            if not is_decided:
                raise
            value = None
        if value is not None:
            found[feature.name] = value
    return found


@given(st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.timezones()))  # noqa: DTZ001  (the drawn one is aware)
def test_keys_stay_what_they_were(moment: datetime) -> None:
    """An outcome that was stored by an earlier version and is sent again is a duplicate: its key has not changed."""
    content = f"t1\x1f1\x1f{moment.astimezone(UTC).isoformat()}"
    assert derive_outcome_id("t1", 1, None, moment) == "t-" + hashlib.sha256(content.encode()).hexdigest()[:32]
