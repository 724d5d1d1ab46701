"""The decision engine inside a worker: which action for this task, answered in microseconds, logged for the loop.

Holds the public `DecisionEngine`: routing, fallback, choice with exploration, and the threads around it. Does not hold
scoring (`artefact.py`), what is served (`refresh.py`), the log's queue (`decision_log.py`) or who changes traffic.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, NoReturn, Self

from retrain_assets.core.outcomes import MAX_ID_LENGTH, MAX_REASON_LENGTH, Arm
from retrain_assets.core.routing import assign
from retrain_assets.errors import NoModelError, RetrainError, SchemaError
from retrain_assets.serving import fork
from retrain_assets.serving.decision import Decision
from retrain_assets.serving.decision_log import DecisionLog
from retrain_assets.serving.refresh import Bundle, Refresher, Served
from retrain_assets.settings import Config, load_settings
from retrain_assets.store import schema
from retrain_assets.store.database import Database
from retrain_assets.store.decision_rows import Row

logger = logging.getLogger(__name__)

_PRODUCTION, _FALLBACK = Arm.PRODUCTION.value, Arm.FALLBACK.value
_MAX_ERROR_LENGTH = 500


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
        self._counts = refresher.counts
        self._is_refreshing = start_refresh
        self._is_closed = False
        self._begin(seed)
        self._bundle = refresher.refresh(None)
        settings = (self._bundle.terms.config or Config()).engine
        self._log = DecisionLog(
            refresher.database,
            self._row,
            capacity=settings.log_queue,
            is_blocking=settings.log_full == "block",
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
            Known before the choice; absent ones are missing, unknown names are not used.
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
        task, given = _read_id(task_id), _read_features(features)
        candidates = bundle.terms.actions if actions is None else bundle.candidates(actions)
        assigned, arm, served, scores, error = self._answer(bundle, task, given, candidates, now)
        action, propensity = self._choose(bundle, scores, candidates, error)
        share, rollout_id = _trial_of(bundle, now)
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
            attempt=_read_attempt(attempt),
            domain=_read_domain(domain),
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
            _refuse(bundle, candidates, None)
        return bundle.production.rank(_read_features(features), candidates)

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
        `artefacts_refused`, and of the log `log_queued`, `log_written`, `log_dropped`, `log_refused`, `log_lost`,
        `log_retries`.
        """
        return dict(self._counts) | {f"log_{name}": count for name, count in self._log.counts.copy().items()}

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
        """Stop refreshing and write what waits for the log; a second call does nothing."""
        self._is_closed = True
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)
        atexit.unregister(self._at_exit)
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(
        self, bundle: Bundle, task: str, given: dict[str, Any], candidates: tuple[str, ...], now: datetime
    ) -> tuple[str, str, Served | None, dict[str, float], str | None]:
        """Assigned arm, serving arm, who answered, its scores, and why the assigned arm did not."""
        assigned = assign(bundle.route, task, now)
        served = bundle.canary if assigned is Arm.CANARY else bundle.holdback
        if assigned is Arm.PRODUCTION or served is None:
            return _PRODUCTION, _PRODUCTION, *_rank(bundle.production, given, candidates)
        is_asked = bundle.circuit.allows(now)
        began = perf_counter()
        if not is_asked:
            error: str | None = f"the circuit of {served.version} is open after repeated failures"
        else:
            try:
                scores = served.rank(given, candidates)
                self._note_trial(bundle, (perf_counter() - began) * 1e3 > bundle.terms.slow_ms, "trial_slow", now)
                return assigned.value, assigned.value, served, scores, None
            except Exception as failure:  # noqa: BLE001  (nothing that a model on trial does may cost a task)
                error = _told(served, failure)
        answer = _rank(bundle.production, given, candidates)
        if is_asked:  # only now: a task that does not fit production either is not the trial's fault
            self._note_trial(bundle, True, "trial_failures", now)
        self._count("fallbacks")
        return assigned.value, _FALLBACK, answer[0], answer[1], error if answer[2] is None else f"{error}; {answer[2]}"

    def _note_trial(self, bundle: Bundle, is_failure: bool, name: str, now: datetime) -> None:  # noqa: FBT001
        circuit = bundle.circuit
        if not is_failure:
            circuit.note(is_failure=False, now=now)
            return
        opened = circuit.opened
        circuit.note(is_failure=True, now=now)
        self._count(name)
        if circuit.opened > opened:
            self._count("circuit_opened")
            logger.warning("the model on trial failed repeatedly (%s); production answers its tasks", name)

    def _choose(
        self, bundle: Bundle, scores: dict[str, float], candidates: tuple[str, ...], error: str | None
    ) -> tuple[str, float]:
        """The action and the probability with which it was chosen."""
        if not scores:
            return self._default(bundle, candidates, error), 1.0
        best = next(iter(scores))
        others = len(candidates) - 1
        epsilon = bundle.terms.epsilon
        if not others or not epsilon:
            return best, 1.0
        # The draw has nothing to do with the task's hash: exploration is alike on every side of a trial.
        if self._random() >= epsilon:
            return best, 1.0 - epsilon
        self._count("explored")
        explored = [action for action in candidates if action != best][int(self._random() * others)]
        return explored, epsilon / others

    def _default(self, bundle: Bundle, candidates: tuple[str, ...], error: str | None) -> str:
        action = bundle.terms.default_action
        if action is None or action not in candidates:
            _refuse(bundle, candidates, error)
        self._count("defaults")
        return action

    def _row(self, decision: Decision) -> Row:
        return self._bundle.terms.recorder.row(decision)

    def _count(self, name: str) -> None:
        with self._counting:
            self._counts[name] += 1

    def _begin(self, seed: int | None) -> None:
        """What a process has for itself: the draws, the locks, the end signal and the thread."""
        self._random = random.Random(seed).random
        self._counting = threading.Lock()
        self._refreshing = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_forked = False

    def _resume(self) -> None:
        """Start the refresh thread of this process, once."""
        with self._counting:
            self._is_forked = False
            if not self._is_refreshing or self._is_closed or self._thread is not None:
                return
            arguments = (weakref.ref(self), self._stop)
            self._thread = threading.Thread(target=_keep_fresh, args=arguments, name="retrain-refresh", daemon=True)
            self._thread.start()

    def after_fork(self) -> None:
        """Begin anew in a child process; the fork itself calls this."""
        self._begin(None)  # the same seed again would make every child explore alike
        self._counts.clear()
        self._log.reset_after_fork()
        self._is_forked = True

    def _refresh_in_background(self, *, was_failing: bool) -> bool:
        """One refresh that never raises; whether it failed. Told in the log when that changes."""
        try:
            with self._refreshing, fork.database_gate:
                self._bundle = self._refresher.refresh(self._bundle, is_patient=True)
        except Exception as error:
            self._count("refresh_failures")
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


