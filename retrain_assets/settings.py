"""Typed settings: the only reader of the environment and of YAML and JSON configuration.

Holds every configuration key with its default and its check, and where files of a problem lie; does
not hold what the values mean to the loop. One bad configuration gives one `ConfigError` that lists
every problem; nothing starts half-configured.
"""

from __future__ import annotations

import codecs
import difflib
import hashlib
import ipaddress
import json
import logging
import os
import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import yaml
from msgspec import Meta, Struct, field

from retrain_assets.core.features import Feature, FeatureSchema, FeatureType
from retrain_assets.core.model_settings import estimator_problems, param_problems, space_problems
from retrain_assets.core.outcomes import FIXED_FIELDS
from retrain_assets.errors import ConfigError

Share = Annotated[float, Meta(ge=0, le=1)]
OpenShare = Annotated[float, Meta(gt=0, lt=1)]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=0)]
Text = Annotated[str, Meta(min_length=1, max_length=200)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,62}$")]

T = TypeVar("T", bound=Struct)

logger = logging.getLogger(__name__)

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class _Block(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A block of the configuration; every field has the documented default."""


class FeatureSettings(_Block, frozen=True):
    """One feature of a task."""

    type: Literal["number", "integer", "boolean", "category"]
    min: float | None = None
    max: float | None = None
    required: bool = False
    categories: list[Text] | None = None


def _seed_features() -> dict[str, FeatureSettings]:
    flags = (
        "https_enabled",
        "comment_supported",
        "profile_supported",
        "forum_supported",
        "guest_supported",
        "requires_login",
        "registration_detected",
    )
    return {
        "pa": FeatureSettings(type="number", min=0.0, max=100.0),
        "da": FeatureSettings(type="number", min=0.0, max=100.0),
        "site_type": FeatureSettings(type="category"),
        "platform_guess": FeatureSettings(type="category"),
        "url_path_depth": FeatureSettings(type="integer", min=0.0),
        **{name: FeatureSettings(type="boolean") for name in flags},
    }


class ProblemSettings(_Block, frozen=True):
    """What is automated: actions, features, and how long a task may take."""

    name: Name = "backlinks"
    actions: Annotated[list[Text], Meta(min_length=1)] = field(
        default_factory=lambda: ["comment", "profile", "forum", "guest"]
    )
    action_aliases: dict[str, str] = field(default_factory=lambda: {"guestposting": "guest"})
    default_action: str | None = None
    task_timeout_minutes: Positive = 60.0
    strata: list[str] = field(default_factory=lambda: ["site_type"])
    prefix_asset_keys: bool = False
    features: dict[Name, FeatureSettings] = field(default_factory=_seed_features)
    unknown_columns: Literal["keep", "quarantine"] = "keep"


class RetrainSettings(_Block, frozen=True):
    """When and on what a model is trained, and what it must reach."""

    schedule: Literal["weekly"] = "weekly"
    day: Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"] = "sunday"
    time: Annotated[str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] = "02:00"
    timezone: str = "UTC"
    first_week: str | None = None
    min_new_samples: Count = 100
    merge_strategy: Literal["append", "window", "replace"] = "append"
    window_weeks: Annotated[int, Meta(ge=1)] = 26
    late_rows: Literal["refresh", "ignore"] = "refresh"
    validation_metric: Literal["accuracy", "roc_auc", "log_loss", "brier"] = "accuracy"
    validation_threshold: Annotated[float, Meta(ge=0)] = 0.80


class SearchSettings(_Block, frozen=True):
    """Whether and where an estimator's parameters are searched, on the validation part."""

    trials: Annotated[int, Meta(ge=0, le=1_000)] = 0
    space: dict[Text, Any] = field(default_factory=dict)
    jobs: Annotated[int, Meta(ge=1, le=1024)] = 1


class ModelSettings(_Block, frozen=True):
    """How a model is trained."""

    estimator: Text = "hist_gradient_boosting"
    params: dict[str, Any] = field(default_factory=dict)
    mode: Literal["full", "incremental"] = "full"
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    threads: Annotated[int, Meta(ge=1, le=1024)] = 1
    search: SearchSettings = field(default_factory=SearchSettings)


class ReportSettings(_Block, frozen=True):
    """What the validation report asks of a candidate's data; null reports and does not refuse."""

    leakage_auc: Annotated[float, Meta(gt=0.5, le=1)] | None = 0.98
    max_psi: Positive | None = None
    max_label_shift: Annotated[float, Meta(gt=0, le=1)] | None = None
    max_staleness_weeks: Positive | None = None


class CanaryThresholds(_Block, frozen=True):
    """Limits that a version on trial must meet, judged with evidence."""

    min_success_rate: OpenShare = 0.80
    max_error_rate: OpenShare = 0.05
    max_response_time_ms: Positive = 100.0


class RollbackThresholds(_Block, frozen=True):
    """Limits that production must meet, judged with evidence."""

    min_success_rate: OpenShare = 0.75
    max_error_rate: OpenShare = 0.10
    max_response_time_ms: Positive = 200.0


class CanarySettings(_Block, frozen=True):
    """How a version is put on trial, and what its promotion asks for."""

    enabled: bool = True
    percentage: OpenShare = 0.1
    max_percentage: OpenShare = 0.5
    steps: Annotated[list[OpenShare], Meta(min_length=1)] | None = None
    duration_hours: Positive = 24.0
    max_duration_hours: Positive | None = None
    thresholds: CanaryThresholds = field(default_factory=CanaryThresholds)
    evidence: Literal["auto", "non_inferiority", "no_harm"] = "auto"
    alpha: OpenShare = 0.01
    margin: OpenShare = 0.03
    error_margin: OpenShare = 0.02
    min_canary_outcomes: Annotated[int, Meta(ge=1)] = 10
    block_tasks: Annotated[int, Meta(ge=2)] = 20
    early_age_minutes: Positive = 5.0
    max_missing_share: Share = 0.2
    holdback: Share = 0.05
    bake_hours: Annotated[float, Meta(ge=0)] = 24.0
    lease_seconds: Positive = 120.0

    @property
    def ramp(self) -> tuple[float, ...]:
        """The shares of the ramp in order: `steps`, or `percentage` alone when no steps are given."""
        return tuple(self.steps) if self.steps else (self.percentage,)


class RollbackSettings(_Block, frozen=True):
    """Whether and when production is rolled back by itself."""

    auto_rollback: bool = True
    thresholds: RollbackThresholds = field(default_factory=RollbackThresholds)


class ExplorationSettings(_Block, frozen=True):
    """How often an action is tried that is not the best."""

    epsilon: Annotated[float, Meta(ge=0, lt=1)] = 0.02


class EngineSettings(_Block, frozen=True):
    """The decision engine's refresh and log."""

    refresh_seconds: Positive = 0.5
    log_queue: Annotated[int, Meta(ge=1)] = 10_000
    log_full: Literal["block", "drop_oldest_and_count"] = "block"


class StorageSettings(_Block, frozen=True):
    """Where outcomes are kept."""

    database_url: str | None = None
    outcomes: Literal["database", "csv"] = "database"
    csv_file: Text | None = None
    spool_dir: Text | None = None


class ImportSettings(_Block, frozen=True):
    """How the files look that `retrain import` reads; options of the command go before these."""

    columns: dict[Text, Text] = field(default_factory=dict)
    timezone: str | None = None
    encoding: str | None = None
    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] | None = None
    decimal: Literal[".", ","] = "."


