"""Whether what was acknowledged is there: eight writers at once, and writers that are killed at random moments.

Holds the parts `writers`, `kills`, `csv` and `spool`: it starts, kills and counts; what a writer does is in
`_outcomes_writer.py`. A killed writer's unacknowledged batches are sent again by the next one, as a worker's would be;
a worker with a spool sends nothing again, and leaves ids to the store.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from benchmarks._outcomes_base import ROOT, SEED, Bench, Row, sqlite_file
from benchmarks._outcomes_outage import Outage, outage_of
from benchmarks._outcomes_writer import batch_size
from retrain_assets.store.collector import FeedbackCollector

WRITERS = 8
KILLS_PER_FILE = 20
LONGEST_DELAY_S = 0.06
"""A kill comes up to this long after the first receipt, in every fifth case after the start."""


class Nursery:
    """The process that forks writers; see `_outcomes_writer.py`."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks._outcomes_writer"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # With the pipe's end gone, a writer that still runs ends at its next word, and then the nursery.
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=60)

    def start(self, jobs: list[dict[str, Any]]) -> None:
        """Fork one writer for each job."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(jobs) + "\n")

    def said(self) -> tuple[int, str, str]:
        """The next word of any writer: job, event, value."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks writers is gone; its message stands above"
        number, event, value = line.rstrip("\n").split(" ", maxsplit=2)
        return int(number), event, value


@dataclass(slots=True)
class Killed:
    """What killed writers told; batches by name, to their number of rows."""

    begun: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    spooled: int = 0
    again: list[tuple[str, int]] = field(default_factory=list)
    kills: int = 0
    inside: int = 0
    """Kills between `begin` and the receipt."""
    failures: list[str] = field(default_factory=list)

    def note(self, event: str, value: str) -> None:
        """Take in one word of a writer."""
        if event == "begin":
            kill, batch = value[1:].split("-")
            self.begun[value] = batch_size(int(kill), int(batch))
        elif event in {"done", "spooled"}:
            self.acknowledged[value] = self.begun[value]
            self.spooled += event == "spooled"
        elif event == "failed":
            self.failures.append(value)
        elif event == "end":
            self.kills += value == str(-signal.SIGKILL)

    def open_batches(self) -> list[tuple[str, int]]:
        """Batches that were begun and never acknowledged."""
        return [(name, size) for name, size in self.begun.items() if name not in self.acknowledged]


def kill_one(
    nursery: Nursery,
    killed: Killed,
    rng: random.Random,
    job: dict[str, Any],
    *,
    first_s: float | None = None,
    mishap: Callable[[], None] | None = None,
) -> float | None:
    """Start a writer, let it write for a random while, kill it, and take in all that it told.

    Parameters
    ----------
    nursery, killed, rng, job
    first_s : float, optional
        Kill within about the time that a first receipt takes; by default a while after it, in every fifth case from the
        start.
    mishap : callable, optional
        Happens at a random moment of its own before the kill.

    Returns
    -------
    float or None
        Seconds from the start to the first receipt, where that was waited for.
    """
    started, waited_s, event = time.perf_counter(), None, ""
    nursery.start([job])
    _, event, process_id = nursery.said()
    assert event == "pid"
    if first_s is None and rng.random() < 0.8:
        while event not in {"done", "spooled", "failed"}:
            _, event, value = nursery.said()
            killed.note(event, value)
        waited_s = time.perf_counter() - started
    if mishap is not None:
        time.sleep(rng.uniform(0, LONGEST_DELAY_S))
        mishap()
    time.sleep(rng.uniform(0, LONGEST_DELAY_S if first_s is None else 1.2 * first_s))
    os.kill(int(process_id), signal.SIGKILL)  # it never ends by itself: the number is still its own
    while event != "end":
        _, event, value = nursery.said()
        killed.note(event, value)
    killed.inside += bool(set(dict(killed.open_batches())) - set(dict(killed.again)))
    return waited_s


