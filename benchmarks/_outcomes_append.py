"""How fast outcomes come in: beside the bare driver, beside the seed's CSV, from a file, and from a cold start.

Holds the parts `append`, `history`, `import` and `start`. Each rival works in the same run, in turns with the store,
in a database (or a file) of its own that holds the same rows.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from benchmarks._outcomes_base import ROOT, Bench, Row, median_ms, sqlite_file
from benchmarks._outcomes_rows import OUTCOME_COLUMNS, START, Span, Values, insert_sql, load, sent_rows
from retrain_assets.settings import Config, Settings
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.database import Database

Insert = Callable[[Sequence[Values]], None]
PRAGMAS = ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")

_COLD = """
import json, resource, sys, time
import retrain_assets
collector = retrain_assets.FeedbackCollector(sys.argv[1])
def used():
    said = resource.getrusage(resource.RUSAGE_SELF)
    status = open("/proc/self/status").read()
    return said.ru_utime + said.ru_stime, int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
made = used()
collector.append_outcome(task_id="t", action_attempted="comment", result=True)
print(json.dumps({"made": made, "appended": used()}))
"""
_BARE = (
    "import resource, json; u = resource.getrusage(resource.RUSAGE_SELF); print(json.dumps(u.ru_utime + u.ru_stime))"
)


@dataclass(slots=True)
class _Turns:
    """Seconds of each side, and whose turn comes first."""

    taken: dict[str, list[float]] = field(default_factory=dict)
    number: int = 0

    def play(self, sides: dict[str, Callable[[], None]]) -> None:
        """One round: each side once, another one first each time, since the first may pay for a cold cache."""
        names = list(sides)
        at = self.number % len(names)
        self.number += 1
        for name in names[at:] + names[:at]:
            started = time.perf_counter()
            sides[name]()
            self.taken.setdefault(name, []).append(time.perf_counter() - started)

    def medians_ms(self) -> dict[str, float]:
        """Median of each side."""
        return {name: median_ms(seconds) for name, seconds in self.taken.items()}

    def ratio(self, side: str, rival: str) -> float:
        """How many times the speed of `rival` a side has, by medians."""
        return statistics.median(self.taken[rival]) / statistics.median(self.taken[side])


def measure_append(bench: Bench) -> Iterator[Row]:
    """Durable appends beside the bare driver that inserts the same finished rows."""
    for kind in bench.kinds:
        for size, rounds in bench.sizes.append_rounds.items():
            yield _append(bench, kind, size, rounds)


def _append(bench: Bench, kind: str, size: int, rounds: int) -> Row:
    url, *raw_urls = (bench.new_database(kind) for _ in range(2 if kind == "sqlite" else 3))
    batches = [sent_rows("append", size, round_ * size) for round_ in range(rounds + 2)]
    finished = _finished(bench, kind, batches)
    turns = _Turns()
    with FeedbackCollector(url) as collector, closing(_Raw(kind, url, raw_urls)) as raw:
        for place, (batch, rows) in enumerate(zip(batches, finished, strict=True)):
            if place == 2:
                turns = _Turns()  # the first two warm up
            turns.play({"store": lambda b=batch: _accept(collector, b), **raw.sides(rows)})  # type: ignore[misc]
    rivals = [name for name in turns.taken if name != "store"]
    best = min(rivals, key=lambda name: statistics.median(turns.taken[name]))
    ratio = turns.ratio("store", best)
    has_target = kind == "sqlite" and size >= 100
    medians = turns.medians_ms()
    facts = {"rounds": rounds, "rows_per_s": round(size / medians["store"] * 1e3), "median_ms": medians, "rival": best}
    case = f"durable append, batch {size:,}, against the driver"
    is_met = ratio >= 0.7 if has_target else None
    return Row("append", case, kind, ratio, "x", ">= 0.7" if has_target else "", is_met, facts | raw.facts)


def _accept(collector: FeedbackCollector, batch: list[dict[str, Any]]) -> None:
    statuses = {receipt.status for receipt in collector.append_outcomes(batch)}
    assert statuses == {"accepted"}, statuses


def _finished(bench: Bench, kind: str, batches: list[list[dict[str, Any]]]) -> list[list[Values]]:
    """The rows that the store makes of the batches, as the driver reads them back."""
    url = bench.new_database(kind)
    with FeedbackCollector(url) as collector:
        _accept(collector, [row for batch in batches for row in batch])
    as_text = "features" if kind == "sqlite" else "features::text"
    columns = ", ".join([*OUTCOME_COLUMNS[:-1], as_text])
    query = f"SELECT {columns} FROM outcomes ORDER BY seq"
    if kind == "sqlite":
        with closing(sqlite3.connect(sqlite_file(url))) as reader:
            rows = reader.execute(query).fetchall()
    else:
        with psycopg.connect(url) as connection:
            rows = connection.execute(query.encode()).fetchall()
    size = len(batches[0])
    return [rows[start : start + size] for start in range(0, len(rows), size)]


class _Raw:
    """The bare driver, set as the store sets it; on PostgreSQL by `executemany` and by one statement of many rows."""

    def __init__(self, kind: str, url: str, raw_urls: list[str]) -> None:
        self.facts: dict[str, Any] = {}
        self._inserts: dict[str, Insert] = {}
        if kind == "sqlite":
            self._connections: list[Any] = [self._open_sqlite(url, raw_urls[0])]
            self._inserts["sqlite3 executemany"] = self._sqlite
        else:
            self._connections = [psycopg.connect(raw_url) for raw_url in raw_urls]
            self._inserts["psycopg executemany"] = self._many
            self._inserts["psycopg multi-row"] = self._multi

    def sides(self, rows: Sequence[Values]) -> dict[str, Callable[[], None]]:
        """What each rival does with a batch."""
        return {name: lambda i=insert: i(rows) for name, insert in self._inserts.items()}  # type: ignore[misc]

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()

    def _open_sqlite(self, url: str, raw_url: str) -> sqlite3.Connection:
        with Database(url).read() as ours:
            self.facts["pragmas"] = {name: ours.exec_driver_sql(f"PRAGMA {name}").scalar() for name in PRAGMAS}
        connection = sqlite3.connect(sqlite_file(raw_url), isolation_level=None)
        for name, value in self.facts["pragmas"].items():
            connection.execute(f"PRAGMA {name}={value}")
        return connection

    def _sqlite(self, rows: Sequence[Values]) -> None:
        connection = self._connections[0]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(insert_sql("outcomes", OUTCOME_COLUMNS, "?"), rows)
        connection.execute("COMMIT")

    def _many(self, rows: Sequence[Values]) -> None:
        with self._connections[0].transaction(), self._connections[0].cursor() as cursor:
            cursor.executemany(insert_sql("outcomes", OUTCOME_COLUMNS, "%s").encode(), rows)

    def _multi(self, rows: Sequence[Values]) -> None:
        with self._connections[1].transaction(), self._connections[1].cursor() as cursor:
            statement = insert_sql("outcomes", OUTCOME_COLUMNS, "%s", len(rows)).encode()
            cursor.execute(statement, [value for row in rows for value in row])


def measure_history(bench: Bench) -> Iterator[Row]:
    """One thousand rows onto a history, beside reading, joining and rewriting the whole CSV."""
    import pandas as pd

    sizes, size = bench.sizes, 1_000
    file = bench.new_folder() / "outcomes.csv"
    for start in range(0, sizes.history_rows, 50_000):
        count = min(50_000, sizes.history_rows - start)
        frame = pd.DataFrame(sent_rows("history", count, start))
        frame.to_csv(file, mode="a", header=start == 0, index=False)
    for kind in bench.kinds:
        url = bench.new_database(kind)
        # One task in forty has no outcome: the database holds as many rows as the CSV, nearly.
        load(url, [Span(0, sizes.history_rows, START, START.replace(year=START.year + 1))])
        turns = _Turns()
        with FeedbackCollector(url) as collector:
            _accept(collector, sent_rows("warm", size))
            for round_ in range(sizes.history_rounds):
                new = sent_rows(f"new{kind}", size, round_ * size)
                turns.play({"store": lambda n=new: _accept(collector, n), "seed": lambda n=new: _rewrite(file, n)})  # type: ignore[misc]
        bench.drop(url)
        facts = {"history_rows": sizes.history_rows, "rounds": sizes.history_rounds, "median_ms": turns.medians_ms()}
        ratio = turns.ratio("store", "seed")
        case = f"1,000 rows onto {sizes.history_rows:,}, against rewriting the CSV"
        yield Row("history", case, kind, ratio, "x", ">= 500", ratio >= 500, facts)
    file.unlink()


def _rewrite(file: Path, new: list[dict[str, Any]]) -> None:
    """The seed's way: the whole history through memory for each batch."""
    import pandas as pd

    merged = pd.concat([pd.read_csv(file, low_memory=False), pd.DataFrame(new)])
    merged.drop_duplicates(subset=["task_id"], keep="last").to_csv(file, index=False)


