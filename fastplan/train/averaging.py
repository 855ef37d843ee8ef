"""Averaged weights: an exponential moving average over the last epochs, the network that is validated and kept."""

import copy
from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import nn

from fastplan.models.layers import batch_norms


class AveragedNetwork:
    """A copy of the network whose parameters follow it slowly.

    window_epochs: the average reaches back about this many epochs. BatchNorm statistics are not averaged: they are
    estimated anew for the averaged weights (`estimate_batch_norm`), in the clip regime that they will be used in, or
    where they are frozen, shared with the network (`share_frozen`).
    """

    def __init__(self, network: nn.Module, window_epochs: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.updates = 0
        self._window_epochs = window_epochs

    def share_frozen(self, network: nn.Module) -> None:
        """Take over every BatchNorm that is frozen in the network: its other weights learn to fit these values alone.

        Those estimated before fit weights that the average is about to leave behind.
        """
        for own, norm in zip(batch_norms(self.network), batch_norms(network), strict=True):
            if norm.frozen:
                own.load_state_dict(norm.state_dict())

    @torch.no_grad()
    def update(self, network: nn.Module, steps_per_epoch: int) -> None:
        """Move towards the network after an optimizer step; the first steps move faster, so the start is forgotten.

        Frozen weights stay where they are in both networks.
        """
        self.updates += 1
        decay = 1.0 - 1.0 / max(self._window_epochs * steps_per_epoch, 1.0)
        decay = min(decay, (1 + self.updates) / (10 + self.updates))
        pairs = [
            (average, weight)
            for average, weight in zip(self.network.parameters(), network.parameters(), strict=True)
            if weight.requires_grad
        ]
        averages, weights = zip(*pairs, strict=True)
        torch._foreach_lerp_(averages, weights, 1.0 - decay)


@torch.no_grad()
def estimate_batch_norm(
    network: nn.Module, batches: Iterable[torch.Tensor], autocast: AbstractContextManager[None]
) -> None:
    """Replace running statistics by their plain average over `batches` [N, 3, T, H, W]; frozen layers keep theirs."""
    norms = [norm for norm in batch_norms(network) if not norm.frozen]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    for seen, clips_NCTHW in enumerate(batches, 1):
        for norm in norms:
            norm.momentum = 1.0 / seen
        with autocast:
            network(clips_NCTHW)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
