"""The sample plan: every random choice of an epoch, drawn at once from (seed, stream, epoch).

A sample's numbers depend on its place in the epoch and on nothing else, so batch size, threads and interruptions do
not change them; another clip regime changes only its frames. Operators receive them as tensors; nothing downstream
draws a random number. Of several processes, each draws the same epoch and takes one of every `world` places of it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastplan.clips import ClipSpec, ShortPolicy, frame_indices, view_positions
from fastplan.config import AugmentConfig
from fastplan.data.augmentation import Changes, draw_changes, no_changes
from fastplan.data.index import VideoIndex
from fastplan.errors import UserError


class EpochName(NamedTuple):
    """Which epoch of which stream (an edge of the search, say) under which seed."""

    seed: int
    stream: str
    epoch: int


@dataclass(frozen=True)
class EpochSamples:
    """M samples, and which K of them this process takes, in the order in which they are trained on or evaluated.

    name: what they were drawn from. spec: their clip regime. videos_M: position in the index. frames_MT: frame indices.
    changes: what is done to the pictures. mine_K: places of this process among the M. under: the same samples in
    another regime. spare: whether another sample, of any process, may stand in for one that cannot be read.
    """

    name: EpochName
    spec: ClipSpec
    videos_M: npt.NDArray[np.int64]
    frames_MT: npt.NDArray[np.int32]
    changes: Changes
    mine_K: npt.NDArray[np.int64]
    under: Callable[[ClipSpec], "EpochSamples"]
    spare: bool

    def __len__(self) -> int:
        return len(self.mine_K)

    def spares(self, place: int) -> Iterator[int]:
        """Places to take for `place` where it cannot be read: all others in random order, the same in every process."""
        seed, stream, epoch = self.name
        order = stream_rng(seed, f"{stream}/spare/{place}", epoch).permutation(len(self.videos_M))
        return (int(other) for other in order if other != place)


def stream_rng(seed: int, stream: str, epoch: int) -> np.random.Generator:
    """The generator of one epoch of one named stream."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, *stream.encode()])))


def training_samples(
    index: VideoIndex,
    spec: ClipSpec,
    augment: AugmentConfig,
    *,
    seed: int,
    stream: str,
    epoch: int,
    clips: int | None = None,
    short: ShortPolicy = "loop",
    rank: int = 0,
    world: int = 1,
) -> EpochSamples:
    """One random clip per video in random order, augmented.

    clips: samples in the epoch, None for one per video. Epochs of another length go on where the one before stopped:
        every video is drawn once before any is drawn again.
    rank, world: this process of how many. All take the same number of samples, none twice; up to `world - 1` at the end
        of the epoch are taken by none. A batch is mixed as that of one process would be; where a process has an even
        number of its clips, also with the same partners, which `_places` gives to the same process.
    Raises `UserError` where there are fewer samples than processes.
    """
    total = clips or len(index)
    if total < world:
        raise UserError(f"{total} clips an epoch for {world} processes: set data.clips_per_epoch")
    mine_K = _places(total, rank=rank, world=world)
    videos_M = _draw_videos(len(index), total, seed=seed, stream=stream, epoch=epoch)

    def rng_of(kind: str) -> np.random.Generator:
        return stream_rng(seed, f"{stream}/{kind}", epoch)

    changes = draw_changes(rng_of, index.sizes_N2[videos_M].astype(np.float64), augment).mixed_alike(world)

    def under(spec: ClipSpec) -> EpochSamples:
        positions_MS = rng_of("position").random((total, spec.segments))
        frames_MT = frame_indices(index.frames_N[videos_M], spec, positions_MS, short=short)
        name = EpochName(seed, stream, epoch)
        return EpochSamples(name, spec, videos_M, frames_MT, changes, mine_K, under, spare=True)

    return under(spec)


def evaluation_samples(
    index: VideoIndex,
    spec: ClipSpec,
    *,
    views: int,
    crops: int = 1,
    short: ShortPolicy = "loop",
    rank: int = 0,
    world: int = 1,
) -> EpochSamples:
    """`views` clips x `crops` squares of every video, evenly placed, video by video; nothing else is changed.

    crops: 1 for the centre square, 3 for left, centre and right (top, centre and bottom of upright videos).
    rank, world: this process of how many; each takes every `world`-th video, none is taken twice.
    """
    videos_M = np.repeat(np.arange(len(index)), views * crops)
    mine_K = np.flatnonzero(videos_M % world == rank)
    sizes_N2 = index.sizes_N2.astype(np.float64)
    square_N2 = sizes_N2.min(axis=1, keepdims=True) / sizes_N2
    sides_C = np.linspace(0.0, 1.0, crops) if crops > 1 else np.array([0.5])
    corners_NC2 = sides_C[:, None] * (1.0 - square_N2)[:, None]
    crops_NC4 = np.concatenate([corners_NC2, corners_NC2 + square_N2[:, None]], axis=2)
    changes = no_changes(np.tile(crops_NC4[:, None], (1, views, 1, 1)).reshape(-1, 4).astype(np.float32))

    def under(spec: ClipSpec) -> EpochSamples:
        durations_N = index.frames_N
        frames_NVT = np.stack(
            [
                frame_indices(durations_N, spec, view_positions(durations_N, spec, view, views), short=short)
                for view in range(views)
            ],
            axis=1,
        )
        frames_MT = np.repeat(frames_NVT, crops, axis=1).reshape(-1, spec.length)
        name = EpochName(0, "evaluation", 0)
        return EpochSamples(name, spec, videos_M, frames_MT, changes, mine_K, under, spare=False)

    return under(spec)


def _places(total: int, *, rank: int, world: int) -> npt.NDArray[np.int64]:
    """One of every `world` places, in turns the `rank`-th from the left and from the right.

    So the clips at the same distance from either end of a batch of a multiple of 2 * world clips are one process's.
    """
    blocks = np.arange(total // world)
    return blocks * world + np.where(blocks % 2, world - 1 - rank, rank)


def _draw_videos(videos: int, total: int, *, seed: int, stream: str, epoch: int) -> npt.NDArray[np.int64]:
    """Places epoch * total ... of an endless sequence of permutations, one per pass over the videos."""
    begin, end = epoch * total, (epoch + 1) * total
    passes = [
        stream_rng(seed, f"{stream}/order", p).permutation(videos)
        for p in range(begin // videos, (end + videos - 1) // videos)
    ]
    offset = begin // videos * videos
    return np.concatenate(passes)[begin - offset : end - offset]
