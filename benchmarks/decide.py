"""How long a decision takes: the engine with and without its log, beside a data frame and `predict_proba`.

All variants answer the same tasks (four actions, twelve features, a gradient boosting model of 100 trees) in the same
run, one short round after the other, so that a busy machine slows all of them alike. Prints a table and writes JSON.

    python benchmarks/decide.py            20 rounds
    python benchmarks/decide.py --quick    5 rounds
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from retrain_assets.core.deployment import Status
from retrain_assets.core.model import TrainSpec, pack, train
from retrain_assets.serving.artefact import MANIFEST_FILE, ONNX_FILE, Artefact
from retrain_assets.serving.engine import DecisionEngine
from retrain_assets.settings import Config
from retrain_assets.store import models
from retrain_assets.store.tables import model_versions
from retrain_assets.testing import SeededDatabase, seeded_database

RESULTS = Path(__file__).parent / "results" / "decide.json"
SEED = 20_261_123
ROWS = 20_000
ACTIONS = ("comment", "profile", "forum", "guest")
SITES, PLATFORMS = ("blog", "forum", "news", "shop"), tuple(f"platform{n}" for n in range(20))
FLAGS = (
    "https_enabled", "comment_supported", "profile_supported", "forum_supported", "guest_supported", "requires_login",
    "registration_detected",
)  # fmt: skip
TARGETS = {"p50_us": 60, "p99_us": 200, "times_naive": 200, "throughput_with_log": 0.7}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    rounds = 5 if parser.parse_args().quick else 20
    rng = np.random.default_rng(SEED)
    rows = make_rows(rng, ROWS)
    with tempfile.TemporaryDirectory() as folder:
        seeded = serve_model(Path(folder), rows)
        naive = naive_model(rows)
        tasks = make_tasks(rng, 2_000)
        with DecisionEngine.from_registry(seeded.url) as engine:
            check_equal_work(engine, tasks[0])
            with threadpool_limits(1):  # OpenMP's threads spin, and would slow the rival down on a busy machine
                result = measure(engine, naive, tasks, rounds)
    result |= {"rows": ROWS, "rounds": rounds, "seed": SEED, "threads": 1, "targets": TARGETS, "machine": machine()}
    show(result)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def make_rows(rng: np.random.Generator, count: int) -> pd.DataFrame:
    """Tasks of the shipped automation with an action each and its result."""
    frame = pd.DataFrame(
        {
            "feature_pa": rng.uniform(0, 100, count),
            "feature_da": rng.uniform(0, 100, count),
            "feature_site_type": rng.choice(SITES, count),
            "feature_platform_guess": rng.choice(PLATFORMS, count),
            "feature_url_path_depth": rng.integers(0, 8, count),
            **{f"feature_{name}": rng.random(count) < 0.5 for name in FLAGS},
            "action": rng.choice(ACTIONS, count),
        }
    )
    supported = np.select(
        [frame["action"] == name for name in ACTIONS], [frame[f"feature_{name}_supported"] for name in ACTIONS]
    )
    log_odds = -2 + 3 * supported.astype(float) + frame["feature_da"] / 50
    frame["result"] = np.where(rng.random(count) < 1 / (1 + np.exp(-log_odds)), "success", "failure")
    return frame


def make_tasks(rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """Raw features as a worker has them: Python's own numbers, texts and booleans."""
    rows = make_rows(rng, count).drop(columns=["action", "result"])
    rows.columns = [name.removeprefix("feature_") for name in rows.columns]
    native = rows.astype(object).to_dict("records")
    return [{k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()} for row in native]


def serve_model(folder: Path, rows: pd.DataFrame) -> SeededDatabase:
    """A database in which a model trained on `rows` serves, as registration would put it there."""
    config = Config()
    seeded = seeded_database(f"sqlite:///{folder / 'retrain.db'}", folder, config=config, production=None)
    cut = int(len(rows) * 0.8)
    model = train(rows[:cut], rows[cut:], config.schema, TrainSpec())
    packed = pack(model, Artefact.load)
    entries = {name: models.put(folder, name, packed.files[name]) for name in (ONNX_FILE, MANIFEST_FILE)}
    seeded.add_version("v1.0.0", status=Status.PRODUCTION)
    with seeded.database.write() as connection:
        connection.execute(model_versions.update().values(artefacts=entries))
    seeded.set_route(production_version="v1.0.0")
    return seeded


