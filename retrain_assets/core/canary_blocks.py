"""The buffer that turns matured tasks into closed blocks.

Holds open counts per stratum x ramp step and the rule that closes a block: on labels alone, never on results. Does not
hold evidence, maturity or rows; the order in which tasks arrive is the caller's, their batching is without effect.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from retrain_assets.core.canary_evidence import Cell
from retrain_assets.core.canary_policy import METRICS

Arm = Literal["canary", "production"]

_Tally = dict[str, list[int]]
"""Per metric: canary tasks, canary good, production tasks, production good."""


@dataclass(frozen=True, slots=True)
class MaturedTask:
    """One task whose result may count, by the arm it was assigned to.

    Attributes
    ----------
    stratum : class of the task known before the decision, never the action chosen.
    step : ramp step in which it was decided, 0 first.
    arm : `canary` or `production`, as assigned, whatever arm served it in the end.
    good : per metric, whether the good event happened. A metric that counts at another age (latency at the decision,
        `error_early` at `early_age_minutes`) goes through a buffer of its own.
    """

    stratum: str
    step: int
    arm: Arm
    good: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class _OpenBlock:
    n_canary: int = 0
    n_production: int = 0
    tally: Mapping[str, tuple[int, int, int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BlockBuffer:
    """Open blocks per stratum x step. A value: `add` returns a new one. Give each closed block to `Evidence.update`.

    Attributes
    ----------
    block_tasks : tasks at which a block closes, once both arms are in it.
    open_blocks : what is still open.
    """

    block_tasks: int = 20
    open_blocks: Mapping[tuple[str, int], _OpenBlock] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.block_tasks < 2:
            raise ValueError(f"block_tasks must be at least 2, one for each arm, got {self.block_tasks!r}")

    def add(self, tasks: Iterable[MaturedTask]) -> tuple[BlockBuffer, list[list[Cell]]]:
        """Buffer after `tasks`, and the blocks they closed, in order of closing; one cell per metric in each.

        Raises
        ------
        ValueError : an arm or a metric that does not exist; nothing has changed then.
        """
        held = {key: _Working(block) for key, block in self.open_blocks.items()}
        closed: list[list[Cell]] = []
        for task in tasks:
            key = (task.stratum, task.step)
            working = held.get(key)
            if working is None:
                working = held[key] = _Working(_OpenBlock())
            working.take(task)
            if working.n_canary and working.n_production and working.tasks >= self.block_tasks:
                closed.append(working.cells(*key))
                del held[key]
        return BlockBuffer(self.block_tasks, {key: working.frozen() for key, working in held.items()}), closed

    @property
    def waiting(self) -> int:
        """Tasks in open blocks."""
        return sum(block.n_canary + block.n_production for block in self.open_blocks.values())

    def to_json(self) -> str:
        """One JSON object; `from_json` gives an equal value back."""
        blocks = [
            [stratum, step, block.n_canary, block.n_production, {m: list(t) for m, t in block.tally.items()}]
            for (stratum, step), block in self.open_blocks.items()
        ]
        return json.dumps({"format": 1, "block_tasks": self.block_tasks, "open": blocks})

    @classmethod
    def from_json(cls, text: str) -> BlockBuffer:
        """Buffer written by `to_json`.

        Raises
        ------
        ValueError : not such a text, or of a format this version does not know.
        """
        record = json.loads(text)
        if not isinstance(record, dict) or record.get("format") != 1:
            raise ValueError("not a block buffer of format 1, the only one this version reads")
        blocks = {
            (stratum, step): _OpenBlock(n_canary, n_production, {m: tuple(t) for m, t in tally.items()})
            for stratum, step, n_canary, n_production, tally in record["open"]
        }
        return cls(record["block_tasks"], blocks)


class _Working:
    """An open block while tasks are being added; lives inside one call."""

    __slots__ = ("n_canary", "n_production", "tally")

    def __init__(self, block: _OpenBlock) -> None:
        self.n_canary, self.n_production = block.n_canary, block.n_production
        self.tally: _Tally = {metric: list(counts) for metric, counts in block.tally.items()}

    @property
    def tasks(self) -> int:
        return self.n_canary + self.n_production

    def take(self, task: MaturedTask) -> None:
        if task.arm == "canary":
            self.n_canary += 1
            place = 0
        elif task.arm == "production":
            self.n_production += 1
            place = 2
        else:
            raise ValueError(f"arm must be canary or production, got {task.arm!r}")
        tally = self.tally
        for metric, good in task.good.items():
            counts = tally.get(metric)
            if counts is None:
                if metric not in METRICS:
                    raise ValueError(f"unknown metric {metric!r}; known are {', '.join(METRICS)}")
                counts = tally[metric] = [0, 0, 0, 0]
            counts[place] += 1
            if good:
                counts[place + 1] += 1

    def cells(self, stratum: str, step: int) -> list[Cell]:
        return [Cell(metric, stratum, c[0], c[1], c[2], c[3], step) for metric, c in self.tally.items()]

    def frozen(self) -> _OpenBlock:
        tally = {metric: (c[0], c[1], c[2], c[3]) for metric, c in self.tally.items()}
        return _OpenBlock(self.n_canary, self.n_production, tally)
