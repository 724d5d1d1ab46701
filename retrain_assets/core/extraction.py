"""How features that a row lacks are filled: from its URL, from the page behind it, by functions of the user.

Holds the one rule that training and `decide` share; does not hold what a URL tells (`url_features.py`), what a page
tells (`page_features.py`), the import of functions (`store/extractors.py`) or a fetch (`operations/extraction.py`).

Only features of the schema are filled, and only where the row has none: what a worker sent stands. Nothing raises.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from retrain_assets.core.features import Feature, FeatureSchema, FeatureType, FeatureValue, general_reason, shown
from retrain_assets.core.page_features import PAGE_FEATURES, PAGE_FEATURES_VERSION
from retrain_assets.core.url_features import (
    SUFFIX_FEATURES,
    URL_FEATURES,
    URL_FEATURES_VERSION,
    page_url,
    read_address,
    suffix_list_version,
    url_feature,
)
from retrain_assets.errors import SchemaError

Row = Mapping[str, Any]
OnFault = Callable[[str], None]

_NOTHING: Mapping[str, FeatureValue] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Extractor:
    """A user's own function.

    Attributes
    ----------
    path : str
        `package.module:function`.
    function : callable
        Takes the row's features, returns features by name; reads no clock and no network, if training and deciding
        are to agree.
    digest : str
        SHA-256 of its source, first 16 hex digits.
    """

    path: str
    function: Callable[[Row], Mapping[str, Any]]
    digest: str


@dataclass(frozen=True, slots=True)
class Pages:
    """What the pages of a week's URLs tell.

    Attributes
    ----------
    features : mapping
        By `page_url`; a page that could not be had is not in it.
    asked, failed : int
        URLs that were looked at; those whose page could not be had.
    is_limited : bool
        The week has more URLs than `extraction.pages.max_pages`.
    """

    features: Mapping[str, Mapping[str, FeatureValue]]
    asked: int = 0
    failed: int = 0
    is_limited: bool = False


class Extraction:
    """Fills rows under one schema; immutable, threads may share it.

    Parameters
    ----------
    schema : FeatureSchema
    url_column : str
        Where a row has its URL; without one there its domain is taken, when that is a URL or a host name.
    extractors : sequence of Extractor
    pages : Pages, optional
        None: no features of pages.
    page_state : str, optional
        What else decides which page a row gets; part of the fingerprint. None: pages are not asked for.

    Attributes
    ----------
    features : tuple of Feature
        Those that could be filled; empty when there is nothing to do.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        url_column: str = "url",
        extractors: Sequence[Extractor] = (),
        *,
        pages: Pages | None = None,
        page_state: str | None = None,
    ) -> None:
        self.schema = schema
        self.url_column = url_column
        self.extractors = tuple(extractors)
        self.pages = pages
        self.page_state = page_state
        self.features = tuple(feature for feature in schema.features if self._can_fill(feature.name))
        self._known = frozenset(schema.names)
        self._certain = frozenset(feature.name for feature in self.features if _is_certain(feature))
        self._pages: Mapping[str, Mapping[str, FeatureValue]] = pages.features if pages is not None else {}

    def _can_fill(self, name: str) -> bool:
        return bool(self.extractors) or name in URL_FEATURES or (self.page_state is not None and name in PAGE_FEATURES)

    def including(self, features: Iterable[Feature]) -> Extraction:
        """The same for a schema with more features: a model may still need one that the settings no longer have."""
        others = tuple(feature for feature in features if feature.name not in self._known)
        if not others:
            return self
        grown = FeatureSchema((*self.schema.features, *others), self.schema.actions, self.schema.strata)
        return Extraction(grown, self.url_column, self.extractors, pages=self.pages, page_state=self.page_state)

    def with_pages(self, pages: Pages) -> Extraction:
        """The same with the pages of a week."""
        return Extraction(self.schema, self.url_column, self.extractors, pages=pages, page_state=self.page_state)

    def fill(self, row: Row, domain: object = None, on_fault: OnFault | None = None) -> Mapping[str, FeatureValue]:
        """What can be added to a row, by name and in the features' types.

        Parameters
        ----------
        row : mapping
            Features as they came, with or without others beside them; not changed.
        domain : str, optional
        on_fault : callable, optional
            Told each reason why a value was not taken.
        """
        missing = [feature for feature in self.features if row.get(feature.name) is None]
        if not missing:
            return _NOTHING
        filled = self.from_address(row.get(self.url_column), domain, missing, on_fault)
        for extractor in self.extractors:
            missing = [feature for feature in missing if feature.name not in filled]
            if missing:
                known = {**row, **filled} if domain is None else {"domain": domain, **row, **filled}
                self._ask(extractor, known, filled, missing, on_fault)
        return filled

    def from_address(
        self, url: object, domain: object, missing: Sequence[Feature], on_fault: OnFault | None = None
    ) -> dict[str, FeatureValue]:
        """What a URL, or else a domain, and the page there tell of missing features; functions are not asked."""
        filled: dict[str, FeatureValue] = {}
        address = read_address(url) or read_address(domain)
        if address is None:
            return filled
        page = self._pages.get(page_url(address.text) or "") if self._pages else None
        for feature in missing:
            name = feature.name
            if name in self._certain:
                if (value := url_feature(address, name)) is not None:
                    filled[name] = value
            elif name in URL_FEATURES:
                _take(filled, feature, url_feature(address, name), "", on_fault)
            elif page is not None:
                _take(filled, feature, page.get(name), "", on_fault)
        return filled

    def source(self, row: Row, domain: object = None) -> str | None:
        """The address of a row: its URL, else its domain; None when neither is one."""
        address = read_address(row.get(self.url_column)) or read_address(domain)
        return None if address is None else address.text

    def _ask(
        self,
        extractor: Extractor,
        known: Row,
        filled: dict[str, FeatureValue],
        missing: Sequence[Feature],
        on_fault: OnFault | None,
    ) -> None:
        try:
            answer = extractor.function(MappingProxyType(known))
            values = dict(answer)
        except Exception as error:  # noqa: BLE001  (somebody else's code; a row is never lost to it)
            _tell(on_fault, f"{extractor.path}: raised {type(error).__name__}")
            return
        for feature in missing:
            if (value := values.get(feature.name)) is not None:
                _take(filled, feature, value, f"{extractor.path}: ", on_fault)
        for name in values.keys() - self._known:
            _tell(on_fault, f"{extractor.path}: {shown(name)} is no feature of this problem")

    @property
    def lineage(self) -> dict[str, Any]:
        """What the filled values depend on, as far as this schema uses it; JSON-able."""
        names = {feature.name for feature in self.features}
        told: dict[str, Any] = {"url_column": self.url_column}
        if names & URL_FEATURES.keys():
            told["url_features"] = URL_FEATURES_VERSION
        if names & SUFFIX_FEATURES:
            told["public_suffix_list"] = suffix_list_version()
        if self.extractors:
            told["functions"] = {extractor.path: extractor.digest for extractor in self.extractors}
        if self.page_state is not None and names & PAGE_FEATURES.keys():
            told["page_features"] = PAGE_FEATURES_VERSION
            told["pages"] = self.page_state
        return told

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 over `lineage` (first 16 hex digits); None when there is nothing to fill."""
        if not self.features:
            return None
        return hashlib.sha256(json.dumps(self.lineage, sort_keys=True).encode()).hexdigest()[:16]


def _is_certain(feature: Feature) -> bool:
    """Whether whatever a URL tells fits the feature: then it need not be read, which takes longer than making it."""
    is_count = feature.type is FeatureType.INTEGER and feature.max is None and (feature.min or 0) <= 0
    is_certain = is_count or feature.type is FeatureType.BOOLEAN
    return is_certain and URL_FEATURES.get(feature.name) == feature.type.value


def _take(
    filled: dict[str, FeatureValue],
    feature: Feature,
    value: Any,  # noqa: ANN401  (whatever a function gives)
    who: str,
    on_fault: OnFault | None,
) -> None:
    try:
        read = feature.read(value)
    except SchemaError as error:
        _tell(on_fault, f"{who}{feature.name} {general_reason(error.message)}")
        return
    if read is not None:
        filled[feature.name] = read


def _tell(on_fault: OnFault | None, reason: str) -> None:
    if on_fault is not None:
        on_fault(reason)
