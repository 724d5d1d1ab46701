"""What the demonstration says while it works: progress bars on a terminal, plain lines otherwise.

Holds output; does not hold what is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

WIDTH = 150
"""Columns of a table where there is no terminal to ask."""


class Narrator:
    """Tells a person what happens.

    Parameters
    ----------
    console : Console, optional
        Where to; default standard output, so that `--json` callers pass one on standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        if not self._console.is_terminal:
            self._console = Console(file=self._console.file, width=WIDTH, soft_wrap=True)

    def say(self, text: str = "") -> None:
        """One line."""
        self._console.print(text, highlight=False)

    def title(self, text: str) -> None:
        """The head of a part."""
        self._console.print()
        self._console.print(f"[bold]{text}[/bold]" if self._console.is_terminal else f"== {text}", highlight=False)

    def table(self, headers: list[str], rows: list[list[str]]) -> None:
        """Rows under headers."""
        table = Table(*headers, header_style="bold", box=None, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        self._console.print(table, highlight=False)

    @contextmanager
    def progress(self, text: str, total: int) -> Iterator[Step]:
        """A bar of `total` steps; without a terminal one line at the start."""
        if not self._console.is_terminal:
            self.say(f"{text} ...")
            yield Step(None, None)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bar:
            yield Step(bar, bar.add_task(text, total=total))


class Step:
    """One bar that is being filled."""

    def __init__(self, bar: Progress | None, task: object) -> None:
        self._bar = bar
        self._task = task

    def advance(self, count: int = 1) -> None:
        """Fill it by `count`."""
        if self._bar is not None:
            self._bar.advance(self._task, count)  # type: ignore[arg-type]  # rich's own id type is an int in disguise
