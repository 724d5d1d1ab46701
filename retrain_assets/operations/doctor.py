"""What is wrong with an installation, and how to mend each of it.

Holds the checks and the two mends that a machine can do (bring the schema up to date, publish the settings);
does not hold the Dagster check, which the command line adds, because this layer knows no Dagster.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from retrain_assets.core.model_settings import is_import_path
from retrain_assets.errors import ConfigError, NothingToRollBackTo, RetrainError
from retrain_assets.operations import csv_outcomes, deploy, estimators, extraction, quarantine
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.settings import Settings
from retrain_assets.store import outbox, published, registry, schema
from retrain_assets.store.database import Database

LEAST_FREE_BYTES = 500 * 2**20
"""Less free space than this is a fault: a training writes artefacts, snapshots and history."""
UNREAD_AFTER = timedelta(minutes=10)
"""Outcomes of the csv store that wait longer point to a watch that does not run, or to a row without an end."""
LATE_AFTER_ATTEMPTS = 3
"""A message that failed this often points to a dead channel."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
    ok : bool
    detail : str
        What was found.
    mend : str or None
        What to do; None when nothing is to be done.
    """

    name: str
    ok: bool
    detail: str
    mend: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return asdict(self)


def examine(
    settings: Settings, *, is_fixing: bool = False, also: Sequence[Callable[[Settings], Check]] = ()
) -> list[Check]:
    """Look at everything that a problem needs on this machine.

    Parameters
    ----------
    settings : Settings
    is_fixing : bool
        First bring the database to the newest schema and publish the settings.
    also : sequence of callable
        Further checks, such as Dagster's.

    Returns
    -------
    list of Check
        Checks that cannot be made because an earlier one failed are left out.
    """
    checks = [Check("config", ok=True, detail=f"{settings.config_path} is valid"), _home(settings), _space(settings)]
    checks.append(_guarded("model", partial(_model, settings)))
    checks.append(_guarded("extraction", partial(_extraction, settings)))
    fault = _fix(settings) if is_fixing else None
    checks.append(_database(settings, fault))
    if checks[-1].ok:
        platform = Platform(settings, Database(settings.database_url))
        checks.append(_guarded("schema", partial(_schema, platform, fault)))
        if checks[-1].ok:
            later = {
                "settings": _settings,
                "production": _production,
                "rollback_target": _rollback_target,
                "notifications": _notifications,
                "quarantine": _quarantine,
                "outcomes": _outcomes,
            }
            checks += [_guarded(name, partial(look, platform)) for name, look in later.items()]
    return [*checks, *(look(settings) for look in also)]


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    """A check that fails in an unexpected way is a fault, and must not hide the others."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001  (a doctor reports whatever it meets)
        return Check(name, ok=False, detail=_line(error), mend="see the detail; `--debug` shows where it happened")


def _fix(settings: Settings) -> str | None:
    """Migrate and publish; returns why that was not possible."""
    try:
        open_platform(settings)
    except Exception as error:  # noqa: BLE001  (see `_guarded`)
        return _line(error)
    return None


def _model(settings: Settings) -> Check:
    """Whether a user's own estimator is there and takes its parameters; a worker does without it."""
    name = settings.config.model.estimator
    if not is_import_path(name):
        return Check("model", ok=True, detail=f"{name} comes with the platform")
    try:
        estimators.check(settings.config.model)
    except ConfigError as error:
        mend = "correct the block `model`, or install what it names; a machine of workers alone does without"
        return Check("model", ok=False, detail="; ".join(error.problems), mend=mend)
    return Check("model", ok=True, detail=f"{name} can be imported and takes its parameters")


def _extraction(settings: Settings) -> Check:
    """Whether the functions that fill features are there, and what fetches pages if they are asked for."""
    try:
        extraction.check(settings.config)
    except ConfigError as error:
        mend = "correct the block `extraction`, or install what it names"
        return Check("extraction", ok=False, detail="; ".join(error.problems), mend=mend)
    count = len(settings.config.extraction.functions)
    pages = "fetched" if settings.config.extraction.pages.enabled else "not asked for"
    return Check("extraction", ok=True, detail=f"{count} functions of your own; pages are {pages}")


def _home(settings: Settings) -> Check:
    folder = settings.problem_home
    existing = _existing(folder)
    if not existing.is_dir():
        return Check("home", ok=False, detail=f"{existing} is a file, not a folder", mend="name another RETRAIN_HOME")
    if not os.access(existing, os.W_OK | os.X_OK):
        mend = f"give yourself the right to write there, or name another RETRAIN_HOME (now {settings.home})"
        return Check("home", ok=False, detail=f"{existing} cannot be written to", mend=mend)
    state = "can be written to" if existing == folder else "will be created by the first who writes there"
    return Check("home", ok=True, detail=f"{folder} {state}")


def _space(settings: Settings) -> Check:
    free = shutil.disk_usage(_existing(settings.problem_home)).free
    detail = f"{free / 2**30:.1f} GiB free where {settings.home} lies"
    if free < LEAST_FREE_BYTES:
        return Check("disk", ok=False, detail=detail, mend=f"free at least {LEAST_FREE_BYTES // 2**20} MiB")
    return Check("disk", ok=True, detail=detail)


