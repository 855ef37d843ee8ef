"""The two backward passes of a BN + ReLU, with or without a max-pool behind it.

One pass reads the gradient g and x and sums the gradients of scale and shift; one reads them again and writes
dx. The ReLU's mask is recomputed from x. Behind a pool the gradient is gathered: an input position asks the at
most four windows that cover it whether it won, so nothing is scattered and no order matters.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import table
from .launch import positions_of, register, traceable
from .norm import accumulate_dtype
from .rows import row_grid, row_options, store_sums, sums_of, tile_at, vector_at

NO_POOL, STEM_POOL, DUAL_POOL = 0, 1, 2  # POOL: none; 1x3x3 of stride 2; 4x1x1


@triton.jit
def _gather(g, index, m, c, L, H, W, OT, OH, OW, C: tl.constexpr, POOL: tl.constexpr, ACC: tl.constexpr):
    """The gradient that reaches input positions m: the sum of g over the windows that they won."""
    ow = m % W
    oh = (m // W) % H
    t = m // (W * H)
    base = tl.program_id(2).to(tl.int64) * OT * OH * OW * C
    total = tl.zeros((m.shape[0], c.shape[0]), dtype=ACC)
    for k in tl.static_range(4 if POOL == 1 else 1):
        if POOL == 1:
            ot = t
            ph = oh // 2 + k // 2
            pw = ow // 2 + k % 2
            kh = oh + 1 - ph * 2
            kw = ow + 1 - pw * 2
            slot = kh * 3 + kw
            covers = (kh >= 0) & (kw >= 0) & (ph < OH) & (pw < OW)
        else:
            ot = t // 4
            ph = oh
            pw = ow
            slot = t % 4
            covers = ot < OT
        ok = ((m < L) & covers)[:, None] & (c < C)[None, :]
        o = base + ((ot * OH + ph) * OW + pw)[:, None] * C + c[None, :]
        won = tl.load(index + o, mask=ok, other=255).to(tl.int32) == slot[:, None]
        total += tl.where(won, tl.load(g + o, mask=ok, other=0.0).to(ACC), 0.0)
    return total


@triton.jit
def _bn_reduce(
    g,
    index,
    x,
    scale,
    shift,
    sum_g,
    sum_gx,
    L,
    H,
    W,
    OT,
    OH,
    OW,
    steps,
    C: tl.constexpr,
    RELU: tl.constexpr,
    POOL: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """sum_g, sum_gx [N,programs,C]: sums of the gradient and of it times x where the ReLU was open."""
    s0 = tl.zeros((BC,), dtype=ACC)
    s1 = tl.zeros((BC,), dtype=ACC)
    _m, c, _o, _ok = tile_at(0, L, C, BM, BC)
    a = vector_at(scale, c, C)
    b = vector_at(shift, c, C)
    for i in range(steps):
        m, c, o, ok = tile_at(tl.program_id(1) * steps + i, L, C, BM, BC)
        xv = tl.load(x + o, mask=ok, other=0.0).to(ACC)
        if POOL:
            gv = _gather(g, index, m, c, L, H, W, OT, OH, OW, C, POOL, ACC)
        else:
            gv = tl.load(g + o, mask=ok, other=0.0).to(ACC)
        if RELU:
            gv = tl.where(xv * a + b <= 0, 0.0, gv)
        s0 += tl.sum(gv, axis=0)
        s1 += tl.sum(gv * xv, axis=0)
    store_sums(sum_g, s0, c, C)
    store_sums(sum_gx, s1, c, C)


@triton.jit
def _bn_input_grad(
    g,
    index,
    x,
    scale,
    shift,
    k1,
    k2,
    dx,
    L,
    H,
    W,
    OT,
    OH,
    OW,
    C: tl.constexpr,
    NORM: tl.constexpr,
    RELU: tl.constexpr,
    STATS: tl.constexpr,
    K2_PER_SAMPLE: tl.constexpr,
    POOL: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """dx = scale * g (+ k1 * x + k2 if STATS), g masked by the ReLU; k2 is [C], or [N,C] if K2_PER_SAMPLE.

    Without NORM dx is the gathered g.
    """
    m, c, o, ok = tile_at(tl.program_id(1), L, C, BM, BC)
    if POOL:
        v = _gather(g, index, m, c, L, H, W, OT, OH, OW, C, POOL, ACC)
    else:
        v = tl.load(g + o, mask=ok, other=0.0).to(ACC)
    if NORM:
        a = vector_at(scale, c, C)
        if RELU or STATS:
            xv = tl.load(x + o, mask=ok, other=0.0).to(ACC)
        if RELU:
            v = tl.where(xv * a + vector_at(shift, c, C) <= 0, 0.0, v)
        v = v * a
        if STATS:
            v += xv * vector_at(k1, c, C)
        if K2_PER_SAMPLE:
            v += vector_at(k2 + tl.program_id(2) * C, c, C)
        elif STATS:
            v += vector_at(k2, c, C)
    tl.store(dx + o, v.to(dx.dtype.element_ty), mask=ok)


def _tile(channels: int, pool: int) -> table.Rows:
    return (table.pool_tiles if pool else table.row_tiles)(channels)[0]


@register("bn_reduce")
def bn_reduce(
    g: Tensor, index: Tensor | None, x: Tensor, scale: Tensor, shift: Tensor, relu: bool, pool: int
) -> tuple[Tensor, Tensor]:
    """Gradients of scale and shift, both [C], from the output's gradient; one read of g (and index) and x."""
    tile = _tile(x.shape[-1], pool)
    grid, steps, (sum_g, sum_gx) = sums_of(x, tile, 2)
    traceable(_bn_reduce)[grid](
        g,
        g if index is None else index,
        x,
        scale,
        shift,
        sum_g,
        sum_gx,
        positions_of(x),
        *x.shape[2:4],
        *g.shape[1:4],
        steps,
        RELU=relu,
        POOL=pool,
        **row_options(x, tile),
    )
    return sum_gx.sum((0, 1)), sum_g.sum((0, 1))


@bn_reduce.register_fake
def _(g, index, x, scale, shift, relu, pool):
    out = x.new_empty(x.shape[-1], dtype=accumulate_dtype(x))
    return out, torch.empty_like(out)


@register("bn_input_grad")
def bn_input_grad(
    g: Tensor,
    index: Tensor | None,
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    k1: Tensor | None,
    k2: Tensor | None,
    relu: bool,
    pool: int,
) -> Tensor:
    """``dx = scale * g + k1 * x + k2``, coefficients of `statistics_gradient`; k2 is [C] or [N, C].

    Without k1 the statistics are frozen, without scale there is no BN at all. ``pool`` is NO_POOL, STEM_POOL or
    DUAL_POOL, with the winners in ``index``.
    """
    dx, tile = torch.empty_like(x), _tile(x.shape[-1], pool)
    traceable(_bn_input_grad)[row_grid(x, tile)](
        g,
        g if index is None else index,
        x,
        *(x if vector is None else vector for vector in (scale, shift, k1, k2)),
        dx,
        positions_of(x),
        *x.shape[2:4],
        *g.shape[1:4],
        NORM=scale is not None,
        RELU=relu,
        STATS=k1 is not None,
        K2_PER_SAMPLE=k2 is not None and k2.ndim == 2,
        POOL=pool,
        **row_options(x, tile),
    )
    return dx


@bn_input_grad.register_fake
def _(g, index, x, scale, shift, k1, k2, relu, pool):
    return torch.empty_like(x)
