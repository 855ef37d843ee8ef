"""Batch statistics: per-sample mean and M2 in one read of the activation, merged deterministically into a
Norm.

Sums of squared deviations, not of squares: E[x^2] - E[x]^2 loses all digits of a small variance beside a
large mean. Partial results are merged by Chan, Golub and LeVeque (1979) in a fixed order; there are no
atomics.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import table
from .launch import accumulate_type, check_activations, check_norm, check_vectors, positions_of, register, traceable
from .norm import Norm, accumulate_dtype, check_count
from .reference import merge_over_ranks, update_running
from .rows import relu, row_options, store_sums, sums_of, tile_at, vector_at

MERGE_ROWS, MERGE_CHANNELS = 32, 64


@triton.jit
def _channel_stats(
    x,
    scale,
    shift,
    tile_mean,
    tile_m2,
    L,
    steps,
    C: tl.constexpr,
    NORM: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """x [N,L,C] -> tile_mean, tile_m2 [N,programs,C], with NORM those of relu(scale * x + shift); each program
    folds ``steps`` tiles of BM rows.
    """
    _m, c, _o, _ok = tile_at(0, L, C, BM, BC)
    if NORM:
        a = vector_at(scale, c, C)
        b = vector_at(shift, c, C)
    mean = tl.zeros((BC,), dtype=ACC)
    m2 = tl.zeros((BC,), dtype=ACC)
    count = tl.zeros((BC,), dtype=ACC)
    for i in range(steps):
        block = tl.program_id(1) * steps + i
        _m, c, o, ok = tile_at(block, L, C, BM, BC)
        v = tl.load(x + o, mask=ok, other=0.0).to(ACC)
        if NORM:  # of what a convolution's prologue makes of x: rounded, and nothing beyond the last row
            v = tl.where(ok, relu(v * a + b).to(x.dtype.element_ty).to(ACC), 0.0)
        rows = tl.maximum(tl.minimum(L - block * BM, BM), 0).to(ACC)
        tile = tl.sum(v, axis=0) / tl.maximum(rows, 1.0)
        d = tl.where(ok, v - tile[None, :], 0.0)
        total = tl.maximum(count + rows, 1.0)
        delta = tile - mean
        m2 += tl.sum(d * d, axis=0) + delta * delta * count * rows / total
        mean += delta * rows / total
        count += rows
    store_sums(tile_mean, mean, c, C)
    store_sums(tile_m2, m2, c, C)


@triton.jit
def _merge_tiles(
    tile_mean,
    tile_m2,
    mean,
    m2,
    tiles,
    rows_per_tile,
    L,
    C: tl.constexpr,
    BT: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """tile_mean, tile_m2 [N,tiles,C] -> mean, m2 [N,C]; every tile but the last has rows_per_tile of the L
    rows.
    """
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    n = tl.program_id(1)
    acc = tl.zeros((BC,), dtype=ACC)
    for i in range(0, tiles, BT):
        t = i + tl.arange(0, BT)
        ok = (t < tiles)[:, None] & (c < C)[None, :]
        rows = tl.minimum(L - t * rows_per_tile, rows_per_tile).to(ACC)
        acc += tl.sum(
            tl.load(tile_mean + (n * tiles + t)[:, None] * C + c[None, :], mask=ok, other=0.0) * rows[:, None],
            0,
        )
    center = acc / tl.cast(L, ACC)  # not L.to: Triton makes a constant of an argument that is 1
    spread = tl.zeros((BC,), dtype=ACC)
    for i in range(0, tiles, BT):
        t = i + tl.arange(0, BT)
        ok = (t < tiles)[:, None] & (c < C)[None, :]
        rows = tl.minimum(L - t * rows_per_tile, rows_per_tile).to(ACC)
        at = (n * tiles + t)[:, None] * C + c[None, :]
        d = tl.load(tile_mean + at, mask=ok, other=0.0) - center[None, :]
        spread += tl.sum(tl.where(ok, tl.load(tile_m2 + at, mask=ok, other=0.0) + d * d * rows[:, None], 0.0), 0)
    tl.store(mean + n * C + c, center, mask=c < C)
    tl.store(m2 + n * C + c, spread, mask=c < C)


@triton.jit
def _finalize(
    sample_mean,
    sample_m2,
    weight,
    bias,
    count,
    scale,
    shift,
    mean,
    rstd,
    variance,
    inv_count,
    N,
    positions,
    eps,
    C: tl.constexpr,
    BN: tl.constexpr,
    BC: tl.constexpr,
    COUNTED: tl.constexpr,
    ACC: tl.constexpr,
):
    """sample_mean, sample_m2 [N,C] of ``positions`` each (or of the number in ``count``) -> Norm, unbiased
    variance.
    """
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    ok_c = c < C
    each = tl.load(count) if COUNTED else tl.cast(positions, ACC)
    acc = tl.zeros((BC,), dtype=ACC)
    for i in range(0, N, BN):
        n = i + tl.arange(0, BN)
        ok = (n < N)[:, None] & ok_c[None, :]
        acc += tl.sum(tl.load(sample_mean + n[:, None] * C + c[None, :], mask=ok, other=0.0), 0)
    mu = acc / N
    m2 = tl.zeros((BC,), dtype=ACC)
    for i in range(0, N, BN):
        n = i + tl.arange(0, BN)
        ok = (n < N)[:, None] & ok_c[None, :]
        at = n[:, None] * C + c[None, :]
        d = tl.load(sample_mean + at, mask=ok, other=0.0) - mu[None, :]
        m2 += tl.sum(tl.where(ok, tl.load(sample_m2 + at, mask=ok, other=0.0) + each * d * d, 0.0), 0)
    total = each * N
    r = 1.0 / tl.sqrt(m2 / total + eps)
    a = tl.load(weight + c, mask=ok_c, other=0.0).to(ACC) * r
    tl.store(scale + c, a, mask=ok_c)
    tl.store(shift + c, tl.load(bias + c, mask=ok_c, other=0.0).to(ACC) - mu * a, mask=ok_c)
    tl.store(mean + c, mu, mask=ok_c)
    tl.store(rstd + c, r, mask=ok_c)
    tl.store(variance + c, m2 / (total - 1.0), mask=ok_c)
    if tl.program_id(0) == 0:
        tl.store(inv_count, 1.0 / total)


def merge_tiles(
    tile_mean_NSC: Tensor, tile_m2_NSC: Tensor, rows_per_tile: int, positions: int
) -> tuple[Tensor, Tensor]:
    """Per-sample mean and M2 [N, C] from those of consecutive tiles [N, tiles, C]; only the last tile may be
    short.
    """
    n, tiles, channels = tile_mean_NSC.shape
    mean, m2 = tile_mean_NSC.new_empty(n, channels), tile_mean_NSC.new_empty(n, channels)
    traceable(_merge_tiles)[(triton.cdiv(channels, MERGE_CHANNELS), n)](
        tile_mean_NSC,
        tile_m2_NSC,
        mean,
        m2,
        tiles,
        rows_per_tile,
        positions,
        C=channels,
        BT=MERGE_ROWS,
        BC=MERGE_CHANNELS,
        ACC=accumulate_type(tile_mean_NSC),
    )
    return mean, m2


@register("channel_stats")
def _channel_stats_op(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    tile = table.row_tiles(x.shape[-1])[0]
    grid, steps, (tile_mean, tile_m2) = sums_of(x, tile, 2)
    traceable(_channel_stats)[grid](
        x,
        x if scale is None else scale,
        x if shift is None else shift,
        tile_mean,
        tile_m2,
        positions_of(x),
        steps,
        NORM=scale is not None,
        **row_options(x, tile),
    )
    return merge_tiles(tile_mean, tile_m2, tile.rows * steps, positions_of(x))


@_channel_stats_op.register_fake
def _(x, scale, shift):
    out = x.new_empty((x.shape[0], x.shape[-1]), dtype=accumulate_dtype(x))
    return out, torch.empty_like(out)


@register("bn_finalize")
def _bn_finalize_op(
    weight: Tensor,
    bias: Tensor,
    sample_mean: Tensor,
    sample_m2: Tensor,
    count: Tensor | None,
    positions: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    n, channels = sample_mean.shape
    scale, shift, mean, rstd, variance = (sample_mean.new_empty(channels) for _ in range(5))
    inv_count = sample_mean.new_empty(1)
    traceable(_finalize)[(triton.cdiv(channels, MERGE_CHANNELS),)](
        sample_mean,
        sample_m2,
        weight,
        bias,
        inv_count if count is None else count,
        scale,
        shift,
        mean,
        rstd,
        variance,
        inv_count,
        n,
        positions,
        eps,
        C=channels,
        BN=MERGE_ROWS,
        BC=MERGE_CHANNELS,
        COUNTED=count is not None,
        ACC=accumulate_type(sample_mean),
    )
    return scale, shift, mean, rstd, variance, inv_count


@_bn_finalize_op.register_fake
def _(weight, bias, sample_mean, sample_m2, count, positions, eps):
    vectors = [sample_mean.new_empty(sample_mean.shape[1]) for _ in range(5)]
    return (*vectors, sample_mean.new_empty(1))


def _setup(ctx, inputs, output):
    _scale, _shift, mean, rstd, variance, inv_count = output
    ctx.mark_non_differentiable(mean, rstd, variance, inv_count)
    ctx.save_for_backward(mean, rstd)


def _backward(ctx, dscale, dshift, *_constants):
    mean, rstd = ctx.saved_tensors
    return rstd * (dscale - mean * dshift), dshift, None, None, None, None, None


_bn_finalize_op.register_autograd(_backward, setup_context=_setup)


def channel_stats(x_NTHWC: Tensor, *, norm: Norm | None = None) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations (M2) per sample and channel, both fp32 [N, C]; constants to
    autograd.

    Of x, or with ``norm`` of relu(scale * x + shift) in x's dtype, which is not stored. One read of x. Raises
    ValueError for tensors that `check_activations` or `check_norm` rejects.
    """
    check_activations("channel_stats", x_NTHWC=x_NTHWC)
    check_norm("channel_stats", x_NTHWC, norm=norm)
    scale, shift = (None, None) if norm is None else (norm.scale.detach(), norm.shift.detach())
    return _channel_stats_op(x_NTHWC.detach(), scale, shift)


