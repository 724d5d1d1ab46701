"""Writers that can be killed: a process that forks one for each job it is told, and tells what each of them did.

Holds the side that writes; does not hold the side that kills and counts (`_outcomes_crash.py`). Jobs come as lines of
JSON on standard input, each a list of jobs that run side by side. A writer reports on standard output with one
unbuffered write for each line, `job event value`: what it told before it was killed is in the pipe, and nothing else.

Forking from one process that has imported everything makes a writer start in milliseconds instead of half a second.
That process opens no database and starts no thread, so that its forks inherit neither.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks._outcomes_rows import feature_pool, sent_rows
from retrain_assets.store.collector import FeedbackCollector

BATCH_SIZES = (1, 10, 100, 200)
LOCK_MARKS = ("locked", "busy", "deadlock")


def batch_size(kill: int, batch: int) -> int:
    """Rows of a killed writer's batch; both sides know it."""
    return BATCH_SIZES[(kill + batch) % len(BATCH_SIZES)]


def main() -> None:
    """Fork writers until standard input closes."""
    import psycopg  # noqa: F401  (and below: loaded once, here, instead of in every fork)
    import sqlalchemy.dialects.postgresql.psycopg
    import sqlalchemy.dialects.sqlite  # noqa: F401

    feature_pool()
    logging.disable(logging.WARNING)  # that a database went away is arranged, and said once by every writer
    for line in sys.stdin:
        forked = [(_fork(job), job["job"]) for job in json.loads(line)]
        for process_id, number in forked:
            _, status = os.waitpid(process_id, 0)
            _tell(number, "end", os.waitstatus_to_exitcode(status))


def _fork(job: dict[str, Any]) -> int:
    process_id = os.fork()
    if process_id:
        return process_id
    try:
        _tell(job["job"], "pid", os.getpid())  # the writer tells it: its first word, whatever else is faster
        _work(job)
    finally:
        os._exit(0)


def _work(job: dict[str, Any]) -> None:
    is_to_be_killed = job["kind"] == "until killed"
    try:
        (_write_until_killed if is_to_be_killed else _write_batches)(job)
    except Exception as error:  # noqa: BLE001  (told, and counted by the other side)
        _tell(job["job"], "failed", f"{type(error).__name__}: {error}".replace("\n", " ")[:400])
    while is_to_be_killed:  # whoever kills by number must still find this very process; it ends when nobody listens
        time.sleep(0.05)
        _tell(job["job"], "waiting", "")


def _tell(number: int, event: str, value: object) -> None:
    """One write, so that a line is told whole or not at all."""
    os.write(1, f"{number} {event} {value}\n".encode())


def _collector(job: dict[str, Any]) -> FeedbackCollector:
    if job["spool"] is None:
        return FeedbackCollector(job["url"])
    return FeedbackCollector(job["url"], spool_dir=Path(job["spool"]))


def _write_until_killed(job: dict[str, Any]) -> None:
    """Append batch after batch; first those that the writer before began and never acknowledged."""
    number, collector = job["job"], _collector(job)
    for name, size in job["again"]:
        _tell(number, "begin", name)
        _append(collector, _rows(name, size, is_named=True), number, name)
    for batch in itertools.count():
        name, size = f"k{number}-{batch}", batch_size(number, batch)
        rows = _rows(name, size, is_named=job["spool"] is None)
        _tell(number, "begin", name)
        _append(collector, rows, number, name)


def _rows(name: str, size: int, *, is_named: bool) -> list[dict[str, Any]]:
    """A batch. Named rows may be sent again; the others leave id and instant to the store, as most workers do."""
    rows = sent_rows(name, size)
    for place, row in enumerate(rows):
        if is_named:
            row["outcome_id"] = f"{name}-{place}"
        else:
            del row["timestamp"]
    return rows


def _append(collector: FeedbackCollector, rows: list[dict[str, Any]], number: int, name: str) -> None:
    """Append and tell. All receipts of a batch must say the same, or a part of it was there before."""
    receipts = collector.append_outcomes(rows)
    spooled = sum(getattr(receipt, "is_spooled", False) for receipt in receipts)
    statuses = Counter(receipt.status for receipt in receipts)
    if len(statuses) != 1 or not {"accepted", "duplicate"} & set(statuses):
        raise AssertionError(f"batch {name} of {len(rows)} rows got receipts {dict(statuses)}")
    _tell(number, "spooled" if spooled else "done", name)


def _write_batches(job: dict[str, Any]) -> None:
    """Append a number of batches; every fourth is the same as the neighbour's, at about the same time."""
    number, collector = job["job"], _collector(job)
    found: Counter[str] = Counter()
    taken = []
    time.sleep(max(0.0, job["start_at"] - time.monotonic()))
    for batch in range(job["batches"]):
        owner = number // 2 * 2 if batch % 4 == 0 else number
        rows = _rows(f"w{owner}-{batch}", job["size"], is_named=True)
        started = time.perf_counter()
        try:
            receipts = collector.append_outcomes(rows)
        except Exception as error:  # noqa: BLE001  (what kind it is, is the question)
            is_lock = any(mark in str(error).casefold() for mark in LOCK_MARKS)
            found["lock errors" if is_lock else f"{type(error).__name__}: {error}".splitlines()[0][:200]] += 1
        else:
            taken.append(time.perf_counter() - started)
            found.update(receipt.status for receipt in receipts)
    collector.close()
    _tell(
        number, "result", json.dumps({"counts": found, "slowest_s": max(taken, default=0.0), "until": time.monotonic()})
    )


if __name__ == "__main__":
    main()
