"""Each operator as the network uses it, beside eager PyTorch for the same on views of channels-last storage.

The first of a pair takes `fused` or `reference`, which offer the same functions.
"""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from fastplan.kernels.norm import Context, Norm, accumulate_dtype, frozen_norm

Inputs = dict[str, Tensor]
Outputs = Tensor | tuple[Tensor, ...]


def tail(k: ModuleType, v: Inputs) -> Tensor:
    """The end of a block: BN, global context, identity (with its own BN where there is one), ReLU."""
    stats = k.channel_stats(v["x"])
    norm = _finalize(k, stats, v, "", v["x"])
    context = Context(stats[0], v["fc1"], v["fc1_bias"], v["fc2"], v["fc2_bias"])
    down = None
    if "id_weight" in v:
        down = _finalize(k, k.channel_stats(v["residual"]), v, "id_", v["residual"])
    return k.bn_gc_add_relu(v["x"], v["residual"], norm, context=context, identity_norm=down)


def tail_eager(v: Inputs) -> Tensor:
    """`tail` in eager PyTorch."""
    z = _batch_norm(v["x"], v["weight"], v["bias"])
    identity = v["residual"]
    if "id_weight" in v:
        identity = _batch_norm(identity, v["id_weight"], v["id_bias"])
    return (z + _context(z, v)[:, None, None, None] + identity).relu()


def relu(k: ModuleType, v: Inputs) -> Tensor:
    """bn2, where cuDNN comes next."""
    return k.bn_relu_apply(v["x"], _finalize(k, k.channel_stats(v["x"]), v, "", v["x"]))


def relu_eager(v: Inputs) -> Tensor:
    """`relu` in eager PyTorch."""
    return _batch_norm(v["x"], v["weight"], v["bias"]).relu()


def stem(k: ModuleType, v: Inputs) -> Tensor:
    """The pool behind the stem."""
    norm = _finalize(k, k.channel_stats(v["x"]), v, "", v["x"])
    return k.bn_relu_maxpool(v["x"], norm, window=(1, 3, 3))


def stem_eager(v: Inputs) -> Tensor:
    """`stem` in eager PyTorch."""
    flat = relu_eager(v).flatten(0, 1).permute(0, 3, 1, 2)
    return F.max_pool2d(flat, 3, 2, 1).permute(0, 2, 3, 1).unflatten(0, v["x"].shape[:2])


def dual(k: ModuleType, v: Inputs) -> Tensor:
    """The pool before the second head."""
    return k.bn_relu_maxpool(v["x"], None, window=(4, 1, 1))


def dual_eager(v: Inputs) -> Tensor:
    """`dual` in eager PyTorch."""
    moved = v["x"].permute(0, 4, 1, 2, 3)
    return F.max_pool3d(moved, (4, 1, 1), (4, 1, 1)).permute(0, 2, 3, 4, 1)


def conv_after_bn(k: ModuleType, v: Inputs) -> Tensor:
    """The statistics of x are read here but come from an epilogue in the network: one read more than
    predicted.
    """
    norm = _finalize(k, k.channel_stats(v["x"]), v, "", v["x"])
    return k.tap_gemm(v["x"], v["w"], norm=norm, stats=True)[0]


def conv_after_bn_eager(v: Inputs) -> Tensor:
    """`conv_after_bn` in eager PyTorch."""
    return _conv(relu_eager(v), v["w"])


def p3d_c(k: ModuleType, v: Inputs) -> Tensor:
    """P3D-C: relu(x + t(x))."""
    return k.tap_gemm(v["x"], v["w"], add_input=True, relu=True)[0]


def p3d_c_eager(v: Inputs) -> Tensor:
    """`p3d_c` in eager PyTorch."""
    return (v["x"] + _conv(v["x"], v["w"])).relu()


def folded(k: ModuleType, v: Inputs) -> Tensor:
    """P3D-B's t beside s(x), the BN behind them folded."""
    return k.tap_gemm(v["x"], v["w"], bias_C=v["shift"], residual_NTHWC=v["residual"], relu=True)[0]


def folded_eager(v: Inputs) -> Tensor:
    """`folded` in eager PyTorch."""
    return (_conv(v["x"], v["w"]) + v["shift"].to(v["x"].dtype) + v["residual"]).relu()


def block_end(k: ModuleType, v: Inputs) -> Tensor:
    """The end of a block with fixed statistics, its BN folded into conv3; with the BN before conv3 where there is one.

    The mean of conv3's input is read here; in the network an epilogue often has it.
    """
    norm = frozen_norm(*_unit(v["x"]), v["weight"], v["bias"], eps=1e-5) if "weight" in v else None
    context = Context(k.channel_stats(v["x"], norm=norm)[0], v["fc1"], v["fc1_bias"], v["fc2"], v["fc2_bias"])
    return k.conv_gc_add_relu(v["x"], v["w"], v["residual"], bias_C=v["shift"], context=context, norm=norm)


def block_end_eager(v: Inputs) -> Tensor:
    """`block_end` in eager PyTorch."""
    x = v["x"]
    if "weight" in v:
        x = _frozen_batch_norm(x, *_unit(x), v["weight"], v["bias"]).relu()
    z = _conv(x, v["w"]) + v["shift"].to(x.dtype)
    return (z + _context(z, v)[:, None, None, None] + v["residual"]).relu()


