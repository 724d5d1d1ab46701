"""Features that give the outcome away: what a model could never know at the moment of the decision.

Holds the search of training and validation rows and what it found; does not hold the gate (`core/report_gates.py`).
Three kinds of evidence fail a report:

- one feature alone tells success from failure on rows that are newer than those it was learned from (ROC AUC);
- a feature's presence or absence goes with one result only, far beyond chance: it was filled in afterwards. A name that
  sounds like a result (`failure_reason`, `published_at`) needs less of it;
- a feature is an identifier: as many values as tasks, or a counter that runs with time.

What honest features can do, too, is only told: a category whose rows all end alike, and a feature that decides alone
within one action (no forum, no success in the forum).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retrain_assets.core.dataset import FEATURE_PREFIX
from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.core.metrics import roc_auc
from retrain_assets.core.pipeline import success_labels

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 50_000
"""Newest training rows that are searched: enough to see a leak, and no slower with ten million."""
MIN_CLASS_ROWS = 20
"""Rows of both results that a ROC AUC is judged on. With 20 an honest feature of true AUC 0.80 reaches 0.98 once in
two thousand times."""
MIN_SIDE_ROWS = 100
MAX_CHANCE = 1e-9
"""A side (present or missing) is pure by chance with base_rate ** rows; both limits together."""
MIN_NAMED_ROWS = 20
MAX_NAMED_CHANCE = 1e-3
NAMED_AUC = 0.90
"""The same for a feature whose name sounds like a result."""
MIN_ID_ROWS = 100
ID_SHARE = 0.95
COUNTER_CORRELATION = 0.99
BINS = 20
PRIOR_ROWS = 5.0
SHOWN = 5
SHOWN_CHARACTERS = 60

_TELLING = frozenset(
    {"result", "results", "outcome", "outcomes", "success", "succeeded", "successful", "failure", "failed", "fail"}
    | {"error", "errors", "exception", "reason", "published", "posted", "approved", "accepted", "rejected"}
    | {"completed", "finished", "elapsed", "duration", "execution", "response", "retries"}
)


@dataclass(frozen=True, slots=True)
class Leak:
    """One finding about one feature.

    Attributes
    ----------
    feature : str
    kind : str
        outcome, presence or identifier, which fail the report; one_action or pure_category, which are told.
    value : float
        ROC AUC, share of the rows that have the presence, or distinct values a task.
    limit : float
    rows : int
        Rows the value was found on.
    message : str
        A sentence for people.
    is_certain : bool
        Whether it fails the report.
    """

    feature: str
    kind: str
    value: float
    limit: float
    rows: int
    message: str
    is_certain: bool = True


@dataclass(frozen=True, slots=True)
class LeakReport:
    """What a search found.

    Attributes
    ----------
    leaks : tuple of Leak
        In the schema's order; those that fail the report and those that are told.
    auc : mapping
        Feature to its ROC AUC alone, out of time; without the features that could not be judged.
    rows_train, rows_judged : int
    note : str
        Why nothing could be judged out of time; else empty.
    """

    leaks: tuple[Leak, ...]
    auc: dict[str, float]
    rows_train: int
    rows_judged: int
    note: str = ""

    @property
    def certain(self) -> tuple[Leak, ...]:
        """The findings that fail the report."""
        return tuple(leak for leak in self.leaks if leak.is_certain)

    @property
    def strongest(self) -> tuple[str, float] | None:
        """The feature that tells most alone, and its ROC AUC."""
        name = max(self.auc, key=lambda name: self.auc[name], default=None)
        return None if name is None else (name, self.auc[name])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class _Column:
    """A feature on the searched rows, training first: codes of bins or categories, 0 where missing; and numbers."""

    feature: Feature
    codes: np.ndarray
    numbers: np.ndarray | None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Labels, actions and tasks of the searched rows; the first `taught` of them are training rows."""

    success: np.ndarray
    action: np.ndarray
    task: np.ndarray
    taught: int

    def can_judge(self, chosen: np.ndarray) -> bool:
        """Whether training and validation hold enough rows of both results among the chosen ones."""
        parts = (self.success[: self.taught][chosen[: self.taught]], self.success[self.taught :][chosen[self.taught :]])
        return all(MIN_CLASS_ROWS <= part.sum() <= len(part) - MIN_CLASS_ROWS for part in parts)


