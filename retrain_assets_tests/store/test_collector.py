"""What a worker may rely on when it hands in outcomes: nothing is lost, doubled or in the way of the rest."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from retrain_assets.core.outcomes import FIXED_FIELDS
from retrain_assets.errors import ConfigError, StoreOutdated, StoreUnavailable
from retrain_assets.settings import Config, FeatureSettings, ProblemSettings
from retrain_assets.store import outcomes, published, schema, tables
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.database import Database
from retrain_assets.testing import FakeClock

NOW = FakeClock().now()
GOOD: dict[str, Any] = {"task_id": "good", "domain": "a.org", "action_attempted": "comment", "result": True, "pa": 40}


def _collector(database: Database, config: Config | None = None) -> FeedbackCollector:
    return FeedbackCollector(database.url, config=config or Config(), clock=FakeClock())


def _stored(database: Database) -> list[dict[str, Any]]:
    """Every outcome, in order of arrival."""
    with database.read() as connection:
        return [dict(row._mapping) for row in connection.execute(select(tables.outcomes).order_by("seq"))]


def _quarantined(database: Database) -> list[dict[str, Any]]:
    with database.read() as connection:
        return [dict(row._mapping) for row in connection.execute(select(tables.quarantine).order_by("id"))]


# ------------------------------------------------------------------------------------------------- what is kept


def test_an_accepted_outcome_is_there_for_everybody_with_every_field(database: Database) -> None:
    """What the worker said is what another connection reads, typed and in UTC."""
    berlin = datetime(2026, 1, 5, 12, 0, tzinfo=timezone(timedelta(hours=1)))
    receipt = _collector(database).append_outcome(
        task_id="t1",
        domain="a.org",
        action_attempted="GuestPosting",
        result="Failed",
        failure_reason="post_removed",
        execution_time=2.5,
        attempt=2,
        timestamp=berlin,
        model_version="v1.0.0",
        propensity=0.25,
        pa="40",
        https_enabled="yes",
        shoe_size=43,
    )
    assert receipt.status == "accepted"
    assert receipt.reason is None
    (row,) = _stored(Database(database.url))
    assert row["outcome_id"] == receipt.outcome_id
    assert (row["task_id"], row["domain"], row["attempt"]) == ("t1", "a.org", 2)
    assert (row["action_attempted"], row["result"], row["failure_reason"]) == ("guest", "failure", "post_removed")
    assert (row["execution_time_s"], row["propensity"], row["model_version"]) == (2.5, 0.25, "v1.0.0")
    assert row["occurred_at"] == datetime(2026, 1, 5, 11, 0, tzinfo=UTC)
    assert row["occurred_at"].tzinfo is UTC
    assert row["received_at"] == NOW
    assert row["features"] == {"pa": 40.0, "https_enabled": True, "shoe_size": 43}


def test_handing_in_twice_counts_once(database: Database) -> None:
    """A worker that never got its answer sends again; the second receipt says so, and the first values stay."""
    collector = _collector(database)
    rows = [GOOD | {"task_id": f"t{i}", "outcome_id": f"o{i}"} for i in range(5)]
    assert {r.status for r in collector.append_outcomes(rows)} == {"accepted"}
    again = collector.append_outcomes([row | {"result": "error"} for row in rows])
    assert {r.status for r in again} == {"duplicate"}
    assert [row["result"] for row in _stored(database)] == ["success"] * 5


def test_one_bad_row_does_not_cost_the_good_ones(database: Database) -> None:
    """Receipts come in the order of the batch; the refused row is kept with its payload, its field and the reason."""
    batch = [GOOD | {"task_id": "t1"}, GOOD | {"task_id": "t2", "result": "perhaps"}, GOOD | {"task_id": "t3"}]
    receipts = _collector(database).append_outcomes(batch)
    assert [r.status for r in receipts] == ["accepted", "quarantined", "accepted"]
    assert receipts[1].field == "result"
    assert "'perhaps' is not one of true, false" in str(receipts[1].reason)
    assert [row["task_id"] for row in _stored(database)] == ["t1", "t3"]
    (refused,) = _quarantined(database)
    assert refused["field"] == "result"
    assert refused["reason"] == receipts[1].reason
    assert json.loads(refused["payload"])["task_id"] == "t2"


def test_the_same_bad_row_is_kept_once(database: Database) -> None:
    """A worker that repeats a refused row does not fill the quarantine."""
    collector = _collector(database)
    for _ in range(3):
        collector.append_outcomes([GOOD | {"result": None}])
    assert len(_quarantined(database)) == 1


def test_duplicates_inside_a_batch_count_once(database: Database) -> None:
    """The first of them is accepted, as if they had come one after the other."""
    batch = [GOOD | {"outcome_id": "same", "result": r} for r in ("success", "error", "failed")]
    receipts = _collector(database).append_outcomes([*batch, GOOD | {"outcome_id": "other"}])
    assert [r.status for r in receipts] == ["accepted", "duplicate", "duplicate", "accepted"]
    assert [(row["outcome_id"], row["result"]) for row in _stored(database)] == [
        ("same", "success"),
        ("other", "success"),
    ]


def test_an_empty_batch_is_nothing(database: Database) -> None:
    """No receipt, no row, no error."""
    assert _collector(database).append_outcomes([]) == []
    assert _stored(database) == []


def test_three_attempts_of_one_task_are_three_outcomes(database: Database) -> None:
    """`task_id` is not an identity: attempts, or instants, tell the tries apart."""
    tries = [GOOD | {"attempt": n} for n in (1, 2, 3)]
    tries += [GOOD | {"timestamp": (NOW - timedelta(minutes=n)).isoformat()} for n in (5, 10, 20)]
    receipts = _collector(database).append_outcomes(tries)
    assert {r.status for r in receipts} == {"accepted"}
    assert len({r.outcome_id for r in receipts}) == 6


def test_a_correction_without_an_id_of_its_own_is_no_duplicate(database: Database) -> None:
    """It names what it replaces; the row it corrects stays, since outcomes are only ever appended."""
    collector = _collector(database)
    told = GOOD | {"decision_id": "d1", "timestamp": NOW}
    first = collector.append_outcomes([told])[0]
    correction = told | {"result": "error", "replaces": first.outcome_id}
    assert [collector.append_outcomes([correction])[0].status for _ in range(2)] == ["accepted", "duplicate"]
    assert [row["result"] for row in _stored(database)] == ["success", "error"]


def test_a_correction_names_what_it_replaces(database: Database) -> None:
    """The public way to take a report back: both rows are kept, and how often the automation tried is kept, too."""
    collector = _collector(database)
    first = collector.append_outcome(task_id="t1", action_attempted="comment", result=True, decision_id="d1")
    second = collector.append_outcome(
        task_id="t1",
        action_attempted="comment",
        result=False,
        decision_id="d1",
        retry_count=2,
        replaces=first.outcome_id,
    )
    assert (first.status, second.status) == ("accepted", "accepted")
    rows = _stored(database)
    assert [(row["result"], row["replaces"], row["retry_count"]) for row in rows] == [
        ("success", None, None),
        ("failure", first.outcome_id, 2),
    ]


def test_a_duplicate_that_says_something_else_is_told_how_to_correct(database: Database) -> None:
    """The first report stays; who sends an opposite one learns of it, who repeats the same one is left in peace."""
    collector = _collector(database)
    told = GOOD | {"decision_id": "d1"}
    collector.append_outcomes([told])
    same, opposite, other, alike = collector.append_outcomes(
        [told, told | {"result": "failed"}, told | {"action_attempted": "forum"}, told | {"domain": "b.org"}]
    )
    assert {r.status for r in (same, opposite, other, alike)} == {"duplicate"}
    assert (same.reason, alike.reason) == (None, None)
    assert opposite.reason == 'known with another result: success; send replaces="d-d1" to correct it'
    assert (opposite.field, other.field) == ("result", "action_attempted")
    assert str(other.reason).startswith("known with another action_attempted: comment")
    assert [row["result"] for row in _stored(database)] == ["success"]


def test_an_outcome_under_the_id_of_another_tasks_outcome_is_no_duplicate_of_it(database: Database) -> None:
    """Two tasks that name one decision have one derived id: the second row is kept for a person, with what to do."""
    collector = _collector(database)
    told = GOOD | {"task_id": "mine", "decision_id": "d1"}
    batch = [told, told | {"task_id": "theirs"}, told | {"attempt": 2}, GOOD | {"decision_id": "d2"}]
    receipts = collector.append_outcomes(batch)
    assert [r.status for r in receipts] == ["accepted", "quarantined", "duplicate", "accepted"]
    reason = "'d-d1' is the id of an outcome of task 'mine'; send an outcome_id of its own, or the right decision_id"
    assert (receipts[1].outcome_id, receipts[1].field, receipts[1].reason) == ("d-d1", "outcome_id", reason)
    again = collector.append_outcomes([told | {"task_id": "theirs"}])[0]
    assert (again.status, again.reason) == ("quarantined", reason)
    (refused,) = _quarantined(database)
    assert (refused["field"], refused["reason"]) == ("outcome_id", reason)
    assert json.loads(refused["payload"])["task_id"] == "theirs"
    assert [row["task_id"] for row in _stored(database)] == ["mine", "good"]


def test_a_row_that_is_none_does_not_cost_the_others(database: Database) -> None:
    """Whoever passes a list of tuples gets the receipt of a refused row for each of them."""
    rows: list[Any] = [("t1", "comment"), GOOD, None, 7]
    receipts = _collector(database).append_outcomes(rows)
    assert [r.status for r in receipts] == ["quarantined", "accepted", "quarantined", "quarantined"]
    assert (receipts[0].field, receipts[0].reason) == ("row", "is a tuple; send a mapping of field names to values")
    assert len(_quarantined(database)) == 3


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"timestamp": datetime(2026, 1, 1)}, "timestamp", "has no offset from UTC"),  # noqa: DTZ001  (the mistake)
        ({"timestamp": "2026-01-01T10:00:00"}, "timestamp", "has no offset from UTC"),
        ({"timestamp": "yesterday"}, "timestamp", "is not ISO 8601"),
        ({"timestamp": 1767225600}, "timestamp", "is not a datetime"),
        ({"timestamp": NOW + timedelta(minutes=6)}, "timestamp", "lies in the future"),
        ({"timestamp": "9999-12-31T23:59:59-12:00"}, "timestamp", "not an instant"),
        ({"timestamp": "0001-01-01T00:00:00+12:00"}, "timestamp", "not an instant"),
        ({"timestamp": "0012-03-04T00:00:00+00:00"}, "timestamp", "before 1970"),
        ({"action_attempted": "telegram"}, "action_attempted", "is not one of comment, profile, forum, guest"),
        ({"action_attempted": None}, "action_attempted", "is required"),
        ({"task_id": " "}, "task_id", "is required"),
        ({"task_id": "x" * 201}, "task_id", "has 201 characters"),
        ({"task_id": "a\x00b"}, "task_id", "NUL"),
        ({"task_id": "a\ud800b"}, "task_id", "cannot be written as UTF-8"),
        ({"domain": "a\ud800b"}, "domain", "cannot be written as UTF-8"),
        ({"result": 2}, "result", "2 is not one of"),
        ({"attempt": 0}, "attempt", "whole number of at least 1"),
        ({"attempt": 10**40}, "attempt", "whole number"),
        ({"execution_time": -1}, "execution_time", "is negative"),
        ({"execution_time": float("inf")}, "execution_time", "is not a finite number"),
        ({"propensity": 0}, "propensity", "is not a probability above 0"),
        ({"pa": 101}, "pa", "is outside 0 to 100"),
        ({"pa": "high"}, "pa", "is not a number"),
        ({"url_path_depth": 1.5}, "url_path_depth", "is not a whole number"),
        ({"https_enabled": "maybe"}, "https_enabled", "is not a boolean"),
        ({"site_type": "x" * 2_001}, "site_type", "has 2001 characters"),
        ({"site_type": "a\ud800"}, "site_type", "cannot be written as UTF-8"),
        ({"notes": "x" * 2_001}, "notes", "has 2001 characters"),
        ({"notes": "a\ud800"}, "notes", "cannot be written as UTF-8"),
        ({"notes": {"a": 1}}, "notes", "is a dict"),
        ({"notes": 10**40}, "notes", "too large"),
        ({"notes": float("-inf")}, "notes", "not finite"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value)[:30],
)
def test_what_does_not_fit_is_quarantined_and_the_field_is_named(
    sqlite_database: Database, change: dict[str, Any], field: str, reason: str
) -> None:
    """The rest of the batch is stored, whatever is wrong with one row."""
    receipts = _collector(sqlite_database).append_outcomes([GOOD | {"task_id": "bad"} | change, GOOD])
    assert [r.status for r in receipts] == ["quarantined", "accepted"]
    assert receipts[0].field == field
    assert reason in str(receipts[0].reason)
    assert [row["field"] for row in _quarantined(sqlite_database)] == [field]
    assert [row["task_id"] for row in _stored(sqlite_database)] == ["good"]


_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**63, max_value=2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=20),
    st.text(alphabet=st.characters(categories=["Cs", "Lu"]), max_size=5),
    st.binary(max_size=5),
    st.datetimes(timezones=st.one_of(st.none(), st.just(UTC), st.timezones())),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.just(object()),
)
_rows = st.dictionaries(
    st.one_of(st.sampled_from(sorted(FIXED_FIELDS | {"pa", "site_type", "https_enabled"})), st.text(max_size=5)),
    _values,
    max_size=6,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(hostile=st.lists(_rows, max_size=3), position=st.integers(0, 3))
def test_whatever_a_worker_sends_the_good_row_beside_it_is_stored(
    database: Database, hostile: list[dict[str, Any]], position: int
) -> None:
    """No payload makes the batch fail: each row gets a receipt, and what is stored can be read again."""
    with database.write() as connection:
        for table in (tables.outcomes, tables.quarantine):
            connection.execute(table.delete())
    place = min(position, len(hostile))
    valid = GOOD | {"outcome_id": "the good one"}
    hostile = [row for row in hostile if row.get("outcome_id") != "the good one"]
    batch = [*hostile[:place], valid, *hostile[place:]]
    receipts = _collector(database).append_outcomes(batch)
    assert len(receipts) == len(batch)
    assert receipts[batch.index(valid)].status == "accepted"
    assert "good" in [row["task_id"] for row in _stored(database)]
    refused = sum(r.status == "quarantined" for r in receipts)
    assert (refused > 0) == bool(_quarantined(database))


def test_strict_columns_are_the_configs_choice(sqlite_database: Database) -> None:
    """`unknown_columns: quarantine` names the column; `keep` keeps it."""
    strict = Config(problem=ProblemSettings(unknown_columns="quarantine"))
    row = GOOD | {"shoe_size": 43}
    (receipt,) = _collector(sqlite_database, strict).append_outcomes([row])
    assert (receipt.status, receipt.field) == ("quarantined", "shoe_size")
    assert _collector(sqlite_database).append_outcomes([row])[0].status == "accepted"


def test_a_required_feature_must_come_with_the_outcome_unless_a_decision_has_it(sqlite_database: Database) -> None:
    """The decision log holds the features of a decision; a worker need not send them again."""
    features = {"pa": FeatureSettings(type="number", required=True)}
    config = Config(problem=ProblemSettings(features=features, strata=[]))
    row = {"task_id": "t", "action_attempted": "comment", "result": True}
    collector = _collector(sqlite_database, config)
    assert collector.append_outcomes([row])[0].field == "pa"
    assert collector.append_outcomes([row | {"decision_id": "d1"}])[0].status == "accepted"


# ------------------------------------------------------------------------------------------------- whose settings


def test_the_first_append_creates_the_schema_in_an_empty_file_and_says_what_was_not_checked(sqlite_url: str) -> None:
    """A worker that comes before the platform loses nothing; its receipt says that actions were not checked."""
    with FeedbackCollector(sqlite_url, clock=FakeClock()) as collector:
        receipt = collector.append_outcome(task_id="t1", action_attempted="anything", result=True)
    assert (receipt.status, receipt.reason) == ("accepted", outcomes.UNCHECKED)
    database = Database(sqlite_url)
    with database.read() as connection:
        assert schema.revision(connection) == schema.HEAD
    assert len(_stored(database)) == 1


def test_published_settings_end_the_unchecked_time(sqlite_url: str) -> None:
    """The collector that was there first checks actions as soon as the platform has said which there are."""
    collector = FeedbackCollector(sqlite_url, clock=FakeClock())
    collector.append_outcome(task_id="t1", action_attempted="anything", result=True)
    with Database(sqlite_url).write() as connection:
        published.publish(connection, Config(), NOW)
    receipt = collector.append_outcome(task_id="t2", action_attempted="anything", result=True)
    assert (receipt.status, receipt.field) == ("quarantined", "action_attempted")


def test_a_worker_never_creates_a_schema_on_a_server(postgresql_url: str) -> None:
    """An empty PostgreSQL database is the platform's to fill."""
    with pytest.raises(StoreOutdated, match="create it with `retrain doctor --fix`"):
        FeedbackCollector(postgresql_url).append_outcome(task_id="t", action_attempted="comment", result=True)


