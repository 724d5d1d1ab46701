"""reproduce, `lineage --deep`, `show --card`, and estimators that a configuration names wrongly."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from retrain_assets.core.model_card import number
from retrain_assets.operations.chain import read_records
from retrain_assets.operations.lineage import find_version
from retrain_assets.operations.platform import Platform


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def test_a_version_is_rebuilt_and_identical(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """The contract's keys; in words what was compared. Progress is on standard error alone."""
    answer = retrain("reproduce", "v1.0.1", "--json")
    assert answer.code == 0
    assert {"version", "identical", "digests", "differences"} <= set(answer.json)
    assert (answer.json["version"], answer.json["identical"], answer.json["differences"]) == ("v1.0.1", True, [])
    assert "Rebuilding" in answer.err
    told = retrain("reproduce", "production")
    assert told.code == 0
    assert "v1.0.0 was rebuilt from its recorded data and is identical (seed 0, threads 1)." in told.out


def test_what_is_broken_is_named_and_ends_with_one(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """`lineage`, with and without `--deep`, and `reproduce` name the same file; the facts are printed all the same."""
    assert retrain("lineage", "v1.0.1", "--deep").code == 0
    entry = find_version(trained, "v1.0.1").artefacts["model.onnx"]
    _flip(trained.problem_home / entry["path"])
    for command in (["reproduce"], ["lineage"], ["lineage", "--deep"]):
        answer = retrain(*command, "v1.0.1", "--json")
        assert answer.code == 1
        assert answer.json["version"] == "v1.0.1"
        assert "retrain: v1.0.1: model.onnx has SHA-256" in answer.err
    assert "rebuilt and is not what was recorded" in retrain("reproduce", "v1.0.1").out


def test_without_the_platform_extra_it_says_what_to_install(
    trained: Platform, retrain: Any, monkeypatch: pytest.MonkeyPatch  # noqa: ANN401
) -> None:  # fmt: skip
    """No traceback, exit code 2."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    answer = retrain("reproduce", "v1.0.1")
    assert (answer.code, answer.out) == (2, "")
    assert "install retrain-assets with its extra `platform`" in answer.err


# ----------------------------------------------------------------------------------------------------------------- card

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w])")


def _recorded(value: Any) -> Iterator[str]:  # noqa: ANN401  (anything in the registry)
    """Every number of a record as the card writes it, also those inside texts."""
    match value:
        case dict():
            for name, item in value.items():
                yield from _NUMBER.findall(str(name))
                yield from _recorded(item)
        case list() | tuple():
            for item in value:
                yield from _recorded(item)
        case datetime():
            yield from _NUMBER.findall(number(value))
        case _ if value is not None:
            yield number(value)
            yield from _NUMBER.findall(str(value))


def test_every_number_of_a_card_is_in_the_registry(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """Registry row, dataset, training and configuration hold each of them; nothing is computed for the card."""
    text = retrain("show", "v1.0.1", "--card").out
    model = find_version(trained, "v1.0.1")
    with trained.database.read() as connection:
        records = read_records(connection, model)
    assert records.dataset is not None
    values = {name: getattr(model, name) for name in model.__slots__}
    data = {name: getattr(records.dataset, name) for name in ("rows", "week", "dataset_hash")}
    parts = [{name: getattr(part, name) for name in part.__slots__} for part in records.dataset.snapshots]
    known = set(_recorded([values, data, parts, records.training, trained.config.to_dict()]))
    found = set(_NUMBER.findall(text.replace("95 %", "")))
    assert len(found) > 80
    assert sorted(found - known) == []


def test_the_card_of_a_validated_version_is_a_file_and_names_its_limits(trained: Platform, retrain: Any) -> None:  # noqa: ANN401
    """Written at validation; `--card` shows the present state, as JSON too. No table is broken."""
    file = (trained.problem_home / "reports" / "v1.0.1.md").read_text(encoding="utf-8")
    text = retrain("show", "v1.0.1", "--card").out
    assert "Status registered." in file
    assert "Status canary." in text
    assert retrain("show", "canary", "--card", "--json").json["card"].rstrip() == text.rstrip()
    for heading in ("Intended use", "Data", "Features", "Results on held-out rows", "Validation", "Limits", "Training"):
        assert f"\n## {heading}\n" in text
    assert "| better_than_trivial | passed |" in text
    assert "retrain reproduce v1.0.1" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = [len(re.split(r"(?<!\\)\|", line)) for line in tables]
    for previous, line, before, width in zip(tables, tables[1:], widths, widths[1:], strict=False):
        assert width == before or text.find(previous + "\n" + line) < 0


# ----------------------------------------------------------------------------------------------------------- estimators


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ("{estimator: my_package.models:make_model}", "my_package.models:make_model cannot be imported"),
        ("{params: {learning_rat: 0.1}}", "model.params.learning_rat: is unknown; did you mean learning_rate?"),
        ("{estimator: sklearn.dummy:DummyClassifer}", "has no DummyClassifer; did you mean DummyClassifier?"),
    ],
)
def test_run_refuses_an_estimator_that_cannot_be_used(retrain: Any, config: Path, block: str, told: str) -> None:  # noqa: ANN401
    """Exit code 2 before anything is collected; `doctor` says the same."""
    config.write_text(config.read_text(encoding="utf-8") + f"model: {block}\n", encoding="utf-8")
    answer = retrain("run")
    assert (answer.code, answer.out) == (2, "")
    assert told in answer.err
    examined = retrain("doctor", "--json")
    assert told in examined.err + examined.out
    assert examined.code in {1, 2}
