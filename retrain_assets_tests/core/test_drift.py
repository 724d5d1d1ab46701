from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from retrain_assets.core.drift import (
    DriftLevel,
    DriftLimits,
    FeatureDrift,
    Profile,
    drift,
    label_drift,
    profile,
    psi,
    psi_noise,
    total_drift,
)
from retrain_assets.core.drift_profile import ActionCount
from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.errors import SchemaError

SCHEMA = FeatureSchema(
    (
        Feature("pa", FeatureType.NUMBER),
        Feature("depth", FeatureType.INTEGER),
        Feature("https", FeatureType.BOOLEAN),
        Feature("site", FeatureType.CATEGORY),
        Feature("host", FeatureType.CATEGORY),
    ),
    ("comment", "forum"),
)
SITE_SHARES = np.array([0.5, 0.2, 0.12, 0.08, 0.05, 0.03, 0.01, 0.005, 0.003, 0.002])
HOST_SHARES = 1 / np.arange(1, 5_001.0) ** 1.2
HOST_SHARES /= HOST_SHARES.sum()
SEED = 20261123


def tasks(rng: np.random.Generator, rows: int) -> pd.DataFrame:
    """Tasks of one and the same kind: a number that is missing at times, ties, rare values, a long tail."""
    pa = rng.normal(40, 10, rows)
    pa[rng.random(rows) < 0.1] = math.nan
    action = np.array(["comment", "forum"])[(rng.random(rows) < 0.3).astype(int)]
    return pd.DataFrame(
        {
            "feature_pa": pa,
            "feature_depth": rng.poisson(1.5, rows).astype(float),
            "feature_https": (rng.random(rows) < 0.05).astype(float),
            "feature_site": np.array(list("abcdefghij"), dtype=object)[rng.choice(10, rows, p=SITE_SHARES)],
            "feature_host": rng.choice(5_000, rows, p=HOST_SHARES).astype(str).astype(object),
            "action": action,
            "result": np.where(rng.random(rows) < 0.8, "success", "failure"),
        }
    )


def one(kind: FeatureType, name: str = "x", **limits: Any) -> FeatureSchema:  # noqa: ANN401  (a Feature's fields)
    """A schema of one feature."""
    return FeatureSchema((Feature(name, kind, **limits),), ("comment",))


def numbers(before: Any, after: Any) -> FeatureDrift:  # noqa: ANN401  (any values)
    """The drift of one number."""
    schema = one(FeatureType.NUMBER)
    return drift(profile(pd.DataFrame({"x": before}), schema), pd.DataFrame({"x": after}), schema)[0]


def categories(before: Any, after: Any) -> FeatureDrift:  # noqa: ANN401  (any values)
    """The drift of one category."""
    schema, frames = (
        one(FeatureType.CATEGORY),
        [pd.DataFrame({"x": pd.Series(v, dtype=object)}) for v in (before, after)],
    )
    return drift(profile(frames[0], schema), frames[1], schema)[0]


def value(number: float | None) -> float:
    """A number that must have been measured."""
    assert number is not None
    return number


# ----------------------------------------------------------------------------------------------------------- PSI


def test_psi_is_the_formula() -> None:
    """Half and half becoming 80 to 20 is 0.3 ln 4; half a row is added to each bin unless told otherwise."""
    assert psi([50, 50], [80, 20], smoothing=0) == pytest.approx(0.3 * math.log(4))
    p, q = 50.5 / 101, 80.5 / 101
    assert psi([50, 50], [80, 20]) == pytest.approx((q - p) * math.log(q / p) + (p - q) * math.log((1 - q) / (1 - p)))
    assert psi([50, 50], [100, 0], smoothing=0) == math.inf
    assert psi([50, 50], [0, 0]) == 0
    with pytest.raises(ValueError, match="the same bins, got 2 and 3"):
        psi([1, 2], [1, 2, 3])


COUNTS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=12)


