"""How often the canary rule is wrong, and how fast it is right: the numbers the design asks for, measured.

Drives the real `BlockBuffer`, `Evidence`, `weigh` and `judge` on simulated tasks, and in the same runs two rivals: the
threshold on a running mean (the original specification's reading) and a z-test looked at again and again. Prints a
table and writes JSON. Every run has the seed (SEED, row, run), so a row is the same on any number of processes.

    python benchmarks/canary.py --runs 2000
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrain_assets.core.canary import (
    BlockBuffer,
    CanaryPolicy,
    Cell,
    Context,
    Evidence,
    MaturedTask,
    VerdictKind,
    judge,
    plan,
    weigh,
)
from retrain_assets.core.canary_math import wilson_bounds

SEED = 20_261_123
RESULTS = Path(__file__).parent / "results" / "canary.json"
POLICY = CanaryPolicy()
CONTEXT = Context()
STRATA = ("blog", "forum")
READ_TASKS = 1000
"""Tasks read at once; the rule gives the same answer for any number."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

OUTCOMES = ("success", "failure", "late error", "early error")
SPEEDS = ("fast", "over p95", "over p99", "over limit")
"""Decision latency classes, each including the ones before: shares 0.98, 0.015, 0.004, 0.001 in both arms."""


def _good(outcome: str, speed: str) -> dict[str, bool]:
    return {
        "success": outcome == "success",
        "error": "error" not in outcome,
        "error_early": outcome != "early error",
        "latency_p95": speed == "fast",
        "latency_p99": speed in ("fast", "over p95"),
        "response_time": speed != "over limit",
    }


TASKS = [
    MaturedTask(stratum, 0, arm, _good(outcome, speed))  # type: ignore[arg-type]  # product() forgets the literals
    for stratum, arm, outcome, speed in product(STRATA, ("production", "canary"), OUTCOMES, SPEEDS)
]
"""Every task there can be; a simulated stream is a sequence of indices into it."""


@dataclass(frozen=True)
class Stream:
    """One simulated run of tasks, each array as long as the tasks."""

    stratum: Ints
    canary: NDArray[np.bool_]
    outcome: Ints
    speed: Ints

    def tasks(self) -> list[MaturedTask]:
        """The tasks, in order."""
        code = ((self.stratum * 2 + self.canary) * len(OUTCOMES) + self.outcome) * len(SPEEDS) + self.speed
        return [TASKS[index] for index in code.tolist()]


def draw(
    rng: np.random.Generator,
    n: int,
    success: tuple[Floats | float, Floats | float],
    *,
    error: tuple[float, float] = (0.02, 0.02),
    share: Floats | float = 0.1,
    stratum: Ints | None = None,
) -> Stream:
    """Tasks with rates (production, canary); rates may vary by task. Half of the errors show early."""
    canary = rng.random(n) < share
    p_success = np.where(canary, success[1], success[0])
    p_error = np.where(canary, error[1], error[0])
    u = rng.random(n)
    outcome = np.select(
        [u < p_success, u < 1 - p_error, u < 1 - p_error / 2],
        [0, 1, 2],
        default=3,
    )
    speed = rng.choice(4, size=n, p=(0.98, 0.015, 0.004, 0.001))
    places = np.zeros(n, dtype=np.int64) if stratum is None else stratum
    return Stream(places, canary, outcome, speed)


def equal(rng: np.random.Generator, n: int, rate: float) -> Stream:
    """Both arms equally good, all the time."""
    return draw(rng, n, (rate, rate))


