"""Features of URLs and of the pages behind them: for a week that is frozen, for a worker, and to try out.

Holds which pages a week uses, their fetching by a few threads into the cache, and the public `extract_page_features`;
does not hold a single fetch (`page_fetch.py`), the cache (`store/pages.py`) or the rule of filling
(`core/extraction.py`).

A week uses the pages of at most `extraction.pages.max_pages` of its URLs: those whose SHA-256 comes first, so that the
same tasks always use the same pages, however often and in whatever order they are looked at. Each is fetched once. What
cannot be had stays missing and never stops a week.
"""

from __future__ import annotations

import hashlib
import importlib.util
import ipaddress
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import lru_cache
from heapq import heappush, heapreplace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from retrain_assets import __version__
from retrain_assets.core.dataset import Week
from retrain_assets.core.extraction import Extraction, Pages
from retrain_assets.core.features import FeatureValue
from retrain_assets.core.page_features import PAGE_FEATURES, Seen, page_features
from retrain_assets.core.url_features import page_url, url_features
from retrain_assets.errors import ConfigError, UsageError
from retrain_assets.operations.platform import Platform
from retrain_assets.settings import Config, PageSettings, Settings
from retrain_assets.store import extractors, outcomes, week_rows
from retrain_assets.store.pages import Page, PageCache
from retrain_assets.store.week_filling import known_before
from retrain_assets.store.week_rows import NAMES

if TYPE_CHECKING:
    from retrain_assets.operations.page_fetch import Answer, Fetcher

Progress = Callable[[int, int], None]
"""Told how many pages are done, and of how many."""

NEEDS_EXTRA = "fetching pages needs more than the base install: install retrain-assets with its extra `pages`"

logger = logging.getLogger(__name__)


def check(config: Config) -> None:
    """Refuse functions that cannot be used, and pages that cannot be fetched here.

    Raises
    ------
    ConfigError
        Lists all of them.
    """
    _, problems = extractors.load(config.extraction.functions)
    if config.extraction.pages.enabled and importlib.util.find_spec("httpcore") is None:
        problems.append(f"extraction.pages.enabled: {NEEDS_EXTRA}")
    if problems:
        raise ConfigError(problems)


def of(platform: Platform) -> Extraction:
    """How gaps are filled under the platform's configuration, without the pages of any week.

    Raises
    ------
    ConfigError
        A function cannot be used.
    """
    settings = platform.config.extraction.pages
    state = None
    if settings.enabled:
        state = f"{settings.max_pages} of a week, revision {PageCache(platform.problem_home).revision()}"
    return extractors.extraction_of(platform.config, page_state=state)


def for_week(platform: Platform, week: Week, progress: Progress | None = None) -> Extraction:
    """How gaps are filled in a week's rows; pages that it uses and that nobody fetched yet are fetched now.

    Parameters
    ----------
    platform : Platform
    week : Week
    progress : callable, optional
        By default the log is told.

    Raises
    ------
    ConfigError
        A function cannot be used, or the extra for pages is not installed.
    StoreUnavailable
        The database is away, or the disk refused the cache.
    """
    found = of(platform)
    if not {feature.name for feature in found.features} & PAGE_FEATURES.keys() or found.page_state is None:
        return found
    check(platform.config)
    urls, is_limited = _urls_of(platform, week, found)
    cache = PageCache(platform.problem_home)
    pages = fetch_missing(cache, urls, platform.config.extraction.pages, progress or _told_of(week))
    told = {url: page.features for url, page in pages.items() if page.reason is None}
    return found.with_pages(Pages(told, asked=len(urls), failed=len(urls) - len(told), is_limited=is_limited))


