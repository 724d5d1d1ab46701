"""The shape of the code base: who may import what, how thin the Dagster layer is, what the repository never names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "retrain_assets"
HEAVY = ("dagster", "joblib", "matplotlib", "onnx", "pandas", "pyarrow", "scipy", "sklearn")
MAX_ASSET_LINES = 15
MAX_SENSOR_LINES = 25
MAX_DEFINITIONS_LINES = 20

# Built from parts, so that this file does not name what it looks for.
INDEX_HOST = re.compile(
    r"\b(?:pypi|pythonhosted|npmjs|debian|anaconda|crates)\.(?:org|com|io)\b"
    r"|https?://\S*/" + "simple" + r"(?:/|\b)"
    r"|--(?:extra-)?index-url|--find-links",
    re.IGNORECASE,
)
FLAGS_OF_MAKE_LOCK = ("--no-emit-index-url", "--no-emit-find-links")


def _sources(folder: Path) -> list[Path]:
    """The Python files of a folder, generated migrations aside."""
    return sorted(file for file in folder.rglob("*.py") if "versions" not in file.parts)


def _decorators(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Last names of the decorators: `@dg.asset(...)`, `@asset` and `@asset()` are all "asset"."""
    names = set()
    for decorator in function.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        names.add(target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", ""))
    return names


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the last, blank lines and comments included."""
    body = function.body
    if ast.get_docstring(function, clean=False) is not None:
        body = body[1:]
    last = body[-1].end_lineno if body else None
    return last - body[0].lineno + 1 if last else 0


def _decorated(source: str, kinds: set[str]) -> Iterator[tuple[str, int]]:
    """Name and body length of each function with one of the decorators `kinds`, nested ones included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _decorators(node) & kinds:
            yield node.name, _body_lines(node)


def _too_long(kinds: set[str], limit: int) -> list[str]:
    """Every function in defs/ with one of the decorators whose body is longer than `limit`."""
    return [
        f"{file.relative_to(ROOT)}: {name} has {lines} lines"
        for file in _sources(PACKAGE / "defs")
        for name, lines in _decorated(file.read_text(encoding="utf-8"), kinds)
        if lines > limit
    ]


def _loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `statement`."""
    code = f"import sys\n{statement}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{statement}\n{done.stderr}"
    return set(done.stdout.splitlines()[-1].split())


def _repository_files() -> list[Path]:
    """What git tracks or would add; without git (an unpacked archive), every file outside hidden and made folders."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0:
        files = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        made = {".venv", "build", "dist"}
        files = [file for file in ROOT.rglob("*") if not made & set(file.relative_to(ROOT).parts)]
    return [file for file in files if file.is_file()]


def test_each_layer_imports_only_what_stands_below_it() -> None:
    """The contracts in pyproject.toml hold: layers, dagster only in defs, a pure core, a light serving side."""
    script = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    done = subprocess.run(
        [sys.executable, "-c", script, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", done.stdout), done.stdout


@pytest.mark.parametrize("name", ["FeedbackCollector", "DecisionEngine", "ModelRegistry"])
def test_a_worker_pays_for_no_heavy_library(name: str) -> None:
    """Importing a public name loads neither dagster nor pandas nor scikit-learn, nor any other platform library."""
    assert not _loaded_by(f"from retrain_assets import {name}") & set(HEAVY)


@pytest.mark.parametrize("module", ["retrain_assets", "retrain_assets.cli", "retrain_assets.testing"])
def test_command_line_and_fakes_work_with_the_base_install(module: str) -> None:
    """Status and rollback run where only the base dependencies are installed; heavy imports wait inside commands."""
    assert not _loaded_by(f"import {module}") & set(HEAVY)


def test_asset_bodies_are_thin() -> None:
    """An asset reads, calls one core function, saves and returns metadata, in at most 15 lines."""
    assert not _too_long({"asset", "multi_asset", "graph_asset", "asset_check", "multi_asset_check"}, MAX_ASSET_LINES)


def test_sensor_and_schedule_bodies_are_thin() -> None:
    """A sensor reads, calls a pure decide function and acts, in at most 25 lines."""
    kinds = {"sensor", "run_status_sensor", "run_failure_sensor", "asset_sensor", "multi_asset_sensor", "schedule"}
    assert not _too_long(kinds, MAX_SENSOR_LINES)


def test_the_thin_layer_is_there_to_be_measured() -> None:
    """The two tests above see assets and a sensor: a renamed decorator must not make them pass on nothing."""
    sources = [file.read_text(encoding="utf-8") for file in _sources(PACKAGE / "defs")]
    assets = [name for source in sources for name, _ in _decorated(source, {"asset", "multi_asset"})]
    sensors = [name for source in sources for name, _ in _decorated(source, {"sensor"})]
    assert len(assets) >= 10, assets  # the asset keys that people and dashboards depend on
    assert sensors


def test_body_lines_leave_out_the_docstring_and_count_the_rest() -> None:
    """The measure itself: decorators and docstring are free, statements over several lines and comments are not."""
    source = textwrap.dedent('''
        @dg.asset(
            name="x",
        )
        def a():
            """One.

            Two.
            """
            x = (
                1
            )
            # why
            return x
        ''')
    assert list(_decorated(source, {"asset"})) == [("a", 5)]
    assert list(_decorated(source, {"sensor"})) == []


def test_no_module_is_a_drawer_for_everything() -> None:
    """Code lives under the noun it belongs to, not in utils, helpers, common or misc."""
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [str(file.relative_to(ROOT)) for file in _sources(PACKAGE) if file.stem in drawers] == []


def test_definitions_only_builds() -> None:
    """`definitions.py` loads the settings and builds the definitions, in at most 20 lines."""
    lines = (PACKAGE / "definitions.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_DEFINITIONS_LINES


def test_every_module_says_what_it_holds() -> None:
    """Each module of the library opens with a docstring, its contract."""
    assert [
        str(file.relative_to(ROOT))
        for file in _sources(PACKAGE)
        if ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) is None
    ] == []


def test_only_settings_reads_the_environment() -> None:
    """`os.environ` and `os.getenv` appear in settings.py alone; everything else is handed values."""
    readers = re.compile(r"\bos\.(?:environ|getenv)\b|\bfrom os import .*\b(?:environ|getenv)\b")
    allowed = {PACKAGE / "settings.py"}
    assert [
        str(file.relative_to(ROOT))
        for file in _sources(PACKAGE)
        if file not in allowed and readers.search(file.read_text(encoding="utf-8"))
    ] == []


def test_no_file_names_a_package_index() -> None:
    """The lock pins versions and hashes; where packages come from is the business of the machine that installs them."""
    found = []
    for file in _repository_files():
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # pictures and fixtures in binary name nothing a person could install from
        for number, line in enumerate(lines, start=1):
            text = line
            for flag in FLAGS_OF_MAKE_LOCK:
                text = text.replace(flag, "")
            if file != Path(__file__) and INDEX_HOST.search(text):
                found.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert found == []


def test_every_pinned_package_has_a_hash() -> None:
    """constraints.txt is complete: a version and at least one SHA-256 for each package, and nothing else."""
    entries = (ROOT / "constraints.txt").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    pinned = [entry for entry in entries if entry.strip() and not entry.startswith("#")]
    pattern = re.compile(r"[a-z0-9][a-z0-9._-]*==[^\s;]+(?: ;[^-]+)?(?: +--hash=sha256:[0-9a-f]{64})+\s*$")
    assert [entry[:80] for entry in pinned if not pattern.match(entry)] == []
    names = {entry.partition("==")[0] for entry in pinned}
    assert {"pip", "setuptools", "dagster", "onnxruntime", "pytest"} <= names
