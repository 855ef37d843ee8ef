"""Schedules made by hand: what they spend, and multigrid against the published cycles."""

import pytest

from fastplan.clips import ClipSpec
from fastplan.errors import UserError
from fastplan.planner.comparators import Spend, clip_frames, comparators, cosine, multigrid, rescaled, step
from fastplan.planner.plans import Leg, Plan
from fastplan.planner.states import State

TARGET = State("u16", ClipSpec(4, 4, 1, 224), 0.05, batch_size=8)
SHORT = State("c8", ClipSpec(1, 8, 1, 224), 0.05, batch_size=8)
SPEND = Spend(clip_frames=100 * 480 * 16, epoch_clips=480)


@pytest.mark.parametrize("name", comparators(TARGET, SPEND, short=SHORT))
@pytest.mark.parametrize("epochs", [20, 37, 100])
@pytest.mark.parametrize("epoch_clips", [480, 1000])
def test_all_spend_the_same(name, epochs, epoch_clips):
    """What a step does not fill is not trained, and not counted: large batches lose up to a fifth of 480 clips."""
    spend = Spend(epochs * epoch_clips * 16, epoch_clips)
    plan = comparators(TARGET, spend, short=SHORT)[name]()
    spent = sum(_trained(leg.state, epoch_clips) * leg.state.clip.length * leg.epochs for leg in plan.legs)
    assert spent == clip_frames(plan, epoch_clips)
    assert abs(spent - spend.clip_frames) <= epoch_clips * 16 / 2, "whole epochs: at most half of one is missed"
    assert Plan.from_yaml(plan.to_yaml()).legs == plan.legs


def _trained(state, epoch_clips):
    """Clips of the full steps of an epoch, step by step."""
    batches = [8 * times for times in (4, 2, 1)] if state.short_cycle else [8]
    batches = [batch * state.batch_size // 8 for batch in batches]
    if state.cycle_size and state.clip.size < state.cycle_size:
        batches = [batch // 2 for batch in batches[:2]] + batches[2:]
    trained = number = 0
    while trained + batches[number % len(batches)] <= epoch_clips:
        trained += batches[number % len(batches)]
        number += 1
    return trained


def test_the_step_comes_where_it_should():
    high, low = step(TARGET, SPEND, at=0.65).legs
    assert (high.epochs, low.epochs, low.state.lr) == (65, 35, pytest.approx(0.005))


def test_cosine_is_one_leg():
    [leg] = cosine(TARGET, SPEND, warmup=5).legs
    assert (leg.epochs, leg.schedule, leg.warmup) == (100, "cosine", 5)
    with pytest.raises(UserError, match="a warm-up of 100 epochs in a schedule of 100"):
        cosine(TARGET, SPEND, warmup=100)


def test_a_long_cycle_has_the_published_shapes_and_iterations():
    """Batch x8, x4, x2, x1 with a quarter, half, half and all of the frames, 0.7 of the side in the first two.

    A share `at` of all iterations in four equal parts; the fine-tuning's first half joins the last shape.
    """
    *cycle, low = multigrid(TARGET, SPEND, cycles="long", at=0.6).legs
    shapes = [(leg.state.clip.length, leg.state.clip.size, leg.state.batch_size, leg.state.lr) for leg in cycle]
    assert shapes == [
        (4, 160, 64, pytest.approx(0.4)),
        (8, 160, 32, pytest.approx(0.2)),
        (8, 224, 16, pytest.approx(0.1)),
        (16, 224, 8, pytest.approx(0.05)),
    ]
    iterations = [leg.epochs * len(leg.state.steps(480)) for leg in [*cycle, low]]
    shares = [found / sum(iterations) for found in iterations]
    assert shares == pytest.approx([0.15, 0.15, 0.15, 0.35, 0.2], abs=0.01), "whole epochs round"
    plan = multigrid(TARGET, SPEND, cycles="long")
    assert [leg.warmup for leg in plan.legs] == [plan.legs[0].epochs // 2, 0, 0, 0, 0]
    assert (low.state.clip, low.state.lr) == (TARGET.clip, pytest.approx(0.005))
    assert not any(leg.state.short_cycle for leg in [*cycle, low])


def test_short_cycles_inside_a_long_one_keep_to_its_sides():
    """Half and 0.7 of the whole side, at most the long cycle's own; every step has about the same work."""
    both = [leg.state for leg in multigrid(TARGET, SPEND, cycles="both").legs]
    assert [[(clip.size, batch) for clip, batch in state.cycle] for state in both] == [
        [(112, 128), (160, 64), (160, 64)],
        [(112, 64), (160, 32), (160, 32)],
        [(112, 64), (160, 32), (224, 16)],
        [(112, 32), (160, 16), (224, 8)],
        [(112, 32), (160, 16), (224, 8)],
    ]
    assert [state.lr for state in both] == pytest.approx([0.4, 0.2, 0.1, 0.05, 0.005])
    alone = [leg.state for leg in multigrid(TARGET, SPEND, cycles="short").legs]
    assert [state.lr for state in alone] == pytest.approx([0.05, 0.005]) and all(s.short_cycle for s in alone)


def test_an_epoch_must_hold_the_largest_step():
    with pytest.raises(UserError, match="state 'u16-1x4-160px' takes 128 clips a step, but an epoch has only 100"):
        multigrid(TARGET, Spend(10**6, 100), cycles="both")


def test_a_plan_at_another_price_keeps_its_shares():
    plan = Plan((Leg(SHORT, 20), Leg(TARGET, 30), Leg(State("low", TARGET.clip, 0.005, 8), 10)))
    half = rescaled(plan, Spend(clip_frames(plan, 480) // 2, 480))
    assert [(leg.state, leg.epochs) for leg in half.legs] == [(leg.state, leg.epochs // 2) for leg in plan.legs]


def test_consecutive_clips_are_cut_in_time():
    state = State("c32", ClipSpec(1, 32, 2, 112), 0.05, batch_size=4)
    clips = [leg.state.clip for leg in multigrid(state, SPEND, cycles="long").legs]
    assert clips[:2] == [ClipSpec(1, 8, 2, 80), ClipSpec(1, 16, 2, 80)]
    with pytest.raises(UserError, match="cannot be cut to 0.25 of their length"):
        multigrid(State("c6", ClipSpec(1, 6), 0.05), SPEND, cycles="long")


def test_too_small_a_budget():
    with pytest.raises(UserError, match="too few for the 5 legs of 'multigrid, long'"):
        multigrid(TARGET, Spend(480 * 16, 480), cycles="long")
