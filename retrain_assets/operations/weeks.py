"""Which weeks a problem has: from its first data to the newest one that closed.

Holds that answer; does not hold the calendar (`core/dataset.py`).
"""

from __future__ import annotations

from datetime import timedelta

from retrain_assets.core.dataset import Week
from retrain_assets.errors import RetrainError
from retrain_assets.operations.platform import Platform
from retrain_assets.store import decisions

DEFAULT_SPAN = timedelta(weeks=8)
"""How far back weeks reach while there is no data, or none within this span."""


def first_week(platform: Platform) -> Week:
    """The first week: `retrain.first_week`, else that of the earliest outcome or decision.

    A database that cannot be read now, or has no schema yet, counts as one without data: the
    definitions must load all the same, and the weeks grow at the next load.
    """
    calendar = platform.calendar
    if platform.config.retrain.first_week is not None:
        return calendar.named(platform.config.retrain.first_week)
    recent = calendar.containing(platform.now() - DEFAULT_SPAN)
    file = platform.database.file
    if file is not None and not file.exists():
        return recent
    try:
        with platform.database.read() as connection:
            first = decisions.first_instant(connection)
    except RetrainError:
        return recent
    return min(recent, calendar.containing(first)) if first is not None else recent
