"""What a page tells: the signs of known software, and bytes of any kind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_assets.core.page_features import OTHER, PAGE_FEATURES, Seen, decoded, page_features

BLOG = b"""<!DOCTYPE html><html><head><meta name="Generator" content="WordPress 6.8"></head><body>
<form id="commentform" action="/wp-comments-post.php"><textarea name="comment"></textarea></form>
<a href="/write-for-us/">Write for us</a></body></html>"""
FORUM = b"""<html><body id="phpbb"><a href="./ucp.php?mode=register">Register</a>
<a href="./ucp.php?mode=login">Login</a><a href="./memberlist.php">Members</a>
<p>You must be logged in to post.</p></body></html>"""


def test_a_blog_takes_comments_and_guests_and_is_no_forum() -> None:
    """The signs of a blog's own software are told apart from those of a forum."""
    assert page_features(Seen("https://a.org/", BLOG)) == {
        "platform_guess": "wordpress",
        "comment_supported": True,
        "profile_supported": False,
        "forum_supported": False,
        "guest_supported": True,
        "requires_login": False,
        "registration_detected": False,
    }


def test_a_forum_has_profiles_and_wants_a_login() -> None:
    """The same for a forum."""
    assert page_features(Seen("https://a.org/", FORUM)) == {
        "platform_guess": "phpbb",
        "comment_supported": False,
        "profile_supported": True,
        "forum_supported": True,
        "guest_supported": False,
        "requires_login": True,
        "registration_detected": True,
    }


@pytest.mark.parametrize(
    ("platform", "seen"),
    [
        ("discourse", Seen("https://a.org/", b"<p>", headers={"x-discourse-route": "list/latest"})),
        ("xenforo", Seen("https://a.org/", b"<p>", cookies=["xf_csrf"])),
        ("vbulletin", Seen("https://a.org/", b'<META content="vBulletin 5" NAME=generator>')),
        ("medium", Seen("https://a.org/", b'<script src="https://cdn-client.medium.com/x.js"></script>')),
        ("ghost", Seen("https://a.org/", b"<meta name='generator' content='Ghost 5.8'>")),
        (OTHER, Seen("https://a.org/", b"<p>A forum about WordPress and phpBB")),
    ],
)
def test_platforms_are_told_by_what_their_software_leaves(platform: str, seen: Seen) -> None:
    """Headers, cookies, the generator and files tell a platform; talking about one does not."""
    assert page_features(seen)["platform_guess"] == platform


def test_closed_comments_are_no_comments() -> None:
    """A form that is there is no use when the page says that it is closed."""
    assert page_features(Seen("u", BLOG + b"<p>Comments are\n closed</p>"))["comment_supported"] is False


def test_what_a_program_or_a_comment_says_is_not_on_the_page() -> None:
    """Links and words inside scripts, styles and comments tell nothing."""
    hidden = b"<script>'<a href=\"/register\">write for us'</script><style>x</style><!-- <a href='/register'> -->"
    assert set(page_features(Seen("u", hidden)).values()) == {OTHER, False}


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ("Grüße".encode("latin-1"), "text/html; charset=ISO-8859-1", "Grüße"),
        ("Grüße".encode(), "text/html; charset=ascii", "Gr\ufffd\ufffd\ufffd\ufffde"),
        ("Grüße".encode(), "text/html; charset=nonsense", "Grüße"),
        ("Grüße".encode(), "text/html; charset=base64", "Grüße"),
        ("Grüße".encode(), "text/html; charset=punycode", "Grüße"),
        (b"<meta charset='windows-1251'>\xcf", "text/html", "<meta charset='windows-1251'>П"),
        (b"\xff\xfe\x00", "", "\ufffd\ufffd\x00"),
    ],
)
def test_a_wrong_charset_costs_no_more_than_its_letters(body: bytes, content_type: str, text: str) -> None:
    """A charset that is unknown, or no charset of pages, is passed over; bytes that do not fit are replaced."""
    assert decoded(body, content_type) == text


@given(st.binary(max_size=400) | st.text("<>/a= \"'!-scriptform", max_size=200).map(str.encode))
def test_any_bytes_give_all_features_in_their_types(body: bytes) -> None:
    """Nothing raises, and each feature has the type that the list names."""
    found = page_features(Seen("https://a.org/login", body, "text/html"))
    assert found.keys() == PAGE_FEATURES.keys()
    types = {"boolean": bool, "category": str}
    assert all(isinstance(value, types[PAGE_FEATURES[name]]) for name, value in found.items())


@pytest.mark.parametrize("unit", [b"<div>", b"<!--", b"<a ", b"<a b='c", b"<script><!--", b"&lt;", b"<", b'<p a="'])
def test_a_page_made_to_hurt_takes_time_by_its_length_alone(unit: bytes) -> None:
    """Nested and unclosed elements, with which tree builders take minutes, are read in one pass."""
    assert page_features(Seen("u", unit * (300_000 // len(unit))))["platform_guess"] == OTHER
