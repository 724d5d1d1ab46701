"""First schema: decisions, outcomes, datasets, models, route, evidence, events and outbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from retrain_assets.store.tables import Instant

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table and the one row of the route."""
    op.create_table(
        "canary_state",
        sa.Column("rollout_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("started_at", Instant(), nullable=False),
        sa.Column("cursor_at", Instant(), nullable=False),
        sa.Column("cursor_id", sa.String(length=64), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("last_verdict", sa.String(length=32), nullable=True),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("updated_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", name="pk_canary_state"),
    )
    op.create_table(
        "datasets",
        sa.Column("dataset_hash", sa.String(length=64), nullable=False),
        sa.Column("week", sa.String(length=10), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("schema_version", sa.String(length=32), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("dataset_hash", name="pk_datasets"),
    )
    op.create_index("ix_datasets_week_created_at", "datasets", ["week", "created_at"], unique=False)
    op.create_table(
        "decisions",
        sa.Column("decision_id", sa.String(length=64), nullable=False),
        sa.Column("task_id", sa.String(length=200), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("domain", sa.Text(), nullable=True),
        sa.Column("decided_at", Instant(), nullable=False),
        sa.Column("deadline_at", Instant(), nullable=False),
        sa.Column("features", sa.JSON(), nullable=False),
        sa.Column("actions", sa.JSON(), nullable=False),
        sa.Column("action", sa.String(length=200), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("propensity", sa.Float(), nullable=False),
        sa.Column("assigned_arm", sa.String(length=16), nullable=False),
        sa.Column("arm", sa.String(length=16), nullable=False),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("model_version", sa.String(length=32), nullable=True),
        sa.Column("rollout_id", sa.String(length=64), nullable=True),
        sa.Column("stratum", sa.Text(), nullable=False),
        sa.Column("latency_ms", sa.Float(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint("propensity > 0 AND propensity <= 1", name=op.f("ck_decisions_propensity")),
        sa.PrimaryKeyConstraint("decision_id", name="pk_decisions"),
    )
    op.create_index("ix_decisions_deadline_at_decision_id", "decisions", ["deadline_at", "decision_id"], unique=False)
    op.create_index(
        "ix_decisions_rollout_id_deadline_at_decision_id",
        "decisions",
        ["rollout_id", "deadline_at", "decision_id"],
        unique=False,
    )
    op.create_index("ix_decisions_task_id_attempt", "decisions", ["task_id", "attempt"], unique=False)
    op.create_table(
        "deployment_events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=True),
        sa.Column("from_status", sa.String(length=16), nullable=True),
        sa.Column("to_status", sa.String(length=16), nullable=True),
        sa.Column("share", sa.Float(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name="pk_deployment_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_deployment_events_kind_seq", "deployment_events", ["kind", "seq"], unique=False)
    op.create_index("ix_deployment_events_run_id", "deployment_events", ["run_id"], unique=False)
    op.create_table(
        "model_metrics",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("action", sa.String(length=200), nullable=True),
        sa.Column("window", sa.String(length=64), nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_model_metrics"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_model_metrics_version_at", "model_metrics", ["version", "at"], unique=False)
    op.create_table(
        "model_versions",
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("week", sa.String(length=10), nullable=False),
        sa.Column("dataset_hash", sa.String(length=64), nullable=False),
        sa.Column("schema_version", sa.String(length=32), nullable=False),
        sa.Column("code_version", sa.String(length=64), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("parent_version", sa.String(length=32), nullable=True),
        sa.Column("training_id", sa.String(length=64), nullable=False),
        sa.Column("artefacts", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=True),
        sa.Column("run_id", sa.String(length=64), nullable=True),
        sa.Column("is_backfill", sa.Boolean(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_model_versions"),
        sa.UniqueConstraint("training_id", name="uq_model_versions_training_id"),
    )
    op.create_index("ix_model_versions_week", "model_versions", ["week"], unique=False)
    op.create_index(
        "uq_model_versions_one_canary",
        "model_versions",
        ["status"],
        unique=True,
        sqlite_where=sa.text("status = 'canary'"),
        postgresql_where=sa.text("status = 'canary'"),
    )
    op.create_index(
        "uq_model_versions_one_production",
        "model_versions",
        ["status"],
        unique=True,
        sqlite_where=sa.text("status = 'production'"),
        postgresql_where=sa.text("status = 'production'"),
    )
    op.create_table(
        "monitor_state",
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("cursor_at", Instant(), nullable=False),
        sa.Column("cursor_id", sa.String(length=64), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("updated_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("version", "epoch", name="pk_monitor_state"),
    )
    op.create_table(
        "notification_outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("event", sa.String(length=40), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("delivered_at", Instant(), nullable=True),
        sa.Column("claimed_until", Instant(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_notification_outbox"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_notification_outbox_undelivered",
        "notification_outbox",
        ["id"],
        unique=False,
        sqlite_where=sa.text("delivered_at IS NULL"),
        postgresql_where=sa.text("delivered_at IS NULL"),
    )
    op.create_table(
        "outcomes",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("outcome_id", sa.String(length=200), nullable=False),
        sa.Column("task_id", sa.String(length=200), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("decision_id", sa.String(length=200), nullable=True),
        sa.Column("domain", sa.Text(), nullable=False),
        sa.Column("action_attempted", sa.String(length=200), nullable=False),
        sa.Column("result", sa.String(length=16), nullable=False),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.Column("execution_time_s", sa.Float(), nullable=True),
        sa.Column("retry_count", sa.Integer(), nullable=True),
        sa.Column("occurred_at", Instant(), nullable=False),
        sa.Column("received_at", Instant(), nullable=False),
        sa.Column("model_version", sa.String(length=200), nullable=True),
        sa.Column("propensity", sa.Float(), nullable=True),
        sa.Column("replaces", sa.String(length=200), nullable=True),
        sa.Column("features", sa.JSON(), nullable=False),
        sa.CheckConstraint("result IN ('success', 'failure', 'error')", name=op.f("ck_outcomes_result")),
        sa.PrimaryKeyConstraint("seq", name="pk_outcomes"),
        sa.UniqueConstraint("outcome_id", name="uq_outcomes_outcome_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outcomes_decision_id", "outcomes", ["decision_id"], unique=False)
    op.create_index("ix_outcomes_occurred_at", "outcomes", ["occurred_at"], unique=False)
    op.create_index("ix_outcomes_replaces", "outcomes", ["replaces"], unique=False)
    op.create_index("ix_outcomes_task_id_attempt", "outcomes", ["task_id", "attempt"], unique=False)
    op.create_table(
        "quarantine",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("received_at", Instant(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("payload_hash", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_quarantine"),
        sa.UniqueConstraint("payload_hash", name="uq_quarantine_payload_hash"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "route",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("production_version", sa.String(length=32), nullable=True),
        sa.Column("canary_version", sa.String(length=32), nullable=True),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("holdback_version", sa.String(length=32), nullable=True),
        sa.Column("holdback_share", sa.Float(), nullable=False),
        sa.Column("rollout_id", sa.String(length=64), nullable=True),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", Instant(), nullable=True),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.CheckConstraint("canary_version IS NOT NULL OR share = 0", name=op.f("ck_route_share_needs_canary")),
        sa.CheckConstraint(
            "canary_version IS NULL OR production_version IS NOT NULL", name=op.f("ck_route_canary_needs_production")
        ),
        sa.CheckConstraint("id = 1", name=op.f("ck_route_one_row")),
        sa.CheckConstraint("share >= 0 AND share < 1", name=op.f("ck_route_share")),
        sa.PrimaryKeyConstraint("id", name="pk_route"),
    )
    op.create_table(
        "settings",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("config_hash", sa.String(length=64), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("activated_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_settings"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "snapshots",
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("week", sa.String(length=10), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("file_sha256", sa.String(length=64), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("schema_version", sa.String(length=32), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("content_hash", name="pk_snapshots"),
    )
    op.create_index("ix_snapshots_week_last_seq", "snapshots", ["week", "last_seq"], unique=False)
    op.create_table(
        "trainings",
        sa.Column("training_id", sa.String(length=64), nullable=False),
        sa.Column("week", sa.String(length=10), nullable=False),
        sa.Column("dataset_hash", sa.String(length=64), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("splits", sa.JSON(), nullable=False),
        sa.Column("artefacts", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("code_version", sa.String(length=64), nullable=False),
        sa.Column("libraries", sa.JSON(), nullable=False),
        sa.Column("parent_version", sa.String(length=32), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("training_id", name="pk_trainings"),
    )
    op.create_index("ix_trainings_week_created_at", "trainings", ["week", "created_at"], unique=False)
    op.execute(
        sa.text(
            "INSERT INTO route (id, share, holdback_share, step, epoch, paused) VALUES (1, 0, 0, 0, 0, :paused)"
        ).bindparams(sa.bindparam("paused", False, sa.Boolean()))
    )
