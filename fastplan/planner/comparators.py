"""Schedules that people set by hand, as plans: what a planned schedule must be compared with, at equal clip-frames.

Every function takes the regime that decides (the target state, whose learning rate is the highest one used) and a
`Spend`, and gives a plan whose legs train as many clip-frames as whole epochs allow; the last leg takes what rounding
leaves. Which of them is good depends on the budget, so a comparison at one budget speaks for that budget only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fastplan.clips import ClipSpec
from fastplan.errors import UserError
from fastplan.planner.plans import Leg, Plan
from fastplan.planner.states import SIZE_STEP, State

# (share of the clip length, share of the picture's side), in the order of a long cycle (Wu et al., CVPR 2020, table 1).
LONG_CYCLE = ((0.25, 0.5**0.5), (0.5, 0.5**0.5), (0.5, 1.0), (1.0, 1.0))


@dataclass(frozen=True)
class Spend:
    """What a schedule may cost: `clip_frames` of training, in epochs of `epoch_clips` clips each."""

    clip_frames: int
    epoch_clips: int

    def price(self, state: State) -> int:
        """Clip-frames of one epoch; `UserError` where its clips are fewer than the state's first step takes."""
        if price := state.clip_frames(self.epoch_clips):
            return price
        first = state.cycle[0][1] * state.accumulate
        raise UserError(f"state '{state.name}' takes {first} clips a step, but an epoch has only {self.epoch_clips}")

    def epochs(self, share: float, state: State) -> int:
        """Whole epochs of `state` that a share (0..1) of the budget pays, at least one."""
        return max(round(share * self.clip_frames / self.price(state)), 1)


def constant(target: State, spend: Spend) -> Plan:
    """One learning rate from beginning to end."""
    return _plan("constant", [(target, 1.0)], spend)


def step(target: State, spend: Spend, *, at: float = 0.65, factor: float = 0.1) -> Plan:
    """One step of the learning rate, by `factor` after a share `at` of the budget."""
    return _plan("step", [(target, at), (_at_rate(target, factor, "low"), 1 - at)], spend)


def cosine(target: State, spend: Spend, *, warmup: int = 0) -> Plan:
    """Half a cosine down to zero, after `warmup` epochs of linear increase."""
    plan = _plan("cosine", [(target, 1.0)], spend)
    leg = plan.legs[0]
    if warmup >= leg.epochs:
        raise UserError(f"a warm-up of {warmup} epochs in a schedule of {leg.epochs}: it must be shorter")
    return replace(plan, legs=(replace(leg, schedule="cosine", warmup=warmup),))


def short_to_long(target: State, spend: Spend, *, short: State) -> Plan:
    """Made by hand: 30 % of the budget in short clips, 40 % in the target's, 30 % at a tenth of the rate."""
    return _plan("short to long", [(short, 0.3), (target, 0.4), (_at_rate(target, 0.1, "low"), 0.3)], spend)


