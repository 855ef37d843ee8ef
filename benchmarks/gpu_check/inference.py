"""Stage `inference`: logits of both heads, bf16, BatchNorm with its running statistics, no gradients."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastplan.benchmarks import timing
from fastplan.benchmarks.gpu_check import arms, networks
from fastplan.benchmarks.gpu_check.arms import Arm
from fastplan.benchmarks.gpu_check.networks import Shape
from fastplan.benchmarks.gpu_check.units import Row, Unit

_TOLERANCE = {"logits": 1e-4}  # of fp32 beside fp32: other orders of summation


def units(tiny: bool) -> list[Unit]:
    """Equality in fp32, then the arms of `steps`."""
    return [
        Unit("equality in fp32", "equality", 10.0, lambda: equality(tiny)),
        *arms.units(networks.shapes(tiny), lambda arm, wrap: Inference(arm, wrap), _limits),
    ]


class Inference:
    """A network in evaluation and one batch."""

    def __init__(self, arm: Arm, wrap: Callable[..., Any], dtype: torch.dtype = torch.bfloat16) -> None:
        self._shape = arm.shape
        self._clips_NCTHW, _ = networks.batch(arm.shape)
        network = networks.build(arm.form, arm.shape, arm.kernels).eval()
        self._function = wrap(networks.logits_function(network, dtype))
        self.logits = torch.zeros(2, arm.shape.samples, networks.CLASSES, device=timing.device())

    def step(self) -> Tensor:
        """The logits stay where they are in the next step."""
        return self.logits.copy_(self._function(self._clips_NCTHW))

    def reset(self) -> None:
        """Nothing changes but the logits."""
        self.logits.zero_()

    def state(self) -> list[Tensor]:
        """The logits."""
        return [self.logits]

    def errors(self) -> dict[str, float]:
        """Of the logits."""
        return self.errors_from(_reference(self._shape))

    def errors_from(self, wanted: Tensor) -> dict[str, float]:
        """Relative error against other logits."""
        want = wanted.to(self.logits.device).double()
        return {"logits": ((self.logits.double() - want).norm() / want.norm()).item()}


def equality(tiny: bool) -> Iterator[Row]:
    """Logits of views and ours in fp32 beside the plain network's, of few small clips."""
    shape = networks.equality_shape(tiny)
    wanted = _reference(shape)
    for form in ("views", "ours"):
        work = Inference(Arm(shape, form), lambda function: function, torch.float32)
        work.step()
        yield arms.equality_row(form, work.errors_from(wanted), _TOLERANCE)


@lru_cache(maxsize=4)
def _reference(shape: Shape) -> Tensor:
    """Logits of the plain network in fp32."""
    return Inference(Arm(shape, "plain"), lambda function: function, torch.float32).step().cpu()


@lru_cache(maxsize=4)
def _limits(shape: Shape) -> dict[str, float]:
    """The plain network's own error in bf16."""
    work = Inference(Arm(shape, "plain"), lambda function: function)
    work.step()
    return work.errors()
