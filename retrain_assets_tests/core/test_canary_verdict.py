from __future__ import annotations

import json
from dataclasses import replace

import pytest

from retrain_assets.core.canary import (
    CanaryPolicy,
    Cell,
    Context,
    Evidence,
    Verdict,
    VerdictKind,
    describe,
    judge,
    weigh,
)

POLICY = CanaryPolicy()
PROOF = CanaryPolicy(evidence="non_inferiority")
NO_HARM = CanaryPolicy(evidence="no_harm")
OVER = Context(elapsed_hours=24)


def cells(n_canary: int, success: float, error: float, *, production: tuple[float, float] = (0.85, 0.02)) -> list[Cell]:
    """Both metrics at exact rates, production with nine times the tasks."""
    n_production = 9 * n_canary
    rates = {"success": (success, production[0]), "error": (1 - error, 1 - production[1])}
    return [
        Cell(metric, "blog", n_canary, round(n_canary * own), n_production, round(n_production * other))
        for metric, (own, other) in rates.items()
    ]


def evidence_of(*updates: list[Cell]) -> Evidence:
    """Evidence after these steps."""
    evidence = Evidence.start(POLICY)
    for update in updates:
        evidence = evidence.update(update)
    return evidence


GOOD = evidence_of(cells(2000, 0.85, 0.02))
HARM = evidence_of(*[cells(20, 0.5, 0.02)] * 6)
# Evidence between the level that holds and the one that rolls back, found by adding blocks of a bad canary.
SUSPECT = evidence_of(*[[Cell("success", "blog", 2, 1, 18, 16)]] * 8)
BAD_TIMES = evidence_of(*[cells(20, 0.5, 0.02, production=(0.5, 0.02))] * 10)


def test_the_evidence_of_these_tests_is_what_it_is_called() -> None:
    """Each lies in the range its name says."""
    assert GOOD.relative < 1
    assert HARM.relative > POLICY.relative_threshold
    assert 20 <= SUSPECT.relative < POLICY.relative_threshold
    assert BAD_TIMES.absolute > POLICY.absolute_threshold
    assert BAD_TIMES.relative < 20


def test_a_worse_canary_is_rolled_back_at_once_with_its_numbers() -> None:
    """The reason names the metric, both arms and the evidence."""
    verdict = judge(HARM, POLICY, Context(elapsed_hours=1))
    assert verdict.kind is VerdictKind.ROLL_BACK
    assert verdict.reason.startswith("success: canary 0.50 (60 of 120), production 0.85 (918 of 1,080), evidence ")
    assert verdict.reason.endswith("of 111 needed")


def test_a_limit_the_canary_breaks_and_production_meets_rolls_back() -> None:
    """Response time is in no comparison, so only its limit can show this."""
    evidence = evidence_of([Cell("response_time", "blog", 60, 40, 540, 539)])
    assert evidence.relative == 1.0
    verdict = judge(evidence, POLICY, Context())
    assert verdict.kind is VerdictKind.ROLL_BACK
    assert "decisions over the response time limit: canary 0.33 (20 of 60)" in verdict.reason
    assert "which production meets" in verdict.reason


def test_a_limit_that_production_misses_too_is_an_incident_and_never_a_rollback() -> None:
    """Something outside hit both arms."""
    verdict = judge(BAD_TIMES, POLICY, Context(elapsed_hours=12))
    assert verdict.kind is VerdictKind.ENVIRONMENT_INCIDENT
    assert "success: canary 0.50 (100 of 200) where at least 0.80 is the limit, production 0.50" in verdict.reason


def test_a_limit_the_canary_alone_breaks_counts_also_during_an_incident() -> None:
    """Success is bad in both arms; response times only in the canary: that one rolls back."""
    evidence = BAD_TIMES.update([Cell("response_time", "blog", 60, 40, 540, 539)])
    assert judge(evidence, POLICY, Context()).kind is VerdictKind.ROLL_BACK


def test_routing_that_gives_the_canary_the_hard_tasks_is_no_harm_of_its_own() -> None:
    """Both arms do 0.92 on easy and 0.60 on hard tasks; production's total meets the limit, its hard tasks do not."""
    easy, hard = Cell("success", "easy", 50, 46, 9000, 8280), Cell("success", "hard", 400, 240, 1000, 600)
    evidence = evidence_of([easy, hard])
    assert evidence.absolute > POLICY.absolute_threshold
    assert judge(evidence, POLICY, Context()).kind is VerdictKind.ENVIRONMENT_INCIDENT


