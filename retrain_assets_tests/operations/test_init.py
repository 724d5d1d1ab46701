"""A project from somebody's log: written, loadable, and able to import that log and run a week without an edit."""

from __future__ import annotations

import csv
import gzip
import json
import random
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from retrain_assets.core.config_text import config_text
from retrain_assets.core.inference import Inference
from retrain_assets.defs.run import run_weeks
from retrain_assets.errors import RetrainError, UsageError
from retrain_assets.operations import sample
from retrain_assets.operations.imports import ImportOptions, import_source
from retrain_assets.operations.init import Project, problem_name, start_project
from retrain_assets.operations.platform import open_platform
from retrain_assets.operations.project_files import DAGSTER, WORKSPACE
from retrain_assets.settings import Config, load_settings
from retrain_assets.testing import START, FakeClock

ROOT = Path(__file__).parent.parent.parent
SEED = 20261123
ROWS = 600
BEGIN = START - timedelta(days=21)
NOW = START + timedelta(days=1)


def _truth(number: int) -> dict[str, Any]:
    """One task of an invented automation in which the kind of place and a score decide which action works."""
    chance = random.Random(f"{SEED}-{number}")
    kind = chance.choice(["blog", "forum", "shop"])
    action = chance.choice(["comment", "forum", "guest"])
    score = round(chance.uniform(0, 100), 1)
    fits = (kind, action) in {("blog", "comment"), ("forum", "forum"), ("shop", "guest")}
    good = chance.random() < (0.85 if fits else 0.25) + (0.1 if score > 50 else -0.1)
    crashed = not good and chance.random() < 0.1
    return {
        "id": f"t{number}", "at": BEGIN + timedelta(minutes=40 * number), "kind": kind, "action": action,
        "score": score,
        "depth": chance.randrange(8), "secure": chance.random() < 0.7, "seconds": round(chance.uniform(2, 60), 2),
        "result": "success" if good else "error" if crashed else "failed",
        "why": None if good else "page crashed" if crashed else "not published",
    }  # fmt: skip


def _rows() -> list[dict[str, Any]]:
    print(f"seed {SEED}")
    return [_truth(number) for number in range(ROWS)]


def _write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def backlinks(folder: Path) -> Path:
    """As the seed's worker writes it, with spellings and gaps of real life."""
    spellings = {"forum": ["forum", "FORUM", "Forum Post"], "guest": ["guest", "guestposting"], "comment": ["comment"]}
    rows = [
        {
            "task_id": row["id"], "domain": "unknown" if i % 50 == 0 else f"site{i % 90}.example",
            "action_attempted": spellings[row["action"]][i % len(spellings[row["action"]])],
            "result": row["result"], "failure_reason": row["why"] or "N/A",
            "execution_time": "" if i % 40 == 0 else row["seconds"], "timestamp": row["at"].isoformat(),
            "pa": "NULL" if i % 30 == 0 else row["score"], "da": row["score"] // 2, "site_type": row["kind"],
            "url_path_depth": row["depth"], "https_enabled": row["secure"],
        }
        for i, row in enumerate(_rows())
    ]  # fmt: skip
    return _write_csv(folder / "backlinks.csv", rows)


def german(folder: Path) -> Path:
    """A spreadsheet's export: semicolons, cp1252, decimal commas, day first, words of its own."""
    words = {"success": "erfolgreich", "failed": "fehlgeschlagen", "error": "Fehler"}
    names = {"comment": "Kommentar", "forum": "Forenbeitrag", "guest": "Gästebuch"}
    rows = [
        {
            "Vorgangs-Nr": f"V-{i:05d}", "Maßnahme": names[row["action"]], "Ergebnis": words[row["result"]],
            "Zeitpunkt": f"{row['at']:%d.%m.%Y %H:%M:%S}", "Größe der Seite": str(row["score"]).replace(".", ","),
            "Straße": ["Münchner Straße", "Kölner Ring", "Am Öl"][i % 3], "Seitenart": row["kind"],
            "Tiefe": row["depth"], "Fehlermeldung": row["why"] or "-", "Dauer_ms": str(int(row["seconds"] * 1000)),
        }
        for i, row in enumerate(_rows())
    ]  # fmt: skip
    return _write_csv(folder / "Vorgänge 2026.csv", rows, ";", "cp1252")


