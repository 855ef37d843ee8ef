"""The packet table: packing, planning by rules on a hand-made open group, and its place in the index cache."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_decode_exact import H264, write

from fastplan.data import index as index_module
from fastplan.data.bitstream import is_idr, is_nonref, length_bytes, split_vops
from fastplan.data.decode import decode_clip
from fastplan.data.index import VideoInfo, build_index, probe
from fastplan.data.lists import VideoList
from fastplan.data.packets import DISCARD, IDR, KEY, NONREF, PICTURE, Coding, PacketTable, Run

CODING = Coding("h264", "", "0164", 96, 64, (1, 2, 2, 2), False)


def open_group() -> PacketTable:
    """Shown as I0 B1 P2 | B3 I4 B5 P6; B3 is decoded after the key I4 of its open group and refers to P2."""
    return PacketTable(
        CODING,
        file_bytes=10_000,
        offset_P=np.array([100, 300, 350, 2**40, 900, 950, 990]),
        size_P=np.array([200, 50, 10, 80, 20, 40, 7], np.int32),
        order_P=np.array([0, 2, 1, 4, 3, 6, 5], np.int32),
        flags_P=np.array([KEY | IDR, 0, NONREF, KEY, NONREF, 0, NONREF], np.uint8) | np.uint8(PICTURE),
    )


def test_a_table_survives_packing() -> None:
    table = open_group()
    again = PacketTable.unpack(table.pack())
    assert (again.coding, again.file_bytes) == (table.coding, table.file_bytes)
    for name in ("offset_P", "size_P", "order_P", "flags_P"):
        assert getattr(again, name).tolist() == getattr(table, name).tolist()
        assert getattr(again, name).dtype == getattr(table, name).dtype
    with pytest.raises(ValueError, match="damaged packet table"):
        PacketTable.unpack(table.pack()[:-9])


@pytest.mark.parametrize(
    ("ranks", "runs", "needed"),
    [
        ([0], [Run(0, 1, (0,))], [[0]]),
        ([2], [Run(0, 2, (2,))], [[0, 1]]),
        ([3], [Run(0, 5, (3,))], [[0, 1, 3, 4]]),  # leads the key of its group: decoded from the group before
        ([4], [Run(3, 4, (4,))], [[3]]),
        ([6], [Run(3, 6, (6,))], [[3, 5]]),  # without B3, whose references are not there, and without unwanted B5
        ([5, 5, 4], [Run(3, 7, (4, 5))], [[3, 5, 6]]),
        ([6, 0], [Run(0, 1, (0,)), Run(3, 6, (6,))], [[0], [3, 5]]),
        ([6, 1], [Run(0, 6, (1, 6))], [[0, 1, 2, 3, 5]]),
    ],
)
def test_plans(ranks: list[int], runs: list[Run], needed: list[list[int]]) -> None:
    table = open_group()
    assert table.runs(ranks) == runs
    assert [table.needed(run).tolist() for run in runs] == needed


def test_packets_cut_off_by_an_edit_list_are_fed_but_not_counted() -> None:
    table = open_group()
    flags_P = table.flags_P.copy()
    flags_P[[0, 2]] = KEY | IDR | DISCARD, NONREF | DISCARD
    cut = replace(table, flags_P=flags_P)
    assert cut.rank_P.tolist() == [-1, 0, -1, 2, 1, 4, 3]
    assert cut.runs([0]) == [Run(0, 2, (0,))] and cut.needed(cut.runs([0])[0]).tolist() == [0, 1]


def test_bitstreams() -> None:
    avcc, hvcc = bytes([1, 100, 0, 10, 0xFF]), bytes([1, *[0] * 20, 0xFF, 0])
    assert (length_bytes("h264", avcc), length_bytes("hevc", hvcc), length_bytes("h264", b"\0\0\0\1g")) == (4, 4, 0)

    def nal(*content: int) -> bytes:
        return len(content).to_bytes(4, "big") + bytes(content)

    assert is_idr("h264", nal(6, 1) + nal(0x65, 1), 4) and not is_idr("h264", nal(6, 5) + nal(0x61, 1), 4)
    assert is_nonref("h264", nal(9, 16) + nal(0x01, 1) + nal(0x01, 2), 4)
    assert not is_nonref("h264", nal(0x01, 1) + nal(0x21, 2), 4) and not is_nonref("h264", nal(6, 1), 4)
    assert is_nonref("h264", b"\0\0\0\1\x09\x10\0\0\1\x01\x9a", 0) and not is_nonref("h264", b"\0\0\1\x41\x9a", 0)
    assert is_nonref("hevc", nal(8 << 1, 1, 1), 4) and not is_nonref("hevc", nal(9 << 1, 1, 1), 4)
    assert is_idr("hevc", nal(19 << 1, 1, 1), 4) and not is_idr("hevc", nal(21 << 1, 1, 1), 4)
    vop_p, vop_b = b"\0\0\1\xb6\x50abcdefghijklmnop", b"\0\0\1\xb6\x90qrstuvwxyz"
    assert is_nonref("mpeg4", vop_b, 0) and not is_nonref("mpeg4", vop_p, 0) and not is_nonref("mpeg4", vop_b * 2, 0)
    assert split_vops(b"\0\0\1\xb0" + vop_p + vop_b) == [(0, 4 + len(vop_p)), (4 + len(vop_p), 4 + len(vop_p + vop_b))]


def test_the_cache_keeps_tables_beside_the_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables come back byte for byte without a probe; without their file everything is probed again."""
    names = [tmp_path / f"{name}.mp4" for name in ("a", "b")]
    for path in names:
        write(path, "libx264", frames=20, **H264)
    listed = VideoList(tuple(names), (0, 1), ("a", "b"), ("x", "y"))
    first = build_index(listed, cache_dir=tmp_path / "cache", threads=1)
    probed: list[Path] = []

    def counting(path: Path) -> object:
        probed.append(path)
        return probe(path)

    monkeypatch.setattr(index_module, "probe", counting)
    again = build_index(listed, cache_dir=tmp_path / "cache", threads=1)
    assert again.videos == first.videos and all(video.table for video in again.videos) and not probed
    assert (decode_clip(again.videos[1], np.arange(3)) == decode_clip(first.videos[1], np.arange(3))).all()
    write(names[0], "libx264", frames=25, **H264)
    assert build_index(listed, cache_dir=tmp_path / "cache", threads=1).videos[0].frames == 25
    assert probed == [names[0]]
    (tables,) = (tmp_path / "cache").glob("*.packets")  # the file of the former state is gone
    tables.unlink()
    assert [video.frames for video in build_index(listed, cache_dir=tmp_path / "cache", threads=1).videos] == [25, 20]
    assert len(probed) == 3


def test_tables_are_small(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write(path, "libx264", frames=240, **H264)
    info = probe(path)
    assert isinstance(info, VideoInfo) and info.table and len(info.table.pack()) < 8 * 240
