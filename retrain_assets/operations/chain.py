"""Whether everything that a version is made of is still what was recorded, link by link.

Holds the checks of snapshots, dataset, training, artefacts and parent; does not hold the walk from a decision to a
version (`operations/lineage.py`) or the rebuilding of one (`operations/reproduce.py`). Each fault is a sentence that
names what is broken; nothing is mended here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from retrain_assets.core.dataset import ContentHash, Dataset, Snapshot, arrow_schema, dataset_hash
from retrain_assets.core.deployment import ModelVersion
from retrain_assets.core.features import FeatureSchema
from retrain_assets.errors import ArtefactRefused
from retrain_assets.operations.model import PIPELINE_FILE, training_id
from retrain_assets.store import datasets, models, registry
from retrain_assets.store.files import sha256_of

SHOWN_DIGITS = 16
"""Digits of a hash in a sentence."""
_BATCH_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class FileLink:
    """One file of a version's artefact.

    Attributes
    ----------
    fault : str or None
        What is wrong with it; None when its bytes are what was recorded.
    """

    name: str
    sha256: str
    path: str
    fault: str | None


@dataclass(frozen=True, slots=True)
class Records:
    """What the database says about a version; None where a row is gone.

    Attributes
    ----------
    training : dict or None
        The row of `trainings`.
    parent : ModelVersion or None
        The version whose pipeline an incremental training continued from.
    lost : tuple of str
        What is missing in the database.
    """

    model: ModelVersion
    dataset: Dataset | None
    training: dict[str, Any] | None
    parent: ModelVersion | None
    lost: tuple[str, ...]

    @property
    def parent_digest(self) -> str | None:
        """SHA-256 of the pipeline that training was given to continue from."""
        return self.model.spec.get("parent_digest")


def read_records(connection: Connection, model: ModelVersion) -> Records:
    """Everything that the database has of a version."""
    lost = []
    dataset = None
    try:
        dataset = datasets.get_dataset(connection, model.dataset_hash)
        if dataset is None:
            lost.append(f"the dataset {_short(model.dataset_hash)} of {model.version} is not in the database")
    except KeyError as error:  # a manifest that lists a snapshot without a row
        lost.append(f"the snapshot {_short(str(error.args[0]))} of {model.version} is not in the database")
    row = datasets.get_training(connection, model.training_id or "")
    if row is None:
        lost.append(f"the training {model.training_id} of {model.version} is not in the database")
    digest = model.spec.get("parent_digest")
    known = registry.versions(connection) if digest else []
    parent = next((other for other in known if _pipeline_digest(other) == digest), None)
    if digest and parent is None:
        lost.append(f"the parent of {model.version}, whose {PIPELINE_FILE} is {_short(digest)}, is not in the database")
    training = None if row is None else dict(row._mapping)  # noqa: SLF001  (SQLAlchemy's documented way to names)
    return Records(model, dataset, training, parent, tuple(lost))


def schema_of(model: ModelVersion) -> FeatureSchema | None:
    """The feature schema that a version's spec records; None when it cannot be read."""
    try:
        return FeatureSchema.from_dict(model.spec["schema"])
    except (KeyError, TypeError, ValueError):
        return None


def record_faults(records: Records) -> Iterator[str]:
    """What contradicts itself in the database."""
    yield from records.lost
    if records.dataset is not None:
        yield from _dataset_faults(records.model, records.dataset)
    if records.training is not None:
        yield from _training_faults(records.model, records.training)


def _dataset_faults(model: ModelVersion, dataset: Dataset) -> Iterator[str]:
    found = dataset_hash(dataset.schema_version, [part.content_hash for part in dataset.snapshots])
    if found != model.dataset_hash:
        told = f"its snapshots and schema give {_short(found)}, recorded is {_short(model.dataset_hash)}"
        yield f"the dataset of {model.version} is not the one recorded: {told}"
    schema = schema_of(model)
    fingerprint = schema.fingerprint if schema else "none"
    if not fingerprint == model.schema_version == dataset.schema_version:
        told = f"{fingerprint} in the spec, {model.schema_version} in the registry"
        yield f"the schema of {model.version} differs: {told}, {dataset.schema_version} in the dataset"
    rows = sum(part.rows for part in dataset.snapshots)
    if rows != dataset.rows:
        yield f"the dataset of {model.version} is recorded with {dataset.rows} rows, its snapshots with {rows}"


def _training_faults(model: ModelVersion, training: dict[str, Any]) -> Iterator[str]:
    found = training_id(model.dataset_hash, model.spec, model.code_version, training["libraries"])
    if found != model.training_id:
        told = f"spec, dataset, code and libraries give the training id {found}, recorded is {model.training_id}"
        yield f"what {model.version} was told is not what was recorded: {told}"
    for name in ("spec", "dataset_hash", "code_version", "artefacts"):
        if training[name] != getattr(model, name):
            yield f"{name} of {model.version} differs between the registry and its training {model.training_id}"


def snapshot_fault(home: Path, part: Snapshot, schema: FeatureSchema | None = None) -> str | None:
    """What is wrong with a snapshot's file; None when nothing is.

    Parameters
    ----------
    home : Path
        The problem's.
    part : Snapshot
    schema : FeatureSchema, optional
        Also recompute the content hash from the rows, which also tells a changed file whose recorded SHA-256 was
        changed with it. Needs pyarrow.
    """
    try:
        found = sha256_of(home / part.path)
    except OSError as error:
        return f"{part.path} cannot be read: {error.strerror or error}"
    if found != part.file_sha256:
        return f"{part.path} has SHA-256 {_short(found)}..., recorded is {_short(part.file_sha256)}..."
    return None if schema is None else _content_fault(home, part, schema)


def _content_fault(home: Path, part: Snapshot, schema: FeatureSchema) -> str | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = arrow_schema(schema)
    digest = ContentHash(columns)
    try:
        with pq.ParquetFile(home / part.path) as file:
            if file.schema_arrow.names != columns.names:
                return f"{part.path} has other columns than the schema"
            for batch in file.iter_batches(_BATCH_ROWS):
                digest.update(pa.Table.from_batches([batch]).cast(columns))
    except (OSError, pa.ArrowException) as error:
        return f"{part.path} cannot be read as Parquet: {str(error).splitlines()[0]}"
    found = digest.hexdigest(part.week)
    if found != part.content_hash:
        return f"{part.path} holds rows of content hash {_short(found)}..., recorded is {_short(part.content_hash)}..."
    return None


def file_links(home: Path, model: ModelVersion) -> tuple[FileLink, ...]:
    """Every file of a version's artefact, read and compared with its digest."""
    return tuple(
        FileLink(name, str(entry["sha256"]), str(entry["path"]), _file_fault(home, name, entry))
        for name, entry in sorted(model.artefacts.items())
    )


def parent_fault(home: Path, records: Records) -> str | None:
    """What is wrong with the pipeline that training continued from; None when nothing is, or there is none."""
    parent = records.parent
    if parent is None:
        return None
    fault = _file_fault(home, PIPELINE_FILE, parent.artefacts[PIPELINE_FILE])
    return None if fault is None else f"parent {parent.version}: {fault}"


def _file_fault(home: Path, name: str, entry: dict[str, Any]) -> str | None:
    try:
        models.read(home, name, entry)
    except ArtefactRefused as error:
        return str(error)
    return None


def _pipeline_digest(model: ModelVersion) -> str | None:
    entry = model.artefacts.get(PIPELINE_FILE)
    return None if entry is None else str(entry["sha256"])


def _short(digest: str) -> str:
    return digest[:SHOWN_DIGITS]
