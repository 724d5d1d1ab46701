"""What may be written in the configuration's block `model`: estimators, their parameters, and spaces to search in.

Holds names, defaults, limits and the check of all three; does not hold the estimators (`core/estimators.py`), the
search (`core/search.py`) or the import of a user's own estimator (`operations/estimators.py`). Standard library
alone: every process that reads the configuration imports it.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_RANGE_KEYS = frozenset({"low", "high", "log"})


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of an estimator.

    Attributes
    ----------
    kind : type
        bool, int or float; an int is taken where a float is meant.
    default : any
    low, high : float
        Limits, both allowed.
    may_be_none : bool
        None means "no limit".
    """

    kind: type
    default: Any
    low: float = -math.inf
    high: float = math.inf
    may_be_none: bool = False

    def fault(self, value: Any) -> str:  # noqa: ANN401  (whatever a configuration holds)
        """What is wrong with a value; "" when nothing is."""
        if value is None:
            return "" if self.may_be_none else "must not be null"
        is_number = isinstance(value, int) or (self.kind is float and isinstance(value, float))
        if not is_number or isinstance(value, bool) != (self.kind is bool):
            return f"{value!r} must be {_WORDS[self.kind]}"
        if not self.low <= value <= self.high or not math.isfinite(value):
            least = "above 0" if self.low == _LEAST else f"at least {self.low:g}"
            limits = [least] if math.isfinite(self.low) else []
            limits += [f"at most {self.high:g}"] if math.isfinite(self.high) else []
            return f"{value!r} must be {' and '.join(limits) or 'finite'}"
        return ""


_WORDS = {bool: "true or false", float: "a number", int: "a whole number"}
_LEAST = 1e-12
"""Where zero itself is excluded."""

ESTIMATORS: dict[str, dict[str, Param]] = {
    "hist_gradient_boosting": {
        "learning_rate": Param(float, 0.05, low=_LEAST),
        "max_iter": Param(int, 200, low=1),
        "max_leaf_nodes": Param(int, 8, low=2, may_be_none=True),
        "max_depth": Param(int, None, low=1, may_be_none=True),
        "min_samples_leaf": Param(int, 20, low=1),
        "l2_regularization": Param(float, 1.0, low=0.0),
        "max_features": Param(float, 1.0, low=_LEAST, high=1.0),
        "max_bins": Param(int, 255, low=2, high=255),
        "stop_on_validation": Param(bool, True),
        "incremental_iter": Param(int, 25, low=1),
        "max_trees": Param(int, 400, low=1),
    },
    "logistic_regression": {
        "C": Param(float, 0.05, low=_LEAST),
        "max_iter": Param(int, 300, low=1),
        "max_categories": Param(int, 30, low=0),
    },
}
"""Estimators that come with the platform, each with its parameters."""

PARAMS: dict[str, dict[str, Any]] = {
    estimator: {name: param.default for name, param in params.items()} for estimator, params in ESTIMATORS.items()
}
"""Estimator to its parameters and their defaults.

Boosted trees: `stop_on_validation` keeps the number of trees with the lowest log loss on the validation part;
`incremental_iter` trees are added to a parent, until `max_trees` would be exceeded and the next training starts afresh.
Logistic regression: inverse penalty, solver steps, and the number of most frequent categories of a feature that get a
weight of their own.
"""

SPACES: dict[str, dict[str, Any]] = {
    "hist_gradient_boosting": {
        "learning_rate": {"low": 0.02, "high": 0.2, "log": True},
        "max_leaf_nodes": [4, 8, 16, 31],
        "min_samples_leaf": [10, 20, 40, 80],
        "l2_regularization": {"low": 0.1, "high": 30.0, "log": True},
        "max_features": [0.5, 0.75, 1.0],
    },
    "logistic_regression": {
        "C": {"low": 0.001, "high": 10.0, "log": True},
        "max_categories": [10, 30, 100],
    },
}
"""Where `model.search` looks when its own `space` is empty."""


def is_import_path(estimator: str) -> bool:
    """Whether an estimator is a user's own, named as `my_package.models:make_model`."""
    return _IMPORT_PATH.fullmatch(estimator) is not None


def estimator_problems(estimator: str) -> list[str]:
    """What is wrong with `model.estimator`; nothing is imported."""
    if estimator in ESTIMATORS or is_import_path(estimator):
        return []
    own = "or an import path such as my_package.models:make_model"
    known = ", ".join(ESTIMATORS)
    return [f"model.estimator: {estimator!r} is not one of {known}, {own}{nearest(estimator, ESTIMATORS)}"]


def param_problems(estimator: str, params: Mapping[str, Any], where: str = "model.params") -> list[str]:
    """What is wrong with an estimator's parameters; those of a user's own are for `operations.estimators` to check."""
    known = ESTIMATORS.get(estimator)
    if known is None:
        return []
    found = []
    for name, value in params.items():
        if name not in known:
            hint = nearest(name, known) or f"; known are {', '.join(known)}"
            found.append(f"{where}.{name}: is unknown{hint}")
        elif fault := known[name].fault(value):
            found.append(f"{where}.{name}: {fault}")
    return found


def space_problems(estimator: str, space: Mapping[str, Any], trials: int) -> list[str]:
    """What is wrong with `model.search.space`."""
    where = "model.search.space"
    if trials and not space and estimator not in SPACES:
        return [f"{where}: is empty; an estimator of your own needs to be told where to search"]
    found: list[str] = []
    for name, values in space.items():
        if fault := _range_fault(values):
            found.append(f"{where}.{name}: {fault}")
            continue
        ends = [values["low"], values["high"]] if isinstance(values, Mapping) else values
        problems = [problem for end in ends for problem in param_problems(estimator, {name: end}, where)]
        found += dict.fromkeys(problems)
    return found


def nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """A hint at the nearest known name; "" when none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _range_fault(values: Any) -> str:  # noqa: ANN401  (whatever a configuration holds)
    """What is wrong with the values that one parameter may take; "" when nothing is."""
    if isinstance(values, list | tuple):
        return "" if values else "needs at least one value"
    if not isinstance(values, Mapping):
        return f"{values!r} must be a list of values, or a range {{low: 0.01, high: 1.0, log: true}}"
    if unknown := sorted(str(key) for key in set(values) - _RANGE_KEYS):
        return f"{unknown[0]} is unknown; a range has low, high and log"
    low, high = values.get("low"), values.get("high")
    if isinstance(low, bool) or isinstance(high, bool) or not isinstance(low, int | float):
        return "a range needs the numbers low and high"
    if not isinstance(high, int | float):
        return "a range needs the numbers low and high"
    if not low < high or not math.isfinite(high - low):
        return f"low {low} must be below high {high}"
    return f"low {low} must be above 0 where log is true" if values.get("log") and low <= 0 else ""
