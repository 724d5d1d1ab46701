"""Features at the door: typed or refused by name; and how two schemas relate."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_assets.core.features import (
    Feature,
    FeatureSchema,
    FeatureType,
    SchemaChange,
    compare_schemas,
    general_reason,
    shown,
)
from retrain_assets.errors import SchemaError

PA = Feature("pa", FeatureType.NUMBER, 0, 100)
DEPTH = Feature("depth", FeatureType.INTEGER, 0)
HTTPS = Feature("https", FeatureType.BOOLEAN)
SITE = Feature("site", FeatureType.CATEGORY)
SCHEMA = FeatureSchema((PA, DEPTH, HTTPS, SITE), ("comment", "forum"), ("site",))


@pytest.mark.parametrize(
    ("feature", "value", "expected"),
    [
        (PA, 40, 40.0),
        (PA, "40.5", 40.5),
        (PA, 0, 0.0),
        (PA, 100, 100.0),
        (DEPTH, 3.0, 3),
        (DEPTH, "3", 3),
        (DEPTH, "3.0", 3),
        (DEPTH, 9007199254740993, 9007199254740993),
        (DEPTH, "9007199254740993", 9007199254740993),
        (DEPTH, Decimal("3.00"), 3),
        (PA, Decimal("40.5"), 40.5),
        (PA, np.float32(0.5), 0.5),
        (PA, np.int64(40), 40.0),
        (DEPTH, np.uint8(3), 3),
        (HTTPS, np.bool_(False), False),
        (HTTPS, "1.0", True),
        (HTTPS, Decimal(0), False),
        (SITE, np.str_("blog"), "blog"),
        (SITE, np.int64(7), "7"),
        (HTTPS, True, True),
        (HTTPS, 0, False),
        (HTTPS, " Yes ", True),
        (HTTPS, "F", False),
        (SITE, " blog ", "blog"),
        (SITE, 7, "7"),
        (SITE, "Füße", "Füße"),
    ],
)
def test_values_are_read_in_the_features_type(feature: Feature, value: Any, expected: Any) -> None:  # noqa: ANN401
    """As they come from workers, CSV files and JSON."""
    read = feature.read(value)
    assert read == expected
    assert type(read) is type(expected)


@pytest.mark.parametrize(
    "value",
    [None, math.nan, "", "  ", "null", "NaN", "None", "n/a", "<NA>", pd.NA, pd.NaT, np.float64("nan"), Decimal("sNaN")],
)
def test_a_missing_value_is_missing_in_every_type(value: Any) -> None:  # noqa: ANN401
    """And refused only where it is required."""
    for feature in SCHEMA.features:
        assert feature.read(value) is None
        with pytest.raises(SchemaError, match=f"^{feature.name}: is required, but missing$"):
            replace(feature, required=True).read(value)


@pytest.mark.parametrize(
    ("feature", "value", "message"),
    [
        (PA, -0.001, "is outside 0 to 100"),
        (PA, 100.1, "is outside 0 to 100"),
        (PA, math.inf, "is not finite"),
        (PA, True, "is a boolean, not a number"),
        (PA, [1], "is not a number"),
        (PA, 10**400, "is not a number"),
        (PA, "1_0", "is not a number"),
        (PA, b"40", "is not a number"),
        (PA, 10**5000, "<int> is not a number"),
        (PA, Decimal("1E+999999999"), "is not finite"),
        (PA, np.datetime64("2026-01-05"), "is not a number"),
        (PA, np.timedelta64(5, "ns"), "is not a number"),
        (PA, np.array([40.0]), "is not a number"),
        (DEPTH, math.inf, "is not finite"),
        (DEPTH, 1.5, "is not a whole number"),
        (DEPTH, -1, "is outside 0 to inf"),
        (HTTPS, 2, "is not a boolean"),
        (HTTPS, "maybe", "is not a boolean"),
        (SITE, True, "is not a category"),
        (SITE, 1.5, "is not a category"),
        (SITE, Decimal("1.5"), "is not a category"),
        (SITE, 10**5000, "is too large for a whole number of 64 bits"),
        (SITE, "x" * 2_001, "has 2001 characters"),
        (SITE, "\ud800", "cannot be written as UTF-8"),
        (replace(SITE, categories=("blog", "forum")), "shop", "is not one of blog, forum"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str | float) else str(value)[:30],
)
def test_what_does_not_fit_is_refused_by_name(feature: Feature, value: Any, message: str) -> None:  # noqa: ANN401
    """With the value, shortened, and what would be right."""
    with pytest.raises(SchemaError, match=f"^{feature.name}: .*{message}") as caught:
        feature.read(value)
    assert caught.value.field == feature.name
    assert len(str(caught.value)) < 200


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers())))
def test_whatever_comes_is_read_twice_alike_or_refused(value: Any) -> None:  # noqa: ANN401
    """What was read reads as itself: a row that was stored can be read again."""
    for feature in SCHEMA.features:
        with contextlib.suppress(SchemaError):
            read = feature.read(value)
            assert feature.read(read) == read


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("it's", '"it\'s"'),
        ("x" * 100, "'" + "x" * 55 + "'..."),
        ("a\nb", "'a\\nb'"),
        ([1] * 100, "[" + "1, " * 18 + "1,..."),
        (np.array([[1], [2]]), "array([[1],        [2]])"),
        (10**5000, "<int>"),
    ],
    ids=["text", "long text", "lines", "list", "array", "huge"],
)
def test_a_refusal_shows_a_value_in_one_short_line(value: Any, text: str) -> None:  # noqa: ANN401
    """Quotes are closed, so that the value ends where a reader thinks it does."""
    assert shown(value) == text
    assert len(shown(value)) <= 62


@pytest.mark.parametrize(
    "value",
    [101, -1.5, "perhaps", "it is what it is", "it's", "x" * 100, [1, 2], {"a": 1}, object(), 10**5000, b"x y"],
    ids=lambda value: type(value).__name__,
)
def test_a_reason_can_be_told_without_its_value(value: Any) -> None:  # noqa: ANN401
    """So that a million rows with the same fault are one reason."""
    for fault in (
        "is not a number",
        "is not one of blog, forum",
        "lies before 1970",
        "has no offset from UTC; add one",
    ):
        assert general_reason(f"{shown(value)} {fault}") == fault


@pytest.mark.parametrize(
    ("reason", "general"),
    [
        ("has 2001 characters; at most 2000 are accepted", "has too many characters; at most 2000 are accepted"),
        ("is required, but missing", "is required, but missing"),
        ("2026-01-05T12:00:00+00:00 lies in the future (now 2026)", "lies in the future"),
        ("holds a NUL character, which no database keeps", "holds a NUL character, which no database keeps"),
    ],
)
def test_a_reason_without_a_value_stays(reason: str, general: str) -> None:
    """Only a length and a clock are left out of it."""
    assert general_reason(reason) == general


def test_a_row_has_every_feature_and_no_other() -> None:
    """Unknown names are the outcome's own matter."""
    assert SCHEMA.read({"pa": "1", "shoe_size": 43}) == {"pa": 1.0, "depth": None, "https": None, "site": None}


