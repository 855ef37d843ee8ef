"""The terminal: first lines of a run, progress bars with the time left, a line per epoch, tables of results."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID
from rich.table import Table

from fastplan.config import TestConfig
from fastplan.planner.arrivals import Outcome, Reached, is_repeat
from fastplan.planner.curve import KneeFit, Stop
from fastplan.planner.journal import EpochRecord
from fastplan.planner.plans import Plan
from fastplan.planner.states import State
from fastplan.report.console import Bars

if TYPE_CHECKING:
    from fastplan.data.lost import LostClip
    from fastplan.train.evaluate import Evaluation


@dataclass
class _Edge:
    title: str
    task: TaskID
    epoch: int


class Terminal(Bars):
    """A `Watcher` that prints. Bars are drawn on a terminal only, lines everywhere."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self._edges: dict[str, _Edge] = {}
        self._paused: set[str] = set()
        self._bad: set[str] = set()

    def lost(self, clip: "LostClip") -> None:
        """One line about a video, the first time it cannot be read."""
        if clip.path not in self._bad:
            self._bad.add(clip.path)
            then = "left out" if clip.instead is None else "another clip of the epoch takes its place"
            what = escape(f"{clip.path}: {clip.reason}; {then}")
            self.console.print(f"  [yellow]cannot read[/yellow] {what}", highlight=False, soft_wrap=True)

    def begin_edge(self, key: str, source: str, state: State, done: int, most: int) -> None:
        """Head line of an edge, and its bar: epochs of at most `most`."""
        title = " -> ".join(key.split(">")[-2:])
        again = ", again with another seed" if is_repeat(key) else ""
        task = self._progress.add_task(title, total=most, completed=done, visible=False)
        self._edges[key] = _Edge(title, task, done)
        frozen = ", BatchNorm frozen" if state.freeze_bn else ""
        self.console.print(
            f"\n[bold]{title}[/bold]  clip {state.clip}, lr {state.lr:g}, "
            f"batch {state.batch_size} x {state.accumulate}{frozen}, at most {most} epoch{'s' * (most != 1)}{again}"
        )
        if key in self._paused:
            self.console.print(f"  goes on after epoch {done}")
        elif done:
            self.console.print(f"  resumed after epoch {done}, nothing lost")

    def step(self, key: str, step: int, steps: int) -> None:
        """Move the edge's bar."""
        edge = self._edges[key]
        words = f"{edge.title}  epoch {edge.epoch + 1}, step {step}/{steps}"
        self._progress.update(edge.task, description=words, completed=edge.epoch + step / steps, visible=True)

    def epoch(self, key: str, record: EpochRecord, fit: KneeFit, stop: Stop) -> None:
        """One line about a finished epoch; it names the edge where several are trained at once."""
        edge = self._edges[key]
        edge.epoch = record.epoch
        self._progress.update(edge.task, description=f"{edge.title}  epoch {record.epoch}", completed=record.epoch)
        words = {
            Stop.TRAIN: f"knee at {fit.knee}" if fit.knee is not None else fit.explanation,
            Stop.KNEE: f"stop: knee at {fit.knee}",
            Stop.CAP: "stop: most epochs reached",
            Stop.CEILING: "stop: cannot reach the best way into this state",
            Stop.PAUSE: "pause: other ways into this state get as far",
            Stop.BUDGET: "stop: the budget is spent",
            Stop.PLANNED: "stop: as planned",
            Stop.DIVERGED: f"stop: {fit.explanation}",
        }
        loss = f"loss {record.loss:6.3f}" if math.isfinite(record.loss) else "before training"
        waiting = f", {record.data_seconds / record.seconds:.0%} waiting for clips" if record.seconds > 0 else ""
        self.console.print(
            f"  epoch {record.epoch:3d}  {self._which(edge)}{loss:>15}  top1 {percent(record.accuracy)}  "
            f"{record.seconds:5.1f} s{waiting}  [dim]{words[stop]}[/dim]",
            highlight=False,
        )

    def pause_edge(self, key: str) -> None:
        """Take its bar away."""
        self._progress.remove_task(self._edges.pop(key).task)
        self._paused.add(key)

    def end_edge(self, key: str, outcome: Outcome) -> None:
        """One line about a finished edge."""
        if outcome.status == "behind":
            title = " -> ".join(key.split(">")[-2:])
            self.console.print(f"  [bold]{title}[/bold]  given up: {escape(outcome.note)}", highlight=False)
            return
        edge = self._edges[key]
        self._progress.remove_task(edge.task)
        if outcome.status == "diverged":
            self.console.print(f"  {self._which(edge)}[red]diverged[/red]: {escape(outcome.note)}")
        else:
            self.console.print(
                f"  {self._which(edge)}kept epoch {outcome.epochs} of {outcome.trained}: "
                f"top1 {percent(outcome.accuracy)} ± {percent(outcome.stderr).strip()} on validation clips",
                highlight=False,
            )
        del self._edges[key]

    def _which(self, edge: "_Edge") -> str:
        return f"[bold]{edge.title}[/bold]  " if len(self._edges) > 1 else ""

    def facts(self, rows: Iterable[tuple[str, str]]) -> None:
        """The first lines of a run: what is used, and why."""
        table = Table.grid(padding=(0, 2))
        for name, text in rows:
            table.add_row(f"[bold]{name}[/bold]", escape(text))
        self.console.print(table)

    def note(self, text: str) -> None:
        """One line, as it is: a path or a command in it can be copied."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def percent(fraction: float | None) -> str:
    """A fraction as per cent with one decimal, five characters wide."""
    return "    -" if fraction is None or not math.isfinite(fraction) else f"{100 * fraction:5.1f}"


def search_table(outcomes: Sequence[Outcome], final: Reached | None) -> Table:
    """Every explored edge; those on the path found are marked."""
    path = {(o.source, o.name) for o in final.path} if final else set()
    table = Table(title="Explored edges (top-1 in per cent, on validation clips)", title_justify="left")
    for column in ("edge", "top1", "±", "kept epoch", "trained", "ended", "clip frames", "seconds", "path"):
        table.add_column(
            column, justify="left" if column in ("edge", "ended", "path") else "right", no_wrap=column == "edge"
        )
    ended = {
        "cap": "cap, not converged",
        "budget": "budget, not converged",
        "behind": "given up",
        "planned": "as planned",
    }
    for outcome in outcomes:
        table.add_row(
            f"{outcome.source} -> {outcome.name}",
            percent(outcome.accuracy),
            percent(outcome.stderr).strip(),
            str(outcome.epochs),
            str(outcome.trained),
            ended.get(outcome.status, outcome.status),
            f"{outcome.cost:,}",
            f"{outcome.seconds:.0f}",
            "*" if (outcome.source, outcome.name) in path else "",
        )
    return table


def plan_table(plan: Plan) -> Table:
    """The legs of a plan."""
    table = Table(title="Plan", title_justify="left")
    for column in ("leg", "state", "clip", "lr", "epochs", "ended"):
        table.add_column(column, justify="left" if column in ("state", "clip", "ended") else "right")
    for number, leg in enumerate(plan.legs, 1):
        state = leg.state
        table.add_row(str(number), state.name, str(state.clip), f"{state.lr:g}", str(leg.epochs), leg.ended)
    return table


def evaluation_line(title: str, result: "Evaluation", test: TestConfig) -> str:
    """An evaluation in words."""
    views = f"{test.clips} clips" + (f" x {test.crops} crops" if test.crops > 1 else "")
    unread = f"; {result.unread} more could not be read" if result.unread else ""
    return (
        f"{title}: video top-1 {percent(result.video_top1).strip()} % "
        f"(± {percent(result.stderr).strip()}, {result.videos} videos x {views}{unread}), "
        f"top-5 {percent(result.video_top5).strip()} %, clip top-1 {percent(result.clip_top1).strip()} %"
    )
