"""Pages that were fetched, kept as they were on the first day: `pages/` in the problem's home.

Holds one small file for each address (`pages/<sha256 of the address>.json`) and the bodies, compressed and named by
their content (`pages/bodies/<sha256>.gz`); does not hold the fetching or which pages a week uses
(`operations/extraction.py`), nor what a page tells (`core/page_features.py`).

An entry is never replaced unless somebody asks for it, so that a training never sees another page than the one before.
What could not be had is an entry too, with its reason. `revision` counts the entries that were replaced: snapshots
remember it, and are taken again when it has grown.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct, field, structs

from retrain_assets.core.features import FeatureValue
from retrain_assets.core.page_features import PAGE_FEATURES_VERSION, Seen, page_features
from retrain_assets.store.files import write_atomically

FOLDER = "pages"
DAMAGED = "the cached page is damaged"
MAX_BODY = 64 * 2**20
"""Bytes of a cached body; a larger one is not ours."""

logger = logging.getLogger(__name__)


class Page(Struct, frozen=True, kw_only=True):
    """What is known of an address.

    Attributes
    ----------
    url : str
        As `core.url_features.page_url` writes it.
    fetched_at : datetime
    reason : str or None
        Why there is no page; None when there is one.
    status : int or None
        Of the last answer.
    final_url : str or None
        Where redirects led.
    content_type : str
    cookies : list of str
        Names only.
    headers : dict
        Those that tell a platform.
    body_sha256 : str or None
    is_cut : bool
        The page was longer than the limit; its beginning is kept.
    extractor : int
        The version of the signs by which `features` were told.
    features : dict
    """

    url: str
    fetched_at: datetime
    reason: str | None = None
    status: int | None = None
    final_url: str | None = None
    content_type: str = ""
    cookies: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body_sha256: str | None = None
    is_cut: bool = False
    extractor: int = PAGE_FEATURES_VERSION
    features: dict[str, FeatureValue] = field(default_factory=dict)


class PageCache:
    """The pages of one problem; threads and processes may share a folder.

    Parameters
    ----------
    problem_home : Path
    """

    def __init__(self, problem_home: Path) -> None:
        self.folder = problem_home / FOLDER

    def get(self, url: str) -> Page | None:
        """What is known of an address; None when it was never asked for.

        A page whose features were told by older signs is read again from its body.
        """
        path = self._path(url)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        page = self._decoded(content, path)
        if page is None or page.url != url:
            return Page(url=url, fetched_at=datetime.fromtimestamp(path.stat().st_mtime).astimezone(), reason=DAMAGED)
        if page.reason is None and page.extractor != PAGE_FEATURES_VERSION:
            page = self._read_again(page)
        return page

    def put(self, page: Page, body: bytes | None = None, *, is_refresh: bool = False) -> Page:
        """Keep a page and tell its features; without `is_refresh` what is there already stands, and is given back.

        Raises
        ------
        StoreUnavailable
            The disk refused.
        """
        if not is_refresh and (known := self.get(page.url)) is not None:
            return known
        if body is not None:
            page = self._told(structs.replace(page, body_sha256=hashlib.sha256(body).hexdigest()), body)
            packed = gzip.compress(body, mtime=0)
            self._write(self._body(page.body_sha256 or ""), packed)
        if is_refresh:
            self._write(self.folder / "revision", str(self.revision() + 1).encode())
        self._write(self._path(page.url), msgspec.json.encode(page))
        return page

    def revision(self) -> int:
        """How often an entry was replaced."""
        try:
            return int((self.folder / "revision").read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return 0

    def failed(self) -> Iterator[Page]:
        """The entries without a page, in the order of their files."""
        for path in sorted(self.folder.glob("*.json")):
            page = self._decoded(path.read_bytes(), path)
            if page is not None and page.reason is not None:
                yield page

    def body(self, page: Page) -> bytes | None:
        """The bytes of a page; None when they are gone or not what they were."""
        if page.body_sha256 is None:
            return None
        try:
            with gzip.open(self._body(page.body_sha256)) as handle:
                body = handle.read(MAX_BODY)
        except (OSError, EOFError, ValueError):
            return None
        return body if hashlib.sha256(body).hexdigest() == page.body_sha256 else None

    def _read_again(self, page: Page) -> Page:
        body = self.body(page)
        if body is None:
            return structs.replace(page, reason=DAMAGED, features={})
        page = self._told(page, body)
        self._write(self._path(page.url), msgspec.json.encode(page))
        return page

    @staticmethod
    def _told(page: Page, body: bytes) -> Page:
        seen = Seen(page.final_url or page.url, body, page.content_type, page.cookies, page.headers)
        return structs.replace(page, features=page_features(seen), extractor=PAGE_FEATURES_VERSION)

    def _decoded(self, content: bytes, path: Path) -> Page | None:
        try:
            return msgspec.json.decode(content, type=Page)
        except msgspec.DecodeError as error:
            logger.warning("%s is damaged and counts as a page that could not be had: %s", path, error)
            return None

    def _path(self, url: str) -> Path:
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()}.json"

    def _body(self, digest: str) -> Path:
        return self.folder / "bodies" / f"{digest}.gz"

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        def write(target: Path) -> None:
            target.write_bytes(content)

        write_atomically(path, write)
