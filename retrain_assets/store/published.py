"""The active settings, published in the database, so that a worker needs only the database's URL.

Holds reading and writing of the `settings` table; does not hold what the settings mean.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, select

from retrain_assets.core.outcomes import OutcomeRules
from retrain_assets.settings import Config, read_config
from retrain_assets.store.tables import settings


def publish(connection: Connection, config: Config, now: datetime) -> bool:
    """Make `config` the active one; True when it was not already."""
    newest = connection.execute(select(settings.c.config_hash).order_by(settings.c.id.desc()).limit(1)).scalar()
    if newest == config.config_hash:
        return False
    values = {"config_hash": config.config_hash, "config": config.to_dict(), "activated_at": now}
    connection.execute(settings.insert().values(values))
    return True


def active(connection: Connection) -> Config | None:
    """The settings published last; None when none were.

    Keys that this version does not know are passed over: a platform that was upgraded before its workers publishes
    settings of its own, and a worker must go on. A value that is wrong is wrong for every version.

    Raises
    ------
    ConfigError
        A known key has a value that this version cannot use.
    """
    data = connection.execute(select(settings.c.config).order_by(settings.c.id.desc()).limit(1)).scalar()
    return None if data is None else read_config(data, "the published settings", unknown="ignore")


def outcome_rules(config: Config | None) -> OutcomeRules:
    """How outcomes are checked under `config`; without one, their structure only."""
    if config is None:
        return OutcomeRules()
    return OutcomeRules(
        schema=config.schema,
        action_aliases=config.problem.action_aliases,
        unknown_columns=config.problem.unknown_columns,
    )
