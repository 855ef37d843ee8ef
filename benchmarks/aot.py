"""Compile every kernel configuration for GPUs that need not be present, and read what the compiler made of
it.

    python -m fastplan.benchmarks.aot [--output benchmarks/results/aot.md] [--arch 90 ...] [--brief]

The cubins are disassembled with the tools in Triton's wheel. Gates: no stack, no spilled register, shared
memory within the architecture's limit, 16-byte global loads and none of one or two bytes, and tensor-core
instructions in the GEMMs. Passing proves that a configuration compiles to code worth running; it proves
neither speed nor correctness on silicon.
"""

import argparse
import itertools
import multiprocessing
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastplan.kernels import (
    bn_finalize,
    bn_gc_add_relu,
    bn_grad,
    bn_relu,
    bn_relu_maxpool,
    table,
    tap_gemm,
    tap_wgrad,
)

from .disassembly import disassemble, tool

SHARED_LIMIT_BYTES = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
# What the matrix units are called: an HMMA on sm_90 would mean that the compiler gave up on the fast path.
TENSOR_CORE = {80: r"HMMA", 90: r"HGMMA", 100: r"UTC\w*MMA", 120: r"HMMA"}
OTHER_ARCHITECTURES = (80, 100, 120)  # one configuration each; sm_90 gets all of them
TILE = ("BM", "BN", "BK", "BC", "BI", "BO", "BT")  # the constants that name a tile's sizes
BATCH = 12  # cases that are disassembled together

ACTIVATIONS = set(["x", "y", "g", "gi", "identity", "dx", "didentity", "w", "residual", "raw"])
INT32 = set(["L", "T", "H", "W", "OT", "OH", "OW", "OL", "N", "M", "steps", "tiles", "rows_per_tile", "positions"])
TYPES = {**dict.fromkeys(INT32, "i32"), "eps": "fp32", "index": "*u8"}


class Case(NamedTuple):
    """One kernel in one configuration; ``label`` says what it stands for in the network."""

    kernel: Any
    label: str
    constants: dict[str, Any]
    warps: int
    stages: int = 3
    gemm: bool = False
    primary: bool = True  # also compiled for the other architectures
    in_use: bool = True  # the first of the table's candidates
    fp32: bool = False  # activations, without matrix units; else bf16
    streams: bool = True  # reads activations, so it must do so 16 bytes at a time


class Compiled(NamedTuple):
    """What the compiler made of a case; ``failures`` lists the gates that it does not pass."""

    kernel: str
    label: str
    arch: int
    warps: int
    registers: int
    stack_bytes: int
    spills: int
    shared_bytes: int
    wide_loads: int
    tensor_core: int
    failures: tuple[str, ...]


def row_cases() -> Iterator[Case]:
    """Element-wise and reducing kernels: every tile, at the stem's 64 channels or at 256."""
    for kernel, label, extra in ROW_KERNELS:
        pool = label.startswith(("stem pool", "dual pool"))
        channels = 64 if label.startswith("stem pool") else 256
        for rank, tile in enumerate((table.pool_tiles if pool else table.row_tiles)(channels)):
            constants = {"C": channels, "BM": tile.rows, "BC": tile.channels, "ACC": tl.float32, **extra}
            name = f"{label}, C {channels}, {tile.rows}x{tile.channels}"
            yield Case(kernel, name, constants, tile.warps, primary=rank == 0, in_use=rank == 0)


_TAIL = {"SHIFT_PER_SAMPLE": True, "ID_NORM": False}
_STEM, _DUAL = {"SPATIAL": True, "NORM": True}, {"SPATIAL": False, "NORM": False}


def _grad(*flags: str, pool: int = bn_grad.NO_POOL, norm: bool = True) -> dict[str, Any]:
    names = ("RELU", "STATS", "K2_PER_SAMPLE")
    return {"NORM": norm, "POOL": pool, **{name: name in flags for name in names}}


