"""Gaps in a week's features, filled before the week is frozen.

Holds which rows have gaps, what was known of a row before its choice, and the count of what was filled; does not hold
the rule by which a gap is filled (`core/extraction.py`) or the making of columns (`week_columns.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from retrain_assets.core.extraction import Extraction
from retrain_assets.core.features import Feature

EXTRACTION = "extraction"
"""The fact under which a snapshot remembers how its gaps were filled."""

MOST_REASONS = 20
"""Different reasons that a snapshot remembers; the commonest first."""


def known_before(decided: str | None, told: str | None) -> dict[str, Any]:
    """Stored features that were known before the choice: the decision's, or without a decision the outcome's.

    A URL that came only with the outcome was not there when `decide` was asked: a model must not learn from what it
    will not be given.
    """
    stored = told if decided is None else decided
    found = msgspec.json.decode(stored) if stored else None
    return found if isinstance(found, dict) else {}


class WeekFilling:
    """Fills the gaps of one week's rows.

    Parameters
    ----------
    extraction : Extraction

    Attributes
    ----------
    filled : int
        Rows that got a value.
    faults : Counter
        Values that were not taken, by reason.
    """

    def __init__(self, extraction: Extraction) -> None:
        self.extraction = extraction
        self.filled = 0
        self.faults: Counter[str] = Counter()
        fields = [("url", Any, None)]
        row = msgspec.defstruct("StoredUrl", fields, rename={"url": extraction.url_column}, gc=False)
        self._decoder = msgspec.json.Decoder(row)

    def complete(
        self,
        columns: Mapping[str, Sequence[Any]],
        decided: Sequence[str | None],
        told: Sequence[str | None],
        domains: Sequence[str | None],
    ) -> dict[str, Sequence[Any]]:
        """A batch's features by name, with their gaps filled where that can be.

        Parameters
        ----------
        columns : mapping
            Values by feature, of equal length; None and UNSET are gaps.
        decided, told : sequence of str or None
            The stored features of decisions and of outcomes.
        domains : sequence of str or None
        """
        gaps = self._gaps(columns)
        names = {feature.name for missing in gaps.values() for feature in missing}
        completed: dict[str, Any] = dict(columns) | {name: list(columns[name]) for name in names}
        for place, missing in gaps.items():
            stored, domain = told[place] if decided[place] is None else decided[place], domains[place]
            if self.extraction.extractors:
                row = known_before(decided[place], told[place])
                row |= {name: value for name, values in columns.items() if not _is_gap(value := values[place])}
                for feature in missing:  # a value that does not fit the present schema is none
                    row.pop(feature.name, None)
                added = self.extraction.fill(row, domain, self._note)
            else:
                added = self.extraction.from_address(self._url(stored), domain, missing, self._note)
            for name, value in added.items():
                completed[name][place] = value
            self.filled += bool(added)
        return completed

    def _gaps(self, columns: Mapping[str, Sequence[Any]]) -> dict[int, list[Feature]]:
        """The features that each row lacks, by its place."""
        gaps: dict[int, list[Feature]] = {}
        for feature in self.extraction.features:
            column = columns[feature.name]
            if None in column or UNSET in column:
                for place, value in enumerate(column):
                    if _is_gap(value):
                        gaps.setdefault(place, []).append(feature)
        return gaps

    def _url(self, stored: str | None) -> Any:  # noqa: ANN401  (whatever a row has there)
        """A row's URL alone: decoding all of its features would take as long as all the rest."""
        try:
            return None if stored is None else self._decoder.decode(stored).url  # type: ignore[attr-defined]
        except msgspec.ValidationError:  # no object at all
            return None

    def _note(self, reason: str) -> None:
        self.faults[reason] += 1

    def facts(self) -> dict[str, Any]:
        """What a snapshot remembers of it: counts, reasons, what the values depend on; empty with nothing to fill."""
        if self.extraction.fingerprint is None:
            return {}
        facts: dict[str, Any] = {
            "fingerprint": self.extraction.fingerprint,
            "depends_on": self.extraction.lineage,
            "filled": self.filled,
            "not_taken": dict(self.faults.most_common(MOST_REASONS)),
        }
        if (pages := self.extraction.pages) is not None:
            facts["pages"] = {"asked": pages.asked, "failed": pages.failed, "is_limited": pages.is_limited}
        return {EXTRACTION: facts}


def _is_gap(value: Any) -> bool:  # noqa: ANN401  (whatever a feature holds)
    return value is None or value is UNSET
