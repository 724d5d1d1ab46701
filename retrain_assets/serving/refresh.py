"""Where an engine's bundle comes from: the route in the database, published settings and verified artefacts.

Holds the reading, the loading and the assembly; does not hold the bundle itself (`bundle.py`) or the thread that asks
for a refresh (`engine.py`). A model is loaded from bytes whose digests match the registry and passes its self-test
before any bundle names it.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from retrain_assets.core.deployment import Event, EventKind, ModelVersion
from retrain_assets.core.routing import Route
from retrain_assets.errors import ArtefactRefused, ConfigError, StoreUnavailable
from retrain_assets.serving import quiet_runtime  # noqa: F401  (before the artefact's own import of onnxruntime)
from retrain_assets.serving.artefact import MANIFEST_FILE, ONNX_FILE, Artefact
from retrain_assets.serving.bundle import Bundle, Served, Terms, servable
from retrain_assets.serving.circuit import Circuit
from retrain_assets.settings import Config, resolve
from retrain_assets.store import models, published, registry
from retrain_assets.store.database import Database

SETTINGS_AGE_S = 60.0
"""How long published settings are trusted within one epoch before they are read again."""
RELOAD_AFTER_S = 10.0
"""How long a refused artefact rests before the thread tries it again; its file may still be on its way."""


@dataclass(slots=True)
class Refresher:
    """Assembles bundles from the database and the artefact files; for one thread at a time.

    Parameters
    ----------
    database : Database
    clock : callable
        Returns the current instant, aware; only stamps events.
    config : Config, optional
        Serve with these settings; by default with the published ones.
    problem_home : Path, optional
        Where the problem's files lie. Otherwise the folder of the SQLite file; otherwise, for a server,
        `RETRAIN_HOME/<problem.name>`.
    counts : Counter
        Is told what happened: `refreshes`, `artefacts_refused`.
    """

    database: Database
    clock: Callable[[], datetime]
    config: Config | None = None
    problem_home: Path | None = None
    counts: Counter[str] = field(default_factory=Counter)
    _loaded: dict[str, Served] = field(default_factory=dict, init=False)
    _refused: dict[str, tuple[str, float]] = field(default_factory=dict, init=False)
    _reported: set[tuple[str, int]] = field(default_factory=set, init=False)
    _circuits: dict[tuple[str | None, str | None], Circuit] = field(default_factory=dict, init=False)
    _settings_until: float = field(default=0.0, init=False)

    def refresh(self, current: Bundle | None, *, is_patient: bool = False) -> Bundle:
        """The bundle to serve from now: `current` itself when nothing changed.

        A new route whose production cannot be loaded leaves `current` in place, with the lease it had, so that its
        canary ends by itself; a canary that cannot be loaded is left out, and the new route's production serves.

        Parameters
        ----------
        current : Bundle or None
        is_patient : bool
            Let a refused artefact rest for `RELOAD_AFTER_S` instead of trying it again now.

        Raises
        ------
        StoreUnavailable
            The database is away; `current` is still good.
        """
        with self.database.read() as connection:
            route = registry.get_route(connection)
            config = self._settings(connection, current, route)
            missing = [version for version in _versions(route) if self._is_wanted(version, is_patient=is_patient)]
            rows = {version: registry.get_version(connection, version) for version in missing}
        self.counts["refreshes"] += 1
        for version, row in rows.items():
            self._load(version, row, config)
        refused = {v: self._refused[v][0] for v in _versions(route) if v in self._refused}
        self._report(route, refused)
        terms = current.terms if current is not None and config is current.terms.config else Terms.of(config)
        if current is not None and (route, terms, refused) == (current.seen, current.terms, current.refused):
            return current
        return self._assemble(current, route, terms, refused)

    def home(self, config: Config) -> Path:
        """Where the problem's files lie; see the class for what goes first."""
        if self.problem_home is not None:
            return self.problem_home
        if (file := self.database.file) is not None:
            return file.expanduser().resolve().parent
        return resolve(config, None).problem_home

    def _settings(self, connection: Any, current: Bundle | None, route: Route) -> Config | None:  # noqa: ANN401
        if self.config is not None:
            return self.config
        known = current.terms.config if current is not None and current.seen.epoch == route.epoch else None
        if known is not None and time.monotonic() < self._settings_until:
            return known
        known = current.terms.config if current is not None else None
        try:
            found = published.active(connection)
        except ConfigError:  # published by a newer version than this worker's: what it knows goes on
            if known is None:
                raise
            found = known
        self._settings_until = time.monotonic() + SETTINGS_AGE_S
        return known if found == known else found  # the same object tells that nothing changed

    def _is_wanted(self, version: str, *, is_patient: bool) -> bool:
        if version in self._loaded:
            return False
        return not (is_patient and version in self._refused and time.monotonic() < self._refused[version][1])

    def _load(self, version: str, row: ModelVersion | None, config: Config | None) -> None:
        try:
            self._loaded[version] = Served(version, load_version(self.home(config or Config()), version, row))
            self._refused.pop(version, None)
        except ArtefactRefused as error:
            if version not in self._refused:
                self.counts["artefacts_refused"] += 1
            self._refused[version] = (str(error), time.monotonic() + RELOAD_AFTER_S)

    def _assemble(self, current: Bundle | None, route: Route, terms: Terms, refused: dict[str, str]) -> Bundle:
        if route.production_version in refused and current is not None and current.production is not None:
            # The old bundle keeps its own route and lease; only what is known of the refusal is new.
            return current if current.refused == refused else replace(current, refused=refused)
        self._loaded = {v: served for v, served in self._loaded.items() if v in _versions(route)}
        self._refused = {v: known for v, known in self._refused.items() if v in refused}
        canary, holdback = self._of(route.canary_version), self._of(route.holdback_version)
        production = self._of(route.production_version)
        key = (route.rollout_id, route.canary_version or route.holdback_version)
        self._circuits = {key: self._circuits.get(key) or Circuit()}
        return Bundle(
            seen=route,
            route=servable(route, is_canary=bool(canary and production), is_holdback=bool(holdback and production)),
            terms=terms,
            production=production,
            canary=canary,
            holdback=holdback,
            circuit=self._circuits[key],
            refused=refused,
        )

    def _of(self, version: str | None) -> Served | None:
        return self._loaded.get(version) if version else None

    def _report(self, route: Route, refused: dict[str, str]) -> None:
        """Record each refusal once for its version and epoch, whichever of many engines meets it first."""
        for version, reason in refused.items():
            if (version, route.epoch) in self._reported:
                continue
            try:
                with self.database.write() as connection:
                    registry.get_route(connection, is_locked=True)  # engines take turns, so that one of them records it
                    known = registry.events(connection, kinds=(EventKind.ARTEFACT_REFUSED,), last=100)
                    if not any(event.version == version and event.epoch == route.epoch for event in known):
                        registry.record(connection, self._refusal(version, route.epoch, reason))
            except StoreUnavailable:
                return  # the next refresh tries again; what can be served must not wait for it
            self._reported.add((version, route.epoch))

    def _refusal(self, version: str, epoch: int, reason: str) -> Event:
        return Event(
            kind=EventKind.ARTEFACT_REFUSED,
            at=self.clock(),
            actor=f"engine on {socket.gethostname()}"[:200],
            reason=reason,
            version=version,
            epoch=epoch,
        )