def find_leaks(train: pd.DataFrame, validation: pd.DataFrame, schema: FeatureSchema, limit: float) -> LeakReport:
    """Look for features that give the outcome away.

    Parameters
    ----------
    train, validation : DataFrame
        In order of time, with `result`, `action`, `task_id` and `feature_<name>`; the newest `MAX_ROWS` of train are
        taken.
    schema : FeatureSchema
    limit : float
        ROC AUC of a single feature from which on no honest feature is believed.
    """
    import pandas as pd

    train = train.iloc[-MAX_ROWS:]
    both = pd.concat([train, validation], ignore_index=True)
    if both.empty:
        return LeakReport((), {}, 0, 0, "there are no rows to search")
    action, task = (pd.factorize(both[name])[0] for name in ("action", "task_id"))
    rows = _Rows(success_labels(both), action, task, len(train))
    can_judge = rows.can_judge(np.ones(len(both), dtype=bool))
    note = "" if can_judge else f"fewer than {MIN_CLASS_ROWS} rows of one result: no feature was judged alone"
    leaks: list[Leak] = []
    aucs: dict[str, float] = {}
    actions = pd.factorize(both["action"])[1]
    for feature in schema.features:
        column = _read(both, feature, rows.taught)
        if column is None:
            continue
        if can_judge:
            aucs[feature.name] = _auc_alone(column, rows, np.ones(len(both), dtype=bool))
        leaks.extend(_findings(column, rows, aucs.get(feature.name), limit, [str(name) for name in actions]))
    return LeakReport(tuple(leaks), aucs, len(train), len(validation), note)


def _findings(column: _Column, rows: _Rows, auc: float | None, limit: float, actions: list[str]) -> Iterator[Leak]:
    name, is_named = column.feature.name, sounds_like_a_result(column.feature.name)
    judged = len(rows.success) - rows.taught
    needed = min(limit, NAMED_AUC) if is_named else limit
    if auc is not None and auc >= needed:
        text = f"{name} alone tells success from failure with ROC AUC {auc:.3f} on {judged:,} newer rows"
        if is_named:
            text += ", and its name sounds like a result"
        yield Leak(name, "outcome", auc, needed, judged, text)
    elif auc is not None:
        yield from _within_actions(column, rows, limit, actions)
    yield from _presence(column, rows, is_named=is_named)
    yield from _identifier(column, rows)
    yield from _pure_categories(column, rows)


def sounds_like_a_result(name: str) -> bool:
    """Whether a feature's name has a word that belongs to results, such as `failure_reason` or `published_at`."""
    return bool(_TELLING & set(name.casefold().split("_")))


def _auc_alone(column: _Column, rows: _Rows, chosen: np.ndarray) -> float:
    """ROC AUC on validation of the success rates that each bin or category had in training, missing being one."""
    codes, success = column.codes[chosen], rows.success[chosen].astype(np.float64)
    taught = int(chosen[: rows.taught].sum())
    size = int(codes.max()) + 1
    totals = np.bincount(codes[:taught], minlength=size)
    good = np.bincount(codes[:taught], weights=success[:taught], minlength=size)
    rates = (good + PRIOR_ROWS * success[:taught].mean()) / (totals + PRIOR_ROWS)
    return roc_auc(success[taught:] > 0, rates[codes[taught:]]) or 0.0


def _within_actions(column: _Column, rows: _Rows, limit: float, actions: list[str]) -> Iterator[Leak]:
    for code, action in enumerate(actions):
        chosen = rows.action == code
        if not rows.can_judge(chosen):
            continue
        auc = _auc_alone(column, rows, chosen)
        if auc >= limit:
            judged = int(chosen[rows.taught :].sum())
            text = f"{column.feature.name} alone decides about {action}: ROC AUC {auc:.3f} on {judged:,} newer rows"
            yield Leak(column.feature.name, "one_action", auc, limit, judged, text, is_certain=False)


