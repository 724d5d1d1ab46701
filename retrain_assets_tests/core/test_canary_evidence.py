from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import binom

from retrain_assets.core.canary import METRICS, RELATIVE_WEIGHTS, CanaryPolicy, Cell, Evidence

POLICY = CanaryPolicy()
PSI = -np.array([0.15, 0.3, 0.5, 0.75, 1, 1.4, 2])


def reference(updates: list[list[Cell]], planned: int) -> float:
    """One metric's e-value after `updates`, written straight from the formulas of the rule, outside of logs."""
    m, spent = np.zeros(7), 0.0
    tasks: dict[str, int] = {}
    good: dict[str, int] = {}
    for t, cells in enumerate(updates, start=1):
        e = np.ones(7)
        for c in cells:
            b = (good.get(c.stratum, 0) + 4.5) / (tasks.get(c.stratum, 0) + 5)
            q_c = expit(logit(b) + PSI)
            q_0 = (c.n_canary * q_c + c.n_production * b) / (c.n_canary + c.n_production)
            e *= (q_c / q_0) ** c.y_canary * ((1 - q_c) / (1 - q_0)) ** (c.n_canary - c.y_canary)
            e *= (b / q_0) ** c.y_production * ((1 - b) / (1 - q_0)) ** (c.n_production - c.y_production)
        for c in cells:
            tasks[c.stratum] = tasks.get(c.stratum, 0) + c.n_production
            good[c.stratum] = good.get(c.stratum, 0) + c.y_production
        w = 0.0 if t > planned else 1 / (2 * planned) + (0.5 if t == 1 else 0)
        spent += w
        m = (m + w) * e
    return float(m.mean() + 1 - spent)


def random_updates(rng: np.random.Generator, steps: int, strata: tuple[str, ...] = ("a", "b")) -> list[list[Cell]]:
    """Blocks of a canary that is worse, of one or two strata a step."""
    updates = []
    for _ in range(steps):
        cells = []
        for stratum in strata[: int(rng.integers(1, len(strata) + 1))]:
            n_c, n_p = int(rng.integers(1, 6)), int(rng.integers(1, 30))
            cells.append(Cell("success", stratum, n_c, int(rng.binomial(n_c, 0.6)), n_p, int(rng.binomial(n_p, 0.85))))
        updates.append(cells)
    return updates


def after(updates: list[list[Cell]], policy: CanaryPolicy = POLICY) -> Evidence:
    """Evidence after these steps."""
    evidence = Evidence.start(policy)
    for cells in updates:
        evidence = evidence.update(cells)
    return evidence


cell_strategy = st.builds(
    lambda metric, stratum, step, n_c, n_p, part_c, part_p: Cell(
        metric, stratum, n_c, round(n_c * part_c), n_p, round(n_p * part_p), step
    ),
    st.sampled_from(METRICS),
    st.sampled_from(
        ["blog", "forum", 'a "quoted" ü'],
    ),
    st.integers(0, 2),
    st.integers(0, 8),
    st.integers(0, 40),
    st.floats(0, 1),
    st.floats(0, 1),
)
updates_strategy = st.lists(st.lists(cell_strategy, max_size=6), max_size=6)


def test_evidence_starts_at_exactly_1() -> None:
    """Before any data every e-value is 1, to the last bit."""
    start = Evidence.start(POLICY)
    assert (start.relative, start.absolute) == (1.0, 1.0)
    assert set(start.by_metric.values()) == set(start.by_limit.values()) == {1.0}
    assert math.fsum(RELATIVE_WEIGHTS.values()) == 1.0


def test_one_block_weighs_what_the_formula_says() -> None:
    """2 canary tasks, 0 good; 18 production tasks, 15 good; b = 0.9: worked out by hand for psi = -2 alone.

    q_c = 0.9 e^-2 / (0.1 + 0.9 e^-2) = 0.549147, q_0 = (2 q_c + 18 * 0.9) / 20 = 0.864915, so that
    e = (0.450853 / 0.135085)^2 * (0.9 / 0.864915)^15 * (0.1 / 0.135085)^3
      = 11.1392 * 1.81568 * 0.405673 = 8.2048.
    """
    evidence = after([[Cell("success", "blog", 2, 0, 18, 15)]])
    weight = 0.5 + 1 / 2000
    assert math.exp(evidence.states["success"].log_m[-1]) == pytest.approx(weight * 8.2048, rel=1e-4)


@pytest.mark.parametrize("planned", [1, 5, 1000])
def test_many_blocks_weigh_what_a_straightforward_computation_gives(planned: int) -> None:
    """Sixty steps of one or two strata, also beyond the planned number of steps, agree with plain products."""
    updates = random_updates(np.random.default_rng(5), 60)
    evidence = after(updates, CanaryPolicy(planned_ticks=planned))
    assert evidence.by_metric["success"] == pytest.approx(reference(updates, planned), rel=1e-9)
    assert evidence.relative == pytest.approx(0.6 * reference(updates, planned) + 0.4, rel=1e-9)


