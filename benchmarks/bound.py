"""What bounds this machine for one state graph: reading clips, or the network that is trained on them.

    fastplan bench bound --state-graph NAME [--data DIR|LIST]

Both are measured alone and on the clock. What a shorter GOP and smaller pictures would give is an estimate, from the
packets and pixels that a clip costs now.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from platformdirs import user_cache_path
from rich.console import Console

from fastplan.benchmarks import videos
from fastplan.benchmarks.cost import reported
from fastplan.config import AugmentConfig
from fastplan.data.batch import ClipLoader, choose_decoder, default_threads
from fastplan.data.index import VideoIndex, build_index
from fastplan.data.lists import read_videos
from fastplan.data.sampling import EpochSamples, training_samples
from fastplan.launch import Request, resolve
from fastplan.models.networks import build_network
from fastplan.planner.states import State
from fastplan.train.precision import choose_device

SHORT_SIDE_PX, GOP = 256, 12
_LOADER_S = 4.0
_STATES = 3  # the most that are measured


class Bound(NamedTuple):
    """Clips per second of the loader and of the network alone; the estimated gain of short side 256 and GOP 12."""

    state: str
    loader: float
    network: float
    gain: float

    @property
    def sentence(self) -> str:
        """What bounds, and what would help."""
        if self.network <= self.loader:
            return (
                f"network-bound: {self.network:.1f} clips/s against the loader's {self.loader:.0f} in state "
                f"{self.state}; faster reading would change nothing"
            )
        advice = (
            f"; short side {SHORT_SIDE_PX} and GOP {GOP} would give about {self.gain:.1f}x (estimated)"
            if self.gain >= 1.1
            else "; these videos are about as cheap to read as they get: more cores would help"
        )
        words = f"decode-bound: {self.loader:.0f} clips/s against the network's {self.network:.0f}"
        return f"{words} in state {self.state}{advice}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one sentence."""
    parser = argparse.ArgumentParser(prog="fastplan bench bound", description=__doc__.splitlines()[0])
    parser.add_argument("--state-graph", default="default", metavar="NAME|FILE", help="what to train (default)")
    parser.add_argument("--data", type=Path, metavar="DIR|LIST|VIDEO", help="your videos (default: made ones)")
    given = parser.parse_args(arguments)
    return reported(lambda: bench(given.state_graph, given.data))


def bench(state_graph: str, data: Path | None) -> None:
    """Print the sentence of the state in which reading is slowest beside the network."""
    task = resolve(Request(state_graph=state_graph))
    cache = user_cache_path("fastplan")
    if data is not None and videos.source_of(data) != data:
        folder, origin = data, str(data)
    else:
        folder = videos.make(videos.ENCODINGS[0], data, cache / "bench", 2, lambda: None)
        origin = f"videos made from {data or 'drawn pictures'} (300 frames, H.264, GOP 12; --data DIR|LIST names yours)"
    with Console(stderr=True).status("Measuring loader and network"):
        index = build_index(read_videos(folder), cache_dir=cache / "index", threads=default_threads())
        states = list({state.clip: state for state in task.states}.values())[:_STATES]
        augment = task.config.data.augment
        found = [measure(index, state, task.config.network.name, augment) for state in states]
    worst = min(found, key=lambda bound: bound.loader / bound.network)
    print(f"\nGraph {state_graph}, network {task.config.network.name}, {origin}:\n{worst.sentence}.")


def measure(index: VideoIndex, state: State, network: str, augment: AugmentConfig) -> Bound:
    """Loader and network alone, in the regime of one state."""
    device, _ = choose_device("auto")
    batch = min(state.batch_size, 4)
    samples = training_samples(index, state.clip, augment, seed=0, stream="bound", epoch=0, clips=400 * batch)
    loader = ClipLoader(
        index,
        augment,
        max_batch=batch,
        threads=default_threads(),
        decoder=choose_decoder(index, device)[0],
        device=device,
    )
    loader.configure(state.clip, batch)
    batches = loader.epoch(samples)
    clips_NCTHW = next(batches).clips_NCTHW
    begun, made = time.perf_counter(), 0
    for found in batches:
        made += len(found.clips_NCTHW)
        if time.perf_counter() - begun > _LOADER_S:
            break
    loader_rate = made / (time.perf_counter() - begun)
    batches.close()
    loader.close()
    return Bound(state.name, loader_rate, _network_rate(network, clips_NCTHW), gain_of(index, samples))


def gain_of(index: VideoIndex, samples: EpochSamples, clips: int = 32) -> float:
    """How many times fewer pixels a clip would decode at short side 256 and GOP 12, from the packets it needs now."""
    now = then = 0.0
    for place in range(min(clips, len(samples))):
        video = index.videos[int(samples.videos_M[place])]
        table = video.table
        if table is None:
            continue
        frames_T = np.unique(samples.frames_MT[place]) + video.first
        fed = sum(len(table.needed(run)) for run in table.runs(frames_T.tolist()))
        runs = 1 + int((np.diff(frames_T) > GOP).sum())
        least = min(fed, len(frames_T) + runs * (GOP - 1) / 2)
        pixels = video.width * video.height
        now += fed * pixels
        then += least * pixels * min(1.0, SHORT_SIDE_PX / min(video.width, video.height)) ** 2
    return now / then if then else 1.0


def _network_rate(name: str, clips_NCTHW: torch.Tensor) -> float:
    network = build_network(name, 10).to(clips_NCTHW.device)
    labels_N = torch.zeros(len(clips_NCTHW), dtype=torch.int64, device=clips_NCTHW.device)

    def step() -> float:
        begun = time.perf_counter()
        logits = network(clips_NCTHW)
        heads = logits if isinstance(logits, tuple | list) else (logits,)
        torch.stack([F.cross_entropy(head, labels_N) for head in heads]).sum().backward()
        if clips_NCTHW.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    first = step()
    return len(clips_NCTHW) / (min(step() for _ in range(3)) if first < 5 else first)


if __name__ == "__main__":
    sys.exit(main())
