"""How a change of traffic reaches engines at work: failures, mixtures, and the time from commit to the last one.

Two measurements. `switches`: threads decide without a pause through a thousand changes of the route; each model
prefers an action of its own, so a decision whose action and version do not belong together is a mixture. `reach`:
worker processes with the shipped refresh interval decide while the route is changed from outside; the time until a
decision of the slowest one comes from the new version. Prints a table and writes JSON.

    python benchmarks/switch.py            1,000 switches, 30 changes
    python benchmarks/switch.py --quick    100 switches, 8 changes
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from retrain_assets.serving.engine import DecisionEngine
from retrain_assets.settings import Config, ExplorationSettings
from retrain_assets.testing import SeededDatabase, seeded_database

RESULTS = Path(__file__).parent / "results" / "switch.json"
OWN = {"v1.0.0": "comment", "v1.0.1": "guest"}
"""Version to the action it prefers."""
WORKERS = 4
TARGETS = {"failed": 0, "mixed": 0, "reach_s": 1.0}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    is_quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'retrain.db'}"
        config = Config(exploration=ExplorationSettings(epsilon=0.0))
        seeded = seeded_database(url, folder, config=config)
        seeded.add_version("v1.0.1", {"guest": 0.9})
        result = {
            "switches": switch_under_load(seeded, 100 if is_quick else 1_000),
            "reach": reach(seeded, 8 if is_quick else 30),
            "targets": TARGETS,
            "machine": {"cores": os.cpu_count(), "load_1m": round(os.getloadavg()[0], 2)},
        }
    show(result)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def switch_under_load(seeded: SeededDatabase, switches: int) -> dict[str, int]:
    """Threads of one engine decide through every switch."""
    counts = {"switches": switches, "decisions": 0, "failed": 0, "mixed": 0}
    stop, counting = threading.Event(), threading.Lock()
    with DecisionEngine.from_registry(seeded.url, start_refresh=False) as engine:

        def work(name: str) -> None:
            made = failed = mixed = 0
            while not stop.is_set():
                made += 1
                try:
                    decision = engine.decide(task_id=f"{name}-{made}", log=False)
                    mixed += OWN.get(str(decision.model_version)) != decision.action
                except Exception:  # noqa: BLE001  (every failure counts)
                    failed += 1
            with counting:
                for key, value in (("decisions", made), ("failed", failed), ("mixed", mixed)):
                    counts[key] += value

        threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(WORKERS)]
        for thread in threads:
            thread.start()
        for number in range(switches):
            seeded.set_route(production_version=f"v1.0.{(number + 1) % 2}")
            assert engine.refresh()
        stop.set()
        for thread in threads:
            thread.join()
    return counts


def reach(seeded: SeededDatabase, changes: int) -> dict[str, Any]:
    """Seconds from a commit to the first decision of the new version in the slowest process."""
    context = multiprocessing.get_context("spawn")
    seen: multiprocessing.queues.Queue[tuple[str, float]] = context.Queue()
    ready = context.Barrier(WORKERS + 1)
    stop = context.Event()
    arguments = (seeded.url, seen, ready, stop)
    workers = [context.Process(target=worker, args=arguments) for _ in range(WORKERS)]
    for process in workers:
        process.start()
    ready.wait(120)
    slowest = []
    seeded.set_route(production_version="v1.0.0")
    current = 0
    time.sleep(2)
    while not seen.empty():
        seen.get()
    for _ in range(changes):
        current = 1 - current
        wanted = f"v1.0.{current}"
        seeded.set_route(production_version=wanted)
        committed = time.monotonic()  # one clock for all processes of a machine
        arrived = [seen.get(timeout=30) for _ in range(WORKERS)]
        assert {name for name, _ in arrived} == {wanted}
        slowest.append(max(at for _, at in arrived) - committed)
        time.sleep(float(np.random.default_rng(len(slowest)).uniform(0.05, 0.5)))  # no beat with the refresh
    stop.set()
    for process in workers:
        process.join(60)
    return {
        "processes": WORKERS,
        "changes": changes,
        "slowest_median_s": round(float(np.median(slowest)), 3),
        "slowest_max_s": round(max(slowest), 3),
    }


def worker(url: str, seen: Any, ready: Any, stop: Any) -> None:  # noqa: ANN401  (multiprocessing's own types)
    """Decide every two milliseconds, and tell when the version changes."""
    with DecisionEngine.from_registry(url) as engine:
        ready.wait(120)
        last, number = engine.active_version, 0
        while not stop.is_set():
            number += 1
            decision = engine.decide(task_id=f"t{number}", log=False)
            if decision.model_version != last:
                seen.put((decision.model_version, time.monotonic()))
                last = decision.model_version
            time.sleep(0.002)


def show(result: dict[str, Any]) -> None:
    """The table."""
    switches, found = result["switches"], result["reach"]
    print(
        f"{switches['switches']:,} switches under {WORKERS} threads: {switches['decisions']:,} decisions, "
        f"{switches['failed']} failed, {switches['mixed']} mixed"
    )
    print(
        f"{found['changes']} changes, {found['processes']} processes: commit to the slowest engine "
        f"median {found['slowest_median_s']} s, max {found['slowest_max_s']} s"
    )
    print(f"targets: {TARGETS}; cores {result['machine']['cores']}, load {result['machine']['load_1m']}")


if __name__ == "__main__":
    main()
