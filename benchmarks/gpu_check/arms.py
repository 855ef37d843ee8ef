"""How a network is run, and what is found about each way: error, peak memory, repeatable bits, time.

An arm is a form of the network and a way to execute it, each without and with a CUDA graph of the whole step. It must
first agree with the plain network in fp32, about as well as the plain network does in bf16; else it is not timed.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastplan.benchmarks import timing
from fastplan.benchmarks.gpu_check.networks import Form, Shape
from fastplan.benchmarks.gpu_check.units import Row, Unit
from fastplan.ops import Mode

_AUTOTUNE = {"max_autotune": True, "coordinate_descent_tuning": True, "conv_1x1_as_mm": True}
EXECUTIONS: dict[str, dict[str, Any] | None] = {
    "eager": None,
    "compile": {},
    "max-autotune": {**_AUTOTUNE, "max_autotune_conv_backends": "ATEN"},
    "max-autotune, Triton convolutions": {**_AUTOTUNE, "max_autotune_conv_backends": "ATEN,TRITON"},
}
_EXPECTED_S = {"eager": 12.0, "compile": 90.0, "max-autotune": 180.0, "max-autotune, Triton convolutions": 300.0}
_TIMED_S = 1.0  # about how long an arm is timed
# An arm's error may be this many times the plain network's in the same format; the interpreter truncates to bf16.
_SLACK = 4.0 if timing.INTERPRETED else 2.0
_FLOOR = 1e-2  # and this much at least: a single loss can lie near the reference by chance


class Work(Protocol):
    """Something that can be stepped, put back to its beginning, and compared."""

    def step(self) -> Any:
        """One whole step."""

    def reset(self) -> None:
        """Weights, statistics and momentum as they were before the first step, in place."""

    def state(self) -> list[Tensor]:
        """Everything that a step changes or returns, as it is now."""

    def errors(self) -> dict[str, float]:
        """Relative errors of the step just made from the beginning, against the plain network in fp32."""


class Arm(NamedTuple):
    """execution: a key of `EXECUTIONS`. deterministic: cuDNN may only choose algorithms that give the same bits again.
    kernels: of the form `ours`.
    """

    shape: Shape
    form: Form
    execution: str = "eager"
    deterministic: bool = False
    kernels: Mode = "auto"

    @property
    def name(self) -> str:
        """For people and for the journal."""
        how = f"{self.execution}, deterministic" if self.deterministic else self.execution
        return f"{self.shape.name} {self.form}, {how}"


MakeWork = Callable[[Arm, Callable[..., Any]], Work]


def units(shapes: list[Shape], make: MakeWork, limits: Callable[[Shape], dict[str, float]]) -> list[Unit]:
    """Eager arms of every shape first, then the compilers' in the order of what they cost."""
    todo = []
    for execution in EXECUTIONS:
        for shape in shapes:
            for arm in _arms(shape, execution):
                run = lambda arm=arm: measure(arm, make, limits)  # noqa: E731
                expected_s = 5.0 if shape.tiny else _EXPECTED_S[execution]
                todo.append(Unit(arm.name, f"{execution} {shape.name}", expected_s, run))
    return todo


def _arms(shape: Shape, execution: str) -> list[Arm]:
    """Ours first. On the tiny shape only the first of all is interpreted, where a step takes 1.4 s; other arms of ours
    run the kernels' definitions, which are called the same way. And one form is enough there for a compiler's further
    options, of which a CPU only sees whether they exist.
    """
    if shape.tiny and execution not in ("eager", "compile"):
        return [Arm(shape, "plain", execution)]
    mode: Mode = "reference" if shape.tiny and execution != "eager" else "auto"
    arms = [Arm(shape, "ours", execution, kernels=mode), Arm(shape, "views", execution), Arm(shape, "plain", execution)]
    if execution == "eager":
        arms.append(Arm(shape, "ours", execution, deterministic=True, kernels="reference" if shape.tiny else "auto"))
    return arms


def measure(arm: Arm, make: MakeWork, limits: Callable[[Shape], dict[str, float]]) -> Iterator[Row]:
    """A row without and a row with a CUDA graph."""
    allowed = {name: _SLACK * error + _FLOOR for name, error in limits(arm.shape).items()}
    torch.backends.cudnn.benchmark = not arm.deterministic
    torch.backends.cudnn.deterministic = arm.deterministic
    timing.fresh()
    options = EXECUTIONS[arm.execution]
    work = make(arm, lambda function: function if options is None else timing.compiled(function, **options))
    first_s = timing.seconds(work.step)
    for graph in (False, True):
        timing.reset_peak()
        run = timing.capture(work.step) if graph else work.step
        work.reset()
        run()
        peak, errors, once = timing.peak_bytes(), work.errors(), [tensor.clone() for tensor in work.state()]
        work.reset()
        again_s = timing.seconds(run)
        repeats = timing.same_bits(once, work.state())
        correct = all(errors[name] <= allowed[name] for name in allowed)
        times = timing.time_step(run, seconds_each=again_s, total_s=_TIMED_S) if correct else None
        yield {
            **{"shape": arm.shape.name, "pixels": arm.shape.pixels, "network": arm.form, "execution": arm.execution},
            **{"deterministic": arm.deterministic, "graph": graph, "errors": errors, "allowed": allowed},
            **{"correct": correct, "repeats": repeats, "peak_bytes": peak, "first_s": round(first_s, 2)},
            **{"us": times and times._asdict(), "clips_per_s": times and arm.shape.samples / times.p50 * 1e6},
        }


def equality_row(form: str, errors: dict[str, float], allowed: dict[str, float]) -> Row:
    """What was found of ``form`` beside the plain network in fp32."""
    correct = all(errors[name] <= allowed[name] for name in allowed)
    return {"equality": form, "dtype": "fp32", "errors": errors, "allowed": allowed, "correct": correct}
