"""1x1x1, 3x1x1 and merged P3D-B convolutions as one implicit GEMM over positions, with what surrounds them
fused in.

Prologue: relu(scale * x + shift) of the BN before, so that only the raw convolution output is ever stored.
Epilogue: bias (one for all or one per sample), residual, ReLU in fp32, then mean and M2 per tile of the values
as stored, merged per sample by Chan's formula; their means serve the global context. The gradient with
respect to x is the same kernel with reversed taps, whose epilogue applies the prologue's ReLU mask, adds the
identity's gradient and sums for the BN's backward.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import table
from .bn_finalize import merge_tiles
from .bn_grad import NO_POOL, bn_input_grad
from .launch import (
    INTERPRET,
    accumulate_type,
    check_activations,
    check_norm,
    check_vectors,
    positions_of,
    register,
    traceable,
)
from .norm import Norm, accumulate_dtype, conv_operands, statistics_gradient
from .rows import relu
from .tap_wgrad import decode_tap, wgrad
from .taps import check_convolution, output_shape


@triton.jit
def _tap_gemm(
    x,
    w,
    y,
    scale,
    shift,
    bias,
    residual,
    raw,
    first,
    second,
    T,
    H,
    W,
    OH,
    OW,
    OL,
    tiles,
    SRC: tl.constexpr,
    DST: tl.constexpr,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    DGRAD: tl.constexpr,
    PROLOGUE: tl.constexpr,
    BIAS: tl.constexpr,
    BIAS_PER_SAMPLE: tl.constexpr,
    RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
    STATS: tl.constexpr,
    MASK: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    ACC: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """x [N,T,H,W,SRC] -> y [N,T,OH,OW,DST], OL = T * OH * OW; w [TAPS,SRC,DST], or [TAPS,DST,SRC] for DGRAD.

    first, second [N,tiles,DST]: mean and M2 of y (STATS), or sum of y and of y * raw after the MASK
    scale * raw + shift > 0. With MASK scale and shift are [DST], with PROLOGUE [SRC]. bias is [DST], or [N,DST].
    """
    blocks: tl.constexpr = DST // BN
    co = (tl.program_id(0) % blocks) * BN + tl.arange(0, BN)
    row = tl.program_id(0) // blocks
    n = (row // tiles).to(tl.int64)  # a tile never crosses samples: statistics are per sample
    start = (row % tiles) * BM
    m = start + tl.arange(0, BM)
    inside = m < OL
    ow = m % OW
    oh = (m // OW) % OH
    t = m // (OW * OH)
    base = x + n * T * H * W * SRC
    acc = tl.zeros((BM, BN), dtype=ACC)
    if BIAS:  # the sum begins with it: added in the epilogue it would cost registers there
        if BIAS_PER_SAMPLE:
            bias += n * DST
        acc += tl.load(bias + co)[None, :]
    for k in range(0, SRC, BK):
        ck = k + tl.arange(0, BK)
        if PROLOGUE:
            a = tl.load(scale + ck)[None, :]
            b = tl.load(shift + ck)[None, :]
        for i in range(TAPS):
            dt, dh, dw = decode_tap(i, TAPS)
            if DGRAD:  # the outputs that read this input position through tap i
                st = t - dt
                sh = (oh - dh) // STRIDE
                sw = (ow - dw) // STRIDE
                ok = inside & (oh - dh >= 0) & (ow - dw >= 0)
                ok = ok & ((oh - dh) % STRIDE == 0) & ((ow - dw) % STRIDE == 0)
            else:
                st = t + dt
                sh = oh * STRIDE + dh
                sw = ow * STRIDE + dw
                ok = inside & (sh >= 0) & (sw >= 0)
            ok = ok & (st >= 0) & (st < T) & (sh < H) & (sw < W)
            at = ((st * H + sh) * W + sw) * SRC
            xv = tl.load(base + at[:, None] + ck[None, :], mask=ok[:, None], other=0.0)
            if PROLOGUE:  # padding is of the activation: mask after the BN, because relu(shift) is not zero
                xv = tl.where(ok[:, None], relu(xv.to(ACC) * a + b), 0.0).to(x.dtype.element_ty)
            if DGRAD:
                wv = tl.load(w + i * SRC * DST + co[None, :] * SRC + ck[:, None])
            else:
                wv = tl.load(w + (i * SRC + ck)[:, None] * DST + co[None, :])
            if WIDEN:  # the interpreter's tl.dot multiplies the bit patterns of bf16
                xv = xv.to(ACC)
                wv = wv.to(ACC)
            acc = tl.dot(xv, wv, acc, input_precision="ieee", out_dtype=ACC)
    o = n * OL * DST + m[:, None] * DST + co[None, :]
    if RESIDUAL:
        acc += tl.load(residual + o, mask=inside[:, None], other=0.0).to(ACC)
    if RELU:
        acc = relu(acc)
    if MASK:
        rv = tl.load(raw + o, mask=inside[:, None], other=0.0).to(ACC)
        z = rv * tl.load(scale + co)[None, :] + tl.load(shift + co)[None, :]
        acc = tl.where(z <= 0, 0.0, acc)
    v = acc.to(y.dtype.element_ty)
    tl.store(y + o, v, mask=inside[:, None])
    if STATS or MASK:
        f = tl.where(inside[:, None], v.to(ACC), 0.0)
        total = tl.sum(f, axis=0)
        if STATS:
            total = total / tl.minimum(OL - start, BM).to(ACC)
            f = tl.where(inside[:, None], f - total[None, :], 0.0)
            f = f * f
        else:
            f = f * rv
        tl.store(first + row * DST + co, total)
        tl.store(second + row * DST + co, tl.sum(f, axis=0))


def _launch(
    x: Tensor,
    w: Tensor,
    y: Tensor,
    stride: int,
    dgrad: bool,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    raw: Tensor | None = None,
    relu: bool = False,
    stats: bool = False,
) -> tuple[Tensor, Tensor, int]:
    """Run the kernel into y; the per-tile [N, tiles, C] results (empty without stats and raw) and rows per
    tile.
    """
    n, positions, channels = y.shape[0], positions_of(y), y.shape[-1]
    tile = table.gemm_tiles(x.shape[-1], channels, positions, x.element_size())[0]
    tiles = triton.cdiv(positions, tile.rows)
    rows = tiles if stats or raw is not None else 0
    first, second = (y.new_empty((n, rows, channels), dtype=accumulate_dtype(y)) for _ in range(2))
    traceable(_tap_gemm)[(n * tiles * (channels // tile.outputs),)](
        x,
        w,
        y,
        w if scale is None else scale,
        w if shift is None else shift,
        w if bias is None else bias,
        y if residual is None else residual,
        y if raw is None else raw,
        first if rows else y,
        second if rows else y,
        *x.shape[1:4],
        *y.shape[2:4],
        positions,
        tiles,
        SRC=x.shape[-1],
        DST=channels,
        TAPS=w.shape[0],
        STRIDE=stride,
        DGRAD=dgrad,
        PROLOGUE=scale is not None and raw is None,
        BIAS=bias is not None,
        BIAS_PER_SAMPLE=bias is not None and bias.ndim == 2,
        RESIDUAL=residual is not None,
        RELU=relu,
        STATS=stats,
        MASK=raw is not None,
        BM=tile.rows,
        BN=tile.outputs,
        BK=tile.depth,
        ACC=accumulate_type(x),
        WIDEN=INTERPRET,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return first, second, tile.rows


@register("tap_gemm")
def _tap_gemm_op(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    inv_count: Tensor | None,
    group: str,
    stride: int,
    add_input: bool,
    relu: bool,
    stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    y = x.new_empty(output_shape(x, w.shape[2], stride))
    added = x if add_input else residual
    first, second, rows = _launch(
        x, w, y, stride, False, scale=scale, shift=shift, bias=bias, residual=added, relu=relu, stats=stats
    )
    if not stats:
        return y, first.flatten(0, 1), second.flatten(0, 1)  # [0, C]
    return y, *merge_tiles(first, second, rows, positions_of(y))


@_tap_gemm_op.register_fake
def _(x, w, bias, residual, scale, shift, mean, rstd, inv_count, group, stride, add_input, relu, stats):
    y = x.new_empty(output_shape(x, w.shape[2], stride))
    statistics = x.new_empty((x.shape[0] if stats else 0, w.shape[2]), dtype=accumulate_dtype(x))
    return y, statistics, torch.empty_like(statistics)


@register("tap_dgrad")
def tap_dgrad(
    g: Tensor,
    w: Tensor,
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient with respect to the convolution's input, in x's shape, plus ``bias`` [N, C] and ``residual``.

    With scale and shift it is masked where the prologue's ReLU was closed, and the second and third results
    are the gradients of scale and shift [C]; otherwise these are empty.
    """
    dx = torch.empty_like(x)
    raw = None if scale is None else x
    sums = _launch(g, w, dx, stride, True, scale=scale, shift=shift, bias=bias, residual=residual, raw=raw)
    if raw is None:
        return dx, sums[1].flatten(), sums[0].flatten()
    return dx, sums[1].sum((0, 1)), sums[0].sum((0, 1))


