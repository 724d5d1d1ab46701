"""Backup of a working problem, and its restore: what comes back is a state that was, whole, and it serves."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from retrain_assets.core.deployment import Status
from retrain_assets.errors import RetrainError, StoreOutdated, UsageError
from retrain_assets.operations import backup, deploy, lineage, status
from retrain_assets.operations.csv_outcomes import absorb
from retrain_assets.operations.platform import Platform
from retrain_assets.serving.engine import DecisionEngine
from retrain_assets.settings import (
    Config,
    NotificationSettings,
    ProblemSettings,
    Settings,
    StorageSettings,
    load_settings,
)
from retrain_assets.store import backup as copies
from retrain_assets.store import registry, schema
from retrain_assets.store.backup_folder import BackupFolder
from retrain_assets.store.collector import FeedbackCollector
from retrain_assets.store.csv_refused import quarantine_path
from retrain_assets.store.database import Database
from retrain_assets.testing import FakeClock
from retrain_assets_tests.store import freeze

BATCH = 10
TASK = {"pa": 40.0, "site_type": "blog"}


@pytest.fixture(scope="module")
def filled_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with rows in every table, `v1.0.0` in production and `v1.0.1` on trial; not to be changed."""
    home = tmp_path_factory.mktemp("filled")
    freeze.fill(f"sqlite:///{home / 'backlinks' / 'retrain.db'}", home).database.close()
    return home


@pytest.fixture
def local(filled_home: Path, tmp_path: Path) -> Platform:
    """The same as a test's own, on SQLite, for what does not depend on the kind of database."""
    home = tmp_path / "working"
    shutil.copytree(filled_home, home)
    url = f"sqlite:///{home / 'backlinks' / 'retrain.db'}"
    return _platform(Settings(config=Config(), config_path=None, home=home, database_url=url))


@pytest.fixture
def working(local: Platform, database_url: str, tmp_path: Path) -> Platform:
    """The same on SQLite and on PostgreSQL."""
    if database_url.startswith("sqlite"):
        return local
    copies.copy_out(local.database, tmp_path / "first.db", lambda _: None)
    copies.load(Database(database_url), tmp_path / "first.db", schema.HEAD, lambda _: None)
    local.database.close()
    (local.problem_home / "retrain.db").unlink()
    settings = local.settings
    return _platform(Settings(config=Config(), config_path=None, home=settings.home, database_url=database_url))


@pytest.fixture
def new_place(tmp_path: Path, new_database: Callable[[str], str]) -> Callable[..., Settings]:
    """Settings of an empty place: `new_place(kind, config)`."""
    numbers = itertools.count()

    def make(kind: str = "sqlite", config: Config | None = None) -> Settings:
        home, config = tmp_path / f"place{next(numbers)}", config or Config()
        url = f"sqlite:///{home / config.problem.name / 'retrain.db'}" if kind == "sqlite" else new_database(kind)
        return Settings(config=config, config_path=None, home=home, database_url=url)

    return make


def _platform(settings: Settings) -> Platform:
    return Platform(settings, Database(settings.database_url), FakeClock())


def _predicted(platform: Platform) -> dict[str, float]:
    home = platform.problem_home
    with DecisionEngine.from_registry(platform.database.url, problem_home=home, start_refresh=False) as engine:
        return engine.predict(TASK)


def _broken_files(platform: Platform) -> list[str]:
    """Of production; the ids of the trainings in `freeze` are made up, which `lineage` tells besides."""
    found = lineage.trace(platform, "production")
    assert found.artefacts
    assert found.links
    faults = [link.fault for link in found.links] + [file.fault for file in found.artefacts]
    return [fault for fault in faults if fault]


def _other(kind: str) -> str:
    return "postgresql" if kind == "sqlite" else "sqlite"


# ---------------------------------------------------------------------------------------------------- what comes back