def measure_import(bench: Bench) -> Iterator[Row]:
    """`retrain import` of a CSV, beside pandas that checks nothing and may store twice."""
    import pandas as pd
    from sqlalchemy import create_engine

    from retrain_assets.operations.imports import import_file
    from retrain_assets.operations.platform import open_platform

    count = bench.sizes.import_rows
    file = bench.new_folder() / "log.csv"
    pd.DataFrame(sent_rows("import", count)).to_csv(file, index=False)
    for kind in bench.kinds:
        turns = _Turns()
        for _ in range(bench.sizes.import_rounds):
            url, rival_url = bench.new_database(kind), bench.new_database(kind)
            settings = Settings(config=Config(), config_path=None, home=bench.new_folder(), database_url=url)
            platform = open_platform(settings)
            engine = create_engine(rival_url.replace("postgresql:", "postgresql+psycopg:"))

            def ours() -> None:
                found = import_file(platform, file)  # noqa: B023  (called in this very round)
                assert (found.accepted, found.duplicate, found.quarantined) == (count, 0, 0), found.to_dict()

            def theirs() -> None:
                frame = pd.read_csv(file)
                with engine.begin() as connection:  # noqa: B023
                    assert frame.to_sql("imported", connection, index=False, chunksize=1_000) is not None

            turns.play({"import": ours, "read_csv + to_sql": theirs})
            engine.dispose()
            platform.database.close()
            bench.drop(url)
            bench.drop(rival_url)
        medians = turns.medians_ms()
        facts = {"rows": count, "rounds": bench.sizes.import_rounds, "median_ms": medians}
        facts["against pandas"] = f"{turns.ratio('import', 'read_csv + to_sql'):.2f}x"
        yield Row("import", f"import of {count:,} rows", kind, count / medians["import"] * 1e3, "rows/s", facts=facts)


