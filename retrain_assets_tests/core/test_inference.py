"""A problem from a sample: what is found, what is left out and why, and what is not guessed."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from retrain_assets.core.config_text import config_text
from retrain_assets.core.features import FeatureType
from retrain_assets.core.inference import Inference, infer
from retrain_assets.core.outcomes import Result
from retrain_assets.core.sample_columns import Sample, SampleColumn, unexplained_share
from retrain_assets.errors import RetrainError

SEED = 7
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def _rows(count: int = 400) -> list[dict[str, Any]]:
    """Outcomes in which nothing tells the result."""
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    return [
        {
            "task_id": f"t{i}", "action": chance.choice(["mail", "call"]),
            "result": chance.choice(["success", "failed"]),
            "timestamp": (BEGIN + timedelta(hours=i)).isoformat(), "score": str(chance.randrange(100)),
            "kind": chance.choice(["a", "b"]),
        }
        for i in range(count)
    ]  # fmt: skip


def _infer(rows: list[dict[str, Any]], *, is_text: bool = True, **said: Any) -> Inference:  # noqa: ANN401
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    return infer(Sample(columns, rows, len(rows), is_text), **said)


def _with(**cells: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """The rows with further columns, each a function of the row and its number."""
    return [row | {name: cell(row, i) for name, cell in cells.items()} for i, row in enumerate(_rows())]


def test_a_plain_log_needs_no_mapping() -> None:
    """Fields are found by name, features get types and ranges, the classes of tasks become strata."""
    found = _infer(_rows())
    assert found.columns == {"action": "action_attempted"}
    assert sorted(found.actions) == ["call", "mail"]
    assert {name: f.type for name, f in found.features.items()} == {
        "score": FeatureType.INTEGER,
        "kind": FeatureType.CATEGORY,
    }
    assert (found.features["score"].min, found.features["score"].max) == (0, 200)
    assert (found.strata, found.timezone, found.decimal, found.left_out) == (["kind"], None, ".", {})
    assert all(guess.evidence and guess.edit for guess in found.guesses)


def test_columns_are_found_by_content_where_names_say_nothing() -> None:
    """The one column with words of a result, the one with instants, the one with few texts, the one that is an id."""
    names = {"task_id": "row_key", "action": "tried", "result": "x", "timestamp": "y", "score": "z"}
    rows = [{names[k]: v for k, v in row.items() if k in names} for row in _rows()]
    found = _infer(rows)
    assert found.columns == {"row_key": "task_id", "tried": "action_attempted", "x": "result", "y": "timestamp"}
    assert list(found.features) == ["z"]


def test_a_choice_between_likely_columns_is_left_to_people() -> None:
    """Two columns of few texts without a name: neither is taken; with one of them named it works."""
    rows = [{("first" if k == "action" else k): v for k, v in row.items()} for row in _rows()]
    with pytest.raises(RetrainError, match="it may be first, kind"):
        _infer(rows)
    assert _infer(rows, renames={"first": "action_attempted"}).columns["first"] == "action_attempted"


def test_spellings_of_an_action_are_folded_and_different_actions_are_not() -> None:
    """Case, signs and a few endings; `email` and `email reminder` stay two. A rare slip is left out and told."""
    variants = ["forum", "FORUM", "Forum Post", "guestposting", "guest", "email", "email reminder"]
    rows = _with(action=lambda _, i: variants[i % len(variants)])
    rows = [dict(row) for row in rows * 3]
    rows[0]["action"] = "forrum"
    found = _infer(rows)
    assert sorted(found.actions) == ["email", "email reminder", "forum", "guest"]
    assert found.action_aliases == {"Forum Post": "forum", "guestposting": "guest"}
    assert "left out as too rare: forrum" in next(g.evidence for g in found.guesses if g.what == "problem.actions")


def test_what_was_known_only_after_the_task_is_no_feature() -> None:
    """By its name, by its values, by a number's threshold, or because it is there exactly when a task failed."""
    found = _infer(_with(
        error_code=lambda row, i: "17" if i % 3 else "",
        verdict=lambda row, _: "good" if row["result"] == "success" else "bad",
        points=lambda row, i: str(i % 50 if row["result"] == "success" else 50 + i % 50),
        note=lambda row, i: "" if row["result"] == "success" else str(i % 7),
        previous_result=lambda row, i: ("success", "failed")[i % 2],
    ))  # fmt: skip
    assert set(found.left_out) == {"error_code", "verdict", "points", "note"}
    assert "by its name" in found.left_out["error_code"]
    assert all("tells the result (100%" in found.left_out[name] for name in ("verdict", "points", "note"))
    assert "previous_result" in found.features


