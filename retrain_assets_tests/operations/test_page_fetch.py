"""Fetching a stranger's page: what is asked for, what is refused, and when it ends. The stranger is a local server."""

from __future__ import annotations

import gzip
import ipaddress
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from retrain_assets.operations.page_fetch import Fetcher, Limits, refused_address

LOCAL = (ipaddress.ip_network("127.0.0.1/32"),)
PAGE = b"<html><p>Hello</p></html>"
BOMB = gzip.compress(b"x" * 50_000_000)


class Site:
    """A server on 127.0.0.1 whose pages a test writes: `site.pages[path] = handler function`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.agents: set[str | None] = set()
        self.pages: dict[str, Callable[[Any], None]] = {"/robots.txt": answer(404)}
        self.is_over = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                site.agents.add(self.headers.get("User-Agent"))
                site.pages.get(self.path, answer(404))(self)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that had enough is no error."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """The URL of a page."""
        return f"http://{host}:{self.port}{path}"

    def close(self) -> None:
        """End the server."""
        self.is_over.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def answer(status: int = 200, body: bytes = PAGE, **headers: str) -> Callable[[Any], None]:
    """An answer in one piece."""

    def send(handler: Any) -> None:  # noqa: ANN401  (the server's own class)
        handler.send_response(status)
        for name, value in ({"Content_Type": "text/html"} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return send


def endless(site: Site, piece: bytes, pause_s: float = 0.0) -> Callable[[Any], None]:
    """An answer without end."""

    def send(handler: Any) -> None:  # noqa: ANN401  (see `answer`)
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n" + (b"\r\n" if piece != b"a" else b"X: "))
        while not site.is_over.wait(pause_s):
            handler.wfile.write(piece)

    return send


@pytest.fixture
def site() -> Iterator[Site]:
    """A server that lives as long as its test."""
    made = Site()
    yield made
    made.close()


def fetcher(**changes: Any) -> Fetcher:  # noqa: ANN401  (the fields of `Limits`, and what `Fetcher` takes)
    """A fetcher that may ask the local server and is not polite, unless a test says otherwise."""
    rest = {name: changes.pop(name) for name in ("resolve", "sleep") if name in changes}
    fields: dict[str, Any] = {
        "timeout_s": 10.0,
        "max_bytes": 100_000,
        "max_redirects": 3,
        "host_delay_s": 0.0,
        "user_agent": "retrain-assets/0 (+mail@example.org)",
        "allowed": LOCAL,
    }
    return Fetcher(Limits(**fields | changes), **rest)


def test_a_page_is_fetched_with_what_tells_its_platform(site: Site) -> None:
    """Body, type, names of cookies and telling headers are given back; the product names itself and its owner."""
    site.pages["/"] = answer(Set_Cookie="session=secret; Path=/", X_Generator="Drupal 11", X_Other="no")
    found = fetcher().page(site.url("/"))
    assert (found.reason, found.status, found.body, found.is_cut) == (None, 200, PAGE, False)
    assert (found.content_type, found.cookies, found.headers) == (
        "text/html",
        ["session"],
        {"x-generator": "Drupal 11"},
    )
    assert site.agents == {"retrain-assets/0 (+mail@example.org)"}


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "[::ffff:127.0.0.1]",
     "[::ffff:7f00:1]", "[::1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "0.0.0.1", "10.0.0.1",
     "169.254.169.254", "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16", "224.0.0.1", "192.168.1.1"],
)  # fmt: skip
def test_what_is_not_public_is_never_asked(site: Site, host: str) -> None:
    """Loopback, private, link-local, metadata and multicast addresses are refused in every disguise."""
    site.pages["/"] = answer()
    found = fetcher(allowed=()).page(site.url("/", host))
    assert "is not public" in str(found.reason)
    assert site.asked == []


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822", "2002:5db8:d822::1"])
def test_public_addresses_are_not_refused(address: str) -> None:
    """The guard lets the internet through, also where version 6 carries version 4."""
    assert not refused_address(ipaddress.ip_address(address))


def test_a_name_that_leads_to_this_machine_is_refused(site: Site) -> None:
    """It is the address that counts; one bad address among good ones is enough."""
    for addresses in (["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::1"]):
        found = fetcher(allowed=(), resolve=lambda host, port, found=addresses: found).page(
            site.url("/", "innocent.example")
        )
        assert "innocent.example is at" in str(found.reason)
    assert site.asked == []


def test_a_name_is_asked_once_and_the_address_that_was_looked_at_is_used(site: Site) -> None:
    """A name that means another address the second time gains nothing: there is no second time."""
    answers = iter([["127.0.0.1"], ["127.0.0.1"], ["10.0.0.1"]])
    site.pages["/"] = answer()
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    found = fetcher(resolve=rebinding).page(site.url("/", "rebind.example"))
    assert found.body == PAGE
    assert asked == ["rebind.example"] * 2  # once for robots.txt, once for the page: one look for each connection
    assert site.asked == ["/robots.txt", "/"]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254, which is not public"),
        ("http://[::1]/", "which is not public"),
        ("//10.0.0.1/x", "which is not public"),
        ("file:///etc/passwd", "redirects to what is no http or https URL"),
        ("gopher://127.0.0.1/", "redirects to what is no http or https URL"),
    ],
)
def test_a_redirect_is_looked_at_like_a_url(site: Site, target: str, reason: str) -> None:
    """A page on a good address cannot lead to a bad one, or to another scheme."""
    site.pages["/"] = answer(302, Location=target)
    assert reason in str(fetcher().page(site.url("/")).reason)


def test_a_redirected_robots_txt_is_looked_at_too(site: Site) -> None:
    """The rules of a site are no way to a bad address either."""
    site.pages |= {"/": answer(), "/robots.txt": answer(301, Location="http://169.254.169.254/")}
    assert "169.254.169.254" in str(fetcher().page(site.url("/")).reason)
    assert site.asked == ["/robots.txt"]


def test_redirects_are_followed_to_an_end(site: Site) -> None:
    """A few are followed, relative ones too; a circle ends with its reason."""
    site.pages |= {"/a": answer(302, Location="b"), "/b": answer(308, Location="/c"), "/c": answer()}
    site.pages["/round"] = answer(302, Location="/round")
    used = fetcher()
    assert (used.page(site.url("/a")).body, used.page(site.url("/a")).url) == (PAGE, site.url("/c"))
    assert used.page(site.url("/round")).reason == "redirects more than 3 times"


def test_an_endless_body_is_cut(site: Site) -> None:
    """The beginning is kept and the rest never read."""
    site.pages["/"] = endless(site, b"<p>more</p>" * 1_000)
    found = fetcher().page(site.url("/"))
    assert (len(found.body), found.is_cut, found.reason) == (100_000, True, None)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate"])
def test_a_bomb_is_unpacked_to_the_limit_only(site: Site, encoding: str) -> None:
    """50 MB packed in 50 kB give what the limit allows."""
    site.pages["/"] = answer(body=BOMB, Content_Encoding=encoding)
    found = fetcher().page(site.url("/"))
    assert (found.body, found.is_cut) == (b"x" * 100_000, True)


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "zstd"])
def test_what_was_not_asked_for_is_not_unpacked(site: Site, encoding: str) -> None:
    """Only one layer of the packing that was asked for is opened."""
    site.pages["/"] = answer(Content_Encoding=encoding)
    assert fetcher().page(site.url("/")).reason == f"is sent as {encoding}, which was not asked for"


def test_broken_packing_is_a_reason(site: Site) -> None:
    """A body that says gzip and is none gives no page and no traceback."""
    site.pages["/"] = answer(body=b"plain", Content_Encoding="gzip")
    assert "cannot be read" in str(fetcher().page(site.url("/")).reason)


@pytest.mark.parametrize("piece", [b"<p>", b"a"], ids=["body", "headers"])
def test_bytes_that_come_one_by_one_end_with_the_time(site: Site, piece: bytes) -> None:
    """A server that always sends a little does not keep a thread: the limit is on the whole page."""
    site.pages["/"] = endless(site, piece, pause_s=0.02)
    used = fetcher(timeout_s=0.4)
    before = time.monotonic()
    assert used.page(site.url("/")).reason == "took longer than 0.4 s"
    assert time.monotonic() - before < 30  # it ends at all; how fast is the machine's matter


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (404, {}, "the server answers 404"),
        (401, {}, "the server answers 401"),
        (503, {}, "the server answers 503"),
        (200, {"Content_Type": "application/pdf"}, "is application/pdf, not a web page"),
        (302, {}, "the server answers 302"),
    ],
)
def test_what_is_no_page_is_a_reason(site: Site, status: int, headers: dict[str, Any], reason: str) -> None:
    """Errors, documents and redirects to nowhere are told in a few words."""
    site.pages["/"] = answer(status, **headers)
    assert fetcher().page(site.url("/")).reason == reason


def test_a_dead_server_is_a_reason() -> None:
    """A port where nobody listens, and a name that does not exist."""
    used = fetcher(resolve=lambda host, port: ["127.0.0.1"] if host != "gone.example" else _no_name())
    assert "cannot be reached" in str(used.page("http://here.example:9/").reason)
    assert used.page("http://gone.example/").reason == "robots.txt: gone.example has no address"


def _no_name() -> list[str]:
    raise OSError("no such name")


ROBOTS = b"User-agent: *\nDisallow: /private\n\nUser-agent: retrain-assets\nDisallow: /ours\nCrawl-delay: 2\n"


@pytest.mark.parametrize(("path", "is_asked"), [("/ours/x", False), ("/private/x", True), ("/x", True)])
def test_the_rules_of_robots_txt_are_kept(site: Site, path: str, is_asked: bool) -> None:  # noqa: FBT001
    """The group that names the product counts, and goes before the one for all."""
    site.pages |= {"/robots.txt": answer(body=ROBOTS), path: answer()}
    found = fetcher(sleep=lambda _: None).page(site.url(path))
    assert (found.reason is None) is is_asked
    assert (path in site.asked) is is_asked
    assert is_asked or found.reason == "robots.txt does not allow it"


@pytest.mark.parametrize(
    ("status", "reason"), [(200, None), (404, None), (403, None), (500, "robots.txt: the server answers 500")]
)
def test_a_server_whose_rules_cannot_be_read_is_left_alone(site: Site, status: int, reason: str | None) -> None:
    """No file means no rules; a server that fails might have some, so that nothing is asked (RFC 9309)."""
    site.pages |= {"/robots.txt": answer(status, b""), "/": answer()}
    assert fetcher().page(site.url("/")).reason == reason


def test_the_rules_are_read_once_for_each_server(site: Site) -> None:
    """A hundred pages of one server cost one look at its rules."""
    site.pages |= {f"/{number}": answer() for number in range(5)}
    used = fetcher()
    assert all(used.page(site.url(f"/{number}")).reason is None for number in range(5))
    assert Counter(site.asked)["/robots.txt"] == 1


def test_requests_to_one_host_keep_their_distance(site: Site) -> None:
    """Each request waits for the one before it, robots.txt among them; a host that asks for more gets more."""
    slept: list[float] = []
    site.pages |= {"/robots.txt": answer(body=ROBOTS), "/1": answer(), "/2": answer()}
    used = fetcher(host_delay_s=0.5, sleep=slept.append)
    for path in ("/1", "/2"):
        assert used.page(site.url(path)).reason is None
    # Nobody really slept, so that the waits add up: half a second after robots.txt, then the two that it asks for.
    assert slept == [pytest.approx(0.5, abs=0.4), pytest.approx(2.5, abs=0.9)]


def test_a_host_that_asks_for_very_long_pauses_is_left_alone(site: Site) -> None:
    """A week cannot wait for an hour between two pages."""
    site.pages |= {"/robots.txt": answer(body=b"User-agent: *\nCrawl-delay: 3600\n"), "/": answer()}
    assert fetcher().page(site.url("/")).reason == "robots.txt asks for pauses of 3600 s"
