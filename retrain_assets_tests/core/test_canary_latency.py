from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_assets.core.canary import LatencyReference
from retrain_assets.core.canary_blocks import Arm

LIMIT_MS = 100.0

decisions_strategy = st.lists(
    st.tuples(st.sampled_from(["canary", "production", "production"]), st.floats(0, 500)), max_size=400
)


def reference_of(latencies: list[float]) -> LatencyReference:
    """A reference that has seen these decisions of production."""
    decisions: list[tuple[Arm, float]] = [("production", latency) for latency in latencies]
    return LatencyReference().grade(decisions, LIMIT_MS)[0]


def test_quantiles_are_those_of_production_within_a_bin() -> None:
    """At most 5 % above numpy's, over five orders of magnitude."""
    latencies = np.random.default_rng(61).lognormal(1, 2, 5000)
    reference = reference_of(latencies.tolist())
    for q in (0.5, 0.95, 0.99):
        exact = float(np.quantile(latencies, q, method="inverted_cdf"))
        told = reference.quantile_ms(q)
        assert told is not None
        assert exact <= told * (1 + 1e-9) <= exact * 1.0501


def test_nothing_is_graded_against_fewer_than_100_decisions() -> None:
    """Before that only the absolute limit is judged."""
    decisions: list[tuple[Arm, float]] = [*[("production", 10.0)] * 100, ("canary", 10.0)]  # type: ignore[list-item]
    reference, graded = LatencyReference().grade(decisions, LIMIT_MS)
    assert graded[99] == {"response_time": True}
    assert graded[100] == {"latency_p95": True, "latency_p99": True, "response_time": True}
    assert LatencyReference().quantile_ms(0.95) is None
    assert reference.tasks == 100


@pytest.mark.parametrize(("usual_ms", "slow_above_ms"), [(0.05, 5.05), (100.0, 125.0)])
def test_a_decision_is_slow_only_beyond_the_tolerance(usual_ms: float, slow_above_ms: float) -> None:
    """5 ms for fast decisions, a quarter for slow ones."""
    reference = reference_of([usual_ms] * 100)
    assert reference.slow_above_ms["latency_p95"] == pytest.approx(slow_above_ms, rel=0.05)
    for latency, good in ((slow_above_ms * 0.99, True), (slow_above_ms * 1.06, False)):
        assert reference.grade([("canary", latency)], LIMIT_MS)[1][0]["latency_p95"] is good


def test_the_canary_does_not_move_the_reference() -> None:
    """A slow canary cannot make slowness usual."""
    before = reference_of([1.0] * 100)
    assert before.grade([("canary", 400.0)] * 500, LIMIT_MS)[0] == before


def test_response_time_is_held_against_the_limit() -> None:
    """Up to 100 ms is good, whatever production does."""
    _, graded = LatencyReference().grade([("canary", 100.0), ("canary", 100.1)], LIMIT_MS)
    assert [good["response_time"] for good in graded] == [True, False]


@given(decisions_strategy, st.integers(0, 400))
def test_grades_do_not_depend_on_how_reads_were_batched(decisions: list[tuple[Arm, float]], cut: int) -> None:
    """One read, or two with the state through JSON in between."""
    whole, graded = LatencyReference().grade(decisions, LIMIT_MS)
    half, first = LatencyReference().grade(decisions[:cut], LIMIT_MS)
    end, second = LatencyReference.from_json(half.to_json()).grade(decisions[cut:], LIMIT_MS)
    assert first + second == graded
    assert end == whole


@pytest.mark.parametrize("latency_ms", [-1.0, math.nan])
def test_an_impossible_latency_is_refused(latency_ms: float) -> None:
    """A clock that ran backwards is no fast decision."""
    with pytest.raises(ValueError, match="latency must be a number"):
        LatencyReference().grade([("canary", latency_ms)], LIMIT_MS)


def test_an_endless_decision_is_slow_and_counts() -> None:
    """Infinity falls into the last bin."""
    reference = reference_of([math.inf] * 100)
    assert reference.quantile_ms(0.95) == pytest.approx(1e6, rel=0.1)


def test_a_reference_of_an_unknown_format_is_refused() -> None:
    """A newer version's state is not misread."""
    with pytest.raises(ValueError, match="format 1"):
        LatencyReference.from_json("{}")
