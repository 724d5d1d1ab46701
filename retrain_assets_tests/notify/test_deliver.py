"""What delivery promises: at least once, not again to a channel that has it, and no channel waits for another."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from retrain_assets.core.deployment import Event, EventKind
from retrain_assets.notify.channels import ChannelFailed, Channels
from retrain_assets.notify.deliver import DeliveryReport, deliver_pending
from retrain_assets.notify.messages import Message
from retrain_assets.store import outbox, registry
from retrain_assets.store.database import Database
from retrain_assets.store.tables import notification_outbox
from retrain_assets.testing import FakeClock, seeded_database


@dataclass
class FakeChannel:
    """Takes messages, refuses them, or does not answer."""

    id: str
    is_down: bool = False
    has: list[str] = field(default_factory=list)
    tries: int = 0
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def name(self) -> str:
        """Its id."""
        return self.id

    def send(self, message: Message) -> None:
        """Take the message, or not."""
        self.tries += 1
        assert self.gate.wait(20)
        if self.is_down:
            raise ChannelFailed(f"{self.id} is down")
        self.has.append(message.title.removeprefix("[p] "))


@pytest.fixture
def clock() -> FakeClock:
    """The deliverer's clock."""
    return FakeClock()


@pytest.fixture
def database(database_url: str, tmp_path: Path) -> Iterator[Database]:
    """An empty database with its schema."""
    made = seeded_database(database_url, tmp_path, production=None).database
    yield made
    made.close()


def put(database: Database, clock: FakeClock, *versions: str) -> None:
    """Record an event for each version, which queues its message."""
    with database.write() as connection:
        for version in versions:
            event = Event(kind=EventKind.STAGED, at=clock(), actor="test", reason="because", version=version)
            registry.record(connection, event)


def rows(database: Database) -> list[Any]:
    """The outbox."""
    with database.read() as connection:
        return list(connection.execute(select(notification_outbox).order_by(notification_outbox.c.id)))


def staged(*versions: str) -> list[str]:
    """The titles of their messages."""
    return [f"{version} deployed to staging" for version in versions]


def test_every_channel_gets_every_message_once_and_in_order(database: Database, clock: FakeClock) -> None:
    """After one round everything is delivered; the next one finds nothing."""
    put(database, clock, "v1.0.0", "v1.0.1", "v1.0.2")
    one, two = FakeChannel("one"), FakeChannel("two")
    assert deliver_pending(database, [one, two], "p", clock()) == DeliveryReport(3, 0)
    assert deliver_pending(database, [one, two], "p", clock()) == DeliveryReport()
    assert one.has == two.has == staged("v1.0.0", "v1.0.1", "v1.0.2")
    assert all(row.delivered_at == clock() and row.last_error is None for row in rows(database))


def test_a_dead_channel_is_tried_again_and_the_healthy_one_is_not(database: Database, clock: FakeClock) -> None:
    """Five rounds with one dead channel: the other has each message once; when it lives again it gets all, once."""
    put(database, clock, "v1.0.0", "v1.0.1")
    well, dead = FakeChannel("well"), FakeChannel("dead", is_down=True)
    for _ in range(5):
        report = deliver_pending(database, [dead, well], "p", clock())
        assert (report.delivered, report.failed, report.errors) == (0, 2, ("dead is down",))
        clock.advance(hours=1)
    assert well.has == staged("v1.0.0", "v1.0.1")
    assert {row.last_error for row in rows(database)} == {"dead is down"}
    dead.is_down = False
    assert deliver_pending(database, [dead, well], "p", clock()).delivered == 2
    assert dead.has == well.has == staged("v1.0.0", "v1.0.1")


def test_tries_grow_further_apart(database: Database, clock: FakeClock) -> None:
    """10 s, 20 s, 40 s, ... at most an hour: a channel that is down for a day is asked some thirty times."""
    put(database, clock, "v1.0.0")
    dead = FakeChannel("dead", is_down=True)
    waits: list[float] = []
    for tries in range(1, 15):
        deliver_pending(database, [dead], "p", clock())
        assert dead.tries == tries
        due = rows(database)[0].claimed_until
        waits.append((due - clock()).total_seconds())
        clock.set(due - timedelta(seconds=1))
        assert deliver_pending(database, [dead], "p", clock()) == DeliveryReport()  # not due yet
        clock.set(due)
    assert waits[:5] == [10, 20, 40, 80, 160]
    assert waits == sorted(waits)
    assert waits[-1] == 3_600


def test_a_channel_that_fails_gets_no_more_in_that_round(database: Database, clock: FakeClock) -> None:
    """Its timeout is paid once a round, not once a message."""
    put(database, clock, *[f"v1.0.{n}" for n in range(10)])
    dead, well = FakeChannel("dead", is_down=True), FakeChannel("well")
    deliver_pending(database, [dead, well], "p", clock())
    assert dead.tries == 1
    assert len(well.has) == 10


