"""Memory that is used again: batches come and go, and clearing fresh pages costs more than filling them.

A buffer is free again when the last array or tensor on it is gone, which Python's reference counts tell.
"""

import math
import mmap
import weakref

import numpy as np
import numpy.typing as npt


class Buffers:
    """Arrays on memory that earlier ones left. Threads may share it.

    Free buffers that an array would fill by less than half are given back to the system as soon as it is asked for, so
    another clip regime does not pay for the one before.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def empty(self, shape: tuple[int, ...], kind: type[np.generic]) -> npt.NDArray[np.generic]:
        """An array whose values are whatever was there before."""
        size = math.prod(shape) * np.dtype(kind).itemsize
        buffer = self._taken(size) or _mapped(size)
        whole = np.frombuffer(buffer, np.uint8)
        weakref.finalize(whole, self._free.append, buffer).atexit = False
        return whole[:size].view(kind).reshape(shape)

    def _taken(self, size: int) -> mmap.mmap | None:
        while True:
            try:
                buffer = self._free.pop()
            except IndexError:
                return None
            if size <= len(buffer) <= 2 * size:
                return buffer


def _mapped(size: int) -> mmap.mmap:
    """Fresh memory, in huge pages where the system has them: their first touch is a quarter of the price."""
    buffer = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer
