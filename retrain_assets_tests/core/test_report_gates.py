"""The gates per action and about the data, and the paired comparison under them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from retrain_assets.core.drift import drift, label_drift, profile
from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.core.leakage import Leak, LeakReport
from retrain_assets.core.metrics import compare
from retrain_assets.core.model import ParityResult
from retrain_assets.core.paired import compare_groups, holm, paired_mean
from retrain_assets.core.report import DataFacts, HeldOut, ReportPolicy, Rival, build_report
from retrain_assets.core.report_gates import (
    GATES,
    action_gate,
    data_drift_gate,
    has_enough_rows,
    label_drift_gate,
    leakage_gate,
    staleness_gate,
)

POLICY = ReportPolicy(validation_threshold=0.0)
SCHEMA = FeatureSchema((Feature("pa", FeatureType.NUMBER),), ("a", "b", "c", "d"))
NAMES = np.array(["a", "b", "c", "d"])


def logit(p: np.ndarray) -> np.ndarray:
    """Log-odds."""
    return np.asarray(np.log(p / (1 - p)))


def blurred(p: np.ndarray, rng: np.random.Generator, scale: float = 0.4) -> np.ndarray:
    """The same probabilities with noise on their log-odds."""
    return np.asarray(1 / (1 + np.exp(-logit(p) - scale * rng.normal(size=len(p)))))


def truth(rows: int, seed: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, the successes drawn from them, and one of four actions each."""
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-rng.normal(size=rows)))
    return rng, p, rng.random(rows) < p, NAMES[np.arange(rows) % 4]


def by_action(candidate: np.ndarray, rival: np.ndarray, success: np.ndarray, action: np.ndarray) -> dict[str, Any]:
    """The comparison that the gate judges, every row a task."""
    return compare_groups(candidate, rival, success, action, np.arange(len(success)).astype(str))


# ------------------------------------------------------------------------------------------------------- comparing


def test_the_paired_mean_agrees_with_the_bootstrap() -> None:
    """Mean, error and interval of 600 rows, each task tried up to three times."""
    print("seed 0")
    rng, p, success, _ = truth(600, 0)
    task = np.repeat(np.arange(300), rng.choice([1, 2, 3], 300))[:600].astype(str)
    p, success = p[: len(task)], success[: len(task)]
    other = blurred(p, rng)
    resampled = compare(p, other, success, task=task, resamples=2_000)
    loss = {name: -np.where(success, np.log(q), np.log1p(-q)) for name, q in (("p", p), ("other", other))}
    found = paired_mean(loss["other"] - loss["p"], task)
    assert found.tasks == len(set(task)) < found.rows
    assert found.mean == pytest.approx(resampled.improvement, rel=1e-6)
    assert found.standard_error == pytest.approx(resampled.standard_error, rel=0.08)
    assert found.low == pytest.approx(resampled.low, abs=0.1 * (found.high or 0.0) + 0.004)


def test_the_paired_mean_of_little_or_nothing_claims_nothing() -> None:
    """No rows, one task, and rows that do not differ: no p-value of significance."""
    assert (paired_mean(np.zeros(0)).mean, paired_mean(np.zeros(0)).p_worse) == (None, 1.0)
    assert paired_mean(np.array([-1.0, -2.0]), ["t", "t"]).p_worse == 1.0
    same = paired_mean(np.zeros(50))
    assert (same.low, same.high, same.p_worse, same.detectable) == (0.0, 0.0, 1.0, 0.0)


def test_one_sided_p_values_are_uniform_when_nothing_differs() -> None:
    """Of 2,000 samples of 30 skewed differences with mean 0, 3 to 8 % are called worse at 5 %."""
    print("seed 1")
    rng = np.random.default_rng(1)
    called = sum(paired_mean(rng.gamma(4.0, size=30) - 4.0).p_worse < 0.05 for _ in range(2_000))
    print(called)
    assert 60 <= called <= 160


