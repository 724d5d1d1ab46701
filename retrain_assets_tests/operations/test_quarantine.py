"""Refused rows put to use: told by reason, tried again exactly once, exported, dismissed, mentioned by status."""

from __future__ import annotations

import csv
import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from retrain_assets.core.outcomes import OutcomeRules
from retrain_assets.errors import RetrainError, SchemaError, UsageError
from retrain_assets.operations import doctor, quarantine_retry, status
from retrain_assets.operations import quarantine as refused
from retrain_assets.operations.imports import import_file
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.quarantine_files import export, exported_ids
from retrain_assets.operations.quarantine_retry import Mending, retry
from retrain_assets.settings import Config, FeatureSettings, ImportSettings, ProblemSettings
from retrain_assets.store import outcomes, payloads, published, tables
from retrain_assets.store import quarantine as store
from retrain_assets.store.quarantine import Selection, Totals
from retrain_assets.testing import FakeClock

PlatformMaker = Any
GOOD: dict[str, Any] = {"task_id": "good", "domain": "a.org", "action_attempted": "comment", "result": True, "pa": 40}
WIDER = Config(
    problem=ProblemSettings(features={"pa": FeatureSettings(type="number", min=0.0, max=1000.0)}, strata=[])
)  # fmt: skip


@pytest.fixture
def local(new_platform: PlatformMaker, sqlite_url: str) -> Platform:
    """A platform on SQLite alone, for what does not depend on the kind of database."""
    platform: Platform = new_platform(sqlite_url)
    return platform


def _send(platform: Platform, *rows: dict[str, Any], source: str = "collector") -> None:
    """Hand rows in as a worker, or an import, does."""
    rules = published.outcome_rules(platform.config)
    with platform.database.write() as connection:
        outcomes.append(connection, rows, rules, platform.now(), source)


def _outcomes(platform: Platform) -> list[Any]:
    with platform.database.read() as connection:
        return list(connection.execute(select(tables.outcomes).order_by("seq")))


def _rows(platform: Platform) -> list[store.Refused]:
    with platform.database.read() as connection:
        return store.rows(connection, Selection(is_all=True))


def _totals(platform: Platform) -> tuple[int, int, int]:
    with platform.database.read() as connection:
        found = store.totals(connection)
    return found.unresolved, found.resolved, found.dismissed


def _bad(count: int, **change: Any) -> list[dict[str, Any]]:  # noqa: ANN401  (any value)
    return [GOOD | {"task_id": f"t{number}", "pa": 101 + number} | change for number in range(count)]


# ------------------------------------------------------------------------------------------------------ what is told


def test_rows_are_told_by_reason_whatever_their_values(platform: Platform, clock: FakeClock) -> None:
    """The commonest first, with the oldest row as an example; the counts are those of everything."""
    _send(platform, *_bad(3))
    clock.advance(hours=1)
    _send(platform, GOOD | {"result": "perhaps"}, GOOD | {"result": "it is what it is"}, *_bad(2, pa=[1, 2]))
    found = refused.overview(platform, Selection(), 2)
    assert [(kind.field, kind.reason, kind.rows) for kind in found.kinds] == [
        ("pa", "is outside 0 to 100", 3),
        ("result", found.kinds[1].reason, 2),
    ]
    assert found.kinds[1].reason.startswith("is not one of true, false")
    assert found.more == 1
    assert found.totals == Totals(7, 0, 0)
    example = found.kinds[0].example
    assert example is not None
    assert example.reason in {f"{101 + number} is outside 0 to 100" for number in range(3)}
    assert (found.kinds[0].first_at, found.kinds[1].first_at) == (clock() - timedelta(hours=1), clock())
    assert sorted(row.field for row in refused.newest(platform, Selection(), 4).rows) == [
        "pa",
        "pa",
        "result",
        "result",
    ]
    facts = refused.overview(platform, Selection(field="pa"), 9).to_dict()
    assert [kind["rows"] for kind in facts["reasons"]] == [3, 2]
    assert facts["reasons"][0]["example"]["payload"]["task_id"] in {"t0", "t1", "t2"}