@pytest.mark.parametrize(
    ("recent", "kind"),
    [
        ({"success": (200, 170)}, VerdictKind.CONTINUE),
        ({"success": (200, 150)}, VerdictKind.ENVIRONMENT_INCIDENT),
        ({"success": (199, 190)}, VerdictKind.ENVIRONMENT_INCIDENT),
        ({"error": (200, 200)}, VerdictKind.ENVIRONMENT_INCIDENT),
    ],
)
def test_an_incident_ends_when_production_meets_the_limit_over_its_last_200_tasks(
    recent: dict[str, tuple[int, int]], kind: VerdictKind
) -> None:
    """Fewer tasks, another metric or a rate below the limit do not end it."""
    assert judge(BAD_TIMES, POLICY, Context(production_recent=recent)).kind is kind


def test_suspicious_evidence_holds_the_ramp() -> None:
    """At 20 and below 111 the ramp waits, also when the duration is over."""
    for context in (Context(elapsed_hours=3), OVER):
        verdict = judge(SUSPECT, POLICY, context)
        assert verdict.kind is VerdictKind.HOLD
        assert "20 hold the ramp" in verdict.reason


@pytest.mark.parametrize("arm", ["canary", "production"])
def test_missing_outcomes_of_either_arm_hold_the_ramp(arm: str) -> None:
    """More than 20 % missing holds, exactly 20 % does not."""
    at = Context.of({f"tasks_{arm}": 100, f"missing_{arm}": 20})
    above = Context.of({f"tasks_{arm}": 100, f"missing_{arm}": 21})
    assert judge(GOOD, POLICY, at).kind is VerdictKind.CONTINUE
    verdict = judge(GOOD, POLICY, above)
    assert verdict.kind is VerdictKind.HOLD
    assert verdict.reason == f"21 of 100 {arm} tasks have no outcome, more than the 20% allowed"


def test_before_the_end_a_good_canary_goes_on() -> None:
    """However good it looks: promotion waits for the end of the duration."""
    verdict = judge(GOOD, POLICY, Context(elapsed_hours=23.5))
    assert verdict.kind is VerdictKind.CONTINUE
    assert "0.5 hours left" in verdict.reason


def test_no_data_is_continue_before_the_end_and_inconclusive_at_it() -> None:
    """Nothing never passes."""
    start = Evidence.start(POLICY)
    assert judge(start, POLICY, Context()).kind is VerdictKind.CONTINUE
    for policy in (POLICY, PROOF, NO_HARM):
        verdict = judge(start, policy, OVER)
        assert verdict.kind is VerdictKind.INCONCLUSIVE
        assert "0 canary outcomes, 10 are needed" in verdict.reason
        assert "no decision to check the share on" in verdict.reason


def test_an_equal_canary_with_enough_outcomes_is_promoted_on_proof() -> None:
    """The reason carries both lower bounds; the promotion is not weak."""
    verdict = judge(GOOD, POLICY, OVER)
    assert verdict.kind is VerdictKind.PROMOTE
    assert not verdict.weak
    assert verdict.evidence["asked"] == "non_inferiority"
    assert verdict.reason.startswith("to production: success difference at least -0.01")
    assert -0.03 < verdict.evidence["lower_bounds"]["success"] < 0
    assert -0.02 < verdict.evidence["lower_bounds"]["error"] < 0


def test_a_promotion_before_the_last_step_goes_to_the_next_step() -> None:
    """The sentence says where to."""
    assert judge(GOOD, POLICY, replace(OVER, is_last_step=False)).reason.startswith("to the next ramp step: ")


def test_proof_needs_errors_as_well_as_success() -> None:
    """Without any count of errors there is no proof about them."""
    evidence = evidence_of(cells(2000, 0.85, 0.02)[:1])
    verdict = judge(evidence, PROOF, OVER)
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "error: no data to compare" in verdict.reason


@pytest.mark.parametrize(
    ("success", "error", "part"),
    [(0.82, 0.02, "success: the difference could be -0.0"), (0.85, 0.04, "error: the difference could be -0.0")],
)
def test_a_canary_worse_by_a_margin_is_not_promoted(success: float, error: float, part: str) -> None:
    """3 points of success, 2 points of errors: not enough harm to roll back here, and no proof of its absence."""
    verdict = judge(evidence_of(cells(800, success, error)), PROOF, OVER)
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert part in verdict.reason


def test_two_looks_ask_more_of_each() -> None:
    """The same counts pass one look at 5 % and fail the first of two at 2.5 % each."""
    evidence = evidence_of(cells(620, 0.85, 0.02))
    one, two = judge(evidence, PROOF, OVER), judge(evidence, PROOF, replace(OVER, looks=2))
    assert one.kind is VerdictKind.PROMOTE
    assert two.kind is VerdictKind.INCONCLUSIVE
    assert two.reason.endswith("the canary is extended once")
    assert two.evidence["lower_bounds"]["success"] < one.evidence["lower_bounds"]["success"]


