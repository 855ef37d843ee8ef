"""Shared pieces of the tests: real clips where they are present, and videos whose frames carry their own number."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fastplan.data.synthetic import write_grey

BITS = 8
SIDE_PX = 48


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips beside the checkout (FASTPLAN_SHARED names another); skips where it is absent."""
    folder = Path(os.environ.get("FASTPLAN_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "videos" / "manifest.csv").exists():
        pytest.skip(f"no real clips at {folder}: set FASTPLAN_SHARED to their folder")
    return folder


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


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of three numbered videos, 30 to 200 frames long."""
    root = tmp_path_factory.mktemp("numbered")
    for number, frames in enumerate((30, 64, 200, 41, 97, 128)):
        write_numbered(root / f"class{number % 2}" / f"v{number}_{frames}.mp4", frames)
    return root
