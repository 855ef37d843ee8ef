"""Graph files: levels against the published graphs, axes against a brute-force walk, the authors' lists."""

from itertools import product

import pytest
import yaml

from fastplan.configs import shipped
from fastplan.errors import UserError
from fastplan.planner.graph_files import graph_from_dict, graph_to_dict, load_graph
from fastplan.planner.states import START

# The lists of the released search script for sparse sampling, with all 18 edges of its extended graph.
AUTHORS = """
num_segments_list: [4, 8, 16]
clip_length_list: [4, 4, 4]
num_steps_list: [1, 1, 1]
base_lr_list: [0.01, 0.01, 0.001]
batch_size_list: [16, 8, 4]
iter_size_list: [4, 8, 16]
frozen_bn_list: [false, false, true]
visualize_figure: false
attempt_epochs: 10
start_node_list: [0, 0, 1, 1, 4, 4, 2, 4, 7, 2, 5, 5, 7, 3, 5, 8, 6, 8]
end_node_list: [1, 4, 4, 2, 2, 7, 5, 5, 5, 3, 3, 8, 8, 6, 6, 6, 9, 9]
setting_list: [-1, 0, 0, 0, 1, 1, 1, 2, 2, 2]
lr_mult_list: [-1, 1, 0.1, 0.01, 1, 0.1, 0.01, 1, 0.1, 0.01]
"""


def test_levels_give_the_published_graphs():
    """Clip settings x lr levels with 3 x 3: 14 edges in the basic graph, 18 in the extended one (METHOD section 1)."""
    levels = yaml.safe_load(shipped("state_graphs")["paper-sparse"].read_text())["levels"]
    basic = graph_from_dict({"levels": levels})
    extended = graph_from_dict({"levels": {**levels, "kind": "extended"}})
    assert (len(basic.states), len(basic.edges), len(extended.edges)) == (9, 14, 18)
    names = [state.name for state in basic.in_order()]
    assert names == [f"{clip}-lr{scale}" for scale in ("1", "0.1", "0.01") for clip in ("4x4", "8x4", "16x4")]
    assert basic.sink == "16x4-lr0.01"
    assert set(extended.edges) - set(basic.edges) == {
        ("8x4-lr1", "4x4-lr0.1"),
        ("16x4-lr1", "8x4-lr0.1"),
        ("8x4-lr0.1", "4x4-lr0.01"),
        ("16x4-lr0.1", "8x4-lr0.01"),
    }
    assert basic.state("8x4-lr0.1").lr == pytest.approx(0.001)
    assert {state.effective_batch for state in basic.states} == {64}
    assert basic.state("16x4-lr1").freeze_bn and not basic.state("8x4-lr1").freeze_bn


@pytest.mark.parametrize(
    "name", ["default", "tiny", "small", "paper-sparse", "paper-dense", "paper-both", "unknown-lr", "embedded-lr"]
)
def test_shipped_graphs_load_and_survive_their_own_form(name):
    found = load_graph(shipped("state_graphs")[name])
    again = graph_from_dict(graph_to_dict(found))
    assert (again.states, again.edges, again.validation_clip) == (found.states, found.edges, found.validation_clip)


def test_the_authors_lists_are_the_extended_graph():
    levels = yaml.safe_load(shipped("state_graphs")["paper-sparse"].read_text())["levels"]
    ours = graph_from_dict({"levels": {**levels, "kind": "extended"}})
    theirs = graph_from_dict(yaml.safe_load(AUTHORS))
    alike = {START: START}
    for state in theirs.states:
        [alike[state.name]] = [
            s.name for s in ours.states if (s.clip.segments, s.lr) == (state.clip.segments, state.lr)
        ]
    assert {(alike[a], alike[b]) for a, b in theirs.edges} == set(ours.edges) and len(theirs.edges) == 18
    for state in theirs.states:
        assert state.to_dict() == ours.state(alike[state.name]).to_dict()
    assert alike[theirs.sink] == ours.sink
    assert theirs.config == {"plan": {"attempt_epochs": 10}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr_mult_list": [-1, 1]}, "'lr_mult_list' has 2 entries but 'setting_list' has 10"),
        ({"setting_list": [-1, 0, 0, 0, 1, 1, 1, 2, 2, 3]}, "gives node 9 the setting 3; there are 0 to 2"),
        ({"end_node_list": [1, 4, 4, 2, 2, 7, 5, 5, 5, 3, 3, 8, 8, 6, 6, 6, 9, 11]}, "no state 'node11'"),
        ({"base_lr_list": ["a", 0.1, 0.1]}, "node 1: base_lr 'a'"),
        ({"clip_length_list": None}, "'clip_length_list' is None; it must be a list"),
        ({"frozen_bn_lists": []}, "unknown key 'frozen_bn_lists', did you mean 'frozen_bn_list'"),
    ],
)
def test_wrong_lists(change, message):
    with pytest.raises(UserError, match=message):
        graph_from_dict({**yaml.safe_load(AUTHORS), **change})


