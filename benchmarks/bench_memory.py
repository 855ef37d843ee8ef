"""Memory of the process over 2,000 iterations while the clip regime changes, as numbers and as a curve.

fastplan bench memory [--quick]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import Progress

from fastplan.benchmarks import peers, videos
from fastplan.benchmarks.cost import processor, reported, rss_bytes
from fastplan.benchmarks.jobs import AUGMENT
from fastplan.clips import ClipSpec
from fastplan.data.batch import ClipLoader
from fastplan.data.index import build_index
from fastplan.data.lists import read_videos
from fastplan.data.sampling import training_samples
from fastplan.report.figures import save_figure

REGIMES = (
    (ClipSpec(1, 8, 1, 64), 4),
    (ClipSpec(2, 4, 1, 64), 2),
    (ClipSpec(1, 32, 1, 64), 1),
    (ClipSpec(1, 8, 2, 112), 2),
)
PER_REGIME = 20
WARM_UP = 400
FIGURE = Path(__file__).parent / "results" / "loader_memory.svg"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; draw the curve of a full run to `FIGURE`."""
    parser = argparse.ArgumentParser(prog="fastplan bench memory", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="600 iterations, no figure")
    given = parser.parse_args(arguments)
    return reported(lambda: bench(quick=given.quick))


def bench(*, quick: bool) -> None:
    """Measure, print, and draw."""
    iterations = 600 if quick else 2000
    mib_I = measure(iterations, user_cache_path("fastplan"), Console(stderr=True))
    growth = growth_of(mib_I)
    least, most = mib_I[WARM_UP:].min(), mib_I[WARM_UP:].max()
    command = f"`fastplan bench memory{' --quick' if quick else ''}`"
    print(f"# Memory while regimes change\n\n{command}: {processor()}, {peers.versions(compared=False)}.")
    print(f"{iterations} iterations, another regime every {PER_REGIME} ({len(REGIMES)} in turns, 8 to 32 frames).\n")
    print(f"Resident memory behind the first {WARM_UP} iterations: {least:.0f} to {most:.0f} MiB; mean of the last")
    print(f"quarter against the first: {100 * growth:+.1f} %.")
    if not quick:
        draw(mib_I, FIGURE)
        print(f"\n![memory over iterations]({FIGURE.name})")


def measure(iterations: int, cache: Path, console: Console) -> np.ndarray:
    """MiB of resident memory after each iteration."""
    folder = videos.make(videos.ENCODINGS[0], None, cache / "bench", 2, lambda: None)
    index = build_index(read_videos(folder), cache_dir=cache / "index", threads=2)
    cpu = torch.device("cpu")
    loader = ClipLoader(index, AUGMENT, max_batch=4, threads=2, decoder="host", device=cpu)
    seen: list[float] = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Iterations", total=iterations)
        while len(seen) < iterations:
            turn = len(seen) // PER_REGIME
            spec, batch_size = REGIMES[turn % len(REGIMES)]
            clips = batch_size * PER_REGIME
            samples = training_samples(index, spec, AUGMENT, seed=0, stream="memory", epoch=turn, clips=clips)
            loader.configure(spec, batch_size)
            for _ in loader.epoch(samples):
                seen.append(rss_bytes() / 2**20)
                progress.advance(task)
    loader.close()
    return np.array(seen[:iterations])


def growth_of(mib_I: np.ndarray) -> float:
    """Mean of the last quarter behind the warm-up against the first, as a fraction."""
    steady = mib_I[WARM_UP:]
    quarter = len(steady) // 4
    return float(steady[-quarter:].mean() / steady[:quarter].mean() - 1.0)


def draw(mib_I: np.ndarray, file: Path) -> None:
    """The curve as a figure."""
    figure = Figure(figsize=(7, 3))
    axes = figure.subplots()
    axes.plot(np.arange(1, len(mib_I) + 1), mib_I, lw=0.8)
    axes.axvline(WARM_UP, color="grey", lw=0.6, ls="--")
    axes.set(xlabel="iteration", ylabel="resident memory, MiB", ylim=(0, 1.15 * mib_I.max()), xlim=(0, len(mib_I)))
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, file)


if __name__ == "__main__":
    sys.exit(main())
