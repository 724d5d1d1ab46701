"""Whatever people and sensors do in whatever order, the database stays a state that makes sense.

A machine of random operations runs beside a plain model of what each should do; after every step the database is
compared with the model and with the promises of the design.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from retrain_assets.core.deployment import TRANSITIONS, Event, ModelVersion, Status
from retrain_assets.core.routing import Route
from retrain_assets.errors import NothingToRollBackTo, TransitionRefused
from retrain_assets.operations import deploy
from retrain_assets.operations.deploy import Cause
from retrain_assets.operations.platform import open_platform
from retrain_assets.settings import Config, Settings
from retrain_assets.store import models, registry, schema
from retrain_assets.store.database import Database
from retrain_assets.store.tables import canary_state
from retrain_assets.testing import FakeClock, tiny_artefact

WHO = st.sampled_from(["anna", "canary_watch", "retrain"])
LEAVES_TRAFFIC = {Status.ROLLED_BACK, Status.NOT_PROMOTED, Status.SUPERSEDED}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the schema and the files of one tiny model, copied for every run of the machine."""
    home = tmp_path_factory.mktemp("template")
    for name, content in tiny_artefact(Config().schema).items():
        models.put(home, name, content)
    database = Database(f"sqlite:///{home / 'retrain.db'}")
    schema.migrate(database)
    with database.write() as connection:
        connection.exec_driver_sql("SELECT 1")
    database.close()
    return home


