"""C3D (Tran et al., ICCV 2015): eight whole 3 x 3 x 3 convolutions, five max-pools, three linear layers; no BatchNorm.

The published network takes clips of 16 frames of 112 x 112 pixels and no others. Here the features after the last pool
are averaged over time and to 4 x 4 positions, which changes nothing at the published size: longer clips and other sizes
work too, so that the planner can train it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from fastplan.models.interface import VideoNetwork
from fastplan.models.layers import FullConv, initialise, pool_space, pool_time

_WIDTHS = ((64,), (128,), (256, 256), (512, 512), (512, 512))
_SIDE = 4


@dataclass(frozen=True)
class C3DSpec:
    """hidden: channels of the two linear layers before the classifier."""

    hidden: int = 4096
    multiple: int = 1
    least: int = 16

    def build(self, classes: int, dropout: float) -> "C3D":
        """The network with fresh weights."""
        return C3D(self, classes, dropout=dropout)


class C3D(VideoNetwork):
    """One head. Dropout stands before each of the last two linear layers."""

    def __init__(self, spec: C3DSpec, classes: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.spec = spec
        self.multiple, self.least = spec.multiple, spec.least
        inputs, groups = 3, []
        for widths in _WIDTHS:
            group = []
            for width in widths:
                group.append(FullConv(inputs, width, 3, 3, bias=True))
                inputs = width
            groups.append(nn.ModuleList(group))
        self.groups = nn.ModuleList(groups)
        self.fc6 = nn.Linear(inputs * _SIDE * _SIDE, spec.hidden)
        self.fc7 = nn.Linear(spec.hidden, spec.hidden)
        self.fc = nn.Linear(spec.hidden, classes)
        self.dropout = nn.Dropout(dropout)
        initialise(self)

    def forward(self, clips_NCTHW: torch.Tensor) -> tuple[torch.Tensor]:
        """Logits [N, classes]."""
        self.check_clips(clips_NCTHW)
        x = clips_NCTHW
        for number, group in enumerate(self.groups):
            for conv in group:  # type: ignore[attr-defined]
                x = F.relu(conv(x))
            x = pool_space(x, 2, pad=1 if number == 4 else 0)
            x = x if number == 0 else pool_time(x, 2, stride=2)
        features_NC = F.adaptive_avg_pool2d(x.mean(2), _SIDE).flatten(1)
        features_NC = self.dropout(F.relu(self.fc6(features_NC)))
        features_NC = self.dropout(F.relu(self.fc7(features_NC)))
        return (self.fc(features_NC),)

    def classifiers(self) -> tuple[nn.Linear]:
        """The last layer."""
        return (self.fc,)
