"""Dynamic programming over a state graph (METHOD section 1).

Settle the states in topological order; for each, measure every in-edge from its settled source; keep the best
arrival; trace back from the sink. `measure` trains one edge and may answer from a journal: that is all resume needs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from fastplan.errors import UserError
from fastplan.planner.states import START, State, StateGraph

PLAN_FORMAT = 1


@dataclass(frozen=True)
class Outcome:
    """What exploring one edge gave.

    status: `knee` (converged), `cap` (stopped at max_epochs: its accuracy is a lower bound), `planned` (a replay of
        exactly so many epochs) or `diverged`.
    epochs: of the checkpoint that is kept, 0 where the source's weights were better.
    trained: epochs trained in all.
    accuracy, stderr: of the kept checkpoint, fractions; nan where it diverged.
    cost: training clip-frames up to the kept checkpoint. seconds: training time for the same epochs.
    checkpoint: whatever names the kept weights, None where there are none.
    note: one line for a person.
    """

    source: str
    target: str
    status: Literal["knee", "cap", "planned", "diverged"]
    epochs: int
    trained: int
    accuracy: float
    stderr: float
    cost: int
    seconds: float
    checkpoint: str | None
    note: str = ""


@dataclass(frozen=True)
class Reached:
    """The dynamic-programming cell: the best way found into one state.

    path: outcomes from the start to here. cost, seconds: summed over the path. why: how the choice was made.
    """

    state: str
    path: tuple[Outcome, ...]
    why: str

    @property
    def outcome(self) -> Outcome:
        """The last edge of the path."""
        return self.path[-1]

    @property
    def cost(self) -> int:
        """Training clip-frames of the whole path."""
        return sum(outcome.cost for outcome in self.path)

    @property
    def seconds(self) -> float:
        """Training seconds of the whole path."""
        return sum(outcome.seconds for outcome in self.path)


Measure = Callable[[str, State, Reached | None], Outcome]
OnSettled = Callable[[Mapping[str, Reached], set[str]], None]


@dataclass(frozen=True)
class Leg:
    """One state of a plan and its epochs; `ended` says how its edge ended in the search that made the plan.

    schedule: `constant`, or `cosine` for the single-state recipes that the authors published beside their plans:
        `warmup` epochs of linear increase, then half a cosine down to zero at the last epoch.
    """

    state: State
    epochs: int
    ended: str = ""
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0


@dataclass(frozen=True)
class Plan:
    """The answer: states in order with their epochs, and where it came from.

    accuracy, stderr: measured at the end of the search, fractions; None for a plan that was not searched here.
    cost: training clip-frames of the legs. seconds: their training time.
    config: settings of the run that a replay needs besides the legs (network, optimizer, augmentation).
    provenance: free facts (graph, data, seed) for the reader.
    """

    legs: tuple[Leg, ...]
    accuracy: float | None = None
    stderr: float | None = None
    cost: int | None = None
    seconds: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_yaml(self) -> str:
        """The plan file; `Plan.from_yaml` reads it back."""
        legs = []
        for leg in self.legs:
            row: dict[str, Any] = {"state": leg.state.name, **leg.state.to_dict(), "epochs": leg.epochs}
            if leg.ended:
                row["ended"] = leg.ended
            if leg.schedule != "constant":
                row.update(schedule=leg.schedule, warmup=leg.warmup)
            legs.append(row)
        content: dict[str, Any] = {"format": PLAN_FORMAT, "legs": legs}
        for key in ("accuracy", "stderr", "cost", "seconds"):
            value = getattr(self, key)
            if value is not None:
                content[key] = value
        for key in ("config", "provenance"):
            if getattr(self, key):
                content[key] = dict(getattr(self, key))
        return str(yaml.safe_dump(content, sort_keys=False, width=110))

    @classmethod
    def from_yaml(cls, text: str, *, name: str = "plan") -> "Plan":
        """Read a plan file. Raises `UserError` naming the leg and the fault."""
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"{name} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, Mapping) or not isinstance(content.get("legs"), list) or not content["legs"]:
            raise UserError(f"{name} is no plan: it needs a list 'legs' of at least one state")
        if content.get("format") != PLAN_FORMAT:
            raise UserError(f"{name} has plan format {content.get('format')!r}; this fastplan reads {PLAN_FORMAT}")
        legs = tuple(_read_leg(row, f"{name}, leg {i + 1}") for i, row in enumerate(content["legs"]))
        measured = {key: content.get(key) for key in ("accuracy", "stderr", "cost", "seconds")}
        return cls(legs, **measured, config=content.get("config") or {}, provenance=content.get("provenance") or {})

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Read a plan file from disk. Raises `UserError` where it cannot be read."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the plan {path}: {error}") from None
        return cls.from_yaml(text, name=path.name)


@dataclass(frozen=True)
class SearchResult:
    """Every settled state and the plan to the sink; `plan` is None where no path reached it, and `note` says why."""

    reached: Mapping[str, Reached]
    plan: Plan | None
    note: str


def search(
    graph: StateGraph, measure: Measure, *, on_settled: OnSettled = lambda reached, unsettled: None
) -> SearchResult:
    """Explore every edge once, in topological order, and trace back the best path.

    measure: called as measure(source, state, reached): train `state` from the weights at the end of `reached` (None
        for `start`). An outcome that diverged is an arrival that nothing continues from.
    on_settled: called as on_settled(reached, unsettled) after each state, with the names still to be settled; for
        deleting what no one can need any more.
    """
    reached: dict[str, Reached] = {}
    unsettled = {state.name for state in graph.states}
    for state in graph.in_order():
        arrivals = []
        for source in graph.predecessors(state.name):
            if source != START and source not in reached:
                continue
            before = reached.get(source)
            outcome = measure(source, state, before)
            if outcome.status != "diverged":
                arrivals.append(Reached(state.name, (*(before.path if before else ()), outcome), ""))
        if arrivals:
            reached[state.name] = pick(arrivals)
        unsettled.remove(state.name)
        on_settled(reached, unsettled)
    if graph.sink not in reached:
        return SearchResult(reached, None, f"every path to '{graph.sink}' diverged: lower the learning rates")
    final = reached[graph.sink]
    return SearchResult(reached, plan_of(graph, final), final.why)


def pick(arrivals: list[Reached]) -> Reached:
    """The best of the arrivals in one state.

    The highest accuracy wins; among those within one standard error of it, a converged arrival before a capped one
    (whose accuracy is only a lower bound), then the cheaper path, then the first.
    """
    top = max(arrivals, key=lambda a: a.outcome.accuracy)
    tied = [a for a in arrivals if a.outcome.accuracy >= top.outcome.accuracy - top.outcome.stderr]
    converged = [a for a in tied if a.outcome.status == "knee"]
    best = min(converged or tied, key=lambda a: a.cost)
    if len(arrivals) == 1:
        why = "the only way in"
    elif len(tied) == 1:
        why = f"best of {len(arrivals)} by more than one standard error"
    else:
        why = f"within one standard error of {len(tied) - 1} other(s)"
        why += ", the cheapest" if len(converged or tied) > 1 else ", the only one that converged"
    losers = [a for a in arrivals if a is not best and a.outcome.status == "cap"]
    if losers:
        why += f"; undecided against {', '.join(a.outcome.source for a in losers)}, stopped at the cap"
    if best.outcome.status == "cap":
        why += "; itself stopped at the cap"
    return Reached(best.state, best.path, why)


def plan_of(graph: StateGraph, final: Reached) -> Plan:
    """The plan along one path: its states with their epochs, states of 0 epochs dropped."""
    legs = tuple(
        Leg(graph.state(outcome.target), outcome.epochs, ended=outcome.status)
        for outcome in final.path
        if outcome.epochs
    )
    return Plan(
        legs,
        accuracy=final.outcome.accuracy,
        stderr=final.outcome.stderr,
        cost=final.cost,
        seconds=final.seconds,
        provenance={"graph": graph.name},
    )


def _read_leg(row: Any, where: str) -> Leg:
    if not isinstance(row, Mapping):
        raise UserError(f"{where} is {row!r}; it must be a mapping")
    row = dict(row)
    epochs = row.pop("epochs", None)
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise UserError(f"{where}: epochs is {epochs!r}; it must be a whole number of at least 1")
    schedule, warmup = row.pop("schedule", "constant"), row.pop("warmup", 0)
    if schedule not in ("constant", "cosine"):
        raise UserError(f"{where}: schedule is {schedule!r}; it is constant or cosine")
    if isinstance(warmup, bool) or not isinstance(warmup, int) or not 0 <= warmup < epochs:
        raise UserError(f"{where}: warmup is {warmup!r}; it must be a whole number of epochs below {epochs}")
    ended, name = str(row.pop("ended", "")), str(row.pop("state", "leg"))
    try:
        state = State.from_dict(name, row)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return Leg(state, epochs, ended, schedule, warmup)
