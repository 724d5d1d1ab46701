"""A project for somebody's own problem: its configuration, inferred from a log, and what Dagster needs beside it.

Holds which files are written and the check that the log can be read by them; does not hold the inference
(`core/inference.py`) or the text (`core/config_text.py`).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from retrain_assets.core.columns import folded
from retrain_assets.core.config_text import config_text, threshold
from retrain_assets.core.inference import Guess, Inference, infer
from retrain_assets.core.outcomes import Outcome, Receipt, read_outcome
from retrain_assets.errors import RetrainError, SchemaError, UsageError
from retrain_assets.operations.import_options import ImportOptions, check_options, column_names, row_reader
from retrain_assets.operations.import_result import Imported
from retrain_assets.operations.imports import conflict_of
from retrain_assets.operations.platform import system_clock
from retrain_assets.operations.project_files import DAGSTER, DAGSTER_FILE, WORKSPACE, WORKSPACE_FILE
from retrain_assets.operations.row_tables import DEFAULT_TABLE, is_url
from retrain_assets.operations.sample import Drawn, Progress, draw
from retrain_assets.settings import Settings, load_settings
from retrain_assets.store import published
from retrain_assets.store.files import write_atomically
from retrain_assets.store.source_tables import without_password

CONFIG_FILE = Path("config") / "retrain.yaml"

_CHECKED = ("rows", "accepted", "duplicate", "conflicting", "quarantined", "reasons", "remedies")
_SAYING_NOTHING = frozenset(
    {"outcomes", "outcome", "data", "dataset", "log", "logs", "export", "events", "tasks", "results", "sample",
     "history", "dump", "file", "output", "retrain"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Project:
    """What was written, and how it was inferred.

    Attributes
    ----------
    settings : Settings
        As the written configuration loads.
    found : Inference
    drawn : Drawn
    check : Imported
        What an import would make of the sample under the written configuration.
    written, kept : list of Path
        Files; those that were there already are kept, but for the configuration with `is_forced`.
    commands : list of str
        What to type next; `***` in it stands for a password, which is not shown.
    """

    settings: Settings
    found: Inference
    drawn: Drawn
    check: Imported
    written: list[Path]
    kept: list[Path]
    commands: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        sample = {"rows": len(self.drawn.rows), "of": self.drawn.sample.total, "unreadable": self.drawn.unreadable}
        return {
            "config": self.settings.config_path,
            "problem": self.settings.config.problem.name,
            "actions": list(self.found.actions),
            "features": {name: feature.to_dict() for name, feature in self.found.features.items()},
            "columns": dict(self.found.columns),
            "left_out": dict(self.found.left_out),
            "guesses": [asdict(guess) for guess in self.found.guesses],
            "sample": sample,
            "check": {key: self.check.to_dict()[key] for key in _CHECKED},
            "written": [path.resolve() for path in self.written],
            "kept": [path.resolve() for path in self.kept],
            "next": list(self.commands),
        }


def start_project(
    folder: Path,
    origin: Path | str,
    options: ImportOptions | None = None,
    *,
    is_forced: bool = False,
    clock: Callable[[], datetime] = system_clock,
    progress: Progress | None = None,
) -> Project:
    """Infer a problem from a log and write a project for it.

    Parameters
    ----------
    folder : Path
        Gets `config/retrain.yaml`, `workspace.yaml` and `dagster.yaml`; made when it is not there.
    origin : Path or str
        As `imports.import_source` takes it.
    options : ImportOptions, optional
        What is known of the log; not guessed again.
    is_forced : bool
        Replace a configuration that is there.
    clock : callable
        For the check: rows of the future are refused.
    progress : callable, optional

    Raises
    ------
    UsageError
        A mapped column is not there.
    RetrainError
        There is a configuration already, or something cannot be inferred.
    """
    options = options or ImportOptions()
    check_options(options)
    config = folder / CONFIG_FILE
    if config.exists() and not is_forced:
        raise RetrainError(f"{config} is there already; name another folder, or replace it with --force")
    drawn = draw(origin, options, progress)
    for theirs in options.renames or {}:
        if theirs not in drawn.sample.columns:
            raise UsageError(f"there is no column {theirs!r}; there are: {', '.join(drawn.sample.columns) or 'none'}")
    found = infer(drawn.sample, renames=options.renames, timezone=options.timezone, decimal=options.decimal)
    _note_source(found, drawn)
    name = problem_name(origin, folder, options.table)
    is_told = drawn.source.is_encoding_guessed or options.encoding is not None
    text = config_text(
        found,
        name=name,
        source=_source_name(origin),
        encoding=drawn.source.encoding if is_told else None,
        delimiter=drawn.source.delimiter if drawn.source.delimiter != "," else None,
    )
    written, kept = _write(folder, name, text)
    settings = load_settings(config)
    check = _check(settings, drawn, clock())
    return Project(settings, found, drawn, check, written, kept, _commands(folder, origin, options))


def problem_name(origin: Path | str, folder: Path, table: str | None = None) -> str:
    """A name fit for `problem.name`: the file's, or the folder's where the file's says nothing."""
    if isinstance(origin, str) and is_url(origin):
        stems = [table or "", Path(make_url(origin).database or "").stem]
    else:
        stems = [Path(origin).name.partition(".")[0]]
    for stem in [*stems, folder.resolve().name]:
        name = folded(stem)
        if name and name not in _SAYING_NOTHING:
            return name[:63] if name[0].isalpha() else f"p_{name}"[:63]
    return "problem"


