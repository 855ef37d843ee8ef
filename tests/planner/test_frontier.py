"""The front and the plan frontier against brute force over all arrivals and over all paths."""

import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_stepwise import path_measure, random_graph

from fastplan.planner import (
    START,
    Outcome,
    Reached,
    SearchRules,
    State,
    StateGraph,
    front,
    pareto,
    pick,
    pick_highest,
    search,
)


def arrival(i: int, accuracy: float, cost: int, stderr: float = 0.0, status: str = "knee") -> Reached:
    return Reached("s", (Outcome(f"p{i}", "s", status, 1, 1, accuracy, stderr, cost, 1.0, None),), "")


def points(arrivals) -> list[tuple[int, float]]:
    return sorted((a.cost, a.outcome.accuracy) for a in arrivals)


def brute_force_pareto(pairs: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Points that no other point beats in one respect and equals or beats in the other."""
    return sorted(
        {
            (cost, accuracy)
            for cost, accuracy in pairs
            if not any((c <= cost and a >= accuracy and (c, a) != (cost, accuracy)) for c, a in pairs)
        }
    )


arrival_lists = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 20).map(lambda k: k / 20), st.sampled_from([0.0, 0.02, 0.1])),
    min_size=1,
    max_size=12,
).map(lambda rows: [arrival(i, a, c, s) for i, (c, a, s) in enumerate(rows)])


@settings(max_examples=300, deadline=None)
@given(arrival_lists)
def test_without_noise_the_front_is_the_pareto_front(arrivals):
    assert points(pareto(arrivals, z=0.0)) == brute_force_pareto(points(arrivals))


@settings(max_examples=300, deadline=None)
@given(arrival_lists, st.sampled_from([0.5, 1.0, 2.0]))
def test_with_noise_everything_left_out_has_a_cheaper_equal_that_was_kept(arrivals, z):
    kept = pareto(arrivals, z=z)
    for a in arrivals:
        if a not in kept:
            assert any(
                k.cost <= a.cost
                and k.outcome.accuracy
                >= a.outcome.accuracy - z * math.hypot(k.outcome.stderr, a.outcome.stderr) - 1e-12
                for k in kept
            )
    for cheap, dear in pairwise(kept):
        assert dear.outcome.accuracy > cheap.outcome.accuracy
        assert dear.cost >= cheap.cost


@settings(max_examples=300, deadline=None)
@given(arrival_lists, st.integers(1, 6), st.sampled_from([pick, pick_highest]))
def test_a_bounded_front_holds_the_chosen_one_and_only_members_of_the_whole(arrivals, width, choose):
    whole, bounded = front(arrivals, width=None, choose=choose), front(arrivals, width=width, choose=choose)
    assert choose(arrivals).path in [a.path for a in bounded]
    assert {a.path for a in bounded} <= {a.path for a in whole}
    assert len(bounded) == min(width, len(whole))
    assert [a.cost for a in bounded] == sorted(a.cost for a in bounded)


def test_the_point_whose_loss_costs_least_area_goes_first():
    arrivals = [arrival(0, 0.5, 10), arrival(1, 0.51, 20), arrival(2, 0.8, 30), arrival(3, 0.9, 90)]
    assert points(front(arrivals, width=3)) == [(10, 0.5), (30, 0.8), (90, 0.9)]
    assert points(front(arrivals, width=2)) == [(30, 0.8), (90, 0.9)], "0.5 x 20 is less than 0.3 x 60"
    assert points(front(arrivals, width=1)) == [(90, 0.9)]


def all_paths(graph: StateGraph, at: str = START) -> list[tuple[str, ...]]:
    nexts = graph.successors(at)
    return [(n, *rest) for n in nexts for rest in all_paths(graph, n)] if nexts else [()]


def walk(graph: StateGraph, names: tuple[str, ...], measure) -> Reached | None:
    before = None
    for source, target in zip((START, *names), names, strict=False):
        outcome = measure(source, graph.state(target), before)
        if outcome.status == "diverged":
            return None
        before = Reached(target, (*(before.path if before else ()), outcome), "")
    return before


def additive_measure(seed: int):
    """Gains and costs that belong to edges alone, so that the best path is made of best prefixes (Bellman)."""

    def measure(source: str, state: State, before: Reached | None) -> Outcome:
        rng = random.Random(f"{seed} {source} {state.name}")
        gain, cost = rng.randint(0, 63) / 1024, rng.randint(1, 30)
        accuracy = (before.outcome.accuracy if before else 0.0) + gain
        return Outcome(source, state.name, "knee", 1, 2, accuracy, 0.0, cost, 1.0, None)

    return measure


@pytest.mark.parametrize("block", range(10))
def test_on_1000_graphs_the_frontier_is_the_pareto_front_of_all_paths(block):
    for seed in range(block * 100, block * 100 + 100):
        graph, measure = random_graph(random.Random(seed)), additive_measure(seed)
        result = search(graph, measure, rules=SearchRules(width=None, z=0.0))
        ends = [walk(graph, names, measure) for names in all_paths(graph)]
        assert points(result.frontier.points) == brute_force_pareto(points(ends))
        for budget in {end.cost for end in ends} | {0}:
            best = max((e.outcome.accuracy for e in ends if e.cost <= budget), default=None)
            plan = result.frontier.plan_within(budget)
            assert (plan.accuracy if plan else None) == best
            assert plan is None or plan.cost <= budget
        assert result.frontier.plan_within(None).accuracy == max(e.outcome.accuracy for e in ends)


@pytest.mark.parametrize("block", range(10))
def test_on_1000_graphs_width_one_by_score_finds_the_best_of_all_paths(block):
    for seed in range(block * 100, block * 100 + 100):
        graph, measure = random_graph(random.Random(seed)), additive_measure(seed)
        result = search(graph, measure, rules=SearchRules(choose=pick_highest))
        best = max(walk(graph, names, measure).outcome.accuracy for names in all_paths(graph))
        assert result.plan.accuracy == best


@pytest.mark.parametrize("seed", range(200))
def test_width_one_by_score_is_the_published_rule_where_paths_matter(seed):
    graph, measure = random_graph(random.Random(seed)), path_measure(seed)
    reached: dict[str, Reached] = {}
    for state in graph.in_order():
        for source in graph.predecessors(state.name):
            if source != START and source not in reached:
                continue
            before = reached.get(source)
            outcome = measure(source, state, before)
            if outcome.status == "diverged":
                continue
            if state.name not in reached or outcome.accuracy > reached[state.name].outcome.accuracy:
                reached[state.name] = Reached(state.name, (*(before.path if before else ()), outcome), "")
    result = search(graph, measure, rules=SearchRules(choose=pick_highest))
    assert {name: r.path for name, r in result.reached.items()} == {name: r.path for name, r in reached.items()}


@pytest.mark.parametrize("seed", range(200))
def test_every_point_was_trained_from_the_weights_it_names(seed):
    graph, measure = random_graph(random.Random(seed)), path_measure(seed)
    result = search(graph, measure, rules=SearchRules(width=None, z=0.0))
    for kept in (*result.fronts.values(), result.frontier.points):
        for point in kept:
            assert walk(graph, point.names, measure).path == point.path


def test_with_a_wide_front_a_cheap_prefix_survives_that_width_one_drops():
    table = {
        ("a",): (0.60, 10),
        ("b",): (0.62, 100),
        ("a", "m"): (0.70, 10),
        ("b", "m"): (0.75, 10),
        ("a", "m", "z"): (0.90, 10),
        ("b", "m", "z"): (0.80, 10),
    }

    def measure(source, state, before):
        accuracy, cost = table[(*(before.names if before else ()), state.name)]
        return Outcome(source, state.name, "knee", 1, 1, accuracy, 0.01, cost, 1.0, None)

    base = random_graph(random.Random(0)).states[0]
    states = tuple(replace(base, name=name) for name in ("a", "b", "m", "z"))
    graph = StateGraph("prefix", states, ((START, "a"), (START, "b"), ("a", "m"), ("b", "m"), ("m", "z")))
    assert search(graph, measure).reached["z"].names == ("b", "m", "z")
    wide = search(graph, measure, rules=SearchRules(width=2))
    assert wide.reached["z"].names == ("a", "m", "z")
    assert [a.names for a in wide.fronts["m"]] == [("a", "m"), ("b", "m")]
    assert wide.spent > search(graph, measure).spent
