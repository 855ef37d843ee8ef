"""What is in one file: a full decode of a video, or of a folder of pictures, as one row of the index."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from fastplan.data.packets import PacketTable
from fastplan.data.pictures import picture_files, picture_frames, picture_path, pictures_in
from fastplan.data.scan import scan
from fastplan.data.storage import Place
from fastplan.data.video import PICTURES, BadVideo, VideoInfo

SHARED = tuple(field.name for field in fields(VideoInfo) if field.name not in ("size", "load_table"))
NO_PICTURES = "no video stream, or none that decodes"
_HASH_BYTES = 1 << 20


@dataclass(frozen=True)
class Probed:
    """One file as it was found; fields are the columns of the index, and those of `VideoInfo` mean the same.

    bad: why it is left out, empty where it decodes; the rest is then empty too. stamp: as of `Place`. bytes: size.
    duration_s, vfr: as `Timing` has them. stated_s, keyframes, gop: as in `Scan`. pixels: FFmpeg's name of the format.
    sha256: of the content, hexadecimal, empty where nobody asked. unit_s, pts_R: timestamps, as in `Timing`.
    """

    path: str
    stamp: str
    bad: str = ""
    frames: int = 0
    duration_s: float = 0.0
    stated_s: float = 0.0
    fps: float = 0.0
    vfr: bool = False
    width: int = 0
    height: int = 0
    bytes: int = 0
    rotation: int = 0
    mirror: bool = False
    codec: str = ""
    pixels: str = ""
    keyframes: int = 0
    gop: int = 0
    fallback: str = ""
    sha256: str = ""
    first: int = 0
    shard: str = ""
    begin: int = 0
    start_pts: int = 0
    pts_step: int = 0
    unit_s: float = 0.0
    pts_R: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), compare=False, repr=False)
    table: PacketTable | None = field(default=None, compare=False, repr=False)


def probe(path: Path) -> VideoInfo | BadVideo:
    """Decode a whole video, or a folder of pictures named by its pattern, and say what is in it."""
    found = probe_place(Place(str(path)))
    if found.bad:
        return BadVideo(found.path, found.bad)
    return video_of(vars(found), lambda: found.table)


def video_of(row: Mapping[str, Any], load_table: Callable[[], PacketTable | None]) -> VideoInfo:
    """The part of a row that decoding needs."""
    return VideoInfo(**{name: row[name] for name in SHARED}, size=row["bytes"], load_table=load_table)


def probe_place(place: Place, *, hash_content: bool = False) -> Probed:
    """Decode everything at `place`; nothing that is wrong with it raises.

    hash_content: also read it all for its SHA-256.
    """
    stamp = place.stamp()
    try:
        found = _pictures(place, stamp) if place.first_picture is not None else _video(place, stamp)
        if hash_content and not found.bad:
            found = _with_hash(found, place)
    except (OSError, av.FFmpegError, ValueError) as error:
        return _bad(place, stamp, _reason(error))
    return found


def bad_row(place: Place, reason: str) -> Probed:
    """The row of a file that could not even be probed."""
    return _bad(place, place.stamp(), reason)


def _bad(place: Place, stamp: str, reason: str) -> Probed:
    first = place.first_picture or 0
    return Probed(place.path, stamp, reason, first=first, shard=place.shard, begin=place.begin, bytes=place.size)


def _video(place: Place, stamp: str) -> Probed:
    with place.open() as source:
        if not source.size:
            raise ValueError("the file is empty")
    found = scan(place)
    if found is None:
        raise ValueError(NO_PICTURES)
    turned = found.rotation in (90, 270)
    timing, table = found.timing, found.table
    return Probed(
        place.path,
        stamp,
        frames=found.frames,
        duration_s=timing.duration_s,
        stated_s=found.stated_s,
        fps=timing.fps,
        vfr=timing.variable,
        width=found.height if turned else found.width,
        height=found.width if turned else found.height,
        bytes=found.bytes,
        rotation=found.rotation,
        mirror=found.mirror,
        codec=found.codec,
        pixels=found.pixels,
        keyframes=found.keyframes,
        gop=found.gop,
        fallback=found.fallback,
        shard=place.shard,
        begin=place.begin,
        start_pts=timing.start_pts if found.seeks else 0,
        pts_step=timing.pts_step if found.seeks else 0,
        unit_s=timing.unit_s,
        pts_R=timing.pts_R,
        table=table,
    )


def _pictures(place: Place, stamp: str) -> Probed:
    assert place.first_picture is not None
    numbers = pictures_in(place.path, place.first_picture)
    width = height = 0
    pixels = ""
    for number, frame in picture_frames(place.path, numbers):
        if number == place.first_picture:
            width, height, pixels = frame.width, frame.height, frame.format.name
    return Probed(
        place.path,
        stamp,
        frames=len(numbers),
        width=width,
        height=height,
        codec=PICTURES,
        pixels=pixels,
        keyframes=len(numbers),
        gop=1,
        first=place.first_picture,
        bytes=sum(status.st_size for status in picture_files(place.path)),
    )


def _with_hash(found: Probed, place: Place) -> Probed:
    digest = hashlib.sha256()
    if place.first_picture is not None:
        for number in range(found.first, found.first + found.frames):
            digest.update(Path(picture_path(place.path, number)).read_bytes())
    else:
        with place.open() as source:
            for offset in range(0, source.size, _HASH_BYTES):
                digest.update(source.read(offset, _HASH_BYTES))
    return replace(found, sha256=digest.hexdigest())


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a file"
    return f"cannot be decoded ({getattr(error, 'strerror', None) or error})"
