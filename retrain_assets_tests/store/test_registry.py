"""Versions, route, events, outbox: changes by compare and set, everything told in one transaction."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from retrain_assets.core.deployment import SILENT, Event, EventKind, Status
from retrain_assets.core.routing import Route
from retrain_assets.errors import TransitionRefused
from retrain_assets.settings import Config, RetrainSettings
from retrain_assets.store import outbox, published, registry, tables, trials
from retrain_assets.store.decisions import Cursor
from retrain_assets.testing import START, SeededDatabase, seeded_database

MINUTE = timedelta(minutes=1)


@pytest.fixture
def seeded(database_url: str, tmp_path: Path) -> SeededDatabase:
    """`v1.0.0` serves, `v1.0.1` waits."""
    seeded = seeded_database(database_url, tmp_path)
    seeded.add_version("v1.0.1", at=START + MINUTE)
    return seeded


def _event(kind: EventKind = EventKind.PROMOTED, minute: int = 0, **changes: object) -> Event:
    event = Event(kind=kind, at=START + minute * MINUTE, actor="anna", reason="because", version="v1.0.0", epoch=minute)
    return replace(event, **changes)  # type: ignore[arg-type]


def test_the_route_changes_only_for_who_saw_it_last(seeded: SeededDatabase) -> None:
    """The second of two that read the same epoch is refused, and the epoch rises by one each time."""
    with seeded.database.read() as connection:
        seen = registry.get_route(connection)
    with seeded.database.write() as connection:
        changed = registry.set_route(connection, seen, replace(seen, paused=True))
    assert changed == replace(seen, paused=True, epoch=seen.epoch + 1)
    with (
        pytest.raises(TransitionRefused, match=f"changed by somebody else since epoch {seen.epoch}; look again"),
        seeded.database.write() as connection,
    ):
        registry.set_route(connection, seen, replace(seen, holdback_share=0.1))
    with seeded.database.read() as connection:
        assert registry.get_route(connection) == changed


def test_renewing_the_lease_leaves_traffic_and_epoch(seeded: SeededDatabase) -> None:
    """Engines need not load anything for it."""
    with seeded.database.write() as connection:
        before = registry.get_route(connection)
        registry.renew_lease(connection, START)
        assert registry.get_route(connection) == replace(before, lease_until=START)


def test_a_status_changes_only_from_the_one_that_was_seen(seeded: SeededDatabase) -> None:
    """The slower of two actors is told what the version has become."""
    with seeded.database.write() as connection:
        registry.move(connection, "v1.0.1", Status.STAGING, Status.CANARY)
    with (
        pytest.raises(TransitionRefused, match=r"v1\.0\.1 is canary, not staging: somebody else was faster"),
        seeded.database.write() as connection,
    ):
        registry.move(connection, "v1.0.1", Status.STAGING, Status.REJECTED)
    with (
        pytest.raises(TransitionRefused, match=r"v9\.9\.9 is not registered, not staging"),
        seeded.database.write() as connection,
    ):
        registry.move(connection, "v9.9.9", Status.STAGING, Status.CANARY)


def test_a_version_number_is_given_once(seeded: SeededDatabase) -> None:
    """Two trainings that end together do not become one version."""
    with seeded.database.read() as connection:
        known = registry.get_version(connection, "v1.0.1")
    assert known is not None
    with (
        pytest.raises(TransitionRefused, match=r"v1\.0\.1 was registered by somebody else first"),
        seeded.database.write() as connection,
    ):
        registry.insert_version(connection, replace(known, training_id="another"))


def test_versions_are_listed_oldest_first_and_by_status(seeded: SeededDatabase) -> None:
    """As they were registered, with everything that was recorded."""
    with seeded.database.write() as connection:
        registry.set_report(connection, "v1.0.1", {"passed": True})
        assert [model.version for model in registry.versions(connection)] == ["v1.0.0", "v1.0.1"]
        (waiting,) = registry.versions(connection, Status.STAGING)
        assert waiting.report == {"passed": True}
        assert registry.by_training(connection, "tiny-v1.0.1") == waiting
        assert registry.newest_of_week(connection, waiting.week) == waiting
        assert registry.newest_of_week(connection, "1999-01-03") is None


# -------------------------------------------------------------------------------------------------- events, outbox


def test_the_audit_log_can_be_asked_by_time_kind_and_run(seeded: SeededDatabase) -> None:
    """In order of what happened, as it was recorded."""
    with seeded.database.write() as connection:
        kinds = (EventKind.STAGED, EventKind.PROMOTED, EventKind.ROLLED_BACK)
        told = [registry.record(connection, _event(kind, n, run_id=f"run{n}")) for n, kind in enumerate(kinds)]
        assert [event.seq for event in told] == sorted(event.seq or 0 for event in told)
        assert registry.events(connection) == told
        assert registry.events(connection, since=START + MINUTE) == told[1:]
        assert registry.events(connection, until=START + MINUTE) == told[:2]
        assert registry.events(connection, kinds=(EventKind.STAGED,)) == told[:1]
        assert registry.events(connection, run_id="run1") == told[1:2]
        assert registry.events(connection, last=2) == told[1:]


def test_every_event_but_the_silent_ones_waits_to_be_told(seeded: SeededDatabase) -> None:
    """Written in the event's transaction: both or neither."""
    with seeded.database.write() as connection:
        for kind in EventKind:
            registry.record(connection, _event(kind))
    with pytest.raises(ZeroDivisionError, match="zero"), seeded.database.write() as connection:  # noqa: PT012
        registry.record(connection, _event())
        _ = 1 / 0
    with seeded.database.write() as connection:
        assert len(registry.events(connection)) == len(EventKind)
        assert {m.event for m in outbox.claim(connection, START)} == {kind.value for kind in set(EventKind) - SILENT}