ROW_KERNELS: list[tuple[Any, str, dict[str, Any]]] = [
    (bn_gc_add_relu._tail_forward, "tail", _TAIL),
    (bn_gc_add_relu._tail_forward, "tail with downsample", {**_TAIL, "ID_NORM": True}),
    (bn_gc_add_relu._tail_reduce, "tail", {"INPUT": True, "ID_NORM": False}),
    (bn_gc_add_relu._tail_reduce, "tail with downsample", {"INPUT": True, "ID_NORM": True}),
    (bn_gc_add_relu._tail_reduce, "block end", {"INPUT": False, "ID_NORM": False}),
    (bn_gc_add_relu._tail_input_grads, "tail with downsample", {}),
    (bn_relu._bn_relu_apply, "bn2", {"RELU": True}),
    (bn_relu._bn_relu_apply, "no ReLU", {"RELU": False}),
    (bn_grad._bn_reduce, "bn2", {"RELU": True, "POOL": bn_grad.NO_POOL}),
    (bn_grad._bn_reduce, "no ReLU", {"RELU": False, "POOL": bn_grad.NO_POOL}),
    (bn_grad._bn_reduce, "stem pool", {"RELU": True, "POOL": bn_grad.STEM_POOL}),
    (bn_grad._bn_input_grad, "bn2", _grad("RELU", "STATS")),
    (bn_grad._bn_input_grad, "bn2, frozen", _grad("RELU")),
    (bn_grad._bn_input_grad, "behind a prologue", _grad("STATS")),
    (bn_grad._bn_input_grad, "behind a prologue, frozen", _grad()),
    (bn_grad._bn_input_grad, "tail", _grad("STATS", "K2_PER_SAMPLE")),
    (bn_grad._bn_input_grad, "tail, frozen", _grad("K2_PER_SAMPLE")),
    (bn_grad._bn_input_grad, "stem pool", _grad("RELU", "STATS", pool=bn_grad.STEM_POOL)),
    (bn_grad._bn_input_grad, "stem pool, frozen", _grad("RELU", pool=bn_grad.STEM_POOL)),
    (bn_grad._bn_input_grad, "dual pool", _grad(pool=bn_grad.DUAL_POOL, norm=False)),
    (bn_finalize._channel_stats, "statistics", {"NORM": False}),
    (bn_finalize._channel_stats, "means behind a BN", {"NORM": True}),
    (bn_relu_maxpool._pool_forward, "stem pool", _STEM),
    (bn_relu_maxpool._pool_forward, "dual pool", _DUAL),
]


def small_cases() -> Iterator[Case]:
    """Kernels over [N, C] statistics; they move kilobytes, so the width of their loads does not matter."""
    base = {"C": 256, "BC": bn_finalize.MERGE_CHANNELS, "ACC": tl.float32}
    rows = bn_finalize.MERGE_ROWS
    yield Case(bn_finalize._merge_tiles, "statistics", {**base, "BT": rows}, 4, streams=False)
    yield Case(bn_finalize._finalize, "statistics", {**base, "BN": rows, "COUNTED": False}, 4, streams=False)


def gemm_cases() -> Iterator[Case]:
    """Every tile of the table at the channels of layers 1 and 3; the others of DG-P3D-50 are multiples of
    these. Of fp32, whose steps take as much shared memory, the deepest.
    """
    for gemm in GEMMS:
        yield from _tap_gemms(*gemm)
    for wgrad in WGRADS:
        yield from _tap_wgrads(*wgrad)
    for gemm in GEMMS:
        if gemm[0] in ("conv3 after BN", "conv3 gradient") and min(gemm[1:3]) >= 256:
            yield from _tap_gemms(*gemm, fp32=True)
    yield from _tap_wgrads(256, 256, 3, False, fp32=True)


def _tap_gemms(
    label: str, source: int, channels: int, taps: int, flags: tuple[str, ...], *, fp32: bool = False
) -> Iterator[Case]:
    names = ("DGRAD", "PROLOGUE", "BIAS", "BIAS_PER_SAMPLE", "RESIDUAL", "RELU", "STATS", "MASK")
    fixed = {name: name in flags for name in names} | {"STRIDE": 1, "ACC": tl.float32, "WIDEN": False}
    for rank, tile in enumerate(table.gemm_tiles(source, channels, 12544, 4 if fp32 else 2)):
        shape = {"SRC": source, "DST": channels, "TAPS": taps}
        block = {"BM": tile.rows, "BN": tile.outputs, "BK": tile.depth}
        name = f"{label} {source}->{channels}, {tile.rows}x{tile.outputs}x{tile.depth}"
        primary = rank == 0 and source >= 256 and "PROLOGUE" in flags  # deep enough to fill the pipeline
        case = Case(tap_gemm._tap_gemm, name, fixed | shape | block, tile.warps, tile.stages, gemm=True, fp32=fp32)
        yield case._replace(primary=primary, in_use=rank == 0)


def _tap_wgrads(source: int, channels: int, taps: int, prologue: bool, *, fp32: bool = False) -> Iterator[Case]:
    fixed = {"STRIDE": 1, "PROLOGUE": prologue, "ACC": tl.float32, "WIDEN": False}
    for rank, tile in enumerate(table.wgrad_tiles(source, channels, 4 if fp32 else 2)):
        shape = {"SRC": source, "DST": channels, "TAPS": taps}
        block = {"BM": tile.rows, "BI": tile.inputs, "BO": tile.outputs}
        name = f"{taps} taps {source}->{channels}, {tile.rows}x{tile.inputs}x{tile.outputs}"
        primary = rank == 0 and source >= 256
        case = Case(tap_wgrad._tap_wgrad, name, fixed | shape | block, tile.warps, tile.stages, gemm=True, fp32=fp32)
        yield case._replace(primary=primary, in_use=rank == 0)


