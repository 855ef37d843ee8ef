"""A plan as the first path of a search, and the plans of a frontier's file."""

from dataclasses import replace

import pytest
import yaml

from fastplan.clips import ClipSpec
from fastplan.errors import UserError
from fastplan.planner.plans import Leg, Plan, frontier_to_yaml, load_plans
from fastplan.planner.priors import path_of_plan
from fastplan.planner.states import State, StateGraph

A, B, C, D = (State(name, ClipSpec(1, 4 * n, 1, 24), 0.1) for n, name in enumerate("abcd", 1))
GRAPH = StateGraph("g", (A, B, C, D), (("start", "a"), ("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")))


def plan(*states: State) -> Plan:
    return Plan(tuple(Leg(state, 3) for state in states), cost=100 * len(states), seconds=1.0)


def test_legs_are_found_by_name_or_by_regime_and_left_out_states_are_put_in():
    assert path_of_plan(GRAPH, plan(A, C, D)) == ("a", "c", "d")
    assert path_of_plan(GRAPH, plan(replace(A, name="x", batch_size=8, accumulate=2), replace(B, name="y"))) == (
        "a",
        "b",
    )
    assert path_of_plan(GRAPH, plan(C, D)) == ("a", "c", "d")
    assert path_of_plan(GRAPH, plan(A, D)) == ("a", "b", "d")


def test_a_plan_that_does_not_fit_names_the_leg():
    with pytest.raises(UserError, match="no state like leg 2, 'z'"):
        path_of_plan(GRAPH, plan(A, replace(A, name="z", lr=0.7)))
    with pytest.raises(UserError, match="no way leads from 'b' to 'c'"):
        path_of_plan(GRAPH, plan(B, C))


def test_a_frontier_comes_back_from_its_file(tmp_path):
    plans = [plan(A, B), plan(A, B, D)]
    (tmp_path / "f.yaml").write_text(frontier_to_yaml(plans))
    assert load_plans(tmp_path / "f.yaml") == plans
    (tmp_path / "p.yaml").write_text(plans[0].to_yaml())
    assert load_plans(tmp_path / "p.yaml") == plans[:1]
    (tmp_path / "bad.yaml").write_text(frontier_to_yaml(plans).replace("epochs: 3", "epochs: 0", 1))
    with pytest.raises(UserError, match=r"bad.yaml, plan 1, leg 1: epochs is 0"):
        load_plans(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": "3e6f"}, "plan: cost is '3e6f'; it must be a number"),
        ({"accuracy": [0.5]}, r"plan: accuracy is \[0.5\]; it must be a number"),
        ({"config": ["plan.race=0"]}, r"plan: config is \['plan.race=0'\]; it must be a mapping"),
        ({"provenance": "me"}, "plan: provenance is 'me'; it must be a mapping"),
    ],
)
def test_a_plan_file_with_a_wrong_value_names_it(change, message):
    with pytest.raises(UserError, match=message):
        Plan.from_yaml(yaml.safe_dump({"format": 1, **plan(A).to_dict(), **change}))
