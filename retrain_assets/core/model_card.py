"""The model card of a version: Markdown for people, made of what the registry holds and nothing else.

Holds its text and the intervals that a training records for it; does not hold the reading of the registry or the file
(`operations/model_card.py`). Every number on a card is one of the registry's, rounded to four digits: nothing is
computed here but in `intervals`, whose result is recorded with the training. Texts that come from data are escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from retrain_assets.core.dataset import Snapshot
from retrain_assets.core.deployment import ModelVersion

if TYPE_CHECKING:
    import numpy as np

FEW_ROWS = 30
"""Test rows below which an action or stratum is named as weakly tested; "thirty" in the text."""
SHOWN_GROUPS = 40
"""Lines of a table over strata; the ones with the fewest rows come first."""
_SCORES = ("success_rate", "predicted_rate", "log_loss", "brier", "calibration_error", "roc_auc", "accuracy")
_SPECIAL = re.compile(r"([|`<>\[\]*\\])")


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card is made of.

    Attributes
    ----------
    model : ModelVersion
    snapshots : sequence of Snapshot
        Of its dataset, in order.
    rows : int
        As the dataset records it.
    splits, libraries : mapping
        As the training records them.
    use : mapping
        From the configuration: `problem`, `task_timeout_minutes`, `shares`, `epsilon`, `default_action`.
    """

    model: ModelVersion
    snapshots: Sequence[Snapshot]
    rows: int
    splits: Mapping[str, Any]
    libraries: Mapping[str, str]
    use: Mapping[str, Any]


def intervals(success: np.ndarray, p: np.ndarray, task: np.ndarray, action: np.ndarray) -> dict[str, Any]:
    """95 % intervals of success rate, log loss and Brier score on held-out rows, overall and by action.

    Rows of one task are one piece of evidence; Student's t over tasks (`core.paired.paired_mean`).

    Parameters
    ----------
    success : ndarray of bool, shape (rows,)
    p : ndarray of float64, shape (rows,)
    task, action : ndarray of str, shape (rows,)

    Returns
    -------
    dict
        `overall`, and `by_action` by name: metric to `[low, high]`, None with fewer than two tasks. JSON-able.
    """
    import numpy as np

    from retrain_assets.core.metrics import losses
    from retrain_assets.core.paired import paired_mean

    values = {"success_rate": success.astype(float), "log_loss": losses(success, p), "brier": (p - success) ** 2}

    def of(rows: np.ndarray) -> dict[str, list[float] | None]:
        found = {name: paired_mean(each[rows], task[rows]) for name, each in values.items()}
        return {
            name: None if mean.low is None or mean.high is None else [mean.low, mean.high]
            for name, mean in found.items()
        }

    names = np.unique(action.astype(str))
    return {
        "overall": of(np.ones(len(success), dtype=bool)),
        "by_action": {str(name): of(action.astype(str) == name) for name in names},
    }


def model_card(facts: CardFacts) -> str:
    """The card's Markdown."""
    parts = (_head, _use, _data, _features, _results, _gates, _limits, _training, _lineage)
    return "\n".join(line for part in parts for line in part(facts)).rstrip() + "\n"


