"""Memory that batches leave is taken again, and never while anything still looks at it."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from fastplan.data.buffers import Buffers


def place_of(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_taken_again_when_the_last_view_is_gone():
    buffers = Buffers()
    array = buffers.empty((4, 1000), np.float32)
    array[:] = 7
    place = place_of(array)
    row = torch.from_numpy(array).permute(1, 0)[3]
    del array
    other = buffers.empty((4, 1000), np.float32)
    assert place_of(other) != place, "a tensor of it is still there"
    other[:] = 1
    assert (row == 7).all()
    del row
    gc.collect()
    assert place_of(buffers.empty((3, 1000), np.float32)) == place


def test_what_fits_badly_is_given_back():
    buffers = Buffers()
    large = buffers.empty((1 << 20,), np.uint8)
    del large
    small = buffers.empty((1 << 10,), np.uint8)
    assert small.shape == (1 << 10,) and small.dtype == np.uint8 and not buffers._free
    del small
    assert len(buffers._free) == 1
    large = buffers.empty((1 << 20,), np.uint8)
    assert large.shape == (1 << 20,) and not buffers._free


def test_threads_never_share_a_buffer():
    buffers = Buffers()

    def work(number: int) -> bool:
        good = True
        for turn in range(200):
            array = buffers.empty((64, 64), np.int64)
            array[:] = 1000 * number + turn
            good &= bool((array == 1000 * number + turn).all())
        return good

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(4)))
