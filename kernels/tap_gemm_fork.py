"""The entry of a residual block: a convolution of x that also hands x on.

Where x feeds a convolution and an identity, autograd adds the two gradients in a pass of its own: two reads,
one write. Here the identity's gradient comes back to the convolution, whose gradient kernel adds it in fp32
before it stores: one read. An operator of torch.library may not return its input, hence the autograd
function.
"""

import torch
from torch import Tensor

from .launch import check_activations
from .norm import conv_operands
from .tap_gemm import bias_gradient, input_gradient, masked, tap_gemm, weight_gradient
from .taps import check_convolution


class _Fork(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, bias, relu, stats, stride):
        ctx.set_materialize_grads(False)
        y, mean, m2 = tap_gemm(x, w, bias_C=bias, relu=relu, stats=stats, stride=stride)
        ctx.save_for_backward(x, w, y if relu else None)
        ctx.stride, ctx.has_bias = stride, bias is not None
        if stats:
            ctx.mark_non_differentiable(mean, m2)
        return y, mean, m2, x.view_as(x)

    @staticmethod
    def backward(ctx, g, _mean_grad, _m2_grad, g_identity):
        x, w, y = ctx.saved_tensors
        if g is None:
            return g_identity, *(None,) * 5
        g, dx, dw, dbias = masked(g, y), None, None, None
        if ctx.needs_input_grad[0]:
            residual = None if g_identity is None else g_identity.contiguous()
            dx, _, _ = input_gradient(g, w, x, None, residual=residual, stride=ctx.stride)
        if ctx.needs_input_grad[1]:
            dw = weight_gradient(x, g, None, w.shape[0], ctx.stride).to(w.dtype)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            dbias = bias_gradient(g)
        return dx, dw, dbias, None, None, None


def tap_gemm_fork(
    x_NTHWC: Tensor,
    weight_KIO: Tensor,
    *,
    bias_C: Tensor | None = None,
    relu: bool = False,
    stats: bool = False,
    stride: int = 1,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """``(*tap_gemm(x, weight, ...), x)``; use the last result wherever else x is needed.

    Forks chain: a downsample convolution may fork again. Autocast and errors are those of `tap_gemm`; under
    autocast the last result has the autocast dtype.
    """
    x, w, _ = conv_operands(x_NTHWC, weight_KIO, None)
    check_activations("tap_gemm_fork", x_NTHWC=x)
    check_convolution("tap_gemm_fork", x, w, stride)
    return _Fork.apply(x, w, bias_C, relu, stats, stride)