def count(killed: Killed, stored: Counter[str]) -> Counter[str]:
    """Hold what is stored against what was acknowledged; `stored` counts task ids."""
    per_batch: Counter[str] = Counter()
    for task_id in stored:
        per_batch[task_id.rsplit("-", maxsplit=1)[0]] += 1
    lost = sum(size - per_batch[name] for name, size in killed.acknowledged.items())
    partial = sum(0 < per_batch[name] < size for name, size in killed.begun.items())
    twice = sum(times - 1 for times in stored.values())
    return Counter(
        {
            "kills": killed.kills,
            "kills inside an append": killed.inside,
            "acknowledged rows": sum(killed.acknowledged.values()),
            "of them batches in the spool": killed.spooled,
            "stored rows": sum(stored.values()),
            "lost": lost,
            "partial batches": partial,
            "twice": twice,
            "failures": len(killed.failures),
        }
    )


def _row(part: str, case: str, kind: str, counts: Counter[str], failures: list[str]) -> Row:
    wrong = sum(counts[name] for name in ("lost", "partial batches", "twice", "failures"))
    facts: dict[str, Any] = {"seed": SEED, **counts}
    if failures:
        facts["first failure"] = failures[0]
    return Row(part, case, kind, float(wrong), "wrong", "0 lost, partial, twice", wrong == 0, facts)


# -------------------------------------------------------------------------------------------------- the measurements


def measure_writers(bench: Bench) -> Iterator[Row]:
    """Eight processes at once, a quarter of whose batches is sent by two of them."""
    with Nursery() as nursery:
        for kind in bench.kinds:
            for size, batches in bench.sizes.writer_batches.items():
                yield _writers(bench, nursery, kind, size, batches)


def _writers(bench: Bench, nursery: Nursery, kind: str, size: int, batches: int) -> Row:
    url, start_at = bench.new_database(kind), time.monotonic() + 0.5
    job = {"kind": "batches", "url": url, "spool": None, "size": size, "batches": batches, "start_at": start_at}
    nursery.start([job | {"job": number} for number in range(WRITERS)])
    found: list[dict[str, Any]] = []
    failures, ended = [], 0
    while ended < WRITERS:
        _, event, value = nursery.said()
        ended += event == "end"
        if event == "result":
            found.append(json.loads(value))
        elif event == "failed":
            failures.append(value)
    counts: Counter[str] = Counter()
    for one in found:
        counts.update(one["counts"])
    stored = stored_tasks(url)
    names = {f"w{w // 2 * 2 if batch % 4 == 0 else w}-{batch}" for w in range(WRITERS) for batch in range(batches)}
    lost = len(names) * size - len(stored)
    twice = sum(stored.values()) - len(stored) + counts["accepted"] - len(stored)
    errors = {name: n for name, n in counts.items() if name not in {"accepted", "duplicate"}}
    wrong = abs(lost) + abs(twice) + sum(errors.values()) + len(failures)
    elapsed_s = max((one["until"] for one in found), default=start_at) - start_at
    facts: dict[str, Any] = {"rows": sum(stored.values()), "duplicates told": counts["duplicate"], "lost": lost}
    facts |= {"twice": twice, "errors": errors | dict(Counter(failures))}
    facts["rows_per_s"] = round(sum(stored.values()) / elapsed_s) if elapsed_s > 0 else None
    facts["slowest_append_s"] = round(max((one["slowest_s"] for one in found), default=0.0), 3)
    case = f"{WRITERS} writers, batch {size}"
    return Row("writers", case, kind, float(wrong), "wrong", "0 errors, lost, twice", wrong == 0, facts)


def measure_kills(bench: Bench) -> Iterator[Row]:
    """Writers on a database, killed."""
    with Nursery() as nursery:
        for kind in bench.kinds:
            url, killed, rng = bench.new_database(kind), Killed(), random.Random(SEED)
            for number in range(bench.sizes.kills):
                kill_one(nursery, killed, rng, _job(number, url, killed))
                killed.again = killed.open_batches()
            if kind == "sqlite":
                _check_integrity(url)
            yield _row("kills", "kill -9 of writers", kind, count(killed, stored_tasks(url)), killed.failures)
            bench.drop(url)


def _job(number: int, url: str, killed: Killed, spool: Path | None = None) -> dict[str, Any]:
    again = killed.again if spool is None else []
    job = {"job": number, "kind": "until killed", "url": url, "again": again}
    return job | {"spool": None if spool is None else str(spool)}