def bn_finalize(
    sample_mean_NC: Tensor,
    sample_m2_NC: Tensor,
    weight_C: Tensor,
    bias_C: Tensor,
    *,
    positions: int,
    eps: float = 1e-5,
    momentum: float = 0.1,
    running_mean_C: Tensor | None = None,
    running_var_C: Tensor | None = None,
    group: str = "",
) -> Norm:
    """Merge per-sample statistics over ``positions`` = T*H*W each into the Norm of this batch.

    Updates the running statistics in place (momentum in 0..1, unbiased variance). ``group`` names a process
    group to merge over: one all-reduce of 2C + 1 numbers. Gradients reach weight_C and bias_C; the path
    through the statistics belongs to whichever operator applies the Norm. Raises ValueError when a vector's
    shape or dtype does not fit, and for a single value per channel.
    """
    n, channels = sample_mean_NC.shape
    check_vectors(
        "bn_finalize",
        sample_mean_NC,
        sample_m2_NC=(sample_m2_NC, (n, channels)),
        weight_C=(weight_C, (channels,)),
        bias_C=(bias_C, (channels,)),
    )
    check_count(n, positions, group)
    mean, m2, count = sample_mean_NC.detach(), sample_m2_NC.detach(), None
    if group:
        local = mean.mean(0)
        local_m2 = m2.sum(0) + positions * (mean - local).square().sum(0)
        total = mean.new_full((), positions * n)  # a fill: a host value would have to be copied
        mean, m2, count = merge_over_ranks(local, local_m2, total, group)
        mean, m2, count = mean[None], m2[None], count.reshape(1)
    scale, shift, mean, rstd, variance, inv_count = _bn_finalize_op(weight_C, bias_C, mean, m2, count, positions, eps)
    update_running(running_mean_C, running_var_C, mean, variance, momentum)
    return Norm(scale, shift, mean, rstd, inv_count, group)