class Deployments(RuleBasedStateMachine):
    """Random operations on one platform."""

    template: Path

    @initialize(served=st.integers(0, 3), waiting=st.integers(0, 3))
    def begin(self, served: int, waiting: int) -> None:
        """Some versions have served, one after the other; some wait, the first of them on trial when it can be."""
        self.folder = Path(tempfile.mkdtemp(prefix="retrain-machine-"))
        home = self.folder / "home"
        shutil.copytree(self.template, home)
        url = f"sqlite:///{home / 'retrain.db'}"
        self.clock = FakeClock()
        config = Settings(config=Config(), config_path=None, home=home, database_url=url, problem_folder=home)
        self.platform = open_platform(config, self.clock)
        self.artefacts = {
            name: models.put(home, name, content) for name, content in tiny_artefact(Config().schema).items()
        }
        self.statuses: dict[str, Status] = {}
        self.served: list[str] = []
        self.paused = False
        self.epoch = 0
        self.traffic: tuple[dict[str, Status], bool] = ({}, False)
        self.told = 0
        self.before: dict[str, Status] = {}
        for number in range(served + waiting):
            self.register("retrain")
            version = f"v1.0.{number}"
            deploy.stage(self.platform, self._model(version), Cause("retrain", "passed"))
            self.statuses[version] = Status.STAGING
            if number < served:
                deploy.promote(self.platform, version, Cause("anna", "better"))
                self._serve(version)
            elif number == served and served:
                deploy.start(self.platform, self._model(version), Cause("retrain", "new"))
                self.statuses[version] = Status.CANARY
        if served + waiting:
            self._remember()

    def _remember(self) -> None:
        """What is there now is where the machine begins."""
        with self.platform.database.read() as connection:
            self.told = len(registry.events(connection))
            self.epoch = registry.get_route(connection).epoch
        self.before = dict(self.statuses)
        self.traffic = (self._traffic(), False)

    def _traffic(self) -> dict[str, Status]:
        return {version: s for version, s in self.statuses.items() if s in {Status.PRODUCTION, Status.CANARY}}

    def teardown(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "platform"):
            self.platform.database.close()
            shutil.rmtree(self.folder)

    # ------------------------------------------------------------------------------------------------- the model

    def _with(self, status: Status) -> str | None:
        return next((version for version, now in self.statuses.items() if now is status), None)

    def _any(self, data: st.DataObject, *likely: Status) -> str:
        """A version, mostly one of the statuses in which something can come of it."""
        fit = sorted(version for version, status in self.statuses.items() if status in likely)
        return data.draw(st.sampled_from(fit * 4 + sorted(self.statuses)), label="version")

    def _model(self, version: str) -> ModelVersion:
        with self.platform.database.read() as connection:
            found = registry.get_version(connection, version)
        assert found is not None
        return found

    def _serve(self, version: str) -> None:
        """What a promotion does to the model."""
        if (previous := self._with(Status.PRODUCTION)) is not None:
            self.statuses[previous] = Status.DEPRECATED
        on_trial = self._with(Status.CANARY)
        if on_trial is not None and on_trial != version:
            self.statuses[on_trial] = Status.SUPERSEDED
        self.statuses[version] = Status.PRODUCTION
        self.served.append(version)

    def _back_to(self) -> str | None:
        """Who served last of those that may serve again."""
        return next((v for v in reversed(self.served) if self.statuses[v] is Status.DEPRECATED), None)

    def _go_back(self, target: str) -> None:
        if (on_trial := self._with(Status.CANARY)) is not None:
            self.statuses[on_trial] = Status.NOT_PROMOTED
        self.statuses[str(self._with(Status.PRODUCTION))] = Status.ROLLED_BACK
        self.statuses[target] = Status.PRODUCTION
        self.served.append(target)

    def _do(self, is_allowed: bool, act: Callable[[], Any], then: Callable[[], None]) -> None:  # noqa: FBT001
        """Act; the platform must allow exactly what the model allows."""
        self.clock.advance(minutes=1)
        if not is_allowed:
            with pytest.raises((TransitionRefused, NothingToRollBackTo), match=r"\w"):
                act()
            return
        act()
        then()

    # ------------------------------------------------------------------------------------------------- the rules

    @rule(who=WHO)
    def register(self, who: str) -> None:
        """A training becomes a version."""
        schema_now = self.platform.config.schema
        draft = ModelVersion(
            version="",
            status=Status.REGISTERED,
            week="2025-12-28",
            dataset_hash="d",
            schema_version=schema_now.fingerprint,
            code_version="tests",
            spec={"schema": schema_now.to_dict(), "estimator": "tiny", "params": {}, "mode": "full"},
            seed=0,
            parent_version=None,
            artefacts=self.artefacts,
            metrics={},
            report=None,
            run_id=None,
            created_at=self.clock.advance(minutes=1),
            training_id=f"training {len(self.statuses)}",
        )
        model = deploy.register(self.platform, draft, Cause(who, "trained"))
        assert model.version not in self.statuses
        self.statuses[model.version] = Status.REGISTERED

    @precondition(lambda self: self.statuses)
    @rule(data=st.data(), who=WHO)
    def stage(self, data: st.DataObject, who: str) -> None:
        """It passed validation."""
        version = self._any(data, Status.REGISTERED)
        self._do(
            self.statuses[version] is Status.REGISTERED,
            lambda: deploy.stage(self.platform, self._model(version), Cause(who, "passed")),
            lambda: self.statuses.update({version: Status.STAGING}),
        )

    @precondition(lambda self: self.statuses)
    @rule(data=st.data(), who=WHO)
    def reject(self, data: st.DataObject, who: str) -> None:
        """It failed validation, or the smoke test."""
        version = self._any(data, Status.REGISTERED, Status.STAGING)
        self._do(
            self.statuses[version] in {Status.REGISTERED, Status.STAGING},
            lambda: deploy.reject(self.platform, self._model(version), Cause(who, "failed")),
            lambda: self.statuses.update({version: Status.REJECTED}),
        )

    @precondition(lambda self: self.statuses)
    @rule(data=st.data(), who=WHO)
    def start(self, data: st.DataObject, who: str) -> None:
        """It goes on trial, or serves when nothing else does."""
        version = self._any(data, Status.STAGING)

        def then() -> None:
            if self._with(Status.PRODUCTION) is None:
                self._serve(version)
                return
            if (on_trial := self._with(Status.CANARY)) is not None:
                self.statuses[on_trial] = Status.SUPERSEDED
            self.statuses[version] = Status.CANARY

        is_allowed = self.statuses[version] is Status.STAGING and not self.paused
        self._do(is_allowed, lambda: deploy.start(self.platform, self._model(version), Cause(who, "new")), then)

    @precondition(lambda self: self.statuses)
    @rule(data=st.data(), who=WHO)
    def promote(self, data: st.DataObject, who: str) -> None:
        """A person, or the watch, lets it serve."""
        version = self._any(data, Status.STAGING, Status.CANARY)
        is_allowed = self.statuses[version] in {Status.STAGING, Status.CANARY}
        act: Callable[[], Event] = lambda: deploy.promote(self.platform, version, Cause(who, "better"))  # noqa: E731
        self._do(is_allowed, act, lambda: self._serve(version))

    @rule(who=WHO)
    def roll_back(self, who: str) -> None:
        """Back to whoever served last."""
        target = self._back_to() if self._with(Status.PRODUCTION) else None
        act: Callable[[], Event] = lambda: deploy.roll_back(self.platform, Cause(who, "bad"))  # noqa: E731
        self._do(target is not None, act, lambda: self._go_back(str(target)))

    @precondition(lambda self: self.statuses)
    @rule(data=st.data(), who=WHO)
    def roll_back_to(self, data: st.DataObject, who: str) -> None:
        """Back to a version somebody names."""
        version = self._any(data, Status.DEPRECATED)
        is_allowed = self.statuses[version] is Status.DEPRECATED
        act: Callable[[], Event] = lambda: deploy.roll_back(self.platform, Cause(who, "bad"), to=version)  # noqa: E731
        self._do(is_allowed, act, lambda: self._go_back(version))

    @precondition(lambda self: self.statuses)
    @rule(data=st.data(), who=WHO)
    def leave(self, data: st.DataObject, who: str) -> None:
        """A version is to go: the one on trial ends alone, production is followed by the last good one."""
        version = self._any(data, Status.CANARY, Status.PRODUCTION)
        is_canary = self.statuses[version] is Status.CANARY
        target = self._back_to() if self.statuses[version] is Status.PRODUCTION else None

        def then() -> None:
            if is_canary:
                self.statuses[version] = Status.ROLLED_BACK
            else:
                self._go_back(str(target))

        act: Callable[[], Event] = lambda: deploy.roll_back(self.platform, Cause(who, "bad"), version=version)  # noqa: E731
        self._do(is_canary or target is not None, act, then)

    @rule(who=WHO, is_paused=st.booleans())
    def pause(self, who: str, is_paused: bool) -> None:  # noqa: FBT001  (hypothesis passes by name)
        """Deployment stops, or goes on."""

        def then() -> None:
            self.paused = is_paused

        cause = Cause(who, "holidays")
        self._do(is_paused != self.paused, lambda: deploy.pause(self.platform, cause, is_paused=is_paused), then)

    # ---------------------------------------------------------------------------------------------- the promises

    @invariant()
    def the_database_is_what_the_model_says(self) -> None:
        """Statuses and route agree with the model and with each other; the epoch never falls."""
        if not hasattr(self, "platform"):
            return
        with self.platform.database.read() as connection:
            found = {model.version: model.status for model in registry.versions(connection)}
            route = registry.get_route(connection)
            query = select(canary_state.c.rollout_id).where(canary_state.c.is_open)
            under_way = connection.execute(query).scalars().all()
        assert found == self.statuses
        assert list(found.values()).count(Status.PRODUCTION) <= 1
        assert list(found.values()).count(Status.CANARY) <= 1
        assert route.production_version == self._with(Status.PRODUCTION)
        assert route.canary_version == self._with(Status.CANARY)
        assert (route.share > 0) == (route.canary_version is not None) == (route.lease_until is not None)
        assert under_way == ([route.rollout_id] if route.canary_version else [])
        assert route.paused == self.paused
        self._the_epoch_rises_with_traffic(route)

    def _the_epoch_rises_with_traffic(self, route: Route) -> None:
        now = (self._traffic(), self.paused)
        assert (route.epoch > self.epoch) == (now != self.traffic)
        self.epoch, self.traffic = route.epoch, now

    @invariant()
    def every_change_is_told_with_who_and_why(self) -> None:
        """A status that changed has an event that leads from the old to the new one, by an allowed transition."""
        if not hasattr(self, "platform"):
            return
        with self.platform.database.read() as connection:
            events = registry.events(connection)
        new = events[self.told :]
        for event in new:
            assert event.actor in {"anna", "canary_watch", "retrain"}
            assert event.reason
            assert event.at == self.clock.now()
            if event.from_status is not None and event.to_status is not None:
                assert event.to_status in TRANSITIONS[event.from_status]
            if event.to_status in LEAVES_TRAFFIC | {Status.PRODUCTION, Status.CANARY}:
                assert event.epoch is not None
        changes = {(v, self.before.get(v), now) for v, now in self.statuses.items() if self.before.get(v) is not now}
        assert {(e.version, e.from_status, e.to_status) for e in new if e.version} == changes
        self.told, self.before = len(events), dict(self.statuses)


def test_no_order_of_operations_leads_to_a_state_that_makes_no_sense(template: Path) -> None:
    """Never two productions, the route fits the statuses, the epoch rises, every change is told with who and why."""
    machine = type("Machine", (Deployments,), {"template": template})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            # Without shrinking: a step costs milliseconds of disk, and a smaller example minutes of them.
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
