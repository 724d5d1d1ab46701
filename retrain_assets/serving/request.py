"""What a worker hands to `decide`, read and checked.

Holds the reading of a task's id, domain, attempt and features; does not hold the types of features (the artefact's
encoding reads them) or the candidates (`bundle.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retrain_assets.core.outcomes import MAX_ID_LENGTH, MAX_REASON_LENGTH
from retrain_assets.errors import SchemaError


def read_id(value: Any) -> str:  # noqa: ANN401  (a worker sends whatever it has)
    """The task's id as the collector reads it, so that decision and outcome meet: text, or a whole number.

    Raises
    ------
    SchemaError
        It is neither, empty, too long, or no text that a database keeps.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise SchemaError("task_id", f"{value!r} is not text")
    text = str(value).strip()
    if not text:
        raise SchemaError("task_id", "is required, but missing")
    if len(text) > MAX_ID_LENGTH:
        raise SchemaError("task_id", f"has {len(text)} characters; at most {MAX_ID_LENGTH} are accepted")
    _check_text("task_id", text)
    return text


def read_domain(value: Any) -> str | None:  # noqa: ANN401  (see `read_id`)
    """The domain; None and empty text are none.

    Raises
    ------
    SchemaError
        It is no text, too long, or no text that a database keeps.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise SchemaError("domain", f"{value!r} is not text")
    if len(value) > MAX_REASON_LENGTH:
        raise SchemaError("domain", f"has {len(value)} characters; at most {MAX_REASON_LENGTH} are accepted")
    _check_text("domain", value)
    return value.strip() or None


def _check_text(name: str, text: str) -> None:
    if text.isascii() and text.isprintable():
        return
    if "\x00" in text:
        raise SchemaError(name, "holds a NUL character, which no database keeps")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SchemaError(name, "holds half a character (a lone surrogate), which is no text") from None


def read_attempt(value: Any) -> int:  # noqa: ANN401  (see `read_id`)
    """The number of the try, from 1.

    Raises
    ------
    SchemaError
        It is no whole number of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise SchemaError("attempt", f"{value!r} is not a whole number of at least 1")
    return value


def read_features(features: Any) -> dict[str, Any]:  # noqa: ANN401  (see `read_id`)
    """A copy of the features: the caller may change its mapping while the log still holds the decision.

    Raises
    ------
    SchemaError
        It is no mapping; values are read by the model's encoding.
    """
    if features is None:
        return {}
    if not isinstance(features, Mapping):
        raise SchemaError("features", f"is a {type(features).__name__}; send a mapping of names to values")
    return dict(features)