def fetch_missing(
    cache: PageCache,
    urls: Sequence[str],
    settings: PageSettings,
    progress: Progress | None = None,
    *,
    is_refresh: bool = False,
    fetcher: Fetcher | None = None,
) -> dict[str, Page]:
    """The pages of some URLs, from the cache where they are there; the others are fetched and kept.

    Parameters
    ----------
    cache : PageCache
    urls : sequence of str
        As `core.url_features.page_url` writes them.
    settings : PageSettings
    progress : callable, optional
    is_refresh : bool
        Fetch all of them, and replace what is there.
    fetcher : Fetcher, optional
        Tests put their own here.
    """
    known = {} if is_refresh else {url: page for url in urls if (page := cache.get(url)) is not None}
    missing = [url for url in dict.fromkeys(urls) if url not in known]
    if not missing:
        return known
    used = fetcher or fetcher_of(settings)
    end = time.monotonic() + settings.max_seconds

    def one(url: str) -> Page:
        answer = _fetch(used, url) if time.monotonic() < end else None
        return _kept(cache, url, answer, is_refresh=is_refresh)

    with ThreadPoolExecutor(settings.threads, thread_name_prefix="retrain-pages") as pool:
        waiting = {pool.submit(one, url): url for url in missing}
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                known[waiting[future]] = future.result()
                if progress is not None:
                    progress(done, len(missing))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return known


def extract_page_features(
    url: str, *, settings: PageSettings | None = None, problem_home: str | Path | None = None
) -> dict[str, FeatureValue]:
    """What the page behind a URL tells, by the names of the features; empty when it cannot be had.

    For a worker that wants these features before it decides: it hands them to `decide` with all others. A model that
    was trained with features of pages is then asked with the same ones. The call waits for a stranger's server, up to
    `settings.timeout_seconds` and a polite pause; it raises nothing for what that server does.

    Parameters
    ----------
    url : str
        A URL, or a host name, which is asked for by `https`.
    settings : PageSettings, optional
        The limits; `enabled` is not looked at. Default those of an empty configuration.
    problem_home : str or Path, optional
        Keep pages there and use those that are kept; the platform uses the same ones. By default nothing is kept.

    Raises
    ------
    UsageError
        The extra `pages` is not installed.
    """
    asked, limits = page_url(url), settings or PageSettings()
    if asked is None:
        return {}
    if problem_home is not None:
        page = fetch_missing(PageCache(Path(problem_home)), [asked], limits)[asked]
        return {} if page.reason is not None else dict(page.features)
    answer = _fetch(fetcher_of(limits), asked)
    return {} if answer.reason is not None else page_features(_seen(answer))


