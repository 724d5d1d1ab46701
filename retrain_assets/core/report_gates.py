"""The gates of a validation report: one condition of deployment each, with its number, its limit and a sentence.

Holds the gates and the policy they ask by; does not hold the report (`core/report.py`), the search for leaks
(`core/leakage.py`) or drift (`core/drift.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from retrain_assets.core.drift import DriftLevel, FeatureDrift, LabelDrift
from retrain_assets.core.features import FeatureSchema, SchemaChange, compare_schemas
from retrain_assets.core.leakage import LeakReport
from retrain_assets.core.metrics import HIGHER_IS_BETTER, RESAMPLES, Difference, losses
from retrain_assets.core.model import ParityResult
from retrain_assets.core.paired import holm, paired_mean

GATES = (
    "schema_compatible",
    "parity",
    "volume",
    "enough_test_rows",
    "leakage",
    "validation_threshold",
    "better_than_trivial",
    "not_worse_than_production",
    "not_worse_per_action",
    "data_drift",
    "label_drift",
    "model_staleness",
)
"""The gates of every report, in its order."""
TRIVIAL_MARGIN = 0.005
"""Share of the constant guess's log loss that a model must save, however many rows show that it saves anything."""
TRIVIAL_CONFIDENCE = 0.95
"""One-sided: a model without any value passes `better_than_trivial` at most one time in twenty. Of 400 models trained
on coin flips 1.0 % did with 75 test rows, and none with 500 and with 5,000; of 300 with 30 test rows none."""
ACTION_LEVEL = 0.05
"""Probability that `not_worse_per_action` refuses a candidate that is as good as production in every action."""
MIN_ACTION_TASKS = 30
MIN_ACTION_CLASS = 5
"""Tasks, and rows of either result, below which an action is not judged by itself: t intervals of log losses would
promise too much."""
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition of deployment.

    Attributes
    ----------
    name : str
    passed : bool
    value : float, str or None
        What was found; None when it could not be measured.
    limit : float, str or None
        What was asked; None when nothing is.
    message : str
        A sentence for people, with the numbers.
    is_refusing : bool
        Whether a version that fails it is rejected; else it warns.
    """

    name: str
    passed: bool
    value: float | str | None
    limit: float | str | None
    message: str
    is_refusing: bool = True

    @property
    def verdict(self) -> str:
        """passed, refused or warning."""
        return "passed" if self.passed else "refused" if self.is_refusing else "warning"


@dataclass(frozen=True, slots=True)
class ReportPolicy:
    """What the gates ask for.

    Attributes
    ----------
    validation_metric : str, default "accuracy"
        accuracy or roc_auc (at least the threshold), log_loss or brier (at most).
    validation_threshold : float, default 0.80
    min_test_rows : int, default 10
    min_new_samples : int, default 100
    margin : float, default 0.02
        Log loss (nats) by which a candidate may look worse than production while nothing is proven.
    action_margin : float, default 0.01
        Log loss (nats) by which one action must be worse to count, also when less is proven.
    leakage_auc : float or None, default 0.98
    max_psi, max_label_shift, max_staleness_weeks : float or None
        None reports and asks for nothing.
    resamples : int, default 1_000
    seed : int, default 0
    """

    validation_metric: str = "accuracy"
    validation_threshold: float = 0.80
    min_test_rows: int = 10
    min_new_samples: int = 100
    margin: float = 0.02
    action_margin: float = 0.01
    leakage_auc: float | None = 0.98
    max_psi: float | None = None
    max_label_shift: float | None = None
    max_staleness_weeks: float | None = None
    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.validation_metric not in HIGHER_IS_BETTER:
            raise ValueError(f"validation_metric must be one of {', '.join(HIGHER_IS_BETTER)}")


def schema_gate(schema: FeatureSchema, production_schema: FeatureSchema | None) -> Gate:
    """Say how the schema relates to production's.

    A breaking change passes: someone made it on purpose in the config, and it is answered by a new MAJOR
    version, which every worker and the registry can see. The gate puts it into the report in words.
    """
    if production_schema is None:
        return Gate("schema_compatible", True, "first", None, "there is no production schema to be compatible with")
    change, differences = compare_schemas(production_schema, schema)
    words = {
        SchemaChange.SAME: "the feature schema is production's",
        SchemaChange.COMPATIBLE: f"the feature schema grew compatibly: {'; '.join(differences)}",
        SchemaChange.BREAKING: f"the feature schema breaks, so this is a MAJOR version: {'; '.join(differences)}",
    }
    return Gate("schema_compatible", True, change.value, "a breaking change needs a MAJOR version", words[change])


def parity_gate(parity: ParityResult) -> Gate:
    """The engine's artefact must answer like the pipeline that was judged."""
    found = parity.max_abs_difference
    verb = "agree" if parity.passed else "disagree"
    message = f"engine and pipeline {verb} within {found:.2g} on {parity.rows} hard rows (limit {parity.limit:g})"
    return Gate("parity", parity.passed, found if np.isfinite(found) else None, parity.limit, message)


