"""The user's terminal: lines, and bars with the time left. Light, so that looking at videos loads no planner."""

import os
import sys
from collections.abc import Callable
from typing import TypeVar

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

Itself = TypeVar("Itself", bound="Bars")


class Bars:
    """Bars, drawn on a terminal only. Use as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or make_console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def __enter__(self: Itself) -> Itself:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def progress(self, title: str, total: int) -> Callable[[], None]:
        """A bar of `total` steps that disappears when it is full."""
        task = self._progress.add_task(title, total=total)
        left = total

        def advance() -> None:
            nonlocal left
            left -= 1
            self._progress.advance(task)
            if left <= 0:
                self._progress.update(task, visible=False)

        return advance


def make_console(*, stderr: bool = False) -> Console:
    """The user's terminal; where the output goes to a file, lines of 120 characters. stderr: beside other output."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(width=None if stream.isatty() or "COLUMNS" in os.environ else 120, stderr=stderr)


def print_table(console: Console, table: Table) -> None:
    """A table that loses no figure: it gives up its lines, then is wider than the terminal, before a word is cut."""
    for column in table.columns:
        if column.overflow != "fold":
            sizes = [Measurement.get(console, console.options, cell) for cell in (column.header, *column.cells)]
            column.min_width = max(size.maximum if column.no_wrap else size.minimum for size in sizes)
    if _least(console, table) > console.width:
        table.box, table.padding, table.pad_edge = None, (0, 1, 0, 0), False
    if (least := _least(console, table)) > console.width:
        table.width = least
    console.print(table, crop=False)


def _least(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), table).minimum
