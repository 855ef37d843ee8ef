"""The command `plan`: what a search or a plan would do and cost, without training it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from rich.filesize import decimal

from fastplan.budget import Budget
from fastplan.launch import Task
from fastplan.memory import expected_memory
from fastplan.models.networks import network_spec
from fastplan.planner.estimate import SearchEstimate, estimate, open_edges, verdict
from fastplan.planner.states import check_clip_lengths
from fastplan.probe import Probe, probe
from fastplan.report.console import print_table
from fastplan.report.figures import draw_graph, draw_plan, save_figure
from fastplan.report.plans import costs_table, duration, edges_table, memory_table, states_table
from fastplan.report.terminal import Terminal, plan_table


def plan(task: Task, terminal: Terminal, *, draw: Path | None, probing: bool) -> int:
    """Print the states and edges of a graph, or the legs of a plan, with what is known of their price.

    draw: a figure of it. probing: measure a few steps of every state first. Returns the exit status.
    """
    name, config = task.config.network.name, task.config
    spec = network_spec(name)
    check_clip_lengths([*task.states, task.target], multiple=spec.multiple, least=spec.least, network=name)
    measured = probe(task, terminal.progress) if probing else None
    if task.plan is not None:
        print_table(terminal.console, plan_table(task.plan))
    if task.graph is not None:
        print_table(terminal.console, states_table(task.graph))
    on_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    print_table(terminal.console, memory_table(expected_memory(task.states, config, on_gpu=on_gpu)))
    if task.graph is not None and measured is None:
        print_table(terminal.console, edges_table(task.graph, _epochs(task).edges))
    if measured is not None:
        print_table(
            terminal.console, costs_table(task, measured, _epochs(task).edges if task.graph is not None else ())
        )
        _explain(task, measured, terminal)
    elif task.graph is not None and config.plan.budget is not None:
        terminal.note(f"budget of {Budget.parse(config.plan.budget)}: --probe says what it cuts")
    if draw is not None and task.plan is not None:
        save_figure(draw_plan(task.plan), draw)
    if draw is not None and task.graph is not None:
        save_figure(draw_graph(task.graph), draw)
    return 0


def _explain(task: Task, measured: Probe, terminal: Terminal) -> None:
    """Hours, disk and the verdict on a search; the hours of a plan."""
    config = task.config
    if task.plan is not None:
        seconds = sum(leg.epochs * measured.prices[leg.state.name].seconds for leg in task.plan.legs)
        terminal.note(f"the plan: {duration(seconds)} on one {measured.device} in {measured.precision}")
        return
    assert task.graph is not None
    prices = {state.name: measured.prices[state.name].seconds for state in task.graph.states}
    found = _estimate(task, prices)
    least, most = found.total
    terminal.note(
        f"the search: {duration(least)} where every edge ends as soon as it may, "
        f"{duration(most)} where every edge runs to its cap, on one {measured.device} "
        f"in {measured.precision}"
    )
    terminal.note(
        f"disk: {decimal(measured.disk.checkpoint)} a checkpoint, at most {decimal(measured.disk.most)} at a time with "
        "one worker, usually less than half of it"
    )
    if config.plan.budget is not None:
        terminal.note(_cut(task, measured, Budget.parse(config.plan.budget), found))
    _, words = verdict(task.graph, found, val_videos=measured.val_videos)
    terminal.note(f"verdict: {words}")


def _epochs(task: Task) -> SearchEstimate:
    return _estimate(task, {state.name: 1.0 for state in task.states})


def _estimate(task: Task, prices: Mapping[str, float]) -> SearchEstimate:
    plan = task.config.plan
    assert task.graph is not None
    return estimate(
        task.graph,
        prices,
        attempt_epochs=plan.attempt_epochs,
        max_epochs=plan.max_epochs,
        first_rung=plan.first_rung if plan.race is not None else None,
        race_start=plan.race_start,
    )


def _cut(task: Task, measured: Probe, budget: Budget, found: SearchEstimate) -> str:
    """What a budget leaves out, in the order of a serial search."""
    assert task.graph is not None
    amount, in_unit = budget.amount, found
    if budget.unit == "hours":
        amount *= 3600
    else:
        frames = {state.name: measured.epoch_clips * state.clip.length for state in task.graph.states}
        in_unit = (
            _epochs(task) if budget.unit == "epochs" else _estimate(task, {k: float(v) for k, v in frames.items()})
        )
    surely, perhaps = in_unit.within(amount)
    total = len(in_unit.edges)
    if surely == total:
        return f"budget of {budget}: cuts nothing"
    first = " -> ".join(open_edges(in_unit, surely)[0])
    reach = f"all {total} edges" if perhaps == total else f"{perhaps} of {total} edges"
    return (
        f"budget of {budget}: pays {surely} of {total} edges if each runs to its cap, {reach} if each ends as soon as "
        f"it may; {first} is the first that it may cut"
    )
