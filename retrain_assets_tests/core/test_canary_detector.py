from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from retrain_assets.core.canary import LimitDetector


def test_the_value_is_the_mean_of_the_restarted_products() -> None:
    """M <- (M + 1) e per alternative, computed plainly, outside of logs."""
    detector, m = LimitDetector(0.75), np.zeros(7)
    p = expit(logit(0.75) - np.array([0.15, 0.3, 0.5, 0.75, 1, 1.4, 2]))
    for n, good in [(20, 15), (21, 9), (20, 12), (3, 3)]:
        detector = detector.update(n, good)
        m = (m + 1) * (p / 0.75) ** good * ((1 - p) / 0.25) ** (n - good)
    assert detector.value == pytest.approx(m.mean(), rel=1e-10)
    assert detector.blocks == 4


def test_a_detector_without_data_is_at_0_and_idle_ticks_leave_it_there() -> None:
    """Time passes in blocks of tasks alone."""
    detector = LimitDetector(0.75)
    assert detector.value == 0.0
    assert not detector.is_alarm
    assert detector.update(0, 0) == detector


def test_false_alarms_at_the_limit_are_at_least_the_threshold_apart() -> None:
    """The mean run of a production exactly at the limit is at least the threshold, in blocks."""
    threshold, runs, seed = 60.0, 120, 31
    rng = np.random.default_rng(seed)
    lengths = []
    for _ in range(runs):
        detector = LimitDetector(0.75, threshold)
        while not detector.is_alarm and detector.blocks < 2000:
            detector = detector.update(20, int(rng.binomial(20, 0.75)))
        lengths.append(detector.blocks)
    error = np.std(lengths) / math.sqrt(runs)
    print(f"seed {seed}: mean run {np.mean(lengths):.0f} +- {error:.0f} blocks at threshold {threshold:.0f}")
    assert np.mean(lengths) + 3 * error >= threshold
    assert max(lengths) < 2000 or np.mean(lengths) >= threshold


def test_a_production_well_within_its_limit_raises_no_alarm() -> None:
    """0.85 against 0.75 for 3,000 blocks."""
    rng, detector = np.random.default_rng(32), LimitDetector(0.75)
    for good in rng.binomial(20, 0.85, 3000).tolist():
        detector = detector.update(20, good)
        assert not detector.is_alarm


def test_a_fall_is_found_soon_however_long_all_went_well() -> None:
    """0.85 falls to 0.60 after 1,000 blocks; the limit is 0.75: median delay at most 16 blocks of 20."""
    runs, seed = 40, 33
    rng, long_good = np.random.default_rng(seed), LimitDetector(0.75)
    for good in rng.binomial(20, 0.85, 1000).tolist():
        long_good = long_good.update(20, good)
    delays = []
    for _ in range(runs):
        detector = long_good
        while not detector.is_alarm:
            detector = detector.update(20, int(rng.binomial(20, 0.60)))
        delays.append(detector.blocks - 1000)
    print(f"seed {seed}: median delay {np.median(delays)} blocks, longest {max(delays)}")
    assert np.median(delays) <= 16


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=12))
def test_a_detector_survives_json_exactly(blocks: list[tuple[int, int]]) -> None:
    """to_json and from_json are inverse, to the last bit."""
    detector = LimitDetector(0.9, 500.0)
    for n, good in blocks:
        detector = detector.update(max(n, good), good)
    assert LimitDetector.from_json(detector.to_json()) == detector


def test_a_total_failure_stays_a_finite_number() -> None:
    """Ten thousand blocks without a good event do not overflow."""
    detector = LimitDetector(0.75)
    for _ in range(10_000):
        detector = detector.update(20, 0)
    assert math.isfinite(detector.value)
    assert detector.is_alarm


@pytest.mark.parametrize(("limit", "threshold", "match"), [(0.0, 10.0, "limit must"), (0.75, 1.0, "threshold must")])
def test_a_detector_out_of_range_is_refused(limit: float, threshold: float, match: str) -> None:
    """The message names the field."""
    with pytest.raises(ValueError, match=match):
        LimitDetector(limit, threshold)


def test_impossible_counts_are_refused() -> None:
    """More good events than tasks cannot be."""
    with pytest.raises(ValueError, match="n=3, good=4"):
        LimitDetector(0.75).update(3, 4)


def test_a_detector_of_an_unknown_format_is_refused() -> None:
    """A newer version's state is not misread."""
    with pytest.raises(ValueError, match="format 1"):
        LimitDetector.from_json("[]")
