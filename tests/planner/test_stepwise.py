"""The stepwise search against a serial reference, in every order of telling that hypothesis finds."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastplan.clips import ClipSpec
from fastplan.errors import UserError
from fastplan.planner import (
    START,
    Outcome,
    Reached,
    SearchRules,
    State,
    StateGraph,
    Stepwise,
    pick,
    pick_highest,
    search,
)


def random_graph(rng: random.Random, *, most: int = 7) -> StateGraph:
    """A random DAG in which every state is reached from `start` and leads to the last one."""
    n = rng.randint(1, most)
    names = [f"s{i}" for i in range(n)]
    edges = {(START, "s0")}
    for i in range(n):
        edges.update((names[i], names[j]) for j in range(i + 1, n) if rng.random() < 0.4)
        if rng.random() < 0.3:
            edges.add((START, names[i]))
    for i in range(n):
        if not any(target == names[i] for _, target in edges):
            edges.add((names[rng.randrange(i)] if i else START, names[i]))
        if i < n - 1 and not any(source == names[i] for source, _ in edges):
            edges.add((names[i], names[rng.randrange(i + 1, n)]))
    states = [State(name, ClipSpec(1, 8), 0.1) for name in names]
    rng.shuffle(states)
    shuffled = sorted(edges)
    rng.shuffle(shuffled)
    return StateGraph("random", tuple(states), tuple(shuffled))


def path_measure(seed: int, *, diverging: float = 0.15):
    """An outcome that depends on the whole path that led to the edge, and on nothing else."""

    def measure(source: str, state: State, before: Reached | None, repeat: int = 0) -> Outcome:
        rng = random.Random(f"{seed} {before.names if before else ()} {source} {state.name} {repeat}")
        if rng.random() < diverging:
            return Outcome(source, state.name, "diverged", 0, 3, float("nan"), float("nan"), 0, 0.0, None, spent=5)
        epochs = rng.randint(0, 9)
        return Outcome(
            source=source,
            target=state.name,
            status=rng.choice(["knee", "knee", "cap"]),
            epochs=epochs,
            trained=epochs + 4,
            accuracy=round(rng.random(), 2),
            stderr=rng.choice([0.0, 0.02, 0.1]),
            cost=epochs * rng.choice([8, 16, 32]),
            seconds=float(epochs),
            checkpoint=f"{source}>{state.name}",
        )

    return measure


def serial_reference(graph: StateGraph, measure) -> dict[str, Reached]:
    """METHOD section 1, written once more; ties go to the cheaper path at the sink alone."""
    reached: dict[str, Reached] = {}
    for state in graph.in_order():
        arrivals = []
        for source in graph.predecessors(state.name):
            if source == START or source in reached:
                before = reached.get(source)
                outcome = measure(source, state, before)
                if outcome.status != "diverged":
                    arrivals.append(Reached(state.name, (*(before.path if before else ()), outcome), ""))
        if arrivals:
            choose = pick if state.name == graph.sink else pick_highest
            reached[state.name] = choose(arrivals)
    return reached


RULES = [
    SearchRules(),
    SearchRules(width=2),
    SearchRules(width=None, z=0.0),
    SearchRules(skip_dominated=True),
    SearchRules(width=3, z=0.5, skip_dominated=True),
    SearchRules(z=4.0, repeats=3),
    SearchRules(width=2, z=2.0, repeats=1),
]


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.randoms(use_true_random=False), rules=st.sampled_from(RULES))
def test_any_order_of_telling_gives_the_serial_result(seed, order, rules):
    rng = random.Random(seed)
    graph, measure = random_graph(rng), path_measure(seed)
    if rng.random() < 0.5:
        rules = replace(rules, first_path=some_path(graph, rng))
    told = assert_any_order_gives_the_serial_result(graph, measure, rules, order)
    assert len(told) == len(set(told)), "nothing is asked for twice"


def assert_any_order_gives_the_serial_result(graph, measure, rules, order):
    """Train everything that is ready at the same time and tell it as `order` has it; the names told, in that order."""
    serial = search(graph, measure, rules=rules)
    stepwise, under_way, told = Stepwise(graph, rules), [], []
    while True:
        names = {e.names for e in under_way}
        under_way += [e for e in stepwise.ask() if e.names not in names]
        if not under_way:
            break
        e = under_way.pop(order.randrange(len(under_way)))
        how = {"repeat": e.repeat} if e.repeat else {}
        if e.until is not None:
            how["until"] = e.until
        stepwise.tell(e, measure(e.source, e.state, e.arrival, **how))
        told.append(e.names)
    assert stepwise.result() == serial
    assert serial.complete
    return told


def some_path(graph: StateGraph, rng: random.Random) -> tuple[str, ...]:
    at, path = START, []
    while nexts := graph.successors(at):
        at = rng.choice(nexts)
        path.append(at)
    return tuple(path)


@pytest.mark.parametrize("seed", range(200))
def test_default_rules_are_the_plain_dynamic_programme(seed):
    graph, measure = random_graph(random.Random(seed)), path_measure(seed)
    settled = []
    result = search(graph, measure, on_settled=lambda reached, unsettled: settled.append(len(unsettled)))
    assert result.reached == serial_reference(graph, measure)
    assert len(settled) == len(graph.states)
    assert settled[-1] == 0
    assert (result.plan is None) == (graph.sink not in result.reached)


def test_serial_search_explores_edges_in_the_order_of_the_graph():
    for seed in range(50):
        graph = random_graph(random.Random(seed))
        measure, explored = path_measure(seed, diverging=0.0), []

        def noting(source, state, before, measure=measure, explored=explored):
            explored.append((source, state.name))
            return measure(source, state, before)

        search(graph, noting)
        assert tuple(explored) == graph.edges_in_order()


def diamond() -> StateGraph:
    states = tuple(State(name, ClipSpec(1, 8), 0.1) for name in "abz")
    return StateGraph("diamond", states, ((START, "a"), (START, "b"), ("a", "z"), ("b", "z")))


def outcome(source: str, target: str, accuracy: float, cost: int, stderr: float = 0.01) -> Outcome:
    return Outcome(source, target, "knee", 1, 2, accuracy, stderr, cost, 1.0, f"{source}-{target}")


def test_independent_edges_are_ready_together_and_dependent_ones_are_not():
    stepwise = Stepwise(diamond())
    assert [e.key for e in stepwise.ask()] == ["start>a", "start>b"]
    assert stepwise.tell(stepwise.ask()[1], outcome(START, "b", 0.5, 10)) == ("b",)
    assert [e.key for e in stepwise.ask()] == ["start>a", "start>b>z"]


def test_telling_twice_or_of_another_edge_is_refused():
    stepwise = Stepwise(diamond())
    a, b = stepwise.ask()
    with pytest.raises(ValueError, match="is not the outcome of"):
        stepwise.tell(a, outcome(START, "b", 0.5, 10))
    stepwise.tell(a, outcome(START, "a", 0.5, 10))
    with pytest.raises(ValueError, match="not open"):
        stepwise.tell(a, outcome(START, "a", 0.5, 10))
    stepwise.tell(b, outcome(START, "b", 0.5, 10))


def test_a_dominated_source_is_skipped_only_beyond_noise():
    stepwise = Stepwise(diamond(), SearchRules(skip_dominated=True))
    a, b = stepwise.ask()
    stepwise.tell(a, outcome(START, "a", 0.70, 10))
    assert [e.key for e in stepwise.ask()] == ["start>b"], "the edge out of a waits for the other source of z"
    stepwise.tell(b, outcome(START, "b", 0.60, 11))
    assert [e.key for e in stepwise.ask()] == ["start>a>z"]
    stepwise.tell(stepwise.ask()[0], outcome("a", "z", 0.8, 5))
    assert stepwise.result().skipped == {"start>b>z": "a is no dearer and better by more than noise"}
    tied = Stepwise(diamond(), SearchRules(skip_dominated=True))
    for e, accuracy in zip(tied.ask(), (0.61, 0.60), strict=True):
        tied.tell(e, outcome(START, e.state.name, accuracy, 10))
    assert [e.key for e in tied.ask()] == ["start>a>z", "start>b>z"]


def test_a_spent_budget_ends_asking_and_leaves_the_best_plan_so_far():
    path = SearchRules(first_path=("b", "z"), budget=25)
    stepwise = Stepwise(diamond(), path)
    assert stepwise.result().plan is None
    stepwise.tell(stepwise.ask()[0], outcome(START, "b", 0.5, 10))
    early = stepwise.result()
    assert not early.complete
    assert early.plan is not None
    assert [leg.state.name for leg in early.plan.legs] == ["b"]
    assert "it ends in 'b'" in early.note
    assert [e.key for e in stepwise.ask()] == ["start>b>z", "start>a"]
    stepwise.tell(stepwise.ask()[0], outcome("b", "z", 0.7, 10))
    assert stepwise.spent == 40, "two epochs were trained for each one kept"
    assert stepwise.ask() == ()
    assert [leg.state.name for leg in stepwise.result().plan.legs] == ["b", "z"]
    assert "best so far" in stepwise.result().note


@pytest.mark.parametrize(("into", "kept"), [("b", {("a",), ("a", "b"), ("b",)}), ("z", {("a", "b")})])
def test_what_a_larger_budget_may_come_back_to_stays_startable(into, kept):
    """An edge that was cut short may still keep no epoch of its own, or diverge."""
    states = tuple(State(name, ClipSpec(1, 8), 0.1) for name in "abz")
    edges = ((START, "a"), (START, "b"), ("a", "b"), ("b", "z"))
    for status in ("budget", "knee"):
        stepwise = Stepwise(StateGraph("cut", states, edges))
        while ready := stepwise.ask():
            e = ready[0]
            ended = status if e.names in {("a", into), ("a", "b", into)} else "knee"
            accuracy = 0.5 + 0.1 * len(e.names)
            stepwise.tell(e, Outcome(e.source, e.state.name, ended, 2, 2, accuracy, 0.01, 16, 0.0, e.key))
        startable = {arrival.names for arrival in stepwise.startable}
        assert kept <= startable if status == "budget" else startable == set()


def test_the_first_path_is_measured_once_and_competes_where_it_ends():
    table = {
        ("a",): outcome(START, "a", 0.9, 10),
        ("b",): outcome(START, "b", 0.2, 10),
        ("a", "z"): outcome("a", "z", 0.5, 10),
        ("b", "z"): outcome("b", "z", 0.8, 10),
    }
    calls = []

    def measure(source, state, before):
        names = (*(before.names if before else ()), state.name)
        calls.append(names)
        return table[names]

    result = search(diamond(), measure, rules=SearchRules(first_path=("b", "z")))
    assert calls == [("b",), ("b", "z"), ("a",), ("a", "z")]
    assert result.reached["z"].names == ("b", "z")


def test_the_best_rival_is_the_best_other_way_into_the_state():
    stepwise = Stepwise(diamond())
    for e in stepwise.ask():
        stepwise.tell(e, outcome(START, e.state.name, 0.5, 10))
    from_a, from_b = stepwise.ask()
    assert stepwise.best_rival(from_b) is None
    stepwise.tell(from_a, outcome("a", "z", 0.6, 10))
    assert stepwise.best_rival(from_b) == outcome("a", "z", 0.6, 10)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"width": 0}, "width is 0"),
        ({"z": -1.0}, "z is -1"),
        ({"budget": 0}, "budget is 0"),
        ({"repeats": -1}, "repeats is -1"),
    ],
)
def test_rules_out_of_range_are_refused(values, said):
    with pytest.raises(UserError, match=said):
        SearchRules(**values)


def test_a_first_path_that_the_graph_does_not_have_is_refused():
    with pytest.raises(UserError, match="a -> b"):
        Stepwise(diamond(), SearchRules(first_path=("a", "b")))
