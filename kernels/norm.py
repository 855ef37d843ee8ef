"""What a batch normalisation hands to the kernels, and the small algebra of its gradient.

A BN in training is ``z = scale * x + shift`` with ``scale = weight * rstd`` and ``shift = bias - mean *
scale``, where mean and rstd are statistics of x. Every operator here that applies a `Norm` returns the
gradients of scale and shift, and adds the part of x's gradient that flows through the statistics. Both are
linear in the incoming gradient, so several operators may consume one Norm.
"""

from typing import NamedTuple

import torch
import torch.distributed._functional_collectives as collectives
import torch.nn.functional as F
from torch import Tensor


class Norm(NamedTuple):
    """A BN ready to be applied: scale, shift, mean and rstd are fp32 [C] (fp64 for fp64 activations).

    mean and rstd are constants to autograd. ``inv_count`` is a one-element tensor, 1 / positions over all
    samples and ranks; None says that the statistics are frozen, so that x's gradient is scale * g alone.
    ``group`` names the process group over which the statistics were merged, or is empty.
    """

    scale: Tensor
    shift: Tensor
    mean: Tensor
    rstd: Tensor
    inv_count: Tensor | None = None
    group: str = ""


class Context(NamedTuple):
    """The global context of a block: pool the BN output over T,H,W, then linear, ReLU, linear.

    ``sample_mean`` [N, C] is the mean of the raw BN input per sample; ``scale * sample_mean + shift`` is the
    pooled BN output, so that the pool costs no pass. Where the BN is folded into a convolution it is the mean of
    the convolution's input, [N, I]. fc1_weight is [R, C], fc1_bias [R], fc2_weight [C, R], fc2_bias [C].
    """

    sample_mean: Tensor
    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor


def accumulate_dtype(x: Tensor) -> torch.dtype:
    """dtype of every sum and statistic of ``x``: fp32, or fp64 for fp64 tensors."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_count(samples: int, positions: int, group: str) -> None:
    """Raise ValueError for statistics of a single value, as ``torch.nn.functional.batch_norm`` does.

    The other ranks of a group are not asked.
    """
    if samples * positions == 1 and not group:
        raise ValueError(
            "bn_finalize: expected more than 1 value per channel when training, got one sample and position"
        )


def frozen_norm(running_mean_C: Tensor, running_var_C: Tensor, weight_C: Tensor, bias_C: Tensor, *, eps: float) -> Norm:
    """The Norm of an evaluation or frozen BN: running statistics, differentiable in weight and bias only."""
    rstd = torch.rsqrt(running_var_C.detach() + eps)
    mean = running_mean_C.detach()
    scale = weight_C * rstd
    return Norm(scale, bias_C - mean * scale, mean, rstd)


def context_mlp(
    pooled_NC: Tensor, fc1_weight: Tensor, fc1_bias: Tensor, fc2_weight: Tensor, fc2_bias: Tensor
) -> Tensor:
    """linear, ReLU, linear of the pooled [N, C] in its own dtype; autocast does not reach it (N rows cost
    nothing).
    """
    dtype = pooled_NC.dtype
    with torch.autocast(pooled_NC.device.type, enabled=False):
        hidden = F.linear(pooled_NC, fc1_weight.to(dtype), fc1_bias.to(dtype)).relu()
        return F.linear(hidden, fc2_weight.to(dtype), fc2_bias.to(dtype))


def context_mlp_backward(
    pooled_NC: Tensor, fc1_weight: Tensor, fc1_bias: Tensor, fc2_weight: Tensor, fc2_bias: Tensor, dgc_NC: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of `context_mlp`: of pooled, then of the four parameters in their own dtypes."""
    dtype = pooled_NC.dtype
    with torch.autocast(pooled_NC.device.type, enabled=False):
        hidden = F.linear(pooled_NC, fc1_weight.to(dtype), fc1_bias.to(dtype)).relu()
        dhidden = torch.where(hidden <= 0, 0.0, dgc_NC @ fc2_weight.to(dtype))
        grads = (dhidden.t() @ pooled_NC, dhidden.sum(0), dgc_NC.t() @ hidden, dgc_NC.sum(0))
        dpooled = dhidden @ fc1_weight.to(dtype)
    parameters = (fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    return dpooled, *(grad.to(p.dtype) for grad, p in zip(grads, parameters, strict=True))


def conv_operands(x: Tensor, weight: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands of a convolution: in autocast's dtype where autocast is on, else as they are."""
    device = x.device.type
    if not torch.is_autocast_enabled(device) or x.dtype == torch.float64:
        return x, weight, residual
    dtype = torch.get_autocast_dtype(device)
    return x.to(dtype), weight.to(dtype), None if residual is None else residual.to(dtype)


def sum_over_ranks(values: Tensor, group: str) -> Tensor:
    """All-reduce by sum over the named process group; the identity for an empty name."""
    if not group:
        return values
    return collectives.wait_tensor(collectives.all_reduce(values, "sum", group))


def statistics_gradient(
    scale_C: Tensor,
    mean_C: Tensor,
    rstd_C: Tensor,
    inv_count: Tensor | None,
    group: str,
    dscale_C: Tensor,
    dshift_C: Tensor,
) -> tuple[Tensor | None, Tensor | None]:
    """Coefficients (k1_C, k2_C) of ``dx = scale * g + k1 * x + k2``, the gradient of a BN with respect to its
    input.

    With s0 = sum(g), s1 = sum(g * xhat) over all M positions: k1 = -scale * rstd * s1 / M and k2 = -scale *
    s0 / M - k1 * mean (Ioffe and Szegedy 2015, section 3, sorted by powers of x). s0 is the gradient of shift
    and s1 = rstd * (dscale - mean * dshift). Frozen statistics give (None, None).
    """
    if inv_count is None:
        return None, None
    if group:
        dscale_C, dshift_C = sum_over_ranks(torch.stack([dscale_C, dshift_C]), group).unbind(0)
    s1 = rstd_C * (dscale_C - mean_C * dshift_C)
    k1 = -scale_C * rstd_C * s1 * inv_count
    k2 = -scale_C * dshift_C * inv_count - k1 * mean_C
    return k1, k2
