"""What exploring edges gives, and which of several arrivals in one state is kept.

An `Outcome` is one edge, explored; a `Reached` is the path of outcomes that leads into a state. Accuracies are
fractions in 0..1, costs whole training clip-frames (or any other whole unit that a client counts in).
"""

import math
from dataclasses import dataclass
from typing import Literal

from fastplan.planner.states import START, State


@dataclass(frozen=True)
class Outcome:
    """What exploring one edge gave.

    status: `knee` (converged), `cap` (stopped at max_epochs: its accuracy is a lower bound), `ceiling` (stopped because
        nothing it could still gain would beat a sibling), `behind` (given up in a race: no arrival), `budget` (cut
        short: a lower bound too), `planned` (a replay of exactly so many epochs) or `diverged`.
    epochs: of the checkpoint that is kept, 0 where the source's weights were better.
    trained: epochs trained in all.
    accuracy, stderr: of the kept checkpoint, fractions; nan where it diverged.
    cost: training clip-frames up to the kept checkpoint. seconds: training time for the same epochs.
    checkpoint: whatever names the kept weights, None where there are none.
    note: one line for a person.
    spent: training clip-frames of all epochs trained, None where nobody counted them (see `total_cost`).
    repeat: 0 for the search's own training, n for the n-th one after it with other random numbers.
    curve: accuracies after epochs 0, 1, ... trained; empty where nobody compares it while it is trained.
    """

    source: str
    target: str
    status: Literal["knee", "cap", "ceiling", "behind", "budget", "planned", "diverged"]
    epochs: int
    trained: int
    accuracy: float
    stderr: float
    cost: int
    seconds: float
    checkpoint: str | None
    note: str = ""
    spent: int | None = None
    repeat: int = 0
    curve: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """The state, and which repeat: `u16`, `u16~1`."""
        return repeat_name(self.target, self.repeat)

    @property
    def total_cost(self) -> int:
        """Training clip-frames of all epochs trained; without `spent`, `cost` scaled from `epochs` to `trained`."""
        if self.spent is not None:
            return self.spent
        return round(self.cost * self.trained / self.epochs) if self.epochs else 0


@dataclass(frozen=True)
class Progress:
    """An edge that is paused, so far.

    curve: accuracies after epochs 0, 1, ... trained.
    spent: training clip-frames of all of them.
    """

    source: str
    target: str
    curve: tuple[float, ...]
    spent: int

    @property
    def epochs(self) -> int:
        """Trained so far."""
        return len(self.curve) - 1


@dataclass(frozen=True)
class Reached:
    """The dynamic-programming cell: the best way found into one state.

    path: outcomes from the start to here. cost, seconds: summed over the path. why: how the choice was made.
    """

    state: str
    path: tuple[Outcome, ...]
    why: str

    @property
    def outcome(self) -> Outcome:
        """The last edge of the path."""
        return self.path[-1]

    @property
    def names(self) -> tuple[str, ...]:
        """The states along the path, this one last; no two arrivals of one search have the same names."""
        return tuple(outcome.name for outcome in self.path)

    @property
    def cost(self) -> int:
        """Training clip-frames of the whole path."""
        return sum(outcome.cost for outcome in self.path)

    @property
    def seconds(self) -> float:
        """Training seconds of the whole path."""
        return sum(outcome.seconds for outcome in self.path)


@dataclass(frozen=True)
class Exploration:
    """One training to do: `state`, from the weights at the end of `arrival`, or from the initial ones where None.

    repeat: n > 0 asks for the n-th training with other random numbers, initial weights included.
    until: pause after that epoch and tell a `Progress`, unless the edge has ended by then; None: train to its end. An
        edge that was paused goes on from where it is.
    """

    source: str
    state: State
    arrival: Reached | None
    repeat: int = 0
    until: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The states from the first to this one: what tells explorations of one search apart."""
        return (*(self.arrival.names if self.arrival else ()), repeat_name(self.state.name, self.repeat))

    @property
    def key(self) -> str:
        """`names` as one string, `start>c8>u16`: for a journal or a file name where an edge is trained repeatedly."""
        return ">".join((START, *self.names))


def repeat_name(state: str, repeat: int) -> str:
    """`u16` for a search's own training, `u16~1` for its first repeat; no state's name holds a tilde."""
    return f"{state}~{repeat}" if repeat else state


def is_repeat(key: str) -> bool:
    """Whether the training of a key is a repeat."""
    return "~" in key.rpartition(">")[2]


def state_of_key(key: str) -> str:
    """The state that the training of a key is in: `u16` for `start>c8~1>u16~1`."""
    return key.rpartition(">")[2].partition("~")[0]


def pick(arrivals: list[Reached]) -> Reached:
    """The best of the arrivals in one state.

    The highest accuracy wins; among those within one standard error (of the difference) of it, a converged arrival
    before a capped one (whose accuracy is only a lower bound), then the cheaper path, then the first.
    """
    top = max((arrival.outcome for arrival in arrivals), key=lambda outcome: outcome.accuracy)
    tied = [
        arrival
        for arrival in arrivals
        if top.accuracy - arrival.outcome.accuracy <= math.hypot(top.stderr, arrival.outcome.stderr)
    ]
    converged = [a for a in tied if a.outcome.status == "knee"]
    best = min(converged or tied, key=lambda a: a.cost)
    if len(arrivals) == 1:
        why = "the only way in"
    elif len(tied) == 1:
        why = f"best of {len(arrivals)} by more than one standard error"
    else:
        others = "another" if len(tied) == 2 else f"{len(tied) - 1} others"
        why = f"within one standard error of {others}"
        why += ", the cheapest" if len(converged or tied) > 1 else ", the only one that converged"
    losers = [a for a in arrivals if a is not best and a.outcome.status == "cap"]
    if losers:
        why += f"; undecided against {', '.join(a.outcome.source for a in losers)}, stopped at the cap"
    if best.outcome.status == "cap":
        why += "; itself stopped at the cap"
    return Reached(best.state, best.path, why)
