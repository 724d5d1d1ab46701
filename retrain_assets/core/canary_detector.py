"""The watch on production without a holdback: an e-detector against an absolute limit.

Holds the detector's recursion and its JSON form. Does not hold the choice of limits, paging or rolling back. Without a
holdback nothing can tell a bad model from bad times: an alarm says that the limit is broken, not why.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from retrain_assets.core.canary_evidence import LOG_ODDS_DROPS
from retrain_assets.core.canary_math import capped_exp, log_add, log_mean


@dataclass(frozen=True, slots=True)
class LimitDetector:
    """Raises an alarm when production's rate of good events has fallen below a limit.

    A value: `update` returns a new one.

    For each alternative k the rate lies psi_k log-odds below the limit p0; a block of n tasks, s of them good, has
    e_k = (p_k/p0)^s ((1-p_k)/(1-p0))^(n-s), with expectation at most 1 for every true rate >= p0. The recursion
    M_k <- (M_k + 1) e_k restarts at every block, so harm that begins late is found as fast as harm from the start.

    Why false alarms are rare: while the limit is met, E[M_k(t) - t] never rises (each block adds 1 and multiplies by an
    e-value), and the same holds for the mean over k. At the time tau of the alarm, optional stopping therefore gives
    threshold <= E[M(tau)] <= E[tau]: on average at least `threshold` blocks pass before a false alarm. Source:
    e-detectors (Shin, Ramdas, Rinaldo 2024). With blocks of 20 tasks and the default that is 200,000 tasks.

    Attributes
    ----------
    limit : p0, smallest allowed rate of good events, strictly between 0 and 1.
    threshold : value at which the alarm is raised, default 10,000; also the least mean number of blocks between
        false alarms.
    blocks : blocks seen. Time passes in blocks of matured tasks alone, never in idle ticks.
    log_m : log M_k per alternative, empty before the first block.
    """

    limit: float
    threshold: float = 10_000.0
    blocks: int = 0
    log_m: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.limit < 1:
            raise ValueError(f"limit must lie between 0 and 1, both excluded, got {self.limit!r}")
        if not self.threshold > 1:
            raise ValueError(f"threshold must be above 1, got {self.threshold!r}")

    def update(self, n: int, good: int) -> LimitDetector:
        """Detector after one block of `n` matured tasks, `good` of them good; an empty block changes nothing.

        Raises
        ------
        ValueError : counts that are not 0 <= good <= n.
        """
        if not 0 <= good <= n:
            raise ValueError(f"counts must satisfy 0 <= good <= n, got n={n!r}, good={good!r}")
        if n == 0:
            return self
        before = self.log_m or (-math.inf,) * len(LOG_ODDS_DROPS)
        logs = []
        for log_m, drop in zip(before, LOG_ODDS_DROPS, strict=True):
            # p_k = p0 r / d and 1 - p_k = (1 - p0) / d with r = exp(-drop), d = 1 - p0 + p0 r.
            log_d = math.log(1 - self.limit + self.limit * math.exp(-drop))
            logs.append(log_add(log_m, 0.0) - good * drop - n * log_d)
        return LimitDetector(self.limit, self.threshold, self.blocks + 1, tuple(logs))

    @property
    def value(self) -> float:
        """Mean of M_k over the alternatives; 0 before the first block, capped near 1e304."""
        if not self.log_m:
            return 0.0
        return capped_exp(log_mean((1 / len(self.log_m), log_m) for log_m in self.log_m))

    @property
    def is_alarm(self) -> bool:
        """Whether the value has reached the threshold now. Alarms do not latch: the caller acts on the first."""
        return self.value >= self.threshold

    def to_json(self) -> str:
        """One JSON object, the exact floats; `from_json` gives an equal value back."""
        record = {"format": 1, "limit": self.limit, "threshold": self.threshold, "blocks": self.blocks}
        return json.dumps({**record, "log_m": list(self.log_m)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> LimitDetector:
        """Detector written by `to_json`.

        Raises
        ------
        ValueError : not such a text, or of a format this version does not know.
        """
        record = json.loads(text)
        if not isinstance(record, dict) or record.get("format") != 1:
            raise ValueError("not a limit detector of format 1, the only one this version reads")
        return cls(record["limit"], record["threshold"], record["blocks"], tuple(record["log_m"]))