@given(COUNTS, st.randoms(use_true_random=False))
def test_psi_has_no_direction_no_order_and_no_sign(bins: list[tuple[int, int]], rng: Any) -> None:  # noqa: ANN401  (random.Random)
    """Before and after may be exchanged, bins shuffled, empty ones added; equal shares give 0."""
    before, after = (list(side) for side in zip(*bins, strict=True))
    found = psi(before, after)
    assert found >= 0
    assert psi(after, before) == pytest.approx(found)
    assert psi([*before, 0], [*after, 0]) == pytest.approx(found)
    order = rng.sample(range(len(bins)), len(bins))
    assert psi([before[i] for i in order], [after[i] for i in order]) == pytest.approx(found)
    assert psi(before, before) == 0


def test_the_noise_level_is_what_samples_without_drift_show() -> None:
    """4,000 pairs of samples: the mean is (bins - 1) (1/n + 1/m), and 5 % lie above the 95 % level."""
    rng, shares, n, m = np.random.default_rng(SEED), np.array([0.3, 0.2, 0.2, 0.15, 0.1, 0.05]), 2_000, 1_000
    pairs = [(rng.multinomial(n, shares), rng.multinomial(m, shares)) for _ in range(4_000)]
    found = np.array([psi(*pair) for pair in pairs])
    above = float(np.mean(found > psi_noise(*pairs[0])))
    print(f"seed {SEED}: mean {found.mean():.5f}, expected {5 * (1 / n + 1 / m):.5f}, above the level {above:.4f}")
    assert found.mean() == pytest.approx(5 * (1 / n + 1 / m), rel=0.04)
    assert 0.037 < above < 0.063
    assert psi_noise([5, 0], [7, 0]) == 0


# ----------------------------------------------------------------------------------------------------- simulated


@pytest.mark.parametrize(
    ("before", "after", "seeds"), [(30, 30, 100), (3_000, 30, 50), (300, 300, 50), (3_000, 3_000, 15)]
)
def test_without_drift_there_is_seldom_an_alarm(before: int, after: int, seeds: int) -> None:
    """Five features of equal samples: each at most about 1 in 20, all together by `total_drift` as well."""
    alarms: Counter[str] = Counter()
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        found = drift(profile(tasks(rng, before), SCHEMA), tasks(rng, after), SCHEMA)
        alarms.update(item.name for item in found if item.is_drifted)
        alarms.update(f"{item.name} KS" for item in found if item.is_ks_above_limit)
        alarms["total"] += total_drift(found).is_drifted
    print(f"seeds 0 to {seeds - 1}, {before} and {after} rows, share of false alarms:")
    print({name: number / seeds for name, number in alarms.items()})
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / seeds)
    assert max(alarms.values()) <= allowed * seeds
    assert before < 3_000 or after < 3_000 or not sum(alarms.values())


def test_a_stated_shift_is_found() -> None:
    """A number moved by one standard deviation: always with 300 rows, mostly with 30; 0.43 of one is a notice."""
    rng, found = np.random.default_rng(SEED), Counter[str]()
    reference = profile(pd.DataFrame({"x": rng.normal(size=5_000)}), one(FeatureType.NUMBER))
    for _ in range(60):
        for rows, shift in ((300, 1.0), (30, 1.0), (3_000, 0.43)):
            sample = pd.DataFrame({"x": rng.normal(shift, 1, rows)})
            item = drift(reference, sample, one(FeatureType.NUMBER))[0]
            found[f"{rows} rows by {shift}"] += item.level is not DriftLevel.NONE
            found[f"{rows} rows by {shift}, KS"] += item.is_ks_above_limit
            assert rows < 3_000 or item.level is DriftLevel.NOTICE
    print(f"seed {SEED}, of 60: {dict(found)}")
    assert found["300 rows by 1.0"] == found["300 rows by 1.0, KS"] == found["3000 rows by 0.43, KS"] == 60
    assert found["30 rows by 1.0"] >= 40


def test_a_category_that_grows_and_values_that_go_missing_are_found() -> None:
    """Not only numbers drift."""
    grown = categories(["a"] * 900 + ["b"] * 100, ["a"] * 600 + ["b"] * 400)
    assert grown.is_drifted
    assert grown.new_categories == ()
    lost = numbers(np.arange(500.0), np.where(np.arange(500) % 3 == 0, np.nan, np.arange(500)))
    assert lost.is_drifted
    assert lost.missing_share_before == 0
    assert lost.missing_share_after == pytest.approx(167 / 500)
    assert value(lost.ks) < 0.01  # what is there has not moved