def test_a_message_is_claimed_by_one_deliverer_at_a_time(seeded: SeededDatabase) -> None:
    """One that dies with it gives it free after a while; one that fails waits longer each time."""
    with seeded.database.write() as connection:
        registry.record(connection, _event(evidence={"n": 1}))
        (message,) = outbox.claim(connection, START)
        assert (message.event, message.payload["evidence"]) == ("promoted", {"n": 1})
        assert outbox.claim(connection, START + outbox.CLAIM - timedelta(seconds=1)) == []
        (message,) = outbox.claim(connection, START + outbox.CLAIM)
        now, waits = START + outbox.CLAIM, []
        for _ in range(12):
            outbox.failed(connection, message, now, "no answer")
            waits.append(connection.execute(select(tables.notification_outbox.c.claimed_until)).scalar_one() - now)
            now += waits[-1]
            (message,) = outbox.claim(connection, now)
        assert waits[:3] == [outbox.FIRST_RETRY, 2 * outbox.FIRST_RETRY, 4 * outbox.FIRST_RETRY]
        assert max(waits) == outbox.LONGEST_RETRY
        outbox.delivered(connection, message, now)
        assert outbox.claim(connection, now + timedelta(days=1)) == []


def test_two_deliverers_at_once_share_the_messages(postgresql_url: str, tmp_path: Path) -> None:
    """Neither waits for the other, and none gets what the other has."""
    seeded = seeded_database(postgresql_url, tmp_path)
    with seeded.database.write() as connection:
        for minute in range(4):
            registry.record(connection, _event(minute=minute))
    with seeded.database.write() as first, seeded.database.write() as second:
        mine, theirs = outbox.claim(first, START, limit=2), outbox.claim(second, START, limit=4)
    assert len(mine) == len(theirs) == 2
    assert not {m.id for m in mine} & {m.id for m in theirs}