def drop_together(rng: np.random.Generator, n: int) -> Stream:
    """Something external takes both arms from 0.85 to 0.60 half-way."""
    rate = np.where(np.arange(n) < n // 2, 0.85, 0.60)
    return draw(rng, n, (rate, rate))


def oscillating(rng: np.random.Generator, n: int) -> Stream:
    """A daily cycle of 0.10 around 0.85, ten times in the run, in both arms."""
    rate = 0.85 + 0.10 * np.sin(2 * np.pi * np.arange(n) / (n / 10))
    return draw(rng, n, (rate, rate))


def mix_shift(rng: np.random.Generator, n: int) -> Stream:
    """Hard tasks become common, and more of them than of the easy ones are routed to the canary."""
    late = np.arange(n) >= n // 2
    stratum = (rng.random(n) < np.where(late, 0.8, 0.2)).astype(np.int64)
    rate = np.where(stratum == 1, 0.60, 0.92)
    share = np.where(late, np.where(stratum == 1, 0.2, 0.05), 0.1)
    return draw(rng, n, (rate, rate), share=share, stratum=stratum)


def worse(
    rng: np.random.Generator,
    n: int,
    success: tuple[float, float] = (0.85, 0.85),
    error: tuple[float, float] = (0.02, 0.02),
    good_canary: int = 0,
) -> Stream:
    """The canary is worse: from the start, or after `good_canary` of its tasks went as well as production's."""
    if not good_canary:
        return draw(rng, n, success, error=error)
    before = draw(rng, n, (success[0], success[0]))
    after = draw(rng, n, success, error=error)
    turn = int(np.searchsorted(np.cumsum(before.canary), good_canary)) + 1
    parts = {
        name: np.concatenate([getattr(before, name)[:turn], getattr(after, name)])
        for name in ("stratum", "canary", "outcome", "speed")
    }
    return Stream(**parts)


def canary_outcomes_to_rollback(stream: Stream, policy: CanaryPolicy = POLICY) -> int | None:
    """Canary outcomes counted when the whole rule rolls back; None when it never does."""
    buffer, evidence, tasks = BlockBuffer(policy.block_tasks), Evidence.start(policy), stream.tasks()
    for start in range(0, len(tasks), READ_TASKS):
        buffer, blocks = buffer.add(tasks[start : start + READ_TASKS])
        evidence, verdict = weigh(evidence, blocks, policy, CONTEXT)
        if verdict.kind is VerdictKind.ROLL_BACK:
            return evidence.total("success").n_canary
    return None


def rivals(stream: Stream) -> dict[str, bool]:
    """Whether each rival rolls back at any look; a look at every 20 canary outcomes."""
    good = stream.outcome == 0
    n_c, s_c = np.cumsum(stream.canary), np.cumsum(good & stream.canary)
    n_p, s_p = np.cumsum(~stream.canary), np.cumsum(good & ~stream.canary)
    mean = s_c / np.maximum(n_c, 1)
    looks = np.searchsorted(n_c, np.arange(20, n_c[-1] + 1, 20))
    pooled = (s_c + s_p)[looks] / (n_c + n_p)[looks]
    deviation = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * (1 / n_c[looks] + 1 / np.maximum(n_p[looks], 1)))
    z = (mean[looks] - s_p[looks] / np.maximum(n_p[looks], 1)) / deviation
    below = mean < POLICY.min_success_rate
    return {
        "seed threshold, n >= 1": bool(np.any(below & (n_c >= 1))),
        "seed threshold, n >= 30": bool(np.any(below & (n_c >= 30))),
        "seed threshold, n >= 100": bool(np.any(below & (n_c >= 100))),
        "peeked z-test at 1 %": bool(np.any(z < -2.326)),
    }


def _rng(row: int, run: int) -> np.random.Generator:
    return np.random.default_rng((SEED, row, run))


def one_rollback(row: int, make: Callable[..., Stream], tasks: int, run: int) -> tuple[int | None, dict[str, bool]]:
    """One run: canary outcomes to the rule's rollback, and what the rivals do on the same tasks."""
    stream = make(_rng(row, run), tasks)
    return canary_outcomes_to_rollback(stream), rivals(stream)


