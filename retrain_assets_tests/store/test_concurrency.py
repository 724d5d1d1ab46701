"""Several writers, and writers that are killed: nothing is lost, doubled or half there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import select

from retrain_assets.store import outcomes, schema, tables
from retrain_assets.store.database import Database
from retrain_assets.testing import START

# One interpreter that forks its writers, each before it has a connection: starting eight takes longer than the test.
_CREW = """
import json, os, random, signal, sys
from retrain_assets.store.collector import FeedbackCollector
url = sys.argv[1]

def started(who, sizes):
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        return child, os.fdopen(reading)
    collector = FeedbackCollector(url)
    for batch, size in enumerate(sizes):
        names = [f"{who}-{batch}-{row}" for row in range(size)] + [f"shared-{batch}"]
        rows = [dict(task_id=n, outcome_id=n, action_attempted="comment", result=True) for n in names]
        receipts = collector.append_outcomes(rows)
        os.write(writing, (json.dumps([batch, *(receipt.status for receipt in receipts)]) + chr(10)).encode())
    os._exit(0)
"""

_WRITERS = f"""{_CREW}
crew = [started(f"w{{who}}", [1] * 12 + [100] * 4) for who in range(8)]
told = [[json.loads(line) for line in lines] for _, lines in crew]
print(json.dumps([told, [os.waitpid(child, 0)[1] for child, _ in crew]]))
"""

_KILLED = f"""{_CREW}
rng, told = random.Random(int(sys.argv[2])), {{}}
for kill in range(12):
    child, lines = started(f"k{{kill}}", [200] * 10_000)
    seen = [lines.readline() for _ in range(rng.randint(1, 6))]
    # Somewhere inside the next batch or between two: the writer goes on while this process burns a random while.
    sum(range(rng.randint(0, 400_000)))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told[f"k{{kill}}"] = [json.loads(line)[0] for line in (*seen, *lines) if line.endswith(chr(10))]
print(json.dumps(told))
"""


def _run(script: str, *arguments: str) -> Any:  # noqa: ANN401  (the JSON that a script prints)
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _ids(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(select(tables.outcomes.c.outcome_id)).scalars())


def test_eight_writers_at_once_meet_no_lock_and_lose_and_double_nothing(database: Database) -> None:
    """Single outcomes and batches of a hundred: every writer gets its receipts; of what all send, one is accepted."""
    told, ends = _run(_WRITERS, database.url)
    assert ends == [0] * 8
    accepted: Counter[int] = Counter()
    for lines in told:
        assert [batch for batch, *_ in lines] == list(range(16))
        for batch, *statuses in lines:
            assert statuses[:-1] == ["accepted"] * (1 if batch < 12 else 100)
            accepted[batch] += statuses[-1] == "accepted"
    assert accepted == Counter(range(16))
    ids = _ids(database)
    assert len(ids) == len(set(ids)) == 8 * (12 + 400) + 16


def test_a_writer_that_is_killed_leaves_whole_batches_and_every_acknowledged_one(database: Database) -> None:
    """Kill -9 at random moments: each batch is there entirely or not at all, and none with a receipt is missing."""
    seed = 20261123
    print(f"seed {seed}")
    told = _run(_KILLED, database.url, str(seed))
    found = Counter(tuple(name.split("-")[:2]) for name in _ids(database) if name.startswith("k"))
    assert set(found.values()) == {200}
    assert len(told) == 12
    for kill, acknowledged in told.items():
        stored = {int(batch) for who, batch in found if who == kill}
        assert set(acknowledged) <= stored
        assert len(stored) <= len(acknowledged) + 1


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
