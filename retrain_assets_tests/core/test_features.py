"""Features at the door: typed or refused by name; and how two schemas relate."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_assets.core.features import Feature, FeatureSchema, FeatureType, SchemaChange, compare_schemas
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


@pytest.mark.parametrize("value", [None, math.nan, "", "  ", "null", "NaN", "None", "n/a"])
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
        (DEPTH, 1.5, "is not a whole number"),
        (DEPTH, -1, "is outside 0 to inf"),
        (HTTPS, 2, "is not a boolean"),
        (HTTPS, "maybe", "is not a boolean"),
        (SITE, True, "is not a category"),
        (SITE, 1.5, "is not a category"),
        (SITE, "x" * 2_001, "has 2001 characters"),
        (SITE, "\ud800", "cannot be written as UTF-8"),
        (replace(SITE, categories=("blog", "forum")), "shop", "is not one of blog, forum"),
    ],
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