def one_margin(row: int, n_canary: int, canary_rate: float, run: int) -> bool:
    """Whether a canary of `canary_rate` against 0.85 passes the success margin at `n_canary` outcomes."""
    rng, n_production = _rng(row, run), n_canary * 9
    cell = Cell(
        "success", "blog", n_canary, rng.binomial(n_canary, canary_rate), n_production, rng.binomial(n_production, 0.85)
    )
    policy = CanaryPolicy(evidence="non_inferiority")
    verdict = judge(Evidence.start(policy).update([cell]), policy, Context(elapsed_hours=24))
    return not any(failure.startswith("success:") for failure in verdict.evidence.get("failed", ["success:"]))


def one_ramp(row: int, tasks_per_hour: float, run: int) -> str:
    """A whole trial of an equal canary: three ramp steps, maturity delay, 5 % missing, two looks each."""
    rng = _rng(row, run)
    planned = plan(POLICY, tasks_per_hour=tasks_per_hour, steps=3).expected_blocks
    policy = CanaryPolicy(evidence="non_inferiority", planned_ticks=planned)
    evidence, buffer = Evidence.start(policy), BlockBuffer(policy.block_tasks)
    steps, timeout_hours = (0.1, 0.25, 0.5), 1.0
    for step, share in enumerate(steps):
        assigned = [0, 0]
        for look in (1, 2):
            hours = 24 - timeout_hours if look == 1 else 24.0
            # A task that has no outcome when its timeout is over counts as not successful; it is no error.
            stream = draw(rng, int(hours * tasks_per_hour), (0.85 * 0.95, 0.85 * 0.95), share=share)
            assigned = [assigned[0] + int(stream.canary.sum()), assigned[1] + len(stream.canary)]
            tasks = [MaturedTask(t.stratum, step, t.arm, t.good) for t in stream.tasks()]
            buffer, blocks = buffer.add(tasks)
            context = Context(
                elapsed_hours=24.0 * look,
                look=look,
                looks=2,
                share=share,
                assigned_canary=assigned[0],
                assigned_total=assigned[1],
                is_last_step=step == len(steps) - 1,
            )
            evidence, verdict = weigh(evidence, blocks, policy, context)
            if verdict.kind is not VerdictKind.INCONCLUSIVE:
                break
        if verdict.kind is not VerdictKind.PROMOTE:
            return f"{verdict.kind.value} at share {share}"
    return "PROMOTE to production"


@dataclass(frozen=True)
class Row:
    """One measured number beside its target."""

    case: str
    number: str
    value: float
    error: float
    target: str
    is_met: bool | None
    is_within_error: bool
    runs: int
    seconds: float
    more: dict[str, Any]


def _share_row(
    case: str, number: str, hits: int, runs: int, *, at_most: float | None = None, at_least: float | None = None
) -> Row:
    rate = hits / runs
    # Half the one-deviation Wilson interval: a standard error that stays honest at 0 of 2,000.
    low, high = wilson_bounds(runs, hits, 1.0)
    target = f"<= {at_most:.0%}" if at_most is not None else f">= {at_least:.0%}" if at_least is not None else "-"
    error, met, near = (high - low) / 2, None, False
    if at_most is not None:
        met, near = rate <= at_most, abs(rate - at_most) <= 2 * error
    elif at_least is not None:
        met, near = rate >= at_least, abs(rate - at_least) <= 2 * error
    return Row(case, number, rate, error, target, met, near, runs, 0.0, {})


def _quantile_error(values: Ints, q: float) -> float:
    """Half the distance between the order statistics one binomial deviation around a quantile."""
    ordered, n = np.sort(values), len(values)
    half = math.sqrt(n * q * (1 - q))
    low, high = max(0, math.floor(n * q - half)), min(n - 1, math.ceil(n * q + half))
    # A quantile beside runs that were never caught has no upper end: its error is told as the lower side.
    upper = (
        ordered[high] if ordered[high] < 10**9 else 2 * np.quantile(ordered, q, method="inverted_cdf") - ordered[low]
    )
    return float(upper - ordered[low]) / 2