def multigrid(
    target: State, spend: Spend, *, cycles: Literal["long", "short", "both"], at: float = 0.65, factor: float = 0.1
) -> Plan:
    """Multigrid training (Wu et al., CVPR 2020), of the step schedule of the same budget.

    Long cycle: iterations are shared as in the step schedule. A share `at` of them goes to the shapes of `LONG_CYCLE`
    in four equal parts, batch and learning rate scaled by what a clip gets smaller, the rate rising during half of the
    first; the rest is the fine-tuning in the target's shape, its first half before the step. Short cycle:
    `State.short_cycle` in every leg, the learning rate unscaled; with the long cycle, its sides are shares of the
    target's, and none exceeds the long cycle's.

    docs/planning.md says what differs from the published training. Raises `UserError` where the target's clips cannot
    be quartered, or an epoch has too few clips for the largest batch.
    """
    low = _at_rate(target, factor, "low")
    short = cycles in ("short", "both")
    if cycles == "short":
        parts = [(replace(target, short_cycle=True), at), (replace(low, short_cycle=True), 1 - at)]
        return _plan("multigrid, short", parts, spend)
    shapes = [_shaped(target, *shape) for shape in LONG_CYCLE]
    if short:
        shapes = [replace(state, short_cycle=True, cycle_size=target.clip.size) for state in shapes]
        low = replace(low, short_cycle=True)
    tuning = (1 - at) / 2
    iterations = [(state, at / len(shapes)) for state in shapes[:-1]]
    iterations += [(shapes[-1], at / len(shapes) + tuning), (low, tuning)]
    frames = [share * _frames_per_iteration(state) for state, share in iterations]
    parts = [(state, part / sum(frames)) for (state, _), part in zip(iterations, frames, strict=True)]
    plan = _plan(f"multigrid, {cycles}", parts, spend)
    first = plan.legs[0]
    return replace(plan, legs=(replace(first, warmup=first.epochs // 2), *plan.legs[1:]))


def rescaled(plan: Plan, spend: Spend) -> Plan:
    """A plan at another price: every leg keeps its share of the clip-frames and becomes a constant rate's."""
    prices = [leg.epochs * spend.price(leg.state) for leg in plan.legs]
    parts = [(leg.state, price / sum(prices)) for leg, price in zip(plan.legs, prices, strict=True)]
    return _plan("planned", parts, spend)


def comparators(target: State, spend: Spend, *, short: State | None = None) -> dict[str, Callable[[], Plan]]:
    """Every schedule here by name, made when it is called; the short-to-long one needs a `short` state."""
    found: dict[str, Callable[[], Plan]] = {
        "constant": lambda: constant(target, spend),
        "step": lambda: step(target, spend),
        "cosine": lambda: cosine(target, spend),
        "multigrid long": lambda: multigrid(target, spend, cycles="long"),
        "multigrid short": lambda: multigrid(target, spend, cycles="short"),
        "multigrid both": lambda: multigrid(target, spend, cycles="both"),
    }
    if short is not None:
        found["short to long"] = lambda: short_to_long(target, spend, short=short)
    return found


def clip_frames(plan: Plan, epoch_clips: int) -> int:
    """Training clip-frames of a plan's legs in epochs of `epoch_clips` clips."""
    return sum(leg.epochs * leg.state.clip_frames(epoch_clips) for leg in plan.legs)


def _plan(name: str, parts: Sequence[tuple[State, float]], spend: Spend) -> Plan:
    legs = []
    left = spend.clip_frames
    for number, (state, share) in enumerate(parts, 1):
        price = spend.price(state)
        epochs = max(round(left / price), 1) if number == len(parts) else spend.epochs(share, state)
        left -= epochs * price
        legs.append(Leg(state, epochs))
    if left < -max(spend.price(state) for state, _ in parts):
        raise UserError(
            f"{spend.clip_frames:,} clip-frames are too few for the {len(parts)} legs of '{name}': "
            f"an epoch has {spend.epoch_clips} clips"
        )
    provenance: Mapping[str, str] = {"schedule": name}
    return Plan(tuple(legs), provenance=provenance)


def _at_rate(state: State, factor: float, suffix: str) -> State:
    return replace(state, name=f"{state.name}-{suffix}", lr=float(f"{state.lr * factor:.12g}"))


def _frames_per_iteration(state: State) -> float:
    """Clip-frames of an optimizer step, the mean over the state's cycle."""
    return sum(batch for _, batch in state.cycle) / len(state.cycle) * state.accumulate * state.clip.length


def _shaped(state: State, time: float, side: float) -> State:
    """The state with clips of a share of the length and of the side, batch and learning rate scaled inversely."""
    clip = state.clip
    segments = clip.segments * time if clip.segments > 1 else clip.segments
    frames = clip.frames if clip.segments > 1 else clip.frames * time
    if segments % 1 or frames % 1:
        raise UserError(f"state '{state.name}': clips of {clip} cannot be cut to {time:g} of their length")
    size = clip.size if side == 1 else round(clip.size * side / SIZE_STEP) * SIZE_STEP
    more = round(1 / (time * side**2))
    return replace(
        state,
        name=f"{state.name}-{int(segments)}x{int(frames)}-{size}px",
        clip=ClipSpec(int(segments), int(frames), clip.stride, size),
        batch_size=state.batch_size * more,
        lr=state.lr * more,
    )
