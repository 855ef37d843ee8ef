"""BN + ReLU + max-pool in one pass, for the stem's 1x3x3 pool and the dual head's temporal 4x1x1 pool.

Ties go to the first position of the window, as in ``torch.nn.functional.max_pool3d``: after a ReLU zeros tie
often, and another rule would be another gradient. The winner is kept as one byte. Backward is that of
`bn_grad`: it reads g and the winners twice (a quarter and an eighth of x's bf16 bytes for the stem) rather than
keep a masked gradient.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import table
from .bn_grad import DUAL_POOL, STEM_POOL, bn_input_grad, bn_reduce
from .launch import check_activations, check_norm, positions_of, register, traceable
from .norm import Norm, statistics_gradient
from .rows import relu, row_grid, row_options, tile_at, vector_at

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
    m, c, o, ok_o = tile_at(tl.program_id(1), OL, C, BM, BC)
    base = x + tl.program_id(2).to(tl.int64) * T * H * W * C
    ow = m % OW
    oh = (m // OW) % OH
    ot = m // (OW * OH)
    if NORM:
        a = vector_at(scale, c, C)
        b = vector_at(shift, c, C)
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
        ok = inside[:, None] & (c < C)[None, :]
        v = tl.load(base + ((t * H + h) * W + w)[:, None] * C + c[None, :], mask=ok, other=0.0)
        if NORM:  # compare what an unfused network would compare: the rounded activation
            v = relu(v.to(ACC) * a + b).to(x.dtype.element_ty)
        v = v.to(ACC)
        take = ok & ((v > best) | (v != v) | (winner == UNSET))
        best = tl.where(take, v, best)
        winner = tl.where(take, k, winner)
    tl.store(y + o, best.to(y.dtype.element_ty), mask=ok_o)
    tl.store(index + o, winner.to(tl.uint8), mask=ok_o)


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
        SPATIAL=spatial,
        NORM=scale is not None,
        **row_options(x, tile),
    )
    return y, index


@_pool_op.register_fake
def _(x, scale, shift, mean, rstd, inv_count, group, spatial):
    y = x.new_empty(_pooled_shape(x, spatial))
    return y, torch.empty_like(y, dtype=torch.uint8)


def _setup(ctx, inputs, output):
    *tensors, group, spatial = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *tensors)
    ctx.group, ctx.pool = group, STEM_POOL if spatial else DUAL_POOL


def _backward(ctx, g, _index_grad):
    index, x, scale, shift, mean, rstd, inv_count = ctx.saved_tensors
    g, dscale, dshift, dx, k1, k2 = g.contiguous(), None, None, None, None, None
    if scale is not None:
        dscale, dshift = bn_reduce(g, index, x, scale, shift, True, ctx.pool)
        k1, k2 = statistics_gradient(scale, mean, rstd, inv_count, ctx.group, dscale, dshift)
    if ctx.needs_input_grad[0]:
        dx = bn_input_grad(g, index, x, scale, shift, k1, k2, scale is not None, ctx.pool)
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