def test_when_a_version_began_to_serve_is_its_last_beginning(seeded: SeededDatabase) -> None:
    """A version that was restored is judged from then on, not by its first life."""
    with seeded.database.write() as connection:
        assert registry.serving_since(connection, "v1.0.0") is None
        registry.record(connection, _event(EventKind.PROMOTED, 1))
        registry.record(connection, _event(EventKind.RESTORED, 5))
        registry.record(connection, _event(EventKind.ROLLED_BACK, 9))
        assert registry.serving_since(connection, "v1.0.0") == (5, START + 5 * MINUTE)


# ------------------------------------------------------------------------------------------------- trials, settings


def test_a_trials_state_and_cursor_are_written_together(seeded: SeededDatabase) -> None:
    """What was read and what is known of it cannot part."""
    trial = trials.Trial(
        rollout_id="r1",
        version="v1.0.1",
        started_at=START,
        cursor=Cursor(START),
        state={"n": 0, "huge": 1e300},
        last_verdict=None,
        is_open=True,
        updated_at=START,
    )
    with seeded.database.write() as connection:
        assert trials.get(connection, "r1") is None
        trials.start(connection, trial)
        assert trials.get(connection, "r1") == trial
        moved = replace(trial, cursor=Cursor(START + MINUTE, "d9"), state={"n": 9}, last_verdict="CONTINUE")
        trials.save(connection, moved, START + MINUTE)
        assert trials.get(connection, "r1") == replace(moved, updated_at=START + MINUTE)
        trials.close(connection, "r1", "rolled_back", START + 2 * MINUTE)
        closed = trials.get(connection, "r1")
    assert closed is not None
    assert (closed.is_open, closed.last_verdict, closed.state) == (False, "rolled_back", {"n": 9})


def test_a_watch_is_kept_for_each_time_a_version_serves(seeded: SeededDatabase) -> None:
    """The same version after a rollback starts afresh."""
    with seeded.database.write() as connection:
        for epoch in (1, 7):
            watch = trials.Monitor(version="v1.0.0", epoch=epoch, cursor=Cursor(START), state={}, updated_at=START)
            trials.save_monitor(connection, watch, START)
            trials.save_monitor(connection, replace(watch, state={"epoch": epoch}), START)
        assert trials.get_monitor(connection, "v1.0.0", 1).state == {"epoch": 1}  # type: ignore[union-attr]
        assert trials.newest_monitor(connection, "v1.0.0").epoch == 7  # type: ignore[union-attr]
        assert trials.newest_monitor(connection, "v1.0.1") is None


def test_settings_are_published_once_and_read_back_as_they_are(seeded: SeededDatabase) -> None:
    """A worker needs only the URL; publishing the same again adds nothing, going back to older ones does."""
    changed = Config(retrain=RetrainSettings(min_new_samples=7))
    with seeded.database.write() as connection:
        assert not published.publish(connection, Config(), START)
        assert published.publish(connection, changed, START)
        assert published.active(connection) == changed
        assert published.publish(connection, Config(), START)
        assert published.active(connection) == Config()


def test_reported_metrics_are_kept_beside_each_other(seeded: SeededDatabase) -> None:
    """The newest over all actions is the one that counts."""
    with seeded.database.write() as connection:
        assert registry.newest_metrics(connection, "v1.0.0") is None
        registry.add_metrics(connection, "v1.0.0", {"success_rate": 0.9}, START)
        registry.add_metrics(connection, "v1.0.0", {"success_rate": 0.8}, START)
        registry.add_metrics(connection, "v1.0.0", {"success_rate": 0.1}, START, action="comment", window="7d")
        assert registry.newest_metrics(connection, "v1.0.0") == {"success_rate": 0.8}


def test_the_first_route_serves_nothing(database_url: str, tmp_path: Path) -> None:
    """An empty platform has a route, so that engines can wait for one."""
    seeded = seeded_database(database_url, tmp_path, production=None)
    with seeded.database.read() as connection:
        assert registry.get_route(connection) == Route()
