"""Does planning pay? Trains schedules made by hand, halving and searches at equal clip-frames, and says.

    fastplan bench plan [--quick] [--seeds 3] [--budget 20e] [--state-graph NAME|FILE] [--data DIR|LIST] [key.sub=value]

Run it again with the same words after an interruption: what is finished is not trained again.
"""

import argparse
import hashlib
import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fastplan.benchmarks.cost import processor, reported
from fastplan.benchmarks.schedule_table import answer, by_name, draw, plans_list, table
from fastplan.benchmarks.schedule_trainer import train_all
from fastplan.benchmarks.schedules import (
    CONSTANT_AT_PRICE,
    CONSTANTS,
    COSINE_AT_PRICE,
    KNEES,
    LONG,
    LONGER,
    SEARCH,
    Asked,
    Listener,
    Trained,
)
from fastplan.budget import Budget
from fastplan.data.batch import default_threads
from fastplan.data.splits import open_splits
from fastplan.doctor import environment
from fastplan.errors import UserError
from fastplan.launch import Request, resolve
from fastplan.planner.comparators import Spend
from fastplan.report.console import make_console
from fastplan.report.figures import save_figure
from fastplan.report.plans import duration
from fastplan.rundir import RunDir
from fastplan.train.precision import choose_device, choose_precision

RESULTS = Path(__file__).parent / "results"
QUICK = ("plan.max_epochs=3", "plan.attempt_epochs=1", "plan.replay_attempt_epochs=1", "data.clips_per_epoch=160")
QUICK_BUDGET, BUDGET = "7e", "20e"  # seven epochs are the fewest that halve four rates
SEARCH_GUESS = 4  # budgets that a search may take, for the time left


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    parser.add_argument(
        "--quick", action="store_true", help="one seed, 7 short epochs: what it looks like, not what is true"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="trainings of every schedule (3)")
    parser.add_argument(
        "--budget", metavar="20e|3e6f", help="of every schedule: epochs of the target, or clip-frames (20e)"
    )
    parser.add_argument("--state-graph", metavar="NAME|FILE", default="default", help="graph to search (default)")
    parser.add_argument(
        "--data", metavar="DIR|LIST", help="training videos (default: the graph's, or the embedded task)"
    )
    parser.add_argument("--val", metavar="DIR|LIST", help="validation videos (default: plan.holdout of --data)")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="folder for what is trained (default: the user's cache)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the table, a .md; the picture is beside it, a .svg")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="train this one alone, named as in the table; may be repeated"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="settings, as in configs/default.yaml")


def run(given: argparse.Namespace, words: Sequence[str]) -> int:
    """Train what is missing, write table and picture, print the answer; returns the exit status."""
    return reported(lambda: _run(given, words))


def _run(given: argparse.Namespace, words: Sequence[str]) -> None:
    seeds = given.seeds or (1 if given.quick else 3)
    if seeds < 1 or (given.seeds is not None and given.seeds < 1):
        raise UserError(f"--seeds is {given.seeds}; it must be at least 1")
    overrides = (*(QUICK if given.quick else ()), *given.overrides)
    request = Request(state_graph=given.state_graph, data=given.data, val=given.val, overrides=overrides)
    asked, videos = _resolve(request, seeds, given.budget or (QUICK_BUDGET if given.quick else BUDGET))
    asked = replace(asked, only=tuple(given.only) if given.only else None)
    facts = _facts(asked)
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    work = given.work or user_cache_path("fastplan") / "bench" / f"schedules-{digest}"
    out = given.out or (work if given.quick else RESULTS) / "schedules.md"
    if out.suffix != ".md":
        raise UserError(f"--out is {out}; its name must end with .md")
    rundir = RunDir(work)
    rundir.claim()
    try:
        _check_same(work / "bench.json", facts)
        with _Bar(asked) as bar:
            for name, why in asked.left_out.items():
                bar.note(f"left out: {name}: {why}")
            rows = by_name(train_all(asked, work, bar))
    finally:
        rundir.close()
    says = answer(rows, budget=asked.spend.clip_frames, videos=videos)
    body = f"{table(rows)}\n## Does planning pay here?\n\n{''.join(f'- {line}' + chr(10) for line in says)}"
    page = f"{_head(asked, words, videos)}\n{body}\n## What was chosen\n\n{plans_list(rows)}"
    page += "".join(f"- left out: {name}: {why}\n" for name, why in asked.left_out.items())
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    save_figure(draw(rows, asked.spend.clip_frames), out.with_suffix(".svg"))
    print(f"{body}\nwrote {out} and {out.with_suffix('.svg').name}")


def _resolve(request: Request, seeds: int, text: str) -> tuple[Asked, int]:
    """What is to be compared, and how many test videos there are; the arithmetic is chosen once, for all trainings."""
    budget, task = Budget.parse(text), resolve(request)
    config = task.config
    threads = config.data.threads or default_threads()
    splits = open_splits(
        config.data, holdout=config.plan.holdout, seed=0, threads=threads, progress=lambda title, total: lambda: None
    )
    if splits.test is None:
        raise UserError("there are no test videos: set data.test or data.holdout_test")
    if budget.unit == "hours":
        raise UserError(
            f"--budget is {text}: equal clip-frames are compared, so give epochs (20e) or clip-frames (3e6f)"
        )
    device = choose_device(config.device)[0]
    precision = choose_precision(config.train.precision, device).name
    request = replace(request, overrides=(*request.overrides, f"train.precision={precision}"))
    spend = Spend(1, config.data.clips_per_epoch or len(splits.train))
    asked = Asked(request, resolve(request), seeds, spend)
    frames = budget.amount if budget.unit == "clip-frames" else budget.amount * spend.price(asked.target)
    return replace(asked, spend=replace(spend, clip_frames=round(frames))), len(splits.test)