def test_the_second_look_ends_at_twice_the_duration_and_is_the_last() -> None:
    """At 30 of 48 hours it goes on; at 48 production stays."""
    evidence = evidence_of(cells(100, 0.85, 0.02))
    second = Context(elapsed_hours=30, look=2, looks=2)
    assert judge(evidence, PROOF, second).kind is VerdictKind.CONTINUE
    last = judge(evidence, PROOF, replace(second, elapsed_hours=48))
    assert last.kind is VerdictKind.INCONCLUSIVE
    assert last.reason.endswith("production stays")


def test_every_failed_condition_is_named() -> None:
    """Six things wrong, six sentences, in the reason and in the evidence."""
    evidence = evidence_of(cells(8, 0.5, 0.5, production=(0.5, 0.5)))
    context = replace(
        OVER, assigned_canary=300, assigned_total=1000, daily_cycle_seen=False, offline_refused=True, looks=2
    )
    verdict = judge(evidence, PROOF, context)
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    for part in (
        "8 canary outcomes, 10 are needed",
        "300 of 1,000 tasks were assigned to the canary, 0.300 where the share logged is 0.100",
        "a whole daily cycle has not been seen",
        "the offline report refused the candidate",
        "success: canary 0.50 (4 of 8) where at least 0.80 is the limit",
        "error: canary 0.50 (4 of 8) where at most 0.05 is the limit",
        "success: the difference could be",
        "error: the difference could be",
    ):
        assert part in verdict.reason
    assert len(verdict.evidence["failed"]) == 8


def test_the_share_check_takes_the_counts_of_the_evidence_when_none_are_given() -> None:
    """A canary that got half of the tasks at share 0.1 is not promoted."""
    half = evidence_of([Cell("success", "blog", 500, 425, 500, 425)])
    assert "500 of 1,000 tasks were assigned" in judge(half, NO_HARM, OVER).reason
    assert judge(half, NO_HARM, replace(OVER, share=0.5)).kind is VerdictKind.PROMOTE


def test_a_daily_cycle_is_asked_for_only_where_the_duration_allows_one() -> None:
    """A canary of six hours is not held to a day."""
    assert judge(GOOD, PROOF, Context(elapsed_hours=6, duration_hours=6)).kind is VerdictKind.PROMOTE


def test_from_200_tasks_the_point_estimate_must_meet_each_limit() -> None:
    """0.795 against 0.80 proves nothing broken, and is not promoted on proof."""
    evidence = evidence_of(cells(2000, 0.795, 0.02, production=(0.795, 0.02)))
    verdict = judge(evidence, PROOF, OVER)
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "success: canary 0.80 (1,590 of 2,000) where at least 0.80 is the limit" in verdict.reason
    assert judge(evidence, NO_HARM, OVER).kind is VerdictKind.PROMOTE


def test_a_small_canary_without_harm_is_promoted_and_called_weak() -> None:
    """Twelve outcomes cannot prove anything; the sentence says what would have gone unseen."""
    verdict = judge(evidence_of(cells(12, 0.84, 0.0)), POLICY, OVER)
    assert verdict.kind is VerdictKind.PROMOTE
    assert verdict.weak
    assert verdict.evidence["asked"] == "no_harm"
    drop = verdict.evidence["unseen_drop"]
    assert 0.4 < drop < 0.7
    assert verdict.reason.endswith(f"weak evidence: n = 12, a drop below {drop:.2f} would have gone unseen")


def test_no_harm_is_not_asked_for_where_proof_was_to_be_had() -> None:
    """`auto` goes by the outcomes expected, too: 100 of an expected 2,000 must still prove."""
    evidence = evidence_of(cells(100, 0.85, 0.02))
    assert judge(evidence, POLICY, OVER).weak
    verdict = judge(evidence, POLICY, replace(OVER, expected_canary_outcomes=2000))
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert verdict.evidence["asked"] == "non_inferiority"


def test_no_harm_refuses_a_canary_whose_limit_is_proven_broken() -> None:
    """0.70 on 200 tasks is proven below 0.80, even when production is no better."""
    evidence = evidence_of(cells(60, 0.7, 0.02, production=(0.7, 0.02)))
    verdict = judge(evidence, NO_HARM, OVER)
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "proven broken" in verdict.reason


