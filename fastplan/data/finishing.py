"""The end of a clip on the CPU, in one compiled pass: colours, blur, erasing, mirroring, normalisation and layout.

A GPU takes DALI's operators instead (`fastplan.data.dali`), which define what is to come out: the same up to their
rounding to whole numbers after each operator, which this pass leaves out. A clip is read once, as planes, and written
once, as floats; between the two lies one picture at most. Threads finish one clip each. What is done to single rows is
inlined: a call counts references to every slice that it is given, which took longer than the row.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from numba import njit

from fastplan.config import AugmentConfig
from fastplan.data.augmentation import Changes
from fastplan.data.buffers import Buffers
from fastplan.data.colour import colour_map

_FLOAT = np.float32
_REACH = 3.0  # standard deviations at which a Gaussian is cut off


class Finisher:
    """Finishes batches of clips in `threads` threads. Draws nothing: what is done is in the sample plan."""

    def __init__(self, augment: AugmentConfig, *, threads: int) -> None:
        mean_3, std_3 = np.array(augment.mean), np.array(augment.std)
        self._mean_3, self._scale_3 = 255.0 * mean_3, 1.0 / (255.0 * std_3)
        self._bounds_32 = np.stack([-mean_3 / std_3, (1.0 - mean_3) / std_3], axis=1).astype(_FLOAT)
        self._buffers = Buffers()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="finish")

    def run(self, clips: Sequence[npt.NDArray[np.uint8]], changes: Changes) -> torch.Tensor:
        """One batch as float32 [B, 3, T, H, W] in channels_last_3d storage.

        clips: B of uint8 [T, 3, H, W], RGB, in planes or packed.
        """
        frames, channels, height, width = clips[0].shape
        batch_NTHWC = self._buffers.empty((len(clips), frames, height, width, channels), np.float32)
        each = [changes[n : n + 1] for n in range(len(clips))]
        list(self._threads.map(self._finish, batch_NTHWC, clips, each))  # raises what a thread raised
        return torch.from_numpy(batch_NTHWC).permute(0, 4, 1, 2, 3)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False)

    def _finish(self, out_THWC: npt.NDArray[np.float32], clip_TCHW: npt.NDArray[np.uint8], change: Changes) -> None:
        height, width = clip_TCHW.shape[2:]
        map_34 = colour_map(*change.colours_M4[0].tolist()).astype(np.float64)
        map_34[:, 3] -= self._mean_3
        map_34 *= self._scale_3[:, None]
        left, top, right, bottom = change.erased_M4[0].tolist()
        box_4 = np.array([left * width, top * height, right * width, bottom * height]).astype(np.int64)
        taps_R = gaussian(float(change.blurs_M[0]))
        planes_TCHW = np.ascontiguousarray(clip_TCHW)
        _finish(out_THWC, planes_TCHW, map_34.astype(_FLOAT), self._bounds_32, taps_R, box_4, bool(change.flips_M[0]))


def gaussian(sigma: float) -> npt.NDArray[np.float32]:
    """The right half, middle first, of a Gaussian that is cut off at 3 sigma and sums to one; [1] where sigma is 0."""
    if sigma == 0.0:
        return np.ones(1, _FLOAT)
    taps_R = np.exp(-0.5 * (np.arange(math.ceil(_REACH * sigma) + 1) / sigma) ** 2)
    return (taps_R / (2.0 * taps_R.sum() - taps_R[0])).astype(_FLOAT)


@njit(nogil=True, cache=True)
def _finish(
    out_THWC: npt.NDArray[np.float32],
    clip_TCHW: npt.NDArray[np.uint8],
    map_34: npt.NDArray[np.float32],
    bounds_32: npt.NDArray[np.float32],
    taps_R: npt.NDArray[np.float32],
    box_4: npt.NDArray[np.int64],
    flip: bool,
) -> None:
    """Colour and normalise by the map, within bounds; blur, where there is more than one tap; empty the box; mirror."""
    frames, _, height, width = clip_TCHW.shape
    out_THX = out_THWC.reshape(frames, height, 3 * width)
    blurs = len(taps_R) > 1
    rows_3HW = np.empty((3, height if blurs else 0, width), np.float32)
    for t in range(frames):
        if blurs:
            _blur_rows(rows_3HW, clip_TCHW[t], map_34, bounds_32, taps_R)
            _finish_blurred(out_THX[t], rows_3HW, taps_R, box_4, flip)
        else:
            _finish_sharp(out_THX[t], clip_TCHW[t], map_34, bounds_32, box_4, flip)


@njit(nogil=True, cache=True)
def _finish_sharp(
    out_HX: npt.NDArray[np.float32],
    picture_CHW: npt.NDArray[np.uint8],
    map_34: npt.NDArray[np.float32],
    bounds_32: npt.NDArray[np.float32],
    box_4: npt.NDArray[np.int64],
    flip: bool,
) -> None:
    """One picture, X = 3 W, from its pixels."""
    row_3W = np.empty((3, picture_CHW.shape[2]), np.float32)
    for y in range(len(out_HX)):
        _colour(row_3W, 0, picture_CHW, y, map_34, bounds_32)
        _write(out_HX, row_3W, y, box_4, flip)


@njit(nogil=True, cache=True)
def _finish_blurred(
    out_HX: npt.NDArray[np.float32],
    rows_3HW: npt.NDArray[np.float32],
    taps_R: npt.NDArray[np.float32],
    box_4: npt.NDArray[np.int64],
    flip: bool,
) -> None:
    """One picture, X = 3 W, from what is blurred along its rows."""
    row_3W = np.empty((3, rows_3HW.shape[2]), np.float32)
    for y in range(len(out_HX)):
        _blur_columns(row_3W, rows_3HW, y, taps_R)
        _write(out_HX, row_3W, y, box_4, flip)


@njit(inline="always")
def _colour(
    out_3V: npt.NDArray[np.float32],
    begin: int,
    picture_CHW: npt.NDArray[np.uint8],
    y: int,
    map_34: npt.NDArray[np.float32],
    bounds_32: npt.NDArray[np.float32],
) -> None:
    """Write one row of the picture from column `begin` on.

    A channel at a time and with bounds as comparisons, which make vector code, where min and max do not.
    """
    width = picture_CHW.shape[2]
    red_W, green_W, blue_W = picture_CHW[0, y], picture_CHW[1, y], picture_CHW[2, y]
    for c in range(3):
        of_red, of_green, of_blue, offset = map_34[c]
        low, high = bounds_32[c]
        out_W = out_3V[c, begin : begin + width]
        for x in range(width):
            value = of_red * np.float32(red_W[x]) + of_green * np.float32(green_W[x])
            value = value + of_blue * np.float32(blue_W[x]) + offset
            value = low if value < low else value
            out_W[x] = high if value > high else value


@njit(nogil=True, cache=True)
def _blur_rows(
    out_3HW: npt.NDArray[np.float32],
    picture_CHW: npt.NDArray[np.uint8],
    map_34: npt.NDArray[np.float32],
    bounds_32: npt.NDArray[np.float32],
    taps_R: npt.NDArray[np.float32],
) -> None:
    """Colour a picture and blur it along its rows."""
    _, height, width = out_3HW.shape
    reach = len(taps_R) - 1
    wide_3V = np.empty((3, width + 2 * reach), np.float32)
    for y in range(height):
        _colour(wide_3V, reach, picture_CHW, y, map_34, bounds_32)
        for c in range(3):
            wide_V, out_W = wide_3V[c], out_3HW[c, y]
            for k in range(1, reach + 1):
                wide_V[reach - k] = wide_V[reach + _mirrored(-k, width)]
                wide_V[reach + width - 1 + k] = wide_V[reach + _mirrored(width - 1 + k, width)]
            _weigh(out_W, wide_V[reach : reach + width], taps_R[0])
            for k in range(1, reach + 1):
                _add_pair(
                    out_W, wide_V[reach - k : reach - k + width], wide_V[reach + k : reach + k + width], taps_R[k]
                )


@njit(nogil=True, cache=True)
def _blur_columns(
    out_3W: npt.NDArray[np.float32], planes_3HW: npt.NDArray[np.float32], y: int, taps_R: npt.NDArray[np.float32]
) -> None:
    """One row of a picture, blurred along the columns."""
    height = planes_3HW.shape[1]
    for c in range(3):
        out_W = out_3W[c]
        _weigh(out_W, planes_3HW[c, y], taps_R[0])
        for k in range(1, len(taps_R)):
            above, below = _mirrored(y - k, height), _mirrored(y + k, height)
            _add_pair(out_W, planes_3HW[c, above], planes_3HW[c, below], taps_R[k])


@njit(inline="always")
def _weigh(out_W: npt.NDArray[np.float32], row_W: npt.NDArray[np.float32], weight: float) -> None:
    for x in range(len(out_W)):
        out_W[x] = weight * row_W[x]


@njit(inline="always")
def _add_pair(
    out_W: npt.NDArray[np.float32], one_W: npt.NDArray[np.float32], other_W: npt.NDArray[np.float32], weight: float
) -> None:
    for x in range(len(out_W)):
        out_W[x] += weight * (one_W[x] + other_W[x])


@njit(inline="always")
def _write(
    out_HX: npt.NDArray[np.float32], row_3W: npt.NDArray[np.float32], y: int, box_4: npt.NDArray[np.int64], flip: bool
) -> None:
    """Write row y pixel by pixel, the box emptied, from its right end if it is to be mirrored."""
    left, top, right, bottom = box_4
    if top <= y < bottom:
        row_3W[:, left:right] = np.float32(0)
    out_X, red_W, green_W, blue_W = out_HX[y], row_3W[0], row_3W[1], row_3W[2]
    width = len(red_W)
    if flip:
        for x in range(width):
            from_x = width - 1 - x
            out_X[3 * x], out_X[3 * x + 1], out_X[3 * x + 2] = red_W[from_x], green_W[from_x], blue_W[from_x]
    else:
        for x in range(width):
            out_X[3 * x], out_X[3 * x + 1], out_X[3 * x + 2] = red_W[x], green_W[x], blue_W[x]


@njit(inline="always")
def _mirrored(place: int, extent: int) -> int:
    """A place beyond the edge as the one that shows there: pictures go on mirrored, without repeating the edge."""
    if extent == 1:
        return 0
    place = abs(place) % (2 * extent - 2)
    return min(place, 2 * extent - 2 - place)
