"""Each fused operator against what it replaces: correctness first, then time, bandwidth and predicted bytes.

    python -m fastplan.benchmarks.bench_kernels [--output FOLDER] [--every-configuration] [--allow-missing]
    TRITON_INTERPRET=1 python -m fastplan.benchmarks.bench_kernels --tiny

Ours is timed against eager PyTorch and torch.compile on the same views of channels-last storage, forward and
forward plus backward, on three rotating sets of inputs (so that no set is left in L2), replayed as a CUDA
graph. An operator that is not correct is not timed. ``--tiny`` runs every code path on small shapes without a
GPU; its times are those of an interpreter and mean nothing.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fastplan.benchmarks.kernel_cases import Case, cases
from fastplan.kernels import fused, launch, reference, table

# ||got - want|| / ||want|| against fp64 on the same inputs; the interpreter truncates where a GPU rounds.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 8e-3 if launch.INTERPRET else 4e-3}
INPUT_SETS = 3


class Row(NamedTuple):
    """One line of the table; times in microseconds, None where a baseline failed or was not run."""

    op: str
    shape: str
    direction: str
    configuration: int
    error: float
    correct: bool
    ours_us: float | None
    eager_us: float | None
    compile_us: float | None
    predicted_bytes: int
    gb_per_s: float | None
    percent_of_copy: float | None


def relative_error(got: Tensor, want: Tensor) -> float:
    """||got - want|| / ||want||; NaN if either holds one."""
    return ((got.double() - want).norm() / want.norm().clamp_min(1e-30)).item()


def gradients(function: Callable[..., Tensor], inputs: dict[str, Tensor], gradient: Tensor | None) -> list[Tensor]:
    """The output, and with ``gradient`` the gradients of all inputs that the output depends on."""
    leaves = {name: value.detach().requires_grad_(gradient is not None) for name, value in inputs.items()}
    y = function(leaves)
    if gradient is None:
        return [y]
    grads = torch.autograd.grad(y, list(leaves.values()), gradient, allow_unused=True)
    return [y, *(grad for grad in grads if grad is not None)]


def check(case: Case, device: torch.device, dtype: torch.dtype) -> float:
    """The worst relative error of the output and of every gradient against the fp64 reference, on two
    samples.
    """
    inputs = case.inputs(min(2, case.shape[0]), device, dtype)
    wide = {name: value.double() for name, value in inputs.items()}
    with torch.no_grad():
        y = case.function(reference, wide)
    gradient = torch.randn_like(y).to(dtype)
    want = gradients(lambda v: case.function(reference, v), wide, gradient.double())
    got = gradients(lambda v: case.function(fused, v), inputs, gradient)
    return max(relative_error(a, b) for a, b in zip(got, want, strict=True))


def time_us(step: Callable[[int], Any], device: torch.device, repeats: int = 20) -> float:
    """Median time of ``step(i)``, i running over the input sets; a CUDA graph of all sets on a GPU."""
    if device.type != "cuda":
        start = time.perf_counter()
        for i in range(INPUT_SETS):
            step(i)
        return (time.perf_counter() - start) / INPUT_SETS * 1e6
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for i in range(INPUT_SETS):
            step(i)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(INPUT_SETS):
            step(i)
    times = []
    for _ in range(repeats):
        start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start_event.record()
        graph.replay()
        end_event.record()
        end_event.synchronize()
        times.append(start_event.elapsed_time(end_event) / INPUT_SETS * 1e3)
    return statistics.median(times[2:])


def copy_gb_per_s(device: torch.device, size_bytes: int) -> float:
    """Bytes read plus written per second by a device-to-device copy of ``size_bytes``."""
    source = [torch.empty(size_bytes, dtype=torch.uint8, device=device) for _ in range(INPUT_SETS)]
    target = torch.empty_like(source[0])
    return 2 * size_bytes / time_us(lambda i: target.copy_(source[i]), device) / 1e3


@contextlib.contextmanager
def configuration(rank: int) -> Iterator[None]:
    """Let every kernel use the table's candidate number ``rank`` (modulo how many there are) in place of the
    first.
    """
    choosers = ("row_tiles", "pool_tiles", "gemm_tiles", "wgrad_tiles")
    originals = {name: getattr(table, name) for name in choosers}

    def rotated(choose):
        def chooser(*shape):
            candidates = choose(*shape)
            at = rank % len(candidates)
            return (*candidates[at:], *candidates[:at])

        return chooser

    try:
        for name, choose in originals.items():
            setattr(table, name, rotated(choose))
        yield
    finally:
        for name, choose in originals.items():
            setattr(table, name, choose)


def measure(case: Case, rank: int, device: torch.device, dtype: torch.dtype, copy_rate: float) -> Iterator[Row]:
    """Check, then time both directions; baselines only beside the configuration in use."""
    with configuration(rank):
        check_dtype = case.check_dtype or dtype
        error = check(case, device, check_dtype)
        correct = error <= TOLERANCE[check_dtype]
        sets = [case.inputs(case.shape[0], device, dtype) for _ in range(INPUT_SETS)]
        gradient = torch.randn_like(case.function(fused, sets[0]))
        for direction in ("forward", "both"):
            back = gradient if direction == "both" else None
            times: list[float | None] = [None, None, None]
            if correct:
                compiled = torch.compile(case.eager, dynamic=False)
                functions = (lambda v: case.function(fused, v), case.eager, compiled)
                for i, function in enumerate(functions[: 1 if rank else 3]):
                    times[i] = _attempt(function, sets, back, device)
            predicted = case.predicted_bytes(dtype, backward=back is not None)
            rate = predicted / times[0] / 1e3 if times[0] else None
            percent = 100 * rate / copy_rate if rate else None
            shape = "x".join(map(str, case.shape)) + (f"->{case.outputs}" if case.outputs else "")
            yield Row(case.name, shape, direction, rank, error, correct, *times, predicted, rate, percent)


def _attempt(function, sets, back, device) -> float | None:
    """Time of ``function``, or None where it cannot run: a baseline that fails must not cost the rest of the
    table.
    """
    try:
        return time_us(lambda i: gradients(function, sets[i], back), device)
    except (RuntimeError, NotImplementedError) as failure:
        print(f"  not timed: {type(failure).__name__}: {str(failure).splitlines()[0]}", flush=True)
        torch.compiler.reset()
        return None


def markdown(rows: list[Row], device_name: str, dtype: torch.dtype, copy_rate: float) -> str:
    """The table, with what it was measured on."""
    lines = [
        f"# Kernels on {device_name}, {str(dtype).removeprefix('torch.')}",
        "",
        f"torch {torch.__version__}, Triton {triton.__version__}; copy {copy_rate:.0f} GB/s; medians",
        f"of 18 replays of {INPUT_SETS} input sets. Bytes are predicted, GB/s are these over the time."
        + (" INTERPRETED: the times mean nothing." if launch.INTERPRET else ""),
        "",
        "| " + " | ".join(Row._fields) + " | eager / ours |",
        "|" + "---|" * (len(Row._fields) + 1),
    ]
    for row in rows:
        cells = [f"{cell:.3g}" if isinstance(cell, float) else "" if cell is None else str(cell) for cell in row]
        ratio = f"{row.eager_us / row.ours_us:.2f}" if row.ours_us and row.eager_us else ""
        lines.append("| " + " | ".join([*cells, ratio]) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run all cases, write JSON and Markdown; 1 if an operator is wrong, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="folder for kernels.json and kernels.md")
    parser.add_argument("--every-configuration", action="store_true", help="check and time all candidates")
    parser.add_argument("--tiny", action="store_true", help="small shapes, for a run without a GPU")
    parser.add_argument("--allow-missing", action="store_true", help="exit 0 where there is no GPU")
    parser.add_argument("--only", default="", help="operators whose name contains this")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available() and not (arguments.tiny and launch.INTERPRET):
        print("no CUDA GPU here; nothing measured (TRITON_INTERPRET=1 with --tiny runs the code paths)")
        return 0 if arguments.allow_missing else 2
    device = torch.device("cpu" if launch.INTERPRET else "cuda")
    name = "the interpreter" if launch.INTERPRET else torch.cuda.get_device_name()
    dtype = getattr(torch, arguments.dtype)
    copy_rate = copy_gb_per_s(device, 2**20 if arguments.tiny else 2**30)
    print(f"{name}: copy {copy_rate:.0f} GB/s")
    rows = []
    for case in cases(arguments.tiny):
        if arguments.only not in case.name:
            continue
        for rank in range(5 if arguments.every_configuration else 1):
            for row in measure(case, rank, device, dtype, copy_rate):
                rows.append(row)
                print(row, flush=True)
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "kernels.md").write_text(markdown(rows, name, dtype, copy_rate), encoding="utf-8")
        records = [row._asdict() for row in rows]
        (arguments.output / "kernels.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    wrong = [row for row in rows if not row.correct]
    print(f"{len(rows)} rows, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
