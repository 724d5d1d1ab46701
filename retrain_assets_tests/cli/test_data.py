"""init and import: what they say before, while and after they work."""

from __future__ import annotations

import csv
import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from retrain_assets.cli import app
from retrain_assets.core.dataset import WeekCalendar
from retrain_assets.demo.automation import SimulatedAutomation
from retrain_assets.settings import load_settings


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Sixty outcomes of the newest closed week."""
    week = WeekCalendar().newest_closed(datetime.now(tz=UTC))
    history = SimulatedAutomation(2).history(60, week.start_at, week.end_at)
    return [row | {"timestamp": row["timestamp"].isoformat()} for row in history]


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_an_import_counts_and_can_be_repeated(tmp_path: Path, rows: list[dict[str, Any]], retrain: Any) -> None:  # noqa: ANN401
    """The JSON has the contract's keys; the second time everything is known; other columns go by `--map`."""
    file = _write_csv(tmp_path / "o.csv", rows)
    first = retrain("import", str(file), "--json")
    assert first.code == 0, first.err
    assert {"accepted", "duplicate", "quarantined", "reasons"} <= set(first.json)
    assert (first.json["accepted"], first.json["duplicate"], first.json["quarantined"]) == (60, 0, 0)
    theirs = [{("worker_action" if key == "action_attempted" else key): row[key] for key in row} for row in rows]
    lines = tmp_path / "o.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in theirs), encoding="utf-8")
    again = retrain("import", str(lines), "--map", "worker_action=action_attempted", "--json").json
    assert (again["accepted"], again["duplicate"]) == (0, 60)
    assert again["renamed"] == {"worker_action": "action_attempted"}
    assert "0 new outcomes, 60 known ones" in retrain("import", str(file)).out


def test_refused_rows_are_told_and_the_import_ends_well(
    tmp_path: Path, rows: list[dict[str, Any]], retrain: Any  # noqa: ANN401
) -> None:  # fmt: skip
    """Good rows are stored, bad ones counted under `field: reason`; exit code 0, and 1 only when none was good."""
    rows[3]["result"] = "perhaps"
    rows[4]["timestamp"] = "2026-01-01T10:00:00"
    answer = retrain("import", str(_write_csv(tmp_path / "o.csv", rows)), "--json")
    assert answer.code == 0
    assert (answer.json["accepted"], answer.json["quarantined"]) == (58, 2)
    assert sum(answer.json["reasons"].values()) == 2
    assert {reason.partition(":")[0] for reason in answer.json["reasons"]} == {"result", "timestamp"}
    bad = retrain("import", str(_write_csv(tmp_path / "bad.csv", [rows[3]])), "--json")
    assert (bad.code, bad.json["quarantined"]) == (1, 1)
    assert "no row could be read" in bad.err
    assert "has no offset" in retrain("import", str(_write_csv(tmp_path / "naive.csv", rows[4:8]))).out


@pytest.mark.parametrize("mapping", ["x", "=y", "x=", "nowhere=task_id"])
def test_a_mapping_that_cannot_be_meant_is_bad_usage(
    mapping: str, tmp_path: Path, rows: list[dict[str, Any]], retrain: Any  # noqa: ANN401
) -> None:  # fmt: skip
    """`--map` needs THEIRS=OURS and a column that is there; nothing is imported otherwise."""
    file = _write_csv(tmp_path / "o.csv", rows)
    assert retrain("import", str(file), "--map", mapping).code == 2
    assert retrain("import", str(file), "--json").json["accepted"] == 60


def test_a_file_that_is_not_there_is_bad_usage(tmp_path: Path, retrain: Any) -> None:  # noqa: ANN401
    """Exit code 2, and what would do."""
    answer = retrain("import", str(tmp_path / "none.csv"))
    assert (answer.code, answer.out) == (2, "")
    assert ".csv, .jsonl or .parquet" in answer.err


def test_progress_goes_to_standard_error(tmp_path: Path, rows: list[dict[str, Any]], retrain: Any) -> None:  # noqa: ANN401
    """Away from a terminal the work is told in plain lines, without control characters, beside the facts."""
    answer = retrain("import", str(_write_csv(tmp_path / "o.csv", rows)))
    assert "Importing o.csv ..." in answer.err
    assert "Importing" not in answer.out
    assert "\x1b" not in answer.err + answer.out


def test_most_rows_refused_is_said_plainly(tmp_path: Path, rows: list[dict[str, Any]], retrain: Any) -> None:  # noqa: ANN401
    """With the commonest reason and what helps against it; the exit code stays 0 while a row could be read."""
    for row in rows[1:]:
        row["timestamp"] = row["timestamp"][:19]
    file = _write_csv(tmp_path / "o.csv", rows)
    answer = retrain("import", str(file))
    assert answer.code == 0
    assert "MOST ROWS WERE REFUSED: 98% of 60." in answer.out
    assert "has no offset from UTC" in answer.out
    assert "--timezone Europe/Berlin" in answer.out
    assert retrain("import", str(file), "--timezone", "UTC", "--json").json["accepted"] == 59


