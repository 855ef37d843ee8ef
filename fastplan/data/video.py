"""One entry of an index: a video that decodes, a part of one, or a folder of pictures; or a file that is left out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from fastplan.data.packets import PacketTable
from fastplan.data.storage import Place

PICTURES = "pictures"


def no_table() -> PacketTable | None:
    """What there is of packets where clips go through the demuxer."""
    return None


class Form(NamedTuple):
    """What decides which decoder reads a video: its fields of these names."""

    codec: str
    pixels: str
    rotation: int
    mirror: bool
    fallback: str


@dataclass(frozen=True)
class VideoInfo:
    """A video, or the part of one, that clips are drawn from.

    path: names it; of a folder of pictures, the pattern of their names, such as `walk/img_{:05d}.jpg`. frames: that a
    full decode gives, or that the part holds. fps: average, 0 where unknown. width, height: in pixels, as shown
    (rotated). codec: FFmpeg's name, `pictures` for a folder. pixels: FFmpeg's name of their format. rotation: degrees,
    counter-clockwise, that the container asks for. start_pts, pts_step: timestamp of frame i of the whole video is
    start_pts + i * pts_step; pts_step is 0 where that does not hold or a seek is known to be wrong. fallback: why clips
    go through the demuxer, empty where there is a packet table. mirror: whether the picture is turned upside down
    before it is rotated. first: frame of the whole video at which the part begins; of a folder, the number of its first
    picture. shard, begin, size: as in `Place`.
    """

    path: str
    frames: int
    fps: float
    width: int
    height: int
    codec: str
    rotation: int
    start_pts: int
    pts_step: int
    fallback: str = ""
    mirror: bool = False
    first: int = 0
    shard: str = ""
    begin: int = 0
    size: int = 0
    pixels: str = ""
    load_table: Callable[[], PacketTable | None] = field(default=no_table, repr=False, compare=False)

    @property
    def place(self) -> Place:
        """Where its bytes lie."""
        return Place(self.path, self.shard, self.begin, self.size)

    @property
    def form(self) -> Form:
        """What decides which decoder reads it."""
        return Form(self.codec, self.pixels, self.rotation, self.mirror, self.fallback)

    @property
    def table(self) -> PacketTable | None:
        """The packets of the whole file, read from the index now; None where clips go through the demuxer."""
        return self.load_table()


@dataclass(frozen=True)
class BadVideo:
    """A file that is left out, and why."""

    path: str
    reason: str
