"""run, backfill and demo: what they say before, while and after they work."""

from __future__ import annotations

import csv
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
def test_a_week_that_has_not_closed_is_bad_usage(
    made: Platform, arguments: list[str], retrain: Any  # noqa: ANN401
) -> None:  # fmt: skip
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
