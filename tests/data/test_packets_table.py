"""The packet table: packing, planning by rules on a hand-made open group, and its place in the index cache."""

from dataclasses import replace

import numpy as np
import pytest

from fastplan.data.bitstream import is_idr, is_nonref, length_bytes, split_vops
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
