"""What the decision log promises: nothing waits on the database, nothing is stored twice, and losses are counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from retrain_assets.errors import StoreUnavailable, UsageError
from retrain_assets.serving import decision_log
from retrain_assets.serving.decision import Decision, Recorder
from retrain_assets.serving.decision_log import DecisionLog
from retrain_assets.settings import Config
from retrain_assets.store import decision_rows
from retrain_assets.store.database import Database
from retrain_assets.store.tables import decisions
from retrain_assets.testing import START, seeded_database

RECORDER = Recorder(Config().schema, is_keeping_unknown=True)


def decision(number: int, **changes: Any) -> Decision:  # noqa: ANN401  (the fields of `Decision`)
    """A decision as the engine makes it."""
    values: dict[str, Any] = {
        "decision_id": f"d{number}", "task_id": f"t{number}", "action": "guest", "scores": {"guest": 0.75},
        "propensity": 0.98, "model_version": "v1.0.0", "arm": "production", "assigned_arm": "production",
        "latency_ms": 0.05, "attempt": 1, "domain": None, "features": {"pa": 1.5}, "actions": ("guest", "forum"),
        "decided_at": START, "deadline_at": START + timedelta(hours=1), "share": 0.0, "rollout_id": None, "error": None,
    }  # fmt: skip
    return Decision(**values | changes)


@dataclass
class Weather:
    """Makes the database go away, stall, and counts the batches it was given."""

    is_away: threading.Event = field(default_factory=threading.Event)
    gate: threading.Event = field(default_factory=threading.Event)
    batches: list[int] = field(default_factory=list)


@pytest.fixture
def weather(monkeypatch: pytest.MonkeyPatch) -> Weather:
    """Stands between the log and the database."""
    made, real = Weather(), decision_rows.insert
    made.gate.set()

    def insert(connection: Connection, rows: Sequence[decision_rows.Row], now: datetime | None = None) -> None:
        assert made.gate.wait(20)
        if made.is_away.is_set():
            raise StoreUnavailable("the database cannot be used now")
        made.batches.append(len(rows))
        real(connection, rows, now)

    monkeypatch.setattr(decision_rows, "insert", insert)
    monkeypatch.setattr(decision_log, "FIRST_RETRY_S", 0.01)
    return made


@pytest.fixture
def database(sqlite_url: str) -> Database:
    """An empty database with its schema."""
    return seeded_database(sqlite_url, Path(sqlite_url.removeprefix("sqlite:///")).parent, production=None).database


Make = Callable[..., DecisionLog]


@pytest.fixture
def make(database: Database) -> Iterator[Make]:
    """Makes logs, and closes them."""
    made: list[DecisionLog] = []

    def one(**settings: Any) -> DecisionLog:  # noqa: ANN401  (the arguments of `DecisionLog`)
        made.append(DecisionLog(database, RECORDER.row, **settings))
        return made[-1]

    yield one
    for log in made:
        log.close()


def stored(database: Database) -> list[str]:
    """Ids of all stored decisions."""
    with database.read() as connection:
        return list(connection.execute(select(decisions.c.decision_id).order_by(decisions.c.decision_id)).scalars())


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread brings about."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def test_what_is_put_is_stored_soon_without_a_flush(make: Make, database: Database) -> None:
    """The writer needs nobody to ask it."""
    make().put(decision(1))
    until(lambda: stored(database) == ["d1"])


def test_a_flush_returns_when_everything_is_stored(make: Make, database: Database) -> None:
    """1,000 decisions are all there after `flush`, in transactions of many."""
    log = make()
    for number in range(1_000):
        log.put(decision(number))
    log.flush()
    assert len(stored(database)) == 1_000
    assert (log.counts["queued"], log.counts["written"]) == (1_000, 1_000)
    log.flush()  # nothing waits: returns at once


def test_closing_writes_what_waits(make: Make, database: Database) -> None:
    """`close` needs no flush before it, may be called twice, and refuses later decisions."""
    log = make()
    for number in range(300):
        log.put(decision(number))
    log.close()
    log.close()
    assert len(stored(database)) == 300
    with pytest.raises(UsageError, match="the engine is closed"):
        log.put(decision(999))


def test_the_same_decision_is_stored_once(make: Make, database: Database) -> None:
    """A repeated decision, in one batch or later, changes nothing: the first row stays."""
    log = make()
    log.put(decision(1))
    log.put(decision(1, action="forum"))
    log.flush()
    log.write_now(decision(1, action="forum"))
    with database.read() as connection:
        assert connection.execute(select(decisions.c.decision_id, decisions.c.action)).all() == [("d1", "guest")]


def test_decisions_wait_for_a_database_that_is_away(make: Make, database: Database, weather: Weather) -> None:
    """Nothing is lost and nothing is doubled: the batch is tried again until it is stored."""
    log = make()
    weather.is_away.set()
    for number in range(5):
        log.put(decision(number))
    until(lambda: log.counts["retries"] >= 3)
    weather.is_away.clear()
    log.flush(timeout_s=20)
    assert stored(database) == ["d0", "d1", "d2", "d3", "d4"]
    assert log.counts["written"] == 5


def test_a_flush_says_that_the_database_is_away_and_keeps_the_decisions(
    make: Make, database: Database, weather: Weather
) -> None:
    """What could not be stored is an error of `flush`; the same decisions are stored by a later one."""
    log = make()
    weather.is_away.set()
    log.put(decision(1))
    with pytest.raises(StoreUnavailable, match=r"1 decisions are not stored yet.*cannot be used now"):
        log.flush()
    weather.is_away.clear()
    log.flush(timeout_s=20)
    assert stored(database) == ["d1"]


def test_a_flush_that_takes_too_long_says_so(make: Make, weather: Weather) -> None:
    """A database that hangs does not hold a flush with a time limit for ever."""
    log = make()
    weather.gate.clear()
    log.put(decision(1))
    with pytest.raises(StoreUnavailable, match="the time is over"):
        log.flush(timeout_s=0.05)
    weather.gate.set()
    log.flush(timeout_s=20)


def test_a_blocking_log_makes_workers_wait_for_room(make: Make, database: Database, weather: Weather) -> None:
    """With `block` the queue never exceeds its bound, and every decision is stored in the end."""
    log = make(capacity=3, is_blocking=True)
    weather.gate.clear()
    done = threading.Event()

    def work() -> None:
        for number in range(10):
            log.put(decision(number))
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    until(lambda: log.counts["queued"] == 3)
    assert not done.wait(0.1)
    assert log.counts["queued"] == 3
    weather.gate.set()
    worker.join(20)
    log.flush(timeout_s=20)
    assert len(stored(database)) == 10
    assert "dropped" not in log.counts


def test_closing_ends_the_wait_of_a_blocked_worker(make: Make, weather: Weather) -> None:
    """A worker that waits for room while the engine closes is told, not left hanging."""
    log = make(capacity=1, is_blocking=True)
    weather.is_away.set()
    log.put(decision(1))
    told: list[Exception] = []

    def work() -> None:
        try:
            log.put(decision(2))
        except UsageError as error:
            told.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    time.sleep(0.05)
    log.close(timeout_s=0.1)
    worker.join(20)
    assert not worker.is_alive()
    assert "was closed while a decision waited" in str(told[0])


def test_a_dropping_log_keeps_the_newest_and_counts_the_rest(make: Make, database: Database, weather: Weather) -> None:
    """With `drop_oldest_and_count` nobody waits: of 13 at a bound of 10 the newest stay, the others are counted."""
    log = make(capacity=10, is_blocking=False)
    weather.gate.clear()
    log.put(decision(100))
    until(lambda: log._writing == 1)  # on its way, and not to be dropped any more
    for number in range(101, 113):
        log.put(decision(number))
    weather.gate.set()
    log.flush(timeout_s=20)
    assert stored(database) == ["d100", *[f"d{number}" for number in range(104, 113)]]
    assert (log.counts["dropped"], log.counts["written"], log.counts["queued"]) == (3, 10, 13)


def test_what_cannot_be_stored_when_closing_is_counted_and_told(
    make: Make, database: Database, weather: Weather, caplog: pytest.LogCaptureFixture
) -> None:
    """A loss is never silent: it is counted and logged with its reason."""
    log = make()
    weather.is_away.set()
    for number in range(4):
        log.put(decision(number))
    log.close(timeout_s=0.2)
    assert log.counts["lost"] == 4
    assert "4 decisions were not stored when the engine closed: the database cannot be used now" in caplog.text


def test_a_row_that_no_database_takes_costs_no_other_row(
    make: Make, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """One impossible decision in a batch is refused, counted and told; the rest of the batch is stored."""
    log = make()
    for number in range(20):
        log.put(decision(number, propensity=7.0 if number == 11 else 0.5))  # the table's check refuses 7
    log.flush()
    assert len(stored(database)) == 19
    assert "d11" not in stored(database)
    assert (log.counts["written"], log.counts["refused"]) == (19, 1)
    assert "decision d11 cannot be stored" in caplog.text


def test_a_durable_write_that_fails_says_so(make: Make, database: Database, weather: Weather) -> None:
    """`write_now` either stored the decision or raised."""
    log = make()
    weather.is_away.set()
    with pytest.raises(StoreUnavailable, match="cannot be used now"):
        log.write_now(decision(1))
    assert stored(database) == []


def test_batches_are_bounded(make: Make, weather: Weather) -> None:
    """However much waits, one transaction takes at most `BATCH` decisions."""
    log = make()
    weather.gate.clear()
    for number in range(1_000):
        log.put(decision(number))
    weather.gate.set()
    log.flush(timeout_s=60)
    assert sum(weather.batches) == 1_000
    assert max(weather.batches) <= decision_log.BATCH


def test_many_threads_lose_nothing(make: Make, database: Database) -> None:
    """Eight threads put 200 decisions each: all 1,600 are stored once."""
    log = make(capacity=50)

    def work(worker: int) -> None:
        for number in range(200):
            log.put(decision(worker * 1_000 + number))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.flush()
    assert len(stored(database)) == 1_600
    assert log.counts["written"] == log.counts["queued"] == 1_600


class TestRows:
    """The fast way into the table stores what the slow way would."""

    def test_rows_are_what_the_tables_types_would_have_stored(self, database_url: str, tmp_path: Path) -> None:
        """Encoded rows and SQLAlchemy's own inserts read back alike, on both databases, in groups and alone."""
        from retrain_assets.core.outcomes import DecisionRecord
        from retrain_assets.store import decisions as queries

        database = seeded_database(database_url, tmp_path, production=None).database
        count = 2 * decision_rows.GROUP + 3
        many = [decision(number, domain="ä.org", error="'; --", scores={"guest": 0.1 + 0.2}) for number in range(count)]
        with database.write() as connection:
            decision_rows.insert(connection, [RECORDER.row(one) for one in many])
            slow = DecisionRecord(
                **{name: getattr(many[0], name) for name in Decision.__struct_fields__}
                | {"decision_id": "slow", "stratum": "missing", "features": {"pa": 1.5}}
            )
            queries.append(connection, [slow])
        with database.read() as connection:
            found = [queries.get(connection, f"d{number}") for number in range(count)]
            twin = queries.get(connection, "slow")
        database.close()
        assert all(found)
        assert found[0] is not None
        assert twin is not None
        names = [name for name in Decision.__struct_fields__ if name != "decision_id"]
        assert {name: getattr(found[0], name) for name in names} == {name: getattr(twin, name) for name in names}

    def test_a_naive_instant_is_refused(self) -> None:
        """No row without a known instant."""
        with pytest.raises(ValueError, match="a naive datetime reached the database"):
            RECORDER.row(decision(1, decided_at=START.replace(tzinfo=None)))

    def test_instants_are_stored_in_utc_at_a_fixed_width(self) -> None:
        """Text order is time order, whatever zone the clock is in and however round the microseconds are."""
        from datetime import timezone

        from retrain_assets.store.tables import sqlite_instant

        there = START.astimezone(timezone(timedelta(hours=5, minutes=30)))
        for instant in (START, there, START + timedelta(microseconds=1)):
            assert decision_rows._instant(instant) == sqlite_instant(instant)
