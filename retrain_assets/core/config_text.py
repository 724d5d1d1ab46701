"""The text of a configuration for an inferred problem, with a comment on every key.

Holds the template and how values are written; does not hold the inference (`core/inference.py`) or the files
(`operations/init.py`). YAML is written by hand because comments are half of what the file is for; values are written as
JSON, which YAML reads.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from retrain_assets.core.feature_inference import InferredFeature
from retrain_assets.core.inference import Inference

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "nan", "inf"})

_TEMPLATE = """\
# A problem inferred from {source} by `retrain init`; look through it before you rely on it.
# Every key stands here, so this file also documents them; units are in the keys. Unknown keys are refused with the
# nearest known one.

problem:
  name: {name}
  actions: {actions}
  # Other spellings of actions; case is always ignored.
  action_aliases:{aliases}
  default_action: null                  # answered while there is no model; null = NoModelError
  task_timeout_minutes: {timeout!s:<16}# a task without an outcome by then counts as failure, reason "missing"
  strata: {strata!s:<30}# task class known before the decision, never the action chosen
  prefix_asset_keys: false              # true puts the problem's name before every asset key
  # Known before the choice; type: number | integer | boolean | category. A missing value is allowed, a value outside
  # of min and max is refused. The ranges are wider than what the sample held.
  features:{features}
  # Left out:{left_out}
  unknown_columns: keep                 # keep | quarantine

retrain:
  schedule: weekly
  day: sunday
  time: "02:00"
  timezone: UTC
  first_week: null                      # first week of the partitions; null = that of the earliest data
  min_new_samples: {min_new!s:<21}# tasks that the dataset trained last did not hold; about half a week of the log
  merge_strategy: append                # append | window | replace
  window_weeks: 26                      # weeks of a dataset when merge_strategy is window
  late_rows: refresh                    # refresh | ignore: weeks that received rows since their snapshot
  validation_metric: accuracy           # accuracy | roc_auc (at least) | log_loss | brier (at most)
  # Always guessing the commoner result is right in {commoner} of the sample. The limit lies a little below: a week is
  # easier or harder than the whole log, and every candidate must beat the best constant guess in log loss besides.
  validation_threshold: {threshold}

model:
  estimator: hist_gradient_boosting     # hist_gradient_boosting | logistic_regression
  params: {{}}                            # departures from the estimator's defaults
  mode: full                            # full | incremental: continue from production's model
  seed: 0
  threads: 1
  search: {{trials: 0, space: {{}}, jobs: 1}}  # random search on the validation part; 0 searches nothing

report:                                 # what the validation report asks of the data; null: told, never refused for
  leakage_auc: 0.98                     # ROC AUC at which a single feature gives the outcome away; null: no check
  max_psi: null                         # of a feature, against the data that taught production
  max_label_shift: null                 # of the success rate, against the same
  max_staleness_weeks: null             # age of production's data; above it a check warns, nothing is refused

canary:
  enabled: true                         # false: straight to production after staging
  percentage: 0.1                       # share of tasks, when `steps` is null
  max_percentage: 0.5
  steps: null                           # the ramp, shares that rise such as [0.1, 0.25, 0.5]; null = [percentage]
  duration_hours: 24
  max_duration_hours: null              # null = until the next weekly run
  # The sample had {success} successes and {error} errors; the limits leave room for worse weeks.
  thresholds: {{min_success_rate: {canary_success}, max_error_rate: {canary_error}, max_response_time_ms: 100}}
  evidence: auto                        # auto | non_inferiority | no_harm
  alpha: 0.01                           # probability of rolling back a good canary, at most
  margin: 0.03                          # success rate a canary may be worse by and still pass
  error_margin: 0.02
  min_canary_outcomes: 10
  block_tasks: 20
  early_age_minutes: 5
  max_missing_share: 0.2
  holdback: 0.05
  bake_hours: 24
  lease_seconds: 120                    # engines send the canary no task once nobody has watched for so long

rollback:
  auto_rollback: true                   # false pages and leaves acting to people
  thresholds: {{min_success_rate: {live_success}, max_error_rate: {live_error}, max_response_time_ms: 200}}

exploration: {{epsilon: 0.02}}            # share of decisions that try another action
engine: {{refresh_seconds: 0.5, log_queue: 10000, log_full: block}}
storage:
  database_url: null                    # null = SQLite in the problem's home
  outcomes: database                    # database | csv: workers write outcomes.csv (one writer), the loop reads it
  csv_file: null                        # null = outcomes.csv in the problem's home
  spool_dir: null                       # a local folder where a worker keeps outcomes while the database is away

