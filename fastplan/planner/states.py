"""Training states and the candidate transition graph (METHOD section 1).

A `State` fixes everything that changes during training; a `StateGraph` says which state may follow which. Its
edges leave the reserved node `start`, the initial weights, and end in one sink. A graph is checked when it is made:
an object of this type is acyclic, every state is reachable from `start` and leads to the sink.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle
from typing import Any

from fastplan.clips import ClipSpec, length_fault
from fastplan.errors import UserError, nearest

START = "start"
Edge = tuple[str, str]

_CLIP_KEYS = ("segments", "frames", "stride", "size")
_OPTIONAL_KEYS = ("batch_size", "accumulate", "freeze_bn", "short_cycle", "cycle_size")
_STATE_KEYS = (*_CLIP_KEYS, "lr", *_OPTIONAL_KEYS)
_SHORT_CYCLE = (0.5, 0.5**0.5, 1.0)  # shares of the side
SIZE_STEP = 4  # pixels: sides of a cycle are rounded to a multiple of it
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class State:
    """One training regime; inside it the learning rate is constant.

    name: letters, digits and . _ + - (it names files too).
    clip: which frames, how large.
    lr: learning rate, > 0.
    batch_size: clips in one forward pass, of all ranks together, >= 1.
    accumulate: forward passes per optimizer step, >= 1.
    freeze_bn: whether BatchNorm statistics and affine weights stay as the parent left them.
    short_cycle: optimizer steps alternate between half the side of the picture with 4 times the batch, 0.7 of it with
        twice the batch, and the state's own (Wu et al., CVPR 2020, section 3.2); the learning rate is not scaled.
    cycle_size: side in pixels that those shares refer to where it is larger than the clip's own, which no step exceeds:
        inside a long cycle, half of the whole picture is 0.7 of a clip of 0.7 of its side. None for the clip's own.
    """

    name: str
    clip: ClipSpec
    lr: float
    batch_size: int = 16
    accumulate: int = 1
    freeze_bn: bool = False
    short_cycle: bool = False
    cycle_size: int | None = None

    def __post_init__(self) -> None:
        where = f"state '{self.name}'"
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or self.name == START:
            raise UserError(f"{where}: a name has letters, digits and . _ + -, and is not '{START}'")
        if isinstance(self.lr, bool) or not isinstance(self.lr, (int, float)) or not 0 < self.lr < float("inf"):
            raise UserError(f"{where}: lr is {self.lr!r}; it must be a positive number (write 1.0e-4, not 1e-4)")
        for key in ("batch_size", "accumulate"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{where}: {key} is {value!r}; it must be a whole number of at least 1")
        for key in ("freeze_bn", "short_cycle"):
            if not isinstance(getattr(self, key), bool):
                raise UserError(f"{where}: {key} is {getattr(self, key)!r}; it must be true or false")
        size = self.cycle_size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < self.clip.size):
            raise UserError(
                f"{where}: cycle_size is {size!r}; it must be a whole number of pixels, no less than {self.clip.size}"
            )
        if size is not None and not self.short_cycle:
            raise UserError(f"{where}: cycle_size means nothing without short_cycle: true")

    @property
    def effective_batch(self) -> int:
        """Clips per optimizer step."""
        return self.batch_size * self.accumulate

    @property
    def cycle(self) -> tuple[tuple[ClipSpec, int], ...]:
        """Clip and batch of one optimizer step after the other, over and over; one pair where nothing alternates."""
        if not self.short_cycle:
            return ((self.clip, self.batch_size),)
        own = self.clip.size
        regimes = []
        for share in _SHORT_CYCLE:
            side = min((self.cycle_size or own) * share, own)
            rounded = own if side == own else max(round(side / SIZE_STEP) * SIZE_STEP, SIZE_STEP)
            regimes.append((replace(self.clip, size=rounded), self.batch_size * round((own / side) ** 2)))
        return tuple(regimes)

    def steps(self, clips: int) -> list[tuple[ClipSpec, int]]:
        """Clip and batch of every optimizer step of an epoch of `clips` clips: as many steps as they are enough for."""
        steps = []
        for clip, batch_size in cycle(self.cycle):
            clips -= batch_size * self.accumulate
            if clips < 0:
                break
            steps.append((clip, batch_size))
        return steps

    def clip_frames(self, clips: int) -> int:
        """Frames that an epoch of `clips` clips trains on; clips that fill no step are left out."""
        return sum(batch_size for _, batch_size in self.steps(clips)) * self.accumulate * self.clip.length

    @property
    def largest_batch(self) -> int:
        """Clips in the largest forward pass."""
        return max(batch for _, batch in self.cycle)

    def to_dict(self) -> dict[str, Any]:
        """The flat form that graph and plan files hold, without the name."""
        row = asdict(self)
        clip = row.pop("clip")
        del row["name"]
        if not self.short_cycle:
            del row["short_cycle"]
        if self.cycle_size is None:
            del row["cycle_size"]
        return {**clip, **row}

    @classmethod
    def from_dict(cls, name: str, row: Any) -> "State":
        """Read one row of a graph or plan file. Raises `UserError` naming the state and the key."""
        if not isinstance(row, Mapping):
            raise UserError(f"state '{name}' is {row!r}; it must be a mapping with {', '.join(_STATE_KEYS)}")
        for key in row:
            if key not in _STATE_KEYS:
                raise UserError(f"state '{name}' has an unknown key '{key}'{nearest(str(key), _STATE_KEYS)}")
        for key in ("segments", "frames", "lr"):
            if key not in row:
                raise UserError(f"state '{name}' has no '{key}'")
        try:
            clip = ClipSpec(**{key: row[key] for key in _CLIP_KEYS if key in row})
        except UserError as error:
            raise UserError(f"state '{name}': {error}") from None
        rest = {key: row[key] for key in ("lr", *_OPTIONAL_KEYS) if key in row}
        return cls(name, clip, **rest)


@dataclass(frozen=True)
class StateGraph:
    """A checked directed acyclic graph of states.

    states: in the order of the file, which breaks ties of the topological order.
    edges: (source, target) names; the source may be `start`.
    target: the clip regime that every state is validated in, so that scores compare; the sink's clip by default.
    config: settings that suit this graph; the run configuration starts from them.
    """

    name: str
    states: tuple[State, ...]
    edges: tuple[Edge, ...]
    target: ClipSpec | None = None
    about: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [state.name for state in self.states]
        if not names:
            raise UserError(f"graph '{self.name}' has no states")
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"graph '{self.name}' has two states named '{name}'")
        for source, target in self.edges:
            for end in (source, target):
                if end != START and end not in names:
                    raise UserError(f"edge {source} -> {target}: there is no state '{end}'{nearest(end, names)}")
            if target == START:
                raise UserError(f"edge {source} -> {target}: nothing leads back to '{START}'")
            if self.edges.count((source, target)) > 1:
                raise UserError(f"edge {source} -> {target} is given twice")
        self.in_order()
        self._check_reachable()

    def state(self, name: str) -> State:
        """The state of that name; `KeyError` if there is none."""
        for state in self.states:
            if state.name == name:
                return state
        raise KeyError(name)

    def predecessors(self, name: str) -> tuple[str, ...]:
        """Where the edges into `name` come from, in the order of the file."""
        return tuple(source for source, target in self.edges if target == name)

    def successors(self, name: str) -> tuple[str, ...]:
        """Where the edges out of `name` lead, in the order of the file."""
        return tuple(target for source, target in self.edges if source == name)

    @property
    def sink(self) -> str:
        """The one state that no edge leaves, where every path ends."""
        ends = [state.name for state in self.states if not self.successors(state.name)]
        if len(ends) != 1:
            raise UserError(f"graph '{self.name}' must end in one state; these have no way on: {', '.join(ends)}")
        return ends[0]

    @property
    def validation_clip(self) -> ClipSpec:
        """The clip regime that all states are validated in."""
        return self.target or self.state(self.sink).clip

    def in_order(self) -> tuple[State, ...]:
        """States in topological order, ties as in the file. Raises `UserError` naming a cycle."""
        left = [state.name for state in self.states]
        order: list[State] = []
        settled = {START}
        while left:
            ready = next((n for n in left if all(p in settled for p in self.predecessors(n))), None)
            if ready is None:
                raise UserError(f"graph '{self.name}' has a cycle: {' -> '.join(self._find_cycle(left))}")
            left.remove(ready)
            settled.add(ready)
            order.append(self.state(ready))
        return tuple(order)

    def depths(self) -> dict[str, int]:
        """How many states the longest path to each state has, itself included, in topological order; 0 for start."""
        depths = {START: 0}
        for state in self.in_order():
            depths[state.name] = 1 + max(depths[source] for source in self.predecessors(state.name))
        return depths

    def caps(self, max_epochs: int) -> dict[Edge, int]:
        """The most epochs of every edge: `max_epochs`, and for one from the start as many as all states of the longest
        path into its state have together, so that what starts late can be compared at equal compute.
        """
        depths = self.depths()
        return {(s, t): max_epochs * (depths[t] if s == START else 1) for s, t in self.edges}

    def edges_in_order(self) -> tuple[Edge, ...]:
        """Every edge, in the order in which a serial search explores them."""
        return tuple((p, state.name) for state in self.in_order() for p in self.predecessors(state.name))

    def _find_cycle(self, left: list[str]) -> list[str]:
        walk = [left[0]]
        while True:
            before = next(p for p in self.predecessors(walk[0]) if p in left)
            if before in walk:
                return [before, *walk[: walk.index(before) + 1]]
            walk.insert(0, before)

    def _check_reachable(self) -> None:
        forward = self._closure(START, self.successors)
        backward = self._closure(self.sink, self.predecessors)
        for state in self.states:
            if state.name not in forward:
                raise UserError(f"state '{state.name}' cannot be reached from '{START}': add an edge into it")
            if state.name not in backward:
                raise UserError(f"state '{state.name}' does not lead to '{self.sink}': add an edge out of it")

    @staticmethod
    def _closure(origin: str, step: Any) -> set[str]:
        seen, todo = {origin}, [origin]
        while todo:
            for name in step(todo.pop()):
                if name not in seen:
                    seen.add(name)
                    todo.append(name)
        return seen


def check_clip_lengths(states: Iterable[State], *, multiple: int, least: int, network: str) -> None:
    """Raise `UserError` naming the first state whose clips are shorter than `least` or no multiple of `multiple`."""
    for state in states:
        if fault := length_fault(state.clip.length, multiple=multiple, least=least):
            raise UserError(f"state '{state.name}' has clips of {fault} ({network})")
