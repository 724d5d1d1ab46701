"""The command about features of URLs and pages: extract.

Holds its options and layout; does not hold the extraction (`operations/extraction.py`).
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from retrain_assets.cli import output
from retrain_assets.cli.application import ConfigOption, JsonOption, app, problem
from retrain_assets.errors import UsageError

UrlsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[URL]...", help="URLs or host names.", show_default=False)
]
PagesOption = Annotated[
    bool, typer.Option("--pages", help="Also what the pages tell, though extraction.pages.enabled is false.")
]
RefreshOption = Annotated[
    bool,
    typer.Option("--refresh", help="Fetch the pages again; without URLs all those that could not be had."),
]


@app.command(rich_help_panel="Keep well")
def extract(
    urls: UrlsArgument = None,
    *,
    pages: PagesOption = False,
    refresh: RefreshOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which features URLs, their pages and your own functions give."""
    from retrain_assets.operations import extraction

    settings = problem(config)
    if not urls and not refresh:
        raise UsageError("name URLs, or fetch again what could not be had with --refresh")
    with output.work("Looking at pages" if pages or refresh else "Looking at URLs", 1.0) as work:

        def tell(done: int, total: int) -> None:
            work.at(done / total, f"Fetching pages: {done} of {total}")

        if not urls:
            again = [{"url": page.url, "reason": page.reason} for page in extraction.refresh_failed(settings, tell)]
            output.show(again, as_json, lambda: _tell_again(again))
            return
        found = extraction.look(settings, urls, with_pages=pages, is_refresh=refresh, progress=tell)
    output.show(found, as_json, lambda: _tell(found))


def _tell(found: list[dict[str, Any]]) -> None:
    for facts in found:
        output.say(facts["url"])
        rows = [(name, value, "URL") for name, value in facts["features"].items()]
        rows += [(name, value, "page") for name, value in (facts["page"] or {}).get("features", {}).items()]
        rows += [(name, value, "function") for name, value in facts["functions"].items()]
        if rows:
            output.table(("feature", "value", "from"), rows)
        else:
            output.say("No features: this is no URL with http or https, and no host name.")
        if facts["page"] is not None and facts["page"]["reason"] is not None:
            output.say(f"No page: {facts['page']['reason']}.")
        for reason in facts["not_taken"]:
            output.say(f"Not taken: {reason}.")
        output.say()


def _tell_again(again: list[dict[str, Any]]) -> None:
    here = sum(page["reason"] is None for page in again)
    output.say(f"{len(again):,} pages could not be had before; {here:,} of them are here now.")
    for page in again:
        if page["reason"] is not None:
            output.say(f"{page['url']}: {page['reason']}")
