"""The end of a block whose BN is folded into its last convolution, as one GEMM: 1x1x1 convolution + global context +
residual sum + ReLU.

The context pools what the convolution makes, and a convolution is linear: the pool is the mean of its *input* times the
weight, plus the shift. So the context is known before the GEMM begins, whose epilogue adds it as a bias per sample, and
the convolution's own output is never in memory. Backward: one pass reads g and y and writes gi = g * (y > 0), which is
the identity's gradient, and its sums per sample; [N, C] arithmetic leads from these through the context to dp, the
gradient of the pool. That reaches every position of the input as dp * weight / L, a bias per sample of the gradient's
GEMM, and the weight as mean * dp.
"""

import torch
from torch import Tensor

from .bn_gc_add_relu import tail_reduce
from .launch import check_activations, check_norm, check_vectors, positions_of
from .norm import Context, Norm, context_mlp, context_mlp_backward, conv_operands
from .tap_gemm import input_gradient, tap_gemm, weight_gradient
from .taps import check_convolution, output_shape


class _BlockEnd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, identity, bias, identity_bias, sample_mean, fc1_w, fc1_b, fc2_w, fc2_b, *norm):
        pooled = _pooled(sample_mean, w, bias)
        total = context_mlp(pooled, fc1_w, fc1_b, fc2_w, fc2_b) + bias
        if identity_bias is not None:
            total = total + identity_bias
        y, _, _ = tap_gemm(x, w, norm=_norm(norm), bias_NC=total, residual_NTHWC=identity, relu=True)
        *vectors, ctx.group = norm
        ctx.save_for_backward(x, w, y, bias, sample_mean, fc1_w, fc1_b, fc2_w, fc2_b, *vectors)
        return y

    @staticmethod
    def backward(ctx, g):
        x, w, y, bias, sample_mean, *context = ctx.saved_tensors
        parameters, norm = context[:4], _norm((*context[4:], ctx.group))
        needs_x, needs_w, _, needs_bias, needs_identity_bias = ctx.needs_input_grad[:5]
        needs_norm = any(ctx.needs_input_grad[10:12])
        gi, sum_g, _, _ = tail_reduce(g.contiguous(), y, None, None)
        dpooled, *dcontext = context_mlp_backward(_pooled(sample_mean, w, bias), *parameters, sum_g)
        dx = dw = dscale = dshift = None
        with torch.autocast(x.device.type, enabled=False):
            if needs_x or needs_norm:
                dmean = dpooled @ w[0].to(dpooled.dtype).t() / positions_of(x)
                dx, dscale, dshift = input_gradient(gi, w, x, norm, bias=dmean)
            if needs_w:
                dw = (weight_gradient(x, gi, norm, 1) + sample_mean.t() @ dpooled).to(w.dtype)
        dbias = (sum_g + dpooled).sum(0) if needs_bias else None
        didentity_bias = sum_g.sum(0) if needs_identity_bias else None
        return dx, dw, gi, dbias, didentity_bias, None, *dcontext, dscale, dshift, None, None, None, None


def _norm(fields: tuple) -> Norm | None:
    return None if fields[0] is None else Norm(*fields)


def _pooled(sample_mean_NI: Tensor, w: Tensor, bias_C: Tensor) -> Tensor:
    """Mean over positions of the convolution's output, [N, C], from that of its input."""
    with torch.autocast(w.device.type, enabled=False):
        return torch.addmm(bias_C, sample_mean_NI, w[0].to(bias_C.dtype))


def conv_gc_add_relu(
    x_NTHWC: Tensor,
    weight_KIO: Tensor,
    identity_NTHWC: Tensor,
    *,
    bias_C: Tensor,
    context: Context,
    norm: Norm | None = None,
    identity_bias_C: Tensor | None = None,
) -> Tensor:
    """``relu(z + gc(mean(z)) + identity + identity_bias)`` with z = conv([relu(bn(x))]) + bias.

    ``weight_KIO`` [1, I, O] and ``bias_C`` come from `fold_norm`. ``norm`` is the BN before the convolution, followed
    by a ReLU. ``context.sample_mean`` [N, I] is the mean of the convolution's input: of x, or with ``norm`` of
    relu(bn(x)), as `channel_stats` gives it. ``identity_bias_C`` is the shift of a BN whose scale is folded into the
    convolution that made identity_NTHWC. Gradients reach all of these and the context's parameters, those of x and of
    the weight with their path through the pool; sample_mean is a constant. Autocast is that of `tap_gemm`. Raises
    ValueError when shapes, dtypes or layouts do not fit.
    """
    op = "conv_gc_add_relu"
    x, w, identity = conv_operands(x_NTHWC, weight_KIO, identity_NTHWC)
    check_activations(op, x_NTHWC=x, identity_NTHWC=identity)
    check_convolution(op, x, w, 1)
    check_norm(op, x, norm=norm)
    inputs, channels = w.shape[1:]
    if w.shape[0] != 1:
        raise ValueError(f"{op}: weight_KIO has {w.shape[0]} taps; it must have 1")
    shape = output_shape(x, channels, 1)
    if tuple(identity.shape) != shape:
        raise ValueError(f"{op}: identity_NTHWC has shape {tuple(identity.shape)}, the output {shape}")
    vectors = {
        "bias_C": (bias_C, (channels,)),
        "identity_bias_C": (identity_bias_C, (channels,)),
        "context.sample_mean": (context.sample_mean, (x.shape[0], inputs)),
    }
    check_vectors(op, x, **vectors)
    fields = norm if norm is not None else (None,) * 5 + ("",)
    sample_mean, *parameters = context
    return _BlockEnd.apply(x, w, identity, bias_C, identity_bias_C, sample_mean.detach(), *parameters, *fields)
