"""One row of the loader's table: who gives the same clips, and what they cost each, in turns.

Before a row is timed, every peer's full-size frames are compared with ours, and its finished clips with ours. Peers
run in threads of this process, as our decoder does; PyAV also behind PyTorch's `DataLoader`, in processes. Of the
configurations of a peer the one that is measured is the cheapest in a trial, once for each encoding and kind of clip.
"""

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch

from fastplan.benchmarks import videos
from fastplan.benchmarks.cost import measured
from fastplan.benchmarks.data_loader import JobProcesses
from fastplan.benchmarks.jobs import AUGMENT, jobs_of
from fastplan.benchmarks.peers import KEPT_OPEN, Job, Way
from fastplan.clips import ClipSpec
from fastplan.data.batch import ClipLoader
from fastplan.data.decode import decode_clip
from fastplan.data.index import VideoIndex
from fastplan.data.reading import packet_frames
from fastplan.data.sampling import EpochSamples, training_samples
from fastplan.errors import UserError

SIZE_PX = 112
BATCH = 4
MOST = 10  # batches of one contender in one repeat
WORKERS = 2
TRIAL = 2  # clips on which frames are compared and configurations tried
TOO_SLOW = 4.0  # times the cheapest peer in the trial: not timed further
OURS, FLOOR, LOADER = "fastplan", "decoding alone", "PyAV + DataLoader"
SAME_FRAME = 3.0  # mean difference of full-size RGB, of 255: the libraries convert colours a little differently
SAME_CLIP = 4.0  # and of finished clips, in units of 255 before normalisation


@dataclass(frozen=True)
class Regime:
    """A name, and the clips it stands for."""

    name: str
    spec: ClipSpec

    @property
    def kind(self) -> tuple[bool, bool]:
        """What decides which way to decode is cheap: several segments? of several frames?"""
        return self.spec.segments > 1, self.spec.length > 1


REGIMES = (
    Regime("16 consecutive", ClipSpec(1, 16, 1, SIZE_PX)),
    Regime("4 segments of 4", ClipSpec(4, 4, 1, SIZE_PX)),
    Regime("16 single", ClipSpec(16, 1, 1, SIZE_PX)),
    Regime("64 consecutive", ClipSpec(1, 64, 1, SIZE_PX)),
    Regime("16 segments of 4", ClipSpec(16, 4, 1, SIZE_PX)),
    Regime("64 single", ClipSpec(64, 1, 1, SIZE_PX)),
)


@dataclass
class Row:
    """One line of the table. times: per contender (clips/s, CPU ms per clip) of each repeat. notes: what to say."""

    encoding: str
    regime: str
    clips: int
    times: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    ways: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def cpu_ms(self, contender: str) -> float:
        """Median over the repeats."""
        return statistics.median(ms for _, ms in self.times[contender])

    def best_peer(self) -> str:
        """Of the peers that open a video for each clip, the one that takes the least CPU."""
        return min((name for name in self._peers() if not name.endswith(KEPT_OPEN)), key=self.cpu_ms)

    def best_kept(self) -> str | None:
        """The same of those that keep a decoder open for every video; None where there is none."""
        return min((name for name in self._peers() if name.endswith(KEPT_OPEN)), key=self.cpu_ms, default=None)

    def share(self, contender: str, peer: str) -> float:
        """The contender's CPU time as a share of the peer's.

        Median over the repeats, in each of which all have the same clips: how dear those are drops out.
        """
        pairs = zip(self.times[contender], self.times[peer], strict=True)
        return statistics.median(ms / peer_ms for (_, ms), (_, peer_ms) in pairs)

    def _peers(self) -> list[str]:
        return [name for name in self.times if name not in (OURS, FLOOR)]


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    encodings: Sequence[videos.Encoding]
    regimes: Sequence[Regime]
    files: int
    repeats: int
    budget_s: float  # CPU time of one contender in one repeat, where
    least: int  # batches do not take longer


