"""When the pictures of a video are shown: as far as its container says it, and what follows from that."""

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

_VFR_SHARE = 0.05  # of the intervals; one stall in a recording is no variable rate
_JITTER_S = 0.001


@dataclass(frozen=True)
class Timing:
    """Timestamps in presentation order.

    start_pts, pts_step: timestamp of picture i is start_pts + i * pts_step, step 0 where that does not hold. pts_R:
    int64, empty where the container gives none, or not in order. unit_s: seconds of one unit. fps: average, 0 where
    unknown. duration_s: from the first picture to the end of the last. variable: whether intervals differ (VFR).
    """

    fps: float
    duration_s: float
    variable: bool
    start_pts: int
    pts_step: int
    unit_s: float
    pts_R: npt.NDArray[np.int64] = field(compare=False, repr=False)

    @classmethod
    def of(cls, pts: list[int | None], unit: Fraction | None, rate: Fraction | None) -> "Timing":
        """From the timestamps of all pictures, the container's unit and the average rate it states."""
        pts_R = np.array([time for time in pts if time is not None], np.int64)
        if not unit or len(pts_R) < len(pts) or (np.diff(pts_R) <= 0).any():
            pts_R = pts_R[:0]
        step_R = np.diff(pts_R)
        unit_s = float(unit or 0)
        fps = float(rate or 0)
        if not len(step_R):
            return cls(fps, len(pts) / fps if fps else 0.0, False, *_regular(pts), unit_s, pts_R)
        usual = float(np.median(step_R))
        off_R = np.abs(step_R - usual) * unit_s > 1.5 * unit_s + _JITTER_S
        duration_s = float(pts_R[-1] - pts_R[0] + usual) * unit_s
        variable = bool(off_R.mean() > _VFR_SHARE)
        return cls(fps or len(pts) / duration_s, duration_s, variable, *_regular(pts), unit_s, pts_R)


def frames_between(
    begin_s: float, end_s: float, *, frames: int, fps: float, unit_s: float, pts_R: npt.NDArray[np.int64]
) -> tuple[int, int]:
    """(first, stop) of the frames shown in [begin_s, end_s), counted from the first picture; stop <= first for none.

    By timestamps where there are any, else by the frame rate.
    """
    if len(pts_R):
        times_R = (pts_R - pts_R[0]) * unit_s
        first, stop = np.searchsorted(times_R, (begin_s - _JITTER_S / 2, end_s - _JITTER_S / 2)).tolist()
    else:
        first, stop = (math.ceil((time_s - _JITTER_S / 2) * fps) for time_s in (begin_s, end_s))
    return max(first, 0), min(stop, frames)


def _regular(pts: list[int | None]) -> tuple[int, int]:
    if len(pts) < 2 or pts[0] is None or pts[1] is None:
        return 0, 0
    start, step = pts[0], pts[1] - pts[0]
    regular = step > 0 and all(time == start + i * step for i, time in enumerate(pts))
    return (start, step) if regular else (0, 0)