def test_the_stratum_is_known_before_the_decision() -> None:
    """Values joined, a missing one said as such, one stratum when none is configured."""
    both = replace(SCHEMA, strata=("site", "https"))
    assert both.stratum({"site": "blog", "https": True}) == "blog|True"
    assert both.stratum({"site": None}) == "missing|missing"
    assert replace(SCHEMA, strata=()).stratum({"site": "blog"}) == ""


def test_a_schema_survives_json_and_keeps_its_fingerprint() -> None:
    """The registry, the artefact and the snapshot name it by that."""
    again = FeatureSchema.from_dict(SCHEMA.to_dict())
    assert again == SCHEMA
    assert again.fingerprint == SCHEMA.fingerprint
    assert SCHEMA.get("pa") == PA
    assert SCHEMA.get("none") is None
    assert SCHEMA.names == ("pa", "depth", "https", "site")


def _with(*features: Feature, actions: tuple[str, ...] = SCHEMA.actions) -> FeatureSchema:
    return FeatureSchema(features, actions, SCHEMA.strata)


@pytest.mark.parametrize(
    ("new", "change", "words"),
    [
        (SCHEMA, SchemaChange.SAME, []),
        (_with(PA, DEPTH, HTTPS), SchemaChange.BREAKING, ["feature site was removed"]),
        (
            _with(PA, replace(DEPTH, type=FeatureType.NUMBER), HTTPS, SITE),
            SchemaChange.BREAKING,
            ["feature depth changed from integer to number"],
        ),
        (
            _with(PA, DEPTH, HTTPS, replace(SITE, required=True)),
            SchemaChange.BREAKING,
            ["feature site became required"],
        ),
        (
            _with(*SCHEMA.features, Feature("da", FeatureType.NUMBER, required=True)),
            SchemaChange.BREAKING,
            ["required feature da was added"],
        ),
        (_with(*SCHEMA.features, actions=("comment",)), SchemaChange.BREAKING, ["action forum was removed"]),
        (_with(*SCHEMA.features, Feature("da", FeatureType.NUMBER)), SchemaChange.COMPATIBLE, ["feature da was added"]),
        (
            _with(*SCHEMA.features, actions=("comment", "forum", "guest")),
            SchemaChange.COMPATIBLE,
            ["action guest was added"],
        ),
        (_with(replace(PA, max=99), DEPTH, HTTPS, SITE), SchemaChange.COMPATIBLE, ["feature pa changed its limits"]),
        (_with(*SCHEMA.features[::-1]), SchemaChange.COMPATIBLE, ["features, actions or strata were reordered"]),
    ],
)
def test_a_change_of_schema_is_told_in_words(new: FeatureSchema, change: SchemaChange, words: list[str]) -> None:
    """Breaking is what callers of the old one cannot live with; anything that differs changes the fingerprint."""
    assert compare_schemas(SCHEMA, new) == (change, words)
    assert (new.fingerprint == SCHEMA.fingerprint) == (change is SchemaChange.SAME)