@pytest.mark.parametrize(
    ("evidence", "context", "kind"),
    [
        (HARM, Context(tasks_canary=10, missing_canary=9), VerdictKind.ROLL_BACK),
        (HARM, replace(OVER, offline_refused=True), VerdictKind.ROLL_BACK),
        (BAD_TIMES.update([Cell("success", "forum", 40, 2, 360, 330)]), OVER, VerdictKind.ROLL_BACK),
        (BAD_TIMES, Context(tasks_canary=10, missing_canary=9), VerdictKind.ENVIRONMENT_INCIDENT),
        (BAD_TIMES, OVER, VerdictKind.ENVIRONMENT_INCIDENT),
        (GOOD, replace(OVER, tasks_canary=10, missing_canary=9), VerdictKind.HOLD),
        (GOOD, replace(OVER, offline_refused=True), VerdictKind.INCONCLUSIVE),
    ],
)
def test_the_graver_verdict_wins(evidence: Evidence, context: Context, kind: VerdictKind) -> None:
    """ROLL_BACK before ENVIRONMENT_INCIDENT before HOLD before what the end of the duration brings."""
    assert judge(evidence, POLICY, context).kind is kind


@pytest.mark.parametrize("evidence", [Evidence.start(POLICY), GOOD, HARM, SUSPECT, BAD_TIMES])
@pytest.mark.parametrize("context", [Context(), OVER, replace(OVER, production_recent={"success": (200, 190)})])
def test_the_numbers_of_every_verdict_are_plain_json(evidence: Evidence, context: Context) -> None:
    """They go into the audit log as they are, without NaN or infinity, and a reason always comes with them."""
    verdict = judge(evidence, POLICY, context)
    assert json.loads(json.dumps(verdict.evidence, allow_nan=False)) == verdict.evidence
    assert verdict.evidence["context"]["elapsed_hours"] == context.elapsed_hours
    assert len(verdict.reason) > 20


def test_a_plain_mapping_is_a_context_too() -> None:
    """The same verdict as from the class."""
    assert judge(GOOD, POLICY, {"elapsed_hours": 24}) == judge(GOOD, POLICY, OVER)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"elapsed": 24}, "unknown context keys elapsed; known are elapsed_hours"),
        ({"look": 2}, "look=2, looks=1"),
        ({"share": 0.0}, "share must"),
        ({"duration_hours": 0}, "duration_hours must"),
        ({"assigned_canary": 3}, "belong together"),
        ({"tasks_canary": 3, "missing_canary": 4}, "missing_canary must lie in 0..tasks_canary, got 4 of 3"),
    ],
)
def test_a_context_that_makes_no_sense_is_refused(given: dict[str, float], match: str) -> None:
    """The message names the field."""
    with pytest.raises(ValueError, match=match):
        judge(GOOD, POLICY, given)


def test_weighing_stops_at_the_block_that_proves_harm() -> None:
    """Ten good blocks after the proof do not hide it, as they would from a single look at the end."""
    bad, good = [Cell("success", "blog", 20, 6, 180, 153)], [Cell("success", "blog", 200, 200, 180, 100)]
    stream = [bad] * 6 + [good] * 10
    evidence, verdict = weigh(Evidence.start(POLICY), stream, POLICY, Context())
    assert verdict.kind is VerdictKind.ROLL_BACK
    assert evidence.updates < 6
    whole = Evidence.start(POLICY)
    for block in stream:
        whole = whole.update(block)
    assert judge(whole, POLICY, Context()).kind is VerdictKind.CONTINUE


def test_weighing_also_stops_at_a_broken_limit() -> None:
    """A limit broken by the canary alone is seen block by block as well."""
    bad = [Cell("response_time", "blog", 20, 12, 180, 180)]
    good = [Cell("response_time", "blog", 2000, 2000, 180, 180)]
    evidence, verdict = weigh(Evidence.start(POLICY), [bad] * 5 + [good], POLICY, Context())
    assert verdict.kind is VerdictKind.ROLL_BACK
    assert evidence.updates <= 5


def test_weighing_nothing_judges_what_is_there() -> None:
    """An idle tick still finds the end of the duration."""
    assert weigh(GOOD, [], POLICY, OVER) == (GOOD, judge(GOOD, POLICY, OVER))


def test_the_status_line_reads_like_a_sentence() -> None:
    """Both arms and the evidence, in plain words; before any outcome it says so."""
    assert describe(Evidence.start(POLICY), POLICY) == "no outcomes yet"
    line = describe(evidence_of([Cell("success", "blog", 412, 334, 3702, 3147)]), POLICY)
    assert line.startswith("canary 0.81 on 412 tasks, production 0.85 on 3,702 tasks; evidence ")
    assert line.endswith(" of 111 needed to stop")


def test_a_verdict_is_a_value() -> None:
    """Two judgements of the same case are equal, so a verdict can be replayed."""
    assert judge(HARM, POLICY, OVER) == judge(HARM, POLICY, OVER)
    assert isinstance(judge(HARM, POLICY, OVER), Verdict)
