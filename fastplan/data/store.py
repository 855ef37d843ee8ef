"""The index on disk: Parquet files of one row per probed file, in one folder for every data set.

A file of the index is written once and never changed. A later row of the same path counts, so a scan that finds
something new only adds a file, a scan that is killed keeps what it had written, and readers need no lock. Now and then
the files are merged. A packet table is read when a clip is decoded, and those used last are kept within a bound.
"""

import json
import threading
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fastplan.data.cache import make_cache
from fastplan.data.packets import Coding, PacketTable
from fastplan.data.places import NameNumbers
from fastplan.data.store_files import FACTS, PACKETS, Writer, file_names, is_current, merge, remove_stale

_MOST_FILES = 16
_KEPT_TABLES = 4096  # 20 MB of tables for videos of 300 frames
_END = b"PAR1"  # of every Parquet file
_AT_ONCE = 512  # rows, 0.3 KB each
_MOST_STEPS = 64  # where rows lie in another order, each step may have to read all files of the index
_TABLE = PACKETS.names[:-1]


class IndexStore:
    """The index in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, _Packets] = {}
        self._kept: OrderedDict[tuple[str, int], PacketTable | None] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, paths: Iterable[str]) -> "Rows":
        """The newest row of each of `paths` that has one, in their order; they are different ones."""
        wanted = NameNumbers(paths)
        damaged: set[str] = set()
        while True:
            names = [name for name in file_names(self._folder) if name not in damaged]
            found = self._locate(wanted, names)
            damaged |= (new := found.damaged())
            if not new and set(names) <= set(file_names(self._folder)):
                return found  # else again: some were merged meanwhile, or cannot be read

    def _locate(self, wanted: NameNumbers, names: Sequence[str]) -> "Rows":
        file_W, row_W = np.full(len(wanted), -1, np.int32), np.zeros(len(wanted), np.int32)
        facts: dict[str, _Facts] = {}
        for number in reversed(range(len(names))):
            name = names[number]
            try:
                if name not in self._files:
                    self._files[name] = _Packets(self._folder / name)
                facts[name] = _Facts(self._folder / name)
                number_M, row_M = facts[name].locate(wanted)
            except (OSError, pa.ArrowInvalid):
                self._files.pop(name, None)  # damaged, or merged away: its rows are probed again, or found again
                continue
            new_M = file_W[number_M] < 0
            file_W[number_M[new_M]], row_W[number_M[new_M]] = number, row_M[new_M]
        there_W = file_W >= 0
        return Rows(names, facts, file_W[there_W], row_W[there_W])

    def table(self, file: str, row: int, file_bytes: int) -> PacketTable | None:
        """The packet table of a row, of a video of so many bytes; None where it has none."""
        key = (file, row)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        table = self._files[file].table(row, file_bytes)
        with self._lock:
            self._kept[key] = table
            if len(self._kept) > _KEPT_TABLES:
                self._kept.popitem(last=False)
        return table

    def pts(self, file: str, row: int) -> npt.NDArray[np.int64]:
        """The timestamps of a row, as in `Timing`."""
        return np.array(self._files[file].cells(row, ("pts",))["pts"].as_py(), np.int64)

    def read_packets(
        self, places: Sequence[tuple[str, int, int]]
    ) -> list[tuple[PacketTable | None, npt.NDArray[np.int64]]]:
        """What `table` and `pts` give for each (file, row, bytes of the video), for reading many; none is kept."""
        found = {}
        for name, group_of in groupby(sorted(set(places)), key=itemgetter(0)):
            with pq.ParquetFile(self._files[name].source) as packets:
                begin_G, last, read = _begins(packets), -1, PACKETS.empty_table()
                for place in group_of:
                    group, number = _locate(begin_G, place[1])
                    if group != last:
                        last, read = group, packets.read_row_group(group, use_threads=False)
                    cells = {column: read[column][number] for column in PACKETS.names}
                    found[place] = _packet_table(cells, place[2]), np.array(cells["pts"].as_py(), np.int64)
        return [found[place] for place in places]

    @contextmanager
    def writer(self) -> Iterator["Writer"]:
        """What new rows are added with; on the way out they are there for every reader, whatever ended the block.

        Raises `UserError` where the folder cannot be written.
        """
        make_cache(self._folder)
        remove_stale(self._folder)
        writer = Writer(self._folder)
        try:
            yield writer
        finally:
            writer.close()
        if len(file_names(self._folder)) > _MOST_FILES:
            merge(self._folder)


class Rows:
    """Rows of the index, a file of a data set each, in an order of their own.

    In memory are their places, 8 bytes each; what they say is read when it is asked for, also after a merge.
    """

    def __init__(
        self,
        names: Sequence[str],
        facts: dict[str, "_Facts"],
        file_F: npt.NDArray[np.int32],
        row_F: npt.NDArray[np.int32],
    ) -> None:
        self._names, self._facts, self._file_F, self._row_F = names, facts, file_F, row_F
        self._last: tuple[object, pa.Table] = None, None  # group of rows that was read, in which the next ones may lie

    def __len__(self) -> int:
        return len(self._file_F)

    def take(self, numbers: npt.NDArray[np.integer], columns: Collection[str] = FACTS.names) -> pa.Table:
        """Columns of the rows with these numbers, in this order; `file` and `row` say where their packets are."""
        file_M, row_M = self._file_F[numbers], self._row_F[numbers]
        order_M = np.lexsort((row_M, file_M))
        found = [FACTS.empty_table().select(columns)]
        for file in np.unique(file_M):
            found += self._read(self._names[file], np.sort(row_M[file_M == file]), columns)
        read = pa.concat_tables(found).columns
        del found
        place_M = None if _ascends(order_M) else pa.array(np.argsort(order_M))
        ordered = []
        while read:  # one after the other, so that nothing is in memory twice but a column
            column = read.pop(0)
            ordered.append((column if place_M is None else column.take(place_M)).combine_chunks())
        ordered.append(pa.DictionaryArray.from_arrays(pa.array(file_M), pa.array(self._names, pa.string())))
        return pa.table([*ordered, pa.array(row_M)], [*columns, "file", "row"])

    def table(self) -> pa.Table:
        """All of them, in memory."""
        return self.take(np.arange(len(self)))

    def batches(self, columns: Collection[str] = FACTS.names) -> Iterator[pa.RecordBatch]:
        """All of them, a few at a time."""
        step = max(_AT_ONCE, len(self) // _MOST_STEPS)
        for begin in range(0, len(self), step):
            taken = self.take(np.arange(begin, min(begin + step, len(self))), columns)
            yield from taken.to_batches(max_chunksize=_AT_ONCE)

    def damaged(self) -> set[str]:
        """Files of the index in which they cannot be read."""
        names = set()
        for file in np.unique(self._file_F):
            try:
                deque(self._read(self._names[file], np.sort(self._row_F[self._file_F == file]), FACTS.names), maxlen=0)
            except (OSError, pa.ArrowInvalid):
                names.add(self._names[file])
        return names

    def _read(self, name: str, rows: npt.NDArray[np.integer], columns: Collection[str]) -> Iterator[pa.Table]:
        """Rows of one file of the index, in ascending order."""
        facts = self._facts[name]
        group_M = np.searchsorted(facts.begin_G, rows, side="right") - 1
        with facts.opened() as parquet:
            for group in np.unique(group_M):
                wanted = (name, group, columns)
                if self._last[0] != wanted:
                    self._last = None, None
                    self._last = wanted, parquet.read_row_group(group, columns=list(columns), use_threads=False)
                row_M = rows[group_M == group] - facts.begin_G[group]
                read = self._last[1]
                yield read.slice(row_M[0], len(row_M)) if _ascends(row_M) else read.take(pa.array(row_M))


class _Facts:
    """The facts of one file of the index. begin_G: the first row of each group, and the number of rows."""

    def __init__(self, path: Path) -> None:
        self._source = pa.OSFile(str(path))
        with self.opened() as parquet:
            self.begin_G = _begins(parquet)

    def opened(self) -> pq.ParquetFile:
        """It takes 70 KB while it is open."""
        return pq.ParquetFile(self._source)

    def locate(self, wanted: NameNumbers) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Which of these paths are there, and in which rows; the last row of a path counts, and stands last."""
        with self.opened() as parquet:
            batches = parquet.iter_batches(_AT_ONCE, columns=["path"], use_threads=False) if is_current(parquet) else ()
            numbers = [wanted.of(batch["path"].to_pylist()) for batch in batches]
        number_R = np.concatenate([np.empty(0, np.int64), *numbers])
        row_M = np.flatnonzero(number_R >= 0)
        return number_R[row_M], row_M


