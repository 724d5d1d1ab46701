"""Commands that bring in somebody's own data: init, import.

Holds their options, progress and words; does not hold the inference (`operations/init.py`) or the import
(`operations/imports.py`). Parquet needs the extra `platform`, a PostgreSQL source the extra `postgres`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from retrain_assets.cli import output
from retrain_assets.cli.application import REFUSED, ConfigOption, JsonOption, app, opened, problem
from retrain_assets.errors import UsageError
from retrain_assets.operations.import_result import Imported
from retrain_assets.operations.imports import ImportOptions, import_source
from retrain_assets.operations.init import Project, start_project
from retrain_assets.operations.row_tables import is_url
from retrain_assets.store.source_tables import without_password

SHOWN_REASONS = 10

MapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map", metavar="THEIRS=OURS", show_default=False,
        help="Read the column THEIRS as the field or feature OURS, or leave it out (THEIRS=-); may be given again.",
    ),
]  # fmt: skip
TimezoneOption = Annotated[
    str | None,
    typer.Option(
        "--timezone", metavar="NAME", show_default=False,
        help="What timestamps without an offset mean, such as Europe/Berlin (default: imports.timezone).",
    ),
]  # fmt: skip
EncodingOption = Annotated[
    str | None,
    typer.Option(
        "--encoding", metavar="NAME", show_default=False,
        help="Of text files, such as cp1252 (default: imports.encoding, else found out).",
    ),
]  # fmt: skip
DelimiterOption = Annotated[
    str | None,
    typer.Option(
        "--delimiter", metavar="SIGN", show_default=False,
        help="Between the cells of CSV files (default: imports.delimiter, else found out).",
    ),
]  # fmt: skip
DecimalOption = Annotated[
    str | None,
    typer.Option(
        "--decimal", metavar="SIGN", show_default=False,
        help="Before the decimals of numbers in CSV files, . or , (default: imports.decimal).",
    ),
]  # fmt: skip
TableOption = Annotated[
    str | None,
    typer.Option(
        "--table", metavar="NAME", show_default=False,
        help="Of a database that is the source, also schema.name (default: outcomes).",
    ),
]  # fmt: skip


@app.command("init", rich_help_panel="Run")
def init(
    *,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the project goes; made when it is not there.")],
    source: Annotated[
        str, typer.Option("--from", metavar="SOURCE", help="Outcomes: a file, or a database's URL (see import).")
    ],
    mapping: MapOption = None,
    timezone: TimezoneOption = None,
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    decimal: DecimalOption = None,
    table: TableOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a configuration that is there.")] = False,
    config: Annotated[  # noqa: ARG001  (every command takes it)
        Path | None,
        typer.Option(
            "--config", metavar="FILE", show_default=False, help="Not read: the new one is DIR/config/retrain.yaml."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a configuration for your own problem, inferred from outcomes, and say what was guessed."""
    options = ImportOptions(
        renames=_pairs("--map", mapping, "worker_action=action_attempted"),
        timezone=timezone,
        encoding=encoding,
        delimiter=_sign(delimiter),
        decimal=decimal,
        table=table,
    )
    name = _source_label(source)
    with output.work(f"Reading {name}", 1.0) as work:
        found = start_project(
            folder,
            _origin(source),
            options,
            is_forced=force,
            progress=lambda rows, share: work.at(share, f"Reading {name}: {rows:,} rows"),
        )
    output.show(found.to_dict(), as_json, lambda: _tell_project(found))


def _tell_project(found: Project) -> None:
    sample = found.drawn.sample
    output.say(
        f"Looked at {len(found.drawn.rows):,} of {sample.total:,} rows. What was guessed, and where to change it:"
    )
    output.say()
    for guess in found.found.guesses:
        value = "" if guess.value is None else f" = {_value(guess.value)}"
        output.say(f"  {guess.what}{value}  ({guess.evidence}; if wrong: {guess.edit})")
    output.say()
    check = found.check
    output.say(f"Under this configuration {check.accepted:,} of the {check.rows:,} rows looked at are outcomes.")
    if check.duplicate:
        output.say(f"  {check.duplicate:,} are the same as another one of them.")
    for reason, count in check.reasons.most_common(3):
        output.say(f"  {count:,} are not: {check.examples[reason]}{_mend(check, reason)}")
    for path in found.written:
        output.say(f"Wrote {path}")
    for path in found.kept:
        output.say(f"Kept {path}, which was there")
    output.say()
    output.say("Next:")
    for command in found.commands:
        output.say(f"  {command}")
    if any("***" in command for command in found.commands):
        output.say("(*** stands for the password, which is not shown; put it there.)")


