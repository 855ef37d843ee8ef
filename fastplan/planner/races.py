"""Ways into one state race: all are trained to a rung, an epoch, and from there only those that are ahead.

Who goes on from a rung is decided when every way into the state is known and has been trained that far. So what a race
asks depends on what was told alone, not on the order of telling. A way from `start` does not race unless asked to: a
network with random weights is behind for as long as it stays at chance, however good it will be. Where it races, it is
compared at equal compute: its rungs lie as many epochs later as the dearest path of the other ways has bought. And
nothing is decided before one of the ways is above chance, which is what the random weights had.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fastplan.planner.arrivals import Exploration, Outcome, Progress
from fastplan.planner.states import State, StateGraph

Told = Mapping[tuple[str, ...], Outcome | Progress]


@dataclass(frozen=True)
class Standing:
    """asked: what can be trained into a state now. given_up: what is trained no more, and why."""

    asked: tuple[Exploration, ...]
    given_up: tuple[tuple[Exploration, str], ...] = ()


@dataclass(frozen=True)
class Race:
    """share: of the ways at a rung, how many go on, 0 <= share < 1, one at least. first_rung, step: epochs, >= 1.

    from_start: how far above chance the best way must be where one from `start` races too; None where it does not.
    """

    share: float
    first_rung: int
    step: int
    from_start: float | None = None

    def standing(self, ways: Sequence[Exploration], told: Told, *, complete: bool, lead: int = 0) -> Standing:
        """Where it stands. complete: whether `ways` are all there will be.

        lead: epochs that a way from `start` trains before its rungs are counted, `lead_of` where they are complete.

        A way that a budget cut short before a rung will be there with a larger one: nothing is decided until then.
        """
        racing = [way for way in ways if way.arrival is not None or self.from_start is not None]
        apart = tuple(way for way in ways if way.arrival is None and self.from_start is None and way.names not in told)
        given_up: list[tuple[Exploration, str]] = []
        rung = self.first_rung
        while True:
            alone = complete and len(racing) == 1
            ends = [rung + (lead if way.arrival is None else 0) for way in racing]
            asked = [
                replace(way, until=None if alone else end)
                for way, end in zip(racing, ends, strict=True)
                if not _is_at(told.get(way.names), None if alone else end)
            ]
            if asked or not complete or all(isinstance(told[way.names], Outcome) for way in racing):
                return Standing((*apart, *asked), tuple(given_up))
            if any(_is_cut(told[way.names], end) for way, end in zip(racing, ends, strict=True)):
                to_end = [way for way in racing if not isinstance(told[way.names], Outcome)]
                return Standing((*apart, *to_end), tuple(given_up))
            scores = [score_at(told[way.names], end) for way, end in zip(racing, ends, strict=True)]
            order = sorted((i for i, score in enumerate(scores) if not math.isnan(score)), key=lambda i: -scores[i])
            if order and not self._is_open(racing, told, scores[order[0]]):
                ahead = set(order[: max(math.ceil(self.share * len(order)), 1)])
            else:
                ahead = set(order)
            for i, way in enumerate(racing):
                if i not in ahead and not isinstance(told[way.names], Outcome):
                    best = f"{100 * scores[order[0]]:.1f} %"
                    if ends[i] != ends[order[0]]:
                        best += f" after {ends[order[0]]}"
                    given_up.append((way, f"{100 * scores[i]:.1f} % after {ends[i]} epochs, another way {best}"))
            racing = [way for i, way in enumerate(racing) if i in ahead]
            rung += self.step

    def _is_open(self, racing: Sequence[Exploration], told: Told, best: float) -> bool:
        """Whether a way from `start` races and even the best is not above the accuracy of its random weights yet."""
        if self.from_start is None:
            return False
        chance = [curve[0] for way in racing if way.arrival is None and (curve := told[way.names].curve)]
        return any(best < accuracy + self.from_start for accuracy in chance)


def lead_of(graph: StateGraph, state: State, ways: Sequence[Exploration]) -> int:
    """Epochs in `state` of as many clip-frames as the dearest of the paths that `ways` begin with, rounded up.

    An epoch has the same number of clips in every state. 0 where all ways begin at `start`.
    """
    frames = [
        sum(outcome.epochs * graph.state(outcome.target).clip.length for outcome in way.arrival.path)
        for way in ways
        if way.arrival is not None
    ]
    return math.ceil(max(frames, default=0) / state.clip.length)


def score_at(told: Outcome | Progress, rung: int) -> float:
    """What is compared: the best accuracy up to the rung, that of the weights it began with included.

    An outcome whose curve nobody told is compared by its accuracy; nan where it has diverged by then.
    """
    if told.curve:
        return float(np.max(told.curve[: rung + 1]))
    assert isinstance(told, Outcome), "a paused edge has a curve"
    return told.accuracy


def _is_cut(told: Outcome | Progress, end: int) -> bool:
    """Whether a budget cut an edge short before epoch `end`."""
    return isinstance(told, Outcome) and told.status == "budget" and len(told.curve) <= end


def _is_at(told: Outcome | Progress | None, until: int | None) -> bool:
    """Whether an edge needs no training to get there: it has ended, or is that far."""
    return isinstance(told, Outcome) or (told is not None and until is not None and told.epochs >= until)
