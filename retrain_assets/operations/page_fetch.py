"""One page from a stranger's server: politely, within bounds, and never from a place that is not public.

Holds the guard on addresses, the limits on time and size, redirects and robots.txt; does not hold which pages are
wanted (`extraction.py`), the cache (`store/pages.py`) or what a page tells (`core/page_features.py`).

A URL comes from a log that others may write, so that every address it leads to is looked at: all that a name resolves
to, at every redirect and for robots.txt. The connection is made to the address that was looked at, and not to the name
once more, which could mean another one by then. No proxy is used, since a proxy would resolve names by itself.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NoReturn
from urllib.parse import urljoin, urlsplit
from urllib.robotparser import RobotFileParser

import httpcore

from retrain_assets.core.page_features import KEPT_HEADERS
from retrain_assets.core.url_features import page_url, read_address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]

MAX_ROBOTS_BYTES = 512_000
"""What is read of a robots.txt; RFC 9309 asks for at least 500 KiB."""
MAX_CRAWL_DELAY_S = 30.0
"""A host that asks for longer pauses is left alone."""
HTML_TYPES = ("text/html", "application/xhtml+xml")
REDIRECTS = frozenset({301, 302, 303, 307, 308})

# Public by their number, and yet the metadata of a machine in somebody's cloud.
_METADATA = frozenset({ipaddress.ip_address("168.63.129.16")})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a fetch may go.

    Attributes
    ----------
    timeout_s : float
        For all of a page: names, connections, redirects and body, the polite pauses aside.
    max_bytes : int
        Of a body, after decompression; the rest is not read.
    max_redirects : int
    host_delay_s : float
        Between two requests to one host.
    user_agent : str
    allowed : sequence of Network
        Addresses that may be asked although they are not public.
    """

    timeout_s: float
    max_bytes: int
    max_redirects: int
    host_delay_s: float
    user_agent: str
    allowed: Sequence[Network] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a page.

    Attributes
    ----------
    reason : str or None
        Why there is no body; None when there is one.
    status : int or None
    url : str
        Where redirects led.
    content_type : str
    cookies : list of str
    headers : dict
    body : bytes
    is_cut : bool
    """

    url: str
    reason: str | None = None
    status: int | None = None
    content_type: str = ""
    cookies: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_cut: bool = False
    location: str | None = None


class _Refused(Exception):
    """A page that cannot be had, with the reason; never leaves this module."""


def system_resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, by the system's resolver, which also reads 2130706433 and 0x7f.1 as 127.0.0.1."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Fetcher:
    """Fetches pages; threads may share it.

    Parameters
    ----------
    limits : Limits
    resolve : callable, optional
        A host's addresses; tests put their own here.
    sleep : callable, optional
    """

    def __init__(
        self, limits: Limits, *, resolve: Resolve = system_resolve, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._limits = limits
        self._resolve = resolve
        self._turns = _Turns(limits.host_delay_s, sleep)
        self._robots: dict[str, RobotFileParser | str] = {}
        self._reading_robots = threading.Lock()

    def page(self, url: str) -> Answer:
        """Fetch a page; an answer without a body says why. Nothing is raised for what a server does."""
        deadline = _Deadline(self._limits.timeout_s)
        at = url
        for _ in range(self._limits.max_redirects + 1):
            try:
                self._check_robots(at, deadline)
                answer = self._get(at, deadline, self._limits.max_bytes, is_page=True)
            except _Refused as refusal:
                return Answer(at, reason=str(refusal))
            if answer.location is None:
                return answer
            if (target := page_url(urljoin(at, answer.location))) is None:
                return Answer(at, reason="redirects to what is no http or https URL", status=answer.status)
            at = target
        return Answer(at, reason=f"redirects more than {self._limits.max_redirects} times")

    def _check_robots(self, url: str, deadline: _Deadline) -> None:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        robots = self._robots.get(origin)
        if robots is None:
            robots = self._read_robots(origin, deadline)
            with self._reading_robots:
                robots = self._robots.setdefault(origin, robots)
        if isinstance(robots, str):
            raise _Refused(robots)
        if not robots.can_fetch(self._limits.user_agent, url):
            raise _Refused("robots.txt does not allow it")
        pause_s = float(robots.crawl_delay(self._limits.user_agent) or 0)
        if pause_s > MAX_CRAWL_DELAY_S:
            raise _Refused(f"robots.txt asks for pauses of {pause_s:g} s")
        self._turns.slow_down(parts.netloc, pause_s)

    def _read_robots(self, origin: str, deadline: _Deadline) -> RobotFileParser | str:
        """The rules of a server: none where it has no file, and everything forbidden where it cannot be asked."""
        at = f"{origin}/robots.txt"
        for _ in range(self._limits.max_redirects + 1):
            try:
                answer = self._get(at, deadline, MAX_ROBOTS_BYTES, is_page=False)
            except _Refused as refusal:
                return f"robots.txt: {refusal}"
            target = page_url(urljoin(at, answer.location)) if answer.location else None
            if target is None:
                break
            at = target
        status = answer.status or 0
        if status >= 500 or status == 429:
            return f"robots.txt: the server answers {status}"
        rules = RobotFileParser()
        rules.parse(answer.body.decode("utf-8", "replace").splitlines() if 200 <= status < 300 else [])
        return rules

    def _get(self, url: str, deadline: _Deadline, max_bytes: int, *, is_page: bool) -> Answer:
        """One request and its answer; a redirect is not followed."""
        address = read_address(url)
        if address is None or address.scheme is None:
            raise _Refused("is no http or https URL")
        self._turns.wait(urlsplit(url).netloc, deadline)
        guard = _Guard(self._limits.allowed, self._resolve, deadline)
        headers = (
            ("User-Agent", self._limits.user_agent),
            ("Accept", ", ".join(HTML_TYPES) if is_page else "text/plain"),
            ("Accept-Encoding", "gzip"),
            ("Connection", "close"),
        )
        try:
            with (
                httpcore.ConnectionPool(ssl_context=_certificates(), network_backend=guard) as pool,
                pool.stream("GET", url, headers=headers) as response,
            ):
                return _answer(url, response, max_bytes, is_page=is_page)
        except _Refused:
            raise
        except httpcore.TimeoutException:
            raise _Refused(f"took longer than {self._limits.timeout_s:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
            raise _Refused(_told(error)) from None
        except (ValueError, zlib.error) as error:
            raise _Refused(f"cannot be read: {error}") from None


def refused_address(address: IpAddress, allowed: Iterable[Network] = ()) -> bool:
    """Whether an address is not to be asked: not public, or a way to one that is not, and not allowed.

    Private, loopback, link-local (cloud metadata among them), shared, reserved, unspecified and multicast addresses,
    also where an address of version 6 carries one of version 4 (mapped, 6to4, Teredo, NAT64).
    """
    if any(address in network for network in allowed):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
        carried = [found for found in inner if found is not None]
        if carried:
            return any(refused_address(found, allowed) for found in carried)
    return not address.is_global or address.is_multicast or address.is_reserved or address in _METADATA


class _Deadline:
    """The end of a page's time; pauses for politeness move it."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def extend(self, seconds: float) -> None:
        self._end += seconds

    def left_s(self) -> float:
        """Seconds that are left.

        Raises
        ------
        httpcore.ReadTimeout
            None are.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left


class _Turns:
    """Requests to one host, one after the other with a pause between their beginnings."""

    def __init__(self, delay_s: float, sleep: Callable[[float], None]) -> None:
        self._delay_s = delay_s
        self._sleep = sleep
        self._next: dict[str, float] = {}
        self._delays: dict[str, float] = {}
        self._lock = threading.Lock()

    def slow_down(self, host: str, delay_s: float) -> None:
        """Keep at least this pause from now on."""
        with self._lock:
            self._delays[host] = max(delay_s, self._delays.get(host, self._delay_s))

    def wait(self, host: str, deadline: _Deadline) -> None:
        """Wait for the next turn; it does not count as the page's time."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next.get(host, now))
            self._next[host] = turn + self._delays.get(host, self._delay_s)
        if turn > now:
            self._sleep(turn - now)
            deadline.extend(turn - now)


