"""import, run, backfill and demo: what they say before, while and after they work."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retrain_assets.core.dataset import WeekCalendar
from retrain_assets.demo.automation import SimulatedAutomation
from retrain_assets.operations.platform import Platform
from retrain_assets.store import datasets, registry

RESULT_KEYS = {"week", "outcome", "version", "reason", "run_id"}


def _newest() -> str:
    return WeekCalendar().newest_closed(datetime.now(tz=UTC)).key


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


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    tmp_path: Path, rows: list[dict[str, Any]], retrain: Any, home: Path  # noqa: ANN401
) -> None:  # fmt: skip
    """New tasks are counted against what a training needs; no snapshot, no event, no Dagster history comes of it."""
    retrain("import", str(_write_csv(tmp_path / "o.csv", rows)))
    skip = retrain("run", "--dry-run", "--json").json
    assert set(skip) >= RESULT_KEYS
    assert (skip["week"], skip["outcome"], skip["new_tasks"]) == (_newest(), "would_skip", 60)
    more = [row | {"task_id": f"more-{i}"} for i, row in enumerate(rows)]
    retrain("import", str(_write_csv(tmp_path / "more.csv", more)))
    train = retrain("run", "--dry-run", "--json").json
    assert (train["outcome"], train["new_tasks"], train["run_id"]) == ("would_train", 120, None)
    assert retrain("history", "--json").json == []
    assert not (home / "backlinks" / "snapshots").exists()
    assert not (home / "dagster").exists()


def test_a_dry_run_counts_only_what_was_not_trained_on(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """The week that was trained has nothing new, and would be skipped; so the run says, too."""
    outlook = retrain("run", "--dry-run", "--json").json
    assert (outlook["outcome"], outlook["new_tasks"], outlook["rows"]) == ("would_skip", 0, 1800)
    answer = retrain("run", "--json")
    assert (answer.code, answer.json["outcome"]) == (0, "skipped")
    assert "0 new tasks" in answer.json["reason"]


@pytest.mark.parametrize(
    "arguments",
    [["run", "--week", "soon"], ["run", "--week", "2999-01-01"], ["run", "--dry-run", "--week", "2999-01-01"]],
)
def test_a_week_that_has_not_closed_is_bad_usage(arguments: list[str], retrain: Any) -> None:  # noqa: ANN401
    """So is text that is no date."""
    assert retrain(*arguments).code == 2


def test_a_backfill_lists_its_weeks_in_order(
    tmp_path: Path, rows: list[dict[str, Any]], retrain: Any  # noqa: ANN401
) -> None:  # fmt: skip
    """Any days name the range, both ends included; each week is told on standard error as it is done."""
    retrain("import", str(_write_csv(tmp_path / "o.csv", rows)))
    newest = datetime.fromisoformat(_newest()).date()
    first, last = newest - timedelta(days=7), newest + timedelta(days=3)
    answer = retrain("backfill", "--from", str(first), "--to", str(last), "--json")
    assert answer.code == 0, answer.err
    assert [result["week"] for result in answer.json] == [str(first), str(newest)]
    assert all(set(result) >= RESULT_KEYS for result in answer.json)
    assert {result["outcome"] for result in answer.json} == {"skipped"}
    assert all(result["run_id"] for result in answer.json)
    assert f"Week {first}: skipped" in answer.err
    assert retrain("backfill", "--from", str(last), "--to", str(first - timedelta(days=9))).code == 2
    assert retrain("backfill", "--from", "2026-01-01").code == 2


def test_a_run_records_the_data_that_taught_the_version(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """The dataset named by the registry is in the store, and the run by its id in Dagster."""
    from retrain_assets.defs.instance import open_instance

    model = retrain("show", "v1.0.1", "--json").json
    with trained.database.read() as connection:
        assert datasets.get_dataset(connection, model["dataset_hash"]) is not None
        assert registry.get_version(connection, "v1.0.1") is not None
    with open_instance(trained.settings) as instance:
        assert instance.get_run_by_id(model["run_id"]) is not None


def test_a_run_that_fails_ends_with_1(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """The JSON says `failed` and why, in one line."""
    for snapshot in (trained.problem_home / "snapshots").rglob("*.parquet"):
        snapshot.write_bytes(b"damaged")
    week = WeekCalendar().newest_closed(datetime.now(tz=UTC))
    more = SimulatedAutomation(3).history(200, week.start_at, week.end_at, first=100_000)
    from retrain_assets.store.collector import FeedbackCollector

    with FeedbackCollector(trained.settings.database_url) as collector:
        collector.append_outcomes(more)
    answer = retrain("run", "--json")
    assert answer.code == 1
    assert (answer.json["outcome"], answer.json["version"]) == ("failed", None)
    assert "\n" not in answer.json["reason"]
    assert "Traceback" not in answer.err


def test_the_demonstration_gets_its_options_and_gives_its_code(
    retrain: Any, config: Path, monkeypatch: pytest.MonkeyPatch  # noqa: ANN401
) -> None:  # fmt: skip
    """`--weeks`, `--config` and `--json` reach the demonstration; its exit code is the command's."""
    from retrain_assets.demo import run as demonstration

    given: dict[str, Any] = {}

    def record(**options: Any) -> int:  # noqa: ANN401
        given.update(options)
        return 1

    monkeypatch.setattr(demonstration, "main", record)
    assert retrain("demo", "--weeks", "12", "--json").code == 1
    assert given == {"weeks": 12, "config": config, "as_json": True}
