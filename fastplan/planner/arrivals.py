"""What exploring edges gives, and which of several arrivals in one state is kept.

An `Outcome` is one edge, explored; a `Reached` is the path of outcomes that leads into a state. Accuracies are
fractions in 0..1, costs whole training clip-frames (or any other whole unit that a client counts in).
"""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Outcome:
    """What exploring one edge gave.

    status: `knee` (converged), `cap` (stopped at max_epochs: its accuracy is a lower bound), `ceiling` (stopped because
        nothing it could still gain would beat a sibling), `budget` (cut short: a lower bound too), `planned` (a replay
        of exactly so many epochs) or `diverged`.
    epochs: of the checkpoint that is kept, 0 where the source's weights were better.
    trained: epochs trained in all.
    accuracy, stderr: of the kept checkpoint, fractions; nan where it diverged.
    cost: training clip-frames up to the kept checkpoint. seconds: training time for the same epochs.
    checkpoint: whatever names the kept weights, None where there are none.
    note: one line for a person.
    spent: training clip-frames of all epochs trained, None where nobody counted them (see `total_cost`).
    """

    source: str
    target: str
    status: Literal["knee", "cap", "ceiling", "budget", "planned", "diverged"]
    epochs: int
    trained: int
    accuracy: float
    stderr: float
    cost: int
    seconds: float
    checkpoint: str | None
    note: str = ""
    spent: int | None = None

    @property
    def total_cost(self) -> int:
        """Training clip-frames of all epochs trained; without `spent`, `cost` scaled from `epochs` to `trained`."""
        if self.spent is not None:
            return self.spent
        return round(self.cost * self.trained / self.epochs) if self.epochs else 0


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
        return tuple(outcome.target for outcome in self.path)

    @property
    def cost(self) -> int:
        """Training clip-frames of the whole path."""
        return sum(outcome.cost for outcome in self.path)

    @property
    def seconds(self) -> float:
        """Training seconds of the whole path."""
        return sum(outcome.seconds for outcome in self.path)


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