NULLS: list[tuple[str, Callable[..., Stream]]] = [
    ("equal arms .85", partial(equal, rate=0.85)),
    ("equal arms .80", partial(equal, rate=0.80)),
    ("both arms drop .85 -> .60", drop_together),
    ("oscillating drift .85 +- .10", oscillating),
    ("routing mix shift", mix_shift),
]
# Case, stream, canary outcomes within which to catch it, canary outcomes that went well before, targets.
HARMS: list[tuple[str, Callable[..., Stream], int, int, tuple[float | None, float | None]]] = [
    (".85 -> .70", partial(worse, success=(0.85, 0.70)), 2000, 0, (115, 250)),
    ("error .02 -> .15, success unchanged", partial(worse, error=(0.02, 0.15)), 2000, 0, (75, 145)),
    (
        "error .02 -> .15, success falls with it",
        partial(worse, success=(0.85, 0.85 * 0.85 / 0.98), error=(0.02, 0.15)),
        2000,
        0,
        (75, 145),
    ),
    (".85 -> .80", partial(worse, success=(0.85, 0.80)), 2000, 0, (None, None)),
    (
        "drop to .70 after 1,000 good canary outcomes",
        partial(worse, success=(0.85, 0.70), good_canary=1000),
        2000,
        1000,
        (170, None),
    ),
]
LOOKS = 1000


