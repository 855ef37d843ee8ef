"""Videos that are folders of numbered pictures, such as `img_00001.jpg` and on.

Frame i is the file whose name carries the number first + i. Every picture is decoded by FFmpeg, like any other frame.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

import av


def picture_frames(pattern: str, numbers: Collection[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame) of each picture. Raises `OSError` or `av.FFmpegError` where one is missing or broken."""
    for number in sorted(numbers):
        yield number, _decode(pattern.format(number))


def check_pattern(pattern: str) -> str:
    """The file-name pattern itself. Raises `ValueError` where it does not hold one number."""
    try:
        parts = pattern.format(1), pattern.format(2)
    except (IndexError, KeyError, ValueError):
        parts = ("", "")
    if parts[0] == parts[1] or "/" in pattern:
        raise ValueError(f"'{pattern}' names no numbered pictures: write for example img_{{:05d}}.jpg")
    return pattern


def numbered(folder: Path, name_pattern: str, first: int) -> int:
    """How many pictures `folder` holds from number `first` on; those behind a gap do not count."""
    names = {entry.name for entry in folder.iterdir()}
    count = 0
    while name_pattern.format(first + count) in names:
        count += 1
    return count


def _decode(file: str) -> av.VideoFrame:
    with av.open(file) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for frame in container.decode(stream):
            return frame
    raise OSError(f"{file} holds no picture")
