"""Where messages go, and what of an address may be seen."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from retrain_assets.notify.channels import (
    LOG_CHANNEL,
    AppriseChannel,
    ChannelFailed,
    Channels,
    LogChannel,
    secret_parts,
)
from retrain_assets.notify.messages import Message, Severity

MESSAGE = Message("[p] v1.2.3 rolled back", "Why: harm\nNext: look", Severity.FAILURE)


class Receiver(ThreadingHTTPServer):
    """A webhook on this machine: keeps what it is sent, and answers with `status`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[dict[str, Any]] = []
        self.status = 200

    @property
    def url(self) -> str:
        """Its address, full of secrets."""
        return f"json://hans:s3cret-pass@127.0.0.1:{self.server_port}/hook/T0ken-part?key=qu3ry-key"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook that runs."""
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_a_webhook_gets_title_text_and_severity(receiver: Receiver) -> None:
    """What Apprise posts is what was composed."""
    AppriseChannel(receiver.url, 0).send(MESSAGE)
    got = receiver.received[0]
    assert (got["title"], got["type"]) == (MESSAGE.title, "failure")
    assert got["message"].split("\n") == MESSAGE.body.split("\n")


def test_a_channel_that_refuses_says_which_and_why(receiver: Receiver) -> None:
    """The error names the place in the configuration and the service's reason."""
    receiver.status = 503
    with pytest.raises(ChannelFailed, match=r"notifications.urls\[3\] \(json://\) did not take the message: .*503"):
        AppriseChannel(receiver.url, 3).send(MESSAGE)


def test_no_secret_is_in_any_log_or_error(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """User, password, host, path and query of an address stay out of errors and of everybody's debug logs."""
    caplog.set_level(logging.DEBUG)
    receiver.status = 500
    channel = AppriseChannel(receiver.url, 0)
    with pytest.raises(ChannelFailed, match="did not take the message") as failure:
        channel.send(MESSAGE)
    seen = str(failure.value) + channel.name + channel.id + caplog.text
    assert "JSON POST URL" in caplog.text  # Apprise did log the address, and it was hidden
    for secret in ("s3cret-pass", "T0ken-part", "qu3ry-key", "hans", "127.0.0.1"):
        assert secret not in seen, secret


def test_an_address_that_nobody_answers_at_fails_without_its_secrets(caplog: pytest.LogCaptureFixture) -> None:
    """A refused connection is a failed channel like any other."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ChannelFailed, match="did not take the message") as failure:
        AppriseChannel("json://user:s3cret-pass@127.0.0.1:1/T0ken-part", 0).send(MESSAGE)
    assert "s3cret-pass" not in str(failure.value) + caplog.text
    assert "T0ken-part" not in str(failure.value) + caplog.text


WRONG = ["nonsense", "nosuchservice://s3cret-pass", "slack://s3cret-pass", "", "json://[s3cret-pass"]


@pytest.mark.parametrize("url", WRONG)
def test_a_wrong_address_fails_alone_and_is_found_without_sending(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """`problems` names it by its place; the log channel works all the same."""
    caplog.set_level(logging.DEBUG)
    channels = Channels([url])
    problems = channels.problems()
    assert len(problems) == 1
    assert problems[0].startswith("notifications.urls[0]")
    with pytest.raises(ChannelFailed, match="is no complete address"):
        channels[1].send(MESSAGE)
    channels[0].send(MESSAGE)
    assert "s3cret-pass" not in problems[0] + caplog.text


def test_the_log_is_always_a_channel(caplog: pytest.LogCaptureFixture) -> None:
    """Without any address, messages are in the log, as loud as they are."""
    caplog.set_level(logging.INFO)
    channels = Channels()
    assert [channel.id for channel in channels] == [LOG_CHANNEL]
    channels[0].send(MESSAGE)
    LogChannel().send(Message("[p] retraining started", "fine", Severity.INFO))
    records = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
    assert records == [
        ("retrain_assets.notify", logging.ERROR, "[p] v1.2.3 rolled back\nWhy: harm\nNext: look"),
        ("retrain_assets.notify", logging.INFO, "[p] retraining started\nfine"),
    ]


def test_channels_keep_their_identity_and_are_told_apart() -> None:
    """The same address has the same id in every process and at every place; an address given twice is one channel."""
    first, second = "json://127.0.0.1/a", "json://127.0.0.1/b"
    channels = Channels([first, second, first])
    assert len(channels) == 3
    assert channels[1].id == Channels([second, first])[2].id
    assert len({channel.id for channel in channels}) == 3


def test_every_part_of_an_address_counts_as_secret() -> None:
    """Also when it is written with percent signs."""
    parts = secret_parts("slack://TokenA/TokenB/%23channel?token=abcd%2Fefgh")
    assert {"TokenA", "TokenB", "%23channel", "#channel", "abcd/efgh"} <= set(parts)
    assert parts == sorted(parts, key=len, reverse=True)


def test_nothing_is_imported_for_the_log_alone() -> None:
    """Apprise costs its import only where an address is configured."""
    code = (
        "import sys; from retrain_assets.notify.channels import Channels\n"
        "Channels(['json://127.0.0.1'])\n"
        "sys.exit('apprise' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
