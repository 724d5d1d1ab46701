"""What an engine serves from: one immutable bundle of route, terms and loaded models.

Holds the bundle, the ranking of actions by a loaded model and the terms that the settings set; does not hold where a
bundle comes from (`refresh.py`) or the making of decisions (`engine.py`). An engine swaps bundles by one reference, so
that a decision sees either all of the old or all of the new.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from retrain_assets.core.extraction import Extraction
from retrain_assets.core.outcomes import OutcomeRules
from retrain_assets.core.routing import Route
from retrain_assets.errors import ArtefactRefused, SchemaError
from retrain_assets.serving import quiet_runtime  # noqa: F401  (before the artefact's own import of onnxruntime)
from retrain_assets.serving.artefact import Artefact
from retrain_assets.serving.circuit import Circuit
from retrain_assets.serving.decision import Recorder
from retrain_assets.settings import Config
from retrain_assets.store import extractors, published

MAX_CANDIDATE_SETS = 4_096
"""Different lists of actions whose reading is remembered."""


class Served:
    """A loaded model under its version.

    Attributes
    ----------
    version : str
    artefact : Artefact
    features : tuple of Feature
        Those that it was trained with.
    """

    __slots__ = ("_known", "artefact", "features", "version")

    def __init__(self, version: str, artefact: Artefact) -> None:
        self.version = version
        self.artefact = artefact
        self.features = artefact.schema.features
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def rank(self, features: Any, candidates: tuple[str, ...]) -> dict[str, float]:  # noqa: ANN401  (a worker's mapping)
        """P(success) of each candidate, best first; equal ones keep the candidates' order.

        An action that was added to the problem after the training has no score and is left out.

        Raises
        ------
        SchemaError
            A feature does not fit, or the model knows none of the candidates.
        ArtefactRefused
            A score is not a probability.
        """
        known = self._known.get(candidates)
        if known is None:
            known = self._knows(candidates)
        scores = self.artefact.score(features, known).tolist()
        if not 0.0 <= sum(scores) <= len(scores):  # false for NaN and for infinities
            raise ArtefactRefused(f"{self.version} answered {scores}, which are not probabilities")
        if len(scores) == 1:
            return {known[0]: scores[0]}
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        return {known[i]: scores[i] for i in order}

    def _knows(self, candidates: tuple[str, ...]) -> tuple[str, ...]:
        known = tuple(action for action in candidates if action in self.artefact.actions)
        if not known:
            asked, own = ", ".join(candidates), ", ".join(self.artefact.actions)
            raise SchemaError("actions", f"{self.version} knows none of {asked}; it was trained for {own}")
        if len(self._known) >= MAX_CANDIDATE_SETS:
            self._known.clear()
        self._known[candidates] = known
        return known


@dataclass(frozen=True, slots=True)
class Terms:
    """What the settings say about decisions, looked up once instead of at each of them.

    Attributes
    ----------
    config : Config or None
        None while nothing is published.
    actions : tuple of str
        All actions of the problem, the default candidates.
    default_action : str or None
    epsilon : float
        Share of decisions that are explored.
    timeout : timedelta
        From decision to deadline.
    slow_ms : float
        A model on trial that takes longer has failed.
    refresh_s : float
    rules : OutcomeRules
        Reads names of actions, in any case and by alias.
    recorder : Recorder
    extraction : Extraction
        Fills features that a task comes without.
    """

    config: Config | None
    actions: tuple[str, ...]
    default_action: str | None
    epsilon: float
    timeout: timedelta
    slow_ms: float
    refresh_s: float
    rules: OutcomeRules
    recorder: Recorder
    extraction: Extraction

    @classmethod
    def of(cls, config: Config | None) -> Terms:
        """The terms under `config`."""
        used = config or Config()
        return cls(
            config=config,
            actions=tuple(used.problem.actions) if config else (),
            default_action=used.problem.default_action,
            epsilon=used.exploration.epsilon,
            timeout=used.task_timeout,
            slow_ms=used.canary.thresholds.max_response_time_ms,
            refresh_s=used.engine.refresh_seconds,
            rules=published.outcome_rules(config),
            recorder=Recorder(used.schema, is_keeping_unknown=used.problem.unknown_columns == "keep"),
            extraction=extractors.extraction_of(used, is_strict=False),
        )


@dataclass(frozen=True, slots=True)
class Bundle:
    """Everything a decision needs, of one moment; never changed, only replaced.

    Attributes
    ----------
    seen : Route
        The route as the database has it.
    route : Route
        What this engine serves of it: without a trial whose model it could not load.
    terms : Terms
    production, canary, holdback : Served or None
    circuit : Circuit
        Of the model on trial.
    refused : dict
        Version to why it could not be loaded.
    extraction : Extraction
        That of the terms, for the features of the loaded models too.
    """

    seen: Route
    route: Route
    terms: Terms
    production: Served | None = None
    canary: Served | None = None
    holdback: Served | None = None
    circuit: Circuit = field(default_factory=Circuit)
    refused: dict[str, str] = field(default_factory=dict)
    extraction: Extraction = field(init=False, repr=False, compare=False)
    _candidates: dict[tuple[Any, ...], tuple[str, ...]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        loaded = [served for served in (self.production, self.canary, self.holdback) if served is not None]
        features = {feature.name: feature for served in loaded for feature in served.features}
        object.__setattr__(self, "extraction", self.terms.extraction.including(features.values()))

    def candidates(self, actions: Iterable[str]) -> tuple[str, ...]:
        """The problem's actions that a caller's list names, in its order, each once.

        Raises
        ------
        SchemaError
            The list is empty, or names an action that the problem does not have.
        """
        try:
            given = tuple(actions)
            known = self._candidates.get(given)
        except TypeError:
            raise SchemaError("actions", f"{actions!r} is not a list of names of actions") from None
        if known is None:
            if not given or isinstance(actions, str):
                raise SchemaError("actions", f"{actions!r} is no list of at least one action; None means all of them")
            known = tuple(dict.fromkeys(self._action(name) for name in given))
            if len(self._candidates) >= MAX_CANDIDATE_SETS:
                self._candidates.clear()
            self._candidates[given] = known
        return known

    def _action(self, name: str) -> str:
        try:
            return self.terms.rules.action(name)
        except SchemaError as error:
            raise SchemaError("actions", error.message) from None


def servable(route: Route, *, is_canary: bool, is_holdback: bool) -> Route:
    """The route without the trials whose models are not loaded; an engine without them takes no part in the rollout."""
    if route.canary_version and not is_canary:
        route = replace(route, canary_version=None, share=0.0)
    if route.holdback_version and not is_holdback:
        route = replace(route, holdback_version=None, holdback_share=0.0)
    if not route.canary_version and not route.holdback_version:
        route = replace(route, rollout_id=None)
    return route
