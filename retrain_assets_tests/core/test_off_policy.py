from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain_assets.core.off_policy import (
    LoggedRows,
    NotEnoughOverlap,
    OffPolicy,
    OverlapLimits,
    epsilon_greedy,
    evaluate_policy,
)
from retrain_assets.core.off_policy_estimators import (
    carrying_rows,
    direct_method,
    doubly_robust,
    effective_rows,
    importance_weights,
    ips,
    self_normalised_doubly_robust,
    snips,
)

ACTIONS = ("comment", "profile", "forum", "guest")
TRUE_RATES = np.array([[0.9, 0.7, 0.5, 0.6], [0.5, 0.85, 0.6, 0.4], [0.6, 0.5, 0.55, 0.8]])
"""P(success) of each action in three kinds of tasks, equally frequent."""
LOGGED_SCORES = np.array([[0.9, 0.7, 0.5, 0.6], [0.9, 0.5, 0.6, 0.4], [0.6, 0.5, 0.9, 0.8]])
"""What the policy that made the log believed: it is right for the first kind only."""
WRONG_MODEL = 1 - TRUE_RATES
SEED = 20261123


class World:
    """Logs of a policy that believes `LOGGED_SCORES`, and a candidate that knows the true rates."""

    def __init__(self, epsilon: float) -> None:
        self.log_table = epsilon_greedy(LOGGED_SCORES, epsilon)
        self.candidate_table = epsilon_greedy(TRUE_RATES, epsilon)
        self.value = float(np.mean(np.sum(self.candidate_table * TRUE_RATES, axis=1)))
        self.logged_value = float(np.mean(np.sum(self.log_table * TRUE_RATES, axis=1)))

    def draw(self, rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Kind, action, propensity and reward of each row."""
        kind = rng.integers(0, 3, rows)
        chances = self.log_table[kind]
        action = (chances.cumsum(axis=1) > rng.random(rows)[:, None]).argmax(axis=1)
        reward = (rng.random(rows) < TRUE_RATES[kind, action]).astype(float)
        return kind, action, chances[np.arange(rows), action], reward

    def evaluate(self, rng: np.random.Generator, rows: int, **changes: Any) -> OffPolicy | NotEnoughOverlap:  # noqa: ANN401  (evaluate_policy's arguments)
        """Evaluate the candidate on a fresh log, with a slightly wrong model."""
        kind, action, propensity, reward = self.draw(rng, rows)
        arguments = {"reward_model": 0.8 * TRUE_RATES[kind] + 0.1, "production": self.log_table[kind], **changes}
        return evaluate_policy(log_of(action, propensity, reward), self.candidate_table[kind], **arguments)


def log_of(action: np.ndarray, propensity: np.ndarray, reward: np.ndarray, **more: Any) -> LoggedRows:  # noqa: ANN401  (LoggedRows' fields)
    """Logged rows with actions by position."""
    return LoggedRows(ACTIONS, np.array(ACTIONS)[action], propensity, reward, **more)


def answered(found: OffPolicy | NotEnoughOverlap) -> OffPolicy:
    """The result, which must not be a refusal."""
    assert isinstance(found, OffPolicy), found
    return found


def refused(found: OffPolicy | NotEnoughOverlap) -> NotEnoughOverlap:
    """The refusal, which must not be a result."""
    assert isinstance(found, NotEnoughOverlap)
    return found


def repeated_values(model: np.ndarray, *, logs: int = 2_000, rows: int = 300, distort: float = 1.0) -> dict[str, Any]:
    """Estimates of the same value from many logs; `distort` not 1 makes the recorded propensities wrong.

    Returns
    -------
    dict
        Estimator to its values, shape (logs,), and "truth".
    """
    world, rng = World(0.4), np.random.default_rng(SEED)
    found: dict[str, Any] = {name: np.empty(logs) for name in ("ips", "snips", "dm", "dr", "sndr")}
    for number in range(logs):
        kind, action, propensity, reward = world.draw(rng, rows)
        chances, guessed = world.candidate_table[kind], model[kind]
        weights = importance_weights(chances, action, propensity**distort)
        found["ips"][number] = ips(weights, reward).value
        found["snips"][number] = snips(weights, reward).value
        found["dm"][number] = direct_method(chances, guessed).value
        found["dr"][number] = doubly_robust(chances, guessed, action, weights, reward).value
        found["sndr"][number] = self_normalised_doubly_robust(chances, guessed, action, weights, reward).value
    return {**found, "truth": world.value}


def z_of(found: dict[str, Any], name: str) -> float:
    """Standard errors between an estimator's mean and the truth."""
    values = found[name]
    z = float((values.mean() - found["truth"]) / (values.std(ddof=1) / math.sqrt(len(values))))
    print(f"seed {SEED}, {len(values)} logs: {name} mean {values.mean():.4f}, truth {found['truth']:.4f}, z {z:+.2f}")
    return z


# ---------------------------------------------------------------------------------------------------- estimators


def test_with_true_propensities_ips_is_unbiased_and_a_wrong_model_misleads_the_direct_method_alone() -> None:
    """2,000 logs: IPS and DR are on the truth within 3.5 standard errors with a model that says the opposite."""
    found = repeated_values(WRONG_MODEL)
    assert abs(z_of(found, "ips")) < 3.5
    assert abs(z_of(found, "dr")) < 3.5
    assert z_of(found, "dm") < -50
    assert found["snips"].mean() == pytest.approx(found["truth"], abs=0.005)


def test_with_a_right_model_the_doubly_robust_estimate_forgives_wrong_propensities() -> None:
    """The other half of double robustness; IPS with the same wrong propensities is far off."""
    found = repeated_values(TRUE_RATES, logs=1_000, distort=0.7)
    assert abs(z_of(found, "dr")) < 3.5
    assert abs(z_of(found, "dm")) < 3.5
    assert z_of(found, "ips") < -20


def test_wrong_propensities_and_a_wrong_model_together_mislead_the_doubly_robust_estimate() -> None:
    """Double robustness has its limit, and the two tests above could have failed."""
    assert abs(z_of(repeated_values(WRONG_MODEL, logs=300, distort=0.7), "dr")) > 10


def test_a_good_model_makes_the_estimate_narrower() -> None:
    """Over 500 logs the spread of DR is less than 0.7 of that of IPS, and no larger than that of SNIPS."""
    found = repeated_values(TRUE_RATES, logs=500)
    spread = {name: found[name].std(ddof=1) for name in ("ips", "snips", "dr", "sndr")}
    print(f"seed {SEED}: {spread}")
    assert spread["dr"] < 0.7 * spread["ips"]
    assert spread["dr"] < 1.02 * spread["snips"]
    assert spread["sndr"] < 1.05 * spread["dr"]


@given(
    st.lists(st.tuples(st.floats(0, 200), st.floats(0, 1)), min_size=1, max_size=30),
    st.floats(-3, 3),
)
def test_snips_stays_in_the_range_of_rewards_and_moves_with_them(rows: list[tuple[float, float]], shift: float) -> None:
    """A constant added to all rewards is added to the answer; IPS promises neither."""
    weights, reward = np.array(rows).T
    if weights.sum() < 1e-6:
        return
    value = snips(weights, reward).value
    assert reward.min() - 1e-9 <= value <= reward.max() + 1e-9
    assert snips(weights, reward + shift).value == pytest.approx(value + shift, abs=1e-9)


def test_ips_leaves_the_range_and_does_not_move_with_the_rewards() -> None:
    """Why the self-normalised form is the one to read."""
    weights, reward = np.array([3.0, 0.0]), np.array([1.0, 1.0])
    assert ips(weights, reward).value == 1.5
    assert ips(weights, reward - 1).value == 0.0
    assert snips(weights, reward).value == 1.0


def test_effective_and_carrying_rows_follow_their_formulas() -> None:
    """Equal weights count fully; the documented example has 850 effective rows and 7 that carry the error."""
    assert effective_rows(np.full(40, 2.5)) == pytest.approx(40)
    assert effective_rows(np.array([1.0, 1.0, 2.0])) == pytest.approx(16 / 6)
    assert effective_rows(np.zeros(3)) == 0.0
    assert carrying_rows(np.zeros(3)) == 0.0
    assert carrying_rows(np.full(40, 2.5)) == pytest.approx(40)
    uneven = np.concatenate([np.ones(10_000), np.full(6, 147.0)])
    assert round(effective_rows(uneven), -1) == 850
    assert round(carrying_rows(uneven)) == 7


def test_without_a_weight_there_is_nothing_to_normalise_by() -> None:
    """Said in words, not as NaN."""
    with pytest.raises(ValueError, match="all weights are 0"):
        snips(np.zeros(2), np.ones(2))


# ---------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    ("epsilon", "rows", "runs", "narrow"), [(0.3, 1_000, 250, True), (0.1, 3_000, 200, True), (0.02, 8_000, 150, False)]
)
def test_intervals_hold_the_truth_as_often_as_they_say(epsilon: float, rows: int, runs: int, narrow: bool) -> None:  # noqa: FBT001  (a test's parameter)
    """95 % within three Monte Carlo errors; with little exploration they may be wider, never narrower."""
    world, rng = World(epsilon), np.random.default_rng(SEED)
    hits: dict[str, int] = {}
    truths = {"gain_over_logging": world.value - world.logged_value}
    truths["gain_over_production"] = truths["gain_over_logging"]
    count = 0
    for _ in range(runs):
        found = world.evaluate(rng, rows)
        if isinstance(found, NotEnoughOverlap):
            continue
        count += 1
        groups = {"value": found.estimates, "gain_over_logging": found.gain_over_logging}
        groups["gain_over_production"] = found.gain_over_production or {}
        for group, estimates in groups.items():
            for name in ("ips", "snips", "dr", "sndr"):
                item, truth = estimates[name], truths.get(group, world.value)
                hits[f"{group} {name}"] = hits.get(f"{group} {name}", 0) + (item.low <= truth <= item.high)
    rates = {name: number / count for name, number in hits.items()}
    print(f"seed {SEED}, epsilon {epsilon}, {rows} rows, {count} of {runs} answered: {rates}")
    error = math.sqrt(0.95 * 0.05 / count)
    assert count > 0.9 * runs
    assert min(rates.values()) > 0.95 - 3 * error
    assert not narrow or max(rates.values()) < 0.95 + 4.5 * error


