"""The seed's stories, played by the real engine, collector and watch against an automation whose truth is known.

Time is told, traffic is thinner and harm is greater than in the demonstration, so that each story takes seconds.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from retrain_assets.core.deployment import EventKind
from retrain_assets.demo import scenarios
from retrain_assets.demo.automation import SimulatedAutomation
from retrain_assets.demo.scenarios import SCENARIOS, Played, play, prepare
from retrain_assets.settings import CanarySettings, Config, ProblemSettings, Settings, resolve

WEDNESDAY = datetime(2026, 1, 14, 12, tzinfo=UTC)
STORIES = {scenario.name: scenario for scenario in SCENARIOS}
Play = Callable[..., Played]


def _settings_at(home: Path) -> Settings:
    """A trial of six hours, decided by absence of harm; a lease longer than the time between two ticks."""
    canary = CanarySettings(lease_seconds=900, duration_hours=6, evidence="no_harm")
    config = Config(problem=ProblemSettings(name="simulated"), canary=canary)
    return resolve(config, None, environ={"RETRAIN_HOME": str(home)})


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """Play a story from its own copy of one prepared problem: `v1.0.0` serves, `v1.0.1` is on trial."""
    automation = SimulatedAutomation(0)
    base = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scenarios, "settings_at", _settings_at)
        patched.setattr(scenarios, "TASKS_PER_HOUR", 240)
        patched.setattr(scenarios, "HISTORY", (1_200, 1_200))
        patched.setattr(scenarios, "TICK", timedelta(minutes=10))
        now = prepare(base, automation, WEDNESDAY)

        def tell(name: str, **changes: object) -> Played:
            home = tmp_path_factory.mktemp("story") / "home"
            shutil.copytree(base, home)
            return play(replace(STORIES[name], **changes), home, automation, now)  # type: ignore[arg-type]

        yield tell


def test_a_bad_canary_rolls_back(story: Play) -> None:
    """Its trial ends long before its time, production is untouched, few tasks are harmed, and people are told."""
    played = story("canary failure", success_rate=0.45)
    assert played.verdict == EventKind.ROLLED_BACK
    (ending,) = [event for event in played.events if event.kind is EventKind.ROLLED_BACK]
    assert (ending.version, played.serves) == ("v1.0.1", "v1.0.0")
    assert ending.evidence["relative"] > ending.evidence["needed"]["relative"]
    assert played.hours < 6
    assert played.harmed > 0
    assert "success" in ending.reason


def test_a_good_canary_is_promoted(story: Play) -> None:
    """At the end of its time, not before; the promotion says how much the evidence is worth."""
    played = story("good canary")
    assert played.verdict == EventKind.PROMOTED
    assert played.serves == "v1.0.1"
    assert played.hours >= 6
    (ending,) = [event for event in played.events if event.kind is EventKind.PROMOTED]
    assert ending.evidence["weak"] is True
    assert "weak evidence: n = " in ending.reason


def test_a_dip_that_hits_both_arms_never_rolls_back(story: Play) -> None:
    """Half of all tasks fail for ten hours, below every limit: the versions are not to blame, and people are paged."""
    played = story("dip for both", success_rate=0.5, hours=10)
    kinds = [event.kind for event in played.events]
    assert played.harmed > 500
    assert not {EventKind.ROLLED_BACK, EventKind.NOT_PROMOTED, EventKind.PROMOTED} & set(kinds)
    assert EventKind.SUCCESS_RATE_DROP in kinds
    assert played.serves == "v1.0.0"


def test_a_spike_of_productions_errors_rolls_back_to_the_previous_version(story: Play) -> None:
    """The seed's second scenario: errors rise to 0.30, and the version before serves again."""
    played = story("error spike", error_rate=0.30)
    kinds = [event.kind for event in played.events]
    assert kinds[:2] == [EventKind.ERROR_RATE_INCREASE, EventKind.ROLLED_BACK]
    assert EventKind.RESTORED in kinds
    assert played.serves == "v1.0.0"
    assert played.hours < 12


def test_a_drop_of_productions_success_rolls_back_to_the_previous_version(story: Play) -> None:
    """The seed's first scenario, with a drop to 0.55."""
    played = story("success drop", success_rate=0.55)
    kinds = [event.kind for event in played.events]
    assert kinds[:2] == [EventKind.SUCCESS_RATE_DROP, EventKind.ROLLED_BACK]
    assert played.serves == "v1.0.0"
    assert played.hours < 12