def volume_gate(new_samples: int | None, minimum: int) -> Gate:
    """Enough tasks that the last trained dataset did not hold."""
    if new_samples is None:
        return Gate("volume", True, None, None, "no minimum of new samples was asked for")
    message = f"{new_samples} new samples, {minimum} are needed"
    return Gate("volume", new_samples >= minimum, new_samples, minimum, message)


def held_out_gate(rows: int, minimum: int) -> Gate:
    """Enough held-out rows to judge by."""
    return Gate("enough_test_rows", rows >= minimum, rows, minimum, f"{rows} test rows, {minimum} are needed")


def leakage_gate(found: LeakReport | None, policy: ReportPolicy) -> Gate:
    """No feature may know what only the outcome can tell."""
    limit = policy.leakage_auc
    if found is None or limit is None:
        return Gate("leakage", True, None, None, "features were not searched for what gives the outcome away")
    strongest, leaks = found.strongest, found.certain
    value = strongest[1] if strongest else None
    if leaks:
        message = "; ".join(leak.message for leak in leaks[:SHOWN])
        more = f"; and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else ""
        advice = "take it out of problem.features, or make sure that it is known before the decision"
        return Gate("leakage", False, value, limit, f"{message}{more}; {advice}")
    told = f"; {strongest[0]} tells most alone, ROC AUC {strongest[1]:.3f}" if strongest else f"; {found.note}"
    doubts = [leak.message for leak in found.leaks[:SHOWN]]
    look = f"; have a look: {'; '.join(doubts)}" if doubts else ""
    return Gate("leakage", True, value, limit, f"no feature gives the outcome away{told}{look}")


def threshold_gate(overall: Mapping[str, Any], trivial: Mapping[str, Any], policy: ReportPolicy) -> Gate:
    """The owner's own limit on the owner's own metric."""
    metric, limit, value = policy.validation_metric, policy.validation_threshold, overall[policy.validation_metric]
    if value is None:
        message = f"{metric} cannot be measured: the {overall['n']} test rows have one class only"
        return Gate("validation_threshold", False, None, limit, message)
    at_least = HIGHER_IS_BETTER[metric]
    passed = value >= limit if at_least else value <= limit
    guess = trivial[metric]
    hint = "" if guess is None else f"; guessing the training rate gives {guess:.3f}"
    message = f"{metric} is {value:.3f}, at {'least' if at_least else 'most'} {limit:.3f} is asked{hint}"
    return Gate("validation_threshold", passed, value, limit, message)


