"""The index on disk: Parquet files of one row per probed file, in one folder for every data set.

A file of the index is written once and never changed. A later row of the same path counts, so a scan that finds
something new only adds a file, a scan that is killed keeps what it had written, and readers need no lock. Now and then
the files are merged. Packet tables stay on disk: a row's table is read when a clip is decoded, and those used last are
kept within a bound.
"""

import fcntl
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fastplan.data.packets import Coding, PacketTable
from fastplan.data.probe import Probed

_VERSION = 1  # of the probe: rows of another version are not used
_GROUP_ROWS = 32  # read together to get at one packet table: about 0.4 ms
_FILE_ROWS = 1024
_FILE_S = 20.0  # at most so many seconds of probing are lost when a scan is killed
_MOST_FILES = 16
_KEPT_TABLES = 4096  # 20 MB of tables for videos of 300 frames
_STALE_S = 24 * 3600.0

_CODING = pa.struct(
    [
        ("codec", pa.string()),
        ("tag", pa.string()),
        ("extradata", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("colours", pa.list_(pa.int32())),
        ("prime", pa.bool_()),
    ]
)
_PLAIN = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
FACTS = pa.schema([(name, _PLAIN[kind]) for name, kind in Probed.__annotations__.items() if kind in _PLAIN])
_LISTS = {
    "pts": pa.int64(),
    "packet_offset": pa.int64(),
    "packet_size": pa.int32(),
    "packet_order": pa.int32(),
    "packet_flags": pa.uint8(),
}
_TABLE = ("coding", *(name for name in _LISTS if name != "pts"))
SCHEMA = pa.schema(
    [*FACTS, ("coding", _CODING), *((name, pa.list_(kind)) for name, kind in _LISTS.items())],
    metadata={"fastplan.index": str(_VERSION)},
)


def as_batch(found: Probed) -> pa.RecordBatch:
    """One row. packet_flags are the sums of `fastplan.data.packets`; 1 marks a keyframe."""
    row: dict[str, Any] = {name: getattr(found, name) for name in FACTS.names}
    table = found.table
    row["pts"] = found.pts_R
    row["coding"] = table.coding._asdict() if table else None
    row["packet_offset"] = table.offset_P if table else None
    row["packet_size"] = table.size_P if table else None
    row["packet_order"] = table.order_P if table else None
    row["packet_flags"] = table.flags_P if table else None
    return pa.RecordBatch.from_pydict({name: [value] for name, value in row.items()}, schema=SCHEMA)


class IndexStore:
    """The index in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, _File] = {}
        self._kept: OrderedDict[tuple[str, int], PacketTable | None] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, paths: Collection[str]) -> pa.Table:
        """The newest row of each of `paths` that has one, without its lists; `file` and `row` say where they are."""
        wanted = pa.array(paths, pa.string())
        found: list[pa.RecordBatch] = []
        for name in reversed(_names(self._folder)):
            try:
                file = self._files.setdefault(name, _File(self._folder / name))
                found += file.rows_of(wanted)
            except (OSError, pa.ArrowInvalid):
                self._files.pop(name, None)  # merged away meanwhile, or damaged: those rows are probed again
        schema = FACTS.append(pa.field("file", pa.string())).append(pa.field("row", pa.int64()))
        table = pa.Table.from_batches(found, schema)
        first_of: dict[str, int] = {}
        for number, path in enumerate(table["path"].to_pylist()):
            first_of.setdefault(path, number)
        return table.take(pa.array(first_of.values(), pa.int64())).combine_chunks()

    def table(self, file: str, row: int) -> PacketTable | None:
        """The packet table of a row, None where it has none. Raises `OSError` where the index is gone."""
        key = (file, row)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        table = self._files[file].table(row)
        with self._lock:
            self._kept[key] = table
            if len(self._kept) > _KEPT_TABLES:
                self._kept.popitem(last=False)
        return table

    def pts(self, file: str, row: int) -> npt.NDArray[np.int64]:
        """The timestamps of a row, as in `Timing`."""
        values = self._files[file].cells(row, ("pts",))["pts"]
        return np.array(values.as_py(), np.int64)

    @contextmanager
    def writer(self) -> Iterator["_Writer"]:
        """What new rows are added with; on the way out they are there for every reader, whatever ended the block."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(self._folder)
        writer = _Writer(self._folder)
        try:
            yield writer
        finally:
            writer.close()
        if len(_names(self._folder)) > _MOST_FILES:
            _merge(self._folder)


class _File:
    """One file of the index; it is opened once and can be read after it was merged away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        self._parquet = pq.ParquetFile(self._path, memory_map=True)
        groups = self._parquet.metadata
        rows = [groups.row_group(n).num_rows for n in range(groups.num_row_groups)]
        self._begin_G = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        self._lock = threading.Lock()

    def rows_of(self, wanted: pa.Array) -> Iterator[pa.RecordBatch]:
        if not _is_current(self._parquet):
            return
        begin = 0
        with self._lock:
            for batch in self._parquet.iter_batches(columns=FACTS.names):
                rows = pa.array(np.arange(begin, begin + len(batch)))
                begin += len(batch)
                name = pa.array([self._path.name] * len(batch), pa.string())
                mask = pc.is_in(batch["path"], value_set=wanted)
                yield batch.append_column("file", name).append_column("row", rows).filter(mask)

    def cells(self, row: int, columns: Collection[str]) -> dict[str, Any]:
        """The cells of one row."""
        group = int(np.searchsorted(self._begin_G, row, side="right")) - 1
        with self._lock:
            read = self._parquet.read_row_group(group, columns=list(columns), use_threads=False)
        return {name: read[name][row - int(self._begin_G[group])] for name in columns}

    def table(self, row: int) -> PacketTable | None:
        cells = self.cells(row, ("bytes", *_TABLE))
        coding = cells["coding"].as_py()
        if coding is None:
            return None
        coding["colours"] = tuple(coding["colours"])
        columns = (cells[name].values.to_numpy().copy() for name in _TABLE[1:])
        return PacketTable(Coding(**coding), cells["bytes"].as_py(), *columns)

    def __getstate__(self) -> dict[str, Path]:
        return {"_path": self._path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__dict__.update(state)
        self._open()


class _Writer:
    """Adds rows; a file is finished, and there for others, every `_FILE_ROWS` rows or `_FILE_S` seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: list[pa.RecordBatch] = []
        self._parquet: pq.ParquetWriter | None = None
        self._file = self._partial = folder
        self._rows = 0
        self._begun_s = 0.0

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows of `SCHEMA`."""
        if not self._waiting and self._parquet is None:
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
        if self._parquet is not None:
            self._parquet.close()
            self._parquet, self._rows = None, 0
            self._partial.replace(self._file)

    def _write(self) -> None:
        if self._parquet is None:
            self._file = self._folder / f"{time.time_ns()}-{os.getpid()}.parquet"
            self._partial = self._file.with_suffix(".partial")
            self._parquet = _parquet_writer(self._partial)
        self._parquet.write_table(pa.Table.from_batches(self._waiting, SCHEMA))
        self._rows += sum(map(len, self._waiting))
        self._waiting = []


def _parquet_writer(file: Path) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        file,
        SCHEMA,
        compression="zstd",
        use_dictionary=["codec", "pixels", "fallback", "bad", "shard"],
        column_encoding={f"{name}.list.element": "DELTA_BINARY_PACKED" for name in _LISTS if name != "packet_flags"},
    )


def _is_current(parquet: pq.ParquetFile) -> bool:
    metadata = parquet.schema_arrow.metadata or {}
    return bool(metadata.get(b"fastplan.index") == str(_VERSION).encode())


def _names(folder: Path) -> list[str]:
    """The files of the index, oldest first."""
    return sorted(path.name for path in folder.glob("*.parquet"))


def _remove_stale(folder: Path) -> None:
    """What scans left behind that were killed long ago."""
    for partial in folder.glob("*.partial"):
        if time.time() - partial.stat().st_mtime > _STALE_S:
            partial.unlink(missing_ok=True)


def _merge(folder: Path) -> None:
    """All files into one, the newest row of each path. Somebody else's merge under way is left alone."""
    with (folder / "merge.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        names = _names(folder)
        merged = folder / f"{Path(names[-1]).stem}-merged.parquet"  # files that come meanwhile are newer
        partial = merged.with_suffix(".partial")
        seen: set[str] = set()
        with _parquet_writer(partial) as writer:
            for name in reversed(names):
                for rows in _unseen(folder / name, seen):
                    writer.write_table(rows, row_group_size=_GROUP_ROWS)
        partial.replace(merged)
        for name in names:
            (folder / name).unlink()


def _unseen(file: Path, seen: set[str]) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(file) as parquet:
            if not _is_current(parquet):
                return
            for batch in parquet.iter_batches(batch_size=8 * _GROUP_ROWS):
                paths = batch["path"].to_pylist()
                mask = [path not in seen for path in paths]
                seen.update(paths)
                yield pa.Table.from_batches([batch.filter(pa.array(mask))])
    except (OSError, pa.ArrowInvalid):
        return  # damaged: its rows are probed again