class PageSettings(_Block, frozen=True):
    """Whether and how politely pages are fetched for the features that they tell."""

    enabled: bool = False
    max_pages: Annotated[int, Meta(ge=1, le=100_000)] = 500
    max_seconds: Positive = 600.0
    timeout_seconds: Positive = 10.0
    max_bytes: Annotated[int, Meta(ge=1_000, le=32 * 2**20)] = 1_000_000
    max_redirects: Annotated[int, Meta(ge=0, le=20)] = 5
    host_delay_seconds: Annotated[float, Meta(ge=0)] = 1.0
    threads: Annotated[int, Meta(ge=1, le=32)] = 4
    contact: Annotated[str, Meta(pattern=r"^[!-~]{3,200}$")] | None = None
    allow_networks: list[Text] = field(default_factory=list)


class ExtractionSettings(_Block, frozen=True):
    """How features that a row lacks are filled."""

    url_column: Name = "url"
    functions: list[Annotated[str, Meta(pattern=r"^[A-Za-z_][\w.]{0,150}:[A-Za-z_]\w{0,100}$")]] = field(
        default_factory=list
    )
    pages: PageSettings = field(default_factory=PageSettings)


class NotificationSettings(_Block, frozen=True):
    """Who is told, beside the log."""

    urls: list[Text] = field(default_factory=list)


