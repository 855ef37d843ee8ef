"""Pictures of one video, either way: from packets that a table names, or through the demuxer.

Both give (place in presentation order, frame). Numbers for the choice of details were measured on 340 x 256 H.264
clips with PyAV 18.1: a decoder per clip costs no more than a kept one, and threads inside it only add overhead.
"""

from collections.abc import Collection, Iterator

import av

from fastplan.data.packets import PacketTable
from fastplan.data.storage import ByteRange, Place

_READ_BYTES = 1 << 18


def packet_frames(place: Place, table: PacketTable, wanted: Collection[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """The pictures `wanted`, in presentation order within each run of the table.

    Raises `OSError` or `av.FFmpegError` where reading or decoding fails, `ValueError` where the file is not the one
    the table was made from.
    """
    with place.open() as whole:
        if whole.size != table.file_bytes:
            raise ValueError("the file has changed since it was indexed")
        source = Window(whole)
        decoder = _decoder(table)
        if table.coding.prime:
            decoder.decode(source.packet(0, int(table.offset_P[0]), int(table.size_P[0])))
            decoder.decode(None)
        for run in table.runs(wanted):
            decoder.flush_buffers()
            rank_of = dict(zip(table.row_R[list(run.wanted)].tolist(), run.wanted, strict=True))
            rows = table.needed(run)
            places = zip(rows.tolist(), table.offset_P[rows].tolist(), table.size_P[rows].tolist(), strict=True)
            for row, offset, size in places:
                for frame in decoder.decode(source.packet(row, offset, size)):
                    if frame.pts in rank_of:
                        yield rank_of[frame.pts], frame
            # Draining gives what the decoder holds back; feeding on would decode pictures that nobody wants.
            for frame in decoder.decode(None):
                if frame.pts in rank_of:
                    yield rank_of[frame.pts], frame


def demuxed_frames(place: Place, first: int, *, start_pts: int, pts_step: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """All pictures from one at or before `first` on; without a regular `pts_step` from the beginning.

    Raises `OSError` or `av.FFmpegError` where reading or decoding fails.
    """
    with place.open_demuxable() as file, av.open(file, metadata_errors="replace") as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        if first == 0 or pts_step == 0:
            yield from enumerate(container.decode(stream))
            return
        container.seek(start_pts + first * pts_step, stream=stream, backward=True)
        landed = False
        for frame in container.decode(stream):
            index, off_grid = divmod((frame.pts or 0) - start_pts, pts_step)
            if not landed and (index > first or off_grid):
                container.seek(0, stream=stream, backward=True)
                yield from enumerate(container.decode(stream))
                return
            landed = True
            yield index, frame


class Window:
    """A file read in large pieces."""

    def __init__(self, source: ByteRange) -> None:
        self._source = source
        self._begin = 0
        self._bytes = b""

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end of the file."""
        at = offset - self._begin
        if at < 0 or at + size > len(self._bytes):
            self._begin, at = offset, 0
            self._bytes = self._source.read(offset, max(size, _READ_BYTES))
        return self._bytes[at : at + size]

    def packet(self, row: int, offset: int, size: int) -> av.Packet:
        """A packet in FFmpeg's own padded memory, tagged with its row. Raises `OSError` at the end of the file."""
        content = self.read(offset, size)
        if len(content) < size:
            raise OSError(f"the file ends within the packet at byte {offset}")
        packet = av.Packet(size)
        packet.update(content)
        packet.pts = packet.dts = row  # comes back on the frame and says which packet it was
        return packet


def _decoder(table: PacketTable) -> av.VideoCodecContext:
    coding = table.coding
    decoder = av.CodecContext.create(coding.codec, "r")
    assert isinstance(decoder, av.VideoCodecContext)
    if coding.extradata:
        decoder.extradata = bytes.fromhex(coding.extradata)
    if coding.tag:
        decoder.codec_tag = coding.tag
    decoder.width, decoder.height = coding.width, coding.height
    decoder.color_range, decoder.color_primaries, decoder.color_trc, decoder.colorspace = coding.colours
    decoder.thread_type, decoder.thread_count = "NONE", 1
    # H.264 that does not state its reorder depth loses pictures in a decoder that has not seen the demuxer's guess;
    # strict compliance makes it wait for the full depth.
    decoder.options = {"strict": "1"}
    return decoder
