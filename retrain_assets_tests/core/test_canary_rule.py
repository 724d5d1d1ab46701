"""The whole rule against simulated truth: buffer, evidence and verdict together, on tasks drawn one by one.

Few runs here, so that a broken rule is found in seconds; `benchmarks/canary.py` measures the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from retrain_assets.core.canary import BlockBuffer, CanaryPolicy, Context, Evidence, MaturedTask, VerdictKind, weigh

POLICY = CanaryPolicy(planned_ticks=200)
SEED = 51
Floats = NDArray[np.float64]

# Shared values: a simulated stream only refers to them.
TASKS = [
    [
        [MaturedTask(stratum, 0, arm, {"success": result == 0, "error": result != 2}) for result in range(3)]
        for arm in ("production", "canary")
    ]
    for stratum in ("easy", "hard")
]


def rollback_at(
    rng: np.random.Generator,
    production: Floats,
    canary: Floats,
    *,
    error: tuple[float, float] = (0.02, 0.02),
    share: Floats | float = 0.1,
    stratum: NDArray[np.int64] | None = None,
) -> int | None:
    """Canary outcomes at which the rule rolls back, given each task's success rate in both arms; None for never."""
    n = len(production)
    arm = (rng.random(n) < share).astype(int)
    u = rng.random(n)
    fails = (u >= np.where(arm == 1, canary, production)).astype(int)
    errs = u >= 1 - np.where(arm == 1, error[1], error[0])
    places = np.zeros(n, dtype=int) if stratum is None else stratum
    results = np.where(errs, 2, fails)
    codes = zip(places.tolist(), arm.tolist(), results.tolist(), strict=True)
    _, blocks = BlockBuffer(POLICY.block_tasks).add([TASKS[s][a][r] for s, a, r in codes])
    evidence, verdict = weigh(Evidence.start(POLICY), blocks, POLICY, Context())
    return evidence.total("success").n_canary if verdict.kind is VerdictKind.ROLL_BACK else None


def level(n: int, rate: float) -> Floats:
    """The same rate for every task."""
    return np.full(n, rate)


def equal_085(n: int) -> Floats:
    """Well within the limit."""
    return level(n, 0.85)


def at_the_limit(n: int) -> Floats:
    """Exactly at min_success_rate."""
    return level(n, 0.80)


def dropping(n: int) -> Floats:
    """Something external hits both arms half-way."""
    return np.where(np.arange(n) < n // 2, 0.85, 0.60)


def oscillating(n: int) -> Floats:
    """A daily cycle."""
    return np.asarray(0.85 + 0.10 * np.sin(2 * np.pi * np.arange(n) / (n / 6)))


@pytest.mark.parametrize("rate", [equal_085, at_the_limit, dropping, oscillating])
def test_a_canary_that_is_no_worse_is_hardly_ever_rolled_back(rate: Callable[[int], Floats]) -> None:
    """At most 1 % of runs of 200 blocks, also when both arms drop together or swing."""
    runs, n = 100, 4000
    rng = np.random.default_rng(SEED)
    found = sum(rollback_at(rng, rate(n), rate(n)) is not None for _ in range(runs))
    print(f"seed {SEED}: {found} of {runs} rolled back")
    assert found <= 0.01 * runs + 3 * math.sqrt(0.01 * 0.99 * runs)


def test_a_shift_of_routing_and_mix_is_not_taken_for_harm() -> None:
    """Hard tasks become common and go to the canary four times as often; it is equally good on each kind."""
    runs, n = 100, 4000
    rng = np.random.default_rng(SEED + 1)
    late = np.arange(n) >= n // 2
    found = 0
    for _ in range(runs):
        stratum = (rng.random(n) < np.where(late, 0.8, 0.2)).astype(np.int64)
        rate = np.where(stratum == 1, 0.60, 0.92)
        share = np.where(late, np.where(stratum == 1, 0.2, 0.05), 0.1)
        found += rollback_at(rng, rate, rate, share=share, stratum=stratum) is not None
    print(f"seed {SEED + 1}: {found} of {runs} rolled back")
    assert found <= 0.01 * runs + 3 * math.sqrt(0.01 * 0.99 * runs)


@pytest.mark.parametrize(
    ("canary", "error", "median", "p90"),
    [(0.70, (0.02, 0.02), 120, 220), (0.85, (0.02, 0.15), 90, 160)],
)
def test_a_worse_canary_is_rolled_back_soon(canary: float, error: tuple[float, float], median: int, p90: int) -> None:
    """Success 0.85 -> 0.70, or errors 0.02 -> 0.15: every run, within these canary outcomes."""
    runs, n = 100, 6000
    rng = np.random.default_rng(SEED + 2)
    found = [rollback_at(rng, level(n, 0.85), level(n, canary), error=error) for _ in range(runs)]
    assert None not in found
    delays = np.array(found, dtype=float)
    print(f"seed {SEED + 2}: median {np.median(delays):.0f}, p90 {np.quantile(delays, 0.9):.0f}")
    assert np.median(delays) <= median
    assert np.quantile(delays, 0.9) <= p90


def test_harm_that_begins_late_is_found_almost_as_soon() -> None:
    """After 200 good canary outcomes: the restart weights keep the evidence from sinking out of reach."""
    runs, n = 60, 6000
    rng = np.random.default_rng(SEED + 3)
    canary = np.where(np.arange(n) < 2000, 0.85, 0.65)
    found = [rollback_at(rng, level(n, 0.85), canary) for _ in range(runs)]
    delays = np.array([10**6 if at is None else at - 200 for at in found])
    print(f"seed {SEED + 3}: median delay {np.median(delays):.0f}")
    assert 20 <= np.median(delays) <= 130