def _note_source(found: Inference, drawn: Drawn) -> None:
    source = drawn.source
    if source.delimiter is not None:
        seen = "what the header has most of"
        found.guesses.append(Guess("imports.delimiter", source.delimiter, seen, "imports.delimiter"))
    if source.is_encoding_guessed:
        seen = "the text is no UTF-8, and reads well so; look at the names above"
        found.guesses.append(Guess("imports.encoding", source.encoding, seen, "imports.encoding"))
    seen = f"always guessing the commoner result is right in {found.commoner_share:.0%}; a little below that"
    limit = threshold(found)
    found.guesses.append(Guess("retrain.validation_threshold", limit, seen, "retrain.validation_threshold"))


def _write(folder: Path, name: str, text: str) -> tuple[list[Path], list[Path]]:
    texts = {CONFIG_FILE: text, Path(WORKSPACE_FILE): WORKSPACE.format(name=name), Path(DAGSTER_FILE): DAGSTER}
    written, kept = [], []
    for place, content in texts.items():
        path = folder / place
        if path.exists() and place != CONFIG_FILE:
            kept.append(path)
            continue
        write_atomically(path, partial(_put, content=content.encode()))
        written.append(path)
    return written, kept


def _put(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def _check(settings: Settings, drawn: Drawn, now: datetime) -> Imported:
    """What an import under these settings would make of the sample, into a database that is empty."""
    config = settings.config
    options, rules, check = ImportOptions(), published.outcome_rules(config), Imported()
    reader = row_reader(options, config, column_names(options, config), is_text=drawn.sample.is_text)
    known: dict[str, Outcome] = {}
    for row in drawn.rows:
        check.rows += 1
        try:
            values = reader.read(row.values)
            outcome = read_outcome(values, rules, now)
        except SchemaError as error:
            check.refuse(row, error.field, error.message)
            continue
        first = known.setdefault(outcome.outcome_id, outcome)
        conflict = conflict_of(values, duplicate_of(first, outcome))
        if first is outcome:
            check.accepted += 1
        elif conflict is None:
            check.duplicate += 1
        else:
            check.conflicting += 1
            check.refuse(row, conflict.field, conflict.message)
    return check


def duplicate_of(stored: Outcome, outcome: Outcome) -> Receipt:
    """What the store would say about an outcome that has the id of a stored one."""
    compared = ("result", "action_attempted", "task_id", "failure_reason")
    other = next((name for name in compared if getattr(stored, name) != getattr(outcome, name)), None)
    return Receipt(outcome.outcome_id, "duplicate", None if other is None else f"known with another {other}", other)


def _source_name(origin: Path | str) -> str:
    """A file's name; of a database its URL, without passwords and good from every folder."""
    if not (isinstance(origin, str) and is_url(origin)):
        return Path(origin).name
    url = make_url(origin)
    if url.get_backend_name() == "sqlite" and url.database:
        return f"{url.drivername}:///{Path(url.database).resolve()}"
    return without_password(origin)


def _commands(folder: Path, origin: Path | str, options: ImportOptions) -> list[str]:
    if isinstance(origin, str) and is_url(origin):
        table = f" --table {options.table}" if options.table not in {None, DEFAULT_TABLE} else ""
        source = shlex.quote(_source_name(origin)) + table  # without its password, which would end in logs
    else:
        source = shlex.quote(str(Path(origin).resolve()))
    return [
        f"cd {shlex.quote(str(folder.resolve()))}",
        "retrain doctor --fix",
        f"retrain import {source}",
        "retrain run",
        'DAGSTER_HOME="$PWD" dagster dev -w workspace.yaml',
    ]
