"""What a page tells about the site behind it: its platform, and what a visitor may do there.

Holds the reading of a page's bytes and the signs by which features are told; does not hold the fetching
(`operations/page_fetch.py`) or the cache (`store/pages.py`). The same bytes give the same features, and a page can be
read again when the signs below get better.

Each feature is a guess by signs that software leaves in its own pages. A sign that is not there gives False, since the
page was seen; a page that was not seen gives nothing at all.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from retrain_assets.core.features import FeatureValue

PAGE_FEATURES_VERSION = 1
"""Raised when a sign below changes: cached pages are then read anew, and snapshots are taken again."""

PAGE_FEATURES: Mapping[str, str] = MappingProxyType(
    {
        "platform_guess": "category",
        "comment_supported": "boolean",
        "profile_supported": "boolean",
        "forum_supported": "boolean",
        "guest_supported": "boolean",
        "requires_login": "boolean",
        "registration_detected": "boolean",
    }
)
"""Name to the type that it should be declared with."""

OTHER = "other"
"""The platform of a page that none of the signs fits."""

MAX_TEXT = 200_000
"""Characters of visible text that are looked through."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A page as it was answered.

    Attributes
    ----------
    url : str
        Where it was found in the end.
    body : bytes
    content_type : str
    cookies : sequence of str
        Names only.
    headers : mapping
        Those of `KEPT_HEADERS` that were there, names in lower case.
    """

    url: str
    body: bytes
    content_type: str = ""
    cookies: Sequence[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


KEPT_HEADERS = ("x-generator", "x-powered-by", "x-discourse-route", "x-pingback", "x-drupal-cache", "x-shopify-stage")


@dataclass(frozen=True, slots=True)
class _Platform:
    """Signs of one platform; any one of them suffices."""

    name: str
    generator: str
    cookies: tuple[str, ...] = ()
    markup: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    is_forum: bool = False


# In this order: a forum inside a blog is told by its own signs first.
_PLATFORMS = (
    _Platform("discourse", "discourse", ("_forum_session",), ("/assets/discourse", "discourse-base-uri"),
              ("x-discourse-route",), is_forum=True),
    _Platform("phpbb", "phpbb", ("phpbb",), ("viewtopic.php?", 'id="phpbb"', "powered by phpbb"), is_forum=True),
    _Platform("vbulletin", "vbulletin", ("bb_lastvisit", "vbulletin"), ("vbulletin-core", "vbulletin_"), is_forum=True),
    _Platform("xenforo", "xenforo", ("xf_session", "xf_csrf"), ('id="xf"', "data-xf-init"), is_forum=True),
    _Platform("mybb", "mybb", ("mybb",), ("powered by mybb", "/jscripts/mybb"), is_forum=True),
    _Platform("smf", "smf", ("smfcookie",), ("smf_theme_url", "simplemachines.org"), is_forum=True),
    _Platform("invision", "invision", ("ips4_",), ("ipslayout", "ipsdatalist"), is_forum=True),
    _Platform("flarum", "flarum", ("flarum_session",), ("flarum-content", "flarum-loading"), is_forum=True),
    _Platform("nodebb", "nodebb", (), ("/assets/nodebb", "nodebb.min.js"), is_forum=True),
    _Platform("wordpress", "wordpress", ("wordpress_", "wp-settings"), ("/wp-content/", "/wp-includes/", "/wp-json/")),
    _Platform("medium", "medium", (), ("cdn-client.medium.com", "medium://p/")),
    _Platform("substack", "substack", (), ("substackcdn.com",)),
    _Platform("ghost", "ghost", ("ghost-members",), ("/ghost/api/", "ghost-portal")),
    _Platform("blogger", "blogger", (), ("www.blogger.com/static", "blogger.com/feeds")),
    _Platform("tumblr", "tumblr", (), ("assets.tumblr.com",)),
    _Platform("drupal", "drupal", (), ("/sites/default/files", "drupal-settings-json"), ("x-drupal-cache",)),
    _Platform("joomla", "joomla", (), ("/media/system/js/", "/components/com_")),
    _Platform("mediawiki", "mediawiki", (), ("mw-content-text", "/load.php?")),
    _Platform("shopify", "shopify", ("_shopify",), ("cdn.shopify.com",), ("x-shopify-stage",)),
    _Platform("wix", "wix", (), ("static.wixstatic.com",)),
    _Platform("squarespace", "squarespace", (), ("static1.squarespace.com",)),
)  # fmt: skip

_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_HEAD_BYTES = 4_096
# Python knows codecs that no page has, and some of them take quadratic time.
_CODECS = re.compile(
    r"ascii|utf-8(?:-sig)?|utf-16(?:-[bl]e)?|iso8859-\d+|cp\d+|koi8-\w|mac-\w+|tis-620|gb\w+|big5\w*|shift_jis\w*|euc_\w+"
    r"|iso2022_\w+"
)

_COMMENT_SIGNS = re.compile(
    r"commentform|wp-comments-post|disqus_thread|disqus\.com/embed|giscus\.app|utteranc\.es|fb-comments|comment-editor|/comments?(?:$|[/?#])"
)
_REGISTRATION_PATH = re.compile(
    r"(?:^|[/?&=_.-])(?:register|registration|sign[-_]?up|join|create[-_]?account|mode=register)(?:$|[/?&=_.#-])"
)
_LOGIN_PATH = re.compile(r"(?:^|[/?&=_.-])(?:log[-_]?in|sign[-_]?in|mode=login)(?:$|[/?&=_.#-])")
_PROFILE_PATH = re.compile(r"(?:^|/)(?:profiles?|members?|users?|account|memberlist\.php|member\.php|u)(?:$|[/?#])")
_FORUM_PATH = re.compile(r"(?:^|[/.])(?:forums?|boards?|community|viewforum\.php|forumdisplay\.php)(?:$|[/?#.])")
_BLANKS = re.compile(r"\s+")
# A tag holds neither < nor >, so that text with many of either is looked at once. Programs and styles are no text.
_TAG = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|<(?P<raw>script|style|template)\b(?P<raw_attributes>[^<>]{0,4000})>.*?(?:</(?P=raw)|\Z)"
    r"|</?(?P<name>[a-z][a-z0-9-]{0,30})\b(?P<attributes>[^<>]{0,4000})>",
    re.DOTALL,
)
_ATTRIBUTE = re.compile(r"""([a-z_:][\w:.-]{0,60})(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'=<>`]+)))?""")
_GUEST = re.compile(
    r"write for us|guest[- ]?post|guest author|guest blog|submit (?:an? |your )?(?:article|post|story)"
    r"|become (?:an? )?(?:contributor|author)|contributor guidelines|submission guidelines"
)
_GUEST_PATH = re.compile(r"write-for-us|guest-?post|submit-(?:an?-)?(?:article|post)|contribut(?:e|or)")
_MUST_LOG_IN = re.compile(
    r"(?:must|need to|have to|please) (?:be logged in|log in|login|sign in)"
    r"|(?:log|sign) in to (?:comment|reply|post|view)"
    r"|(?:members|subscribers) only"
)
_COMMENTS_CLOSED = re.compile(r"comments are closed|commenting is closed|comments (?:have been )?disabled")


def page_features(seen: Seen) -> dict[str, FeatureValue]:
    """All of `PAGE_FEATURES` for a page; whatever its bytes are, nothing raises."""
    markup = decoded(seen.body, seen.content_type).lower()
    page = _read(markup)
    platform = _platform(seen, page.generator, markup)
    paths = [*page.links, *page.forms]
    is_registering = any(map(_REGISTRATION_PATH.search, paths))
    is_forum = (platform is not None and platform.is_forum) or any(map(_FORUM_PATH.search, paths))
    is_login_page = page.has_password and not page.has_comment_sign and _LOGIN_PATH.search(seen.url.lower()) is not None
    return {
        "platform_guess": platform.name if platform is not None else OTHER,
        "comment_supported": page.has_comment_sign and _COMMENTS_CLOSED.search(page.words) is None,
        "profile_supported": is_registering or is_forum or any(map(_PROFILE_PATH.search, paths)),
        "forum_supported": is_forum,
        "guest_supported": _GUEST.search(page.words) is not None or any(map(_GUEST_PATH.search, paths)),
        "requires_login": is_login_page or _MUST_LOG_IN.search(page.words) is not None,
        "registration_detected": is_registering,
    }


def decoded(body: bytes, content_type: str) -> str:
    """The text of a page by the charset that it claims, else UTF-8; bytes that do not fit become question marks."""
    head = _META_CHARSET.search(body, 0, _HEAD_BYTES)
    claims = [found[1] for found in (_CHARSET.search(content_type),) if found]
    claims += [head[1].decode("ascii", "replace")] if head else []
    for claim in (*claims, "utf-8"):
        try:
            if _CODECS.fullmatch(codecs.lookup(claim).name):
                return body.decode(claim, "replace")
        except (LookupError, ValueError):
            continue
    return body.decode("utf-8", "replace")


@dataclass(slots=True)
class _Page:
    """What a page is made of, in lower case."""

    words: str = ""
    links: list[str] = field(default_factory=list)
    forms: list[str] = field(default_factory=list)
    generator: str = ""
    has_password: bool = False
    has_comment_sign: bool = False

    def note(self, name: str, attributes: Mapping[str, str]) -> None:
        """Take in one tag."""
        signs = " ".join(attributes.get(key, "") for key in ("id", "class", "action", "src"))
        if name == "a" and (link := attributes.get("href")):
            self.links.append(link)
        elif name == "form":
            self.forms.append(attributes.get("action", ""))
            self.has_comment_sign |= _COMMENT_SIGNS.search(signs) is not None
        elif name == "meta" and attributes.get("name") == "generator":
            self.generator += f" {attributes.get('content', '')}"
        elif name == "input":
            self.has_password |= attributes.get("type") == "password"
        elif name == "textarea":
            self.has_comment_sign |= "comment" in f"{attributes.get('name', '')} {attributes.get('id', '')}"
        elif name in {"script", "div", "section"}:
            self.has_comment_sign |= _COMMENT_SIGNS.search(signs) is not None


def _read(markup: str) -> _Page:
    """Take a page apart in one pass whose time grows with its length alone.

    The tree builders that were tried take minutes for a page of 1 MB made to hurt (200,000 nested elements, or
    unclosed comments). A sign needs no tree.
    """
    page, texts, at = _Page(), [], 0
    for tag in _TAG.finditer(markup):
        texts.append(markup[at : tag.start()])
        at = tag.end()
        name = tag["raw"] or tag["name"]
        if name:
            found = _ATTRIBUTE.finditer(tag["raw_attributes"] if tag["raw"] else tag["attributes"])
            page.note(name, {one[1]: html.unescape(one[2] or one[3] or one[4] or "") for one in found})
    texts.append(markup[at:])
    page.words = _BLANKS.sub(" ", html.unescape(" ".join(texts)[:MAX_TEXT]))
    return page


def _platform(seen: Seen, generator: str, markup: str) -> _Platform | None:
    generator = f"{generator} {seen.headers.get('x-generator', '')}".lower()
    cookies = [name.lower() for name in seen.cookies]
    for platform in _PLATFORMS:  # what software says of itself goes before what its pages are made of
        if (
            re.search(rf"\b{platform.generator}\b", generator)
            or any(name in seen.headers for name in platform.headers)
            or any(cookie.startswith(sign) for cookie in cookies for sign in platform.cookies)
        ):
            return platform
    return next((platform for platform in _PLATFORMS if any(sign in markup for sign in platform.markup)), None)