def number(value: Any) -> str:  # noqa: ANN401  (any fact)
    """A fact as the card shows it: floats with four digits, nothing as `-`, texts escaped."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return str(value)
        case float():
            return f"{value:.4g}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M} UTC"
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))


def _head(facts: CardFacts) -> Iterator[str]:
    model = facts.model
    yield f"# Model card: {model.version} of {number(facts.use['problem'])}"
    yield ""
    trained = f"Trained on week {model.week}{', as a backfill' if model.is_backfill else ''}"
    yield f"Status {model.status.value}. {trained}, registered {number(model.created_at)}."
    yield ""


def _use(facts: CardFacts) -> Iterator[str]:
    schema, use = facts.model.spec["schema"], facts.use
    yield "## Intended use"
    yield ""
    actions = ", ".join(number(action) for action in schema["actions"])
    yield f"Scores the actions {actions} for one task of `{use['problem']}`: the probability that the action succeeds."
    yield f"An outcome counts when it comes within {number(use['task_timeout_minutes'])} minutes of the decision."
    shares = ", ".join(number(share) for share in use["shares"])
    yield f"A version goes on trial with a share of {shares} of the tasks; the share {number(use['epsilon'])} of the"
    yield "decisions tries another action than the best. It cannot score an action that is not listed here."
    if use.get("default_action"):
        yield f"While no version can answer, the action is {number(use['default_action'])}."
    yield ""


def _data(facts: CardFacts) -> Iterator[str]:
    yield "## Data"
    yield ""
    splits = facts.splits
    yield from _table(("part", "rows", "from", "to"), [
        ("dataset", facts.rows, facts.snapshots[0].week if facts.snapshots else None,
         facts.snapshots[-1].week if facts.snapshots else None),
        ("train", splits.get("train"), None, splits.get("train_ends_at")),
        ("validation", splits.get("validation"), splits.get("validation_starts_at"), splits.get("validation_ends_at")),
        ("test", splits.get("test"), splits.get("test_starts_at"), None),
        ("left out: in the gap between parts", splits.get("dropped_in_gap"), None, None),
        ("left out: attempts of a task in a newer part", splits.get("dropped_straddling"), None, None),
    ])  # fmt: skip
    gap = number(splits.get("gap_minutes"))
    yield f"The dataset's weeks are named by their first day. Gap between parts: {gap} minutes."
    yield f"Of the training rows a share of {number(facts.model.metrics.get('train_success_rate'))} succeeded."
    yield ""


def _features(facts: CardFacts) -> Iterator[str]:
    yield "## Features"
    yield ""
    profiled = (facts.model.metrics.get("profile") or {}).get("features") or {}
    rows = []
    for feature in facts.model.spec["schema"]["features"]:
        known = profiled.get(feature["name"]) or {}
        points = known.get("points") or [None]
        rows.append((feature["name"], feature["type"], known.get("rows"), known.get("missing"), points[0], points[-1]))
    yield from _table(("feature", "type", "training rows", "of them missing", "lowest", "highest"), rows)


def _results(facts: CardFacts) -> Iterator[str]:
    metrics = facts.model.metrics
    found = {part: (metrics.get(part) or {}).get("overall") or {} for part in ("validation", "test")}
    bounds = (metrics.get("intervals") or {}).get("overall") or {}
    yield "## Results on held-out rows"
    yield ""
    rows: list[tuple[Any, ...]] = [("rows", found["validation"].get("n"), found["test"].get("n"), None)]
    rows += [(name, found["validation"].get(name), found["test"].get(name), _span(bounds.get(name)))
             for name in _SCORES]  # fmt: skip
    yield from _table(("metric", "validation", "test", "test, 95 % interval"), rows)
    yield "Validation rows chose the number of trees, the calibration and, where there was one, the search's"
    yield "parameters: only the test rows are untouched."
    yield ""
    yield "Per action, test rows:"
    yield ""
    by_action = (metrics.get("test") or {}).get("by_action") or {}
    of_action = (metrics.get("intervals") or {}).get("by_action") or {}
    yield from _table(("action", "rows", "succeeded", "predicted", "log loss", "log loss, 95 % interval", "ROC AUC"), [
        (action, *(each.get(name) for name in ("n", "success_rate", "predicted_rate", "log_loss")),
         _span((of_action.get(action) or {}).get("log_loss")), each.get("roc_auc"))
        for action, each in ((name, by_action.get(name) or {"n": 0}) for name in facts.model.spec["schema"]["actions"])
    ])  # fmt: skip


def _gates(facts: CardFacts) -> Iterator[str]:
    report = facts.model.report
    yield "## Validation"
    yield ""
    if not report:
        yield "Not validated yet."
        yield ""
        return
    rows = [(gate["name"], "passed" if gate["passed"] else "refused", gate["value"], gate["limit"])
            for gate in report.get("gates", [])]  # fmt: skip
    yield from _table(("gate", "", "found", "limit"), rows)
    rival = report.get("production_version")
    yield f"Compared with {rival} on the same rows:" if rival else "No other version was compared on the same rows."
    yield ""
    compared = [(*(each[name] for name in ("metric", "candidate", "reference", "improvement")),
                 _span([each["low"], each["high"]])) for each in report.get("comparisons", [])]  # fmt: skip
    if compared:
        columns = ("metric", "this version", "the other", "improvement", "improvement, 95 % interval")
        yield from _table(columns, compared)


def _limits(facts: CardFacts) -> Iterator[str]:
    test = facts.model.metrics.get("test") or {}
    yield "## Limits"
    yield ""
    yield f"- Tested on tasks from {number(facts.splits.get('test_starts_at'))} on; what came later is not known here."
    yield "- Each task shows the outcome of the action that was taken. What another action would have given is"
    yield "  estimated, not observed."
    counts = {action: (test.get("by_action") or {}).get(action, {}).get("n", 0)
              for action in facts.model.spec["schema"]["actions"]}  # fmt: skip
    yield from _few("action", counts)
    yield from _few("stratum", {name: each.get("n", 0) for name, each in (test.get("by_stratum") or {}).items()})
    off = [row for row in test.get("calibration") or [] if not row["low"] <= row["predicted"] <= row["high"]]
    if off:
        yield "- Predicted rates outside the 95 % interval of what was observed:"
        yield ""
        names = ("n", "predicted", "observed", "low", "high")
        yield from _table(("rows", *names[1:]), [tuple(row[name] for name in names) for row in off])
    elif test.get("calibration"):
        yield "- In every bin of the calibration table the predicted rate lies in the 95 % interval of the observed."
    if not facts.model.report:
        yield "- Not validated: no gate has been judged."
    yield ""


def _few(kind: str, counts: Mapping[str, int]) -> Iterator[str]:
    weak = sorted(((n, name) for name, n in counts.items() if n < FEW_ROWS))[:SHOWN_GROUPS]
    for n, name in weak:
        told = "no test row" if n == 0 else f"only {n} test row{'s' if n > 1 else ''}, fewer than thirty"
        yield f"- {kind.capitalize()} {number(name) or 'without a name'}: {told}."


def _training(facts: CardFacts) -> Iterator[str]:
    spec, metrics = facts.model.spec, facts.model.metrics
    parity, search = metrics.get("parity") or {}, metrics.get("search") or {}
    source = spec.get("source") or {}
    yield "## Training"
    yield ""
    yield from _table(("setting", "value"), [
        ("estimator", spec["estimator"]),
        *((f"parameter {name}", json.dumps(value)) for name, value in sorted(spec["params"].items())),
        *((f"estimator's {name}", value) for name, value in source.items() if value),
        ("mode", f"{metrics.get('mode')}: {metrics.get('mode_reason')}"),
        *([("search", search["reason"])] if search else []),
        ("seed", facts.model.seed),
        ("threads", spec.get("threads")),
        ("rows of the parity gate", parity.get("rows")),
        ("largest difference between pipeline and engine", parity.get("max_abs_difference")),
        ("code", facts.model.code_version),
        *((name, version) for name, version in sorted(facts.libraries.items())),
    ])  # fmt: skip


def _lineage(facts: CardFacts) -> Iterator[str]:
    model = facts.model
    yield "## Lineage"
    yield ""
    yield from _table(("what", "value"), [
        ("dataset", model.dataset_hash),
        ("schema", model.schema_version),
        ("training", model.training_id),
        ("parent", model.parent_version),
        ("run", model.run_id),
        *((name, entry["sha256"]) for name, entry in sorted(model.artefacts.items())),
    ])  # fmt: skip
    yield from _table(("week", "rows", "content hash"), [(p.week, p.rows, p.content_hash) for p in facts.snapshots])
    yield "How to check and rebuild it:"
    yield ""
    yield "```bash"
    yield f"retrain lineage {model.version} --deep"
    yield f"retrain reproduce {model.version}"
    yield "```"


def _span(bounds: Sequence[float | None] | None) -> str | None:
    if not bounds or bounds[0] is None or bounds[1] is None:
        return None
    return f"{number(float(bounds[0]))} to {number(float(bounds[1]))}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(number(value) for value in row) + " |"
    yield ""
