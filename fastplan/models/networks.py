"""The table of networks, and how a member is built."""

from collections.abc import Mapping

import torch

from fastplan.errors import UserError, nearest
from fastplan.models.blocks import Basic, Bottleneck
from fastplan.models.dg_p3d import DGP3DSpec
from fastplan.models.interface import NetworkSpec, VideoNetwork

NETWORKS: Mapping[str, NetworkSpec] = {
    "dg_p3d_tiny": DGP3DSpec(
        Basic, (1, 1, 1, 1), (16, 24, 32, 48), stem_width=16, stem_kernel=5, context_reduction=8, motion_stem=0.75
    ),
    "dg_p3d_18": DGP3DSpec(Basic, (2, 2, 2, 2)),
    "dg_p3d_34": DGP3DSpec(Basic, (3, 4, 6, 3)),
    "dg_p3d_50": DGP3DSpec(Bottleneck, (3, 4, 6, 3)),
    "dg_p3d_101": DGP3DSpec(Bottleneck, (3, 4, 23, 3)),
    "dg_p3d_103": DGP3DSpec(Bottleneck, (3, 4, 23, 3), stem_kernel=3, deep_stem=True, bn_eps=2e-5),
    "dg_p3d_152": DGP3DSpec(Bottleneck, (3, 8, 36, 3)),
    "dg_p3d_resnext50_32x4d": DGP3DSpec(Bottleneck, (3, 4, 6, 3), groups=32, width_per_group=4),
    "dg_p3d_resnext101_32x8d": DGP3DSpec(Bottleneck, (3, 4, 23, 3), groups=32, width_per_group=8),
    "dg_p3d_wide50_2": DGP3DSpec(Bottleneck, (3, 4, 6, 3), width_per_group=128),
    "dg_p3d_wide101_2": DGP3DSpec(Bottleneck, (3, 4, 23, 3), width_per_group=128),
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
