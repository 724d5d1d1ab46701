"""What holds for every command: help, exit codes, one way to fail, facts alone on standard output."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from retrain_assets.cli import app
from retrain_assets.cli import application as program
from retrain_assets.cli.application import explain
from retrain_assets.errors import NothingToRollBackTo, StoreUnavailable, UsageError
from retrain_assets.operations.platform import Platform

PROMISED = {
    "import", "run", "backfill", "status", "models", "show", "history", "lineage", "why", "promote", "rollback",
    "pause", "resume", "guard", "doctor", "demo", "notify",
}  # fmt: skip

READING = (
    ("status",),
    ("models",),
    ("show", "v1.0.0"),
    ("history",),
    ("lineage", "v1.0.0"),
    ("why", "some-decision"),
    ("rollback", "--reason", "x"),
    ("promote", "v1.0.0", "--reason", "x"),
    ("pause", "--reason", "x"),
    ("run", "--dry-run"),
    ("guard", "--once"),
)


def _commands(command: Any = None, path: str = "retrain") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    command = command or typer.main.get_command(app)
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _commands(child, f"{path} {name}")


def test_every_promised_command_is_there() -> None:
    """The contract's commands can be called by their names."""
    assert set(typer.main.get_command(app).commands) >= PROMISED  # type: ignore[attr-defined]


def test_every_command_and_option_says_what_it_does() -> None:
    """No command, option or argument is without help."""
    silent = [path for path, command in _commands() if not command.help]
    for path, command in _commands():
        silent += [f"{path} {parameter.name}" for parameter in command.params if not getattr(parameter, "help", None)]
    assert silent == []


def test_every_command_takes_a_config_and_those_with_facts_speak_json() -> None:
    """`--config` is everywhere; `--json` as well, since every command prints facts."""
    leaves = [(path, command) for path, command in _commands() if not hasattr(command, "commands")]
    assert len(leaves) >= len(PROMISED)
    for path, command in leaves:
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--config", "--json"} <= options, path


def test_the_version_is_told() -> None:
    """`retrain --version` prints one line and ends well."""
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, "retrain 0.2.0\n")


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["run", "--nonsense"], ["rollback"], ["show"], ["guard", "--interval", "x"]]
)
def test_bad_usage_ends_with_2(arguments: list[str], retrain: Any) -> None:  # noqa: ANN401
    """An unknown command or option, or a missing one, is usage: exit code 2, nothing on standard output."""
    answer = retrain(*arguments)
    assert (answer.code, answer.out) == (2, "")


@pytest.mark.parametrize("command", READING, ids=lambda command: command[0])
def test_a_bad_config_ends_with_2_and_lists_every_problem(command: tuple[str, ...], config: Path, retrain: Any) -> None:  # noqa: ANN401
    """Every command refuses to start half-configured, and says everything that is wrong at once."""
    config.write_text("retrain: {tiem: '02:00', min_new_samples: -1}\n", encoding="utf-8")
    answer = retrain(*command)
    assert answer.code == 2
    assert answer.out == ""
    assert "retrain.tiem" in answer.err
    assert "did you mean retrain.time?" in answer.err
    assert "retrain.min_new_samples" in answer.err


def test_a_config_that_is_not_there_ends_with_2(tmp_path: Path) -> None:
    """The message names the file and the ways to name another."""
    result = CliRunner().invoke(app, ["status", "--config", str(tmp_path / "none.yaml")])
    assert result.exit_code == 2
    assert "none.yaml does not exist" in result.stderr
    assert "RETRAIN_CONFIG" in result.stderr


@pytest.mark.parametrize("command", READING, ids=lambda command: command[0])
def test_a_database_that_is_away_ends_with_3(
    command: tuple[str, ...], retrain: Any, monkeypatch: pytest.MonkeyPatch  # noqa: ANN401
) -> None:  # fmt: skip
    """One line says so, without a traceback."""
    monkeypatch.setenv("RETRAIN_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none?connect_timeout=2")
    answer = retrain(*command, *([] if command[0] == "guard" else ["--json"]))
    assert (answer.code, answer.out) == (3, "")
    assert "the database cannot be used now" in answer.err
    assert "Traceback" not in answer.err


def test_a_file_that_is_no_database_ends_with_3(retrain: Any, home: Path) -> None:  # noqa: ANN401
    """A damaged database is away, too, and the message leads to the doctor."""
    file = home / "backlinks" / "retrain.db"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"this is no database at all" * 100)
    answer = retrain("status")
    assert answer.code == 3
    assert "not a database" in answer.err


def test_a_home_that_cannot_be_made_ends_with_3(retrain: Any, home: Path) -> None:  # noqa: ANN401
    """A file where the home should be is told as such, with its name."""
    home.write_text("", encoding="utf-8")
    answer = retrain("status")
    assert answer.code == 3
    assert str(home) in answer.err


def test_a_traceback_shows_only_with_debug(retrain: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401
    """A bug is one line with its type; `--debug` anywhere on the line adds where it happened; the code stays."""

    def broken(_path: Path | None) -> None:
        raise KeyError("bug")

    monkeypatch.setattr(program, "load_settings", broken)
    quiet, loud = retrain("status"), retrain("status", "--debug")
    assert (quiet.code, loud.code) == (1, 1)
    assert "unexpected KeyError" in quiet.err
    assert "Traceback" not in quiet.err
    assert "Traceback" in loud.err


def test_debug_after_a_double_dash_is_an_argument(made: Platform, config: Path) -> None:
    """What stands behind `--` is never taken for an option."""
    result = CliRunner().invoke(app, ["show", "--config", str(config), "--", "--debug"])
    assert result.exit_code == 1
    assert "--debug is not registered" in result.stderr
    assert "Traceback" not in result.stderr


def test_errors_carry_their_exit_code() -> None:
    """Each family of errors has the contract's code."""
    assert explain(NothingToRollBackTo("none"))[1] == 1
    assert explain(UsageError("which?"))[1] == 2
    assert explain(StoreUnavailable("away"))[1] == 3
    assert explain(PermissionError(13, "Permission denied", "/x")) == ("/x cannot be used: Permission denied", 3)
    assert explain(RuntimeError("odd\nmore"))[1] == 1


def test_a_missing_library_is_told_by_its_extra() -> None:
    """A command that needs more than the base install says which extra brings it: bad usage, no bug."""
    message, code = explain(ModuleNotFoundError("no", name="dagster"))
    assert code == 2
    assert "dagster is not installed" in message
    assert "`platform`" in message
    assert "`postgres`" in explain(ModuleNotFoundError("no", name="psycopg"))[0]


def test_the_console_script_answers_from_a_shell(made: Platform, config: Path) -> None:
    """The installed entry point runs a command, with facts alone on standard output."""
    code = "from retrain_assets.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "status", "--json", "--config", str(config)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{\n")
    assert done.stdout.endswith("}\n")
