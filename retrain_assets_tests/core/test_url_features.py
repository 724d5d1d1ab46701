"""What a URL tells, and what is no URL: one answer for every text, and never a traceback."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_assets.core.features import Feature, FeatureType
from retrain_assets.core.url_features import (
    SUFFIX_FEATURES,
    URL_FEATURES,
    page_url,
    read_address,
    suffix_list_version,
    url_features,
)

URL = "https://www.shop-1.example.co.uk/a/b/?page=2&sort=up#top"


def test_a_url_tells_all_its_features() -> None:
    """Each feature of the list is there for a full URL, with the value that a person would count."""
    assert dict(url_features(URL)) == {
        "https_enabled": True,
        "url_length": len(URL),
        "url_digits": 2,
        "url_path_depth": 2,
        "url_has_query": True,
        "url_query_parameters": 2,
        "url_has_port": False,
        "url_tld": "co.uk",
        "url_subdomains": 2,
        "domain_length": 24,
        "domain_digits": 1,
        "domain_hyphens": 1,
        "domain_is_ip": False,
        "domain_is_idn": False,
    }
    assert url_features(URL).keys() == URL_FEATURES.keys()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://a.org", {"https_enabled": False, "url_path_depth": 0, "url_tld": "org", "url_subdomains": 0}),
        ("HTTPS://A.ORG:443/x//y/", {"https_enabled": True, "url_path_depth": 2, "url_has_port": False}),
        ("http://a.org:8080/x", {"url_has_port": True, "domain_length": 5}),
        ("http://a.org?q", {"url_has_query": True, "url_query_parameters": 1, "url_path_depth": 0}),
        ("http://a.org/?", {"url_has_query": False, "url_query_parameters": 0}),
        ("http://user:pass@a.org/x", {"domain_length": 5, "url_path_depth": 1}),
        ("http://a.org@evil.example/x", {"domain_length": 12, "url_tld": "example"}),
        ("http://a.org\\@evil.example/x", {"domain_length": 5}),
        ("http://a.org/%2e%2e/%2Fx", {"url_path_depth": 2}),
        ("http://bücher.example/ä", {"domain_is_idn": True, "domain_length": 21, "url_path_depth": 1}),
        ("http://xn--bcher-kva.example./", {"domain_is_idn": True, "domain_length": 21}),
        ("https://me.blogspot.com/", {"url_tld": "blogspot.com", "url_subdomains": 0}),
        ("http://co.uk/", {"url_tld": "co.uk", "url_subdomains": 0}),
        ("http://[2001:DB8::1]:80/x", {"domain_is_ip": True, "url_has_port": False, "url_path_depth": 1}),
        ("http://127.0.0.1/", {"domain_is_ip": True, "domain_length": 9}),
        ("http://2130706433/", {"domain_is_ip": True}),
        ("http://0x7f.1/", {"domain_is_ip": True}),
        ("http://a.org/" + "x/" * 5_000, {"url_length": 10_013, "url_path_depth": 5_000}),
        ("  https://a.org/  ", {"url_length": 14}),
    ],
)
def test_unusual_urls_are_read_as_browsers_read_them(text: str, expected: dict[str, Any]) -> None:
    """User, port, percent signs, punycode, numbers as hosts, and a path that is longer than any database takes."""
    found = url_features(text)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "2130706433", "localhost"])
def test_a_host_without_a_suffix_has_none(host: str) -> None:
    """An address or a single label belongs to no registry: both features of the list are missing."""
    assert not url_features(f"http://{host}/").keys() & SUFFIX_FEATURES


@pytest.mark.parametrize(
    "text",
    [
        None, 5, b"http://a.org", "", "  ", "n/a", "none", "comment", "me@a.org", "mailto:me@a.org",
        "javascript:alert(1)", "ftp://a.org/x", "file:///etc/passwd", "data:text/html,x", "http://", "http:///x",
        "http://a..b/", "http://a b/",
        "http://evil%2eorg/", "http://a.org:99999/", "http://a.org:x/", "http://[::1/", "http://[fe80::1%25eth0]/",
        "http://a.org\n/x", "http://a.org/\x00", "http://" + "a" * 64 + ".org/", "http://" + "a." * 200 + "org/",
        "http://a.org/" + "x" * 70_000, "3.5", "1.2.3", "http://\ud800.org/", "http://xn--\u00e4/",
    ],
)  # fmt: skip
def test_what_is_no_address_has_no_features(text: object) -> None:
    """Other schemes, mailboxes, broken hosts, control characters and plain words give nothing, and no traceback."""
    assert read_address(text) is None
    assert dict(url_features(text)) == {}
    assert page_url(text) is None


def test_a_host_name_alone_tells_nothing_of_path_or_scheme() -> None:
    """What a text does not say stays missing instead of becoming a false zero."""
    names = {name for name in URL_FEATURES if name.startswith("domain_")} | SUFFIX_FEATURES
    assert url_features("www.a.org").keys() == names
    with_path = url_features("www.a.org/x/y")
    assert with_path["url_path_depth"] == 2
    assert not with_path.keys() & {"https_enabled", "url_length", "url_digits"}


def test_every_feature_fits_the_type_that_the_list_names() -> None:
    """Somebody who declares a feature as the list says never loses a value to its type."""
    for text in (URL, "a.org", "http://[::1]/", "http://bücher.example/ä"):
        for name, value in url_features(text).items():
            assert Feature(name, FeatureType(URL_FEATURES[name])).read(value) == value


@given(st.text(max_size=200) | st.text("htps:/.@[]#?%0aä-\\ ", max_size=60))
def test_no_text_raises_and_a_page_has_one_form(text: str) -> None:
    """Whatever a log holds, reading it twice gives the same, and the form of a page is the form of itself."""
    assert dict(url_features(text)) == dict(url_features(text))
    page = page_url(text)
    if page is not None:
        assert page_url(page) == page
        assert page.isascii()
        assert url_features(page)["domain_length"] == url_features(text)["domain_length"]


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("HTTP://User:Secret@Example.ORG:80/a b?q=ä#top", "http://example.org/a%20b?q=%C3%A4"),
        ("example.org", "https://example.org/"),
        ("https://example.org?x=1", "https://example.org/?x=1"),
        ("http://[::ffff:127.0.0.1]/", "http://[0000:0000:0000:0000:0000:ffff:7f00:0001]/"),
    ],
)
def test_spellings_of_one_page_are_one_page(text: str, page: str) -> None:
    """Case, default port, fragment and blanks make no other page, and nobody's password is sent or kept."""
    assert page_url(text) == page


def test_the_version_of_the_list_of_suffixes_names_its_day() -> None:
    """Lineage can say which list a feature was made with."""
    assert len(suffix_list_version().rpartition(".")[2]) == len("20261023")
