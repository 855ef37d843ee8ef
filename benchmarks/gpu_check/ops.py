"""Stage `ops`: each operator beside what it replaces, in time, bandwidth and error.

Ours, eager PyTorch and torch.compile on the same views of channels-last storage, forward, and forward plus backward, on
rotating inputs, replayed as a CUDA graph. An operator that is not correct is not timed.
"""

from functools import lru_cache

import torch

from fastplan.benchmarks import timing
from fastplan.benchmarks.gpu_check.correct import as_tuple, check, configuration, gradients
from fastplan.benchmarks.gpu_check.units import Row, Unit
from fastplan.benchmarks.kernel_cases import Case, cases
from fastplan.benchmarks.kernel_pairs import Inputs
from fastplan.kernels import fused

DTYPE = torch.bfloat16
_COPY_BYTES, _MATRIX = 2**30, 8192


def units(tiny: bool) -> list[Unit]:
    """Ceilings, then every operator beside eager, then torch.compile, then the configurations not in use."""
    todo = [Unit("ceilings", "ceilings", 5.0, lambda: [ceilings(tiny)])]
    todo += [Unit(case.name, "ours and eager", 6.0, lambda case=case: measure(case, tiny)) for case in cases(tiny)]
    todo += [
        Unit(f"{case.name}, torch.compile", "compile", 15.0, lambda case=case: measure_compiled(case, tiny))
        for case in cases(tiny)[: 2 if tiny else None]
    ]
    todo += [
        Unit(f"{case.name}, configuration {rank}", "rank", 4.0, lambda c=case, r=rank: measure_rank(c, r, tiny))
        for case in cases(tiny)[: 1 if tiny else None]
        for rank in range(1, case.configurations())
    ]
    return todo


@lru_cache(maxsize=1)
def ceilings(tiny: bool) -> Row:
    """What this GPU reaches: a large copy, counting bytes read and written, and a large bf16 matrix product."""
    copy = timing.copy_gb_per_s(2**16 if tiny else _COPY_BYTES)
    return {"copy_gb_per_s": copy, "matrix_tflop_per_s": timing.matrix_tflop_per_s(64 if tiny else _MATRIX, DTYPE)}


def measure(case: Case, tiny: bool) -> list[Row]:
    """Rows of ours and of eager, both directions; only the errors where ours is wrong."""
    checked = check(case, case.check_dtype or DTYPE)
    arms = {"ours": lambda v: case.function(fused, v), "eager": case.eager}
    rows = []
    for direction in ("forward", "both"):
        for arm, function in arms.items():
            row = _row(case, direction, arm)
            if arm == "ours":
                row |= {key: checked[key] for key in ("error", "correct", "repeats")}
            if checked["correct"]:
                row |= _timed(function, case, direction, tiny)
            rows.append(row)
    return rows


def measure_compiled(case: Case, tiny: bool) -> list[Row]:
    """Rows of torch.compile, which is fixed to the shape."""
    timing.fresh()
    rows = []
    for direction in ("forward", "both"):
        function = timing.compiled(case.eager)
        rows.append(_row(case, direction, "compile") | _timed(function, case, direction, tiny))
    return rows


def measure_rank(case: Case, rank: int, tiny: bool) -> list[Row]:
    """A configuration that is not in use, both directions together; only its error where it is wrong."""
    checked = check(case, case.check_dtype or DTYPE, rank)
    row = _row(case, "both", "ours") | {key: checked[key] for key in ("configuration", "error", "correct")}
    with configuration(rank):
        return [row | (_timed(lambda v: case.function(fused, v), case, "both", tiny) if row["correct"] else {})]


def _timed(function, case: Case, direction: str, tiny: bool) -> Row:
    torch.manual_seed(0)
    sets: list[Inputs] = [case.inputs(timing.device(), DTYPE) for _ in range(timing.INPUT_SETS)]
    with torch.no_grad():
        given = [torch.randn_like(y) for y in as_tuple(case.eager(sets[0]))] if direction == "both" else None
    times = timing.time_small(lambda i: gradients(function, sets[i], given), repeats=1 if tiny else 20)
    moved, flop = case.predicted_bytes(DTYPE, backward=given is not None), case.flop(backward=given is not None)
    limits = ceilings(tiny)
    rates = {"gb_per_s": moved / times.p50 / 1e3, "tflop_per_s": flop / times.p50 / 1e6}
    percent = {
        "percent_of_copy": 100 * rates["gb_per_s"] / limits["copy_gb_per_s"],
        "percent_of_matrix": 100 * rates["tflop_per_s"] / limits["matrix_tflop_per_s"],
    }
    return {"us": times._asdict(), **rates, **percent}


def _row(case: Case, direction: str, arm: str) -> Row:
    return {"op": case.name, "shape": case.label(), "direction": direction, "arm": arm, "configuration": 0}
