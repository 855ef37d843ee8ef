"""Which operators a network's blocks run on: Triton kernels, the plain reference of each, or composed PyTorch.

The only importer of `fastplan.kernels`, and one of three places that know the device (with the loader and
`precision`). `set_kernels` switches a network at any time; its weights, names and statistics stay what they are:

    choice = set_kernels(network, "auto")    # kernels where there is a GPU (or TRITON_INTERPRET=1)
    print(choice.line)
    set_kernels(network, "off")              # composed PyTorch again
    set_kernels(network, "reference")        # the kernels' definitions in plain PyTorch, on any device

A block computes with `Operators`. Between two of its convolutions an activation is `Lazy`: what a convolution stored,
and the BatchNorm that is still to be applied. Whoever reads it next applies it while loading; only before a
convolution that cuDNN runs does it cost a pass over memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastplan.kernels import reference, table
from fastplan.kernels.norm import Context, Norm, accumulate_dtype, conv_operands, frozen_norm
from fastplan.kernels.taps import fold_norm, pack_p3d_b, pack_taps

Mode = Literal["auto", "off", "reference"]
Projection = tuple[nn.Conv3d, nn.BatchNorm3d]
OLDEST_GPU = (8, 0)  # compute capability; the kernels are compiled for sm_80 and newer


@dataclass(frozen=True)
class KernelChoice:
    """What `set_kernels` decided. runs: `fused` (Triton), `reference` or `composed`. why: in words."""

    runs: Literal["fused", "reference", "composed"]
    why: str

    @property
    def line(self) -> str:
        """For a person."""
        names = {
            "fused": "Triton: BatchNorm, ReLU, pools, block ends and the convolutions that memory bounds",
            "reference": "the kernels' definitions in plain PyTorch",
            "composed": "PyTorch operators on channels-last views",
        }
        return f"{names[self.runs]} ({self.why})"


def set_kernels(network: nn.Module, mode: Mode) -> KernelChoice:
    """Let every block of `network` run as `mode` says from now on, on the device where the network is now.

    Blocks that have no fused form are left alone. A copy of the network keeps the setting; `state_dict` does not
    know it.
    """
    blocks = [module for module in network.modules() if isinstance(module, Fusable)]
    if not blocks:
        return KernelChoice("composed", "this network has no fused form")
    parameter = next(network.parameters(), None)
    choice = choose_kernels(mode, parameter.device if parameter is not None else torch.device("cpu"))
    operators = None
    if choice.runs == "reference":
        operators = Operators(reference)
    elif choice.runs == "fused":
        from fastplan.kernels import fused  # the only part that needs Triton

        operators = Operators(fused)
    for block in blocks:
        block.operators = operators
    return choice


class Fusable(nn.Module):
    """A block that can run on `operators`; None is composed PyTorch."""

    operators: "Operators | None" = None


def choose_kernels(mode: Mode, device: torch.device) -> KernelChoice:
    """What `mode` means on `device`."""
    if mode == "off":
        return KernelChoice("composed", "as configured")
    if mode == "reference":
        return KernelChoice("reference", "as configured")
    try:
        from fastplan.kernels.launch import INTERPRET
    except ImportError:
        return KernelChoice("composed", "Triton is not installed")
    if INTERPRET:
        return KernelChoice("fused", "interpreted: TRITON_INTERPRET=1")
    if device.type != "cuda":
        return KernelChoice("composed", f"the kernels run on CUDA GPUs, not on {device.type}")
    if torch.cuda.get_device_capability(device) < OLDEST_GPU:
        return KernelChoice("composed", f"{torch.cuda.get_device_name(device)} is older than sm_80")
    return KernelChoice("fused", "by predicted bytes" if not table.MEASURED else "by measurement")


class Lazy(NamedTuple):
    """An activation whose BatchNorm has not been applied yet.

    x_NTHWC: as stored. norm: to be applied by whoever reads it, None for nothing; a ReLU follows it except at the end
    of a block. mean_NC: of x_NTHWC per sample, where an epilogue gave it.
    """

    x_NTHWC: Tensor
    norm: Norm | None = None
    mean_NC: Tensor | None = None


@dataclass(frozen=True)
class Operators:
    """The steps of a block, on the operators of `k`: `kernels.fused` or `kernels.reference`.

    Convolutions are bias-free `nn.Conv3d`, `bn` a `layers.BatchNorm`. A convolution is a GEMM of ours where `gemm` says
    so, and its own forward, a conv2d on a view, elsewhere. A BatchNorm that is frozen or in evaluation is folded into
    the GEMM before it where a ReLU follows, and into the one that ends a block.
    """

    k: ModuleType

    def __deepcopy__(self, memo: dict[int, Any]) -> "Operators":
        return self  # a module of functions cannot be copied, and need not be

    def enter(self, x_NCTHW: Tensor) -> Lazy:
        """A finished activation, in autocast's dtype."""
        x_NCTHW, _, _ = conv_operands(x_NCTHW, x_NCTHW, None)
        return Lazy(_nthwc(x_NCTHW))

    def fork_bn(self, conv: nn.Conv3d, bn: nn.BatchNorm3d, x: Lazy) -> tuple[Lazy, Lazy]:
        """bn(conv(x)) of a finished activation, and x for its other readers, whose gradient conv's kernel then adds."""
        if not gemm(conv, x.x_NTHWC.dtype).fused:
            return self.conv_bn(conv, bn, x), x
        fork = partial(self.k.tap_gemm_fork, x.x_NTHWC, stride=conv.stride[1])
        y, (x_NTHWC,) = self._gemm_bn(fork, pack_taps(conv.weight), bn, x.x_NTHWC.dtype)
        return y, Lazy(x_NTHWC)

    def conv(self, conv: nn.Conv3d, x: Lazy) -> Lazy:
        """conv(x) without a BatchNorm behind it."""
        if gemm(conv, x.x_NTHWC.dtype).fused:
            weight = pack_taps(conv.weight).to(x.x_NTHWC.dtype)
            return Lazy(self.k.tap_gemm(x.x_NTHWC, weight, norm=x.norm, stride=conv.stride[1])[0])
        return Lazy(_on_view(conv, self.finish(x)))

    def conv_bn(self, conv: nn.Conv3d, bn: nn.BatchNorm3d, x: Lazy, *, relu: bool = True, pooled: bool = False) -> Lazy:
        """bn(conv(x)). relu: whether a ReLU follows. pooled: an epilogue shall give the mean per sample."""
        if not gemm(conv, x.x_NTHWC.dtype).fused:
            return self._normed(bn, _on_view(conv, self.finish(x)))
        convolve = partial(self.k.tap_gemm, x.x_NTHWC, norm=x.norm, stride=conv.stride[1])
        return self._gemm_bn(convolve, pack_taps(conv.weight), bn, x.x_NTHWC.dtype, relu=relu, pooled=pooled)[0]

    def sum_bn(
        self, s: nn.Conv3d, t: nn.Conv3d, bn: nn.BatchNorm3d, x: Lazy, *, relu: bool = True, pooled: bool = False
    ) -> Lazy:
        """bn(s(x) + t(x)): eleven taps in one GEMM, or t's epilogue adds s(x), or composed."""
        dtype, stride = x.x_NTHWC.dtype, s.stride[1]
        if gemm_pair(s, t, dtype).fused:
            convolve = partial(self.k.tap_gemm, x.x_NTHWC, norm=x.norm, stride=stride)
            weight = pack_p3d_b(s.weight, t.weight)
            return self._gemm_bn(convolve, weight, bn, dtype, relu=relu, pooled=pooled)[0]
        z_NTHWC = self.finish(x)
        if not gemm(t, dtype).fused:
            return self._normed(bn, _on_view(s, z_NTHWC) + _on_view(t, z_NTHWC))
        scale_C = _frozen(bn, dtype).scale if relu and not bn.training else None  # of s(x) too, where it is folded
        convolve = partial(self.k.tap_gemm, z_NTHWC, residual_NTHWC=_on_view(s, z_NTHWC, scale_C), stride=stride)
        return self._gemm_bn(convolve, pack_taps(t.weight), bn, dtype, relu=relu, pooled=pooled)[0]

    def add_conv(self, conv: nn.Conv3d, x: Lazy, *, relu: bool, pooled: bool = False) -> Lazy:
        """z + conv(z) where z = x finished with or without a ReLU, and `relu` of the sum; summed in fp32."""
        z_NTHWC = self.finish(x, relu=relu)
        if gemm(conv, z_NTHWC.dtype).fused:
            weight = pack_taps(conv.weight).to(z_NTHWC.dtype)
            y_NTHWC, mean_NC, _ = self.k.tap_gemm(z_NTHWC, weight, add_input=True, relu=relu, stats=pooled)
            return Lazy(y_NTHWC, None, mean_NC)
        y_NTHWC = z_NTHWC + _on_view(conv, z_NTHWC)
        return Lazy(y_NTHWC.relu() if relu else y_NTHWC)

    def finish(self, x: Lazy, *, relu: bool = True) -> Tensor:
        """x with its BatchNorm (and the ReLU behind it) applied, in memory."""
        return x.x_NTHWC if x.norm is None else self.k.bn_relu_apply(x.x_NTHWC, x.norm, relu=relu)

    def end(self, y: Lazy, x: Lazy, projection: Projection | None, fc1: nn.Linear, fc2: nn.Linear) -> Tensor:
        """relu(z + fc2(relu(fc1(mean of z))) + identity), z = y with its BatchNorm, the identity x or its projection.

        [N, C, T, H, W].
        """
        identity = x if projection is None else self.conv_bn(*projection, x, relu=False)
        mean_NC = y.mean_NC if y.mean_NC is not None else self.k.channel_stats(y.x_NTHWC)[0]
        context = Context(mean_NC, fc1.weight, fc1.bias, fc2.weight, fc2.bias)
        norm = y.norm if y.norm is not None else _no_norm(mean_NC)
        y_NTHWC = self.k.bn_gc_add_relu(y.x_NTHWC, identity.x_NTHWC, norm, context=context, identity_norm=identity.norm)
        return _ncthw(y_NTHWC)

    def conv_end(
        self,
        conv: nn.Conv3d,
        bn: nn.BatchNorm3d,
        y: Lazy,
        x: Lazy,
        projection: Projection | None,
        fc1: nn.Linear,
        fc2: nn.Linear,
    ) -> Tensor:
        """`end` of bn(conv(y)), y with its BatchNorm and ReLU; one GEMM where the statistics are fixed."""
        dtype = y.x_NTHWC.dtype
        batch = bn.training or (projection is not None and projection[1].training)
        if batch or not gemm_end(conv, dtype).fused:
            z = self.conv_bn(conv, bn, y, relu=False, pooled=True)
            return self.end(z, x, projection, fc1, fc2)
        weight_KIO, shift_C = fold_norm(pack_taps(conv.weight), _frozen(bn, dtype))
        mean_NI = y.mean_NC if y.norm is None else None
        if mean_NI is None:
            mean_NI, _ = self.k.channel_stats(y.x_NTHWC, norm=y.norm)
        identity_NTHWC, identity_shift_C = x.x_NTHWC, None
        if projection is not None:
            identity_NTHWC, identity_shift_C = self._scaled(*projection, x.x_NTHWC)
        y_NTHWC = self.k.conv_gc_add_relu(
            y.x_NTHWC,
            weight_KIO.to(dtype),
            identity_NTHWC,
            bias_C=shift_C,
            context=Context(mean_NI, fc1.weight, fc1.bias, fc2.weight, fc2.bias),
            norm=y.norm,
            identity_bias_C=identity_shift_C,
        )
        return _ncthw(y_NTHWC)

    def bn_relu_pool(self, x_NCTHW: Tensor, bn: nn.BatchNorm3d) -> Tensor:
        """The stem's end: bn, ReLU, max-pool 1 x 3 x 3 of stride 2."""
        x = self._normed(bn, _nthwc(x_NCTHW))
        return _ncthw(self.k.bn_relu_maxpool(x.x_NTHWC, x.norm, window=(1, 3, 3)))

    def pool_time(self, x_NCTHW: Tensor) -> Tensor:
        """Max-pool of 4 positions in time; T must be at least 4."""
        return _ncthw(self.k.bn_relu_maxpool(_nthwc(x_NCTHW), None, window=(4, 1, 1)))

    def _gemm_bn(
        self,
        convolve: Callable[..., Any],
        weight_KIO: Tensor,
        bn: nn.BatchNorm3d,
        dtype: torch.dtype,
        *,
        relu: bool = True,
        pooled: bool = False,
    ) -> tuple[Lazy, Sequence[Tensor]]:
        """A GEMM and its BatchNorm, folded in where statistics are fixed; then whatever else `convolve` gives."""
        if relu and not bn.training:
            weight_KIO, shift_C = fold_norm(weight_KIO, _frozen(bn, dtype))  # in fp32, rounded once
            y_NTHWC, mean_NC, _, *others = convolve(weight_KIO.to(dtype), bias_C=shift_C, relu=True, stats=pooled)
            return Lazy(y_NTHWC, None, mean_NC), others
        y_NTHWC, mean_NC, m2_NC, *others = convolve(weight_KIO.to(dtype), stats=bn.training or pooled)
        return self._normed(bn, y_NTHWC, mean_NC, m2_NC), others

    def _scaled(self, conv: nn.Conv3d, bn: nn.BatchNorm3d, x_NTHWC: Tensor) -> tuple[Tensor, Tensor]:
        """scale * conv(x) and the shift [C] that is left of a fixed bn behind it."""
        norm = _frozen(bn, x_NTHWC.dtype)
        if not gemm(conv, x_NTHWC.dtype).fused:
            return _on_view(conv, x_NTHWC, norm.scale), norm.shift
        weight_KIO, shift_C = fold_norm(pack_taps(conv.weight), norm)
        return self.k.tap_gemm(x_NTHWC, weight_KIO.to(x_NTHWC.dtype), stride=conv.stride[1])[0], shift_C

    def _normed(
        self, bn: nn.BatchNorm3d, y_NTHWC: Tensor, mean_NC: Tensor | None = None, m2_NC: Tensor | None = None
    ) -> Lazy:
        """y with bn to be applied; its statistics are read here unless an epilogue gave them."""
        if not bn.training:
            return Lazy(y_NTHWC, _frozen(bn, y_NTHWC.dtype), mean_NC)
        if mean_NC is None or m2_NC is None:
            mean_NC, m2_NC = self.k.channel_stats(y_NTHWC)
        return Lazy(y_NTHWC, _batch_norm(self.k, bn, y_NTHWC, mean_NC, m2_NC), mean_NC)


