"""Commands about refused rows: list, retry, export, dismiss.

Holds their options and layout; does not hold what they do (`operations/quarantine.py` and its neighbours).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from retrain_assets.cli import output
from retrain_assets.cli.application import REFUSED, ConfigOption, JsonOption, app, existing, opened, problem
from retrain_assets.errors import UsageError
from retrain_assets.operations import quarantine as refused
from retrain_assets.operations.quarantine import Overview, Rows
from retrain_assets.operations.quarantine_files import ID, export, exported_ids
from retrain_assets.operations.quarantine_retry import Mending, Retried, retry
from retrain_assets.settings import Settings
from retrain_assets.store.quarantine import Selection

SHOWN_REASONS = 10
SHOWN_VALUE = 60
NOTHING = "Nothing waits in quarantine."

SourceOption = Annotated[
    str | None,
    typer.Option(
        "--source", metavar="NAME", show_default=False,
        help="Only rows from there: `collector`, a file's name, or what its import called it.",
    ),
]  # fmt: skip
FieldOption = Annotated[
    str | None, typer.Option("--field", metavar="NAME", show_default=False, help="Only rows refused for this field.")
]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", metavar="DATE", show_default=False, help="Only rows refused from this day or instant on."),
]
IdOption = Annotated[
    list[int] | None,
    typer.Option("--id", metavar="N", show_default=False, help="Only this row; may be given again."),
]

app_quarantine = typer.Typer(no_args_is_help=True, help="Outcomes that were refused: why, and how to mend them.")
app.add_typer(app_quarantine, name="quarantine", rich_help_panel="Run")


@app_quarantine.command("list")
def list_refused(
    *,
    source: SourceOption = None,
    field: FieldOption = None,
    since: SinceOption = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="Reasons or rows to show.")] = 20,
    is_all: Annotated[bool, typer.Option("--all", help="Also rows that are mended or dismissed.")] = False,
    rows: Annotated[bool, typer.Option("--rows", help="Single rows, newest first, instead of reasons.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show why outcomes were refused: how many for each reason, with an example."""
    settings = problem(config)
    selection = _selection(settings, source, field, since, is_all=is_all)
    platform = existing(settings)
    if rows:
        found = refused.newest(platform, selection, limit)
        output.show(found.to_dict(), as_json, lambda: _tell_rows(found))
        return
    overview = refused.overview(platform, selection, limit)
    output.show(overview.to_dict(), as_json, lambda: _tell_overview(overview))


def _tell_overview(found: Overview) -> None:
    _tell_totals(found)
    if not found.kinds:
        return
    table = []
    for kind in found.kinds:
        example = "-" if kind.example is None else f"id {kind.example.id}: {_brief(kind.example.reason)}"
        table.append((kind.rows, kind.field, _brief(kind.reason), kind.last_at, example))
    output.table(("rows", "field", "why", "last", "first of them"), table)
    if found.more:
        output.say(f"... and {found.more:,} more reasons; --limit shows more of them.")
    output.say("`retrain quarantine list --rows` shows rows, `retrain quarantine retry` tries them again.")


def _tell_rows(found: Rows) -> None:
    _tell_totals(found)
    table = [
        (row.id, row.received_at, row.source, row.field, _brief(row.reason), row.resolved_as or refused.why_never(row))
        for row in found.rows
    ]
    if table:
        output.table(("id", "refused at", "source", "field", "why", "became"), table)
        output.say("--json shows the rows as they came.")


def _tell_totals(found: Overview | Rows) -> None:
    totals = found.totals
    waiting = f"{totals.unresolved:,} rows wait" if totals.unresolved else NOTHING.rstrip(".")
    output.say(f"{waiting}; {totals.resolved:,} were mended, {totals.dismissed:,} dismissed.")


def _brief(text: str) -> str:
    return text if len(text) <= 2 * SHOWN_VALUE else text[: 2 * SHOWN_VALUE - 3] + "..."


