"""The decision log: what the engine answered, and what came of it once it matured.

Holds the SQL on `decisions` and its join with `outcomes`; does not hold evidence (`operations/watch.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, FromClause, Row, and_, func, or_, select, tuple_
from sqlalchemy.sql.elements import ColumnElement

from retrain_assets.core.outcomes import DecisionRecord, Result
from retrain_assets.store import decision_rows
from retrain_assets.store.tables import decisions, outcomes


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a reader of matured decisions stands; ordered by deadline, then id."""

    at: datetime
    decision_id: str = ""


@dataclass(frozen=True, slots=True)
class Matured:
    """One decision whose deadline has passed, with its outcome's result; None when none came."""

    decision_id: str
    task_id: str
    deadline_at: datetime
    assigned_arm: str
    arm: str
    stratum: str
    share: float
    model_version: str | None
    latency_ms: float
    action: str
    result: Result | None


def append(connection: Connection, records: Sequence[DecisionRecord]) -> None:
    """Store decisions; one that is already there is left alone, so that a retry is harmless."""
    decision_rows.insert(connection, [decision_rows.encode(r, r.features, r.stratum) for r in records])


def newest_outcome_seq(last_seq: int | None = None) -> ColumnElement[Any]:
    """Scalar subquery: the newest outcome of a decision, by its id, else by its task and attempt.

    Parameters
    ----------
    last_seq : int, optional
        Outcomes above it are not looked at; they must not hide the ones below either.
    """
    by_id, by_task = outcomes.alias(), outcomes.alias()
    named = select(func.max(by_id.c.seq)).where(by_id.c.decision_id == decisions.c.decision_id)
    unnamed = select(func.max(by_task.c.seq)).where(
        by_task.c.task_id == decisions.c.task_id,
        by_task.c.attempt == decisions.c.attempt,
        by_task.c.decision_id.is_(None),
    )
    if last_seq is not None:
        named, unnamed = named.where(by_id.c.seq <= last_seq), unnamed.where(by_task.c.seq <= last_seq)
    named, unnamed = named.correlate(decisions), unnamed.correlate(decisions)
    return func.coalesce(named.scalar_subquery(), unnamed.scalar_subquery())


def matured(
    connection: Connection,
    cursor: Cursor,
    until: datetime,
    *,
    rollout_id: str | None = None,
    version: str | None = None,
    limit: int = 10_000,
) -> list[Matured]:
    """Decisions after `cursor` whose deadline is at or before `until`, each task's first one only.

    Parameters
    ----------
    connection : Connection
    cursor : Cursor
    until : datetime
        The reader's clock.
    rollout_id : str, optional
        Only decisions made during this trial.
    version : str, optional
        Only decisions assigned to production while this version served it.
    limit : int
        Rows at the most; call again with the last row's cursor for more.
    """
    earlier = decisions.alias()
    # A task is tried again within one trial, or under one version; the same id under another one is another task.
    same = earlier.c.rollout_id.is_not_distinct_from(decisions.c.rollout_id)
    if version is not None:
        same = and_(same, earlier.c.model_version == decisions.c.model_version)
    is_retry = (
        select(1)
        .where(
            same,
            earlier.c.task_id == decisions.c.task_id,
            tuple_(earlier.c.decided_at, earlier.c.decision_id)
            < tuple_(decisions.c.decided_at, decisions.c.decision_id),
        )
        .exists()
    )
    query = (
        select(decisions, outcomes.c.result.label("result"))
        .select_from(decisions)
        .outerjoin(outcomes, outcomes.c.seq == newest_outcome_seq())
        .where(
            tuple_(decisions.c.deadline_at, decisions.c.decision_id) > tuple_(_bound(cursor.at), cursor.decision_id),
            decisions.c.deadline_at <= until,
            ~is_retry,
        )
        .order_by(decisions.c.deadline_at, decisions.c.decision_id)
        .limit(limit)
    )
    if rollout_id is not None:
        query = query.where(decisions.c.rollout_id == rollout_id)
    if version is not None:
        query = query.where(decisions.c.model_version == version, decisions.c.assigned_arm == "production")
    return [_matured(row) for row in connection.execute(query)]


def _bound(instant: datetime) -> Any:  # noqa: ANN401  (a bind parameter)
    from sqlalchemy import bindparam

    from retrain_assets.store.tables import Instant

    return bindparam(None, instant, Instant())


def _matured(row: Row[Any]) -> Matured:
    return Matured(
        decision_id=row.decision_id,
        task_id=row.task_id,
        deadline_at=row.deadline_at,
        assigned_arm=row.assigned_arm,
        arm=row.arm,
        stratum=row.stratum,
        share=row.share,
        model_version=row.model_version,
        latency_ms=row.latency_ms,
        action=row.action,
        result=None if row.result is None else Result(row.result),
    )