def test_a_strong_feature_is_not_taken_for_a_leak() -> None:
    """One that foretells nine results of ten is what a model is made of."""
    rows = _with(hint=lambda row, i: str((row["result"] == "success") != (i % 10 == 0)))
    assert "hint" in _infer(rows).features
    results = [Result.SUCCESS if row["result"] == "success" else Result.FAILURE for row in rows]
    assert 0.1 < unexplained_share(SampleColumn("hint", [row["hint"] for row in rows]), results) < 0.4


def test_too_few_results_tell_nothing() -> None:
    """With ten rows every column seems to know."""
    rows = _rows(10)
    cells = [row["result"] for row in rows]
    assert (
        unexplained_share(
            SampleColumn("x", cells), [Result(row["result"].replace("failed", "failure")) for row in rows]
        )
        == 1.0
    )


def test_columns_that_say_nothing_are_left_out_with_the_reason() -> None:
    """Names of single things, constants, prose, instants, empty columns."""
    found = _infer(_with(
        user_id=lambda _, i: f"u{i}", row_number=lambda _, i: str(i), constant=lambda *_: "v1", empty=lambda *_: "NULL",
        prose=lambda _, i: "words " * 20 + str(i), seen=lambda _, i: str((BEGIN + timedelta(days=i)).date()),
        code=lambda _, i: f"x{i}", zip=lambda _, i: f"0{i % 9}123",
    ))  # fmt: skip
    assert set(found.left_out) == {"user_id", "row_number", "constant", "empty", "prose", "seen", "code"}
    assert found.features["zip"].type is FeatureType.CATEGORY  # a number would lose its zero


def test_long_texts_and_lists_are_left_out_of_the_import_too() -> None:
    """Otherwise the door would refuse their rows."""
    rows = [row | {"page": "x" * 3_000, "tags": [1]} for row in _rows()]
    assert {k: v for k, v in _infer(rows, is_text=False).columns.items() if v == "-"} == {"page": "-", "tags": "-"}


def test_a_column_that_an_import_would_misread_is_mapped_away() -> None:
    """A name that is a field's own, with content that is not; the second of two instants is no trouble."""
    rows = _with(
        attempt=lambda _, i: "first",
        propensity=lambda *_: "0",
        created_at=lambda _, i: "x",
        status=lambda r, _: r["result"],
    )
    for row in rows:
        row["result"] = row["result"][::-1]
    found = _infer(rows)
    assert (found.columns["status"], found.columns["result"]) == ("result", "-")
    assert (found.columns["attempt"], found.columns["propensity"]) == ("-", "-")


def test_ranges_leave_room_for_what_was_not_sampled() -> None:
    """Zero below, twice the largest above, ten times for a long tail; none with few values; both sides of zero."""
    found = _infer(_with(
        share=lambda _, i: str(i % 100 / 100), tail=lambda _, i: "100000" if i == 7 else str(i % 9),
        temperature=lambda _, i: str(i % 60 - 20), rare=lambda _, i: str(i % 2 + i % 3) if i % 20 == 0 else "",
    ))  # fmt: skip
    ranges: dict[str, Any] = {name: (feature.min, feature.max) for name, feature in found.features.items()}
    assert ranges["share"] == (0, 2)
    assert ranges["tail"] == (0, 1_000_000)
    assert ranges["temperature"] == (-50, 100)
    assert ranges["rare"] == (None, None)


def test_decimal_commas_are_seen_and_thousands_are_not_mistaken_for_them() -> None:
    """`3,5` is a number; `1,234` alone may be either, and is left as it is."""
    found = _infer(_with(size=lambda _, i: f"{i},5"))
    assert (found.decimal, found.features["size"].type) == (",", FeatureType.NUMBER)
    assert _infer(_with(size=lambda _, i: f"{i % 9 + 1},500")).decimal == "."


def test_thousands_with_a_point_do_not_hide_decimal_commas() -> None:
    """`1.477` says nothing, and `0,481` can only be a decimal."""
    rows = _with(size=lambda _, i: f"{i % 7 + 1}.{i % 900 + 100}", share=lambda _, i: f"0,{i % 900 + 100}")
    found = _infer(rows)
    assert (found.decimal, found.features["share"].type) == (",", FeatureType.NUMBER)
    assert found.features["size"].type is FeatureType.INTEGER
    assert _infer(_with(size=lambda _, i: f"{i % 7}.{i % 900 + 100}")).decimal == "."


def test_a_column_of_several_types_is_no_feature_and_is_left_out_of_the_import() -> None:
    """A boolean or a decimal among texts would cost its row; a whole number is a category's text."""
    found = _infer(
        _with(
            login=lambda _, i: "unknown" if i % 5 else bool(i % 2),
            price=lambda _, i: "free" if i % 5 else i + 0.5,
            code=lambda _, i: "x" if i % 5 else 7,
        ),
        is_text=False,
    )
    assert {name: found.columns.get(name) for name in ("login", "price", "code")} == {
        "login": "-", "price": "-", "code": None
    }  # fmt: skip
    assert "different types" in found.left_out["login"]
    assert found.features["code"].type is FeatureType.CATEGORY


