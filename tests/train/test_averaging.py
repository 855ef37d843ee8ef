"""Averaged weights and BatchNorm estimation against their formulas."""

import contextlib

import torch
from torch import nn

from fastplan.models.layers import BatchNorm
from fastplan.train.averaging import AveragedNetwork, estimate_batch_norm


def test_the_average_follows_its_formula():
    network = nn.Linear(1, 1, bias=False)
    average = AveragedNetwork(network, window_epochs=2.0)
    wanted = network.weight.item()
    for step in range(1, 200):
        with torch.no_grad():
            network.weight.fill_(float(step))
        average.update(network, steps_per_epoch=10)
        decay = min(1 - 1 / 20, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * step
    assert abs(average.network.weight.item() - wanted) < 1e-3
    assert average.updates == 199


def test_frozen_weights_are_not_averaged():
    network = nn.Sequential(nn.Linear(2, 2), BatchNorm(2))
    average = AveragedNetwork(network, window_epochs=1.0)
    network[1].freeze(True)
    with torch.no_grad():
        network[1].weight.fill_(5.0)
        network[0].weight.fill_(5.0)
    average.update(network, 10)
    assert torch.equal(average.network[1].weight, torch.ones(2))
    assert not torch.equal(average.network[0].weight, network[0].weight) and average.network[0].weight.max() > 1


def test_estimated_statistics_are_those_of_all_batches_together():
    torch.manual_seed(0)
    norm = BatchNorm(3)
    frozen = BatchNorm(3)
    frozen.freeze(True)
    network = nn.Sequential(norm, frozen)
    batches = [torch.randn(4, 3, 2, 5, 5) * 3 + 7 for _ in range(6)]
    estimate_batch_norm(network, batches, contextlib.nullcontext())
    means = torch.stack([b.mean((0, 2, 3, 4)) for b in batches]).mean(0)
    variances = torch.stack([b.var((0, 2, 3, 4)) for b in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert torch.equal(frozen.running_mean, torch.zeros(3))
    assert not norm.training and norm.momentum == 0.1