def test_holm_is_the_published_procedure() -> None:
    """Holm (1979): limits 0.05/4, 0.05/3, ...; after the first that fails nothing counts."""
    assert holm({"a": 0.010, "b": 0.04, "c": 0.012, "d": 0.6}, 0.05) == pytest.approx({"a": 0.0125, "c": 0.05 / 3})
    assert holm({"a": 0.02, "b": 0.001}, 0.05) == pytest.approx({"b": 0.025, "a": 0.05})
    assert holm({}, 0.05) == {}


# ------------------------------------------------------------------------------------------------------- per action


def test_a_candidate_as_good_as_production_in_every_action_is_seldom_refused() -> None:
    """Over 300 seeds of 400 rows and four actions at most 6 %: many actions are no reason to refuse more often."""
    print("seeds 0 to 299")
    refused = 0
    for seed in range(300):
        rng, p, success, action = truth(400, seed)
        rows = by_action(blurred(p, rng), blurred(p, rng), success, action)
        refused += not action_gate(rows, POLICY).passed
    print(f"{refused} of 300")
    assert refused <= 18


def test_one_action_that_got_worse_is_found_though_the_others_got_better() -> None:
    """On the whole it is no worse; the gate names the action, its interval and its p-value."""
    print("seeds 0 to 19")
    found = 0
    for seed in range(20):
        rng, p, success, action = truth(2_000, seed)
        candidate = np.where(action == "c", blurred(p, rng, 1.6), p)
        rows = by_action(candidate, blurred(p, rng, 0.8), success, action)
        gate = action_gate(rows, POLICY)
        found += not gate.passed
        if not gate.passed:
            assert gate.message.startswith("c is shown to be worse than production: log loss -0.")
            assert "p = " in gate.message
    print(f"{found} of 20")
    assert found >= 12


def test_actions_with_few_rows_are_not_judged_and_do_not_block() -> None:
    """Thirty test rows of four actions: none is judged however bad; the message says what is missing."""
    _, p, success, action = truth(30, 3)
    gate = action_gate(by_action(1 - p, p, success, action), POLICY)
    assert gate.passed
    assert gate.message.startswith("no action has 30 test tasks with both results; too few rows to judge a (8 tasks)")
    assert has_enough_rows({"tasks": 30, "rows": 30, "successes": 5})
    assert not has_enough_rows({"tasks": 30, "rows": 30, "successes": 4})
    assert not has_enough_rows({"tasks": 29, "rows": 60, "successes": 30})


def test_the_rows_say_what_they_can_show() -> None:
    """Also when nothing is wrong; and a proven difference below the margin refuses nobody."""
    rng, p, success, action = truth(400, 4)
    assert "the rows can show 0." in action_gate(by_action(p, blurred(p, rng), success, action), POLICY).message
    rows = by_action(p, p, success, action)
    for row in rows.values():
        row |= {"improvement": -0.009, "p_worse": 1e-9}
    assert action_gate(rows, POLICY).passed
    for row in rows.values():
        row["improvement"] = -0.011
    assert not action_gate(rows, POLICY).passed


def test_without_production_groups_stand_beside_the_constant_guess() -> None:
    """And the gate has nothing to refuse; with it, groups name the version, and rare strata are left out."""
    _, p, success, action = truth(200, 5)
    stratum = np.array([f"s{min(place, 150)}" for place in range(200)])
    held_out = HeldOut(success, action, stratum, np.arange(200).astype(str))
    arguments: dict[str, Any] = {"policy": POLICY, "data": DataFacts(0.5), "schema": SCHEMA}
    arguments["parity"] = ParityResult(0.0, 10)
    alone = build_report(held_out, p, **arguments)
    assert alone.groups["reference"] == "constant guess"
    assert next(g for g in alone.gates if g.name == "not_worse_per_action").value is None
    both = build_report(held_out, p, production=Rival("v1.0.0", p**2), previous=Rival("v1.0.1", p), **arguments)
    assert both.groups["reference"] == "v1.0.0"
    assert set(both.groups["by_action"]) == set(NAMES)
    assert (len(both.groups["by_stratum"]), both.groups["strata_left_out"]) == (40, 111)
    assert both.groups["by_stratum"]["s150"]["rows"] == 50
    assert both.previous_version == "v1.0.1"
    assert both.previous_comparisons[0]["improvement"] == 0.0
    assert tuple(item.name for item in both.gates) == GATES


