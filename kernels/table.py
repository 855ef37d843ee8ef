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


class Fused(NamedTuple):
    """Whether a kernel replaces the composed operators for a shape, and why."""

    fused: bool
    reason: str


def use_fused(op: str, *, inputs: int, outputs: int, taps: int = 1, stride: int = 1, itemsize: int = 2) -> Fused:
    """Fused or composed, for an operator of `fused` on ``inputs`` -> ``outputs`` channels of ``itemsize`` bytes.

    The predictions behind it: passes over memory are what the kernels save, so the element-wise operators
    always pay; a GEMM pays while its convolution is bound by bytes, that is at low FLOP per byte; where it is
    bound by FLOPs cuDNN is the faster one, and at stride 2 the gradient kernel computes four times what it
    needs; a block's end as a GEMM saves so many passes that it pays up to a thousand input channels. Raises
    ValueError for an operator that the table does not know.
    """
    if op in ELEMENTWISE:
        return Fused(True, "prediction: saves passes over memory at every shape")
    if op not in GEMMS:
        raise ValueError(f"use_fused: {op!r}; it must be one of {', '.join((*ELEMENTWISE, *GEMMS))}")
    if inputs % 16 or outputs % 16:
        return Fused(False, f"{inputs} -> {outputs} channels are no multiples of 16")
    if stride != 1:
        return Fused(False, "prediction: the stride-2 gradient kernel wastes three quarters of its products")
    if op == BLOCK_END:
        limit = BREAK_EVEN_INPUTS if itemsize < 4 else BREAK_EVEN_INPUTS_FP32
        saves = "saves 7 passes over the output" if inputs <= limit else "cuDNN's products save more than 7 passes"
        return Fused(inputs <= limit, f"prediction: {saves}")
    flop_per_byte = 2 * taps * inputs * outputs / ((inputs + outputs) * itemsize)
    break_even = BREAK_EVEN_FLOP_PER_BYTE if itemsize < 4 else BREAK_EVEN_FP32
    if flop_per_byte > break_even:
        return Fused(False, f"prediction: {round(flop_per_byte)} FLOP per byte, cuDNN is bound by FLOPs and faster")
    return Fused(True, f"prediction: {round(flop_per_byte)} FLOP per byte, bound by memory")


ELEMENTWISE = ("channel_stats", "bn_finalize", "bn_relu_apply", "bn_gc_add_relu", "bn_relu_maxpool")
BLOCK_END = "conv_gc_add_relu"
GEMMS = ("tap_gemm", "tap_gemm_fork", BLOCK_END)
# An H100 has 266 FLOP per byte (798 TFLOP/s over 3.0 TB/s, its data sheet's dense bf16 and a usual copy
# rate); a Triton GEMM with pointer loads is taken to reach two thirds of the matrix rate, cuDNN all of it. A
# step has three products of this size, each max(bytes, FLOPs); composed, the statistics read half of a
# product's bytes once more. So they are even where 3 * f * 3/2 = 3 + 1/2, with f in units of 266.
BREAK_EVEN_FLOP_PER_BYTE = 266 * 3.5 / 4.5
# In fp32 the kernels use no matrix units (TF32 has 10 bits): 67 TFLOP/s.
BREAK_EVEN_FP32 = 22 * 3.5 / 4.5
# The end of a block with fixed statistics, I inputs and O outputs a position, where FLOPs bound it. As a GEMM each of
# the three products takes half as long again, by 2 * I * O / 266 bytes / 2; composed, the output is read or written
# four times more forward (the means, the three passes of `bn_gc_add_relu`) and three times more backward (six, not
# three). So they are even where 3 / 2 * 2 * I * O / 266 = 7 * O * itemsize.
BREAK_EVEN_INPUTS = 7 * 2 * 266 / 3
BREAK_EVEN_INPUTS_FP32 = 7 * 4 * 22 / 3


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
    return tuple(Rows(elements // width, width, warps) for elements, warps in ((4096, 4), (2048, 4), (8192, 8)))


def pool_tiles(channels: int) -> tuple[Rows, ...]:
    """Candidates for the pool kernels: for sm_90 4096 elements compile to 201 registers, 2048 to 112."""
    large, small, wide = row_tiles(channels)
    return small, large, wide


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


def gemm_tiles(source: int, channels: int, positions: int, itemsize: int = 2) -> tuple[Gemm, ...]:
    """Candidates for ``source`` -> ``channels`` with ``positions`` per sample, the one in use first.

    128 rows when they waste less than a quarter of the last tile; the 128x128 tile has 8 warps because 4
    spill. A step is at most 128 bytes deep: 64 channels of fp32 would need 128 KiB of shared memory, and
    sm_86, sm_89 and sm_120 have 99.
    """
    step = 64 if itemsize < 4 else 32
    depth = min(step, power_of_two_divisor(source))
    outputs = min(128, power_of_two_divisor(channels))
    rows = 128 if -(-positions // 128) * 128 <= 1.25 * positions else 64
    pairs = [(rows, outputs), (64, outputs), (rows, min(64, outputs)), (128, outputs)]
    tiles = [Gemm(m, n, depth, 8 if m * n >= 128 * 128 else 4, 3) for m, n in dict.fromkeys(pairs)]
    return (*tiles, tiles[0]._replace(depth=min(step // 2, depth), stages=4))


class Wgrad(NamedTuple):
    """Tile of `tap_wgrad`: ``rows`` positions per step, an inputs x outputs block of the weight."""

    rows: int
    inputs: int
    outputs: int
    warps: int
    stages: int


def wgrad_tiles(source: int, channels: int, itemsize: int = 2) -> tuple[Wgrad, ...]:
    """Candidates for a ``source`` x ``channels`` weight, the one in use first; a step has 32 rows in fp32."""
    inputs, outputs = min(128, power_of_two_divisor(source)), min(128, power_of_two_divisor(channels))
    pairs = [(inputs, outputs), (min(64, inputs), outputs), (min(64, inputs), min(64, outputs))]
    rows = 64 if itemsize < 4 else 32
    return tuple(Wgrad(rows, i, o, 8 if i * o >= 128 * 128 else 4, 3) for i, o in dict.fromkeys(pairs))


def wgrad_splits(count: int, blocks: int, tile: Wgrad) -> tuple[int, int]:
    """(splits of the positions, tiles per split): about two programs per multiprocessor, none empty."""
    tiles = -(-count // tile.rows)
    per_split = max(1, tiles * blocks // (PROGRAMS // 4))
    return -(-tiles // per_split), per_split


def power_of_two_divisor(value: int) -> int:
    """The largest power of two that divides ``value``."""
    return value & -value
