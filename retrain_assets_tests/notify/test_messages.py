"""The texts people get: one for every event, with numbers and with what to do next."""

from __future__ import annotations

from typing import Any

import pytest

from retrain_assets.core.deployment import EventKind, Status
from retrain_assets.notify.messages import Message, Severity, compose, sample_message

EVIDENCE = {
    "relative": 1234.5,
    "absolute": 0.71,
    "needed": {"relative": 111.1, "absolute": 1000.0, "hold": 20.0},
    "rates": {
        "success": {"canary": 0.7012, "production": 0.8534, "n_canary": 112, "n_production": 1_016},
        "error": {"canary": 0.9, "production": None, "n_canary": 112, "n_production": 0},
    },
    "weak": False,
}


def payload(**changes: Any) -> dict[str, Any]:  # noqa: ANN401  (an outbox row's fields)
    """What the outbox holds of an event."""
    told: dict[str, Any] = {
        "seq": 7, "at": "2026-01-05T12:00:00+00:00", "actor": "watch", "version": "v1.2.3", "from_status": "canary",
        "to_status": "rolled_back", "share": None, "reason": "success: canary 0.70, production 0.85", "evidence": {},
        "run_id": None, "epoch": 4,
    }  # fmt: skip
    return told | changes


@pytest.mark.parametrize("kind", EventKind)
def test_every_event_has_a_text(kind: EventKind) -> None:
    """Title, reason and next step are there for each kind, with the version filled in and nothing left unfilled."""
    message = compose(kind, payload(), "backlinks")
    assert message.title.startswith("[backlinks] ")
    assert len(message.title) > len("[backlinks] ") + 10
    assert "\n" not in message.title
    assert "Why: success: canary 0.70" in message.body
    assert "Next: " in message.body
    assert "Recorded by watch, at 2026-01-05 12:00:00 UTC" in message.body
    assert not set("{}") & set(message.title + message.body)


def test_no_two_kinds_share_a_title() -> None:
    """A person can tell from the title alone what happened."""
    titles = [compose(kind, payload(), "p").title for kind in EventKind]
    assert len(set(titles)) == len(titles)


def test_a_rollback_tells_the_evidence_and_the_way_on() -> None:
    """The on-call person reads both arms' rates, the evidence beside what it takes, and the commands."""
    message = compose(EventKind.ROLLED_BACK, payload(evidence=EVIDENCE), "backlinks")
    assert message.title == "[backlinks] canary v1.2.3 rolled back"
    assert message.severity is Severity.FAILURE
    weighed = "Evidence of harm: against production 1,234 (acts at 111), against the limits 0.71 (acts at 1,000)"
    assert weighed in message.body
    assert "Success rate: canary 0.701 of 112 tasks, production 0.853 of 1,016 tasks" in message.body
    assert "Error rate: canary 0.100 of 112 tasks\n" in message.body
    assert "Production was not touched" in message.body
    assert "`retrain show v1.2.3`" in message.body
    assert "`retrain status`" in message.body


def test_a_rollback_of_production_says_that_an_earlier_version_serves() -> None:
    """Leaving production is told apart from ending a canary."""
    message = compose(EventKind.ROLLED_BACK, payload(from_status=Status.PRODUCTION), "backlinks")
    assert message.title == "[backlinks] v1.2.3 rolled back"
    assert "An earlier version serves again." in message.body


def test_a_promotion_on_weak_evidence_is_labelled() -> None:
    """Nobody takes a promotion that proved little for a proof."""
    reason = "to production: weak evidence: n = 12, a drop below 0.35 would have gone unseen"
    weak = compose(EventKind.PROMOTED, payload(reason=reason, evidence=EVIDENCE | {"weak": True}), "p")
    assert weak.title == "[p] v1.2.3 promoted to production on weak evidence"
    assert "n = 12" in weak.body
    assert "Too few tasks to prove it" in weak.body
    strong = compose(EventKind.PROMOTED, payload(evidence=EVIDENCE), "p")
    assert "weak" not in strong.title + strong.body


def test_a_canary_tells_its_share_and_what_its_trial_can_show() -> None:
    """Share and plan are in the first message about it."""
    plan = {"plan": {"in_words": "about 34 canary outcomes; a drop below 0.45 would be seen"}}
    message = compose(EventKind.CANARY_STARTED, payload(share=0.1, evidence=plan), "p")
    assert message.title == "[p] v1.2.3 deployed to canary, with 10% of the tasks"
    assert "Plan: about 34 canary outcomes" in message.body


@pytest.mark.parametrize(
    "evidence",
    [None, [], "text", {"relative": "?"}, {"rates": {"success": {"canary": 0.5}}}, {"rates": 7}, {"plan": "none"}],
)
def test_evidence_of_another_shape_is_left_out(evidence: Any) -> None:  # noqa: ANN401
    """An event written by another version still gets its message."""
    message = compose(EventKind.ROLLED_BACK, payload(evidence=evidence), "p")
    assert "Next: " in message.body


def test_an_unknown_kind_gets_a_plain_message() -> None:
    """A newer platform's events are not lost on an older deliverer."""
    message = compose("model_teleported", payload(), "p")
    assert message.title == "[p] model teleported"
    assert "Why: success" in message.body


def test_braces_in_a_reason_stay_what_they_are() -> None:
    """Reasons may quote JSON."""
    assert 'Why: {"a": {}} of {version}' in compose("staged", payload(reason='{"a": {}} of {version}'), "p").body


def test_a_long_reason_is_cut() -> None:
    """A traceback does not flood a chat; the audit log has all of it."""
    body = compose(EventKind.RETRAIN_FAILED, payload(reason="x" * 100_000), "p").body
    assert len(body) < 3_000


def test_the_sample_says_that_nothing_happened() -> None:
    """`retrain notify test` alarms nobody."""
    message = sample_message("p")
    assert message == Message("[p] test message", message.body, Severity.INFO)
    assert "Nothing happened" in message.body
