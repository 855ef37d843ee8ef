"""The report page: one HTML file with the graph, the path found, and every edge's curve with its fit and knee."""

import html
import io

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from fastplan.launch import Task
from fastplan.planner.arrivals import Outcome, Reached
from fastplan.planner.journal import Journal
from fastplan.planner.plans import Plan
from fastplan.planner.states import START, StateGraph
from fastplan.report.terminal import percent
from fastplan.train.evaluate import Evaluation

_PATH, _OTHER = "#c2410c", "#94a3b8"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #0f172a }
table { border-collapse: collapse }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #e2e8f0 }
th:first-child, td:first-child { text-align: left } tr.path td { font-weight: 600; color: #c2410c }
.curves { display: flex; flex-wrap: wrap; gap: 1rem } svg { max-width: 100%; height: auto }
"""


def report_page(
    task: Task,
    journal: Journal,
    outcomes: list[Outcome],
    reached: Reached | None,
    plan: Plan | None,
    tested: Evaluation | None,
) -> str:
    """The whole page as HTML; figures are inline SVG, nothing is loaded from elsewhere."""
    path = {(o.source, o.target) for o in reached.path} if reached else set()
    parts = ["<h1>fastplan report</h1>", f"<p>{_summary(plan, tested)}</p>"]
    if task.graph is not None:
        parts += ["<h2>State graph</h2>", _svg(_draw_graph(task.graph, outcomes, path))]
    parts += ["<h2>Edges</h2>", _edge_table(outcomes, path), "<h2>Curves</h2><div class='curves'>"]
    parts += [_svg(_draw_curve(journal, outcome, (outcome.source, outcome.target) in path)) for outcome in outcomes]
    parts.append("</div>")
    if plan is not None:
        parts += ["<h2>Plan</h2>", f"<pre>{html.escape(plan.to_yaml())}</pre>"]
    body = "\n".join(parts)
    return f"<!doctype html><meta charset='utf-8'><title>fastplan report</title><style>{_STYLE}</style>{body}\n"


def _summary(plan: Plan | None, tested: Evaluation | None) -> str:
    if plan is None:
        return "No path reached the last state."
    legs = ", then ".join(f"{leg.epochs} epochs of <b>{html.escape(leg.state.name)}</b>" for leg in plan.legs)
    text = f"The plan: {legs}. Validation video top-1 {percent(plan.accuracy)} % (± {percent(plan.stderr)})."
    if tested is not None:
        text += (
            f" Test video top-1 {percent(tested.video_top1)} % (± {percent(tested.stderr)}, {tested.videos} videos)."
        )
    return text


def _edge_table(outcomes: list[Outcome], path: set[tuple[str, str]]) -> str:
    rows = ["<tr><th>edge<th>top-1 %<th>±<th>kept epoch<th>trained<th>ended<th>clip-frames<th>seconds</tr>"]
    for o in outcomes:
        mark = " class='path'" if (o.source, o.target) in path else ""
        ended = "cap (not converged)" if o.status == "cap" else o.status
        cells = [percent(o.accuracy), percent(o.stderr), o.epochs, o.trained, ended, f"{o.cost:,}", f"{o.seconds:.0f}"]
        name = html.escape(f"{o.source} → {o.target}")
        rows.append(f"<tr{mark}><td>{name}" + "".join(f"<td>{cell}" for cell in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"


def _draw_curve(journal: Journal, outcome: Outcome, on_path: bool) -> Figure:
    records = journal.epochs(outcome.source, outcome.target)
    fits = journal.fits(outcome.source, outcome.target)
    epochs = np.array([record.epoch for record in records])
    figure, axes = plt.subplots(figsize=(4.6, 3.0), layout="constrained")
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
    axes.set(title=f"{outcome.source} → {outcome.target}", xlabel="epoch", ylabel="validation top-1, %")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, high - 5), min(max(high, low + 5), 102))  # a flat curve should look flat
    axes.title.set_fontsize(10)
    axes.legend(fontsize=7, loc="lower right")
    axes.grid(alpha=0.25)
    return figure


def _draw_graph(graph: StateGraph, outcomes: list[Outcome], path: set[tuple[str, str]]) -> Figure:
    depth = {START: 0}
    for state in graph.in_order():
        depth[state.name] = 1 + max(depth[p] for p in graph.predecessors(state.name))
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
    figure, axes = plt.subplots(figsize=(min(1.3 * max(depth.values()) + 2, 12), 2.2 + 0.6 * (max(rows) - min(rows))))
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.99)
    for source, target in graph.edges:
        on_path = (source, target) in path
        colour = _PATH if on_path else _OTHER
        begin, end = np.array(places[source]), np.array(places[target])
        bend = 0.0 if depth[target] - depth[source] == 1 else -0.25  # around the states in between
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
    axes.set(xlim=(-0.9, max(depth.values()) * 2.4 + 0.9), ylim=(min(rows) - 0.7, max(rows) + 1.3), aspect="equal")
    return figure


def _svg(figure: Figure) -> str:
    with io.StringIO() as out:
        figure.savefig(out, format="svg")
        plt.close(figure)
        text = out.getvalue()
    return text[text.index("<svg") :]
