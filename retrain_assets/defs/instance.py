"""The Dagster instance that dagster.yaml names.

Holds where Dagster's own history lies and how it is created the first time; does not hold what the loop
records there. Dagster resolves relative paths of dagster.yaml against the current folder and refuses
variables that are not set, so a class is the one way to the same history from whatever folder
`retrain`, `dagster dev` or `dagster-daemon` starts.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage

from retrain_assets.settings import Settings, dagster_folder, dagster_home

_CREATED = ".created"


class HomeInstance(DagsterInstance):
    """A Dagster instance whose runs, events, schedules and logs lie in `<home>/dagster`.

    Dagster reads the two static methods when it loads dagster.yaml; everything dagster.yaml sets itself
    (a `storage:` block, for instance) takes precedence over these defaults.
    """

    @staticmethod
    def config_schema() -> dict[str, Any]:
        """No keys of its own in dagster.yaml."""
        return {}

    @staticmethod
    def config_defaults(base_dir: str) -> dict[str, Any]:
        """Dagster's defaults below `<home>/dagster`.

        `base_dir` is used as it stands when it holds a history already: `open_instance` passes that of its
        settings. Otherwise it is the folder of dagster.yaml or a temporary one, and the home is looked up.
        """
        folder = Path(base_dir)
        if not (folder / _CREATED).exists():
            folder = dagster_folder(fallback=folder)
            create_history(folder)
        return dict(InstanceRef.config_defaults(str(folder)))


def open_instance(settings: Settings) -> DagsterInstance:
    """Open the instance of these settings; close it with `dispose()` or as a context manager.

    DAGSTER_HOME wins when it is set. Else it is the instance that dagster.yaml beside the config's folder
    describes, with its history in `<home>/dagster`; a project without a dagster.yaml gets the same history
    with Dagster's defaults, telemetry off.
    """
    if dagster_home():
        return DagsterInstance.get()
    folder = settings.home / "dagster"
    create_history(folder)
    project = settings.config_path.parent.parent if settings.config_path else folder
    if (project / "dagster.yaml").exists():
        return DagsterInstance.from_ref(InstanceRef.from_dir(str(folder), config_dir=str(project)))
    overrides = {"telemetry": {"enabled": False}, "nux": {"enabled": False}}
    return DagsterInstance.from_ref(InstanceRef.from_dir(str(folder), overrides=overrides))


def create_history(folder: Path) -> None:
    """Create Dagster's SQLite files in `folder` unless they are there; safe to call from many processes at once.

    Two processes that create them side by side crash inside Dagster ("table runs already exists"), so the
    first one does it under a lock and the others wait. A creation that was killed half-way is done again.
    """
    if (folder / _CREATED).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, also by a kill
        if not (folder / _CREATED).exists():
            DagsterSqliteStorage.from_local(str(folder)).dispose()
            (folder / _CREATED).touch()