_END = ("BIAS", "BIAS_PER_SAMPLE")
GEMMS: list[tuple[str, int, int, int, tuple[str, ...]]] = [
    ("conv1", 256, 64, 1, ("STATS",)),
    ("conv3 after BN", 64, 256, 1, ("PROLOGUE", "STATS")),
    ("conv3 after BN", 256, 1024, 1, ("PROLOGUE", "STATS")),
    ("P3D-A t", 256, 256, 3, ("STATS",)),
    ("P3D-B t beside s", 64, 64, 3, ("RESIDUAL", "STATS")),
    ("P3D-C t", 256, 256, 3, ("RESIDUAL", "RELU")),
    ("P3D-B", 64, 64, 11, ("PROLOGUE", "STATS")),
    ("conv3 gradient", 1024, 256, 1, ("DGRAD", "MASK")),
    ("conv1 gradient", 64, 256, 1, ("DGRAD", "RESIDUAL")),
    ("projection gradient", 256, 64, 1, ("DGRAD",)),
    ("P3D-A t gradient", 256, 256, 3, ("DGRAD",)),
    ("P3D-B gradient", 64, 64, 11, ("DGRAD", "MASK")),
    ("P3D-C t gradient", 256, 256, 3, ("DGRAD", "RESIDUAL")),
    ("projection, evaluation", 64, 256, 1, ()),
    ("conv1, folded", 256, 64, 1, ("BIAS", "RELU")),
    ("P3D-A t, folded", 64, 64, 3, ("BIAS", "RELU")),
    ("P3D-A t, folded, means", 64, 64, 3, ("BIAS", "RELU", "STATS")),
    ("P3D-B, folded", 64, 64, 11, ("BIAS", "RELU")),
    ("P3D-B t beside s, folded", 64, 64, 3, ("BIAS", "RESIDUAL", "RELU")),
    ("P3D-B t beside s, folded, means", 64, 64, 3, ("BIAS", "RESIDUAL", "RELU", "STATS")),
    ("P3D-C t, means", 64, 64, 3, ("RESIDUAL", "RELU", "STATS")),
    ("block end", 64, 256, 1, (*_END, "RESIDUAL", "RELU")),
    ("block end after BN", 256, 1024, 1, ("PROLOGUE", *_END, "RESIDUAL", "RELU")),
    ("block end gradient", 256, 64, 1, ("DGRAD", *_END)),
    ("block end gradient, after BN", 1024, 256, 1, ("DGRAD", "MASK", *_END)),
]
WGRADS = [(64, 256, 1, True), (256, 64, 1, False), (256, 256, 3, False), (64, 64, 11, True), (256, 256, 11, False)]


def cases() -> list[Case]:
    """Every configuration that the table can choose."""
    return [*row_cases(), *small_cases(), *gemm_cases()]


def with_sizes_of_one(case: Case) -> Case:
    """The case as Triton compiles it where every size is 1: it then makes a constant of that argument."""
    ones = dict.fromkeys(INT32 & set(case.kernel.arg_names), 1)
    return case._replace(label=f"{case.label}, sizes of 1", constants={**case.constants, **ones})


def compile_cases(todo: list[tuple[Case, int]]) -> list[Compiled]:
    """Compile each case for its architecture (90 for sm_90), disassemble, and check the gates."""
    kernels = [_kernel(case, arch) for case, arch in todo]
    listings = [""] * len(todo)
    for arch in dict.fromkeys(arch for _, arch in todo):
        chosen = [number for number, (_, other) in enumerate(todo) if other == arch]
        found = disassemble([kernels[number].asm["cubin"] for number in chosen], arch)
        for number, listing in zip(chosen, found, strict=True):
            listings[number] = listing
    return [_judge(*at, kernel, text) for at, kernel, text in zip(todo, kernels, listings, strict=True)]