def test_status_and_doctor_mention_what_was_refused_lately(
    new_platform: PlatformMaker, sqlite_url: str, clock: FakeClock
) -> None:
    """One line, as long as rows of the last seven days wait; silence when they are mended, dismissed or older."""
    platform = new_platform(sqlite_url)

    def lines() -> tuple[str, str]:
        told = [line for line in status.gather(platform).in_words() if "refused" in line]
        check = doctor._quarantine(platform)
        assert check.ok
        return " ".join(told), check.detail

    assert lines() == ("", "no outcome of the last days waits refused")
    assert status.gather(platform).to_dict()["refused"] is None
    _send(platform, *_bad(3), GOOD | {"result": None})
    words = "4 outcomes of the last 7 days were refused, most: pa: is outside 0 to 100; see `retrain quarantine list`"
    assert lines() == (f"{words}.", f"warning: {words}")
    assert status.gather(platform).to_dict()["refused"]["rows"] == 4
    refused.dismiss(platform, Selection(field="pa"), "known")
    assert lines()[0].startswith("1 outcome of the last 7 days was refused, most: result: is ")
    clock.advance(days=8)
    assert lines()[0] == ""


def test_the_doctor_looks_into_the_quarantine(local: Platform) -> None:
    """The check stands among the others."""
    assert "quarantine" in {check.name for check in doctor.examine(local.settings)}


# ------------------------------------------------------------------------------------------------------ a second try


def test_rows_that_fit_now_become_outcomes_once(
    new_platform: PlatformMaker, database_url: str, clock: FakeClock
) -> None:
    """Wider limits: what fits is an outcome of when it happened, and says so; the rest stays with its new reason."""
    narrow = new_platform(database_url)
    _send(narrow, *_bad(3), GOOD | {"task_id": "high", "pa": 5000})
    sent_at = clock()
    clock.advance(days=2)
    platform = new_platform(database_url, WIDER)
    told: list[tuple[int, int]] = []
    found = retry(platform, Selection(), progress=lambda done, total: told.append((done, total)))
    assert (found.rows, found.accepted, found.duplicate, found.refused) == (4, 3, 0, 1)
    assert found.reasons == {"pa: is outside 0 to 1000": 1}
    assert told[-1] == (4, 4)
    stored = _outcomes(platform)
    assert sorted((row.task_id, row.features["pa"], row.occurred_at, row.received_at) for row in stored) == [
        (f"t{number}", 101.0 + number, sent_at, clock()) for number in range(3)
    ]
    *rows, high = sorted(_rows(platform), key=lambda row: row.resolved_at is None)
    assert [row.resolved_as for row in rows] == [row.outcome_id for row in stored]
    assert [row.resolved_at for row in rows] == [clock()] * 3
    assert (high.resolved_as, high.reason) == (None, "5000 is outside 0 to 1000")
    again = retry(platform, Selection(is_all=True))
    assert (again.rows, again.resolved, len(_outcomes(platform))) == (1, 0, 3)


def test_a_row_that_arrived_by_itself_meanwhile_is_resolved_as_that(
    new_platform: PlatformMaker, database_url: str
) -> None:
    """Exactly one outcome: the second try finds it and marks the row with it."""
    narrow = new_platform(database_url)
    row = GOOD | {"pa": 500, "decision_id": None, "timestamp": narrow.now()}
    _send(narrow, row)
    platform = new_platform(database_url, WIDER)
    _send(platform, row)
    found = retry(platform, Selection())
    assert (found.accepted, found.duplicate, found.refused) == (0, 1, 0)
    (stored,) = _outcomes(platform)
    assert [row.resolved_as for row in _rows(platform)] == [stored.outcome_id]


def test_mending_names_columns_actions_and_the_time_zone(platform: Platform) -> None:
    """Each option mends what it is for; a column that no row has is told."""
    _send(
        platform,
        GOOD | {"task_id": "a", "action_attempted": "Forum Post", "authority": 7},
        GOOD | {"task_id": "b", "timestamp": "2026-01-05T12:00:00"},
        {"job": "c"} | {name: value for name, value in GOOD.items() if name != "task_id"},
        GOOD | {"task_id": "d", "html": "x" * 5000},
    )
    mending = Mending(
        renames={"job": "task_id", "html": "-", "shoe": "pa"},
        actions={"forum post": "FORUM"},
        timezone="Europe/Berlin",
    )
    found = retry(platform, Selection(), mending)
    assert (found.accepted, found.refused, found.unused) == (4, 0, ["shoe"])
    stored = {row.task_id: row for row in _outcomes(platform)}
    assert stored["a"].action_attempted == "forum"
    assert stored["a"].features == {"pa": 40.0, "authority": 7}
    assert stored["b"].occurred_at == datetime(2026, 1, 5, 11, tzinfo=UTC)
    assert stored["c"].occurred_at == platform.now()
    assert "html" not in stored["d"].features


