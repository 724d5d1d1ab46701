"""A database that is away: told as such, retryable, and nothing is claimed to be stored."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from retrain_assets.errors import ConfigError, StoreOutdated, StoreUnavailable
from retrain_assets.store import outcomes
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.database import Database


def _append(url: str) -> None:
    FeedbackCollector(url).append_outcome(task_id="t", action_attempted="comment", result=True)


def test_a_server_that_does_not_answer_is_unavailable_and_worth_a_retry() -> None:
    """Nobody listens on the port."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound but not listening: refused at once, and nobody else can take it
        port = held.getsockname()[1]
        with pytest.raises(StoreUnavailable, match="nothing was stored, try again") as caught:
            _append(f"postgresql://nobody@127.0.0.1:{port}/retrain")
    assert caught.value.is_retryable
    assert caught.value.exit_code == 3


def test_a_place_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    """A folder that cannot be made, and a path that is a folder itself."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "retrain.db", tmp_path):
        with pytest.raises(StoreUnavailable, match="nothing was stored, try again"):
            _append(f"sqlite:///{path}")


def test_a_file_that_is_no_database_is_told_without_a_drivers_words(tmp_path: Path) -> None:
    """Somebody's text file under the name of the database: it stays as it is."""
    file = tmp_path / "retrain.db"
    file.write_text("dear diary, " * 1_000)
    with pytest.raises(StoreOutdated, match=r"file is not a database.*restore it from a copy"):
        _append(f"sqlite:///{file}")
    assert file.read_text().startswith("dear diary")


def test_a_url_that_is_none_is_a_configuration_error() -> None:
    """Retrying cannot help."""
    with pytest.raises(ConfigError, match="is not of the form sqlite:///FILE or postgresql"):
        Database("retrain.db")


def test_a_write_that_fails_leaves_nothing(database: Database) -> None:
    """An error inside the transaction takes back everything before it."""
    with pytest.raises(ZeroDivisionError, match="zero"), database.write() as connection:  # noqa: PT012
        connection.exec_driver_sql("UPDATE route SET epoch = 9")
        _ = 1 / 0
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT epoch FROM route").scalar_one() == 0


def test_a_reader_sees_one_state(sqlite_database: Database) -> None:
    """What commits after a reading transaction began does not show up in its middle."""
    with sqlite_database.read() as reading:
        assert outcomes.count(reading) == 0
        _append(sqlite_database.url)
        assert outcomes.count(reading) == 0
    with sqlite_database.read() as reading:
        assert outcomes.count(reading) == 1


def test_sqlite_survives_a_power_cut_after_a_receipt(sqlite_database: Database) -> None:
    """An acknowledged commit is synced: WAL with synchronous=FULL."""
    with sqlite_database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_worker_has_connections_of_its_own(database: Database) -> None:
    """Parent and child append at the same time through one collector made before the fork."""
    code = f"""
import os
from retrain_assets.store.collector import FeedbackCollector
collector = FeedbackCollector({database.url!r})
def append(who):
    rows = [dict(task_id=f"{{who}}-{{n}}", action_attempted="comment", result=True) for n in range(20)]
    assert [collector.append_outcomes([row])[0].status for row in rows] == ["accepted"] * 20
append("before")
child = os.fork()
append("child" if child == 0 else "parent")
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with database.read() as connection:
        assert outcomes.count(connection) == 60
