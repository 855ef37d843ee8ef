"""Generated performance curves and training worlds, on which the truth is known.

`curve_rows` draws single curves; `worlds` draws state graphs with a curve for every edge, whose exhaustive optimum
`best_possible` computes without noise. Everything follows from integers:
`python -m fastplan.benchmarks.replay_families` writes the committed file of curve parameters again, byte by byte.

A world: state v has a ceiling C_v that its regime can reach, a rate r_v and a price per epoch. Training in v from
accuracy q goes to top = C_v + carry (q - C_v), within .05...99, along top - (top - q') exp(-r_v x), where q' is q less
a drop at the change of regime (epoch 0 is still q); from random weights it first stays at chance and rises along a
logistic curve. What a validation shows is the checkpoint's own jitter plus the binomial noise of `VIDEOS` videos.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fastplan.clips import ClipSpec
from fastplan.planner import START, State, StateGraph

EPOCHS = 60  # length of a generated curve, and the cap of every rule
VIDEOS = 360
CHANCE = 1 / 12
FILE = Path(__file__).parent / "results" / "replay_families.jsonl"
KINDS = ("saturating", "overfitting", "slow", "from scratch", "flat")


@dataclass(frozen=True)
class CurveRow:
    """One generated curve: f(x) = top - rise exp(-rate x) - fall x, or for a start from scratch a logistic rise."""

    seed: int
    kind: str
    top: float
    rise: float
    rate: float
    fall: float
    plateau: float
    jitter: float

    @property
    def from_scratch(self) -> bool:
        """Whether the curve starts from random weights."""
        return self.kind == "from scratch"

    def truth(self) -> np.ndarray:
        """Expected accuracy at epochs 0..EPOCHS."""
        x = np.arange(EPOCHS + 1)
        if self.from_scratch:
            return CHANCE + (self.top - CHANCE) / (1 + np.exp(-self.rate * (x - self.plateau)))
        return self.top - self.rise * np.exp(-self.rate * x) - self.fall * x

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy of each checkpoint on infinitely many videos, and what a validation on `VIDEOS` shows."""
        rng = np.random.default_rng(self.seed)
        return draw(self.truth(), self.jitter, rng)


def draw(truth: np.ndarray, jitter: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Checkpoint accuracies around a true curve, and one validation of each."""
    checkpoints = np.clip(truth + rng.normal(0, jitter, truth.shape), 0.01, 0.995)
    return checkpoints, rng.binomial(VIDEOS, checkpoints) / VIDEOS


def curve_rows(n: int, *, seed: int = 0) -> list[CurveRow]:
    """`n` curves, the kinds in turn."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        kind = KINDS[i % len(KINDS)]
        rise = rng.uniform(0.0, 0.01) if kind == "flat" else rng.uniform(0.1, 0.5)
        rate = {
            "slow": rng.uniform(0.03, 0.08),
            "from scratch": rng.uniform(0.3, 0.7),
        }.get(kind, rng.uniform(0.08, 0.5))
        fall = rng.uniform(0.0005, 0.003) if kind == "overfitting" else 0.0
        values = (rng.uniform(0.55, 0.97), rise, rate, fall, rng.uniform(5, 16), rng.uniform(0.005, 0.025))
        rows.append(CurveRow(i, kind, *(round(float(v), 6) for v in values)))
    return rows


@dataclass(frozen=True)
class World:
    """A graph and the truth about training in it; `curve` gives the expected curve of an edge from an accuracy."""

    seed: int
    graph: StateGraph
    ceilings: dict[str, float]
    rates: dict[str, float]
    prices: dict[str, int]
    carry: float
    drops: dict[tuple[str, str], float]
    plateaus: dict[str, float]
    jitters: dict[str, float]

    def curve(self, source: str, target: str, before: float | None) -> np.ndarray:
        """Expected accuracy at epochs 0..EPOCHS of training `target` from `before` (None: random weights)."""
        x = np.arange(EPOCHS + 1)
        ceiling, rate = self.ceilings[target], self.rates[target]
        if before is None:
            return CHANCE + (ceiling - CHANCE) / (1 + np.exp(-1.5 * rate * (x - self.plateaus[target])))
        top = float(np.clip(ceiling + self.carry * (before - self.ceilings[target]), 0.05, 0.99))
        begin = max(before - self.drops[source, target], CHANCE)
        return np.concatenate([[before], top - (top - begin) * np.exp(-rate * x[1:])])

    def best_possible(self) -> float:
        """Highest expected accuracy at the sink over all paths, each state trained for the best of EPOCHS epochs."""
        return max(self._best_from(START, None))

    def _best_from(self, at: str, before: float | None) -> Iterator[float]:
        if at == self.graph.sink:
            assert before is not None
            yield before
        for target in self.graph.successors(at):
            curve = self.curve(at, target, before)
            reached = float(curve[1:].max() if before is None else curve.max())
            yield from self._best_from(target, reached)


def worlds(n: int, *, seed: int = 0) -> list[World]:
    """`n` worlds on basic (14 edges) and extended (18 edges) graphs of three clip settings by three learning rates."""
    return [_world(seed + i) for i in range(n)]


def _world(seed: int) -> World:
    rng = np.random.default_rng([seed, 7])
    extended = bool(seed % 2)
    names = [[f"c{i}-l{j}" for i in range(3)] for j in range(3)]
    edges = [(START, names[0][0]), (START, names[0][1])]
    for j in range(3):
        for i in range(3):
            if i < 2:
                edges.append((names[j][i], names[j][i + 1]))
            if j < 2:
                edges.append((names[j][i], names[j + 1][i]))
                if extended and i:
                    edges.append((names[j][i], names[j + 1][i - 1]))
    order = [name for level in names for name in level]
    states = tuple(State(name, ClipSpec(1, 8 << int(name[1])), 0.1 ** int(name[-1])) for name in order)
    base = rng.uniform(0.45, 0.75)
    by_clip, by_level = np.sort(rng.uniform(0, 0.12, 3)), np.sort(rng.uniform(0, 0.12, 3))
    ceilings = {
        names[j][i]: float(base + by_clip[i] + by_level[j] + rng.normal(0, 0.03)) for j in range(3) for i in range(3)
    }
    return World(
        seed=seed,
        graph=StateGraph("world", states, tuple(edges)),
        ceilings=ceilings,
        rates={name: float(rng.uniform(0.1, 0.6)) for name in order},
        prices={state.name: state.clip.length for state in states},
        carry=float(rng.uniform(0.2, 0.8)),
        drops={edge: float(rng.uniform(0.0, 0.1)) for edge in edges},
        plateaus={name: float(rng.uniform(3, 14)) for name in order},
        jitters={name: float(0.02 * 0.5 ** int(name[-1])) for name in order},
    )


def families_text(n: int = 1000) -> str:
    """The committed file: one curve's parameters a line."""
    return "".join(json.dumps(asdict(row)) + "\n" for row in curve_rows(n))


if __name__ == "__main__":
    FILE.write_text(families_text(), encoding="utf-8")
    print(f"wrote {FILE.name}")
