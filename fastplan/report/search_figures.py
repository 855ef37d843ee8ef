"""Figures of a whole search: the best plan for every budget, and which worker trained what when."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from fastplan.planner.arrivals import Reached
from fastplan.planner.journal import EpochRecord

_CHOSEN, _OTHER = "#c2410c", "#64748b"


def draw_frontier(points: Sequence[Reached], chosen: Reached | None) -> Figure:
    """Validation accuracy of the best plan by what it costs to train, with one standard error; `chosen` stands out."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    costs = [point.cost / 1e6 for point in points]
    accuracies = [100 * point.outcome.accuracy for point in points]
    axes.step(costs, accuracies, where="post", color=_OTHER, lw=1)
    for point, cost, accuracy in zip(points, costs, accuracies, strict=True):
        colour = _CHOSEN if chosen is not None and point.names == chosen.names else _OTHER
        axes.errorbar(cost, accuracy, 100 * point.outcome.stderr, fmt="o", color=colour, capsize=3)
        legs = "\n".join(f"{o.target} {o.epochs}" for o in point.path if o.epochs)
        axes.annotate(legs, (cost, accuracy), xytext=(6, -6), textcoords="offset points", fontsize=7, va="top")
    axes.set(xlabel="million training clip-frames", ylabel="validation top-1, %")
    axes.margins(x=0.25, y=0.3)
    axes.grid(alpha=0.25)
    return figure


def draw_timeline(epochs: Mapping[str, Sequence[EpochRecord]]) -> Figure:
    """A row per worker, a block per epoch, a colour per edge; times are hours since the first epoch began.

    epochs: of each edge, by its key. Pauses between a run and its resumption are shown as they were.
    """
    records = [record for of_edge in epochs.values() for record in of_edge]
    workers = sorted({record.worker for record in records})
    begin = min(_begin(record) for record in records)
    figure = Figure(figsize=(9.0, 0.9 + 0.45 * len(workers)), layout="constrained")
    axes = figure.subplots()
    for number, (key, of_edge) in enumerate(epochs.items()):
        spans = [((_begin(r) - begin) / 3600, (r.finished - _begin(r)) / 3600, r.worker) for r in of_edge]
        for row, worker in enumerate(workers):
            mine = [(at, length) for at, length, who in spans if who == worker]
            axes.broken_barh(mine, (row - 0.4, 0.8), fc=f"C{number % 10}", ec="white", lw=0.5)
        axes.plot([], [], "s", color=f"C{number % 10}", label=key.replace(">", " → "))
    axes.set(yticks=range(len(workers)), yticklabels=[worker or "this process" for worker in workers], xlabel="hours")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _begin(record: EpochRecord) -> float:
    return record.finished - record.seconds - record.val_seconds
