"""The index on disk: Parquet files of one row per probed file, in one folder for every data set.

A file of the index is written once and never changed. A later row of the same path counts, so a scan that finds
something new only adds a file, a scan that is killed keeps what it had written, and readers need no lock. Now and then
the files are merged. Beside `NAME.parquet` with the facts lies `NAME.packets`, Parquet too, with the packet tables of
the same rows in small groups: a table is read when a clip is decoded, and those used last are kept within a bound.
"""

import fcntl
import json
import os
import threading
import time
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
from fastplan.data.places import PathNumbers, path_hashes
from fastplan.data.probe import Probed

_VERSION = 2  # of the probe: rows of another version are not used
_GROUP_ROWS = 32  # read together to get at one packet table: about 0.4 ms
_FILE_ROWS = 1024
_FILE_S = 20.0  # at most so many seconds of probing are lost when a scan is killed
_MOST_FILES = 16
_KEPT_TABLES = 4096  # 20 MB of tables for videos of 300 frames
_END = b"PAR1"  # of every Parquet file
_STALE_S = 24 * 3600.0

_PLAIN = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
FACTS = pa.schema([(name, _PLAIN[kind]) for name, kind in Probed.__annotations__.items() if kind in _PLAIN])
_FOUND = FACTS.remove(FACTS.get_field_index("path"))
PACKETS = pa.schema(
    [
        ("coding", pa.string()),
        ("packet_offset", pa.list_(pa.int64())),
        ("packet_size", pa.list_(pa.int32())),
        ("packet_order", pa.list_(pa.int32())),
        ("packet_flags", pa.list_(pa.uint8())),
        ("pts", pa.list_(pa.int64())),
    ]
)
SCHEMA = pa.schema([*FACTS, *PACKETS])
_TABLE = PACKETS.names[:-1]
_DELTA = ("packet_offset", "packet_size", "packet_order", "pts")
_MARK = {"fastplan.index": str(_VERSION)}


def as_batch(found: Probed) -> pa.RecordBatch:
    """One row of `SCHEMA`. packet_flags are the sums of `fastplan.data.packets`; 1 marks a keyframe."""
    row: dict[str, Any] = {name: getattr(found, name) for name in FACTS.names}
    table = found.table
    row["coding"] = json.dumps(table.coding) if table else None
    row["packet_offset"] = table.offset_P if table else None
    row["packet_size"] = table.size_P if table else None
    row["packet_order"] = table.order_P if table else None
    row["packet_flags"] = table.flags_P if table else None
    row["pts"] = found.pts_R
    return pa.RecordBatch.from_pydict({name: [value] for name, value in row.items()}, schema=SCHEMA)


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
            names = [name for name in _names(self._folder) if name not in damaged]
            file_W, row_W = self._locate(PathNumbers(wanted), names)
            found: list[pa.RecordBatch] = []
            for number in np.unique(file_W[file_W >= 0]):
                try:
                    found += [*self._files[names[number]].rows(np.sort(row_W[file_W == number]))]
                except (OSError, pa.ArrowInvalid):
                    damaged.add(names[number])
            if not damaged & set(names) and set(names) <= set(_names(self._folder)):
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
    def writer(self) -> Iterator["_Writer"]:
        """What new rows are added with; on the way out they are there for every reader, whatever ended the block.

        Raises `UserError` where the folder cannot be written.
        """
        make_cache(self._folder)
        _remove_stale(self._folder)
        writer = _Writer(self._folder)
        try:
            yield writer
        finally:
            writer.close()
        if len(_names(self._folder)) > _MOST_FILES:
            _merge(self._folder)


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
            for batch in facts.iter_batches(columns=["path"], use_threads=False) if _is_current(facts) else ():
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


class _Writer:
    """Adds rows; a file is finished, and there for others, every `_FILE_ROWS` rows or `_FILE_S` seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: list[pa.RecordBatch] = []
        self._file: _Pair | None = None
        self._rows = 0
        self._begun_s = 0.0

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows of `SCHEMA`."""
        if not self._waiting and self._file is None:
            self._begun_s = time.monotonic()
        self._waiting.append(batch)
        if sum(map(len, self._waiting)) >= _GROUP_ROWS:
            self._write()
        if self._rows >= _FILE_ROWS or time.monotonic() - self._begun_s > _FILE_S:
            self.close()

    def close(self) -> None:
        """Finish the file that is being written, if any."""
        if self._waiting:
            self._write()
        if self._file is not None:
            self._file.close()
            self._file, self._rows = None, 0

    def _write(self) -> None:
        if self._file is None:
            self._file = _Pair(self._folder / f"{time.time_ns()}-{os.getpid()}.parquet")
        rows = pa.Table.from_batches(self._waiting, SCHEMA)
        self._file.write(rows.select(FACTS.names), rows.select(PACKETS.names))
        self._rows += len(rows)
        self._waiting = []


