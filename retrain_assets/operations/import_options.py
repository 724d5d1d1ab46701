"""How a source is read: what the command says, what the configuration has for it, and what can never be read.

Holds the options of an import and what is made of them; does not hold the import (`operations/imports.py`) or how a row
is read (`core/rows.py`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from retrain_assets.core.columns import LEFT_OUT, ColumnNames, folded
from retrain_assets.core.outcomes import FIXED_FIELDS, OutcomeRules
from retrain_assets.core.rows import RowReader
from retrain_assets.errors import RetrainError, SchemaError, UsageError
from retrain_assets.operations.text_files import UTF8
from retrain_assets.settings import Config

REQUIRED = ("task_id", "action_attempted", "result")
PLACING = frozenset({"timestamp", "occurred_at", "decision_id", "outcome_id"})
"""One of these every row needs, so that importing it again does not store it again."""
DECIMALS = (".", ",")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """How a source is read; what is not said is as the configuration's block `imports` has it.

    Attributes
    ----------
    renames : mapping
        Column to field, feature or `-` (leave it out).
    actions : mapping
        Other spellings of actions, for this import.
    timezone : str, optional
        What timestamps without an offset mean, such as `Europe/Berlin`.
    encoding, delimiter : str, optional
        Of text files.
    decimal : str, optional
        `.` or `,`: what stands before the decimals of a number in a CSV file.
    table : str, optional
        Of another database; default `outcomes`.
    """

    renames: Mapping[str, str] | None = None
    actions: Mapping[str, str] | None = None
    timezone: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    decimal: str | None = None
    table: str | None = None


def completed(options: ImportOptions, config: Config, own: str | None) -> ImportOptions:
    """The options with the configuration's block `imports` where nothing is said; `own`: see `own_delimiter`."""
    said = config.imports
    timezone = options.timezone or said.timezone
    encoding, delimiter, decimal = (UTF8, own, ".") if own else (said.encoding, said.delimiter, said.decimal)
    return replace(
        options,
        timezone=timezone,
        encoding=options.encoding or encoding,
        delimiter=options.delimiter or delimiter,
        decimal=options.decimal or decimal,
    )


def check_options(options: ImportOptions) -> None:
    """Refuse options that no source could be read with.

    Raises
    ------
    UsageError
    """
    if options.decimal is not None and options.decimal not in DECIMALS:
        raise UsageError(f"{options.decimal!r} is not what stands before decimals; use . or ,")
    zone_of(options.timezone)


def zone_of(name: str | None) -> ZoneInfo | None:
    """A time zone by its name; None for None."""
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"{name!r} is not a time zone; write it as Europe/Berlin or UTC") from None


def column_names(options: ImportOptions, config: Config) -> ColumnNames:
    """Which columns are which fields: what the command says goes before `imports.columns`."""
    renames = options.renames or {}
    configured = config.imports.columns.items()
    said = {theirs: ours for theirs, ours in configured if ours == LEFT_OUT or ours not in renames.values()} | {
        **renames
    }
    names = ColumnNames(said, config.schema.names)
    for theirs, ours in said.items():
        near = difflib.get_close_matches(ours, [*sorted(FIXED_FIELDS), *config.schema.names], n=1, cutoff=0.8)
        if ours != LEFT_OUT and not names.is_own(ours) and near:
            raise UsageError(f"{theirs}={ours}: there is no field or feature {ours!r}; did you mean {near[0]!r}?")
    return names


def row_reader(
    options: ImportOptions, config: Config, names: ColumnNames, *, is_text: bool, is_own: bool = False
) -> RowReader:
    """What reads the rows of a source under these options; `is_own`: this platform wrote the file."""
    decimal = options.decimal or config.imports.decimal
    check_options(options)
    zone = zone_of(options.timezone or config.imports.timezone)
    return RowReader(names, config.schema, zone=zone, decimal=decimal, is_text=is_text, is_own=is_own)


def with_actions(rules: OutcomeRules, actions: Mapping[str, str]) -> OutcomeRules:
    """The rules, with more spellings of actions.

    Raises
    ------
    UsageError
        One stands for no action of the problem, or is an action itself.
    """
    for variant, action in actions.items():
        try:
            known = rules.action(action)
        except SchemaError as error:
            raise UsageError(f"--action {variant}={action}: {error.message}") from None
        if variant.casefold() in {name.casefold() for name in (rules.schema.actions if rules.schema else ())}:
            raise UsageError(f"--action {variant}={action}: {variant!r} is an action itself")
        aliases = {
            alias: ours for alias, ours in rules.action_aliases.items() if alias.casefold() != variant.casefold()
        }
        rules = replace(rules, action_aliases=aliases | {variant: known})
    return rules


def check_columns(label: str, columns: tuple[str, ...], names: ColumnNames, said: Mapping[str, str]) -> None:
    """Refuse a source whose every row would be refused, before anything is written."""
    try:
        chosen = names.of(columns)
    except SchemaError as error:
        raise UsageError(f"{label}: {error}") from None
    for theirs in names.unused:
        if theirs in {name.strip() for name in said}:
            near = difflib.get_close_matches(folded(theirs), [folded(name) for name in columns], n=1)
            close = next((name for name in columns if near and folded(name) == near[0]), None)
            hint = f"; did you mean {close!r}?" if close else f"; it has {', '.join(columns) or 'none'}"
            raise UsageError(f"{label} has no column {theirs!r}{hint}")
    missing = [name for name in REQUIRED if name not in chosen.values()]
    if missing:
        hint = f"say which column it is with --map COLUMN={missing[0]}"
        has = ", ".join(columns) or "no columns"
        raise RetrainError(f"{label} has no column for {', '.join(missing)}: {hint}; it has: {has}")
    if not PLACING & set(chosen.values()):
        what = "no column says when a row happened (timestamp), or which decision_id or outcome_id it has"
        has = ", ".join(columns)
        raise RetrainError(f"{label}: {what}: say which column it is with --map COLUMN=timestamp; it has: {has}")
