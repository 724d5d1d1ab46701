"""Outcome store: late decisions, mended quarantine rows, resumable imports, what a snapshot's rows are made of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from retrain_assets.store.tables import Instant

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns that may be empty, so that a worker of the first schema keeps writing, and one table."""
    op.create_table(
        "imports",
        sa.Column("import_id", sa.String(length=64), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("is_complete", sa.Boolean(), nullable=False),
        sa.Column("updated_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("import_id", name="pk_imports"),
    )
    op.add_column("decisions", sa.Column("received_at", Instant(), nullable=True))
    op.create_index(
        "ix_decisions_late",
        "decisions",
        ["received_at"],
        unique=False,
        sqlite_where=sa.text("received_at IS NOT NULL"),
        postgresql_where=sa.text("received_at IS NOT NULL"),
    )
    op.add_column("quarantine", sa.Column("resolved_at", Instant(), nullable=True))
    op.add_column("quarantine", sa.Column("resolved_as", sa.String(length=200), nullable=True))
    op.add_column("snapshots", sa.Column("facts", sa.JSON(), nullable=True))
