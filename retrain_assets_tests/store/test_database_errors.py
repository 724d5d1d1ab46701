"""What stands in the way of a report: each failure says whether trying again can help, and never claims too much."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import DataError, InterfaceError, OperationalError

from retrain_assets.core.outcomes import Receipt
from retrain_assets.errors import ConfigError, StoreOutdated, StoreUnavailable
from retrain_assets.settings import Config
from retrain_assets.store import database as databases
from retrain_assets.store import outcomes, published, schema
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.database import Database
from retrain_assets.store.database_errors import commit_translated, masked, translated

ROW: dict[str, Any] = {"task_id": "t", "action_attempted": "comment", "result": True, "decision_id": "d1"}
AGAIN = "nothing was stored, try again"


def _count(database: Database) -> int:
    with database.read() as connection:
        return outcomes.count(connection)


def _collector(database: Database) -> FeedbackCollector:
    return FeedbackCollector(database.url, config=Config())


def _file(database: Database) -> Path:
    assert database.file is not None
    return database.file


# ----------------------------------------------------------------------------------------------------------- the file


def test_a_file_that_only_reads_is_worth_a_retry(sqlite_database: Database) -> None:
    """A disk that was mounted read-only, or rights that were taken: nothing is claimed, and a person can heal it."""
    schema.migrate(sqlite_database)
    url = f"sqlite:///file:{_file(sqlite_database)}?mode=ro&uri=true"
    with pytest.raises(StoreUnavailable, match=rf"readonly database.*{AGAIN}"):
        FeedbackCollector(url, config=Config()).append_outcomes([ROW])
    assert _count(sqlite_database) == 0


def test_a_full_disk_is_worth_a_retry_and_keeps_the_batch_whole(sqlite_database: Database) -> None:
    """No row of the batch is there; once there is room, all of them are."""
    collector = _collector(sqlite_database)
    with sqlite_database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    with sqlite_database.write() as connection:  # the pool's one connection, which the collector uses, too
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
    batch = [ROW | {"decision_id": f"d{number}", "notes": "x" * 1_000} for number in range(50)]
    with pytest.raises(StoreUnavailable, match=rf"full.*{AGAIN}"):
        collector.append_outcomes(batch)
    assert _count(sqlite_database) == 0
    with sqlite_database.write() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    assert {r.status for r in collector.append_outcomes(batch)} == {"accepted"}


def test_a_lock_that_is_held_too_long_is_worth_a_retry(
    new_database: Any,  # noqa: ANN401  (a fixture)
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody's open transaction: after the busy timeout the worker gets an error that it can act on."""
    monkeypatch.setattr(databases, "BUSY_TIMEOUT_S", 0.05)
    database = Database(new_database("sqlite"))
    schema.migrate(database)
    holder = sqlite3.connect(_file(database), isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match=rf"database is locked; {AGAIN}"):
            _collector(database).append_outcomes([ROW])
        holder.execute("ROLLBACK")
        assert _collector(database).append_outcomes([ROW])[0].status == "accepted"
    finally:
        holder.close()


def test_a_file_that_was_deleted_or_replaced_takes_no_outcome_with_it(sqlite_database: Database) -> None:
    """An open connection would go on writing into the deleted file, and nobody would ever read it."""
    collector = _collector(sqlite_database)
    assert collector.append_outcomes([ROW])[0].status == "accepted"
    file = _file(sqlite_database)
    kept = file.with_name("kept.db")
    sqlite_database.close()
    file.rename(kept)
    with pytest.raises(StoreUnavailable, match=r"there is no database at .*retrain.db yet"):
        collector.append_outcomes([ROW | {"decision_id": "d2"}])
    assert not file.exists()
    kept.rename(file)
    assert collector.append_outcomes([ROW | {"decision_id": "d2"}])[0].status == "accepted"
    other = Database(f"sqlite:///{file.with_name('other.db')}")
    schema.migrate(other)
    other.close()
    file.with_name("other.db").replace(file)  # as a restored backup is put in place while workers run
    for part in ("-wal", "-shm"):
        file.with_name(f"{file.name}{part}").unlink(missing_ok=True)
    assert collector.append_outcomes([ROW])[0].status == "accepted"
    with sqlite3.connect(file) as seen:
        assert seen.execute("SELECT count(*) FROM outcomes").fetchone() == (1,)
    seen.close()


def test_a_reader_makes_no_file(tmp_path: Path) -> None:
    """A URL with a typo: the answer names the file, and nothing is created."""
    file = tmp_path / "misspelt" / "retrain.db"
    database = Database(f"sqlite:///{file}", absent="refuse")
    made = re.escape(f"there is no database at {file} yet; `retrain doctor --fix` or the first import makes it")
    with pytest.raises(StoreUnavailable, match=made), database.read():
        pass
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------------- the server


def test_a_server_that_cuts_its_connections_costs_nothing(postgresql_url: str) -> None:
    """A restart: the next call notices that its connection is dead, and opens another one."""
    database = Database(postgresql_url)
    schema.migrate(database)
    collector = _collector(database)
    assert collector.append_outcomes([ROW])[0].status == "accepted"
    _terminate_all(postgresql_url)
    assert collector.append_outcomes([ROW | {"decision_id": "d2"}])[0].status == "accepted"


