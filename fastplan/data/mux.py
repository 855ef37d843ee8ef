"""Cuts: the packets of one clip as a small MP4 file in memory, for decoders that want a file.

DALI decodes from the first frame of the file it is given to the last one wanted; given a cut, it decodes what the clip
needs. The file has no edit list, so its frames are counted from 0 in presentation order, pictures that are only there
as references included.
"""

import io
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import av
import numpy as np
import numpy.typing as npt

from fastplan.data.packets import DISCARD, IDR, KEY, PICTURE, PacketTable, Run
from fastplan.data.storage import ByteRange, Place

_TIMESCALE = 3000  # units a second
_TICKS = 100  # units a frame: 30 frames a second, whatever the source had; only the order counts
_IDENTITY = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


class UncuttableError(ValueError):
    """These frames cannot be had from a cut of this file, though the file is sound."""


@dataclass(frozen=True)
class Cut:
    """encoded: a small video file, uint8 [bytes]. frames_T: int32, where in it the wanted frames are."""

    encoded: npt.NDArray[np.uint8]
    frames_T: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Cutter:
    """Cuts clips out of one file.

    place: the file that `table` was made from.
    """

    place: Place
    table: PacketTable

    def cut(self, frames_T: npt.NDArray[np.integer], *, drop_nonref: bool = False) -> Cut:
        """The packets that the frames `frames_T` (any order, repeats allowed) depend on, as a file.

        drop_nonref: leave out unwanted pictures to which no other refers.
        Raises `UncuttableError` where the frames of a cut could not be counted or would be wrong, or MP4 cannot hold
        the codec, `ValueError` where the file has changed, `OSError` or `av.FFmpegError` where it cannot be read.
        """
        rows = self._rows(frames_T.tolist(), drop_nonref)
        table = self.table
        if not (table.flags_P[rows] & (PICTURE | DISCARD)).all():
            raise UncuttableError("it has packets without a picture, so frames of a cut cannot be counted")
        if table.coding.prime and rows[0]:
            raise UncuttableError("its pictures depend on the first packet of the file, which a cut lacks")
        order_K = np.argsort(np.argsort(table.order_P[rows]))
        wanted_T = table.row_R[np.asarray(frames_T)]
        place_T = order_K[np.searchsorted(rows, wanted_T)]
        with self.place.open() as source:
            if source.size != table.file_bytes:
                raise ValueError("the file has changed since it was indexed")
            payload = _read(source, table.offset_P[rows], table.size_P[rows])
        keys = np.flatnonzero(table.has(KEY)[rows])
        moov, where = self._moov(table.size_P[rows], order_K, keys)
        encoded = b"".join((where, moov, struct.pack(">I4s", 8 + len(payload), b"mdat"), payload))
        return Cut(np.frombuffer(encoded, np.uint8), place_T.astype(np.int32))

    def _rows(self, ranks: Iterable[int], drop_nonref: bool) -> npt.NDArray[np.int64]:
        runs = self.table.runs(ranks)
        if not self.table.has(IDR)[[run.start for run in runs[1:]]].all():
            # A key of an open group may only open the file: after other pictures, decoders lose frames.
            wanted = tuple(rank for run in runs for rank in run.wanted)
            runs = [Run(runs[0].start, max(run.stop for run in runs), wanted)]
        return np.concatenate([self.table.needed(run, drop_nonref=drop_nonref) for run in runs])

    def _moov(
        self, size_K: npt.NDArray[np.int32], order_K: npt.NDArray[np.int64], keys: npt.NDArray[np.int64]
    ) -> tuple[bytes, bytes]:
        """Index box and file type box; the media data follow both."""
        file_type = _box(b"ftyp", b"isom", _u32(512), b"isomiso2mp41")
        shift_K = order_K - np.arange(len(order_K))
        shift_K = (shift_K - shift_K.min()) * _TICKS  # never negative, so that no edit list is needed
        samples = len(size_K)
        tables = (
            _sample_description(self.place, self.table.file_bytes),
            _full(b"stts", 0, _u32(1, samples, _TICKS)),
            _full(b"ctts", 0, _u32(samples), np.stack([np.ones_like(shift_K), shift_K], 1).astype(">u4").tobytes()),
            _full(b"stss", 0, _u32(len(keys)), (keys + 1).astype(">u4").tobytes()),
            _full(b"stsc", 0, _u32(1, 1, samples, 1)),
            _full(b"stsz", 0, _u32(0, samples), size_K.astype(">u4").tobytes()),
        )
        duration = samples * _TICKS
        coding = self.table.coding
        header = _full(
            b"mvhd", 0, _u32(0, 0, _TIMESCALE, duration, 0x10000), b"\1\0", bytes(10), _IDENTITY, bytes(24), _u32(2)
        )
        track = _full(
            b"tkhd", 3, _u32(0, 0, 1, 0, duration), bytes(16), _IDENTITY, _u32(coding.width << 16, coding.height << 16)
        )
        media = _full(b"mdhd", 0, _u32(0, 0, _TIMESCALE, duration), b"\x55\xc4\0\0")
        handler = _full(b"hdlr", 0, bytes(4), b"vide", bytes(12), b"v\0")
        data = _box(b"dinf", _full(b"dref", 0, _u32(1), _full(b"url ", 1)))

        def moov(first_byte: int) -> bytes:
            sample_tables = _box(b"stbl", *tables, _full(b"stco", 0, _u32(1, first_byte)))
            information = _box(b"minf", _full(b"vmhd", 1, bytes(8)), data, sample_tables)
            return _box(b"moov", header, _box(b"trak", track, _box(b"mdia", media, handler, information)))

        return moov(len(file_type) + len(moov(0)) + 8), file_type


@lru_cache(maxsize=4096)
def _sample_description(place: Place, file_bytes: int) -> bytes:
    """The box that names codec and settings, as FFmpeg's muxer writes it; it depends on the file alone."""
    memory = io.BytesIO()
    with (
        place.open_demuxable() as file,
        av.open(file, metadata_errors="replace") as source,
        av.open(memory, "w", format="mp4", options={"strict": "unofficial"}) as target,
    ):
        stream = source.streams.video[0]
        try:
            copy = target.add_stream_from_template(stream)
        except ValueError as error:
            raise UncuttableError(str(error)) from error
        for packet in source.demux(stream):
            if packet.size:
                packet.pts = packet.dts = 0
                packet.stream = copy
                target.mux(packet)
                break
    written = memory.getvalue()
    begin = written.index(b"stsd") - 4
    return written[begin : begin + int.from_bytes(written[begin : begin + 4], "big")]


def _read(source: ByteRange, offset_K: npt.NDArray[np.int64], size_K: npt.NDArray[np.int32]) -> bytes:
    """Packets one behind another; neighbours in the file are read in one go."""
    end_K = offset_K + size_K
    breaks = np.flatnonzero(offset_K[1:] != end_K[:-1]) + 1
    begins, ends = offset_K[np.r_[0, breaks]], end_K[np.r_[breaks - 1, len(end_K) - 1]]
    pieces = [source.read(begin, end - begin) for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
    payload = b"".join(pieces)
    if len(payload) != size_K.sum():
        raise OSError("the file ends within a packet")
    return payload


def _u32(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def _box(name: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), name) + body


def _full(name: bytes, flags: int, *content: bytes) -> bytes:
    return _box(name, _u32(flags), *content)
