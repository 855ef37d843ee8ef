"""Plans: states in order with their epochs, as a YAML file that can be replayed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from fastplan.errors import UserError
from fastplan.planner.arrivals import Reached
from fastplan.planner.states import State, StateGraph

PLAN_FORMAT = 1


@dataclass(frozen=True)
class Leg:
    """One state of a plan and its epochs; `ended` says how its edge ended in the search that made the plan.

    schedule: `constant`, or `cosine` for the single-state recipes that the authors published beside their plans: half a
        cosine down to zero at the last epoch. warmup: epochs of linear increase before either.
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
        return str(yaml.safe_dump({"format": PLAN_FORMAT, **self.to_dict()}, sort_keys=False, width=110))

    def to_dict(self) -> dict[str, Any]:
        """The content of the plan file, without its format."""
        legs = []
        for leg in self.legs:
            row: dict[str, Any] = {"state": leg.state.name, **leg.state.to_dict(), "epochs": leg.epochs}
            if leg.ended:
                row["ended"] = leg.ended
            if leg.schedule != "constant" or leg.warmup:
                row.update(schedule=leg.schedule, warmup=leg.warmup)
            legs.append(row)
        content: dict[str, Any] = {"legs": legs}
        for key in ("accuracy", "stderr", "cost", "seconds"):
            value = getattr(self, key)
            if value is not None:
                content[key] = value
        for key in ("config", "provenance"):
            if getattr(self, key):
                content[key] = dict(getattr(self, key))
        return content

    @classmethod
    def from_yaml(cls, text: str, *, name: str = "plan") -> "Plan":
        """Read a plan file. Raises `UserError` naming the leg and the fault."""
        return cls._from_content(_read_yaml(text, name), name)

    @classmethod
    def _from_content(cls, content: Any, name: str) -> "Plan":
        if not isinstance(content, Mapping) or not isinstance(content.get("legs"), list) or not content["legs"]:
            raise UserError(f"{name} is no plan: it needs a list 'legs' of at least one state")
        legs = tuple(_read_leg(row, f"{name}, leg {i + 1}") for i, row in enumerate(content["legs"]))
        measured = {key: content.get(key) for key in ("accuracy", "stderr", "cost", "seconds")}
        for key, value in measured.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise UserError(f"{name}: {key} is {value!r}; it must be a number")
        config, provenance = content.get("config") or {}, content.get("provenance") or {}
        for key, value in (("config", config), ("provenance", provenance)):
            if not isinstance(value, Mapping):
                raise UserError(f"{name}: {key} is {value!r}; it must be a mapping")
        return cls(legs, **measured, config=config, provenance=provenance)

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Read a plan file from disk. Raises `UserError` where it cannot be read."""
        return cls.from_yaml(_read_text(path), name=path.name)


def frontier_to_yaml(plans: Sequence[Plan]) -> str:
    """The file of a plan frontier, cheapest first; `load_plans` reads it back."""
    content = {"format": PLAN_FORMAT, "frontier": [plan.to_dict() for plan in plans]}
    return str(yaml.safe_dump(content, sort_keys=False, width=110))


def load_plans(path: Path) -> list[Plan]:
    """The plans of a frontier's file, cheapest first, or the one of a plan file; errors as in `Plan.load`."""
    content = _read_yaml(_read_text(path), path.name)
    if not isinstance(content, Mapping) or not isinstance(content.get("frontier"), list) or not content["frontier"]:
        return [Plan._from_content(content, path.name)]
    return [Plan._from_content(row, f"{path.name}, plan {i}") for i, row in enumerate(content["frontier"], 1)]


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


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the plan {path}: {error}") from None


def _read_yaml(text: str, name: str) -> Any:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not YAML: {' '.join(str(error).split())}") from None
    if isinstance(content, Mapping) and content.get("format") != PLAN_FORMAT and {"legs", "frontier"} & set(content):
        raise UserError(f"{name} has plan format {content.get('format')!r}; this fastplan reads {PLAN_FORMAT}")
    return content


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
