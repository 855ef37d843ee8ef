"""The packet table of one video: where each packet lies in the file, and in which order its picture is shown.

With it a clip is decoded from exactly the packets it needs, without a demuxer, at a cost that does not depend on the
clip's place in the video. Shape suffixes: P packets in file (decoding) order, R pictures in presentation order.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

KEY, IDR, NONREF, DISCARD, PICTURE = 1, 2, 4, 8, 16


class Coding(NamedTuple):
    """What a bare decoder must be told before the first packet.

    tag: four-character code, empty where the decoder must not see it. extradata: hexadecimal. width, height: in pixels
    as coded, before rotation. colours: FFmpeg's numbers of range, primaries, transfer curve and matrix, which the
    container may know and the bitstream not. prime: decode the first packet of the file before any other.
    """

    codec: str
    tag: str
    extradata: str
    width: int
    height: int
    colours: tuple[int, int, int, int]
    prime: bool


class Run(NamedTuple):
    """Rows `start` to `stop` (exclusive) of a table, to be decoded in one go for the pictures `wanted`."""

    start: int
    stop: int
    wanted: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PacketTable:
    """Packets of one file.

    file_bytes: size of the file the table was made from. offset_P: int64, in bytes. size_P: int32, in bytes.
    order_P: int32, place in presentation order among all packets, pictures or not. flags_P: uint8, a sum of KEY
    (decoding may start here), IDR (nothing decoded later refers to what came before), NONREF (no other picture refers
    to this one), DISCARD (decoded, but cut off by an edit list), PICTURE (shown).
    """

    coding: Coding
    file_bytes: int
    offset_P: npt.NDArray[np.int64]
    size_P: npt.NDArray[np.int32]
    order_P: npt.NDArray[np.int32]
    flags_P: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.offset_P)

    def has(self, flag: int) -> npt.NDArray[np.bool_]:
        """Which packets carry `flag`, bool [P]."""
        return (self.flags_P & flag) != 0

    @cached_property
    def row_R(self) -> npt.NDArray[np.int64]:
        """The packet of each picture."""
        row_of_place = np.empty(len(self), np.int64)
        row_of_place[self.order_P] = np.arange(len(self))
        return row_of_place[self.has(PICTURE)[row_of_place]]

    @cached_property
    def rank_P(self) -> npt.NDArray[np.int64]:
        """Place of each packet's picture in presentation order, -1 where it shows none."""
        rank_P = np.full(len(self), -1, np.int64)
        rank_P[self.row_R] = np.arange(len(self.row_R))
        return rank_P

    def start_rows(self, ranks: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Where decoding must start for each picture: the last key that is shown no later than it.

        The last key *before it in the file* would not do: pictures that follow the key of an open group but are shown
        before it refer to the group before.
        """
        keys = np.flatnonzero(self.has(KEY))
        place = np.searchsorted(self.order_P[keys], self.order_P[self.row_R[ranks]], side="right") - 1
        return keys[np.maximum(place, 0)]

    def runs(self, ranks: Iterable[int]) -> list[Run]:
        """The stretches of packets that give the pictures `ranks`, in file order, each beginning with a key."""
        ordered = np.unique(np.fromiter(ranks, np.int64))
        runs: list[Run] = []
        stops = (self.row_R[ordered] + 1).tolist()
        for rank, start, stop in zip(ordered.tolist(), self.start_rows(ordered).tolist(), stops, strict=True):
            if runs and start <= runs[-1].stop:
                last = runs[-1]
                runs[-1] = Run(last.start, max(last.stop, stop), (*last.wanted, rank))
            else:
                runs.append(Run(start, stop, (rank,)))
        return runs

    def needed(self, run: Run, *, drop_nonref: bool = True) -> npt.NDArray[np.int64]:
        """Rows of `run` that its wanted pictures depend on.

        Left out are pictures shown before the run's key, whose references lie before it, and with `drop_nonref`
        pictures to which no other refers and that nobody wants.
        """
        rows = np.arange(run.start, run.stop)
        flags = self.flags_P[rows]
        leading = ((flags & (PICTURE | DISCARD)) != 0) & (self.order_P[rows] < self.order_P[run.start])
        dropped = leading
        if drop_nonref:
            unwanted = np.ones(len(rows), bool)
            unwanted[self.row_R[list(run.wanted)] - run.start] = False
            dropped = leading | (unwanted & ((flags & NONREF) != 0))
        return rows[~dropped]


def presentation_order(rows_R: npt.NDArray[np.int64], pts: list[int | None]) -> npt.NDArray[np.int32]:
    """Places of all packets, int32 [P]: pictures as the decoder gave them; packets without one by timestamp between
    them, or where there are none, behind the last picture decoded before."""
    total = len(pts)
    rank_P = np.full(total, -1.0)
    rank_P[rows_R] = np.arange(len(rows_R))
    hidden = np.flatnonzero(rank_P < 0)
    times_P = np.array([-1 if time is None else time for time in pts], np.int64)
    if None not in pts and (np.diff(times_P[rows_R]) >= 0).all():
        rank_P[hidden] = np.searchsorted(times_P[rows_R], times_P[hidden]) - 0.5
    else:
        rank_P[hidden] = np.maximum.accumulate(rank_P)[hidden] + 0.5
        times_P = np.arange(total)
    order_P = np.empty(total, np.int32)
    order_P[np.lexsort((times_P, rank_P))] = np.arange(total, dtype=np.int32)
    return order_P
