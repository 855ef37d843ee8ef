"""Figures: a state graph with what was found in it, the legs of a plan, the curve of an edge."""

import io
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fastplan.errors import UserError
from fastplan.planner.arrivals import Outcome
from fastplan.planner.journal import Journal
from fastplan.planner.plans import Plan
from fastplan.planner.states import START, StateGraph
from fastplan.report.terminal import percent

_PATH, _OTHER = "#c2410c", "#94a3b8"
_LEGS = ("#0f766e", "#c2410c", "#4338ca", "#a16207", "#be185d")


def draw_curve(journal: Journal, key: str, outcome: Outcome, on_path: bool) -> Figure:
    """The measured accuracies of an edge, the last fit, its knee and the epoch that was kept."""
    records, fits = journal.epochs(key), journal.fits(key)
    epochs = np.array([record.epoch for record in records])
    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        epochs, [100 * r.accuracy for r in records], "o", ms=4, color=_PATH if on_path else _OTHER, label="measured"
    )
    fit = fits.get(int(epochs[-1]))
    if fit is not None and fit.params:
        x = np.linspace(fit.first, epochs[-1], 200)
        axes.plot(x, 100 * np.clip(fit.predict(x), 0, 1), "-", lw=1.2, color="#334155", label="fit")
    if fit is not None and fit.knee is not None and fit.knee <= epochs[-1]:
        axes.axvline(fit.knee, ls=":", lw=1, color="#334155", label=f"knee at {fit.knee}")
    if outcome.epochs:
        kept = next(r for r in records if r.epoch == outcome.epochs)
        axes.plot([kept.epoch], [100 * kept.accuracy], "o", ms=9, mfc="none", color="#0f172a", label="kept")
    axes.set(title=f"{outcome.source} → {outcome.name}", xlabel="epoch", ylabel="validation top-1, %")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, high - 5), min(max(high, low + 5), 102))  # a flat curve should look flat
    axes.title.set_fontsize(10)
    axes.legend(fontsize=7, loc="lower right")
    axes.grid(alpha=0.25)
    return figure


def draw_graph(graph: StateGraph, outcomes: Sequence[Outcome] = (), path: Collection[tuple[str, str]] = ()) -> Figure:
    """States from left to right in the order of the search, with what was found on the explored edges.

    path: edges to stand out, the plan's.
    """
    depth = graph.depths()
    columns: dict[int, list[str]] = {}
    for name, column in depth.items():
        columns.setdefault(column, []).append(name)
    tallest = max(len(names) for names in columns.values())
    places = {
        name: (column * 2.4, (len(names) - 1) / 2 - row + (0.3 if column % 2 and tallest > 1 else 0))
        for column, names in columns.items()
        for row, name in enumerate(names)
    }
    found = {(o.source, o.target): o for o in outcomes}
    rows = [y for _, y in places.values()]
    figure = Figure(figsize=(min(1.3 * max(depth.values()) + 2, 12), 2.4 + 0.6 * (max(rows) - min(rows))))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    for source, target in graph.edges:
        on_path = (source, target) in path
        colour = _PATH if on_path else _OTHER
        begin, end = np.array(places[source]), np.array(places[target])
        bend = 0.0 if depth[target] - depth[source] == 1 else -0.33  # around the states in between
        arrow = {"arrowstyle": "-|>", "color": colour, "lw": 2.2 if on_path else 1.2, "shrinkA": 26, "shrinkB": 30}
        axes.annotate(
            "", xy=tuple(end), xytext=tuple(begin), arrowprops={**arrow, "connectionstyle": f"arc3,rad={bend}"}
        )
        outcome = found.get((source, target))
        if outcome is not None:
            (dx, dy), middle = end - begin, (begin + end) / 2
            x, y = middle + bend / 2 * np.array([dy, -dx])
            words = f"{percent(outcome.accuracy).strip()} %\n{outcome.epochs} epochs"
            axes.text(x, y + 0.22, words, ha="center", va="center", fontsize=7, color=colour)
    for name, (x, y) in places.items():
        label = name
        if name != START:
            state = graph.state(name)
            label += f"\n{state.clip.segments}x{state.clip.frames}, lr {state.lr:g}"
        box = {"boxstyle": "round,pad=0.4", "fc": "white", "ec": "#334155"}
        axes.text(x, y, label, ha="center", va="center", fontsize=8, bbox=box)
    axes.set_axis_off()
    axes.set(xlim=(-0.9, max(depth.values()) * 2.4 + 0.9), ylim=(min(rows) - 0.7, max(rows) + 1.7), aspect="equal")
    return figure


def draw_plan(plan: Plan) -> Figure:
    """The legs of a plan over its epochs: a block per leg, as high as its clips are long, with its learning rate."""
    figure = Figure(figsize=(8.0, 3.0), layout="constrained")
    axes = figure.subplots()
    begin = 0
    longest = max(leg.state.clip.length for leg in plan.legs)
    for number, leg in enumerate(plan.legs):
        clip = leg.state.clip
        axes.bar(begin, clip.length, leg.epochs, align="edge", color=_LEGS[number % len(_LEGS)], ec="white")
        stride = f" s{clip.stride}" if clip.stride > 1 else ""
        words = f"{clip.segments}x{clip.frames}{stride}\nlr {leg.state.lr:g}"
        axes.text(begin + leg.epochs / 2, clip.length + 0.02 * longest, words, ha="center", va="bottom", fontsize=8)
        begin += leg.epochs
    axes.set(xlabel="epoch", ylabel="frames in a clip", xlim=(0, begin), ylim=(0, 1.3 * longest))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def save_figure(figure: Figure, file: Path) -> None:
    """Write a figure in the format of the file's ending. Raises `UserError` where it is none of svg, pdf, png."""
    if file.suffix.lower() not in (".svg", ".pdf", ".png"):
        raise UserError(f"{file}: figures are drawn as .svg, .pdf or .png")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, bbox_inches="tight")
    except OSError as error:
        raise UserError(f"cannot draw to {file}: {error.strerror}") from None


def as_svg(figure: Figure) -> str:
    """The figure as an SVG element, to stand in a page."""
    with io.StringIO() as out:
        figure.savefig(out, format="svg")
        text = out.getvalue()
    return text[text.index("<svg") :]
