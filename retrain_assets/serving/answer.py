"""Who answers a task, and with which action: assignment, fallback, choice and exploration.

Holds the two steps of a decision that follow the reading of a task; does not hold scoring (`bundle.py`), the circuit's
rules (`circuit.py`) or the decision as a value and its log (`engine.py`).
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from datetime import datetime
from time import perf_counter
from typing import Any, NoReturn

from retrain_assets.core.outcomes import Arm
from retrain_assets.core.routing import assign
from retrain_assets.errors import NoModelError, SchemaError
from retrain_assets.serving.bundle import Bundle, Served

_PRODUCTION, _FALLBACK = Arm.PRODUCTION.value, Arm.FALLBACK.value
_MAX_ERROR_LENGTH = 500

logger = logging.getLogger(__name__)


class Answers:
    """Answers tasks from a bundle; threads may share it.

    Parameters
    ----------
    seed : int or None
        Of exploration; None takes the operating system's entropy.

    Attributes
    ----------
    counts : Counter
        What happened, by name.
    """

    def __init__(self, seed: int | None) -> None:
        self.counts: Counter[str] = Counter()
        self.begin(seed)

    def begin(self, seed: int | None) -> None:
        """Draw and count anew, at the start and in a child process."""
        self.counts.clear()
        self._random = random.Random(seed).random
        self._counting = threading.Lock()

    def answer(
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
        self.count("fallbacks")
        return assigned.value, _FALLBACK, answer[0], answer[1], error if answer[2] is None else f"{error}; {answer[2]}"

    def _note_trial(self, bundle: Bundle, is_failure: bool, name: str, now: datetime) -> None:  # noqa: FBT001
        circuit = bundle.circuit
        if not is_failure:
            circuit.note(is_failure=False, now=now)
            return
        opened = circuit.opened
        circuit.note(is_failure=True, now=now)
        self.count(name)
        if circuit.opened > opened:
            self.count("circuit_opened")
            logger.warning("the model on trial failed repeatedly (%s); production answers its tasks", name)

    def choose(
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
        self.count("explored")
        explored = [action for action in candidates if action != best][int(self._random() * others)]
        return explored, epsilon / others

    def _default(self, bundle: Bundle, candidates: tuple[str, ...], error: str | None) -> str:
        action = bundle.terms.default_action
        if action is None or action not in candidates:
            refuse(bundle, candidates, error)
        self.count("defaults")
        return action

    def count(self, name: str) -> None:
        """Note that something happened once more."""
        with self._counting:
            self.counts[name] += 1


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


def trial_of(bundle: Bundle, now: datetime) -> tuple[float, str | None]:
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


def refuse(bundle: Bundle, candidates: tuple[str, ...], error: str | None) -> NoReturn:
    """Say why there is no model, and what to do.

    Raises
    ------
    NoModelError
        Always.
    """
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