CONSECUTIVE = {"c8": {"segments": 1, "frames": 8, "lr": 0.1}, "c16": {"segments": 1, "frames": 16, "lr": 0.1}}
UNIFORM = {"u8": {"segments": 2, "frames": 4, "lr": 0.1}, "u16": {"segments": 4, "frames": 4, "lr": 0.1}}


def test_branches_join_where_clips_are_longest():
    found = graph_from_dict(
        {"levels": {"branches": {"consecutive": CONSECUTIVE, "uniform": UNIFORM}, "lr_scales": [1, 0.1]}}
    )
    assert set(found.edges) == {
        ("start", "c8-lr1"), ("start", "c16-lr1"), ("start", "u8-lr1"), ("start", "u16-lr1"),
        ("c8-lr1", "c16-lr1"), ("c8-lr1", "c8-lr0.1"), ("c16-lr1", "c16-lr0.1"), ("c8-lr0.1", "c16-lr0.1"),
        ("u8-lr1", "u16-lr1"), ("u8-lr1", "u8-lr0.1"), ("u16-lr1", "u16-lr0.1"), ("u8-lr0.1", "u16-lr0.1"),
        ("c16-lr1", "u16-lr1"), ("c16-lr0.1", "u16-lr0.1"),
    }  # fmt: skip
    assert found.sink == "u16-lr0.1"


@pytest.mark.parametrize("kind", ["basic", "extended"])
def test_axes_make_a_lattice(kind):
    """Every edge is one step along one axis, or a shorter clip at the next lower rate: all of them, no others."""
    strides = {"s1": {"stride": 1}, "s2": {"stride": 2, "batch_size": 8}}
    sizes = {"112px": {"size": 112}, "224px": {"size": 224}, "256px": {"size": 256}}
    found = graph_from_dict(
        {
            "levels": {
                "kind": kind,
                "clips": CONSECUTIVE,
                "axes": {"stride": strides, "size": sizes},
                "lr_scales": [1, 0.1, 0.01],
            }
        }
    )
    names = {
        (c, s, z, r): f"{list(CONSECUTIVE)[c]}-{list(strides)[s]}-{list(sizes)[z]}-lr{(1, 0.1, 0.01)[r]:g}"
        for c, s, z, r in product(range(2), range(2), range(3), range(3))
    }
    steps = {(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)} | (
        {(-1, 0, 0, 1)} if kind == "extended" else set()
    )
    expected = {
        (names[a], names[b])
        for a, b in product(names, names)
        if tuple(q - p for p, q in zip(a, b, strict=True)) in steps
    }
    expected |= {(START, names[0, 0, 0, 0]), (START, names[1, 0, 0, 0])}
    assert set(found.edges) == expected and len(found.states) == 36
    state = found.state("c16-s2-224px-lr0.1")
    assert (state.clip.stride, state.clip.size, state.batch_size, state.lr) == (2, 224, 8, pytest.approx(0.01))


def test_starts_at_every_rate():
    found = graph_from_dict({"levels": {"clips": UNIFORM, "lr_scales": [4, 1, 0.25], "starts": "every-lr"}})
    assert {target for source, target in found.edges if source == START} == {state.name for state in found.states}


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"lr_scales": [1]}, "needs 'clips', shortest first, or 'branches'"),
        ({"clips": UNIFORM, "branches": {"a": UNIFORM}, "lr_scales": [1]}, "needs 'clips', shortest first, or"),
        ({"clips": UNIFORM}, "'lr_scales' is a list"),
        ({"clips": UNIFORM, "lr_scales": [0]}, "lr scale 0 must be a positive number"),
        ({"clips": UNIFORM, "lr_scales": [1], "kind": "dense"}, "kind is 'dense'; it is basic or extended"),
        ({"clips": UNIFORM, "lr_scales": [1], "starts": "all"}, "starts is 'all'; it is paper or every-lr"),
        ({"clips": {}, "lr_scales": [1]}, "'clips' is {}"),
        ({"clips": {"a": 3}, "lr_scales": [1]}, "'a' is 3; it must be a mapping"),
        ({"clips": UNIFORM, "lr_scales": [1], "axes": {"size": {"s": {"sice": 3}}}}, "unknown key 'sice'"),
        ({"branches": {"a": UNIFORM, "b": UNIFORM}, "lr_scales": [1]}, "two branches have a clip setting 'u8'"),
        ({"clips": UNIFORM, "lr_scale": [1]}, "unknown key 'lr_scale', did you mean 'lr_scales'"),
    ],
)
def test_wrong_levels(levels, message):
    with pytest.raises(UserError, match=message):
        graph_from_dict({"levels": levels})
