"""Graphs: what is accepted, in which order it is walked, and what each mistake is told."""

import pytest

from fastplan.clips import ClipSpec
from fastplan.errors import UserError
from fastplan.planner.graph_files import graph_from_dict
from fastplan.planner.states import State, StateGraph, check_clip_lengths

ROW = {"segments": 1, "frames": 8, "lr": 0.1}


def graph(edges: list[str], names: str = "abc", **more):
    return graph_from_dict({"states": {name: ROW for name in names}, "edges": edges, **more})


def test_order_is_topological_and_ties_follow_the_file():
    found = graph(["start -> c", "c -> a", "start -> b", "b -> a"])
    assert [state.name for state in found.in_order()] == ["b", "c", "a"]
    assert found.sink == "a"
    assert found.edges_in_order() == (("start", "b"), ("start", "c"), ("c", "a"), ("b", "a"))


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (["start -> a", "a -> b", "b -> a", "b -> c"], "cycle: a -> b -> a"),
        (["start -> a", "a -> c"], "state 'b'|end in one state"),
        (["start -> a", "a -> c", "b -> c"], "state 'b' cannot be reached from 'start'"),
        (["start -> a", "a -> b", "a -> c"], "must end in one state; these have no way on: b, c"),
        (["start -> a", "a -> b", "b -> d"], "edge b -> d: there is no state 'd'"),
        (["start -> a", "start -> a", "a -> b", "b -> c"], "edge start -> a is given twice"),
        (["start -> a", "a -> start"], "nothing leads back to 'start'"),
        (["start a"], "write 'source -> target'"),
    ],
)
def test_wrong_edges(edges, message):
    with pytest.raises(UserError, match=message):
        graph(edges)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0}, "state 'a': lr is 0"),
        ({"lr": "1e-4x"}, "state 'a': lr is '1e-4x'"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"frames": -8}, "state 'a': clip frames is -8"),
        ({"batch_size": 0}, "state 'a': batch_size is 0"),
        ({"accumulate": 1.5}, "state 'a': accumulate is 1.5"),
        ({"freeze_bn": "yes"}, "state 'a': freeze_bn is 'yes'"),
        ({"short_cycle": 1}, "state 'a': short_cycle is 1"),
        ({"short_cycle": True, "cycle_size": 200}, "state 'a': cycle_size is 200.* no less than 224"),
        ({"cycle_size": 300}, "state 'a': cycle_size means nothing without short_cycle"),
        ({"framez": 8}, "state 'a' has an unknown key 'framez', did you mean 'frames'"),
    ],
)
def test_wrong_states(change, message):
    with pytest.raises(UserError, match=message):
        graph_from_dict({"states": {"a": {**ROW, **change}}, "edges": ["start -> a"]})


def test_missing_and_unknown_keys():
    with pytest.raises(UserError, match="state 'a' has no 'lr'"):
        graph_from_dict({"states": {"a": {"segments": 1, "frames": 8}}, "edges": ["start -> a"]})
    with pytest.raises(UserError, match="unknown key 'egdes', did you mean 'edges'"):
        graph_from_dict({"states": {"a": ROW}, "egdes": []})
    with pytest.raises(UserError, match="give one of: 'states' and 'edges', 'levels'"):
        graph_from_dict({"edges": []})
    with pytest.raises(UserError, match="'edges' is 5; it must be a list"):
        graph_from_dict({"states": {"a": ROW}, "edges": 5})
    with pytest.raises(UserError, match="'config' is 'plan.race=0'; it must be a mapping"):
        graph_from_dict({"states": {"a": ROW}, "edges": ["start -> a"], "config": "plan.race=0"})


def test_clip_length_must_suit_the_stem():
    found = graph_from_dict({"states": {"a": ROW, "b": {**ROW, "frames": 6}}, "edges": ["start -> a", "a -> b"]})
    check_clip_lengths(found.states[:1], multiple=4, least=8, network="net")
    with pytest.raises(
        UserError, match="'b' has clips of 6 frames; the network needs a multiple of 4, at least 8 .net."
    ):
        check_clip_lengths(found.states, multiple=4, least=8, network="net")


def test_any_sampler_in_any_state():
    mixed = graph_from_dict(
        {
            "states": {"dense": ROW, "sparse": {"segments": 8, "frames": 1, "lr": 0.1}},
            "edges": ["start -> dense", "dense -> sparse"],
            "target": {"segments": 4, "frames": 4, "size": 96},
        }
    )
    assert mixed.validation_clip == ClipSpec(4, 4, 1, 96)


def test_a_short_cycle_keeps_the_work_of_a_step_about_equal():
    state = State("a", ClipSpec(1, 8, 1, 224), 0.1, batch_size=8, short_cycle=True)
    assert [(clip.size, batch) for clip, batch in state.cycle] == [(112, 32), (160, 16), (224, 8)]  # 158.4 to fours
    assert state.largest_batch == 32 and State.from_dict("a", state.to_dict()) == state
    plain = State("a", ClipSpec(1, 8, 1, 224), 0.1, batch_size=8)
    assert plain.cycle == ((plain.clip, 8),) and "short_cycle" not in plain.to_dict()
    inside = State("a", ClipSpec(1, 8, 1, 158), 0.1, batch_size=8, short_cycle=True, cycle_size=224)
    assert [(clip.size, batch) for clip, batch in inside.cycle] == [(112, 16), (158, 8), (158, 8)]
    assert State.from_dict("a", inside.to_dict()) == inside


def test_an_epoch_is_made_of_full_steps():
    state = State("a", ClipSpec(1, 8, 1, 224), 0.1, batch_size=4, accumulate=2, short_cycle=True)
    assert [batch for _, batch in state.steps(100)] == [16, 8, 4, 16], "32 + 16 + 8 + 32 of 100"
    assert state.clip_frames(100) == 88 * 8 and state.clip_frames(31) == 0


def test_names_are_safe_as_file_names():
    with pytest.raises(UserError, match="a name has letters"):
        State("../x", ClipSpec(1, 8), 0.1)
    with pytest.raises(UserError, match="is not 'start'"):
        StateGraph("g", (State("start", ClipSpec(1, 8), 0.1),), ())
