"""Users' own extractors, found by the import paths of `extraction.functions`.

Holds their import and the digest of their source; does not hold what they may return (`core/extraction.py`).
Importing runs the named module. A worker imports what the published settings name, so whoever may write the settings of
a problem decides which of the modules installed at a worker are imported.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from retrain_assets.core.extraction import Extraction, Extractor
from retrain_assets.errors import ConfigError
from retrain_assets.settings import Config

logger = logging.getLogger(__name__)


def extraction_of(config: Config, *, is_strict: bool = True, page_state: str | None = None) -> Extraction:
    """How rows are filled under a configuration, without pages.

    Parameters
    ----------
    config : Config
    is_strict : bool
        False passes over functions that cannot be imported here, with one warning: a worker must go on.
    page_state : str, optional
        See `Extraction`.

    Raises
    ------
    ConfigError
        Lists every function that cannot be used.
    """
    found, problems = load(config.extraction.functions)
    if problems and is_strict:
        raise ConfigError(problems)
    for problem in problems:
        logger.warning("features of this function stay missing here: %s", problem)
    return Extraction(config.schema, config.extraction.url_column, found, page_state=page_state)


def load(paths: Sequence[str]) -> tuple[list[Extractor], list[str]]:
    """Import functions by `package.module:function`.

    Returns
    -------
    list of Extractor
        Those that can be used.
    list of str
        What is wrong with the others, each with its key.
    """
    found, problems = [], []
    for place, path in enumerate(paths):
        try:
            found.append(_extractor(path))
        except Exception as error:  # noqa: BLE001  (a module may raise anything while it is imported)
            problems.append(f"extraction.functions[{place}]: {path!r} {error}")
    return found, problems


class _Unusable(Exception):
    """Says what is wrong with a path, after the path."""


def _extractor(path: str) -> Extractor:
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        hint = "install it beside retrain_assets, or put its folder on PYTHONPATH"
        raise _Unusable(f"cannot be imported: there is no module {error.name}; {hint}") from error
    except Exception as error:
        raise _Unusable(f"cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if function is None:
        near = difflib.get_close_matches(name, dir(module), n=1)
        raise _Unusable(f"is not there: {module_name} has no {name}" + (f"; did you mean {near[0]}?" if near else ""))
    if not callable(function) or inspect.isclass(function):
        raise _Unusable(f"is a {type(function).__name__}, not a function")
    try:
        inspect.signature(function).bind({})
    except (TypeError, ValueError) as error:
        raise _Unusable(f"does not take one argument, the row's features: {error}") from error
    return Extractor(path, function, _digest(function))


def _digest(function: Callable[..., Any]) -> str:
    """Of the whole module, since a function leans on what stands beside it; of the function's name without a source."""
    try:
        content = Path(inspect.getfile(function)).read_bytes()
    except (OSError, TypeError):
        content = f"{function.__module__}:{getattr(function, '__qualname__', '')}".encode()
    return hashlib.sha256(content).hexdigest()[:16]