def test_many_rows_make_a_small_p_value_of_a_difference_that_matters_to_nobody() -> None:
    """Why the p-value is no limit: 0.05 standard deviations in 100,000 rows."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    found = numbers(rng.normal(size=100_000), rng.normal(0.05, 1, 100_000))
    assert value(found.ks_p_value) < 1e-9
    assert not found.is_ks_above_limit
    assert found.level is DriftLevel.NONE


def test_the_total_asks_for_more_the_more_features_there_are() -> None:
    """An alarm that one feature alone could give by luck is not one of forty features."""
    alone = FeatureDrift(name="x", psi=0.6, psi_noise=0.5, psi_p_value=0.02, level=DriftLevel.DRIFT)
    quiet = FeatureDrift(name="y", psi=0.0, psi_noise=0.5, psi_p_value=1.0, level=DriftLevel.NONE)
    assert total_drift([alone]).is_drifted
    many = total_drift([quiet] * 39 + [alone])
    assert not many.is_drifted
    assert (many.compared, many.drifted, many.worst) == (40, ("x",), "x")
    assert total_drift([]).psi_mean is None


# -------------------------------------------------------------------------------------------------- numbers, bins


def test_ks_is_the_exact_statistic_up_to_the_sketch() -> None:
    """Never above scipy's, at most 0.005 below it; equal with up to 200 rows; the p-value is close."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    for rows, digits in ((150, 9), (150, 0), (4_000, 9), (4_000, 0)):
        before, after = np.round(rng.normal(size=rows), digits), np.round(rng.normal(0.1, 1.1, 700), digits)
        exact, found = stats.ks_2samp(before, after, method="asymp"), numbers(before, after)
        assert exact.statistic - 0.005 <= value(found.ks) <= exact.statistic + 1e-12
        assert rows > 200 or found.ks == pytest.approx(exact.statistic)
        assert digits == 0 or value(found.ks_p_value) == pytest.approx(exact.pvalue, abs=0.03)


def test_any_growing_change_of_scale_leaves_a_numbers_drift_as_it_is() -> None:
    """Bins and distance depend on ranks alone, and the order of the rows on nothing."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    before, after = rng.normal(size=1_234), rng.normal(0.3, 1, 567)
    found = numbers(before, after)
    assert numbers(np.exp(before), np.exp(after)) == found
    assert numbers(rng.permutation(before), rng.permutation(after)) == found


def test_new_names_for_categories_change_nothing() -> None:
    """The counts matter, not the words."""
    before, after = ["a"] * 60 + ["b"] * 30 + ["c"] * 10, ["a"] * 30 + ["b"] * 30 + ["c"] * 40
    renamed = [[{"a": "x", "b": "k", "c": "A"}[name] for name in side] for side in (before, after)]
    assert categories(*renamed).psi == pytest.approx(value(categories(before, after).psi))


def test_a_value_that_holds_a_tenth_of_the_rows_has_a_bin_of_its_own() -> None:
    """So a pile that moves to the next value, either side, is seen; and a constant that stays is not."""
    pile = np.concatenate([np.full(400, 5.0), np.linspace(10, 20, 600)])
    for neighbour in (4.99, 5.01):
        assert numbers(pile, np.where(pile == 5, neighbour, pile)).is_drifted
    for other in (4.0, 6.0):
        moved = numbers(np.full(100, 5.0), np.full(100, other))
        assert moved.is_drifted
        assert moved.ks == 1
    same = numbers(np.full(100, 5.0), np.full(70, 5.0))
    assert (same.psi, same.psi_noise, same.ks, same.psi_p_value, same.level) == (0, 0, 0, 1, DriftLevel.NONE)


# -------------------------------------------------------------------------------------------------- many categories


def test_ten_thousand_categories_make_no_alarm_and_replaced_ones_do() -> None:
    """Most present categories may never have been seen; only more new ones than usual are drift."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    before, after = (rng.integers(0, 10_000, rows).astype(str) for rows in (3_000, 1_000))
    quiet = categories(before, after)
    assert value(quiet.new_share) > 0.5
    assert quiet.level is DriftLevel.NONE
    full = np.repeat(np.arange(10_000).astype(str), 3)
    assert categories(full, rng.permutation(full)[:1_000]).new_share == 0
    replaced = categories(full, [f"new {name}" for name in full[:1_000]])
    assert replaced.is_drifted
    assert replaced.new_share == 1
    assert len(replaced.new_categories) == 20


