"""Compare a kernel with the fp64 reference: outputs, and the gradient of every input by name."""

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from fastplan.kernels import fused, reference

# ||got - want|| / ||want||. The interpreter truncates to bf16 where a GPU rounds: twice the error.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float64: 1e-12}
ACTIVATIONS = ("x", "identity", "residual")


def relative_error(got: Tensor, want: Tensor) -> float:
    """||got - want|| / ||want|| in fp64; NaN if got holds one."""
    difference = (got.double() - want.double()).norm()
    return (difference / want.double().norm().clamp_min(1e-30)).item()


def assert_close(name: str, got: Tensor, want: Tensor, dtype: torch.dtype, factor: float = 1.0) -> None:
    assert got.shape == want.shape, f"{name}: shape {tuple(got.shape)}, want {tuple(want.shape)}"
    error = relative_error(got, want)
    assert error <= factor * TOLERANCE[dtype], f"{name}: relative error {error:.2e} ({dtype})"


def run(
    function: Callable[[ModuleType, dict[str, Tensor]], Tensor],
    operators: ModuleType,
    inputs: dict[str, Tensor],
    gradient: Tensor,
) -> dict[str, Tensor]:
    """The output and all gradients of ``function`` on fresh leaves, by name."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}
    y = function(operators, leaves)
    grads = torch.autograd.grad(y, list(leaves.values()), gradient, allow_unused=True)
    return {"y": y.detach(), **{f"d{name}": grad for name, grad in zip(leaves, grads, strict=True)}}


def check(
    function: Callable[[ModuleType, dict[str, Tensor]], Tensor],
    inputs: dict[str, Tensor],
    dtype: torch.dtype,
    *,
    activations: tuple[str, ...] = ACTIVATIONS,
) -> dict[str, Tensor]:
    """Compare the kernels in ``dtype`` with the reference in fp64 on the same rounded inputs; the kernels'
    results.
    """
    narrow = {n: v.to(dtype) if n in activations else v.to(dtype if dtype == torch.float64 else torch.float32)
              for n, v in inputs.items()}  # fmt: skip
    wide = {name: value.double() for name, value in narrow.items()}
    with torch.no_grad():
        y = function(reference, wide)
    gradient = torch.randn_like(y).to(dtype)
    got = run(function, fused, narrow, gradient)
    want = run(function, reference, wide, gradient.double())
    for name, value in want.items():
        assert (value is None) == (got[name] is None), f"{name}: one side has no gradient"
        if value is not None:
            assert_close(name, got[name], value, dtype)
    again = run(function, fused, narrow, gradient)
    for name, value in got.items():
        assert value is None or torch.equal(value, again[name]), f"{name} differs between two runs"
    return got


def vectors(channels: int, *names: str) -> dict[str, Tensor]:
    """Random BN vectors: weights in 0.5..1.5, biases normal."""
    return {n: torch.rand(channels) + 0.5 if n.endswith("weight") else torch.randn(channels) for n in names}