def test_the_relative_evidence_is_the_weighted_mean_of_the_metrics() -> None:
    """Weights: success 0.6, error 0.2, error_early 0.1, each latency 0.05; a metric without data stays at 1."""
    cells = [Cell(metric, "blog", 4, 1, 36, 33) for metric in ("success", "error", "latency_p99")]
    evidence = after([cells, cells])
    e = reference([cells[:1], cells[:1]], POLICY.planned_ticks)
    assert evidence.by_metric["error_early"] == 1.0
    assert evidence.relative == pytest.approx((0.6 + 0.2 + 0.05) * e + 0.15, rel=1e-9)


@pytest.mark.parametrize(("theta_canary", "theta_production"), [(0.85, 0.85), (0.3, 0.3), (0.99, 0.99), (0.9, 0.7)])
def test_the_expectation_of_a_block_is_at_most_1_when_the_canary_is_no_worse(
    theta_canary: float, theta_production: float
) -> None:
    """Exactly, over every outcome of 3 canary and 9 production tasks, whatever production did before."""
    before = after([[Cell("success", "blog", 1, 1, 30, 24)]])
    expected = 0.0
    for own, other in itertools.product(range(4), range(10)):
        chance = binom.pmf(own, 3, theta_canary) * binom.pmf(other, 9, theta_production)
        expected += chance * before.update([Cell("success", "blog", 3, own, 9, other)]).by_metric["success"]
    assert expected <= before.by_metric["success"] + 1e-12


def test_the_e_process_of_equal_arms_rarely_ever_reaches_100() -> None:
    """Ville: at most 1 % of runs, however often one looks; and its mean stays at most 1."""
    runs, blocks, seed = 600, 60, 21
    rng = np.random.default_rng(seed)
    own, other = rng.binomial(2, 0.85, (runs, blocks)), rng.binomial(18, 0.85, (runs, blocks))
    reached, ends = 0, []
    for run in range(runs):
        evidence, top = Evidence.start(replace(POLICY, planned_ticks=blocks)), 0.0
        for a, b in zip(own[run].tolist(), other[run].tolist(), strict=True):
            evidence = evidence.update([Cell("success", "blog", 2, a, 18, b)])
            top = max(top, evidence.log_metric("success"))
        reached += top >= math.log(100)
        ends.append(math.exp(evidence.log_metric("success")))
    error = np.std(ends) / math.sqrt(runs)
    print(f"seed {seed}: {reached} of {runs} reached 100; mean at the end {np.mean(ends):.3f} +- {error:.3f}")
    assert reached / runs <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / runs)
    assert np.mean(ends) <= 1 + 3 * error


def test_the_order_of_cells_in_a_step_is_without_effect() -> None:
    """Production's rate comes from earlier steps, also for two blocks of the same stratum in one step."""
    cells = [Cell("success", "a", 2, 0, 18, 15), Cell("success", "b", 3, 1, 17, 17), Cell("success", "a", 2, 2, 20, 9)]
    values = [after([list(order)]).relative for order in itertools.permutations(cells)]
    assert values == pytest.approx([values[0]] * 6, rel=1e-12)


def test_no_cells_change_nothing() -> None:
    """An idle tick is no step."""
    evidence = after([[Cell("success", "blog", 2, 1, 18, 15)]])
    assert evidence.update([]) == evidence


def test_an_empty_arm_carries_no_evidence_and_spends_no_weight() -> None:
    """Its tasks count, for production's rate and for the limits, but the comparison does not move."""
    evidence = after([[Cell("success", "blog", 0, 0, 20, 15)], [Cell("success", "blog", 4, 0, 0, 0)]])
    assert evidence.relative == 1.0
    assert evidence.production_rate("success", "blog") == pytest.approx((15 + 4.5) / 25)
    assert evidence.total("success") == (4, 0, 20, 15)
    assert evidence.by_limit["success"] > 1


def test_counts_are_kept_per_metric_stratum_and_step() -> None:
    """Two steps of a ramp are two cells of the stratified comparison."""
    evidence = after([[Cell("success", "blog", 2, 1, 18, 15)], [Cell("success", "blog", 5, 4, 15, 11, step=1)]])
    assert evidence.tables("success") == [(2, 1, 18, 15), (5, 4, 15, 11)]
    assert evidence.rates["success"]["n_canary"] == 7


def test_response_times_are_held_against_their_limit_only() -> None:
    """A slow canary moves E_abs; E_rel leaves `response_time` to the latency metrics."""
    evidence = after([[Cell("response_time", "blog", 100, 50, 900, 890)]])
    assert evidence.relative == 1.0
    assert evidence.absolute > 1e6


