"""Commands that keep the loop healthy: doctor, guard, notify test.

Holds their options, the Dagster check and the guard's loop; does not hold the watch (`operations/watch.py`), the
other checks (`operations/doctor.py`) or delivery (`notify/`).
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

import typer

from retrain_assets.cli import output
from retrain_assets.cli.application import DEBUG, REFUSED, USAGE, ConfigOption, JsonOption, app, existing, problem
from retrain_assets.core.deployment import Event
from retrain_assets.errors import ConfigError, RetrainError, UsageError
from retrain_assets.operations import doctor as doctors
from retrain_assets.operations import status
from retrain_assets.operations.doctor import Check
from retrain_assets.operations.platform import Platform
from retrain_assets.operations.watch import tick
from retrain_assets.settings import Settings

GUARD_ACTOR = "guard"


@app.command(rich_help_panel="Keep well")
def doctor(
    *,
    fix: Annotated[bool, typer.Option("--fix", help="Bring the database up to date and publish the settings.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check config, database, models, Dagster and disk, and say how to mend what is wrong."""
    try:
        checks = doctors.examine(problem(config), is_fixing=fix, also=[_dagster])
        code = REFUSED
    except ConfigError as error:
        mend = "correct the file, or name another with --config"
        checks, code = [Check("config", ok=False, detail=str(error), mend=mend)], USAGE
    is_well = all(check.ok for check in checks)
    told = {"ok": is_well, "checks": [check.to_dict() for check in checks]}
    output.show(told, as_json, lambda: _tell_checks(checks))
    if not is_well:
        raise typer.Exit(code)


def _tell_checks(checks: list[Check]) -> None:
    output.table(("check", "", "what was found"), [(c.name, "ok" if c.ok else "FAULT", c.detail) for c in checks])
    faults = [check for check in checks if not check.ok]
    output.say()
    output.say("Everything is well." if not faults else f"{len(faults)} to mend:")
    for check in faults:
        output.say(f"  {check.name}: {check.mend}")


def _dagster(settings: Settings) -> Check:
    """Whether the instance that the loop is recorded in can be opened."""
    name = "dagster"
    try:
        from retrain_assets.defs.instance import open_instance
    except ImportError as error:
        missing = f"{error.name or 'dagster'} is not installed"
        return Check(name, ok=True, detail=f"{missing}: this machine decides and rolls back, and does not train")
    try:
        with open_instance(settings) as instance:
            runs = instance.get_runs_count()
            return Check(name, ok=True, detail=f"{runs:,} runs recorded in {instance.root_directory}")
    except Exception as error:  # noqa: BLE001  (a doctor reports whatever it meets)
        mend = "correct dagster.yaml or DAGSTER_HOME, or move the damaged history in <home>/dagster away"
        return Check(name, ok=False, detail=f"the instance cannot be opened: {_line(error)}", mend=mend)


@app.command(rich_help_panel="Keep well")
def guard(
    *,
    interval: Annotated[
        float, typer.Option(min=0.05, max=3600.0, metavar="SECONDS", help="Time between two looks.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end, for a scheduler of your own.")] = False,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line for each event.")] = False,
) -> None:
    """Watch canary and production without Dagster: promote, roll back, notify, until Ctrl-C.

    While the database is away it says so and tries again; meanwhile no engine sends the canary a task.
    """
    settings = problem(config)
    lease_s = settings.config.canary.lease_seconds
    if interval >= lease_s and not once:
        raise UsageError(f"--interval {interval:g} is no shorter than canary.lease_seconds, {lease_s:g}; shorten it")
    watch = Guard(settings, as_json=as_json)
    if once:
        watch.look(is_patient=False)
        watch.deliver()
        return
    with _ended_by_signals() as end:
        output.note(f"Watching {settings.config.problem.name} every {interval:g} s; Ctrl-C ends it.")
        watch.run(interval, end)
    output.note("The watch has ended; the canary gets no more tasks once its lease is over.")


