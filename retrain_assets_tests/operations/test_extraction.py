"""Features that a week's rows lack: filled from URLs, pages and functions before the week is frozen, once for all."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

import retrain_assets
from retrain_assets.core.dataset import Snapshot
from retrain_assets.errors import ConfigError
from retrain_assets.operations import dataset, extraction
from retrain_assets.operations.platform import Platform
from retrain_assets.settings import Config, ExtractionSettings, FeatureSettings, PageSettings, ProblemSettings
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.pages import DAMAGED, Page, PageCache
from retrain_assets.testing import START, FakeClock

PlatformMaker = Callable[..., Platform]

FEATURES = {
    "https_enabled": FeatureSettings(type="boolean"),
    "url_path_depth": FeatureSettings(type="integer", min=0, max=5),
    "url_tld": FeatureSettings(type="category"),
    "platform_guess": FeatureSettings(type="category"),
    "comment_supported": FeatureSettings(type="boolean"),
    "name_length": FeatureSettings(type="integer", min=0, max=9),
}
PROBLEM = ProblemSettings(features=FEATURES, strata=[])
BLOG = b'<meta name="generator" content="WordPress"><form id="commentform"></form>'
SHOP = b'<script src="https://cdn.shopify.com/x.js"></script>'


class Site:
    """A local server with pages; it counts who asked."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.asked: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/robots.txt":
                    site.asked.append(self.path)
                self.send_response(200 if self.path in site.pages else 404)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(site.pages.get(self.path, b""))

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def url(self, path: str) -> str:
        """The URL of a page."""
        return f"http://127.0.0.1:{self.server.server_address[1]}{path}"

    def close(self) -> None:
        """End the server; whoever asks afterwards finds nobody."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    """A server with a blog and a shop."""
    made = Site()
    made.pages |= {"/blog": BLOG, "/shop": SHOP}
    yield made
    made.close()


def paged(**changes: Any) -> Config:  # noqa: ANN401  (the fields of `PageSettings`)
    """A configuration that asks for pages, on this machine too."""
    pages = PageSettings(enabled=True, host_delay_seconds=0, allow_networks=["127.0.0.1/32"], timeout_seconds=5)
    extraction = ExtractionSettings(pages=msgspec.structs.replace(pages, **changes))
    return Config(problem=PROBLEM, extraction=extraction)


def told(platform: Platform, *rows: dict[str, Any]) -> None:
    """Outcomes of the first week, without decisions."""
    usual = {"action_attempted": "forum", "result": True, "timestamp": START}
    with FeedbackCollector(platform.database.url, config=platform.config, clock=platform.clock) as collector:
        receipts = collector.append_outcomes([{"task_id": f"t{place}"} | usual | row for place, row in enumerate(rows)])
    assert {receipt.status for receipt in receipts} == {"accepted"}


def frozen(platform: Platform, clock: FakeClock) -> Snapshot:
    """The snapshot of the first week."""
    week = platform.calendar.containing(START)
    clock.set(max(clock.now(), week.end_at))
    return dataset.collect(platform, week)


def rows_of(platform: Platform, snapshot: Snapshot, *names: str) -> list[tuple[Any, ...]]:
    """Features of a snapshot's rows, in the order of their tasks."""
    table = pq.read_table(platform.problem_home / snapshot.path).sort_by("task_id")
    return list(zip(*(table[f"feature_{name}"].to_pylist() for name in names), strict=True))


# ------------------------------------------------------------------------------------------------------------- URLs


