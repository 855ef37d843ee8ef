"""The user's terminal: lines, and bars with the time left. Light, so that looking at videos loads no planner."""

import os
import sys
from collections.abc import Callable
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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
