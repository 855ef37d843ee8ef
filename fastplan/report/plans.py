"""Tables of a search before it begins: its states, its edges, what each will cost."""

from collections.abc import Callable, Sequence

from rich.markup import escape
from rich.table import Table

from fastplan.launch import Task
from fastplan.memory import Memory
from fastplan.planner.estimate import EdgeEstimate
from fastplan.planner.states import StateGraph
from fastplan.probe import Probe


def states_table(graph: StateGraph) -> Table:
    """The states of a graph in the order of the search."""
    table = Table(title=f"States of '{escape(graph.name)}', validated at {graph.validation_clip}", title_justify="left")
    for column in (
        "state",
        "segments x frames",
        "stride",
        "spans",
        "size",
        "lr",
        "batch",
        "accumulate",
        "effective",
        "BN",
    ):
        table.add_column(column, justify="left" if column in ("state", "BN") else "right")
    for state in graph.in_order():
        clip = state.clip
        table.add_row(
            state.name,
            f"{clip.segments} x {clip.frames}",
            str(clip.stride),
            f"{clip.span} frames" if clip.segments == 1 else f"{clip.segments} x {clip.span}",
            f"{clip.size} px",
            f"{state.lr:g}",
            str(state.batch_size),
            str(state.accumulate),
            str(state.effective_batch),
            "frozen" if state.freeze_bn else "",
        )
    return table


def memory_table(expected: Sequence[Memory]) -> Table:
    """Memory of each clip regime."""
    table = Table(
        title="Expected memory in MB, fp32; libraries and data.keep_mb come on top",
        title_justify="left",
        caption="host: decoded clips. device: prepared clips, network, backward pass; the host's where there is no GPU",
        caption_justify="left",
    )
    for column in ("clip", "batch", "host", "device"):
        table.add_column(column, justify="left" if column == "clip" else "right")
    for one in expected:
        cells = (f"{value / 1e6:,.0f}" for value in (one.host, one.device))
        table.add_row(str(one.clip), str(one.batch_size), *cells)
    return table


def edges_table(graph: StateGraph, edges: Sequence[EdgeEstimate]) -> Table:
    """The edges of a graph in the order of the search, with the frames that an epoch of each takes per clip."""
    table = Table(title=f"{len(edges)} edges", title_justify="left")
    for column in ("order", "edge", "epochs", "frames per clip"):
        table.add_column(column, justify="left" if column == "edge" else "right")
    for number, edge in enumerate(edges, 1):
        epochs, frames = _range(edge.least, edge.most, str), graph.state(edge.target).clip.length
        table.add_row(str(number), f"{edge.source} -> {edge.target}", epochs, str(frames))
    return table


def costs_table(task: Task, measured: Probe, edges: Sequence[EdgeEstimate]) -> Table:
    """What the edges of a search, or the legs of a plan, take as probed: epochs, clips per second, time, memory."""
    title = f"Measured on {measured.device} in {measured.precision}: an epoch is {measured.epoch_clips:,} clips"
    title += f", validated on {measured.val_videos:,} videos"
    table = Table(title=title, title_justify="left")
    on_gpu = any(price.peak_bytes for price in measured.prices.values())
    for column in ("edge", "epochs", "clips/s", "waiting", "epoch", "validation", "in all", "effective batch"):
        table.add_column(column, justify="left" if column == "edge" else "right", no_wrap=column in ("edge", "in all"))
    if on_gpu:
        table.add_column("GPU memory", justify="right")
    rows = [(f"{edge.source} -> {edge.target}", edge.target, edge.least, edge.most) for edge in edges]
    if task.plan is not None:
        rows = [(leg.state.name, leg.state.name, leg.epochs, leg.epochs) for leg in task.plan.legs]
    effective = {state.name: state.effective_batch for state in task.states}
    for title, state, low, high in rows:
        price = measured.prices[state]
        cells = [
            title,
            _range(low, high, str),
            f"{price.clips_per_s:,.1f}",
            f"{price.waiting:.0%}",
            duration(price.seconds),
            duration(price.val_seconds),
            _range(low * price.seconds, high * price.seconds, duration),
            str(effective[state]),
        ]
        table.add_row(*cells, *([f"{price.peak_bytes / 1e9:.1f} GB"] if on_gpu else []))
    return table


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _range(low: float, high: float, form: Callable[[float], str]) -> str:
    return form(low) if low == high else f"{form(low)} to {form(high)}"
