"""What the element-wise and reducing kernels share: tiles of rows (positions) times channels, on both sides of a
launch.

A grid is (blocks of channels, blocks of rows, samples); a tile never crosses samples.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from . import table
from .launch import accumulate_type, positions_of
from .norm import accumulate_dtype

GRID_LIMIT = 65535  # of CUDA, in the second and third dimension


@triton.jit
def tile_at(block, L, C: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):
    """Rows m, channels c, offsets into [N,L,C] and which of these exist, of row block ``block`` of this
    program's channels and sample.
    """
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    m = block * BM + tl.arange(0, BM)
    o = tl.program_id(2).to(tl.int64) * L * C + m[:, None] * C + c[None, :]
    return m, c, o, (m < L)[:, None] & (c < C)[None, :]


@triton.jit
def vector_at(vector, c, C: tl.constexpr):
    """vector[c] as the one row of a tile, zero beyond C."""
    return tl.load(vector + c, mask=c < C, other=0.0)[None, :]


@triton.jit
def store_sums(sums, values, c, C: tl.constexpr):
    """values [BC] into sums [N,programs,C] at this program's place."""
    at = (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * C + c
    tl.store(sums + at, values, mask=c < C)


@triton.jit
def relu(v):
    """max(v, 0) that keeps a NaN: a diverged activation must stay visible."""
    return tl.where(v < 0, 0.0, v)


def row_grid(x: Tensor, tile: table.Rows) -> tuple[int, int, int]:
    """Grid of a kernel with one tile per program; channel blocks of one row run side by side.

    Raises ValueError where CUDA has no grid so large: a million positions or more, by the tile.
    """
    blocks = triton.cdiv(positions_of(x), tile.rows)
    if max(blocks, x.shape[0]) > GRID_LIMIT:
        raise ValueError(
            f"{x.shape[0]} samples of {positions_of(x)} positions (T * H * W) with {x.shape[-1]} channels: the kernels "
            f"take {GRID_LIMIT} samples of {GRID_LIMIT * tile.rows} positions; use smaller clips or kernels=off"
        )
    return triton.cdiv(x.shape[-1], tile.channels), blocks, x.shape[0]


def row_options(x: Tensor, tile: table.Rows) -> dict[str, Any]:
    """The constants that every such kernel takes, and its warps."""
    constants = {"C": x.shape[-1], "BM": tile.rows, "BC": tile.channels, "ACC": accumulate_type(x)}
    return {**constants, "num_warps": tile.warps}


def sums_of(x: Tensor, tile: table.Rows, count: int) -> tuple[tuple[int, int, int], int, list[Tensor]]:
    """Grid of a reducing kernel, tiles per program, and ``count`` tensors [N,programs,C] for its partial sums."""
    n, channels = x.shape[0], x.shape[-1]
    programs, steps = table.splits(positions_of(x), n, channels, tile)
    sums = [x.new_empty((n, programs, channels), dtype=accumulate_dtype(x)) for _ in range(count)]
    return (triton.cdiv(channels, tile.channels), programs, n), steps, sums
