"""Every operator in plain PyTorch: the definition that the kernels are tested against.

Same names, signatures and gradients as the kernels; any device. Arithmetic is fp32 (fp64 for fp64 tensors),
results are rounded once to the dtype of the activation. Autograd differentiates these functions as written,
including the path through the batch statistics; nothing here is tuned for speed.
"""

import torch
import torch.distributed.nn.functional as dist_nn
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group

from .norm import Context, Norm, accumulate_dtype, check_count, context_mlp, conv_operands
from .taps import dense_kernel

POSITIONS = (1, 2, 3)  # T, H, W of N,T,H,W,C
POOLS = {(1, 3, 3): ((1, 2, 2), (0, 1, 1)), (4, 1, 1): ((4, 1, 1), (0, 0, 0))}  # window: stride, padding


def channel_stats(x_NTHWC: Tensor, *, norm: Norm | None = None) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations (M2) per sample and channel of x or of relu(scale * x + shift), both [N, C];
    constants to autograd.
    """
    x = (x_NTHWC if norm is None else bn_relu_apply(x_NTHWC, norm)).detach().to(accumulate_dtype(x_NTHWC))
    mean = x.mean(POSITIONS)
    return mean, (x - mean[:, None, None, None]).square().sum(POSITIONS)


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
    """Merge per-sample statistics over ``positions`` = T*H*W each (Chan et al. 1979) into the Norm of this
    batch.

    Updates the running statistics in place, the variance unbiased, as ``torch.nn.BatchNorm3d`` does. With
    ``group`` the statistics are those of all ranks. Gradients reach weight_C and bias_C.
    """
    n, count = sample_mean_NC.shape[0], sample_mean_NC.new_full((), positions)
    check_count(n, positions, group)
    total = count * n
    mean = sample_mean_NC.mean(0)
    m2 = sample_m2_NC.sum(0) + count * (sample_mean_NC - mean).square().sum(0)
    if group:
        mean, m2, total = merge_over_ranks(mean, m2, total, group)
    rstd = torch.rsqrt(m2 / total + eps)
    update_running(running_mean_C, running_var_C, mean, m2 / (total - 1), momentum)
    scale = weight_C * rstd
    return Norm(scale, bias_C - mean * scale, mean, rstd, (1 / total).reshape(1), group)


def update_running(
    running_mean_C: Tensor | None,
    running_var_C: Tensor | None,
    mean_C: Tensor,
    var_C: Tensor,
    momentum: float,
) -> None:
    """Move the running statistics by ``momentum`` towards a batch's mean and unbiased variance, in place."""
    with torch.no_grad():
        if running_mean_C is not None:
            running_mean_C.lerp_(mean_C.to(running_mean_C.dtype), momentum)
        if running_var_C is not None:
            running_var_C.lerp_(var_C.to(running_var_C.dtype), momentum)