@tap_dgrad.register_fake
def _(g, w, x, scale, shift, bias, residual, stride):
    out = x.new_empty(0 if scale is None else x.shape[-1], dtype=accumulate_dtype(x))
    return torch.empty_like(x), out, torch.empty_like(out)


def _setup(ctx, inputs, output):
    x, w, bias, _residual, *norm, group, stride, add_input, relu, _stats = inputs
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.save_for_backward(x, w, output[0] if relu else None, *norm)
    ctx.group, ctx.stride, ctx.add_input = group, stride, add_input
    ctx.bias_shape = None if bias is None else bias.shape


def _backward(ctx, g, _mean_grad, _m2_grad):
    x, w, y, *vectors = ctx.saved_tensors
    norm = Norm(*vectors, ctx.group) if vectors[0] is not None else None
    needs_x, needs_w, needs_bias, needs_residual, needs_scale, needs_shift = ctx.needs_input_grad[:6]
    g = masked(g, y)
    dx = dw = dbias = dscale = dshift = None
    if needs_x or needs_scale or needs_shift:
        residual = g if ctx.add_input else None
        dx, dscale, dshift = input_gradient(g, w, x, norm, residual=residual, stride=ctx.stride)
    if needs_w:
        dw = weight_gradient(x, g, norm, w.shape[0], ctx.stride).to(w.dtype)
    if needs_bias and ctx.bias_shape is not None:
        dbias = bias_gradient(g, per_sample=len(ctx.bias_shape) == 2)
    dresidual = g if needs_residual else None
    return dx if needs_x else None, dw, dbias, dresidual, dscale, dshift, *(None,) * 8


