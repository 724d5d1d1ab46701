"""Every table, with the constraints by which the database itself refuses a wrong state.

Holds table definitions and column types; does not hold queries.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    event,
    text,
)
from sqlalchemy.types import TypeDecorator, TypeEngine

_SQLITE_INSTANT = "%Y-%m-%dT%H:%M:%S.%f+00:00"


def sqlite_instant(instant: datetime) -> str:
    """The text under which SQLite keeps an instant: fixed width, so that text order is time order."""
    return instant.astimezone(UTC).strftime(_SQLITE_INSTANT)


class Instant(TypeDecorator[datetime]):
    """An aware UTC instant: `timestamptz` on PostgreSQL, fixed-width ISO 8601 text on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Text on SQLite, which has no instant of its own."""
        return dialect.type_descriptor(String(32) if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:  # noqa: ANN401
        """Refuse a naive instant; store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            message = f"a naive datetime reached the database: {value!r}"
            raise ValueError(message)
        return sqlite_instant(value) if dialect.name == "sqlite" else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ANN401, ARG002
        """Return an aware UTC instant."""
        if value is None:
            return None
        return (datetime.fromisoformat(value) if isinstance(value, str) else value).astimezone(UTC)


# SQLite gives a rowid alias, and so a monotonic id, to INTEGER only.
Serial = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)


@event.listens_for(metadata, "before_create")
def _partial_on_a_server(target: MetaData, connection: Connection, **_: Any) -> None:  # noqa: ANN401
    """Give an index of some rows the same condition on PostgreSQL.

    Said where the index is defined it would load that dialect into every worker: 30 ms, also for SQLite.
    """
    if connection.dialect.name == "postgresql":
        for index in (index for table in target.tables.values() for index in table.indexes):
            index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"]["where"]


