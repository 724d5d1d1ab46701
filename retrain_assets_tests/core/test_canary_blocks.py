from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_assets.core.canary import BlockBuffer, CanaryPolicy, Cell, Context, Evidence, MaturedTask, weigh

POLICY = CanaryPolicy(block_tasks=5)
CONTEXT = Context()

task_strategy = st.builds(
    MaturedTask,
    st.sampled_from(["blog", "forum"]),
    st.integers(0, 1),
    st.sampled_from(["canary", "production", "production"]),
    st.fixed_dictionaries({"success": st.booleans(), "error": st.booleans()}),
)
stream_strategy = st.lists(task_strategy, max_size=120)


def task(arm: str, *, good: bool = True) -> MaturedTask:
    """One task of stratum blog with a result on success."""
    return MaturedTask("blog", 0, arm, {"success": good})  # type: ignore[arg-type]  # tests try wrong arms too


def split(stream: list[MaturedTask], cuts: list[int]) -> list[list[MaturedTask]]:
    """The stream in consecutive parts, cut anywhere."""
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[left:right] for left, right in itertools.pairwise(edges)]


def test_a_block_closes_at_its_size_once_both_arms_are_in_it() -> None:
    """Five tasks of production alone stay open; the first canary task closes the block of six."""
    buffer, closed = BlockBuffer(5).add([task("production")] * 5)
    assert closed == []
    assert buffer.waiting == 5
    buffer, closed = buffer.add([task("canary", good=False)])
    assert closed == [[Cell("success", "blog", 1, 0, 5, 5)]]
    assert buffer.waiting == 0


def test_strata_and_ramp_steps_have_blocks_of_their_own() -> None:
    """Tasks of two strata and two steps never meet in a block."""
    one = [task("canary"), *[task("production")] * 4]
    stream = [replace(t, stratum=s, step=i) for t in one for s in ("blog", "forum") for i in (0, 1)]
    _, closed = BlockBuffer(5).add(stream)
    assert sorted((cells[0].stratum, cells[0].step) for cells in closed) == [
        ("blog", 0),
        ("blog", 1),
        ("forum", 0),
        ("forum", 1),
    ]


def test_a_closed_block_holds_one_cell_per_metric_over_the_same_tasks() -> None:
    """Every metric counts the same tasks by arm."""
    stream = [
        MaturedTask("blog", 0, "canary", {"success": False, "error": True}),
        *[MaturedTask("blog", 0, "production", {"success": True, "error": True}) for _ in range(4)],
    ]
    _, closed = BlockBuffer(5).add(stream)
    assert closed == [[Cell("success", "blog", 1, 0, 4, 4), Cell("error", "blog", 1, 1, 4, 4)]]


@given(stream_strategy, st.lists(st.integers(0, 200), max_size=8))
def test_the_evidence_does_not_depend_on_how_reads_were_batched(stream: list[MaturedTask], cuts: list[int]) -> None:
    """One read of everything, or many reads with the state through JSON in between: the same evidence and verdict."""
    _, whole = BlockBuffer(5).add(stream)
    at_once, verdict = weigh(Evidence.start(POLICY), whole, POLICY, CONTEXT)
    buffer, evidence, found = BlockBuffer(5), Evidence.start(POLICY), []
    for part in split(stream, cuts):
        buffer, closed = BlockBuffer.from_json(buffer.to_json()).add(part)
        found += closed
        evidence, last = weigh(Evidence.from_json(evidence.to_json()), closed, POLICY, CONTEXT)
        if last.kind == "ROLL_BACK":
            break
    assert evidence == at_once
    assert last == verdict
    assert found == whole[: len(found)]


@given(stream_strategy)
def test_blocks_close_on_labels_and_never_on_results(stream: list[MaturedTask]) -> None:
    """Turning every result round leaves the same blocks with the same numbers of tasks."""
    turned = [replace(t, good={metric: not good for metric, good in t.good.items()}) for t in stream]
    sizes = [
        [[(c.stratum, c.step, c.n_canary, c.n_production) for c in cells] for cells in BlockBuffer(5).add(tasks)[1]]
        for tasks in (stream, turned)
    ]
    assert sizes[0] == sizes[1]


@given(stream_strategy)
def test_no_task_is_lost_or_counted_twice(stream: list[MaturedTask]) -> None:
    """Closed and waiting tasks add up to those given, good ones too."""
    buffer, closed = BlockBuffer(5).add(stream)
    cells = [cell for block in closed for cell in block if cell.metric == "success"]
    assert buffer.waiting + sum(c.n_canary + c.n_production for c in cells) == len(stream)
    still = sum(b.tally["success"][1] + b.tally["success"][3] for b in buffer.open_blocks.values())
    assert still + sum(c.y_canary + c.y_production for c in cells) == sum(t.good["success"] for t in stream)


def test_adding_leaves_the_old_buffer_as_it_was() -> None:
    """A tick that fails half-way can start again from the same value."""
    before, _ = BlockBuffer(5).add([task("production")] * 3)
    text = before.to_json()
    before.add([task("canary")] * 4)
    assert before.to_json() == text


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (task("holdback"), "arm must be canary or production, got 'holdback'"),
        (MaturedTask("blog", 0, "canary", {"speed": True}), "unknown metric 'speed'"),
    ],
)
def test_a_task_that_fits_nowhere_is_refused(bad: MaturedTask, match: str) -> None:
    """It is named, never counted somewhere else."""
    with pytest.raises(ValueError, match=match):
        BlockBuffer(5).add([bad])


def test_a_block_of_one_task_is_refused() -> None:
    """Such a block could never hold both arms."""
    with pytest.raises(ValueError, match="at least 2"):
        BlockBuffer(1)


def test_a_buffer_of_an_unknown_format_is_refused() -> None:
    """A newer version's state is not misread."""
    with pytest.raises(ValueError, match="format 1"):
        BlockBuffer.from_json('{"format": 2, "block_tasks": 20, "open": []}')
