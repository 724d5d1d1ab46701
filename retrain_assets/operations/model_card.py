"""The model card of a version, on demand and as a file.

Holds the reading of what a card needs, and its place; does not hold its text (`core/model_card.py`). A card is made
anew each time: the file shows the state in which it was written, `retrain show VERSION --card` the present one.
"""

from __future__ import annotations

from pathlib import Path

from retrain_assets.core.model_card import CardFacts, model_card
from retrain_assets.operations import chain
from retrain_assets.operations.lineage import find_version
from retrain_assets.operations.platform import Platform
from retrain_assets.store.files import write_atomically


def card_path(version: str) -> str:
    """Where a version's card lies, below the problem's home."""
    return f"reports/{version}.md"


def card(platform: Platform, which: str) -> str:
    """The Markdown of a version's card.

    Raises
    ------
    NoModelError
        There is no such version.
    """
    model = find_version(platform, which)
    with platform.database.read() as connection:
        records = chain.read_records(connection, model)
    config, training = platform.config, records.training or {}
    return model_card(
        CardFacts(
            model=model,
            snapshots=records.dataset.snapshots if records.dataset else (),
            rows=records.dataset.rows if records.dataset else 0,
            splits=training.get("splits") or {},
            libraries=training.get("libraries") or {},
            use={
                "problem": config.problem.name,
                "task_timeout_minutes": config.problem.task_timeout_minutes,
                "shares": list(config.ramp_steps),
                "epsilon": config.exploration.epsilon,
                "default_action": config.problem.default_action,
            },
        )
    )


def write(platform: Platform, version: str) -> Path:
    """Write a version's card below the problem's home."""
    file = platform.problem_home / card_path(version)
    text = card(platform, version)

    def put(place: Path) -> None:
        place.write_text(text, encoding="utf-8")

    write_atomically(file, put)
    return file
