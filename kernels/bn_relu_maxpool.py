"""BN + ReLU + max-pool in one pass, for the stem's 1x3x3 pool and the dual head's temporal 4x1x1 pool.

Ties go to the first position of the window, as in ``torch.nn.functional.max_pool3d``: after a ReLU zeros tie
often, and another rule would be another gradient. The winner is kept as one byte. Backward gathers: an input
position asks the at most four windows that cover it whether it won, so nothing is scattered and no order
matters; it reads g and the winners twice (a quarter and an eighth of x's bf16 bytes for the stem) rather than
keep a masked gradient.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import table
from .bn_relu import relu, row_grid
from .launch import accumulate_type, check_activations, check_norm, positions_of, register, traceable
from .norm import Norm, accumulate_dtype, statistics_gradient

STEM_WINDOW, DUAL_WINDOW = (1, 3, 3), (4, 1, 1)
UNSET = tl.constexpr(255)


@triton.jit
def _pool_forward(
    x,
    scale,
    shift,
    y,
    index,
    T,
    H,
    W,
    OH,
    OW,
    OL,
    C: tl.constexpr,
    SPATIAL: tl.constexpr,
    NORM: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """x [N,T,H,W,C] -> y, index (uint8) [N,OL,C], OL = OT * OH * OW."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(2).to(tl.int64)
    base = x + n * T * H * W * C
    ok_c = c < C
    ow = m % OW
    oh = (m // OW) % OH
    ot = m // (OW * OH)
    if NORM:
        a = tl.load(scale + c, mask=ok_c, other=0.0)
        b = tl.load(shift + c, mask=ok_c, other=0.0)
    best = tl.full((BM, BC), float("-inf"), dtype=ACC)
    winner = tl.full((BM, BC), UNSET, dtype=tl.int32)
    for k in tl.static_range(9 if SPATIAL else 4):
        if SPATIAL:
            t = ot
            h = oh * 2 - 1 + k // 3
            w = ow * 2 - 1 + k % 3
        else:
            t = ot * 4 + k
            h = oh
            w = ow
        inside = (m < OL) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        ok = inside[:, None] & ok_c[None, :]
        v = tl.load(base + ((t * H + h) * W + w)[:, None] * C + c[None, :], mask=ok, other=0.0)
        if NORM:  # compare what an unfused network would compare: the rounded activation
            v = relu(v.to(ACC) * a[None, :] + b[None, :]).to(x.dtype.element_ty)
        v = v.to(ACC)
        take = ok & ((v > best) | (v != v) | (winner == UNSET))
        best = tl.where(take, v, best)
        winner = tl.where(take, k, winner)
    o = n * OL * C + m[:, None] * C + c[None, :]
    ok = (m < OL)[:, None] & ok_c[None, :]
    tl.store(y + o, best.to(y.dtype.element_ty), mask=ok)
    tl.store(index + o, winner.to(tl.uint8), mask=ok)


@triton.jit
def _gather(g, index, n, m, c, L, H, W, OT, OH, OW, C: tl.constexpr, SPATIAL: tl.constexpr, ACC: tl.constexpr):
    """The gradient that reaches input positions m of sample n: sum of g over the windows that m won."""
    ow = m % W
    oh = (m // W) % H
    t = m // (W * H)
    base = n.to(tl.int64) * OT * OH * OW * C
    total = tl.zeros((m.shape[0], c.shape[0]), dtype=ACC)
    for k in tl.static_range(4 if SPATIAL else 1):
        if SPATIAL:
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
def _pool_reduce(
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
    SPATIAL: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """sum_g, sum_gx [N,programs,C]: sums of the masked gathered gradient, and of it times x."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    s = tl.program_id(1)
    n = tl.program_id(2)
    a = tl.load(scale + c, mask=c < C, other=0.0)
    b = tl.load(shift + c, mask=c < C, other=0.0)
    s0 = tl.zeros((BC,), dtype=ACC)
    s1 = tl.zeros((BC,), dtype=ACC)
    for i in range(steps):
        m = (s * steps + i) * BM + tl.arange(0, BM)
        ok = (m < L)[:, None] & (c < C)[None, :]
        xv = tl.load(x + n.to(tl.int64) * L * C + m[:, None] * C + c[None, :], mask=ok, other=0.0).to(ACC)
        gv = _gather(g, index, n, m, c, L, H, W, OT, OH, OW, C, SPATIAL, ACC)
        gv = tl.where(xv * a[None, :] + b[None, :] <= 0, 0.0, gv)
        s0 += tl.sum(gv, axis=0)
        s1 += tl.sum(gv * xv, axis=0)
    out = (n * tl.num_programs(1) + s) * C + c
    tl.store(sum_g + out, s0, mask=c < C)
    tl.store(sum_gx + out, s1, mask=c < C)


@triton.jit
def _pool_input_grad(
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
    SPATIAL: tl.constexpr,
    NORM: tl.constexpr,
    STATS: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """dx = scale * gathered g, masked by the ReLU (+ k1 * x + k2 if STATS); the gathered g itself without
    NORM.
    """
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(2)
    ok_c = c < C
    ok = (m < L)[:, None] & ok_c[None, :]
    o = n.to(tl.int64) * L * C + m[:, None] * C + c[None, :]
    v = _gather(g, index, n, m, c, L, H, W, OT, OH, OW, C, SPATIAL, ACC)
    if NORM:
        a = tl.load(scale + c, mask=ok_c, other=0.0)
        b = tl.load(shift + c, mask=ok_c, other=0.0)
        xv = tl.load(x + o, mask=ok, other=0.0).to(ACC)
        v = tl.where(xv * a[None, :] + b[None, :] <= 0, 0.0, v) * a[None, :]
        if STATS:
            v += xv * tl.load(k1 + c, mask=ok_c, other=0.0)[None, :]
            v += tl.load(k2 + c, mask=ok_c, other=0.0)[None, :]
    tl.store(dx + o, v.to(dx.dtype.element_ty), mask=ok)


def _pooled_shape(x: Tensor, spatial: bool) -> tuple[int, int, int, int, int]:
    n, t, h, w, channels = x.shape
    return (n, t, (h - 1) // 2 + 1, (w - 1) // 2 + 1, channels) if spatial else (n, t // 4, h, w, channels)


@register("bn_relu_maxpool")
def _pool_op(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    inv_count: Tensor | None,
    group: str,
    spatial: bool,
) -> tuple[Tensor, Tensor]:
    y, tile = x.new_empty(_pooled_shape(x, spatial)), table.pool_tiles(x.shape[-1])[0]
    index = torch.empty_like(y, dtype=torch.uint8)
    traceable(_pool_forward)[row_grid(y, tile)](
        x,
        x if scale is None else scale,
        x if shift is None else shift,
        y,
        index,
        *x.shape[1:4],
        *y.shape[2:4],
        positions_of(y),
        C=x.shape[-1],
        SPATIAL=spatial,
        NORM=scale is not None,
        BM=tile.rows,
        BC=tile.channels,
        ACC=accumulate_type(x),
        num_warps=tile.warps,
    )
    return y, index


@_pool_op.register_fake
def _(x, scale, shift, mean, rstd, inv_count, group, spatial):
    y = x.new_empty(_pooled_shape(x, spatial))
    return y, torch.empty_like(y, dtype=torch.uint8)


@register("bn_relu_maxpool_reduce")
def pool_reduce(
    g: Tensor, index: Tensor, x: Tensor, scale: Tensor, shift: Tensor, spatial: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of scale and shift, both [C], from the gradient of the pooled output."""
    n, channels, positions = x.shape[0], x.shape[-1], positions_of(x)
    tile = table.pool_tiles(channels)[0]
    programs, steps = table.splits(positions, n, channels, tile)
    sum_g, sum_gx = (x.new_empty((n * programs, channels), dtype=accumulate_dtype(x)) for _ in range(2))
    traceable(_pool_reduce)[(triton.cdiv(channels, tile.channels), programs, n)](
        g,
        index,
        x,
        scale,
        shift,
        sum_g,
        sum_gx,
        positions,
        *x.shape[2:4],
        *g.shape[1:4],
        steps,
        C=channels,
        SPATIAL=spatial,
        BM=tile.rows,
        BC=tile.channels,
        ACC=accumulate_type(x),
        num_warps=tile.warps,
    )
    return sum_gx.sum(0), sum_g.sum(0)


@pool_reduce.register_fake
def _(g, index, x, scale, shift, spatial):
    out = x.new_empty(x.shape[-1], dtype=accumulate_dtype(x))
    return out, torch.empty_like(out)


@register("bn_relu_maxpool_input_grad")
def pool_input_grad(
    g: Tensor,
    index: Tensor,
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    k1: Tensor | None,
    k2: Tensor | None,
    spatial: bool,
) -> Tensor:
    """dx from the pooled output's gradient; no k1: frozen statistics, no scale: no BN at all."""
    dx, tile = torch.empty_like(x), table.pool_tiles(x.shape[-1])[0]
    vectors = [x if vector is None else vector for vector in (scale, shift, k1, k2)]
    traceable(_pool_input_grad)[row_grid(x, tile)](
        g,
        index,
        x,
        *vectors,
        dx,
        positions_of(x),
        *x.shape[2:4],
        *g.shape[1:4],
        C=x.shape[-1],
        SPATIAL=spatial,
        NORM=scale is not None,
        STATS=k1 is not None,
        BM=tile.rows,
        BC=tile.channels,
        ACC=accumulate_type(x),
        num_warps=tile.warps,
    )
    return dx


@pool_input_grad.register_fake
def _(g, index, x, scale, shift, k1, k2, spatial):
    return torch.empty_like(x)


def _setup(ctx, inputs, output):
    *tensors, group, spatial = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *tensors)
    ctx.group, ctx.spatial = group, spatial


def _backward(ctx, g, _index_grad):
    index, x, scale, shift, mean, rstd, inv_count = ctx.saved_tensors
    g, dscale, dshift, dx, k1, k2 = g.contiguous(), None, None, None, None, None
    if scale is not None:
        dscale, dshift = pool_reduce(g, index, x, scale, shift, ctx.spatial)
        k1, k2 = statistics_gradient(scale, mean, rstd, inv_count, ctx.group, dscale, dshift)
    if ctx.needs_input_grad[0]:
        dx = pool_input_grad(g, index, x, scale, shift, k1, k2, ctx.spatial)
    return dx, dscale, dshift, None, None, None, None, None


_pool_op.register_autograd(_backward, setup_context=_setup)


def bn_relu_maxpool(x_NTHWC: Tensor, norm: Norm | None, *, window: tuple[int, int, int]) -> Tensor:
    """Max-pool of ``relu(scale * x + shift)``, or of x itself when ``norm`` is None; result in x's dtype.

    ``window`` (1, 3, 3) has stride (1, 2, 2) and padding (0, 1, 1); (4, 1, 1) has stride 4 and drops the T %
    4 last frames. Ties go to the first position, a NaN wins. The gradient of x includes the path through the
    batch statistics. Autocast does not change it. Raises ValueError for another window, for T < 4 with (4, 1,
    1), and for tensors that `check_activations` or `check_norm` rejects.
    """
    check_activations("bn_relu_maxpool", x_NTHWC=x_NTHWC)
    check_norm("bn_relu_maxpool", x_NTHWC, norm=norm)
    check_window(x_NTHWC, window)
    vectors = norm if norm is not None else (None,) * 5 + ("",)
    return _pool_op(x_NTHWC, *vectors, window == STEM_WINDOW)[0]


def check_window(x_NTHWC: Tensor, window: tuple[int, int, int]) -> None:
    """Raise ValueError unless ``window`` is one of the two pools and x is long enough for it."""
    if window not in (STEM_WINDOW, DUAL_WINDOW):
        raise ValueError(f"bn_relu_maxpool: window {window}; it must be {STEM_WINDOW} or {DUAL_WINDOW}")
    if window == DUAL_WINDOW and x_NTHWC.shape[1] < 4:
        raise ValueError(f"bn_relu_maxpool: {x_NTHWC.shape[1]} frames, but window {window} needs 4 or more")