decisions = Table(
    "decisions",
    metadata,
    Column("decision_id", String(64), primary_key=True),
    Column("task_id", String(200), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("domain", Text),
    Column("decided_at", Instant, nullable=False),
    Column("deadline_at", Instant, nullable=False),
    Column("features", JSON, nullable=False),
    Column("actions", JSON, nullable=False),
    Column("action", String(200), nullable=False),
    Column("scores", JSON, nullable=False),
    Column("propensity", Float, nullable=False),
    Column("assigned_arm", String(16), nullable=False),
    Column("arm", String(16), nullable=False),
    Column("share", Float, nullable=False),
    Column("model_version", String(32)),
    Column("rollout_id", String(64)),
    Column("stratum", Text, nullable=False),
    Column("latency_ms", Float, nullable=False),
    Column("error", Text),
    # Filled only where the decision reached the log after its deadline: its week may have been taken without it.
    Column("received_at", Instant),
    CheckConstraint("propensity > 0 AND propensity <= 1", name="propensity"),
    Index(None, "deadline_at", "decision_id"),
    Index(None, "rollout_id", "deadline_at", "decision_id"),
    Index(None, "task_id", "attempt"),
    Index(
        "ix_decisions_late",
        "received_at",
        sqlite_where=text("received_at IS NOT NULL"),
    ),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("outcome_id", String(200), nullable=False, unique=True),
    Column("task_id", String(200), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("decision_id", String(200)),
    Column("domain", Text, nullable=False),
    Column("action_attempted", String(200), nullable=False),
    Column("result", String(16), nullable=False),
    Column("failure_reason", Text),
    Column("execution_time_s", Float),
    Column("retry_count", Integer),
    Column("occurred_at", Instant, nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("model_version", String(200)),
    Column("propensity", Float),
    Column("replaces", String(200)),
    Column("features", JSON, nullable=False),
    CheckConstraint("result IN ('success', 'failure', 'error')", name="result"),
    Index(None, "decision_id"),
    Index(None, "occurred_at"),
    Index(None, "task_id", "attempt"),
    Index(None, "replaces"),
    # Without it SQLite gives the highest deleted number again, and a cursor would pass over the row.
    sqlite_autoincrement=True,
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("received_at", Instant, nullable=False),
    Column("source", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("payload_hash", String(64), nullable=False, unique=True),
    Column("reason", Text, nullable=False),
    Column("field", Text, nullable=False),
    # A row that was mended stays, with the outcome that it became.
    Column("resolved_at", Instant),
    Column("resolved_as", String(200)),
    sqlite_autoincrement=True,
)

imports = Table(
    "imports",
    metadata,
    Column("import_id", String(64), primary_key=True),
    Column("source", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("counts", JSON, nullable=False),
    Column("is_complete", Boolean, nullable=False),
    Column("updated_at", Instant, nullable=False),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("content_hash", String(64), primary_key=True),
    Column("week", String(10), nullable=False),
    Column("rows", Integer, nullable=False),
    Column("path", Text, nullable=False),
    Column("file_sha256", String(64), nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("schema_version", String(32), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("facts", JSON),
    Index(None, "week", "last_seq"),
)

datasets = Table(
    "datasets",
    metadata,
    Column("dataset_hash", String(64), primary_key=True),
    Column("week", String(10), nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("schema_version", String(32), nullable=False),
    Column("rows", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Index(None, "week", "created_at"),
)

trainings = Table(
    "trainings",
    metadata,
    Column("training_id", String(64), primary_key=True),
    Column("week", String(10), nullable=False),
    Column("dataset_hash", String(64), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("splits", JSON, nullable=False),
    Column("artefacts", JSON, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("code_version", String(64), nullable=False),
    Column("libraries", JSON, nullable=False),
    Column("parent_version", String(32)),
    Column("created_at", Instant, nullable=False),
    Index(None, "week", "created_at"),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("version", String(32), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("week", String(10), nullable=False),
    Column("dataset_hash", String(64), nullable=False),
    Column("schema_version", String(32), nullable=False),
    Column("code_version", String(64), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("parent_version", String(32)),
    Column("training_id", String(64), nullable=False, unique=True),
    Column("artefacts", JSON, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("report", JSON),
    Column("run_id", String(64)),
    Column("is_backfill", Boolean, nullable=False),
    Column("created_at", Instant, nullable=False),
    Index(
        "uq_model_versions_one_production",
        "status",
        unique=True,
        sqlite_where=text("status = 'production'"),
    ),
    Index(
        "uq_model_versions_one_canary",
        "status",
        unique=True,
        sqlite_where=text("status = 'canary'"),
    ),
    Index(None, "week"),
)

model_metrics = Table(
    "model_metrics",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("version", String(32), nullable=False),
    Column("action", String(200)),
    Column("window", String(64)),
    Column("metrics", JSON, nullable=False),
    Column("at", Instant, nullable=False),
    Index(None, "version", "at"),
    sqlite_autoincrement=True,
)

route = Table(
    "route",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("production_version", String(32)),
    Column("canary_version", String(32)),
    Column("share", Float, nullable=False),
    Column("holdback_version", String(32)),
    Column("holdback_share", Float, nullable=False),
    Column("rollout_id", String(64)),
    Column("step", Integer, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("lease_until", Instant),
    Column("paused", Boolean, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
    CheckConstraint("share >= 0 AND share < 1", name="share"),
    CheckConstraint("canary_version IS NOT NULL OR share = 0", name="share_needs_canary"),
    CheckConstraint("canary_version IS NULL OR production_version IS NOT NULL", name="canary_needs_production"),
)

settings = Table(
    "settings",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("config_hash", String(64), nullable=False),
    Column("config", JSON, nullable=False),
    Column("activated_at", Instant, nullable=False),
    sqlite_autoincrement=True,
)

canary_state = Table(
    "canary_state",
    metadata,
    Column("rollout_id", String(64), primary_key=True),
    Column("version", String(32), nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("cursor_at", Instant, nullable=False),
    Column("cursor_id", String(64), nullable=False),
    Column("state", JSON, nullable=False),
    Column("last_verdict", String(32)),
    Column("is_open", Boolean, nullable=False),
    Column("updated_at", Instant, nullable=False),
)

monitor_state = Table(
    "monitor_state",
    metadata,
    Column("version", String(32), primary_key=True),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("cursor_at", Instant, nullable=False),
    Column("cursor_id", String(64), nullable=False),
    Column("state", JSON, nullable=False),
    Column("updated_at", Instant, nullable=False),
)

deployment_events = Table(
    "deployment_events",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("at", Instant, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("kind", String(40), nullable=False),
    Column("version", String(32)),
    Column("from_status", String(16)),
    Column("to_status", String(16)),
    Column("share", Float),
    Column("reason", Text, nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("run_id", String(64)),
    Column("epoch", BigInteger),
    Index(None, "kind", "seq"),
    Index(None, "run_id"),
    sqlite_autoincrement=True,
)

notification_outbox = Table(
    "notification_outbox",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("event", String(40), nullable=False),
    Column("payload", JSON, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("delivered_at", Instant),
    Column("claimed_until", Instant),
    Column("attempts", Integer, nullable=False),
    Column("last_error", Text),
    Index(
        "ix_notification_outbox_undelivered",
        "id",
        sqlite_where=text("delivered_at IS NULL"),
    ),
    sqlite_autoincrement=True,
)
