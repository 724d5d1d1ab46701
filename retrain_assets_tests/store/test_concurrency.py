"""Several writers, and writers that are killed: nothing is lost, doubled or half there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import select

from retrain_assets.store import outcomes, schema, tables
from retrain_assets.store.database import Database
from retrain_assets.testing import START

_WRITER = """
import sys
from retrain_assets.store.collector import FeedbackCollector
url, who, batches, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
collector = FeedbackCollector(url)
print("ready", flush=True)
sys.stdin.readline()
for batch in range(batches):
    rows = [
        dict(task_id=f"{who}-{batch}-{row}", outcome_id=f"{who}-{batch}-{row}", action_attempted="comment", result=True)
        for row in range(size)
    ]
    rows.append(dict(task_id="shared", outcome_id=f"shared-{batch}", action_attempted="comment", result=True))
    receipts = collector.append_outcomes(rows)
    print(batch, *(receipt.status for receipt in receipts), flush=True)
"""


def _start(url: str, who: str, batches: int, size: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", _WRITER, url, who, str(batches), str(size)]
    writer = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    return writer


def _go(writer: subprocess.Popen[str]) -> None:
    assert writer.stdin is not None
    writer.stdin.write("\n")
    writer.stdin.flush()


def _ids(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(select(tables.outcomes.c.outcome_id)).scalars())


def test_two_processes_that_append_at_once_lose_and_double_nothing(database: Database) -> None:
    """Rows of both are all there; those that both sent were accepted from exactly one of them."""
    batches, size = 25, 4
    writers = [_start(database.url, who, batches, size) for who in ("a", "b")]
    for writer in writers:
        _go(writer)
    accepted: Counter[str] = Counter()
    for writer in writers:
        said, _ = writer.communicate()
        assert writer.returncode == 0
        for line in said.splitlines():
            batch, *statuses = line.split()
            assert statuses[:-1] == ["accepted"] * size
            accepted[batch] += statuses[-1] == "accepted"
    assert set(accepted.values()) == {1}
    ids = _ids(database)
    assert len(ids) == len(set(ids)) == 2 * batches * size + batches


def test_a_writer_that_is_killed_leaves_whole_batches_and_every_acknowledged_one(database: Database) -> None:
    """Kill -9 at random moments: each batch is there entirely or not at all, and none with a receipt is missing."""
    seed = 20261123
    print(f"seed {seed}")
    rng, size = random.Random(seed), 200
    for kill in range(4):
        writer = _start(database.url, f"k{kill}", 10_000, size)
        _go(writer)
        assert writer.stdout is not None
        seen = [writer.stdout.readline() for _ in range(rng.randint(1, 6))]
        # Somewhere inside the next batch or between two: the writer goes on while this process burns a random while.
        sum(range(rng.randint(0, 400_000)))
        os.kill(writer.pid, signal.SIGKILL)
        rest, _ = writer.communicate()
        told = [line for line in (*seen, *rest.splitlines(keepends=True)) if line.endswith("\n")]
        acknowledged = {line.split()[0] for line in told}
        found = Counter(i.split("-")[1] for i in _ids(database) if i.startswith(f"k{kill}-"))
        assert set(found.values()) == {size}
        assert acknowledged <= set(found)
        assert len(found) <= len(acknowledged) + 1


def test_numbers_are_never_given_twice(database: Database) -> None:
    """A cursor that stands at the newest row does not pass over the next one, also after a row was deleted."""
    row = {"outcome_id": "o1", "task_id": "t", "attempt": 1, "domain": "", "action_attempted": "a", "result": "success"}
    values = row | {"features": {}, "occurred_at": START, "received_at": START}
    with database.write() as connection:
        connection.execute(tables.outcomes.insert().values(values))
        first = outcomes.highest_seq(connection)
        connection.execute(tables.outcomes.delete())
        connection.execute(tables.outcomes.insert().values(values))
        assert outcomes.highest_seq(connection) > first


def test_the_safe_number_waits_for_writers_that_hold_a_lower_one(postgresql_url: str) -> None:
    """PostgreSQL hands out numbers before it commits them: a reader must not step over one that is under way."""
    database = Database(postgresql_url)
    schema.migrate(database)

    def values(name: str) -> dict[str, object]:
        row = {"outcome_id": name, "task_id": name, "attempt": 1, "domain": "", "action_attempted": "a"}
        return row | {"result": "success", "features": {}, "occurred_at": START, "received_at": START}

    def read() -> int:
        with database.write() as connection:
            return outcomes.highest_seq(connection)

    with ThreadPoolExecutor(1) as pool:
        with database.write() as slow:
            slow.execute(tables.outcomes.insert().values(values("slow")))
            with database.write() as quick:
                quick.execute(tables.outcomes.insert().values(values("quick")))
            reading = pool.submit(read)
            with database.read() as looking:  # until the reader waits for the slow writer's lock
                waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
                while not looking.exec_driver_sql(waiting).scalar_one():
                    assert not reading.done()
        assert reading.result() == 2
    with database.read() as connection:
        assert outcomes.count(connection) == 2
