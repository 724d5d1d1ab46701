from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from retrain_assets.core import canary_math


def test_wilson_bounds_of_8_in_10_are_the_textbook_ones() -> None:
    """The 95 % Wilson interval of 8 in 10, z = 1.96, is 0.490 to 0.943."""
    assert canary_math.wilson_bounds(10, 8, 1.959964) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


def test_wilson_bounds_without_tasks_know_nothing() -> None:
    """No data spans everything, so it proves nothing in either direction."""
    assert canary_math.wilson_bounds(0, 0) == (0.0, 1.0)


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_wilson_bounds_hold_the_rate_and_stay_rates(n: int, rate: float) -> None:
    """0 <= lower <= rate <= upper <= 1 for every count."""
    good = round(n * rate)
    low, high = canary_math.wilson_bounds(n, good)
    assert 0 <= low <= good / n + 1e-12
    assert good / n - 1e-12 <= high <= 1


@pytest.mark.parametrize("limit", [0.8, 0.95, 0.3])
@pytest.mark.parametrize(
    ("n", "good"), [(1, 0), (1, 1), (20, 13), (20, 20), (60, 0), (115, 92), (300, 240), (300, 297)]
)
def test_limit_evidence_is_the_mean_likelihood_below_the_limit(n: int, good: int, limit: float) -> None:
    """The closed form equals the integral it stands for: mean over p below p0 of L(p) / L(p0)."""

    def ratio(p: float) -> float:
        return math.exp(stats.binom.logpmf(good, n, p) - stats.binom.logpmf(good, n, limit))

    # The integrand's peak, when it lies inside, is given to the integrator as a breakpoint.
    peak = [good / n] if 0 < good / n < limit else None
    expected = integrate.quad(ratio, 0, limit, points=peak, epsabs=0, epsrel=1e-10, limit=200)[0] / limit
    assert math.exp(canary_math.log_limit_evidence(n, good, limit)) == pytest.approx(expected, rel=1e-8)


def test_limit_evidence_is_1_without_tasks_and_finite_for_millions() -> None:
    """Logs keep it a number where the likelihoods have long under- or overflowed."""
    assert canary_math.log_limit_evidence(0, 0, 0.8) == 0.0
    assert canary_math.log_limit_evidence(2_000_000, 1_000_000, 0.8) == pytest.approx(
        2_000_000 * (0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)), rel=1e-4
    )
    assert -30 < canary_math.log_limit_evidence(2_000_000, 1_900_000, 0.8) < 0
    assert math.isfinite(canary_math.log_limit_evidence(2_000_000, 1_600_000, 0.8))


def test_limit_evidence_has_expectation_1_at_the_limit() -> None:
    """Exactly, over every outcome of 40 tasks at the limit; and less above it."""
    n, limit = 40, 0.8
    values = [math.exp(canary_math.log_limit_evidence(n, good, limit)) for good in range(n + 1)]
    assert np.dot(stats.binom.pmf(range(n + 1), n, limit), values) == pytest.approx(1, abs=1e-9)
    assert np.dot(stats.binom.pmf(range(n + 1), n, 0.85), values) < 0.9


@given(st.integers(1, 3000), st.floats(0, 1), st.floats(0.01, 0.99))
def test_the_share_test_is_twice_the_smaller_exact_binomial_tail(n: int, part: float, share: float) -> None:
    """It agrees with scipy's binomial tails on any count."""
    k = round(n * part)
    tails = stats.binom.sf(k - 1, n, share), stats.binom.cdf(k, n, share)
    assert canary_math.binomial_two_sided(n, k, share) == pytest.approx(min(1, 2 * min(tails)), rel=1e-6, abs=1e-9)


def test_the_difference_of_one_cell_is_newcombes_hybrid_score_bound() -> None:
    """56 of 70 against 48 of 80 at z = 1.96: Newcombe (1998) prints 0.0524 for method 10."""
    assert canary_math.difference_lower_bound([(70, 56, 80, 48)], 1.959964) == pytest.approx(0.0524, abs=5e-5)


def test_the_difference_has_no_value_without_a_cell_that_holds_both_arms() -> None:
    """No data is None and never a number that could pass a margin."""
    assert canary_math.difference_lower_bound([], 1.645) is None
    assert canary_math.difference_lower_bound([(0, 0, 50, 40), (7, 7, 0, 0)], 1.645) is None


def test_a_mix_that_differs_between_arms_does_not_move_the_difference() -> None:
    """Equal arms, the canary with the hard tasks: pooled rates differ by 0.26, the stratified bound stays near 0."""
    tables = [(900, 540, 1000, 600), (100, 92, 9000, 8280)]
    bound = canary_math.difference_lower_bound(tables, 1.645)
    assert bound is not None
    assert -0.05 < bound < 0


@pytest.mark.parametrize(
    ("n_canary", "canary", "production", "margin"),
    [(1000, 0.82, 0.85, 0.03), (100, 0.96, 0.98, 0.02), (300, 0.96, 0.98, 0.02), (30, 0.82, 0.85, 0.03)],
)
def test_a_canary_worse_by_the_margin_passes_in_at_most_one_of_twenty(
    n_canary: int, canary: float, production: float, margin: float
) -> None:
    """Also at the small counts of errors, where the plain normal bound lets 8 to 11 % pass."""
    runs, seed = 4000, 11
    rng = np.random.default_rng(seed)
    y_canary = rng.binomial(n_canary, canary, runs)
    y_production = rng.binomial(9 * n_canary, production, runs)
    passed = 0
    for own, other in zip(y_canary.tolist(), y_production.tolist(), strict=True):
        bound = canary_math.difference_lower_bound([(n_canary, own, 9 * n_canary, other)], canary_math.Z_ONE_SIDED_95)
        passed += bound is not None and bound > -margin
    print(f"seed {seed}: {passed} of {runs} passed")
    assert passed / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_sparse_strata_do_not_make_a_difference_look_certain() -> None:
    """Sixty strata of two canary tasks each: a canary worse by the margin still passes in at most one of twenty."""
    runs, strata, seed = 1500, 60, 12
    rng = np.random.default_rng(seed)
    rates = rng.uniform(0.6, 0.95, strata)
    passed = 0
    for _ in range(runs):
        own, other = rng.binomial(2, rates - 0.03), rng.binomial(18, rates)
        tables = [(2, int(a), 18, int(b)) for a, b in zip(own, other, strict=True)]
        bound = canary_math.difference_lower_bound(tables, canary_math.Z_ONE_SIDED_95)
        passed += bound is not None and bound > -0.03
    print(f"seed {seed}: {passed} of {runs} passed")
    assert passed / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_productions_bound_is_taken_at_the_canarys_mix() -> None:
    """Production does 0.9 over all, but 0.6 on the tasks the canary got: its bound is told for those."""
    assert canary_math.production_lower_bound([(900, 0, 1000, 600), (10, 0, 9000, 8400)]) < 0.61
    one = canary_math.production_lower_bound([(50, 0, 450, 400)])
    assert one == pytest.approx(canary_math.wilson_bounds(450, 400)[0])
    assert canary_math.production_lower_bound([]) == 0.0
