"""What a canary is held to: the metrics, their weights and limits, and the policy.

Holds names and numbers with their defaults. Does not read settings: the caller fills a policy from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

EvidenceKind = Literal["auto", "non_inferiority", "no_harm"]

RELATIVE_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"success": 0.6, "error": 0.2, "error_early": 0.1, "latency_p95": 0.05, "latency_p99": 0.05}
)
"""Metrics compared with production, and their weights in E_rel."""

LIMIT_METRICS = ("success", "error", "response_time")
"""Metrics held against an absolute limit; `response_time` is held against its limit only."""

METRICS = (*RELATIVE_WEIGHTS, "response_time")
RESPONSE_TIME_GOOD_SHARE = 0.95
"""At least this share of decisions must answer within `max_response_time_ms`."""


@dataclass(frozen=True, slots=True)
class CanaryPolicy:
    """What a canary is held to. Every default is the one of `config/retrain.yaml`.

    Attributes
    ----------
    alpha : probability of ever rolling back a canary that is no worse.
    margin, error_margin : loss of success rate, gain of error rate, that non-inferiority tolerates.
    min_canary_outcomes : canary tasks below which nothing is promoted.
    block_tasks : tasks at which a block may close.
    planned_ticks : T, blocks expected over the longest extension and all ramp steps; sets the restart weights only,
        a wrong T costs power and never validity.
    max_missing_share : share of an arm's tasks without outcome above which the ramp holds.
    min_success_rate, max_error_rate, max_response_time_ms : the absolute limits.
    evidence : what a promotion asks for, see `judge`.

    Raises
    ------
    ValueError : naming the field and the value, when one is out of range.
    """

    alpha: float = 0.01
    margin: float = 0.03
    error_margin: float = 0.02
    min_canary_outcomes: int = 10
    block_tasks: int = 20
    planned_ticks: int = 1000
    max_missing_share: float = 0.2
    min_success_rate: float = 0.80
    max_error_rate: float = 0.05
    max_response_time_ms: float = 100.0
    evidence: EvidenceKind = "auto"

    def __post_init__(self) -> None:
        for name in ("alpha", "margin", "error_margin", "min_success_rate", "max_error_rate"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, both excluded, got {getattr(self, name)!r}")
        for name, least in (("min_canary_outcomes", 1), ("block_tasks", 2), ("planned_ticks", 1)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {getattr(self, name)!r}")
        if not 0 <= self.max_missing_share <= 1:
            raise ValueError(f"max_missing_share must lie in 0..1, got {self.max_missing_share!r}")
        if not self.max_response_time_ms > 0:
            raise ValueError(f"max_response_time_ms must be positive, got {self.max_response_time_ms!r}")
        if self.evidence not in ("auto", "non_inferiority", "no_harm"):
            raise ValueError(f"evidence must be auto, non_inferiority or no_harm, got {self.evidence!r}")

    @property
    def relative_threshold(self) -> float:
        """E_rel at which the canary is rolled back: 1 / (0.9 alpha)."""
        return 1 / (0.9 * self.alpha)

    @property
    def absolute_threshold(self) -> float:
        """E_abs at which a limit counts as broken: 1 / (0.1 alpha)."""
        return 1 / (0.1 * self.alpha)

    @property
    def limits(self) -> dict[str, float]:
        """Smallest allowed rate of good events per limit metric."""
        return {
            "success": self.min_success_rate,
            "error": 1 - self.max_error_rate,
            "response_time": RESPONSE_TIME_GOOD_SHARE,
        }
