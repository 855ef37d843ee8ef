"""What is compared when schedules are trained beside each other: what is asked for, what was trained, at what price."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from fastplan.errors import UserError
from fastplan.launch import Request, Task
from fastplan.planner.comparators import Spend, comparators, constant, cosine
from fastplan.planner.halving import rungs
from fastplan.planner.journal import EpochRecord
from fastplan.planner.plans import Plan
from fastplan.planner.states import START, State

RATES = (4.0, 1.0, 0.25, 0.0625)  # halving's candidates, as factors on the target's learning rate
LONGER = 2  # the constant schedule goes on to so many budgets: would waiting have done what a search does?
CONSTANT, HALVING, KNEES = "constant", "successive halving", "knees, no search"
LONG = f"{CONSTANT}, {LONGER} times as long"
CONSTANT_AT_PRICE, COSINE_AT_PRICE = "constant, price of the search", "cosine, price of the search"
CONSTANTS = (CONSTANT, LONG, CONSTANT_AT_PRICE)  # one training, tested three times
SEARCH, REPLAY = "planned search", "its plan, replayed"


@dataclass(frozen=True)
class Trained:
    """One training, finished.

    clip_frames, epochs, cpu_s: all that it took, what was tried and dropped included; CPU seconds of training and
    validation. averaged, raw, raw_bn: top-1 on the test videos of the averaged weights, of the others as the trainer
    left them, and of the others with BatchNorm estimated as for the averaged ones; chance where it diverged.
    curve: (clip-frames so far, validation top-1 of the averaged weights) after every epoch; empty for what trains
    several networks, None where it diverged. plan: what was trained, in words.
    """

    name: str
    seed: int
    clip_frames: int
    epochs: int
    cpu_s: float
    averaged: float
    raw: float
    raw_bn: float
    curve: tuple[tuple[int, float | None], ...]
    plan: str
    diverged: bool = False


@dataclass(frozen=True)
class Asked:
    """What is to be compared, under seeds 0, 1, ...; spend: what every schedule may cost.

    request: the graph and the settings in the user's words, without a seed; task: the same, resolved. only: names of
    what is trained, None for everything.

    Raises `UserError` where `only` names nothing that can be trained here.
    """

    request: Request
    task: Task
    seeds: int
    spend: Spend
    only: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in self.only or ():
            if name in self.left_out:
                raise UserError(f"{name} cannot be trained here: {self.left_out[name]}")
            if name not in self.names:
                raise UserError(f"no schedule is called '{name}'; there are {', '.join(self.names)}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Everything that can be trained here."""
        halving = () if HALVING in self.left_out else (HALVING,)
        hand = (name for name in self.schedules if name not in CONSTANTS)
        return (SEARCH, *CONSTANTS, *hand, COSINE_AT_PRICE, REPLAY, *halving, KNEES)

    def wanted(self, name: str) -> bool:
        """Whether it is to be trained."""
        return name in (self.names if self.only is None else self.only)

    @cached_property
    def target(self) -> State:
        """The state in the validation's regime with the highest rate: what schedules made by hand train."""
        assert self.task.graph is not None
        clip = self.task.graph.validation_clip
        states = [state for state in self.task.graph.states if state.clip == clip]
        if not states:
            raise UserError(f"no state of '{self.task.graph.name}' has the clips that it is validated in ({clip})")
        return max(states, key=lambda state: state.lr)

    @cached_property
    def starts(self) -> list[State]:
        """States with the target's clips and a lower rate in which training may start: the rate is a question here."""
        assert self.task.graph is not None
        first = (self.task.graph.state(name) for name in self.task.graph.successors(START))
        return [s for s in first if s.clip == self.target.clip and s.lr < self.target.lr]

    @cached_property
    def short(self) -> State | None:
        """A state of shorter clips at that rate, for the schedule from short to long; None where there is none."""
        assert self.task.graph is not None
        shorter = [s for s in self.task.graph.states if s.clip.length < self.target.clip.length]
        return max(shorter, key=lambda state: state.lr, default=None)

    @cached_property
    def schedules(self) -> dict[str, Plan]:
        """Schedules made by hand, by name."""
        return {name: made for name, made in self._made.items() if isinstance(made, Plan)}

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Schedules that cannot be made here, and why."""
        found = {name: made for name, made in self._made.items() if isinstance(made, str)}
        try:
            rungs(len(RATES), self.halved)
        except UserError as error:
            found[HALVING] = str(error)
        return found

    def constants(self, price: int | None) -> dict[str, Plan]:
        """The constant schedules to train, shortest first. price: clip-frames that the search of the same seed took."""
        frames = {CONSTANT: self.spend.clip_frames, LONG: LONGER * self.spend.clip_frames, CONSTANT_AT_PRICE: price}
        made = {
            name: constant(self.target, replace(self.spend, clip_frames=amount))
            for name, amount in frames.items()
            if self.wanted(name) and amount is not None
        }
        return dict(sorted(made.items(), key=lambda item: item[1].legs[0].epochs))

    def cosine(self, price: int) -> Plan:
        """The cosine schedule at the price of a search."""
        return cosine(self.target, replace(self.spend, clip_frames=price))

    @cached_property
    def halved(self) -> int:
        """Epochs of the halving."""
        return max(round(self.spend.clip_frames / self.spend.price(self.target)), 1)

    @cached_property
    def _made(self) -> dict[str, Plan | str]:
        made: dict[str, Plan | str] = {}
        rates = {f"{CONSTANT} at {state.lr:g}": partial(constant, state, self.spend) for state in self.starts}
        for name, make in {**comparators(self.target, self.spend, short=self.short), **rates}.items():
            try:
                made[name] = make()
            except UserError as error:
                made[name] = str(error)
        if self.short is None:
            made["short to long"] = "the graph has no state of shorter clips"
        return made

    @property
    def largest_batch(self) -> int:
        """Of everything that will be trained outside the search."""
        states = [leg.state for plan in self.schedules.values() for leg in plan.legs]
        return max(state.largest_batch for state in [*states, *self.task.states, self.target])


class Listener:
    """Told how far the bench is; this one is silent."""

    def work(self, clip_frames: int) -> None:
        """So many clip-frames more are trained."""

    def begin(self, seed: int, name: str) -> None:
        """A training begins, or goes on."""

    def end(self, trained: Trained) -> None:
        """A training is finished, now or before this process began."""

    def note(self, text: str) -> None:
        """Something that a person should know."""

    def progress(self, title: str, total: int) -> Callable[[], None]:
        """Long work of `total` steps begins; call what is returned after each."""
        return lambda: None


@dataclass
class Ledger:
    """Finished epochs with their price, one line each, as a file: (training, epoch) -> record. A torn last line counts
    as not written."""

    file: Path
    rows: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        content = self.file.read_bytes() if self.file.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            self.file.write_bytes(whole)
        for line in whole.splitlines():
            row = json.loads(line)
            self.rows.setdefault((row["training"], row["epoch"]), row)

    def add(self, training: str, record: EpochRecord, seconds: float) -> bool:
        """Write one down, unless it is there already; whether it was not."""
        row = {
            "training": training,
            "epoch": record.epoch,
            "accuracy": None if math.isnan(record.accuracy) else record.accuracy,
            "clip_frames": record.clip_frames,
            "cpu_s": round(seconds, 3),
        }
        if (training, record.epoch) in self.rows:
            return False
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows[training, record.epoch] = row
        return True

    def of(self, prefix: str) -> list[dict[str, Any]]:
        """All rows of trainings whose names begin so, in the order in which they were written."""
        return [row for (training, _), row in self.rows.items() if training.startswith(prefix)]

    def last(self, training: str) -> int:
        """The last finished epoch, 0 for none."""
        return max((epoch for name, epoch in self.rows if name == training), default=0)


def file_name(name: str) -> str:
    """The name of a training as a file's, without an ending."""
    return name.replace(", ", "-").replace(" ", "-")


def words(plan: Plan) -> str:
    """The legs of a plan in words."""
    legs = [
        f"{leg.epochs} of {leg.state.clip.segments}x{leg.state.clip.frames}, {leg.state.clip.size} px at "
        f"{'cosine from ' if leg.schedule == 'cosine' else ''}{leg.state.lr:g}"
        for leg in plan.legs
    ]
    return "; ".join(legs)