def test_a_week_is_frozen_with_what_its_urls_tell(
    new_platform: PlatformMaker, database_url: str, clock: FakeClock
) -> None:
    """Gaps are filled from the URL, or from a domain that is one; what was sent stands, and no URL gives no value."""
    platform = new_platform(database_url, Config(problem=PROBLEM))
    told(
        platform,
        {"url": "https://a.co.uk/x/y"},
        {"url": "https://a.co.uk/x/y", "https_enabled": False, "url_path_depth": 0},
        {"domain": "http://b.org/x"},
        {"domain": "b.org"},
        {"domain": "nothing", "url": "n/a"},
        {"domain": "c.org", "url": "n/a"},
        {"url": "http://d.org/" + "x/" * 9},
    )
    snapshot = frozen(platform, clock)
    assert rows_of(platform, snapshot, "https_enabled", "url_path_depth", "url_tld") == [
        (1.0, 2.0, "co.uk"),
        (0.0, 0.0, "co.uk"),
        (0.0, 1.0, "org"),
        (None, None, "org"),
        (None, None, None),
        (None, None, "org"),
        (0.0, None, "org"),  # nine levels are beyond the limit of the feature
    ]
    facts = (snapshot.facts or {})["extraction"]
    assert facts["filled"] == 6
    assert facts["not_taken"] == {"url_path_depth is outside 0 to 5": 1}
    assert facts["depends_on"].keys() == {"url_column", "url_features", "public_suffix_list"}


def test_a_problem_without_such_features_is_left_as_it_is(
    new_platform: PlatformMaker, sqlite_url: str, clock: FakeClock
) -> None:
    """Nothing is looked for, and the snapshot says nothing of it, when the schema has nothing to fill."""
    features = {"pa": FeatureSettings(type="number")}
    platform = new_platform(sqlite_url, Config(problem=ProblemSettings(features=features, strata=[])))
    told(platform, {"url": "https://a.org/x"})
    assert "extraction" not in (frozen(platform, clock).facts or {})


# ------------------------------------------------------------------------------------------------------------- pages


def test_pages_are_fetched_once_and_a_week_never_sees_another_one(
    new_platform: PlatformMaker, database_url: str, clock: FakeClock, site: Site
) -> None:
    """The site changes, and goes away: the same week is the same snapshot, until somebody asks for the pages again."""
    platform = new_platform(database_url, paged())
    told(platform, {"url": site.url("/blog")}, {"url": site.url("/shop#top")}, {"url": site.url("/gone")}, {})
    first = frozen(platform, clock)
    seen = [("wordpress", 1.0), ("shopify", 0.0), (None, None), (None, None)]
    assert rows_of(platform, first, "platform_guess", "comment_supported") == seen
    assert (first.facts or {})["extraction"]["pages"] == {"asked": 3, "failed": 1, "is_limited": False}
    assert sorted(site.asked) == ["/blog", "/gone", "/shop"]
    site.pages |= {"/blog": SHOP, "/gone": BLOG}
    assert frozen(platform, clock).content_hash == first.content_hash
    assert len(site.asked) == 3

    again = extraction.refresh_failed(platform.settings)
    assert [(page.url, page.reason) for page in again] == [(site.url("/gone"), None)]
    made, taken = dataset.merge(platform, platform.calendar.containing(START))
    assert taken == [first.week]
    assert made.snapshots[0].content_hash != first.content_hash
    seen[2] = ("wordpress", 1.0)
    assert rows_of(platform, made.snapshots[0], "platform_guess", "comment_supported") == seen
    assert dataset.merge(platform, platform.calendar.containing(START)) == (made, [])


def test_a_dead_network_never_stops_a_week(
    new_platform: PlatformMaker, sqlite_url: str, clock: FakeClock, site: Site
) -> None:
    """Features stay missing, the snapshot says how many pages failed, and nothing is asked again by itself."""
    site.close()
    platform = new_platform(sqlite_url, paged())
    told(platform, {"url": site.url("/blog")}, {"url": "http://169.254.169.254/"})
    snapshot = frozen(platform, clock)
    assert rows_of(platform, snapshot, "platform_guess") == [(None,), (None,)]
    assert (snapshot.facts or {})["extraction"]["pages"] == {"asked": 2, "failed": 2, "is_limited": False}
    reasons = sorted(str(page.reason) for page in PageCache(platform.problem_home).failed())
    assert "cannot be reached" in reasons[1]
    assert "is not public" in reasons[0]
    assert frozen(platform, clock).content_hash == snapshot.content_hash


