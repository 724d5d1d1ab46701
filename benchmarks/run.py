"""Run the benchmarks one after the other and collect what they measure.

Each benchmark is a script of its own in this folder: it prints a table and writes its numbers to
`results/<name>.json`. This one holds no measurement; it starts them in turn, so that none disturbs
another, and gathers the numbers in `results/summary.json`.

    python benchmarks/run.py                 every benchmark
    python benchmarks/run.py canary engine   these two
    python benchmarks/run.py -- --quick      options after -- go to each benchmark
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PACKAGES = ("numpy", "pandas", "scikit-learn", "onnxruntime", "sqlalchemy", "dagster")


def main() -> int:
    """Run what the command line names; 0 when every benchmark ran and wrote its numbers, 2 for an unknown name."""
    parser = argparse.ArgumentParser(description="Measure the budgets; JSON goes to benchmarks/results/.")
    parser.add_argument("names", nargs="*", help="benchmarks to run (default: all)")
    arguments, rest = _split(sys.argv[1:])
    wanted = parser.parse_args(arguments).names
    scripts = {file.stem: file for file in sorted(HERE.glob("*.py")) if file.name != "run.py" and file.stem[0] != "_"}
    unknown = sorted(set(wanted) - set(scripts))
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}; there are: {', '.join(scripts) or 'none'}", file=sys.stderr)
        return 2
    RESULTS.mkdir(exist_ok=True)
    names = wanted or list(scripts)
    results = [_run(name, scripts[name], rest, f"{n}/{len(names)}") for n, name in enumerate(names, start=1)]
    summary = {"machine": _machine(), "benchmarks": results}
    (RESULTS / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    failed = [result["name"] for result in results if not result["ok"]]
    print(f"{len(results) - len(failed)} of {len(results)} benchmarks ran; numbers in {RESULTS.name}/summary.json")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Part our own arguments from those after `--`, which go to the benchmarks."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _run(name: str, script: Path, options: list[str], position: str) -> dict[str, Any]:
    """Run one benchmark in its own process, its table on our output; a failure is a result, not an end."""
    print(f"=== {position} {name}", flush=True)
    target = RESULTS / f"{name}.json"
    target.unlink(missing_ok=True)  # an old number must not pass for a new one
    started = time.perf_counter()
    command = [sys.executable, str(script), *options]
    code = subprocess.run(command, cwd=HERE.parent, check=False).returncode
    elapsed_s = round(time.perf_counter() - started, 1)
    measured = json.loads(target.read_text(encoding="utf-8")) if target.exists() else None
    if code == 0 and measured is None:
        print(f"{name} wrote no {target.name}", file=sys.stderr)
    print(f"=== {name}: {elapsed_s} s, exit code {code}\n", flush=True)
    ok = code == 0 and measured is not None
    return {"name": name, "ok": ok, "exit_code": code, "elapsed_s": elapsed_s, "measured": measured}


def _machine() -> dict[str, Any]:
    """What the numbers depend on: cores, load, Python and the libraries that do the work."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


if __name__ == "__main__":
    sys.exit(main())