def _presence(column: _Column, rows: _Rows, *, is_named: bool) -> Iterator[Leak]:
    """A feature that is there, or is not there, with one result only: rows that chance cannot have made so."""
    base = float(rows.success.mean())
    missing = column.codes == 0
    if missing.all() or not missing.any():
        return
    least, chance = (MIN_NAMED_ROWS, MAX_NAMED_CHANCE) if is_named else (MIN_SIDE_ROWS, MAX_CHANCE)
    for word, side in (("missing", missing), ("present", ~missing)):
        count, good = int(side.sum()), int(rows.success[side].sum())
        if count < least or good not in (0, count):
            continue
        share = base if good else 1 - base
        if share <= 0 or count * math.log(share) > math.log(chance):
            continue
        what = "success" if good else "failure"
        text = f"{column.feature.name} is {word} in {count:,} rows and all of them are a {what}: filled in afterwards"
        yield Leak(column.feature.name, "presence", count / len(side), 0.0, count, text)
        return


def _identifier(column: _Column, rows: _Rows) -> Iterator[Leak]:
    """As many values as tasks, and in numbers a course that runs with time."""
    present = column.codes != 0
    if present.sum() < MIN_ID_ROWS or column.feature.type is FeatureType.BOOLEAN:
        return
    tasks = len(np.unique(rows.task[present]))
    is_number = column.numbers is not None
    values = column.numbers[present] if column.numbers is not None else column.codes[present]
    distinct = len(np.unique(values))
    if distinct < ID_SHARE * tasks or tasks < MIN_ID_ROWS:
        return
    name, share = column.feature.name, distinct / tasks
    if not is_number:
        text = f"{name} has {distinct:,} values in {tasks:,} tasks: it names the task and cannot teach about another"
        yield Leak(name, "identifier", share, ID_SHARE, int(present.sum()), text)
        return
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    runs = abs(float(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]))
    if runs >= COUNTER_CORRELATION:
        text = f"{name} counts up with time ({distinct:,} values in {tasks:,} tasks): new tasks lie outside its range"
        yield Leak(name, "identifier", runs, COUNTER_CORRELATION, int(present.sum()), text)


def _pure_categories(column: _Column, rows: _Rows) -> Iterator[Leak]:
    if column.numbers is not None or not column.names:
        return
    totals = np.bincount(column.codes, minlength=len(column.names) + 1)[1:]
    good = np.bincount(column.codes, weights=rows.success, minlength=len(column.names) + 1)[1:]
    base = float(rows.success.mean())
    for place in np.argsort(-totals, kind="stable")[: 10 * SHOWN]:
        count, hits = int(totals[place]), int(good[place])
        share = base if hits else 1 - base
        if (
            count >= MIN_SIDE_ROWS
            and hits in (0, count)
            and share > 0
            and count * math.log(share) <= math.log(MAX_CHANCE)
        ):
            what = "succeeded" if hits else "failed"
            text = f"all {count:,} rows with {column.feature.name} = {column.names[place][:SHOWN_CHARACTERS]} {what}"
            yield Leak(column.feature.name, "pure_category", 1.0, 1.0, count, text, is_certain=False)


def _read(both: pd.DataFrame, feature: Feature, taught: int) -> _Column | None:
    """A feature's column, numbers in bins of the training rows' quantiles; None where the rows do not have it."""
    import pandas as pd

    series = next((both[n] for n in (FEATURE_PREFIX + feature.name, feature.name) if n in both.columns), None)
    if series is None:
        return None
    if feature.type in {FeatureType.CATEGORY, FeatureType.BOOLEAN}:
        codes, names = pd.factorize(series)
        return _Column(feature, codes + 1, None, tuple(str(name) for name in names))
    values = np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    values = np.where(np.isfinite(values), values, np.nan)
    known = values[:taught][~np.isnan(values[:taught])]
    steps = np.arange(1, BINS) / BINS if len(known) else np.empty(0)
    edges = np.unique(np.quantile(known, steps, method="inverted_cdf")) if len(known) else steps
    codes = np.where(np.isnan(values), 0, np.searchsorted(edges, values, side="left") + 1)
    return _Column(feature, codes, values)
