"""The simulated automation does what it says: a known truth, rates as named, everything from the seed."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from retrain_assets.core.outcomes import OutcomeRules, Result, read_outcome
from retrain_assets.demo.automation import Policy, SimulatedAutomation, SimulatedTask, outcome_row
from retrain_assets.demo.automation_truth import ACTIONS, expit, solve_shift
from retrain_assets.settings import Config

START = datetime(2026, 1, 4, 2, tzinfo=UTC)
END = START + timedelta(days=28)
NOW = datetime(2026, 11, 23, tzinfo=UTC)
TASKS = 20_000
# Three standard errors of a rate at 20,000 tasks and of the population on which the rate was calibrated.
NEAR = 0.015


@pytest.fixture(scope="module", params=[0, 7], ids="seed {}".format)
def automation(request: pytest.FixtureRequest) -> SimulatedAutomation:
    """Two seeds."""
    return SimulatedAutomation(request.param)


@pytest.fixture(scope="module")
def tasks(automation: SimulatedAutomation) -> list[SimulatedTask]:
    """Tasks that calibration has not seen."""
    return automation.tasks(TASKS)


def test_the_best_action_succeeds_at_the_rate_named(
    automation: SimulatedAutomation, tasks: list[SimulatedTask]
) -> None:
    """0.85 with errors counted against it; a random action is far worse, so choosing matters."""
    truth = automation.success_probability(tasks)
    assert truth.max(axis=1).mean() == pytest.approx(0.85, abs=NEAR)
    assert truth.mean() < 0.5
    assert truth.min(axis=1).mean() < 0.1


def test_no_constant_choice_comes_close_to_the_best_action(
    automation: SimulatedAutomation, tasks: list[SimulatedTask]
) -> None:
    """Each action is the best somewhere, and the best single one loses at least 0.2 against choosing per task."""
    truth = automation.success_probability(tasks)
    shares = np.bincount(truth.argmax(axis=1), minlength=4) / len(tasks)
    assert shares.min() > 0.05
    assert truth.mean(axis=0).max() < truth.max(axis=1).mean() - 0.2


def test_the_truth_of_one_task_is_that_of_many(automation: SimulatedAutomation, tasks: list[SimulatedTask]) -> None:
    """The scalar sum behind `outcome` and the arrays behind `success_probability` are one formula."""
    truth = automation.success_probability(tasks[:200])
    for i, task in enumerate(tasks[:200]):
        assert automation.best_action(task) == ACTIONS[int(truth[i].argmax())]
        assert automation.success_probability([task])[0] == pytest.approx(truth[i])


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({}, (0.85, 0.02)),
        ({"success_rate": 0.70}, (0.70, 0.02)),  # production drops
        ({"error_rate": 0.15}, (0.85 * 0.85 / 0.98, 0.15)),  # errors spike and take their share of the successes
        ({"success_rate": 0.70, "error_rate": 0.15}, (0.70, 0.15)),
        ({"success_rate": 0.30}, (0.30, 0.02)),
    ],
)
def test_conditions_bring_the_rates_they_name(
    automation: SimulatedAutomation,
    tasks: list[SimulatedTask],
    named: dict[str, float],
    expected: tuple[float, float],
) -> None:
    """Drawn outcomes of the best action have the rates within sampling error."""
    now = automation.conditions(success_rate=named.get("success_rate"), error_rate=named.get("error_rate"))
    rng = np.random.default_rng(automation.seed)
    sample = tasks[:8_000]
    counts = Counter(automation.outcome(task, automation.best_action(task), rng, now).result for task in sample)
    assert counts[Result.SUCCESS] / len(sample) == pytest.approx(expected[0], abs=0.02)
    assert counts[Result.ERROR] / len(sample) == pytest.approx(expected[1], abs=0.015)


def test_a_rate_can_be_named_for_any_policy(automation: SimulatedAutomation, tasks: list[SimulatedTask]) -> None:
    """With a policy that always comments, 0.30 is that policy's success, not the best action's."""
    now = automation.conditions(success_rate=0.30, choose=lambda shown: ["comment"] * len(shown))
    truth = automation.success_probability(tasks, now)
    assert truth[:, 0].mean() == pytest.approx(0.30, abs=0.03)
    assert truth.max(axis=1).mean() > 0.5


def test_worse_times_keep_the_order_of_the_actions(automation: SimulatedAutomation, tasks: list[SimulatedTask]) -> None:
    """A dip hits all actions alike, so what was best stays best."""
    before = automation.success_probability(tasks[:500])
    after = automation.success_probability(tasks[:500], automation.conditions(success_rate=0.5))
    assert (before.argsort(axis=1) == after.argsort(axis=1)).all()
    assert (after < before).all()


def test_conditions_are_the_only_difference_between_two_runs_of_one_generator(
    automation: SimulatedAutomation, tasks: list[SimulatedTask]
) -> None:
    """With the same random numbers a worse time turns successes into failures and nothing else."""
    worse = automation.conditions(success_rate=0.6)
    first, second = np.random.default_rng(3), np.random.default_rng(3)
    for task in tasks[:1_000]:
        good = automation.outcome(task, "comment", first)
        bad = automation.outcome(task, "comment", second, worse)
        assert good.result == bad.result or (good.result, bad.result) == (Result.SUCCESS, Result.FAILURE)


def test_rates_that_contradict_each_other_are_refused(automation: SimulatedAutomation) -> None:
    """Nobody can succeed in 0.9 of the tasks when 0.15 end in errors."""
    with pytest.raises(ValueError, match=r"between 0 and 1 - error_rate 0\.15"):
        automation.conditions(success_rate=0.9, error_rate=0.15)
    with pytest.raises(ValueError, match="'comments' is not one of"):
        automation.outcome(automation.tasks(1)[0], "comments", np.random.default_rng(0))


def test_a_solved_shift_gives_the_rate_it_was_solved_for() -> None:
    """The equation of the docstring holds to eight digits, also far from the middle."""
    logits = np.random.default_rng(11).normal(0, 3, 5_000)
    for success, error in ((0.85, 0.02), (0.01, 0.0), (0.98, 0.015)):
        shift = solve_shift(logits, success, error)
        assert (1 - error) * expit(logits + shift).mean() == pytest.approx(success, abs=1e-8)


def test_a_number_names_the_same_task_in_every_call(automation: SimulatedAutomation) -> None:
    """Streams may be asked for in any pieces; another seed gives other tasks."""
    whole = automation.tasks(700)
    assert automation.tasks(300, first=150) == whole[150:450]
    assert automation.tasks(0) == []
    assert len({task.task_id for task in whole}) == 700
    other = SimulatedAutomation(automation.seed + 1).tasks(700)
    assert [task.features for task in other] != [task.features for task in whole]


def test_history_is_the_same_for_the_same_seed(automation: SimulatedAutomation) -> None:
    """Two automations of one seed write the same rows."""
    again = SimulatedAutomation(automation.seed)
    assert again.history(300, START, END) == automation.history(300, START, END)


def test_the_collector_accepts_the_history_with_the_shipped_configuration(automation: SimulatedAutomation) -> None:
    """Rows fit the default features and actions; times run evenly from the start to before the end."""
    rules = OutcomeRules(schema=Config().schema, unknown_columns="quarantine")
    rows = automation.history(400, START, END)
    stored = [read_outcome(row, rules, NOW) for row in rows]
    assert stored[0].occurred_at == START
    assert stored[-1].occurred_at < END
    assert [row.occurred_at for row in stored] == sorted(row.occurred_at for row in stored)
    assert {row.action_attempted for row in stored} == set(ACTIONS)
    assert len({row.outcome_id for row in stored}) == 400
    assert all(len(row.features) >= 10 for row in stored)
    assert any("pa" not in row.features for row in stored)


@pytest.mark.parametrize(
    ("policy", "low", "high"), [("best", 0.82, 0.88), ("uniform", 0.3, 0.42), ("worst", 0.0, 0.06)]
)
def test_history_succeeds_as_its_policy_deserves(
    automation: SimulatedAutomation, policy: Policy, low: float, high: float
) -> None:
    """The best choice near 0.85, a random one far below, the worst near nothing; errors near 0.02 throughout."""
    rows = automation.history(4_000, START, END, policy=policy)
    results = Counter(row["result"] for row in rows)
    assert low < results["success"] / len(rows) < high
    assert results["error"] / len(rows) == pytest.approx(0.02, abs=0.01)


def test_times_and_reasons_tell_what_happened(automation: SimulatedAutomation) -> None:
    """Only a success has no reason; failures take longer than successes and errors longest."""
    rows = automation.history(6_000, START, END, conditions=automation.conditions(error_rate=0.2))
    assert all((row["failure_reason"] is None) == (row["result"] == "success") for row in rows)
    medians = [
        np.median([r["execution_time"] for r in rows if r["result"] == kind and r["action_attempted"] == "profile"])
        for kind in ("success", "failure", "error")
    ]
    assert medians[0] < medians[1] < medians[2]


def test_history_with_naive_or_reversed_times_or_an_unknown_policy_is_refused(automation: SimulatedAutomation) -> None:
    """Instants are aware and in order; a misspelt policy is not taken for a random one."""
    with pytest.raises(ValueError, match="aware and in order"):
        automation.history(5, END, START)
    with pytest.raises(ValueError, match="aware and in order"):
        automation.history(5, START.replace(tzinfo=None), END)
    with pytest.raises(ValueError, match="uniform, best, worst"):
        automation.history(5, START, END, policy="bset")  # type: ignore[arg-type]


def test_a_row_of_a_decision_leaves_the_features_to_the_decision_log(automation: SimulatedAutomation) -> None:
    """With a decision the row names it and carries no feature."""
    task = automation.tasks(1)[0]
    outcome = automation.outcome(task, "forum", np.random.default_rng(0))
    row = outcome_row(task, "forum", outcome, START, decision_id="d-1")
    assert row["decision_id"] == "d-1"
    assert not set(task.features) & set(row)


def test_a_learned_model_clearly_beats_a_constant(automation: SimulatedAutomation) -> None:
    """2,000 random choices teach a plain model enough: half the constant's log loss, 0.8 success when it chooses."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows = automation.history(3_000, START, END)
    labels = np.array([row["result"] == "success" for row in rows])
    matrix = np.array([_encoded(row, str(row["action_attempted"])) for row in rows], dtype=np.float64)
    model = HistGradientBoostingClassifier(random_state=0).fit(matrix[:2_000], labels[:2_000])
    predicted = model.predict_proba(matrix[2_000:])[:, 1]
    rate = labels[:2_000].mean()
    constant = np.where(labels[2_000:], -np.log(rate), -np.log(1 - rate)).mean()
    learned = np.where(labels[2_000:], -np.log(predicted), -np.log(1 - predicted)).mean()
    assert learned < 0.65 * constant
    assert ((predicted > 0.5) == labels[2_000:]).mean() > 0.8
    tasks = automation.tasks(1_000, first=50_000)
    scores = [
        model.predict_proba(np.array([_encoded(task.features, action) for task in tasks], dtype=np.float64))[:, 1]
        for action in ACTIONS
    ]
    chosen = np.argmax(scores, axis=0)
    assert automation.success_probability(tasks)[np.arange(len(tasks)), chosen].mean() > 0.78


def _encoded(features: dict[str, object], action: str) -> list[object]:
    categories = ("blog", "community", "directory", "news"), ("wordpress", "custom", "phpbb", "discourse", "drupal")
    kind, platform = str(features["site_type"]), str(features["platform_guess"])
    schema = Config().schema
    plain = [features[name] for name in schema.names if name not in {"site_type", "platform_guess"}]
    return [*plain, categories[0].index(kind), categories[1].index(platform), ACTIONS.index(action)]
