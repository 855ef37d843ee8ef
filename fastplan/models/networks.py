"""DG-P3D as one parametrised family (METHOD section 3), and the table of its members.

Layers 1 to 3 are shared. Head 1 is a layer 4 that halves space and keeps time; head 2 a layer 4 of its own behind a
temporal max-pool of 4, which keeps space. Each ends in average pooling, dropout and a classifier: the loss is the sum
of the two cross-entropies, the prediction the mean of the two softmaxes.
"""

from dataclasses import dataclass
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import nn

from fastplan.errors import UserError, nearest
from fastplan.models.blocks import Basic, Bottleneck, GlobalContext
from fastplan.models.layers import BatchNorm, StemConv, as_clips, as_frames

DUAL_POOL = 4


@dataclass(frozen=True)
class NetworkSpec:
    """One member of the family.

    block: `basic` or `bottleneck`. layers: blocks in layers 1 to 4. widths: of their 3 x 3 convolutions. stem_width,
    stem_kernel: of the first convolution, whose temporal extent and stride are `early_stride` frames.
    context_reduction: of the global context's bottleneck. motion_stem: share of the stem's filters that begin with
    zero mean over time, so that they answer to change.
    """

    block: type[Basic] | type[Bottleneck]
    layers: tuple[int, int, int, int]
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    stem_width: int = 64
    stem_kernel: int = 7
    early_stride: int = 4
    context_reduction: int = 16
    motion_stem: float = 0.0


NETWORKS = {
    "dg_p3d_tiny": NetworkSpec(
        Basic, (1, 1, 1, 1), (16, 24, 32, 48), stem_width=16, stem_kernel=5, context_reduction=8, motion_stem=0.75
    ),
    "dg_p3d_18": NetworkSpec(Basic, (2, 2, 2, 2)),
    "dg_p3d_34": NetworkSpec(Basic, (3, 4, 6, 3)),
    "dg_p3d_50": NetworkSpec(Bottleneck, (3, 4, 6, 3)),
    "dg_p3d_101": NetworkSpec(Bottleneck, (3, 4, 23, 3)),
}


class DGP3D(nn.Module):
    """Dual-head pseudo-3D residual network with global context.

    Clips [N, 3, T, H, W] give two logits [N, classes], one per head. T is a multiple of `spec.early_stride`.
    """

    def __init__(self, spec: NetworkSpec, classes: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.spec = spec
        self.stem = StemConv(3, spec.stem_width, spec.early_stride, spec.stem_kernel, stride=2)
        self.bn = BatchNorm(spec.stem_width)
        inputs = spec.stem_width
        stages = []
        for number, width in enumerate(spec.widths):
            stages.append(self._stage(inputs, number, stride=1 if number == 0 else 2))
            if number < 3:
                inputs = width * spec.block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.layer4_dual = self._stage(inputs, 3, stride=1)
        features = spec.widths[3] * spec.block.expansion
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(features, classes)
        self.fc_dual = nn.Linear(features, classes)
        self._initialise()

    def forward(self, clips_NCTHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the two heads, each [N, classes]."""
        x = F.relu(self.bn(self.stem(clips_NCTHW)))
        x = as_clips(F.max_pool2d(as_frames(x), 3, 2, 1), len(x))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self._head(self.layer4(x), self.fc), self._head(self.layer4_dual(_pool_time(x)), self.fc_dual)

    def classifiers(self) -> tuple[nn.Linear, nn.Linear]:
        """The two last layers."""
        return self.fc, self.fc_dual

    def _head(self, x_NCTHW: torch.Tensor, fc: nn.Linear) -> torch.Tensor:
        return fc(self.dropout(x_NCTHW.mean((2, 3, 4))))

    def _stage(self, inputs: int, number: int, *, stride: int) -> nn.Sequential:
        spec = self.spec
        kinds = cycle("ABC")
        for _ in range(sum(spec.layers[:number])):
            next(kinds)  # A, B, C go round over the whole network, not stage by stage
        blocks = []
        for block in range(spec.layers[number]):
            width = spec.widths[number]
            blocks.append(
                spec.block(
                    inputs,
                    width,
                    next(kinds),  # type: ignore[arg-type]
                    stride=stride if block == 0 else 1,
                    reduction=spec.context_reduction,
                )
            )
            inputs = width * spec.block.expansion
        return nn.Sequential(*blocks)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, GlobalContext):
                nn.init.zeros_(module.fc2.weight)
                nn.init.zeros_(module.fc2.bias)
        moving = int(self.spec.motion_stem * self.spec.stem_width)
        with torch.no_grad():
            self.stem.weight[:moving] -= self.stem.weight[:moving].mean(2, keepdim=True)


def build_network(name: str, classes: int, *, dropout: float = 0.5) -> DGP3D:
    """A member of the family with fresh weights from torch's generator. Raises `UserError` for an unknown name."""
    network = DGP3D(network_spec(name), classes, dropout=dropout)
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def network_spec(name: str) -> NetworkSpec:
    """The table's entry. Raises `UserError` for an unknown name."""
    if name not in NETWORKS:
        raise UserError(f"there is no network '{name}'{nearest(name, NETWORKS)}")
    return NETWORKS[name]


def _pool_time(x_NCTHW: torch.Tensor) -> torch.Tensor:
    """Temporal max-pool of 4, or of all there is where a short clip leaves fewer positions."""
    n, c, t, h, w = x_NCTHW.shape
    taps = min(DUAL_POOL, t)
    return x_NCTHW[:, :, : t // taps * taps].reshape(n, c, t // taps, taps, h, w).amax(3)
