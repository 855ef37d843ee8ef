"""A decision made again with other seeds: where the best ways into a state are within noise, the mean decides.

The ways differ from some state on. From there each is trained again, all of them in rounds, so that a way that was
lucky once has no advantage; after every round those that are behind by more than noise are out of it. What is asked
depends on what was told alone, not on the order of telling.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from fastplan.planner.arrivals import Exploration, Outcome, Reached
from fastplan.planner.states import START, StateGraph

SEEDS = 2.0  # the standard error of a validation leaves out what another seed changes


class Repeats:
    """Up to `most` rounds between the `arrivals` in a state, of those within `SEEDS` z standard errors of the best.

    A difference of two single trainings says nothing about their seeds, so more than its standard error is noise here.
    """

    def __init__(self, graph: StateGraph, arrivals: Sequence[Reached], *, most: int, z: float) -> None:
        self._graph, self._arrivals, self._most, self._z = graph, tuple(arrivals), most, SEEDS * z
        self._told: dict[tuple[str, ...], Outcome] = {}

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """All that was told."""
        return tuple(self._told.values())

    def ask(self) -> tuple[Exploration, ...]:
        """What can be trained now; empty where the decision is beyond noise, or `most` rounds are done."""
        return self._rounds()[1]

    def tell(self, exploration: Exploration, outcome: Outcome) -> None:
        """Take in what came of something asked."""
        self._told[exploration.names] = replace(outcome, repeat=exploration.repeat)

    def arrivals(self) -> list[Reached]:
        """The ways into the state, each with the mean of its trainings and the standard error of that mean.

        Whole rounds count; a training that diverged counts as accuracy 0. Costs and networks are those of the search.
        """
        ends = self._rounds()[0]
        return [Reached(w.state, (*w.path[:-1], _mean(ends[w.names])), w.why) for w in self._arrivals]

    def accuracies(self, names: tuple[str, ...]) -> list[float]:
        """Of one way into the state: in the search, then in every whole round that it took part in."""
        return [end.accuracy for end in self._rounds()[0][names]]

    def _rounds(self) -> tuple[dict[tuple[str, ...], list[Outcome]], tuple[Exploration, ...]]:
        """The last outcomes of every way's trainings, whole rounds only, and what the open round can train."""
        ends = {way.names: [way.outcome] for way in self._arrivals}
        contenders = self._arrivals
        for number in range(1, self._most + 1 if self._arrivals else 1):
            means = [_mean(ends[way.names]) for way in contenders]
            top = max(means, key=lambda mean: mean.accuracy)
            contenders = tuple(
                way
                for way, mean in zip(contenders, means, strict=True)
                if top.accuracy - mean.accuracy <= self._z * math.hypot(top.stderr, mean.stderr)
            )
            if len(contenders) < 2:
                break
            walks = [self._walk(way, number, _shared(contenders)) for way in contenders]
            if ready := {end.names: end for end in walks if isinstance(end, Exploration)}:
                return ends, tuple(ready.values())
            for way, end in zip(contenders, walks, strict=True):
                assert isinstance(end, Outcome)
                failed = replace(end, accuracy=0.0, stderr=way.outcome.stderr)
                ends[way.names].append(failed if end.status == "diverged" else end)
        return ends, ()

    def _walk(self, way: Reached, number: int, shared: int) -> Exploration | Outcome:
        """What to train next of a way in a round; the last outcome where it is at its end."""
        path, told = way.path[:shared], way.outcome
        for outcome in way.path[shared:]:
            arrival = Reached(path[-1].target, path, "") if path else None
            exploration = Exploration(outcome.source, self._graph.state(outcome.target), arrival, number)
            if exploration.names not in self._told:
                return exploration
            told = self._told[exploration.names]
            if told.status == "diverged":
                break
            path = (*path, told)
        return told


def deciding_state(graph: StateGraph) -> str:
    """The last state that more than one way leads into; behind it there is but one to the sink."""
    name = graph.sink
    while len(before := graph.predecessors(name)) == 1 and before[0] != START:
        name = before[0]
    return name


def _mean(ends: Sequence[Outcome]) -> Outcome:
    """The first of them with the mean accuracy and its standard error, from what they say or from how they differ."""
    if len(ends) == 1:
        return ends[0]
    alike = [end.accuracy for end in ends if end.status != "diverged"]
    spread = statistics.variance(alike) if len(alike) > 1 else 0.0
    noise = max(statistics.fmean(end.stderr**2 for end in ends), spread)
    accuracy = statistics.fmean(end.accuracy for end in ends)
    return replace(ends[0], accuracy=accuracy, stderr=math.sqrt(noise / len(ends)))


def _shared(ways: Sequence[Reached]) -> int:
    """How many states all the ways begin with."""
    shared = 0
    for names in zip(*(way.names for way in ways), strict=False):
        if len(set(names)) > 1:
            break
        shared += 1
    return shared
