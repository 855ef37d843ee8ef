"""One network in three forms with the same weights: plain Conv3d, conv2d on views, and views with the kernels.

The weights are random but not special: the global context is not zero, the running statistics are those of a batch.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastplan.benchmarks import timing
from fastplan.benchmarks.plain import PlainDGP3D
from fastplan.models.blocks import Bottleneck, GlobalContext
from fastplan.models.dg_p3d import DGP3D, DGP3DSpec
from fastplan.models.networks import NETWORKS
from fastplan.ops import Mode, set_kernels

Form = Literal["plain", "views", "ours"]

CLASSES = 400
POCKET = DGP3DSpec(Bottleneck, (1, 1, 1, 1), (16, 16, 16, 16), stem_width=16, stem_kernel=3, context_reduction=8)
# One block a layer at full width. Fifty layers are too many for a comparison in fp32: where another order of summation
# moves a value across a ReLU's kink the gradient jumps, so that views and Conv3d differ by 4 % there, here by 0.6 %
# (2 clips of 16 x 112 x 112, CPU, 2026-11-24).
SHALLOW = DGP3DSpec(Bottleneck, (1, 1, 1, 1))


class Shape(NamedTuple):
    """A batch of clips, and the network for it: `POCKET` if ``tiny``, else DG-P3D-50 or, if ``shallow``, `SHALLOW`."""

    samples: int
    frames: int
    pixels: int
    tiny: bool
    shallow: bool = False

    @property
    def name(self) -> str:
        """Batch x frames."""
        return f"{self.samples}x{self.frames}"


def shapes(tiny: bool) -> list[Shape]:
    """The three regimes: usual, long clips, and few frames, where launches cost more than the work."""
    if tiny:
        return [Shape(1, 16, 20, True)]
    return [Shape(16, 16, 224, False), Shape(8, 64, 224, False), Shape(4, 16, 224, False)]


def equality_shape(tiny: bool) -> Shape:
    """Few small clips: enough to see a mistake in fp32, where nothing is lost in rounding."""
    return Shape(1, 16, 20, True) if tiny else Shape(2, 16, 112, False, shallow=True)


def build(form: Form, shape: Shape, kernels: Mode = "auto") -> nn.Module:
    """The network on the device, in training mode, without dropout, so that all forms compute the same.

    ``kernels``: of the form `ours`. From here on fp32 is fp32 on the matrix units too, never TF32.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    network = _fresh(PlainDGP3D if form == "plain" else DGP3D, shape)
    network.load_state_dict(_weights(shape._replace(samples=2)))
    set_kernels(network, kernels if form == "ours" else "off")
    return network


def batch(shape: Shape) -> tuple[Tensor, Tensor]:
    """Clips as the loader gives them, fp32 in channels_last_3d storage, and labels; the same at every call."""
    generator = torch.Generator(timing.device()).manual_seed(1)
    size = (shape.samples, shape.frames, shape.pixels, shape.pixels, 3)
    clips_NTHWC = torch.randn(size, device=timing.device(), generator=generator)
    labels_N = torch.arange(shape.samples, device=timing.device()) % CLASSES
    return clips_NTHWC.permute(0, 4, 1, 2, 3), labels_N


def autocast(dtype: torch.dtype) -> torch.autocast:
    """bf16 arithmetic as in training; off for fp32."""
    return torch.autocast(timing.device().type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def loss_function(network: nn.Module, dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
    """Sum of both heads' cross-entropies, of clips and labels."""

    def loss(clips_NCTHW: Tensor, labels_N: Tensor) -> Tensor:
        with autocast(dtype):
            first, second = network(clips_NCTHW)
        return F.cross_entropy(first.float(), labels_N) + F.cross_entropy(second.float(), labels_N)

    return loss


def logits_function(network: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Logits [2, N, classes] of clips, without gradients."""

    def logits(clips_NCTHW: Tensor) -> Tensor:
        with torch.no_grad(), autocast(dtype):
            return torch.stack(network(clips_NCTHW)).float()

    return logits


def _fresh(kind: type[DGP3D], shape: Shape) -> nn.Module:
    spec = POCKET if shape.tiny else SHALLOW if shape.shallow else NETWORKS["dg_p3d_50"]
    with torch.device(timing.device()):
        network = kind(spec, CLASSES, dropout=0.0)
    return network.to(memory_format=torch.channels_last_3d)


@lru_cache(maxsize=1)
def _weights(shape: Shape) -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = _fresh(DGP3D, shape)
    for module in network.modules():
        if isinstance(module, GlobalContext):
            nn.init.normal_(module.fc2.weight, std=0.1)
        elif isinstance(module, nn.BatchNorm3d):
            module.momentum = 1.0
    clips_NCTHW, _ = batch(shape)
    with torch.no_grad():
        network(clips_NCTHW)
    return {name: value.cpu() for name, value in network.state_dict().items()}