def get(connection: Connection, decision_id: str) -> DecisionRecord | None:
    """One decision by its id."""
    row = connection.execute(select(decisions).where(decisions.c.decision_id == decision_id)).one_or_none()
    if row is None:
        return None
    values = dict(row._mapping)  # noqa: SLF001  (SQLAlchemy's documented way to a row's names)
    values.pop("received_at")
    return DecisionRecord(**values | {"actions": tuple(values["actions"])})


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went through in a span of time; rates are 0.85 and 0.02 where no task has matured yet."""

    tasks_per_hour: float
    success_rate: float
    error_rate: float


def recent_traffic(connection: Connection, since: datetime, until: datetime) -> Traffic:
    """Tasks that matured between two instants: how many per hour, and how they ended.

    The hours are counted from the first task in the span, so that a young automation's rate is not
    diluted by the time before it began. Where no decision was logged yet, outcomes stand for tasks.
    """
    result = outcomes.c.result
    counted = (func.count().filter(result == Result.SUCCESS.value), func.count().filter(result == Result.ERROR.value))
    decided = (
        select(func.count(), func.min(decisions.c.deadline_at), *counted)
        .select_from(decisions)
        .outerjoin(outcomes, outcomes.c.seq == newest_outcome_seq())
        .where(decisions.c.deadline_at >= since, decisions.c.deadline_at < until)
    )
    reported = select(func.count(), func.min(outcomes.c.occurred_at), *counted).where(
        outcomes.c.occurred_at >= since, outcomes.c.occurred_at < until
    )
    for query in (decided, reported):
        count, first, good, errors = connection.execute(query).one()
        if count:
            hours = max((until - _aware(first)).total_seconds() / 3600, 1.0)
            return Traffic(count / hours, good / count, errors / count)
    return Traffic(0.0, 0.85, 0.02)


def matured_count(connection: Connection, version: str, since: datetime, until: datetime) -> int:
    """How many tasks that a version decided matured between two instants."""
    query = select(func.count()).where(
        decisions.c.model_version == version, decisions.c.deadline_at > since, decisions.c.deadline_at <= until
    )
    return connection.execute(query).scalar_one()


@dataclass(frozen=True, slots=True)
class Performance:
    """Matured decisions of one version, arm and action; latency is the decision's, in milliseconds."""

    model_version: str | None
    arm: str
    action: str
    tasks: int
    successes: int
    errors: int
    missing: int
    mean_latency_ms: float

    @property
    def success_rate(self) -> float:
        """Share of tasks that succeeded; a missing outcome counts as none."""
        return self.successes / self.tasks

    @property
    def error_rate(self) -> float:
        """Share of tasks that ended in an error."""
        return self.errors / self.tasks


def performance(connection: Connection, since: datetime, until: datetime) -> list[Performance]:
    """Count decisions whose deadline lies in `[since, until)`, per version, arm and action."""
    result = outcomes.c.result
    keys = (decisions.c.model_version, decisions.c.assigned_arm, decisions.c.action)
    query = (
        select(
            *keys,
            func.count(),
            func.count().filter(result == Result.SUCCESS.value),
            func.count().filter(result == Result.ERROR.value),
            func.count().filter(result.is_(None)),
            func.avg(decisions.c.latency_ms),
        )
        .select_from(decisions)
        .outerjoin(outcomes, outcomes.c.seq == newest_outcome_seq())
        .where(decisions.c.deadline_at >= since, decisions.c.deadline_at < until)
        .group_by(*keys)
        .order_by(*keys)
    )
    return [Performance(*row) for row in connection.execute(query)]


def week_rows(connection: Connection, start_at: datetime, end_at: datetime, last_seq: int) -> Iterator[dict[str, Any]]:
    """One week's matured tasks, outcomes joined to decisions, in an order that is part of the snapshot's identity.

    A decision belongs to the week of its deadline; an outcome without a decision to the week in which
    it occurred. A decision without an outcome has `result=None`. Order: maturity, decision id, outcome id.

    Parameters
    ----------
    connection : Connection
    start_at, end_at : datetime
        The week, `[start, end)`.
    last_seq : int
        Outcomes above it are left to a later snapshot.
    """
    joined = (
        select(decisions, *_outcome_columns())
        .select_from(decisions)
        .outerjoin(outcomes, outcomes.c.seq == newest_outcome_seq(last_seq))
        .where(decisions.c.deadline_at >= start_at, decisions.c.deadline_at < end_at)
        .order_by(decisions.c.deadline_at, decisions.c.decision_id)
    )
    alone = (
        select(outcomes)
        .where(
            outcomes.c.occurred_at >= start_at,
            outcomes.c.occurred_at < end_at,
            outcomes.c.seq <= last_seq,
            ~_has_decision(),
            ~_is_replaced(last_seq),
        )
        .order_by(outcomes.c.occurred_at, outcomes.c.outcome_id)
    )
    decided = (_decided_row(row) for row in connection.execute(joined))
    orphans = (_orphan_row(row) for row in connection.execute(alone))
    yield from sorted([*decided, *orphans], key=_order)