def test_a_profile_stays_small() -> None:
    """30,000 names are kept as 10,000, a number as 201 points, whatever the number of rows."""
    schema = FeatureSchema((Feature("x", FeatureType.NUMBER), Feature("c", FeatureType.CATEGORY)), ("comment",))
    names = np.array([f"host {i % 30_000}.example" for i in range(60_000)], dtype=object)
    kept = profile(pd.DataFrame({"x": np.arange(60_000.0), "c": names}), schema).to_dict()["features"]
    assert len(kept["x"]["points"]) == 201
    assert (len(kept["c"]["counts"]), kept["c"]["beyond"]) == (10_000, 40_000)
    assert len(json.dumps(kept["x"])) < 8_000


# -------------------------------------------------------------------------------------------------------- profiles


def test_a_stored_profile_gives_the_same_numbers() -> None:
    """JSON there and back, to the last bit, for features and labels."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    reference, present = profile(tasks(rng, 700), SCHEMA), tasks(rng, 300)
    stored = Profile.from_dict(json.loads(json.dumps(reference.to_dict(), sort_keys=True)))
    assert stored == reference
    assert drift(stored, present, SCHEMA) == drift(reference, present, SCHEMA)
    assert label_drift(stored, present) == label_drift(reference, present)
    json.dumps([item.to_dict() for item in drift(stored, present, SCHEMA)], allow_nan=False)
    json.dumps([total_drift(drift(stored, present, SCHEMA)).to_dict(), label_drift(stored, present).to_dict()])


def test_two_profiles_compare_almost_like_profile_and_rows() -> None:
    """Categories exactly; numbers with KS from 0.0075 below to 0.0025 above the exact one, and PSI within 0.01."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    rows = tasks(rng, 3_000)
    present = tasks(rng, 2_000).assign(feature_pa=rng.normal(43, 11, 2_000))
    exact = drift(profile(rows, SCHEMA), present, SCHEMA)
    found = drift(profile(rows, SCHEMA), profile(present, SCHEMA), SCHEMA)
    for sketched, plain in zip(found, exact, strict=True):
        assert value(sketched.psi) == pytest.approx(value(plain.psi), abs=0.01)
    assert found[2:] == exact[2:]
    statistic = stats.ks_2samp(rows["feature_pa"].dropna(), present["feature_pa"]).statistic
    assert statistic - 0.0075 <= value(found[0].ks) <= statistic + 0.0025


def test_a_sample_does_not_drift_from_itself() -> None:
    """Nor does its profile, with ties, missing values and a long tail."""
    print(f"seed {SEED}")
    rows = tasks(np.random.default_rng(SEED), 900)
    for present in (rows, profile(rows, SCHEMA)):
        found = drift(profile(rows, SCHEMA), present, SCHEMA)
        assert all(item.psi == pytest.approx(0, abs=1e-9) for item in found[:4])
        assert not any(item.is_drifted or item.new_categories for item in found[:4])
        assert [item.ks for item in found[:2]] == [0, 0]


def test_arrow_columns_objects_and_plain_names_are_read_alike() -> None:
    """However a frame stores its values."""
    print(f"seed {SEED}")
    rows = tasks(np.random.default_rng(SEED), 200)
    expected = profile(rows, SCHEMA)
    assert profile(rows.convert_dtypes(dtype_backend="pyarrow"), SCHEMA) == expected
    assert profile(rows.rename(columns=lambda name: name.removeprefix("feature_")), SCHEMA) == expected
    truth = rows.assign(feature_https=[bool(v) for v in rows["feature_https"]]).astype({"feature_https": object})
    assert profile(truth, SCHEMA) == expected
    gaps = rows.assign(feature_pa=[None if math.isnan(v) else v for v in rows["feature_pa"]])
    assert profile(gaps.astype({"feature_pa": object}), SCHEMA) == expected


