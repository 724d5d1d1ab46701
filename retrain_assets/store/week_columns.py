"""A week's rows as typed Arrow columns: what each task taught, under the present feature schema.

Holds the reading of stored JSON in the schema's types and the rules that make a row of a task; does not hold the
queries (`week_rows.py`), the file (`snapshot_files.py`) or the columns' names and types (`core/dataset.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from retrain_assets.core.dataset import FEATURE_PREFIX, arrow_schema
from retrain_assets.core.extraction import Extraction
from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.core.outcomes import MISSING, Result
from retrain_assets.errors import SchemaError
from retrain_assets.store.week_filling import WeekFilling
from retrain_assets.store.week_rows import NAMES, Row

if TYPE_CHECKING:
    import pyarrow as pa

FACTS = ("decided", "alone", "missing", "other_action", "other_task", "replaced")
"""What a snapshot's rows are counted by: with a decision; without one; decided, and no outcome came in time; decided,
and another action was attempted; without a decision, since the one it names is another task's; whose outcome corrects
an earlier one."""

_GROUP = 256

_MOST_BYTES = 1 << 28
"""Stored features of a batch that Arrow reads in one go; it counts bytes in 32 bits, and they are held twice."""

_SIGNED_ZERO = re.compile(rb"-0(?![0-9.eE])")
"""A whole number that is 0.0 in a snapshot, and -0.0 to Arrow's reader."""

_ON_DISK = {
    FeatureType.NUMBER: float,
    FeatureType.INTEGER: float,
    FeatureType.BOOLEAN: bool,
    FeatureType.CATEGORY: str,
}