def test_a_column_is_not_read_over_a_value_that_is_there(local: Platform) -> None:
    """The row stays, and the reason names both columns."""
    _send(local, GOOD | {"job": "j", "result": "perhaps"})
    found = retry(local, Selection(), Mending(renames={"job": "task_id"}))
    assert found.reasons == {"task_id: is given twice, by 'task_id' and 'job'": 1}
    assert _rows(local)[0].field == "task_id"


@pytest.mark.parametrize(
    ("mending", "message"),
    [
        (Mending(actions={"x": "telegram"}), "--action x=telegram: 'telegram' is not one of comment"),
        (Mending(actions={"Forum": "comment"}), "'Forum' is an action itself"),
        (Mending(timezone="Berlin"), "'Berlin' is not a time zone"),
    ],
)
def test_mending_that_cannot_be_meant_is_bad_usage(local: Platform, mending: Mending, message: str) -> None:
    """Before anything is tried."""
    with pytest.raises(UsageError, match=message):
        retry(local, Selection(), mending)


def test_rows_of_a_file_need_an_instant_also_at_a_second_try(local: Platform, tmp_path: Path) -> None:
    """A file's rows are history: they did not happen when they were imported. A mapping gives them their instant."""
    file = tmp_path / "o.csv"
    text = "task_id,action,success,when,timestamp\nt1,comment,1,2026-01-02 10:00:00,\nt2,forum,0,,\n"
    file.write_text(text, encoding="utf-8")
    import_file(local, file)
    assert retry(local, Selection()).reasons == {"timestamp: is missing; a file's rows are history and need one": 2}
    mending = Mending(renames={"when": "timestamp", "timestamp": "-"}, timezone="UTC")
    found = retry(local, Selection(source="o.csv"), mending)
    assert (found.accepted, found.refused) == (1, 1)
    (stored,) = _outcomes(local)
    assert (stored.task_id, stored.result, stored.action_attempted) == ("t1", "success", "comment")
    assert stored.occurred_at == datetime(2026, 1, 2, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "columns", [{"pa": "da", "da": "pa"}, {"success": "result", "result": "-", "page_authority": "pa"}]
)
def test_a_row_of_a_file_is_tried_under_the_names_it_came_with(
    new_platform: PlatformMaker, sqlite_url: str, tmp_path: Path, columns: dict[str, str]
) -> None:
    """A mapping is applied once, not once more at each try; numbers are read with the file's decimal sign."""
    config = Config(imports=ImportSettings(columns=columns, decimal=",", timezone="UTC"))
    platform = new_platform(sqlite_url, config)
    names = {ours: theirs for theirs, ours in columns.items()}
    header = [
        "task_id",
        "action",
        names.get("result", "success"),
        names.get("pa", "pa"),
        names.get("da", "da"),
        "timestamp",
    ]
    extra, cell = (["result"], ["perhaps"]) if "result" in columns else ([], [])
    row = ["t", "dance", "1", "3,5", "0.125", "2026-01-02 10:00:00", *cell]
    file = tmp_path / "o.csv"
    file.write_text(";".join([*header, *extra]) + "\n" + ";".join(row) + "\n", encoding="utf-8")
    assert import_file(platform, file).quarantined == 1
    assert retry(platform, Selection()).reasons == {"action_attempted: is not one of comment, profile, forum, guest": 1}
    found = retry(platform, Selection(), Mending(actions={"dance": "forum", "waltz": "guest"}))
    assert (found.accepted, found.unused_actions) == (1, ["waltz"])
    (stored,) = _outcomes(platform)
    assert (stored.result, stored.features) == ("success", {"pa": 3.5, "da": 0.125})


def test_a_mapping_goes_before_the_configuration_also_at_a_second_try(
    new_platform: PlatformMaker, sqlite_url: str, tmp_path: Path
) -> None:
    """As in an import: another column for the same field takes the configured one's place."""
    platform = new_platform(sqlite_url, Config(imports=ImportSettings(columns={"old": "result"})))
    file = tmp_path / "o.csv"
    file.write_text("task_id,action,old,new,timestamp\nt,forum,?,1,2026-01-02T10:00:00Z\n", encoding="utf-8")
    assert import_file(platform, file).quarantined == 1
    assert retry(platform, Selection(), Mending(renames={"new": "result"})).accepted == 1


