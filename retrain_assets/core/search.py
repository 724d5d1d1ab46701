"""A small random search for an estimator's parameters, judged on the validation part.

Holds the drawing of trials, the score of one and the choice among all; does not hold the fitting of an estimator
(`core/estimators.py`) or the processes that trials run in (`operations/model.py`). A trial is a function of its
parameters and the data, so that the result is the same however many run at once.

What it costs in honesty: the lowest of many losses on the validation part is too low, and the calibration that is
fitted on the same part afterwards sees an estimator that was chosen for it. The test part is never looked at, so the
numbers of the report stay as honest as without a search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from retrain_assets.core.model_settings import SPACES

MIN_ROWS = 50
"""Validation rows below which nothing is searched: the differences between trials would be noise."""

Losses = np.ndarray | str
"""Log loss of each validation row, or why a trial could not be fitted."""
Task = Callable[[Mapping[str, Any]], Losses]
Runner = Callable[[Task, Sequence[Mapping[str, Any]]], Iterable[Losses]]


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """What is searched.

    Attributes
    ----------
    trials : int, default 0
        Parameter sets that are drawn; the configured ones are tried besides. 0 searches nothing.
    space : mapping
        Parameter to a list of values, or to a range `{low, high, log}` (whole numbers when both ends are).
        Empty: the estimator's own, `core.model_settings.SPACES`.
    """

    trials: int = 0
    space: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trial:
    """One set of parameters.

    Attributes
    ----------
    number : int
        0 is the configuration.
    params : mapping
        Departures from the estimator's defaults.
    log_loss : float or None
        Mean over the validation part, before calibration (nats); None when it could not be fitted.
    saving, saving_error : float or None
        Mean log loss saved against trial 0 on the same rows, and its standard error.
    fault : str
        Why it could not be fitted.
    """

    number: int
    params: Mapping[str, Any]
    log_loss: float | None = None
    saving: float | None = None
    saving_error: float | None = None
    fault: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """All trials and the one that is used; `reason` says why in words."""

    trials: tuple[Trial, ...]
    chosen: int
    reason: str

    @property
    def params(self) -> dict[str, Any]:
        """The parameters that are used."""
        return dict(self.trials[self.chosen].params)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return {
            "trials": [trial.to_dict() for trial in self.trials],
            "chosen": self.chosen,
            "reason": self.reason,
        }


def one_by_one(task: Task, trials: Sequence[Mapping[str, Any]]) -> Iterator[Losses]:
    """Run trials in this process, in order."""
    return map(task, trials)


def search(
    estimator: str, params: Mapping[str, Any], plan: SearchPlan, task: Task, *, seed: int, run: Runner = one_by_one
) -> SearchResult:
    """Try the configured parameters and `plan.trials` drawn ones; keep the configured ones unless one is better.

    Parameters
    ----------
    estimator : str
    params : mapping
        The configured departures from the estimator's defaults.
    plan : SearchPlan
    task : callable
        Parameters to the validation rows' losses.
    seed : int
        Of the draws.
    run : callable, optional
        (task, trials) to the losses in the order of the trials; another one may run them side by side.
    """
    drawn = draw(plan.space or SPACES[estimator], plan.trials, seed)
    tried = [dict(params), *({**params, **values} for values in drawn)]
    return choose(tried, list(run(task, tried)))


def draw(space: Mapping[str, Any], trials: int, seed: int) -> list[dict[str, Any]]:
    """`trials` independent sets of values, uniform over each list or range (over the logarithm where `log` is true)."""
    rng = np.random.default_rng([seed, 20])  # a stream of its own beside the estimator's
    return [{name: _draw_one(values, rng) for name, values in sorted(space.items())} for _ in range(trials)]


def choose(tried: Sequence[Mapping[str, Any]], losses: Sequence[Losses]) -> SearchResult:
    """Take the trial of lowest loss if it saves more than the standard error of the saving; else the configuration.

    On few rows the lowest of many losses is low by luck; the same rule decides whether a calibration is kept.
    """
    base = losses[0]
    trials = tuple(_judged(number, dict(params), found, base)
                   for number, (params, found) in enumerate(zip(tried, losses, strict=True)))  # fmt: skip
    fitted = [trial for trial in trials if trial.log_loss is not None]
    if not fitted:
        return SearchResult(trials, 0, f"no trial could be fitted: {trials[0].fault}")
    best = min(fitted, key=lambda trial: (trial.log_loss, trial.number))
    if trials[0].log_loss is None:
        return SearchResult(trials, best.number, f"the configured parameters could not be fitted: {trials[0].fault}")
    if best.number == 0:
        return SearchResult(trials, 0, "no trial was better than the configured parameters")
    saving, error = best.saving or 0.0, best.saving_error or 0.0
    told = f"trial {best.number} saves {saving:.4g} nats a row (standard error {error:.2g})"
    if saving <= error:
        return SearchResult(trials, 0, f"{told}, no more than chance gives: the configured parameters stay")
    return SearchResult(trials, best.number, told)


def _judged(number: int, params: Mapping[str, Any], losses: Losses, base: Losses) -> Trial:
    if isinstance(losses, str):
        return Trial(number, params, fault=losses)
    if not np.isfinite(losses).all():
        return Trial(number, params, fault="scores that are no numbers")
    mean = float(losses.mean())
    if isinstance(base, str) or not np.isfinite(base).all():
        return Trial(number, params, mean)
    saved = base - losses
    return Trial(number, params, mean, float(saved.mean()), float(saved.std(ddof=1) / math.sqrt(len(saved))))


def _draw_one(values: Any, rng: np.random.Generator) -> Any:  # noqa: ANN401  (a list of values, or a range)
    if not isinstance(values, Mapping):
        return values[int(rng.integers(len(values)))]
    low, high = values["low"], values["high"]
    is_whole = isinstance(low, int) and isinstance(high, int)
    if values.get("log"):
        drawn = math.exp(rng.uniform(math.log(low), math.log(high + is_whole)))
    else:
        drawn = rng.uniform(low, high + is_whole)
    return min(int(drawn), high) if is_whole else float(drawn)