def _value(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


@app.command("import", rich_help_panel="Run")
def import_outcomes(
    *,
    origin: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Outcomes as .csv, .tsv, .jsonl, .ndjson (also .gz) or .parquet, or sqlite:///FILE or postgresql://...",
        ),
    ],
    mapping: MapOption = None,
    actions: Annotated[
        list[str] | None,
        typer.Option(
            "--action", metavar="THEIRS=OURS", show_default=False,
            help="Read the action THEIRS as OURS, this time; may be given again. For good: problem.action_aliases.",
        ),
    ] = None,
    timezone: TimezoneOption = None,
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    decimal: DecimalOption = None,
    table: TableOption = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", metavar="NAME", show_default=False,
            help="Under which name refused rows are kept (default: the file's name).",
        ),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Bring in outcomes from a file or another database; importing it again stores nothing twice."""
    settings = problem(config)
    options = ImportOptions(
        renames=_pairs("--map", mapping, "worker_action=action_attempted"),
        actions=_pairs("--action", actions, "'Forum Post=forum'"),
        timezone=timezone,
        encoding=encoding,
        delimiter=_sign(delimiter),
        decimal=decimal,
        table=table,
    )
    where, name = _origin(origin), _source_label(origin)
    with output.work(f"Importing {name}", 1.0) as work:
        found = import_source(
            opened(settings),
            where,
            options,
            source=source,
            progress=lambda rows, share: work.at(share, f"Importing {name}: {rows:,} rows"),
        )
    output.show(found.to_dict(), as_json, lambda: _tell_import(found))
    if not found.is_readable:
        output.complain("no row could be read as an outcome" if found.rows else f"{name} has no rows")
        raise typer.Exit(REFUSED)


def _origin(source: str) -> Path | str:
    """A URL as it is; a file that is there."""
    if is_url(source):
        return source
    path = Path(source)
    if not path.is_file():
        names = "name a .csv, .jsonl or .parquet file of outcomes, or a database's URL"
        raise UsageError(f"{without_password(source)} does not exist; {names}")
    return path


def _source_label(source: str) -> str:
    return source.rpartition("@")[2].partition("?")[0] if is_url(source) else Path(without_password(source)).name


def _sign(delimiter: str | None) -> str | None:
    return {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter) if delimiter else None


def _pairs(option: str, pairs: Sequence[str] | None, example: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs or []:
        theirs, equals, ours = (part.strip() for part in pair.rpartition("="))
        if not (theirs and equals and ours):
            raise UsageError(f"{option} {pair!r} is not THEIRS=OURS, such as {option} {example}")
        if found.setdefault(theirs, ours) != ours:
            raise UsageError(f"{option} names {theirs!r} twice, as {found[theirs]!r} and as {ours!r}")
    return found


def _tell_import(found: Imported) -> None:
    output.say(f"{found.accepted:,} new outcomes, {found.duplicate:,} known ones, {found.quarantined:,} refused.")
    if found.resumed_at:
        output.say(
            f"An import of it had been stopped; it went on after {found.resumed_at:,} rows, which are in these counts."
        )
    if found.source is not None and found.source.is_encoding_guessed:
        output.say(f"The text is no UTF-8 and was read as {found.source.encoding}, a guess: say it with --encoding.")
    for theirs, ours in found.renamed.items():
        output.say(f"Column {theirs!r} was {'left out' if ours == '-' else f'read as {ours}'}.")
    for theirs in found.unused:
        output.say(f"No row had a column {theirs!r}, which was to be read under another name.")
    for variant in found.unused_actions:
        output.say(f"No row had the action {variant!r}, which --action names.")
    if found.conflicting:
        output.say(
            f"{found.conflicting:,} of the refused rows are another report of a stored outcome; none was replaced."
        )
    if found.reasons:
        _tell_refused(found)


def _tell_refused(found: Imported) -> None:
    if found.is_mostly_refused:
        reason, count = found.reasons.most_common(1)[0]
        output.say(f"MOST ROWS WERE REFUSED: {found.refused_share:.0%} of {found.rows:,}.")
        output.say(f"The most common reason, with {count:,} rows: {reason}{_mend(found, reason)}")
    output.say("Refused rows are kept with their reason:")
    shown = [reason for reason, _ in found.reasons.most_common(SHOWN_REASONS)]
    rows = [(found.reasons[r], r, found.examples[r], found.remedies.get(r)) for r in shown]
    output.table(("rows", "why", "first", "what helps"), rows)
    if len(found.reasons) > SHOWN_REASONS:
        output.say(f"... and {len(found.reasons) - SHOWN_REASONS} more reasons; --json has all of them.")


def _mend(found: Imported, reason: str) -> str:
    text = found.remedies.get(reason)
    return f" -> {text}" if text else ""
