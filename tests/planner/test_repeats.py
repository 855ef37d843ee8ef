"""Repeats with other seeds: what is asked, what is decided, and how often the decision is wrong."""

import math
import random

import pytest

from fastplan.clips import ClipSpec
from fastplan.planner import START, Outcome, SearchRules, State, StateGraph, Stepwise, pick, pick_highest, search

GRAPH = StateGraph(
    "two ways from a",
    tuple(State(name, ClipSpec(1, 8), 0.1) for name in "abcz"),
    ((START, "a"), ("a", "b"), ("a", "c"), ("b", "z"), ("c", "z")),
)
NOISE = 0.02


def outcome(exploration, accuracy: float, *, cost: int = 10, status: str = "knee", stderr: float = NOISE) -> Outcome:
    source, target = exploration.source, exploration.state.name
    return Outcome(source, target, status, 1, 2, accuracy, stderr, cost, 1.0, exploration.key, spent=cost)


def searched(rules: SearchRules, by_b: float, by_c: float) -> Stepwise:
    """A search whose two ways into z were scored so; the way by c is the cheaper one."""
    stepwise = Stepwise(GRAPH, rules)
    scores = {"a": (0.5, 10), "a>b": (0.6, 10), "a>c": (0.6, 9), "a>b>z": (by_b, 10), "a>c>z": (by_c, 10)}
    while any(not e.repeat for e in stepwise.ask()):
        exploration = stepwise.ask()[0]
        accuracy, cost = scores[exploration.key.removeprefix("start>")]
        stepwise.tell(exploration, outcome(exploration, accuracy, cost=cost))
    return stepwise


def tell(stepwise: Stepwise, key: str, accuracy: float, **more) -> None:
    exploration = next(e for e in stepwise.ask() if e.key == key)
    stepwise.tell(exploration, outcome(exploration, accuracy, **more))


def keys(stepwise: Stepwise) -> list[str]:
    return [exploration.key for exploration in stepwise.ask()]


def test_nothing_is_repeated_beyond_noise_or_unless_asked_for():
    assert keys(searched(SearchRules(repeats=2), 0.80, 0.70)) == []
    assert keys(searched(SearchRules(), 0.80, 0.79)) == []


def test_the_ways_are_trained_again_from_where_they_part_and_the_mean_decides():
    stepwise = searched(SearchRules(repeats=1), 0.80, 0.79)
    before = stepwise.result()
    assert [leg.state.name for leg in before.plan.legs] == ["a", "c", "z"], "the cheaper of two within noise"
    assert not before.complete and "best so far, 1 state is open" in before.note
    assert keys(stepwise) == ["start>a>b~1", "start>a>c~1"]
    tell(stepwise, "start>a>c~1", 0.6)
    assert keys(stepwise) == ["start>a>b~1", "start>a>c~1>z~1"]
    tell(stepwise, "start>a>c~1>z~1", 0.71)
    tell(stepwise, "start>a>b~1", 0.6)
    half = stepwise.result()
    assert not half.complete and half.plan.accuracy == 0.79, "a round that is not whole does not count"
    tell(stepwise, "start>a>b~1>z~1", 0.82)
    result = stepwise.result()
    assert keys(stepwise) == [] and result.complete
    assert [leg.state.name for leg in result.plan.legs] == ["a", "b", "z"]
    assert result.plan.accuracy == pytest.approx(0.81)
    assert result.plan.stderr == pytest.approx(NOISE / math.sqrt(2)), "they differ less than one of them is sure of"
    assert result.path.outcome.checkpoint == "start>a>b>z", "the network is that of the search"
    assert "mean of 2 trainings: 80.0, 82.0 %" in result.note
    assert result.frontier.points[-1].outcome.accuracy == pytest.approx(0.81)
    assert result.spent == sum((10, 10, 9, 10, 10)) + 4 * 10


def test_rounds_end_when_the_decision_is_beyond_noise():
    stepwise = searched(SearchRules(repeats=5), 0.80, 0.79)
    for number in (1, 2, 3):
        assert keys(stepwise) == [f"start>a>b~{number}", f"start>a>c~{number}"]
        for way in "bc":
            tell(stepwise, f"start>a>{way}~{number}", 0.6)
            tell(stepwise, f"start>a>{way}~{number}>z~{number}", {"b": 0.70, "c": 0.79}[way])
    # After one round .75 and .79, but trainings of b differ by ten points; after three .725 +- .025 and .79 +- .01.
    assert keys(stepwise) == [] and stepwise.result().path.names == ("a", "c", "z")
    assert stepwise.result().plan.stderr == pytest.approx(NOISE / math.sqrt(4))