def test_a_database_of_the_first_schema_takes_outcomes_and_refused_rows(database_url: str) -> None:
    """Workers may be upgraded before the platform: the insert names the columns that were always there."""
    database = Database(database_url)
    with database.write() as connection:
        schema.upgrade(connection, "0001")
    receipts = _collector(database).append_outcomes([GOOD, GOOD | {"result": "perhaps"}, GOOD])
    assert [r.status for r in receipts] == ["accepted", "quarantined", "duplicate"]
    with database.read() as connection:
        assert schema.revision(connection) == "0001"
        assert outcomes.count(connection) == 1


def test_a_database_of_a_later_schema_takes_outcomes_as_long_as_they_fit(database: Database) -> None:
    """A worker that is older than its database goes on; when it cannot, it says which revisions meet and what to do."""
    collector = _collector(database)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        connection.exec_driver_sql("ALTER TABLE outcomes ADD COLUMN mood TEXT")
    assert collector.append_outcomes([GOOD | {"task_id": "t1"}])[0].status == "accepted"
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE outcomes RENAME COLUMN domain TO place")
    with pytest.raises(StoreOutdated, match=rf"revision 9999, .* knows is {schema.HEAD}: upgrade retrain-assets"):
        collector.append_outcomes([GOOD | {"task_id": "t2"}])
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE outcomes RENAME COLUMN place TO domain")
    assert collector.append_outcomes([GOOD | {"task_id": "t2"}])[0].status == "accepted"


