"""What a search will cost before it begins, and whether it can be worth that.

How long an edge trains is not known beforehand: at least the attempt epochs, at most the cap. What is known is the
price of an epoch in each state, and with it how many times its own path a search would cost if all edges took equally
long and kept all they trained. Searches were seen to cost more: edges train beyond the epoch that they keep, and states
of the path that keep no epoch drop out of the plan.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fastplan.planner.states import START, Edge, StateGraph

# A search costs about BEYOND[1] times what equally long edges would give; 80 % of the generated worlds lie between the
# outer two (docs/planning.md).
BEYOND = (1.2, 1.6, 2.3)
TELLING = 0.04  # gaps between branches that were seen to matter are about this large (docs/planning.md)


@dataclass(frozen=True)
class EdgeEstimate:
    """An edge before it is trained. least, most: epochs. price: of one epoch, in whatever unit was given."""

    source: str
    target: str
    least: int
    most: int
    price: float


@dataclass(frozen=True)
class SearchEstimate:
    """A search before it begins.

    edges: in the order of a serial search. ended: price of one epoch on every edge that is trained to its end; a race
    leaves one of the ways into a state, beside those from the start where they do not race. path: prices (cheapest,
    dearest) of one epoch in every state of one path.
    """

    edges: tuple[EdgeEstimate, ...]
    ended: float
    path: tuple[float, float]

    @property
    def total(self) -> tuple[float, float]:
        """Price of the whole search: (every edge at its least, every edge at its most)."""
        return sum(e.least * e.price for e in self.edges), sum(e.most * e.price for e in self.edges)

    @property
    def times_path(self) -> tuple[float, float]:
        """How many times its own path a search costs, edges equally long: (the dearest path, the cheapest path)."""
        return self.ended / self.path[1], self.ended / self.path[0]

    @property
    def expected_times(self) -> tuple[float, float, float]:
        """How many times its own path a search will cost: (low, about, high), 80 % between low and high.

        The geometric mean of `times_path`, times `BEYOND`. At least 1: the path is part of the search.
        """
        equal = math.sqrt(self.times_path[0] * self.times_path[1])
        low, about, high = (max(factor * equal, 1.0) for factor in BEYOND)
        return low, about, high

    def within(self, budget: float) -> tuple[int, int]:
        """How many edges, in order, a budget pays in full: (where each trains longest, where each trains shortest)."""
        return _paid([e.most * e.price for e in self.edges], budget), _paid(
            [e.least * e.price for e in self.edges], budget
        )


def estimate(
    graph: StateGraph,
    prices: Mapping[str, float],
    *,
    attempt_epochs: int,
    max_epochs: int,
    first_rung: int | None,
    race_start: bool = False,
) -> SearchEstimate:
    """Estimate a search from the price of one epoch in every state (seconds, clip-frames), > 0.

    first_rung: of `SearchRules`, where ways into a state race; None for no race. race_start: whether those from the
    start race too.

    An edge trains at least `attempt_epochs` (then its knee was the very beginning), or to the first rung where it races
    and is behind there, and at most what `StateGraph.caps` says: `max_epochs`, or more from the start.
    """
    caps, race = graph.caps(max_epochs), first_rung is not None
    edges = tuple(
        EdgeEstimate(*edge, min(attempt_epochs, max_epochs), caps[edge], prices[edge[1]])
        for edge in graph.edges_in_order()
    )
    if first_rung is not None:
        rivals = _rivals(graph, race_start)
        edges = tuple(
            replace(e, least=min(e.least, first_rung)) if (e.source, e.target) in rivals else e for e in edges
        )
    cheapest, dearest = {START: 0.0}, {START: 0.0}
    for state in graph.in_order():
        before = graph.predecessors(state.name)
        cheapest[state.name] = prices[state.name] + min(cheapest[name] for name in before)
        dearest[state.name] = prices[state.name] + max(dearest[name] for name in before)
    apart = [edge for edge in edges if not race or (edge.source == START and not race_start)]
    ended = sum(edge.price for edge in apart)
    if race:
        ended += sum(prices[s.name] for s in graph.states if race_start or set(graph.predecessors(s.name)) != {START})
    return SearchEstimate(edges, ended, (cheapest[graph.sink], dearest[graph.sink]))


def verdict(graph: StateGraph, found: SearchEstimate, *, val_videos: int, accuracy: float = 0.8) -> tuple[bool, str]:
    """Whether a search can be worth its cost, and why, in words for a person.

    val_videos: that decide. accuracy: around which the decisions will be made, a fraction. What decides was measured
    (docs/planning.md, "When planning pays"): whether anything is contested, whether the learning rate is a question,
    and whether the validation videos can tell two ways apart.
    """
    contested = sum(len(graph.predecessors(state.name)) > 1 for state in graph.states)
    if not contested:
        return (
            True,
            "nothing is contested: one path, whose states end at their knees. A search costs what it trains.",
        )
    noise = math.sqrt(2 * accuracy * (1 - accuracy) / val_videos)
    low, about, high = found.expected_times
    cost = f"it costs about {about:.1f} times the path that it finds (eight in ten: {low:.1f} to {high:.1f})"
    telling = f"{val_videos} validation videos tell two ways apart only beyond {100 * noise:.0f} points"
    if rates := start_rates(graph):
        finer = f"; {telling}, so only the choice of the rate can be trusted" if noise > TELLING else ""
        return True, (
            f"worth its cost if nobody knows the learning rate: training may start at {', '.join(rates)}, and at "
            f"a rate that is too high a network learns nothing, however long it is trained; {cost}{finer}. Where the "
            "rate is known, train at that rate."
        )
    if noise > TELLING:
        return False, (
            f"not worth its cost here: {telling} (one standard error of the difference), and {cost}. Give more "
            "validation videos (--val, plan.holdout), or train one path: a plan (--plan), or a graph without branches."
        )
    return False, (
        f"not worth its cost for one training: {cost}, and one training at a constant rate with averaged weights was "
        "as good for less. Train that, or a graph without branches, whose states end at their knees. A search is worth "
        "its cost where nobody knows the learning rate (levels with 'starts: every-lr')."
    )


def start_rates(graph: StateGraph) -> list[str]:
    """Learning rates, highest first, that training may start at with the same clips; none where there is one only."""
    first = [graph.state(name) for name in graph.successors(START)]
    rates = {state.lr for state in first for other in first if state.clip == other.clip and state.lr != other.lr}
    return [f"{rate:g}" for rate in sorted(rates, reverse=True)]


def most_paused(graph: StateGraph, *, race_start: bool, one_by_one: bool) -> int:
    """How many edges may be paused at a time: of the ways into a state that race, all but the one that is trained.

    one_by_one: whether one edge is trained at a time, so one state's race is open at most.
    """
    paused = [ways - 1 for ways in Counter(target for _, target in _rivals(graph, race_start)).values()]
    return max(paused, default=0) if one_by_one else sum(paused)


def open_edges(found: SearchEstimate, reached: int) -> Sequence[Edge]:
    """The edges behind the first `reached` ones."""
    return [(edge.source, edge.target) for edge in found.edges[reached:]]


def _rivals(graph: StateGraph, race_start: bool) -> frozenset[Edge]:
    """Edges that race: not the only one into their state, nor from the start unless those race too."""
    ways = {
        state.name: [name for name in graph.predecessors(state.name) if name != START or race_start]
        for state in graph.states
    }
    return frozenset((name, target) for target, names in ways.items() if len(names) > 1 for name in names)


def _paid(costs: Sequence[float], budget: float) -> int:
    spent = 0.0
    for number, cost in enumerate(costs):
        spent += cost
        if spent > budget * (1 + 1e-9):
            return number
    return len(costs)