def gemm(conv: nn.Conv3d, dtype: torch.dtype) -> table.Fused:
    """Whether a convolution on activations of `dtype` is our GEMM or its own forward, and why."""
    taps, (time_stride, *strides) = conv.kernel_size[0], conv.stride
    same = conv.padding == (taps // 2, 0, 0) and conv.dilation == (1, 1, 1) and time_stride == 1
    if conv.kernel_size not in ((1, 1, 1), (3, 1, 1)) or not same or conv.groups > 1 or strides[0] != strides[1]:
        return table.Fused(False, "spatial, grouped or strided in time: cuDNN")
    return table.use_fused(
        "tap_gemm",
        inputs=conv.in_channels,
        outputs=conv.out_channels,
        taps=taps,
        stride=strides[0],
        itemsize=dtype.itemsize,
    )


def gemm_pair(s: nn.Conv3d, t: nn.Conv3d, dtype: torch.dtype) -> table.Fused:
    """Whether s(x) + t(x) of a 1 x 3 x 3 and a 3 x 1 x 1 convolution is one GEMM of eleven taps, and why."""
    if s.kernel_size != (1, 3, 3) or t.kernel_size != (3, 1, 1) or s.groups > 1:
        return table.Fused(False, "not a 1 x 3 x 3 and a 3 x 1 x 1 convolution of all channels: cuDNN")
    return table.use_fused(
        "tap_gemm",
        inputs=s.in_channels,
        outputs=s.out_channels,
        taps=11,
        stride=s.stride[1],
        itemsize=dtype.itemsize,
    )


def gemm_end(conv: nn.Conv3d, dtype: torch.dtype) -> table.Fused:
    """Whether a 1 x 1 x 1 convolution with fixed statistics ends its block in its own epilogue, and why."""
    return table.use_fused(
        "conv_gc_add_relu", inputs=conv.in_channels, outputs=conv.out_channels, itemsize=dtype.itemsize
    )


def merged_batch_norm(bn: nn.BatchNorm3d, x_NCTHW: Tensor) -> Tensor:
    """bn(x) in training with the statistics of all ranks of `bn.group`, on the kernels' plain reference."""
    x_NTHWC = _nthwc(x_NCTHW)
    norm = _batch_norm(reference, bn, x_NTHWC, *reference.channel_stats(x_NTHWC))
    return _ncthw(reference.bn_relu_apply(x_NTHWC, norm, relu=False))


def _batch_norm(k: ModuleType, bn: nn.BatchNorm3d, y_NTHWC: Tensor, mean_NC: Tensor, m2_NC: Tensor) -> Norm:
    """The Norm of this batch, or of all ranks' batches; moves bn's running statistics."""
    dtype = accumulate_dtype(y_NTHWC)
    norm: Norm = k.bn_finalize(
        mean_NC,
        m2_NC,
        bn.weight.to(dtype),
        bn.bias.to(dtype),
        positions=y_NTHWC.shape[1] * y_NTHWC.shape[2] * y_NTHWC.shape[3],
        eps=bn.eps,
        momentum=bn.momentum or 0.0,
        running_mean_C=bn.running_mean,
        running_var_C=bn.running_var,
        group=getattr(bn, "group", ""),
    )
    return norm


def _frozen(bn: nn.BatchNorm3d, dtype: torch.dtype) -> Norm:
    """bn's running statistics as a Norm for activations of `dtype`."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert bn.running_mean is not None and bn.running_var is not None
    vectors = (v.to(wide) for v in (bn.running_mean, bn.running_var, bn.weight, bn.bias))
    return frozen_norm(*vectors, eps=bn.eps)


def _no_norm(mean_NC: Tensor) -> Norm:
    """z = x, for the end of a block whose last convolution has no BatchNorm behind it."""
    one, zero = mean_NC.new_ones(mean_NC.shape[1]), mean_NC.new_zeros(mean_NC.shape[1])
    return Norm(one, zero, zero, one)


def _on_view(conv: nn.Conv3d, x_NTHWC: Tensor, scale_C: Tensor | None = None) -> Tensor:
    """conv(x), or scale * conv(x), in conv's own forward; the weight is scaled in fp32 and rounded once."""
    if scale_C is None:
        return _nthwc(conv(_ncthw(x_NTHWC)))
    weight = (conv.weight * scale_C[:, None, None, None, None]).to(conv.weight.dtype)
    return _nthwc(functional_call(conv, {"weight": weight}, (_ncthw(x_NTHWC),)))


def _nthwc(x_NCTHW: Tensor) -> Tensor:
    return x_NCTHW.permute(0, 2, 3, 4, 1).contiguous()


def _ncthw(x_NTHWC: Tensor) -> Tensor:
    return x_NTHWC.permute(0, 4, 1, 2, 3)
