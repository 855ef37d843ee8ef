"""One full decode of a video: what is in it, and how its pictures are found again.

While the video is decoded once, every packet is tagged with its place in the file, so the decoder itself says which
packet gives which picture; timestamps are not needed and not believed. The packet table that comes of it is then tried
at places where such tables went wrong. A file that breaks a rule keeps the demuxer, and the reason is noted.
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.video.stream import VideoStream

from fastplan.data.bitstream import is_filler, is_idr, is_nonref, length_bytes, split_vops
from fastplan.data.packets import DISCARD, IDR, KEY, NONREF, PICTURE, Coding, PacketTable, presentation_order
from fastplan.data.reading import Window, demuxed_frames, packet_frames
from fastplan.data.storage import ByteRange, Place
from fastplan.data.timing import Timing

NO_HEADER = "no header that FFmpeg knows"
_SEARCH_BYTES = 64  # Matroska gives the position of the block, with the packet a few bytes behind it
_FIRST_TRIED = (0, 3, 7)  # with gaps, so that unreferenced pictures are left out
_KEYS_TRIED = 2
_OPEN_KEYS_TRIED = 6  # of open groups: x265 4.2 wrote some whose later pictures refer to the group before
_AFTER_KEY = (0, 1, 4)
_FATAL_SIDE_DATA = ("new_extradata", "param_change", "palette")


@dataclass(frozen=True)
class Scan:
    """What a full decode showed.

    frames: pictures in presentation order. bytes: size of the file. width, height: in pixels, as coded. pixels:
    FFmpeg's name of the format. rotation: degrees counter-clockwise, a multiple of 90, after the picture was turned
    upside down where `mirror` says so. keyframes: how many. gop: most pictures from one keyframe to the next. timing:
    when they are shown. stated_s: how long the header says it is, 0 where it does not. seeks: whether the demuxer finds
    pictures by their timestamps. table: None where `fallback` says why packets cannot be fed.
    """

    frames: int
    bytes: int
    width: int
    height: int
    codec: str
    pixels: str
    rotation: int
    mirror: bool
    keyframes: int
    gop: int
    timing: Timing
    stated_s: float
    seeks: bool
    table: PacketTable | None
    fallback: str


def scan(place: Place) -> Scan | None:
    """Decode a whole video; None where it has no video stream or no picture.

    Raises `OSError`, `av.FFmpegError` or `ValueError` where it cannot be opened or decoded.
    """
    with (
        place.open() as source,
        place.open_demuxable() as file,
        _opened(file) as container,
    ):
        if not container.streams.video:
            return None
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("its codec is not known")
        stream.thread_type = "NONE"
        rows = _Rows(stream.codec_context.codec.name, stream.codec_context.extradata or b"", source)
        seen = _Seen()
        for packet in container.demux(stream):
            if not packet.size:
                continue
            for piece in rows.add(packet):
                seen.add(stream.codec_context.decode(piece))
        seen.add(stream.codec_context.decode(None))
        if not seen.rows:
            return None
        context = stream.codec_context
        coding = _coding(context, seen.pixels)
        codec, stated_s = context.name, _stated_s(container, stream)
        timing = Timing.of([rows.pts[row] for row in seen.rows], stream.time_base, stream.average_rate)
    table, fallback = rows.table(coding, seen)
    if table is not None and not _same(_tried(place, table, seen), seen):
        table, fallback = None, "packets fed alone decode to other pictures"
    seeks = timing.pts_step > 0 and (table is not None or (not seen.damaged and _seeks_well(place, seen, timing)))
    return Scan(
        len(seen.rows),
        rows.file_bytes,
        seen.width,
        seen.height,
        codec,
        seen.pixels,
        seen.rotation,
        seen.mirror,
        len(seen.keys),
        max(np.diff([*seen.keys, len(seen.rows)]).tolist(), default=0),
        timing,
        stated_s,
        seeks,
        table,
        fallback,
    )


def _opened(file: Any) -> InputContainer:
    try:
        return av.open(file, metadata_errors="replace")
    except av.InvalidDataError:
        raise ValueError(NO_HEADER) from None


@dataclass
class _Seen:
    """The pictures of the full decode: the row and a checksum of each, the keyframes, and what they look like."""

    rows: list[int] = field(default_factory=list)
    checks: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    width: int = 0
    height: int = 0
    rotation: int = 0
    mirror: bool = False
    pixels: str = ""
    damaged: bool = False
    changes: bool = False

    def add(self, frames: Iterable[av.VideoFrame]) -> None:
        for frame in frames:
            if not self.rows:
                self.width, self.height, self.pixels = frame.width, frame.height, frame.format.name
                self.rotation = round(frame.rotation / 90) % 4 * 90
                self.mirror = _mirrored(frame)
            self.changes |= (frame.width, frame.height, frame.format.name) != (self.width, self.height, self.pixels)
            self.damaged |= frame.is_corrupt
            if frame.key_frame:
                self.keys.append(len(self.rows))
            self.rows.append(-1 if frame.pts is None else frame.pts)
            self.checks.append(_check(frame))


class _Rows:
    """The packets of one file while they are read: table columns, and the first reason not to use them."""

    def __init__(self, codec: str, extradata: bytes, source: ByteRange) -> None:
        self._codec = codec
        self._nal_length = length_bytes(codec, extradata)
        self._window = Window(source)
        self.file_bytes = source.size
        self._packed = False
        self._fallback = ""
        self.pts: list[int | None] = []
        self._offsets: list[int] = []
        self._sizes: list[int] = []
        self._flags: list[int] = []

    def add(self, packet: av.Packet) -> Iterator[av.Packet]:
        """Note a packet; give what the decoder must be fed for it, tagged with the row."""
        body = bytes(packet)
        offset = self._locate(packet.pos, body)
        if any(data.data_type in _FATAL_SIDE_DATA for data in packet.iter_sidedata()):
            self._fallback = self._fallback or "the container changes the decoder's settings in mid-video"
        pieces = split_vops(body) if self._codec == "mpeg4" else [(0, len(body))]
        self._packed |= len(pieces) > 1
        if self._codec == "mpeg4" and len(pieces) == 1 and is_filler(body, packed=self._packed):
            return
        for begin, end in pieces:
            part = packet
            if len(pieces) > 1:
                part = av.Packet(end - begin)
                part.update(body[begin:end])
            part.pts, pts = len(self.pts), packet.pts
            part.dts = part.pts
            self.pts.append(pts)
            self._offsets.append(offset + begin)
            self._sizes.append(end - begin)
            self._flags.append(self._flag(packet, body[begin:end], first=begin == 0))
            yield part

    def table(self, coding: Coding, seen: _Seen) -> tuple[PacketTable | None, str]:
        """The finished table, or None and why there can be none."""
        rows_R = np.array(seen.rows, np.int64)
        flags_P = np.array(self._flags, np.uint8)
        self._fallback = self._fallback or self._objection(rows_R, flags_P, seen)
        if self._fallback:
            return None, self._fallback
        flags_P[rows_R] |= PICTURE
        silent = (flags_P & (PICTURE | DISCARD)) == 0
        if coding.codec == "h264" and silent.any():
            return None, "has H.264 packets without a picture of their own (fields, or damage)"
        flags_P[silent] &= ~np.uint8(KEY | IDR | NONREF)  # a repeat marker of one byte may be called a key
        table = PacketTable(
            coding,
            self.file_bytes,
            np.array(self._offsets, np.int64),
            np.array(self._sizes, np.int32),
            presentation_order(rows_R, self.pts),
            flags_P,
        )
        keys = np.flatnonzero(table.has(KEY))
        if not len(keys) or (np.diff(table.order_P[keys]) < 0).any():
            return None, "its keyframes are not in presentation order"
        if (table.start_rows(np.arange(len(rows_R))) > rows_R).any():
            return None, "begins with pictures that no keyframe precedes"
        return table, ""

    def _objection(self, rows_R: npt.NDArray[np.int64], flags_P: npt.NDArray[np.uint8], seen: _Seen) -> str:
        if seen.damaged:
            return "has damaged pictures"
        if seen.changes:
            return "changes its picture size or pixel format"
        if len(np.unique(rows_R)) < len(rows_R) or rows_R.min() < 0 or rows_R.max() >= len(flags_P):
            return "its pictures cannot be told apart by packet"
        return ""

    def _locate(self, pos: int | None, body: bytes) -> int:
        if pos is not None and pos >= 0:
            found = self._window.read(pos, len(body) + _SEARCH_BYTES).find(body)
            if found >= 0:
                return pos + found
        self._fallback = self._fallback or "its packets do not lie in one piece in the file"
        return 0

    def _flag(self, packet: av.Packet, body: bytes, *, first: bool) -> int:
        key = packet.is_keyframe and first
        flags = (KEY if key else 0) | (DISCARD if packet.is_discard else 0)
        if key and is_idr(self._codec, body, self._nal_length):
            flags |= IDR
        if not key and is_nonref(self._codec, body, self._nal_length):
            flags |= NONREF
        return flags


def _stated_s(container: InputContainer, stream: VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0


def _coding(context: av.VideoCodecContext, pixels: str) -> Coding:
    codec = context.codec.name
    try:
        tag = context.codec_tag
    except UnicodeDecodeError:
        tag = ""
    if codec in ("h264", "hevc") or not tag.isprintable():
        tag = ""
    colours = (context.color_range, context.color_primaries, context.color_trc, context.colorspace)
    # x264 states its version in the first packet only, and without it 4:4:4 pictures are predicted another way.
    prime = codec == "h264" and "444" in pixels
    return Coding(codec, tag, (context.extradata or b"").hex(), context.width, context.height, colours, prime)


def _tried(place: Place, table: PacketTable, seen: _Seen) -> dict[int, int] | None:
    """Checksums of pictures decoded from packets alone: some of the first, and some right after other keys."""
    keys = np.flatnonzero(table.has(KEY))[1:]
    open_keys = keys[~table.has(IDR)[keys]]
    chosen = np.union1d(_spread(keys, _KEYS_TRIED), _spread(open_keys, _OPEN_KEYS_TRIED))
    first_shown = np.searchsorted(table.order_P[table.row_R], table.order_P[chosen])
    wanted = {*_FIRST_TRIED, *(int(rank) + ahead for rank in first_shown for ahead in _AFTER_KEY)}
    wanted = {rank for rank in wanted if rank < len(seen.rows)}
    try:
        got = {rank: _check(frame) for rank, frame in packet_frames(place, table, wanted)}
    except (OSError, av.FFmpegError, ValueError):
        return None
    return got if len(got) == len(wanted) else None


def _spread(rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """At most `count` of the rows, evenly spread, the first and the last among them."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64))]


