"""The front of arrivals that are worth keeping, and the frontier of plans that a budget picks from.

An arrival is kept for what it cost and what it scores. A more expensive one must be better by more than noise: with
standard errors s_A and s_B, the dearer A is dominated by B where accuracy(A) <= accuracy(B) + z sqrt(s_A^2 + s_B^2).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastplan.planner.arrivals import Reached, pick
from fastplan.planner.plans import Plan, plan_of
from fastplan.planner.states import StateGraph

Choose = Callable[[list[Reached]], Reached]


@dataclass(frozen=True)
class PlanFrontier:
    """The best plan for every budget.

    points: paths into one state, dearer and better by more than noise from each to the next. Every point was trained
        from the start to its end, so its accuracy is a measurement; nothing is interpolated. Costs are those of
        training the path once, not of the search that found it.
    """

    graph: StateGraph
    points: tuple[Reached, ...]

    def reached_within(self, budget: int | None) -> Reached | None:
        """The last point that costs at most `budget` clip-frames (None: no limit); None where all cost more."""
        affordable = [point for point in self.points if budget is None or point.cost <= budget]
        return affordable[-1] if affordable else None

    def plan_within(self, budget: int | None) -> Plan | None:
        """The plan along `reached_within(budget)`; None where every plan costs more."""
        point = self.reached_within(budget)
        return None if point is None else plan_of(self.graph, point)


def pick_highest(arrivals: list[Reached]) -> Reached:
    """The published rule: the highest accuracy, whatever it cost; the first of equals."""
    best = max(arrivals, key=lambda a: a.outcome.accuracy)
    return Reached(best.state, best.path, "the only way in" if len(arrivals) == 1 else f"highest of {len(arrivals)}")


def significantly_better(better: Reached, worse: Reached, *, z: float) -> bool:
    """Whether the accuracies differ by more than `z` standard errors of their difference."""
    noise = z * math.hypot(better.outcome.stderr, worse.outcome.stderr)
    return better.outcome.accuracy > worse.outcome.accuracy + noise


def pareto(arrivals: Sequence[Reached], *, z: float = 1.0) -> tuple[Reached, ...]:
    """Non-dominated arrivals, cheapest first.

    z: standard errors of the difference by which a dearer arrival must be better, >= 0; 0 is plain dominance. For
        each arrival left out, one that is kept costs no more and is not worse by more than noise. The first of equals
        is kept, a converged one before a capped one.
    """
    ordered = sorted(arrivals, key=lambda a: (a.cost, -a.outcome.accuracy, a.outcome.status != "knee"))
    kept: list[Reached] = []
    for arrival in ordered:
        if all(significantly_better(arrival, cheaper, z=z) for cheaper in kept):
            kept.append(arrival)
    return tuple(kept)


def front(
    arrivals: Sequence[Reached], *, width: int | None = None, z: float = 1.0, choose: Choose = pick
) -> tuple[Reached, ...]:
    """At most `width` arrivals to go on from, cheapest first; the one that `choose` names is always among them.

    width: >= 1, or None for all of `pareto`. Width one is the rule `choose` alone. Where there are too many, the one
        whose loss shrinks the area under the (cost, accuracy) staircase least goes first.
    """
    chosen = choose(list(arrivals))
    if width == 1:
        return (chosen,)
    kept = [arrival for arrival in pareto(arrivals, z=z) if arrival.path != chosen.path]
    kept = sorted([*kept, chosen], key=lambda a: (a.cost, a.outcome.accuracy))
    while width is not None and len(kept) > width:
        losses = [_area_lost(kept, i) for i in range(len(kept))]
        candidates = [i for i in range(len(kept)) if kept[i].path != chosen.path]
        del kept[min(candidates, key=lambda i: losses[i])]
    return tuple(kept)


def _area_lost(kept: list[Reached], i: int) -> float:
    """Area under the staircase that only `kept[i]` supports; up to the dearest, which has a step of its own width."""
    step = kept[i].outcome.accuracy - (kept[i - 1].outcome.accuracy if i else 0.0)
    until = kept[i + 1].cost if i + 1 < len(kept) else 2 * kept[i].cost
    return step * (until - kept[i].cost)
