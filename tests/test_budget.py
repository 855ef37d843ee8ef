"""Budgets as they are written, and when they are spent."""

import pytest

from fastplan.budget import Budget, Spending
from fastplan.errors import UserError
from fastplan.planner.journal import EpochRecord


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
