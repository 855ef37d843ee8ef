"""Which frames make a clip: index arithmetic only, no I/O, no decoding.

A clip is `segments` runs of `frames` frames taken `stride` apart. One segment is the *consecutive* sampler, many
segments spread over the video are the *uniform* one (temporal segment networks, and the published segments of four).
All lengths and offsets are in frames, all indices count frames in presentation order from 0.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from numba import njit

from fastplan.errors import UserError

ShortPolicy = Literal["loop", "repeat_last", "error"]


@dataclass(frozen=True)
class ClipSpec:
    """One clip regime.

    segments: how many equal parts of the video give frames, >= 1.
    frames: consecutive (up to `stride`) frames taken from each segment, >= 1.
    stride: distance between two frames of a segment, >= 1.
    size: side of the square picture the network sees, in pixels, >= 1.

    Raises `UserError` for anything that is not a positive whole number.
    """

    segments: int
    frames: int
    stride: int = 1
    size: int = 224

    def __post_init__(self) -> None:
        for name in ("segments", "frames", "stride", "size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"clip {name} is {value!r}; it must be a whole number of at least 1")

    @classmethod
    def consecutive(cls, length: int, *, stride: int = 1, size: int = 224) -> "ClipSpec":
        """`length` frames, `stride` apart, from one place of the video."""
        return cls(1, length, stride, size)

    @classmethod
    def uniform(cls, length: int, *, per_segment: int = 4, size: int = 224) -> "ClipSpec":
        """`length` frames spread over the whole video as `length / per_segment` runs of `per_segment` frames."""
        if per_segment < 1 or length % per_segment:
            raise UserError(f"a uniform clip of {length} frames cannot be cut into runs of {per_segment}")
        return cls(length // per_segment, per_segment, 1, size)

    @property
    def length(self) -> int:
        """Frames the network sees: segments x frames."""
        return self.segments * self.frames

    @property
    def span(self) -> int:
        """Frames of the video that one segment covers: frames x stride."""
        return self.frames * self.stride

    def __str__(self) -> str:
        stride = f" s{self.stride}" if self.stride > 1 else ""
        return f"{self.segments}x{self.frames}{stride}, {self.size} px"


def length_fault(frames: int, *, multiple: int, least: int) -> str | None:
    """What is wrong with clips of `frames` frames for a network, in words; None where nothing is."""
    if frames >= least and frames % multiple == 0:
        return None
    wanted = [f"a multiple of {multiple}"] if multiple > 1 else []
    wanted += [f"at least {least}"] if least > multiple else []
    return f"{frames} frames; the network needs {', '.join(wanted)}"


@njit(cache=True)
def _fill(
    durations_N: npt.NDArray[np.int64],
    positions_NS: npt.NDArray[np.float64],
    frames: int,
    stride: int,
    loop: bool,
    out_NT: npt.NDArray[np.int32],
) -> None:
    segments = positions_NS.shape[1]
    span = frames * stride
    for n in range(durations_N.shape[0]):
        duration = durations_N[n]
        segment = duration // segments
        room = max(duration - span, 0)
        for s in range(segments):
            if segment >= span:
                start = s * segment + min(int(positions_NS[n, s] * (segment - span + 1)), segment - span)
            elif segments > 1:
                start = (s * room + (segments - 1) // 2) // (segments - 1)
            else:
                start = 0
            for f in range(frames):
                index = start + f * stride
                if index >= duration:
                    index = index % duration if loop else duration - 1
                out_NT[n, s * frames + f] = index


def frame_indices(
    durations_N: npt.ArrayLike, spec: ClipSpec, positions_NS: npt.ArrayLike, *, short: ShortPolicy = "loop"
) -> npt.NDArray[np.int32]:
    """Frame indices of one clip for each of N videos (METHOD section 2: Qiu et al., ICML 2021).

    durations_N: frames in each video, >= 1.
    positions_NS: where in its segment each run starts, in [0, 1): random numbers in training, `view_positions` in
        testing. With D = duration // segments, the offset is floor(position * (D - span + 1)), so in [0, D - span].
        Where a segment is shorter than the span, the runs overlap: their starts spread evenly over
        [0, duration - span] and the positions are not used.
    short: what a video shorter than the span does: start again (`loop`), hold its last frame (`repeat_last`), or
        raise (`error`).

    Returns int32 [N, segments * frames]. Raises `UserError` for an empty video, or a short one under `error`.
    """
    durations_N = np.ascontiguousarray(durations_N, np.int64)
    positions_NS = np.ascontiguousarray(positions_NS, np.float64)
    if positions_NS.shape != (len(durations_N), spec.segments):
        raise ValueError(f"positions have shape {positions_NS.shape}, want {(len(durations_N), spec.segments)}")
    if len(durations_N) and durations_N.min() < 1:
        raise UserError(f"video {int(durations_N.argmin())} of the list has no frames")
    if short == "error" and (durations_N < spec.span).any():
        which = int((durations_N < spec.span).argmax())
        raise UserError(
            f"clip spans {spec.span} frames but video {which} of the list has {durations_N[which]}; "
            "lower stride or frames, or set data.short: loop"
        )
    out_NT = np.empty((len(durations_N), spec.length), np.int32)
    _fill(durations_N, positions_NS, spec.frames, spec.stride, short == "loop", out_NT)
    return out_NT


def view_positions(durations_N: npt.ArrayLike, spec: ClipSpec, view: int, views: int) -> npt.NDArray[np.float64]:
    """Positions [N, segments] of test clip `view` of `views`, for `frame_indices`.

    In each segment of D frames, the starts of the views are linspace(0, D - span, views), rounded, so the first view
    holds the first frame and the last one the last; a single view lies in the centre.
    """
    if not 0 <= view < views:
        raise ValueError(f"view {view} is not in 0..{views - 1}")
    room_N = np.maximum(np.asarray(durations_N, np.int64) // spec.segments - spec.span, 0)
    part = view / (views - 1) if views > 1 else 0.5
    starts_N = np.floor(part * room_N + 0.5)
    return np.repeat(((starts_N + 0.5) / (room_N + 1))[:, None], spec.segments, axis=1)
