"""Which data produced a model, and which model made a decision.

Holds the walk from a decision to its model, dataset and snapshots; does not hold the checks that each of them is still
what was recorded (`operations/chain.py`) or how they are made (`store/datasets.py`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from retrain_assets.core.dataset import Snapshot
from retrain_assets.core.deployment import ModelVersion
from retrain_assets.core.outcomes import MISSING, DecisionRecord
from retrain_assets.errors import NoModelError, RetrainError
from retrain_assets.operations import chain
from retrain_assets.operations.chain import FileLink
from retrain_assets.operations.platform import Platform
from retrain_assets.store import decisions, registry, traces


@dataclass(frozen=True, slots=True)
class Link:
    """One snapshot of a dataset.

    Attributes
    ----------
    fault : str or None
        What is wrong with its file; None when its bytes are what was recorded.
    """

    snapshot: Snapshot
    fault: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able; `path` is relative to the lineage's `home`."""
        names = ("week", "content_hash", "file_sha256", "rows", "path")
        return {name: getattr(self.snapshot, name) for name in names} | {"fault": self.fault}


@dataclass(frozen=True, slots=True)
class Lineage:
    """A version, its dataset and the snapshots that it consists of, in order.

    Attributes
    ----------
    artefacts : tuple of FileLink
        The version's own files.
    broken : tuple of str
        What is wrong in the database, or with the parent that training continued from.
    is_deep : bool
        The rows of each snapshot were read and hashed, too.
    """

    model: ModelVersion
    home: Path
    links: tuple[Link, ...]
    artefacts: tuple[FileLink, ...] = ()
    broken: tuple[str, ...] = ()
    is_deep: bool = False

    @property
    def faults(self) -> list[str]:
        """What is wrong, a sentence each; empty when the whole chain is intact."""
        return [*self.data_faults, *(f"{self.model.version}: {file.fault}" for file in self.artefacts if file.fault)]

    @property
    def data_faults(self) -> list[str]:
        """Those of them that a rebuilding of the version cannot do without."""
        return [f"week {link.snapshot.week}: {link.fault}" for link in self.links if link.fault] + list(self.broken)

    def to_dict(self) -> dict[str, Any]:
        """The contract's JSON, with a few keys more."""
        model = self.model
        return {
            "version": model.version,
            "home": str(self.home),
            "dataset_hash": model.dataset_hash,
            "rows": sum(link.snapshot.rows for link in self.links),
            "schema_version": model.schema_version,
            "snapshots": [link.to_dict() for link in self.links],
            "artefacts": [asdict(file) for file in self.artefacts],
            "parent": model.parent_version,
            "run_id": model.run_id,
            "code_version": model.code_version,
            "training_id": model.training_id,
            "intact": not self.faults,
            "faults": self.faults,
            "deep": self.is_deep,
        }


def find_version(platform: Platform, which: str) -> ModelVersion:
    """A version by its number, or the one that `production`, `canary` or `latest` stands for.

    Raises
    ------
    NoModelError
        There is none.
    """
    with platform.database.read() as connection:
        return _version(connection, which)


def _version(connection: Connection, which: str) -> ModelVersion:
    route = registry.get_route(connection)
    match which:
        case "production" | "canary":
            name = route.production_version if which == "production" else route.canary_version
            if name is None:
                served = "nothing serves yet" if which == "production" else "no canary is on trial"
                raise NoModelError(f"{served}; `retrain models` lists the versions")
        case "latest":
            known = registry.versions(connection)
            if not known:
                raise NoModelError("no version is registered yet; `retrain run` trains the first one")
            return known[-1]
        case _:
            name = which
    model = registry.get_version(connection, name)
    if model is None:
        raise NoModelError(f"{name} is not registered; `retrain models` lists the versions")
    return model


def trace(platform: Platform, which: str, *, is_deep: bool = False) -> Lineage:
    """Walk from a version to its snapshots, and compare each link with what was recorded.

    The digests of every file, the dataset's hash over its snapshots, and the training's id over everything that it was
    told.

    Parameters
    ----------
    platform : Platform
    which : str
        As `find_version` takes it.
    is_deep : bool
        Also read the snapshots and compare their rows with the content hash; needs the platform extra.

    Raises
    ------
    NoModelError
        There is no such version.
    """
    with platform.database.read() as connection:
        model = _version(connection, which)
        records = chain.read_records(connection, model)
    return trace_records(platform, records, is_deep=is_deep)


def trace_records(platform: Platform, records: chain.Records, *, is_deep: bool = False) -> Lineage:
    """`trace` of a version whose rows have been read."""
    home, model = platform.problem_home, records.model
    schema = chain.schema_of(model) if is_deep else None
    parts = records.dataset.snapshots if records.dataset else ()
    broken = list(chain.record_faults(records))
    if (fault := chain.parent_fault(home, records)) is not None:
        broken.append(fault)
    return Lineage(
        model=model,
        home=home.resolve(),
        links=tuple(Link(part, chain.snapshot_fault(home, part, schema)) for part in parts),
        artefacts=chain.file_links(home, model),
        broken=tuple(broken),
        is_deep=is_deep,
    )


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, what came of it, and the lineage of the version that made it (None: no version did)."""

    decision: DecisionRecord
    outcome: dict[str, Any] | None
    lineage: Lineage | None
    is_mature: bool

    def to_dict(self) -> dict[str, Any]:
        """The contract's JSON."""
        lineage = None if self.lineage is None else self.lineage.to_dict()
        return {"decision": asdict(self.decision), "outcome": self.outcome, "lineage": lineage}

    @property
    def outcome_in_words(self) -> str:
        """What came of the decision, in one sentence."""
        if self.outcome is None:
            if self.is_mature:
                return f"none came in time: it counts as a failure, reason {MISSING}"
            return f"none yet; it has until {self.decision.deadline_at:%Y-%m-%d %H:%M} UTC"
        reason = f" ({self.outcome['failure_reason']})" if self.outcome["failure_reason"] else ""
        return f"{self.outcome['result']}{reason} at {self.outcome['occurred_at']:%Y-%m-%d %H:%M} UTC"


def explain(platform: Platform, decision_id: str) -> Explanation:
    """Walk from a decision to its outcome, its model, and the data that taught it.

    Raises
    ------
    RetrainError
        There is no such decision.
    """
    with platform.database.read() as connection:
        decision = decisions.get(connection, decision_id)
        if decision is None:
            hint = "an engine writes its decisions within about a second; the id stands in Decision.decision_id"
            raise RetrainError(f"there is no decision {decision_id!r} in this database; {hint}")
        outcome = traces.outcome_of(connection, decision_id)
    lineage = trace(platform, decision.model_version) if decision.model_version else None
    return Explanation(decision, outcome, lineage, is_mature=platform.now() >= decision.deadline_at)