# ------------------------------------------------------------------------------------------------------- data


def test_a_leak_fails_the_report_with_its_reason_and_the_feature() -> None:
    """What is only told passes, and is told; no limit means no search."""
    leak = Leak("published_at", "presence", 0.4, 0.0, 300, "published_at is present in 300 rows")
    told = Leak("forum", "one_action", 0.99, 0.98, 90, "forum alone decides about forum", is_certain=False)
    refused = leakage_gate(LeakReport((leak, told), {"pa": 0.61}, 900, 100), POLICY)
    assert not refused.passed
    assert refused.message.startswith("published_at is present in 300 rows; take it out of problem.features")
    assert (refused.value, refused.limit) == (0.61, 0.98)
    passed = leakage_gate(LeakReport((told,), {"pa": 0.61}, 900, 100), POLICY)
    assert passed.passed
    assert "have a look: forum alone decides about forum" in passed.message
    assert leakage_gate(None, POLICY).passed
    assert leakage_gate(LeakReport((leak,), {}, 1, 1), ReportPolicy(leakage_auc=None)).passed


def shifted(rows: int, by: float, rate: float, seed: int) -> pd.DataFrame:
    """Rows of one feature and one action."""
    rng = np.random.default_rng(seed)
    result = np.where(rng.random(rows) < rate, "success", "failure")
    return pd.DataFrame({"feature_pa": rng.normal(by, size=rows), "action": "a", "result": result})


def test_drift_is_told_always_and_refuses_only_beyond_a_limit_that_is_set() -> None:
    """The number is there without a limit; with one the message names the features, and chance does not reach it."""
    before = profile(shifted(2_000, 0.0, 0.7, 0), SCHEMA)
    strict = ReportPolicy(max_psi=0.2, max_label_shift=0.1)
    for by, rate, is_moved in ((0.0, 0.7, False), (1.0, 0.4, True)):
        after = shifted(2_000, by, rate, 1)
        features, labels = drift(before, after, SCHEMA), label_drift(before, after)
        gates = [data_drift_gate(features, POLICY), label_drift_gate(labels, POLICY)]
        assert all(gate.passed and gate.value is not None and gate.limit is None for gate in gates)
        assert ("1 of 1 features moved" in gates[0].message) is is_moved
        assert data_drift_gate(features, strict).passed is not is_moved
        assert label_drift_gate(labels, strict).passed is not is_moved
    few = shifted(12, 0.0, 0.7, 2)
    found = drift(before, few, SCHEMA)
    assert (found[0].psi or 0) > 0.05
    assert data_drift_gate(found, ReportPolicy(max_psi=0.01)).passed
    assert data_drift_gate(None, strict).message == "there is no data of a production model to compare with"
    assert label_drift_gate(None, strict).passed


def test_a_stale_production_warns_and_never_refuses_its_successor() -> None:
    """Refusing the newer version would keep the old one."""
    strict = ReportPolicy(max_staleness_weeks=4)
    found = staleness_gate(6.0, strict)
    assert (found.passed, found.is_refusing, found.verdict) == (False, False, "warning")
    assert "6 weeks before the candidate's, 4 are allowed" in found.message
    assert staleness_gate(4.0, strict).verdict == "passed"
    assert staleness_gate(None, strict).passed
    _, p, success, action = truth(400, 6)
    held_out = HeldOut(success, action, np.full(400, "s"), np.arange(400).astype(str))
    data = DataFacts(0.5, staleness_weeks=6.0)
    report = build_report(held_out, p, policy=ReportPolicy(validation_threshold=0, max_staleness_weeks=4), data=data,
                          schema=SCHEMA, parity=ParityResult(0.0, 10))  # fmt: skip
    assert report.passed
    assert report.summary == "passed all gates"