def measure_start(bench: Bench) -> Iterator[Row]:
    """What a worker pays before its first outcome: CPU and memory of a fresh interpreter."""
    made: list[tuple[float, float]] = []
    appended: list[tuple[float, float]] = []
    bare = []
    for _ in range(bench.sizes.start_rounds + 1):
        url = f"sqlite:///{bench.new_folder() / 'retrain.db'}"
        found = json.loads(_python(_COLD, url))
        made.append(found["made"])
        appended.append(found["appended"])
        bare.append(float(json.loads(_python(_BARE))))
    cpu_s, memory_mb = (statistics.median(values) for values in zip(*made[1:], strict=True))
    first_cpu_s, first_mb = (statistics.median(values) for values in zip(*appended[1:], strict=True))
    facts = {"rounds": bench.sizes.start_rounds, "bare_python_cpu_s": round(statistics.median(bare[1:]), 3)}
    more = {"with_first_append": {"cpu_s": round(first_cpu_s, 3), "mb": round(first_mb, 1)}}
    case = "import retrain_assets and make a collector"
    yield Row("start", f"{case}: CPU", "-", cpu_s, "s", "<= 0.3", cpu_s <= 0.3, facts | more)
    yield Row("start", f"{case}: memory", "-", memory_mb, "MB", "<= 80", memory_mb <= 80, facts | more)


def _python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
