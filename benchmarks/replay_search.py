"""Runs whole searches in generated worlds, one lever at a time, against the known best path."""

from dataclasses import dataclass, field, replace

import numpy as np

from fastplan.planner import (
    Exploration,
    KneeFit,
    Outcome,
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
BASE = Lever("exhaustive (tolerance, T = 5)")
PUBLISHED = Lever(
    "published (five parameters, T = 10, highest score)",
    end=EndRule("published, T = 10", "paper", 10),
    rules=SearchRules(choose=pick_highest),
)
LEVERS = (
    BASE,
    Lever("T = 3", end=EndRule("tolerance, T = 3", "tolerance", 3)),
    Lever("T = 10", end=LONG),
    Lever("highest score, no ties", rules=SearchRules(choose=pick_highest)),
    Lever("exponential, T = 5", end=EndRule("exponential, T = 5", "exponential", 5)),
    Lever("known knees (exponential, 80 %)", end=KNOWN),
    Lever("ceiling", ceiling=True),
    Lever("skip dominated", rules=SearchRules(skip_dominated=True)),
    Lever("budget of half", share=0.5),
    Lever("budget of half, first path", rules=SearchRules(first_path=PRIOR), share=0.5),
    Lever("budget of a quarter, first path", rules=SearchRules(first_path=PRIOR), share=0.25),
    Lever("width 2", rules=SearchRules(width=2)),
    Lever("T = 10, ceiling", end=LONG, ceiling=True),
    Lever("T = 10, ceiling, skip", end=LONG, rules=SearchRules(skip_dominated=True), ceiling=True),
    Lever("ceiling, skip, first path", rules=SearchRules(skip_dominated=True, first_path=PRIOR), ceiling=True),
    Lever(
        "ceiling, skip, first path, budget of half",
        rules=SearchRules(skip_dominated=True, first_path=PRIOR),
        ceiling=True,
        share=0.5,
    ),
)


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
    result: SearchResult


def replay(world: World, lever: Lever, *, budget: int | None = None) -> Replayed:
    """Search the world. The noise of an edge depends on the world and the path alone, so levers are compared paired."""
    stepwise = Stepwise(world.graph, replace(lever.rules, budget=budget))
    true: dict[tuple[str, ...], float] = {}
    epochs = 0
    while ready := stepwise.ask():
        exploration = ready[0]
        rival = stepwise.best_rival(exploration) if lever.ceiling else None
        outcome, reached = _train(world, exploration, lever.end, rival, true)
        true[exploration.names] = reached
        epochs += outcome.trained
        stepwise.tell(exploration, outcome)
    result = stepwise.result()
    assert result.path is not None, "no edge of a world diverges"
    final = result.path.names
    return Replayed(
        epochs=epochs,
        cost=stepwise.spent,
        accuracy=true[final],
        path_cost=result.path.cost,
        plan=tuple(o.target for o in result.path.path if o.epochs),
        at_sink=final[-1] == world.graph.sink,
        result=result,
    )


def _train(
    world: World, exploration: Exploration, end: EndRule, rival: Outcome | None, true: dict[tuple[str, ...], float]
) -> tuple[Outcome, float]:
    target, arrival = exploration.state.name, exploration.arrival
    rng = np.random.default_rng([world.seed, *exploration.key.encode()])
    before = true[arrival.names] if arrival else None
    truth = world.curve(exploration.source, target, before)
    checkpoints, observed = draw(truth, world.jitters[target], rng)
    seen = observed.tolist()
    scores = rng.binomial(VIDEOS, checkpoints) / VIDEOS
    stop, trained, fit = _end_of(seen, end, rival, from_scratch=arrival is None)
    kept = choose_epoch(seen[: trained + 1], fit, rule=end.rule, from_scratch=arrival is None)
    score = float(scores[kept])
    price = world.prices[target]
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


def lever_tables(n: int, n_published: int) -> str:
    """Markdown: every lever alone and together on `n` worlds; the published search on the first `n_published`."""
    drawn = worlds(n)
    best = np.array([world.best_possible() for world in drawn])
    base = [replay(world, BASE) for world in drawn]
    lines = [
        f"## {n} generated worlds (three clip settings by three learning rates, 14 or 18 edges; cap {EPOCHS} epochs, "
        f"{VIDEOS} videos)",
        "",
        "Regret: expected accuracy of the best path, every state trained for its best number of epochs, less that of "
        "the plan's network, in points. As good: true accuracy at most 2 points below that of the first row in the "
        "same world. Search / path: clip-frames of the whole search over those of training its plan once. The "
        f"published search is measured on the first {n_published} worlds only.",
        "",
        "| lever | epochs | of exhaustive | clip-frames of exhaustive | regret, mean | 95th percentile | as good | "
        "same plan | search / path | ends in the sink |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for lever in (*LEVERS, PUBLISHED):
        count = n_published if lever is PUBLISHED else n
        found = [_with_share(w, lever, b) for w, b in zip(drawn[:count], base[:count], strict=True)]
        lines.append(_row(lever.name, found, base[:count], best[:count]))
    return "\n".join(lines) + "\n"


def _with_share(world: World, lever: Lever, base: Replayed) -> Replayed:
    if lever is BASE:
        return base
    return replay(world, lever, budget=None if lever.share is None else int(lever.share * base.cost))


def _row(name: str, found: list[Replayed], base: list[Replayed], best: np.ndarray) -> str:
    regret = 100 * (best - np.array([f.accuracy for f in found]))
    pairs = list(zip(found, base, strict=True))
    cells = [
        f"{np.mean([f.epochs for f in found]):.0f}",
        f"{sum(f.epochs for f in found) / sum(b.epochs for b in base):.0%}",
        f"{sum(f.cost for f in found) / sum(b.cost for b in base):.0%}",
        f"{regret.mean():.2f}",
        f"{np.quantile(regret, 0.95):.1f}",
        f"{np.mean([f.accuracy >= b.accuracy - CLOSE for f, b in pairs]):.0%}",
        f"{np.mean([f.plan == b.plan for f, b in pairs]):.0%}",
        f"{sum(f.cost for f in found) / max(sum(f.path_cost for f in found), 1):.1f}",
        f"{np.mean([f.at_sink for f in found]):.0%}",
    ]
    return f"| {name} | {' | '.join(cells)} |"
