"""Backup of a problem while it works, and its restore into an empty place.

Holds what belongs to a backup and the order of the steps; does not hold the copy of the database (`store/backup.py`) or
the folder's layout (`store/backup_folder.py`).

The database is copied before the files. Every file that a row names was in place before the row, and none of them
changes afterwards, so files that are copied later hold all that the copied rows need. A restore goes the other way:
files first, then all rows in one transaction, so that a restore that was stopped can simply be repeated.

With `storage.outcomes: csv` the file of outcomes and its quarantine belong to it, wherever they lie, and are restored
to where `storage.csv_file` says then.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from retrain_assets.errors import RetrainError, StoreOutdated, StoreUnavailable
from retrain_assets.operations.platform import Platform
from retrain_assets.settings import Config, Settings
from retrain_assets.store import backup, schema
from retrain_assets.store.backup_folder import (
    CONFIG,
    DATABASE,
    FILES,
    OUTCOMES,
    BackupFolder,
    Entry,
    Manifest,
    copy_file,
)
from retrain_assets.store.csv_refused import quarantine_path
from retrain_assets.store.database import Database
from retrain_assets.store.files import sha256_of

LEFT_OUT = ("storage.database_url", "notifications.urls", "dagster")
"""What a backup never holds: two keys that may hold passwords, and Dagster's run history."""

OWN_DATABASE = "retrain.db"
"""Name of the database in a problem's folder. One that is not in use belongs to nobody, and is left out."""

CSV = f"{OUTCOMES}/outcomes.csv"
CSV_QUARANTINE = f"{OUTCOMES}/outcomes.quarantine.jsonl"
"""The csv store's files in a backup, whatever they are called at home."""

DATABASE_SHARE = 0.5
"""Part of the progress that the database takes."""

Progress = Callable[[float, str], None]
"""Told how much is done, from 0 to 1, and what is being done."""


@dataclass(frozen=True, slots=True)
class Done:
    """A backup that was made or restored.

    Attributes
    ----------
    path : Path
        The backup's folder.
    revision : str
        Schema revision: of the copy after a backup, of the database after a restore.
    manifest : Manifest
    copied : int
        Files that had to be copied; the others were there.
    warnings : tuple of str
        What was found that somebody should know, in sentences.
    """

    path: Path
    revision: str
    manifest: Manifest
    copied: int
    warnings: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of all files of the backup."""
        return sum(entry.bytes for entry in self.manifest.files.values())

    def to_dict(self) -> dict[str, Any]:
        """The contract's JSON."""
        return {
            "path": str(self.path),
            "problem": self.manifest.problem,
            "created_at": self.manifest.created_at.isoformat(),
            "revision": self.revision,
            "source": self.manifest.source,
            "tables": dict(self.manifest.tables),
            "files": len(self.manifest.files),
            "copied": self.copied,
            "bytes": self.bytes,
            "left_out": list(self.manifest.left_out),
            "warnings": list(self.warnings),
        }


def _silent(_share: float, _text: str) -> None:
    pass


# ---------------------------------------------------------------------------------------------------------- backup


def back_up(platform: Platform, path: Path, progress: Progress = _silent) -> Done:
    """Copy database, files and configuration of a problem while others go on working.

    Parameters
    ----------
    platform : Platform
        Of any known schema revision; nothing is migrated.
    path : Path
        A new folder, or the one of the last backup, which stays valid until the new one is complete.
    progress : callable, optional

    Raises
    ------
    StoreOutdated
        There is no database, or one of a newer version.
    RetrainError
        A file that the database names is missing or damaged; all of them are named, and the old backup stays.
    UsageError
        The folder holds something else.
    """
    file, home = platform.database.file, platform.problem_home.resolve()
    if file is not None and not file.exists():
        raise StoreOutdated(f"there is no database at {file}: there is nothing to back up")
    path = path.expanduser().resolve()
    if path == home or path.is_relative_to(home):
        raise RetrainError(f"{path} lies in the problem's own folder; name one outside of {home}")
    folder = BackupFolder(path)
    with folder.renewed() as before:
        if before is not None and before.problem != platform.config.problem.name:
            raise RetrainError(f"{path} holds a backup of {before.problem!r}; name another folder")
        created_at = platform.now()
        revision, entries = _copy_database(platform, folder, progress)
        entries[CONFIG] = folder.stage(CONFIG, lambda file: _write_config(platform.config, file))
        with backup.read_only(folder.staged(DATABASE)) as copy:
            rows, named = backup.count_rows(copy), backup.named_files(copy)
        copied = _copy_files(folder, platform, before, entries, progress)
        _check_named(named, entries)
        left_out = (*LEFT_OUT, *_stale_database(platform))
        kind = "sqlite" if platform.database.is_sqlite else "postgresql"
        manifest = Manifest(platform.config.problem.name, created_at, revision, kind, rows, entries, left_out)
        folder.commit(manifest)
    return Done(path, revision, manifest, copied, (*folder.warnings, *_missing_outcomes(platform.settings, entries)))


