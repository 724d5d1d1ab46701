"""The worker's side of the outcome store: `FeedbackCollector`.

Holds the public class; does not hold checks (`core/outcomes.py`) or SQL (`store/outcomes.py`). It
imports neither dagster, pandas nor scikit-learn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from retrain_assets.core.outcomes import OutcomeRules, Receipt
from retrain_assets.settings import Config, load_settings
from retrain_assets.store import outcomes, published, schema
from retrain_assets.store.database import Database

RULES_AGE_S = 60.0
"""How long published settings are trusted before they are read again."""


class FeedbackCollector:
    """Reports what became of tasks.

    Parameters
    ----------
    database_url : str
        SQLAlchemy URL of the problem's database. An empty SQLite file gets the schema at the first call.
    config : Config, optional
        Check against these settings; by default against the ones the platform published.
    clock : callable, optional
        Returns the current instant, aware (default: the system's, in UTC).

    Examples
    --------
    >>> collector = FeedbackCollector("sqlite:///outcomes.db")  # doctest: +SKIP
    >>> receipt = collector.append_outcome(  # doctest: +SKIP
    ...     task_id="t1", domain="a.org", action_attempted="comment", result=True
    ... )
    >>> receipt  # doctest: +SKIP
    Receipt(outcome_id='t-...', status='accepted', reason=None, field=None)
    """

    def __init__(
        self, database_url: str, *, config: Config | None = None, clock: Callable[[], datetime] | None = None
    ) -> None:
        self._database = Database(database_url)
        self._clock = clock or _utc_now
        self._rules = published.outcome_rules(config)
        self._is_fixed = config is not None
        self._rules_until = float("inf") if config is not None else 0.0
        self._is_ready = False

    @classmethod
    def from_config(cls, path: str | Path | None = None) -> FeedbackCollector:
        """Make a collector for the problem that a configuration file describes."""
        settings = load_settings(path)
        return cls(settings.database_url, config=settings.config)

    def append_outcome(
        self,
        *,
        task_id: str,
        domain: str | None = None,
        action_attempted: str,
        result: bool | str,
        failure_reason: str | None = None,
        execution_time: float | None = None,
        decision_id: str | None = None,
        attempt: int = 1,
        timestamp: datetime | str | None = None,
        model_version: str | None = None,
        propensity: float | None = None,
        outcome_id: str | None = None,
        **features: Any,  # noqa: ANN401  (features are typed by the configuration)
    ) -> Receipt:
        """Store one outcome; it is durable when this returns.

        Parameters
        ----------
        task_id, domain, action_attempted
            What was tried, and where.
        result : bool or str
            `True/False`, or `success | failed | failure | error` in any case.
        failure_reason : str, optional
        execution_time : float, optional
            Seconds.
        decision_id : str, optional
            The engine's decision that led to this attempt.
        attempt : int
            1 for the first try of a task.
        timestamp : datetime or str, optional
            Aware, or ISO 8601 with an offset (default: now).
        model_version, propensity, outcome_id : optional
            `outcome_id` is the idempotency key; by default it is derived.
        **features
            The task's features, and anything else worth keeping.

        Returns
        -------
        Receipt
            `accepted`, `duplicate` or `quarantined`, with the reason.

        Raises
        ------
        StoreUnavailable
            The database is away; nothing was stored, try again.
        """
        fields = {
            "task_id": task_id,
            "domain": domain,
            "action_attempted": action_attempted,
            "result": result,
            "failure_reason": failure_reason,
            "execution_time": execution_time,
            "decision_id": decision_id,
            "attempt": attempt,
            "timestamp": timestamp,
            "model_version": model_version,
            "propensity": propensity,
            "outcome_id": outcome_id,
        }
        return self.append_outcomes([fields | features])[0]

    def append_outcomes(self, rows: Iterable[Mapping[str, Any]]) -> list[Receipt]:
        """Store a batch in one transaction: all of it is durable when this returns, or none of it.

        Parameters
        ----------
        rows : iterable of mapping
            Each with the keywords of `append_outcome`.

        Raises
        ------
        StoreUnavailable
            The database is away; nothing was stored, try again.
        """
        batch = list(rows)
        self._prepare()
        with self._database.write() as connection:
            return outcomes.append(connection, batch, self._rules, self._clock(), "collector")

    @property
    def rules(self) -> OutcomeRules:
        """What outcomes are checked against now."""
        return self._rules

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> None:
        if not self._is_ready:
            schema.create_if_empty(self._database)
            self._is_ready = True
        if time.monotonic() >= self._rules_until:
            with self._database.read() as connection:
                self._rules = published.outcome_rules(published.active(connection))
            # Settings that are not there yet are looked for at every call: they end the unchecked time.
            self._rules_until = time.monotonic() + (RULES_AGE_S if self._rules.schema is not None else 0.0)


def _utc_now() -> datetime:
    return datetime.now(tz=UTC)
