"""Rows for the outcome store's benchmark: as workers send them, and finished, as the tables hold them.

Holds invention and bulk loading; does not hold measurements. All rows have the twelve features of the shipped
configuration. Bulk loading goes past the collector: it makes a history to measure on, and is not measured itself.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import product
from typing import Any

import psycopg

from benchmarks._outcomes_base import SEED, sqlite_file

START = datetime(2026, 1, 5, tzinfo=UTC)
ACTIONS = ("comment", "profile", "forum", "guest")
FLAGS = (
    "https_enabled", "comment_supported", "profile_supported", "forum_supported", "guest_supported", "requires_login",
    "registration_detected",
)  # fmt: skip
OUTCOME_COLUMNS = (
    "outcome_id", "task_id", "attempt", "decision_id", "domain", "action_attempted", "result", "failure_reason",
    "execution_time_s", "retry_count", "occurred_at", "received_at", "model_version", "propensity", "replaces",
    "features",
)  # fmt: skip
DECISION_COLUMNS = (
    "decision_id", "task_id", "attempt", "domain", "decided_at", "deadline_at", "features", "actions", "action",
    "scores", "propensity", "assigned_arm", "arm", "share", "model_version", "rollout_id", "stratum", "latency_ms",
    "error",
)  # fmt: skip
_POOL = 4_000
"""Different tasks; their features repeat after that."""
_ACTIONS_JSON = json.dumps(ACTIONS)
_SCORES_JSON = json.dumps({"comment": 0.8, "profile": 0.6, "forum": 0.4, "guest": 0.2})

Values = tuple[Any, ...]


@cache
def feature_pool() -> tuple[dict[str, Any], ...]:
    """Features of `_POOL` tasks, the same in every process."""
    rng = random.Random(SEED)
    return tuple(
        {
            "pa": round(rng.uniform(0, 100), 2),
            "da": round(rng.uniform(0, 100), 2),
            "site_type": rng.choice(("blog", "forum", "news", "shop")),
            "platform_guess": f"platform{rng.randrange(20)}",
            "url_path_depth": rng.randrange(8),
            **{name: rng.random() < 0.5 for name in FLAGS},
        }
        for _ in range(_POOL)
    )


def sent_rows(name: str, count: int, first: int = 0) -> list[dict[str, Any]]:
    """Outcomes as a worker hands them to `append_outcomes`: with features, without a decision, ids left to derive."""
    pool = feature_pool()
    return [
        {
            "task_id": f"{name}-{number}",
            "domain": f"site{number % 997}.example",
            "action_attempted": ACTIONS[number % 4],
            "result": number % 3 != 0,
            "failure_reason": None if number % 3 else "captcha",
            "execution_time": 1.5 + number % 7,
            "timestamp": START + timedelta(seconds=number),
            **pool[number % _POOL],
        }
        for number in range(first, first + count)
    ]


@dataclass(frozen=True, slots=True)
class Span:
    """Tasks that mature evenly in `[start_at, end_at)`: the even ones were decided by an engine, the odd ones were not.

    One in twenty decisions has no outcome. `first` numbers the tasks, so that spans do not share any.
    """

    first: int
    tasks: int
    start_at: datetime
    end_at: datetime

    def instants(self) -> Iterator[tuple[int, datetime]]:
        """Number and instant of maturity of each task."""
        step_us = int((self.end_at - self.start_at).total_seconds() * 1e6) // self.tasks
        for place in range(self.tasks):
            yield self.first + place, self.start_at + timedelta(microseconds=place * step_us + place % 7)

    def decisions(self) -> Iterator[Values]:
        """Finished rows in the order of `DECISION_COLUMNS`."""
        features = _feature_texts()
        for number, matured_at in self.instants():
            if number % 2:
                continue
            decided_at = _text(matured_at - timedelta(hours=1))
            yield (
                f"d{number:012}", f"task-{number}", 1, f"site{number % 997}.example", decided_at, _text(matured_at),
                features[number % _POOL], _ACTIONS_JSON, ACTIONS[number % 4], _SCORES_JSON, 0.985, "production",
                "production", 0.1, "v1.0.0", None, "blog", 0.05, None,
            )  # fmt: skip

    def outcomes(self) -> Iterator[Values]:
        """Finished rows in the order of `OUTCOME_COLUMNS`."""
        features = _feature_texts()
        for number, matured_at in self.instants():
            is_decided = number % 2 == 0
            if is_decided and number % 40 == 0:
                continue
            decision_id = f"d{number:012}" if is_decided else None
            at = _text(matured_at - timedelta(minutes=59) if is_decided else matured_at)
            is_good = number % 3 != 0
            yield (
                f"d-{decision_id}" if is_decided else f"t-{number:032}", f"task-{number}", 1, decision_id,
                f"site{number % 997}.example", ACTIONS[number % 4], "success" if is_good else "failure",
                None if is_good else "captcha", 1.5 + number % 7, None, at, at, None, None, None,
                "{}" if is_decided else features[number % _POOL],
            )  # fmt: skip


def load(url: str, spans: Sequence[Span]) -> None:
    """Put decisions and outcomes of spans into a database, the fast way."""
    if url.startswith("sqlite"):
        _load_sqlite(url, spans)
    else:
        _load_postgresql(url, spans)


def insert_sql(table: str, columns: Sequence[str], mark: str, rows: int = 1) -> str:
    """An INSERT of `rows` rows with placeholders."""
    row = f"({', '.join([mark] * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * rows)}"


def _load_sqlite(url: str, spans: Sequence[Span]) -> None:
    indexes = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN {tables}"
    with closing(sqlite3.connect(sqlite_file(url), isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")  # these two are of this connection alone
        connection.execute("PRAGMA cache_size=-200000")
        connection.execute("BEGIN IMMEDIATE")
        with _without_indexes(connection.execute, indexes):
            for span in spans:
                connection.executemany(insert_sql("decisions", DECISION_COLUMNS, "?"), span.decisions())
                connection.executemany(insert_sql("outcomes", OUTCOME_COLUMNS, "?"), span.outcomes())
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _load_postgresql(url: str, spans: Sequence[Span]) -> None:
    indexes = (
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename IN {tables}"
        " AND indexname NOT IN (SELECT conname FROM pg_constraint)"
    )
    tables = (("decisions", DECISION_COLUMNS, Span.decisions), ("outcomes", OUTCOME_COLUMNS, Span.outcomes))
    with (
        psycopg.connect(url) as connection,
        connection.cursor() as cursor,
        _without_indexes(lambda statement: connection.execute(statement.encode()), indexes),
    ):
        for span, (table, columns, rows) in product(spans, tables):
            with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN".encode()) as copy:
                for row in rows(span):
                    copy.write_row(row)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")  # what the server does by itself within a minute or so


@contextmanager
def _without_indexes(execute: Callable[[str], Any], indexes: str) -> Iterator[None]:
    """Fill an empty table first and index it then, which takes half the time; later loads find the indexes in place."""
    is_empty = execute("SELECT 1 FROM outcomes LIMIT 1").fetchone() is None
    query = indexes.format(tables="('decisions', 'outcomes')")
    found = execute(query).fetchall() if is_empty else []
    for name, _ in found:
        execute(f'DROP INDEX "{name}"')
    yield
    for _, definition in found:
        execute(definition)


@cache
def _feature_texts() -> tuple[str, ...]:
    return tuple(json.dumps(features, separators=(",", ":")) for features in feature_pool())


def _text(instant: datetime) -> str:
    return instant.isoformat(timespec="microseconds")