class _Guard(httpcore.NetworkBackend):
    """Opens connections to addresses that it has looked at, all within one deadline."""

    def __init__(self, allowed: Sequence[Network], resolve: Resolve, deadline: _Deadline) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._deadline = deadline
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002  (the deadline stands for it)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of a host that answers; refuse a host with any address that is not public."""
        addresses = self._addresses(host, port)
        for place, address in enumerate(addresses, 1):
            try:
                stream = self._sockets.connect_tcp(
                    address, port, self._deadline.left_s(), local_address, socket_options
                )
            except httpcore.ConnectError:
                if place == len(addresses):
                    raise
                continue
            return _Bounded(stream, self._deadline)
        raise _Refused(f"{host} has no address")

    def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> NoReturn:  # noqa: ANN401  (the base's signature)
        """Refuse: a URL leads to no socket of this machine."""
        raise _Refused(f"{path} is no place for a page")

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            addresses = list(self._resolve(host, port))
        except (OSError, UnicodeError):
            raise _Refused(f"{host} has no address") from None
        for address in addresses:
            if refused_address(ipaddress.ip_address(address.partition("%")[0]), self._allowed):
                raise _Refused(f"{host} is at {address}, which is not public (see extraction.pages.allow_networks)")
        return addresses


class _Bounded(httpcore.NetworkStream):
    """A connection whose every wait ends with the deadline: bytes that come one by one cannot stretch it."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, self._deadline.left_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, self._deadline.left_s())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        return _Bounded(self._stream.start_tls(ssl_context, server_hostname, self._deadline.left_s()), self._deadline)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401  (the base's signature)
        return self._stream.get_extra_info(info)


