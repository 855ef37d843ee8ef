"""Videos to measure on: one source, encoded in several ways. They stay in a folder and are made once.

The source is a real clip where there is one, else moving noise with edges, which compresses about as well. It is
scaled to a short side of 256 pixels; the files of a set begin at different frames of it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation

from fastplan.data.list_formats import VIDEO_SUFFIXES
from fastplan.data.lists import read_videos
from fastplan.errors import UserError

SHORT_SIDE_PX = 256
FRAMES = 300
RATE = 30
_FORMAT = 1  # of the files made here; a new number makes them anew


@dataclass(frozen=True)
class Encoding:
    """One way to encode. gop: frames from keyframe to keyframe."""

    codec: str
    encoder: str
    suffix: str
    gop: int
    options: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"{self.codec}, GOP {self.gop}"


_X264 = (("preset", "medium"), ("crf", "24"), ("sc_threshold", "0"))
_VP9 = (("deadline", "realtime"), ("cpu-used", "8"), ("crf", "33"), ("b", "0"), ("auto-alt-ref", "0"))
ENCODINGS = (
    *(Encoding("H.264", "libx264", "mp4", gop, _X264) for gop in (12, 250)),
    *(Encoding("VP9", "libvpx-vp9", "webm", gop, _VP9) for gop in (12, 250)),
    *(Encoding("MPEG-4", "mpeg4", "avi", gop, (("qscale", "4"),)) for gop in (12, 250)),
)


def make(encoding: Encoding, source: Path | None, folder: Path, files: int, on_file: Callable[[], None]) -> Path:
    """A folder of two classes with `files` videos of `FRAMES` frames, made where it is not there yet.

    Raises `UserError` where the source cannot be read.
    """
    if source is not None and not source.is_file():
        raise UserError(f"there is no video {source} (--data)")
    name = f"{_FORMAT}{encoding}{source and source.resolve()}{source and source.stat().st_size}"
    place = folder / f"{encoding.encoder}-{encoding.gop}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    pictures: list[av.VideoFrame] = []
    for number in range(files):
        file = place / "ab"[number % 2] / f"{number}.{encoding.suffix}"
        if not file.exists():
            pictures = pictures or _pictures(source)
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f"partial-{file.name}")
            _write(partial, encoding, pictures, shift=number * 97)
            partial.replace(file)
        on_file()
    return place


def source_of(data: Path | None) -> Path | None:
    """The video whose pictures are encoded: `data` itself, or the first of a folder or list."""
    if data is None or data.suffix.lower() in VIDEO_SUFFIXES:
        return data
    return read_videos(data).paths[0]


def _pictures(source: Path | None) -> list[av.VideoFrame]:
    if source is None:
        return _drawn()
    pictures = []
    try:
        with av.open(str(source), metadata_errors="replace") as container:
            for frame in container.decode(video=0):
                scale = SHORT_SIDE_PX / min(frame.width, frame.height)
                width, height = (round(side * scale / 2) * 2 for side in (frame.width, frame.height))
                pictures.append(
                    frame.reformat(width, height, "yuv420p", interpolation=Interpolation.BICUBIC, threads=1)
                )
                if len(pictures) == FRAMES:
                    break
    except (OSError, av.FFmpegError, IndexError) as error:
        raise UserError(f"{source} cannot be read as a video ({error}): give another one with --data") from None
    if len(pictures) < 32:
        raise UserError(f"{source} has {len(pictures)} frames; a source of at least 32 is wanted (--data)")
    return pictures


def _drawn() -> list[av.VideoFrame]:
    rng = np.random.default_rng(0)
    width = 340
    texture = rng.integers(0, 256, (SHORT_SIDE_PX + FRAMES, width + FRAMES, 3), np.uint8)
    for axis in (0, 1):
        texture = sum(np.roll(texture, k, axis).astype(np.float32) for k in range(-4, 5)) / 9
    texture = np.clip((texture - 128) * 6 + 128, 0, 255).astype(np.uint8)
    pictures = []
    for number in range(FRAMES):
        picture = texture[number // 2 :, number:][:SHORT_SIDE_PX, :width].copy()
        left = 20 + number * 7 % 220
        picture[90:150, left : left + 80] = texture[-60:, -80:]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        pictures.append(frame.reformat(format="yuv420p", threads=1))
    return pictures


def _write(file: Path, encoding: Encoding, pictures: list[av.VideoFrame], *, shift: int) -> None:
    with av.open(str(file), "w", format={"avi": "avi", "mp4": "mp4", "webm": "webm"}[encoding.suffix]) as container:
        stream = container.add_stream(encoding.encoder, rate=RATE)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = pictures[0].width, pictures[0].height, "yuv420p"
        stream.codec_context.thread_count = 1  # the same pictures however many cores there are
        stream.codec_context.gop_size = encoding.gop
        stream.options = dict(encoding.options)
        for number in range(FRAMES):
            picture = pictures[(number + shift) % len(pictures)]
            picture.pts, picture.time_base, picture.pict_type = number, Fraction(1, RATE), 0
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
