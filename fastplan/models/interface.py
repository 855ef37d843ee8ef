"""What every network of the family offers to the trainer, the loader and the planner."""

from typing import Protocol

import torch
from torch import nn

from fastplan.clips import length_fault
from fastplan.errors import UserError


class VideoNetwork(nn.Module):
    """Clips [N, 3, T, H, W] give a tuple of logits [N, classes], one per head.

    multiple: T must be a multiple of it. least: the shortest T. The loss is the sum over heads, the prediction the mean
    of their softmaxes.
    """

    multiple: int = 1
    least: int = 1

    def classifiers(self) -> tuple[nn.Linear, ...]:
        """The last layer of each head."""
        raise NotImplementedError

    def check_clips(self, clips_NCTHW: torch.Tensor) -> None:
        """Raise `UserError` for clips of a length that the network does not take."""
        if fault := length_fault(clips_NCTHW.shape[2], multiple=self.multiple, least=self.least):
            raise UserError(f"{type(self).__name__} got clips of {fault}")


class NetworkSpec(Protocol):
    """An entry of the table of networks: what it demands of clips, and how it is built."""

    @property
    def multiple(self) -> int:
        """Clip lengths are multiples of this."""

    @property
    def least(self) -> int:
        """The shortest clip, in frames."""

    def build(self, classes: int, dropout: float) -> VideoNetwork:
        """The network with fresh weights."""
