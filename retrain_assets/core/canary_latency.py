"""When a decision counts as slow: production's latency quantiles so far, with a tolerance.

Holds a histogram of production's decision latencies and grades decisions against it, in stream order. Does not hold the
latencies themselves or the evidence: what it returns goes into `MaturedTask.good`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from retrain_assets.core.canary_blocks import Arm

QUANTILES: Mapping[str, float] = {"latency_p95": 0.95, "latency_p99": 0.99}
TOLERANCE_RATIO = 1.25
TOLERANCE_MS = 5.0
"""A decision is slow above max(1.25 q, q + 5 ms): without it, a canary 5 % slower in microseconds was rolled back in
89 % of simulated trials."""
REFERENCE_TASKS = 100
"""Production's decisions before which nothing is graded: a 99 % quantile of fewer is no quantile."""
REFRESH_TASKS = 20
"""Thresholds move after every so many decisions of production, whatever the reads."""

_STEP = math.log(1.05)
_LEAST_MS = 0.001
_LAST_BIN = 425  # 0.001 ms * 1.05^425 is about 1,000 s


@dataclass(frozen=True, slots=True)
class LatencyReference:
    """Production's decision latencies so far, in bins 5 % wide. A value: `grade` returns a new one.

    Attributes
    ----------
    bins : decisions per bin; bin i ends at 0.001 ms * 1.05^i.
    tasks : decisions of production seen.
    slow_above_ms : per latency metric, the threshold in force; empty before `REFERENCE_TASKS`.
    """

    bins: Mapping[int, int] = field(default_factory=dict)
    tasks: int = 0
    slow_above_ms: Mapping[str, float] = field(default_factory=dict)

    def grade(
        self, decisions: Iterable[tuple[Arm, float]], max_response_time_ms: float
    ) -> tuple[LatencyReference, list[dict[str, bool]]]:
        """Reference after `decisions`, and for each decision its good events, by metric.

        Parameters
        ----------
        decisions : assigned arm and latency in ms, in order. Both arms are graded by the same threshold, which comes
            from decisions before them; batching is without effect.
        max_response_time_ms : the absolute limit, for `response_time`.

        Raises
        ------
        ValueError : a latency that is negative or no number.
        """
        bins, tasks, slow_above = dict(self.bins), self.tasks, self.slow_above_ms
        graded = []
        for arm, latency_ms in decisions:
            if not latency_ms >= 0:
                raise ValueError(f"latency must be a number of ms and not negative, got {latency_ms!r}")
            good = {metric: latency_ms <= threshold for metric, threshold in slow_above.items()}
            good["response_time"] = latency_ms <= max_response_time_ms
            graded.append(good)
            if arm == "production":
                place = _bin_of(latency_ms)
                bins[place] = bins.get(place, 0) + 1
                tasks += 1
                if tasks >= REFERENCE_TASKS and tasks % REFRESH_TASKS == 0:
                    slow_above = {metric: _tolerated(_quantile(bins, tasks, q)) for metric, q in QUANTILES.items()}
        return LatencyReference(bins, tasks, slow_above), graded

    def quantile_ms(self, q: float) -> float | None:
        """Production's quantile so far, up to 5 % above the exact one; None without decisions."""
        return _quantile(self.bins, self.tasks, q) if self.tasks else None

    def to_json(self) -> str:
        """One JSON object; `from_json` gives an equal value back."""
        bins = sorted(self.bins.items())
        return json.dumps({"format": 1, "bins": bins, "tasks": self.tasks, "slow_above_ms": dict(self.slow_above_ms)})

    @classmethod
    def from_json(cls, text: str) -> LatencyReference:
        """Reference written by `to_json`.

        Raises
        ------
        ValueError : not such a text, or of a format this version does not know.
        """
        record = json.loads(text)
        if not isinstance(record, dict) or record.get("format") != 1:
            raise ValueError("not a latency reference of format 1, the only one this version reads")
        return cls(dict(record["bins"]), record["tasks"], record["slow_above_ms"])


def _bin_of(latency_ms: float) -> int:
    if latency_ms <= _LEAST_MS:
        return 0
    return _LAST_BIN if latency_ms == math.inf else min(_LAST_BIN, math.ceil(math.log(latency_ms / _LEAST_MS) / _STEP))


def _quantile(bins: Mapping[int, int], tasks: int, q: float) -> float:
    left = math.ceil(q * tasks)
    for place in sorted(bins):
        left -= bins[place]
        if left <= 0:
            break
    return _LEAST_MS * math.exp(place * _STEP)


def _tolerated(quantile_ms: float) -> float:
    return max(TOLERANCE_RATIO * quantile_ms, quantile_ms + TOLERANCE_MS)
