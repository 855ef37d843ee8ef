"""Which tile each kernel uses, and for which shapes it replaces the composed operators.

Tiles are chosen by shape alone, never by timing at run time: statistics merge per tile, so another tile is
another rounding, and a run must repeat itself bit for bit. Every entry is a prediction of the byte model in
docs/kernels.md until benchmarks/bench_kernels.py has measured it on a GPU; `MEASURED` lists the entries it
has.
"""

from typing import NamedTuple

MEASURED: tuple[str, ...] = ()

# Enough programs for eight per multiprocessor of a 132-multiprocessor GPU; a constant, so that results do not
# depend on the device.
PROGRAMS = 1056


class Rows(NamedTuple):
    """Tile of an element-wise or reducing kernel: ``rows`` positions times ``channels``."""

    rows: int
    channels: int
    warps: int


def next_power_of_two(value: int) -> int:
    """The smallest power of two that is at least ``value``."""
    return 1 << (value - 1).bit_length()


def row_tiles(channels: int) -> tuple[Rows, ...]:
    """Candidate tiles for ``channels``, the one in use first; 8 elements per thread are one 16-byte bf16
    load.
    """
    width = min(128, next_power_of_two(channels))
    return tuple(
        Rows(elements // width, width, warps) for elements, warps in ((4096, 4), (2048, 4), (8192, 8))
    )


def splits(positions: int, samples: int, channels: int, tile: Rows) -> tuple[int, int]:
    """(programs along the positions of one sample, tiles per program) of a reducing kernel; no program is
    empty.
    """
    tiles = -(-positions // tile.rows)
    others = samples * -(-channels // tile.channels)
    per_program = max(1, tiles * others // PROGRAMS)
    return -(-tiles // per_program), per_program


class Gemm(NamedTuple):
    """Tile of `tap_gemm`: rows (positions) x outputs (channels), ``depth`` input channels per step."""

    rows: int
    outputs: int
    depth: int
    warps: int
    stages: int


def gemm_tiles(source: int, channels: int, positions: int) -> tuple[Gemm, ...]:
    """Candidates for ``source`` -> ``channels`` with ``positions`` per sample, the one in use first.

    128 rows when they waste less than a quarter of the last tile; the 128x128 tile has 8 warps because 4
    spill.
    """
    depth = min(64, power_of_two_divisor(source))
    outputs = min(128, power_of_two_divisor(channels))
    rows = 128 if -(-positions // 128) * 128 <= 1.25 * positions else 64
    pairs = [(rows, outputs), (64, outputs), (rows, min(64, outputs)), (128, outputs)]
    tiles = [Gemm(m, n, depth, 8 if m * n >= 128 * 128 else 4, 3) for m, n in dict.fromkeys(pairs)]
    return (*tiles, tiles[0]._replace(depth=min(32, depth), stages=4))


class Wgrad(NamedTuple):
    """Tile of `tap_wgrad`: ``rows`` positions per step, an inputs x outputs block of the weight."""

    rows: int
    inputs: int
    outputs: int
    warps: int
    stages: int


def wgrad_tiles(source: int, channels: int) -> tuple[Wgrad, ...]:
    """Candidates for a ``source`` x ``channels`` weight, the one in use first."""
    inputs, outputs = min(128, power_of_two_divisor(source)), min(128, power_of_two_divisor(channels))
    pairs = [(inputs, outputs), (min(64, inputs), outputs), (min(64, inputs), min(64, outputs))]
    return tuple(Wgrad(64, i, o, 8 if i * o >= 128 * 128 else 4, 3) for i, o in dict.fromkeys(pairs))


def wgrad_splits(count: int, blocks: int, tile: Wgrad) -> tuple[int, int]:
    """(splits of the positions, tiles per split): about two programs per multiprocessor, none empty."""
    tiles = -(-count // tile.rows)
    per_split = max(1, tiles * blocks // (PROGRAMS // 4))
    return -(-tiles // per_split), per_split


def power_of_two_divisor(value: int) -> int:
    """The largest power of two that divides ``value``."""
    return value & -value