def test_a_channel_that_does_not_answer_keeps_nobody_waiting(database: Database, clock: FakeClock) -> None:
    """The healthy channel has its message at once, and the round ends when its time is over."""
    put(database, clock, "v1.0.0")
    hung, well = FakeChannel("hung"), FakeChannel("well")
    hung.gate.clear()
    report = deliver_pending(database, [hung, well], "p", clock(), budget_s=0.3)
    assert (report.failed, report.errors) == (1, ("did not answer in time",))
    assert well.has == staged("v1.0.0")
    hung.gate.set()
    clock.advance(hours=1)
    assert deliver_pending(database, [well], "p", clock()).delivered == 1
    assert well.has == staged("v1.0.0")


def test_a_bug_in_a_channel_is_that_channels_failure(database: Database, clock: FakeClock) -> None:
    """Whatever a channel raises, the others deliver."""
    put(database, clock, "v1.0.0")

    class Buggy(FakeChannel):
        def send(self, message: Message) -> None:
            raise ZeroDivisionError

    well = FakeChannel("well")
    report = deliver_pending(database, [Buggy("buggy"), well], "p", clock())
    assert report.errors == ("ZeroDivisionError",)
    assert well.has == staged("v1.0.0")


def test_two_deliverers_at_once_send_nothing_twice(database: Database, clock: FakeClock) -> None:
    """Four deliverers on 30 messages: the channel has each of them exactly once."""
    put(database, clock, *[f"v1.0.{n}" for n in range(30)])
    channel = FakeChannel("one")
    reports: list[DeliveryReport] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        reports.append(deliver_pending(Database(database.url), [channel], "p", clock()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(channel.has) == sorted(staged(*[f"v1.0.{n}" for n in range(30)]))
    assert sum(report.delivered for report in reports) == 30


def test_a_crash_after_sending_does_not_send_to_that_channel_again(
    database: Database, clock: FakeClock, tmp_path: Path
) -> None:
    """A process that is killed once one channel has the message: the next deliverer goes to the other channel only."""
    put(database, clock, "v1.0.0")
    script = f"""
        import os, threading
        from retrain_assets.notify import deliver
        from retrain_assets.store.database import Database
        from retrain_assets.testing import FakeClock
        class Channel:
            def __init__(self, id, before): self.id = self.name = id; self.before = before
            def send(self, message):
                self.before()
                with open({str(tmp_path / "sent")!r}, "a") as f: f.write(self.id + "\\n")
        noted = threading.Event()
        real = deliver._note
        def note(*arguments): real(*arguments); noted.set()
        deliver._note = note
        def die(): noted.wait(20); os.kill(os.getpid(), 9)
        deliver.deliver_pending(
            Database({database.url!r}), [Channel("one", lambda: None), Channel("two", die)], "p", FakeClock()()
        )
    """
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=root, check=False, env=os.environ.copy())
    assert done.returncode == -9
    assert (tmp_path / "sent").read_text(encoding="utf-8").split() == ["one"]
    one, two = FakeChannel("one"), FakeChannel("two")
    assert deliver_pending(database, [one, two], "p", clock()) == DeliveryReport()  # claimed by the dead process
    clock.advance(outbox.CLAIM)
    assert deliver_pending(database, [one, two], "p", clock()) == DeliveryReport(1, 0)
    assert (one.has, two.has) == ([], staged("v1.0.0"))


def test_a_crash_before_the_note_sends_again_rather_than_never(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least once: what was sent but not noted is sent again after the claim has run out."""
    from retrain_assets.notify import deliver

    put(database, clock, "v1.0.0")
    channel = FakeChannel("one")

    def crash(*_: object) -> Iterator[None]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deliver, "_note", crash)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            deliver_pending(database, [channel], "p", clock())
    assert deliver_pending(database, [channel], "p", clock()) == DeliveryReport()
    clock.advance(outbox.CLAIM)
    assert deliver_pending(database, [channel], "p", clock()).delivered == 1
    assert channel.has == staged("v1.0.0", "v1.0.0")


def test_a_channel_that_was_taken_out_of_the_configuration_holds_nothing_up(
    database: Database, clock: FakeClock
) -> None:
    """Only the channels of now count: what a removed one did not take is delivered."""
    put(database, clock, "v1.0.0")
    well, dead = FakeChannel("well"), FakeChannel("dead", is_down=True)
    deliver_pending(database, [well, dead], "p", clock())
    clock.advance(minutes=1)
    assert deliver_pending(database, [well], "p", clock()) == DeliveryReport(1, 0)
    assert len(well.has) == 1


def test_the_payload_keeps_what_the_event_said(database: Database, clock: FakeClock) -> None:
    """Noting receipts changes nothing of the event's own fields."""
    put(database, clock, "v1.0.0")
    before = rows(database)[0].payload
    deliver_pending(database, [FakeChannel("one"), FakeChannel("two", is_down=True)], "p", clock())
    assert rows(database)[0].payload == before | {"delivered_to": ["one"]}


def test_with_no_address_configured_the_log_is_enough(
    database: Database, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """`Channels()` delivers to the log and closes the message."""
    caplog.set_level("INFO")
    put(database, clock, "v1.0.0")
    assert deliver_pending(database, Channels(), "p", clock()) == DeliveryReport(1, 0)
    assert "[p] v1.0.0 deployed to staging" in caplog.text
