"""Stage `correct`: every kernel in every configuration against fp64, on silicon.

Each unit checks one operator with one rank of the table's candidates: outputs and every gradient, at the network's size
(two clips) and at an odd one (a single clip and frame of 7 x 5), into memory that holds NaN. Run twice, the bits must
agree.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fastplan.benchmarks import timing
from fastplan.benchmarks.gpu_check.units import Row, Unit
from fastplan.benchmarks.kernel_cases import Case, cases
from fastplan.benchmarks.kernel_pairs import Inputs, Outputs
from fastplan.kernels import fused, reference, table

# ||got - want|| / ||want|| against fp64 on the same inputs; the interpreter truncates where a GPU rounds.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 8e-3 if timing.INTERPRETED else 4e-3}


def units(tiny: bool) -> list[Unit]:
    """bf16 first, the configuration in use first."""
    todo = []
    for dtype in (torch.bfloat16, torch.float32):
        known = [case for case in cases(tiny) if case.check_dtype in (None, dtype)]
        for rank in range(max(case.configurations() for case in known)):
            for case in known:
                # The interpreter runs everything in tests/kernels: here bf16, and other ranks and fp32 of one operator.
                enough = (rank == 0 and dtype == torch.bfloat16) or case is known[0] or case.check_dtype
                if rank < case.configurations() and (not tiny or enough):
                    todo.append(_unit(case, dtype, rank))
    return todo


def _unit(case: Case, dtype: torch.dtype, rank: int) -> Unit:
    name = f"{case.name}, {_short(dtype)}, configuration {rank}"
    return Unit(name, _short(dtype), 8.0 if dtype == torch.float32 else 4.0, lambda: [check(case, dtype, rank)])


def check(case: Case, dtype: torch.dtype, rank: int = 0) -> Row:
    """The worst relative error of the output and of every gradient against the fp64 reference, and whether a second run
    gives the same bits.
    """
    _, _, height, width, _ = case.shape
    errors, repeats = [], True
    with configuration(rank):
        for at in (case.at(2, height, width), case.at(1, 7, 5, frames=1)):
            torch.manual_seed(0)
            inputs = at.inputs(timing.device(), dtype)
            wide = {name: value.double() for name, value in inputs.items()}
            with torch.no_grad():
                outputs = as_tuple(at.function(reference, wide))
            given = [torch.randn_like(y).to(dtype) for y in outputs]
            want = gradients(lambda v, at=at: at.function(reference, v), wide, [g.double() for g in given])
            with poisoned():
                got, again = (gradients(lambda v, at=at: at.function(fused, v), inputs, given) for _ in range(2))
            errors += [relative_error(a, b) for a, b in zip(got, want, strict=True)]
            repeats &= timing.same_bits(got, again)
    error = max(errors, key=lambda e: (e != e, e))  # NaN is worse than any number
    tolerance = TOLERANCE[dtype]
    return {
        "op": case.name,
        "dtype": _short(dtype),
        "configuration": rank,
        "error": error,
        "tolerance": tolerance,
        "repeats": repeats,
        "correct": error <= tolerance and repeats,
    }


def relative_error(got: Tensor, want: Tensor) -> float:
    """||got - want|| / ||want||; NaN if either holds one."""
    return ((got.double() - want).norm() / want.norm().clamp_min(1e-30)).item()


def gradients(function: Callable[[Inputs], Outputs], inputs: Inputs, given: list[Tensor] | None) -> list[Tensor]:
    """The outputs, and with their gradients ``given`` those of all inputs that the outputs depend on."""
    leaves = {name: value.detach().requires_grad_(given is not None) for name, value in inputs.items()}
    outputs = as_tuple(function(leaves))
    if given is None:
        return list(outputs)
    grads = torch.autograd.grad(outputs, list(leaves.values()), given, allow_unused=True)
    return [*outputs, *(grad for grad in grads if grad is not None)]


def as_tuple(outputs: Outputs) -> tuple[Tensor, ...]:
    """One output or several, as several."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


@contextlib.contextmanager
def configuration(rank: int) -> Iterator[None]:
    """Let every kernel use the table's candidate number ``rank`` (modulo how many there are) in place of the
    first.
    """
    choosers = ("row_tiles", "pool_tiles", "gemm_tiles", "wgrad_tiles")
    originals = {name: getattr(table, name) for name in choosers}

    def rotated(name):
        def chooser(*shape):
            # One chooser may ask another, which must not have turned its candidates too.
            outer = {other: getattr(table, other) for other in choosers}
            _replace(originals)
            candidates = originals[name](*shape)
            _replace(outer)
            at = rank % len(candidates)
            return (*candidates[at:], *candidates[:at])

        return chooser

    try:
        _replace({name: rotated(name) for name in choosers})
        yield
    finally:
        _replace(originals)


def _replace(choosers: dict[str, Callable[..., tuple]]) -> None:
    for name, choose in choosers.items():
        setattr(table, name, choose)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Uninitialised memory is NaN: an element that no program writes shows in every comparison."""
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


def _short(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]