def test_a_profile_of_an_unknown_format_or_shape_is_refused() -> None:
    """A newer version's profile is not misread."""
    kept = profile(pd.DataFrame({"x": [1.0, 2.0]}), one(FeatureType.NUMBER)).to_dict()
    with pytest.raises(ValueError, match="has format 2, this version reads 1"):
        Profile.from_dict({**kept, "format": 2})
    kept["features"]["x"]["below"] = [0]
    with pytest.raises(ValueError, match="finite points with one count each"):
        Profile.from_dict(kept)


# ------------------------------------------------------------------------------------------------------ odd samples


def test_what_is_new_gone_or_of_another_type_is_said_and_not_judged() -> None:
    """A changed schema is for the schema gate; drift names it and goes on."""
    old = FeatureSchema((Feature("a", FeatureType.NUMBER), Feature("b", FeatureType.NUMBER)), ("comment",))
    new = FeatureSchema((Feature("b", FeatureType.CATEGORY), Feature("c", FeatureType.NUMBER)), ("comment",))
    rows = pd.DataFrame({"a": np.arange(50.0), "b": np.arange(50.0), "c": np.arange(50.0)})
    reference, today = profile(rows, old), rows.assign(b="text")
    for present in (today, profile(today, new)):
        found = drift(reference, present, new)
        notes = {item.name: item.note for item in found}
        assert notes == {
            "b": "changed from number to category",
            "c": "the reference does not have it",
            "a": "gone from the schema",
        }
        assert {item.level for item in found} == {DriftLevel.NOT_COMPARED}
        assert total_drift(found).compared == 0
    missing = drift(reference, profile(rows[["a"]], one(FeatureType.NUMBER, "a")), old)[1]
    assert missing.note == "the present profile does not have it"


def test_an_integer_that_became_a_number_is_still_compared() -> None:
    """Both are numbers; no one needs to retrain to see their drift."""
    rows = pd.DataFrame({"x": np.arange(100.0)})
    found = drift(profile(rows, one(FeatureType.INTEGER)), rows + 0.5, one(FeatureType.NUMBER))[0]
    assert found.psi is not None
    assert found.level is DriftLevel.NONE


def test_samples_of_no_row_and_of_one_row_give_no_alarm() -> None:
    """Zero rows cannot be compared; these single rows are not above the noise."""
    many = np.arange(100.0)
    assert numbers([], many).note == "no rows in the reference"
    assert numbers(many, []).note == "no rows in the present"
    for before, after in (([1e9], many), (many, [1e9]), ([1.0], [2.0])):
        found = numbers(before, after)
        assert found.level is DriftLevel.NONE
        assert value(found.psi_noise) >= value(found.psi)
    assert categories(["a"], ["b"]).level is DriftLevel.NONE
    assert categories(["a"], ["b"]).new_categories == ("b",)


def test_a_feature_that_is_all_missing_is_compared_by_that_alone() -> None:
    """Missing before and now is no drift; missing now only is a large one; there is no KS without values."""
    nothing, many = [math.nan] * 100, np.arange(100.0)
    same = numbers(nothing, nothing)
    assert (same.level, same.psi, same.ks, same.missing_share_after) == (DriftLevel.NONE, 0, None, 1)
    for before, after in ((many, nothing), (nothing, many)):
        assert numbers(before, after).is_drifted
        assert numbers(before, after).ks is None
    schema = one(FeatureType.CATEGORY)
    absent = drift(profile(pd.DataFrame({"x": ["a"] * 100}), schema), pd.DataFrame({"y": range(100)}), schema)[0]
    assert absent.is_drifted
    assert absent.new_share is None
    assert numbers([*many, math.inf], many).missing_share_before == pytest.approx(1 / 101)


def test_a_value_of_a_wrong_type_is_named() -> None:
    """The feature's name is in the error."""
    with pytest.raises(SchemaError, match="x: holds a value that is not a number"):
        profile(pd.DataFrame({"x": ["tall"]}), one(FeatureType.NUMBER))
    with pytest.raises(SchemaError, match="x: 'maybe' is not a boolean"):
        profile(pd.DataFrame({"x": ["maybe"]}), one(FeatureType.BOOLEAN))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"psi_notice": 0.3}, "psi_notice must lie"),
        ({"ks": 2}, "ks must lie"),
        ({"noise_quantile": 1}, "noise_quantile"),
    ],
)
def test_limits_out_of_range_are_refused(changes: dict[str, float], match: str) -> None:
    """The message names the field."""
    with pytest.raises(ValueError, match=match):
        DriftLimits(**changes)


