"""What a network costs: parameters, and multiply-adds of a clip, counted without computing anything.

The network runs on torch's meta device, where tensors have shapes and no values; torch.utils.flop_counter counts the
convolutions and matrix products. One multiply-add counts as one, as in most papers, which print it as a FLOP.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastplan.clips import length_fault
from fastplan.models.interface import VideoNetwork
from fastplan.models.networks import build_network, network_spec


@dataclass(frozen=True)
class Cost:
    """What one network costs.

    parameters: trained ones. heads: how many logits it is trained on. least, multiple: the clips it takes, in frames.
    macs: multiply-adds of one clip by its length in frames; lengths that the network does not take are left out.
    """

    network: str
    parameters: int
    heads: int
    least: int
    multiple: int
    macs: dict[int, int]


def measure(network: str, *, frames: Sequence[int], size: int, classes: int) -> Cost:
    """The cost of one network for square clips of `size` pixels. Raises `UserError` for an unknown name."""
    with torch.device("meta"):
        built = build_network(network, classes).eval()
    spec = network_spec(network)
    taken = [length for length in frames if length_fault(length, multiple=spec.multiple, least=spec.least) is None]
    return Cost(
        network,
        parameters=sum(parameter.numel() for parameter in built.parameters()),
        heads=len(built.classifiers()),
        least=spec.least,
        multiple=spec.multiple,
        macs={length: count_macs(built, length, size) for length in taken},
    )


@torch.no_grad()
def count_macs(network: VideoNetwork, frames: int, size: int) -> int:
    """Multiply-adds of one clip in a network on the meta device."""
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, frames, size, size, device="meta"))
    return counter.get_total_flops() // 2


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of training in fp32. network: weights, gradients, momentum and averaged weights. clip: what the backward
    pass needs of one clip."""

    network: int
    clip: int


def training_memory(network: str, *, frames: int, size: int, classes: int) -> TrainingMemory:
    """What training takes, counted on the meta device: every tensor that autograd keeps, once."""
    with torch.device("meta"):
        built = build_network(network, classes).train()
        clips = torch.zeros(2, 3, frames, size, size)  # two: a batch of one has no variance
    own = {tensor.untyped_storage()._cdata for tensor in (*built.parameters(), *built.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in own:
            kept[key] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        heads = built(clips)
    del heads
    weights = sum(parameter.numel() * parameter.element_size() for parameter in built.parameters())
    return TrainingMemory(4 * weights, sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) // 2)
