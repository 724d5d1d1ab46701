"""A user's own estimator: found by its import path, checked, and known by its source.

Holds the import and what is recorded of it; does not hold its fitting (`core/user_estimator.py`). A module is looked
for where Python looks: installed beside this package, or on PYTHONPATH.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrain_assets.core.model_settings import is_import_path, nearest
from retrain_assets.errors import ConfigError
from retrain_assets.settings import ModelSettings

CONVERTER = "skl2onnx"


@dataclass(frozen=True, slots=True)
class OwnEstimator:
    """What an import path names.

    Attributes
    ----------
    make : callable
        Parameters to an unfitted estimator.
    source : dict
        `path`; `sha256` of the file that defines it (None when it has none); `distribution` and `version` of the
        package it was installed with (None when it was not installed).
    """

    make: Callable[..., Any]
    source: dict[str, str | None]


def own_estimator(estimator: str, params: Mapping[str, Any]) -> OwnEstimator | None:
    """Import a user's own estimator; None for one of the platform's.

    Raises
    ------
    ConfigError
        It cannot be imported, is not callable, or does not take the parameters; names the nearest ones.
    """
    if not is_import_path(estimator):
        return None
    make = _imported(estimator)
    if problems := _param_problems(make, params):
        raise ConfigError(problems, "model settings")
    return OwnEstimator(make, _source(estimator, make))


def check(settings: ModelSettings) -> None:
    """Refuse a configured estimator that a training would refuse, before there is any training.

    The platform's own estimators are checked when the configuration is read.

    Raises
    ------
    ConfigError
        Says what is wrong and with which key.
    """
    if own_estimator(settings.estimator, settings.params) is None:
        return
    make = _imported(settings.estimator)
    problems = _param_problems(make, dict.fromkeys(settings.search.space), "model.search.space", is_whole=False)
    if importlib.util.find_spec(CONVERTER) is None:
        message = f"{settings.estimator} needs {CONVERTER} to be served; install the extra `convert`"
        problems.append(f"model.estimator: {message}")
    if problems:
        raise ConfigError(problems, "model settings")


def _imported(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except AttributeError:
        known = [item for item in vars(importlib.import_module(module)) if not item.startswith("_")]
        message = f"model.estimator: {module} has no {name}{nearest(name, known)}"
        raise ConfigError([message], "model settings") from None
    except Exception as error:  # a user's module may fail in any way while it is imported
        hint = "install it beside retrain_assets, or name its folder in PYTHONPATH"
        message = f"model.estimator: {path} cannot be imported ({type(error).__name__}: {error}); {hint}"
        raise ConfigError([message], "model settings") from error
    if not callable(found):
        message = f"model.estimator: {path} is {type(found).__name__}, not a class or function that makes estimators"
        raise ConfigError([message], "model settings")
    return found  # type: ignore[no-any-return]


def _param_problems(
    make: Callable[..., Any], params: Mapping[str, Any], where: str = "model.params", *, is_whole: bool = True
) -> list[str]:
    """What is wrong with the parameters' names; `is_whole`: those that must be given are asked for, too."""
    try:
        signature = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # written in C, and not saying what it takes
        return []
    named = [item for item in signature if item.kind in {item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY}]
    known = [item.name for item in named]
    takes_any = any(item.kind is item.VAR_KEYWORD for item in signature)
    unknown = [] if takes_any else [name for name in params if name not in known]
    problems = [
        f"{where}.{name}: is unknown{nearest(name, known) or '; known are ' + (', '.join(known) or 'none')}"
        for name in unknown
    ]
    if is_whole:
        needed = [item.name for item in named if item.default is item.empty and item.name not in params]
        problems += [f"{where}.{name}: is needed and missing" for name in needed]
    return problems


def _source(path: str, make: Callable[..., Any]) -> dict[str, str | None]:
    top = path.partition(":")[0].partition(".")[0]
    distribution = next(iter(importlib.metadata.packages_distributions().get(top, [])), None)
    version = importlib.metadata.version(distribution) if distribution else None
    return {"path": path, "sha256": _digest(make), "distribution": distribution, "version": version}


def _digest(make: Callable[..., Any]) -> str | None:
    try:
        file = inspect.getsourcefile(make)
    except TypeError:  # built in
        return None
    return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