def _same(got: dict[int, int] | None, seen: _Seen) -> bool:
    return got is not None and all(seen.checks[rank] == check for rank, check in got.items())


def _seeks_well(place: Place, seen: _Seen, timing: Timing) -> bool:
    """Whether the demuxer finds the right pictures in the middle, near the end and at the end."""
    total = len(seen.rows)
    for first in sorted({total // 2, total * 9 // 10, total - 1}):
        last = min(first + 3, total - 1)
        found: dict[int, int] = {}
        try:
            for rank, frame in demuxed_frames(place, first, start_pts=timing.start_pts, pts_step=timing.pts_step):
                found[rank] = _check(frame)
                if rank >= last:
                    break
        except (OSError, av.FFmpegError, ValueError):
            return False
        if any(found.get(rank) != seen.checks[rank] for rank in range(first, last + 1)):
            return False
    return True


def _mirrored(frame: av.VideoFrame) -> bool:
    """Whether the display matrix mirrors: a rotation behind a vertical flip, whatever the axis."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, SideData):
        return False
    a, b, _, c, d = np.frombuffer(memoryview(matrix), np.int32)[:5].astype(float)
    return bool(a * d - b * c < 0)


def _check(frame: av.VideoFrame) -> int:
    """Checksum of every fourth row of the first plane, and of what decides the conversion to RGB."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8)[: plane.line_size * plane.height].reshape(plane.height, -1)
    visible = rows[::4, : plane.width * ((frame.format.components[0].bits + 7) // 8)]  # not the padding behind it
    look = f"{frame.width} {frame.height} {frame.format.name} {frame.colorspace} {frame.color_range}"
    return zlib.crc32(visible.tobytes(), zlib.crc32(look.encode()))
