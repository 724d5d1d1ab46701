"""Predicted against realised success, week by week: the counts behind the ledger of a version.

Holds the query over the decision log and the ledger's rows in `model_metrics`; does not hold what is made of them
(`operations/performance.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Float, String, cast, column, func, literal_column, select
from sqlalchemy.sql.elements import ColumnElement

from retrain_assets.core.outcomes import Result
from retrain_assets.store.decisions import newest_outcome_seq
from retrain_assets.store.tables import decisions, model_metrics, outcomes

PREFIX = "ledger "
"""Before the week's key in `model_metrics.window`, so that nobody takes a past week for the present."""
ALL_ACTIONS = "*"
"""In `model_metrics.action`: a row without an action is one that was reported for rollback to be judged by."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """Matured tasks of one version and what their decisions had promised.

    Attributes
    ----------
    version : str
    tasks, successes, missing : int
        A task without an outcome counts as no success.
    scored : int
        Tasks whose decision has a score for what it chose.
    predicted : float or None
        The mean of those scores; None without any.
    """

    version: str
    tasks: int
    successes: int
    missing: int
    scored: int
    predicted: float | None


def predicted_and_realised(connection: Connection, since: datetime, until: datetime) -> list[Predicted]:
    """Count decisions whose deadline lies in `[since, until)`, per version, with the mean score of what they chose."""
    result, score = outcomes.c.result, _score_of_choice(connection)
    query = (
        select(
            decisions.c.model_version,
            func.count(),
            func.count().filter(result == Result.SUCCESS.value),
            func.count().filter(result.is_(None)),
            func.count(score),
            func.avg(score),
        )
        .select_from(decisions)
        .outerjoin(outcomes, outcomes.c.seq == newest_outcome_seq())
        .where(
            decisions.c.deadline_at >= since,
            decisions.c.deadline_at < until,
            decisions.c.model_version.is_not(None),
        )
        .group_by(decisions.c.model_version)
        .order_by(decisions.c.model_version)
    )
    return [Predicted(*row) for row in connection.execute(query)]


def _score_of_choice(connection: Connection) -> ColumnElement[float]:
    """The score of the chosen action out of the JSON of all scores, whatever characters its name has."""
    if connection.dialect.name == "postgresql":
        return cast(decisions.c.scores.op("->>")(decisions.c.action), Float)
    entries = func.json_each(decisions.c.scores).table_valued(column("key", String), column("value", Float))
    chosen = select(literal_column("value", Float)).select_from(entries).where(entries.c.key == decisions.c.action)
    return chosen.correlate(decisions).scalar_subquery()


def kept(connection: Connection, weeks: list[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """The ledger's newest row of each version and week."""
    windows = [PREFIX + week for week in weeks]
    query = (
        select(model_metrics.c.version, model_metrics.c.window, model_metrics.c.metrics)
        .where(model_metrics.c.window.in_(windows), model_metrics.c.action == ALL_ACTIONS)
        .order_by(model_metrics.c.id)
    )
    return {(row.version, row.window.removeprefix(PREFIX)): row.metrics for row in connection.execute(query)}
