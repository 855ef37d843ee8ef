"""Races between the ways into a state: who goes on, in whatever order it is told, and who is left alone."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_stepwise import assert_any_order_gives_the_serial_result, random_graph, some_path

from fastplan.clips import ClipSpec
from fastplan.errors import UserError
from fastplan.planner import START, Outcome, Progress, Reached, SearchRules, State, StateGraph, Stepwise, search

PRICE = 8


def whole_outcome(seed: int, source: str, state: State, before: Reached | None, repeat: int = 0) -> Outcome:
    """An edge trained to its end, from the whole path that led to it: epochs cost alike, one in ten diverges."""
    rng = random.Random(f"{seed} {before.names if before else ()} {source} {state.name} {repeat}")
    trained = rng.randint(1, 9)
    curve = tuple(round(rng.random(), 2) for _ in range(trained + 1))
    epochs = rng.randint(0, trained)
    diverged = rng.random() < 0.1
    return Outcome(
        source=source,
        target=state.name,
        status="diverged" if diverged else rng.choice(["knee", "knee", "cap"]),
        epochs=0 if diverged else epochs,
        trained=trained,
        accuracy=math.nan if diverged else curve[epochs],
        stderr=math.nan if diverged else rng.choice([0.0, 0.02, 0.1]),
        cost=PRICE * epochs,
        seconds=0.0,
        checkpoint=None,
        spent=PRICE * trained,
        curve=(*curve[:-1], math.nan) if diverged else curve,
    )


def until_paused(outcome: Outcome, until: int | None) -> Outcome | Progress:
    if until is None or outcome.trained <= until:
        return outcome
    return Progress(outcome.source, outcome.target, outcome.curve[: until + 1], PRICE * until)


def path_measure(seed: int):
    def measure(source, state, before, repeat=0, until=None):
        return until_paused(whole_outcome(seed, source, state, before, repeat), until)

    return measure


RULES = [
    SearchRules(race=0.5),
    SearchRules(race=0.0, first_rung=1),
    SearchRules(race=0.7, first_rung=1, rung_step=2, width=2),
    SearchRules(race=0.4, width=None, z=0.0),
    SearchRules(race=0.5, skip_dominated=True, width=2),
    SearchRules(race=0.5, z=4.0, repeats=2),
    SearchRules(race=0.5, race_start=0.15),
    SearchRules(race=0.4, race_start=0.15, first_rung=1, rung_step=2, width=2, skip_dominated=True),
    SearchRules(race=0.5, race_start=0.15, z=4.0, repeats=2),
]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.randoms(use_true_random=False), rules=st.sampled_from(RULES))
def test_any_order_of_telling_gives_the_serial_result(seed, order, rules):
    rng = random.Random(seed)
    graph, measure = random_graph(rng), path_measure(seed)
    if rng.random() < 0.3:
        rules = replace(rules, first_path=some_path(graph, rng))
    assert_any_order_gives_the_serial_result(graph, measure, rules, order)


@pytest.mark.parametrize("seed", range(100))
def test_what_is_begun_anew_from_a_journal_asks_for_the_rest_alone(seed):
    """Told again what was trained so far, as far as each question goes, a search asks for what the first one lacked."""
    graph, rules, rng = random_graph(random.Random(seed)), RULES[seed % len(RULES)], random.Random(seed)
    whole, trained = search(graph, path_measure(seed), rules=rules), {}
    stepwise = Stepwise(graph, rules)
    while ready := stepwise.ask():
        if rng.random() < 0.2:
            stepwise = Stepwise(graph, rules)  # killed
            while known := next(((e, t) for e in stepwise.ask() if (t := journalled(trained, e)) is not None), None):
                stepwise.tell(*known)
            continue
        e = rng.choice(ready)
        end = whole_outcome(seed, e.source, e.state, e.arrival, e.repeat)
        done = trained.get(e.names, (0, end))[0]
        now = end.trained if e.until is None else min(e.until, end.trained)
        assert now > done or (now == done == end.trained), "no epoch is asked for twice"
        trained[e.names] = now, end
        stepwise.tell(e, until_paused(end, e.until))
    assert stepwise.result() == whole
    assert sum(epochs for epochs, _ in trained.values()) * PRICE == whole.spent


def journalled(trained, e):
    epochs, end = trained.get(e.names, (-1, None))
    goal = math.inf if e.until is None else e.until
    return until_paused(end, e.until) if end is not None and epochs >= min(goal, end.trained) else None


def fan(ways: int) -> StateGraph:
    """From `start` into a, b, c ... and from each of them into z."""
    names = [chr(ord("a") + i) for i in range(ways)]
    states = tuple(State(name, ClipSpec(1, 8), 0.1) for name in (*names, "z"))
    return StateGraph("fan", states, (*((START, n) for n in names), *((n, "z") for n in names)))


def ended(source, target, curve, status="knee"):
    last = len(curve) - 1
    return Outcome(source, target, status, last, last, curve[-1], 0.01, PRICE * last, 0.0, None, "", PRICE * last,
                   curve=tuple(curve))  # fmt: skip


def fan_measure(curves, trained):
    def measure(source, state, before, until=None):
        if source == START:
            assert until is None, "nothing races with random weights"
            return ended(START, state.name, (0.1, 0.5))
        curve = curves[source]
        trained[source] = min(len(curve) - 1, math.inf if until is None else until)
        return until_paused(ended(source, "z", curve), until)

    return measure


def test_half_of_the_ways_go_on_from_every_rung_and_the_best_is_trained_to_its_end():
    curves = {
        "a": (0.5, 0.50, 0.60, 0.61, 0.9, 0.95),
        "b": (0.5, 0.70, 0.65, 0.65, 0.65),
        "c": (0.5, 0.55, 0.69, 0.75, 0.80),
        "d": (0.5, 0.40, 0.40, 0.40, 0.99),
        "e": (0.5, 0.51, 0.66, 0.70, 0.70),
    }
    trained = {}
    result = search(fan(5), fan_measure(curves, trained), rules=SearchRules(race=0.5))
    assert trained == {"a": 2, "b": 4, "c": 4, "d": 2, "e": 3}, "3 of 5 go on from epoch 2, 2 from epoch 3"
    assert result.path.names == ("c", "z")
    assert set(result.skipped) == {"start>a>z", "start>d>z", "start>e>z"}, "b had ended"
    assert result.skipped["start>a>z"] == "60.0 % after 2 epochs, another way 70.0 %"
    assert result.spent == PRICE * (5 + 2 + 4 + 4 + 2 + 3)
    everything = search(fan(5), fan_measure(curves, {}))
    assert everything.path.names == ("d", "z") and not everything.skipped, "without a race the last epochs decide"


def test_the_rungs_are_settings_and_share_zero_leaves_one():
    curves = {name: tuple(0.1 * i + 0.01 * j for j in range(9)) for i, name in enumerate("abcd", 1)}
    trained = {}
    search(fan(4), fan_measure(curves, trained), rules=SearchRules(race=0.5, first_rung=3, rung_step=2))
    assert trained == {"a": 3, "b": 3, "c": 5, "d": 8}
    search(fan(4), fan_measure(curves, trained), rules=SearchRules(race=0.0, first_rung=1))
    assert trained == {"a": 1, "b": 1, "c": 1, "d": 8}


def test_ways_that_ended_before_they_were_behind_stay_arrivals():
    curves = {"a": (0.5, 0.6), "b": (0.5, 0.7, 0.8, 0.9), "c": (0.5, 0.55, 0.56, 0.57)}
    trained = {}
    result = search(fan(3), fan_measure(curves, trained), rules=SearchRules(race=0.5))
    assert trained == {"a": 1, "b": 3, "c": 2}
    assert set(result.skipped) == {"start>c>z"}
    assert {point.names for point in result.frontier.points} >= {("b", "z")}
    assert len(result.frontier.points) == 2, "and a, which is cheaper"


def opened(rules, ways=2):
    stepwise = Stepwise(fan(ways), rules)
    for e in stepwise.ask():
        stepwise.tell(e, ended(START, e.state.name, (0.1, 0.5)))
    return stepwise


@pytest.mark.parametrize("cut_first", [True, False])
def test_a_way_that_a_budget_cut_short_is_decided_about_when_a_larger_one_has_trained_it(cut_first):
    stepwise = opened(SearchRules(race=0.5))
    a, b = stepwise.ask()
    assert (a.until, b.until) == (2, 2)
    cut = ended("a", "z", (0.5, 0.4), status="budget")
    told = [(a, cut), (b, Progress("b", "z", (0.5, 0.6, 0.7), 2 * PRICE))]
    for exploration, what in told if cut_first else reversed(told):
        stepwise.tell(exploration, what)
    assert stepwise.given_up == ()
    assert [(e.names, e.until) for e in stepwise.ask()] == [(("b", "z"), None)]
    stepwise.tell(stepwise.ask()[0], ended("b", "z", (0.5, 0.6, 0.7), status="budget"))
    assert stepwise.ask() == () and stepwise.given_up == ()
    assert stepwise.result().path.names == ("b", "z")


@pytest.mark.parametrize("status", ["budget", "cap"])
def test_behind_an_edge_that_a_budget_cut_short_nobody_is_given_up(status):
    """With a larger budget b may be the better way into m, and then m -> z is another training."""
    states = tuple(State(name, ClipSpec(1, 8), 0.1) for name in "abmz")
    edges = ((START, "a"), (START, "b"), ("a", "m"), ("b", "m"), ("b", "z"), ("m", "z"))
    stepwise = Stepwise(StateGraph("behind", states, edges), SearchRules(race=0.5, first_rung=1))
    told = {
        ("a",): ended(START, "a", (0.1, 0.5)),
        ("b",): ended(START, "b", (0.1, 0.5)),
        ("a", "m"): ended("a", "m", (0.5, 0.7)),
        ("b", "m"): ended("b", "m", (0.5, 0.6), status=status),
        ("b", "z"): Progress("b", "z", (0.5, 0.6), PRICE),
        ("a", "m", "z"): Progress("m", "z", (0.7, 0.8), PRICE),
    }
    while ready := [e for e in stepwise.ask() if e.names in told]:
        stepwise.tell(ready[0], told.pop(ready[0].names))
    assert not told and [e.names for e in stepwise.ask()] == [("a", "m", "z")], "what is left of a budget goes on"
    assert [e.names for e, _ in stepwise.given_up] == ([] if status == "budget" else [("b", "z")])


def test_a_pause_too_early_and_an_answer_that_nobody_asked_are_refused():
    stepwise = opened(SearchRules(race=0.5))
    a, b = stepwise.ask()
    with pytest.raises(ValueError, match="to epoch 2; it was paused at 1"):
        stepwise.tell(a, Progress("a", "z", (0.5, 0.4), PRICE))
    stepwise.tell(a, Progress("a", "z", (0.5, 0.4, 0.4), 2 * PRICE))
    assert [e.names for e in stepwise.ask()] == [("b", "z")]
    stepwise.tell(b, Progress("b", "z", (0.5, 0.6, 0.7), 2 * PRICE))
    assert [(e.names, why) for e, why in stepwise.given_up] == [
        (("a", "z"), "50.0 % after 2 epochs, another way 70.0 %")
    ]
    with pytest.raises(ValueError, match="not open"):
        stepwise.tell(a, ended("a", "z", (0.5, 0.4, 0.4)))
    with pytest.raises(ValueError, match="to its end; it was paused at 5"):
        stepwise.tell(stepwise.ask()[0], Progress("b", "z", (0.5, *[0.7] * 5), 5 * PRICE))


def beside_start(short: int = 4) -> StateGraph:
    """Into z, clips of 16 frames, from a and from b, of `short` and 8 frames, and from `start`."""
    states = tuple(State(name, ClipSpec(1, frames), 0.1) for name, frames in (("a", short), ("b", 8), ("z", 16)))
    return StateGraph("beside", states, ((START, "a"), (START, "b"), (START, "z"), ("a", "z"), ("b", "z")))


def beside_measure(curves, trained):
    def measure(source, state, before, until=None):
        key = f"{source}>{state.name}"
        trained[key] = min(len(curves[key]) - 1, math.inf if until is None else until)
        return until_paused(ended(source, state.name, curves[key]), until)

    return measure


BEGINNINGS = {"start>a": (0.1, 0.2, 0.3, 0.3, 0.3, 0.4), "start>b": (0.1, 0.3, 0.5)}  # 20 and 16 frames a clip


@pytest.mark.parametrize("leaves_chance_at, wins", [(4, True), (5, False)])
def test_a_way_from_the_start_is_compared_at_equal_compute(leaves_chance_at, wins):
    """5 epochs of 4 frames have cost what 1.25 of z cost, 2 of 8 frames what one costs: `start` is given 2 epochs."""
    curves = {
        **BEGINNINGS,
        "a>z": (0.4, 0.45, 0.50, 0.52, 0.54, 0.55),
        "b>z": (0.5, 0.55, 0.60, 0.62, 0.64, 0.65, 0.65),
        "start>z": tuple(0.1 if epoch < leaves_chance_at else 0.9 for epoch in range(9)),
    }
    trained = {}
    result = search(beside_start(), beside_measure(curves, trained), rules=SearchRules(race=0.3, race_start=0.15))
    assert (result.path.names == ("z",)) is wins
    if wins:
        assert trained == {"start>a": 5, "start>b": 2, "a>z": 2, "b>z": 2, "start>z": 8}
        assert result.skipped["start>b>z"] == "60.0 % after 2 epochs, another way 90.0 % after 4"
    else:
        assert trained == {"start>a": 5, "start>b": 2, "a>z": 2, "b>z": 6, "start>z": 4}
        assert result.skipped["start>z"] == "10.0 % after 4 epochs, another way 60.0 % after 2"
    assert set(result.skipped) == {"start>a>z", "start>b>z" if wins else "start>z"}
    without = {}
    search(beside_start(), beside_measure(curves, without), rules=SearchRules(race=0.3))
    assert without == {"start>a": 5, "start>b": 2, "a>z": 2, "b>z": 6, "start>z": 8}, (
        "only those that follow others race"
    )


def test_a_way_from_the_start_waits_at_the_first_rung_until_the_others_are_known():
    stepwise = Stepwise(beside_start(), SearchRules(race=0.5, race_start=0.15, first_rung=3))
    asked = {e.key: e.until for e in stepwise.ask()}
    assert asked == {"start>a": None, "start>b": None, "start>z": 3}
    at = {e.key: e for e in stepwise.ask()}
    stepwise.tell(at["start>z"], Progress(START, "z", (0.1, 0.1, 0.1, 0.1), 3 * PRICE))
    for key in ("start>a", "start>b"):
        stepwise.tell(at[key], ended(START, key[-1], BEGINNINGS[key]))
    assert {e.key: e.until for e in stepwise.ask()} == {"start>a>z": 3, "start>b>z": 3, "start>z": 5}


def test_nothing_is_decided_while_all_ways_are_at_chance():
    """The other way into z is from a, which learns nothing; both leave chance late, and the later one ends higher."""
    states = tuple(State(name, ClipSpec(1, 8), 0.1) for name in "az")
    graph = StateGraph("late", states, ((START, "a"), (START, "z"), ("a", "z")))
    curves = {
        "start>a": (0.1, 0.12, 0.11),
        "a>z": (0.12, 0.13, 0.13, 0.13, 0.13, 0.13, 0.13),
        "start>z": (0.1, 0.1, 0.1, 0.1, 0.11, 0.1, 0.24, 0.26, 0.9),
    }
    trained = {}
    result = search(graph, beside_measure(curves, trained), rules=SearchRules(race=0.5, race_start=0.15))
    assert result.path.names == ("z",) and trained["start>z"] == 8
    assert trained["a>z"] == 5, "at the rung at which epoch 7 of the other, two later, is 0.15 above its beginning"
    hasty = search(graph, beside_measure(curves, {}), rules=SearchRules(race=0.5, race_start=0.0))
    assert hasty.path.names == ("a", "z"), "noise decides"


def test_alone_a_way_from_the_start_is_trained_to_its_end_without_a_pause():
    stepwise = Stepwise(fan(2), SearchRules(race=0.5, race_start=0.15))
    assert {e.key: e.until for e in stepwise.ask()} == {"start>a": None, "start>b": None}


@pytest.mark.parametrize(
    "values", [{"race_start": -0.1}, {"race": 1.0}, {"race": -0.1}, {"first_rung": 0}, {"rung_step": 0}]
)
def test_rules_out_of_range_are_refused(values):
    with pytest.raises(UserError, match=next(iter(values))):
        SearchRules(**values)
