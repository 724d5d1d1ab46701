"""What became of the rows of an import, and how to mend the ones that were refused.

Holds counts, reasons and remedies; does not hold the import (`operations/imports.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from retrain_assets.core.features import general_reason
from retrain_assets.operations.row_files import FileRow, Source
from retrain_assets.store.quarantine import writable

MANY_REFUSED = 0.5
"""Share of refused rows above which an import has most likely misread the source."""
MAX_REASONS = 1_000
"""Different reasons that are told apart; the rest is counted under `OTHER`."""
OTHER = "other: more reasons than are told apart"

_REMEDIES = (
    ("", "same task, attempt and instant", "give a column attempt or outcome_id, or a finer time"),
    ("", "as a stored outcome", "to correct that outcome, name its outcome_id in a column replaces"),
    ("timestamp", "has no offset", "say what they mean with --timezone Europe/Berlin, or with imports.timezone"),
    ("timestamp", "is missing", "say which column it is with --map COLUMN=timestamp"),
    ("timestamp", "in the future", "check --timezone and the clock of this machine"),
    (
        "timestamp",
        "",
        "write them as 2026-01-31T14:05:00+00:00 or as seconds since 1970; day/month order is not guessed",
    ),
    (
        "action_attempted",
        "is not one of",
        "say what it means with --action 'THEIRS=OURS', or with problem.action_aliases",
    ),
    ("action_attempted", "missing", "say which column it is with --map COLUMN=action_attempted"),
    ("result", "", "say which column holds success, failure or error with --map COLUMN=result"),
    ("task_id", "missing", "say which column it is with --map COLUMN=task_id"),
    ("row", "cells where", "check --delimiter, and quotes in those lines"),
    ("row", "quote", "close the quote in that line, or double it inside its cell"),
    ("row", "is not", "say how the text is encoded with --encoding cp1252, or with imports.encoding"),
    ("", "at most", "leave the column out with --map COLUMN=-"),
    ("", "send text", "leave the column out with --map COLUMN=-"),
    ("", "is outside", "widen problem.features.{field} where such values are right"),
    ("", "is not a feature", "set problem.unknown_columns to keep, or leave the column out with --map {field}=-"),
    ("", "is given twice", "leave one of the columns out with --map COLUMN=-"),
)
_COMMA = re.compile(r"'[+-]?[0-9.]*,[0-9]+'")


@dataclass(slots=True)
class Imported:
    """What became of a source's rows.

    Attributes
    ----------
    rows, accepted, duplicate, quarantined : int
    conflicting : int
        Of the quarantined rows those that are another report of a stored outcome.
    reasons : Counter
        `field: reason`, without the value, to the number of rows.
    examples : dict
        The first row of each reason: `line 7: ` and the reason with its value.
    renamed : dict
        Columns that were read under another name than their own.
    unused : list of str
        Columns that somebody named and the source did not have.
    unused_actions : list of str
        Spellings of actions that somebody named and no row had.
    source : Source or None
        How the source was read.
    resumed_at : int
        Rows that an earlier import of the same source had done already; they are in the counts.
    """

    rows: int = 0
    accepted: int = 0
    duplicate: int = 0
    quarantined: int = 0
    conflicting: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    unused_actions: list[str] = field(default_factory=list)
    source: Source | None = None
    resumed_at: int = 0

    @property
    def is_readable(self) -> bool:
        """Whether at least one row was an outcome, new, known or another report of a known one."""
        return self.accepted + self.duplicate + self.conflicting > 0

    @property
    def refused_share(self) -> float:
        """Share of the rows that were refused, 0 to 1."""
        return self.quarantined / self.rows if self.rows else 0.0

    @property
    def is_mostly_refused(self) -> bool:
        """Whether so many rows were refused that the source was most likely misread."""
        return self.refused_share > MANY_REFUSED

    @property
    def remedies(self) -> dict[str, str]:
        """What to do about each reason, where something is known to help; from the commonest on."""
        found = ((reason, remedy(reason, self.examples.get(reason, ""))) for reason, _ in self.reasons.most_common())
        return {reason: text for reason, text in found if text is not None}

    def refuse(self, row: FileRow, name: str | None, reason: str | None) -> None:
        """Count a row that went into quarantine."""
        general = writable(f"{name}: {general_reason(reason or '')}")
        if general not in self.reasons and len(self.reasons) >= MAX_REASONS:
            general = OTHER
        self.quarantined += 1
        self.reasons[general] += 1
        if general not in self.examples:
            self.examples[general] = writable(f"line {row.number}: {reason}")

    def copy(self) -> Imported:
        """Counts that can be thrown away when their rows could not be stored."""
        return Imported.from_counts(self.to_counts())

    def to_counts(self) -> dict[str, Any]:
        """What is kept between two runs of an import, JSON-able; `from_counts` is its inverse."""
        return {**self._counts(), "reasons": dict(self.reasons), "examples": dict(self.examples)}

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any]) -> Imported:
        """Read what `to_counts` gave."""
        return cls(
            rows=counts["rows"],
            accepted=counts["accepted"],
            duplicate=counts["duplicate"],
            quarantined=counts["quarantined"],
            conflicting=counts.get("conflicting", 0),
            reasons=Counter(counts["reasons"]),
            examples=dict(counts["examples"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able; reasons from the commonest on."""
        told = {"reasons": dict(self.reasons.most_common()), "examples": dict(self.examples), "remedies": self.remedies}
        columns = {"renamed": dict(self.renamed), "unused": list(self.unused)}
        columns |= {"unused_actions": list(self.unused_actions)}
        how = {"read_as": asdict(self.source) if self.source else None, "resumed_at": self.resumed_at}
        return self._counts() | told | columns | how

    def _counts(self) -> dict[str, int]:
        return {
            "rows": self.rows,
            "accepted": self.accepted,
            "duplicate": self.duplicate,
            "quarantined": self.quarantined,
            "conflicting": self.conflicting,
        }


def remedy(reason: str, example: str = "") -> str | None:
    """What helps against a reason, as `Imported.reasons` has it; None where only the row itself can be mended.

    Parameters
    ----------
    reason : str
        `field: reason`.
    example : str
        One row's reason with its value: `3,5` is a hint of its own.
    """
    name, _, why = reason.partition(": ")
    if "number" in why and _COMMA.search(example):
        return "say that a comma stands before decimals with --decimal ',', or with imports.decimal"
    for theirs, part, text in _REMEDIES:
        if theirs in {"", name} and part in why:
            return text.format(field=name)
    return None
