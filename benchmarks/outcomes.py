"""How fast and how sure the outcome store is, on SQLite and on PostgreSQL, each beside what one would do without it.

Parts, each by `--only`: `append` (durable, beside the bare driver), `history` (1,000 rows onto a long history, beside
rewriting a CSV), `writers` (eight processes at once), `kills`, `csv`, `spool` (writers killed at random moments, then
every acknowledged row is looked for), `snapshot` (a week joined, typed, hashed and written, beside a cursor that
streams to Parquet and pandas; its peak memory), `weeks` (the last week of a year beside the first), `import` and
`start` (a cold worker). Rivals work in the same run, in turns; numbers are medians over rounds, and the ratio is the
criterion: absolute times depend on the disk, whose price of a durable write is in the JSON (`fsync_ms`). PostgreSQL
runs with fsync on. Everything lies in temporary folders that vanish with the run; give TMPDIR to measure another disk.

    python benchmarks/outcomes.py                     about 12 minutes on 2 cores, 5 GB of disk
    python benchmarks/outcomes.py --quick             tiny sizes in a minute: shows that it works, proves no target
    python benchmarks/outcomes.py --full              snapshots of 5 million rows as well
    python benchmarks/outcomes.py --only append --only kills --on sqlite
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the parts are modules `benchmarks._outcomes_...`

from benchmarks._outcomes_append import measure_append, measure_history, measure_import, measure_start
from benchmarks._outcomes_base import (
    DEFAULT,
    FULL_MEMORY_ROWS,
    QUICK,
    SEED,
    Bench,
    NotThereError,
    Row,
    machine,
    postgres,
)
from benchmarks._outcomes_crash import measure_csv, measure_kills, measure_spool, measure_writers
from benchmarks._outcomes_weeks import measure_snapshot, measure_weeks

RESULTS = Path(__file__).parent / "results" / "outcomes.json"
DATABASES = ("sqlite", "postgresql")
PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "append": measure_append,
    "history": measure_history,
    "writers": measure_writers,
    "kills": measure_kills,
    "csv": measure_csv,
    "spool": measure_spool,
    "snapshot": measure_snapshot,
    "weeks": measure_weeks,
    "import": measure_import,
    "start": measure_start,
}


def main() -> int:
    """Measure, print, write; 1 when a part failed, 0 also when a target was missed."""
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # folders and processes go also when it is told to stop
    sizes = QUICK if given.quick else DEFAULT
    if given.full:
        sizes = replace(sizes, memory_rows=FULL_MEMORY_ROWS)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retrain-bench-")))
        admin_url = stack.enter_context(postgres()) if "postgresql" in given.on else None
        where = machine(admin_url, folder)
        size = "quick: too small for the targets" if given.quick else "full" if given.full else "default"
        print(f"seed {SEED}, sizes {size}\n{where}", flush=True)
        bench = Bench(folder, sizes, given.on, admin_url)
        rows, told = _measure(bench, given.only)
    record = {"benchmark": "outcomes", "seed": SEED, "sizes": {"name": size, **asdict(sizes)}, "machine": where}
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(record | {"rows": rows, "parts": told}, indent=2) + "\n", encoding="utf-8")
    missed = [f"{row['case']} ({row['database']})" for row in rows if row["is_met"] is False]
    print(f"missed targets: {'; '.join(missed) or 'none'}")
    return int(any(part["state"] == "failed" for part in told.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="tiny sizes")
    size.add_argument("--full", action="store_true", help="5 million rows too")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="this part (may be repeated)")
    parser.add_argument("--on", action="append", choices=DATABASES, help="this database (default: both)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    given.only = given.only or list(PARTS)
    given.on = given.on or list(DATABASES)
    return given


def _measure(bench: Bench, parts: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Each part in turn; one that fails is told, and the others are still measured."""
    rows: list[dict[str, Any]] = []
    told: dict[str, dict[str, Any]] = {}
    for name in parts:
        started, state = time.perf_counter(), "measured"
        print(f"--- {name}", flush=True)
        try:
            for row in PARTS[name](bench):
                rows.append(asdict(row))
                _show(row)
        except NotThereError as error:
            state = "not measured"
            print(f"not measured: {error}", flush=True)
        except Exception:  # noqa: BLE001  (a part that cannot be measured must not cost the others)
            state = "failed"
            traceback.print_exc()
        told[name] = {"state": state, "seconds": round(time.perf_counter() - started, 1)}
        print(f"    {told[name]['seconds']} s", flush=True)
    return rows, told


def _show(row: Row) -> None:
    """One line of the table, and what it is made of."""
    value = f"{row.value:,.0f}" if row.value >= 1_000 or row.value == int(row.value) else f"{row.value:.3g}"
    mark = {True: "yes", False: "NO", None: ""}[row.is_met]
    print(f"{row.case:<58} {row.database:<10} {value:>9} {row.unit:<6} {row.target:<22} {mark}")
    print("    " + ", ".join(f"{name}: {fact}" for name, fact in row.facts.items()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
