"""Parameters and multiply-adds against published figures, and against sums written out by hand."""

import pytest
import torch

from fastplan.benchmarks.published import MARKS, PAGE, PUBLISHED, count, matches, table
from fastplan.models.cost import measure
from fastplan.models.networks import NETWORKS
from fastplan.models.pathway import NonLocal

UNMATCHED = {"s3dg": (False, False), "i3d_nln_r50_32x2": (True, False)}


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.network}, {row.source}")
def test_a_published_figure_is_ours_or_is_explained(row):
    assert matches(row) == UNMATCHED.get(row.network, (True, True))
    assert bool(row.why) == (row.network in UNMATCHED)


def test_every_family_has_a_published_line():
    assert {type(NETWORKS[row.network]) for row in PUBLISHED} == {type(spec) for spec in NETWORKS.values()}


def test_the_page_shows_what_the_command_prints():
    shown = PAGE.read_text(encoding="utf-8").partition(MARKS[0])[2].partition(MARKS[1])[0]
    assert shown == table(), "run python -m fastplan.benchmarks.published --write"


def test_the_rest_of_the_non_local_figure_is_projections_before_the_pool():
    """Keys and values on all positions instead of a quarter, in two blocks of layer 2 and three of layer 3."""
    (row,) = (row for row in PUBLISHED if row.network == "i3d_nln_r50_32x2")
    extra = 0
    for blocks, channels, positions in ((2, 512, 4 * 32 * 32), (3, 1024, 4 * 16 * 16)):
        block = NonLocal(channels)
        extra += blocks * 3 * positions // 4 * (block.b.weight.numel() + block.c.weight.numel())
    assert (count(row)[1] + extra) / 1e9 == pytest.approx(54.334, abs=0.02)


@pytest.mark.parametrize(("name", "dual"), [("p3d_50", False), ("dg_p3d_50", True)])
def test_multiply_adds_are_the_sum_written_out(name, dual):
    """Every convolution of a ResNet-50 with P3D blocks on 16 frames of 224 px, layer by layer."""

    def stage(inputs, planes, blocks, side_in, side, time):
        here, macs = time * side * side, 0
        for block in range(blocks):
            before = time * side_in * side_in if block == 0 else here
            macs += before * inputs * planes  # 1 x 1 x 1, still at the stage's input size
            macs += here * 9 * planes * planes  # 1 x 3 x 3
            macs += here * 3 * planes * planes  # 3 x 1 x 1, whichever way it is joined
            macs += here * planes * 4 * planes
            macs += here * inputs * 4 * planes if block == 0 else 0
            macs += 2 * 4 * planes * 4 * planes // 16 if dual else 0  # the global context
            inputs = 4 * planes
        return macs

    macs = 4 * 112 * 112 * 64 * 3 * 4 * 7 * 7
    macs += stage(64, 64, 3, 56, 56, 4) + stage(256, 128, 4, 56, 28, 4) + stage(512, 256, 6, 28, 14, 4)
    macs += stage(1024, 512, 3, 14, 7, 4) + 2048 * 400
    if dual:
        macs += stage(1024, 512, 3, 14, 14, 1) + 2048 * 400
    assert measure(name, frames=(16,), size=224, classes=400).macs == {16: macs}


def test_lengths_that_a_network_does_not_take_are_left_out():
    cost = measure("i3d_r50_32x2", frames=(4, 8, 12, 16), size=64, classes=7)
    assert list(cost.macs) == [8, 16] and 1.9 < cost.macs[16] / cost.macs[8] < 2
    assert (cost.least, cost.multiple, cost.heads) == (8, 8, 1)
    assert torch.get_default_device() == torch.device("cpu")