def frozen_tail(k: ModuleType, v: Inputs) -> Tensor:
    """`tail` with frozen statistics, without a context."""
    norm = frozen_norm(v["mean"], v["variance"], v["weight"], v["bias"], eps=1e-5)
    return k.bn_gc_add_relu(v["x"], v["residual"], norm)


def frozen_tail_eager(v: Inputs) -> Tensor:
    """`frozen_tail` in eager PyTorch."""
    statistics = v["mean"].detach(), v["variance"].detach()
    return (_frozen_batch_norm(v["x"], *statistics, v["weight"], v["bias"]) + v["residual"]).relu()


def fork(k: ModuleType, v: Inputs) -> tuple[Tensor, ...]:
    """conv1 of a block, whose x is the identity too."""
    y, *_, x = k.tap_gemm_fork(v["x"], v["w"], stats=True)
    return y, x


def fork_eager(v: Inputs) -> tuple[Tensor, ...]:
    """`fork` in eager PyTorch: autograd adds the two gradients."""
    return _conv(v["x"], v["w"]), v["x"]


def p3d_b(k: ModuleType, v: Inputs) -> Tensor:
    """P3D-B: s(x) + t(x) as 11 taps."""
    return k.tap_gemm(v["x"], v["w"], stats=True)[0]


def p3d_b_eager(v: Inputs) -> Tensor:
    """`p3d_b` in eager PyTorch: a 1x3x3 and a 3x1x1 convolution, the latter without its centre."""
    w_KIO = v["w"]
    spatial_OIHW = w_KIO[1:10].permute(2, 1, 0).unflatten(2, (3, 3))
    frames_NCHW = F.conv2d(v["x"].flatten(0, 1).permute(0, 3, 1, 2), spatial_OIHW, padding=1)
    frames = frames_NCHW.permute(0, 2, 3, 1).unflatten(0, v["x"].shape[:2])
    return frames + _conv(v["x"], torch.stack([w_KIO[0], torch.zeros_like(w_KIO[0]), w_KIO[10]]))


def downsample(k: ModuleType, v: Inputs) -> Tensor:
    """The projection of an identity, spatial stride 2."""
    return k.tap_gemm(v["x"], v["w"], stats=True, stride=2)[0]


def downsample_eager(v: Inputs) -> Tensor:
    """`downsample` in eager PyTorch."""
    flat_NCHW = v["x"].flatten(0, 1).permute(0, 3, 1, 2)
    y_NCHW = F.conv2d(flat_NCHW, v["w"][0].T[:, :, None, None], stride=2)
    return y_NCHW.permute(0, 2, 3, 1).unflatten(0, v["x"].shape[:2])


def _finalize(k: ModuleType, stats: tuple[Tensor, Tensor], v: Inputs, prefix: str, x: Tensor) -> Norm:
    return k.bn_finalize(*stats, v[prefix + "weight"], v[prefix + "bias"], positions=x[0, ..., 0].numel())


def _batch_norm(x_NTHWC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Training BN on the 4-D channels-last view, PyTorch's fastest layout for it."""
    flat = x_NTHWC.flatten(0, 1).permute(0, 3, 1, 2)
    return F.batch_norm(flat, None, None, weight, bias, True).permute(0, 2, 3, 1).unflatten(0, x_NTHWC.shape[:2])


def _frozen_batch_norm(x_NTHWC: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    flat = x_NTHWC.flatten(0, 1).permute(0, 3, 1, 2)
    return F.batch_norm(flat, mean, var, weight, bias).permute(0, 2, 3, 1).unflatten(0, x_NTHWC.shape[:2])


def _unit(x_NTHWC: Tensor) -> tuple[Tensor, Tensor]:
    """Running statistics that normalise nothing: a BN is then its weight and bias."""
    zeros = x_NTHWC.new_zeros(x_NTHWC.shape[-1], dtype=accumulate_dtype(x_NTHWC))
    return zeros, zeros + 1


def _context(z_NTHWC: Tensor, v: Inputs) -> Tensor:
    """The global context [N, C] of z in z's dtype."""
    pooled = z_NTHWC.mean((1, 2, 3)).to(v["fc1"].dtype)
    gc = F.linear(F.linear(pooled, v["fc1"], v["fc1_bias"]).relu(), v["fc2"], v["fc2_bias"])
    return gc.to(z_NTHWC.dtype)


def _conv(x_NTHWC: Tensor, w_KIO: Tensor) -> Tensor:
    """1x1x1 as a matrix product, 3x1x1 as a conv2d over (T, H*W)."""
    if w_KIO.shape[0] == 1:
        return x_NTHWC @ w_KIO[0]
    flat = x_NTHWC.flatten(2, 3).permute(0, 3, 1, 2)
    y = F.conv2d(flat, w_KIO.permute(2, 1, 0)[..., None], padding=(1, 0))
    return y.permute(0, 2, 3, 1).unflatten(2, x_NTHWC.shape[2:4])
