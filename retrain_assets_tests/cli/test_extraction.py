"""extract: what URLs, pages and functions would give, before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retrain_assets.settings import load_settings
from retrain_assets.store.pages import PageCache

URL = "https://www.a.co.uk/x/y"


def test_urls_are_looked_at_without_any_network(retrain: Any) -> None:  # noqa: ANN401
    """Features of the text alone, as JSON and as a table; what is no URL says so."""
    told = retrain("extract", URL, "nothing", "--json")
    assert told.code == 0
    assert [facts["url"] for facts in told.json] == [URL, "nothing"]
    assert told.json[0]["features"]["url_tld"] == "co.uk"
    assert (told.json[0]["page"], told.json[1]["features"]) == (None, {})
    shown = retrain("extract", URL, "nothing").out
    assert "url_tld" in shown
    assert "no URL" in shown


def test_a_page_that_cannot_be_had_is_told_and_kept(config: Path, retrain: Any) -> None:  # noqa: ANN401
    """A refused address is an answer, not an error; `--refresh` without URLs tries all such pages again."""
    told = retrain("extract", "http://127.0.0.1:9/", "--pages", "--json")
    assert told.code == 0
    assert "is not public" in told.json[0]["page"]["reason"]
    assert (
        "No page: robots.txt: 127.0.0.1 is at 127.0.0.1, which is not public"
        in retrain("extract", "http://127.0.0.1:9/", "--pages").out
    )
    again = retrain("extract", "--refresh", "--json")
    assert (again.code, [page["url"] for page in again.json]) == (0, ["http://127.0.0.1:9/"])
    assert "1 pages could not be had before; 0 of them are here now." in retrain("extract", "--refresh").out
    assert PageCache(load_settings(config).problem_home).revision() == 2


def test_nothing_to_do_is_a_usage_error(retrain: Any) -> None:  # noqa: ANN401
    """Without URLs there is nothing to look at."""
    told = retrain("extract")
    assert (told.code, "name URLs" in told.err) == (2, True)


@pytest.mark.parametrize("command", [("extract", URL), ("run",)])
def test_a_function_that_is_not_there_stops_a_command_before_it_begins(
    config: Path,
    retrain: Any,  # noqa: ANN401
    command: tuple[str, ...],
) -> None:
    """The config is refused with the key and what is wrong."""
    with config.open("a", encoding="utf-8") as file:
        file.write("extraction: {functions: ['no_such_module:function']}\n")
    told = retrain(*command)
    assert told.code == 2
    assert "extraction.functions[0]: 'no_such_module:function' cannot be imported" in told.err