def test_heavy_rows_that_all_succeed_do_not_make_the_answer_certain() -> None:
    """Six rows of weight 147 without a failure: their luck is taken from the other rows, and t has six degrees."""
    weights = np.concatenate([np.ones(1_000), np.full(6, 147.0)])
    reward = np.concatenate([np.tile([1.0, 1.0, 1.0, 0.0], 250), np.ones(6)])
    found = snips(weights, reward)
    seen, told = float(np.sqrt(np.sum(found.influence**2))) / len(weights), found.estimate(0.95)
    assert told.standard_error > 2 * seen
    assert (told.high - told.low) / 2 > 2.4 * told.standard_error


def test_on_its_own_policy_the_answer_is_the_sample_mean() -> None:
    """Uniform or not: a policy that equals the log's has weights of 1, and every weighting estimator is the mean."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    for table in (np.full((3, 4), 0.25), World(0.1).log_table):
        kind = rng.integers(0, 3, 400)
        action = (table[kind].cumsum(axis=1) > rng.random(400)[:, None]).argmax(axis=1)
        reward = (rng.random(400) < TRUE_RATES[kind, action]).astype(float)
        logged = log_of(action, table[kind, action], reward)
        found = answered(evaluate_policy(logged, table[kind], production=table[kind]))
        assert found.recommended == "snips"
        for name in ("ips", "snips"):
            assert found.estimates[name].value == pytest.approx(reward.mean())
            assert found.gain_over_logging[name].standard_error == pytest.approx(0, abs=1e-12)
        assert found.value.standard_error == pytest.approx(found.logged.standard_error)
        assert found.logged.standard_error == pytest.approx(reward.std(ddof=1) / 20, rel=1e-3)
        assert found.overlap.effective_rows == pytest.approx(400)
        assert found.overlap.mean_weight == pytest.approx(1)


def test_a_paired_difference_is_narrower_than_two_separate_intervals() -> None:
    """What candidate and production share cancels; the difference of the values is the value of the difference."""
    print(f"seed {SEED}")
    found = answered(World(0.1).evaluate(np.random.default_rng(SEED), 4_000))
    assert found.gain_over_production is not None
    paired, alone = found.gain_over_production["snips"], found.estimates["snips"]
    assert paired.standard_error < math.hypot(alone.standard_error, found.logged.standard_error)
    assert found.gain_over_logging["sndr"].value == pytest.approx(found.value.value - found.logged.value)
    assert found.gain_over_logging["sndr"].low > 0


def test_attempts_of_one_task_do_not_count_as_more_evidence() -> None:
    """Every row written twice gives the same interval when the task is known, and a narrower one when it is not."""
    print(f"seed {SEED}")
    world = World(0.3)
    kind, action, propensity, reward = (
        np.tile(part, 2) for part in world.draw(np.random.default_rng(SEED), 1_000)
    )  # fmt: skip
    task, candidate = np.tile(np.arange(1_000).astype(str), 2), world.candidate_table[kind]
    half = slice(1_000)
    once = evaluate_policy(log_of(action[half], propensity[half], reward[half]), candidate[half])
    twice = evaluate_policy(log_of(action, propensity, reward, task=task), candidate)
    unaware = evaluate_policy(log_of(action, propensity, reward), candidate)
    errors = [answered(found).value.standard_error for found in (once, twice, unaware)]
    assert errors[1] == pytest.approx(errors[0], rel=0.02)
    assert errors[2] == pytest.approx(errors[0] / math.sqrt(2), rel=0.02)


def test_weights_are_cut_at_the_cap_and_the_bias_is_bounded() -> None:
    """With a cap of 3 IPS falls by no more than `clip_bias`, which without a cap is 0."""
    print(f"seed {SEED}")
    world = World(0.3)
    free = answered(world.evaluate(np.random.default_rng(SEED), 3_000))
    cut = answered(world.evaluate(np.random.default_rng(SEED), 3_000, limits=OverlapLimits(max_weight=3)))
    assert free.overlap.clip_bias == 0
    assert free.overlap.clipped_share == 0
    assert cut.overlap.clipped_share > 0
    assert cut.overlap.max_weight == free.overlap.max_weight > 3
    fall = free.estimates["ips"].value - cut.estimates["ips"].value
    assert 0 < fall <= cut.overlap.clip_bias
    assert abs(free.estimates["dr"].value - cut.estimates["dr"].value) <= cut.overlap.clip_bias


# ----------------------------------------------------------------------------------------------------- refusals


def test_too_little_exploration_is_refused_with_the_numbers() -> None:
    """A candidate that differs everywhere, 2 % explored, 3,000 rows: no number, a sentence."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    table = epsilon_greedy(np.tile([0.9, 0.1, 0.1, 0.1], (3_000, 1)), 0.02)
    action = (table.cumsum(axis=1) > rng.random(3_000)[:, None]).argmax(axis=1)
    candidate = epsilon_greedy(np.tile([0.1, 0.9, 0.1, 0.1], (3_000, 1)), 0.02)
    found = refused(
        evaluate_policy(log_of(action, table[np.arange(3_000), action], np.ones(3_000)), candidate)
    )  # fmt: skip
    print(found.reason)
    assert found.reason.startswith("not enough overlap: effective sample size ")
    assert f"{found.effective_rows:,.0f} of 3,000 rows" in found.reason
    assert "at least 50 and 5 are needed" in found.reason
    assert json.loads(json.dumps(found.to_dict()))["is_enough"] is False


