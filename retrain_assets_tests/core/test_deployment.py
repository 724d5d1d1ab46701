"""The life of a version as data: what may follow what, its number, and where a rollback goes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from retrain_assets.core.deployment import (
    TRANSITIONS,
    Event,
    EventKind,
    Status,
    check_transition,
    next_version,
    parse_version,
    rollback_candidates,
)
from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.errors import TransitionRefused

AT = datetime(2026, 1, 5, tzinfo=UTC)
SCHEMA = FeatureSchema((Feature("pa", FeatureType.NUMBER),), ("comment",))
SETTINGS = {"estimator": "tiny", "params": {}, "mode": "full"}


def test_the_transitions_are_those_of_the_design() -> None:
    """Every pair that is not listed here is refused."""
    allowed = {
        ("registered", "staging"),
        ("registered", "rejected"),
        ("staging", "canary"),
        ("staging", "production"),
        ("staging", "rejected"),
        ("staging", "superseded"),
        ("canary", "production"),
        ("canary", "rolled_back"),
        ("canary", "not_promoted"),
        ("canary", "superseded"),
        ("production", "deprecated"),
        ("production", "rolled_back"),
        ("deprecated", "production"),
        ("deprecated", "archived"),
        ("rejected", "archived"),
        ("rolled_back", "archived"),
        ("not_promoted", "archived"),
        ("superseded", "archived"),
    }
    for current in Status:
        for target in Status:
            if (current, target) in allowed:
                check_transition("v1.0.0", current, target)
                continue
            with pytest.raises(
                TransitionRefused, match=rf"v1\.0\.0 is {current}; it cannot become {target} \(possible"
            ):
                check_transition("v1.0.0", current, target)


def test_nothing_that_was_taken_out_for_cause_serves_again() -> None:
    """No path leads from these back into traffic."""
    serving = {Status.CANARY, Status.PRODUCTION}
    for start in (Status.REJECTED, Status.ROLLED_BACK, Status.NOT_PROMOTED, Status.SUPERSEDED, Status.ARCHIVED):
        reached, ahead = {start}, [start]
        while ahead:
            fresh = TRANSITIONS[ahead.pop()] - reached
            reached |= fresh
            ahead += fresh
        assert not reached & serving


def test_every_status_is_in_the_table() -> None:
    """And every status but the first can be reached."""
    assert set(TRANSITIONS) == set(Status)
    assert set().union(*TRANSITIONS.values()) == set(Status) - {Status.REGISTERED}


@pytest.mark.parametrize(
    ("existing", "change", "expected"),
    [
        ([], {}, "v1.0.0"),
        (["v1.0.0"], {}, "v1.0.1"),
        (["v1.0.9", "v1.0.10", "v1.0.2"], {}, "v1.0.11"),
        (["v1.4.2"], {"settings": SETTINGS | {"params": {"max_depth": 3}}}, "v1.5.0"),
        (
            ["v1.4.2"],
            {"schema": FeatureSchema((*SCHEMA.features, Feature("da", FeatureType.NUMBER)), ("comment",))},
            "v1.5.0",
        ),
        (["v1.4.2"], {"schema": FeatureSchema((), ("comment",))}, "v2.0.0"),
        (["v9.9.9", "v10.0.0"], {}, "v10.0.1"),
    ],
)
def test_a_version_number_tells_what_changed(existing: list[str], change: dict[str, object], expected: str) -> None:
    """MAJOR when the schema breaks, MINOR when it or the estimator grows, PATCH for newer data; each is new."""
    told: dict[str, object] = {"schema": SCHEMA, "settings": SETTINGS} | change
    number = next_version(existing, base_schema=SCHEMA if existing else None, base_settings=SETTINGS, **told)  # type: ignore[arg-type]
    assert number == expected
    assert number not in existing


@pytest.mark.parametrize("text", ["1.0.0", "v1.0", "v1.0.0-rc", "production", "", "v-1.0.0"])
def test_what_is_no_version_is_refused(text: str) -> None:
    """People type them."""
    with pytest.raises(TransitionRefused, match=r"is not a version; write it as v1\.2\.3"):
        parse_version(text)


def _served(*versions: str) -> list[Event]:
    return [
        Event(kind=EventKind.PROMOTED, at=AT, actor="a", reason="r", version=version, to_status=Status.PRODUCTION)
        for version in versions
    ]


def test_a_rollback_goes_to_who_served_last_and_may_serve() -> None:
    """In order of serving, not of number; neither the one that serves nor one that was rolled back; each once."""
    history = _served("v1.0.0", "v1.0.1", "v1.0.2", "v1.0.0", "v1.0.3")
    statuses = {
        "v1.0.0": Status.DEPRECATED,
        "v1.0.1": Status.DEPRECATED,
        "v1.0.2": Status.ROLLED_BACK,
        "v1.0.3": Status.PRODUCTION,
        "v1.0.4": Status.DEPRECATED,  # never served
    }
    assert rollback_candidates(history, statuses, "v1.0.3") == ["v1.0.0", "v1.0.1"]
    assert rollback_candidates([], statuses, "v1.0.3") == []
