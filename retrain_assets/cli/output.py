"""What commands print: facts as JSON or tables on standard output, everything else on standard error.

Holds layout; does not hold wording that belongs to the facts (`operations/status.py`). On a terminal long work
shows a bar; elsewhere it writes plain lines, which read well in a log.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

WIDE = 400
"""Columns of output that no terminal shows: lines stay whole for `grep`."""
PLAIN_STEP = 0.1
"""Share of long work between two plain lines."""


def emit(value: Any) -> None:  # noqa: ANN401  (any facts)
    """Print facts as JSON, and nothing else, on standard output."""
    sys.stdout.write(json.dumps(plain(value), indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def emit_line(value: Any) -> None:  # noqa: ANN401  (any facts)
    """Print facts as one line of JSON, for commands that go on."""
    sys.stdout.write(json.dumps(plain(value), allow_nan=False) + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:  # noqa: ANN401  (any facts)
    """Facts as JSON knows them: instants in ISO 8601 with offset, no NaN (null), no types of ours."""
    match value:
        case Enum():
            return value.value
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case datetime() | date():
            return value.isoformat()
        case Mapping():
            return {str(plain(key)): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    return str(value)


def say(text: str = "") -> None:
    """Print a line of the answer."""
    _console().print(Text(text), soft_wrap=True)


def note(text: str) -> None:
    """Print a line that is not the answer, on standard error."""
    _console(is_error=True).print(Text(text), soft_wrap=True)


def complain(text: str) -> None:
    """Print why a command ended without doing what it was asked."""
    message = Text("retrain: ", style="bold red")
    _console(is_error=True).print(message.append(text, style="not bold default"), soft_wrap=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under their names; numbers to the right, nothing as `-`."""
    laid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for position, column in enumerate(columns):
        is_number = any(isinstance(row[position], int | float) and not isinstance(row[position], bool) for row in rows)
        laid.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        laid.add_row(*(Text(cell(value)) for value in row))
    console = _console()
    if console.is_terminal:
        console.print(laid)
        return
    with console.capture() as lines:
        console.print(laid)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in lines.get().splitlines()))


def cell(value: Any) -> str:  # noqa: ANN401  (any fact)
    """One fact as a table shows it."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M} UTC"
        case float():
            return f"{value:.4g}"
        case int():
            return f"{value:,}"
        case Path():
            return str(value)
    return str(value)


class Work:
    """Long work as people see it: how far it is, and lines about what was done.

    Parameters
    ----------
    text : str
        What is being done.
    total : float or None
        How much there is to do; None when nobody knows.
    """

    def __init__(self, text: str, total: float | None) -> None:
        self._text = text
        self._total = total
        self._told = 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        console = _console(is_error=True)
        if console.is_terminal:
            columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task(text, total=total)
            self._bar.start()
        else:
            note(f"{text} ...")

    def at(self, done: float, text: str | None = None) -> None:
        """Say how much is done; `text` replaces what is being done."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, description=text or self._text)
        elif self._total and done / self._total >= self._told + PLAIN_STEP:
            self._told = done / self._total
            note(f"{self._told:4.0%}  {text or self._text}")

    def line(self, text: str) -> None:
        """Say what was done, above the bar."""
        if self._bar is not None:
            self._bar.console.print(Text(text), soft_wrap=True)
        else:
            note(text)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def work(text: str, total: float | None = None) -> Iterator[Work]:
    """Show long work while it lasts."""
    shown = Work(text, total)
    try:
        yield shown
    finally:
        shown.end()


def show(value: Any, as_json: bool, tell: Callable[[], None]) -> None:  # noqa: ANN401, FBT001  (any facts; a flag's value)
    """Print facts as JSON, or let `tell` print them for people."""
    if as_json:
        emit(value)
    else:
        tell()


def _console(*, is_error: bool = False) -> Console:
    """A console on the present stream (tests replace it), wide enough never to break a line outside a terminal."""
    stream = sys.stderr if is_error else sys.stdout
    is_terminal = stream.isatty()
    return Console(file=stream, width=None if is_terminal else WIDE, highlight=False, markup=False, emoji=False)