def test_a_log_without_exploration_says_nothing_about_another_policy() -> None:
    """Propensity 1 everywhere: refused however few choices differ; the same policy is answered with the mean."""
    action, reward = np.tile([0, 1], 200), np.tile([1.0, 1.0, 0.0, 1.0], 100)
    logged = log_of(action, np.ones(400), reward)
    same = np.eye(4)[action]
    assert answered(evaluate_policy(logged, same)).value.value == 0.75
    other = same.copy()
    other[0] = [0, 0, 1, 0]
    found = refused(evaluate_policy(logged, other))
    assert "chosen with certainty" in found.reason
    assert found.overlap.unsupported_share == pytest.approx(1 / 400)


def test_choices_the_log_never_made_are_refused_beyond_the_tolerance() -> None:
    """An action that nobody ever tried cannot be judged; 2 % of it can be tolerated."""
    rng = np.random.default_rng(SEED)
    action = rng.integers(0, 3, 1_000)
    logged, few = log_of(action, np.full(1_000, 1 / 3), np.ones(1_000)), np.array([0.33, 0.33, 0.32, 0.02])
    found = answered(evaluate_policy(logged, np.tile(few, (1_000, 1))))
    assert found.overlap.never_logged_share == pytest.approx(0.02)
    many = refused(evaluate_policy(logged, np.tile([0.3, 0.3, 0.3, 0.1], (1_000, 1))))
    assert many.reason == "10.0% of the policy's choices had no chance in the log; at most 5.0% are tolerated"


