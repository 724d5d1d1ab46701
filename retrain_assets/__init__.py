"""retrain_assets closes the loop between an automation and the model that steers it.

Reading order: `core` (pure rules, in the order of the flow: features, outcomes, dataset, splits, model,
report, deployment, routing, canary, promotion), `store` (tables and files), `operations` (what changes
traffic), `serving` (the engine inside a worker), `notify`, `defs` (Dagster), `cli`, `demo`.

Public names are imported on first use, so that a worker pays only for what it calls.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrain_assets.errors import (
        ArtefactRefused,
        ConfigError,
        NoModelError,
        NothingToRollBackTo,
        RetrainError,
        SchemaError,
        StoreUnavailable,
        TransitionRefused,
    )
    from retrain_assets.operations.extraction import extract_page_features
    from retrain_assets.operations.registry import ModelRegistry
    from retrain_assets.serving.engine import DecisionEngine
    from retrain_assets.store.collector import FeedbackCollector

__version__ = "0.2.0"

_PUBLIC = {
    "DecisionEngine": "retrain_assets.serving.engine",
    "FeedbackCollector": "retrain_assets.store.collector",
    "ModelRegistry": "retrain_assets.operations.registry",
    "extract_page_features": "retrain_assets.operations.extraction",
    **dict.fromkeys(
        (
            "ArtefactRefused",
            "ConfigError",
            "NoModelError",
            "NothingToRollBackTo",
            "RetrainError",
            "SchemaError",
            "StoreUnavailable",
            "TransitionRefused",
        ),
        "retrain_assets.errors",
    ),
}

__all__ = [
    "ArtefactRefused",
    "ConfigError",
    "DecisionEngine",
    "FeedbackCollector",
    "ModelRegistry",
    "NoModelError",
    "NothingToRollBackTo",
    "RetrainError",
    "SchemaError",
    "StoreUnavailable",
    "TransitionRefused",
    "__version__",
    "extract_page_features",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  (a module attribute may be anything)
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