_tap_gemm_op.register_autograd(_backward, setup_context=_setup)


def tap_gemm(
    x_NTHWC: Tensor,
    weight_KIO: Tensor,
    *,
    norm: Norm | None = None,
    bias_C: Tensor | None = None,
    bias_NC: Tensor | None = None,
    residual_NTHWC: Tensor | None = None,
    add_input: bool = False,
    relu: bool = False,
    stats: bool = False,
    stride: int = 1,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """``y = [relu](conv([relu(bn(x))]) + bias + residual)`` and, if ``stats``, y's mean and M2 per sample [N,
    C].

    ``weight_KIO`` comes from `pack_taps` (1 or 3 taps) or `pack_p3d_b` (11); ``stride`` is spatial, 1 or 2.
    ``norm`` is the BN before the convolution, always followed by a ReLU. ``add_input`` adds x itself, which
    with ``relu`` is P3D-C's relu(x + t(x)), summed in fp32. A folded evaluation BN is a scaled weight and a
    ``bias_C``; ``bias_NC`` is one for each sample instead. Statistics are constants to autograd; everything
    else is differentiable. Under autocast x, residual and the weight are cast to the autocast dtype, as in a
    convolution; norm and bias stay fp32. Raises ValueError when channels are no multiple of 16, or shapes,
    dtypes, layouts or options do not fit.
    """
    op = "tap_gemm"
    x, w, residual = conv_operands(x_NTHWC, weight_KIO, residual_NTHWC)
    check_activations(op, x_NTHWC=x, residual_NTHWC=residual)
    check_convolution(op, x, w, stride)
    check_norm(op, x, norm=norm)
    check_vectors(op, x, bias_C=(bias_C, (w.shape[2],)), bias_NC=(bias_NC, (x.shape[0], w.shape[2])))
    if bias_C is not None and bias_NC is not None:
        raise ValueError(f"{op}: bias_C and bias_NC; add the one to the other")
    shape = output_shape(x, w.shape[2], stride)
    if residual is not None and tuple(residual.shape) != shape:
        raise ValueError(f"{op}: residual_NTHWC has shape {tuple(residual.shape)}, the output {shape}")
    if add_input and (norm is not None or residual is not None or tuple(x.shape) != shape):
        raise ValueError(f"{op}: add_input needs an output of x's shape {tuple(x.shape)}, no norm and no residual")
    vectors = norm if norm is not None else (None,) * 5 + ("",)
    bias = bias_C if bias_NC is None else bias_NC
    y, mean, m2 = _tap_gemm_op(x, w, bias, residual, *vectors, stride, add_input, relu, stats)
    return (y, mean, m2) if stats else (y, None, None)


def masked(g: Tensor, y: Tensor | None) -> Tensor:
    """The output's gradient before the epilogue's ReLU, whose result is y; None stands for no ReLU."""
    return g.contiguous() if y is None else torch.where(y <= 0, 0.0, g).contiguous()


def input_gradient(
    g: Tensor,
    w: Tensor,
    x: Tensor,
    norm: Norm | None,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    stride: int = 1,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """`tap_dgrad` carried on through the prologue's ``norm``: gradients of x, scale and shift."""
    if norm is None:
        return tap_dgrad(g, w, x, None, None, bias, residual, stride)[0], None, None
    scale, shift, mean, rstd, inv_count, group = norm
    dz, dscale, dshift = tap_dgrad(g, w, x, scale, shift, bias, residual, stride)
    k1, k2 = statistics_gradient(scale, mean, rstd, inv_count, group, dscale, dshift)
    return bn_input_grad(dz, None, x, scale, shift, k1, k2, False, NO_POOL), dscale, dshift


def weight_gradient(x: Tensor, g: Tensor, norm: Norm | None, taps: int, stride: int = 1) -> Tensor:
    """`wgrad` behind a prologue or without one."""
    scale, shift = (None, None) if norm is None else norm[:2]
    return wgrad(x, g, scale, shift, taps, stride)


def bias_gradient(g: Tensor, *, per_sample: bool = False) -> Tensor:
    """Gradient of a bias [C], or [N, C] of one per sample."""
    return g.sum((1, 2, 3) if per_sample else (0, 1, 2, 3), dtype=accumulate_dtype(g))
