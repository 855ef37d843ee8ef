"""Budgets as they are written, and when they are spent."""

import pytest

from fastplan.budget import Budget, Spending
from fastplan.clips import ClipSpec
from fastplan.configs import shipped
from fastplan.errors import UserError
from fastplan.launch import Request, resolve
from fastplan.planner.frontier import pick_highest
from fastplan.planner.graph_files import load_graph
from fastplan.planner.journal import EpochRecord
from fastplan.planner.plans import Leg, Plan, frontier_to_yaml
from fastplan.planner.states import State
from fastplan.planner.stepwise import SearchRules
from fastplan.runner import search_rules


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("40h", Budget(40, "hours")),
        ("90m", Budget(1.5, "hours")),
        ("200e", Budget(200, "epochs")),
        ("3e6f", Budget(3_000_000, "clip-frames")),
        ("0.5h", Budget(0.5, "hours")),
    ],
)
def test_the_three_units(text, wanted):
    assert Budget.parse(text) == wanted


@pytest.mark.parametrize("text", ["40", "h", "-3e", "0e", "4 hours", "1e-3h", ""])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(UserError, match="is no budget: write 40h"):
        Budget.parse(text)


def epoch(number: int, frames: int, seconds: float, val_seconds: float = 0.0) -> EpochRecord:
    return EpochRecord(number, 0.5, 1.0, frames, seconds, 0.0, val_seconds)


def test_epochs_under_way_count_and_validation_before_training_does_not():
    spending = Spending(Budget(3, "epochs"))
    spending.end("start>a", "a", epoch(0, 0, 0.0, 9.0))
    spending.end("start>a", "a", epoch(1, 100, 1.0))
    spending.begin("start>a", "a", 100)
    assert spending.allows("b", 100)
    spending.begin("start>b", "b", 100)
    assert not spending.allows("c", 100), "one done and two under way are three"
    spending.end("start>b", "b", epoch(1, 100, 1.0))
    assert not spending.allows("c", 100)


def test_hours_are_foretold_by_the_seconds_that_a_state_takes_per_clip_frame():
    spending = Spending(Budget(1.0, "hours"))
    spending.end("start>slow", "slow", epoch(1, 1000, 900, 100))  # 1 s a frame with validation
    spending.end("start>fast", "fast", epoch(1, 1000, 90, 10))
    assert spending.allows("slow", 2500) and not spending.allows("slow", 2600), "2500 s are left"
    assert spending.allows("fast", 20_000)
    assert spending.allows("never-trained", 10**9), "nothing is known of it"


def test_clip_frames_are_exact():
    spending = Spending(Budget(1000, "clip-frames"))
    spending.end("start>a", "a", epoch(1, 400, 1.0))
    assert spending.allows("a", 600) and not spending.allows("a", 601)


def test_a_budget_picks_the_best_plan_of_a_frontier_that_it_allows(tmp_path):
    state = State("a", ClipSpec(1, 8, 1, 24), 0.1)
    plans = [Plan((Leg(state, n),), cost=1000 * n, seconds=3600.0 * n) for n in (5, 10, 40)]
    file = tmp_path / "frontier.yaml"
    file.write_text(frontier_to_yaml(plans))

    def epochs(budget: str | None) -> int:
        plan = resolve(Request(plan=str(file), budget=budget)).plan
        assert plan is not None
        return plan.legs[0].epochs

    assert [epochs(budget) for budget in (None, "12e", "40e", "9999f", "10000f", "39h")] == [40, 10, 40, 5, 10, 10]
    with pytest.raises(UserError, match="no plan of frontier.yaml is within 4 epochs: the cheapest takes 5 epochs"):
        epochs("4e")


def test_levers_come_from_settings_and_a_plan_becomes_a_path(tmp_path):
    tiny = load_graph(shipped("state_graphs")["tiny"])
    file = tmp_path / "plan.yaml"
    file.write_text(Plan((Leg(tiny.state("u8-high"), 3), Leg(tiny.state("u8-low"), 1))).to_yaml())
    words = (f"plan.first_path={file}", "plan.width=null", "plan.skip_dominated=true", "plan.pick=highest")
    config = resolve(Request(state_graph="tiny", budget="9e", overrides=words)).config
    wanted = SearchRules(
        width=None, choose=pick_highest, skip_dominated=True, first_path=("u8-high", "u8-low"), race=0.5
    )
    assert search_rules(config) == wanted and config.plan.budget == "9e"
