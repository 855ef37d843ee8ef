"""Pathways of residual blocks that see time in their first 1 x 1 convolution: I3D 3x1x1, Slow, non-local, SlowFast.

A pathway is a stem, a max-pool in space and four stages; which of its blocks see three frames (`taps`) and how wide it
is makes it the slow or the fast pathway of SlowFast (Feichtenhofer et al., ICCV 2019), or the I3D of the non-local
networks (Wang et al., CVPR 2018).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from fastplan.models.blocks import downsample
from fastplan.models.interface import VideoNetwork
from fastplan.models.layers import (
    BatchNorm,
    FullConv,
    SpatialConv,
    TemporalConv,
    as_clips,
    initialise,
    pool_space,
    pool_time,
)

Taps = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
I3D_TAPS: Taps = ((3,), (3, 1), (3, 1), (1, 3))
SLOW_TAPS: Taps = ((1,), (1,), (3,), (3,))
FAST_TAPS: Taps = ((3,), (3,), (3,), (3,))


@dataclass(frozen=True)
class PathwaySpec:
    """One network of one pathway.

    taps: frames that the first convolution of a block sees, per stage, in turns. stem_taps: frames of the stem.
    time_stride: of the stem and of the max-pool behind it. pool: extent and stride of the temporal max-pool after
    layer 1. nonlocals: blocks (stage from 1, number from 0) that a non-local one follows.
    """

    layers: tuple[int, int, int, int]
    taps: Taps
    stem_taps: int
    time_stride: tuple[int, int] = (1, 1)
    pool: int = 1
    nonlocals: frozenset[tuple[int, int]] = field(default_factory=frozenset)

    @property
    def multiple(self) -> int:
        """What the strides consume, so that no frame is left out."""
        return self.time_stride[0] * self.time_stride[1] * self.pool

    @property
    def least(self) -> int:
        """One position after the last stride."""
        return self.multiple

    def build(self, classes: int, dropout: float) -> "PathwayNetwork":
        """The network with fresh weights."""
        return PathwayNetwork(self, classes, dropout=dropout)


class PathwayNetwork(VideoNetwork):
    """One pathway and one head."""

    def __init__(self, spec: PathwaySpec, classes: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.spec = spec
        self.multiple, self.least = spec.multiple, spec.least
        self.path = Pathway(64, spec.layers, spec.taps, spec.stem_taps, time_stride=spec.time_stride)
        self.nonlocals = nn.ModuleDict(
            {f"layer{stage}_{block}": NonLocal(128 * 2**stage) for stage, block in sorted(spec.nonlocals)}
        )
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, classes)
        initialise(self)

    def forward(self, clips_NCTHW: torch.Tensor) -> tuple[torch.Tensor]:
        """Logits [N, classes]."""
        self.check_clips(clips_NCTHW)
        x = self.path.stem(clips_NCTHW)
        for number, stage in enumerate(self.path.stages(), 1):
            for index, block in enumerate(stage):
                x = block(x)
                if (number, index) in self.spec.nonlocals:
                    x = self.nonlocals[f"layer{number}_{index}"](x)
            if number == 1 and self.spec.pool > 1:
                x = pool_time(x, self.spec.pool, stride=self.spec.pool)
        return (self.fc(self.dropout(x.mean((2, 3, 4)))),)

    def classifiers(self) -> tuple[nn.Linear]:
        """The last layer."""
        return (self.fc,)


class Pathway(nn.Module):
    """Stem and stages of one pathway. lateral: channels that join at the input of each stage."""

    def __init__(
        self,
        width: int,
        layers: Sequence[int],
        taps: Taps,
        stem_taps: int,
        *,
        time_stride: tuple[int, int] = (1, 1),
        lateral: Sequence[int] = (0, 0, 0, 0),
    ) -> None:
        super().__init__()
        self.conv: nn.Module
        if stem_taps == 1:
            self.conv = SpatialConv(3, width, 7, stride=2)
        else:
            self.conv = FullConv(3, width, stem_taps, 7, stride=2, time_stride=time_stride[0])
        self.pool_stride = time_stride[1]
        self.bn = BatchNorm(width)
        stages, inputs = [], width
        for number, (count, frames, extra) in enumerate(zip(layers, taps, lateral, strict=True)):
            inner, blocks = width * 2**number, []
            for block in range(count):
                blocks.append(
                    TemporalBottleneck(
                        inputs + (0 if block else extra),
                        inner,
                        taps=frames[block % len(frames)],
                        stride=2 if number and not block else 1,
                    )
                )
                inputs = inner * TemporalBottleneck.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def stem(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, 3, T, H, W] to [N, width, T / both time strides, H / 4, W / 4]."""
        x = F.relu(self.bn(self.conv(clips_NCTHW)))
        return pool_space(x[:, :, :: self.pool_stride])  # the pool's extent in time is 1

    def stages(self) -> tuple[nn.Sequential, ...]:
        """Layers 1 to 4."""
        return self.layer1, self.layer2, self.layer3, self.layer4


class TemporalBottleneck(nn.Module):
    """taps x 1 x 1, 1 x 3 x 3, 1 x 1 x 1 to four times the inner channels."""

    expansion = 4

    def __init__(self, inputs: int, inner: int, *, taps: int, stride: int) -> None:
        super().__init__()
        outputs = inner * self.expansion
        self.conv1: nn.Module = SpatialConv(inputs, inner, 1) if taps == 1 else TemporalConv(inputs, inner, taps=taps)
        self.bn1 = BatchNorm(inner)
        self.conv2 = SpatialConv(inner, inner, 3, stride=stride)
        self.bn2 = BatchNorm(inner)
        self.conv3 = SpatialConv(inner, outputs, 1)
        self.bn3 = BatchNorm(outputs)
        self.downsample = downsample(inputs, outputs, stride)

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to [N, 4 * inner, T, H / stride, W / stride]."""
        y = F.relu(self.bn1(self.conv1(x_NCTHW)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x_NCTHW))


class NonLocal(nn.Module):
    """x + bn(out(softmax(a(x) b(x)^T / sqrt(d)) c(x))): every position attends to all others, in time and space.

    b and c see x after a 2 x 2 max-pool in space; d is half the channels. bn begins with zero weight, so that the block
    begins as the identity. The products run in torch's scaled_dot_product_attention, as one head: without an axis for
    heads it would hold the matrix of all pairs of positions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.a = nn.Linear(channels, inner)
        self.b = nn.Linear(channels, inner)
        self.c = nn.Linear(channels, inner)
        self.out = SpatialConv(inner, channels, 1)
        self.bn = BatchNorm(channels)
        nn.init.zeros_(self.bn.weight)

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to the same."""
        n, _, t, h, w = x_NCTHW.shape
        query = x_NCTHW.permute(0, 2, 3, 4, 1).flatten(1, 3)  # [N, T * H * W, C], a view
        keys = pool_space(x_NCTHW, 2, pad=0).permute(0, 2, 3, 4, 1).flatten(1, 3)
        one_head = (self.a(query)[:, None], self.b(keys)[:, None], self.c(keys)[:, None])
        y = F.scaled_dot_product_attention(*one_head)[:, 0]
        y_FCHW = y.unflatten(1, (t, h, w)).flatten(0, 1).permute(0, 3, 1, 2)
        return x_NCTHW + self.bn(self.out(as_clips(y_FCHW, n)))
