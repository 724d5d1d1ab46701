"""Which data produced a model, and which model made a decision.

Holds the walk from a decision to its model, dataset and snapshots, and the check that the snapshots' files are
still what was recorded; does not hold how they are made (`store/datasets.py`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from retrain_assets.core.dataset import Snapshot
from retrain_assets.core.deployment import ModelVersion
from retrain_assets.core.outcomes import MISSING, DecisionRecord
from retrain_assets.errors import NoModelError, RetrainError
from retrain_assets.operations.platform import Platform
from retrain_assets.store import datasets, decisions, registry
from retrain_assets.store.files import sha256_of
from retrain_assets.store.tables import decisions as decisions_table
from retrain_assets.store.tables import outcomes as outcomes_table


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
    """A version, its dataset and the snapshots that it consists of, in order."""

    model: ModelVersion
    home: Path
    links: tuple[Link, ...]

    @property
    def faults(self) -> list[str]:
        """What is wrong, a sentence each; empty when every file is intact."""
        return [f"week {link.snapshot.week}: {link.fault}" for link in self.links if link.fault]

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
            "parent": model.parent_version,
            "run_id": model.run_id,
            "code_version": model.code_version,
            "intact": not self.faults,
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


def trace(platform: Platform, which: str) -> Lineage:
    """Walk from a version to its snapshots, and compare each file with what was recorded.

    Raises
    ------
    NoModelError
        There is no such version.
    """
    with platform.database.read() as connection:
        model = _version(connection, which)
        dataset = datasets.get_dataset(connection, model.dataset_hash)
    if dataset is None:
        raise RetrainError(f"the dataset {model.dataset_hash[:12]} of {model.version} is not in the database")
    home = platform.problem_home
    return Lineage(model, home.resolve(), tuple(Link(part, _fault(home, part)) for part in dataset.snapshots))


def _fault(home: Path, part: Snapshot) -> str | None:
    try:
        found = sha256_of(home / part.path)
    except OSError as error:
        return f"{part.path} cannot be read: {error.strerror or error}"
    if found != part.file_sha256:
        return f"{part.path} has SHA-256 {found[:16]}..., recorded is {part.file_sha256[:16]}..."
    return None


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
        outcome = _outcome(connection, decision_id)
    lineage = trace(platform, decision.model_version) if decision.model_version else None
    return Explanation(decision, outcome, lineage, is_mature=platform.now() >= decision.deadline_at)


def _outcome(connection: Connection, decision_id: str) -> dict[str, Any] | None:
    """The newest outcome of a decision, by its id, else by its task and attempt."""
    query = (
        select(outcomes_table)
        .select_from(decisions_table)
        .join(outcomes_table, outcomes_table.c.seq == decisions.newest_outcome_seq())
        .where(decisions_table.c.decision_id == decision_id)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else dict(row._mapping)  # noqa: SLF001  (SQLAlchemy's documented way to a row's names)
