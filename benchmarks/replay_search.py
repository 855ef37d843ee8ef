"""Runs whole searches in generated worlds, one lever at a time, against the known best path."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context

import numpy as np

from fastplan.planner import (
    Exploration,
    KneeFit,
    Outcome,
    Progress,
    SearchResult,
    SearchRules,
    Stepwise,
    Stop,
    choose_epoch,
    is_hopeless,
    knee_band,
    pick_highest,
    should_stop,
)

from .replay_families import EPOCHS, VIDEOS, World, draw, worlds
from .replay_knees import TOLERANCE, EndRule, fit_curve, noise_of

PRIOR = ("c1-l0", "c2-l0", "c2-l1", "c2-l2")  # longest clips first, then lower rates: a plan anyone would write down
FRESH = 40000  # seeds of worlds from here on were not looked at while rules were made
CLOSE = 0.02  # a plan this close to another in true accuracy is as good: 1.3 standard errors of 360 videos at .9


@dataclass(frozen=True)
class Lever:
    """One way to search: how an edge ends, and the rules of the search.

    ceiling: whether edges stop when they cannot beat a sibling. share: budget as a share of what `base` spent.
    """

    name: str
    end: EndRule = field(default_factory=lambda: EndRule("tolerance, T = 5", "tolerance", 5))
    rules: SearchRules = field(default_factory=SearchRules)
    ceiling: bool = False
    share: float | None = None


KNOWN = EndRule("exponential, known at 80 %", "exponential", 5, 0.8)
LONG = EndRule("tolerance, T = 10", "tolerance", 10)
EXPONENTIAL = EndRule("exponential, T = 5", "exponential", 5)
RACE = SearchRules(race=0.5)
RACE_START = SearchRules(race=0.5, race_start=0.15)
BASE = Lever("exhaustive (tolerance, T = 5)")
LONGER = Lever("exhaustive, T = 10", end=LONG)
DEFAULT = Lever("race, T = 10: the defaults of fastplan train", end=LONG, rules=RACE)
PUBLISHED = Lever(
    "published (five parameters, T = 10, highest score)",
    end=EndRule("published, T = 10", "paper", 10),
    rules=SearchRules(choose=pick_highest),
)
LEVERS = (
    BASE,
    LONGER,
    Lever("T = 3", end=EndRule("tolerance, T = 3", "tolerance", 3)),
    Lever("exponential, T = 5", end=EXPONENTIAL),
    Lever("highest score, no ties", rules=SearchRules(choose=pick_highest)),
    Lever("ceiling", ceiling=True),
    Lever("skip dominated", rules=SearchRules(skip_dominated=True)),
    Lever("width 2", rules=SearchRules(width=2)),
    Lever("race", rules=RACE),
    Lever("race, first rung 5", rules=SearchRules(race=0.5, first_rung=5)),
    Lever("race, width 2", rules=SearchRules(race=0.5, width=2)),
    Lever("race, T = 8", end=EndRule("tolerance, T = 8", "tolerance", 8), rules=RACE),
    DEFAULT,
    Lever("race, from the start too, T = 10", end=LONG, rules=RACE_START),
    Lever("race, exponential, T = 5", end=EXPONENTIAL, rules=RACE),
    Lever("race, exponential, T = 7", end=EndRule("exponential, T = 7", "exponential", 7), rules=RACE),
    Lever("budget of half", share=0.5),
    Lever("budget of half, first path", rules=SearchRules(first_path=PRIOR), share=0.5),
)
SLOW = (
    Lever("known knees (exponential, 80 %)", end=KNOWN),
    Lever("known knees, race", end=KNOWN, rules=RACE),
    PUBLISHED,
)


Ends = dict[tuple[str, float | None, str], tuple[Stop, int, KneeFit]]  # without a rival, by key, accuracy before, rule


@dataclass(frozen=True)
class Replayed:
    """One search in one world.

    epochs, cost: trained in the whole search; clip-frames in thousands of a nominal epoch. accuracy: true expected
    accuracy of the plan's network. path_cost: of training the plan once. at_sink: whether the plan ends in the sink.
    """

    epochs: int
    cost: int
    accuracy: float
    path_cost: int
    plan: tuple[str, ...]
    at_sink: bool
    result: SearchResult | None


def replay(world: World, lever: Lever, *, budget: int | None = None, ends: Ends | None = None) -> Replayed:
    """Search the world. The noise of an edge depends on the world and the path alone, so levers are compared paired.

    ends: of edges of this world that were computed before, added to.
    """
    ends = {} if ends is None else ends
    stepwise = Stepwise(world.graph, replace(lever.rules, budget=budget))
    true: dict[tuple[str, ...], float] = {}
    trained: dict[tuple[str, ...], int] = {}
    while ready := stepwise.ask():
        exploration = ready[0]
        rival = stepwise.best_rival(exploration) if lever.ceiling else None
        told, reached = _train(world, exploration, lever.end, rival, true, ends)
        true[exploration.names] = reached
        trained[exploration.names] = told.epochs if isinstance(told, Progress) else told.trained
        stepwise.tell(exploration, told)
    result = stepwise.result()
    assert result.path is not None, "no edge of a world diverges"
    final = result.path.names
    return Replayed(
        epochs=sum(trained.values()),
        cost=stepwise.spent,
        accuracy=true[final],
        path_cost=result.path.cost,
        plan=tuple(o.target for o in result.path.path if o.epochs),
        at_sink=final[-1] == world.graph.sink,
        result=result,
    )


def _train(
    world: World,
    exploration: Exploration,
    end: EndRule,
    rival: Outcome | None,
    true: dict[tuple[str, ...], float],
    ends: Ends,
) -> tuple[Outcome | Progress, float]:
    target, arrival = exploration.state.name, exploration.arrival
    rng = np.random.default_rng([world.seed, *exploration.key.encode()])
    before = true[arrival.names] if arrival else None
    truth = world.curve(exploration.source, target, before)
    checkpoints, observed = draw(truth, world.jitters[target], rng)
    seen = observed.tolist()
    scores = rng.binomial(VIDEOS, checkpoints) / VIDEOS
    edge = exploration.key, before, end.name
    found = None if rival else ends.get(edge)
    stop, trained, fit = found or _end_of(seen, end, rival, from_scratch=arrival is None)
    if rival is None:
        ends[edge] = stop, trained, fit
    price = world.prices[target]
    if exploration.until is not None and exploration.until < trained:
        curve = seen[: exploration.until + 1]
        return Progress(exploration.source, target, tuple(curve), exploration.until * price), math.nan
    kept = choose_epoch(seen[: trained + 1], fit, rule=end.rule, from_scratch=arrival is None)
    score = float(scores[kept])
    outcome = Outcome(
        source=exploration.source,
        target=target,
        status="knee" if stop is Stop.KNEE else "ceiling" if stop is Stop.CEILING else "cap",
        epochs=kept,
        trained=trained,
        accuracy=score,
        stderr=float((max(score * (1 - score), 0.01) / VIDEOS) ** 0.5),
        cost=kept * price,
        seconds=0.0,
        checkpoint=exploration.key,
        spent=trained * price,
        curve=tuple(seen[: trained + 1]),
    )
    return outcome, float(truth[kept])


def _end_of(seen: list[float], end: EndRule, rival: Outcome | None, *, from_scratch: bool) -> tuple[Stop, int, KneeFit]:
    for epoch in range(end.attempt, EPOCHS + 1):
        curve = seen[: epoch + 1]
        fit = fit_curve(curve, end.rule, from_scratch)
        band, banded = None, (end.level is not None and fit.knee is not None and fit.knee <= epoch)
        below = rival is not None and fit.knee is not None and max(curve) < rival.accuracy
        if banded or below:
            band = knee_band(
                curve,
                fit,
                rule=end.rule,
                tolerance=TOLERANCE,
                noise=noise_of(curve),
                max_epochs=EPOCHS,
                level=end.level or 0.8,
            )
        if below and is_hopeless(curve, band, rival, attempt_epochs=end.attempt):
            return Stop.CEILING, epoch, fit
        if end.level is not None and not banded and epoch < EPOCHS:
            continue
        ends = band if end.level is not None else None
        stop = should_stop(curve, fit, attempt_epochs=end.attempt, max_epochs=EPOCHS, band=ends)
        if stop is not Stop.TRAIN:
            return stop, epoch, fit
    raise AssertionError("should_stop ends every edge at EPOCHS")


def lever_tables(n: int, n_slow: int, *, seed: int = FRESH, processes: int = 2) -> str:
    """Markdown: every lever on `n` worlds, those that are slow to compute on the first `n_slow`, in processes."""
    with get_context("spawn").Pool(processes) as pool:
        quick = pool.map(partial(_all_of, LEVERS), range(seed, seed + n), chunksize=1)
        slow = pool.map(partial(_all_of, SLOW), range(seed, seed + n_slow), chunksize=1)
    found = {lever.name: list(column) for lever, column in zip(LEVERS, zip(*quick, strict=True), strict=True)}
    found |= {lever.name: list(column) for lever, column in zip(SLOW, zip(*slow, strict=True), strict=True)}
    best = np.array([world.best_possible() for world in worlds(n, seed=seed)])
    head = (
        f"## {n} generated worlds (seeds {seed} and on; three clip settings by three learning rates, 14 or 18 "
        f"edges; cap {EPOCHS} epochs, {VIDEOS} videos)\n\n"
        "Regret: expected accuracy of the best path, every state trained for its best number of epochs, less that of "
        "the plan's network, in points; beside it the difference to another search of the same worlds, paired, with "
        "its standard error. As good: true accuracy at most 2 points below that of the first row in the same world. "
        "Search / path: clip-frames of the whole search over those of training its plan once.\n\n"
    )
    table = (
        "| lever | worlds | epochs | of T = 5 | of T = 10 | regret | 95th percentile | less T = 5's | less T = 10's | "
        "as good | same plan | search / path | ends in the sink |\n" + "|---" * 13 + "|\n"
    )
    rows = "".join(_row(name, of, found, best) for name, of in found.items())
    against = (
        f"\nAgainst the published search, on its {n_slow} worlds:\n\n"
        "| lever | epochs of the published | clip-frames of the published | regret less the published's |\n"
        + "|---" * 4
        + "|\n"
    )
    for name in (BASE.name, LONGER.name, *(lever.name for lever in LEVERS if lever.rules.race is not None)):
        ours, theirs = found[name][:n_slow], found[PUBLISHED.name]
        cells = (
            _share(ours, theirs),
            f"{sum(f.cost for f in ours) / sum(f.cost for f in theirs):.0%}",
            _less(ours, theirs),
        )
        against += f"| {name} | {' | '.join(cells)} |\n"
    return head + table + rows + against


def _all_of(levers: Sequence[Lever], seed: int) -> list[Replayed]:
    """A world searched with each lever; what the edges of two levers share is computed once."""
    world, ends = worlds(1, seed=seed)[0], {}
    base = replay(world, BASE, ends=ends)
    budgets = [None if lever.share is None else int(lever.share * base.cost) for lever in levers]
    found = [replay(world, lever, budget=b, ends=ends) for lever, b in zip(levers, budgets, strict=True)]
    return [replace(f, result=None) for f in found]


def _share(ours: Sequence[Replayed], theirs: Sequence[Replayed]) -> str:
    return f"{sum(f.epochs for f in ours) / sum(f.epochs for f in theirs):.0%}"


def _less(ours: Sequence[Replayed], theirs: Sequence[Replayed]) -> str:
    """Mean difference of the regrets in points, positive where ours is worse, and its standard error."""
    worse = 100 * np.array([t.accuracy - o.accuracy for o, t in zip(ours, theirs, strict=True)])
    return f"{worse.mean():+.2f} ± {worse.std(ddof=1) / len(worse) ** 0.5:.2f}"


def _row(name: str, ours: list[Replayed], found: dict[str, list[Replayed]], best: np.ndarray) -> str:
    n = len(ours)
    base, longer = found[BASE.name][:n], found[LONGER.name][:n]
    regret = 100 * (best[:n] - np.array([f.accuracy for f in ours]))
    pairs = list(zip(ours, base, strict=True))
    cells = [
        f"{n}",
        f"{np.mean([f.epochs for f in ours]):.0f}",
        _share(ours, base),
        _share(ours, longer),
        f"{regret.mean():.2f}",
        f"{np.quantile(regret, 0.95):.1f}",
        _less(ours, base),
        _less(ours, longer),
        f"{np.mean([f.accuracy >= b.accuracy - CLOSE for f, b in pairs]):.0%}",
        f"{np.mean([f.plan == b.plan for f, b in pairs]):.0%}",
        f"{sum(f.cost for f in ours) / max(sum(f.path_cost for f in ours), 1):.1f}",
        f"{np.mean([f.at_sink for f in ours]):.0%}",
    ]
    return f"| {name} | {' | '.join(cells)} |\n"
