"""DG-P3D as one parametrised family (METHOD section 3).

Layers 1 to 3 are shared. Head 1 is a layer 4 that halves space and keeps time; head 2 a layer 4 of its own behind a
temporal max-pool of 4, which keeps space. Each ends in average pooling, dropout and a classifier: the loss is the sum
of the two cross-entropies, the prediction the mean of the two softmaxes.
"""

from dataclasses import dataclass
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import nn

from fastplan.models.blocks import Basic, Bottleneck, GlobalContext
from fastplan.models.interface import VideoNetwork
from fastplan.models.layers import BatchNorm, SpatialConv, StemConv, as_clips, as_frames
from fastplan.ops import Fusable

DUAL_POOL = 4


@dataclass(frozen=True)
class DGP3DSpec:
    """One member of the family.

    block: `Basic` or `Bottleneck`. layers: blocks in layers 1 to 4. planes: their channels, before the bottleneck's
    expansion. groups, width_per_group: of the convolutions inside a bottleneck (ResNeXt, wide ResNet). stem_width,
    stem_kernel: of the first convolution, whose temporal extent and stride are `early_stride` frames. deep_stem: two
    1 x 3 x 3 convolutions follow it, the second of twice its width. context_reduction: of the global context's
    bottleneck. motion_stem: share of the stem's filters that begin with zero mean over time, so that they answer to
    change. bn_eps: of every BatchNorm.
    """

    block: type[Basic] | type[Bottleneck]
    layers: tuple[int, int, int, int]
    planes: tuple[int, int, int, int] = (64, 128, 256, 512)
    groups: int = 1
    width_per_group: int = 64
    stem_width: int = 64
    stem_kernel: int = 7
    deep_stem: bool = False
    early_stride: int = 4
    context_reduction: int = 16
    motion_stem: float = 0.0
    bn_eps: float = 1e-5

    @property
    def multiple(self) -> int:
        """The stem consumes this many frames at a time."""
        return self.early_stride

    @property
    def least(self) -> int:
        """One position of the stem; the pooling before head 2 then takes what there is."""
        return self.early_stride

    def build(self, classes: int, dropout: float) -> "DGP3D":
        """The network with fresh weights."""
        return DGP3D(self, classes, dropout=dropout)


class DGP3D(VideoNetwork, Fusable):
    """Dual-head pseudo-3D residual network with global context.

    Clips [N, 3, T, H, W] give two logits [N, classes], one per head. T is a multiple of `spec.early_stride`.
    """

    def __init__(self, spec: DGP3DSpec, classes: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.spec = spec
        self.multiple, self.least = spec.multiple, spec.least
        self.stem = StemConv(3, spec.stem_width, spec.early_stride, spec.stem_kernel, stride=2)
        self.deep = _deep_stem(spec.stem_width) if spec.deep_stem else nn.Identity()
        inputs = spec.stem_width * (2 if spec.deep_stem else 1)
        self.bn = BatchNorm(inputs)
        stages = []
        for number, planes in enumerate(spec.planes):
            stages.append(self._stage(inputs, number, stride=1 if number == 0 else 2))
            if number < 3:
                inputs = planes * spec.block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.layer4_dual = self._stage(inputs, 3, stride=1)
        features = spec.planes[3] * spec.block.expansion
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(features, classes)
        self.fc_dual = nn.Linear(features, classes)
        self._initialise()

    def forward(self, clips_NCTHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the two heads, each [N, classes]."""
        self.check_clips(clips_NCTHW)
        x = self._bn_relu_pool(self.deep(self.stem(clips_NCTHW)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self._head(self.layer4(x), self.fc), self._head(self.layer4_dual(self._pool_time(x)), self.fc_dual)

    def classifiers(self) -> tuple[nn.Linear, nn.Linear]:
        """The two last layers."""
        return self.fc, self.fc_dual

    def _bn_relu_pool(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """The stem's BatchNorm, ReLU and spatial max-pool."""
        if self.operators is not None:
            return self.operators.bn_relu_pool(x_NCTHW, self.bn)
        x_FCHW = as_frames(F.relu(self.bn(x_NCTHW)))
        return as_clips(F.max_pool2d(x_FCHW, 3, 2, 1), len(x_NCTHW))

    def _pool_time(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        """Temporal max-pool of 4, or of all there is where a short clip leaves fewer positions."""
        n, c, t, h, w = x_NCTHW.shape
        if self.operators is not None and t >= DUAL_POOL:
            return self.operators.pool_time(x_NCTHW)
        taps = min(DUAL_POOL, t)
        return F.max_pool2d(x_NCTHW.reshape(n, c, t, h * w), (taps, 1)).unflatten(3, (h, w))

    def _head(self, x_NCTHW: torch.Tensor, fc: nn.Linear) -> torch.Tensor:
        return fc(self.dropout(x_NCTHW.mean((2, 3, 4))))

    def _stage(self, inputs: int, number: int, *, stride: int) -> nn.Sequential:
        spec = self.spec
        kinds = cycle("ABC")
        for _ in range(sum(spec.layers[:number])):
            next(kinds)  # A, B, C go round over the whole network, not stage by stage
        planes = spec.planes[number]
        blocks = []
        for block in range(spec.layers[number]):
            blocks.append(
                spec.block(
                    inputs,
                    planes,
                    next(kinds),  # type: ignore[arg-type]
                    stride=stride if block == 0 else 1,
                    reduction=spec.context_reduction,
                    width=planes * spec.width_per_group // 64 * spec.groups,
                    groups=spec.groups,
                )
            )
            inputs = planes * spec.block.expansion
        return nn.Sequential(*blocks)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BatchNorm):
                module.eps = self.spec.bn_eps
            elif isinstance(module, GlobalContext):
                nn.init.zeros_(module.fc2.weight)
                nn.init.zeros_(module.fc2.bias)
        moving = int(self.spec.motion_stem * self.spec.stem_width)
        with torch.no_grad():
            self.stem.weight[:moving] -= self.stem.weight[:moving].mean(2, keepdim=True)


def _deep_stem(width: int) -> nn.Module:
    """What stands between the first convolution of a deep stem and the stem's last BatchNorm."""
    return nn.Sequential(
        BatchNorm(width),
        nn.ReLU(),
        SpatialConv(width, width, 3),
        BatchNorm(width),
        nn.ReLU(),
        SpatialConv(width, 2 * width, 3),
    )
