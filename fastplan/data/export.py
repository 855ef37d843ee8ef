"""The index of one data set as one Parquet file for other programs: a row per entry of the list, labels included.

The cached index knows files only, for they are shared by lists. Here each row has the class, group and segment that the
list gives it beside the facts of its file and its packet table. Rows are read and written a few at a time, so that
tables of millions of packets are never in memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fastplan.data.lists import VideoList
from fastplan.data.packets import IDR, KEY, NONREF, PacketTable
from fastplan.data.store import IndexStore, Rows
from fastplan.data.store_files import FACTS
from fastplan.errors import UserError

_HIDDEN = ("stamp", "first", "mirror", "start_pts", "pts_step")
_LISTED = pa.schema(
    [("label", pa.string()), ("group", pa.string()), ("begin_s", pa.float64()), ("end_s", pa.float64())]
)
_PACKETS = pa.schema(
    [
        ("packet_offset", pa.list_(pa.int64())),
        ("packet_size", pa.list_(pa.int32())),
        ("packet_pts", pa.list_(pa.int64())),
        ("packet_frame", pa.list_(pa.int32())),
        ("packet_key", pa.list_(pa.bool_())),
        ("packet_idr", pa.list_(pa.bool_())),
        ("packet_nonref", pa.list_(pa.bool_())),
    ]
)
_FACTS = pa.schema([field for field in FACTS if field.name not in _HIDDEN])
SCHEMA = pa.schema([_FACTS.field("path"), *_LISTED, *list(_FACTS)[1:], *_PACKETS])
_GROUP_ROWS = 128  # of packet tables, about 3 MB of usual videos of 10 s


def write_index(file: Path, listed: VideoList, store: IndexStore, rows: Rows) -> int:
    """Write `SCHEMA` to `file`, a row per entry of `listed`, in its order, and return how many rows that are.

    store, rows: as `probe_files` gives them for the places of `listed`. Bad files have their reason in `bad`. The
    label is null where the list has none, begin_s and end_s (seconds) where the whole video is meant. Packet lists are
    in file order, one element per packet: place and size in bytes; time in units of `unit_s`, null where the container
    gives no usable one; number of the frame that it shows, null where none; whether it is a keyframe, whether nothing
    behind it refers to what came before it, and whether no other frame refers to it. They are null where packets cannot
    be fed alone (see `fallback`) and for folders of pictures. Raises `UserError` where `file` cannot be written.
    """
    with new_file(file) as partial:
        _write(partial, listed, store, rows)
    return len(listed.places)


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """A path to write to, which becomes `file` at the end; nothing is left of it where that is not reached.

    Raises `UserError` where `file` cannot be written.
    """
    partial = file.with_name(f"{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror or error}): name another file") from None


def _write(file: Path, listed: VideoList, store: IndexStore, rows: Rows) -> None:
    file_N = listed.places.file_N
    with pq.ParquetWriter(file, SCHEMA, compression="zstd", use_dictionary=_FACTS.names + _LISTED.names) as writer:
        for begin in range(0, len(file_N), _GROUP_ROWS):
            chosen = slice(begin, begin + _GROUP_ROWS)
            facts = rows.take(file_N[chosen])
            columns = {name: facts[name] for name in _FACTS.names}
            columns |= _listed_columns(listed, chosen) | _packet_columns(store, facts)
            writer.write_table(pa.table({name: columns[name] for name in SCHEMA.names}, SCHEMA))


def _listed_columns(listed: VideoList, chosen: slice) -> dict[str, pa.Array]:
    labels = [listed.classes[label] if listed.classes else None for label in listed.labels[chosen]]
    parts = [part or (None, None) for part in listed.segments[chosen]] or [(None, None)] * len(labels)
    values = (labels, listed.groups[chosen], *zip(*parts, strict=True))
    return {field.name: pa.array(column, field.type) for field, column in zip(_LISTED, values, strict=True)}


def _packet_columns(store: IndexStore, facts: pa.Table) -> dict[str, pa.Array]:
    places = list(zip(*(facts[name].to_pylist() for name in ("file", "row", "bytes")), strict=True))
    cells = [_packet_cells(*found) for found in store.read_packets(places)]
    return {field.name: _lists([row[n] for row in cells], field.type) for n, field in enumerate(_PACKETS)}


def _packet_cells(table: PacketTable | None, pts_R: npt.NDArray[np.int64]) -> Sequence[pa.Array | None]:
    """One row of `_PACKETS`."""
    if table is None:
        return (None,) * len(_PACKETS)
    rank_P = table.rank_P
    hidden_P = rank_P < 0
    pts_P = pts_R[rank_P] if len(pts_R) else np.zeros(len(table), np.int64)
    return (
        pa.array(table.offset_P),
        pa.array(table.size_P),
        pa.array(pts_P, mask=hidden_P | (len(pts_R) == 0)),
        pa.array(rank_P.astype(np.int32), mask=hidden_P),
        *(pa.array(table.has(flag)) for flag in (KEY, IDR, NONREF)),
    )


def _lists(values: Sequence[pa.Array | None], type: pa.ListType) -> pa.ListArray:
    """Arrays as one column of lists; the arrays' bytes are copied, no Python object is made of an element."""
    ends = np.cumsum([0, *(0 if value is None else len(value) for value in values)], dtype=np.int32)
    mask = np.array([*(value is None for value in values), False])
    content = pa.concat_arrays([pa.array([], type.value_type), *(value for value in values if value is not None)])
    return pa.ListArray.from_arrays(pa.array(ends, mask=mask), content, type=type)
