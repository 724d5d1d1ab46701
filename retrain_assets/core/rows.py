"""From a row of somebody's log to an outcome as the door takes it.

Holds the reading of a whole row: names, missing cells, words, units, nested objects; does not hold single cells
(`core/cells.py`), names (`core/columns.py`) or the door's check (`core/outcomes.py`).

A row that names no attempt is attempt 1, also when its task has other rows: numbers counted from the rows of one
file would change with the next file, and with them the outcomes' ids. Rows of one task at different instants are
different outcomes as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import tzinfo
from typing import Any

from retrain_assets.core.cells import (
    is_missing_text,
    plain_value,
    read_moment,
    read_result_word,
    read_seconds,
    seconds_per_unit,
    with_decimal_point,
)
from retrain_assets.core.columns import FEATURES, LEFT_OUT, ColumnNames, folded
from retrain_assets.core.features import FeatureSchema, FeatureType
from retrain_assets.core.outcomes import FIXED_FIELDS, is_absent
from retrain_assets.errors import SchemaError

NO_INSTANT = SchemaError("timestamp", "is missing; a file's rows are history and need one")
INSTANTS = ("timestamp", "occurred_at")
NUMBERS = frozenset({"attempt", "retry_count", "propensity"})
DURATIONS = frozenset({"execution_time", "execution_time_s"})
MOST_DIGITS = 30
"""Characters up to which text is read as a whole number to its last digit."""
MOST_PLANS = 1_000
"""Different sets of columns that are kept in mind; JSON rows may each have their own."""
DEEPEST = 8
"""Levels of nested objects that become columns; deeper ones stay text."""

_Reading = Callable[[Any], Any]
_Plan = list[tuple[str, str, _Reading | None]]


class RowReader:
    """Reads rows of one source.

    Parameters
    ----------
    names : ColumnNames
    schema : FeatureSchema
    zone : tzinfo, optional
        What instants without an offset mean.
    decimal : str, default "."
        `,` reads `3,5` as 3.5 in text cells.
    is_text : bool
        Every cell is text, as in CSV: `MISSING_TEXTS` are missing, and the decimal sign counts.
    is_own : bool
        This platform wrote the file: whatever `decimal` is elsewhere, a point stands before its decimals.
    """

    def __init__(
        self,
        names: ColumnNames,
        schema: FeatureSchema,
        *,
        zone: tzinfo | None = None,
        decimal: str = ".",
        is_text: bool = False,
        is_own: bool = False,
    ) -> None:
        self._names = names
        self._zone = zone
        self._is_text = is_text
        self._is_own = is_own
        self._has_comma = is_text and decimal == ","
        self._numeric = NUMBERS | {
            f.name for f in schema.features if f.type in {FeatureType.NUMBER, FeatureType.INTEGER}
        }
        self._features = frozenset(schema.names)
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row as `store.outcomes.append` takes it.

        Raises
        ------
        SchemaError
            Two columns are one field, `features` holds no objects, or nothing says when it happened.
        """
        values = row if self._is_text else flattened(row)
        plan = self._plan_of(tuple(values))
        read: dict[str, Any] = {}
        inner: dict[str, Any] = {}
        is_missing = is_missing_text if self._is_text else is_absent
        for column, name, reading in plan:
            value = values[column]
            if is_missing(value):  # an empty cell must not stand before another name of the same field
                continue
            if name == FEATURES and reading is not None:
                inner |= reading(value)
            else:
                read[name] = value if reading is None else reading(value)
        if inner:  # a column of its own stands before the same name inside `features`
            read = self._features_of(inner) | read
        self._check_instant(read)
        return read

    def kept(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row as a second try can read it: under its own names, without the columns that are left out.

        Numbers of a file that this platform wrote become numbers, since a text would be read with the decimal sign that
        the configuration has for other files.
        """
        values = dict(row) if self._is_text else flattened(row)
        try:
            names = self._names.of(tuple(values))
        except SchemaError:
            return values
        kept = {column: value for column, value in values.items() if names[column] != LEFT_OUT}
        if not self._is_own:
            return kept
        is_missing = is_missing_text if self._is_text else is_absent
        present = ((column, value) for column, value in kept.items() if not is_missing(value))
        return {column: self._typed(names[column], value) for column, value in present}

    def pointed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of text as this platform's own files have it: numbers with a point, without cells that are missing."""
        names = self._names.resolved(tuple(row))
        present = {column: value for column, value in row.items() if not is_missing_text(value)}
        if not self._has_comma:
            return present
        return {c: with_decimal_point(value) if self._is_numeric(names[c]) else value for c, value in present.items()}

    def _typed(self, name: str, text: Any) -> Any:  # noqa: ANN401  (text, or the number that it is)
        if not isinstance(text, str) or not self._is_numeric(name) or "_" in text:
            return text
        try:
            return int(text) if len(text) <= MOST_DIGITS and text.strip("+- ").isdecimal() else float(text)
        except ValueError:
            return text

    def _is_numeric(self, name: str) -> bool:
        return name in self._numeric or name in DURATIONS

    def _features_of(self, inner: Mapping[str, Any]) -> dict[str, Any]:
        """Members of `features` under their features' names; those named like a field are left out, and told."""
        found: dict[str, Any] = {}
        for name, value in inner.items():
            ours = self._names.feature_of(name)
            if name in FIXED_FIELDS and name not in self._features:
                self._names.used[f"{FEATURES}.{name}"] = LEFT_OUT
            elif ours == name or ours not in inner:
                found[ours] = value
            else:
                found[name] = value
        return found

    def note_columns(self, row: Mapping[str, Any]) -> None:
        """Take note of a row's columns without reading it."""
        with suppress(SchemaError):
            self._plan_of(tuple(row if self._is_text else flattened(row)))

    def _plan_of(self, columns: tuple[str, ...]) -> _Plan:
        plan = self._plans.get(columns)
        if plan is None:
            plan = self._plan(columns)
            if len(self._plans) >= MOST_PLANS:
                self._plans.clear()
            self._plans[columns] = plan
        return plan

    @staticmethod
    def _check_instant(read: Mapping[str, Any]) -> None:
        if any(name in read for name in INSTANTS) or "decision_id" in read or "outcome_id" in read:
            return
        # Without any of them its id would follow from the time of the import: twice imported, twice stored.
        raise NO_INSTANT

    def _plan(self, columns: tuple[str, ...]) -> _Plan:
        chosen = self._names.of(columns).items()
        return [(column, name, self._reading(column, name)) for column, name in chosen if name != LEFT_OUT]

    def _reading(self, column: str, name: str) -> _Reading | None:
        if name in INSTANTS:
            return lambda value: read_moment(value, self._zone)
        if name == "result":
            return read_result_word
        if name in DURATIONS:
            return self._seconds(column)
        if name == FEATURES and name not in self._features:
            return _object
        if name in self._numeric and self._has_comma:
            return with_decimal_point
        if self._is_text:
            return None
        return plain_value if name in FIXED_FIELDS or name in self._features else _unread

    def _seconds(self, column: str) -> _Reading | None:
        per_unit = seconds_per_unit(folded(column))
        if self._has_comma:
            return lambda value: read_seconds(with_decimal_point(value), per_unit)
        if self._is_text and per_unit == 1.0:
            return None
        return lambda value: read_seconds(plain_value(value), per_unit)


def flattened(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose nested objects are columns `outer.inner`; `features` stays, to be read as a whole."""
    if not any(isinstance(value, dict) for value in row.values()):
        return dict(row)
    flat: dict[str, Any] = {}
    _flatten(row, "", flat, DEEPEST)
    return flat


def _flatten(row: Mapping[str, Any], prefix: str, flat: dict[str, Any], levels: int) -> None:
    for key, value in row.items():
        if isinstance(value, dict) and levels and not (key == FEATURES and not prefix):
            _flatten(value, f"{prefix}{key}.", flat, levels - 1)
        else:
            flat.setdefault(f"{prefix}{key}", value)


def _object(value: Any) -> dict[str, Any]:  # noqa: ANN401  (whatever a file holds)
    """The members of an object, or of its JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, dict):
        raise SchemaError(FEATURES, "is no JSON object")
    return {name: _unread(member) for name, member in flattened(value).items() if not is_absent(member)}


def _unread(value: Any) -> Any:  # noqa: ANN401  (whatever a file holds)
    """A value that is kept beside the outcome; the door takes no lists, so they are kept as their JSON."""
    value = plain_value(value)
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value
