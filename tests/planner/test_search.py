"""The dynamic programme against brute force over all paths, and its rules for ties, caps and failures."""

import math
import random

import pytest

from fastplan.clips import ClipSpec
from fastplan.planner.arrivals import Outcome, Reached, pick
from fastplan.planner.plans import Plan
from fastplan.planner.search import search
from fastplan.planner.states import START, State, StateGraph

CLIP = ClipSpec(1, 8, 1, 32)


def outcome(source, target, accuracy, *, status="knee", epochs=3, cost=10, stderr=0.0):
    return Outcome(source, target, status, epochs, epochs + 2, accuracy, stderr, cost, 1.0, f"{source}-{target}")


def random_graph(rng: random.Random) -> StateGraph:
    """A random DAG with one sink in which every state is reachable."""
    n = rng.randint(1, 7)
    names = [f"s{i}" for i in range(n)]
    edges = set()
    for i, name in enumerate(names):
        before = [START, *names[:i]]
        for source in rng.sample(before, rng.randint(1, min(3, len(before)))):
            edges.add((source, name))
    for i, name in enumerate(names[:-1]):
        if not any(source == name for source, _ in edges):
            edges.add((name, rng.choice(names[i + 1 :])))
    order = names[:]
    rng.shuffle(order)
    return StateGraph("random", tuple(State(name, CLIP, 0.1) for name in order), tuple(sorted(edges)))


def all_paths(graph: StateGraph, name: str) -> list[list[tuple[str, str]]]:
    if name == START:
        return [[]]
    return [[*path, (source, name)] for source in graph.predecessors(name) for path in all_paths(graph, source)]


@pytest.mark.parametrize("seed", range(1000))
def test_equals_brute_force_over_all_paths(seed):
    """With gains that add up along a path, the best path of the programme is the best of all paths."""
    rng = random.Random(seed)
    graph = random_graph(rng)
    gain = {edge: rng.randint(-20, 100) / 1000 for edge in graph.edges}
    measured = []

    def measure(source, state, before):
        measured.append((source, state.name))
        base = before.outcome.accuracy if before else 0.0
        assert (before is None) == (source == START)
        assert before is None or before.state == source
        return outcome(source, state.name, base + gain[source, state.name])

    result = search(graph, measure)
    totals = {tuple(path): sum(gain[edge] for edge in path) for path in all_paths(graph, graph.sink)}
    assert sorted(measured) == sorted(graph.edges), "every edge is explored once"
    assert measured == list(graph.edges_in_order())
    assert result.plan.accuracy == pytest.approx(max(totals.values()))
    found = tuple((o.source, o.target) for o in result.reached[graph.sink].path)
    assert totals[found] == pytest.approx(max(totals.values()))
    assert [leg.state.name for leg in result.plan.legs] == [target for _, target in found]


def arrivals(*outcomes):
    return [Reached("v", (o,), "") for o in outcomes]


def test_ties_within_one_standard_error_go_to_the_cheaper_path():
    dear = outcome("a", "v", 0.905, cost=100, stderr=0.01)
    cheap = outcome("b", "v", 0.900, cost=10, stderr=0.01)
    assert pick(arrivals(dear, cheap)).outcome is cheap
    better = outcome("a", "v", 0.920, cost=100, stderr=0.01)
    assert pick(arrivals(better, cheap)).outcome is better


def test_a_capped_edge_is_never_ranked_as_converged():
    capped = outcome("a", "v", 0.905, status="cap", cost=1, stderr=0.01)
    converged = outcome("b", "v", 0.900, cost=100, stderr=0.01)
    chosen = pick(arrivals(capped, converged))
    assert chosen.outcome is converged
    assert "undecided against a, stopped at the cap" in chosen.why
    far_better = outcome("a", "v", 0.95, status="cap", stderr=0.01)
    chosen = pick(arrivals(far_better, converged))
    assert chosen.outcome is far_better
    assert "itself stopped at the cap" in chosen.why


def test_cost_of_a_tie_counts_the_whole_path():
    shared_start = outcome("start", "u", 0.5, cost=1000)
    long_way = Reached("v", (shared_start, outcome("u", "v", 0.9, cost=1, stderr=0.01)), "")
    short_way = Reached("v", (outcome("start", "v", 0.9, cost=500, stderr=0.01),), "")
    assert pick([long_way, short_way]).path == short_way.path


def diamond() -> StateGraph:
    edges = ((START, "a"), (START, "b"), ("a", "c"), ("b", "c"))
    return StateGraph("diamond", tuple(State(name, CLIP, 0.1) for name in "abc"), edges)


def test_a_diverged_edge_is_left_out_and_nothing_continues_from_it():
    seen = []

    def measure(source, state, before):
        seen.append((source, state.name))
        if state.name == "a":
            return outcome(source, "a", math.nan, status="diverged")
        return outcome(source, state.name, 0.5)

    result = search(diamond(), measure)
    assert ("a", "c") not in seen
    assert [leg.state.name for leg in result.plan.legs] == ["b", "c"]


def test_no_way_to_the_sink_is_a_value_with_an_explanation():
    result = search(diamond(), lambda s, state, b: outcome(s, state.name, math.nan, status="diverged"))
    assert result.plan is None
    assert "every path to 'c' diverged" in result.note


def test_states_of_no_epochs_are_dropped_from_the_plan():
    def measure(source, state, before):
        return outcome(source, state.name, 0.5, epochs=0 if state.name == "c" else 4)

    plan = search(diamond(), measure).plan
    assert [(leg.state.name, leg.epochs) for leg in plan.legs] == [("a", 4)]


def test_what_is_still_needed_is_known_after_every_state():
    """on_settled sees every reached state and exactly the states still to come."""
    seen = []
    search(
        diamond(),
        lambda s, state, b: outcome(s, state.name, 0.5),
        on_settled=lambda reached, unsettled: seen.append((sorted(reached), sorted(unsettled))),
    )
    assert seen == [(["a"], ["b", "c"]), (["a", "b"], ["c"]), (["a", "b", "c"], [])]


def test_a_plan_survives_its_file():
    result = search(diamond(), lambda s, state, b: outcome(s, state.name, 0.5, stderr=0.01))
    again = Plan.from_yaml(result.plan.to_yaml())
    assert again == result.plan