def test_propensities_that_cannot_be_right_are_found_by_the_mean_weight() -> None:
    """A log that claims one half where a quarter was the truth has a mean weight of one half."""
    rng = np.random.default_rng(SEED)
    action = rng.integers(0, 4, 2_000)
    found = refused(evaluate_policy(log_of(action, np.full(2_000, 0.5), np.ones(2_000)), np.full((2_000, 4), 0.25)))
    assert "the mean weight is 0.500" in found.reason


def test_one_row_must_not_decide() -> None:
    """A broken propensity of one millionth: cut at the cap, and still the answer is refused."""
    action, propensity = np.tile(np.arange(4), 300), np.full(1_200, 0.25)
    propensity[7] = 1e-6
    limits = OverlapLimits(min_effective_rows=2, min_carrying_rows=2)
    logged = log_of(action, propensity, np.ones(1_200))
    assert "carry the error" in refused(evaluate_policy(logged, np.full((1_200, 4), 0.25))).reason
    alone = OverlapLimits(min_effective_rows=2, min_carrying_rows=2, max_weight=400)
    propensity[8] = 1e-6
    assert "one row holds" in refused(evaluate_policy(logged, np.full((1_200, 4), 0.25), limits=alone)).reason
    assert refused(evaluate_policy(logged, np.full((1_200, 4), 0.25), limits=limits)).overlap.clipped_share > 0