def test_a_restored_problem_is_the_same_and_serves_the_same(
    working: Platform, new_place: Callable[..., Settings], tmp_path: Path
) -> None:
    """On the other kind of database: status, lineage with intact files, scores, and a rollback with its target."""
    done = backup.back_up(working, tmp_path / "b")
    settings = new_place(_other(done.manifest.source))
    restored = _platform(settings)
    again = backup.restore(settings, tmp_path / "b")
    assert again.manifest == done.manifest
    assert again.copied == len([name for name in done.manifest.files if name.startswith("files/")]) == 5
    assert status.gather(restored) == status.gather(working)
    assert _broken_files(restored) == []
    assert lineage.trace(restored, "production").links == lineage.trace(working, "production").links
    assert _predicted(restored) == _predicted(working)
    deploy.promote(restored, "v1.0.1", freeze.CAUSE)
    deploy.roll_back(restored, freeze.CAUSE)
    with restored.database.read() as connection:
        assert registry.get_route(connection).production_version == "v1.0.0"


def test_what_is_told_is_what_is_there(working: Platform, tmp_path: Path) -> None:
    """Rows by table, files and bytes of the JSON are those of the folder."""
    shares: list[float] = []
    told = backup.back_up(working, tmp_path / "b", lambda share, _: shares.append(share)).to_dict()
    with working.database.read() as connection:
        counts = {
            name: connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one()  # noqa: S608
            for name in told["tables"]
        }
    assert told["tables"] == counts
    files = [
        file for file in (tmp_path / "b").rglob("*") if file.is_file() and file.name not in {"backup.json", ".lock"}
    ]
    assert (told["files"], told["bytes"]) == (len(files), sum(file.stat().st_size for file in files))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_second_backup_copies_only_new_files(local: Platform, tmp_path: Path) -> None:
    """Files are kept under their digests: what the folder has is not copied again."""
    assert backup.back_up(local, tmp_path / "b").copied == 5
    (local.problem_home / "reports").mkdir()
    (local.problem_home / "reports" / "new.html").write_text("<p>new</p>")
    assert backup.back_up(local, tmp_path / "b").copied == 1


