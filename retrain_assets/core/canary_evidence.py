"""Evidence on a canary: the cells that feed it, and the e-processes that weigh them.

Holds the e-process per relative metric, the e-processes against the absolute limits, the counts they rest on, and their
JSON form. Does not hold verdicts (canary_verdict), the buffer that closes blocks (canary_blocks) or any clock.

Why it may be looked at after every block: an e-process has expectation at most 1 while the canary is no worse, at any
stopping time, so by Ville's inequality it ever reaches 1/alpha with probability at most alpha.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import exp, log, log1p
from typing import Any, NamedTuple

from retrain_assets.core.canary_math import Table, capped_exp, log_add, log_limit_evidence, log_mean
from retrain_assets.core.canary_policy import LIMIT_METRICS, METRICS, RELATIVE_WEIGHTS, CanaryPolicy

LOG_ODDS_DROPS = (0.15, 0.3, 0.5, 0.75, 1.0, 1.4, 2.0)
"""Alternatives: the canary's log-odds of a good event lie this far below production's."""

_ALTERNATIVES = tuple((-drop, exp(-drop)) for drop in LOG_ODDS_DROPS)
_PRIOR_GOOD, _PRIOR_TASKS = 4.5, 5.0
"""Production's rate starts at 0.9 with the weight of five tasks, so that it is never 0 or 1."""


_COUNT_FIELDS = ("n_canary", "y_canary", "n_production", "y_production", "step")


def _whole(name: str, value: object) -> int:
    try:
        return int(operator.index(value))  # type: ignore[arg-type]  # index() itself refuses what is no integer
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None


@dataclass(frozen=True, slots=True)
class Cell:
    """One metric's counts in one closed block of one stratum and ramp step; `y` counts the good event.

    Raises
    ------
    ValueError : unknown metric, a count that is negative or no whole number, or more good events than tasks.
    """

    metric: str
    stratum: str
    n_canary: int
    y_canary: int
    n_production: int
    y_production: int
    step: int = 0

    def __post_init__(self) -> None:
        for name in _COUNT_FIELDS:
            value = getattr(self, name)
            if type(value) is not int:  # counts from numpy become plain integers, which JSON knows
                object.__setattr__(self, name, _whole(name, value))
        counted = 0 <= self.y_canary <= self.n_canary and 0 <= self.y_production <= self.n_production
        if not (counted and self.step >= 0):
            raise ValueError(f"counts must satisfy 0 <= good <= tasks, and step >= 0, got {self!r}")
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric {self.metric!r}; known are {', '.join(METRICS)}")


class MetricState(NamedTuple):
    """One relative metric's e-process: steps taken, and log M_k of each alternative (empty before the first step)."""

    steps: int = 0
    log_m: tuple[float, ...] = ()


class Counts(NamedTuple):
    """Tasks and good events of both arms."""

    n_canary: int = 0
    y_canary: int = 0
    n_production: int = 0
    y_production: int = 0

    def plus(self, cell: Cell | Counts) -> Counts:
        """Sum of both."""
        return Counts(
            self.n_canary + cell.n_canary,
            self.y_canary + cell.y_canary,
            self.n_production + cell.n_production,
            self.y_production + cell.y_production,
        )

    def rates(self) -> dict[str, float | int | None]:
        """Rates of good events (None without tasks) and tasks of both arms, as plain values."""
        return {
            "canary": self.y_canary / self.n_canary if self.n_canary else None,
            "production": self.y_production / self.n_production if self.n_production else None,
            "n_canary": self.n_canary,
            "n_production": self.n_production,
        }


