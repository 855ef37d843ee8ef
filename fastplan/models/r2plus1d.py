"""R(2+1)D as its authors published it (Tran et al., CVPR 2018): basic blocks, time strided with space.

Every 3 x 3 x 3 convolution is a spatial one, BatchNorm, ReLU and a temporal one, with as many channels between them as
give the first pair of a block the parameters of the whole convolution, as in torchvision's r2plus1d_18. The variant in
the plans of the DG-P3D authors is another one, `r2p1d_50` in resnets.py.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from fastplan.models.blocks import downsample
from fastplan.models.interface import VideoNetwork
from fastplan.models.layers import BatchNorm, SpatialConv, TemporalConv, initialise

_TIME_STRIDE = 8


@dataclass(frozen=True)
class R2Plus1DSpec:
    """layers: blocks in layers 1 to 4."""

    layers: tuple[int, int, int, int]
    multiple: int = 1
    least: int = _TIME_STRIDE

    def build(self, classes: int, dropout: float) -> "R2Plus1D":
        """The network with fresh weights."""
        return R2Plus1D(self, classes, dropout=dropout)


class R2Plus1D(VideoNetwork):
    """One head."""

    def __init__(self, spec: R2Plus1DSpec, classes: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.spec = spec
        self.multiple, self.least = spec.multiple, spec.least
        self.stem = FactoredConv(3, 64, 45, kernel=7, stride=2, time_stride=1)
        self.bn = BatchNorm(64)
        stages, inputs = [], 64
        for number, count in enumerate(spec.layers):
            blocks = []
            for block in range(count):
                width = 64 * 2**number
                stride = 2 if number and not block else 1
                blocks.append(Basic(inputs, width, stride=stride))
                inputs = width
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(inputs, classes)
        initialise(self)

    def forward(self, clips_NCTHW: torch.Tensor) -> tuple[torch.Tensor]:
        """Logits [N, classes]."""
        self.check_clips(clips_NCTHW)
        x = F.relu(self.bn(self.stem(clips_NCTHW)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return (self.fc(self.dropout(x.mean((2, 3, 4)))),)

    def classifiers(self) -> tuple[nn.Linear]:
        """The last layer."""
        return (self.fc,)


class FactoredConv(nn.Module):
    """t(relu(bn(s(x)))) with `middle` channels between s and t."""

    def __init__(
        self, inputs: int, outputs: int, middle: int, *, kernel: int = 3, stride: int, time_stride: int
    ) -> None:
        super().__init__()
        self.s = SpatialConv(inputs, middle, kernel, stride=stride)
        self.bn = BatchNorm(middle)
        self.t = TemporalConv(middle, outputs, time_stride=time_stride)

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to [N, C', T / time_stride, H / stride, W / stride]."""
        return self.t(F.relu(self.bn(self.s(x_NCTHW))))


class Basic(nn.Module):
    """Two factored convolutions and the identity, projected where channels or positions change."""

    def __init__(self, inputs: int, width: int, *, stride: int) -> None:
        super().__init__()
        middle = 27 * inputs * width // (9 * inputs + 3 * width)
        self.conv1 = FactoredConv(inputs, width, middle, stride=stride, time_stride=stride)
        self.bn1 = BatchNorm(width)
        self.conv2 = FactoredConv(width, width, middle, stride=1, time_stride=1)
        self.bn2 = BatchNorm(width)
        self.stride = stride
        self.downsample = downsample(inputs, width, stride)

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to [N, width, T / stride, H / stride, W / stride]."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x_NCTHW)))))
        return F.relu(y + self.downsample(x_NCTHW[:, :, :: self.stride]))
