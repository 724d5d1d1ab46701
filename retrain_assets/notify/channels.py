"""Where messages go: the log, always, and each configured Apprise URL.

Holds the channels and keeps the URLs' secrets out of every log and error; does not hold texts (`messages.py`) or the
order of delivery (`deliver.py`). Apprise is imported when the first URL is used.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from retrain_assets.errors import RetrainError
from retrain_assets.notify.messages import Message, Severity

LOG_CHANNEL = "log"
"""Id of the channel that is always there."""

_LEVELS = {
    Severity.INFO: logging.INFO,
    Severity.SUCCESS: logging.INFO,
    Severity.WARNING: logging.WARNING,
    Severity.FAILURE: logging.ERROR,
}
_CHATTY = ("apprise", "urllib3.connectionpool")
"""Loggers that name addresses while a message is sent."""
_SHORTEST_SECRET = 4
"""Parts of a URL with fewer characters hide nothing, and redacting them would make logs unreadable."""
_HIDDEN = "***"

logger = logging.getLogger("retrain_assets.notify")


class ChannelFailed(RetrainError):
    """A channel did not take a message; it may later."""

    is_retryable = True


class Channel(Protocol):
    """What delivery asks of a channel.

    Attributes
    ----------
    id : str
        The same for the same address, and no secret: delivery notes by it who has a message already.
    name : str
        For people; no secret.
    """

    @property
    def id(self) -> str: ...  # noqa: D102  (see the class)

    @property
    def name(self) -> str: ...  # noqa: D102  (see the class)

    def send(self, message: Message) -> None:
        """Hand the message over.

        Raises
        ------
        ChannelFailed
            It was not taken.
        """
        ...


class LogChannel:
    """Messages in the log of Python's `logging`, logger `retrain_assets.notify`."""

    id = LOG_CHANNEL
    name = LOG_CHANNEL

    def send(self, message: Message) -> None:
        """Log title and body as one record."""
        logger.log(_LEVELS[message.severity], "%s\n%s", message.title, message.body)


class AppriseChannel:
    """One Apprise URL.

    Parameters
    ----------
    url : str
        https://appriseit.com/ lists a hundred kinds.
    position : int
        Its place in `notifications.urls`, from 0.
    """

    def __init__(self, url: str, position: int) -> None:
        self._url = url
        # 32 bits tell a handful of channels apart and are too few to find a password by trying.
        self.id = hashlib.sha256(url.encode()).hexdigest()[:8]
        scheme = url.partition("://")[0] if "://" in url else "?"
        self.name = f"notifications.urls[{position}] ({scheme}://)"
        self._secrets = secret_parts(url)
        self._service: Any = None

    def send(self, message: Message) -> None:
        """Hand the message to the service.

        Raises
        ------
        ChannelFailed
            The address is none that Apprise knows, or the service did not take the message.
        """
        with self._quiet() as told:
            try:
                is_taken = self._load().notify(
                    title=message.title, body=message.body, notify_type=message.severity.value, body_format="text"
                )
            except ChannelFailed:
                raise
            except Exception as error:  # noqa: BLE001  (a service's own bug is that channel's failure)
                reason = self._redact(f"{type(error).__name__}: {error}")
                raise ChannelFailed(f"{self.name} failed: {reason}") from None
        if not is_taken:
            reason = "; ".join(told) or "the service gave no reason"
            raise ChannelFailed(f"{self.name} did not take the message: {self._redact(reason)}")

    def check(self) -> str | None:
        """What is wrong with the address, without sending anything; None when nothing is."""
        try:
            with self._quiet():
                self._load()
        except ChannelFailed as error:
            return str(error)
        return None

    def _load(self) -> Any:  # noqa: ANN401  (Apprise's own class)
        if self._service is None:
            import apprise

            service = apprise.Apprise()
            if not service.add(self._url):
                raise ChannelFailed(f"{self.name} is no complete address of a service that Apprise knows")
            self._service = service
        return self._service

    @contextmanager
    def _quiet(self) -> Iterator[list[str]]:
        """Hide the URL's secrets in what others log meanwhile; yields the warnings they gave."""
        told: list[str] = []
        guard = _Guard(self, told)
        loggers = [logging.getLogger(name) for name in _CHATTY]
        for chatty in loggers:
            chatty.addFilter(guard)
        try:
            yield told
        finally:
            for chatty in loggers:
                chatty.removeFilter(guard)

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return text


class _Guard(logging.Filter):
    """Rewrites records that name a secret, and keeps warnings for the error's reason."""

    def __init__(self, channel: AppriseChannel, told: list[str]) -> None:
        super().__init__()
        self._channel = channel
        self._told = told

    def filter(self, record: logging.LogRecord) -> bool:
        text = self._channel._redact(record.getMessage())  # noqa: SLF001  (its other half)
        record.msg, record.args = text, ()
        if record.levelno >= logging.WARNING and text not in self._told:
            self._told.append(text)
        return True


class Channels(Sequence[Channel]):
    """The log and every configured URL, in order.

    Parameters
    ----------
    urls : sequence of str
        `notifications.urls`. A wrong one is a channel that always fails, and says why; it stops no other.
    """

    def __init__(self, urls: Sequence[str] = ()) -> None:
        distinct = list(dict.fromkeys(urls))
        self._apprise = [AppriseChannel(url, position) for position, url in enumerate(distinct)]
        self._all: list[Channel] = [LogChannel(), *self._apprise]

    def problems(self) -> list[str]:
        """What is wrong with the addresses, without sending anything."""
        return [problem for channel in self._apprise if (problem := channel.check())]

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401  (a position or a slice)
        return self._all[index]


def secret_parts(url: str) -> list[str]:
    """Everything of a URL that may be a secret, longest first.

    Services hide tokens in the user, the password, the path, the query and even in the host, so all of them count;
    only the scheme is told.
    """
    try:
        split = urlsplit(url)
        netloc = [part for piece in split.netloc.split("@") for part in piece.split(":")]
        query = [value for _, value in parse_qsl(split.query)]
        parts = [*netloc, *split.path.split("/"), *query, split.netloc, split.path, split.query, split.fragment]
    except ValueError:
        parts = []
    parts += [url, url.partition("://")[2]]
    found = {text for part in parts for text in (part, unquote(part)) if len(text) >= _SHORTEST_SECRET}
    return sorted(found, key=len, reverse=True)
