"""The decision engine inside a worker: which action for this task, answered in microseconds, logged for the loop.

Holds the public `DecisionEngine`: routing, fallback, choice with exploration, and the threads around it. Does not hold
scoring (`artefact.py`), what is served (`refresh.py`), the log's queue (`decision_log.py`) or who changes traffic.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from retrain_assets.errors import RetrainError
from retrain_assets.serving import fork
from retrain_assets.serving.answer import Answers, refuse, trial_of
from retrain_assets.serving.decision import Decision
from retrain_assets.serving.decision_log import DecisionLog
from retrain_assets.serving.refresh import Refresher
from retrain_assets.serving.request import read_attempt, read_domain, read_features, read_id
from retrain_assets.settings import Config, load_settings
from retrain_assets.store import schema
from retrain_assets.store.database import Database
from retrain_assets.store.decision_rows import Row

MOST_FAULTS = 100
"""Different faults of extraction that are told in the log."""

logger = logging.getLogger(__name__)


class DecisionEngine:
    """Answers which action a task gets, from the version that serves it now.

    Make it with `from_registry` or `from_config`; threads may share one, and a forked child goes on with a log, a
    refresh thread and connections of its own. Use it as a context manager, or call `close`: decisions that still
    wait for the log are then written.

    Parameters
    ----------
    refresher : Refresher
        Where bundles come from; most callers use `from_registry` instead.
    clock : callable, optional
        Returns the current instant, aware; routes, leases and the log go by it. Default the system's, in UTC.
    seed : int, optional
        Of exploration; default the operating system's entropy.
    start_refresh : bool
        False starts no thread: what is served changes only with `refresh()`.

    Examples
    --------
    >>> with DecisionEngine.from_registry("sqlite:///.retrain/backlinks/retrain.db") as engine:  # doctest: +SKIP
    ...     decision = engine.decide(task_id="t1", domain="a.org", features={"pa": 40, "site_type": "blog"})
    >>> decision.action, decision.scores  # doctest: +SKIP
    ('comment', {'comment': 0.83, 'guest': 0.71, 'profile': 0.4, 'forum': 0.22})
    """

    def __init__(
        self,
        refresher: Refresher,
        *,
        clock: Callable[[], datetime] | None = None,
        seed: int | None = None,
        start_refresh: bool = True,
    ) -> None:
        self._clock = clock or _utc_now
        self._refresher = refresher
        self._answers = Answers(seed)
        refresher.counts = self._answers.counts
        self._is_refreshing = start_refresh
        self._is_closed = False
        self._faults: set[str] = set()
        self._begin()
        self._bundle = refresher.refresh(None)
        settings = (self._bundle.terms.config or Config()).engine
        self._log = DecisionLog(
            refresher.database,
            self._row,
            capacity=settings.log_queue,
            is_blocking=settings.log_full == "block",
            clock=self._clock,
        )
        # A thread that loads a model while the interpreter ends would abort the process from inside the runtime.
        self._at_exit = partial(_close_at_exit, weakref.ref(self))
        atexit.register(self._at_exit)
        fork.watch(self)
        self._resume()

    @classmethod
    def from_registry(
        cls,
        database_url: str,
        *,
        problem_home: str | Path | None = None,
        clock: Callable[[], datetime] | None = None,
        seed: int | None = None,
        start_refresh: bool = True,
    ) -> DecisionEngine:
        """Make an engine that needs only the database's URL: settings are the ones the platform published.

        Parameters
        ----------
        database_url : str
            SQLAlchemy URL of the problem's database.
        problem_home : str or Path, optional
            The folder that holds the problem's `artefacts/`. Default, in this order: the folder of the SQLite
            file; for a server, `RETRAIN_HOME/<problem.name>`, or `.retrain/<problem.name>` in the working folder.
        clock, seed, start_refresh
            As for the class.

        Raises
        ------
        StoreUnavailable
            The database is away; try again.
        StoreOutdated
            The database has no schema of this version; says how to make it.
        """
        home = Path(problem_home).expanduser().resolve() if problem_home is not None else None
        return cls._open(database_url, None, home, clock, seed, start_refresh=start_refresh)

    @classmethod
    def from_config(
        cls,
        path: str | Path | None = None,
        *,
        clock: Callable[[], datetime] | None = None,
        seed: int | None = None,
        start_refresh: bool = True,
    ) -> DecisionEngine:
        """Make an engine for the problem that a configuration file describes; it keeps to that file's settings."""
        settings = load_settings(path)
        return cls._open(
            settings.database_url, settings.config, settings.problem_home, clock, seed, start_refresh=start_refresh
        )

    @classmethod
    def _open(
        cls,
        database_url: str,
        config: Config | None,
        home: Path | None,
        clock: Callable[[], datetime] | None,
        seed: int | None,
        *,
        start_refresh: bool,
    ) -> DecisionEngine:
        database = Database(database_url)
        schema.create_if_empty(database)
        # A file that vanishes from now on is to be brought back: an empty one in its place would take outcomes.
        database.absent = "refuse"
        refresher = Refresher(database, clock or _utc_now, config=config, problem_home=home)
        return cls(refresher, clock=clock, seed=seed, start_refresh=start_refresh)

    def decide(
        self,
        *,
        task_id: str,
        domain: str | None = None,
        features: Mapping[str, Any] | None = None,
        actions: Iterable[str] | None = None,
        attempt: int = 1,
        durable: bool = False,
        log: bool = True,
    ) -> Decision:
        """Choose an action for a task.

        Parameters
        ----------
        task_id : str
            At most 200 characters; the same task always goes to the same side of a trial.
        domain : str, optional
        features : mapping, optional
            Known before the choice; absent ones are filled from the task's URL where it tells them (see
            `docs/how-to/features.md`), or missing; unknown names are not used.
        actions : iterable of str, optional
            The candidates, by any case or alias; default all actions of the problem.
        attempt : int
            1 for the first try of a task.
        durable : bool
            Store the decision before returning, instead of soon.
        log : bool
            False stores nothing; `record` does it later.

        Returns
        -------
        Decision

        Raises
        ------
        SchemaError
            Names the argument or feature that does not fit.
        NoModelError
            No version serves and no default action is configured.
        StoreUnavailable
            With `durable` only: the database is away, the decision was not stored.
        """
        started = perf_counter()
        now = self._clock()
        if self._is_forked:
            self._resume()
        bundle = self._bundle  # read once: the whole decision comes from one state of traffic
        task, given = read_id(task_id), read_features(features)
        given |= bundle.extraction.fill(given, domain, self._note_fault)
        candidates = bundle.terms.actions if actions is None else bundle.candidates(actions)
        assigned, arm, served, scores, error = self._answers.answer(bundle, task, given, candidates, now)
        action, propensity = self._answers.choose(bundle, scores, candidates, error)
        share, rollout_id = trial_of(bundle, now)
        decision = Decision(
            decision_id=_new_id(),
            task_id=task,
            action=action,
            scores=scores,
            propensity=propensity,
            model_version=served.version if served is not None else None,
            arm=arm,
            assigned_arm=assigned,
            latency_ms=(perf_counter() - started) * 1e3,
            attempt=read_attempt(attempt),
            domain=read_domain(domain),
            features=given,
            actions=candidates,
            decided_at=now,
            deadline_at=now + bundle.terms.timeout,
            share=share,
            rollout_id=rollout_id,
            error=error,
        )
        if log:
            self.record(decision, durable=durable)
        return decision

    def record(self, decision: Decision, *, durable: bool = False) -> None:
        """Log a decision that was made with `log=False`; doing it twice stores it once.

        Raises
        ------
        StoreUnavailable
            With `durable` only: the database is away.
        """
        if durable:
            self._log.write_now(decision)
        else:
            self._log.put(decision)

    def predict(
        self, features: Mapping[str, Any] | None = None, actions: Iterable[str] | None = None
    ) -> dict[str, float]:
        """Production's P(success) of each action, best first; nothing is routed, explored or logged.

        Raises
        ------
        SchemaError
            Names the argument or feature that does not fit.
        NoModelError
            No version serves production.
        """
        bundle = self._bundle
        candidates = bundle.terms.actions if actions is None else bundle.candidates(actions)
        if bundle.production is None:
            refuse(bundle, candidates, None)
        given = read_features(features)
        given |= bundle.extraction.fill(given, on_fault=self._note_fault)
        return bundle.production.rank(given, candidates)

    def predict_ranked(
        self, features: Mapping[str, Any] | None = None, actions: Iterable[str] | None = None
    ) -> list[tuple[str, float]]:
        """`predict` as a list of (action, P(success)), best first."""
        return list(self.predict(features, actions).items())

    @property
    def active_version(self) -> str | None:
        """The version that answers for production in this engine; None when there is none."""
        production = self._bundle.production
        return production.version if production is not None else None

    @property
    def counters(self) -> dict[str, int]:
        """What happened so far in this process, by name; names that are absent have not happened.

        `explored`, `defaults` (the default action answered), `fallbacks`, `trial_failures` (a canary or holdback raised
        or gave no probability), `trial_slow`, `circuit_opened`, `refreshes`, `refresh_failures`,
        `artefacts_refused`, `extraction_faults` (a value that a URL or a function gave was not taken), and of the log
        `log_queued`, `log_written`, `log_dropped`, `log_refused`, `log_lost`, `log_retries`.
        """
        return dict(self._answers.counts) | {f"log_{name}": count for name, count in self._log.counts.copy().items()}

    def refresh(self) -> bool:
        """Look once at what is to be served; True when it changed.

        Raises
        ------
        StoreUnavailable
            The database is away; the engine goes on with what it has.
        """
        with self._refreshing:
            before = self._bundle
            self._bundle = self._refresher.refresh(before)
            return self._bundle is not before

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until every decision so far is stored.

        Raises
        ------
        StoreUnavailable
            The database is away or the time is over; what was not stored goes on waiting.
        """
        self._log.flush(timeout_s)

    def close(self) -> None:
        """Stop refreshing, write what waits for the log, and close the connections; a second call does nothing."""
        self._is_closed = True
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)
        atexit.unregister(self._at_exit)
        self._log.close()
        self._refresher.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _note_fault(self, reason: str) -> None:
        """Count a value that was not taken; each reason is told once."""
        self._answers.count("extraction_faults")
        if reason not in self._faults and len(self._faults) < MOST_FAULTS:
            self._faults.add(reason)
            logger.warning("a feature stays missing: %s", reason)

    def _row(self, decision: Decision) -> Row:
        return self._bundle.terms.recorder.row(decision)

    def _begin(self) -> None:
        """What a process has for itself: the locks, the end signal and the thread."""
        self._refreshing = threading.Lock()
        self._starting = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_forked = False

    def _resume(self) -> None:
        """Start the refresh thread of this process, once."""
        with self._starting:
            self._is_forked = False
            if not self._is_refreshing or self._is_closed or self._thread is not None:
                return
            arguments = (weakref.ref(self), self._stop)
            self._thread = threading.Thread(target=_keep_fresh, args=arguments, name="retrain-refresh", daemon=True)
            self._thread.start()

    def after_fork(self) -> None:
        """Begin anew in a child process; the fork itself calls this."""
        self._answers.begin(None)  # the same seed again would make every child explore alike
        self._begin()
        self._log.reset_after_fork()
        self._is_forked = True

    def _refresh_in_background(self, *, was_failing: bool) -> bool:
        """One refresh that never raises; whether it failed. Told in the log when that changes."""
        try:
            with self._refreshing, fork.database_gate:
                self._bundle = self._refresher.refresh(self._bundle, is_patient=True)
        except Exception as error:
            self._answers.count("refresh_failures")
            if not was_failing:
                unexpected = None if isinstance(error, RetrainError) else error
                logger.warning("serving goes on with the last state: %s", error, exc_info=unexpected)
            return True
        if was_failing:
            logger.info("the database answers again")
        return False


def _keep_fresh(reference: weakref.ref[DecisionEngine], stop: threading.Event) -> None:
    """Refresh until told to stop, or until nobody holds the engine any more."""
    is_failing = False
    while (engine := reference()) is not None:
        wait_s = engine._bundle.terms.refresh_s  # noqa: SLF001  (the engine's own thread)
        del engine
        if stop.wait(wait_s) or (engine := reference()) is None:
            return
        is_failing = engine._refresh_in_background(was_failing=is_failing)  # noqa: SLF001  (see above)
        del engine


def _close_at_exit(reference: weakref.ref[DecisionEngine]) -> None:
    if (engine := reference()) is not None:
        engine.close()


def _new_id() -> str:
    """Unique also over machines and forks; begins with the time, so that an index grows at its end."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def _utc_now() -> datetime:
    return datetime.now(tz=UTC)
