"""Rebuild a version from what was recorded of it, and compare it byte for byte.

Holds the rebuilding and the comparison; does not hold the checks of the chain (`operations/chain.py`) or training
itself (`operations/model.py: rebuild`). Nothing is written, neither to the registry nor to disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from retrain_assets.core.deployment import ModelVersion
from retrain_assets.errors import RetrainError
from retrain_assets.operations import chain
from retrain_assets.operations.estimators import OwnEstimator, own_estimator
from retrain_assets.operations.lineage import Lineage, find_version, trace_records
from retrain_assets.operations.model import PIPELINE_FILE, code_version, library_versions, pipeline_file, rebuild
from retrain_assets.operations.platform import Platform
from retrain_assets.serving.artefact import MANIFEST_FILE, ONNX_FILE
from retrain_assets.store import datasets, models

if TYPE_CHECKING:
    from retrain_assets.core.model import PackedModel, TrainedModel
    from retrain_assets.core.pipeline import SuccessPipeline

FITTED = "fitted_arrays"
"""Name of the digest over the fitted arrays (`core.model.fitted_digest`) among those of the files."""
SHOWN_DIFFERENCES = 12
"""Settings of two manifests that are told to differ; more would hide the first ones."""

Tell = Callable[[float, str], None]
"""Takes the share of the work that is done, and what is being done."""

Digests = dict[str, dict[str, str | None]]


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came of a rebuilding.

    Attributes
    ----------
    identical : bool
        The chain is whole, and every digest is the recorded one.
    digests : mapping
        `model.onnx`, `manifest.json` and `fitted_arrays` to `recorded` and `rebuilt` SHA-256; None where there is none.
    differences : tuple of str
        What differs, a sentence each, with numbers. Empty when identical.
    changed : tuple of str
        Code and libraries that are other versions than recorded; the model may be identical all the same.
    threads, seed : int
        As recorded, and used again.
    """

    version: str
    identical: bool
    digests: Digests
    differences: tuple[str, ...]
    changed: tuple[str, ...] = ()
    threads: int | None = None
    seed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The contract's JSON, with a few keys more."""
        return {
            "version": self.version,
            "identical": self.identical,
            "digests": self.digests,
            "differences": list(self.differences),
            "changed": list(self.changed),
            "threads": self.threads,
            "seed": self.seed,
        }


@dataclass(slots=True)
class _Findings:
    """What is found on the way."""

    digests: Digests = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)


def reproduce(platform: Platform, which: str, tell: Tell = lambda _share, _text: None) -> Reproduction:
    """Train a version again from its recorded dataset, spec, seed and threads, and compare.

    Where data, spec or parent are damaged, nothing is trained: what is broken is named instead. A damaged artefact is
    named, and the version is rebuilt all the same, which shows whether it can be had back.

    Parameters
    ----------
    platform : Platform
    which : str
        A version, or `production`, `canary`, `latest`.
    tell : callable, optional

    Raises
    ------
    NoModelError
        There is no such version.
    ConfigError
        Its own estimator cannot be imported any more.
    """
    tell(0.0, "checking every link of the chain")
    model = find_version(platform, which)
    with platform.database.read() as connection:
        records = chain.read_records(connection, model)
    lineage = trace_records(platform, records, is_deep=True)
    if lineage.data_faults or not lineage.links:
        faults = lineage.faults or [f"the dataset of {model.version} lists no snapshots"]
        return Reproduction(model.version, identical=False, digests={}, differences=tuple(faults))
    own = own_estimator(model.spec["estimator"], model.spec["params"])
    changed = tuple(_changed(records, own))
    found = _Findings(differences=list(lineage.faults))
    try:
        _compare_rebuilt(platform, records, lineage, own, tell, found=found)
    except RetrainError as error:
        found.differences.append(f"{model.version} cannot be trained again: {error}")
    if found.differences:
        found.differences += changed
    return Reproduction(
        version=model.version,
        identical=not found.differences,
        digests=found.digests,
        differences=tuple(found.differences),
        changed=changed,
        threads=model.spec.get("threads"),
        seed=model.spec.get("seed"),
    )


def _compare_rebuilt(
    platform: Platform,
    records: chain.Records,
    lineage: Lineage,
    own: OwnEstimator | None,
    tell: Tell,
    *,
    found: _Findings,
) -> None:
    from retrain_assets.core.model import fitted_digest

    rebuilt, packed = _trained_again(platform, records, own, tell)
    tell(0.9, "comparing")
    kept = _intact_pipeline(platform, records.model, lineage)
    recorded = {name: str(records.model.artefacts[name]["sha256"]) for name in (ONNX_FILE, MANIFEST_FILE)}
    found.digests |= {name: {"recorded": digest, "rebuilt": packed.digests[name]} for name, digest in recorded.items()}
    found.digests[FITTED] = {
        "recorded": fitted_digest(kept) if kept else None,
        "rebuilt": fitted_digest(rebuilt.pipeline),
    }
    differing = [name for name, pair in found.digests.items() if pair["recorded"] not in {None, pair["rebuilt"]}]
    found.differences += [
        f"{name}: recorded SHA-256 {str(found.digests[name]['recorded'])[:16]}..., "
        f"rebuilt {str(found.digests[name]['rebuilt'])[:16]}..."
        for name in differing
    ]
    if differing:
        found.differences += _by_numbers(platform, records.model, lineage, rebuilt, packed)
    tell(1.0, "compared")


