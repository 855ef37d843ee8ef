"""Residual blocks of pseudo-3D networks (METHOD section 3).

Every 3 x 3 x 3 convolution is a spatial one, s, and a temporal one, t, joined in one of three ways:
A (serial) relu(bn(t(s(x)))), B (parallel) relu(bn(s(x) + t(x))), C (serial residual) y = relu(bn(s(x))),
relu(y + t(y)). A block adds the global context of its output to every position together with the identity.

`forward` is the definition. Where `ops.set_kernels` has given a block `operators`, it computes the same by `fused`,
with fewer passes over memory: there a BatchNorm is no layer but something that the next reader applies.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from fastplan.models.layers import BatchNorm, SpatialConv, TemporalConv
from fastplan.ops import Fusable, Lazy, Operators, Projection

Kind = Literal["A", "B", "C"]


class GlobalContext(nn.Module):
    """Average over all positions, a bottleneck of two linear layers; zero at the start of training."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // reduction)
        self.fc2 = nn.Linear(channels // reduction, channels)

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to [N, C, 1, 1, 1]."""
        context_NC = self.fc2(F.relu(self.fc1(x_NCTHW.mean((2, 3, 4)))))
        return context_NC[:, :, None, None, None]


class PseudoConv(nn.Module):
    """s and t joined as `kind` says, with their BatchNorm; `relu` is left out before a residual sum."""

    def __init__(
        self, inputs: int, outputs: int, kind: Kind, *, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.kind = kind
        self.relu = relu
        self.s = SpatialConv(inputs, outputs, 3, stride=stride, groups=groups)
        if kind == "B":
            self.t = TemporalConv(inputs, outputs, stride=stride, groups=groups)
        else:
            self.t = TemporalConv(outputs, outputs, groups=groups)
        self.bn = BatchNorm(outputs)

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to [N, C', T, H / stride, W / stride]."""
        if self.kind == "A":
            y = self.bn(self.t(self.s(x_NCTHW)))
        elif self.kind == "B":
            y = self.bn(self.s(x_NCTHW) + self.t(x_NCTHW))
        else:
            y = self.bn(self.s(x_NCTHW))
            y = F.relu(y) if self.relu else y
            y = y + self.t(y)
        return F.relu(y) if self.relu else y

    def fused(self, ops: Operators, x: Lazy, *, pooled: bool = False) -> Lazy:
        """The same; a last BatchNorm is still to be applied. pooled: an epilogue shall give the mean per sample."""
        if self.kind == "A":
            return ops.conv_bn(self.t, self.bn, ops.conv(self.s, x), relu=self.relu, pooled=pooled)
        if self.kind == "B":
            return ops.sum_bn(self.s, self.t, self.bn, x, relu=self.relu, pooled=pooled)
        y = ops.conv_bn(self.s, self.bn, x, relu=self.relu)
        return ops.add_conv(self.t, y, relu=self.relu, pooled=pooled)


class Bottleneck(Fusable):
    """1x1x1, pseudo-3D convolution, 1x1x1 to four times `planes`.

    width: channels inside the block; `planes` in a ResNet, more in a wide one or, in `groups`, in a ResNeXt.
    """

    expansion = 4

    def __init__(
        self, inputs: int, planes: int, kind: Kind, *, stride: int, reduction: int, width: int, groups: int
    ) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = SpatialConv(inputs, width, 1)
        self.bn1 = BatchNorm(width)
        self.conv2 = PseudoConv(width, width, kind, stride=stride, groups=groups)
        self.conv3 = SpatialConv(width, outputs, 1)
        self.bn3 = BatchNorm(outputs)
        self.context = GlobalContext(outputs, reduction)
        self.downsample = downsample(inputs, outputs, stride)

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to [N, 4 * planes, T, H / stride, W / stride]."""
        if self.operators is not None:
            return self.fused(self.operators, x_NCTHW)
        y = F.relu(self.bn1(self.conv1(x_NCTHW)))
        y = self.bn3(self.conv3(self.conv2(y)))
        return F.relu(y + self.context(y) + self.downsample(x_NCTHW))

    def fused(self, ops: Operators, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """The same in fewer passes."""
        y, x = ops.fork_bn(self.conv1, self.bn1, ops.enter(x_NCTHW))
        y = self.conv2.fused(ops, y, pooled=not self.bn3.training)
        return ops.conv_end(self.conv3, self.bn3, y, x, _projection(self), self.context.fc1, self.context.fc2)


class Basic(Fusable):
    """Two pseudo-3D convolutions of `planes` channels, which are its `width` too."""

    expansion = 1

    def __init__(
        self, inputs: int, planes: int, kind: Kind, *, stride: int, reduction: int, width: int, groups: int
    ) -> None:
        if width != planes or groups != 1:
            raise ValueError("a basic block is neither wide nor in groups")
        super().__init__()
        self.conv1 = PseudoConv(inputs, planes, kind, stride=stride)
        self.conv2 = PseudoConv(planes, planes, kind, relu=False)
        self.context = GlobalContext(planes, reduction)
        self.downsample = downsample(inputs, planes, stride)

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to [N, planes, T, H / stride, W / stride]."""
        if self.operators is not None:
            return self.fused(self.operators, x_NCTHW)
        y = self.conv2(self.conv1(x_NCTHW))
        return F.relu(y + self.context(y) + self.downsample(x_NCTHW))

    def fused(self, ops: Operators, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """The same in fewer passes."""
        x = ops.enter(x_NCTHW)
        y = self.conv2.fused(ops, self.conv1.fused(ops, x), pooled=True)
        return ops.end(y, x, _projection(self), self.context.fc1, self.context.fc2)


def downsample(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity of a residual block, projected where channels or positions change."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(SpatialConv(inputs, outputs, 1, stride=stride), BatchNorm(outputs))


def _projection(block: Bottleneck | Basic) -> Projection | None:
    """The convolution and BatchNorm of a block's `downsample`, None for an identity."""
    return tuple(block.downsample) if isinstance(block.downsample, nn.Sequential) else None  # type: ignore[return-value]
