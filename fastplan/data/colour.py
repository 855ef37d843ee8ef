"""Colour changes as one affine map of (red, green, blue) per clip: what DALI's `color_twist` computes."""

import math

import numpy as np
import numpy.typing as npt

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