def test_options_of_the_import_reach_it(tmp_path: Path, rows: list[dict[str, Any]], retrain: Any) -> None:  # noqa: ANN401
    """Actions, delimiter, encoding and decimal; what was guessed, left out or in vain is told."""
    row = rows[0] | {"action_attempted": "Forum Post", "pa": "3,5", "domain": "Müller", "https_enabled": "True"}
    text = "|".join(row) + "\n" + "|".join("" if value is None else str(value) for value in row.values()) + "\n"
    (tmp_path / "o.csv").write_text(text, encoding="cp1252")
    options = ["--action", "Forum Post=forum", "--decimal", ",", "--delimiter", "|", "--map", "domain=-"]
    answer = retrain("import", str(tmp_path / "o.csv"), *options)
    assert "1 new outcomes" in answer.out, answer.out
    assert "read as cp1252, a guess" in answer.out
    assert "Column 'domain' was left out." in answer.out
    known = retrain("import", str(tmp_path / "o.csv"), *options, "--encoding", "latin-1", "--json").json
    assert (known["duplicate"], known["read_as"]["encoding"], known["read_as"]["delimiter"]) == (1, "iso8859-1", "|")
    (tmp_path / "o.jsonl").write_text(json.dumps(rows[1]) + "\n", encoding="utf-8")
    assert "No row had a column 'x'" in retrain("import", str(tmp_path / "o.jsonl"), "--map", "x=pa").out
    assert retrain("import", str(tmp_path / "o.csv"), "--action", "Forum Post=dance").code == 2


def test_a_database_is_named_by_its_url(tmp_path: Path, rows: list[dict[str, Any]], retrain: Any) -> None:  # noqa: ANN401
    """One that is not there is bad usage, and its password is never shown."""
    retrain("import", str(_write_csv(tmp_path / "o.csv", rows)))
    with (
        sqlite3.connect(tmp_path / "home" / "backlinks" / "retrain.db") as own,
        sqlite3.connect(tmp_path / "old.db") as old,
    ):
        own.backup(old)
    own.close()
    old.close()
    answer = retrain("import", f"sqlite:///{tmp_path / 'old.db'}", "--table", "outcomes", "--json")
    assert (answer.code, answer.json["duplicate"]) == (0, 60), answer.err
    assert retrain("import", f"sqlite:///{tmp_path / 'none.db'}").code == 2
    away = retrain("import", "postgresql://anna:secret@127.0.0.1:1/x")
    assert (away.code, "secret" in away.out + away.err) == (3, False)


def test_what_is_not_stored_is_told(tmp_path: Path, rows: list[dict[str, Any]], retrain: Any) -> None:  # noqa: ANN401
    """Another report of a stored outcome, a spelling that no row has: in words and as JSON; the exit code is 0."""
    file = _write_csv(tmp_path / "o.csv", [rows[0], rows[0] | {"result": "error"}])
    answer = retrain("import", str(file), "--action", "waltz=forum")
    assert answer.code == 0, answer.err
    assert "1 of the refused rows are another report of a stored outcome" in answer.out
    assert "No row had the action 'waltz', which --action names." in answer.out
    again = retrain("import", str(file), "--json")
    assert (again.code, again.json["conflicting"], again.json["unused_actions"]) == (0, 1, [])
    assert retrain("import", str(file), "--action", "comment=forum").code == 2


@pytest.mark.parametrize("url", ["postgresql:/u:s3cret@h/db", "postgresql:/u:s3cret@h", "postgresql://u:s3cret@h:x/db"])
def test_a_mistyped_url_is_bad_usage_and_shows_no_password(url: str, tmp_path: Path, retrain: Any) -> None:  # noqa: ANN401
    """Neither the import nor init print it, also where it is taken for a file."""
    for answer in (retrain("import", url), retrain("import", url, "--json")):
        assert (answer.code, "s3cret" in answer.out + answer.err) == (2, False), answer.err
    found = _init(str(tmp_path / "own"), "--from", url)
    assert (found.exit_code, "s3cret" in found.output) == (2, False)


def _init(*arguments: str) -> Any:  # noqa: ANN401
    return CliRunner().invoke(app, ["init", *arguments])


def test_init_says_each_guess_in_a_line_and_what_to_type_next(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """With its evidence and what to edit; the JSON has the contract's keys and the configuration loads."""
    file = _write_csv(tmp_path / "mine.csv", rows)
    told = _init(str(tmp_path / "own"), "--from", str(file))
    assert told.exit_code == 0, told.output
    line = next(line for line in told.stdout.splitlines() if line.strip().startswith("action_attempted"))
    assert "different values" in line
    assert "if wrong: imports.columns" in line
    assert f"retrain import {file}" in told.stdout
    again = _init(str(tmp_path / "own"), "--from", str(file), "--json")
    assert (again.exit_code, again.stdout) == (1, "")
    assert "--force" in again.stderr
    forced = _init(str(tmp_path / "own"), "--from", str(file), "--json", "--force")
    facts = json.loads(forced.stdout)
    assert {"config", "actions", "features", "guesses"} <= set(facts)
    assert set(facts["actions"]) == {"comment", "profile", "forum", "guest"}
    assert facts["features"]["https_enabled"] == {"type": "boolean"}
    assert load_settings(facts["config"]).config.problem.name == "mine"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--from", "none.csv"], 2, "does not exist"),
        (["--from", "FILE", "--map", "nowhere=task_id"], 2, "no column 'nowhere'"),
        (["--from", "FILE", "--map", "result=-"], 1, "no column looks like a result"),
        (["--from", "FILE", "--timezone", "Mars"], 2, "is not a time zone"),
        (["--from", "FILE", "--decimal", "x"], 2, "use . or ,"),
    ],
)
def test_init_that_cannot_infer_writes_nothing(
    arguments: list[str], code: int, message: str, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    """Exit code 1 when the log cannot say it, 2 when the command was wrong; the way out is in the message."""
    file = _write_csv(tmp_path / "o.csv", rows)
    found = _init(str(tmp_path / "own"), *(str(file) if word == "FILE" else word for word in arguments))
    assert found.exit_code == code, found.output
    assert message in found.stderr
    assert not (tmp_path / "own").exists()
