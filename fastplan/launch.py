"""From the user's words to a run: layers of configuration, a state graph or a plan, and a run folder."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastplan.budget import Budget
from fastplan.config import RunConfig, build_config, differences, parse_override, read_settings
from fastplan.configs import default_file, find
from fastplan.errors import UserError
from fastplan.planner.estimate import most_paused
from fastplan.planner.graph_files import load_graph
from fastplan.planner.plans import Plan, load_plans
from fastplan.planner.priors import path_of_plan
from fastplan.planner.states import State, StateGraph
from fastplan.rundir import RunDir


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line; None where nothing was said."""

    config: Path | None = None
    state_graph: str | None = None
    plan: str | None = None
    exact: bool = False
    data: str | None = None
    val: str | None = None
    device: str | None = None
    seed: int | None = None
    budget: str | None = None
    overrides: tuple[str, ...] = ()

    def flags(self) -> dict[str, Any]:
        """The flags as settings."""
        top = {"state_graph": self.state_graph, "replay": self.plan, "device": self.device, "seed": self.seed}
        top["exact"] = self.exact or None
        data = {key: value for key, value in (("train", self.data), ("val", self.val)) if value is not None}
        return {key: value for key, value in top.items() if value is not None} | ({"data": data} if data else {})

    @property
    def says_something(self) -> bool:
        """Whether anything was asked for beyond a folder."""
        return bool(self.config or self.overrides or self.flags())


@dataclass(frozen=True)
class Task:
    """What a run is to do: search `graph`, or replay `plan`; the other one is None."""

    config: RunConfig
    graph: StateGraph | None
    plan: Plan | None

    @property
    def states(self) -> list[State]:
        """Every state that may be trained."""
        if self.graph is not None:
            return list(self.graph.states)
        assert self.plan is not None
        return [leg.state for leg in self.plan.legs]

    @property
    def most_epochs(self) -> int:
        """The most that an edge may train: of a search, the largest of its caps."""
        most = self.config.plan.max_epochs
        return most if self.graph is None else max(self.graph.caps(most).values())

    def most_paused(self, *, one_by_one: bool) -> int:
        """How many edges may be paused at a time. one_by_one: whether one is trained at a time."""
        plan = self.config.plan
        if self.graph is None or plan.race is None:
            return 0
        return most_paused(self.graph, race_start=plan.race_start, one_by_one=one_by_one)

    @property
    def target(self) -> State:
        """The regime of every validation: the graph's target clip, or the last leg's clip."""
        if self.graph is not None:
            sink = self.graph.state(self.graph.sink)
            return State("target", self.graph.validation_clip, sink.lr, sink.batch_size)
        last = self.states[-1]
        return State("target", last.clip, last.lr, last.batch_size)


def resolve(request: Request) -> Task:
    """Layer the configuration and read the graph or the plan. Raises `UserError` where they do not fit."""
    own = read_settings(request.config) if request.config else {}
    words = [(f"'{word}'", parse_override(word)) for word in request.overrides]
    asked: dict[str, Any] = {}
    for layer in (own, request.flags(), *(settings for _, settings in words)):
        asked |= {key: layer[key] for key in ("state_graph", "replay") if key in layer}
    if request.state_graph and not request.plan:
        asked["replay"] = None
    if request.plan and not request.state_graph:
        asked["state_graph"] = None
    if bool(asked.get("state_graph")) == bool(asked.get("replay")):
        both = "not both: " if asked.get("replay") else ""
        raise UserError(f"give {both}--state-graph NAME|FILE to search, or --plan NAME|FILE to train a plan again")
    graph = plan = None
    budget = Budget.parse(request.budget) if request.budget else None
    limit: dict[str, Any] = {}
    if asked.get("state_graph"):
        if request.exact:
            raise UserError(
                "--exact trains exactly the epochs of a plan; this is a search: give --plan, or leave it away"
            )
        limit = {"plan": {"budget": request.budget}} if request.budget else {}
        graph = load_graph(find("state_graphs", asked["state_graph"]))
        below: tuple[str, Mapping[str, Any]] = (f"state graph '{graph.name}'", graph.config)
    else:
        plan = _choose_plan(find("plans", asked["replay"]), budget)
        below = (f"plan '{asked['replay']}'", plan.config)
    layers: Sequence[tuple[str, Mapping[str, Any]]] = [
        ("default.yaml", read_settings(default_file())),
        below,
        (str(request.config), own),
        ("command line", {**request.flags(), **asked, **limit}),
        *words,
    ]
    config = build_config(layers)
    if plan is not None and config.plan.budget is not None:
        raise UserError(
            f"plan.budget={config.plan.budget} limits a search; the legs of a plan are chosen already: give --budget "
            "to choose from a frontier, or plan.budget=null"
        )
    if graph is not None and isinstance(config.plan.first_path, str):
        first = list(path_of_plan(graph, Plan.load(find("plans", config.plan.first_path))))
        config = config.model_copy(update={"plan": config.plan.model_copy(update={"first_path": first})})
    return Task(config, graph, plan)