class Contest:
    """All contenders on one set of videos."""

    def __init__(self, index: VideoIndex, ways: Sequence[Way], processes: JobProcesses) -> None:
        self._index = index
        self._ways = ways
        self._processes = processes
        self._pool = ThreadPoolExecutor(WORKERS)  # one for all rows: what a peer keeps open stays open
        self._best: dict[tuple[bool, bool], list[Way]] = {}
        self._loader = ClipLoader(
            index, AUGMENT, max_batch=BATCH, threads=WORKERS, decoder="host", device=torch.device("cpu")
        )

    def row(self, encoding: str, regime: Regime, plan: Plan) -> Row:
        """One row of the table: proof, trial, then the repeats."""
        row = Row(encoding, regime.name, BATCH)
        trial = self._samples(regime.spec, TRIAL, epoch=0)
        jobs = jobs_of(self._index, trial, regime.spec.size)
        chosen = self._chosen(row, regime, jobs, self._ours(regime.spec, trial))
        by_pyav = next((way.name for way in chosen if way.peer == "PyAV"), None)
        if by_pyav:
            self._processes.start(by_pyav, jobs[0])
        batches = round(plan.budget_s * 1e3 / self._cpu_ms(regime.spec, trial) / BATCH)
        row.clips = min(max(batches, plan.least), MOST) * BATCH
        for repeat in range(plan.repeats):
            samples = self._samples(regime.spec, row.clips, epoch=1 + repeat)
            jobs = jobs_of(self._index, samples, regime.spec.size)
            contenders: list[tuple[str, Callable[[], Any]]] = [
                (OURS, lambda samples=samples: self._ours(regime.spec, samples)),
                (FLOOR, lambda samples=samples: self._floor(samples)),
                *((way.contender, lambda way=way, jobs=jobs: self._threaded(way.clip, jobs)) for way in chosen),
            ]
            if by_pyav:
                contenders.append((LOADER, lambda jobs=jobs: self._processes.run(by_pyav, jobs)))
            turn = repeat % len(contenders)
            for name, work in contenders[turn:] + contenders[:turn]:
                with measured() as cost:
                    work()
                times = row.times.setdefault(name, [])
                times.append((row.clips / cost.wall_s, 1e3 * cost.cpu_s / row.clips))
        return row

    def close(self) -> None:
        """Stop the threads."""
        self._loader.close()
        self._pool.shutdown()

    def _samples(self, spec: ClipSpec, clips: int, *, epoch: int) -> EpochSamples:
        return training_samples(self._index, spec, AUGMENT, seed=0, stream="bench", epoch=epoch, clips=clips)

    def _ours(self, spec: ClipSpec, samples: EpochSamples) -> list[torch.Tensor]:
        self._loader.configure(spec, BATCH)
        return [batch.clips_NCTHW for batch in self._loader.epoch(samples)]

    def _cpu_ms(self, spec: ClipSpec, samples: EpochSamples) -> float:
        with measured() as cost:
            self._ours(spec, samples)
        return 1e3 * cost.cpu_s / len(samples)

    def _floor(self, samples: EpochSamples) -> None:
        def decode(place: int) -> None:
            video = self._index.videos[samples.videos_M[place]]
            assert video.table is not None
            for _ in packet_frames(video.place, video.table, samples.frames_MT[place].tolist()):
                pass

        self._threaded(decode, range(len(samples)))

    def _threaded(self, work: Callable[[Any], Any], items: Sequence[Any]) -> list[torch.Tensor]:
        """The work on every item by `WORKERS` threads; what comes of it, in batches."""
        found = list(self._pool.map(work, items))
        if found and isinstance(found[0], torch.Tensor):
            return [torch.stack(found[k : k + BATCH]) for k in range(0, len(found), BATCH)]
        return []

    def _chosen(self, row: Row, regime: Regime, jobs: list[Job], ours: list[torch.Tensor]) -> list[Way]:
        """The ways that give the same clips; of each peer the cheapest, tried once for each kind of clip."""
        clips = list(torch.cat(ours).permute(0, 2, 3, 4, 1))
        video_of = {video.path: video for video in self._index.videos}
        whole = [decode_clip(video_of[job.path], np.array(job.frames)) for job in jobs]
        costs: dict[str, list[tuple[float, Way]]] = {}
        for way in self._best.get(regime.kind, self._ways):
            try:
                costs.setdefault(way.contender, []).append((_proven(way, jobs, whole, clips), way))
            except (RuntimeError, ValueError, OSError, av.FFmpegError) as error:
                row.notes.append(f"{way.contender} ({way.name}) left out: {str(error).splitlines()[0][:90]}")
        best = [min(found, key=lambda pair: pair[0]) for found in costs.values() if found]
        if not best:
            raise UserError(f"{row.encoding}, {row.regime}: no peer gives the same clips: {'; '.join(row.notes)}")
        self._best.setdefault(regime.kind, [way for _, way in best])
        least = min(cpu_s for cpu_s, _ in best)
        for cpu_s, way in best:
            if cpu_s <= TOO_SLOW * least:
                row.ways[way.contender] = way.name
            else:
                times = f"{cpu_s / least:.0f} times the CPU of the cheapest peer in the trial"
                row.notes.append(
                    f"{row.encoding}, {row.regime}: {way.contender} takes {times} and was not timed further"
                )
        return [way for _, way in best if way.contender in row.ways]


def _proven(way: Way, jobs: list[Job], whole: list[npt.NDArray[np.uint8]], clips: list[torch.Tensor]) -> float:
    """CPU seconds for the clips, whose frames are compared first. Raises `ValueError` where they differ."""
    total = 0.0
    for job, whole_THWC, clip_THWC in zip(jobs, whole, clips, strict=True):
        _check_equal(way.frames(job), whole_THWC, SAME_FRAME)
        with measured() as cost:
            found = way.clip(job)
        total += cost.cpu_s
        std = 255 * torch.tensor(job.std)
        _check_equal((found * std).numpy(), (clip_THWC * std).numpy(), SAME_CLIP)
    return total


def _check_equal(found: npt.NDArray[Any], wanted: npt.NDArray[Any], tolerance: float) -> None:
    """Raises `ValueError` where pictures [T, H, W, 3] differ by more than `tolerance` on average."""
    if found.shape != wanted.shape:
        raise ValueError(f"gives {found.shape}, not {wanted.shape}")
    away_T = np.abs(found.astype(np.float32) - wanted).mean(axis=(1, 2, 3))
    if away_T.max() > tolerance:
        raise ValueError(f"picture {int(away_T.argmax())} of a clip differs by {away_T.max():.1f} on average")
