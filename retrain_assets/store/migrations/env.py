"""How Alembic reaches the database: always over the connection that the caller hands in."""

from __future__ import annotations

from alembic import context

from retrain_assets.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()