def _copy_database(platform: Platform, folder: BackupFolder, progress: Progress) -> tuple[str, dict[str, Entry]]:
    revision = ""

    def write(file: Path) -> None:
        nonlocal revision
        revision = backup.copy_out(
            platform.database, file, lambda share: progress(share * DATABASE_SHARE, "Copying the database")
        )

    entry = folder.stage(DATABASE, write)
    return revision, {DATABASE: entry}


def _copy_files(
    folder: BackupFolder, platform: Platform, before: Manifest | None, entries: dict[str, Entry], progress: Progress
) -> int:
    """Copy the problem's files that the folder does not have, and note all of them; returns how many were copied."""
    home = platform.problem_home
    files = {f"{FILES}/{file.relative_to(home).as_posix()}": file for file in problem_files(platform)}
    files |= _csv_files(platform.settings)
    copied = 0
    for place, (name, source) in enumerate(files.items(), start=1):
        try:
            entries[name], is_new = folder.keep(name, source, before.files.get(name) if before else None)
        except FileNotFoundError:
            continue  # it was of no lasting use; a file that a row names is missed below
        copied += is_new
        progress(DATABASE_SHARE + (1 - DATABASE_SHARE) * place / len(files), f"Copying {len(files):,} files")
    return copied


def problem_files(platform: Platform) -> Iterator[Path]:
    """Everything in the problem's folder but databases, the csv store, locks, and hidden files, half-written ones."""
    databases = {(platform.database.file or _own_database(platform)).resolve(), _own_database(platform)}
    own = {f"{database}{end}" for database in databases for end in ("", "-wal", "-shm", "-journal")}
    own |= {str(file.resolve()) for file in _csv_files(platform.settings).values()}
    seen: set[str] = set()
    for parent, folders, names in os.walk(platform.problem_home, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()  # a link that leads back
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(parent) / name
            if not name.startswith(".") and file.suffix != ".lock" and str(file.resolve()) not in own:
                yield file


def _missing_outcomes(settings: Settings, entries: dict[str, Entry]) -> list[str]:
    if settings.config.storage.outcomes != "csv" or CSV in entries:
        return []
    return [f"{settings.csv_file} is not there, so outcomes in it that were never read are not in the backup"]


def _check_named(named: list[backup.NamedFile], entries: dict[str, Entry]) -> None:
    faults: dict[str, str] = {}
    for file in named:
        entry = entries.get(f"{FILES}/{file.path}")
        if entry is None or entry.sha256 != file.sha256:
            what = "is not there" if entry is None else "has other content than recorded"
            faults.setdefault(file.path, f"{file.path} ({file.named_by}) {what}")
    if faults:
        lines = "\n".join(f"  - {line}" for line in faults.values())
        raise RetrainError(
            f"no backup was made: {len(faults)} files that the database names cannot be copied:\n{lines}"
        )


def _write_config(config: Config, file: Path) -> None:
    """The configuration in force, every key written out; what may hold a password is left out."""
    data: dict[str, Any] = msgspec.to_builtins(config)
    data["storage"].pop("database_url")
    data.pop("notifications")
    head = "# Written by `retrain backup`. Left out, because they may hold passwords: storage.database_url and\n"
    head += "# notifications.urls.\n"
    file.write_text(head + yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _own_database(platform: Platform) -> Path:
    return platform.problem_home.resolve() / OWN_DATABASE


def _stale_database(platform: Platform) -> list[str]:
    """A database that was left in the problem's folder while another one is in use."""
    file, own = platform.database.file, _own_database(platform)
    is_stale = own.exists() and (file is None or file.resolve() != own)
    return [str(own)] if is_stale else []


def _csv_files(settings: Settings) -> dict[str, Path]:
    """The csv store's files by their names in a backup; outcomes in them may not be in the database yet."""
    if settings.config.storage.outcomes != "csv":
        return {}
    return {CSV: settings.csv_file, CSV_QUARANTINE: quarantine_path(settings.csv_file)}


# --------------------------------------------------------------------------------------------------------- restore


def restore(settings: Settings, path: Path, progress: Progress = _silent) -> Done:
    """Put a backup into an empty database and the problem's folder.

    Parameters
    ----------
    settings : Settings
        Of the place to restore to; the kind of database may be another one than the backup's source.
    path : Path
        The backup's folder; it is only read.
    progress : callable, optional

    Raises
    ------
    UsageError
        The folder holds no backup.
    RetrainError
        The backup is damaged (every damaged file is named), is of another problem, or something is there already;
        nothing was restored.
    """
    path = path.expanduser().resolve()
    folder = BackupFolder(path)
    manifest = folder.read()
    if manifest.problem != settings.config.problem.name:
        own = settings.config.problem.name
        raise RetrainError(f"{path} is a backup of {manifest.problem!r}; this configuration's problem.name is {own!r}")
    if manifest.revision not in schema.revisions():
        raise RetrainError(schema.newer(manifest.revision).replace("the database", "the backup", 1))
    _check_intact(folder, manifest, progress)
    database = Database(settings.database_url)
    with database.read() as connection:
        backup.check_empty(connection)
    copied = _restore_files(folder, manifest, settings, progress)
    source = folder.locate(DATABASE)
    backup.load(database, source, manifest.revision, lambda share: progress(0.5 + share / 2, "Filling the database"))
    return Done(path, schema.HEAD, manifest, copied)


def _check_intact(folder: BackupFolder, manifest: Manifest, progress: Progress) -> None:
    total, done = max(sum(entry.bytes for entry in manifest.files.values()), 1), 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        progress(0.3 * done / total, "Checking the backup")

    if faults := folder.faults(manifest, read):
        lines = "\n".join(f"  - {line}" for line in faults)
        raise RetrainError(f"the backup is damaged, nothing was restored; {len(faults)} files are wrong:\n{lines}")


def _restore_files(folder: BackupFolder, manifest: Manifest, settings: Settings, progress: Progress) -> int:
    """Copy the problem's files into place; one that is there already must be the same, or outcomes that went on."""
    wanted = _targets(manifest, settings)
    there = {name for name, target in wanted.items() if target.exists()}
    others = [name for name in sorted(there) if not _is_kept(wanted[name], name, manifest.files[name])]
    if others:
        raise RetrainError(_in_the_way([wanted[name] for name in others], settings))
    missing = [name for name in wanted if name not in there]
    for place, name in enumerate(missing, start=1):
        if copy_file(folder.locate(name), wanted[name]).sha256 != manifest.files[name].sha256:
            raise StoreUnavailable(f"{name} changed while it was read; try again")
        progress(0.3 + 0.2 * place / len(missing), f"Copying {len(missing):,} files")
    return len(missing)


def _targets(manifest: Manifest, settings: Settings) -> dict[str, Path]:
    """Where the files of a backup belong, by their names in it."""
    found = {CSV: settings.csv_file, CSV_QUARANTINE: quarantine_path(settings.csv_file)}
    home = settings.problem_home
    in_home = {n: home / n.removeprefix(f"{FILES}/") for n in manifest.files if n.startswith(f"{FILES}/")}
    return in_home | {name: target for name, target in found.items() if name in manifest.files}


def _is_kept(target: Path, name: str, entry: Entry) -> bool:
    """Whether a file that is there may stay: the same, or a file of the csv store to which rows were added since."""
    if name not in {CSV, CSV_QUARANTINE}:
        return sha256_of(target) == entry.sha256
    digest, rest = hashlib.sha256(), entry.bytes
    with target.open("rb") as file:
        while rest and (chunk := file.read(min(rest, 1 << 20))):
            digest.update(chunk)
            rest -= len(chunk)
    return digest.hexdigest() == entry.sha256


def _in_the_way(others: list[Path], settings: Settings) -> str:
    message = f"nothing was restored: there are other files already at {', '.join(map(str, others[:5]))}"
    hint = "move them away, or name another RETRAIN_HOME"
    if settings.csv_file in others:
        hint += f". {settings.csv_file.name} holds outcomes: after the restore bring them in with `retrain import` and "
        hint += "the name that you gave it; what is known already is not stored twice"
    return f"{message}; {hint}"
