"""What bounds this machine for one state graph: reading clips, or the network that is trained on them.

    fastplan bench bound --state-graph NAME [--data DIR|LIST]

Both are measured alone and on the clock, in the batches and with the settings of the graph: the loader in all of it,
the network in forward, loss and backward. What a shorter GOP and smaller pictures would give is an estimate, from the
packets and pixels that a clip costs now.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from platformdirs import user_cache_path

from fastplan.benchmarks import videos
from fastplan.benchmarks.cost import reported
from fastplan.config import RunConfig
from fastplan.data.batch import ClipLoader, choose_decoder, default_threads
from fastplan.data.index import VideoIndex, build_index
from fastplan.data.lists import read_videos
from fastplan.data.sampling import EpochSamples, training_samples
from fastplan.launch import Request, resolve
from fastplan.models.networks import build_network
from fastplan.ops import set_kernels
from fastplan.planner.states import State
from fastplan.report.console import make_console
from fastplan.report.terminal import Terminal
from fastplan.train.precision import Precision, choose_device, choose_precision

SHORT_SIDE_PX, GOP = 256, 12
SECONDS = 30.0
_LEAST_CLIPS, _GROWTH = 2, 4  # of the network's steps: BatchNorm has nothing to normalise in one clip of 1 x 1 pixels
_MOST_STEPS = 5
_STATES = 4  # the most that are measured


class Bound(NamedTuple):
    """One regime. loader, network: clips per second of either alone, in batches of so many clips.

    gain: how many times faster reading would be with short side 256 and GOP 12, estimated.
    """

    state: str
    loader: float
    batch: int
    network: float
    step: int
    gain: float

    @property
    def sentence(self) -> str:
        """What bounds, and what would help."""
        rates = f"the loader gives {_rate(self.loader)} clips/s in batches of {self.batch}, "
        rates += f"the network takes {_rate(self.network)} in steps of {self.step} (state {self.state})"
        if self.network <= self.loader:
            return f"network-bound: {rates}; faster reading would change nothing"
        if self.gain >= 1.1:
            return f"decode-bound: {rates}; short side {SHORT_SIDE_PX} and GOP {GOP} would give about {self.gain:.1f}x"
        return f"decode-bound: {rates}; these videos are about as cheap to read as they get, more cores would help"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one sentence."""
    parser = argparse.ArgumentParser(prog="fastplan bench bound", description=__doc__.splitlines()[0])
    parser.add_argument("--state-graph", default="default", metavar="NAME|FILE", help="what to train (default)")
    parser.add_argument("--data", type=Path, metavar="DIR|LIST|VIDEO", help="your videos (default: made ones)")
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="N", help=f"about how long ({SECONDS:g})")
    given = parser.parse_args(arguments)
    return reported(lambda: bench(given.state_graph, given.data, given.seconds))


def bench(state_graph: str, data: Path | None, seconds: float) -> None:
    """Print the sentence of the state in which reading is slowest beside the network."""
    task = resolve(Request(state_graph=state_graph))
    config, cache = task.config, user_cache_path("fastplan")
    if data is not None and videos.source_of(data) != data:
        folder, origin = data, str(data)
    else:
        folder = videos.make(videos.ENCODINGS[0], data, cache / "bench", 2, lambda: None)
        origin = f"videos made from {data or 'drawn pictures'} (300 frames, H.264, GOP 12; --data DIR|LIST names yours)"
    listed = read_videos(folder)
    regimes = list({state.clip: state for state in task.states}.values())
    states = regimes[:: -(-len(regimes) // _STATES)]
    with Terminal(make_console(stderr=True)) as terminal:
        step = terminal.progress("Probing videos", listed.files)
        index = build_index(listed, cache_dir=cache / "index", threads=default_threads(), on_video=step)
        step, begun = terminal.progress("Measuring", 2 * len(states)), time.perf_counter()
        found: list[Bound] = []
        for state in states:
            if not found or time.perf_counter() - begun < seconds:
                found.append(measure(index, state, config, seconds=seconds / len(states), on_half=step))
    worst = min(found, key=lambda bound: bound.loader / bound.network)
    print(
        f"\nGraph {state_graph}, network {config.network.name}, {len(found)} of {len(regimes)} clip regimes, {origin}."
    )
    print(f"{worst.sentence}.")


def measure(
    index: VideoIndex, state: State, config: RunConfig, *, seconds: float, on_half: Callable[[], None] = lambda: None
) -> Bound:
    """Loader and network alone, in the regime of one state, for about `seconds` together.

    on_half: called when the loader was measured, and again when the network was.
    """
    device, _ = choose_device(config.device)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    augment, batch = config.data.augment, state.batch_size
    samples = training_samples(
        index, state.clip, augment, seed=0, stream="bound", epoch=0, clips=400 * batch, short=config.data.short
    )
    loader = ClipLoader(
        index,
        augment,
        max_batch=batch,
        threads=config.data.threads or default_threads(),
        decoder=choose_decoder(index, device, config.data.decoder)[0],
        device=device,
        timeout_s=config.data.decode_timeout_s,
        drop_nonref=config.data.drop_nonref,
    )
    loader.configure(state.clip, batch)
    batches = loader.epoch(samples)
    clips_NCTHW = next(batches).clips_NCTHW
    begun, made = time.perf_counter(), 0
    for found in batches:
        made += len(found.clips_NCTHW)
        if time.perf_counter() - begun > seconds / 2:
            break
    loader_rate = made / (time.perf_counter() - begun)
    batches.close()
    loader.close()
    on_half()
    network = build_network(config.network.name, len(index.classes)).to(device)
    set_kernels(network, config.kernels)
    precision = choose_precision(config.train.precision, device)
    rate, step = network_rate(network, clips_NCTHW, precision, seconds=seconds / 2)
    on_half()
    return Bound(state.name, loader_rate, batch, rate, step, gain_of(index, samples))


def network_rate(
    network: torch.nn.Module, clips_NCTHW: torch.Tensor, precision: Precision, *, seconds: float
) -> tuple[float, int]:
    """Clips per second in forward, loss and backward, and how many a step takes.

    That is all of the clips, or as many as can be tried within `seconds`. The first step of a size is never counted.
    """
    labels_N = torch.zeros(len(clips_NCTHW), dtype=torch.int64, device=clips_NCTHW.device)

    def step(clips: int) -> float:
        begun = time.perf_counter()
        with precision.autocast():
            heads = network(clips_NCTHW[:clips])
        torch.stack([F.cross_entropy(head.float(), labels_N[:clips]) for head in heads]).sum().backward()
        network.zero_grad(set_to_none=True)
        if clips_NCTHW.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    begun, most = time.perf_counter(), len(clips_NCTHW)
    clips = min(_LEAST_CLIPS, most)
    while True:
        step(clips)
        times = [step(clips)]
        left_s = seconds - (time.perf_counter() - begun)
        if clips == most or 2 * _GROWTH * times[0] > left_s:
            break
        clips = min(clips * _GROWTH, most)
    while len(times) < _MOST_STEPS and time.perf_counter() - begun + times[0] < seconds:
        times.append(step(clips))
    return clips / statistics.median(times), clips


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


def _rate(clips_per_s: float) -> str:
    return f"{clips_per_s:.0f}" if clips_per_s >= 10 else f"{clips_per_s:.1f}"


if __name__ == "__main__":
    sys.exit(main())