def measure_csv(bench: Bench) -> Iterator[Row]:
    """The one writer of a CSV store, killed; a new file now and then, since each writer first reads what is there."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    rng = random.Random(SEED)
    with Nursery() as nursery:
        for first in range(0, bench.sizes.kills, KILLS_PER_FILE):
            file = bench.new_folder() / "outcomes.csv"
            killed = Killed()
            for number in range(first, min(first + KILLS_PER_FILE, bench.sizes.kills)):
                kill_one(nursery, killed, rng, _job(number, f"csv://{file}", killed))
                killed.again = killed.open_batches()
            counts.update(count(killed, _mended(file)))
            failures += killed.failures
    yield _row("csv", "kill -9 of the CSV's writer", "csv", counts, failures)


def _mended(file: Path) -> Counter[str]:
    """Every task id in the file, once the next writer has taken out what the last kill tore."""
    with FeedbackCollector(f"csv://{file}") as collector:
        collector.append_outcome(task_id="mended-0", action_attempted="comment", result=True)
    with file.open(encoding="utf-8", newline="") as lines:
        stored = Counter(row["task_id"] for row in csv.DictReader(lines))
    del stored["mended-0"]
    return stored


def measure_spool(bench: Bench) -> Iterator[Row]:
    """Writers with a spool, killed while the database is away, while it comes back, and (PostgreSQL) as it goes."""
    for kind in bench.kinds:
        outage, spool = outage_of(bench, kind), bench.new_folder()
        killed = _kill_around(outage, kind, spool, bench.sizes.kills)
        with FeedbackCollector(outage.url, spool_dir=spool) as collector:
            collector.flush()
        counts = count(killed, stored_tasks(outage.url))
        # Hidden are a lock and what a kill left of a file that was never given its name.
        counts["files left in the spool"] = sum(file.name[0] != "." for file in spool.iterdir())
        yield _row("spool", "kill -9 of writers with a spool", kind, counts, killed.failures)


def _kill_around(outage: Outage, kind: str, spool: Path, kills: int) -> Killed:
    """Kill writers by turns: the database is away; it is back, in the middle of the delivery; away; back, later on."""
    killed, rng = Killed(), random.Random(SEED)
    delivery_s = [LONGEST_DELAY_S]  # what waits is delivered with the first batch, before its receipt
    with Nursery() as nursery:
        for number in range(kills):
            job = _job(number, outage.url, killed, spool)
            if number % 2 == 0:
                with outage.away():
                    kill_one(nursery, killed, rng, job)
            elif number % 4 == 1:
                kill_one(nursery, killed, rng, job, first_s=statistics.median(delivery_s))
            else:
                mishap = outage.cut if kind == "postgresql" else None
                taken_s = kill_one(nursery, killed, rng, job, mishap=mishap)
                delivery_s += [taken_s] if taken_s is not None else []
                outage.back()
            killed.again = killed.open_batches()
    return killed


# ------------------------------------------------------------------------------------------------------------ counting


def stored_tasks(url: str) -> Counter[str]:
    """Every stored outcome's task id, counted by the bare driver."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(sqlite_file(url))) as reader:
            return Counter(row[0] for row in reader.execute("SELECT task_id FROM outcomes"))
    with psycopg.connect(url, autocommit=True) as connection:
        _wait_for_the_dead(connection)
        return Counter(row[0] for row in connection.execute(b"SELECT task_id FROM outcomes"))


def _wait_for_the_dead(connection: psycopg.Connection[Any]) -> None:
    """A killed writer's server process may still be at its commit: count when it is gone."""
    others = b"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    for _ in range(200):
        (left,) = connection.execute(others).fetchone() or (0,)
        if left == 0:
            return
        time.sleep(0.05)
    raise AssertionError("sessions of killed writers are still there after 10 s")


def _check_integrity(url: str) -> None:
    with closing(sqlite3.connect(sqlite_file(url))) as reader:
        (said,) = reader.execute("PRAGMA integrity_check").fetchone()
    assert said == "ok", said
