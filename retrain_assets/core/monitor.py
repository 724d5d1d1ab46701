"""The watch on production: the seed's rollback thresholds, judged with evidence.

Holds which limits are watched and the blocks of production's tasks; does not hold the detector
(`core/canary_detector.py`) or what follows an alarm (`operations/watch.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from retrain_assets.core.canary import LimitDetector
from retrain_assets.core.canary_math import wilson_bounds
from retrain_assets.core.deployment import EventKind
from retrain_assets.core.promotion import TaskResult

RESPONSE_TIME_QUANTILE = 0.95
"""Share of decisions that must answer within `max_response_time_ms`."""

RECENT_BLOCKS = 10
"""Closed blocks over which an alarm is told, and which must meet the limit for it to be over."""

ALARM_EVENTS = {
    "success": EventKind.SUCCESS_RATE_DROP,
    "error": EventKind.ERROR_RATE_INCREASE,
    "response_time": EventKind.RESPONSE_TIME_INCREASE,
}


@dataclass(frozen=True, slots=True)
class Alarm:
    """A limit that production is proven to break."""

    metric: str
    value: float
    threshold: float
    limit: float
    tasks: int
    good: int

    @property
    def sentence(self) -> str:
        """The alarm in plain words with its numbers."""
        rate = self.good / self.tasks if self.tasks else 0.0
        told = {
            "success": f"success rate {rate:.3f} on the last {self.tasks:,} tasks, limit {self.limit:.3f}",
            "error": f"error rate {1 - rate:.3f} on the last {self.tasks:,} tasks, limit {1 - self.limit:.3f}",
            "response_time": f"{1 - rate:.1%} of the last {self.tasks:,} decisions were over the response time limit",
        }[self.metric]
        return f"{told} (evidence {self.value:,.0f} of {self.threshold:,.0f} needed)"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return {name: getattr(self, name) for name in Alarm.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductionWatch:
    """One detector per limit and the block of tasks that is still open; it round-trips through JSON.

    Attributes
    ----------
    detectors : metric to detector.
    max_response_time_ms : limit of a decision's latency, milliseconds.
    block_tasks : tasks of one block.
    n, good : the open block.
    recent : `[tasks, good per metric]` of the last closed blocks, for the alarm's words.
    tasks : all tasks seen.
    alarmed : metrics whose alarm was raised; it is not raised again until the last `RECENT_BLOCKS` blocks are
        shown to meet the limit (one-sided 95 % Wilson bound), when a new incident can begin.
    """

    detectors: Mapping[str, LimitDetector]
    max_response_time_ms: float
    block_tasks: int
    n: int = 0
    good: Mapping[str, int] = field(default_factory=dict)
    recent: tuple[tuple[int, dict[str, int]], ...] = ()
    tasks: int = 0
    alarmed: frozenset[str] = frozenset()

    @classmethod
    def start(
        cls, *, min_success_rate: float, max_error_rate: float, max_response_time_ms: float, block_tasks: int
    ) -> ProductionWatch:
        """A watch that has seen nothing."""
        limits = {
            "success": min_success_rate,
            "error": 1 - max_error_rate,
            "response_time": RESPONSE_TIME_QUANTILE,
        }
        detectors = {metric: LimitDetector(limit) for metric, limit in limits.items()}
        return cls(detectors=detectors, max_response_time_ms=max_response_time_ms, block_tasks=block_tasks)

    def update(self, tasks: Sequence[TaskResult]) -> tuple[ProductionWatch, list[Alarm]]:
        """The watch after some more of production's matured tasks, and the alarms they raised."""
        watch, alarms = self, []
        for task in tasks:
            event = task.good(watch.max_response_time_ms)
            good = {metric: watch.good.get(metric, 0) + event[metric] for metric in watch.detectors}
            watch = replace(watch, n=watch.n + 1, good=good, tasks=watch.tasks + 1)
            if watch.n >= watch.block_tasks:
                watch, raised = watch._closed()  # noqa: SLF001  (its own class)
                alarms.extend(raised)
        return watch, alarms

    def pending(self) -> list[Alarm]:
        """Alarms that were raised before and still stand: what was not acted on may have to be."""
        standing = [metric for metric in sorted(self.alarmed) if self.detectors[metric].is_alarm]
        return [self._alarm(metric, self.detectors[metric], self.recent) for metric in standing]

    @staticmethod
    def _alarm(metric: str, detector: LimitDetector, recent: Sequence[tuple[int, Mapping[str, int]]]) -> Alarm:
        return Alarm(
            metric=metric,
            value=detector.value,
            threshold=detector.threshold,
            limit=detector.limit,
            tasks=sum(n for n, _ in recent),
            good=sum(good[metric] for _, good in recent),
        )

    def _closed(self) -> tuple[ProductionWatch, list[Alarm]]:
        recent = (*self.recent[-(RECENT_BLOCKS - 1) :], (self.n, dict(self.good)))
        detectors = {m: d.update(self.n, self.good[m]) for m, d in self.detectors.items()}
        over = {m for m in self.alarmed if _meets(detectors[m].limit, recent, m)}
        detectors |= {m: LimitDetector(detectors[m].limit) for m in over}
        raised = [m for m, d in detectors.items() if d.is_alarm and m not in self.alarmed]
        alarms = [self._alarm(m, detectors[m], recent) for m in raised]
        after = replace(
            self, detectors=detectors, recent=recent, n=0, good={}, alarmed=(self.alarmed - over) | frozenset(raised)
        )
        return after, alarms

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return {
            "detectors": {m: json.loads(d.to_json()) for m, d in self.detectors.items()},
            "max_response_time_ms": self.max_response_time_ms,
            "block_tasks": self.block_tasks,
            "n": self.n,
            "good": dict(self.good),
            "recent": [[n, good] for n, good in self.recent],
            "tasks": self.tasks,
            "alarmed": sorted(self.alarmed),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProductionWatch:
        """Read what `to_dict` wrote."""
        return cls(
            detectors={m: LimitDetector.from_json(json.dumps(d)) for m, d in data["detectors"].items()},
            max_response_time_ms=data["max_response_time_ms"],
            block_tasks=data["block_tasks"],
            n=data["n"],
            good=data["good"],
            recent=tuple((n, good) for n, good in data["recent"]),
            tasks=data["tasks"],
            alarmed=frozenset(data["alarmed"]),
        )


def _meets(limit: float, blocks: Sequence[tuple[int, Mapping[str, int]]], metric: str) -> bool:
    tasks, good = sum(n for n, _ in blocks), sum(events[metric] for _, events in blocks)
    return len(blocks) >= RECENT_BLOCKS and wilson_bounds(tasks, good)[0] >= limit