def look(
    settings: Settings, urls: Iterable[str], *, with_pages: bool = False, is_refresh: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Everything that can be told of some URLs, to try out a configuration.

    Raises
    ------
    ConfigError
        A function cannot be used.
    """
    found = extractors.extraction_of(settings.config)
    asked = {url: page_url(url) for url in urls}
    pages: Mapping[str, Page] = {}
    if with_pages or is_refresh or settings.config.extraction.pages.enabled:
        wanted = [url for url in asked.values() if url is not None]
        cache = PageCache(settings.problem_home)
        pages = fetch_missing(cache, wanted, settings.config.extraction.pages, progress, is_refresh=is_refresh)
    return [_facts(found, url, pages.get(asked[url] or "")) for url in asked]


def refresh_failed(settings: Settings, progress: Progress | None = None) -> list[Page]:
    """Fetch once more every page of the cache that could not be had; what came of each."""
    cache = PageCache(settings.problem_home)
    urls = [page.url for page in cache.failed()]
    found = fetch_missing(cache, urls, settings.config.extraction.pages, progress, is_refresh=True)
    return [found[url] for url in urls]


def fetcher_of(settings: PageSettings) -> Fetcher:
    """The fetcher of some limits, the same one for the same limits: it remembers whose turn it is.

    Raises
    ------
    UsageError
        The extra `pages` is not installed.
    """
    return _fetcher(msgspec.json.encode(settings))


@lru_cache(maxsize=8)
def _fetcher(encoded: bytes) -> Fetcher:
    try:
        from retrain_assets.operations import page_fetch
    except ModuleNotFoundError as error:
        raise UsageError(NEEDS_EXTRA) from error
    settings = msgspec.json.decode(encoded, type=PageSettings)
    contact = f" (+{settings.contact})" if settings.contact else ""
    limits = page_fetch.Limits(
        timeout_s=settings.timeout_seconds,
        max_bytes=settings.max_bytes,
        max_redirects=settings.max_redirects,
        host_delay_s=settings.host_delay_seconds,
        user_agent=f"retrain-assets/{__version__}{contact}",
        allowed=tuple(ipaddress.ip_network(text) for text in settings.allow_networks),
    )
    return page_fetch.Fetcher(limits)


def _fetch(fetcher: Fetcher, url: str) -> Answer:
    """One page; a fault of our own counts as a page that cannot be had, since a week must not end on it."""
    try:
        return fetcher.page(url)
    except Exception as error:
        from retrain_assets.operations.page_fetch import Answer

        logger.exception("the page %s cannot be had", url)
        return Answer(url, reason=f"unexpected {type(error).__name__}")


def _kept(cache: PageCache, url: str, answer: Answer | None, *, is_refresh: bool) -> Page:
    now = datetime.now(tz=UTC)
    if answer is None:
        page = Page(url=url, fetched_at=now, reason="not reached within extraction.pages.max_seconds")
        return cache.put(page, is_refresh=is_refresh)
    page = Page(
        url=url,
        fetched_at=now,
        reason=answer.reason,
        status=answer.status,
        final_url=answer.url,
        content_type=answer.content_type,
        cookies=answer.cookies,
        headers=answer.headers,
        is_cut=answer.is_cut,
    )
    return cache.put(page, answer.body if answer.reason is None else None, is_refresh=is_refresh)


def _seen(answer: Answer) -> Seen:
    return Seen(answer.url, answer.body, answer.content_type, answer.cookies, answer.headers)


def _urls_of(platform: Platform, week: Week, extraction: Extraction) -> tuple[list[str], bool]:
    """The URLs whose pages a week uses, and whether it has more than it may use; memory does not grow with the week."""
    most = platform.config.extraction.pages.max_pages
    chosen: list[tuple[int, str]] = []  # a heap with the largest digest first, by its negative
    known: set[str] = set()
    is_limited = False
    for url in _asked(platform, week, extraction):
        if url in known:
            continue
        place = -int.from_bytes(hashlib.sha256(url.encode()).digest())
        if len(chosen) < most:
            heappush(chosen, (place, url))
        else:
            is_limited = True
            if place < chosen[0][0]:
                continue
            known.discard(heapreplace(chosen, (place, url))[1])
        known.add(url)
    return [url for _, url in sorted(chosen, reverse=True)], is_limited


def _asked(platform: Platform, week: Week, extraction: Extraction) -> Iterable[str]:
    """The page of each row that lacks a feature of pages."""
    wanted = [feature.name for feature in extraction.features if feature.name in PAGE_FEATURES]
    decided, told, domain = (NAMES.index(name) for name in ("decided_features", "told_features", "domain"))
    with platform.database.write() as connection:
        last_seq = outcomes.highest_seq(connection)
    with platform.database.read() as connection:
        for row in week_rows.stream(connection, week.start_at, week.end_at, last_seq):
            features = known_before(row[decided], row[told])
            if all(features.get(name) is not None for name in wanted):
                continue
            source = extraction.source(features, row[domain])
            if source is not None and (url := page_url(source)) is not None:
                yield url


def _told_of(week: Week) -> Progress:
    def tell(done: int, total: int) -> None:
        if done == total or done % 50 == 0:
            logger.info("week %s: %d of %d pages are fetched", week.key, done, total)

    return tell


def _facts(extraction: Extraction, url: str, page: Page | None) -> dict[str, Any]:
    faults: list[str] = []
    told = dict(url_features(url))
    row = {extraction.url_column: url} | told | (dict(page.features) if page is not None else {})
    filled = extraction.fill(row, on_fault=faults.append)
    return {
        "url": url,
        "features": told,
        "functions": {name: value for name, value in filled.items() if name not in row},
        "not_taken": faults,
        "page": None if page is None else _page_facts(page),
    }


def _page_facts(page: Page) -> dict[str, Any]:
    return {
        "url": page.url,
        "status": page.status,
        "reason": page.reason,
        "final_url": page.final_url,
        "fetched_at": page.fetched_at,
        "is_cut": page.is_cut,
        "features": page.features,
    }
