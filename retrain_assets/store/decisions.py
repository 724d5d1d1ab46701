"""The decision log: what the engine answered, and what came of it once it matured.

Holds the SQL on `decisions` and which outcome belongs to which decision; does not hold evidence
(`operations/watch.py`), nor the rows of a week (`week_rows.py`).
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
    """Scalar subquery: the newest outcome of a decision; NULL when none has come.

    An outcome belongs to the decision that it names, if that is one of its own task. One that names none belongs to the
    decision of its task and attempt: a correction counts like one that names it, another only if no outcome does.

    Parameters
    ----------
    last_seq : int, optional
        Outcomes above it are not looked at; they must not hide the ones below either.
    """
    told = outcomes.alias("told")
    belongs = or_(
        and_(told.c.decision_id == decisions.c.decision_id, told.c.task_id == decisions.c.task_id),
        _is_of_attempt(told, decisions),
    )
    is_bare = and_(told.c.decision_id.is_(None), told.c.replaces.is_(None))
    query = select(told.c.seq).where(belongs).order_by(is_bare, told.c.seq.desc()).limit(1)
    if last_seq is not None:
        query = query.where(told.c.seq <= last_seq)
    return query.correlate(decisions).scalar_subquery()


def belongs_by_task(told: FromClause) -> ColumnElement[bool]:
    """Whether an outcome that names no decision has one all the same, by its task and attempt."""
    decided = decisions.alias("decided")
    # Asked in front, so that no look-up is made for the many that name one.
    return and_(told.c.decision_id.is_(None), select(1).where(_is_of_attempt(told, decided)).correlate(told).exists())


def is_replaced(last_seq: int) -> ColumnElement[bool]:
    """Whether an outcome was corrected by one that was stored after it, up to `last_seq`."""
    newer = outcomes.alias("newer")
    is_newer = and_(newer.c.seq > outcomes.c.seq, newer.c.seq <= last_seq)
    return select(1).where(newer.c.replaces == outcomes.c.outcome_id, is_newer).correlate(outcomes).exists()


def _is_of_attempt(told: FromClause, decided: FromClause) -> ColumnElement[bool]:
    """Whether an outcome that names no decision is of this decision's task and attempt.

    A worker may number no attempts, so that two decisions share them: what corrects the other one's is not meant here.
    """
    corrected = outcomes.alias("corrected")
    corrects_another = (
        select(1)
        .where(corrected.c.outcome_id == told.c.replaces, corrected.c.decision_id != decided.c.decision_id)
        .correlate(told, decided)
        .exists()
    )
    return and_(
        told.c.decision_id.is_(None),
        told.c.task_id == decided.c.task_id,
        told.c.attempt == decided.c.attempt,
        ~and_(told.c.replaces.is_not(None), corrects_another),
    )


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


def late_instants(connection: Connection) -> Iterator[datetime]:
    """Which instants the decisions touch that reached the log after their deadline: their own and their outcomes'.

    What such a decision changes may lie in a week that was taken without it: the decision itself where its task was
    due, and its outcomes where they stood as tasks without a decision. An outcome that names it counts also if it is
    of another task. One instant for each touch; few, since a log that lags by seconds makes none.
    """
    told = outcomes.alias("told")
    is_late = decisions.c.received_at.is_not(None)
    by_name = told.c.decision_id == decisions.c.decision_id
    by_task = and_(
        told.c.decision_id.is_(None),
        told.c.task_id == decisions.c.task_id,
        told.c.attempt == decisions.c.attempt,
    )
    queries = [select(decisions.c.deadline_at).where(is_late)]
    queries += [select(told.c.occurred_at).where(is_late, belongs) for belongs in (by_name, by_task)]
    for query in queries:
        for part in connection.execute(query, execution_options={"yield_per": 10_000}).partitions():
            yield from (_aware(at) for (at,) in part)


def _matured_at(told: FromClause) -> ColumnElement[Any]:
    """When the task of an outcome matured: its decision's deadline, else when it occurred."""
    named, unnamed = decisions.alias(), decisions.alias()
    by_id = select(named.c.deadline_at).where(
        named.c.decision_id == told.c.decision_id, named.c.task_id == told.c.task_id
    )
    by_task = select(func.max(unnamed.c.deadline_at)).where(
        told.c.decision_id.is_(None),
        unnamed.c.task_id == told.c.task_id,
        unnamed.c.attempt == told.c.attempt,
    )
    return func.coalesce(by_id.scalar_subquery(), by_task.scalar_subquery(), told.c.occurred_at)


def _aware(value: datetime | str) -> datetime:
    return (datetime.fromisoformat(value) if isinstance(value, str) else value).astimezone(UTC)