def _existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _database(settings: Settings, fault: str | None) -> Check:
    try:
        database = Database(settings.database_url)
        file = database.file
        if file is not None and not file.exists():
            detail = fault or f"{file} does not exist yet"
            return Check("database", ok=False, detail=detail, mend="`retrain doctor --fix` creates it")
        with database.read() as connection:
            connection.exec_driver_sql("SELECT 1")
            schema.revision(connection)
    except Exception as error:  # noqa: BLE001  (see `_guarded`)
        mend = "start it, or correct storage.database_url or RETRAIN_DATABASE_URL; a damaged file comes from a backup"
        return Check("database", ok=False, detail=_line(error), mend=mend)
    where = file or database.engine.url.render_as_string(hide_password=True)
    return Check("database", ok=True, detail=f"{where} answers")


def _schema(platform: Platform, fault: str | None) -> Check:
    with platform.database.read() as connection:
        found = schema.revision(connection)
    if found == schema.HEAD:
        return Check("schema", ok=True, detail=f"revision {found} is the newest")
    detail = f"revision {found or 'none'}, this version needs {schema.HEAD}" + (f" ({fault})" if fault else "")
    mend = "`retrain doctor --fix` brings it up to date; if that fails, upgrade this package: the database is newer"
    return Check("schema", ok=False, detail=detail, mend=mend)


def _settings(platform: Platform) -> Check:
    with platform.database.read() as connection:
        active = published.active(connection)
    mend = "`retrain doctor --fix` publishes them; so does every run"
    if active is None:
        return Check("settings", ok=False, detail="none are published, so workers check structure only", mend=mend)
    told, own = active.to_dict(), platform.config.to_dict()
    if told == own:
        return Check("settings", ok=True, detail="workers read these settings")
    others = ", ".join(
        f"{block}.{key}" for block in own for key in own[block] if told[block].get(key) != own[block][key]
    )
    return Check("settings", ok=False, detail=f"workers read older settings; these differ: {others}", mend=mend)


def _production(platform: Platform) -> Check:
    with platform.database.read() as connection:
        route = registry.get_route(connection)
        serving = [version for version in (route.production_version, route.canary_version) if version]
        served = [model for version in serving if (model := registry.get_version(connection, version))]
    if not served:
        return Check("production", ok=True, detail="nothing serves yet; `retrain run` trains the first version")
    for model in served:
        try:
            deploy.load_artefact(platform, model)
        except RetrainError as error:
            mend = "restore the file from a backup or another machine, or `retrain rollback --reason TEXT`"
            return Check("production", ok=False, detail=f"{model.version}: {_line(error)}", mend=mend)
    names = " and ".join(model.version for model in served)
    return Check("production", ok=True, detail=f"{names}: digests are right, and the self-test passes")


def _rollback_target(platform: Platform) -> Check:
    """A warning only: after the first promotion there is nothing to go back to, and nothing is wrong."""
    with platform.database.read() as connection:
        route = registry.get_route(connection)
        if route.production_version is None:
            return Check("rollback_target", ok=True, detail="nothing serves yet")
        try:
            target = deploy.find_target(platform, connection, route)
        except NothingToRollBackTo as error:
            return Check("rollback_target", ok=True, detail=f"warning: {_line(error)}")
    return Check("rollback_target", ok=True, detail=f"{target.version} is intact and ready")


def _notifications(platform: Platform) -> Check:
    with platform.database.read() as connection:
        backlog = outbox.backlog(connection)
    if not backlog.waiting:
        return Check("notifications", ok=True, detail="nothing waits to be delivered")
    error = backlog.last_error
    detail = f"{backlog.waiting} wait to be delivered" + (f"; the last error was: {error}" if error else "")
    if backlog.attempts >= LATE_AFTER_ATTEMPTS:
        mend = "`retrain notify test` shows which channel fails; correct notifications.urls"
        return Check("notifications", ok=False, detail=detail, mend=mend)
    return Check("notifications", ok=True, detail=f"{detail}; `retrain guard` or Dagster's daemon sends them")


def _quarantine(platform: Platform) -> Check:
    """A warning only: what workers send may be at fault, and nothing of it is lost."""
    with platform.database.read() as connection:
        found = quarantine.recent(connection, platform.now())
    told = "no outcome of the last days waits refused" if found is None else f"warning: {found.in_words()}"
    return Check("quarantine", ok=True, detail=told)


def _outcomes(platform: Platform) -> Check:
    """Whether the file of the csv store is read; also one that was left behind by a change to the database."""
    is_csv = platform.config.storage.outcomes == "csv"
    if not is_csv and not platform.settings.csv_file.exists():
        return Check("outcomes", ok=True, detail="workers write to the database")
    found = csv_outcomes.standing(platform)
    if not is_csv:
        left = found.was_read and found.unread > 0
        mend = f"`retrain import {found.path}`, then move the file away" if left else None
        told = f"; {found.unread:,} bytes of {found.path} were never read" if left else ""
        return Check("outcomes", ok=not left, detail=f"workers write to the database{told}", mend=mend)
    if not found.is_there and found.was_read:
        mend = "put it back, or an empty file in its place to begin anew; until then the watch and every run stop"
        return Check("outcomes", ok=False, detail=found.in_words(), mend=mend)
    since = found.unread_since
    if since is not None and platform.now() - since > UNREAD_AFTER:
        mend = "start `retrain guard` or Dagster's daemon; where it runs, its messages say why it cannot read them"
        told = f"{found.in_words()}; the last since {since:%Y-%m-%d %H:%M} UTC"
        return Check("outcomes", ok=False, detail=told, mend=mend)
    return Check("outcomes", ok=True, detail=found.in_words())


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
