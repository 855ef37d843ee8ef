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
