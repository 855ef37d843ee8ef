"""The sample plan: every random choice of an epoch, drawn at once from (seed, stream, epoch).

A sample's numbers depend on its place in the epoch and on nothing else, so batch size, threads and interruptions do
not change them. Operators receive them as tensors; nothing downstream draws a random number.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastplan.clips import ClipSpec, ShortPolicy, frame_indices, view_positions
from fastplan.config import AugmentConfig
from fastplan.data.index import VideoIndex


@dataclass(frozen=True)
class EpochSamples:
    """M samples in the order in which they are trained on or evaluated.

    videos_M: position in the index. frames_MT: frame indices. crops_M4: left, top, right, bottom of the crop as
    fractions of the picture. flips_M: 1 to mirror. colours_M4: factors of brightness, contrast and saturation, and
    hue in degrees; 1, 1, 1, 0 change nothing.
    """

    videos_M: npt.NDArray[np.int64]
    frames_MT: npt.NDArray[np.int32]
    crops_M4: npt.NDArray[np.float32]
    flips_M: npt.NDArray[np.int32]
    colours_M4: npt.NDArray[np.float32]

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
    rng = stream_rng(seed, stream, epoch)
    positions_MS = rng.random((total, spec.segments))
    crops_M4 = _random_crops(rng, index, videos_M, augment)
    flips_M = (rng.random(total) < augment.flip).astype(np.int32)
    colours_M4 = _random_colours(rng, total, augment)
    frames_MT = frame_indices(index.frames_N[videos_M], spec, positions_MS, short=short)
    return EpochSamples(videos_M, frames_MT, crops_M4, flips_M, colours_M4)


def evaluation_samples(index: VideoIndex, spec: ClipSpec, *, views: int, short: ShortPolicy = "loop") -> EpochSamples:
    """`views` clips of every video, evenly placed, video by video; the centre square, no colour change."""
    videos_M = np.repeat(np.arange(len(index)), views)
    positions_MS = np.stack([view_positions(len(index), spec, v, views) for v in range(views)], axis=1)
    frames_MT = frame_indices(index.frames_N[videos_M], spec, positions_MS.reshape(-1, spec.segments), short=short)
    sizes_N2 = index.sizes_N2.astype(np.float64)
    half_N2 = 0.5 * sizes_N2.min(axis=1, keepdims=True) / sizes_N2
    crops_M4 = np.concatenate([0.5 - half_N2, 0.5 + half_N2], axis=1).astype(np.float32)[videos_M]
    total = len(videos_M)
    colours_M4 = np.tile(np.array([1, 1, 1, 0], np.float32), (total, 1))
    return EpochSamples(videos_M, frames_MT, crops_M4, np.zeros(total, np.int32), colours_M4)


def _draw_videos(videos: int, total: int, *, seed: int, stream: str, epoch: int) -> npt.NDArray[np.int64]:
    """Places epoch * total ... of an endless sequence of permutations, one per pass over the videos."""
    begin, end = epoch * total, (epoch + 1) * total
    passes = [
        stream_rng(seed, f"{stream}/order", p).permutation(videos)
        for p in range(begin // videos, (end + videos - 1) // videos)
    ]
    offset = begin // videos * videos
    return np.concatenate(passes)[begin - offset : end - offset]


def _random_crops(
    rng: np.random.Generator, index: VideoIndex, videos_M: npt.NDArray[np.int64], augment: AugmentConfig
) -> npt.NDArray[np.float32]:
    """Random resized crops: area and log aspect ratio uniform, clipped to the picture, position uniform."""
    total = len(videos_M)
    sizes_M2 = index.sizes_N2[videos_M].astype(np.float64)
    area_M = rng.uniform(*augment.scale, total) * sizes_M2.prod(axis=1)
    ratio_M = np.exp(rng.uniform(math.log(augment.ratio[0]), math.log(augment.ratio[1]), total))
    wanted_M2 = np.stack([np.sqrt(area_M * ratio_M), np.sqrt(area_M / ratio_M)], axis=1)
    part_M2 = np.minimum(wanted_M2 / sizes_M2, 1.0)
    corner_M2 = rng.random((total, 2)) * (1.0 - part_M2)
    return np.concatenate([corner_M2, corner_M2 + part_M2], axis=1).astype(np.float32)


def _random_colours(rng: np.random.Generator, total: int, augment: AugmentConfig) -> npt.NDArray[np.float32]:
    strengths = np.array([augment.brightness, augment.contrast, augment.saturation, augment.hue])
    drawn_M4 = rng.uniform(-1.0, 1.0, (total, 4)) * strengths
    neutral = np.array([1.0, 1.0, 1.0, 0.0])
    drawn_M4 = np.where(rng.random((total, 1)) < augment.jitter, drawn_M4, 0.0)
    drawn_M4[:, 3] *= 360.0
    return (neutral + drawn_M4).astype(np.float32)
