"""Videos that are folders of numbered pictures, such as `walk/img_00001.jpg` and on.

The video's path is the pattern of its files, `walk/img_{:05d}.jpg`, and frame i the file with the number first + i.
Pictures are decoded by FFmpeg, like any other frame.
"""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

import av


def picture_frames(pattern: str, numbers: Collection[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame) of each picture. Raises `OSError` or `av.FFmpegError` where one is missing or broken."""
    for number in sorted(numbers):
        yield number, _decode(picture_path(pattern, number))


def picture_path(pattern: str, number: int) -> str:
    """The file of one picture; braces in the names of folders mean nothing."""
    folder, name = os.path.split(pattern)
    return os.path.join(folder, name.format(number))


def is_pattern(name: str) -> bool:
    """Whether a file-name pattern holds exactly one number, such as `img_{:05d}.jpg`."""
    try:
        return name.format(1) != name.format(2) and "/" not in name
    except (IndexError, KeyError, ValueError):
        return False


def pictures_in(pattern: str, first: int) -> range:
    """The numbers of all pictures. Raises `OSError` where there is no folder, `ValueError` where one is missing."""
    folder, name = os.path.split(pattern)
    names = set(os.listdir(folder))
    stop = first
    while name.format(stop) in names:
        stop += 1
    if stop == first:
        raise ValueError(f"{name.format(first)}, which should be the first picture, is not there")
    number_of = {name.format(number): number for number in range(stop, stop + len(names))}
    if behind := min((number_of[other] for other in names & set(number_of)), default=None):
        raise ValueError(f"{name.format(stop)} is missing, {name.format(behind)} is there")
    return range(first, stop)


def picture_files(pattern: str) -> Iterator[os.stat_result]:
    """The size and time of change of every file in the folder."""
    with os.scandir(Path(pattern).parent) as entries:
        yield from (entry.stat() for entry in entries if entry.is_file())


def _decode(file: str) -> av.VideoFrame:
    with open(file, "rb") as content, av.open(content) as container:  # FFmpeg would read a '%' in the name as a pattern
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for frame in container.decode(stream):
            return frame
    raise OSError(f"{file} holds no picture")