def test_limits_decide_what_is_told() -> None:
    """The same difference is a drift, a notice or nothing."""
    schema, before = one(FeatureType.CATEGORY), pd.DataFrame({"x": ["a"] * 500 + ["b"] * 500})
    after = pd.DataFrame({"x": ["a"] * 700 + ["b"] * 300})  # 0.2 ln (7/3) = 0.17
    levels = [
        drift(profile(before, schema), after, schema, DriftLimits(psi_notice=notice, psi_drift=limit))[0].level
        for notice, limit in ((0.1, 0.15), (0.1, 0.25), (0.2, 0.25))
    ]
    assert levels == [DriftLevel.DRIFT, DriftLevel.NOTICE, DriftLevel.NONE]


# ------------------------------------------------------------------------------------------------------------ labels


def outcomes(counts: dict[str, tuple[int, int]]) -> pd.DataFrame:
    """Rows with `n` tasks of each action, of which `good` succeeded."""
    action = np.repeat(np.array([*counts], dtype=object), [n for _, n in counts.values()])
    result = [text for good, n in counts.values() for text in ["success"] * good + ["error"] * (n - good)]
    return pd.DataFrame({"action": action, "result": np.array(result, dtype=object)})


EMPTY = FeatureSchema((), ("comment", "forum"))


def test_success_rates_and_the_mix_are_compared_with_their_uncertainty() -> None:
    """48 of 80 against 56 of 70 is Newcombe's own example; its interval is 0.0524 to 0.3339."""
    before, after = (
        outcomes({"comment": (48, 80), "forum": (10, 20)}),
        outcomes({"comment": (56, 70), "guest": (5, 30)}),
    )
    for present in (after, profile(after, EMPTY)):
        found = label_drift(profile(before, EMPTY), present)
        comment, forum, guest = found.by_action
        assert comment.difference == pytest.approx(0.2)
        assert comment.low == pytest.approx(0.0524, abs=5e-5)
        assert comment.high == pytest.approx(0.3339, abs=5e-5)
        assert comment.is_shown
        assert (forum.name, forum.before, forum.after, forum.difference, forum.is_shown) == (
            "forum",
            0.5,
            None,
            None,
            False,
        )
        assert (guest.rows_before, guest.rows_after) == (0, 30)
        assert found.overall.difference == pytest.approx(0.03)
        assert not found.overall.is_shown
        assert found.mix_distance == pytest.approx(0.3)
        assert found.is_mix_shifted


def test_without_a_shift_rates_and_mix_stay_within_their_bounds() -> None:
    """2,000 pairs of samples of 150 rows: at most one in twenty outside, for the rate about that."""
    rng, outside, shifted, runs = np.random.default_rng(SEED), 0, 0, 2_000
    for _ in range(runs):
        before, after = (
            Profile(
                150,
                {},
                {},
                tuple(ActionCount(f"action {i}", n, int(rng.binomial(n, 0.8))) for i, n in enumerate(sizes)),
            )
            for sizes in rng.multinomial(150, [0.5, 0.3, 0.2], 2).tolist()
        )
        found = label_drift(before, after)
        outside += found.overall.is_shown
        shifted += found.is_mix_shifted
    print(f"seed {SEED}: rate outside {outside / runs:.3f}, mix shifted {shifted / runs:.3f}")
    assert 0.035 < outside / runs < 0.065
    assert 0.001 < shifted / runs < 0.05


def test_rows_without_labels_or_without_rows_have_no_label_drift() -> None:
    """None, never a number."""
    reference = profile(outcomes({"comment": (5, 10)}), EMPTY)
    for present in (pd.DataFrame({"x": [1]}), outcomes({"comment": (0, 0)})):
        found = label_drift(reference, present)
        assert (found.overall.after, found.overall.difference, found.mix_distance) == (None, None, None)
    unnamed = pd.DataFrame({"action": [None, "comment"], "result": ["success", None]})
    assert [item.action for item in profile(unnamed, EMPTY).actions] == ["comment", "missing"]
