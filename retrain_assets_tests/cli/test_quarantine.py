"""retrain quarantine: what it prints, its JSON and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retrain_assets.store.collector import FeedbackCollector

GOOD: dict[str, Any] = {"task_id": "t", "domain": "a.org", "action_attempted": "comment", "result": True, "pa": 40}


@pytest.fixture
def refused(config: Path) -> None:
    """Three rows in quarantine: two with an unknown action, one with a value out of range."""
    with FeedbackCollector.from_config(config) as collector:
        rows = [GOOD | {"action_attempted": "Forum Post"}, GOOD | {"task_id": "u", "action_attempted": "Forum Post"}]
        receipts = collector.append_outcomes([*rows, GOOD | {"pa": 101}])
        assert {receipt.status for receipt in receipts} == {"quarantined"}


@pytest.mark.usefixtures("refused")
def test_reasons_are_listed_with_an_example(retrain: Any) -> None:  # noqa: ANN401
    """For people a table and the next commands; for programs counts, reasons and the example's payload."""
    answer = retrain("quarantine", "list")
    assert answer.code == 0, answer.err
    assert "3 rows wait; 0 were mended, 0 dismissed." in answer.out
    assert "id 3: 101 is outside 0 to 100" in answer.out
    facts = retrain("quarantine", "list", "--json", "--limit", "1").json
    assert {name: facts[name] for name in ("unresolved", "resolved", "dismissed", "more")} == {
        "unresolved": 3, "resolved": 0, "dismissed": 0, "more": 1
    }  # fmt: skip
    (reason,) = facts["reasons"]
    assert (reason["field"], reason["rows"]) == ("action_attempted", 2)
    assert reason["reason"].startswith("is not one of comment, profile, forum, guest")
    assert reason["example"]["payload"]["task_id"] == "t"
    assert "... and 1 more reasons" in retrain("quarantine", "list", "--limit", "1").out


@pytest.mark.usefixtures("refused")
def test_single_rows_are_listed_newest_first(retrain: Any) -> None:  # noqa: ANN401
    """Narrowed by field, source and day."""
    facts = retrain("quarantine", "list", "--rows", "--json").json
    assert [row["id"] for row in facts["rows"]] == [3, 2, 1]
    assert {"received_at", "source", "field", "reason", "payload", "is_retryable", "resolved_as"} <= set(
        facts["rows"][0]
    )
    assert "101 is outside 0 to 100" in retrain("quarantine", "list", "--rows", "--field", "pa").out
    assert retrain("quarantine", "list", "--rows", "--source", "o.csv", "--json").json["rows"] == []
    assert retrain("quarantine", "list", "--rows", "--since", "2999-01-01", "--json").json["rows"] == []
    assert retrain("quarantine", "list", "--since", "yesterday").code == 2


def test_an_empty_quarantine_is_no_fault(retrain: Any) -> None:  # noqa: ANN401
    """Neither to look at nor to try, once there is a database."""
    assert retrain("quarantine", "list").code == 3
    assert retrain("quarantine", "retry").code == 0
    assert retrain("quarantine", "retry", "--field", "pa").code == 1
    answer = retrain("quarantine", "list")
    assert (answer.code, answer.out) == (0, "Nothing waits in quarantine; 0 were mended, 0 dismissed.\n")
    assert retrain("quarantine", "retry", "--field", "pa").code == 1


@pytest.mark.usefixtures("refused")
def test_a_second_try_tells_what_became_of_the_rows(retrain: Any) -> None:  # noqa: ANN401
    """0 also when some stay, 1 when none could be mended; the list counts them as mended afterwards."""
    stuck = retrain("quarantine", "retry", "--json")
    assert (stuck.code, stuck.json["refused"]) == (1, 3)
    assert "no row could be mended" in stuck.err
    answer = retrain("quarantine", "retry", "--action", "forum post=forum", "--map", "shoe=pa", "--json")
    assert answer.code == 0, answer.err
    facts = answer.json
    assert (facts["rows"], facts["accepted"], facts["duplicate"], facts["refused"]) == (3, 2, 0, 1)
    assert facts["reasons"] == {"pa: is outside 0 to 100": 1}
    assert facts["unused"] == ["shoe"]
    assert "Trying refused rows again ..." in answer.err
    assert retrain("quarantine", "list", "--json").json["resolved"] == 2
    assert "1 rows wait" in retrain("quarantine", "list").out
    told = retrain("quarantine", "retry", "--id", "3").out
    assert "1 rows: 0 became outcomes, 0 were known already, 1 stay, 0 can never be tried again." in told
    rows = retrain("quarantine", "list", "--rows", "--all", "--json").json["rows"]
    assert [row["resolved_as"] is None for row in rows] == [True, False, False]


@pytest.mark.usefixtures("refused")
@pytest.mark.parametrize(
    "options",
    [["--map", "x"], ["--action", "=forum"], ["--action", "x=telegram"], ["--timezone", "Berlin"], ["--id", "x"],
     ["--map", "a=b", "--map", "a=c"]],
    ids=" ".join,
)  # fmt: skip
def test_options_that_cannot_be_meant_are_bad_usage(retrain: Any, options: list[str]) -> None:  # noqa: ANN401
    """Nothing is tried."""
    assert retrain("quarantine", "retry", *options).code == 2
    assert retrain("quarantine", "list", "--json").json["unresolved"] == 3


@pytest.mark.usefixtures("refused")
def test_rows_go_to_a_file_and_are_dismissed_by_it(tmp_path: Path, retrain: Any) -> None:  # noqa: ANN401
    """The export says what it wrote; a second one overwrites nothing; the file's rows are put aside with a reason."""
    file = tmp_path / "refused.jsonl"
    answer = retrain("quarantine", "export", str(file), "--field", "pa", "--json")
    assert answer.json == {"path": str(file), "rows": 1, "cut": 0}
    assert json.loads(file.read_text(encoding="utf-8"))["quarantine_id"] == 3
    assert retrain("quarantine", "export", str(file)).code == 2
    done = retrain("quarantine", "dismiss", "--file", str(file), "--reason", "mended", "--json")
    assert (done.code, done.json) == (0, {"dismissed": 1})
    again = retrain("quarantine", "dismiss", "--file", str(file), "--reason", "mended")
    assert (again.code, again.out) == (1, "0 rows dismissed.\n")
    assert "3 rows written" in retrain("quarantine", "export", str(tmp_path / "all.csv"), "--all").out


@pytest.mark.usefixtures("refused")
@pytest.mark.parametrize(
    "options", [[], ["--all", "--id", "1"], ["--id", "1", "--file", "x.csv"], ["--file", "none.csv"]], ids=" ".join
)
def test_a_dismissal_must_name_its_rows(retrain: Any, options: list[str]) -> None:  # noqa: ANN401
    """All of them only when somebody says so, and never without a reason."""
    assert retrain("quarantine", "dismiss", "--reason", "r", *options).code == 2
    assert retrain("quarantine", "dismiss", "--all").code == 2
    assert retrain("quarantine", "list", "--json").json["unresolved"] == 3
    assert retrain("quarantine", "dismiss", "--all", "--reason", "r", "--json").json == {"dismissed": 3}


@pytest.mark.usefixtures("refused")
def test_status_says_that_outcomes_are_refused(retrain: Any) -> None:  # noqa: ANN401
    """Who looks whether all is well learns of it without asking."""
    assert "3 outcomes of the last 7 days were refused, most: action_attempted: is not" in retrain("status").out
    assert retrain("status", "--json").json["refused"]["rows"] == 3