def trivial_gate(success: np.ndarray, candidate: np.ndarray, constants: Sequence[float], task: np.ndarray) -> Gate:
    """The log loss must be lower than that of the best constant guess, on the same rows, by more than luck.

    Lower by `TRIVIAL_MARGIN` of the constant's loss, and by so much that a one-sided 95 % interval over tasks leaves
    out zero. Always enforced: a model that cannot beat a constant ranks actions at random. The guesses are the success
    rates of training and of validation, whichever is better: a model that only follows the rate has learned nothing.

    Parameters
    ----------
    success : ndarray of bool, shape (rows,)
    candidate : ndarray, shape (rows,)
    constants : sequence of float
        Success rates that were known before the test part. Against the training rate alone 65 % of 150 models of coin
        flips passed with 500 test rows where the rate drifted by 0.8 logits; against both rates none.
    task : ndarray of str, shape (rows,)
    """
    if len(candidate) == 0:
        return Gate("better_than_trivial", False, None, None, "there are no test rows to beat a constant guess on")
    guesses = [losses(success, np.full(len(success), rate)) for rate in constants]
    guess = min(guesses, key=lambda loss: float(loss.mean()))
    ours = losses(success, candidate)
    found = paired_mean(guess - ours, task)
    if found.standard_error is None or found.mean is None:
        return Gate("better_than_trivial", False, found.mean, None, "one task alone cannot beat a constant guess")
    needed = max(
        float(stdtrit(found.tasks - 1, TRIVIAL_CONFIDENCE)) * found.standard_error, TRIVIAL_MARGIN * float(guess.mean())
    )
    passed = bool(found.mean > needed)
    message = (
        f"log loss {ours.mean():.4f} against {guess.mean():.4f} of a constant guess: "
        f"{'saves' if passed else 'must save'} more than {needed:.4f}, saved {found.mean:.4f}"
    )
    return Gate("better_than_trivial", passed, found.mean, needed, message)


def production_gate(comparisons: tuple[Difference, ...], rows: int, policy: ReportPolicy) -> Gate:
    """Refuse a candidate that is shown to be worse than production, or looks it by more than the margin.

    Shown: the 95 % interval of the improvement, in log loss or in the validation metric, lies below zero.
    Looks: log loss is worse by more than the margin and by more than one standard error. With few rows
    the error is larger than the margin, so chance alone refuses an equal candidate at most one time in
    six, and does not block for ever; the message says what the rows could show.
    """
    name = "not_worse_than_production"
    if not comparisons:
        return Gate(name, True, None, None, "there is no production model to compare with")
    log_loss = comparisons[0]
    improvement, error = log_loss.improvement or 0.0, log_loss.standard_error or 0.0
    worse = [item.metric for item in comparisons if item.high is not None and item.high < 0]
    looks_worse = improvement < -max(policy.margin, error)
    if worse:
        verdict = f"{' and '.join(worse)} shown to be worse than production"
    elif looks_worse:
        verdict = "log loss is worse than production's by more than the margin"
    else:
        verdict = "not worse than production"
    message = (
        f"{verdict}: log loss improves by {improvement:+.4f} ({log_loss.low:+.4f} to {log_loss.high:+.4f}); "
        f"{rows} rows can show a difference of {log_loss.detectable:.4f}"
    )
    return Gate(name, not worse and not looks_worse, improvement, -policy.margin, message)


def action_gate(by_action: Mapping[str, Mapping[str, Any]] | None, policy: ReportPolicy) -> Gate:
    """Refuse a candidate that is shown to be worse than production in one action.

    Shown: the one-sided p-value is significant among all judged actions (Holm, `ACTION_LEVEL`), and the log loss is
    worse by more than the margin. Actions with few rows are not judged, so that they cannot block for ever.

    Parameters
    ----------
    by_action : mapping or None
        `core.paired.compare_groups` against production; None when there is none.
    policy : ReportPolicy
    """
    name, limit = "not_worse_per_action", -policy.action_margin
    if by_action is None:
        return Gate(name, True, None, None, "there is no production model to compare with")
    judged = {action: row for action, row in by_action.items() if has_enough_rows(row)}
    few = [f"{action} ({row['tasks']} tasks)" for action, row in by_action.items() if action not in judged]
    rest = f"; too few rows to judge {', '.join(few)}" if few else ""
    if not judged:
        return Gate(name, True, None, limit, f"no action has {MIN_ACTION_TASKS} test tasks with both results{rest}")
    proven = holm({action: row["p_worse"] for action, row in judged.items()}, ACTION_LEVEL)
    worse = [action for action in proven if judged[action]["improvement"] < -policy.action_margin]
    lowest = min(row["improvement"] for row in judged.values())
    shown = ", ".join(f"{row['detectable']:.3f} in {action}" for action, row in judged.items())
    if worse:
        told = "; ".join(
            f"{action} is shown to be worse than production: log loss {judged[action]['improvement']:+.4f} "
            f"({judged[action]['low']:+.4f} to {judged[action]['high']:+.4f}), p = {judged[action]['p_worse']:.2g}"
            for action in worse
        )
        return Gate(name, False, lowest, limit, f"{told}{rest}")
    message = f"no action is shown to be worse than production; the rows can show {shown}{rest}"
    return Gate(name, True, lowest, limit, message)