@pytest.mark.parametrize("missing", ["N/A", "<NA>", "null"])
def test_what_the_door_takes_for_missing_does_not_make_a_number_a_text(missing: str) -> None:
    """Also where every value has its type."""
    found = _infer(_with(size=lambda _, i: missing if i % 4 == 0 else i % 9 + 0.5), is_text=False)
    assert found.features["size"].type is FeatureType.NUMBER
    assert _infer(_with(size=lambda _, i: missing if i % 4 == 0 else str(i % 9))).features["size"].type == "integer"


def test_values_that_the_door_refuses_beside_an_outcome_are_left_out_of_the_import() -> None:
    """Else each of them costs its row: whole numbers beyond 64 bits, numbers without end, long texts."""
    found = _infer(
        _with(
            user_id=lambda _, i: 2**70 + i,
            ratio_id=lambda _, i: float("inf") if i == 7 else f"r{i}",
            page_url=lambda _, i: "x" * 3_000 if i == 9 else f"u{i}",
            guid=lambda _, i: f"g{i}",
        ),
        is_text=False,
    )
    assert {name for name, ours in found.columns.items() if ours == "-"} == {"user_id", "ratio_id", "page_url"}


def test_epochs_are_instants_and_large_numbers_are_not() -> None:
    """Seconds, milliseconds and days in digits; a size in bytes that would lie in 1973 stays a number."""
    found = _infer(_with(
        published=lambda _, i: str(1_767_000_000 + 60 * i), seen=lambda _, i: str(1_767_000_000_000 + i),
        day=lambda _, i: f"202601{i % 28 + 1:02d}", size=lambda _, i: str(100_000_000 + i * 7),
    ))  # fmt: skip
    assert {name: found.left_out.get(name) for name in ("published", "seen", "day")} == dict.fromkeys(
        ("published", "seen", "day"), "is an instant"
    )
    assert found.left_out.get("size") != "is an instant"


def test_naive_instants_are_told_and_read_as_utc_unless_somebody_knows() -> None:
    """The guess says how many there are."""
    rows = [row | {"timestamp": row["timestamp"][:19]} for row in _rows()]
    found = _infer(rows)
    assert found.timezone == "UTC"
    assert "400 of 400 instants have no offset" in next(
        g.evidence for g in found.guesses if g.what == "imports.timezone"
    )
    assert _infer(rows, timezone="Europe/Berlin").timezone == "Europe/Berlin"


def test_strata_need_a_few_common_values() -> None:
    """Many values, a rare one, or gaps would leave classes without tasks; the kind of a task goes first."""
    rows = _with(
        kind=lambda _, i: "rare" if i == 0 else "ab"[i % 2],
        colour=lambda _, i: f"c{i % 12}",
        gap=lambda _, i: "xy"[i % 2] if i % 3 else "",
    )
    assert _infer(rows).strata == []
    both = _with(aaa=lambda _, i: "xy"[i % 2], kind=lambda _, i: "ab"[i % 2])
    assert _infer(both).strata == ["kind"]


def test_limits_follow_the_log() -> None:
    """Tasks a week, the longest task, and a threshold that guessing just misses."""
    rows = _with(duration_ms=lambda _, i: str(i * 10_000), result=lambda _, i: "success" if i % 10 else "error")
    found = _infer(rows)
    assert found.columns["duration_ms"] == "execution_time"
    assert (found.task_timeout_minutes, found.min_new_samples) == (240, 84)  # 3,990 s at most; 168 hours a week
    assert (found.success_rate, found.error_rate, found.commoner_share) == (0.9, 0.1, 0.9)
    assert "validation_threshold: 0.85" in config_text(found, name="p", source="s")
    assert "min_success_rate: 0.77, max_error_rate: 0.17" in config_text(found, name="p", source="s")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{k: v for k, v in row.items() if k != "result"} for row in _rows()], "no column looks like a result"),
        ([row | {"result": "won"} for row in _rows()], "result holds won"),
        ([{k: v for k, v in row.items() if k != "timestamp"} for row in _rows()], "no column looks like an instant"),
        ([row | {"timestamp": "01/02/2026"} for row in _rows()], "timestamp holds 01/02/2026"),
        ([{k: v for k, v in row.items() if k != "task_id"} for row in _rows()], "no column looks like a task's id"),
        ([row | {"action": "mail"} for row in _rows()], "one action only .mail.: with nothing to choose"),
    ],
)
def test_what_cannot_be_inferred_is_an_error_that_says_how_to_say_it(rows: list[dict[str, Any]], message: str) -> None:
    """A log without results, instants, tasks or a choice is nothing to learn from."""
    with pytest.raises(RetrainError, match=message):
        _infer(rows)