def load_version(problem_home: Path, version: str, row: ModelVersion | None) -> Artefact:
    """Load a registered version: digests first, then its self-test.

    Parameters
    ----------
    problem_home : Path
        The folder to which the registry's paths are relative.
    version : str
    row : ModelVersion or None
        What the registry says of it.

    Raises
    ------
    ArtefactRefused
        It is not registered, its files are missing or changed, or they give other scores than they should.
    """
    if row is None:
        raise ArtefactRefused(f"{version} is not in the registry")
    entries = {name: row.artefacts.get(name) for name in (ONNX_FILE, MANIFEST_FILE)}
    contents: dict[str, bytes] = {}
    for name, entry in entries.items():
        if entry is None:
            raise ArtefactRefused(f"{version} has no {name} in the registry; train and register it again")
        try:
            contents[name] = models.read(problem_home, name, entry)
        except ArtefactRefused as error:
            hint = f" (looked in {problem_home}; give the folder as problem_home= or set RETRAIN_HOME if it is another)"
            is_absent = not (problem_home / str(entry.get("path", ""))).exists()
            raise ArtefactRefused(f"{version}: {error}{hint if is_absent else ''}") from error
    try:
        return Artefact.load(contents[ONNX_FILE], contents[MANIFEST_FILE])
    except ArtefactRefused as error:
        raise ArtefactRefused(f"{version}: {error}") from error


def _versions(route: Route) -> Sequence[str]:
    """The versions a route names, production first, each once."""
    named = (route.production_version, route.canary_version, route.holdback_version)
    return [version for version in dict.fromkeys(named) if version]