def _facts(asked: Asked) -> dict[str, Any]:
    """What a folder of results belongs to; more seeds may join."""
    assert asked.task.graph is not None
    return {
        "config": asked.task.config.model_dump(mode="json"),
        "graph": [repr(asked.task.graph.states), repr(asked.task.graph.edges)],
        "schedules": {name: plan.to_yaml() for name, plan in asked.schedules.items()},
        "clip_frames": asked.spend.clip_frames,
    }


def _check_same(file: Path, facts: dict[str, Any]) -> None:
    if not file.exists():
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        partial.replace(file)
        return
    differing = [key for key, value in json.loads(file.read_text(encoding="utf-8")).items() if facts.get(key) != value]
    if differing:
        raise UserError(f"{file.parent} holds a bench with another {' and '.join(differing)}; give another --work")


def _head(asked: Asked, words: Sequence[str], videos: int) -> str:
    facts, target = environment(), asked.target
    versions = ", ".join(f"{name} {facts[name]}" for name in ("torch", "numpy", "av") if name in facts)
    gpus = f", {', '.join(facts['gpus'])}" if facts["gpus"] else ", no GPU"
    threads = asked.task.config.train.threads or "PyTorch's own"
    return f"""# Does planning pay? Schedules trained at equal clip-frames

Command: `fastplan bench plan {_said(words)}`
Machine: {processor()}{gpus}; Python {facts["python"]}, {versions}; threads of PyTorch: {threads}; other work beside it.

Graph '{asked.task.graph.name}'; {videos} test videos, {asked.task.config.test.clips} clips each; n counts seeds,
which vary initial weights, order, augmentation and dropout; the videos are the same. Budget of a schedule:
{asked.spend.clip_frames:,} training clip-frames, in whole epochs of {asked.spend.epoch_clips} clips; two plain
schedules get what the search of the same seed took, everything that it tried included. The target is {target.clip} at
lr {target.lr:g}, batch {target.effective_batch}. Validation decides; the test is looked at once.

Top-1 in per cent, mean ± standard deviation over seeds. Averaged weights: a moving average, BatchNorm estimated anew;
not averaged: the weights themselves, BatchNorm estimated in the same way; as left: with the running statistics of
training. What halving, search and knees tried and dropped is in their clip-frames, epochs and CPU seconds (training,
validation and scores of this process). A plan is replayed under a seed that did not find it where there are two seeds.
Clip-frames do not see how large a picture is: multigrid's smaller ones cost less CPU. A training that diverged counts
as chance.
"""


def _said(words: Sequence[str]) -> str:
    """The words of a command, as a shell takes them, without the folders of one machine."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--work")
    parser.add_argument("--out")
    return shlex.join(parser.parse_known_args(list(words))[1])


class _Bar(Listener):
    """A bar with the time left on a terminal, a line per finished training everywhere."""

    def __init__(self, asked: Asked) -> None:
        budget = asked.spend.clip_frames
        self._expected = {SEARCH: SEARCH_GUESS * budget, KNEES: 2 * budget, COSINE_AT_PRICE: SEARCH_GUESS * budget}
        self._expected |= {LONG: (LONGER - 1) * budget, CONSTANT_AT_PRICE: (SEARCH_GUESS - LONGER) * budget}
        names = [name for name in asked.names if asked.wanted(name)]
        self._expected = {name: self._expected.get(name, budget) for name in names}
        self._finished = 0.0  # clip-frames of finished trainings, and of those that are still to come or under way
        self._open = float(asked.seeds * sum(self._expected.values()))
        self._constant: dict[int, int] = {}
        self._here = self._under_way = 0
        self._count, self._all = 0, asked.seeds * len(names)
        self._begun, self._now = time.monotonic(), "opening the data"
        self._console = make_console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(self._now)

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def work(self, clip_frames: int) -> None:
        """Move the bar."""
        self._here += clip_frames
        self._under_way += clip_frames
        self._show()

    def begin(self, seed: int, name: str) -> None:
        """Name what is under way."""
        self._now, self._under_way = f"seed {seed}, {name}", 0
        self._show()

    def end(self, trained: Trained) -> None:
        """A line."""
        self._count += 1
        self._under_way = 0
        self._open -= self._expected.get(trained.name, 0)
        self._finished += trained.clip_frames
        if trained.name in CONSTANTS:  # each goes on where the one before it ended
            self._finished -= self._constant.get(trained.seed, 0)
            self._constant[trained.seed] = trained.clip_frames
        self._console.print(
            f"[{self._count}/{self._all}] seed {trained.seed}, {trained.name}: {100 * trained.averaged:.1f} %, "
            f"{trained.clip_frames:,} clip-frames, {trained.cpu_s:.0f} CPU s{self._left()}",
            highlight=False,
            markup=False,
        )
        self._show()

    def note(self, text: str) -> None:
        """A line."""
        self._console.print(text, highlight=False, markup=False)

    def progress(self, title: str, total: int) -> Callable[[], None]:
        """A bar that disappears when it is full."""
        task = self._progress.add_task(title, total=total)

        def advance() -> None:
            self._progress.advance(task)
            if self._progress.tasks[self._progress.task_ids.index(task)].finished:
                self._progress.update(task, visible=False)

        return advance

    def _show(self) -> None:
        done = self._finished + self._under_way
        words = f"{self._now}{self._left()}"
        self._progress.update(
            self._task, description=words, completed=done, total=max(self._finished + self._open, done)
        )

    def _left(self) -> str:
        if not self._here or self._count == self._all:
            return ""
        seconds = max(self._open - self._under_way, 0) * (time.monotonic() - self._begun) / self._here
        return f"; about {duration(seconds)} left"