def nested(folder: Path) -> Path:
    """JSON Lines with objects inside objects, lists, and other names for everything."""
    rows = [
        {
            "job": {"id": i + 100_000, "channel": row["action"]},
            "outcome": {"status": row["result"], "detail": row["why"]},
            "finished": int(row["at"].timestamp() * 1000), "took_ms": row["seconds"] * 1000,
            "site": {"pageAuthority": row["score"], "kind": row["kind"], "https": row["secure"]},
            "tags": ["a", "b"], "engine": "v7",
        }
        for i, row in enumerate(_rows())
    ]  # fmt: skip
    path = folder / "jobs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(folder: Path) -> Path:
    """Typed columns, instants in a zone, a column of lists and one of days."""
    rows = [
        {
            "ticket_id": row["id"], "strategy": row["action"], "success": row["result"] == "success",
            "completed_at": row["at"], "created_on": row["at"].date(), "segment": row["kind"], "score": row["score"],
            "depth": row["depth"], "labels": [row["kind"]], "error_code": None if row["result"] == "success" else 17,
        }
        for row in _rows()
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "tickets.parquet")
    return folder / "tickets.parquet"


def no_domain(folder: Path) -> Path:
    """A packed tab-separated log in UTF-8 with a byte order mark, epoch seconds, and no domain."""
    header = ["Task ID", "Method", "Outcome", "ts", "size", "kind"]
    lines = ["\t".join(header)] + [
        "\t".join(
            map(str, (i, row["action"].upper(), row["result"], int(row["at"].timestamp()), row["score"], row["kind"]))
        )
        for i, row in enumerate(_rows(), start=500)
    ]
    path = folder / "mail.tsv.gz"
    path.write_bytes(gzip.compress(("\ufeff" + "\r\n".join(lines) + "\r\n").encode()))
    return path


def two_actions(folder: Path) -> Path:
    """Two actions, results 1 and 0, naive timestamps, a row number and a header in the middle."""
    header = ",id,variant,ok,created_at,score,kind\n"
    lines = [
        f"{i},{row['id']},{'A' if row['action'] == 'comment' else 'B'},{int(row['result'] == 'success')},"
        f"{row['at']:%Y-%m-%d %H:%M:%S},{row['score']},{row['kind']}\n"
        for i, row in enumerate(_rows())
    ]
    path = folder / "outcomes.csv"
    path.write_text(header + "".join(lines[:300]) + header + "".join(lines[300:]), encoding="utf-8")
    return path


def database(folder: Path) -> Path:
    """Somebody else's SQLite table."""
    with sqlite3.connect(folder / "old.db") as connection:
        connection.execute(
            "CREATE TABLE runs (id INTEGER PRIMARY KEY, action TEXT, outcome TEXT, at TEXT, score REAL, kind TEXT)"
        )
        connection.executemany(
            "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?)",
            [(i, r["action"], r["result"], r["at"].isoformat(), r["score"], r["kind"]) for i, r in enumerate(_rows())],
        )
    connection.close()
    return folder / "old.db"


LOGS: dict[str, Callable[[Path], Path]] = {
    log.__name__: log for log in (backlinks, german, nested, parquet, no_domain, two_actions, database)
}


RUN = frozenset({"backlinks", "nested", "two_actions"})


def _begin(folder: Path, log: Callable[[Path], Path], **options: Any) -> Project:  # noqa: ANN401
    return start_project(folder / "own", log(folder), ImportOptions(**options), clock=FakeClock(NOW))


@pytest.mark.parametrize("name", LOGS)
def test_the_written_project_imports_its_log_and_runs_a_week(name: str, tmp_path: Path) -> None:
    """From a log to a trained week with no edit: every row is an outcome, once, and the run does not fail.

    The week is run for those logs that differ in what is learnt; how the others are written ends with the import.
    """
    path = LOGS[name](tmp_path)
    origin, table = (f"sqlite:///{path}", "runs") if path.suffix == ".db" else (path, None)
    options, clock = ImportOptions(table=table), FakeClock(NOW)
    project = start_project(tmp_path / "own", origin, options, clock=clock)
    assert (project.check.accepted, project.check.reasons) == (ROWS, {})
    platform = open_platform(load_settings(tmp_path / "own" / "config" / "retrain.yaml"), clock)
    found = import_source(platform, origin, options)
    assert (found.accepted, found.quarantined, found.reasons) == (ROWS, 0, {})
    if name not in RUN:
        platform.database.close()
        return
    with dg.DagsterInstance.ephemeral() as instance:
        (result,) = run_weeks(platform, [platform.calendar.newest_closed(NOW)], instance, "anna")
    print(name, result)
    platform.database.close()
    # With two actions instead of three little is left to learn: the gates may say so, and nothing may break.
    assert result.outcome in ({"deployed", "rejected"} if name == "two_actions" else {"deployed"}), result


def test_what_is_inferred_from_a_spreadsheet_is_what_stands_in_it(tmp_path: Path) -> None:
    """Encoding, delimiter, decimals, zone, names, and the words for results and missing values."""
    project = _begin(tmp_path, german)
    config = project.settings.config
    assert (config.imports.encoding, config.imports.delimiter, config.imports.decimal) == ("cp1252", ";", ",")
    assert config.imports.timezone == "UTC"
    assert config.problem.name == "vorgaenge_2026"
    assert sorted(config.problem.actions) == ["Forenbeitrag", "Gästebuch", "Kommentar"]
    assert config.problem.features["groesse_der_seite"].type == "number"
    assert set(config.problem.features) == {"groesse_der_seite", "strasse", "Seitenart", "Tiefe"}
    assert config.imports.columns["Dauer_ms"] == "execution_time"


