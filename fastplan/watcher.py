"""Who shows a run to a person: what a run tells, whoever listens."""

from collections.abc import Callable
from typing import Protocol

from fastplan.data.lost import LostClip
from fastplan.planner.arrivals import Outcome
from fastplan.planner.curve import KneeFit, Stop
from fastplan.planner.journal import EpochRecord
from fastplan.planner.states import State


class Watcher(Protocol):
    """Told about every step of a run; `fastplan.report.terminal.Terminal` is one."""

    def progress(self, title: str, total: int) -> Callable[[], None]:
        """Begin long work of `total` steps; call what is returned after each."""

    def lost(self, clip: LostClip) -> None:
        """A clip cannot be read; called from another thread."""

    def begin_edge(self, key: str, source: str, state: State, done: int, most: int) -> None:
        """The edge `key` is explored, `done` epochs of at most `most` are finished already; several may be at once."""

    def step(self, key: str, step: int, steps: int) -> None:
        """An optimizer step of the edge's current epoch is done."""

    def epoch(self, key: str, record: EpochRecord, fit: KneeFit, stop: Stop) -> None:
        """An epoch of the edge is finished."""

    def pause_edge(self, key: str) -> None:
        """The edge is paused: it goes on with another `begin_edge`, or ends while it is paused."""

    def end_edge(self, key: str, outcome: Outcome) -> None:
        """The edge is finished."""

    def note(self, text: str) -> None:
        """Something that a person should know."""