def _order(row: dict[str, Any]) -> tuple[datetime, str, str]:
    return row["matured_at"], row["decision_id"] or "", row["outcome_id"] or ""


def _outcome_columns() -> list[ColumnElement[Any]]:
    names = ("seq", "outcome_id", "result", "failure_reason", "execution_time_s", "occurred_at")
    return [outcomes.c[name].label(f"o_{name}") for name in names] + [outcomes.c.features.label("o_features")]


def _has_decision() -> ColumnElement[bool]:
    return (
        select(1)
        .where(
            or_(
                decisions.c.decision_id == outcomes.c.decision_id,
                and_(
                    outcomes.c.decision_id.is_(None),
                    decisions.c.task_id == outcomes.c.task_id,
                    decisions.c.attempt == outcomes.c.attempt,
                ),
            )
        )
        .exists()
    )


def _is_replaced(last_seq: int) -> ColumnElement[bool]:
    newer = outcomes.alias()
    return (
        select(1)
        .where(newer.c.replaces == outcomes.c.outcome_id, newer.c.seq > outcomes.c.seq, newer.c.seq <= last_seq)
        .exists()
    )


def _decided_row(row: Row[Any]) -> dict[str, Any]:
    return {
        "task_id": row.task_id,
        "attempt": row.attempt,
        "seq": row.o_seq,
        "outcome_id": row.o_outcome_id,
        "decision_id": row.decision_id,
        "domain": row.domain,
        "matured_at": row.deadline_at,
        "decided_at": row.decided_at,
        "occurred_at": row.o_occurred_at,
        "action": row.action,
        "result": row.o_result,
        "failure_reason": row.o_failure_reason,
        "execution_time_s": row.o_execution_time_s,
        "propensity": row.propensity,
        "model_version": row.model_version,
        "arm": row.arm,
        "stratum": row.stratum,
        "features": (row.o_features or {}) | row.features,
    }


def _orphan_row(row: Row[Any]) -> dict[str, Any]:
    return {
        "task_id": row.task_id,
        "attempt": row.attempt,
        "seq": row.seq,
        "outcome_id": row.outcome_id,
        "decision_id": row.decision_id,
        "domain": row.domain,
        "matured_at": row.occurred_at,
        "decided_at": None,
        "occurred_at": row.occurred_at,
        "action": row.action_attempted,
        "result": row.result,
        "failure_reason": row.failure_reason,
        "execution_time_s": row.execution_time_s,
        "propensity": row.propensity,
        "model_version": row.model_version,
        "arm": None,
        "stratum": None,
        "features": row.features,
    }


def first_instant(connection: Connection) -> datetime | None:
    """The earliest instant that anything is known of; None when nothing is."""
    found = [
        connection.execute(select(func.min(outcomes.c.occurred_at))).scalar(),
        connection.execute(select(func.min(decisions.c.deadline_at))).scalar(),
    ]
    return min((instant for instant in found if instant is not None), default=None)


def instants_since(connection: Connection, seq: int, last_seq: int) -> list[datetime]:
    """When the tasks matured whose outcomes have a `seq` above `seq` and up to `last_seq`.

    A correction touches two: its own, and that of the outcome it replaces.
    """
    replaced = outcomes.alias()
    is_new = (outcomes.c.seq > seq, outcomes.c.seq <= last_seq)
    own = select(_matured_at(outcomes).label("at")).where(*is_new)
    corrected = select(_matured_at(replaced).label("at")).where(*is_new, replaced.c.outcome_id == outcomes.c.replaces)
    return [_aware(value) for query in (own, corrected) for value in connection.execute(query).scalars()]


def _matured_at(told: FromClause) -> ColumnElement[Any]:
    """When the task of an outcome matured: its decision's deadline, else when it occurred."""
    named, unnamed = decisions.alias(), decisions.alias()
    by_id = select(named.c.deadline_at).where(named.c.decision_id == told.c.decision_id)
    by_task = select(func.max(unnamed.c.deadline_at)).where(
        told.c.decision_id.is_(None),
        unnamed.c.task_id == told.c.task_id,
        unnamed.c.attempt == told.c.attempt,
    )
    return func.coalesce(by_id.scalar_subquery(), by_task.scalar_subquery(), told.c.occurred_at)


def _aware(value: datetime | str) -> datetime:
    return (datetime.fromisoformat(value) if isinstance(value, str) else value).astimezone(UTC)