@app_quarantine.command("retry")
def retry_refused(
    *,
    source: SourceOption = None,
    field: FieldOption = None,
    since: SinceOption = None,
    ids: IdOption = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="THEIRS=OURS", show_default=False,
            help="Read THEIRS as the field or feature OURS; OURS - leaves it out. May be given again.",
        ),
    ] = None,
    actions: Annotated[
        list[str] | None,
        typer.Option(
            "--action", metavar="VARIANT=ACTION", show_default=False,
            help="Read VARIANT as ACTION; may be given again.",
        ),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(
            "--timezone", metavar="NAME", show_default=False,
            help="What timestamps without an offset mean, such as Europe/Berlin.",
        ),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Check refused rows again under the present settings; those that fit become outcomes, once."""
    settings = problem(config)
    selection = _selection(settings, source, field, since, ids)
    mending = Mending(_pairs("--map", mapping), _pairs("--action", actions), timezone)
    with output.work("Trying refused rows again", 1.0) as work:
        found = retry(
            opened(settings),
            selection,
            mending,
            lambda done, total: work.at(done / max(total, 1), f"Trying refused rows again: {done:,} of {total:,}"),
        )
    output.show(found.to_dict(), as_json, lambda: _tell_retry(found))
    is_narrowed = selection != Selection()
    if not found.resolved and (found.rows or is_narrowed):
        output.complain("no row could be mended" if found.rows else "no row that waits is meant by these options")
        raise typer.Exit(REFUSED)


def _tell_retry(found: Retried) -> None:
    if not found.rows:
        output.say(NOTHING)
        return
    output.say(
        f"{found.rows:,} rows: {found.accepted:,} became outcomes, {found.duplicate:,} were known already, "
        f"{found.refused:,} stay, {found.not_retryable:,} can never be tried again."
    )
    for name in found.unused:
        output.say(f"No row has {name!r}, which --map names.")
    for variant in found.unused_actions:
        output.say(f"No row has the action {variant!r}, which --action names.")
    if found.reasons:
        table = [(rows, why, found.examples[why]) for why, rows in found.reasons.most_common(SHOWN_REASONS)]
        output.table(("rows", "why they stay", "first"), table)
        if len(found.reasons) > SHOWN_REASONS:
            output.say(f"... and {len(found.reasons) - SHOWN_REASONS} more reasons; --json has all of them.")


@app_quarantine.command("export")
def export_refused(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to write: .csv, .tsv, .jsonl or .ndjson.")],
    source: SourceOption = None,
    field: FieldOption = None,
    since: SinceOption = None,
    ids: IdOption = None,
    is_all: Annotated[bool, typer.Option("--all", help="Also rows that are mended or dismissed.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write refused rows to a file, to be mended there and imported; the import resolves no row here."""
    settings = problem(config)
    selection = _selection(settings, source, field, since, ids, is_all=is_all)
    with output.work(f"Writing {file.name}") as work:
        found = export(
            existing(settings), selection, file, lambda rows: work.at(0, f"Writing {file.name}: {rows:,} rows")
        )
    cut = f"; {found.cut:,} were too long to be kept whole and are left out" if found.cut else ""
    output.show(found.to_dict(), as_json, lambda: output.say(f"{found.rows:,} rows written to {found.path}{cut}."))


@app_quarantine.command("dismiss")
def dismiss_refused(
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept with the rows.")],
    source: SourceOption = None,
    field: FieldOption = None,
    since: SinceOption = None,
    ids: IdOption = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", metavar="FILE", show_default=False,
            help=f"The rows of a file that `export` wrote, by its column {ID}.",
        ),
    ] = None,
    is_all: Annotated[bool, typer.Option("--all", help="Every row that waits.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Put refused rows aside that need no mending, or were mended in a file; they stay in the table."""
    settings = problem(config)
    if file is not None and ids:
        raise UsageError("--file and --id both name rows; give one of them")
    if file is not None:
        ids = list(exported_ids(file))
    selection = _selection(settings, source, field, since, ids)
    if (selection == Selection()) != is_all:
        both = "--all means every row; leave it out, or the other options"
        raise UsageError(both if is_all else "say which rows: --id, --file, --source, --field, --since, or --all")
    with output.work("Dismissing rows"):
        dismissed = refused.dismiss(existing(settings), selection, reason)
    output.show({"dismissed": dismissed}, as_json, lambda: output.say(f"{dismissed:,} rows dismissed."))
    if not dismissed:
        output.complain("no row that waits is meant by these options")
        raise typer.Exit(REFUSED)


def _selection(
    settings: Settings,
    source: str | None,
    field: str | None,
    since: str | None,
    ids: Sequence[int] | None = None,
    *,
    is_all: bool = False,
) -> Selection:
    zone = ZoneInfo(settings.config.retrain.timezone)
    chosen = None if ids is None or not ids else tuple(ids)
    return Selection(source, field, chosen, _instant(since, zone), is_all)


def _instant(text: str | None, zone: ZoneInfo) -> datetime | None:
    """A day or an instant; without an offset it is in the problem's time zone."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        known = "write 2026-01-31 or 2026-01-31T14:05"
        raise UsageError(f"--since: {text!r} is neither a day nor an instant; {known}") from None
    return found if found.tzinfo else found.replace(tzinfo=zone)


def _pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in given or ():
        theirs, equals, ours = (part.strip() for part in pair.partition("="))
        if not (theirs and equals and ours):
            raise UsageError(f"{option} {pair!r} is not THEIRS=OURS, such as {option} worker_action=action_attempted")
        if pairs.setdefault(theirs, ours) != ours:
            raise UsageError(f"{option} names {theirs!r} twice, as {pairs[theirs]!r} and as {ours!r}")
    return pairs
