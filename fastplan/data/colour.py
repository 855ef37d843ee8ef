"""Colour changes on the CPU: one affine map of (red, green, blue) per clip, compiled.

DALI's own operator for it takes 20 ns a pixel on the CPU, more than decoding the picture; this one 2.5 ns (measured on
224 x 224 clips, 2 cores of an Intel Xeon, DALI 2.4.0). Both round and saturate alike.
"""

import math

import numpy as np
import numpy.typing as npt
from numba import njit

_YIQ_OF_RGB = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_RGB_OF_YIQ = np.linalg.inv(_YIQ_OF_RGB)
_MIDDLE = 128.0


def colour_map(brightness: float, contrast: float, saturation: float, hue: float) -> npt.NDArray[np.float32]:
    """The map float32 [3, 4] (matrix, and offset in 0..255) of what DALI's `color_twist` does.

    brightness, contrast, saturation: factors, contrast about the middle grey. hue: degrees, a turn of chroma in YIQ.
    """
    turn = math.radians(hue)
    chroma = np.eye(3)
    chroma[1:, 1:] = saturation * np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    matrix = brightness * contrast * _RGB_OF_YIQ @ chroma @ _YIQ_OF_RGB
    offset = np.full((3, 1), brightness * (1.0 - contrast) * _MIDDLE)
    return np.concatenate([matrix, offset], axis=1).astype(np.float32)


@njit(fastmath=True, cache=True)
def recolour(
    out_THWC: npt.NDArray[np.uint8], clip_THWC: npt.NDArray[np.uint8], map_34: npt.NDArray[np.float32]
) -> None:
    """Write the clip, changed by the map, to `out_THWC`."""
    half, most, none = np.float32(0.5), np.float32(255), np.float32(0)
    rr, rg, rb, r0 = map_34[0, 0], map_34[0, 1], map_34[0, 2], map_34[0, 3] + half
    gr, gg, gb, g0 = map_34[1, 0], map_34[1, 1], map_34[1, 2], map_34[1, 3] + half
    br, bg, bb, b0 = map_34[2, 0], map_34[2, 1], map_34[2, 2], map_34[2, 3] + half
    for t in range(clip_THWC.shape[0]):
        for y in range(clip_THWC.shape[1]):
            for x in range(clip_THWC.shape[2]):
                r = np.float32(clip_THWC[t, y, x, 0])
                g = np.float32(clip_THWC[t, y, x, 1])
                b = np.float32(clip_THWC[t, y, x, 2])
                out_THWC[t, y, x, 0] = np.uint8(min(max(rr * r + rg * g + rb * b + r0, none), most))
                out_THWC[t, y, x, 1] = np.uint8(min(max(gr * r + gg * g + gb * b + g0, none), most))
                out_THWC[t, y, x, 2] = np.uint8(min(max(br * r + bg * g + bb * b + b0, none), most))
