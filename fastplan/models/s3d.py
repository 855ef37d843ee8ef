"""S3D and S3D-G (Xie et al., ECCV 2018): Inception with every k x k x k convolution in a spatial and a temporal half.

Each half has its BatchNorm and ReLU. S3D-G gates: the mean of the features over all positions, through one linear layer
and a sigmoid, scales the channels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from fastplan.models.interface import VideoNetwork
from fastplan.models.layers import BatchNorm, SpatialConv, TemporalConv, initialise, pool_space, pool_time

# Channels of a block: alone; before and after the first separable convolution; the second one; after the pool.
_Branches = tuple[int, int, int, int, int, int]
_BLOCKS: tuple[tuple[_Branches, ...], ...] = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


@dataclass(frozen=True)
class S3DSpec:
    """gating: S3D-G."""

    gating: bool
    multiple: int = 1
    least: int = 8

    def build(self, classes: int, dropout: float) -> "S3D":
        """The network with fresh weights."""
        return S3D(self, classes, dropout=dropout)


class S3D(VideoNetwork):
    """One head on the plain mean of the features. Time is strided by 8 in all."""

    def __init__(self, spec: S3DSpec, classes: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.spec = spec
        self.multiple, self.least = spec.multiple, spec.least
        self.conv1 = SeparableConv(3, 64, 7, stride=2, gating=spec.gating)
        self.conv2 = Unit(SpatialConv(64, 64, 1))
        self.conv3 = SeparableConv(64, 192, 3, gating=spec.gating)
        inputs, stages = 192, []
        for group in _BLOCKS:
            blocks = []
            for branches in group:
                blocks.append(Inception(inputs, branches, gating=spec.gating))
                inputs = branches[0] + branches[2] + branches[4] + branches[5]
            stages.append(nn.Sequential(*blocks))
        self.stage1, self.stage2, self.stage3 = stages
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(inputs, classes)
        initialise(self)

    def forward(self, clips_NCTHW: torch.Tensor) -> tuple[torch.Tensor]:
        """Logits [N, classes]."""
        self.check_clips(clips_NCTHW)
        x = self.conv3(self.conv2(pool_space(self.conv1(clips_NCTHW))))
        x = self.stage1(pool_space(x))
        x = self.stage2(pool_time(pool_space(x), 3, stride=2, pad=1))
        x = self.stage3(pool_time(pool_space(x, 2, pad=0), 2, stride=2))
        return (self.fc(self.dropout(x.mean((2, 3, 4)))),)

    def classifiers(self) -> tuple[nn.Linear]:
        """The last layer."""
        return (self.fc,)


class Unit(nn.Module):
    """relu(bn(conv))."""

    def __init__(self, conv: SpatialConv | TemporalConv) -> None:
        super().__init__()
        self.conv = conv
        self.bn = BatchNorm(conv.out_channels)
        self.bn.eps = 1e-3

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """As the convolution."""
        return F.relu(self.bn(self.conv(x_NCTHW)))


class SeparableConv(nn.Module):
    """A spatial and a temporal unit, then the gate."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, gating: bool) -> None:
        super().__init__()
        self.s = Unit(SpatialConv(inputs, outputs, kernel, stride=stride))
        self.t = Unit(TemporalConv(outputs, outputs, taps=kernel, time_stride=stride))
        self.gate = Gate(outputs) if gating else nn.Identity()

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to [N, C', T / stride, H / stride, W / stride]."""
        return self.gate(self.t(self.s(x_NCTHW)))


class Gate(nn.Module):
    """x scaled by sigmoid(linear(mean of x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to the same."""
        return x_NCTHW * self.fc(x_NCTHW.mean((2, 3, 4))).sigmoid()[:, :, None, None, None]


class Inception(nn.Module):
    """Four branches side by side: pointwise, two separable ones, a max-pool of 3 x 3 x 3 and pointwise."""

    def __init__(self, inputs: int, branches: _Branches, *, gating: bool) -> None:
        super().__init__()
        alone, before1, after1, before2, after2, pooled = branches
        self.branch0 = Unit(SpatialConv(inputs, alone, 1))
        self.branch1 = nn.Sequential(
            Unit(SpatialConv(inputs, before1, 1)), SeparableConv(before1, after1, 3, gating=gating)
        )
        self.branch2 = nn.Sequential(
            Unit(SpatialConv(inputs, before2, 1)), SeparableConv(before2, after2, 3, gating=gating)
        )
        self.branch3 = Unit(SpatialConv(inputs, pooled, 1))

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to [N, C', T, H, W], C' the sum over the branches."""
        pooled = pool_time(pool_space(x_NCTHW, stride=1), 3, stride=1, pad=1)
        parts = (self.branch0(x_NCTHW), self.branch1(x_NCTHW), self.branch2(x_NCTHW), self.branch3(pooled))
        return torch.cat(parts, 1)