def test_a_week_uses_so_many_pages_and_always_the_same(
    new_platform: PlatformMaker, sqlite_url: str, clock: FakeClock, site: Site
) -> None:
    """Which pages are left out follows from the URLs alone, whatever is in the cache by then."""
    site.pages = {f"/{number}": BLOG for number in range(12)}
    platform = new_platform(sqlite_url, paged(max_pages=5))
    told(platform, *({"url": site.url(f"/{number}")} for number in range(12)))
    first = frozen(platform, clock)
    assert len(site.asked) == 5
    assert (first.facts or {})["extraction"]["pages"] == {"asked": 5, "failed": 0, "is_limited": True}
    extraction.look(platform.settings, [site.url(path) for path in site.pages])
    assert len(site.asked) == 12
    assert frozen(platform, clock).content_hash == first.content_hash


def test_time_that_is_over_leaves_the_other_pages(
    new_platform: PlatformMaker, sqlite_url: str, clock: FakeClock, site: Site
) -> None:
    """A week does not wait longer than it may; pages that were not reached are told as such."""
    platform = new_platform(sqlite_url, paged(max_seconds=1e-9))
    told(platform, {"url": site.url("/blog")})
    frozen(platform, clock)
    assert [page.reason for page in PageCache(platform.problem_home).failed()] == [
        "not reached within extraction.pages.max_seconds"
    ]
    assert site.asked == []


def test_a_damaged_cache_is_a_page_that_is_not_there(tmp_path: Path, site: Site) -> None:
    """An entry with a flipped byte is neither trusted nor fetched anew by itself."""
    cache, url = PageCache(tmp_path), site.url("/blog")
    page = extraction.fetch_missing(cache, [url], paged().extraction.pages)[url]
    assert (page.features["platform_guess"], cache.body(page)) == ("wordpress", BLOG)
    entry = next(cache.folder.glob("*.json"))
    content = entry.read_bytes()
    entry.write_bytes(content.replace(b'"url"', b'"url'))
    damaged = cache.get(url)
    assert damaged is not None
    assert (damaged.reason, damaged.features) == (DAMAGED, {})
    entry.write_bytes(content.replace(b'"extractor":1', b'"extractor":0'))
    assert cache.get(url) == page  # told by older signs: read again from the body
    next(cache.folder.glob("bodies/*")).write_bytes(b"x")
    entry.write_bytes(content.replace(b'"extractor":1', b'"extractor":0'))
    lost = cache.get(url)
    assert lost is not None
    assert lost.reason == DAMAGED


def test_what_is_kept_stands_unless_it_is_refreshed(tmp_path: Path) -> None:
    """The first page of an address is the one that stays; replacing it is counted."""
    cache = PageCache(tmp_path)
    page = Page(url="https://a.org/", fetched_at=START)
    first = cache.put(page, BLOG)
    assert cache.put(page, SHOP) == first
    assert (cache.get(page.url), cache.revision()) == (first, 0)
    assert cache.put(page, SHOP, is_refresh=True).features["platform_guess"] == "shopify"
    assert cache.revision() == 1


def test_a_worker_gets_the_same_features_before_it_decides(tmp_path: Path, site: Site) -> None:
    """The public function gives what a training would fill in, keeps it where it is told to, and never raises."""
    limits = paged().extraction.pages
    found = retrain_assets.extract_page_features(site.url("/blog"), settings=limits, problem_home=tmp_path)
    assert (found["platform_guess"], found["comment_supported"]) == ("wordpress", True)
    assert found == retrain_assets.extract_page_features(site.url("/blog"), settings=limits, problem_home=tmp_path)
    assert site.asked == ["/blog"]
    assert retrain_assets.extract_page_features(site.url("/shop"), settings=limits)["platform_guess"] == "shopify"
    for url in (site.url("/gone"), "http://169.254.169.254/", "nothing", ""):
        assert retrain_assets.extract_page_features(url, settings=limits) == {}


# --------------------------------------------------------------------------------------------------------- functions


