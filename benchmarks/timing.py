"""Every call that needs a CUDA device, each with a form for the CPU: clocks, graphs, memory, compilers.

Nothing else in the benchmarks asks which device there is, so that a run without a GPU goes through the same code. Work
is given as ``step(i)``, i counting calls: rotating over several sets of inputs keeps any one of them out of L2.
"""

import gc
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch._inductor
import triton
from torch import Tensor

Step = Callable[[int], Any]

INPUT_SETS = 3
INTERPRETED = bool(triton.knobs.runtime.interpret)


class Times(NamedTuple):
    """Quantiles of ``n`` timings, in microseconds."""

    p20: float
    p50: float
    p80: float
    n: int


def device() -> torch.device:
    """The GPU; the CPU under the interpreter."""
    return torch.device("cpu" if INTERPRETED else "cuda")


def on_gpu() -> bool:
    """Whether a time measured here says anything about a GPU."""
    return device().type == "cuda"


def quantiles(times_us: list[float]) -> Times:
    """p20, p50 and p80 of at least one timing."""
    if len(times_us) == 1:
        return Times(times_us[0], times_us[0], times_us[0], 1)
    fifths = statistics.quantiles(times_us, n=5, method="inclusive")
    return Times(fifths[0], statistics.median(times_us), fifths[3], len(times_us))


def time_small(step: Step, *, repeats: int = 20) -> Times:
    """Time of one call of a small operator: a CUDA graph of `INPUT_SETS` calls, replayed, so that launches cost
    nothing. On the CPU one call each.
    """
    if not on_gpu():
        return quantiles([_wall_us(step, i) for i in range(min(repeats, INPUT_SETS))])
    replay = capture(lambda: [step(i) for i in range(INPUT_SETS)])
    times = _between_events(lambda _: replay(), repeats + 2)[2:]
    return quantiles([us / INPUT_SETS for us in times])


def time_step(step: Callable[[], Any], *, seconds_each: float, total_s: float) -> Times:
    """Time from one whole training or inference step to the next, launched back to back as training launches them.

    10 to 50 steps, about ``total_s`` in all where one takes ``seconds_each``. On the CPU no step more: that one.
    """
    if not on_gpu():
        return quantiles([seconds_each * 1e6])
    for _ in range(3):
        step()
    return quantiles(_between_events(lambda _: step(), int(min(50, max(10, total_s / seconds_each)))))


def capture(work: Callable[[], Any]) -> Callable[[], Any]:
    """``work`` as a CUDA graph: calling it replays the graph and returns what the capture returned. On the CPU, work.

    Warmed up three times on a side stream first, as a capture demands: ``work`` changes whatever it changes.
    """
    if not on_gpu():
        return work
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``torch.compile(function)`` for fixed shapes with inductor ``options``.

    On the CPU the graph is captured but not compiled. Raises ValueError for an option that this
    version of inductor does not have.
    """
    unknown = sorted(set(options) - set(torch._inductor.list_options()))
    if unknown:
        raise ValueError(f"torch {torch.__version__} has no inductor option {', '.join(unknown)}")
    if not on_gpu():
        return torch.compile(function, dynamic=False, backend="eager")
    return torch.compile(function, dynamic=False, options=options or None)


def fresh() -> None:
    """Forget what the last measurement left: its memory and its compiled code."""
    torch.compiler.reset()
    gc.collect()
    if on_gpu():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def reset_peak() -> None:
    """Begin to watch for the peak of memory; on the CPU nobody watches."""
    if on_gpu():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int | None:
    """The most memory that tensors took since `reset_peak`; None on the CPU."""
    return torch.cuda.max_memory_allocated() if on_gpu() else None


def copy_gb_per_s(size_bytes: int) -> float:
    """Bytes read plus written per second by a copy within the device's memory."""
    source = [torch.randint(0, 255, (size_bytes,), dtype=torch.uint8, device=device()) for _ in range(INPUT_SETS)]
    target = torch.empty_like(source[0])
    return 2 * size_bytes / time_small(lambda i: target.copy_(source[i % INPUT_SETS])).p50 / 1e3


def matrix_tflop_per_s(size: int, dtype: torch.dtype) -> float:
    """Rate of a ``size`` cubed matrix product of random numbers: zeros would run faster than real data."""
    a, b = (torch.randn(size, size, device=device(), dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / time_small(lambda _: torch.mm(a, b, out=out), repeats=10).p50 / 1e6


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of ``work``, the device's part included."""
    begin = time.perf_counter()
    work()
    if on_gpu():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def same_bits(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether all tensors are equal bit for bit (a NaN equals itself)."""
    return all(torch.equal(_bytes(x), _bytes(y)) for x, y in zip(a, b, strict=True))


def _bytes(x: Tensor) -> Tensor:
    return x.detach().contiguous().flatten().view(torch.uint8)


def _between_events(step: Step, count: int) -> list[float]:
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for i in range(count):
        step(i)
        events[i + 1].record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) * 1e3 for begin, end in itertools.pairwise(events)]


def _wall_us(step: Step, i: int) -> float:
    begin = time.perf_counter()
    step(i)
    return (time.perf_counter() - begin) * 1e6
