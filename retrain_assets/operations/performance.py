"""How versions did on live tasks: the numbers behind `performance_report`.

Holds the counting over matured decisions and the ledger of promised against realised success; does not hold verdicts
(`operations/watch.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from retrain_assets.core.canary_math import wilson_bounds
from retrain_assets.core.dataset import Week
from retrain_assets.operations import csv_outcomes
from retrain_assets.operations.platform import Platform
from retrain_assets.store import decisions, ledger, registry

WINDOW = timedelta(days=7)
LEDGER_WEEKS = 8
"""Weeks that a report looks at again, the running one included: outcomes and corrections may come late."""
Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """What a version promised for one week, and what came true.

    Attributes
    ----------
    version, week : str
    tasks, successes, missing : int
        Matured tasks that it decided; one without an outcome counts as no success.
    predicted : float or None
        Mean score of the chosen actions when they were chosen.
    expected : float or None
        Off-policy estimate of its validation report, made before it served; `expected_low` and `expected_high` are its
        interval.
    realised, low, high : float
        Share of successes with its 95 % Wilson interval.
    is_complete : bool
        Whether the week is over.
    """

    version: str
    week: str
    tasks: int
    successes: int
    missing: int
    predicted: float | None
    expected: float | None
    expected_low: float | None
    expected_high: float | None
    realised: float
    low: float
    high: float
    is_complete: bool

    @property
    def is_as_predicted(self) -> bool | None:
        """Whether the promise lies in the interval of what came true; None without a promise."""
        return None if self.predicted is None else self.low <= self.predicted <= self.high

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return {**asdict(self), "is_as_predicted": self.is_as_predicted}


def report(platform: Platform, window: timedelta = WINDOW) -> list[decisions.Performance]:
    """Count matured tasks per version, arm and action, and keep the numbers in `model_metrics`.

    Parameters
    ----------
    platform : Platform
    window : timedelta
        How far back from now, by the tasks' deadline.
    """
    csv_outcomes.absorb(platform)
    now = platform.now()
    with platform.database.read() as connection:
        rows = decisions.performance(connection, now - window, now)
    with platform.database.write() as connection:
        for row in rows:
            if row.model_version is not None:
                registry.add_metrics(
                    connection,
                    row.model_version,
                    {**asdict(row), "success_rate": row.success_rate, "error_rate": row.error_rate},
                    now,
                    action=row.action,
                    window=f"{window.days}d",
                )
    return rows


def update_ledger(platform: Platform, weeks: int = LEDGER_WEEKS) -> list[LedgerLine]:
    """Compare what versions promised with what came true, week by week, newest first, and keep what has changed.

    Parameters
    ----------
    platform : Platform
    weeks : int, default 8
        The running week and those before it.
    """
    now = platform.now()
    lines = [line for week in _newest(platform, now, weeks) for line in _lines(platform, week, now)]
    with platform.database.read() as connection:
        known = ledger.kept(connection, sorted({line.week for line in lines}))
    changed = [line for line in lines if known.get((line.version, line.week)) != line.to_dict()]
    if changed:
        with platform.database.write() as connection:
            for line in changed:
                window = ledger.PREFIX + line.week
                registry.add_metrics(
                    connection, line.version, line.to_dict(), now, action=ledger.ALL_ACTIONS, window=window
                )
    return lines


def _newest(platform: Platform, now: datetime, weeks: int) -> Sequence[Week]:
    running = platform.calendar.containing(now)
    first = platform.calendar.containing(running.start_at - timedelta(weeks=weeks - 1))
    return platform.calendar.between(first, running)[::-1][:weeks]


def _lines(platform: Platform, week: Week, now: datetime) -> list[LedgerLine]:
    with platform.database.read() as connection:
        counted = ledger.predicted_and_realised(connection, week.start_at, min(week.end_at, now))
        models = {row.version: registry.get_version(connection, row.version) for row in counted}
    lines = []
    for row in counted:
        model = models[row.version]
        low, high = wilson_bounds(row.tasks, row.successes, Z_95)
        lines.append(
            LedgerLine(
                version=row.version,
                week=week.key,
                tasks=row.tasks,
                successes=row.successes,
                missing=row.missing,
                predicted=row.predicted,
                **_expected((model.report if model else None) or {}),
                realised=row.successes / row.tasks,
                low=low,
                high=high,
                is_complete=week.end_at <= now,
            )
        )
    return lines


def _expected(validation: dict[str, Any]) -> dict[str, float | None]:
    """The estimate that a report recommends to read, with its interval."""
    found = (validation.get("details") or {}).get("off_policy") or {}
    estimate = found["estimates"][found["recommended"]] if found.get("is_enough") else {}
    return {
        "expected": estimate.get("value"),
        "expected_low": estimate.get("low"),
        "expected_high": estimate.get("high"),
    }
