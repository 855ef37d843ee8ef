"""Weights of an ImageNet ResNet made into those of a video network (METHOD section 3).

Spatial kernels are copied. What sees several frames begins so that a video of one repeated picture gives the features
of that picture: in DG-P3D, P3D, LGD-P3D and R(2+1)D the stem's kernel stands at one of its frames, temporal kernels are
the identity where they are in series (P3D-A, R(2+1)D) and zero where they are added (P3D-B and C). The kernels of I3D
are divided over their frames, as its authors have it: there the ends of a clip differ, which see zeros beyond.

R(2+1)D has more spatial filters than the picture's network: the others stay as they were drawn, unseen by the temporal
kernel at first. (Zero on both sides, as in the authors' code, neither would ever learn.)
"""

import torch
from torch import nn

from fastplan.models.blocks import PseudoConv
from fastplan.models.interface import VideoNetwork
from fastplan.models.layers import StemConv
from fastplan.models.names import published_name
from fastplan.models.resnets import FactoredConv


def image_name(network: VideoNetwork, name: str) -> str | None:
    """The ResNet tensor that the network's tensor `name` is made from; None where there is none."""
    published = published_name(network, name)
    if published is None or name.startswith("nonlocals."):
        return None
    layer = published.rpartition(".")[0].rpartition(".")[2]
    if layer.startswith("fc") or layer.endswith("_t"):
        return None
    return published.replace("layer4_dual.", "layer4.")


def temporal_kernel(network: VideoNetwork, name: str) -> torch.Tensor | None:
    """The first value of a temporal kernel that stands beside a spatial one; None for every other tensor."""
    if not name.endswith(".t.weight"):
        return None
    pair = network.get_submodule(name.removesuffix(".t.weight"))
    kernel = torch.zeros_like(network.get_parameter(name))
    if isinstance(pair, FactoredConv):
        first = _first_filter(*kernel.shape[:2])
        kernel[:, first : first + len(kernel), 1, 0, 0] = torch.eye(len(kernel))
    elif isinstance(pair, PseudoConv) and pair.kind == "A":
        width = kernel.shape[1]  # of one group
        kernel[:, :, 1, 0, 0] = torch.eye(width).repeat(len(kernel) // width, 1)
    return kernel


def inflate(network: VideoNetwork, name: str, old: torch.Tensor, image: torch.Tensor) -> torch.Tensor | None:
    """The picture's tensor as the network's tensor `name`, now `old`; None where shapes do not belong together."""
    module = network.get_submodule(name.rpartition(".")[0])
    if not isinstance(module, nn.Conv3d):
        return image if image.shape == old.shape else None
    taps = old.shape[2]
    if image.ndim != 4 or image.shape[1:] != (old.shape[1], *old.shape[3:]):
        return None
    if name.endswith(".s.weight") and isinstance(network.get_submodule(name.removesuffix(".s.weight")), FactoredConv):
        first = _first_filter(len(image), len(old))
        new = old.clone()
        new[first : first + len(image)] = image[:, :, None]
        return new if len(old) == len(image) * 9 // 4 else None
    if len(image) != len(old):
        return None
    if isinstance(module, StemConv):
        new = torch.zeros_like(old)
        new[:, :, taps // 2] = image
        return new
    return image[:, :, None].expand_as(old) / taps


def _first_filter(image_filters: int, filters: int) -> int:
    """Where the picture's filters begin among those of a factored convolution: in the middle."""
    return (filters - image_filters) // 2