def _rank(
    served: Served | None, given: dict[str, Any], candidates: tuple[str, ...]
) -> tuple[Served | None, dict[str, float], str | None]:
    """Production's answer: who gave it, its scores, and what went wrong; a task that does not fit raises."""
    if served is None:
        return None, {}, None
    try:
        return served, served.rank(given, candidates), None
    except SchemaError:
        raise
    except Exception as failure:  # noqa: BLE001  (whatever the runtime raises, the default action can still answer)
        return None, {}, _told(served, failure)


def _trial_of(bundle: Bundle, now: datetime) -> tuple[float, str | None]:
    """Share and rollout of the trial that this decision is part of.

    Production's decisions carry them too: they are the concurrent control. Once the lease has run out nobody is sent to
    the canary, so there is no trial to be part of, and the share that is logged stays the share that was applied.
    """
    route = bundle.route
    if route.rollout_id is None:
        return 0.0, None
    if route.canary_version and route.lease_until is not None and now < route.lease_until:
        return route.share, route.rollout_id
    if route.holdback_version:
        return route.holdback_share, route.rollout_id
    return 0.0, None


def _refuse(bundle: Bundle, candidates: tuple[str, ...], error: str | None) -> NoReturn:
    """Say why there is no model, and what to do."""
    if bundle.terms.config is None:
        why = "no settings are published in this database yet; `retrain doctor --fix` publishes them"
    elif error is not None:
        why = f"production cannot answer: {error}; `retrain rollback` goes back to the version before"
    elif bundle.seen.production_version is None:
        why = "no version serves yet; train one with `retrain run`"
    else:
        version = bundle.seen.production_version
        why = f"production could not be loaded: {bundle.refused.get(version, version)}"
    default = bundle.terms.default_action
    if default is None:
        then = "or set problem.default_action"
    else:
        then = f"and problem.default_action {default!r} is none of the candidates {', '.join(candidates)}"
    raise NoModelError(f"{why}, {then}")


def _told(served: Served, failure: Exception) -> str:
    return f"{served.version}: {type(failure).__name__}: {failure}"[:_MAX_ERROR_LENGTH]


def _read_id(value: Any) -> str:  # noqa: ANN401  (a worker sends whatever it has)
    """The task's id as the collector reads it, so that decision and outcome meet."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise SchemaError("task_id", f"{value!r} is not text")
    text = str(value).strip()
    if not text:
        raise SchemaError("task_id", "is required, but missing")
    if len(text) > MAX_ID_LENGTH:
        raise SchemaError("task_id", f"has {len(text)} characters; at most {MAX_ID_LENGTH} are accepted")
    _check_text("task_id", text)
    return text


def _read_domain(value: Any) -> str | None:  # noqa: ANN401  (see `_read_id`)
    if value is None:
        return None
    if not isinstance(value, str):
        raise SchemaError("domain", f"{value!r} is not text")
    if len(value) > MAX_REASON_LENGTH:
        raise SchemaError("domain", f"has {len(value)} characters; at most {MAX_REASON_LENGTH} are accepted")
    _check_text("domain", value)
    return value.strip() or None


def _check_text(name: str, text: str) -> None:
    if text.isascii() and text.isprintable():
        return
    if "\x00" in text:
        raise SchemaError(name, "holds a NUL character, which no database keeps")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SchemaError(name, "holds half a character (a lone surrogate), which is no text") from None


def _read_attempt(value: Any) -> int:  # noqa: ANN401  (see `_read_id`)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise SchemaError("attempt", f"{value!r} is not a whole number of at least 1")
    return value


def _read_features(features: Any) -> dict[str, Any]:  # noqa: ANN401  (see `_read_id`)
    """A copy: the caller may change its mapping while the log still holds the decision."""
    if features is None:
        return {}
    if not isinstance(features, Mapping):
        raise SchemaError("features", f"is a {type(features).__name__}; send a mapping of names to values")
    return dict(features)


def _new_id() -> str:
    """Unique also over machines and forks; begins with the time, so that an index grows at its end."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def _utc_now() -> datetime:
    return datetime.now(tz=UTC)
