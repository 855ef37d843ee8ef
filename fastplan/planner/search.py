"""Dynamic programming over a state graph (METHOD section 1).

Settle the states in topological order; for each, measure every in-edge from its settled source; keep the best
arrival; trace back from the sink. `measure` trains one edge and may answer from a journal: that is all resume needs.
The rules live in `fastplan.planner.stepwise`; here they are driven one edge at a time.
"""

from collections.abc import Callable, Mapping

from fastplan.planner.arrivals import Outcome, Progress, Reached
from fastplan.planner.states import StateGraph
from fastplan.planner.stepwise import SearchResult, SearchRules, Stepwise

Measure = Callable[..., Outcome | Progress]
OnSettled = Callable[[Mapping[str, Reached], set[str]], None]


def search(
    graph: StateGraph,
    measure: Measure,
    *,
    on_settled: OnSettled = lambda reached, unsettled: None,
    rules: SearchRules | None = None,
) -> SearchResult:
    """Explore the graph edge by edge, in topological order, and trace back the best path.

    measure: called as measure(source, state, reached): train `state` from the weights at the end of `reached` (None
        for `start`). An outcome that diverged is an arrival that nothing continues from. With `rules.repeats` it is
        called with repeat=n too, for the n-th training with other random numbers; with `rules.race` it may be called
        with until=n, to pause after epoch n and answer a `Progress` where the edge has not ended by then, and again
        for the same edge, which goes on from where it was.
    on_settled: called as on_settled(reached, unsettled) after each state, with the names still to be settled; for
        deleting what no one can need any more. With a `width` above one, `reached` does not name all that is needed.
    rules: what is kept and what is left out; by default every edge is explored once and `pick` chooses.
    """
    stepwise = Stepwise(graph, rules)
    while ready := stepwise.ask():
        exploration = ready[0]
        how = {"repeat": exploration.repeat} if exploration.repeat else {}
        if exploration.until is not None:
            how["until"] = exploration.until
        outcome = measure(exploration.source, exploration.state, exploration.arrival, **how)
        for _ in stepwise.tell(exploration, outcome):
            on_settled(stepwise.reached, stepwise.unsettled)
    return stepwise.result()