def test_a_connection_cut_in_the_middle_is_worth_a_retry_and_leaves_nothing(postgresql_url: str) -> None:
    """Inside the transaction it is certain that nothing was stored; during the commit it is not, and one is told."""
    database = Database(postgresql_url)
    schema.migrate(database)
    with pytest.raises(StoreUnavailable, match=AGAIN), database.write() as connection:  # noqa: PT012
        connection.exec_driver_sql("UPDATE route SET epoch = 9")
        _terminate_all(postgresql_url)
        connection.exec_driver_sql("SELECT 1")
    with pytest.raises(StoreUnavailable, match="may have been stored or not, try again"), database.write() as writing:  # noqa: PT012
        writing.exec_driver_sql("UPDATE route SET epoch = 9")
        _terminate_all(postgresql_url)
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT epoch FROM route").scalar_one() == 0


def test_an_append_whose_answer_was_lost_is_a_duplicate_when_it_is_sent_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit was done and the connection broke before the worker heard of it."""
    collector, write = _collector(database), Database.write

    @contextmanager
    def cut(self: Database) -> Iterator[Connection]:
        with write(self) as connection:
            yield connection
        raise StoreUnavailable("it may have been stored or not, try again")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", cut)
        with pytest.raises(StoreUnavailable, match="may have been stored"):
            collector.append_outcomes([ROW])
    (receipt,) = collector.append_outcomes([ROW])
    assert (receipt.status, receipt.reason) == ("duplicate", None)
    assert _count(database) == 1


def test_batches_that_wait_for_each_other_are_both_stored(postgresql_url: str) -> None:
    """Two workers send the same outcomes in opposite order: the server ends one of them, which then tries again."""
    database = Database(postgresql_url)
    schema.migrate(database)
    collector, other = _collector(database), FeedbackCollector(postgresql_url, config=Config())
    assert other.append_outcomes([ROW | {"decision_id": "before"}])[0].status == "accepted"
    pair = [ROW | {"decision_id": name} for name in ("a", "b")]
    rules, now = other.rules, datetime.now(tz=UTC)
    with psycopg.connect(_admin(postgresql_url), autocommit=True) as admin, ThreadPoolExecutor(1) as pool:
        with database.write() as connection:
            connection.exec_driver_sql("SET LOCAL deadlock_timeout = '60s'")  # so it is the collector that is ended
            outcomes.append(connection, pair[1:], rules, now, "test")
            waiting = pool.submit(collector.append_outcomes, pair)
            query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
            while admin.execute(query, [database.engine.url.database]).fetchone() == (0,):
                assert not waiting.done()
            outcomes.append(connection, pair[:1], rules, now, "test")
        assert [receipt.status for receipt in waiting.result()] == ["duplicate", "duplicate"]
    assert _count(database) == 3


def test_a_worker_needs_the_rights_that_the_page_names_and_no_others(postgresql_url: str) -> None:
    """The GRANT statements of the how-to, word for word, are enough to report, to be refused and to repeat."""
    database = Database(postgresql_url)
    schema.migrate(database)
    page = Path(__file__).parents[2].joinpath("docs", "how-to", "workers.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    role = f"worker_{database.engine.url.database}"
    statements = [line for line in re.sub(r"\bworker\b", role, block).split(";") if line.strip()]
    try:
        with database.write() as connection:
            published.publish(connection, Config(), datetime.now(tz=UTC))
            connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
            for statement in statements:
                connection.exec_driver_sql(statement)
        with FeedbackCollector(postgresql_url.replace("postgres:@", f"{role}:@")) as collector:
            receipts = collector.append_outcomes([ROW, ROW | {"result": "perhaps"}, ROW, ROW | {"task_id": "other"}])
            assert [r.status for r in receipts] == ["accepted", "quarantined", "duplicate", "quarantined"]
            assert collector.append_outcomes([ROW])[0].status == "duplicate"
        with pytest.raises(ConfigError, match="permission denied"), database.write() as connection:  # noqa: PT012
            connection.exec_driver_sql(f"SET LOCAL ROLE {role}")
            connection.exec_driver_sql("DELETE FROM outcomes")
    finally:
        with database.write() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")


def test_a_database_that_was_dropped_is_no_matter_of_patience(postgresql_url: str) -> None:
    """Its name is refused from then on: a person has to bring it back or correct the address."""
    database = Database(postgresql_url)
    schema.migrate(database)
    collector = _collector(database)
    assert collector.append_outcomes([ROW])[0].status == "accepted"
    name = database.engine.url.database
    with psycopg.connect(_admin(postgresql_url), autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
    with pytest.raises(ConfigError, match=rf'database "{name}" does not exist.*correct storage.database_url') as caught:
        collector.append_outcomes([ROW])
    assert not caught.value.is_retryable


def test_a_user_that_the_server_does_not_know_is_no_matter_of_patience(postgresql_url: str) -> None:
    """The address is named without its password."""
    url = postgresql_url.replace("postgres:@", "nobody:s3cret@")
    with pytest.raises(ConfigError, match='role "nobody" does not exist') as caught:
        FeedbackCollector(url, config=Config()).append_outcomes([ROW])
    assert "s3cret" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ('FATAL:  password authentication failed for user "worker"', ConfigError),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "worker"', ConfigError),
        ("connection refused", StoreUnavailable),
        ("FATAL:  the database system is starting up", StoreUnavailable),
        ("FATAL:  sorry, too many clients already", StoreUnavailable),
        ("could not translate host name: Temporary failure in name resolution", StoreUnavailable),
        ("disk I/O error", StoreUnavailable),
        ("unable to open database file", StoreUnavailable),
        ("database disk image is malformed", StoreOutdated),
        ("no such table: outcomes", StoreOutdated),
        ("table outcomes has no column named domain", StoreOutdated),
    ],
)
def test_what_the_driver_says_decides_whether_trying_again_can_help(words: str, kind: type[Exception]) -> None:
    """What heals by itself is retryable; what a person must mend is not."""
    with pytest.raises(kind, match=re.escape(words)), translated("the place"):
        raise OperationalError("INSERT", {}, sqlite3.OperationalError(words))


def test_faults_of_values_are_left_to_those_who_know_them() -> None:
    """They are neither the server's nor the network's; a broken connection always is."""
    with pytest.raises(DataError, match="out of range"), translated("the place"):
        raise DataError("INSERT", {}, sqlite3.DataError("out of range"))
    with pytest.raises(StoreUnavailable, match="gone"), translated("the place"):
        raise DataError("INSERT", {}, sqlite3.DataError("gone"), connection_invalidated=True)
    with pytest.raises(InterfaceError, match="gone"), commit_translated("the place", is_certain=True):
        raise InterfaceError("COMMIT", {}, sqlite3.InterfaceError("gone"), connection_invalidated=True)


def test_a_pool_that_is_used_up_is_worth_a_retry(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """More threads than connections, all of them stuck: an error after a while, none that only SQLAlchemy knows."""
    pool = sqlite_database.engine.pool
    monkeypatch.setattr(pool, "_timeout", 0.01)
    held = [sqlite_database.engine.connect() for _ in range(25)]
    try:
        with pytest.raises(StoreUnavailable, match=rf"every connection to .* is in use by this process; {AGAIN}"):
            _count(sqlite_database)
    finally:
        for connection in held:
            connection.close()


def test_a_password_is_never_shown() -> None:
    """Also not that of a URL that cannot be read."""
    assert masked("postgres://me:p@ss:w@host/x") == "postgres://me:***@host/x"
    for whole in ("sqlite:///outcomes.db", "sqlite:////data/a:b.db", "postgresql://me@host:5432/x?sslmode=require"):
        assert masked(whole) == whole


@pytest.mark.parametrize(
    "url",
    [
        "oops://me:s3cret@host/x",
        "postgresql:/me:s3cret@host/x",
        "postgresql//me:s3cret@host/x",
        "me:s3cret@host/x",
        "me:p@s3cret@host/x",
        "postgresql://me:p@s3cret@host/x",
        "oops://me:/s3cret@host/x",
        "postgresql://me:s3cret@host:fivefourthreetwo/x",
        "oops://host/x?password=s3cret&sslmode=require",
        "oops://host/x?sslmode=require&sslpassword=p@s3cret",
    ],
)
def test_a_url_that_cannot_be_used_is_told_without_its_password(url: str) -> None:
    """It goes to logs and terminals; what is wrong with it can still be seen."""
    with pytest.raises(ConfigError, match=r"database URL .*\*\*\*.*") as caught:
        Database(url)
    assert "s3cret" not in str(caught.value)
    assert "host" in str(caught.value)


def test_a_database_is_named_without_the_password_of_its_query() -> None:
    """Every message that names the place would show it."""
    assert Database("postgresql://me@host/x?password=s3cret").place == "postgresql://me@host/x?password=***"


def test_many_threads_share_a_collector(database: Database) -> None:
    """Each report is stored once, whoever sends it."""
    collector = _collector(database)
    found: list[list[Receipt]] = []

    def work(who: int) -> None:
        found.append(collector.append_outcomes([ROW | {"decision_id": f"{who}-{n}"} for n in range(3)]))

    threads = [threading.Thread(target=work, args=(who,)) for who in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r.status for receipts in found for r in receipts] == ["accepted"] * 36
    assert _count(database) == 36


def _terminate_all(url: str) -> None:
    """Cut every other connection to a database, as a server that stops does."""
    name = url.split("?", maxsplit=1)[0].rsplit("/", maxsplit=1)[-1]
    with psycopg.connect(_admin(url), autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        while admin.execute(waiting, [name]).fetchone() != (0,):
            pass


def _admin(url: str) -> str:
    name = url.split("?", maxsplit=1)[0].rsplit("/", maxsplit=1)[-1]
    return url.replace(f"/{name}?", "/postgres?")
