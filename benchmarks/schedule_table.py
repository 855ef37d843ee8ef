"""What trained schedules say: a table, a picture, and whether planning paid."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from statistics import mean, stdev

from matplotlib.figure import Figure

from fastplan.benchmarks.schedules import (
    CONSTANT,
    CONSTANT_AT_PRICE,
    CONSTANTS,
    COSINE_AT_PRICE,
    HALVING,
    KNEES,
    LONG,
    REPLAY,
    SEARCH,
    Trained,
)

_AT_PRICE = (CONSTANT_AT_PRICE, COSINE_AT_PRICE)
_OWN_PRICE = (LONG, KNEES, *_AT_PRICE, SEARCH)  # what costs something else than the budget
_KIN = {LONG: CONSTANT, CONSTANT_AT_PRICE: CONSTANT, COSINE_AT_PRICE: "cosine"}  # drawn in the other's colour
_PLANNER = {SEARCH: "#c2410c", REPLAY: "#ea580c", KNEES: "#a16207"}
_OTHERS = ("#0f766e", "#2563eb", "#be185d", "#475569", "#65a30d", "#0891b2", "#9f1239")

Rows = Mapping[str, Sequence[Trained]]


def by_name(trained: Sequence[Trained]) -> dict[str, list[Trained]]:
    """The trainings of each schedule, one a seed, in the order of the table: what costs the budget first."""
    rows: dict[str, list[Trained]] = {}
    for one in trained:
        rows.setdefault(one.name, []).append(one)
    order = [*(name for name in rows if name not in _OWN_PRICE), *(name for name in _OWN_PRICE if name in rows)]
    return {name: sorted(rows[name], key=lambda one: one.seed) for name in order}


def table(rows: Rows) -> str:
    """Markdown: a row per schedule, means over seeds ± the standard deviation between them."""
    lines = [
        "| schedule | clip-frames | epochs | CPU s | averaged weights | worst | not averaged | ... as left | "
        "averaged, beside constant | n |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in rows.items():
        beside = "" if name == CONSTANT or CONSTANT not in rows else _signed(*difference(found, rows[CONSTANT]))
        lost = sum(one.diverged for one in found)
        cells = [
            name + (f" ({lost} of {len(found)} diverged)" if lost else ""),
            f"{mean(one.clip_frames for one in found):,.0f}",
            f"{mean(one.epochs for one in found):.0f}",
            f"{mean(one.cpu_s for one in found):.0f}",
            _spread([one.averaged for one in found]),
            f"{100 * min(one.averaged for one in found):.1f}",
            _spread([one.raw_bn for one in found]),
            _spread([one.raw for one in found]),
            beside,
            str(len(found)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plans_list(rows: Rows) -> str:
    """Markdown: what the search, the knees and the halving chose, seed by seed."""
    lines = [
        f"- {name}, seed {one.seed}: {one.plan}; averaged weights {100 * one.averaged:.1f} %, "
        f"{one.clip_frames:,} clip-frames"
        for name in (SEARCH, KNEES, HALVING)
        for one in rows.get(name, ())
    ]
    return "\n".join(lines) + "\n"


def difference(ours: Sequence[Trained], theirs: Sequence[Trained]) -> tuple[float, float]:
    """Mean difference of top-1 (averaged weights) over the seeds of both, and its standard error; nan for one seed."""
    other = {one.seed: one.averaged for one in theirs}
    gaps = [one.averaged - other[one.seed] for one in ours if one.seed in other]
    if not gaps:
        return math.nan, math.nan
    return mean(gaps), stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan


def answer(rows: Rows, *, budget: int, videos: int) -> list[str]:
    """Sentences: does planning pay here? Differences count beyond two standard errors, and beyond one test video."""
    plain = [name for name in rows if name not in (SEARCH, REPLAY, KNEES, HALVING)]
    says = []
    if SEARCH in rows:
        price = mean(one.clip_frames for one in rows[SEARCH])
        for name in (name for name in _AT_PRICE if name in rows):
            gap, error = difference(rows[SEARCH], rows[name])
            says.append(
                f"A search beside one training of the same price ({name}, {price / budget:.1f} budgets): "
                f"{_signed(gap, error)} points: " + _verdict(gap, error, videos, "it pays", "it does not pay", "equal")
            )
        within = [name for name in plain if _price(rows[name]) <= price * 1.02]
        best = max(within, key=lambda name: mean(one.averaged for one in rows[name]), default=None)
        if best is not None:
            gap, error = difference(rows[SEARCH], rows[best])
            times = f"{price / budget:.1f} budgets against {_price(rows[best]) / budget:.1f}"
            says.append(
                f"A search, its price included, beside the best plain schedule within that price ({best}): "
                f"{_signed(gap, error)} points for {times}: "
                + _verdict(gap, error, videos, "it pays", "it does not pay", "it does not pay: no better, and dearer")
            )
    for name, question in ((REPLAY, "The plan that was found, at the budget"), (HALVING, "Halving, at the budget")):
        equal = [n for n in plain if n not in _OWN_PRICE]
        if name in rows and equal:
            best = max(equal, key=lambda n: mean(one.averaged for one in rows[n]))
            gap, error = difference(rows[name], rows[best])
            words = _verdict(gap, error, videos, "better", "worse", "the same within noise")
            says.append(f"{question}, beside the best plain schedule ({best}): {_signed(gap, error)} points: {words}.")
    fixed = [one for name in plain if name not in _OWN_PRICE for one in rows[name]]
    gains = [one.averaged - one.raw_bn for one in fixed]
    if len(gains) > 1:
        gap, error = mean(gains), stdev(gains) / math.sqrt(len(gains))
        words = _verdict(gap, error, videos, "averaging pays", "averaging costs accuracy", "no difference")
        says.append(
            f"Averaging the weights, over all {len(gains)} plain trainings: {_signed(gap, error)} points: {words}."
        )
    return says


def draw(rows: Rows, budget: int) -> Figure:
    """Top-1 against clip-frames: validation curves of what trains one network, and the test at the end of each."""
    figure = Figure(figsize=(9.0, 5.2), layout="constrained")
    axes = figure.subplots()
    others = dict(zip((name for name in rows if name not in (*_PLANNER, *_KIN)), cycle(_OTHERS), strict=False))
    longest = max((name for name in CONSTANTS if name in rows), key=lambda name: _price(rows[name]), default=None)
    for name, found in rows.items():
        colour = _PLANNER.get(name) or others.get(_KIN.get(name, name))
        curves = [one.curve for one in found]
        if name == longest or name not in CONSTANTS:
            x = [mean(point[0] for point in points) / 1e6 for points in zip(*curves, strict=False)]
            y = [100 * mean(point[1] or 0.0 for point in points) for points in zip(*curves, strict=False)]
            axes.plot(x, y, "-", lw=1, alpha=0.6, color=colour)
        tested = [100 * one.averaged for one in found]
        at = _price(found) / 1e6
        middle = mean(tested)
        spread = [[middle - min(tested)], [max(tested) - middle]]
        marker = "D" if name in _PLANNER else "o"
        axes.errorbar(at, middle, spread, fmt=marker, ms=6, color=colour, capsize=3, label=f"{name}: {middle:.1f} %")
    axes.axvline(budget / 1e6, ls=":", lw=1, color="#94a3b8")
    axes.set(
        xlabel="million training clip-frames, everything that was tried included", ylabel="top-1, %", ylim=(0, 102)
    )
    axes.set_title(
        "Averaged weights. Lines: validation, mean over seeds as far as all went; marks: test, lowest to highest seed",
        fontsize=9,
    )
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.25)
    return figure


def _price(found: Sequence[Trained]) -> float:
    return mean(one.clip_frames for one in found)


def _verdict(gap: float, error: float, videos: int, better: str, worse: str, same: str) -> str:
    if math.isnan(error):
        return "one seed cannot tell"
    if abs(gap) <= max(2 * error, 1 / videos):
        return same
    return better if gap > 0 else worse


def _spread(values: Sequence[float]) -> str:
    middle = f"{100 * mean(values):.1f}"
    return f"{middle} ± {100 * stdev(values):.1f}" if len(values) > 1 else middle


def _signed(gap: float, error: float) -> str:
    return f"{100 * gap:+.1f}" + ("" if math.isnan(error) else f" ± {100 * error:.1f}")
