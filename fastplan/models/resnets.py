"""P3D, R(2+1)D, I3D and LGD-P3D as residual networks with DG-P3D's stem: what its authors planned for comparison.

Their bottlenecks differ in the 3 x 3 x 3 convolution only: P3D joins a spatial and a temporal one in the ways A, B, C
in turn (Qiu et al., ICCV 2017), R(2+1)D puts the temporal one behind 9/4 as many spatial filters (Tran et al., CVPR
2018), I3D keeps it whole (Carreira and Zisserman, CVPR 2017). LGD-P3D (Qiu et al., CVPR 2019) adds to P3D a global
path: a vector per block that the local path feeds and reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from fastplan.models.blocks import Kind, PseudoConv, downsample
from fastplan.models.interface import VideoNetwork
from fastplan.models.layers import BatchNorm, FullConv, SpatialConv, StemConv, TemporalConv, initialise, pool_space

Middle = Literal["pseudo", "factored", "full"]


@dataclass(frozen=True)
class ResNetSpec:
    """middle: P3D (`pseudo`), R(2+1)D (`factored`) or I3D (`full`). diffusion: the global path of LGD. layers: blocks
    in layers 1 to 4. early_stride: temporal extent and stride of the stem, in frames."""

    middle: Middle
    diffusion: bool = False
    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    early_stride: int = 4

    @property
    def multiple(self) -> int:
        """The stem consumes this many frames at a time."""
        return self.early_stride

    @property
    def least(self) -> int:
        """One position of the stem."""
        return self.early_stride

    def build(self, classes: int, dropout: float) -> "ResNet":
        """The network with fresh weights."""
        return ResNet(self, classes, dropout=dropout)


class ResNet(VideoNetwork):
    """One head; with `diffusion` a second one on the global path, in training only, as its authors have it."""

    def __init__(self, spec: ResNetSpec, classes: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.spec = spec
        self.multiple, self.least = spec.multiple, spec.least
        self.stem = StemConv(3, 64, spec.early_stride, 7, stride=2)
        self.bn = BatchNorm(64)
        kinds: Iterator[Kind] = cycle(("A", "B", "C"))
        stages, inputs = [], 64
        for number, count in enumerate(spec.layers):
            blocks = []
            for block in range(count):
                planes, stride = 64 * 2**number, 2 if number and not block else 1
                middle = _middle(spec.middle, planes, next(kinds), stride)
                blocks.append(Bottleneck(inputs, planes, middle, stride=stride))
                inputs = planes * Bottleneck.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(inputs, classes)
        initialise(self)
        if spec.diffusion:
            self.diffusion = nn.ModuleList(
                Diffusion(block.conv1.in_channels, block.conv3.out_channels)  # type: ignore[arg-type, union-attr]
                for stage in stages
                for block in stage
            )
            self.fc_global = nn.Linear(inputs, classes)

    def forward(self, clips_NCTHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits [N, classes] of the local head and, where there is one and in training, of the global head."""
        self.check_clips(clips_NCTHW)
        x = pool_space(F.relu(self.bn(self.stem(clips_NCTHW))))
        blocks = [block for stage in (self.layer1, self.layer2, self.layer3, self.layer4) for block in stage]
        if not self.spec.diffusion:
            for block in blocks:
                x = block(x)
            return (self.fc(self.dropout(x.mean((2, 3, 4)))),)
        path_NC = x.mean((2, 3, 4))
        for block, diffusion in zip(blocks, self.diffusion, strict=True):
            path_NC, context = diffusion(x, path_NC)
            x = block(x, context)
        local = self.fc(self.dropout(x.mean((2, 3, 4))))
        return (local, self.fc_global(self.dropout(path_NC))) if self.training else (local,)

    def classifiers(self) -> tuple[nn.Linear, ...]:
        """The last layer of each head."""
        return (self.fc, self.fc_global) if self.spec.diffusion else (self.fc,)


class Bottleneck(nn.Module):
    """1x1x1, `middle` with its BatchNorm and ReLU, 1x1x1 to four times `planes`."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, middle: nn.Module, *, stride: int) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = SpatialConv(inputs, planes, 1)
        self.bn1 = BatchNorm(planes)
        self.conv2 = middle
        self.conv3 = SpatialConv(planes, outputs, 1)
        self.bn3 = BatchNorm(outputs)
        self.downsample = downsample(inputs, outputs, stride)

    def forward(self, x_NCTHW: torch.Tensor, context: torch.Tensor | float = 0.0) -> torch.Tensor:
        """[N, C, T, H, W] to [N, 4 * planes, T, H / stride, W / stride]; `context` joins the residual sum."""
        y = F.relu(self.bn1(self.conv1(x_NCTHW)))
        y = self.bn3(self.conv3(self.conv2(y)))
        return F.relu(y + self.downsample(x_NCTHW) + context)


class Diffusion(nn.Module):
    """One step of the global path: relu(a(mean of x) + b(path)), and c of that for the local path, zero at first.

    a, b and c are each two linear layers over a sixteenth of the channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        inner = outputs // 16
        self.from_local = nn.Sequential(nn.Linear(inputs, inner), nn.Linear(inner, outputs))
        self.from_global = nn.Sequential(nn.Linear(inputs, inner), nn.Linear(inner, outputs))
        last = nn.Linear(inner, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.to_local = nn.Sequential(nn.Linear(outputs, inner), last)

    def forward(self, x_NCTHW: torch.Tensor, path_NC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The path [N, C'] and what is added to every position, [N, C', 1, 1, 1]."""
        path_NC = F.relu(self.from_local(x_NCTHW.mean((2, 3, 4))) + self.from_global(path_NC))
        return path_NC, self.to_local(path_NC)[:, :, None, None, None]


class FactoredConv(nn.Module):
    """relu(bn(t(s(x)))) with 9/4 as many channels between s and t."""

    def __init__(self, width: int, *, stride: int) -> None:
        super().__init__()
        self.s = SpatialConv(width, width * 9 // 4, 3, stride=stride)
        self.t = TemporalConv(width * 9 // 4, width)
        self.bn = BatchNorm(width)

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to [N, C, T, H / stride, W / stride]."""
        return F.relu(self.bn(self.t(self.s(x_NCTHW))))


class WholeConv(nn.Module):
    """relu(bn(conv(x))) with a 3 x 3 x 3 convolution."""

    def __init__(self, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv = FullConv(width, width, 3, 3, stride=stride)
        self.bn = BatchNorm(width)

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to [N, C, T, H / stride, W / stride]."""
        return F.relu(self.bn(self.conv(x_NCTHW)))


def _middle(middle: Middle, width: int, kind: Kind, stride: int) -> nn.Module:
    if middle == "pseudo":
        return PseudoConv(width, width, kind, stride=stride)
    return FactoredConv(width, stride=stride) if middle == "factored" else WholeConv(width, stride=stride)