def test_a_url_may_name_a_csv_file(tmp_path: Path) -> None:
    """A single worker needs no database; a spool for a file that is never away is a mistake."""
    file = tmp_path / "outcomes.csv"
    with FeedbackCollector(f"csv://{file}", config=Config(), clock=FakeClock()) as collector:
        assert [r.status for r in collector.append_outcomes([GOOD, GOOD])] == ["accepted", "duplicate"]
        collector.flush()
    assert "good" in file.read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="a CSV file needs no spool"):
        FeedbackCollector(f"csv://{file}", tmp_path / "spool")
    with pytest.raises(ConfigError, match=r"is not of the form csv:///FOLDER/FILE\.csv"):
        FeedbackCollector("csv://outcomes.csv")


@pytest.mark.parametrize(("block", "made"), [("", "retrain.db"), ("storage: {outcomes: csv}\n", "outcomes.csv")])
def test_a_configuration_says_where_outcomes_go(tmp_path: Path, home: Path, block: str, made: str) -> None:
    """A fresh project needs nothing run before its first outcome: the problem's folder is made."""
    file = tmp_path / "config" / "retrain.yaml"
    file.parent.mkdir()
    file.write_text(f"problem: {{name: backlinks}}\n{block}", encoding="utf-8")
    with FeedbackCollector.from_config(file) as collector:
        assert collector.append_outcome(task_id="t", action_attempted="comment", result=1).status == "accepted"
    assert (home / "backlinks" / made).is_file()


