"""What the documentation promises: nothing is left out, and what it names exists."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import typer.main
import yaml
from msgspec import Struct

from retrain_assets.cli import app
from retrain_assets.defs.build import build_defs
from retrain_assets.defs.partitions import GROUPS
from retrain_assets.settings import Config, FeatureSettings, load_settings
from retrain_assets.store import tables

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "retrain_assets"
TESTS = ROOT / "retrain_assets_tests"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
NOT_ACTED_ON = "**not acted on yet**"

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")


@cache
def text(page: Path) -> str:
    """A page's text."""
    return page.read_text(encoding="utf-8")


def all_text() -> str:
    """README and every page of the documentation, the changelog aside: it tells of the past."""
    return "\n".join(text(page) for page in PAGES if page.name != "CHANGELOG.md")


def table_rows(page: Path, first_header: str) -> Iterator[list[str]]:
    """The cells of every table of a page whose first column is called `first_header`."""
    is_inside = False
    for line in text(page).splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            is_inside = False
        elif cells[0] == first_header:
            is_inside = True
        elif is_inside and set(cells[0]) != {"-"}:
            yield cells


def commands() -> dict[str, Any]:
    """Every command by its full name, as typed after `retrain`."""

    def walk(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401  (the framework's own type)
        for name, command in group.commands.items():
            full = f"{prefix}{name}"
            if hasattr(command, "commands"):
                yield from walk(command, f"{full} ")
            else:
                yield full, command

    return dict(walk(typer.main.get_command(app), ""))


def options_of(command: Any) -> set[str]:  # noqa: ANN401  (see `commands`)
    """The option names of a command."""
    return {name for parameter in command.params for name in parameter.opts if name.startswith("-")} | {"--debug"}


def keys_of(block: type[Struct], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of the configuration with its default; a block inside a block is walked into."""
    defaults = msgspec.to_builtins(block())
    for field in msgspec.structs.fields(block):
        where = f"{prefix}{field.name}"
        inner = next((t for t in (field.type, *get_args(field.type)) if _is_block(t)), None)
        if inner is not None and not isinstance(defaults[field.name], Mapping):
            inner = None
        if inner is not None and inner is not FeatureSettings:
            yield from keys_of(inner, f"{where}.")
        else:
            yield where, defaults[field.name]


def _is_block(kind: Any) -> bool:  # noqa: ANN401  (a type, or a typing construct)
    return isinstance(kind, type) and issubclass(kind, Struct)


def documented_keys() -> dict[str, tuple[str, str]]:
    """Key to default and meaning, as the configuration page has them."""
    rows = table_rows(DOCS / "how-to" / "configuration.md", "key")
    return {cells[0].strip("`"): (cells[1], cells[2]) for cells in rows}


def sources() -> str:
    """The library's code, the settings aside."""
    return "\n".join(
        file.read_text(encoding="utf-8") for file in sorted(PACKAGE.rglob("*.py")) if file.name != "settings.py"
    )


# ----------------------------------------------------------------------------------------------------- nothing left out


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_stands_in_the_readme(name: str) -> None:
    """A newcomer finds each command of `retrain --help` in the README's table."""
    named = " ".join(cells[0] for cells in table_rows(ROOT / "README.md", "command"))
    assert re.search(rf"`retrain {name}\b", named), f"`retrain {name}` is not in the README's table of commands"


def test_every_key_is_documented_with_its_default() -> None:
    """The configuration page has each key of the settings, with the default that the code has."""
    documented = documented_keys()
    wrong = {}
    for key, default in keys_of(Config):
        told = documented.get(key)
        if told is None:
            wrong[key] = "is missing"
        elif key != "problem.features" and yaml.safe_load(told[0].strip("`")) != default:
            wrong[key] = f"is told to be {told[0]}, is {default!r}"
    assert wrong == {}


def test_every_key_of_a_feature_is_documented() -> None:
    """The same for the keys of a single feature."""
    names = {f"problem.features.NAME.{name}" for name in FeatureSettings.__struct_fields__}
    assert names <= set(documented_keys())


def test_the_configuration_page_invents_no_key() -> None:
    """A key that the page names is read by the settings."""
    known = {key for key, _ in keys_of(Config)}
    known |= {f"problem.features.NAME.{name}" for name in FeatureSettings.__struct_fields__}
    assert sorted(set(documented_keys()) - known) == []


def test_keys_told_to_be_idle_are_idle_and_no_others_of_the_canary() -> None:
    """A key of the canary is marked as not acted on exactly as long as no code outside the settings reads it."""
    code = sources()
    idle = set()
    for name in (key.removeprefix("canary.") for key, _ in keys_of(Config) if key.startswith("canary.")):
        last = name.rpartition(".")[2]
        # `ramp` reads steps and percentage for everyone else.
        if last not in {"steps", "percentage"} and not re.search(rf"\b(?:canary|thresholds|limits)\.{last}\b", code):
            idle.add(f"canary.{name}")
    marked = {key for key, (_, meaning) in documented_keys().items() if meaning.startswith(NOT_ACTED_ON)}
    assert idle == marked


def test_idle_keys_are_admitted_in_the_changelog() -> None:
    """Whoever reads only the changelog learns which keys do nothing yet."""
    marked = {key for key, (_, meaning) in documented_keys().items() if meaning.startswith(NOT_ACTED_ON)}
    assert [key for key in sorted(marked) if f"`{key}`" not in text(ROOT / "CHANGELOG.md")] == []


@pytest.mark.parametrize("page", ["architecture.md", "how-to/dagster.md"])
def test_every_asset_is_documented(page: str) -> None:
    """Each asset key of the flow is named where the flow and where the UI is explained."""
    assert [name for name in GROUPS if f"`{name}`" not in text(DOCS / page)] == []


def test_every_job_schedule_sensor_and_check_is_documented() -> None:
    """What the Dagster UI shows beside the assets is explained on the Dagster page."""
    defs = build_defs(load_settings(ROOT / "config" / "retrain.yaml"))
    repository = defs.get_repository_def()
    names = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    names |= {schedule.name for schedule in repository.schedule_defs}
    names |= {sensor.name for sensor in repository.sensor_defs}
    names |= {"has_tasks", "uses_newest_snapshots"}
    assert len(names) >= 8
    assert [name for name in sorted(names) if f"`{name}`" not in text(DOCS / "how-to" / "dagster.md")] == []


def test_every_table_is_documented() -> None:
    """The architecture page says of each table who writes it and when."""
    named = set()
    for cells in table_rows(DOCS / "architecture.md", "table"):
        named.update(_CODE.findall(cells[0]))
    assert named == set(tables.metadata.tables)


def test_every_decision_is_reachable_by_its_number() -> None:
    """Decisions are numbered without a gap, and each says context, decision and consequence."""
    files = sorted((DOCS / "decisions").glob("*.md"))
    assert [file.name[:3] for file in files] == [f"{number:03}" for number in range(1, len(files) + 1)]
    parts = ("**Context.**", "**Decision.**", "**Consequence.**")
    assert [file.name for file in files if not all(part in text(file) for part in parts)] == []
    assert [file.name for file in files if not text(file).startswith(f"# {file.name[:3]} ")] == []


# ------------------------------------------------------------------------------------------------- what is named exists


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link of a page names a file or folder of the repository."""
    targets = [link.partition("#")[0] for link in _LINK.findall(text(page)) if "://" not in link]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_examples_exist(page: Path) -> None:
    """Each `retrain` line of a shell example names a command and options that there are."""
    known = commands()
    wrong = []
    for language, body in _FENCE.findall(text(page)):
        for line in body.splitlines() if language == "bash" else ():
            words = shlex.split(line, comments=True)
            if not words or words[0] != "retrain":
                continue
            name = next((name for name in known if words[1 : 1 + len(name.split())] == name.split()), None)
            options = {word.partition("=")[0] for word in words if word.startswith("-")}
            if name is None or options - options_of(known[name]):
                wrong.append(line)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_examples_compile_and_their_imports_resolve(page: Path) -> None:
    """Each Python example is valid, and what it imports from this package is there."""
    for language, body in _FENCE.findall(text(page)):
        if language != "python":
            continue
        compile(body, str(page), "exec")
        for module, names in re.findall(r"^from (retrain_assets[\w.]*) import (.+)$", body, re.MULTILINE):
            found = importlib.import_module(module)
            assert [name for name in names.split(", ") if not hasattr(found, name)] == []


def test_the_architecture_table_names_what_exists() -> None:
    """Function, table, file, asset and test of every step of the flow can be found under the name given."""
    rows = list(table_rows(DOCS / "architecture.md", "step"))
    assert len(rows) >= 15
    missing = []
    for step, functions, stored, asset, test in rows:
        missing += [f"{step}: {name}" for name in _CODE.findall(functions) if not _is_callable(name)]
        missing += [f"{step}: {name}" for name in _CODE.findall(stored) if not _is_stored(name)]
        missing += [f"{step}: {name}" for name in _CODE.findall(asset) if name not in GROUPS]
        missing += [f"{step}: {name}" for name in _CODE.findall(test) if not (TESTS / name).is_file()]
        missing += [f"{step}: nothing is named" for cell in (functions, stored, test) if not _CODE.findall(cell)]
    assert missing == []


def test_the_architecture_table_has_every_asset() -> None:
    """No asset of the flow lacks its row."""
    named = {name for row in table_rows(DOCS / "architecture.md", "step") for name in _CODE.findall(row[3])}
    assert named == set(GROUPS)


def _is_callable(name: str) -> bool:
    """Whether `layer.module.thing` or `layer.module.Class.method` can be imported and called."""
    parts = f"retrain_assets.{name}".split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part, None)
        return callable(found)
    return False


def _is_stored(name: str) -> bool:
    """Whether there is such a table; or, for a path, whether the code names its first folder."""
    folder, slash, _ = name.partition("/")
    return f'"{folder}"' in sources() if slash else name in tables.metadata.tables


@pytest.mark.parametrize("layer", ["errors", "core", "settings", "store", "serving", "notify", "operations", "defs"])
def test_every_layer_is_explained(layer: str) -> None:
    """The table of layers has each of them, and each is there."""
    named = {name for cells in table_rows(DOCS / "architecture.md", "layer") for name in _CODE.findall(cells[0])}
    assert layer in named
    assert (PACKAGE / layer).is_dir() or (PACKAGE / f"{layer}.py").is_file()


def test_glossary_words_are_sorted_and_explained_once() -> None:
    """A word is found where the alphabet puts it, and has one line."""
    lines = [line for line in text(DOCS / "glossary.md").splitlines() if line.startswith("- ")]
    words = [match[1] for line in lines if (match := re.match(r"- \*\*([^*]+)\*\*: \S", line))]
    assert len(words) == len(lines) >= 60
    assert words == sorted(set(words), key=str.casefold)


def test_pages_name_no_machine() -> None:
    """No example holds a path that only one machine has."""
    # Built from parts, so that this file does not hold what it looks for.
    private = re.compile("/" + r"(?:tmp|work|root|home/\w+|Users)/")
    assert [str(page.relative_to(ROOT)) for page in PAGES if private.search(text(page))] == []


def test_documented_environment_variables_are_read() -> None:
    """A variable that the documentation tells people to set is read by the settings."""
    settings = (PACKAGE / "settings.py").read_text(encoding="utf-8")
    named = set(re.findall(r"\bRETRAIN_[A-Z_]+\b", all_text()))
    assert named
    assert [name for name in sorted(named) if f'"{name}"' not in settings] == []
