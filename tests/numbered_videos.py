"""Videos whose frames carry their own number."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastplan.data.synthetic import write_grey

BITS = 8
SIDE_PX = 48


def write_numbered(file: Path, frames: int, *, encoder: str = "libx264") -> None:
    """A video whose frame i shows i as eight black or white blocks, four a row."""
    file.parent.mkdir(parents=True, exist_ok=True)
    video_THW = np.zeros((frames, SIDE_PX, SIDE_PX), np.uint8)
    for number in range(frames):
        for bit in range(BITS):
            row, column = divmod(bit, 4)
            if number >> bit & 1:
                video_THW[number, row * 24 : row * 24 + 24, column * 12 : column * 12 + 12] = 255
    write_grey(file, video_THW, encoder=encoder)


def read_numbers(pictures_THW: npt.NDArray[np.floating]) -> list[int]:
    """The numbers that pictures of any size and value range show, dark being below the middle of the range."""
    middle = (pictures_THW.max() + pictures_THW.min()) / 2
    height, width = pictures_THW.shape[1:]
    numbers = []
    for picture in pictures_THW:
        bits = [picture[(2 * (b // 4) + 1) * height // 4, (2 * (b % 4) + 1) * width // 8] > middle for b in range(BITS)]
        numbers.append(sum(int(on) << b for b, on in enumerate(bits)))
    return numbers
