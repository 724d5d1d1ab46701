"""Alembic's migrations, oldest first in `versions/`; run by `store/schema.py`, never by a worker."""
