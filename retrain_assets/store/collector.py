"""The worker's side of the outcome store: `FeedbackCollector`.

Holds the public class and its choice between database, spool and CSV file; does not hold checks (`core/outcomes.py`),
SQL (`store/outcomes.py`) or files (`store/spool.py`, `store/csv_outcomes.py`). It imports neither dagster, pandas nor
scikit-learn.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy.exc import DBAPIError

from retrain_assets.core.outcomes import OutcomeRules, Receipt
from retrain_assets.errors import ConfigError, RetrainError, StoreOutdated, StoreUnavailable
from retrain_assets.settings import Config, load_settings
from retrain_assets.store import outcomes, published, schema
from retrain_assets.store.database import Database
from retrain_assets.store.database_errors import detail_of, is_deadlock

if TYPE_CHECKING:
    from retrain_assets.store.csv_outcomes import CsvOutcomes
    from retrain_assets.store.spool_delivery import SpooledStore

logger = logging.getLogger("retrain_assets.collector")

RULES_AGE_S = 60.0
"""How long published settings are trusted before they are read again."""

CLOSE_S = 10.0
"""How long `close` delivers what waits."""

DEADLOCKS = 3
"""How often a batch is tried again that the server ended because another one waited for it, and it for that one."""

DEADLOCK_REST_S = 0.05
"""How long the other one gets to take what it waited for; doubled with each time."""

SOURCE = "collector"
CSV_SCHEME = "csv://"


class FeedbackCollector:
    """Reports what became of tasks.

    Threads may share a collector, and a forked child may go on using its parent's.

    Parameters
    ----------
    database_url : str
        SQLAlchemy URL of the problem's database, or `csv:///PATH` for a CSV file with one writer. A SQLite file that is
        not there is made at the first call, with its folders and the schema; a server's schema is the platform's.
    spool_dir : str or Path, optional
        Where outcomes are kept on this machine while the database is away, to be delivered when it answers again; each
        counts once. Any number of processes may share the folder. Without it such a call raises `StoreUnavailable`.
    config : Config, optional
        Check against these settings; by default against the ones the platform published.
    clock : callable, optional
        Returns the current instant, aware (default: the system's, in UTC).
    monotonic : callable, optional
        Returns seconds that never go back (default: `time.monotonic`).

    Raises
    ------
    ConfigError
        The URL is none, or names a database in memory, which would forget every outcome; or a spool was named for a
        CSV file, which is never away.

    Examples
    --------
    >>> collector = FeedbackCollector("sqlite:///outcomes.db")  # doctest: +SKIP
    >>> receipt = collector.append_outcome(  # doctest: +SKIP
    ...     task_id="t1", domain="a.org", action_attempted="comment", result=True
    ... )
    >>> receipt  # doctest: +SKIP
    Receipt(outcome_id='t-...', status='accepted', reason=None, field=None, is_spooled=False)
    """

    def __init__(
        self,
        database_url: str,
        spool_dir: str | Path | None = None,
        *,
        config: Config | None = None,
        clock: Callable[[], datetime] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock or _utc_now
        self._monotonic = monotonic
        self._rules = published.outcome_rules(config)
        self._rules_until = float("inf") if config is not None else float("-inf")
        self._is_ready = False
        self._csv: CsvOutcomes | None = None
        self._database: Database | None = None
        self._spooled: SpooledStore | None = None
        if database_url.startswith(CSV_SCHEME):
            self._csv = _csv_store(database_url, spool_dir)
            return
        self._database = _durable(database_url)
        if spool_dir is not None:
            self._spooled = self._spooling(database_url, Path(spool_dir))

    @classmethod
    def from_config(cls, path: str | Path | None = None) -> FeedbackCollector:
        """Make a collector for the problem that a configuration file describes.

        It follows `storage.outcomes`, `storage.csv_file` and `storage.spool_dir`, which a CSV file has no use for.

        Raises
        ------
        ConfigError
        """
        settings = load_settings(path)
        if settings.config.storage.outcomes == "csv":
            return cls(f"{CSV_SCHEME}{settings.csv_file.absolute()}", config=settings.config)
        return cls(settings.database_url, settings.spool_dir, config=settings.config)

    def append_outcome(
        self,
        *,
        task_id: str,
        domain: str | None = None,
        action_attempted: str,
        result: bool | int | str,
        failure_reason: str | None = None,
        execution_time: float | None = None,
        decision_id: str | None = None,
        attempt: int = 1,
        timestamp: datetime | str | None = None,
        model_version: str | None = None,
        propensity: float | None = None,
        outcome_id: str | None = None,
        retry_count: int | None = None,
        replaces: str | None = None,
        **features: Any,  # noqa: ANN401  (features are typed by the configuration)
    ) -> Receipt:
        """Store one outcome; it is durable when this returns.

        Parameters
        ----------
        task_id, domain, action_attempted
            What was tried, and where.
        result : bool, int or str
            `True/False`, `1/0`, or `success | failed | failure | error` in any case.
        failure_reason : str, optional
        execution_time : float, optional
            Seconds.
        decision_id : str, optional
            The engine's decision that led to this attempt.
        attempt : int
            1 for the first try of a task.
        timestamp : datetime or str, optional
            Aware, or ISO 8601 with an offset (default: now).
        model_version, propensity : optional
        outcome_id : str, optional
            The idempotency key; by default it is derived from `decision_id`, else from task, attempt and timestamp.
        retry_count : int, optional
            How often the automation itself tried again within this attempt.
        replaces : str, optional
            The `outcome_id` of an earlier outcome that this one corrects; both are kept, and this one counts.
        **features
            The task's features, and anything else worth keeping.

        Returns
        -------
        Receipt
            `accepted`, `duplicate` or `quarantined`, with the reason.

        Raises
        ------
        StoreUnavailable, StoreOutdated, ConfigError
            As `append_outcomes`.
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
            "retry_count": retry_count,
            "replaces": replaces,
        }
        return self.append_outcomes([fields | features])[0]

    def append_outcomes(self, rows: Iterable[Mapping[str, Any]]) -> list[Receipt]:
        """Store a batch in one transaction: all of it is durable when this returns, or none of it.

        Parameters
        ----------
        rows : iterable of mapping
            Each with the keywords of `append_outcome`.

        Returns
        -------
        list of Receipt
            One for each row, in order. With a spool they may say `is_spooled`: durable on this machine.

        Raises
        ------
        StoreUnavailable
            The database is away, and there is no spool, or its disk refused, too; try again. A row that has an
            `outcome_id`, `decision_id` or `timestamp` of its own counts once, however often it is sent.
        StoreOutdated
            The database's schema does not fit this version; trying again cannot help. It is raised with a spool, too:
            outcomes would wait there for a person who has not been told.
        ConfigError
            The server refuses the user, the password or the database; likewise.
        """
        batch = list(rows)
        if self._csv is not None:
            return self._csv.append(batch, self._rules, self._clock(), SOURCE)
        if self._spooled is not None:
            return self._spooled.append(batch)
        return self._store(batch, self._clock())

    def flush(self, timeout_s: float | None = None) -> None:
        """Deliver what waits in the spool; without a spool there is nothing to do.

        Parameters
        ----------
        timeout_s : float, optional
            How long to go on trying while the database is away; by default it is tried once.

        Raises
        ------
        StoreUnavailable
            Something still waits.
        StoreOutdated, ConfigError
            As `append_outcomes`.
        """
        if self._spooled is not None:
            self._spooled.flush(timeout_s)

    def deliver_spool(
        self, folder: Path, *, is_moved: bool = False, progress: Callable[[int], None] | None = None
    ) -> Counter[str]:
        """Deliver what some worker left behind in a spool, each outcome once.

        Parameters
        ----------
        folder : Path
        is_moved : bool
            Take also files that name another database: this one, under the address that it had before.
        progress : callable, optional
            Gets the number of rows delivered so far.

        Returns
        -------
        Counter
            Receipts by status.

        Raises
        ------
        StoreUnavailable, StoreOutdated, ConfigError
            As `append_outcomes`; what was not delivered goes on waiting.
        """
        if self._database is None:
            raise ConfigError(["storage.outcomes: outcomes kept in a CSV file have no spool"], "the store of outcomes")
        return self._spooling(None if is_moved else self._database.url, folder).deliver(progress=progress)

    @property
    def rules(self) -> OutcomeRules:
        """What outcomes are checked against now."""
        return self._rules

    def close(self) -> None:
        """Try once to deliver what waits, and close the connections; the next call opens them again."""
        if self._spooled is not None:
            try:
                self._spooled.deliver(time.monotonic() + CLOSE_S)
            except RetrainError as error:
                logger.warning("outcomes go on waiting in %s: %s", self._spooled.spool.folder, error)
        if self._csv is not None:
            self._csv.close()
        if self._database is not None:
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _spooling(self, database_url: str | None, folder: Path) -> SpooledStore:
        from retrain_assets.store.spool import Spool, name_of
        from retrain_assets.store.spool_delivery import SpooledStore

        spool = Spool(folder, None if database_url is None else name_of(database_url))
        return SpooledStore(spool, self._store, rules=lambda: self._rules, clock=self._clock, monotonic=self._monotonic)

    def _store(self, batch: Sequence[Mapping[str, Any]], now: datetime) -> list[Receipt]:
        assert self._database is not None  # noqa: S101  (a CSV file is handled before)
        self._prepare(self._database)
        try:
            return self._append(self._database, batch, now)
        except (StoreOutdated, DBAPIError) as error:
            if (outdated := self._outdated(self._database, error)) is None:
                raise
            raise outdated from error

    def _append(self, database: Database, batch: Sequence[Mapping[str, Any]], now: datetime) -> list[Receipt]:
        for attempt in range(DEADLOCKS):
            try:
                return self._append_once(database, batch, now)
            except StoreUnavailable as error:
                if not is_deadlock(error):
                    raise
            time.sleep(DEADLOCK_REST_S * 2**attempt)
        return self._append_once(database, batch, now)

    def _append_once(self, database: Database, batch: Sequence[Mapping[str, Any]], now: datetime) -> list[Receipt]:
        with database.write() as connection:
            receipts = outcomes.append(connection, batch, self._rules, now, SOURCE)
            return outcomes.refuse_foreign(connection, batch, receipts, now, SOURCE)

    def _prepare(self, database: Database) -> None:
        if not self._is_ready:
            schema.create_if_empty(database)
            self._is_ready = True
            # A file that vanishes from now on is to be brought back, not to be replaced by an empty one.
            database.absent = "refuse"
        if self._monotonic() >= self._rules_until:
            with database.read() as connection:
                self._rules = published.outcome_rules(published.active(connection))
            # Settings that are not there yet are looked for at every call: they end the unchecked time.
            self._rules_until = self._monotonic() + (RULES_AGE_S if self._rules.schema is not None else 0.0)

    def _outdated(self, database: Database, error: StoreOutdated | DBAPIError) -> StoreOutdated | None:
        """What an insert that failed means when worker and database differ in their schema; None when they do not."""
        self._is_ready = False
        try:
            with database.read() as connection:
                found = schema.revision(connection)
        except (RetrainError, DBAPIError):
            return None
        if found is None or found == schema.HEAD:
            return None
        detail = detail_of(error) if isinstance(error, DBAPIError) else str(error)
        if found in schema.revisions():
            told = f"the database has schema revision {found}, this version writes {schema.HEAD}"
            return StoreOutdated(f"{told}: run `retrain doctor --fix` ({detail})")
        return StoreOutdated(f"{schema.newer(found)} ({detail})")


def _durable(url: str) -> Database:
    database = Database(url)
    if database.is_in_memory:
        hint = "it lies in memory, and its outcomes would be gone with the process; name a file: sqlite:///FILE"
        raise ConfigError([f"{url!r}: {hint}"], "the store of outcomes")
    return database


def _csv_store(url: str, spool_dir: str | Path | None) -> CsvOutcomes:
    from retrain_assets.store.csv_outcomes import CsvOutcomes

    path = url.removeprefix(CSV_SCHEME)
    if not path.startswith("/") or path == "/":
        raise ConfigError([f"{url!r} is not of the form csv:///FOLDER/FILE.csv"], "the store of outcomes")
    if spool_dir is not None:
        raise ConfigError(["spool_dir: a CSV file needs no spool; leave it out"], "the store of outcomes")
    return CsvOutcomes(Path(path))


def _utc_now() -> datetime:
    return datetime.now(tz=UTC)