class WeekColumns:
    """Turns rows of `week_rows.stream` into record batches of a snapshot, and counts what they are made of.

    Parameters
    ----------
    schema : FeatureSchema
    extraction : Extraction, optional
        Fills gaps; by default they stay.

    Attributes
    ----------
    facts : Counter
        By the names of `FACTS`.
    filling : WeekFilling or None
    first_seq : int or None
        The lowest number among the outcomes seen so far.
    """

    def __init__(self, schema: FeatureSchema, extraction: Extraction | None = None) -> None:
        self.schema = schema
        self.filling = WeekFilling(extraction) if extraction is not None and extraction.features else None
        self.arrow_schema = arrow_schema(schema)
        self.facts = Counter(dict.fromkeys(FACTS, 0))
        self.first_seq: int | None = None
        self._features = _FeatureReader(schema, self.filling)
        self._kinds = _kinds(self.arrow_schema)

    def batch(self, rows: Sequence[Row], originals: Mapping[str, str]) -> pa.RecordBatch:
        """One batch of a snapshot.

        Parameters
        ----------
        rows : sequence of Row
            At least one, in the order of `week_rows.NAMES`.
        originals : mapping
            The outcome at the beginning of the chain, for the ids of corrections without a decision
            (`corrections_alone`).
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        told: dict[str, list[Any]] = dict(zip(NAMES, _transposed(rows, len(NAMES)), strict=True))
        columns = {name: _array(told[name], kind) for name, kind in self._kinds.items()}
        self._count(columns)
        # The place of a correction in the dataset is that of what it corrects, so that a later week's correction
        # and the row that it corrects are one task, although the earlier snapshot stays what it was.
        ids = columns["told_id"]
        if originals:
            ids = pa.array([originals.get(name, name) for name in told["told_id"]], pa.string())
        columns["outcome_id"] = pc.if_else(pc.equal(ids, ""), pa.scalar(None, pa.string()), ids)
        columns["action"], columns["propensity"] = self._attempted(columns)
        is_told = columns["result"].is_valid()
        columns["failure_reason"] = pc.if_else(is_told, columns["failure_reason"], MISSING)
        columns["result"] = columns["result"].fill_null(Result.FAILURE.value)
        features = self._features.columns(told["decided_features"], told["told_features"], told["domain"])
        columns["stratum"] = self._strata(columns["stratum"], features)
        columns |= {FEATURE_PREFIX + name: values for name, values in features.items()}
        return pa.RecordBatch.from_arrays([columns[name] for name in self.arrow_schema.names], schema=self.arrow_schema)

    def _count(self, columns: Mapping[str, pa.Array]) -> None:
        import pyarrow.compute as pc

        rows, alone = len(columns["told_id"]), columns["decided_at"].null_count
        self.facts["decided"] += rows - alone
        self.facts["alone"] += alone
        self.facts["missing"] += columns["result"].null_count
        self.facts["other_task"] += pc.sum(columns["names_another"]).as_py()
        self.facts["replaced"] += rows - columns["replaces"].null_count
        first = pc.min(columns["seq"]).as_py()
        if first is not None:
            self.first_seq = first if self.first_seq is None else min(first, self.first_seq)

    def _attempted(self, columns: Mapping[str, pa.Array]) -> tuple[pa.Array, pa.Array]:
        """The actions that were tried, and the propensities of those that the policy drew.

        What a row teaches is what came of the action that was attempted; another one than decided was not drawn.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        decided, attempted = columns["decided_action"], columns["attempted_action"]
        places = pc.indices_nonzero(pc.not_equal(decided, attempted).fill_null(False))
        pairs = zip(
            places.to_pylist(), decided.take(places).to_pylist(), attempted.take(places).to_pylist(), strict=True
        )
        # Without published settings nobody corrected the case.
        others = [place for place, ours, theirs in pairs if ours.casefold() != theirs.casefold()]
        actions, propensities = pc.coalesce(decided, attempted), columns["propensity"]
        if others:
            self.facts["other_action"] += len(others)
            is_other = _mask(others, len(decided))
            actions = pc.if_else(is_other, attempted, actions)
            propensities = pc.if_else(is_other, pa.scalar(None, pa.float64()), propensities)
        return actions, propensities

    def _strata(self, recorded: pa.Array, features: Mapping[str, pa.Array]) -> pa.Array:
        """The stratum of each row; of those without a decision, by the features that they came with."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not recorded.null_count:
            return recorded
        places = pc.indices_nonzero(recorded.is_null())
        known = [feature for name in self.schema.strata if (feature := self.schema.get(name)) is not None]
        values = [features[feature.name].take(places) for feature in known]
        firsts, kinds = _kinds_of_rows(values, len(places))
        plain = zip(*(_plain(feature, v.take(firsts)) for feature, v in zip(known, values, strict=True)), strict=True)
        names = [feature.name for feature in known]
        rows = plain if known else [()] * len(firsts)
        strata = [self.schema.stratum(dict(zip(names, row, strict=True))) for row in rows]
        return pc.replace_with_mask(recorded, recorded.is_null(), pa.array(strata, pa.string()).take(kinds))


def _kinds_of_rows(columns: Sequence[pa.Array], rows: int) -> tuple[pa.Array, pa.Array]:
    """Where each kind of row is first seen, and the kind of each row: strata are few, and rows are many."""
    import numpy as np
    import pyarrow as pa

    kinds, firsts = np.zeros(rows, np.int64), np.zeros(1, np.int64)
    for column in columns:
        # 0.0 and -0.0 are equal, and have two names.
        bits = column.view(pa.int64()) if pa.types.is_floating(column.type) else column
        coded = bits.dictionary_encode(null_encoding="encode")
        paired = kinds * len(coded.dictionary) + coded.indices.to_numpy()
        _, firsts, kinds = np.unique(paired, return_index=True, return_inverse=True)
    return pa.array(firsts), pa.array(kinds)


def corrections_alone(rows: Iterable[Row]) -> list[str]:
    """Ids of the outcomes among rows that correct another one and have no decision."""
    place, decided_at, told_id = (NAMES.index(name) for name in ("replaces", "decided_at", "told_id"))
    return [row[told_id] for row in rows if row[place] is not None and row[decided_at] is None]


def lenient(feature: Feature, value: Any) -> Any:  # noqa: ANN401  (whatever the row holds)
    """Read a stored value in the feature's present type; one that no longer fits counts as missing.

    Rows outlive schemas: a value that was right under an older schema must not stop a week.
    """
    try:
        return feature.read(value)
    except SchemaError:
        return None


class _FeatureReader:
    """Stored features in the schema's types: a batch in one go, and row by row where one does not fit."""

    def __init__(self, schema: FeatureSchema, filling: WeekFilling | None = None) -> None:
        import pyarrow as pa

        self.features = schema.features
        self._filling = filling
        names = [f"f{place}" for place in range(len(self.features))]
        fields = [
            (name, _ON_DISK[feature.type] | None | UnsetType, UNSET)  # absent is not the same as stored as missing
            for name, feature in zip(names, self.features, strict=True)
        ]
        rename = {name: feature.name for name, feature in zip(names, self.features, strict=True)}
        self._decoder = msgspec.json.Decoder(msgspec.defstruct("StoredFeatures", fields, rename=rename, gc=False))
        self._values = _values_of(names)
        self._absent = (UNSET,) * len(self.features)
        arrow = {float: pa.float64(), bool: pa.bool_(), str: pa.string()}
        self._stored = pa.schema([(feature.name, arrow[_ON_DISK[feature.type]]) for feature in self.features])

    def columns(
        self, decided: Sequence[str | None], told: Sequence[str | None], domains: Sequence[str | None]
    ) -> dict[str, pa.Array]:
        """A column for each feature, by name: as decided on, else as the outcome told it, else as its URL tells it."""
        arrays = self._parsed([first or second or "{}" for first, second in zip(decided, told, strict=True)])
        if arrays is None:
            arrays = self._typed(_transposed(self._rows(decided, told), len(self.features)))
        else:
            arrays = self._with_told(arrays, decided, told)
        if self._filling is not None:
            values = {field.name: array.to_pylist() for field, array in zip(self._stored, arrays, strict=True)}
            arrays = self._typed(list(self._filling.complete(values, decided, told, domains).values()))
        return {f.name: _feature_array(f, array) for f, array in zip(self.features, arrays, strict=True)}

    def _parsed(self, texts: Sequence[str]) -> list[pa.Array] | None:
        """Columns of stored texts; None when the features of a row do not have the schema's types.

        No Python object is made for a value: a week's features took a third of the time that rows one by one did.
        """
        import pyarrow as pa
        import pyarrow.json

        stored = "\n".join(texts).encode()
        if len(stored) > _MOST_BYTES or _SIGNED_ZERO.search(stored):
            return None
        reading = pa.json.ReadOptions(use_threads=False, block_size=len(stored) + 1)
        parsing = pa.json.ParseOptions(explicit_schema=self._stored, unexpected_field_behavior="ignore")
        try:
            table = pa.json.read_json(pa.BufferReader(stored), read_options=reading, parse_options=parsing)
        except pa.ArrowInvalid:
            return None
        if table.num_rows != len(texts):
            return None
        return [table.column(field.name).combine_chunks() for field in self._stored]

    def _with_told(
        self, arrays: list[pa.Array], decided: Sequence[str | None], told: Sequence[str | None]
    ) -> list[pa.Array]:
        """Columns as decided on, with what an outcome knew besides; only rows with a gap are looked at."""
        import pyarrow.compute as pc

        both = [n for n, pair in enumerate(zip(decided, told, strict=True)) if pair[0] and pair[1] and pair[1] != "{}"]
        if not both or not arrays:
            return arrays
        is_gap = reduce(pc.or_, (array.is_null() for array in arrays))
        is_open = pc.and_(is_gap, _mask(both, len(decided)))
        places = pc.indices_nonzero(is_open).to_pylist()
        if not places:
            return arrays
        rows = self._rows([decided[place] for place in places], [told[place] for place in places])
        mended = self._typed(_transposed(rows, len(arrays)))
        return [pc.replace_with_mask(array, is_open, new) for array, new in zip(arrays, mended, strict=True)]

    def _typed(self, columns: Sequence[Sequence[Any]]) -> list[pa.Array]:
        import pyarrow as pa

        return [
            pa.array([None if value is UNSET else value for value in values], field.type)
            for field, values in zip(self._stored, columns, strict=True)
        ]

    def _rows(self, decided: Sequence[str | None], told: Sequence[str | None]) -> list[tuple[Any, ...]]:
        rows = []
        for first, second in zip(decided, told, strict=True):
            values = self._absent if first is None else self._read(first)
            if second is not None and second != "{}" and UNSET in values:
                others = values is self._absent and self._read(second)
                values = others or tuple(
                    theirs if ours is UNSET else ours for ours, theirs in zip(values, self._read(second), strict=True)
                )
            rows.append(values)
        return rows

    def _read(self, stored: str) -> tuple[Any, ...]:
        try:
            return self._values(self._decoder.decode(stored))
        except msgspec.ValidationError:
            row = msgspec.json.decode(stored)
            return tuple(lenient(f, row[f.name]) if f.name in row else UNSET for f in self.features)


