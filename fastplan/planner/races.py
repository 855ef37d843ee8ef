"""Ways into one state race: all are trained to a rung, an epoch, and from there only those that are ahead.

Who goes on from a rung is decided when every way into the state is known and has been trained that far. So what a race
asks depends on what was told alone, not on the order of telling. A way from `start` does not race: a network with
random weights is behind for as long as it stays at chance, however good it will be.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fastplan.planner.arrivals import Exploration, Outcome, Progress

Told = Mapping[tuple[str, ...], Outcome | Progress]


@dataclass(frozen=True)
class Standing:
    """asked: what can be trained into a state now. given_up: what is trained no more, and why."""

    asked: tuple[Exploration, ...]
    given_up: tuple[tuple[Exploration, str], ...] = ()


@dataclass(frozen=True)
class Race:
    """share: of the ways at a rung, how many go on, 0 <= share < 1, one at least. first_rung, step: epochs, >= 1."""

    share: float
    first_rung: int
    step: int

    def standing(self, ways: Sequence[Exploration], told: Told, *, complete: bool) -> Standing:
        """Where it stands. complete: whether `ways` are all there will be.

        A way that a budget cut short before a rung will be there with a larger one: nothing is decided until then.
        """
        from_start = tuple(way for way in ways if way.arrival is None and way.names not in told)
        racing = [way for way in ways if way.arrival is not None]
        given_up: list[tuple[Exploration, str]] = []
        rung = self.first_rung
        while True:
            until = None if complete and len(racing) == 1 else rung
            asked = [replace(way, until=until) for way in racing if not _is_at(told.get(way.names), until)]
            if asked or not complete or all(isinstance(told[way.names], Outcome) for way in racing):
                return Standing((*from_start, *asked), tuple(given_up))
            if any(_is_cut(told[way.names]) and len(told[way.names].curve) <= rung for way in racing):
                to_end = [way for way in racing if not isinstance(told[way.names], Outcome)]
                return Standing((*from_start, *to_end), tuple(given_up))
            scores = [score_at(told[way.names], rung) for way in racing]
            order = sorted((i for i, score in enumerate(scores) if not math.isnan(score)), key=lambda i: -scores[i])
            ahead = set(order[: max(math.ceil(self.share * len(order)), 1)])
            for i, way in enumerate(racing):
                if i not in ahead and not isinstance(told[way.names], Outcome):
                    why = f"{100 * scores[i]:.1f} % after {rung} epochs, another way {100 * scores[order[0]]:.1f} %"
                    given_up.append((way, why))
            racing = [way for i, way in enumerate(racing) if i in ahead]
            rung += self.step


def score_at(told: Outcome | Progress, rung: int) -> float:
    """What is compared: the best accuracy up to the rung, that of the weights it began with included.

    An outcome whose curve nobody told is compared by its accuracy; nan where it has diverged by then.
    """
    if told.curve:
        return float(np.max(told.curve[: rung + 1]))
    assert isinstance(told, Outcome), "a paused edge has a curve"
    return told.accuracy


def _is_cut(told: Outcome | Progress) -> bool:
    return isinstance(told, Outcome) and told.status == "budget"


def _is_at(told: Outcome | Progress | None, until: int | None) -> bool:
    """Whether an edge needs no training to get there: it has ended, or is that far."""
    return isinstance(told, Outcome) or (told is not None and until is not None and told.epochs >= until)