class Config(_Block, frozen=True):
    """The configuration file: one field for each block, each with its defaults."""

    problem: ProblemSettings = field(default_factory=ProblemSettings)
    retrain: RetrainSettings = field(default_factory=RetrainSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    report: ReportSettings = field(default_factory=ReportSettings)
    canary: CanarySettings = field(default_factory=CanarySettings)
    rollback: RollbackSettings = field(default_factory=RollbackSettings)
    exploration: ExplorationSettings = field(default_factory=ExplorationSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    imports: ImportSettings = field(default_factory=ImportSettings)
    extraction: ExtractionSettings = field(default_factory=ExtractionSettings)
    notifications: NotificationSettings = field(default_factory=NotificationSettings)

    @property
    def schema(self) -> FeatureSchema:
        """The feature schema of the problem."""
        features = tuple(
            Feature(
                name=name,
                type=FeatureType(f.type),
                min=f.min,
                max=f.max,
                required=f.required,
                categories=tuple(f.categories) if f.categories is not None else None,
            )
            for name, f in self.problem.features.items()
        )
        return FeatureSchema(features, tuple(self.problem.actions), tuple(self.problem.strata))

    @property
    def task_timeout(self) -> timedelta:
        """How long a task may take before it counts as missing."""
        return timedelta(minutes=self.problem.task_timeout_minutes)

    @property
    def ramp_steps(self) -> tuple[float, ...]:
        """The canary's shares in order."""
        return self.canary.ramp

    def to_dict(self) -> dict[str, Any]:
        """Plain data of every key that steers the loop; secrets, places on a machine and imports are left out."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        for place in ("database_url", "csv_file", "spool_dir"):  # a machine's own, and may hold a password
            data["storage"].pop(place)
        data.pop("notifications")
        data.pop("imports")
        return data

    @property
    def config_hash(self) -> str:
        """SHA-256 over `to_dict`, first 16 hex digits."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


class Settings(Struct, frozen=True, kw_only=True):
    """A configuration and where its problem lives on this machine.

    Attributes
    ----------
    config : Config
    config_path : Path or None
        The file it was read from; None for settings made in code.
    home : Path
        Root of everything that is written; the problem's own files lie in `home/<problem.name>`.
    database_url : str
        SQLAlchemy URL, resolved.
    """

    config: Config
    config_path: Path | None
    home: Path
    database_url: str
    problem_folder: Path | None = None

    @property
    def problem_home(self) -> Path:
        """Where the problem's files lie: `home/<problem.name>`, unless another folder was named."""
        return self.problem_folder or self.home / self.config.problem.name

    @property
    def csv_file(self) -> Path:
        """The file of `storage.outcomes: csv`; a relative `storage.csv_file` counts from the config folder's parent."""
        return self._place(self.config.storage.csv_file) or self.problem_home / "outcomes.csv"

    @property
    def spool_dir(self) -> Path | None:
        """Where a worker keeps outcomes while the database is away; None keeps none."""
        return self._place(self.config.storage.spool_dir)

    def _place(self, name: str | None) -> Path | None:
        if name is None:
            return None
        base = self.config_path.parent.parent if self.config_path else Path.cwd()
        return (base / Path(name).expanduser()).resolve()


def load_settings(path: str | Path | None = None, *, environ: Mapping[str, str] | None = None) -> Settings:
    """Read settings from `path`, else `RETRAIN_CONFIG`, else `./config/retrain.yaml`.

    Parameters
    ----------
    path : str or Path, optional
        A YAML or JSON file; both are read by the same rules.
    environ : mapping, optional
        The environment (default: the process's).

    Raises
    ------
    ConfigError
        The file is missing or has problems; all of them are listed.
    """
    environ = os.environ if environ is None else environ
    file = Path(path or environ.get("RETRAIN_CONFIG") or Path("config") / "retrain.yaml").expanduser().resolve()
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        hint = "name one with --config or RETRAIN_CONFIG, or copy the one that comes with the repository"
        raise ConfigError([f"{file} does not exist; {hint}"], "configuration") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file} cannot be read: {error}"], "configuration") from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError([f"not valid YAML or JSON: {error}"], file.name) from error
    return resolve(read_config(data, file.name), file, environ=environ)


def resolve(config: Config, config_path: Path | None, *, environ: Mapping[str, str] | None = None) -> Settings:
    """Find the home and the database of `config`, read from `config_path`."""
    environ = os.environ if environ is None else environ
    base = config_path.parent.parent if config_path else Path.cwd()
    home = Path(environ.get("RETRAIN_HOME") or base / ".retrain").expanduser().resolve()
    configured = environ.get("RETRAIN_DATABASE_URL") or config.storage.database_url
    url = configured or f"sqlite:///{home / config.problem.name / 'retrain.db'}"
    return Settings(config=config, config_path=config_path, home=home, database_url=url)


def dagster_home(*, environ: Mapping[str, str] | None = None) -> Path | None:
    """The folder DAGSTER_HOME names, when it is set; None leaves the choice to the project's dagster.yaml."""
    environ = os.environ if environ is None else environ
    value = environ.get("DAGSTER_HOME")
    return Path(value).expanduser() if value else None


def dagster_folder(*, fallback: Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """Where Dagster keeps its history: `<home>/dagster`, found without reading the config.

    Dagster asks for it before any configuration is loaded, also from commands that know none.

    Parameters
    ----------
    fallback : Path, optional
        The folder to use instead of the current one when neither RETRAIN_HOME nor RETRAIN_CONFIG is set
        and there is no `config/retrain.yaml` here: the folder that holds dagster.yaml.
    environ : mapping, optional
        The environment (default: the process's).
    """
    environ = os.environ if environ is None else environ
    if home := environ.get("RETRAIN_HOME"):
        return Path(home).expanduser().resolve() / "dagster"
    file = Path(environ.get("RETRAIN_CONFIG") or Path("config") / "retrain.yaml").expanduser().resolve()
    named = "RETRAIN_CONFIG" in environ or file.exists()
    base = file.parent.parent if named or fallback is None else fallback.resolve()
    return base / ".retrain" / "dagster"


def read_config(
    data: Any,  # noqa: ANN401  (whatever YAML holds)
    source: str = "configuration",
    *,
    unknown: Literal["error", "ignore"] = "error",
) -> Config:
    """Turn parsed YAML or JSON into a `Config`.

    Parameters
    ----------
    data : any
        What the file holds; None gives every default.
    source : str
        Named in the error.
    unknown : "error" or "ignore"
        What an unknown key is: a mistake of a person, or something that a newer version published.

    Raises
    ------
    ConfigError
        Lists every unknown key (with the nearest known one), wrong value and contradiction.
    """
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        raise ConfigError([f"must be a mapping of blocks, not {type(data).__name__}"], source)
    problems: list[str] = []
    own = _own_problem(_unflatten(data))
    config = _read_block(Config, own if unknown == "error" else _known(Config, own, ""), "", problems)
    if config is not None and not problems:
        problems.extend(_contradictions(config))
        # What a newer version published may name parameters that this one does not know.
        problems.extend(_model_problems(config.model) if unknown == "error" else [])
    if config is None or problems:
        raise ConfigError(problems, source)
    return config


def _known(hint: Any, data: Any, path: str) -> Any:  # noqa: ANN401  (a type, and whatever was published)
    """Drop the keys that a block does not have, also in blocks inside it; values are left as they are."""
    if not isinstance(data, Mapping):
        return data
    if isinstance(hint, type) and issubclass(hint, Struct):
        hints = get_type_hints(hint)
        for key in [key for key in data if key not in hints]:
            logger.debug("%s is not known to this version and is ignored", f"{path}{key}")
        return {key: _known(hints[key], value, f"{path}{key}.") for key, value in data.items() if key in hints}
    arguments = get_args(hint)
    if get_origin(hint) is dict and isinstance(arguments[1], type) and issubclass(arguments[1], Struct):
        return {key: _known(arguments[1], value, f"{path}{key}.") for key, value in data.items()}
    return data


def _unflatten(data: Mapping[Any, Any]) -> dict[Any, Any]:
    """Accept the flat spelling of the canary block (`canary_enabled`, ...), at the top or inside the block."""
    known = CanarySettings.__struct_fields__
    flat: dict[Any, Any] = {f"canary_{key}": key for key in known}
    result: dict[Any, Any] = {k: v for k, v in data.items() if k not in flat}
    canary = result.get("canary")
    moved = {flat[k]: v for k, v in data.items() if k in flat}
    if isinstance(canary, Mapping):
        moved |= {flat.get(k, k): v for k, v in canary.items()}
    if moved:
        result["canary"] = moved
    return result


def _own_problem(data: dict[Any, Any]) -> dict[Any, Any]:
    """Drop the shipped automation's aliases and strata from a problem that names its own actions or features."""
    problem = data.get("problem")
    if isinstance(problem, Mapping):
        own = dict(problem)
        if "actions" in own:
            own.setdefault("action_aliases", {})
        if "features" in own:
            own.setdefault("strata", [])
        data["problem"] = own
    return data


def _read_block(cls: type[T], data: Any, path: str, problems: list[str]) -> T | None:  # noqa: ANN401
    if not isinstance(data, Mapping):
        problems.append(f"{path}: must be a mapping, not {data!r}")
        return None
    hints = get_type_hints(cls, include_extras=True)
    values: dict[str, Any] = {}
    before = len(problems)
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in hints:
            near = difflib.get_close_matches(str(key), list(hints), n=1, cutoff=0.5)
            hint = f"; did you mean {path + '.' if path else ''}{near[0]}?" if near else ""
            known = "" if near else f"; known keys: {', '.join(hints)}"
            problems.append(f"{where}: unknown key (value {value!r}){hint}{known}")
            continue
        values[key] = _read_value(hints[key], value, where, problems)
    try:
        return cls(**values) if len(problems) == before else None
    except TypeError as error:
        problems.append(f"{path}: {error}".replace("Missing required argument", "missing key"))
        return None


def _read_value(hint: Any, value: Any, path: str, problems: list[str]) -> Any:  # noqa: ANN401
    if isinstance(hint, type) and issubclass(hint, Struct):
        return _read_block(hint, {} if value is None else value, path, problems)
    arguments = get_args(hint)
    if get_origin(hint) is dict and isinstance(arguments[1], type) and issubclass(arguments[1], Struct):
        if not isinstance(value, Mapping):
            problems.append(f"{path}: must be a mapping, not {value!r}")
            return None
        problems.extend(
            f"{path}.{key}: a name starts with a letter and holds letters, digits and _ only"
            for key in value
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,62}", str(key))
        )
        return {str(k): _read_value(arguments[1], v, f"{path}.{k}", problems) for k, v in value.items()}
    try:
        return msgspec.convert(_as_meant(path, value), hint, strict=True)
    except msgspec.ValidationError as error:
        problems.append(f"{path}: {error} (value {value!r})")
        return None


def _as_meant(path: str, value: Any) -> Any:  # noqa: ANN401
    """Undo what YAML makes of dates, and of times from 10 o'clock on, that stand without quotes."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    if path == "retrain.time" and isinstance(value, int) and not isinstance(value, bool):
        return f"{value // 60:02}:{value % 60:02}"  # 12:30 is read as 750, a number to base 60
    return value


def _contradictions(config: Config) -> list[str]:
    found = _problem_contradictions(config.problem)
    retrain, canary = config.retrain, config.canary
    if not _is_timezone(retrain.timezone):
        found.append(
            f"retrain.timezone: {retrain.timezone!r} is not a known time zone; use a name such as Europe/Berlin"
        )
    if retrain.first_week is not None and not _is_date(retrain.first_week):
        found.append(f"retrain.first_week: {retrain.first_week!r} is not a date; write YYYY-MM-DD")
    if retrain.validation_metric in {"accuracy", "roc_auc"} and retrain.validation_threshold > 1:
        found.append(f"retrain.validation_threshold: {retrain.validation_threshold} can never be reached; use 0 to 1")
    zone = config.imports.timezone
    if zone is not None and not _is_timezone(zone):
        found.append(f"imports.timezone: {zone!r} is not a known time zone; use a name such as Europe/Berlin")
    if config.imports.encoding is not None and not _is_encoding(config.imports.encoding):
        found.append(f"imports.encoding: {config.imports.encoding!r} is not a known encoding; use a name such as utf-8")
    found.extend(
        f"extraction.pages.allow_networks: {text!r} is no network; write one such as 10.1.0.0/16"
        for text in config.extraction.pages.allow_networks
        if not _is_network(text)
    )
    if canary.percentage > canary.max_percentage:
        found.append(f"canary.percentage: {canary.percentage} is above canary.max_percentage {canary.max_percentage}")
    if list(canary.ramp) != sorted(set(canary.ramp)):
        found.append(f"canary.steps: {list(canary.ramp)} must rise from step to step")
    if canary.max_duration_hours is not None and canary.max_duration_hours < canary.duration_hours:
        found.append(
            f"canary.max_duration_hours: {canary.max_duration_hours} is below duration_hours {canary.duration_hours}"
        )
    return found


def _model_problems(model: ModelSettings) -> list[str]:
    """What is wrong with the estimator and its parameters; a user's own estimator is not imported for it."""
    search = model.search
    return [
        *estimator_problems(model.estimator),
        *param_problems(model.estimator, model.params),
        *space_problems(model.estimator, search.space, search.trials),
    ]


def _is_timezone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _is_encoding(name: str) -> bool:
    try:
        codecs.lookup(name)
    except (LookupError, ValueError):
        return False
    return True


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _problem_contradictions(problem: ProblemSettings) -> list[str]:
    found: list[str] = []
    folded = [action.casefold() for action in problem.actions]
    if len(set(folded)) != len(folded):
        found.append(f"problem.actions: {problem.actions} names one action twice (case is ignored)")
    found.extend(
        f"problem.action_aliases.{alias}: {target!r} is not one of the actions {problem.actions}"
        for alias, target in problem.action_aliases.items()
        if target not in problem.actions
    )
    if problem.default_action is not None and problem.default_action not in problem.actions:
        found.append(f"problem.default_action: {problem.default_action!r} is not one of {problem.actions}")
    found.extend(
        f"problem.strata: {name!r} is not one of problem.features"
        for name in problem.strata
        if name not in problem.features
    )
    for name, feature in problem.features.items():
        where = f"problem.features.{name}"
        if name in FIXED_FIELDS:
            found.append(f"{where}: is the name of an outcome's own field; give the feature another name")
        if feature.min is not None and feature.max is not None and feature.min > feature.max:
            found.append(f"{where}: min {feature.min} is above max {feature.max}")
        if feature.type in {"boolean", "category"} and (feature.min is not None or feature.max is not None):
            found.append(f"{where}: min and max go with number and integer, not with {feature.type}")
        if feature.type != "category" and feature.categories is not None:
            found.append(f"{where}: categories go with category, not with {feature.type}")
    return found