class Guard:
    """The watch in a loop, with delivery beside it: a channel that is slow must not delay a rollback.

    Parameters
    ----------
    settings : Settings
    as_json : bool
        Print events as lines of JSON.
    """

    def __init__(self, settings: Settings, *, as_json: bool = False) -> None:
        self._settings = settings
        self._as_json = as_json
        self._platform: Platform | None = None
        self._trouble: dict[str, str] = {}

    def run(self, interval_s: float, end: threading.Event) -> None:
        """Look every `interval_s` until `end` is set."""
        # A daemon, because a channel that never answers must not keep the guard from ending.
        postman = threading.Thread(
            target=self._deliver_until, args=(interval_s, end), name="retrain-guard-delivery", daemon=True
        )
        postman.start()
        try:
            while not end.is_set():
                self.look()
                end.wait(interval_s)
        finally:
            end.set()
            postman.join(timeout=5.0)

    def look(self, *, is_patient: bool = True) -> None:
        """One tick; with patience what stands in its way is said once, and the next look tries again."""
        with self._borne("The watch", is_patient=is_patient):
            for event in tick(self._open(), GUARD_ACTOR).events:
                self._tell(event)

    def deliver(self) -> None:
        """Send what waits; what fails is tried again later."""
        from retrain_assets.notify.channels import Channels
        from retrain_assets.notify.deliver import deliver_pending

        with self._borne("Delivery", is_patient=True):
            platform = self._open()
            channels = Channels(platform.config.notifications.urls)
            name = platform.config.problem.name
            for error in deliver_pending(platform.database, channels, name, platform.now()).errors:
                output.note(f"A notification will be tried again: {error}")

    def _deliver_until(self, interval_s: float, end: threading.Event) -> None:
        _keep_log_quiet()
        while not end.wait(interval_s):
            self.deliver()

    def _open(self) -> Platform:
        if self._platform is None:
            self._platform = existing(self._settings)
        return self._platform

    def _tell(self, event: Event) -> None:
        if self._as_json:
            output.emit_line(status.event_dict(event))
        else:
            output.say(f"{output.cell(event.at)}  {event.kind}  {event.version or ''}  {event.reason}")

    @contextmanager
    def _borne(self, who: str, *, is_patient: bool) -> Iterator[None]:
        """Say once that something is in the way, and once that it is over."""
        try:
            yield
        except RetrainError as error:
            if not is_patient:
                raise
            if self._trouble.get(who) != type(error).__name__:
                output.note(f"{who} cannot work now and goes on trying: {_line(error)}")
            self._trouble[who] = type(error).__name__
        else:
            if self._trouble.pop(who, None) is not None:
                output.note(f"{who} works again.")


@contextmanager
def _ended_by_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; their handlers are put back at the end."""
    end = threading.Event()

    def stop(_number: int, _frame: Any) -> None:  # noqa: ANN401  (the interpreter's own type)
        end.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _keep_log_quiet() -> None:
    """The guard prints events itself: without a handler Python would print the log's copy, too."""
    from retrain_assets.notify.channels import logger

    logger.addHandler(logging.NullHandler())


notify = typer.Typer(no_args_is_help=True, help="Notifications.")
app.add_typer(notify, name="notify", rich_help_panel="Keep well")


@notify.command("test")
def notify_test(*, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Send a test message to every channel, and say which took it."""
    from retrain_assets.notify.channels import Channels
    from retrain_assets.notify.messages import sample_message

    settings = problem(config)
    message = sample_message(settings.config.problem.name)
    _keep_log_quiet()
    found = []
    for channel in Channels(settings.config.notifications.urls):
        error = _attempt(partial(channel.send, message))
        found.append({"channel": channel.name, "ok": error is None, "error": error})
    is_well = all(result["ok"] for result in found)
    rows = [(result["channel"], "sent" if result["ok"] else "FAILED", result["error"]) for result in found]
    output.show({"ok": is_well, "channels": found}, as_json, lambda: output.table(("channel", "", "why"), rows))
    if not settings.config.notifications.urls:
        output.note("Only the log is configured; add Apprise URLs to notifications.urls.")
    if not is_well:
        raise typer.Exit(REFUSED)


def _attempt(act: Callable[[], None]) -> str | None:
    """Why an act failed; None when it did not."""
    try:
        act()
    except RetrainError as error:
        return _line(error)
    return None


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else f"{type(error).__name__} ({DEBUG} shows more)"
