"""Many places, and many names, in little memory: what a list of a million videos is made of.

They are packed, a block at a time: 3 to 17 bytes are left of a path, where a `Place` as an object takes 300. Going
through them in order unpacks each block once.
"""

import json
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import compress
from typing import Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

from fastplan.data.storage import Place
from fastplan.errors import UserError

_BLOCK = 512

Item = TypeVar("Item", bound=str | Place)


class _Packed(Sequence[Item], Generic[Item]):
    """Items in an order of their own; more can be added behind them."""

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self._blocks: list[bytes] = []
        self._rest: list[Item] = []
        self._unpacked: tuple[int, list[Item]] = -1, []
        for item in items:
            self.add(item)

    def add(self, item: Item) -> None:
        """One more. Raises `UserError` for a name that is no UTF-8."""
        for name in (item,) if isinstance(item, str) else item[:2]:
            _refuse_bytes(name)
        self._rest.append(item)
        if len(self._rest) == _BLOCK:
            self._blocks.append(zlib.compress(json.dumps(self._rest).encode(), level=1))
            self._rest = []

    @abstractmethod
    def _made(self, value: Any) -> Item:
        """An item from what JSON gives back of it."""

    def _block(self, number: int) -> list[Item]:
        if number == len(self._blocks):
            return self._rest
        last, items = self._unpacked
        if last != number:
            items = [self._made(value) for value in json.loads(zlib.decompress(self._blocks[number]))]
            self._unpacked = number, items
        return items

    def __len__(self) -> int:
        return len(self._blocks) * _BLOCK + len(self._rest)

    @overload
    def __getitem__(self, number: int) -> Item: ...
    @overload
    def __getitem__(self, number: slice) -> list[Item]: ...
    def __getitem__(self, number: int | slice) -> Item | list[Item]:
        if isinstance(number, slice):
            return [self[n] for n in range(len(self))[number]]
        block, place = divmod(range(len(self))[number], _BLOCK)
        return self._block(block)[place]

    def __iter__(self) -> Iterator[Item]:
        for number in range(len(self._blocks) + 1):
            yield from self._block(number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class Names(_Packed[str]):
    """Strings."""

    def _made(self, value: str) -> str:
        return value


class Places(_Packed[Place]):
    """Absolute places. All are added before `file_N` is asked for."""

    def add(self, item: Place) -> None:
        """One more, made absolute. Raises `UserError` for a path that is no UTF-8."""
        super().add(item.absolute())

    def _made(self, value: Sequence[Any]) -> Place:
        return Place(*value)

    @property
    def paths(self) -> Iterator[str]:
        """Their paths."""
        return (place.path for place in self)

    @cached_property
    def file_N(self) -> npt.NDArray[np.int32]:
        """Which of the different paths each has, numbered as they first appear."""
        first_N = first_alike(name_hashes(self.paths))  # two of a million paths are taken for one once in 10^7 lists
        return (np.cumsum(_are_first(first_N), dtype=np.int32) - 1)[first_N]

    def distinct(self) -> "Places":
        """The first of every path."""
        new_N = np.diff(np.maximum.accumulate(self.file_N), prepend=-1) > 0
        return self if new_N.all() else Places(compress(self, new_N))


class NameNumbers:
    """Which number a name has among many that differ, by hash: 16 bytes for each of them."""

    def __init__(self, names: Iterable[str]) -> None:
        hash_N = name_hashes(names)
        self._order_N = np.argsort(hash_N)
        self._hash_N = hash_N[self._order_N]

    def __len__(self) -> int:
        return len(self._hash_N)

    def of(self, names: Iterable[str]) -> npt.NDArray[np.int64]:
        """The number of each, -1 where it is not among them."""
        hash_M = name_hashes(names)
        if not len(self):
            return np.full(len(hash_M), -1, np.int64)
        at_M = np.minimum(np.searchsorted(self._hash_N, hash_M), len(self) - 1)
        return np.where(self._hash_N[at_M] == hash_M, self._order_N[at_M], -1)


def name_hashes(names: Iterable[str]) -> npt.NDArray[np.int64]:
    """A hash of 64 bits of each, of this process alone."""
    return np.fromiter(map(hash, names), np.int64)


def first_alike(hash_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Where each of the values occurs first."""
    order_N = np.argsort(hash_N, kind="stable")
    sorted_N = hash_N[order_N]
    new_N = np.ones(len(hash_N), bool)
    new_N[1:] = sorted_N[1:] != sorted_N[:-1]
    first_N = np.empty(len(hash_N), np.int32)
    first_N[order_N] = order_N[new_N][np.cumsum(new_N, dtype=np.int32) - 1]
    return first_N


def all_differ(names: Iterable[str]) -> bool:
    """Whether none occurs twice."""
    return bool(_are_first(first_alike(name_hashes(names))).all())


def _are_first(first_N: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    return first_N == np.arange(len(first_N), dtype=np.int32)


def _refuse_bytes(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"the name {name!a} is not UTF-8, which an index cannot hold: rename it") from None
