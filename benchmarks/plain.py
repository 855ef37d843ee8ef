"""DG-P3D as one would write it first: convolutions are Conv3d, BatchNorm is BatchNorm3d, pools are max_pool3d.

The weights are the network's own, by the same names, and the outputs are equal: what is measured beside ours is the
same computation.
"""

import torch
import torch.nn.functional as F
from torch import nn

from fastplan.models.dg_p3d import DGP3D, DUAL_POOL, DGP3DSpec


class PlainDGP3D(DGP3D):
    """`DGP3D` on torch.nn's three-dimensional layers."""

    def __init__(self, spec: DGP3DSpec, classes: int, *, dropout: float = 0.5) -> None:
        super().__init__(spec, classes, dropout=dropout)
        make_plain(self)

    def _bn_relu_pool(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        return F.max_pool3d(F.relu(self.bn(x_NCTHW)), (1, 3, 3), (1, 2, 2), (0, 1, 1))

    def _pool_time(self, x_NCTHW: torch.Tensor) -> torch.Tensor:
        return F.max_pool3d(x_NCTHW, (min(DUAL_POOL, x_NCTHW.shape[2]), 1, 1))


def make_plain(module: nn.Module) -> None:
    """Replace every Conv3d and BatchNorm3d of a derived class by torch.nn's own with the same parameters, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv3d):
            setattr(module, name, _conv(child))
        elif isinstance(child, nn.BatchNorm3d):
            setattr(module, name, _norm(child))
        else:
            make_plain(child)


def _conv(ours: nn.Conv3d) -> nn.Conv3d:
    sizes = {"stride": ours.stride, "padding": ours.padding, "dilation": ours.dilation, "groups": ours.groups}
    plain = nn.Conv3d(
        ours.in_channels, ours.out_channels, ours.kernel_size, **sizes, bias=ours.bias is not None, device="meta"
    )
    plain.weight, plain.bias = ours.weight, ours.bias
    return plain


def _norm(ours: nn.BatchNorm3d) -> nn.BatchNorm3d:
    plain = nn.BatchNorm3d(ours.num_features, eps=ours.eps, momentum=ours.momentum, device="meta")
    plain.weight, plain.bias = ours.weight, ours.bias
    for name, value in ours.named_buffers():
        setattr(plain, name, value)
    return plain
