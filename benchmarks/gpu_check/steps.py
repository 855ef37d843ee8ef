"""Stage `steps`: whole training steps of DG-P3D-50, bf16, at 224 pixels: forward, loss, backward, SGD with momentum.

Without data loading: clips lie in the device's memory. The plain network's step in fp32 is the reference for the loss
and for the gradient of all weights together.
"""

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

_TOLERANCE = {"loss": 1e-4, "gradient": 3e-2}  # of fp32 beside fp32: other orders of summation


def units(tiny: bool) -> list[Unit]:
    """Equality in fp32 first."""
    return [
        Unit("equality in fp32", "equality", 20.0, lambda: equality(tiny)),
        *arms.units(networks.shapes(tiny), lambda arm, wrap: Training(arm, wrap), _limits),
    ]


class Training:
    """A network, its optimizer and one batch."""

    def __init__(self, arm: Arm, wrap: Callable[..., Any], dtype: torch.dtype = torch.bfloat16) -> None:
        self._shape = arm.shape
        self._batch = networks.batch(arm.shape)
        network = networks.build(arm.form, arm.shape, arm.kernels).train()
        self._parameters = list(network.parameters())
        self._loss_function = wrap(networks.loss_function(network, dtype))
        self._optimizer = torch.optim.SGD(self._parameters, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
        self._changing = [*self._parameters, *(b for b in network.buffers() if b.is_floating_point())]
        self._beginning = [tensor.detach().cpu().clone() for tensor in self._changing]
        self._loss = torch.zeros((), device=timing.device())

    def step(self) -> Tensor:
        """One step; the loss stays where it is in the next."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss_function(*self._batch)
        loss.backward()
        self._optimizer.step()
        self._loss.copy_(loss.detach())
        return self._loss

    def reset(self) -> None:
        """Zero momentum is what the first step begins with too."""
        with torch.no_grad():
            for tensor, value in zip(self._changing, self._beginning, strict=True):
                tensor.copy_(value)
            for momentum in self._momenta():
                momentum.zero_()

    def state(self) -> list[Tensor]:
        """Loss, weights, statistics, momentum."""
        return [self._loss, *self._changing, *self._momenta()]

    def errors(self) -> dict[str, float]:
        """Of the loss and of the gradient."""
        loss, gradient = _reference(self._shape)
        return self.errors_from(loss, gradient)

    def errors_from(self, loss: float, gradient: list[Tensor]) -> dict[str, float]:
        """Relative errors against a loss and the gradient of every weight."""
        wrong = scale = 0.0
        for parameter, want in zip(self._parameters, gradient, strict=True):
            wide = want.to(parameter.device).double()
            wrong += (parameter.grad.double() - wide).square().sum().item()
            scale += wide.square().sum().item()
        return {"loss": abs(self._loss.item() - loss) / abs(loss), "gradient": (wrong / scale) ** 0.5}

    def result(self) -> tuple[float, list[Tensor]]:
        """The loss and the gradient of the step just made, on the host."""
        return self._loss.item(), [parameter.grad.cpu() for parameter in self._parameters]

    def _momenta(self) -> list[Tensor]:
        states = (self._optimizer.state[parameter] for parameter in self._parameters)
        return [state["momentum_buffer"] for state in states if state.get("momentum_buffer") is not None]


def equality(tiny: bool) -> Iterator[Row]:
    """Loss and gradient of views and ours in fp32 beside the plain network's, of few small clips."""
    shape = networks.equality_shape(tiny)
    wanted = _reference(shape)
    for form in ("views", "ours"):
        work = Training(Arm(shape, form), lambda function: function, torch.float32)
        work.step()
        yield arms.equality_row(form, work.errors_from(*wanted), _TOLERANCE)


@lru_cache(maxsize=4)
def _reference(shape: Shape) -> tuple[float, list[Tensor]]:
    """Loss and gradient of the plain network in fp32."""
    work = Training(Arm(shape, "plain"), lambda function: function, torch.float32)
    work.step()
    return work.result()


@lru_cache(maxsize=4)
def _limits(shape: Shape) -> dict[str, float]:
    """The plain network's own errors in bf16."""
    _reference(shape)
    work = Training(Arm(shape, "plain"), lambda function: function)
    work.step()
    return work.errors()