def log_block_evidence(cell: Cell, production_rate: float) -> tuple[float, ...]:
    """Log e-value of one block for each alternative, given production's rate in earlier blocks.

    Source: block e-variables for 2x2 tables (Turner, Ly, Gruenwald 2024). With q_c the alternative's canary rate, q_p
    the rate given and q_0 their mean weighted by the block's tasks, e = L(q_c, q_p) / L(q_0, q_0): expectation at most
    1 for every pair of rates in which the canary's is no lower, and conditionally on the block's labels.
    """
    n_c, n_p, own_good = cell.n_canary, cell.n_production, cell.y_canary
    good = own_good + cell.y_production
    bad = n_c + n_p - good
    share, rest, other = n_c / (n_c + n_p), n_p / (n_c + n_p), 1 - production_rate
    logs = []
    for drop, odds in _ALTERNATIVES:
        # With d = 1 - b + b r, r = exp(psi): q_c = b r / d and q_0 = b (share r + rest d) / d, so every log b and
        # log(1 - b) cancels in the ratio.
        scale = other + production_rate * odds
        part = rest * scale
        logs.append(own_good * drop + n_p * log(scale) - good * log(share * odds + part) - bad * log(share + part))
    return tuple(logs)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything a canary's blocks have shown so far. A value: `update` returns a new one.

    Attributes
    ----------
    policy : the policy it was started with (T and the limits are taken from here).
    states : e-process per relative metric that has met evidence.
    counts : tasks and good events per (metric, stratum) and, inside, per ramp step.
    updates : number of updates that brought at least one cell.
    """

    policy: CanaryPolicy
    states: Mapping[str, MetricState] = field(default_factory=dict)
    counts: Mapping[tuple[str, str], Mapping[int, Counts]] = field(default_factory=dict)
    updates: int = 0

    @classmethod
    def start(cls, policy: CanaryPolicy) -> Evidence:
        """No data yet: every e-value is exactly 1."""
        return cls(policy)

    def update(self, cells: Iterable[Cell]) -> Evidence:
        """Evidence after one more step t, whose cells are closed blocks.

        The cells' order is without effect: production's rate b comes from earlier steps alone. Each metric counts its
        own steps, and only those with a cell that holds both arms; a cell with an empty arm carries no evidence on the
        comparison, yet its tasks count for the limits and for b. No cells: the same evidence.
        """
        cells = list(cells)
        if not cells:
            return self
        logs: dict[str, tuple[float, ...]] = {}
        counts = dict(self.counts)
        for cell in cells:
            key = (cell.metric, cell.stratum)
            if cell.n_canary and cell.n_production and cell.metric != "response_time":
                block = log_block_evidence(cell, self.production_rate(*key))
                held = logs.get(cell.metric)
                logs[cell.metric] = block if held is None else tuple(map(sum, zip(held, block, strict=True)))
            steps = counts.get(key, {})
            counts[key] = {**steps, cell.step: steps.get(cell.step, Counts()).plus(cell)}
        states = dict(self.states)
        for metric, block in logs.items():
            states[metric] = self._advanced(states.get(metric, MetricState()), block)
        return Evidence(self.policy, states, counts, self.updates + 1)

    def _advanced(self, state: MetricState, block: tuple[float, ...]) -> MetricState:
        """M_k <- (M_k + w_t) e_k with w_1 = 1/2 + 1/(2T), w_t = 1/(2T) up to T, 0 after: restarts find late harm."""
        step, planned = state.steps + 1, self.policy.planned_ticks
        if step == 1:
            log_first = log(0.5 + 0.5 / planned)
            return MetricState(1, tuple([log_first + log_e for log_e in block]))
        if step > planned:
            return MetricState(step, tuple([log_m + log_e for log_m, log_e in zip(state.log_m, block, strict=True)]))
        log_weight = -log(2 * planned)
        logs = []
        for log_m, log_e in zip(state.log_m, block, strict=True):
            above = log_m - log_weight
            # log(M + w) by hand: this line runs 35 times per block, and a call would double its cost.
            logs.append((log_weight + log1p(exp(above)) if above < 40 else log_m) + log_e)
        return MetricState(step, tuple(logs))

    def production_rate(self, metric: str, stratum: str) -> float:
        """Production's rate b = (S_p + 4.5) / (N_p + 5) over its blocks so far in that stratum, all ramp steps."""
        tasks, good = _PRIOR_TASKS, _PRIOR_GOOD
        for held in self.counts.get((metric, stratum), {}).values():
            tasks += held.n_production
            good += held.y_production
        return good / tasks

    def log_metric(self, metric: str) -> float:
        """Log e-value of one relative metric: mean_k M_k plus the weights not yet spent. 0.0 without data."""
        state = self.states.get(metric)
        if state is None:
            return 0.0
        top = max(state.log_m)
        log_m = top + log(sum([exp(value - top) for value in state.log_m]) / len(state.log_m))
        left = self.policy.planned_ticks - state.steps
        return log_add(log_m, log(left / (2 * self.policy.planned_ticks))) if left > 0 else log_m

    @property
    def log_relative(self) -> float:
        """Log of E_rel, uncapped."""
        return log_mean((weight, self.log_metric(metric)) for metric, weight in RELATIVE_WEIGHTS.items())

    @property
    def relative(self) -> float:
        """E_rel: weighted mean of the relative metrics' e-processes; 1 at start, capped near 1e304."""
        return capped_exp(self.log_relative)

    @property
    def by_metric(self) -> dict[str, float]:
        """E-value of each relative metric; 1.0 for one without data."""
        return {metric: capped_exp(self.log_metric(metric)) for metric in RELATIVE_WEIGHTS}

    def log_limits(self, totals: Mapping[str, Counts] | None = None) -> dict[str, float]:
        """Log e-value against "the canary meets the limit", per limit metric; 0.0 without data.

        `totals`: `self.totals()`, when the caller has it already.
        """
        totals = self.totals() if totals is None else totals
        logs = {}
        for metric, limit in self.policy.limits.items():
            total = totals.get(metric, Counts())
            logs[metric] = log_limit_evidence(total.n_canary, total.y_canary, limit)
        return logs

    @property
    def by_limit(self) -> dict[str, float]:
        """E-value of each absolute limit; 1.0 for one without data."""
        return {metric: capped_exp(value) for metric, value in self.log_limits().items()}

    @property
    def absolute(self) -> float:
        """E_abs: mean of the limits' e-processes; 1 at start, capped near 1e304."""
        return capped_exp(log_mean((1 / len(LIMIT_METRICS), value) for value in self.log_limits().values()))

    def totals(self) -> dict[str, Counts]:
        """Counts over all strata and steps, of each metric with data."""
        totals: dict[str, Counts] = {}
        for (metric, _), steps in self.counts.items():
            for held in steps.values():
                totals[metric] = totals[metric].plus(held) if metric in totals else held
        return totals

    def total(self, metric: str) -> Counts:
        """Counts of one metric over all strata and steps; zeros without data."""
        return self.totals().get(metric, Counts())

    def tables(self, metric: str) -> list[Table]:
        """Counts of one metric per stratum x step, for stratified comparisons."""
        return [held for (name, _), steps in self.counts.items() if name == metric for held in steps.values()]

    @property
    def rates(self) -> dict[str, dict[str, float | int | None]]:
        """Per metric with data: rate of good events (None without tasks) and tasks of both arms."""
        return {metric: total.rates() for metric, total in self.totals().items()}

    def to_json(self) -> str:
        """One JSON object, the exact floats: `from_json` gives an equal value back."""
        counts = [
            [metric, stratum, step, *held]
            for (metric, stratum), steps in self.counts.items()
            for step, held in steps.items()
        ]
        states = {metric: [state.steps, list(state.log_m)] for metric, state in self.states.items()}
        record = {"format": 1, "policy": asdict(self.policy), "updates": self.updates}
        return json.dumps({**record, "states": states, "counts": counts}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Evidence:
        """Evidence written by `to_json`.

        Raises
        ------
        ValueError : not such a text, or of a format this version does not know.
        """
        record: Any = json.loads(text)
        if not isinstance(record, dict) or record.get("format") != 1:
            raise ValueError("not evidence of format 1, the only one this version reads")
        counts: dict[tuple[str, str], dict[int, Counts]] = {}
        for metric, stratum, step, *held in record["counts"]:
            counts.setdefault((metric, stratum), {})[step] = Counts(*held)
        states = {metric: MetricState(steps, tuple(log_m)) for metric, (steps, log_m) in record["states"].items()}
        return cls(CanaryPolicy(**record["policy"]), states, counts, record["updates"])