def test_what_is_known_only_afterwards_is_no_feature_of_a_nested_log(tmp_path: Path) -> None:
    """Nor are lists and constants; nested names become names that a feature may have."""
    project = _begin(tmp_path, nested)
    assert set(project.found.features) == {"site_page_authority", "site_kind", "site_https"}
    assert set(project.found.left_out) == {"outcome.detail", "tags", "engine"}
    assert project.settings.config.imports.columns["outcome.status"] == "result"
    assert "error_code" in _begin(tmp_path / "other", _in_folder(parquet)).found.left_out


def _in_folder(log: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        folder.mkdir()
        return log(folder)

    return write


def test_what_somebody_says_is_not_guessed_again(tmp_path: Path) -> None:
    """A column named, or left out, and the zone; the guesses say where the rest comes from."""
    project = _begin(tmp_path, two_actions, timezone="Europe/Berlin", renames={"kind": "-", "id": "task_id"})
    assert "kind" not in project.found.features
    assert project.settings.config.imports.columns["kind"] == "-"
    assert project.settings.config.imports.timezone == "Europe/Berlin"
    facts = project.to_dict()
    assert set(facts["features"]) == {"score"}
    assert all(set(guess) == {"what", "value", "evidence", "edit"} for guess in facts["guesses"])
    assert json.loads(json.dumps(facts, default=str))["check"]["accepted"] == ROWS


def test_a_configuration_that_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    """Nothing changes without `is_forced`; with it, files that people may have changed beside it stay."""
    path = backlinks(tmp_path)
    project = start_project(tmp_path, path, clock=FakeClock(NOW))
    (tmp_path / "dagster.yaml").write_text("mine", encoding="utf-8")
    (tmp_path / "config" / "retrain.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(RetrainError, match="is there already"):
        start_project(tmp_path, path, clock=FakeClock(NOW))
    assert (tmp_path / "config" / "retrain.yaml").read_text("utf-8") == "mine"
    again = start_project(tmp_path, path, clock=FakeClock(NOW), is_forced=True)
    assert again.settings == project.settings
    assert [kept.name for kept in again.kept] == ["workspace.yaml", "dagster.yaml"]
    assert (tmp_path / "dagster.yaml").read_text("utf-8") == "mine"


def test_the_written_configuration_has_every_key_with_its_default() -> None:
    """A key that was not inferred is what an empty file means, so that the file documents the program."""
    text = config_text(Inference(actions=["a", "b"]), name="p", source="s")
    defaults, written = msgspec.to_builtins(Config()), yaml.safe_load(text)
    inferred = {"problem", "retrain.min_new_samples", "retrain.validation_threshold"}
    inferred |= {f"{block}.thresholds" for block in ("canary", "rollback")}
    for block, keys in defaults.items():
        assert set(written[block]) == set(keys), block
        different = {f"{block}.{key}" for key in keys if written[block][key] != keys[key]}
        assert different - inferred == set() or block == "problem"


def test_values_of_every_kind_come_back_from_the_text(tmp_path: Path) -> None:
    """Words that YAML would read as something else, quotes, signs of comments, line ends."""
    nasty = ["yes", "null", "a: b", "x # y", 'said "no"', "tab\there", "ünï", "line\nend", "1.5", "-", " pad "]
    found = Inference(actions=nasty, action_aliases=dict(zip(nasty, reversed(nasty), strict=True)))
    found.left_out = {"a\nb": "is always x\n  name: z"}
    written = yaml.safe_load(config_text(found, name="p", source="file\nname: q", delimiter="\t"))
    assert written["problem"]["actions"] == nasty
    assert list(written["problem"]["action_aliases"]) == nasty
    assert (written["problem"]["name"], written["imports"]["delimiter"]) == ("p", "\t")
    assert tmp_path.exists()


@pytest.mark.parametrize(
    ("source", "folder", "name"),
    [
        ("Mail Log-2026.csv", "x", "mail_log_2026"), ("outcomes.csv.gz", "My Shop", "my_shop"),
        ("2026.csv", "x", "p_2026"),
        ("data.csv", "data", "problem"), ("sqlite:///old/runs.db", "x", "runs"), ("Ärger.jsonl", "x", "aerger"),
    ],
)  # fmt: skip
def test_a_problem_is_named_after_its_log_or_its_folder(source: str, folder: str, name: str) -> None:
    """Names that say nothing, such as data or outcomes, are passed over."""
    assert problem_name(source if "://" in source else Path(source), Path(folder)) == name


def test_dagster_files_are_those_of_this_repository() -> None:
    """The same instance settings, and a workspace that loads the same module."""
    assert yaml.safe_load(DAGSTER) == yaml.safe_load((ROOT / "dagster.yaml").read_text("utf-8"))
    ours = yaml.safe_load((ROOT / "workspace.yaml").read_text("utf-8"))["load_from"][0]["python_module"]
    theirs = yaml.safe_load(WORKSPACE.format(name="mine"))["load_from"][0]["python_module"]
    assert theirs == ours | {"location_name": "mine"}


def test_dagster_loads_the_written_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its definitions, from its folder, under its own configuration."""
    from retrain_assets.defs.build import build_defs

    _begin(tmp_path, backlinks)
    monkeypatch.chdir(tmp_path / "own")
    repository = build_defs(load_settings()).get_repository_def()
    assert {job.name for job in repository.get_all_jobs()} >= {"weekly_retrain"}


def test_an_empty_or_one_sided_log_is_refused(tmp_path: Path) -> None:
    """Nothing is written; the message says what is missing."""
    (tmp_path / "empty.csv").write_text("task_id,action,result,timestamp\n", encoding="utf-8")
    (tmp_path / "one.csv").write_text(
        "task_id,action,result,timestamp\nt,a,success,2026-01-01T00:00:00Z\n", encoding="utf-8"
    )
    for name, message in (("empty.csv", "no rows"), ("one.csv", "one action only")):
        with pytest.raises(RetrainError, match=message):
            start_project(tmp_path / "own", tmp_path / name)
    with pytest.raises(UsageError, match="no column 'x'"):
        start_project(tmp_path / "own", tmp_path / "one.csv", ImportOptions(renames={"x": "task_id"}))
    assert not (tmp_path / "own").exists()


def test_the_check_counts_what_a_fresh_database_would_hold(tmp_path: Path) -> None:
    """Rows of one task and day are one outcome when they say the same, and a conflict when they do not."""
    rows = [
        {"task_id": f"t{i}", "action": "ab"[i % 2], "result": ["success", "failed"][i // 2 % 2], "date": "2025-12-30"}
        for i in range(40)
    ]
    changed = [rows[0] | {"result": "failed"}, rows[1] | {"action": "a"}]
    path = _write_csv(tmp_path / "days.csv", [*rows, rows[0], *changed])
    project = start_project(tmp_path / "own", path, clock=FakeClock(NOW))
    check = project.to_dict()["check"]
    assert (check["accepted"], check["duplicate"], check["conflicting"], check["quarantined"]) == (40, 1, 2, 2)
    platform = open_platform(project.settings, FakeClock(NOW))
    found = import_source(platform, path)
    assert (found.accepted, found.duplicate, found.conflicting, found.quarantined) == (40, 1, 2, 2)
    platform.database.close()


def test_the_commands_work_from_the_new_folder_and_show_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative file is named by its whole path, and so is an SQLite file inside a URL."""
    database(tmp_path)
    monkeypatch.chdir(tmp_path)
    project = start_project(tmp_path / "own", "sqlite:///old.db", ImportOptions(table="runs"), clock=FakeClock(NOW))
    assert f"retrain import sqlite:///{tmp_path / 'old.db'} --table runs" in project.commands


def test_every_sampled_row_of_a_difficult_log_can_be_imported(tmp_path: Path) -> None:
    """Mixed types, numbers without end, whole numbers of any length: nothing that is no feature costs a row."""
    path = tmp_path / "odd.jsonl"
    rows = [
        {
            "task_id": row["id"], "action": row["action"], "result": row["result"], "timestamp": row["at"].isoformat(),
            "score": "N/A" if i % 9 == 0 else row["score"], "login": True if i % 3 else "unknown",
            "price": 3.5 if i % 3 else "free", "big": 2**70 + i % 5, "top": float("inf") if i % 50 == 0 else "x",
        }
        for i, row in enumerate(_rows())
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    project = start_project(tmp_path / "own", path, clock=FakeClock(NOW))
    assert (project.check.accepted, project.check.reasons) == (ROWS, {})
    assert project.found.features["score"].type == "number"


def test_a_log_of_any_length_is_sampled_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rows and a share of all the rest: an action that comes late is found, and the total is the log's."""
    monkeypatch.setattr(sample, "FIRST_ROWS", 50)
    monkeypatch.setattr(sample, "SPREAD_ROWS", 100)
    path = backlinks(tmp_path)
    drawn = sample.draw(path, ImportOptions())
    numbers = [row.number for row in drawn.rows]
    assert (len(numbers), drawn.sample.total, numbers[:50]) == (150, ROWS, list(range(2, 52)))
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > 0.9 * ROWS
    assert [row.number for row in sample.draw(path, ImportOptions()).rows] == numbers
