"""Many places, and many names, in little memory: what a list of a million videos is made of.

A `Place` as an object takes 300 bytes, here 100: Arrow holds what it is made of, and a place is made when it is asked
for.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fastplan.data.storage import Place
from fastplan.errors import UserError

_AT_A_TIME = 1024
_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("shard", pa.dictionary(pa.int32(), pa.string())),
        ("begin", pa.int64()),
        ("size", pa.int64()),
        ("first_picture", pa.int64()),
    ]
)


class Places(Sequence[Place]):
    """Absolute places, in an order of their own. `Places.of` makes one."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @classmethod
    def of(cls, places: Iterable[Place]) -> "Places":
        """These places, made absolute. Raises `UserError` for a path that is no UTF-8."""
        if isinstance(places, Places):
            return places
        batches = [_batch(chunk) for chunk in _chunks(place.absolute() for place in places)]
        return cls(pa.Table.from_batches(batches, _SCHEMA).unify_dictionaries().combine_chunks())

    @property
    def paths(self) -> pa.StringArray:
        """Their paths."""
        column = self._table["path"]
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    def distinct(self) -> "Places":
        """The first of every path."""
        paths = self.paths
        if len(np.unique(path_hashes(paths))) == len(paths):
            return self
        return self.take(pc.index_in(pc.unique(paths), value_set=paths))

    def take(self, numbers: Any) -> "Places":
        """Those with these numbers, in this order."""
        return Places(self._table.take(pa.array(numbers, pa.int64())).combine_chunks())

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, number: int) -> Place: ...
    @overload
    def __getitem__(self, number: slice) -> "Places": ...
    def __getitem__(self, number: int | slice) -> "Place | Places":
        if isinstance(number, slice):
            return self.take(range(len(self))[number])
        return Place(*(column[number].as_py() for column in self._table.columns))

    def __iter__(self) -> Iterator[Place]:
        for batch in self._table.to_batches(max_chunksize=_AT_A_TIME):
            yield from map(Place._make, zip(*(column.to_pylist() for column in batch.columns), strict=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class Names(Sequence[str]):
    """Strings, in an order of their own. Raises `UserError` for one that is no UTF-8."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = pa.chunked_array([_strings(chunk) for chunk in _chunks(names)], pa.string()).combine_chunks()

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> list[str]: ...
    def __getitem__(self, number: int | slice) -> str | list[str]:
        found: str | list[str] = (
            self._names[number].to_pylist() if isinstance(number, slice) else str(self._names[number])
        )
        return found

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), _AT_A_TIME):
            yield from self[begin : begin + _AT_A_TIME]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class PathNumbers:
    """Which number a path has among many: 16 bytes for each of them, where Arrow's own table of strings takes 200."""

    def __init__(self, paths: pa.StringArray) -> None:
        self._paths = paths
        hash_N = path_hashes(paths)
        self._order_N = np.argsort(hash_N)
        self._hash_N = hash_N[self._order_N]

    def __len__(self) -> int:
        return len(self._paths)

    def of(self, paths: pa.StringArray) -> npt.NDArray[np.int64]:
        """The number of each, -1 where it is not among them."""
        if not len(self):
            return np.full(len(paths), -1, np.int64)
        at_M = np.searchsorted(self._hash_N, path_hashes(paths))
        number_M = self._order_N[np.minimum(at_M, len(self) - 1)]
        same_M = pc.equal(paths, self._paths.take(pa.array(number_M))).to_numpy(zero_copy_only=False)
        return np.where(same_M, number_M, -1)


def path_hashes(names: pa.StringArray) -> npt.NDArray[np.int64]:
    """A hash of 64 bits of each, of this process alone."""
    parts = (names[begin : begin + _AT_A_TIME].to_pylist() for begin in range(0, len(names), _AT_A_TIME))
    return np.fromiter((hash(name) for part in parts for name in part), np.int64, len(names))


def _chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(values)
    while chunk := list(islice(rest, _AT_A_TIME)):
        yield chunk


def _batch(places: list[Place]) -> pa.RecordBatch:
    path, shard, begin, size, first = zip(*places, strict=True)
    arrays = [_strings(path), _strings(shard).dictionary_encode()]
    arrays += [pa.array(values, pa.int64()) for values in (begin, size, first)]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _strings(names: Sequence[str]) -> pa.StringArray:
    try:
        return pa.array(names, pa.string())
    except UnicodeEncodeError as error:
        name = ascii(error.object)
        raise UserError(f"the name {name} is not UTF-8, which an index cannot hold: rename it") from None