def test_the_first_append_makes_the_file_with_its_folders_and_no_later_one_does(tmp_path: Path) -> None:
    """The first outcome just works; a file that vanished later is to be brought back, not replaced by an empty one."""
    file = tmp_path / "new" / "folders" / "retrain.db"
    with FeedbackCollector(f"sqlite:///{file}") as collector:
        assert list(tmp_path.iterdir()) == []
        assert collector.append_outcome(task_id="t", action_attempted="comment", result=True).status == "accepted"
        assert file.is_file()
        shutil.rmtree(tmp_path / "new")
        with pytest.raises(StoreUnavailable, match="there is no database at"):
            collector.append_outcome(task_id="t", action_attempted="comment", result=True)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true", "sqlite:///file:x?mode=memory&uri=true"],
)
def test_a_database_in_memory_is_refused(url: str) -> None:
    """It would answer `accepted`, and forget every outcome."""
    with pytest.raises(ConfigError, match="it lies in memory, and its outcomes would be gone"):
        FeedbackCollector(url)


def test_a_worker_starts_light() -> None:
    """Making a collector imports no dagster, pandas, scikit-learn, migrations or CSV store, and no server's driver."""
    code = """
import sys
from retrain_assets import FeedbackCollector
FeedbackCollector("sqlite:///retrain.db")
heavy = {"dagster", "pandas", "sklearn", "numpy", "alembic", "psycopg", "sqlalchemy.dialects.postgresql"}
heavy.add("retrain_assets.store.csv_outcomes")
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
