"""Schedules made by hand: what they spend, and multigrid against the published cycles."""

import pytest

from fastplan.clips import ClipSpec
from fastplan.errors import UserError
from fastplan.planner.comparators import Spend, clip_frames, comparators, cosine, multigrid, step
from fastplan.planner.plans import Plan
from fastplan.planner.states import State

TARGET = State("u16", ClipSpec(4, 4, 1, 224), 0.05, batch_size=8)
SHORT = State("c8", ClipSpec(1, 8, 1, 224), 0.05, batch_size=8)
SPEND = Spend(clip_frames=100 * 480 * 16, epoch_clips=480)


@pytest.mark.parametrize("name", comparators(TARGET, SPEND, short=SHORT))
@pytest.mark.parametrize("epochs", [20, 37, 100])
def test_all_spend_the_same(name, epochs):
    spend = Spend(epochs * 480 * 16, 480)
    plan = comparators(TARGET, spend, short=SHORT)[name]()
    assert abs(clip_frames(plan, 480) - spend.clip_frames) <= 480 * 16 / 2, (
        "whole epochs: at most half of one is missed"
    )
    assert Plan.from_yaml(plan.to_yaml()).legs == plan.legs


def test_the_step_comes_where_it_should():
    high, low = step(TARGET, SPEND, at=0.65).legs
    assert (high.epochs, low.epochs, low.state.lr) == (65, 35, pytest.approx(0.005))


def test_cosine_is_one_leg():
    [leg] = cosine(TARGET, SPEND, warmup=5).legs
    assert (leg.epochs, leg.schedule, leg.warmup) == (100, "cosine", 5)
    with pytest.raises(UserError, match="a warm-up of 100 epochs in a schedule of 100"):
        cosine(TARGET, SPEND, warmup=100)


def test_a_long_cycle_has_the_published_shapes_and_equal_iterations():
    """Batch x8, x4, x2, x1 with a quarter, half, half and all of the frames, 0.7 of the side in the first two."""
    *cycle, low = multigrid(TARGET, SPEND, cycles="long").legs
    shapes = [(leg.state.clip.length, leg.state.clip.size, leg.state.batch_size, leg.state.lr) for leg in cycle]
    assert shapes == [
        (4, 160, 64, pytest.approx(0.4)),
        (8, 160, 32, pytest.approx(0.2)),
        (8, 224, 16, pytest.approx(0.1)),
        (16, 224, 8, pytest.approx(0.05)),
    ]
    iterations = [leg.epochs * 480 / leg.state.batch_size for leg in cycle]
    assert max(iterations) / min(iterations) < 1.06, "whole epochs round"
    assert (low.state.clip, low.state.lr) == (TARGET.clip, pytest.approx(0.005))
    assert not any(leg.state.short_cycle for leg in [*cycle, low])
    both = multigrid(TARGET, SPEND, cycles="both").legs
    assert [leg.epochs for leg in both] == [leg.epochs for leg in [*cycle, low]]
    assert all(leg.state.short_cycle for leg in both)


def test_consecutive_clips_are_cut_in_time():
    state = State("c32", ClipSpec(1, 32, 2, 112), 0.05, batch_size=4)
    clips = [leg.state.clip for leg in multigrid(state, SPEND, cycles="long").legs]
    assert clips[:2] == [ClipSpec(1, 8, 2, 80), ClipSpec(1, 16, 2, 80)]
    with pytest.raises(UserError, match="cannot be cut to 0.25 of their length"):
        multigrid(State("c6", ClipSpec(1, 6), 0.05), SPEND, cycles="long")


def test_too_small_a_budget():
    with pytest.raises(UserError, match="too few for the 5 legs of 'multigrid, long'"):
        multigrid(TARGET, Spend(480 * 16, 480), cycles="long")