def _kernel(case: Case, arch: int) -> Any:
    names = case.kernel.arg_names
    types = TYPES | dict.fromkeys(ACTIVATIONS, "*fp32" if case.fp32 else "*bf16")
    signature = {name: "constexpr" if name in case.constants else types.get(name, "*fp32") for name in names}
    aligned = [i for i, name in enumerate(names) if signature[name].startswith("*")]
    source = ASTSource(
        fn=case.kernel,
        signature=signature,
        constexprs=case.constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    options = {"num_warps": case.warps, "num_stages": case.stages}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def _judge(case: Case, arch: int, compiled: Any, assembly: str) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        usage = tool("cuobjdump", "-res-usage", cubin.name)
    resource = {key: int(value) for key, value in re.findall(r"\b(REG|STACK):(\d+)", usage)}
    spills = len(re.findall(r"\b(?:LDL|STL)\b", assembly))
    narrow = len(re.findall(r"\b(?:LDG|LDGSTS)\.\S*[US](?:8|16)\b", assembly))
    wide = len(re.findall(r"\b(?:LDG|LDGSTS)\.\S*128", assembly))
    tensor_core = len(re.findall(rf"\b{TENSOR_CORE[arch]}\b", assembly))
    shared = int(compiled.metadata.shared)
    gates = {
        f"stack {resource['STACK']}": resource["STACK"] == 0,
        f"{spills} spills": spills == 0,
        f"shared memory {shared} > {SHARED_LIMIT_BYTES[arch]}": shared <= SHARED_LIMIT_BYTES[arch],
        "no 16-byte load": wide > 0 or not case.streams,
        f"{narrow} loads of one or two bytes": narrow == 0 or not case.streams,
        "no tensor-core instruction": tensor_core > 0 or not case.gemm or case.fp32,
    }
    failures = tuple(reason for reason, passed in gates.items() if not passed)
    kernel = case.kernel.__name__.lstrip("_")
    found = (resource["REG"], resource["STACK"], spills, shared, wide, tensor_core)
    return Compiled(kernel, f"{case.label}, fp32" if case.fp32 else case.label, arch, case.warps, *found, failures)


def plan(architectures: tuple[int, ...] = (90, *OTHER_ARCHITECTURES), *, brief: bool = False) -> list[tuple[Case, int]]:
    """All cases for sm_90, and for every other architecture one case per kernel and dtype.

    With ``brief`` those of sm_90 are each kernel's variants in the tile in use, and its other tiles for one variant.
    """
    todo: list[tuple[Case, int]] = []
    for arch in architectures:
        seen: set[Any] = set()
        for case in cases():
            tile = tuple(case.constants.get(name) for name in TILE)
            of = (case.kernel, case.fp32, tile) if arch == 90 else (case.kernel, case.fp32)
            new = of not in seen and (arch == 90 or case.primary)
            if new or (arch == 90 and (case.in_use or not brief)):
                seen.add(of)
                todo.append((case, arch))
    return todo


def compile_plan(
    architectures: tuple[int, ...] = (90, *OTHER_ARCHITECTURES), *, brief: bool = False
) -> Iterator[Compiled]:
    """`compile_cases` of everything in `plan`, in its order, on all cores."""
    numbers = range(len(plan(architectures, brief=brief)))
    todo = [(architectures, brief, numbers[at : at + BATCH]) for at in range(0, len(numbers), BATCH)]
    workers = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from itertools.chain.from_iterable(pool.map(_compile_numbered, todo))


def _compile_numbered(at: tuple[tuple[int, ...], bool, range]) -> list[Compiled]:
    architectures, brief, numbers = at  # a kernel itself cannot be sent to another process
    return compile_cases([plan(architectures, brief=brief)[number] for number in numbers])


def markdown(rows: list[Compiled], *, brief: bool = False) -> str:
    """The table of `rows`, with the versions that made it."""
    head = "kernel | for | sm | warps | registers | stack B | spills | shared B | 16-byte loads | MMA | gates"
    which = "Each variant of a kernel in one tile and each tile for one variant" if brief else "Every configuration"
    lines = [
        "# Kernels compiled ahead of time",
        "",
        f"Made by `python -m fastplan.benchmarks.aot` with Triton {triton.__version__}; no GPU took part.",
        f"{which} of the table for sm_90, one per kernel and dtype for the others; counts are instructions.",
        "",
        f"| {head} |",
        "|" + "---|" * (head.count("|") + 1),
    ]
    for row in rows:
        cells = [*row[:-1], ", ".join(row.failures) or "pass"]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Compile, write the table, return 1 if a gate fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/aot.md"))
    parser.add_argument("--arch", type=int, nargs="+", default=(90, *OTHER_ARCHITECTURES))
    parser.add_argument("--brief", action="store_true", help="each variant in one tile, each tile for one variant")
    arguments = parser.parse_args()
    rows = []
    for row in compile_plan(tuple(arguments.arch), brief=arguments.brief):
        rows.append(row)
        print(row, flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(markdown(rows, brief=arguments.brief), encoding="utf-8")
    failed = [row for row in rows if row.failures]
    print(f"{len(rows)} configurations, {len(failed)} fail a gate; table in {arguments.output}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