def naive_model(rows: pd.DataFrame) -> Callable[[dict[str, Any]], str]:
    """The usual way: one frame for each decision through a scikit-learn pipeline."""
    columns = [name for name in rows.columns if name != "result"]
    texts = ["feature_site_type", "feature_platform_guess", "action"]
    encoder = make_column_transformer(
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), texts), remainder="passthrough"
    )
    pipeline = make_pipeline(encoder, HistGradientBoostingClassifier(random_state=0))
    pipeline.fit(rows[columns], rows["result"] == "success")

    def decide(features: dict[str, Any]) -> str:
        named = {f"feature_{name}": value for name, value in features.items()}
        frame = pd.DataFrame([{**named, "action": action} for action in ACTIONS])[columns]
        return ACTIONS[int(np.argmax(pipeline.predict_proba(frame)[:, 1]))]

    return decide


def check_equal_work(engine: DecisionEngine, task: dict[str, Any]) -> None:
    """A benchmark of something that does not decide must stop."""
    decision = engine.decide(task_id="check", features=task, log=False)
    assert set(decision.scores) == set(ACTIONS)
    assert decision.model_version == "v1.0.0"


def measure(
    engine: DecisionEngine, naive: Callable[[dict[str, Any]], str], tasks: list[dict[str, Any]], rounds: int
) -> dict[str, Any]:
    """Times of each variant over interleaved rounds; rates of sustained deciding with the log on and off."""
    variants: dict[str, tuple[Callable[[int], Any], int]] = {
        "engine, log on": (lambda i: engine.decide(task_id=f"t{i}", domain="a.org", features=tasks[i % 2_000]), 500),
        "engine, log off": (
            lambda i: engine.decide(task_id=f"t{i}", domain="a.org", features=tasks[i % 2_000], log=False),
            500,
        ),
        "scoring alone": (lambda i: engine.predict(tasks[i % 2_000]), 500),
        "frame + predict_proba": (lambda i: naive(tasks[i % len(tasks)]), 20),
    }
    times: dict[str, list[np.ndarray]] = {name: [] for name in variants}
    rates: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds):
        for name, (call, count) in variants.items():
            times[name].append(timed(call, count, number * count))
        engine.flush()
        for is_logged in (True, False):
            rates[is_logged].append(rate(engine, tasks, is_logged=is_logged))
            engine.flush()
    return summarise(times, rates)


def timed(call: Callable[[int], Any], count: int, start: int) -> np.ndarray:
    """Seconds of each of `count` calls."""
    seconds = np.empty(count)
    for i in range(count):
        began = time.perf_counter()
        call(start + i)
        seconds[i] = time.perf_counter() - began
    return seconds


def rate(engine: DecisionEngine, tasks: list[dict[str, Any]], *, is_logged: bool, count: int = 4_000) -> float:
    """Decisions per second of one thread that does nothing else."""
    began = time.perf_counter()
    for i in range(count):
        engine.decide(task_id=f"r{i}", domain="a.org", features=tasks[i % 2_000], log=is_logged)
    return count / (time.perf_counter() - began)


def summarise(times: dict[str, list[np.ndarray]], rates: dict[bool, list[float]]) -> dict[str, Any]:
    """Medians over rounds of each round's quantiles, and of the ratios within a round."""
    quantiles = {
        name: {
            f"p{q}_us": round(float(np.median([np.percentile(part, q) for part in parts])) * 1e6, 1) for q in (50, 99)
        }
        for name, parts in times.items()
    }
    pairs = zip(times["frame + predict_proba"], times["engine, log on"], strict=True)
    ratios = [float(np.median(slow) / np.median(fast)) for slow, fast in pairs]
    logged = [with_log / without for with_log, without in zip(rates[True], rates[False], strict=True)]
    return {
        "times": quantiles,
        "times_naive": round(float(np.median(ratios)), 1),
        "decisions_per_s": {
            "log on": round(float(np.median(rates[True]))),
            "log off": round(float(np.median(rates[False]))),
        },
        "throughput_with_log": round(float(np.median(logged)), 2),
    }


def machine() -> dict[str, Any]:
    """What absolute times depend on."""
    packages = ("numpy", "onnxruntime", "scikit-learn", "pandas", "sqlalchemy")
    versions = {name: version(name) for name in packages}
    return {"cores": os.cpu_count(), "load_1m": round(os.getloadavg()[0], 2), "packages": versions}


def show(result: dict[str, Any]) -> None:
    """The table."""
    print(f"{'variant':24} {'p50 us':>10} {'p99 us':>10}")
    for name, quantiles in result["times"].items():
        print(f"{name:24} {quantiles['p50_us']:10.1f} {quantiles['p99_us']:10.1f}")
    print(f"engine (log on) is {result['times_naive']:.0f} times as fast as frame + predict_proba")
    print(f"decisions/s of one thread: {result['decisions_per_s']}, ratio {result['throughput_with_log']}")
    print(f"targets: {TARGETS}; cores {result['machine']['cores']}, load {result['machine']['load_1m']}")


if __name__ == "__main__":
    main()
