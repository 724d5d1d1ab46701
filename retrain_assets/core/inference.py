"""From a sample of somebody's log to a problem: fields, actions, features and limits, each with its evidence.

Holds the guesses; does not hold how columns are measured (`core/sample_columns.py`), the reading of a sample
(`operations/sample.py`) or the text of a configuration (`core/config_text.py`).

Every guess is a `Guess` that says what was seen and which key to edit when it is wrong. What cannot be guessed is an
error: a log without results, instants, tasks or a choice of actions is nothing to learn from.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

from retrain_assets.core.action_spellings import variants
from retrain_assets.core.cells import TELLING_RESULTS, seconds_per_unit
from retrain_assets.core.columns import LEFT_OUT, ColumnNames
from retrain_assets.core.feature_inference import (
    NAME,
    InferredFeature,
    config_name,
    described,
    shown,
    strata_of,
    why_no_feature,
)
from retrain_assets.core.features import MAX_TEXT_LENGTH, FeatureType
from retrain_assets.core.log_words import (
    ACTION,
    ATTEMPT,
    DOMAIN,
    DURATION,
    NAMES_OF_ONE,
    REASON,
    RESULT,
    RETRIES,
    TASK,
    TIME,
    WEAK,
)
from retrain_assets.core.outcomes import FIXED_FIELDS, Result
from retrain_assets.core.sample_columns import (
    FITS,
    LONG_TEXT,
    MOST_CATEGORIES,
    Sample,
    SampleColumn,
    column_of,
    has_decimal_comma,
)
from retrain_assets.errors import RetrainError

MOST_ACTIONS = 50

_NICE_MINUTES = (15, 30, 60, 120, 240, 480, 720, 1440, 2880, 10080)
_LEAST_NAMED = 2


@dataclass(frozen=True, slots=True)
class Guess:
    """One thing that was inferred.

    Attributes
    ----------
    what : str
        The key of the configuration, or the field, that was guessed.
    value : any
        JSON-able.
    evidence : str
        What was seen in the sample.
    edit : str
        What to change when it is wrong.
    """

    what: str
    value: Any
    evidence: str
    edit: str


@dataclass(slots=True)
class Inference:
    """A problem as a log describes it.

    Attributes
    ----------
    columns : dict
        Column to field, feature or `-`, where they differ in name.
    actions : list of str
    action_aliases : dict
    features : dict
    left_out : dict
        Columns that are no feature, with why.
    strata : list of str
    timezone : str or None
        What instants without an offset mean; None when all have one.
    decimal : str
    task_timeout_minutes : int
    min_new_samples : int
    success_rate, error_rate : float
        Of the sample.
    guesses : list of Guess
    """

    columns: dict[str, str] = field(default_factory=dict)
    actions: list[str] = field(default_factory=list)
    action_aliases: dict[str, str] = field(default_factory=dict)
    features: dict[str, InferredFeature] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    strata: list[str] = field(default_factory=list)
    timezone: str | None = None
    decimal: str = "."
    task_timeout_minutes: int = 60
    min_new_samples: int = 100
    success_rate: float = 0.0
    error_rate: float = 0.0
    guesses: list[Guess] = field(default_factory=list)

    @property
    def commoner_share(self) -> float:
        """Accuracy of always guessing the commoner of success and no success."""
        return max(self.success_rate, 1 - self.success_rate)

    def guess(self, what: str, value: Any, evidence: str, edit: str) -> None:  # noqa: ANN401  (JSON-able)
        """Note something that was inferred."""
        self.guesses.append(Guess(what, value, evidence, edit))


def infer(
    sample: Sample,
    *,
    renames: Mapping[str, str] | None = None,
    timezone: str | None = None,
    decimal: str | None = None,
) -> Inference:
    """Infer a problem.

    Parameters
    ----------
    sample : Sample
    renames : mapping, optional
        Columns whose field somebody named; not guessed again.
    timezone, decimal : str, optional
        As somebody said.

    Raises
    ------
    RetrainError
        Names what could not be inferred, and how to say it.
    """
    if not sample.rows:
        raise RetrainError("there are no rows to infer a problem from; name a file with outcomes")
    plain = [column_of(sample, name) for name in sample.columns if name]
    sign = decimal or ("," if sample.is_text and has_decimal_comma(plain) else ".")
    columns = {column.name: SampleColumn(column.name, column.cells, sign) for column in plain}
    return _Inferring(sample, columns, renames or {}, timezone, sign).all()


class _Inferring:
    """One inference, field by field; a column is taken once."""

    def __init__(
        self,
        sample: Sample,
        columns: dict[str, SampleColumn],
        renames: Mapping[str, str],
        timezone: str | None,
        decimal: str,
    ) -> None:
        self.sample = sample
        self.columns = columns
        self.said = {ours: theirs for theirs, ours in renames.items() if ours != LEFT_OUT and theirs in columns}
        self.not_wanted = {theirs for theirs, ours in renames.items() if ours == LEFT_OUT}
        self.zone = timezone
        self.taken: dict[str, str] = {}
        self.found = Inference(decimal=decimal)

    def all(self) -> Inference:
        """Every guess, the fields that all else rests on first."""
        self._result()
        self._timestamp()
        self._task()
        self._action()
        self._optional_fields()
        self._actions()
        self._features()
        self._strata()
        self._limits()
        self._columns()
        if self.found.decimal == ",":
            seen = "numbers such as 3,5 in the sample"
            self.found.guess("imports.decimal", ",", seen, "imports.decimal")
        return self.found

    # ------------------------------------------------------------------------------------------------------ fields

    def _free(self) -> list[SampleColumn]:
        others = set(self.said.values()) | self.not_wanted | self.sample.inner
        return [column for name, column in self.columns.items() if name not in self.taken and name not in others]

    def _find(self, ours: str, words: Iterable[str], fits: Callable[[SampleColumn], bool]) -> SampleColumn | None:
        """The column that somebody named, or the first by name whose values fit."""
        if ours in self.said:
            return self.columns[self.said[ours]]
        free = self._free()
        for word in words:
            named = [column for column in free if column.key == word]
            if word not in WEAK:
                named += [column for column in free if column.key.endswith(f"_{word}") and column not in named]
            for column in named:
                if column.values and fits(column):
                    return column
        return None

    def _take(self, column: SampleColumn, ours: str, evidence: str) -> None:
        self.taken[column.name] = ours
        self.found.guess(ours, column.name, evidence, f"imports.columns, or --map COLUMN={ours}")

    def _result(self) -> None:
        column = self._find("result", RESULT, lambda found: found.result_share >= FITS)
        if column is None:
            telling = [found for found in self._free() if found.values and found.result_share >= FITS and _tells(found)]
            column = telling[0] if telling else None
        if column is None or column.result_share == 0:
            raise RetrainError(self._no_result())
        counts = Counter(result for result in column.results if result is not None)
        total = max(sum(counts.values()), 1)
        self.results = column.results
        self.found.success_rate = counts[Result.SUCCESS] / total
        self.found.error_rate = counts[Result.ERROR] / total
        told = ", ".join(f"{count:,} {result.value}" for result, count in counts.most_common())
        if len(counts) == 1:
            told += "; a model can learn only where there is more than one result"
        self._take(column, "result", told)

    def _no_result(self) -> str:
        close = [column for column in self._free() if column.key in RESULT and len(column.counts) <= MOST_CATEGORIES]
        seen = "".join(f"; {column.name} holds {shown(column.counts)}" for column in close[:2])
        hint = "name it with --map COLUMN=result; its values must be success, failed, error, true, false, 1, 0 or alike"
        return f"no column looks like a result: {hint}{seen}. The columns are: {self._names()}"

    def _timestamp(self) -> None:
        column = self._find("timestamp", TIME, lambda found: found.moment_share >= FITS)
        if column is None:
            others = [found for found in self._free() if found.values and not found.is_numeric]
            column = next((found for found in others if found.moment_share >= FITS), None)
        if column is None or not column.moments:
            close = next((found for found in self._free() if found.key in TIME and found.values), None)
            seen = (
                f"; {close.name} holds {shown(close.counts)}, which is not read (see docs/how-to/own-data.md)"
                if close
                else ""
            )
            hint = f"name it with --map COLUMN=timestamp{seen}"
            raise RetrainError(f"no column looks like an instant: {hint}. The columns are: {self._names()}")
        naive = sum(moment.tzinfo is None for moment in column.moments)
        aware = [m if m.tzinfo is not None else m.replace(tzinfo=UTC) for m in column.moments]
        self.first, self.last = min(aware), max(aware)
        self._take(column, "timestamp", f"from {self.first:%Y-%m-%d} to {self.last:%Y-%m-%d}")
        if naive:
            self.found.timezone = self.zone or "UTC"
            how = "you said so" if self.zone else "nothing in the log says which zone they are in"
            evidence = f"{naive:,} of {len(column.moments):,} instants have no offset; {how}"
            self.found.guess(
                "imports.timezone", self.found.timezone, evidence, "imports.timezone, such as Europe/Berlin"
            )
        else:
            self.found.timezone = self.zone

    def _task(self) -> None:
        def fits(column: SampleColumn) -> bool:
            is_id = not column.is_nested and column.missing_share < 1 - FITS and column.type is not FeatureType.NUMBER
            return is_id and (column.key == "task_id" or column.distinct_share >= 0.3)

        column = self._find("task_id", TASK, fits)
        if column is None:
            ids = [
                c for c in self._free() if c.values and fits(c) and c.distinct_share >= 0.9 and c.words & NAMES_OF_ONE
            ]
            column = ids[0] if ids else None
        if column is None:
            hint = "name it with --map COLUMN=task_id"
            raise RetrainError(f"no column looks like a task's id: {hint}. The columns are: {self._names()}")
        self._take(column, "task_id", f"{len(column.counts):,} different values in {len(column.values):,} rows")

    def _action(self) -> None:
        column = self._find("action_attempted", ACTION, _is_choice)
        if column is None:
            likely = [
                found for found in self._free() if _is_choice(found) and not found.is_boolean and not found.is_numeric
            ]
            if len(likely) != 1:
                which = (
                    f"it may be {', '.join(found.name for found in likely)}" if likely else f"there are {self._names()}"
                )
                raise RetrainError(
                    f"no column is surely the action: name it with --map COLUMN=action_attempted; {which}"
                )
            column = likely[0]
        self.action = column
        self._take(column, "action_attempted", f"{len(column.counts)} different values: {shown(column.counts)}")

    def _optional_fields(self) -> None:
        def counted(column: SampleColumn) -> bool:
            return (
                column.type is FeatureType.INTEGER
                and len(column.numbers) == len(column.values)
                and min(column.numbers) >= 0
            )

        def first(column: SampleColumn) -> bool:
            return counted(column) and min(column.numbers) >= 1

        def seconds(column: SampleColumn) -> bool:
            return column.is_numeric and len(column.numbers) == len(column.values) and min(column.numbers) >= 0

        def chance(column: SampleColumn) -> bool:
            return seconds(column) and all(0 < number <= 1 for number in column.numbers)

        def text(column: SampleColumn) -> bool:
            return not column.is_nested and column.longest <= MAX_TEXT_LENGTH

        def host(column: SampleColumn) -> bool:
            dotted = sum(count for value, count in column.counts.items() if "." in value and " " not in value)
            return text(column) and (column.key == "domain" or dotted >= 0.8 * len(column.values))

        durations = [column.key for column in self._free() if DURATION.search(column.key)]
        wanted: tuple[tuple[str, Iterable[str], Callable[[SampleColumn], bool]], ...] = (
            ("decision_id", ("decision_id",), text),
            ("attempt", ATTEMPT, first),
            ("retry_count", RETRIES, counted),
            ("execution_time", ("execution_time", "execution_time_s", *sorted(durations)), seconds),
            ("domain", DOMAIN, host),
            ("model_version", ("model_version",), text),
            ("propensity", ("propensity",), chance),
            ("outcome_id", ("outcome_id",), text),
            ("replaces", ("replaces",), text),
            ("failure_reason", REASON, lambda column: text(column) and not column.is_numeric),
        )
        for ours, words, fits in wanted:
            column = self._find(ours, words, fits)
            if column is not None:
                per_unit = seconds_per_unit(column.key) if ours == "execution_time" else 1.0
                unit = {0.001: ", in milliseconds", 60.0: ", in minutes"}.get(per_unit, "")
                self._take(column, ours, f"{len(column.values):,} values{unit}, such as {shown(column.counts, 1)}")

    def _actions(self) -> None:
        groups = variants(self.action.counts)
        least = _LEAST_NAMED if len(self.action.values) >= 1_000 else 1
        kept = {name: group for name, group in groups.items() if sum(group.values()) >= least}
        rare = [value for name, group in groups.items() if name not in kept for value in group]
        for name, group in kept.items():
            self.found.actions.append(name)
            others = {value.casefold(): value for value in group if value.casefold() != name.casefold()}
            self.found.action_aliases |= dict.fromkeys(others.values(), name)  # one for each: case is ignored
        if len(self.found.actions) < 2:
            only = self.found.actions[0] if self.found.actions else "none"
            column = self.action.name
            raise RetrainError(
                f"{column} holds one action only ({only}): with nothing to choose there is nothing to learn; "
                "name another column with --map COLUMN=action_attempted, or bring a log in which several were tried"
            )
        told = f"{len(self.action.counts)} spellings of {len(self.found.actions)} actions in column {self.action.name}"
        told += f"; left out as too rare: {', '.join(rare)}" if rare else ""
        self.found.guess("problem.actions", self.found.actions, told, "problem.actions")
        if self.found.action_aliases:
            seen = "they look like other spellings of the same action"
            self.found.guess("problem.action_aliases", self.found.action_aliases, seen, "problem.action_aliases")

    # ---------------------------------------------------------------------------------------------------- features

    def _features(self) -> None:
        taken_names = {name for name in self.columns if NAME.fullmatch(name)}
        for name, column in self.columns.items():
            if name in self.taken or name in self.not_wanted:
                continue
            why = why_no_feature(column, self.results)
            ours = self.said_of(name) or (name if NAME.fullmatch(name) else config_name(name))
            if why is None and (not ours or ours in FIXED_FIELDS or ours in self.found.features):
                why = "has a name that no feature may have"
            if why is None and ours != name and (ours in taken_names or name in self.sample.inner):
                why = "has a name that no feature may have"
            if why is not None:
                self.found.left_out[name] = why
                continue
            self._add_feature(column, ours)
        for name, why in self.found.left_out.items():
            self.found.guess(
                f"left out: {name}", None, why, "add it to problem.features if it is known before the choice"
            )

    def said_of(self, name: str) -> str | None:
        """What somebody said that a column is."""
        return next((ours for ours, theirs in self.said.items() if theirs == name), None)

    def _add_feature(self, column: SampleColumn, ours: str) -> None:
        kind = column.type
        low, high = column.range() if kind in {FeatureType.NUMBER, FeatureType.INTEGER} else (None, None)
        evidence = described(column, kind)
        self.found.features[ours] = InferredFeature(kind, low, high, evidence)
        value = self.found.features[ours].to_dict()
        self.found.guess(f"problem.features.{ours}", value, evidence, f"problem.features.{ours}")
        if ours != column.name:
            self.taken[column.name] = ours

    def _strata(self) -> None:
        theirs = {ours: name for name, ours in self.taken.items()}
        self.found.strata = strata_of({name: self.columns[theirs.get(name, name)] for name in self.found.features})
        seen = "a category of few values, all of them common" if self.found.strata else "no category has such values"
        self.found.guess("problem.strata", self.found.strata, seen, "problem.strata; [] compares all tasks together")

    # ------------------------------------------------------------------------------------------------------ limits

    def _limits(self) -> None:
        self._timeout()
        weeks = max((self.last - self.first).total_seconds() / (7 * 86_400), 1.0)
        per_week = self.sample.total / weeks
        self.found.min_new_samples = int(min(max(round(per_week / 2), 10), 1_000))
        seen = f"{self.sample.total:,} rows in {weeks:.1f} weeks: {per_week:,.0f} a week; half of that"
        self.found.guess("retrain.min_new_samples", self.found.min_new_samples, seen, "retrain.min_new_samples")

    def _timeout(self) -> None:
        name = next((theirs for theirs, ours in self.taken.items() if ours == "execution_time"), None)
        if name is None or not self.columns[name].numbers:
            self.found.guess(
                "problem.task_timeout_minutes", 60, "no column says how long tasks take", "problem.task_timeout_minutes"
            )
            return
        column = self.columns[name]
        longest_s = max(column.numbers) * seconds_per_unit(column.key)
        minutes = next((nice for nice in _NICE_MINUTES if nice * 60 >= 2 * longest_s), math.ceil(2 * longest_s / 60))
        self.found.task_timeout_minutes = minutes
        seen = f"the longest task of the sample took {longest_s:,.0f} s; at least twice that"
        self.found.guess("problem.task_timeout_minutes", minutes, seen, "problem.task_timeout_minutes")

    def _columns(self) -> None:
        """What `imports.columns` must say so that an import reads the log in this way and no other."""
        said = {theirs: ours for theirs, ours in self.taken.items() if theirs != ours}
        outer = tuple(name for name in self.columns if name not in self.sample.inner)
        said |= dict.fromkeys(self.not_wanted & set(outer), LEFT_OUT)
        for name in outer:
            column = self.columns[name]
            is_kept = name in self.taken or name in self.found.features
            is_mixed = column.is_mixed and not column.is_numeric
            if not is_kept and is_writable(name) and (column.is_nested or is_mixed or column.is_refused_beside()):
                said[name] = LEFT_OUT
        # What an import would take for a field by itself, but was found to be none, must not be read as one.
        while True:
            read_as = ColumnNames(said, self.found.features).resolved(outer)
            wrong = [n for n, ours in read_as.items() if ours in FIXED_FIELDS and self.taken.get(n) != ours]
            if not wrong:
                break
            said |= dict.fromkeys(wrong, LEFT_OUT)
        self.found.columns = said

    def _names(self) -> str:
        return ", ".join(self.columns) or "none"


def is_writable(name: str) -> bool:
    """Whether a configuration can name a column; one with half a character cannot be told there."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tells(column: SampleColumn) -> bool:
    return any(text.casefold() in TELLING_RESULTS for text in column.counts)


def _is_choice(column: SampleColumn) -> bool:
    """Whether a column may say which of a few actions was tried."""
    if not column.values or column.is_nested or column.type is FeatureType.NUMBER or column.missing_share > 1 - FITS:
        return False
    groups = len(variants(column.counts))
    return groups <= MOST_ACTIONS and groups <= max(10, 0.1 * len(column.values)) and column.mean_length <= LONG_TEXT