def _transposed(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """The columns of rows. In groups: an iterator lives for each row of one, and the collector walks over them all."""
    columns: list[list[Any]] = [[] for _ in range(width)]
    for start in range(0, len(rows), _GROUP):
        for column, values in zip(columns, zip(*rows[start : start + _GROUP], strict=True), strict=True):
            column.extend(values)
    return columns


def _values_of(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda row: tuple(getattr(row, name) for name in names)  # attrgetter of one name gives no tuple


def _feature_array(feature: Feature, stored: pa.Array) -> pa.Array:
    """A feature's column; what its limits or categories no longer allow is missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if feature.type is FeatureType.BOOLEAN:
        return stored.cast(pa.float64())
    if feature.type is FeatureType.CATEGORY:
        coded = stored.dictionary_encode()
        allowed = [lenient(feature, text) for text in coded.dictionary.to_pylist()]
        return pa.array(allowed, pa.string()).take(coded.indices)
    numbers = stored
    fits = pc.is_finite(numbers)
    if feature.type is FeatureType.INTEGER:
        numbers = pc.add(numbers, 0.0)  # -0.0 is the whole number 0
        fits = pc.and_(fits, pc.equal(numbers, pc.floor(numbers)))
    if feature.min is not None:
        fits = pc.and_(fits, pc.greater_equal(numbers, feature.min))
    if feature.max is not None:
        fits = pc.and_(fits, pc.less_equal(numbers, feature.max))
    return pc.if_else(fits, numbers, pa.scalar(None, pa.float64()))


def _plain(feature: Feature, column: pa.Array) -> list[Any]:
    """A feature's column as the values that `Feature.read` gives, of which a stratum's name is made."""
    kind = {FeatureType.BOOLEAN: bool, FeatureType.INTEGER: int}.get(feature.type)
    values = column.to_pylist()
    return values if kind is None else [None if value is None else kind(value) for value in values]


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """A column of the type; SQLite's instants are text, which Arrow reads faster than Python does."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind) and isinstance(next((v for v in values if v is not None), None), str):
        return pa.array(values, pa.string()).cast(kind)
    return pa.array(values, kind)


def _kinds(schema: pa.Schema) -> dict[str, pa.DataType]:
    """The types of a row's values, by the names of `NAMES`; stored features are read by themselves."""
    import pyarrow as pa

    numbers = {"seq": pa.int64(), "names_another": pa.int64()}
    fixed = {field.name: field.type for field in schema if field.name in NAMES}
    names = (name for name in NAMES if name not in ("named_id", "decided_features", "told_features"))
    return {name: numbers.get(name) or fixed.get(name, pa.string()) for name in names}


def _mask(places: Sequence[int], rows: int) -> pa.Array:
    """True at the places."""
    import numpy as np
    import pyarrow as pa

    mask = np.zeros(rows, bool)
    mask[places] = True
    return pa.array(mask)
