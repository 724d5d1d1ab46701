"""Rows that were refused: kept as they came, with the field and the reason, until somebody mends them.

Holds the SQL on `quarantine`; does not hold the check that refuses (`core/outcomes.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from retrain_assets.errors import SchemaError
from retrain_assets.store.database import insert_new
from retrain_assets.store.tables import quarantine

MAX_PAYLOAD = 100_000
"""Characters of a refused payload that are kept."""


def refuse(connection: Connection, raw: Mapping[str, Any], error: SchemaError, now: datetime, source: str) -> None:
    """Keep a raw outcome that does not fit, with the reason and the field; the same one twice is one row."""
    payload = _payload(raw)
    content = hashlib.sha256(f"{source}\x1f{payload}\x1f{error}".encode(errors="replace")).hexdigest()
    values = {
        "received_at": now,
        "source": source,
        "payload": payload,
        "payload_hash": content,
        "reason": _writable(error.message),
        "field": _writable(error.field),
    }
    connection.execute(insert_new(connection, quarantine, ["payload_hash"]), [values])


def _payload(raw: Mapping[str, Any]) -> str:
    """The row as JSON, whatever it holds: a payload that cannot be written must not cost the batch its good rows."""
    try:
        payload = msgspec.json.encode(dict(raw), enc_hook=repr).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):  # half a surrogate pair, an integer of 70 bits
        payload = json.dumps({str(key): repr(value) for key, value in raw.items()})
    return _writable(payload[:MAX_PAYLOAD])


def _writable(text: str) -> str:
    return text.replace("\x00", "\\u0000").encode(errors="replace").decode()
