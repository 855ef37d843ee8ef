"""SlowFast (Feichtenhofer et al., ICCV 2019): a slow pathway that sees few frames, a fast and narrow one that sees all.

The clip is the fast pathway's; the slow one takes every `alpha`-th frame of it, so a clip of 32 frames is the published
"4x16" with alpha 8 and "8x8" with alpha 4 where the loader's stride is 2. After the stem and layers 1 to 3 the fast
pathway joins the slow one through a temporal convolution of stride alpha.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from fastplan.models.interface import VideoNetwork
from fastplan.models.layers import BatchNorm, TemporalConv, initialise
from fastplan.models.pathway import FAST_TAPS, SLOW_TAPS, Pathway


@dataclass(frozen=True)
class SlowFastSpec:
    """alpha: frames of the fast pathway per frame of the slow one. beta: how much narrower the fast pathway is.
    lateral_taps: frames of the convolutions that join it to the slow one, which double its channels."""

    layers: tuple[int, int, int, int]
    alpha: int
    lateral_taps: int
    beta: int = 8

    @property
    def multiple(self) -> int:
        """Whole steps of the slow pathway."""
        return self.alpha

    @property
    def least(self) -> int:
        """One frame of the slow pathway."""
        return self.alpha

    def build(self, classes: int, dropout: float) -> "SlowFast":
        """The network with fresh weights."""
        return SlowFast(self, classes, dropout=dropout)


class SlowFast(VideoNetwork):
    """Two pathways, one head on the features of both."""

    def __init__(self, spec: SlowFastSpec, classes: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.spec = spec
        self.multiple, self.least = spec.multiple, spec.least
        width = 64 // spec.beta
        fast = [width, *(4 * width * 2**stage for stage in range(3))]  # channels where it joins
        self.slow = Pathway(64, spec.layers, SLOW_TAPS, 1, lateral=[2 * channels for channels in fast])
        self.fast = Pathway(width, spec.layers, FAST_TAPS, 5)
        self.laterals = nn.ModuleList(Lateral(channels, spec.lateral_taps, spec.alpha) for channels in fast)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048 + 32 * width, classes)
        initialise(self)

    def forward(self, clips_NCTHW: torch.Tensor) -> tuple[torch.Tensor]:
        """Logits [N, classes]."""
        self.check_clips(clips_NCTHW)
        slow = self.slow.stem(clips_NCTHW[:, :, :: self.spec.alpha])
        fast = self.fast.stem(clips_NCTHW)
        for lateral, slow_stage, fast_stage in zip(self.laterals, self.slow.stages(), self.fast.stages(), strict=True):
            slow = slow_stage(torch.cat([slow, lateral(fast)], 1))
            fast = fast_stage(fast)
        features_NC = torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], 1)
        return (self.fc(self.dropout(features_NC)),)

    def classifiers(self) -> tuple[nn.Linear]:
        """The last layer."""
        return (self.fc,)


class Lateral(nn.Module):
    """relu(bn(conv)) from the fast pathway's frames to the slow one's, doubling the channels."""

    def __init__(self, channels: int, taps: int, alpha: int) -> None:
        super().__init__()
        self.conv = TemporalConv(channels, 2 * channels, taps=taps, time_stride=alpha)
        self.bn = BatchNorm(2 * channels)

    def forward(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """[N, C, T, H, W] to [N, 2 * C, T / alpha, H, W]."""
        return F.relu(self.bn(self.conv(x_NCTHW)))