def test_two_columns_of_a_worker_can_be_swapped(local: Platform) -> None:
    """All names change at once."""
    _send(local, GOOD | {"pa": 101, "da": 7})
    assert retry(local, Selection(), Mending(renames={"pa": "authority", "da": "pa"})).accepted == 1
    assert _outcomes(local)[0].features == {"pa": 7.0, "authority": 101}


def test_a_row_that_may_have_been_sent_again_is_left_to_people(
    new_platform: PlatformMaker, database_url: str, clock: FakeClock
) -> None:
    """Without ids and instants nothing tells a second report from the next try; other rows are tried."""
    narrow = new_platform(database_url)
    _send(narrow, GOOD | {"task_id": "a", "pa": 500}, GOOD | {"task_id": "b", "pa": 500, "timestamp": clock()})
    _send(narrow, GOOD | {"task_id": "c", "pa": 500}, GOOD | {"task_id": "d", "pa": 500, "attempt": 2})
    clock.advance(minutes=5)
    _send(narrow, *(GOOD | {"task_id": task} for task in "abd"))
    platform = new_platform(database_url, WIDER)
    found = retry(platform, Selection())
    assert (found.accepted, found.refused) == (3, 1)
    assert next(iter(found.reasons)).startswith("task_id: has a later outcome of the same attempt")
    assert [row.payload.readable()["task_id"] for row in _rows(platform) if row.resolved_as is None] == ["a"]
    assert retry(platform, Selection()).refused == 1


def test_two_refused_reports_of_an_attempt_both_become_outcomes(
    new_platform: PlatformMaker, sqlite_url: str, clock: FakeClock
) -> None:
    """What another refused row became is no sign that this one was sent again."""
    narrow = new_platform(sqlite_url)
    for result in (True, False):
        _send(narrow, GOOD | {"pa": 500, "result": result})
        clock.advance(minutes=5)
    platform = new_platform(sqlite_url, WIDER)
    assert retry(platform, Selection(ids=(2,))).accepted == 1
    assert retry(platform, Selection()).accepted == 1


def test_another_report_of_a_stored_outcome_stays(new_platform: PlatformMaker, sqlite_url: str) -> None:
    """It would otherwise be resolved as an outcome that says something else."""
    _send(new_platform(sqlite_url), GOOD | {"pa": 500, "decision_id": "d", "result": False, "action_attempted": "x"})
    platform = new_platform(sqlite_url, WIDER)
    _send(platform, GOOD | {"decision_id": "d"})
    found = retry(platform, Selection(), Mending(actions={"x": "comment"}))
    assert (found.duplicate, found.refused) == (0, 1)
    assert "same decision_id as a stored outcome, with another result" in next(iter(found.reasons))


def test_a_file_in_single_quotes_is_no_row_of_the_first_schema(local: Platform, tmp_path: Path) -> None:
    """Its cells come back as they were, with their quotes."""
    file = tmp_path / "o.csv"
    file.write_text("task_id,action,result,timestamp\n't1','comment','1','soon'\n", encoding="utf-8")
    assert import_file(local, file).quarantined == 1
    assert _rows(local)[0].payload.values == {
        "task_id": "'t1'", "action": "'comment'", "result": "'1'", "timestamp": "'soon'"
    }  # fmt: skip


def test_rows_that_were_cut_or_never_readable_say_so_and_stay(local: Platform, tmp_path: Path) -> None:
    """They are counted apart; the rows beside them are tried."""
    _send(local, GOOD | {"html": "x" * payloads.MAX_PAYLOAD}, GOOD | {"result": None})
    file = tmp_path / "o.csv"
    file.write_text("task_id,action,result,timestamp\nt1,comment\n", encoding="utf-8")
    import_file(local, file)
    found = retry(local, Selection())
    assert (found.rows, found.refused, found.not_retryable, found.resolved) == (3, 1, 2, 0)
    assert sum(rows for reason, rows in found.reasons.items() if reason.endswith("cannot be tried again")) == 2
    assert [refused.row_dict(row)["is_retryable"] for row in _rows(local)] == [False, True, False]
    assert str(refused.row_dict(_rows(local)[0])["payload"]).startswith('{"task_id":"good"')


