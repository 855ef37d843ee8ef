"""Throughput where the clip regime changes every 20 iterations: one loader that is configured, or one built anew.

    python -m fastplan.benchmarks.switching CONTENDER FOLDER

Every contender runs in a process of its own. The peers' loader is PyTorch's `DataLoader` with forked workers, the usual
way, made again for each regime because length, batch size and sampler are fixed when it is made.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from platformdirs import user_cache_path

from fastplan.benchmarks import peers
from fastplan.benchmarks.cost import measured
from fastplan.benchmarks.jobs import AUGMENT, jobs_of
from fastplan.clips import ClipSpec
from fastplan.data.index import VideoIndex, build_index
from fastplan.data.lists import read_videos
from fastplan.data.sampling import EpochSamples, training_samples

ITERATIONS = 20
WORKERS = 2
SIZE_PX = 112
REGIMES = ((ClipSpec(1, 16, 1, SIZE_PX), 4), (ClipSpec(4, 4, 1, SIZE_PX), 4), (ClipSpec(1, 8, 1, SIZE_PX), 8)) * 2
CONTENDERS = ("fastplan", "torchcodec", "PyAV")


@dataclass(frozen=True)
class Result:
    """Of one run: clips per second on the clock, CPU ms per clip, and the seconds before the first batch."""

    contender: str
    clips_per_s: float
    cpu_ms: float
    first_s: float


def measure(folder: Path, repeats: int) -> list[Result]:
    """Every contender in turns, a contender that cannot run left out."""
    found: list[Result] = []
    for _ in range(repeats):
        for contender in CONTENDERS:
            command = [sys.executable, "-m", "fastplan.benchmarks.switching", contender, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                found.append(Result(**json.loads(done.stdout.splitlines()[-1])))
    return found


def page(results: list[Result]) -> str:
    """The table, with how far ahead we are."""
    lines = [
        f"## Another regime every {ITERATIONS} iterations\n",
        f"{len(REGIMES)} regimes one after another (16 consecutive, 4x4, 8 consecutive; 4, 4, 8 clips), H.264, GOP 12;",
        "the peers rebuild a `DataLoader` with two forked workers. Medians; what is set up once is not counted.\n",
        "| loader | clips/s | CPU ms per clip | runs |",
        "|---|---|---|---|",
    ]
    rate = {}
    for name in dict.fromkeys(result.contender for result in results):
        own = [result for result in results if result.contender == name]
        rate[name] = statistics.median(result.clips_per_s for result in own)
        cpu = statistics.median(result.cpu_ms for result in own)
        lines.append(f"| {name} | {rate[name]:.1f} | {cpu:.1f} | {len(own)} |")
    best = max((value for name, value in rate.items() if name != "fastplan"), default=None)
    if best:
        lines.append(f"\nOurs gives {rate['fastplan'] / best:.1f} times the clips of the best peer.")
    return "\n".join(lines) + "\n"


def main(contender: str, folder: Path) -> None:
    """Run one contender; print its result as JSON."""
    torch.set_num_threads(1)
    index = build_index(read_videos(folder), cache_dir=user_cache_path("fastplan") / "index", threads=WORKERS)
    plans = [
        training_samples(index, spec, AUGMENT, seed=0, stream="switch", epoch=k, clips=batch * ITERATIONS)
        for k, (spec, batch) in enumerate(REGIMES)
    ]
    made = _ours(index, plans) if contender == "fastplan" else _rebuilt(index, plans, contender)
    begun = time.perf_counter()
    next(made)  # the first batch: whatever is set up once
    first_s = time.perf_counter() - begun
    with measured() as cost:
        clips = sum(made)
    print(json.dumps(asdict(Result(contender, clips / cost.wall_s, 1e3 * cost.cpu_s / clips, first_s))))


def _ours(index: VideoIndex, plans: list[EpochSamples]) -> Iterator[int]:
    from fastplan.data.batch import ClipLoader  # starts threads: not in a process that forks

    cpu = torch.device("cpu")
    loader = ClipLoader(index, AUGMENT, max_batch=8, threads=WORKERS, decoder="host", device=cpu)
    for (spec, batch), samples in zip(REGIMES, plans, strict=True):
        loader.configure(spec, batch)
        for made in loader.epoch(samples):
            yield len(made.clips_NCTHW)
    loader.close()


def _rebuilt(index: VideoIndex, plans: list[EpochSamples], contender: str) -> Iterator[int]:
    name = {"torchcodec": "exact, kept open"}.get(contender)
    way = next(way for way in peers.ways()[0] if way.peer == contender and name in (None, way.name))
    for (spec, batch), samples in zip(REGIMES, plans, strict=True):
        loader = torch.utils.data.DataLoader(
            _Clips(way, jobs_of(index, samples, spec.size)),
            batch_size=batch,
            num_workers=WORKERS,
            multiprocessing_context="fork",
        )
        for clips in loader:
            yield len(clips)


class _Clips(torch.utils.data.Dataset[torch.Tensor]):
    def __init__(self, way: peers.Way, jobs: list[peers.Job]) -> None:
        self._way, self._jobs = way, jobs

    def __len__(self) -> int:
        return len(self._jobs)

    def __getitem__(self, place: int) -> torch.Tensor:
        torch.set_num_threads(1)
        return self._way.clip(self._jobs[place])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