def merge_over_ranks(mean_C: Tensor, m2_C: Tensor, total: Tensor, group: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, M2 and count over all ranks of ``group`` from one all-reduce of 2C + 1 fp64 numbers.

    fp64 makes the sums of squares safe: their cancellation loses digits that fp32 statistics do not have.
    """
    mean, m2, total = mean_C.double(), m2_C.double(), total.double()
    packed = torch.cat([mean * total, m2 + mean.square() * total, total.reshape(1)])
    packed = _all_reduce(packed, group)
    channels = mean_C.numel()
    count = packed[-1]
    mean = packed[:channels] / count
    m2 = (packed[channels:-1] - mean.square() * count).clamp_min(0)
    return mean.to(mean_C.dtype), m2.to(m2_C.dtype), count.to(mean_C.dtype)


def bn_relu_apply(x_NTHWC: Tensor, norm: Norm, *, relu: bool = True) -> Tensor:
    """``relu(scale * x + shift)``, or without the ReLU."""
    z = affine(x_NTHWC, norm)
    return (z.relu() if relu else z).to(x_NTHWC.dtype)


def bn_gc_add_relu(
    x_NTHWC: Tensor,
    identity_NTHWC: Tensor,
    norm: Norm,
    *,
    context: Context | None = None,
    identity_norm: Norm | None = None,
) -> Tensor:
    """``relu(z + gc(mean(z)) + identity)``, z = scale * x + shift; `identity_norm` is the downsample BN."""
    acc = accumulate_dtype(x_NTHWC)
    z = affine(x_NTHWC, norm)
    y = z + (identity_NTHWC.to(acc) if identity_norm is None else affine(identity_NTHWC, identity_norm))
    if context is not None:
        gc = context_mlp(z.mean(POSITIONS), *context[1:])
        y = y + gc[:, None, None, None]
    return y.relu().to(x_NTHWC.dtype)


def bn_relu_maxpool(x_NTHWC: Tensor, norm: Norm | None, *, window: tuple[int, int, int]) -> Tensor:
    """Max-pool of ``relu(scale * x + shift)``, or of x; window (1, 3, 3) stride 2, or (4, 1, 1) stride 4."""
    if window not in POOLS:
        raise ValueError(f"bn_relu_maxpool: window {window}; it must be one of {tuple(POOLS)}")
    stride, padding = POOLS[window]
    v_NCTHW = (x_NTHWC if norm is None else bn_relu_apply(x_NTHWC, norm)).permute(0, 4, 1, 2, 3)
    if v_NCTHW.shape[2] < window[0]:
        raise ValueError(f"bn_relu_maxpool: {v_NCTHW.shape[2]} frames, but window {window} needs {window[0]}")
    return F.max_pool3d(v_NCTHW, window, stride, padding).permute(0, 2, 3, 4, 1)


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
    """``y = [relu](conv([relu(bn(x))]) + bias + residual)`` and, if ``stats``, y's mean and M2 per sample."""
    x, w, residual = conv_operands(x_NTHWC, weight_KIO, residual_NTHWC)
    acc = accumulate_dtype(x)
    z = x if norm is None else bn_relu_apply(x, norm)
    kernel_OITHW = dense_kernel(w).to(acc)
    padding = [size // 2 for size in kernel_OITHW.shape[2:]]
    with torch.autocast(x.device.type, enabled=False):
        moved = z.to(acc).permute(0, 4, 1, 2, 3)
        y = F.conv3d(moved, kernel_OITHW, bias_C, (1, stride, stride), padding).permute(0, 2, 3, 4, 1)
    if bias_NC is not None:
        y = y + bias_NC[:, None, None, None]
    if add_input or residual is not None:
        y = y + (x if residual is None else residual).to(acc)
    y = (y.relu() if relu else y).to(x.dtype).contiguous()
    return (y, *channel_stats(y)) if stats else (y, None, None)


def tap_gemm_fork(
    x_NTHWC: Tensor,
    weight_KIO: Tensor,
    *,
    bias_C: Tensor | None = None,
    relu: bool = False,
    stats: bool = False,
    stride: int = 1,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """`tap_gemm` and x itself, for the branch that shares x with the convolution."""
    x, w, _ = conv_operands(x_NTHWC, weight_KIO, None)
    return (*tap_gemm(x, w, bias_C=bias_C, relu=relu, stats=stats, stride=stride), x)


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
    """``relu(z + gc(mean(z)) + identity + identity_bias)`` with z = conv([relu(bn(x))]) + bias, pooled as it is.

    ``context.sample_mean``, from which the kernel has the mean of z, is not asked here.
    """
    x, w, identity = conv_operands(x_NTHWC, weight_KIO, identity_NTHWC)
    acc = accumulate_dtype(x)
    moved = (x if norm is None else bn_relu_apply(x, norm)).to(acc)
    with torch.autocast(x.device.type, enabled=False):
        z = moved @ w[0].to(acc) + bias_C
    y = z + context_mlp(z.mean(POSITIONS), *context[1:])[:, None, None, None] + identity.to(acc)
    return (y if identity_bias_C is None else y + identity_bias_C).relu().to(x.dtype)


def affine(x_NTHWC: Tensor, norm: Norm) -> Tensor:
    """``scale * x + shift`` in the accumulation dtype, differentiable through the statistics that x gave to
    norm.

    The value uses norm's own numbers. The graph recomputes mean and rstd from x: z = scale * (x - m) * r /
    rstd + shift + scale * mean, where m equals mean and r equals rstd in value.
    """
    x = x_NTHWC.to(accumulate_dtype(x_NTHWC))
    if norm.inv_count is None:
        return norm.scale * x + norm.shift
    m = _mean_over_positions(x, norm)
    var = _mean_over_positions((x - m).square(), norm)
    m = m - m.detach() + norm.mean
    ratio = (1 + (var - var.detach()) * norm.rstd.square()).rsqrt()
    return norm.scale * ((x - m) * ratio + norm.mean) + norm.shift


def _mean_over_positions(x: Tensor, norm: Norm) -> Tensor:
    total = x.sum((0, *POSITIONS))
    return (_all_reduce(total, norm.group) if norm.group else total) * norm.inv_count


def _all_reduce(values: Tensor, group: str) -> Tensor:
    return dist_nn.all_reduce(values, group=_resolve_process_group(group))