def test_a_backup_under_load_is_a_state_that_was(
    working: Platform, new_place: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four threads append batches and a version is promoted meanwhile: batches are whole, the route is served."""
    monkeypatch.setattr(copies, "PAGES", 4)
    monkeypatch.setattr(copies, "GROUP", 5)
    end, under_way, errors = threading.Event(), threading.Barrier(5, timeout=60), []

    def write(thread: int) -> None:
        collector = FeedbackCollector(working.database.url, clock=FakeClock())
        try:
            for number in itertools.count():
                rows = [
                    {"task_id": f"load-{thread}-{number}-{n}", "domain": f"load-{thread}-{number}", "result": True}
                    for n in range(BATCH)
                ]
                collector.append_outcomes([row | {"action_attempted": "comment"} for row in rows])
                if number == 0:
                    under_way.wait()
                if end.wait(0.005):  # the promise is about writes in between, not about a full disk
                    return
        except Exception as error:  # noqa: BLE001  (whatever it is, the test shall tell)
            errors.append(error)

    promoted = threading.Event()

    def promote_in_the_middle(share: float, _: str) -> None:
        if share > 0.2 and not promoted.is_set():
            promoted.set()
            deploy.promote(working, "v1.0.1", freeze.CAUSE)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    under_way.wait()
    made = [backup.back_up(working, tmp_path / f"b{n}", promote_in_the_middle) for n in range(2)]
    end.set()
    for thread in threads:
        thread.join()
    assert errors == []
    serving = [_check_whole(new_place("sqlite"), done) for done in made]
    assert serving == ["v1.0.0", "v1.0.1"]  # the first began before the promotion, the second after it
    assert made[0].manifest.tables["outcomes"] < made[1].manifest.tables["outcomes"]


def _check_whole(settings: Settings, done: backup.Done) -> str:
    """Restore, and see that batches are whole and that what the route names can serve; returns who serves."""
    backup.restore(settings, done.path)
    restored = _platform(settings)
    query = "SELECT domain, count(*) FROM outcomes WHERE domain LIKE 'load-%%' GROUP BY domain"
    with restored.database.read() as connection:
        sizes = {size for _, size in connection.exec_driver_sql(query.replace("%%", "%"))}
        route = registry.get_route(connection)
        model = registry.get_version(connection, str(route.production_version))
    assert sizes == {BATCH}
    assert model is not None
    assert model.status is Status.PRODUCTION
    deploy.load_artefact(restored, model)
    return model.version


# --------------------------------------------------------------------------------------------- what a backup refuses


def test_a_file_that_the_database_names_and_that_is_not_there_fails_the_backup(local: Platform, tmp_path: Path) -> None:
    """Each is named with what needs it, and the last good backup stays."""
    before = backup.back_up(local, tmp_path / "b").manifest
    (model,) = {file.parent.parent for file in local.problem_home.glob("artefacts/a0/*/model.onnx")}
    shutil.rmtree(model)
    (snapshot,) = local.problem_home.glob("snapshots/*/*.parquet")
    snapshot.write_bytes(b"x" * 9)
    message = (
        r"(?s)made: 2 files .*\(the snapshot of week 2025-12-28\) has other.*\(training training-\d\) is not there"
    )
    with pytest.raises(RetrainError, match=message):
        backup.back_up(local, tmp_path / "b")
    assert BackupFolder(tmp_path / "b").read() == before
    assert BackupFolder(tmp_path / "b").faults(before) == []


def test_a_backup_does_not_go_into_itself(local: Platform) -> None:
    """The problem's own folder would be copied into its own copy."""
    with pytest.raises(RetrainError, match="lies in the problem's own folder"):
        backup.back_up(local, local.problem_home / "backup")


def test_nothing_to_back_up_is_an_error_and_makes_nothing(new_place: Callable[..., Settings], tmp_path: Path) -> None:
    """A slip in the URL must not give an empty backup, nor an empty database."""
    settings = new_place()
    with pytest.raises(StoreOutdated, match="there is no database at"):
        backup.back_up(_platform(settings), tmp_path / "b")
    assert not settings.problem_home.joinpath("retrain.db").exists()
    assert not (tmp_path / "b").exists()


def test_half_written_files_locks_and_the_database_are_not_among_the_files(local: Platform) -> None:
    """The rest is, also what this version does not know."""
    home = local.problem_home
    before = set(backup.problem_files(local))
    for name in (".model.onnx.12.ab", "outcomes.csv.lock", "outcomes.csv", "future/kept.bin", ".hidden/x"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).touch()
    assert {str(file.relative_to(home)) for file in set(backup.problem_files(local)) - before} == {
        "outcomes.csv",
        "future/kept.bin",
    }
    assert not [file for file in before if file.name.startswith("retrain.db")]


def test_the_copied_configuration_is_the_one_in_force_without_its_secrets(local: Platform, tmp_path: Path) -> None:
    """It loads, gives the same settings, and holds neither the database's URL nor a channel's."""
    secret = Config(
        storage=StorageSettings(database_url="postgresql://u:pass-word@h/d"),
        notifications=NotificationSettings(urls=["slack://pass-word"]),
        problem=ProblemSettings(task_timeout_minutes=61.5),
    )
    settings = Settings(
        config=secret, config_path=None, home=local.settings.home, database_url=local.settings.database_url
    )
    done = backup.back_up(Platform(settings, local.database, FakeClock()), tmp_path / "b")
    copy = load_settings(tmp_path / "b" / "config" / "retrain.yaml").config
    assert copy.config_hash == secret.config_hash
    assert not [file for file in (tmp_path / "b").rglob("*") if file.is_file() and b"pass-word" in file.read_bytes()]
    assert {"storage.database_url", "notifications.urls"} <= set(done.manifest.left_out)


def test_a_database_that_is_not_in_use_is_left_out_and_does_not_stop_the_restore(
    local: Platform, new_place: Callable[..., Settings], tmp_path: Path
) -> None:
    """The problem moved to another database; the old file lies in its folder still, and the restore makes one there."""
    local.database.close()
    (tmp_path / "elsewhere.db").write_bytes((local.problem_home / "retrain.db").read_bytes())
    settings = Settings(
        config=Config(),
        config_path=None,
        home=local.settings.home,
        database_url=f"sqlite:///{tmp_path / 'elsewhere.db'}",
    )
    done = backup.back_up(_platform(settings), tmp_path / "b")
    assert done.manifest.left_out[-1] == str(local.problem_home / "retrain.db")
    assert "files/retrain.db" not in done.manifest.files
    place = new_place()
    backup.restore(place, tmp_path / "b")
    assert _predicted(_platform(place)) == _predicted(_platform(settings))


# ------------------------------------------------------------------------------------------- outcomes in a csv file


def _csv_settings(settings: Settings, file: Path) -> Settings:
    config = Config(storage=StorageSettings(outcomes="csv", csv_file=str(file)))
    return Settings(config=config, config_path=None, home=settings.home, database_url=settings.database_url)


def _tell(platform: Platform, *names: str) -> None:
    """A worker reports a success for each task; a name with `?` is refused."""
    with FeedbackCollector(f"csv://{platform.settings.csv_file}", config=platform.config, clock=FakeClock()) as worker:
        for name in names:
            result = "perhaps" if name.endswith("?") else True
            worker.append_outcome(task_id=name, domain="a.org", action_attempted="forum", result=result)


def _told(platform: Platform) -> tuple[list[str], int]:
    """Names of the outcomes that came by the file, and how many were refused."""
    with platform.database.read() as connection:
        names = connection.exec_driver_sql("SELECT task_id FROM outcomes WHERE task_id LIKE 'told-_' ORDER BY 1")
        refused = connection.exec_driver_sql("SELECT count(*) FROM quarantine WHERE payload LIKE '%%told-_?%%'")
        return list(names.scalars()), refused.scalar_one()


@pytest.fixture
def writing(local: Platform, tmp_path: Path) -> Platform:
    """Its worker writes a file outside of the problem's folder; two rows in it are not in the database yet."""
    platform = _platform(_csv_settings(local.settings, tmp_path / "logs" / "worker.csv"))
    _report(platform)
    return platform


def _report(platform: Platform) -> None:
    """Two outcomes and two refused rows, one of each in the database."""
    _tell(platform, "told-1", "told-2?")
    absorb(platform)
    _tell(platform, "told-3", "told-4?")


def test_outcomes_in_a_file_elsewhere_come_back_where_the_configuration_says(
    writing: Platform, new_place: Callable[..., Settings], tmp_path: Path
) -> None:
    """Also those that were not in the database yet, and what the worker refused; each once."""
    done = backup.back_up(writing, tmp_path / "b")
    assert (done.warnings, done.manifest.left_out) == ((), backup.LEFT_OUT)
    place = _csv_settings(new_place(), tmp_path / "new logs" / "new.csv")
    backup.restore(place, tmp_path / "b")
    restored = _platform(place)
    absorb(restored)
    assert _told(restored) == (["told-1", "told-3"], 2)
    _tell(restored, "told-3", "told-5")
    absorb(restored)
    assert _told(restored) == (["told-1", "told-3", "told-5"], 2)


@pytest.mark.parametrize("name", ["outcomes.csv", "other.csv"])
def test_outcomes_in_the_problem_s_folder_are_kept_once(local: Platform, tmp_path: Path, name: str) -> None:
    """Not a second time among its files, from where they would be restored to another place."""
    platform = _platform(_csv_settings(local.settings, local.problem_home / name))
    _tell(platform, "told-1", "told-2?")
    done = backup.back_up(platform, tmp_path / "b")
    assert [file for file in done.manifest.files if file.endswith((".csv", ".jsonl"))] == [
        "outcomes/outcomes.csv",
        "outcomes/outcomes.quarantine.jsonl",
    ]
    assert backup.back_up(platform, tmp_path / "b").copied == 0


def test_outcomes_whose_file_is_not_there_are_told(writing: Platform, tmp_path: Path) -> None:
    """The backup is made, for the database is worth it, but nobody is left to believe that it is complete."""
    writing.settings.csv_file.unlink()
    (warning,) = backup.back_up(writing, tmp_path / "b").warnings
    assert "worker.csv is not there" in warning


def test_when_only_the_database_is_lost_the_worker_s_file_stays(local: Platform, tmp_path: Path) -> None:
    """It went on after the backup: what was added is read after the restore, and the worker need not stop."""
    writing = _platform(_csv_settings(local.settings, local.problem_home / "outcomes.csv"))
    _report(writing)
    backup.back_up(writing, tmp_path / "b")
    _tell(writing, "told-5", "told-6?")
    for platform in (local, writing):
        platform.database.close()
    (writing.problem_home / "retrain.db").unlink()
    backup.restore(writing.settings, tmp_path / "b")
    restored = _platform(writing.settings)
    assert absorb(restored).accepted == 2
    assert _told(restored) == (["told-1", "told-3", "told-5"], 3)


def test_other_outcomes_in_the_way_are_kept_and_told_how_to_bring_in(
    writing: Platform, new_place: Callable[..., Settings], tmp_path: Path
) -> None:
    """Somebody began a new file: moving it away is not enough, its rows belong into the database."""
    backup.back_up(writing, tmp_path / "b")
    place = _csv_settings(new_place(), tmp_path / "new.csv")
    _tell(_platform(place), "told-9")
    with pytest.raises(RetrainError, match=r"other files already at .*new\.csv; .*bring them in with `retrain import`"):
        backup.restore(place, tmp_path / "b")
    assert b"told-9" in place.csv_file.read_bytes()
    assert not quarantine_path(place.csv_file).exists()


# ------------------------------------------------------------------------------------------- what a restore refuses


@pytest.fixture
def made(local: Platform, tmp_path: Path) -> Path:
    """A backup."""
    return backup.back_up(local, tmp_path / "made").path


def _is_untouched(settings: Settings) -> bool:
    files = [file for file in settings.home.rglob("*") if file.is_file() and not file.name.startswith("retrain.db")]
    return not files


def test_a_damaged_backup_is_named_file_by_file_and_restores_nothing(
    made: Path, new_place: Callable[..., Settings]
) -> None:
    """Also a single changed byte in the database; the check comes before everything else."""
    database = bytearray((made / "retrain.db").read_bytes())
    database[len(database) // 2] ^= 1
    (made / "retrain.db").write_bytes(database)
    (snapshot,) = (made / "files").glob("snapshots/*/*.parquet")
    snapshot.unlink()
    settings = new_place()
    message = r"(?s)nothing was restored; 2 files are wrong:.*files/snapshots/.*parquet: No such.*retrain\.db: other"
    with pytest.raises(RetrainError, match=message):
        backup.restore(settings, made)
    assert _is_untouched(settings)


def test_a_database_that_is_not_empty_is_refused(made: Path, new_place: Callable[..., Settings]) -> None:
    """Nothing is overwritten, and no file is copied either."""
    settings = new_place()
    settings.problem_home.mkdir(parents=True)
    FeedbackCollector(settings.database_url).append_outcome(
        task_id="t", domain="a.org", action_attempted="comment", result=True
    )
    with pytest.raises(RetrainError, match="the database is not empty: there are rows in outcomes"):
        backup.restore(settings, made)
    assert _is_untouched(settings)


def test_other_files_in_the_way_are_named_and_kept(made: Path, new_place: Callable[..., Settings]) -> None:
    """The same files are welcome, others are not overwritten."""
    settings = new_place()
    (snapshot,) = (made / "files").glob("snapshots/*/*.parquet")
    target = settings.problem_home / snapshot.relative_to(made / "files")
    target.parent.mkdir(parents=True)
    target.write_text("precious")
    with pytest.raises(RetrainError, match=r"other files already at .*\.parquet; move them away"):
        backup.restore(settings, made)
    assert target.read_text() == "precious"


def test_a_restore_that_died_can_be_repeated(made: Path, new_place: Callable[..., Settings]) -> None:
    """It died while the database was filled: the files are there, the rows are not; the second run completes it."""
    settings = new_place()

    def die(share: float, _: str) -> None:
        if share > 0.8:
            raise KeyboardInterrupt("the process is killed")

    with pytest.raises(KeyboardInterrupt, match="killed"):
        backup.restore(settings, made, die)
    assert not _is_untouched(settings)
    assert backup.restore(settings, made).copied == 0
    assert _broken_files(_platform(settings)) == []


def test_a_backup_of_another_problem_or_of_nothing_is_refused(
    made: Path, new_place: Callable[..., Settings], tmp_path: Path
) -> None:
    """Two problems in one folder would mix their files."""
    other = new_place(config=Config(problem=ProblemSettings(name="other")))
    with pytest.raises(RetrainError, match=r"a backup of 'backlinks'; this configuration's problem.name is 'other'"):
        backup.restore(other, made)
    with pytest.raises(UsageError, match="holds no backup"):
        backup.restore(new_place(), tmp_path / "nowhere")