def has_enough_rows(row: Mapping[str, Any]) -> bool:
    """Whether a group of `core.paired.compare_groups` may be judged by itself."""
    is_mixed = MIN_ACTION_CLASS <= row["successes"] <= row["rows"] - MIN_ACTION_CLASS
    return bool(row["tasks"] >= MIN_ACTION_TASKS and is_mixed)


def data_drift_gate(found: Sequence[FeatureDrift] | None, policy: ReportPolicy) -> Gate:
    """Say which features moved since production's data; refuse beyond a configured limit that chance does not reach."""
    name, limit = "data_drift", policy.max_psi
    compared = [item for item in found or () if item.psi is not None]
    if not compared:
        return Gate(name, True, None, limit, "there is no data of a production model to compare with")
    ordered = sorted(compared, key=lambda item: -(item.psi or 0.0))
    beyond = [i for i in ordered if limit is not None and (i.psi or 0.0) > max(limit, i.psi_noise or 0.0)]
    moved = [item for item in ordered if item.level in {DriftLevel.DRIFT, DriftLevel.NOTICE}]
    words = ", ".join(f"{item.name} (PSI {item.psi:.2f})" for item in (beyond or moved)[:SHOWN])
    if beyond:
        message = f"drifted beyond {limit:g} since production's data: {words}"
    elif moved:
        message = f"{len(moved)} of {len(compared)} features moved since production's data: {words}"
    else:
        message = f"none of {len(compared)} features moved since production's data by more than chance"
    return Gate(name, not beyond, ordered[0].psi, limit, message)


def label_drift_gate(found: LabelDrift | None, policy: ReportPolicy) -> Gate:
    """Say how the success rate moved since production's data; refuse beyond a configured limit."""
    name, limit = "label_drift", policy.max_label_shift
    if found is None or found.overall.difference is None:
        return Gate(name, True, None, limit, "there is no data of a production model to compare with")
    change = found.overall
    shift = found.overall.difference
    is_beyond = limit is not None and abs(shift) > limit and change.is_shown
    message = (
        f"success rate {change.before:.3f} in production's data, {change.after:.3f} since: {shift:+.3f} "
        f"({change.low:+.3f} to {change.high:+.3f})"
    )
    moved = [item.name for item in found.by_action if item.is_shown]
    if moved:
        message += f"; moved by more than chance in {', '.join(moved[:SHOWN])}"
    if is_beyond:
        message += f"; more than {limit:g}"
    return Gate(name, not is_beyond, shift, limit, message)


def staleness_gate(weeks: float | None, policy: ReportPolicy) -> Gate:
    """Say how much older production's data is; a warning only, since refusing the newer one would keep the old."""
    name, limit = "model_staleness", policy.max_staleness_weeks
    if weeks is None:
        return Gate(name, True, None, limit, "there is no production model that could be stale", is_refusing=False)
    passed = limit is None or weeks <= limit
    message = f"production's data ends {weeks:g} {'week' if weeks == 1 else 'weeks'} before the candidate's"
    if not passed:
        message += f", {limit:g} are allowed: find out why no newer version came to serve"
    return Gate(name, passed, weeks, limit, message, is_refusing=False)
