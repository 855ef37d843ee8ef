"""The files of the index: their columns, how rows are added, and how many files become one.

Beside `NAME.parquet` with the facts lies `NAME.packets`, with the packet tables of the same rows in small groups. Both
are written under other names first; the facts get their name last, so a file that is there is whole.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fastplan.data.places import name_hashes
from fastplan.data.probe import Probed

_VERSION = 2  # of the probe: rows of another version are not used
_GROUP_ROWS = 32  # read together to get at one packet table: about 0.4 ms
_FILE_ROWS = 1024
_FILE_S = 20.0  # at most so many seconds of probing are lost when a scan is killed
_STALE_S = 24 * 3600.0

_PLAIN = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
FACTS = pa.schema([(name, _PLAIN[kind]) for name, kind in Probed.__annotations__.items() if kind in _PLAIN])
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


def is_current(parquet: pq.ParquetFile) -> bool:
    """Whether its rows were probed as they are probed now."""
    metadata = parquet.schema_arrow.metadata or {}
    return bool(metadata.get(b"fastplan.index") == str(_VERSION).encode())


def file_names(folder: Path) -> list[str]:
    """The files of the index, oldest first."""
    return sorted(path.name for path in folder.glob("*.parquet"))


class Writer:
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
        try:
            if self._waiting:
                self._write()
        finally:
            if (file := self._file) is not None:
                self._file, self._rows = None, 0
                file.close()

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
        with ExitStack() as both:
            both.callback(_close, self._facts)
            both.callback(_close, self._packets)
            self._write_facts()
        self._partial[1].replace(self._path.with_suffix(".packets"))
        self._partial[0].replace(self._path)

    def discard(self) -> None:
        """Give up what was written."""
        for writer, partial in zip((self._facts, self._packets), self._partial, strict=True):
            with suppress(OSError):
                _close(writer)
            partial.unlink(missing_ok=True)

    def _write_facts(self) -> None:
        self._facts.write_table(pa.concat_tables([FACTS.empty_table(), *self._waiting]))
        self._waiting = []


def _close(writer: pq.ParquetWriter) -> None:
    try:
        writer.close()
    except OSError:
        writer.is_open = False  # else it is closed, and fails, once more when it is collected
        raise


def remove_stale(folder: Path) -> None:
    """What scans left behind that were killed long ago; another scan may be removing it at the same time."""
    alone = (path for path in folder.glob("*.packets") if not path.with_suffix(".parquet").exists())
    for path in (*folder.glob("*.partial"), *alone):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE_S:
                path.unlink()


def merge(folder: Path) -> None:
    """All files into one, the newest row of each path.

    Somebody else's merge under way is left alone, and where files cannot be locked none is begun.
    """
    with (folder / "merge.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        names = file_names(folder)
        merged = _Pair(folder / f"{Path(names[-1]).stem}-merged.parquet")  # files that come meanwhile are newer
        seen_M = np.empty(0, np.int64)  # a path is lost, and probed again, where two in 2^64 are alike
        try:
            for name in reversed(names):
                if len(here_N := _hashes_in(folder / name)):
                    for facts, packets in _unseen(folder / name, seen_M):
                        merged.write(facts, packets)
                    seen_M = np.union1d(seen_M, here_N)
        except BaseException:
            merged.discard()
            raise
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
                new = ~np.isin(name_hashes(facts["path"].to_pylist()), seen_M)
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
            batches = facts.iter_batches(_FILE_ROWS, columns=["path"], use_threads=False) if is_current(facts) else ()
            return np.concatenate(
                [np.empty(0, np.int64), *(name_hashes(batch["path"].to_pylist()) for batch in batches)]
            )
    except (OSError, pa.ArrowInvalid):
        return np.empty(0, np.int64)
