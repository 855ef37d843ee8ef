"""BN apply + ReLU where the result must exist in memory, before a convolution that cuDNN runs.

Forward: read x, write y. Backward: one pass reads g and x and sums the gradients of scale and shift, one
reads them again and writes dx. The ReLU mask is recomputed from x, so that y is not kept.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import table
from .launch import (
    accumulate_type,
    check_activations,
    check_norm,
    positions_of,
    register,
    traceable,
)
from .norm import Norm, accumulate_dtype, statistics_gradient


@triton.jit
def relu(v):
    """max(v, 0) that keeps a NaN: a diverged activation must stay visible."""
    return tl.where(v < 0, 0.0, v)


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
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    o = tl.program_id(2).to(tl.int64) * L * C + m[:, None] * C + c[None, :]
    ok = (m < L)[:, None] & (c < C)[None, :]
    a = tl.load(scale + c, mask=c < C, other=0.0)
    b = tl.load(shift + c, mask=c < C, other=0.0)
    v = tl.load(x + o, mask=ok, other=0.0).to(ACC) * a[None, :] + b[None, :]
    if RELU:
        v = relu(v)
    tl.store(y + o, v.to(y.dtype.element_ty), mask=ok)


@triton.jit
def _bn_relu_reduce(
    g,
    x,
    scale,
    shift,
    sum_g,
    sum_gx,
    L,
    steps,
    C: tl.constexpr,
    RELU: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """sum_g, sum_gx [N,programs,C]: sums of g and g * x where the ReLU was open."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    s = tl.program_id(1)
    n = tl.program_id(2)
    a = tl.load(scale + c, mask=c < C, other=0.0)
    b = tl.load(shift + c, mask=c < C, other=0.0)
    s0 = tl.zeros((BC,), dtype=ACC)
    s1 = tl.zeros((BC,), dtype=ACC)
    for i in range(steps):
        m = (s * steps + i) * BM + tl.arange(0, BM)
        o = n.to(tl.int64) * L * C + m[:, None] * C + c[None, :]
        ok = (m < L)[:, None] & (c < C)[None, :]
        xv = tl.load(x + o, mask=ok, other=0.0).to(ACC)
        gv = tl.load(g + o, mask=ok, other=0.0).to(ACC)
        if RELU:
            gv = tl.where(xv * a[None, :] + b[None, :] <= 0, 0.0, gv)
        s0 += tl.sum(gv, axis=0)
        s1 += tl.sum(gv * xv, axis=0)
    out = (n * tl.num_programs(1) + s) * C + c
    tl.store(sum_g + out, s0, mask=c < C)
    tl.store(sum_gx + out, s1, mask=c < C)


@triton.jit
def _bn_input_grad(
    g,
    x,
    scale,
    shift,
    k1,
    k2,
    dx,
    L,
    C: tl.constexpr,
    RELU: tl.constexpr,
    STATS: tl.constexpr,
    K2_PER_SAMPLE: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """dx = scale * g (+ k1 * x + k2 if STATS), g masked by the ReLU; k2 is [C], or [N,C] if K2_PER_SAMPLE."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(2)
    o = n.to(tl.int64) * L * C + m[:, None] * C + c[None, :]
    ok_c = c < C
    ok = (m < L)[:, None] & ok_c[None, :]
    a = tl.load(scale + c, mask=ok_c, other=0.0)
    v = tl.load(g + o, mask=ok, other=0.0).to(ACC)
    if RELU or STATS:
        xv = tl.load(x + o, mask=ok, other=0.0).to(ACC)
    if RELU:
        b = tl.load(shift + c, mask=ok_c, other=0.0)
        v = tl.where(xv * a[None, :] + b[None, :] <= 0, 0.0, v)
    v = v * a[None, :]
    if STATS:
        v += xv * tl.load(k1 + c, mask=ok_c, other=0.0)[None, :]
    if K2_PER_SAMPLE:
        v += tl.load(k2 + n * C + c, mask=ok_c, other=0.0)[None, :]
    elif STATS:
        v += tl.load(k2 + c, mask=ok_c, other=0.0)[None, :]
    tl.store(dx + o, v.to(dx.dtype.element_ty), mask=ok)


def row_grid(x: Tensor, tile: table.Rows) -> tuple[int, int, int]:
    """Grid of the kernels that handle one tile per program; channel blocks of one row run side by side."""
    return triton.cdiv(x.shape[-1], tile.channels), triton.cdiv(positions_of(x), tile.rows), x.shape[0]


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
    traceable(_bn_relu_apply)[row_grid(x, tile)](
        x,
        scale,
        shift,
        y,
        positions_of(x),
        C=x.shape[-1],
        RELU=relu,
        BM=tile.rows,
        BC=tile.channels,
        ACC=accumulate_type(x),
        num_warps=tile.warps,
    )
    return y


@_bn_relu_apply_op.register_fake
def _(x, scale, shift, mean, rstd, inv_count, group, relu):
    return torch.empty_like(x)


@register("bn_relu_reduce")
def bn_relu_reduce(g: Tensor, x: Tensor, scale: Tensor, shift: Tensor, relu: bool) -> tuple[Tensor, Tensor]:
    """Gradients of scale and shift, both [C], from the output's gradient; one read of g and x."""
    n, channels, positions = x.shape[0], x.shape[-1], positions_of(x)
    tile = table.row_tiles(channels)[0]
    programs, steps = table.splits(positions, n, channels, tile)
    sum_g, sum_gx = (x.new_empty((n * programs, channels), dtype=accumulate_dtype(x)) for _ in range(2))
    traceable(_bn_relu_reduce)[(triton.cdiv(channels, tile.channels), programs, n)](
        g,
        x,
        scale,
        shift,
        sum_g,
        sum_gx,
        positions,
        steps,
        C=channels,
        RELU=relu,
        BM=tile.rows,
        BC=tile.channels,
        ACC=accumulate_type(x),
        num_warps=tile.warps,
    )
    return sum_gx.sum(0), sum_g.sum(0)


@bn_relu_reduce.register_fake
def _(g, x, scale, shift, relu):
    out = x.new_empty(x.shape[-1], dtype=accumulate_dtype(x))
    return out, torch.empty_like(out)


@register("bn_input_grad")
def bn_input_grad(
    g: Tensor, x: Tensor, scale: Tensor, shift: Tensor, k1: Tensor | None, k2: Tensor | None, relu: bool
) -> Tensor:
    """``dx = scale * g + k1 * x + k2``, coefficients of `statistics_gradient`; k2 is [C] or [N, C]."""
    dx, tile = torch.empty_like(x), table.row_tiles(x.shape[-1])[0]
    traceable(_bn_input_grad)[row_grid(x, tile)](
        g,
        x,
        scale,
        shift,
        scale if k1 is None else k1,
        scale if k2 is None else k2,
        dx,
        positions_of(x),
        C=x.shape[-1],
        RELU=relu,
        STATS=k1 is not None,
        K2_PER_SAMPLE=k2 is not None and k2.ndim == 2,
        BM=tile.rows,
        BC=tile.channels,
        ACC=accumulate_type(x),
        num_warps=tile.warps,
    )
    return dx


@bn_input_grad.register_fake
def _(g, x, scale, shift, k1, k2, relu):
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
        dscale, dshift = bn_relu_reduce(g, x, scale, shift, ctx.relu)
    if ctx.needs_input_grad[0]:
        k1 = k2 = None
        if inv_count is not None:
            k1, k2 = statistics_gradient(scale, mean, rstd, inv_count, ctx.group, dscale, dshift)
        dx = bn_input_grad(g, x, scale, shift, k1, k2, ctx.relu)
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
