"""Throughput where the clip regime changes every 20 iterations: one loader that is configured, or one built anew.

    python -m fastplan.benchmarks.switching CONTENDER FOLDER

All make the same clips, those of one epoch, in a process of their own. Ours is told the changes beforehand, as a run
that follows a plan tells it. The peers' loader is PyTorch's `DataLoader` with forked workers, the usual way, made again
for each regime because length, batch size and sampler are fixed when it is made.
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
from fastplan.benchmarks.cost import measured, spread
from fastplan.benchmarks.jobs import AUGMENT, jobs_of
from fastplan.clips import ClipSpec
from fastplan.data.index import VideoIndex, build_index
from fastplan.data.lists import read_videos
from fastplan.data.regimes import Regime
from fastplan.data.sampling import EpochSamples, training_samples
from fastplan.own_python import module_command

ITERATIONS = 20
WORKERS = 2
SIZE_PX = 112
REGIMES = ((ClipSpec(1, 16, 1, SIZE_PX), 4), (ClipSpec(4, 4, 1, SIZE_PX), 4), (ClipSpec(1, 8, 1, SIZE_PX), 8)) * 2
OURS = "fastplan"
CONTENDERS = (OURS, "torchcodec", "PyAV")
AIM = 2.0


@dataclass(frozen=True)
class Result:
    """Of one run: clips per second on the clock, CPU ms per clip, and median waits for the first batch of a regime and
    for the others, in ms."""

    contender: str
    clips_per_s: float
    cpu_ms: float
    first_ms: float
    other_ms: float


def measure(folder: Path, repeats: int) -> list[Result]:
    """Every contender in turns, a contender that cannot run left out."""
    found: list[Result] = []
    for _ in range(repeats):
        for contender in CONTENDERS:
            command = module_command("fastplan.benchmarks.switching", contender, str(folder))
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                found.append(Result(**json.loads(done.stdout.splitlines()[-1])))
    return found


def page(results: list[Result]) -> str:
    """The table, with how far ahead we are."""
    lines = [
        f"## Another regime every {ITERATIONS} iterations\n",
        f"{len(REGIMES)} regimes one after another (16 consecutive, 4x4, 8 consecutive; 4, 4, 8 clips), H.264, GOP 12;",
        "the peers rebuild a `DataLoader` with two forked workers. Clips/s on the clock and CPU ms: median (smallest",
        "to largest) of the runs, which take turns; waits are medians. What is set up once is not counted.\n",
        "| loader | clips/s | CPU ms per clip | wait for the first batch of a regime | for the others | runs |",
        "|---|---|---|---|---|---|",
    ]
    rate, cpu_ms = {}, {}
    for name in dict.fromkeys(result.contender for result in results):
        own = [result for result in results if result.contender == name]
        rates, costs = [result.clips_per_s for result in own], [result.cpu_ms for result in own]
        rate[name], cpu_ms[name] = statistics.median(rates), statistics.median(costs)
        first, other = (statistics.median(getattr(r, field) for r in own) for field in ("first_ms", "other_ms"))
        lines.append(f"| {name} | {spread(rates)} | {spread(costs)} | {first:.0f} ms | {other:.0f} ms | {len(own)} |")
    if peers_rates := {name: value for name, value in rate.items() if name != OURS}:
        best = max(peers_rates, key=peers_rates.__getitem__)
        ahead = rate[OURS] / rate[best]
        lines.append(f"\nOurs gives {ahead:.1f} times the clips of {best}, the best peer.")
        if ahead < AIM:
            lines.append(
                f"{AIM:g} times was the aim. {ITERATIONS} iterations are long beside a rebuild, so most of the distance"
                f" is what a clip costs, {cpu_ms[OURS]:.1f} against {cpu_ms[best]:.1f} CPU ms, mostly for decoding."
            )
    return "\n".join(lines) + "\n"


def main(contender: str, folder: Path) -> None:
    """Run one contender; print its result as JSON."""
    torch.set_num_threads(1)
    index = build_index(read_videos(folder), cache_dir=user_cache_path("fastplan") / "index", threads=WORKERS)
    clips = sum(batch for _, batch in REGIMES) * ITERATIONS
    samples = training_samples(index, REGIMES[0][0], AUGMENT, seed=0, stream="switch", epoch=0, clips=clips)
    made = _ours(index, samples) if contender == OURS else _rebuilt(index, samples, contender)
    next(made)  # the first batch: whatever is set up once
    waits_ms, made_clips, begun = [], 0, time.perf_counter()
    with measured() as cost:
        for batch in made:
            waits_ms.append(1e3 * (time.perf_counter() - begun))
            made_clips, begun = made_clips + batch, time.perf_counter()
    firsts = waits_ms[ITERATIONS - 1 :: ITERATIONS]
    others = [wait for place, wait in enumerate(waits_ms, 1) if place % ITERATIONS]
    rate, cpu_ms = made_clips / cost.wall_s, 1e3 * cost.cpu_s / made_clips
    print(json.dumps(asdict(Result(contender, rate, cpu_ms, statistics.median(firsts), statistics.median(others)))))


def _ours(index: VideoIndex, samples: EpochSamples) -> Iterator[int]:
    from fastplan.data.batch import ClipLoader  # starts threads: not in a process that forks

    cpu = torch.device("cpu")
    loader = ClipLoader(index, AUGMENT, max_batch=8, threads=WORKERS, decoder="host", device=cpu)
    regimes = [Regime(spec, batch) for spec, batch in REGIMES for _ in range(ITERATIONS)]
    loader.configure(*REGIMES[0])
    for made in loader.epoch(samples, regimes=regimes):
        yield len(made.clips_NCTHW)
    loader.close()


def _rebuilt(index: VideoIndex, samples: EpochSamples, contender: str) -> Iterator[int]:
    kept = contender == "torchcodec"  # by each worker, as long as it lives
    way = next(way for way in peers.ways()[0] if way.peer == contender and way.keeps == kept)
    for batch, jobs in _jobs_by_regime(index, samples):
        loader = torch.utils.data.DataLoader(
            _Clips(way, jobs), batch_size=batch, num_workers=WORKERS, multiprocessing_context="fork"
        )
        for clips in loader:
            yield len(clips)


def _jobs_by_regime(index: VideoIndex, samples: EpochSamples) -> Iterator[tuple[int, list[peers.Job]]]:
    """Batch size and clips of each regime: consecutive samples of the epoch, as our loader takes them."""
    begin = 0
    for spec, batch in REGIMES:
        end = begin + batch * ITERATIONS
        yield batch, jobs_of(index, samples.under(spec), spec.size)[begin:end]
        begin = end


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
