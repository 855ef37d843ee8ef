"""The tail of a block in one pass: BN apply + global context + residual sum + ReLU.

Forward: read x and identity, write y; the pool of the global context is ``scale * sample_mean + shift``.
Backward: pass 1 reads g, y, x and writes gi = g * (y > 0), which is the identity's gradient, and the sums of
gi and gi * x per sample and channel; the gradients of the context, scale and shift follow from those sums by
[N, C] arithmetic; pass 2 reads gi and x and writes ``dx = scale * gi + k1 * x + k2``. With `identity_norm`
the identity is the raw output of the downsample convolution, whose BN both directions apply in the same
passes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import table
from .bn_grad import NO_POOL, bn_input_grad
from .launch import check_activations, check_norm, check_same_shape, check_vectors, positions_of, register, traceable
from .norm import Context, Norm, accumulate_dtype, context_mlp, context_mlp_backward, statistics_gradient
from .rows import relu, row_grid, row_options, store_sums, sums_of, tile_at, vector_at


@triton.jit
def _tail_forward(
    x,
    identity,
    scale,
    shift,
    id_scale,
    id_shift,
    y,
    L,
    C: tl.constexpr,
    SHIFT_PER_SAMPLE: tl.constexpr,
    ID_NORM: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """x, identity, y [N,L,C]; scale, id_scale, id_shift [C]; shift [C], or [N,C] with the context added to
    it.
    """
    _m, c, o, ok = tile_at(tl.program_id(1), L, C, BM, BC)
    if SHIFT_PER_SAMPLE:
        shift += tl.program_id(2) * C
    a = vector_at(scale, c, C)
    b = vector_at(shift, c, C)
    v = tl.load(x + o, mask=ok, other=0.0).to(ACC) * a + b
    r = tl.load(identity + o, mask=ok, other=0.0).to(ACC)
    if ID_NORM:
        r = r * vector_at(id_scale, c, C) + vector_at(id_shift, c, C)
    tl.store(y + o, relu(v + r).to(y.dtype.element_ty), mask=ok)


@triton.jit
def _tail_reduce(
    g,
    y,
    x,
    identity,
    gi,
    sum_g,
    sum_gx,
    sum_gid,
    L,
    steps,
    C: tl.constexpr,
    INPUT: tl.constexpr,
    ID_NORM: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """gi = g * (y > 0); sum_g, sum_gx (INPUT), sum_gid (ID_NORM) [N,programs,C]: sums of gi, gi * x, gi *
    identity.
    """
    s0 = tl.zeros((BC,), dtype=ACC)
    s1 = tl.zeros((BC,), dtype=ACC)
    sd = tl.zeros((BC,), dtype=ACC)
    _m, c, _o, _ok = tile_at(0, L, C, BM, BC)
    for i in range(steps):
        _m, c, o, ok = tile_at(tl.program_id(1) * steps + i, L, C, BM, BC)
        gv = tl.load(g + o, mask=ok, other=0.0)
        gv = tl.where(tl.load(y + o, mask=ok, other=0.0) <= 0, 0.0, gv)
        tl.store(gi + o, gv.to(gi.dtype.element_ty), mask=ok)
        gv = gv.to(ACC)
        s0 += tl.sum(gv, axis=0)
        if INPUT:
            s1 += tl.sum(gv * tl.load(x + o, mask=ok, other=0.0).to(ACC), axis=0)
        if ID_NORM:
            sd += tl.sum(gv * tl.load(identity + o, mask=ok, other=0.0).to(ACC), axis=0)
    store_sums(sum_g, s0, c, C)
    if INPUT:
        store_sums(sum_gx, s1, c, C)
    if ID_NORM:
        store_sums(sum_gid, sd, c, C)


@triton.jit
def _tail_input_grads(
    gi,
    x,
    identity,
    coefficients,
    k2,
    dx,
    didentity,
    L,
    C: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    ACC: tl.constexpr,
):
    """Both BN gradients from one read of gi; coefficients [5,C]: scale, k1; scale, k1, k2 of identity."""
    _m, c, o, ok = tile_at(tl.program_id(1), L, C, BM, BC)
    gv = tl.load(gi + o, mask=ok, other=0.0).to(ACC)
    xv = tl.load(x + o, mask=ok, other=0.0).to(ACC)
    v = gv * vector_at(coefficients, c, C) + xv * vector_at(coefficients + C, c, C)
    v += vector_at(k2 + tl.program_id(2) * C, c, C)
    tl.store(dx + o, v.to(dx.dtype.element_ty), mask=ok)
    iv = tl.load(identity + o, mask=ok, other=0.0).to(ACC)
    v = gv * vector_at(coefficients + 2 * C, c, C) + iv * vector_at(coefficients + 3 * C, c, C)
    v += vector_at(coefficients + 4 * C, c, C)
    tl.store(didentity + o, v.to(didentity.dtype.element_ty), mask=ok)


@register("bn_gc_add_relu")
def _tail_op(
    x: Tensor,
    identity: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    rstd: Tensor,
    inv_count: Tensor | None,
    group: str,
    sample_mean: Tensor | None,
    fc1_weight: Tensor | None,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor | None,
    fc2_bias: Tensor | None,
    id_scale: Tensor | None,
    id_shift: Tensor | None,
    id_mean: Tensor | None,
    id_rstd: Tensor | None,
    id_inv_count: Tensor | None,
    id_group: str,
) -> Tensor:
    y, tile = torch.empty_like(x), table.row_tiles(x.shape[-1])[0]
    if sample_mean is not None:
        pooled = torch.addcmul(shift, sample_mean, scale)
        shift = context_mlp(pooled, fc1_weight, fc1_bias, fc2_weight, fc2_bias) + shift
    traceable(_tail_forward)[row_grid(x, tile)](
        x,
        identity,
        scale,
        shift,
        scale if id_scale is None else id_scale,
        scale if id_shift is None else id_shift,
        y,
        positions_of(x),
        SHIFT_PER_SAMPLE=sample_mean is not None,
        ID_NORM=id_scale is not None,
        **row_options(x, tile),
    )
    return y


@_tail_op.register_fake
def _(x, *others):
    return torch.empty_like(x)


@register("bn_gc_add_relu_reduce")
def tail_reduce(
    g: Tensor, y: Tensor, x: Tensor | None, identity: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """gi and the sums of gi, gi * x and gi * identity per sample, [N, C]; [0, C] for what is not given."""
    tile = table.row_tiles(y.shape[-1])[0]
    grid, steps, (sum_g, sum_gx, sum_gid) = sums_of(y, tile, 3)
    gi = torch.empty_like(y)
    traceable(_tail_reduce)[grid](
        g,
        y,
        y if x is None else x,
        y if identity is None else identity,
        gi,
        sum_g,
        sum_gx,
        sum_gid,
        positions_of(y),
        steps,
        INPUT=x is not None,
        ID_NORM=identity is not None,
        **row_options(y, tile),
    )
    sum_gx, sum_gid = (sums[: 0 if of is None else None] for sums, of in ((sum_gx, x), (sum_gid, identity)))
    return gi, sum_g.sum(1), sum_gx.sum(1), sum_gid.sum(1)


@tail_reduce.register_fake
def _(g, y, x, identity):
    rows = [y.shape[0] if given is not None else 0 for given in (y, x, identity)]
    return torch.empty_like(y), *(y.new_empty((n, y.shape[-1]), dtype=accumulate_dtype(y)) for n in rows)


@register("bn_gc_add_relu_input_grads")
def tail_input_grads(
    gi: Tensor, x: Tensor, identity: Tensor, coefficients: Tensor, k2: Tensor
) -> tuple[Tensor, Tensor]:
    """dx and d identity; coefficients [5, C] are scale, k1, id_scale, id_k1, id_k2; k2 [N, C]."""
    dx, didentity, tile = torch.empty_like(x), torch.empty_like(x), table.row_tiles(x.shape[-1])[0]
    traceable(_tail_input_grads)[row_grid(x, tile)](
        gi,
        x,
        identity,
        coefficients,
        k2,
        dx,
        didentity,
        positions_of(x),
        **row_options(x, tile),
    )
    return dx, didentity


@tail_input_grads.register_fake
def _(gi, x, identity, coefficients, k2):
    return torch.empty_like(x), torch.empty_like(x)


def _setup(ctx, inputs, output):
    tensors = [value for value in inputs if not isinstance(value, str)]
    x, identity, *small = tensors
    ctx.id_norm = inputs[13] is not None
    ctx.save_for_backward(output, x, identity if ctx.id_norm else None, *small)
    ctx.group, ctx.id_group = inputs[7], inputs[18]


def _backward(ctx, g):
    y, x, identity, *small = ctx.saved_tensors
    scale, shift, mean, rstd, inv_count, sample_mean, w1, b1, w2, b2, *id_norm = small
    gi, sum_g, sum_gx, sum_gid = tail_reduce(g.contiguous(), y, x, identity)
    dcontext, k2_context = (None,) * 4, None
    dscale, dshift = sum_gx.sum(0), sum_g.sum(0)
    if sample_mean is not None:
        pooled = torch.addcmul(shift, sample_mean, scale)
        dpooled, *dcontext = context_mlp_backward(pooled, w1, b1, w2, b2, sum_g)
        dscale = dscale + (dpooled * sample_mean).sum(0)
        dshift = dshift + dpooled.sum(0)
        k2_context = scale * dpooled / positions_of(x)
    k1, k2 = statistics_gradient(scale, mean, rstd, inv_count, ctx.group, dscale, dshift)
    if k2_context is not None:
        k2 = k2_context if k2 is None else k2 + k2_context
    dnorm = (dscale, dshift, None, None, None, None)
    if not ctx.id_norm:
        dx = bn_input_grad(gi, None, x, scale, shift, k1, k2, False, NO_POOL)
        return dx, gi, *dnorm, None, *dcontext, *(None,) * 6
    id_scale, _id_shift, id_mean, id_rstd, id_inv_count = id_norm
    did_scale, did_shift = sum_gid.sum(0), sum_g.sum(0)
    id_k1, id_k2 = statistics_gradient(id_scale, id_mean, id_rstd, id_inv_count, ctx.id_group, did_scale, did_shift)
    zero = torch.zeros_like(scale)
    rows = [scale, k1, id_scale, id_k1, id_k2]
    coefficients = torch.stack([zero if row is None else row for row in rows])
    k2_NC = (zero if k2 is None else k2).expand(x.shape[0], -1).contiguous()
    dx, didentity = tail_input_grads(gi, x, identity, coefficients, k2_NC)
    return dx, didentity, *dnorm, None, *dcontext, did_scale, did_shift, None, None, None, None


_tail_op.register_autograd(_backward, setup_context=_setup)


def bn_gc_add_relu(
    x_NTHWC: Tensor,
    identity_NTHWC: Tensor,
    norm: Norm,
    *,
    context: Context | None = None,
    identity_norm: Norm | None = None,
) -> Tensor:
    """``relu(z + gc(mean(z)) + identity)`` with z = scale * x + shift, in x's dtype; a NaN stays a NaN.

    ``context`` adds the global context of every sample to all its positions. ``identity_norm`` is the BN of
    the downsample branch, then identity_NTHWC is its convolution's raw output. Gradients reach x, identity,
    the context's parameters and the Norms' scale and shift; those of x and of a normed identity include the
    path through their batch statistics. Autocast does not change it. Raises ValueError when shapes, dtypes or
    layouts do not fit.
    """
    op = "bn_gc_add_relu"
    check_activations(op, x_NTHWC=x_NTHWC, identity_NTHWC=identity_NTHWC)
    check_same_shape(op, x_NTHWC=x_NTHWC, identity_NTHWC=identity_NTHWC)
    check_norm(op, x_NTHWC, norm=norm, identity_norm=identity_norm)
    sample_mean, *parameters = context if context is not None else (None,) * 5
    if context is not None:
        n, channels = x_NTHWC.shape[0], x_NTHWC.shape[-1]
        check_vectors(op, x_NTHWC, **{"context.sample_mean": (sample_mean, (n, channels))})
        sample_mean = sample_mean.detach()
    id_norm = identity_norm if identity_norm is not None else (None,) * 5 + ("",)
    return _tail_op(x_NTHWC, identity_NTHWC, *norm, sample_mean, *parameters, *id_norm)
