"""Which convolutions of a network the kernels take on a GPU: the shape table, applied to a network.

Nothing is computed and no GPU is needed.
"""

from collections import Counter
from typing import NamedTuple

import torch
from torch import nn

from fastplan.models.blocks import Bottleneck, PseudoConv
from fastplan.models.interface import VideoNetwork
from fastplan.ops import Fusable, gemm, gemm_end, gemm_pair


class Choice(NamedTuple):
    """Convolutions of one shape inside blocks that the kernels can run.

    kernel: T x H x W, or both of a merged pair. stride: in space. gemm: whether it is our GEMM in training, with the
    BatchNorms around it, or a conv2d on a view between passes. why: in words.
    """

    kernel: str
    inputs: int
    outputs: int
    stride: int
    gemm: bool
    why: str


def kernel_choices(network: VideoNetwork, dtype: torch.dtype = torch.bfloat16) -> Counter[Choice]:
    """How many convolutions there are of each shape, for activations of `dtype`; empty where no block is fusable."""
    found: Counter[Choice] = Counter()
    for block in _blocks(network):
        pairs = [part for part in block.modules() if isinstance(part, PseudoConv) and part.kind == "B"]
        pairs = [pair for pair in pairs if gemm_pair(pair.s, pair.t, dtype).fused]
        found.update(_choice("1x3x3 + 3x1x1", pair.s, *gemm_pair(pair.s, pair.t, dtype)) for pair in pairs)
        merged = {conv for pair in pairs for conv in (pair.s, pair.t)}
        for conv in block.modules():
            if isinstance(conv, nn.Conv3d) and conv not in merged:
                found[_choice("x".join(map(str, conv.kernel_size)), conv, *gemm(conv, dtype))] += 1
    return found


def ends_in_gemm(network: VideoNetwork, dtype: torch.dtype = torch.bfloat16) -> tuple[int, int]:
    """How many blocks end in the epilogue of their last convolution where statistics are fixed, and of how many."""
    blocks = _blocks(network)
    return sum(isinstance(b, Bottleneck) and gemm_end(b.conv3, dtype).fused for b in blocks), len(blocks)


def _blocks(network: VideoNetwork) -> list[Fusable]:
    return [block for block in network.modules() if isinstance(block, Fusable) and block is not network]


def _choice(kernel: str, conv: nn.Conv3d, fused: bool, why: str) -> Choice:
    return Choice(kernel, conv.in_channels, conv.out_channels, conv.stride[1], fused, why)