MODULE = """
def name_length(features):
    name = features.get("domain")
    if name == "bad.org":
        raise RuntimeError(name)
    if name == "list.org":
        return [1, 2]
    return {"name_length": len(name) if name else None, "https_enabled": name == "yes.org", "nonsense": 1}

def two(first, second):
    return {}

number = 5
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Somebody's own module, `own_extractors`; call it to write the module."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def write(text: str) -> None:
        (folder / "own_extractors.py").write_text(text, encoding="utf-8")
        importlib.sys.modules.pop("own_extractors", None)  # type: ignore[attr-defined]
        importlib.invalidate_caches()

    write(MODULE)
    yield write
    importlib.sys.modules.pop("own_extractors", None)  # type: ignore[attr-defined]


def own(*functions: str) -> Config:
    """A configuration with functions."""
    return Config(problem=PROBLEM, extraction=ExtractionSettings(functions=list(functions)))


@pytest.mark.usefixtures("module")
def test_functions_fill_what_urls_do_not_and_never_cost_a_row(
    new_platform: PlatformMaker, database_url: str, clock: FakeClock
) -> None:
    """Values are read as if a worker had sent them; what does not fit, and what raises, is counted with its reason."""
    platform = new_platform(database_url, own("own_extractors:name_length"))
    told(
        platform,
        {"domain": "yes.org"},
        {"domain": "bad.org"},
        {"domain": "list.org"},
        {"domain": "much-too-long.org"},
        {"domain": "yes.org", "name_length": 1, "https_enabled": False},
        {"url": "http://a.org/"},
    )
    snapshot = frozen(platform, clock)
    assert rows_of(platform, snapshot, "name_length", "https_enabled") == [
        (7.0, 1.0),
        (None, None),
        (None, None),
        (None, 0.0),
        (1.0, 0.0),
        (None, 0.0),
    ]
    facts = (snapshot.facts or {})["extraction"]
    who = "own_extractors:name_length"
    assert facts["not_taken"] == {
        f"{who}: 'nonsense' is no feature of this problem": 4,
        f"{who}: raised RuntimeError": 1,
        f"{who}: raised TypeError": 1,
        f"{who}: name_length is outside 0 to 9": 1,
    }
    assert facts["depends_on"]["functions"].keys() == {who}


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("own_extractors:name_lenght", "did you mean name_length"),
        ("own_extractors:two", "does not take one argument"),
        ("own_extractors:number", "is a int, not a function"),
        ("no_such_module:function", "there is no module no_such_module"),
    ],
)
def test_a_function_that_cannot_be_used_is_a_problem_of_the_config(
    new_platform: PlatformMaker, sqlite_url: str, clock: FakeClock, path: str, reason: str
) -> None:
    """The message names the key, what was written there and what would be right; no week is taken."""
    platform = new_platform(sqlite_url, own(path))
    with pytest.raises(ConfigError, match=r"extraction\.functions\[0\]: '.*" + reason):
        extraction.check(platform.config)
    with pytest.raises(ConfigError, match=reason):
        frozen(platform, clock)


def test_a_module_that_breaks_while_it_is_imported_is_told(module: Callable[[str], None]) -> None:
    """Not only a missing module is a problem of the config."""
    module("raise ValueError('broken')")
    with pytest.raises(ConfigError, match="cannot be imported: ValueError: broken"):
        extraction.check(own("own_extractors:name_length"))


def test_a_changed_function_takes_the_weeks_again_and_taking_it_back_finds_them(
    new_platform: PlatformMaker, sqlite_url: str, clock: FakeClock, module: Callable[[str], None]
) -> None:
    """Lineage shows another source, and a dataset never mixes rows that were filled in two ways."""
    platform = new_platform(sqlite_url, own("own_extractors:name_length"))
    told(platform, {"domain": "yes.org"})
    frozen(platform, clock)
    week = platform.calendar.containing(START)
    before, _ = dataset.merge(platform, week)
    module(MODULE.replace("len(name)", "len(name) + 1"))
    changed, taken = dataset.merge(platform, week)
    assert taken == [week.key]
    assert rows_of(platform, changed.snapshots[0], "name_length") == [(8.0,)]
    digests = {str((made.snapshots[0].facts or {})["extraction"]["depends_on"]) for made in (before, changed)}
    assert len(digests) == 2
    assert dataset.newer_snapshots(platform, before) == [week.key]
    module(MODULE)
    assert dataset.merge(platform, week)[0].dataset_hash == before.dataset_hash
    assert dataset.merge(platform, week)[1] == []
    assert dataset.newer_snapshots(platform, before) == []
