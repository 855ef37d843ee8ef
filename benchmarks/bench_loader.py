"""The loader against other ways to the same clips: the same files, frames, crops, flips and colours, two at a time.

    fastplan bench loader [--quick] [--data VIDEO] > loader.md

Before a row is timed, every peer's full-size frames are compared with ours, and its finished clips with ours. Peers
run in threads of this process, as our decoder does; PyAV also behind PyTorch's `DataLoader`, in processes. Of the
configurations of a peer the one that is measured is the cheapest in a trial, once for each encoding and kind of clip.
Contenders take turns.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import Progress

from fastplan.benchmarks import peers, switching, videos
from fastplan.benchmarks.cost import load, measured, processor, reported, spread
from fastplan.benchmarks.jobs import AUGMENT, jobs_of
from fastplan.benchmarks.peers import Job, Way
from fastplan.clips import ClipSpec
from fastplan.data.batch import ClipLoader
from fastplan.data.decode import decode_clip
from fastplan.data.index import VideoIndex, build_index
from fastplan.data.lists import read_videos
from fastplan.data.reading import packet_frames
from fastplan.data.sampling import EpochSamples, training_samples
from fastplan.errors import UserError

SIZE_PX = 112
BATCH = 4
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
        """The peer that takes the least CPU."""
        return min((name for name in self.times if name not in (OURS, FLOOR)), key=self.cpu_ms)

    @property
    def ratio(self) -> float:
        """Our CPU time as a share of the best peer's."""
        return self.cpu_ms(OURS) / self.cpu_ms(self.best_peer())


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    encodings: Sequence[videos.Encoding]
    regimes: Sequence[Regime]
    files: int
    repeats: int
    budget_s: float  # CPU time of one contender in one repeat