def _ascends(numbers: npt.NDArray[np.integer]) -> bool:
    """Whether each is the one before plus one."""
    return bool((np.diff(numbers) == 1).all())


def _begins(parquet: pq.ParquetFile) -> npt.NDArray[np.int64]:
    """The first row of each group, and the number of rows."""
    groups = parquet.metadata
    rows = [groups.row_group(n).num_rows for n in range(groups.num_row_groups)]
    return np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])


def _locate(begin_G: npt.NDArray[np.int64], row: int) -> tuple[int, int]:
    """The group of a row, and its number there."""
    group = int(np.searchsorted(begin_G, row, side="right")) - 1
    return group, row - int(begin_G[group])


class _Packets:
    """The packets of one file of the index, opened at once, so that they can be read after it was merged away.

    What Parquet says of them takes 6 KB of memory a group, so it is read when the first table is asked for.
    """

    def __init__(self, path: Path) -> None:
        self.source = pa.OSFile(str(path.with_suffix(".packets")))
        if self.source.size() < len(_END) or self.source.read_at(len(_END), self.source.size() - len(_END)) != _END:
            raise pa.ArrowInvalid(f"{path.stem}.packets is not whole")
        self._lock = threading.Lock()

    @cached_property
    def _packets(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.source)

    @cached_property
    def _begin_G(self) -> npt.NDArray[np.int64]:
        return _begins(self._packets)

    def cells(self, row: int, columns: Collection[str]) -> dict[str, Any]:
        """Cells of one row of packets."""
        group, number = _locate(self._begin_G, row)
        with self._lock:
            read = self._packets.read_row_group(group, columns=list(columns), use_threads=False)
        return {name: read[name][number] for name in columns}

    def table(self, row: int, file_bytes: int) -> PacketTable | None:
        return _packet_table(self.cells(row, _TABLE), file_bytes)


def _packet_table(cells: dict[str, Any], file_bytes: int) -> PacketTable | None:
    if not cells["coding"].is_valid:
        return None
    codec, tag, extradata, width, height, colours, prime = json.loads(cells["coding"].as_py())
    columns = (cells[name].values.to_numpy().copy() for name in _TABLE[1:])
    coding = Coding(codec, tag, extradata, width, height, tuple(colours), prime)
    return PacketTable(coding, file_bytes, *columns)
