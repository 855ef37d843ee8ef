"""The table of networks, and how a member is built."""

from collections.abc import Mapping

import torch

from fastplan.errors import UserError, nearest
from fastplan.models.blocks import Basic, Bottleneck
from fastplan.models.c3d import C3DSpec
from fastplan.models.dg_p3d import DGP3DSpec
from fastplan.models.interface import NetworkSpec, VideoNetwork
from fastplan.models.pathway import I3D_TAPS, SLOW_TAPS, PathwaySpec
from fastplan.models.r2plus1d import R2Plus1DSpec
from fastplan.models.resnets import ResNetSpec
from fastplan.models.s3d import S3DSpec
from fastplan.models.slowfast import SlowFastSpec

_R50, _R101 = (3, 4, 6, 3), (3, 4, 23, 3)
_NONLOCALS = frozenset({(2, 1), (2, 3), (3, 1), (3, 3), (3, 5)})

NETWORKS: Mapping[str, NetworkSpec] = {
    "dg_p3d_tiny": DGP3DSpec(
        Basic, (1, 1, 1, 1), (16, 24, 32, 48), stem_width=16, stem_kernel=5, context_reduction=8, motion_stem=0.75
    ),
    "dg_p3d_18": DGP3DSpec(Basic, (2, 2, 2, 2)),
    "dg_p3d_34": DGP3DSpec(Basic, (3, 4, 6, 3)),
    "dg_p3d_50": DGP3DSpec(Bottleneck, _R50),
    "dg_p3d_101": DGP3DSpec(Bottleneck, _R101),
    "dg_p3d_103": DGP3DSpec(Bottleneck, _R101, stem_kernel=3, deep_stem=True, bn_eps=2e-5),
    "dg_p3d_152": DGP3DSpec(Bottleneck, (3, 8, 36, 3)),
    "dg_p3d_resnext50_32x4d": DGP3DSpec(Bottleneck, _R50, groups=32, width_per_group=4),
    "dg_p3d_resnext101_32x8d": DGP3DSpec(Bottleneck, _R101, groups=32, width_per_group=8),
    "dg_p3d_wide50_2": DGP3DSpec(Bottleneck, _R50, width_per_group=128),
    "dg_p3d_wide101_2": DGP3DSpec(Bottleneck, _R101, width_per_group=128),
    "p3d_50": ResNetSpec("pseudo"),
    "r2p1d_50": ResNetSpec("factored"),
    "i3d_50": ResNetSpec("full"),
    "lgd_p3d_50": ResNetSpec("pseudo", diffusion=True),
    "r2plus1d_18": R2Plus1DSpec((2, 2, 2, 2)),
    "c3d": C3DSpec(),
    "s3d": S3DSpec(gating=False),
    "s3dg": S3DSpec(gating=True),
    "i3d_r50_8x8": PathwaySpec(_R50, I3D_TAPS, 5, pool=2),
    "i3d_r50_32x2": PathwaySpec(_R50, I3D_TAPS, 5, (2, 2), pool=2),
    "i3d_nln_r50_8x8": PathwaySpec(_R50, I3D_TAPS, 5, pool=2, nonlocals=_NONLOCALS),
    "i3d_nln_r50_32x2": PathwaySpec(_R50, I3D_TAPS, 5, (2, 2), pool=2, nonlocals=_NONLOCALS),
    "slow_r50": PathwaySpec(_R50, SLOW_TAPS, 1),
    "slowfast_r50_4x16": SlowFastSpec(_R50, alpha=8, lateral_taps=5),
    "slowfast_r50_8x8": SlowFastSpec(_R50, alpha=4, lateral_taps=7),
    "slowfast_r101_8x8": SlowFastSpec(_R101, alpha=4, lateral_taps=5),
}


def build_network(name: str, classes: int, *, dropout: float = 0.5) -> VideoNetwork:
    """A member of the table with fresh weights from torch's generator. Raises `UserError` for an unknown name."""
    network = network_spec(name).build(classes, dropout)
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def network_spec(name: str) -> NetworkSpec:
    """The table's entry. Raises `UserError` for an unknown name."""
    if name not in NETWORKS:
        raise UserError(f"there is no network '{name}'{nearest(name, NETWORKS)}")
    return NETWORKS[name]