def _trained_again(
    platform: Platform, records: chain.Records, own: OwnEstimator | None, tell: Tell
) -> tuple[TrainedModel, PackedModel]:
    """Train from the records alone; the present configuration is not asked."""
    from retrain_assets.core.model import TrainSpec, pipeline_from_bytes
    from retrain_assets.core.splits import split_by_time

    model, dataset, schema = records.model, records.dataset, chain.schema_of(records.model)
    assert dataset is not None  # noqa: S101  (the chain is whole)
    assert schema is not None  # noqa: S101  (the same)
    assert records.training is not None  # noqa: S101  (the same)
    tell(0.2, "reading the recorded rows")
    rows = datasets.load_rows(platform.problem_home, dataset, schema)
    splits = split_by_time(rows, gap=timedelta(minutes=records.training["splits"]["gap_minutes"]))
    told = splits.to_dict()
    names = [name for name, value in records.training["splits"].items() if told.get(name) != value]
    if names:
        raise RetrainError(f"its rows are split otherwise than recorded: {', '.join(names)}")
    parent = pipeline_from_bytes(*pipeline_file(platform, records.parent)) if records.parent else None
    tell(0.3, f"training on {len(splits.train):,} rows")
    return rebuild(rows, splits, schema, TrainSpec.from_dict(model.spec), parent=parent, own=own)


def _intact_pipeline(platform: Platform, model: ModelVersion, lineage: Lineage) -> SuccessPipeline | None:
    from retrain_assets.core.model import pipeline_from_bytes

    is_whole = all(file.fault is None for file in lineage.artefacts if file.name == PIPELINE_FILE)
    return pipeline_from_bytes(*pipeline_file(platform, model)) if is_whole else None


def _changed(records: chain.Records, own: OwnEstimator | None) -> Iterator[str]:
    """Code and libraries that are not what they were, a sentence each."""
    assert records.training is not None  # noqa: S101  (the chain is whole)
    code = records.model.code_version
    if code != code_version():
        yield f"the code of retrain_assets is {code_version()}, recorded is {code}"
    recorded, present = records.training["libraries"], library_versions(records.model.spec["estimator"])
    for name in sorted(recorded):
        if present.get(name) != recorded[name]:
            yield f"{name} is {present.get(name, 'not installed')}, recorded is {recorded[name]}"
    was = records.model.spec.get("source") or {}
    for name, value in (own.source if own else {}).items():
        if was.get(name) != value:
            yield f"{name} of the estimator {records.model.spec['estimator']} is {value}, recorded is {was.get(name)}"


def _by_numbers(
    platform: Platform, model: ModelVersion, lineage: Lineage, rebuilt: TrainedModel, packed: PackedModel
) -> Iterator[str]:
    """How far the two models differ: scores of the recorded manifest's probes, and its settings one by one."""
    if any(file.fault for file in lineage.artefacts if file.name == MANIFEST_FILE):
        yield f"{MANIFEST_FILE} is damaged, so that its probe rows cannot be compared"
        return
    import numpy as np

    from retrain_assets.core.probes import rows_frame

    recorded = json.loads(models.read(platform.problem_home, MANIFEST_FILE, model.artefacts[MANIFEST_FILE]))
    probes = recorded["probes"]
    rows = [{**probe["features"], "action": probe["action"]} for probe in probes]
    scores = rebuilt.predict(rows_frame(rebuilt.pipeline.encoding, rows))
    gaps = np.abs(scores - np.array([probe["score"] for probe in probes]))
    worst = int(np.argmax(gaps))
    yield (
        f"predictions on the {len(probes)} recorded probe rows differ by {gaps[worst]:.3g} at most and "
        f"{gaps.mean():.3g} on average; the worst is {probes[worst]['score']:.4f} recorded, {scores[worst]:.4f} rebuilt"
    )
    told = [*_differing(recorded, json.loads(packed.manifest))]
    yield from told[:SHOWN_DIFFERENCES]
    if len(told) > SHOWN_DIFFERENCES:
        yield f"and {len(told) - SHOWN_DIFFERENCES} more settings of {MANIFEST_FILE} differ"


def _differing(recorded: Any, rebuilt: Any, where: str = MANIFEST_FILE) -> Iterator[str]:  # noqa: ANN401  (parsed JSON)
    """Settings of two manifests that differ; digests and probes are told elsewhere."""
    if isinstance(recorded, Mapping) and isinstance(rebuilt, Mapping):
        for name in sorted({*recorded, *rebuilt} - {"onnx_sha256", "probes"}):
            yield from _differing(recorded.get(name), rebuilt.get(name), f"{where}.{name}")
    elif recorded != rebuilt:
        yield f"{where}: recorded {_brief(recorded)}, rebuilt {_brief(rebuilt)}"


def _brief(value: Any) -> str:  # noqa: ANN401  (parsed JSON)
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