def test_a_way_that_diverges_with_another_seed_loses():
    stepwise = searched(SearchRules(repeats=1), 0.80, 0.79)
    tell(stepwise, "start>a>c~1", math.nan, status="diverged")
    for key in ("start>a>b~1", "start>a>b~1>z~1"):
        tell(stepwise, key, 0.7)
    assert stepwise.result().path.names == ("a", "b", "z") and stepwise.result().complete


def test_a_repeat_that_the_budget_cuts_short_decides_nothing():
    stepwise = searched(SearchRules(repeats=1), 0.80, 0.79)
    tell(stepwise, "start>a>b~1", 0.2, status="budget")
    assert keys(stepwise) == ["start>a>b~1", "start>a>c~1"], "a larger budget goes on with it"
    assert not stepwise.result().complete and stepwise.result().plan.accuracy == 0.79
    limited = searched(SearchRules(repeats=1, budget=49), 0.80, 0.79)
    assert keys(limited) == [] and not limited.result().complete


def test_everything_that_a_repeat_starts_from_is_startable_until_then():
    stepwise = searched(SearchRules(repeats=2), 0.80, 0.79)

    def kept() -> set[tuple[str, ...]]:
        return {arrival.names for arrival in stepwise.startable}

    while ready := stepwise.ask():
        assert {("a",), ("a", "b", "z"), ("a", "c", "z")} <= kept()
        assert {e.arrival.names for e in ready} <= kept()
        stepwise.tell(ready[0], outcome(ready[0], 0.8))
    assert kept() == set()


def test_behind_the_last_state_with_several_ways_in_the_decision_comes_first():
    graph = StateGraph("a tail", (*GRAPH.states, State("end", ClipSpec(1, 8), 0.1)), (*GRAPH.edges, ("z", "end")))
    asked = []

    def measure(source, state, before, repeat=0):
        asked.append((source, state.name, repeat))
        accuracy = {("b", 0): 0.80, ("c", 0): 0.79, ("b", 1): 0.82, ("c", 1): 0.71}.get((source, repeat), 0.6)
        return Outcome(source, state.name, "knee", 1, 2, accuracy, NOISE, 9 if source == "c" else 10, 1.0, "")

    result = search(graph, measure, rules=SearchRules(repeats=1))
    assert asked[-1] == ("z", "end", 0) and sum(repeat for _, _, repeat in asked) == 4
    assert result.path.names == ("a", "b", "z", "end")
    assert "mean of 2 trainings: 80.0, 82.0 %" in result.reached["z"].why


def wrong_choices(repeats: int, choose, *, better_costs: int, seeds: int = 300) -> int:
    """How often the worse of two ways is chosen: truly 3 points apart, 3 points of seed noise on top of 1.5."""
    graph = StateGraph(
        "two ways",
        tuple(State(name, ClipSpec(1, 8), 0.1) for name in ("good", "bad", "z")),
        ((START, "good"), (START, "bad"), ("good", "z"), ("bad", "z")),
    )
    wrong = 0
    for seed in range(seeds):

        def measure(source, state, before, repeat=0, seed=seed):
            way = state.name if before is None else source
            rng = random.Random(f"{seed} {way} {state.name} {repeat}")
            accuracy = {"good": 0.80, "bad": 0.77}[way] + rng.gauss(0, 0.03) + rng.gauss(0, 0.015)
            cost = better_costs if way == "good" else 10
            return Outcome(source, state.name, "knee", 1, 1, accuracy, 0.015, cost, 1.0, "")

        result = search(graph, measure, rules=SearchRules(choose=choose, repeats=repeats))
        wrong += result.path.names[0] == "bad"
    return wrong


@pytest.mark.parametrize("better_costs", [5, 20])
@pytest.mark.parametrize("choose", [pick, pick_highest])
def test_repeats_make_wrong_choices_rarer(choose, better_costs):
    """Over the same 300 seeds, whether the better way is the cheaper or the dearer one."""
    none, one, four = (wrong_choices(n, choose, better_costs=better_costs) for n in (0, 1, 4))
    assert one < none and four <= 0.7 * none, (none, one, four)