@cache
def _certificates() -> ssl.SSLContext:
    """The authorities that are trusted; reading them takes a tenth of a second."""
    return httpcore.default_ssl_context()


def _answer(url: str, response: httpcore.Response, max_bytes: int, *, is_page: bool) -> Answer:
    headers = [(name.decode("ascii").lower(), value.decode("latin-1")) for name, value in response.headers]
    by_name = dict(headers)
    status, content_type = response.status, by_name.get("content-type", "")
    if status in REDIRECTS and "location" in by_name:
        return Answer(url, status=status, location=by_name["location"])
    if is_page and not 200 <= status < 300:
        return Answer(url, reason=f"the server answers {status}", status=status)
    kind = content_type.partition(";")[0].strip().lower()
    if is_page and kind and kind not in HTML_TYPES:
        return Answer(url, reason=f"is {kind[:60]}, not a web page", status=status)
    body, is_cut = _body(response, by_name.get("content-encoding", ""), max_bytes)
    return Answer(
        url,
        status=status,
        content_type=content_type[:200],
        cookies=[value.partition("=")[0].strip()[:100] for name, value in headers if name == "set-cookie"][:50],
        headers={name: by_name[name][:200] for name in KEPT_HEADERS if name in by_name},
        body=body,
        is_cut=is_cut,
    )


def _body(response: httpcore.Response, encoding: str, max_bytes: int) -> tuple[bytes, bool]:
    """The first bytes of a body, and whether there are more; never more than a chunk beyond the limit in memory."""
    encoding = encoding.strip().lower()
    if encoding not in {"", "identity", "gzip", "x-gzip", "deflate"}:
        raise _Refused(f"is sent as {encoding[:60]}, which was not asked for")
    unpack = None if encoding in {"", "identity"} else zlib.decompressobj(wbits=47)
    parts: list[bytes] = []
    size = 0
    for chunk in response.iter_stream():
        # One byte more than allowed tells that there is more; the bomb stays in its shell.
        part = chunk if unpack is None else unpack.decompress(chunk, max_bytes + 1 - size)
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            break
    return b"".join(parts)[:max_bytes], size > max_bytes


def _told(error: Exception) -> str:
    """A failure of the network in a few words, the same for the same cause."""
    cause = error.__cause__ or error.__context__ or error
    text = str(error) or str(cause) or type(error).__name__
    if isinstance(cause, ssl.SSLError) or "SSL" in text or "certificate" in text:
        return "has no valid certificate" if "CERTIFICATE_VERIFY" in text else "speaks no TLS"
    return f"cannot be reached: {text[:120]}"