def test_the_limits_together_are_their_mean() -> None:
    """E_abs = (E_success + E_error + E_response_time) / 3."""
    cells = [Cell("success", "a", 20, 12, 80, 70), Cell("error", "a", 20, 17, 80, 79)]
    evidence = after([cells])
    assert evidence.absolute == pytest.approx(sum(evidence.by_limit.values()) / 3)
    assert evidence.by_limit["response_time"] == 1.0


def test_twenty_thousand_blocks_of_a_broken_canary_stay_finite() -> None:
    """Everything is computed in logs; what is reported is capped, so that it stays JSON."""
    evidence = Evidence.start(POLICY)
    for _ in range(20_000):
        evidence = evidence.update([Cell("success", "blog", 2, 0, 18, 18)])
    assert evidence.log_relative > 10_000
    assert all(math.isfinite(value) for value in (evidence.relative, evidence.absolute, *evidence.by_metric.values()))
    assert Evidence.from_json(evidence.to_json()) == evidence


def test_twenty_thousand_blocks_of_a_better_canary_end_near_zero_without_an_error() -> None:
    """The e-value of a canary that is better shrinks towards zero and stays a positive number."""
    evidence = Evidence.start(CanaryPolicy(planned_ticks=10))
    for _ in range(2_000):
        evidence = evidence.update([Cell("success", "blog", 10, 10, 10, 5)])
    assert 0 <= evidence.by_metric["success"] < 1e-100
    assert evidence.relative == pytest.approx(0.4)


@given(updates_strategy)
def test_evidence_survives_json_exactly(updates: list[list[Cell]]) -> None:
    """to_json and from_json are inverse, to the last bit, and the copy goes on alike."""
    evidence = after(updates, CanaryPolicy(planned_ticks=3, alpha=0.05))
    copy = Evidence.from_json(evidence.to_json())
    assert copy == evidence
    more = [Cell("error", "blog", 1, 0, 9, 9)]
    assert copy.update(more) == evidence.update(more)
    assert json.loads(evidence.to_json())["format"] == 1


def test_evidence_of_an_unknown_format_is_refused() -> None:
    """A newer version's state is not misread."""
    text = json.dumps({**json.loads(Evidence.start(POLICY).to_json()), "format": 2})
    with pytest.raises(ValueError, match="format 1"):
        Evidence.from_json(text)


@pytest.mark.parametrize(
    ("counts", "match"),
    [
        ((2, 3, 18, 15), "0 <= good <= tasks"),
        ((2, 1, 18, 19), "0 <= good <= tasks"),
        ((-1, -1, 18, 15), "0 <= good <= tasks"),
        ((2.5, 1, 18, 15), "n_canary must be a whole number, got 2.5"),
        ((2, 1, float("nan"), 15), "n_production must be a whole number"),
    ],
)
def test_impossible_counts_are_refused(counts: tuple[int, int, int, int], match: str) -> None:
    """A cell is checked when it is made, with the field and value named."""
    with pytest.raises(ValueError, match=match):
        Cell("success", "blog", *counts)


def test_an_unknown_metric_is_refused_and_the_known_ones_are_named() -> None:
    """A misspelt metric cannot silently carry no weight."""
    with pytest.raises(ValueError, match="unknown metric 'succes'; known are success, error"):
        Cell("succes", "blog", 2, 1, 18, 15)


def test_counts_from_numpy_become_plain_integers() -> None:
    """So that the evidence stays JSON."""
    counts: list[Any] = list(np.array([2, 1, 18, 15]))
    cell = Cell("success", "blog", *counts)
    assert type(cell.n_canary) is int
    assert Evidence.from_json(after([[cell]]).to_json()) == after([[cell]])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", 0.0),
        ("margin", 1.0),
        ("error_margin", -0.1),
        ("min_canary_outcomes", 0),
        ("block_tasks", 1),
        ("planned_ticks", 0),
        ("max_missing_share", 1.5),
        ("min_success_rate", 1.0),
        ("max_error_rate", 0.0),
        ("max_response_time_ms", 0.0),
        ("evidence", "some"),
    ],
)
def test_a_policy_out_of_range_is_refused_by_name(field: str, value: float | str) -> None:
    """The message names the field."""
    fields: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match=f"^{field} must"):
        CanaryPolicy(**fields)


def test_the_policys_defaults_are_the_published_ones() -> None:
    """Every field has the default of config/retrain.yaml."""
    assert CanaryPolicy() == CanaryPolicy(
        alpha=0.01,
        margin=0.03,
        error_margin=0.02,
        min_canary_outcomes=10,
        block_tasks=20,
        planned_ticks=1000,
        max_missing_share=0.2,
        min_success_rate=0.80,
        max_error_rate=0.05,
        max_response_time_ms=100,
        evidence="auto",
    )
    assert CanaryPolicy().relative_threshold == pytest.approx(111.11, abs=0.01)
    assert CanaryPolicy().absolute_threshold == pytest.approx(1000)