imports:                                # how the files look that `retrain import` reads
  columns:{columns}
  timezone: {timezone!s:<28}# what timestamps without an offset mean; null: they are refused
  encoding: {encoding!s:<28}# of text files; null: found out from the file
  delimiter: {delimiter!s:<27}# of CSV files; null: found out from the file
  decimal: {decimal!s:<29}# what stands before the decimals of a number in a CSV file
extraction:                             # features that a row lacks are filled; what a worker sent stands
  url_column: url                       # without a URL there, the domain is taken when it is a URL or a host name
  functions: []                         # your own, as "package.module:function"
  pages:                                # what the page behind the URL tells; fetched once, then kept
    enabled: false
    max_pages: 500                      # of a week
    max_seconds: 600
    timeout_seconds: 10
    max_bytes: 1000000
    max_redirects: 5
    host_delay_seconds: 1
    threads: 4
    contact: null                       # a mail address or URL for the User-Agent, so that people can reach you
    allow_networks: []                  # such as 10.1.0.0/16; everything that is not public is refused otherwise
notifications: {{urls: []}}               # Apprise URLs; the log is always told
"""


def config_text(
    found: Inference, *, name: str, source: str, encoding: str | None = None, delimiter: str | None = None
) -> str:
    """A complete configuration in YAML.

    Parameters
    ----------
    found : Inference
    name : str
        The problem's, fit for `problem.name`.
    source : str
        What it was inferred from, for people.
    encoding, delimiter : str, optional
        Of the source, where it is text.
    """
    return _TEMPLATE.format(
        source=_one_line(source),
        name=_scalar(name),
        actions=_list(found.actions),
        aliases=_mapping(found.action_aliases, 4),
        timeout=found.task_timeout_minutes,
        strata=_list(found.strata),
        features=_features(found.features),
        left_out=_left_out(found.left_out),
        min_new=found.min_new_samples,
        commoner=f"{found.commoner_share:.0%}",
        threshold=threshold(found),
        success=f"{found.success_rate:.0%}",
        error=f"{found.error_rate:.0%}",
        columns=_mapping(found.columns, 4),
        timezone=_scalar(found.timezone),
        encoding=_scalar(encoding),
        delimiter=_scalar(delimiter),
        decimal=json.dumps(found.decimal),
        **_limits(found),
    )


def threshold(found: Inference) -> float:
    """The accuracy to ask for: that of the best constant guess, less 0.05 for weeks that are harder than others."""
    return max(math.floor((found.commoner_share - 0.05) * 100) / 100, 0.5)


def _limits(found: Inference) -> dict[str, float]:
    """Absolute limits on live rates: never sharper than the shipped ones, and beyond what the log itself had."""
    success, error = found.success_rate, found.error_rate
    return {
        "canary_success": min(0.80, max(round(success * 0.85, 2), 0.01)),
        "live_success": min(0.75, max(round(success * 0.75, 2), 0.01)),
        "canary_error": max(0.05, min(round(error * 1.5 + 0.02, 2), 0.95)),
        "live_error": max(0.10, min(round(error * 2 + 0.05, 2), 0.99)),
    }


def _features(features: Mapping[str, InferredFeature]) -> str:
    if not features:
        return " {}"
    lines = []
    for name, feature in features.items():
        keys = ", ".join(f"{key}: {_scalar(value)}" for key, value in feature.to_dict().items())
        lines.append(f"    {_scalar(name)}: {{{keys}}}".ljust(56) + f"# {_one_line(feature.evidence)}")
    return "\n" + "\n".join(lines)


def _left_out(left_out: Mapping[str, str]) -> str:
    if not left_out:
        return " nothing."
    return "".join(f"\n  #   {_one_line(name)}: {_one_line(why)}" for name, why in left_out.items())


def _mapping(values: Mapping[str, str], indent: int) -> str:
    if not values:
        return " {}"
    return "".join(f"\n{' ' * indent}{_scalar(key)}: {_scalar(value)}" for key, value in values.items())


def _list(values: list[str]) -> str:
    return "[" + ", ".join(_scalar(value) for value in values) + "]"


def _scalar(value: Any) -> str:  # noqa: ANN401  (text, number or nothing)
    if value is None:
        return "null"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, float) and "e" in repr(value) and "." not in repr(value):
        return repr(value).replace("e", ".0e")  # 5e+21 would be read as text
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.casefold() not in _YAML_WORDS:
        return value
    return json.dumps(value, ensure_ascii=not (isinstance(value, str) and value.isprintable()))


def _one_line(text: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
