"""BN apply + ReLU where the result must exist in memory, before a convolution that cuDNN runs.

Forward: read x, write y. Backward: the two passes of `bn_grad`; y is not kept.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import table
from .bn_grad import NO_POOL, bn_input_grad, bn_reduce
from .launch import check_activations, check_norm, positions_of, register, traceable
from .norm import Norm, statistics_gradient
from .rows import relu, row_grid, row_options, tile_at, vector_at


@triton.jit
def _bn_relu_apply(
    x,
    scale,
    shift,
    y,
    L,
    C: tl.constexpr,
    RELU: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """x, y [N,L,C]; scale, shift [C]."""
    _m, c, o, ok = tile_at(tl.program_id(1), L, C, BM, BC)
    v = tl.load(x + o, mask=ok, other=0.0).to(ACC) * vector_at(scale, c, C) + vector_at(shift, c, C)
    if RELU:
        v = relu(v)
    tl.store(y + o, v.to(y.dtype.element_ty), mask=ok)


@register("bn_relu_apply")
def _bn_relu_apply_op(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    rstd: Tensor,
    inv_count: Tensor | None,
    group: str,
    relu: bool,
) -> Tensor:
    y, tile = torch.empty_like(x), table.row_tiles(x.shape[-1])[0]
    traceable(_bn_relu_apply)[row_grid(x, tile)](x, scale, shift, y, positions_of(x), RELU=relu, **row_options(x, tile))
    return y


@_bn_relu_apply_op.register_fake
def _(x, scale, shift, mean, rstd, inv_count, group, relu):
    return torch.empty_like(x)


def _setup(ctx, inputs, output):
    x, scale, shift, mean, rstd, inv_count, group, relu = inputs
    ctx.save_for_backward(x, scale, shift, mean, rstd, inv_count)
    ctx.group, ctx.relu = group, relu


def _backward(ctx, g):
    x, scale, shift, mean, rstd, inv_count = ctx.saved_tensors
    g = g.contiguous()
    dscale = dshift = dx = None
    if inv_count is not None or ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        dscale, dshift = bn_reduce(g, None, x, scale, shift, ctx.relu, NO_POOL)
    if ctx.needs_input_grad[0]:
        k1 = k2 = None
        if inv_count is not None:
            k1, k2 = statistics_gradient(scale, mean, rstd, inv_count, ctx.group, dscale, dshift)
        dx = bn_input_grad(g, None, x, scale, shift, k1, k2, ctx.relu, NO_POOL)
    return dx, dscale, dshift, None, None, None, None, None


_bn_relu_apply_op.register_autograd(_backward, setup_context=_setup)


def bn_relu_apply(x_NTHWC: Tensor, norm: Norm, *, relu: bool = True) -> Tensor:
    """``relu(scale * x + shift)`` in x's dtype (without the ReLU if ``relu`` is false); a NaN stays a NaN.

    The gradient of x includes the path through the batch statistics unless ``norm.inv_count`` is None.
    Autocast does not change it: activations keep their dtype, the vectors are fp32. Raises ValueError for
    tensors that `check_activations` or `check_norm` rejects.
    """
    check_activations("bn_relu_apply", x_NTHWC=x_NTHWC)
    check_norm("bn_relu_apply", x_NTHWC, norm=norm)
    return _bn_relu_apply_op(x_NTHWC, *norm, relu)
