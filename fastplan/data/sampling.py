"""The sample plan: every random choice of an epoch, drawn at once from (seed, stream, epoch).

A sample's numbers depend on its place in the epoch and on nothing else, so batch size, threads and interruptions do
not change them. Operators receive them as tensors; nothing downstream draws a random number.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastplan.clips import ClipSpec, ShortPolicy, frame_indices, view_positions
from fastplan.config import AugmentConfig
from fastplan.data.augmentation import Changes, draw_changes, no_changes
from fastplan.data.index import VideoIndex


@dataclass(frozen=True)
class EpochSamples:
    """M samples in the order in which they are trained on or evaluated.

    videos_M: position in the index. frames_MT: frame indices. changes: what is done to the pictures.
    """

    videos_M: npt.NDArray[np.int64]
    frames_MT: npt.NDArray[np.int32]
    changes: Changes

    def __len__(self) -> int:
        return len(self.videos_M)


def stream_rng(seed: int, stream: str, epoch: int) -> np.random.Generator:
    """The generator of one epoch of one named stream (an edge of the search, say)."""
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
) -> EpochSamples:
    """One random clip per video in random order, augmented.

    clips: samples in the epoch, None for one per video. Epochs of another length go on where the one before stopped:
        every video is drawn once before any is drawn again.
    """
    total = clips or len(index)
    videos_M = _draw_videos(len(index), total, seed=seed, stream=stream, epoch=epoch)

    def rng_of(kind: str) -> np.random.Generator:
        return stream_rng(seed, f"{stream}/{kind}", epoch)

    positions_MS = rng_of("position").random((total, spec.segments))
    frames_MT = frame_indices(index.frames_N[videos_M], spec, positions_MS, short=short)
    return EpochSamples(videos_M, frames_MT, draw_changes(rng_of, index.sizes_N2[videos_M].astype(np.float64), augment))


def evaluation_samples(index: VideoIndex, spec: ClipSpec, *, views: int, short: ShortPolicy = "loop") -> EpochSamples:
    """`views` clips of every video, evenly placed, video by video; the centre square, no colour change."""
    videos_M = np.repeat(np.arange(len(index)), views)
    positions_MS = np.stack([view_positions(len(index), spec, v, views) for v in range(views)], axis=1)
    frames_MT = frame_indices(index.frames_N[videos_M], spec, positions_MS.reshape(-1, spec.segments), short=short)
    sizes_N2 = index.sizes_N2.astype(np.float64)
    half_N2 = 0.5 * sizes_N2.min(axis=1, keepdims=True) / sizes_N2
    crops_M4 = np.concatenate([0.5 - half_N2, 0.5 + half_N2], axis=1).astype(np.float32)[videos_M]
    return EpochSamples(videos_M, frames_MT, no_changes(crops_M4))


def _draw_videos(videos: int, total: int, *, seed: int, stream: str, epoch: int) -> npt.NDArray[np.int64]:
    """Places epoch * total ... of an endless sequence of permutations, one per pass over the videos."""
    begin, end = epoch * total, (epoch + 1) * total
    passes = [
        stream_rng(seed, f"{stream}/order", p).permutation(videos)
        for p in range(begin // videos, (end + videos - 1) // videos)
    ]
    offset = begin // videos * videos
    return np.concatenate(passes)[begin - offset : end - offset]
