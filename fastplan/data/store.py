"""The index on disk: Parquet files of one row per probed file, in one folder for every data set.

A file of the index is written once and never changed. A later row of the same path counts, so a scan that finds
something new only adds a file, a scan that is killed keeps what it had written, and readers need no lock. Now and then
the files are merged. A packet table is read when a clip is decoded, and those used last are kept within a bound.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fastplan.data.cache import make_cache
from fastplan.data.packets import Coding, PacketTable
from fastplan.data.places import PathNumbers
from fastplan.data.store_files import FACTS, PACKETS, Writer, file_names, is_current, merge, remove_stale

_MOST_FILES = 16
_KEPT_TABLES = 4096  # 20 MB of tables for videos of 300 frames
_END = b"PAR1"  # of every Parquet file
_FOUND = FACTS.remove(FACTS.get_field_index("path"))
_TABLE = PACKETS.names[:-1]


class IndexStore:
    """The index in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, _File] = {}
        self._kept: OrderedDict[tuple[str, int], PacketTable | None] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, paths: Collection[str] | pa.StringArray) -> pa.Table:
        """The newest row of each of `paths` that has one, without its lists; `file` and `row` say where they are.

        Rows are in the order of `paths`, which are different ones.
        """
        wanted = paths if isinstance(paths, pa.StringArray) else pa.array(paths, pa.string())
        damaged: set[str] = set()
        while True:
            names = [name for name in file_names(self._folder) if name not in damaged]
            file_W, row_W = self._locate(PathNumbers(wanted), names)
            found: list[pa.RecordBatch] = []
            for number in np.unique(file_W[file_W >= 0]):
                try:
                    found += [*self._files[names[number]].rows(np.sort(row_W[file_W == number]))]
                except (OSError, pa.ArrowInvalid):
                    damaged.add(names[number])
            if not damaged & set(names) and set(names) <= set(file_names(self._folder)):
                break  # else again: some were merged meanwhile, or cannot be read
        there_W = file_W >= 0
        file_N, row_N = file_W[there_W], row_W[there_W]
        place_N = np.argsort(np.lexsort((row_N, file_N)))  # where the row of each path is in `found`
        columns = pa.Table.from_batches(found, _FOUND).columns
        del found
        ordered = [wanted if there_W.all() else wanted.filter(pa.array(there_W))]
        while columns:  # one after the other, so that nothing is in memory twice but a column
            ordered.append(columns.pop(0).take(pa.array(place_N)).combine_chunks())
        ordered.append(pa.DictionaryArray.from_arrays(pa.array(file_N), pa.array(names, pa.string())))
        ordered.append(pa.array(row_N))
        return pa.table(ordered, [*FACTS.names, "file", "row"])

    def _locate(self, wanted: PathNumbers, names: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Which of the files has the newest row of each path, -1 where none has, and which row it is there."""
        file_W, row_W = np.full(len(wanted), -1, np.int32), np.zeros(len(wanted), np.int64)
        for number in reversed(range(len(names))):
            name = names[number]
            try:
                if name not in self._files:
                    self._files[name] = _File(self._folder / name)
                found_W = self._files[name].locate_paths(wanted)
            except (OSError, pa.ArrowInvalid):
                self._files.pop(name, None)  # damaged, or merged away: its rows are probed again, or found again
                continue
            new_W = (file_W < 0) & (found_W >= 0)
            file_W[new_W], row_W[new_W] = number, found_W[new_W]
        return file_W, row_W

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

    def passing(
        self, places: Iterable[tuple[str, int, int]]
    ) -> Iterator[tuple[PacketTable | None, npt.NDArray[np.int64]]]:
        """What `table` and `pts` give for each (file, row, bytes of the video), for going through many; none is kept.

        Neighbours in the index should be neighbours here: they are read together.
        """
        held: dict[str, tuple[int, pa.Table]] = {}
        for name, row, file_bytes in places:
            group, number = self._files[name].locate(row)
            if name not in held or held[name][0] != group:
                held[name] = group, self._files[name].read(group, PACKETS.names)
            cells = {column: held[name][1][column][number] for column in PACKETS.names}
            yield _packet_table(cells, file_bytes), np.array(cells["pts"].as_py(), np.int64)

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


class _File:
    """One file of the index; the packets are opened at once, and can be read after it was merged away.

    What Parquet says of them takes 6 KB of memory a group, so it is read when the first table is asked for.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened = pa.memory_map(str(path.with_suffix(".packets")))
        if self._opened.size() < len(_END) or self._opened.read_at(len(_END), self._opened.size() - len(_END)) != _END:
            raise pa.ArrowInvalid(f"{path.stem}.packets is not whole")
        self._lock = threading.Lock()

    @cached_property
    def _packets(self) -> pq.ParquetFile:
        return pq.ParquetFile(self._opened)

    @cached_property
    def _begin_G(self) -> npt.NDArray[np.int64]:
        groups = self._packets.metadata
        rows = [groups.row_group(n).num_rows for n in range(groups.num_row_groups)]
        return np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])

    def locate_paths(self, wanted: PathNumbers) -> npt.NDArray[np.int64]:
        """The row of each of these paths, -1 where there is none."""
        row_W = np.full(len(wanted), -1, np.int64)
        begin = 0
        with pq.ParquetFile(self._path) as facts:
            for batch in facts.iter_batches(columns=["path"], use_threads=False) if is_current(facts) else ():
                number_B = wanted.of(batch["path"])
                row_W[number_B[number_B >= 0]] = begin + np.flatnonzero(number_B >= 0)
                begin += len(batch)
        return row_W

    def rows(self, rows: npt.NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
        """The facts of these rows but their paths; `rows` ascend."""
        begin = 0
        with pq.ParquetFile(self._path) as facts:
            for batch in facts.iter_batches(columns=_FOUND.names, use_threads=False):
                inside = rows[np.searchsorted(rows, begin) : np.searchsorted(rows, begin + len(batch))]
                yield batch.take(pa.array(inside - begin))
                begin += len(batch)

    def locate(self, row: int) -> tuple[int, int]:
        """The group of a row of packets, and its number there."""
        group = int(np.searchsorted(self._begin_G, row, side="right")) - 1
        return group, row - int(self._begin_G[group])

    def read(self, group: int, columns: Collection[str]) -> pa.Table:
        with self._lock:
            return self._packets.read_row_group(group, columns=list(columns), use_threads=False)

    def cells(self, row: int, columns: Collection[str]) -> dict[str, Any]:
        """Cells of one row of packets."""
        group, number = self.locate(row)
        read = self.read(group, columns)
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