FULL = Plan(videos.ENCODINGS, REGIMES, files=3, repeats=5, budget_s=0.25)
QUICK = Plan(videos.ENCODINGS[:2], REGIMES[:2], files=2, repeats=3, budget_s=0.2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the page; 2 for a video that cannot be read, or where no peer gives our frames."""
    parser = argparse.ArgumentParser(prog="fastplan bench loader", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="H.264 alone, 16 frames, 3 repeats: a minute")
    parser.add_argument("--data", type=Path, metavar="DIR|LIST|VIDEO", help="whose pictures to encode (default: drawn)")
    given = parser.parse_args(arguments)
    return reported(lambda: bench(videos.source_of(given.data), quick=given.quick))


def bench(source: Path | None, *, quick: bool) -> None:
    """Measure and print the page. source: a video whose pictures are encoded anew; drawn ones without.

    Raises `UserError` where it cannot be read, or where no peer gives our frames.
    """
    cache, console = user_cache_path("fastplan"), Console(stderr=True)
    begun = time.perf_counter()
    plan = QUICK if quick else FULL
    rows, missing = rows_of(plan, source, cache, console)
    switched = [] if quick else switching.measure(_folder(videos.ENCODINGS[0], source, cache, plan), plan.repeats - 2)
    minutes = (time.perf_counter() - begun) / 60
    words = f"fastplan bench loader{' --quick' if quick else ''}{f' --data {source.name}' if source else ''}"
    print(_head(words, plan, source, minutes))
    print(_table(rows))
    print(_explained(rows, missing))
    if switched:
        print(switching.page(switched))


def _folder(encoding: videos.Encoding, source: Path | None, cache: Path, plan: Plan) -> Path:
    return videos.make(encoding, source, cache / "bench", plan.files, lambda: None)


def rows_of(plan: Plan, source: Path | None, cache: Path, console: Console) -> tuple[list[Row], dict[str, str]]:
    """Measure; the rows, and the peers that are not there with advice. Raises `UserError` where frames differ."""
    torch.set_num_threads(1)
    ways, missing = peers.ways()
    rows: list[Row] = []
    with Progress(console=console, transient=True) as progress, _DataLoader() as processes:
        making = progress.add_task("Making videos", total=len(plan.encodings) * plan.files)
        folders = []
        for encoding in plan.encodings:
            folders.append(_folder(encoding, source, cache, plan))
            progress.advance(making, plan.files)
        progress.remove_task(making)
        measuring = progress.add_task("Measuring", total=len(plan.encodings) * len(plan.regimes))
        for encoding, folder in zip(plan.encodings, folders, strict=True):
            index = build_index(read_videos(folder), cache_dir=cache / "index", threads=WORKERS)
            table = _Contest(index, ways, processes)
            for regime in plan.regimes:
                rows.append(table.row(str(encoding), regime, plan))
                progress.advance(measuring)
            table.close()
    return rows, missing


class _Contest:
    """All contenders on one set of videos."""

    def __init__(self, index: VideoIndex, ways: Sequence[Way], processes: "_DataLoader") -> None:
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
        row.clips = min(max(round(plan.budget_s * 1e3 / self._cpu_ms(regime.spec, trial) / BATCH), 1), 10) * BATCH
        for repeat in range(plan.repeats):
            samples = self._samples(regime.spec, row.clips, epoch=1 + repeat)
            jobs = jobs_of(self._index, samples, regime.spec.size)
            contenders: list[tuple[str, Callable[[], Any]]] = [
                (OURS, lambda samples=samples: self._ours(regime.spec, samples)),
                (FLOOR, lambda samples=samples: self._floor(samples)),
                *((way.peer, lambda way=way, jobs=jobs: self._threaded(way.clip, jobs)) for way in chosen),
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
                costs.setdefault(way.peer, []).append((_proven(way, jobs, whole, clips), way))
            except (RuntimeError, ValueError, OSError, av.FFmpegError) as error:
                row.notes.append(f"{way.peer} ({way.name}) left out: {str(error).splitlines()[0][:90]}")
        best = [min(found, key=lambda pair: pair[0]) for found in costs.values() if found]
        if not best:
            raise UserError(f"{row.encoding}, {row.regime}: no peer gives the same clips: {'; '.join(row.notes)}")
        self._best.setdefault(regime.kind, [way for _, way in best])
        least = min(cpu_s for cpu_s, _ in best)
        for cpu_s, way in best:
            if cpu_s <= TOO_SLOW * least:
                row.ways[way.peer] = way.name
            else:
                times = f"{cpu_s / least:.0f} times the CPU of the cheapest peer in the trial"
                row.notes.append(f"{row.encoding}, {row.regime}: {way.peer} takes {times} and was not timed further")
        return [way for _, way in best if way.peer in row.ways]


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


class _DataLoader:
    """PyTorch's `DataLoader` over jobs: processes that are started once and get new jobs each time."""

    def __init__(self) -> None:
        self._jobs: list[list[tuple[str, Job]]] = []
        self._started = False
        self._loader = torch.utils.data.DataLoader(
            peers.PyavClips(),
            batch_sampler=self._jobs,  # type: ignore[arg-type]
            num_workers=WORKERS,
            persistent_workers=True,
            multiprocessing_context="spawn",  # forking a process that has threads may hang
        )

    def start(self, way: str, job: Job) -> None:
        """Let every process make a clip before any is timed."""
        if not self._started:
            self.run(way, [job] * BATCH * WORKERS)
            self._started = True

    def run(self, way: str, jobs: list[Job]) -> int:
        """All clips of these jobs; how many batches they made. way: the configuration of PyAV."""
        asked = [(way, job) for job in jobs]
        self._jobs[:] = [asked[k : k + BATCH] for k in range(0, len(asked), BATCH)]
        made = sum(1 for _ in self._loader)
        assert made == len(self._jobs)
        return made

    def __enter__(self) -> "_DataLoader":
        return self

    def __exit__(self, *_: object) -> None:
        del self._loader


def _check_equal(found: npt.NDArray[Any], wanted: npt.NDArray[Any], tolerance: float) -> None:
    """Raises `ValueError` where pictures [T, H, W, 3] differ by more than `tolerance` on average."""
    if found.shape != wanted.shape:
        raise ValueError(f"gives {found.shape}, not {wanted.shape}")
    away_T = np.abs(found.astype(np.float32) - wanted).mean(axis=(1, 2, 3))
    if away_T.max() > tolerance:
        raise ValueError(f"picture {int(away_T.argmax())} of a clip differs by {away_T.max():.1f} on average")


def _head(words: str, plan: Plan, source: Path | None, minutes: float) -> str:
    origin = f"`{source.name}`" if source else "drawn pictures"
    return f"""# The loader beside other ways to the same clips

`{words}`: {processor()}, no GPU, {peers.versions()};
{minutes:.0f} minutes at a load of {load():.1f} (this run and whatever ran beside it).

{plan.files} videos a set of {videos.FRAMES} frames, short side {videos.SHORT_SIDE_PX}, made from {origin}. Every clip
is cropped and mirrored at random, scaled to {SIZE_PX} x {SIZE_PX}, changed in colour and normalised, on all sides
the same; {WORKERS} decoding threads or processes, batches of {BATCH}. Before a row is timed, full-size frames of each
peer (mean difference at most {SAME_FRAME:g} of 255: colours are converted a little differently) and finished clips (at
most {SAME_CLIP:g}) are compared with ours. CPU ms per clip of the whole process tree: median (smallest to largest) of
{plan.repeats} repeats in turns, n clips each; then clips/s on the clock (median). A peer's best configuration is found
by a trial for each encoding and kind of clip; one that is "kept open" has a decoder for every video in every thread,
which a data set of many files does not allow. `decoding alone` feeds our packets to FFmpeg and looks at nothing.
"""


def _table(rows: Sequence[Row]) -> str:
    names = [OURS, FLOOR, *sorted({name for row in rows for name in row.times} - {OURS, FLOOR})]
    lines = [
        f"| videos | clip | n | {' | '.join(names)} | ours / best peer |",
        f"|---|---|---|{'---|' * len(names)}---|",
    ]
    for row in rows:
        cells = [_cell(row.times[name]) if name in row.times else "-" for name in names]
        best = row.best_peer()
        verdict = f"**{row.ratio:.2f}** {best}"
        lines.append(f"| {row.encoding} | {row.regime} | {row.clips} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines) + "\n"


def _cell(times: Sequence[tuple[float, float]]) -> str:
    return f"{spread([ms for _, ms in times])}; {statistics.median(rate for rate, _ in times):.0f}/s"


def _explained(rows: Sequence[Row], missing: dict[str, str]) -> str:
    lines = [f"- {peer}: {advice}" for peer, advice in missing.items()]
    for row in rows:
        floor, best = row.cpu_ms(FLOOR) / row.cpu_ms(row.best_peer()), row.best_peer()
        if row.ratio > _aim(row):
            lines.append(
                f"- {row.encoding}, {row.regime}: {row.ratio:.2f} of {best}, where {_aim(row):g} was the aim; decoding "
                f"the packets that cannot be left out takes {floor:.2f} of it already."
            )
    ways = sorted({f"{peer} ({way})" for row in rows for peer, way in row.ways.items()})
    notes = sorted({note for row in rows for note in row.notes})
    lines += [f"- Configurations that were best on some row: {'; '.join(ways)}."]
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines) + "\n"


def _aim(row: Row) -> float:
    if row.encoding.startswith("H.264") and row.regime in ("16 consecutive", "4 segments of 4"):
        return 0.5 if "250" in row.encoding and "segments" in row.regime else 0.7
    return 1.0


if __name__ == "__main__":
    sys.exit(main())
