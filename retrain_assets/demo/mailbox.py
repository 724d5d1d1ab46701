"""Where the demonstration's notifications go: a file beside the problem's own, so that they do not drown its lines.

Holds the routing of the log channel; does not hold delivery (`notify/deliver.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retrain_assets.notify.channels import Channels
from retrain_assets.notify.deliver import deliver_pending
from retrain_assets.operations.platform import Platform

FILE = "notifications.log"


@contextmanager
def letters_to(folder: Path) -> Iterator[Path]:
    """Let the log channel write to `folder/notifications.log` for a while."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE
    handler = logging.FileHandler(file, encoding="utf-8")
    logger = logging.getLogger("retrain_assets.notify")
    before, level = logger.propagate, logger.level
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        yield file
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
        logger.setLevel(level)
        handler.close()


def deliver_all(platform: Platform) -> None:
    """Deliver everything that waits, to the channels of the platform's settings."""
    channels = Channels(platform.config.notifications.urls)
    while deliver_pending(platform.database, channels, platform.config.problem.name, platform.now()).delivered:
        pass
