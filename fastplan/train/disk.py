"""Disk that the checkpoints of a search take at a time, known before it begins."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class DiskUse:
    """checkpoint: bytes of one. most: of all that may lie on the disk at the same time."""

    checkpoint: int
    most: int


def disk_use(network: nn.Module, *, epochs: int, states: int, workers: int = 1, paused: int = 0) -> DiskUse:
    """Bytes for edges that keep up to so many `epochs` (`fastplan.planner.most_in_play`) in a graph of so many states.

    workers, paused: how many edges are under way at a time, and how many wait for the others of a race. A checkpoint
    holds the weights and their average. Both keep those of every epoch that may still be chosen and the newest
    optimizer, while an epoch ends the one before it too; every state keeps one checkpoint.
    """
    weights = 2 * sum(value.numel() * value.element_size() for value in network.state_dict().values())
    optimizer = sum(4 * parameter.numel() for parameter in network.parameters())
    kept = epochs * weights + optimizer
    return DiskUse(weights, workers * (kept + optimizer) + paused * kept + states * weights)
