"""Which column of a log is which field of an outcome.

Holds the names that are recognised and how spellings are compared; does not hold what cells mean (`core/cells.py`)
or guesses by content (`core/inference.py`).

In this order, and each field is taken once: what somebody said (`renames`), a name that is a field's or feature's
own, another spelling of such a name (` Task_ID `, `taskId`), a word of `SYNONYMS`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

from retrain_assets.core.outcomes import FIXED_FIELDS
from retrain_assets.errors import SchemaError

LEFT_OUT = "-"
"""What a column is mapped to that shall not be read at all."""

FEATURES = "features"
"""A column of JSON objects whose members are features."""

SYNONYMS = {
    "task": "task_id",
    "job_id": "task_id",
    "action": "action_attempted",
    "task_type": "action_attempted",
    "action_type": "action_attempted",
    "success": "result",
    "is_success": "result",
    "succeeded": "result",
    "outcome": "result",
    "datetime": "timestamp",
    "completed_at": "timestamp",
    "finished_at": "timestamp",
    "created_at": "timestamp",
    "error_reason": "failure_reason",
    "execution_time_seconds": "execution_time",
    "execution_time_ms": "execution_time",
    "execution_ms": "execution_time",
    "duration_s": "execution_time",
    "duration_seconds": "execution_time",
    "duration_ms": "execution_time",
    "retries": "retry_count",
    "host": "domain",
    "hostname": "domain",
}
"""Folded names that are read as a field where the field is not there under its own; earlier ones go first."""

SAME_FIELD = {"occurred_at": "timestamp", "execution_time_s": "execution_time"}
"""Two names of one field."""

STORE_COLUMNS = frozenset({"seq", "received_at"})
"""What a store of this platform writes beside an outcome; an import gives its own."""

QUARANTINE_COLUMNS = frozenset({"quarantine_id", "quarantine_field", "quarantine_reason"})
"""What an export of refused rows adds; no part of the outcome."""

_LETTERS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss"})
_KNOWN_SETS = 1_000


@lru_cache(maxsize=10_000)
def folded(name: str) -> str:
    """A name in lower case with `_` between its words: ` Task_ID `, `taskId` and `Task-Id` are all `task_id`."""
    text = unicodedata.normalize("NFKD", name.strip().translate(_LETTERS)).encode("ascii", "ignore").decode()
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


class ColumnNames:
    """Column to field; worked out once for each set of columns.

    Parameters
    ----------
    renames : mapping
        Column to field, feature or `LEFT_OUT`, as somebody said it.
    features : iterable of str
        The problem's features.

    Attributes
    ----------
    used : dict
        Every column so far that was read under another name than its own.
    """

    def __init__(self, renames: Mapping[str, str], features: Iterable[str]) -> None:
        self.renames = {name.strip(): ours for name, ours in renames.items()}
        self.features = frozenset(features)
        self.used: dict[str, str] = {}
        self._own = FIXED_FIELDS | self.features
        self._said = {folded(name): name for name in self.renames}
        self._seen: set[str] = set()
        self._known: dict[tuple[str, ...], dict[str, str]] = {}
        self._spelled = {_letters(name): name for name in sorted(self.features)}

    @property
    def unused(self) -> list[str]:
        """Names in `renames` that no column had so far."""
        return [name for name in self.renames if name not in self._seen]

    def feature_of(self, name: str) -> str:
        """The feature that another spelling of its name means; else the name as it is."""
        return name if name in self.features else self._spelled.get(_letters(name), name)

    def is_own(self, name: str) -> bool:
        """Whether `name` is a field of an outcome or a feature of the problem."""
        return name in self._own

    def of(self, columns: tuple[str, ...]) -> dict[str, str]:
        """Every column's field, feature, own name or `LEFT_OUT`.

        Raises
        ------
        SchemaError
            Two columns would be the same field.
        """
        if columns not in self._known:
            if len(self._known) >= _KNOWN_SETS:  # JSON rows may each have columns of their own
                self._known.clear()
            final = self.resolved(columns)
            _refuse_doubles(final)
            self.used |= {
                name: ours for name, ours in final.items() if ours not in {name, LEFT_OUT} or name in self._seen
            }
            self._known[columns] = final
        return self._known[columns]

    def resolved(self, columns: tuple[str, ...]) -> dict[str, str]:
        """As `of`, also where two columns are the same field."""
        chosen = self._as_said(columns)
        taken = {_field(ours) for ours in chosen.values()}
        own = [name for name in columns if name not in chosen and name in self._own]
        taken |= {_field(name) for name in own}
        rest = [name for name in columns if name not in chosen and name not in self._own]
        spelled = {_letters(name): name for name in sorted(self._own)}
        for name in rest:
            ours = spelled.get(_letters(name))
            if ours is not None and _field(ours) not in taken:
                chosen[name] = ours
                taken.add(_field(ours))
        for word, ours in SYNONYMS.items():
            likely = next((name for name in rest if name not in chosen and _letters(name) == _letters(word)), None)
            if likely is not None and _field(ours) not in taken:
                chosen[likely] = ours
                taken.add(_field(ours))
        final = {name: chosen.get(name, name) for name in columns}
        return final | dict.fromkeys(self._never_read(columns, chosen), LEFT_OUT)

    def _as_said(self, columns: tuple[str, ...]) -> dict[str, str]:
        chosen = {}
        for name in columns:
            said = name if name in self.renames else self._said.get(folded(name))
            if said is not None and (said == name or said not in columns):
                chosen[name] = self.renames[said]
                self._seen.add(said)
        return chosen

    def _never_read(self, columns: tuple[str, ...], chosen: Mapping[str, str]) -> set[str]:
        """Columns without a name, and what stores and exports of this platform add to an outcome."""
        added = set(QUARANTINE_COLUMNS)
        if "outcome_id" in columns and FEATURES in columns:
            added |= STORE_COLUMNS
        return {
            name for name in columns if (not name or name in added) and name not in chosen and not self.is_own(name)
        }


def _refuse_doubles(final: Mapping[str, str]) -> None:
    for ours, count in Counter(final.values()).items():
        if count > 1 and ours != LEFT_OUT:
            both = " and ".join(repr(name) for name, target in final.items() if target == ours)
            raise SchemaError(
                ours, f"is given twice, by {both}; map one of them to another name, or leave it out with =-"
            )


def _letters(name: str) -> str:
    """A folded name without its gaps, which people set where they like: `timeStamp`, `Time Stamp`, `timestamp`."""
    return folded(name).replace("_", "")


def _field(name: str) -> str:
    return SAME_FIELD.get(name, name)