def _map(pool: ProcessPoolExecutor, one: Callable[[int], Any], runs: int) -> list[Any]:
    return list(pool.map(one, range(runs), chunksize=max(1, runs // 50)))


def measure_nulls(pool: ProcessPoolExecutor, runs: int) -> Iterable[Row]:
    """False rollbacks within 1,000 blocks, the rule's and the rivals'."""
    for row, (case, make) in enumerate(NULLS):
        started = time.perf_counter()
        results = _map(pool, partial(one_rollback, row, make, LOOKS * POLICY.block_tasks), runs)
        found = sum(n is not None for n, _ in results)
        made = _share_row(case, "false rollback", found, runs, at_most=0.01)
        others = {name: sum(r[name] for _, r in results) / runs for name in results[0][1]}
        yield Row(**{**asdict(made), "seconds": time.perf_counter() - started, "more": others})


def measure_harms(pool: ProcessPoolExecutor, runs: int) -> Iterable[Row]:
    """Canary outcomes from the harm to the rollback."""
    for place, (case, make, within, before, (median, p95)) in enumerate(HARMS):
        started = time.perf_counter()
        results = _map(pool, partial(one_rollback, 100 + place, make, within * 10), runs)
        # Never caught counts as infinitely late, so that quantiles are not flattered; a rollback before the harm
        # began is a false one and is told apart.
        early = sum(n is not None and n <= before for n, _ in results)
        delays = np.array([(n - before) if n is not None else 10**9 for n, _ in results])
        seconds = time.perf_counter() - started
        caught = sum(n is not None for n, _ in results)
        more = {
            "caught": caught / runs,
            "mean": float(np.mean(delays[delays < 10**9])),
            "before the harm": early / runs,
        }
        for name, q, target in (("median", 0.5, median), ("p95", 0.95, p95)):
            value = float(np.quantile(delays, q, method="inverted_cdf"))
            told = f"<= {target:g}" if target else "-"
            met = value <= target if target else None
            error = _quantile_error(delays, q)
            near = target is not None and abs(value - target) <= 2 * error
            yield Row(case, f"outcomes to rollback, {name}", value, error, told, met, near, runs, seconds, more)
        if case == ".85 -> .80":
            yield _share_row(case, "caught within 2,000", caught, runs, at_least=0.95)


def measure_margins(pool: ProcessPoolExecutor, runs: int) -> Iterable[Row]:
    """How often canaries pass the success margin of 0.03."""
    cases: list[tuple[str, float, int, float | None, float | None]] = [
        ("equal canary, n = 2,000", 0.85, 2000, None, 0.95),
        ("equal canary, n = 1,000", 0.85, 1000, None, 0.75),
        ("canary worse by the margin, n = 2,000", 0.82, 2000, 0.05, None),
        ("canary worse by the margin, n = 1,000", 0.82, 1000, 0.05, None),
    ]
    for place, (case, rate, n_canary, at_most, at_least) in enumerate(cases):
        passed = sum(_map(pool, partial(one_margin, 200 + place, n_canary, rate), runs))
        yield _share_row(case, "passes the margin", passed, runs, at_most=at_most, at_least=at_least)


def measure_ramps(pool: ProcessPoolExecutor, runs: int) -> Iterable[Row]:
    """How often an equal canary goes all the way: no target."""
    for place, tasks_per_hour in enumerate((200.0, 400.0, 800.0)):
        ends = _map(pool, partial(one_ramp, 300 + place, tasks_per_hour), runs)
        more = {end: ends.count(end) / runs for end in sorted(set(ends))}
        case = f"ramp .1/.25/.5, {tasks_per_hour:g} tasks an hour, 5 % missing"
        made = _share_row(case, "promoted to production", ends.count("PROMOTE to production"), runs)
        yield Row(**{**asdict(made), "more": more})


def measure_speed() -> dict[str, float]:
    """Microseconds per block and per task, six metrics in one stratum, medians of 9 repetitions."""
    tasks = equal(_rng(400, 0), 4000, 0.85).tasks()
    buffer_us, update_us, judge_us = [], [], []
    for _ in range(9):
        started = time.perf_counter()
        _, blocks = BlockBuffer().add(tasks)
        buffer_us.append((time.perf_counter() - started) / len(tasks) * 1e6)
        evidence = Evidence.start(POLICY)
        started = time.perf_counter()
        for cells in blocks:
            evidence = evidence.update(cells)
        update_us.append((time.perf_counter() - started) / len(blocks) * 1e6)
        started = time.perf_counter()
        for _ in range(50):
            judge(evidence, POLICY, CONTEXT)
        judge_us.append((time.perf_counter() - started) / 50 * 1e6)
    names = ("BlockBuffer.add, per task", "Evidence.update, per block", "judge, each")
    return {name: float(np.median(v)) for name, v in zip(names, (buffer_us, update_us, judge_us), strict=True)}


def _told(row: Row) -> str:
    is_share = "outcomes to" not in row.number
    value = f"{row.value:.2%} +- {row.error:.2%}" if is_share else f"{row.value:.0f} +- {row.error:.0f}"
    mark = {True: "yes", False: "NO", None: ""}[row.is_met] + (", within 2 errors" if row.is_within_error else "")
    return f"{row.case:<52} {row.number:<30} {value:>18} {row.target:>9} {mark}"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="runs per row (default 2000)")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    where = {"python": platform.python_version(), "numpy": np.__version__, "cores": os.cpu_count()}
    print(f"seed {SEED}, {given.runs} runs a row, {given.processes} processes, {where}")
    print(f"policy {POLICY}")
    rows: list[Row] = []
    with ProcessPoolExecutor(given.processes) as pool:
        for measure, runs in (
            (measure_margins, given.runs * 10),  # one judgement each: cheap, and close to their targets
            (measure_harms, given.runs),
            (measure_ramps, max(1, given.runs // 4)),
            (measure_nulls, given.runs),
        ):
            for row in measure(pool, runs):
                rows.append(row)
                print(_told(row), flush=True)
                for name, value in row.more.items():
                    print(f"    {name}: {value:.4g}", flush=True)
    speed = measure_speed()
    print({name: f"{value:.1f} us" for name, value in speed.items()})
    record = {"benchmark": "canary", "seed": SEED, "runs": given.runs, **where, "policy": asdict(POLICY)}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(
        json.dumps({**record, "speed_us": speed, "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