def test_rows_without_a_propensity_are_left_out_and_counted() -> None:
    """NaN, 0 and 1.5 are no propensities; with none left there is nothing to say."""
    print(f"seed {SEED}")
    world = World(0.3)
    kind, action, propensity, reward = world.draw(np.random.default_rng(SEED), 1_000)
    chances = world.candidate_table[kind]
    clean = answered(evaluate_policy(log_of(action[3:], propensity[3:], reward[3:]), chances[3:]))
    propensity[:3] = [math.nan, 0, 1.5]
    found = answered(evaluate_policy(log_of(action, propensity, reward), chances))
    assert (found.overlap.left_out, found.overlap.rows) == (3, 997)
    assert found.value == clean.value
    empty = refused(evaluate_policy(log_of(action, np.full(1_000, math.nan), reward), chances))
    assert empty.reason.startswith("no logged row has a propensity (1,000 rows without)")


def test_an_action_that_the_policy_does_not_have_stays_in_the_log_with_weight_0() -> None:
    """Leaving such rows out would pick the rows by what was done, and bias the answer."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    action = rng.integers(0, 4, 4_000)
    reward = (rng.random(4_000) < np.array([0.2, 0.4, 0.6, 0.8])[action]).astype(float)
    log = LoggedRows(ACTIONS[:3], np.array(ACTIONS)[action], np.full(4_000, 0.25), reward)
    found = answered(evaluate_policy(log, np.full((4_000, 3), 1 / 3)))
    assert found.overlap.zero_share == np.mean(action == 3)
    assert found.value.low < 0.4 < found.value.high


def test_a_production_that_the_log_cannot_judge_leaves_the_candidates_answer() -> None:
    """The difference is missing, and the note says why."""
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    action = rng.integers(0, 3, 1_000)
    logged = log_of(action, np.full(1_000, 1 / 3), np.ones(1_000))
    candidate, never = np.tile([1 / 3, 1 / 3, 1 / 3, 0], (1_000, 1)), np.tile([0, 0, 0, 1.0], (1_000, 1))
    found = answered(evaluate_policy(logged, candidate, production=never))
    assert found.gain_over_production is None
    assert found.production_note.startswith("production cannot be judged: 100.0% of the policy's choices")


def test_a_result_is_plain_data() -> None:
    """JSON holds every estimate, the overlap and which one to read."""
    data = json.loads(json.dumps(answered(World(0.3).evaluate(np.random.default_rng(1), 1_000)).to_dict()))
    assert data["is_enough"] is True
    assert data["recommended"] == "sndr"
    assert set(data["estimates"]) == {"ips", "snips", "dm", "dr", "sndr"}
    assert data["overlap"]["rows"] == 1_000


# ------------------------------------------------------------------------------------------------------- inputs


def test_epsilon_greedy_chances_are_the_engines() -> None:
    """The best has 1 - epsilon, the first of equals wins, others share; one allowed action is certain."""
    scores = np.array([[0.2, 0.9, 0.9, 0.1], [0.5, 0.4, 0.3, 0.2], [0.5, 0.4, 0.3, math.nan]])
    allowed = np.array([[True] * 4, [False, True, True, False], [False, False, True, False]])
    found = epsilon_greedy(scores, 0.03, allowed)
    assert found == pytest.approx(np.array([[0.01, 0.97, 0.01, 0.01], [0, 0.97, 0.03, 0], [0, 0, 1, 0]]))
    assert epsilon_greedy(scores[:2], 0)[1].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("scores", "epsilon", "allowed", "match"),
    [
        ([[0.5, 0.5]], 1.5, None, "epsilon must lie between 0 and 1"),
        ([[0.5, math.nan]], 0.1, None, "must not be NaN"),
        ([[0.5, 0.5]], 0.1, [[False, False]], "at least one action"),
    ],
)
def test_scores_that_make_no_policy_are_refused(
    scores: list[list[float]], epsilon: float, allowed: list[list[bool]] | None, match: str
) -> None:
    """The message says which argument."""
    with pytest.raises(ValueError, match=match):
        epsilon_greedy(np.array(scores), epsilon, None if allowed is None else np.array(allowed))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"candidate": np.full((4, 3), 1 / 3)}, r"candidate must have the shape \(rows, actions\) = \(4, 4\)"),
        ({"candidate": np.full((4, 4), 0.3)}, "candidate must hold probabilities that add up to 1"),
        ({"production": np.full((4, 4), math.nan)}, "production must hold probabilities"),
        ({"reward_model": np.full((4, 4), 1.5)}, "reward_model must lie between 0 and 1"),
        ({"reward_model": np.full((2, 4), 0.5)}, "reward_model must have the shape"),
    ],
)
def test_policies_and_models_of_a_wrong_shape_or_size_are_refused(changes: dict[str, Any], match: str) -> None:
    """The message names the argument."""
    logged = log_of(np.arange(4), np.full(4, 0.25), np.ones(4))
    lenient = OverlapLimits(min_effective_rows=2, min_carrying_rows=2, max_row_share=1)
    arguments = {"candidate": np.full((4, 4), 0.25), "limits": lenient, **changes}
    with pytest.raises(ValueError, match=match):
        evaluate_policy(logged, **arguments)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"reward": np.array([2.0, 0.0])}, "reward must lie"),
        ({"propensity": np.ones(3)}, r"differ in length: \[2, 3\]"),
    ],
)
def test_logged_rows_that_do_not_fit_are_refused(changes: dict[str, Any], match: str) -> None:
    """Before anything is estimated."""
    fields = {"action": np.array(["comment", "forum"]), "propensity": np.ones(2), "reward": np.ones(2), **changes}
    with pytest.raises(ValueError, match=match):
        LoggedRows(ACTIONS, **fields)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"min_effective_rows": 1}, "min_effective_rows must be at least 2"),
        ({"max_unsupported": 1.5}, "max_unsupported must lie between 0 and 1"),
        ({"max_weight": 0}, "max_weight must be above 0"),
    ],
)
def test_limits_out_of_range_are_refused(changes: dict[str, float], match: str) -> None:
    """The message names the field."""
    with pytest.raises(ValueError, match=match):
        OverlapLimits(**changes)