def test_only_what_is_meant_is_tried(new_platform: PlatformMaker, sqlite_url: str) -> None:
    """By field, source, id and time."""
    _send(new_platform(sqlite_url), *_bad(4))
    platform = new_platform(sqlite_url, WIDER)
    assert retry(platform, Selection(field="da")).rows == 0
    assert retry(platform, Selection(source="o.csv")).rows == 0
    assert retry(platform, Selection(since=platform.now() + timedelta(hours=1))).rows == 0
    assert retry(platform, Selection(ids=(2, 4, 9))).accepted == 2
    assert [row.resolved_as is None for row in _rows(platform)] == [True, False, True, False]


def test_many_rows_are_tried_in_batches(
    new_platform: PlatformMaker, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a transaction of its own; the ones that stay are not tried over and over."""
    monkeypatch.setattr(quarantine_retry, "BATCH_ROWS", 3)
    _send(new_platform(sqlite_url), *_bad(4), *_bad(3, pa=5000), *_bad(3, pa=400))
    told: list[int] = []
    found = retry(new_platform(sqlite_url, WIDER), Selection(), progress=lambda done, _: told.append(done))
    assert (found.rows, found.refused) == (10, 3)
    assert found.resolved == 7
    assert told[:4] == [3, 6, 9, 10]


def test_a_batch_that_fails_leaves_neither_outcome_nor_mark(
    new_platform: PlatformMaker, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies between the two has done nothing; the next try does it."""
    _send(new_platform(database_url), *_bad(2))
    platform = new_platform(database_url, WIDER)
    with monkeypatch.context() as patch:
        patch.setattr(store, "resolve", _fail)
        with pytest.raises(RuntimeError, match="the power"):
            retry(platform, Selection())
    assert (_outcomes(platform), _totals(platform)) == ([], (2, 0, 0))
    assert retry(platform, Selection()).accepted == 2


def _fail(*_: object) -> None:
    raise RuntimeError("the power")


def test_two_tries_at_once_and_a_worker_beside_them_give_each_outcome_once(
    new_platform: PlatformMaker, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three at work on the same rows: every row resolved, every outcome there once, nobody fails."""
    monkeypatch.setattr(quarantine_retry, "BATCH_ROWS", 7)
    rows = [row | {"outcome_id": f"o{number}"} for number, row in enumerate(_bad(60))]
    _send(new_platform(database_url), *rows)
    platforms = [new_platform(database_url, WIDER) for _ in range(3)]
    begin, found, faults = threading.Barrier(3), [], []

    def work(number: int) -> None:
        try:
            begin.wait()
            if number < 2:
                found.append(retry(platforms[number], Selection()))
                return
            for start in range(0, 60, 5):
                _send(platforms[number], *rows[start : start + 5])
        except Exception as error:  # noqa: BLE001  (told by the assertion below)
            faults.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert sorted(row.outcome_id for row in _outcomes(platforms[0])) == sorted(row["outcome_id"] for row in rows)
    assert _totals(platforms[0]) == (0, 60, 0)
    assert sum(result.resolved for result in found) == 60


# ------------------------------------------------------------------------------------------------ files and dismissal


def test_an_exported_file_can_be_mended_imported_and_its_rows_dismissed(local: Platform, tmp_path: Path) -> None:
    """The way of a spreadsheet: the three added columns are no part of the outcome, and name the rows afterwards."""
    _send(local, *_bad(2, timestamp=local.now()), GOOD | {"result": "perhaps"})
    file = tmp_path / "refused.csv"
    assert export(local, Selection(field="pa"), file).rows == 2
    with file.open(encoding="utf-8-sig", newline="") as lines:
        mended = [row | {"pa": "99"} for row in csv.DictReader(lines)]
    assert mended[0]["quarantine_reason"] == "101 is outside 0 to 100"
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, list(mended[0]))
        writer.writeheader()
        writer.writerows(mended)
    assert import_file(local, file).accepted == 2
    assert [row.features for row in _outcomes(local)] == [{"pa": 99.0}] * 2
    assert _totals(local) == (3, 0, 0)
    assert refused.dismiss(local, Selection(ids=exported_ids(file)), "mended in refused.csv") == 2
    assert _totals(local) == (1, 0, 2)


def test_both_kinds_of_file_hold_every_row_and_every_column(local: Platform, tmp_path: Path) -> None:
    """Rows with different columns; what has no plain form is readable text; a cut row is counted, not written."""
    _send(
        local,
        GOOD | {"result": None, "pa": float("nan"), "note": 'a;"b"\nü\ud800', "list": [1, b"x"], "flag": False},
        GOOD | {"result": None, "other": local.now()},
        GOOD | {"html": "x" * payloads.MAX_PAYLOAD},
    )
    for name in ("r.csv", "r.tsv", "r.jsonl"):
        found = export(local, Selection(), tmp_path / name)
        assert (found.rows, found.cut) == (2, 1)
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0]["note"] == 'a;"b"\nü\ud800'
    assert lines[0]["list"] == [1, "eA=="]
    assert (lines[0]["pa"], lines[1]["other"]) == ("nan", local.now().isoformat())
    assert [line["quarantine_id"] for line in lines] == [1, 2]
    with (tmp_path / "r.csv").open(encoding="utf-8-sig", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["note"], first["list"], first["flag"]) == ('a;"b"\nü\\ud800', '[1, "eA=="]', "false")
    assert (first["other"], second["note"], second["pa"]) == ("", "", "40")
    assert list(first)[-3:] == ["quarantine_id", "quarantine_field", "quarantine_reason"]


def test_an_export_overwrites_nothing_and_knows_its_kinds(local: Platform, tmp_path: Path) -> None:
    """A file that is there may hold an afternoon's work."""
    (tmp_path / "mended.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="exists already; name another file"):
        export(local, Selection(), tmp_path / "mended.csv")
    with pytest.raises(UsageError, match=r"is none of \.csv"):
        export(local, Selection(), tmp_path / "r.xlsx")
    assert (tmp_path / "mended.csv").read_text(encoding="utf-8") == "mine"
    assert [file.name for file in tmp_path.glob("*")] == ["mended.csv"]


def test_a_file_without_ids_names_no_rows(tmp_path: Path) -> None:
    """Some other file must not dismiss anything."""
    file = tmp_path / "o.csv"
    file.write_text("task_id,quarantine_id\nt1,\nt2,x\n", encoding="utf-8")
    with pytest.raises(RetrainError, match="has no row with a quarantine_id"):
        exported_ids(file)


def test_a_dismissal_says_why_and_is_not_tried_again(platform: Platform) -> None:
    """The row stays; the same row sent once more changes nothing."""
    _send(platform, *_bad(2))
    with pytest.raises(UsageError, match="say why"):
        refused.dismiss(platform, Selection(), "  ")
    assert refused.dismiss(platform, Selection(ids=(1,)), "a test run") == 1
    _send(platform, *_bad(2))
    assert _totals(platform) == (1, 0, 1)
    assert _rows(platform)[0].resolved_as == "dismissed: a test run"
    assert retry(platform, Selection(ids=(1,))).rows == 0


def test_rows_that_an_older_version_refused_are_tried_like_any_other(local: Platform) -> None:
    """Structure alone was checked then; the payload is what that version wrote."""
    payload = json.dumps(GOOD | {"task_id": "old", "action_attempted": "Forum"})
    row = {"received_at": local.now(), "source": "collector", "payload": payload, "payload_hash": "h"}
    with local.database.write() as connection:
        connection.execute(insert(tables.quarantine), [row | {"reason": "gone", "field": "x"}])
    assert retry(local, Selection()).accepted == 1
    assert _outcomes(local)[0].action_attempted == "forum"


def test_a_reason_is_told_by_what_is_wrong_not_by_the_value() -> None:
    """The grouping of a second try and of the list is the same."""
    found = quarantine_retry.Retried()
    row = store.Refused(1, datetime(2026, 1, 5, tzinfo=UTC), "s", "pa", "r", payloads.decode("{}"))
    for value in ("1", "'it is'", "[1, 2]", "datetime.datetime(2026, 1, 5, 0, 0)"):
        found.stays(row, SchemaError("pa", f"{value} is not a number"))
    assert found.reasons == {"pa: is not a number": 4}


def test_an_outcome_without_settings_is_still_tried_by_the_platforms(
    new_platform: PlatformMaker, sqlite_url: str
) -> None:
    """What a worker refused before any settings were there is judged by those of now."""
    platform = new_platform(sqlite_url)
    with platform.database.write() as connection:
        outcomes.append(connection, [GOOD | {"result": "perhaps"}], OutcomeRules(), platform.now(), "collector")
        assert connection.execute(select(func.count()).select_from(tables.quarantine)).scalar_one() == 1
    assert retry(platform, Selection()).refused == 1
