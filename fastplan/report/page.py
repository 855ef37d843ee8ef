"""The report page: one HTML file with the graph, the path found, and every edge's curve with its fit and knee."""

import html
from collections.abc import Mapping, Sequence

from fastplan.launch import Task
from fastplan.planner.arrivals import Outcome, Reached
from fastplan.planner.journal import Journal
from fastplan.planner.plans import Plan
from fastplan.report.figures import as_svg, draw_curve, draw_graph
from fastplan.report.search_figures import draw_frontier, draw_timeline
from fastplan.report.terminal import percent
from fastplan.train.evaluate import Evaluation

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #0f172a }
table { border-collapse: collapse }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #e2e8f0 }
th:first-child, td:first-child, .facts td { text-align: left } tr.path td { font-weight: 600; color: #c2410c }
.curves { display: flex; flex-wrap: wrap; gap: 1rem } svg { max-width: 100%; height: auto }
"""


def report_page(
    task: Task,
    journal: Journal,
    outcomes: Mapping[str, Outcome],
    reached: Reached | None,
    plan: Plan | None,
    tested: Evaluation | None,
    bad: Mapping[str, str],
    frontier: Sequence[Reached] = (),
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """The whole page as HTML; figures are inline SVG, nothing is loaded from elsewhere.

    outcomes: by the edge's key. bad: unreadable files, why. frontier: the best plan for every budget, cheapest first.
    facts: the first lines of the run, (name, text).
    """
    path = {(o.source, o.name) for o in reached.path} if reached else set()
    found = list(outcomes.values())
    parts = ["<h1>fastplan report</h1>", f"<p>{_summary(plan, tested)}</p>"]
    if task.graph is not None:
        parts += ["<h2>State graph</h2>", as_svg(draw_graph(task.graph, [o for o in found if not o.repeat], path))]
    parts += ["<h2>Edges</h2>", _edge_table(found, path), "<h2>Curves</h2><div class='curves'>"]
    parts += [as_svg(draw_curve(journal, key, o, (o.source, o.name) in path)) for key, o in outcomes.items()]
    parts.append("</div>")
    if frontier:
        parts += ["<h2>The best plan for every budget</h2>", as_svg(draw_frontier(frontier, reached))]
        parts.append(
            "<p>Train another one with <code>fastplan train --plan RUN/frontier.yaml --budget 200e</code>.</p>"
        )
    epochs = {key: journal.epochs(key) for key in journal.edges()}
    if len({record.worker for records in epochs.values() for record in records}) > 1:
        parts += ["<h2>Who trained what when</h2>", as_svg(draw_timeline(epochs))]
    if plan is not None:
        parts += ["<h2>Plan</h2>", f"<pre>{html.escape(plan.to_yaml())}</pre>"]
    parts += ["<h2>Run</h2>", _facts_table(facts)]
    parts.append(f"<details><summary>All settings</summary><pre>{html.escape(task.config.to_yaml())}</pre></details>")
    if bad:
        rows = "".join(f"<tr><td>{html.escape(path)}<td>{html.escape(why)}</tr>" for path, why in bad.items())
        parts += [f"<h2>Files that could not be read: {len(bad)}</h2>", f"<table>{rows}</table>"]
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


def _facts_table(facts: Sequence[tuple[str, str]]) -> str:
    lines = (f"<tr><td>{html.escape(name)}<td>{html.escape(text)}</tr>" for name, text in facts)
    return f"<table class='facts'>{''.join(lines)}</table>"


def _edge_table(outcomes: list[Outcome], path: set[tuple[str, str]]) -> str:
    rows = ["<tr><th>edge<th>top-1 %<th>±<th>kept epoch<th>trained<th>ended<th>clip-frames<th>seconds</tr>"]
    for o in outcomes:
        mark = " class='path'" if (o.source, o.name) in path else ""
        ended = "cap (not converged)" if o.status == "cap" else o.status
        cells = [percent(o.accuracy), percent(o.stderr), o.epochs, o.trained, ended, f"{o.cost:,}", f"{o.seconds:.0f}"]
        name = html.escape(f"{o.source} → {o.name}")
        rows.append(f"<tr{mark}><td>{name}" + "".join(f"<td>{cell}" for cell in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"
