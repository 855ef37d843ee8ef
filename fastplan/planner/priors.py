"""A plan made before as the path that a search visits first."""

from fastplan.errors import UserError
from fastplan.planner.plans import Plan
from fastplan.planner.states import START, State, StateGraph


def path_of_plan(graph: StateGraph, plan: Plan) -> tuple[str, ...]:
    """The states of `graph` that the legs of `plan` are, from `start` on.

    A leg is the state of its name, or else the first one that trains alike (clip, lr, effective batch, frozen
    BatchNorm). Where a plan leaves out states between two legs, those on the shortest way are put in: their edges are
    told 0 epochs where they are of no use. Raises `UserError` where the graph has no such state or no such way.
    """
    path: list[str] = []
    for number, leg in enumerate(plan.legs, 1):
        state = _like(graph, leg.state)
        if state is None:
            raise UserError(f"plan.first_path: graph '{graph.name}' has no state like leg {number}, '{leg.state.name}'")
        source = path[-1] if path else START
        way = _shortest_way(graph, source, state)
        if way is None:
            raise UserError(f"plan.first_path: no way leads from '{source}' to '{state}' in graph '{graph.name}'")
        path += way
    return tuple(path)


def _like(graph: StateGraph, wanted: State) -> str | None:
    def regime(state: State) -> tuple[object, ...]:
        return state.clip, state.lr, state.effective_batch, state.freeze_bn

    if wanted.name in {state.name for state in graph.states}:
        return wanted.name
    return next((state.name for state in graph.states if regime(state) == regime(wanted)), None)


def _shortest_way(graph: StateGraph, source: str, target: str) -> list[str] | None:
    ways = [[name] for name in graph.successors(source)]
    seen: set[str] = set()
    while ways:
        way = ways.pop(0)
        if way[-1] == target:
            return way
        if way[-1] not in seen:
            seen.add(way[-1])
            ways += [[*way, name] for name in graph.successors(way[-1])]
    return None