class _Pair:
    """A file of facts and one of packets, row by row the same; they appear when both are finished."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_suffix(".partial"), path.with_suffix(".packets.partial")
        self._facts = pq.ParquetWriter(
            self._partial[0], FACTS.with_metadata(_MARK), compression="zstd", write_statistics=False
        )
        self._waiting: list[pa.Table] = []
        self._packets = pq.ParquetWriter(
            self._partial[1],
            PACKETS,
            compression="zstd",
            use_dictionary=False,
            write_statistics=False,  # nobody asks for them, and readers hold them in memory
            column_encoding={f"{name}.list.element": "DELTA_BINARY_PACKED" for name in _DELTA},
        )

    def write(self, facts: pa.Table, packets: pa.Table) -> None:
        self._packets.write_table(packets, row_group_size=_GROUP_ROWS)
        self._waiting.append(facts)
        if sum(map(len, self._waiting)) >= _FILE_ROWS:
            self._write_facts()

    def close(self) -> None:
        self._packets.close()
        self._write_facts()
        self._facts.close()
        self._partial[1].replace(self._path.with_suffix(".packets"))
        self._partial[0].replace(self._path)

    def _write_facts(self) -> None:
        self._facts.write_table(pa.concat_tables([FACTS.empty_table(), *self._waiting]))
        self._waiting = []


def _packet_table(cells: dict[str, Any], file_bytes: int) -> PacketTable | None:
    if not cells["coding"].is_valid:
        return None
    codec, tag, extradata, width, height, colours, prime = json.loads(cells["coding"].as_py())
    columns = (cells[name].values.to_numpy().copy() for name in _TABLE[1:])
    coding = Coding(codec, tag, extradata, width, height, tuple(colours), prime)
    return PacketTable(coding, file_bytes, *columns)


def _is_current(parquet: pq.ParquetFile) -> bool:
    metadata = parquet.schema_arrow.metadata or {}
    return bool(metadata.get(b"fastplan.index") == str(_VERSION).encode())


def _names(folder: Path) -> list[str]:
    """The files of the index, oldest first."""
    return sorted(path.name for path in folder.glob("*.parquet"))


def _remove_stale(folder: Path) -> None:
    """What scans left behind that were killed long ago."""
    alone = (path for path in folder.glob("*.packets") if not path.with_suffix(".parquet").exists())
    for path in (*folder.glob("*.partial"), *alone):
        if time.time() - path.stat().st_mtime > _STALE_S:
            path.unlink(missing_ok=True)


def _merge(folder: Path) -> None:
    """All files into one, the newest row of each path. Somebody else's merge under way is left alone."""
    with (folder / "merge.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        names = _names(folder)
        merged = _Pair(folder / f"{Path(names[-1]).stem}-merged.parquet")  # files that come meanwhile are newer
        seen_M = np.empty(0, np.int64)  # a path is lost, and probed again, where two in 2^64 are alike
        for name in reversed(names):
            if len(here_N := _hashes_in(folder / name)):
                for facts, packets in _unseen(folder / name, seen_M):
                    merged.write(facts, packets)
                seen_M = np.union1d(seen_M, here_N)
        merged.close()
        for name in names:
            (folder / name).unlink()
            (folder / name).with_suffix(".packets").unlink(missing_ok=True)


def _unseen(file: Path, seen_M: npt.NDArray[np.int64]) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Facts and packets, a group of packets at a time, of the rows whose paths have none of these hashes."""
    try:
        with pq.ParquetFile(file) as parquet, pq.ParquetFile(file.with_suffix(".packets")) as packets:
            if packets.metadata.num_rows != parquet.metadata.num_rows:
                return
            groups = (packets.read_row_group(number) for number in range(packets.num_row_groups))
            for number in range(parquet.num_row_groups):
                facts = parquet.read_row_group(number)
                new = ~np.isin(path_hashes(facts["path"].combine_chunks()), seen_M)
                begin = 0
                while begin < len(facts):  # a group of facts ends where one of packets does
                    group = next(groups)
                    mask = pa.array(new[begin : begin + len(group)])
                    yield facts.slice(begin, len(group)).filter(mask), group.filter(mask)
                    begin += len(group)
    except (OSError, pa.ArrowInvalid):
        return  # damaged: its rows are probed again


def _hashes_in(file: Path) -> npt.NDArray[np.int64]:
    """Of all its paths; of none where it is damaged or of another version."""
    try:
        with pq.ParquetFile(file) as facts:
            batches = facts.iter_batches(columns=["path"], use_threads=False) if _is_current(facts) else ()
            return np.concatenate([np.empty(0, np.int64), *(path_hashes(batch["path"]) for batch in batches)])
    except (OSError, pa.ArrowInvalid):
        return np.empty(0, np.int64)