def open_run(request: Request, folder: Path | None, *, resume: bool) -> tuple[RunDir, Task, bool]:
    """The run folder, what to do in it, and whether it goes on with a run that was begun.

    A resumed run takes its configuration from the folder; anything else that is asked for must agree with it.
    Raises `UserError` naming the keys that differ, or where the folder holds a run and `resume` is not asked for.
    """
    if resume and folder is None:
        raise UserError("say which run to go on with: --run DIR --resume")
    if folder is not None and RunDir.has_run(folder):
        if not resume:
            raise UserError(f"{folder} holds a run: go on with it by --resume, or give another --run")
        rundir = RunDir(folder)
        rundir.claim()
        saved = rundir.load_config()
        if request.says_something:
            _check_same(rundir, saved, request)
        if request.budget is not None:
            saved = _with_budget(saved, request.budget)
            rundir.save_config(saved)
        if saved.state_graph is not None:
            return rundir, Task(saved, rundir.load_graph(), None), True
        return rundir, Task(saved, None, rundir.load_replayed()), True
    if resume and not request.says_something:
        raise UserError(f"there is no run in {folder} to go on with: give the --run that was begun")
    task = resolve(request)
    if folder is None:
        name = Path(task.config.state_graph or task.config.replay or "run").stem
        folder = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    rundir = RunDir(folder)
    rundir.check_place()
    return rundir, task, False


def save_run(rundir: RunDir, task: Task, resolved: RunConfig) -> None:
    """Write down what the folder is for; the configuration last, it marks the folder as begun."""
    if task.graph is not None:
        rundir.save_graph(task.graph)
    if task.plan is not None:
        rundir.save_replayed(task.plan)
    rundir.save_config(resolved)


def _choose_plan(path: Path, budget: Budget | None) -> Plan:
    """The best plan of a file that the budget allows; a frontier holds several, the dearest is the best."""
    plans = load_plans(path)
    if budget is None:
        return plans[-1]
    costs = [_cost(plan, budget) for plan in plans]
    if None in costs:
        raise UserError(f"{path.name} does not say how many {budget.unit} it takes; give the budget in epochs (200e)")
    affordable = [plan for plan, cost in zip(plans, costs, strict=True) if cost is not None and cost <= budget.amount]
    if not affordable:
        least = Budget(min(cost for cost in costs if cost is not None), budget.unit)
        raise UserError(f"no plan of {path.name} is within {budget}: the cheapest takes {least}")
    return affordable[-1]


def _cost(plan: Plan, budget: Budget) -> float | None:
    if budget.unit == "epochs":
        return float(sum(leg.epochs for leg in plan.legs))
    if budget.unit == "hours":
        return None if plan.seconds is None else plan.seconds / 3600
    return plan.cost


def _with_budget(config: RunConfig, text: str) -> RunConfig:
    Budget.parse(text)
    if config.state_graph is None:
        raise UserError("--budget limits a search; this run trains a plan, whose legs are chosen already")
    return config.model_copy(update={"plan": config.plan.model_copy(update={"budget": text})})


def _check_same(rundir: RunDir, saved: RunConfig, request: Request) -> None:
    if not (request.config or request.state_graph or request.plan):  # a few settings: the others are the run's
        words = [(f"'{word}'", parse_override(word)) for word in request.overrides]
        layers = [("config.yaml", saved.model_dump(mode="json")), ("command line", request.flags()), *words]
        differing = differences(saved, build_config(layers))
    else:
        asked = resolve(request)
        differing = differences(saved, asked.config)
        if not differing and asked.graph is not None and asked.graph != rundir.load_graph():
            differing = ["the states or edges of the graph"]
        if not differing and asked.plan is not None and asked.plan.legs != rundir.load_replayed().legs:
            differing = ["the legs of the plan"]
    if differing:
        raise UserError(f"{rundir.path} belongs to another configuration ({'; '.join(differing)}); give another --run")
