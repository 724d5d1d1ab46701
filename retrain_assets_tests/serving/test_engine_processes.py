"""An engine in real processes: forked workers, ends without a close, and switches seen from outside."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from retrain_assets.settings import Config, EngineSettings, ExplorationSettings
from retrain_assets.store.tables import decisions
from retrain_assets.testing import SeededDatabase, seeded_database


@pytest.fixture
def seeded(database_url: str, tmp_path: Path) -> Iterator[SeededDatabase]:
    """v1.0.0 serves, half of the decisions are explored, and engines look 20 times a second."""
    config = Config(exploration=ExplorationSettings(epsilon=0.5), engine=EngineSettings(refresh_seconds=0.05))
    made = seeded_database(database_url, tmp_path, config=config)
    yield made
    made.database.close()


def run(seeded: SeededDatabase, script: str) -> str:
    """Run a worker's script in an interpreter of its own; `engine` is there, threads and all."""
    start = f"""
    import os, sys, time, threading
    from retrain_assets import DecisionEngine
    engine = DecisionEngine.from_registry({seeded.url!r}, problem_home={str(seeded.problem_home)!r})
    """
    code = textwrap.dedent(start) + textwrap.dedent(script)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tasks(seeded: SeededDatabase) -> Counter[str]:
    """How often each task is in the log."""
    with seeded.database.read() as connection:
        return Counter(connection.execute(select(decisions.c.task_id)).scalars())


def test_a_process_that_ends_without_closing_writes_its_decisions(seeded: SeededDatabase) -> None:
    """The end of the interpreter flushes the log."""
    run(seeded, "for i in range(500): engine.decide(task_id=f't{i}')")
    assert tasks(seeded) == Counter(f"t{i}" for i in range(500))


def test_a_fork_writes_nothing_twice_and_loses_nothing(seeded: SeededDatabase) -> None:
    """Parent and four children decide before and after the fork: every task is in the log exactly once."""
    run(
        seeded,
        """
        for i in range(50): engine.decide(task_id=f'before-{i}')
        children = []
        for child in range(4):
            pid = os.fork()
            if pid == 0:
                for i in range(50): engine.decide(task_id=f'child-{child}-{i}')
                sys.exit(0)
            children.append(pid)
        for i in range(50): engine.decide(task_id=f'after-{i}')
        assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
        """,
    )
    children = [f"child-{child}-{i}" for child in range(4) for i in range(50)]
    expected = [f"before-{i}" for i in range(50)] + [f"after-{i}" for i in range(50)] + children
    assert tasks(seeded) == Counter(expected)


def test_children_of_multiprocessing_write_theirs_too(seeded: SeededDatabase) -> None:
    """Such children end without the interpreter's own end; their decisions are stored all the same."""
    run(
        seeded,
        """
        import multiprocessing
        def work(name):
            for i in range(50): engine.decide(task_id=f'{name}-{i}')
        context = multiprocessing.get_context('fork')
        workers = [context.Process(target=work, args=(f'w{n}',)) for n in range(3)]
        for worker in workers: worker.start()
        for worker in workers: worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        """,
    )
    assert tasks(seeded) == Counter(f"w{n}-{i}" for n in range(3) for i in range(50))


def test_a_fork_waits_until_the_engines_threads_are_out_of_the_database(seeded: SeededDatabase) -> None:
    """30 forks while log writer and refresh are at work: no child hangs on a lock that a thread of the parent held."""
    run(
        seeded,
        """
        for child in range(30):
            for i in range(300): engine.decide(task_id=f'busy-{child}-{i}')
            pid = os.fork()
            if pid == 0:
                engine.decide(task_id=f'child-{child}', durable=True)
                os._exit(0)
            for _ in range(600):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done: break
                time.sleep(0.05)
            else:
                os.kill(pid, 9); os.waitpid(pid, 0); sys.exit('a child hung')
            assert status == 0
        """,
    )
    busy = {f"busy-{child}-{i}": 1 for child in range(30) for i in range(300)}
    assert tasks(seeded) == Counter(busy | {f"child-{child}": 1 for child in range(30)})


def test_children_explore_each_in_their_own_way(seeded: SeededDatabase) -> None:
    """Forked workers do not repeat their parent's draws: with 40 choices two equal sequences would be no accident."""
    out = run(
        seeded,
        """
        for child in range(3):
            if os.fork() == 0:
                print(''.join(engine.decide(task_id=f't{i}', log=False).action[0] for i in range(40)), flush=True)
                os._exit(0)
            os.wait()
        """,
    )
    assert len(set(out.split())) == 3


def test_a_child_sees_a_switch_by_itself(seeded: SeededDatabase) -> None:
    """A forked worker has a refresh thread of its own."""
    seeded.add_version("v1.0.1", {"guest": 0.9})
    out = run(
        seeded,
        f"""
        pid = os.fork()
        if pid == 0:
            assert engine.decide(task_id='t', log=False).model_version == 'v1.0.0'
            from pathlib import Path
            from retrain_assets.testing import SeededDatabase
            from retrain_assets.settings import Config
            from retrain_assets.store.database import Database
            seeded = SeededDatabase({seeded.url!r}, Path('.'), Config(), Database({seeded.url!r}))
            seeded.set_route(production_version='v1.0.1')
            for _ in range(400):
                if engine.active_version == 'v1.0.1':
                    print('seen', flush=True); os._exit(0)
                time.sleep(0.05)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        """,
    )
    assert out.split() == ["seen"]
