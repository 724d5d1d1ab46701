"""The program: global options, how errors end a command, and how a command gets at its problem.

Holds what every command shares; does not hold commands.

Exit codes: 0 done; 1 refused or not true; 2 bad usage or bad config; 3 the database or another service is away.
No command shows a traceback unless `--debug`, which may stand anywhere on the line.
"""

from __future__ import annotations

import getpass
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.exc import SQLAlchemyError
from typer.core import TyperGroup

import retrain_assets
from retrain_assets.cli import output
from retrain_assets.errors import RetrainError, StoreOutdated
from retrain_assets.operations.platform import Platform, open_platform
from retrain_assets.settings import Settings, load_settings
from retrain_assets.store import schema
from retrain_assets.store.database import Database

REFUSED, USAGE, AWAY = 1, 2, 3

DEBUG = "--debug"

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="The configuration; else RETRAIN_CONFIG, else config/retrain.yaml.",
        show_default=False,
    ),
]  # fmt: skip
JsonOption = Annotated[
    bool, typer.Option("--json", help="JSON on standard output; everything else goes to standard error.")
]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the audit log.")]
ActorOption = Annotated[
    str | None,
    typer.Option(
        "--actor", metavar="NAME", help="Who, for the audit log (default: your user name).", show_default=False
    ),
]


class Commands(TyperGroup):
    """The commands, with one way for all of them to fail."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:  # noqa: ANN401
        """Let `--debug` stand anywhere before a `--`."""
        given = list(sys.argv[1:] if args is None else args)
        options_end = given.index("--") if "--" in given else len(given)
        if DEBUG in given[:options_end]:
            given = [DEBUG, *(arg for i, arg in enumerate(given) if arg != DEBUG or i > options_end)]
        return super().main(given, *rest, **options)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  (the framework's own type, which differs between versions)
        """Turn errors into one message and an exit code."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if _is_the_frameworks(error):
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            message, code = explain(error)
            output.complain(message)
            raise typer.Exit(code) from None


def _is_the_frameworks(error: Exception) -> bool:
    """Usage errors, which know how to show themselves, ends of the program, and a reader that closed the pipe."""
    return isinstance(error, typer.Exit | typer.Abort | BrokenPipeError | EOFError) or hasattr(error, "format_message")


def explain(error: Exception) -> tuple[str, int]:
    """What a person is told about an error, and the exit code."""
    if isinstance(error, RetrainError):
        return str(error), error.exit_code
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("retrain_assets"):
        hint = "this command needs more than the base install: install retrain-assets with its extra `platform`"
        extra = "`postgres`" if error.name.startswith("psycopg") else "`platform`"
        return f"{error.name} is not installed; {hint.replace('`platform`', extra)}", USAGE
    if isinstance(error, SQLAlchemyError):
        return f"the database cannot be used: {str(error).splitlines()[0]}; see `retrain doctor`", AWAY
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'} cannot be used: {error.strerror or error}", AWAY
    text = str(error).strip().splitlines()
    return f"unexpected {type(error).__name__}: {text[0] if text else ''} ({DEBUG} shows where)", REFUSED


app = typer.Typer(
    name="retrain",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Retrains, proves, promotes and rolls back the model that steers an automation.",
    epilog="Exit codes: 0 done, 1 refused or not true, 2 bad usage or bad config, 3 a database or service is away.",
)


def _show_version(is_asked: bool) -> None:  # noqa: FBT001  (a callback's signature)
    if is_asked:
        typer.echo(f"retrain {retrain_assets.__version__}")
        raise typer.Exit


@app.callback()
def _globals(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show where an error happened; may stand anywhere.")] = False,
) -> None:
    """Retrains, proves, promotes and rolls back the model that steers an automation."""


def problem(config: Path | None) -> Settings:
    """The settings that a command was given."""
    return load_settings(config)


def existing(settings: Settings) -> Platform:
    """A problem for reading, or for a person's change: nothing is created, migrated or published.

    Raises
    ------
    StoreUnavailable
        There is no database yet: a configuration that names the wrong place must not make an empty one there.
    StoreOutdated
        It has no schema.
    """
    database = Database(settings.database_url, absent="refuse")
    with database.read() as connection:
        if schema.revision(connection) is None:
            message = f"the database {database.place} has no schema of this platform"
            raise StoreOutdated(f"{message}; create it with `retrain doctor --fix`")
    return Platform(settings, database)


def opened(settings: Settings) -> Platform:
    """A problem for work: its schema is brought up to date, and its settings are published for workers."""
    return open_platform(settings)


def user() -> str:
    """Who works at this terminal, for the audit log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"
