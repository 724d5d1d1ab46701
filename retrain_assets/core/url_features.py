"""What a URL or a host name tells by itself: features made of its text alone.

Holds the reading of addresses as they stand in logs, the features made of one, and the form under which a page is
asked for; does not hold which of them fill a row (`extraction.py`) or anything that needs a network.

The reading is our own, and not the standard library's: that one's answers change with its security releases, and a
feature must be the same in every worker and at every training. Nothing here raises; what is no address has no features.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from retrain_assets.core.features import FeatureValue

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

URL_FEATURES_VERSION = 1
"""Raised when a feature below changes its meaning; snapshots remember it."""

URL_FEATURES: Mapping[str, str] = MappingProxyType(
    {
        "https_enabled": "boolean",
        "url_length": "integer",
        "url_digits": "integer",
        "url_path_depth": "integer",
        "url_has_query": "boolean",
        "url_query_parameters": "integer",
        "url_has_port": "boolean",
        "url_tld": "category",
        "url_subdomains": "integer",
        "domain_length": "integer",
        "domain_digits": "integer",
        "domain_hyphens": "integer",
        "domain_is_ip": "boolean",
        "domain_is_idn": "boolean",
    }
)
"""Name to the type that it should be declared with."""

SUFFIX_FEATURES = frozenset({"url_tld", "url_subdomains"})
"""Those that need the public suffix list."""

MAX_LENGTH = 65_536
"""Characters of an address; longer text is none."""

_REMEMBERED_LENGTH = 500
_SHAPE = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):/[/\\]|//)?([^/\\?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?")
_HOST = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_PORT = re.compile(r":([0-9]{0,5})$")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_HOST = 253


class Address(NamedTuple):
    """A URL or a host name, taken apart; a named tuple, since a frozen dataclass costs 2 us to make.

    Attributes
    ----------
    text : str
        As it came, without blanks around it.
    scheme : str or None
        `http` or `https`; None when the text names none.
    host : str
        In lower case and in ASCII (punycode), without a dot at the end; an IPv6 address without brackets.
    is_ip : bool
        The host is a number: an address of version 4 in any notation, or of version 6.
    port : int or None
        None when it is the scheme's own.
    path, query : str or None
        As they came; None for a query that is not there.
    """

    text: str
    scheme: str | None
    host: str
    is_ip: bool
    port: int | None
    path: str
    query: str | None


def read_address(text: object) -> Address | None:
    """Take an address apart; None for what is none.

    With a scheme it must be `http` or `https`. Without one the text must begin with a host name that has a dot, or with
    an IP address, and name no user: `me@a.org` is a mailbox.
    """
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        return None
    return _remembered(text) if len(text) <= _REMEMBERED_LENGTH else _parsed(text)


def url_features(text: object) -> dict[str, FeatureValue]:
    """The features of a URL or host name, by the names of `URL_FEATURES`; those that it does not tell are left out.

    A text without `http://` or `https://` tells neither `https_enabled` nor what counts its whole length, and one
    that is only a host name tells nothing of a path.
    """
    address = read_address(text)
    if address is None:
        return {}
    return {name: value for name in URL_FEATURES if (value := url_feature(address, name)) is not None}


def url_feature(address: Address, name: str) -> FeatureValue:
    """One of the features; None when the address does not tell it."""
    return _MADE_BY[name](address)


def page_url(text: object) -> str | None:
    """The form under which a page is asked for and kept: one for all spellings of an address.

    Scheme and host in lower case, punycode, no default port, no user, no fragment, everything else percent-encoded
    where it has to be; a host name without a scheme is asked for by `https`.

    Examples
    --------
    >>> page_url("HTTP://User:Secret@Example.ORG:80/a b?q=1#top")
    'http://example.org/a%20b?q=1'
    """
    address = read_address(text)
    if address is None:
        return None
    host = f"[{address.host}]" if ":" in address.host else address.host
    port = f":{address.port}" if address.port is not None else ""
    path = quote(address.path, safe="%/:=&~+!$,;'@()*") or "/"
    query = "" if address.query is None else "?" + quote(address.query, safe="%/:=&~+!$,;'@()*?")
    return f"{address.scheme or 'https'}://{host}{port}{path}{query}"


def suffix_list_version() -> str:
    """The version of the public suffix list that is installed; it ends in the day of the list."""
    from importlib.metadata import version

    return version("publicsuffixlist")


@lru_cache(maxsize=4_096)
def _remembered(text: str) -> Address | None:
    """A domain comes again with many tasks, and a task is decided, tried again and reported under one URL."""
    return _parsed(text)


def _parsed(text: str) -> Address | None:
    text = text.strip()
    if not text or not text.isprintable():  # control characters are how parsers are led astray
        return None
    found = _SHAPE.fullmatch(text)
    if found is None:
        return None
    scheme, authority, path, query = found.groups()
    scheme = scheme.lower() if scheme else None
    if scheme is not None and scheme not in _DEFAULT_PORTS:
        return None
    user, _, place = authority.rpartition("@")
    if user and scheme is None:
        return None
    host, port = _host_and_port(place)
    if host is None or port == -1:
        return None
    is_ip = ":" in host or _NUMERIC.fullmatch(host.rpartition(".")[2]) is not None
    if scheme is None and not (_is_plain_ip(host) if is_ip else "." in host):
        return None
    if port == _DEFAULT_PORTS.get(scheme or ""):
        port = None
    return Address(text, scheme, host, is_ip, port, path.replace("\\", "/"), query)


def _tells_path(address: Address) -> bool:
    return address.scheme is not None or bool(address.path) or address.query is not None


def _tld(address: Address) -> str | None:
    return _suffix(address.host) if not address.is_ip and "." in address.host else None


def _subdomains(address: Address) -> int | None:
    suffix = _tld(address)
    # The label before the suffix is what somebody registered; those before it are his own.
    return None if suffix is None else max(address.host.count(".") - suffix.count(".") - 1, 0)


def _is_idn(address: Address) -> bool:
    return "xn--" in address.host and any(label.startswith("xn--") for label in address.host.split("."))


_MADE_BY: dict[str, Callable[[Address], FeatureValue]] = {
    "https_enabled": lambda a: None if a.scheme is None else a.scheme == "https",
    "url_length": lambda a: None if a.scheme is None else len(a.text),
    "url_digits": lambda a: None if a.scheme is None else _digits(a.text),
    "url_path_depth": lambda a: sum(map(bool, a.path.split("/"))) if _tells_path(a) else None,
    "url_has_query": lambda a: bool(a.query) if _tells_path(a) else None,
    "url_query_parameters": lambda a: sum(map(bool, (a.query or "").split("&"))) if _tells_path(a) else None,
    "url_has_port": lambda a: a.port is not None if _tells_path(a) else None,
    "url_tld": _tld,
    "url_subdomains": _subdomains,
    "domain_length": lambda a: len(a.host),
    "domain_digits": lambda a: _digits(a.host),
    "domain_hyphens": lambda a: a.host.count("-"),
    "domain_is_ip": lambda a: a.is_ip,
    "domain_is_idn": _is_idn,
}


def _digits(text: str) -> int:
    content = text.encode(errors="replace")  # bytes lose characters twenty times as fast as text
    return len(content) - len(content.translate(None, b"0123456789"))


def _host_and_port(place: str) -> tuple[str | None, int | None]:
    """The host as it is compared, None for one that cannot be; and the port, -1 for one that cannot be."""
    if place.startswith("["):
        inner, bracket, rest = place[1:].partition("]")
        return _version_6(inner) if bracket else None, _port(rest)
    if (found := _PORT.search(place)) is not None:
        return _plain_host(place[: found.start()]), _port(found[0])
    return _plain_host(place), None


def _port(text: str) -> int | None:
    if text in {"", ":"}:
        return None
    number = int(text[1:]) if _PORT.fullmatch(text) else -1
    return number if number <= 65_535 else -1


def _version_6(text: str) -> str | None:
    try:
        # Its short form differs between versions of Python.
        return ipaddress.IPv6Address(text).packed.hex(":", 2) if "%" not in text else None
    except ValueError:
        return None


def _plain_host(host: str) -> str | None:
    host = host.removesuffix(".").lower()
    if len(host) > _MAX_HOST:
        return None
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii").removesuffix(".").lower()
        except UnicodeError:
            return None
    return host if len(host) <= _MAX_HOST and _HOST.fullmatch(host) else None


def _is_plain_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=16_384)
def _suffix(host: str) -> str | None:
    return _suffix_list().publicsuffix(host)


@cache
def _suffix_list() -> PublicSuffixList:
    """The list as it came with its package; nothing is fetched. Reading it takes some 50 ms, so it waits for a use."""
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()
