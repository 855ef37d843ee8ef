"""Successive halving: the rungs spend the whole budget, and the better half goes on."""

import math
from itertools import pairwise

import pytest

from fastplan.errors import UserError
from fastplan.planner.halving import best, rungs


@pytest.mark.parametrize("candidates", range(1, 10))
def test_the_rungs_train_exactly_the_budget_in_about_equal_parts(candidates):
    for epochs in range(40, 90):
        found = rungs(candidates, epochs)
        alone = [found[0].epochs, *(b.epochs - a.epochs for a, b in pairwise(found))]
        parts = [rung.survivors * more for rung, more in zip(found, alone, strict=True)]
        assert sum(parts) == epochs and min(alone) >= 1
        assert max(parts) - min(parts) <= candidates + 1, "each rung misses its part by less than an epoch of everyone"
        assert found[0].survivors == candidates and found[-1].survivors == 1
        assert all(b.survivors == math.ceil(a.survivors / 2) for a, b in pairwise(found))


def test_the_smallest_budget_is_an_epoch_of_each():
    assert [(rung.survivors, rung.epochs) for rung in rungs(4, 7)] == [(4, 1), (2, 2), (1, 3)]
    with pytest.raises(
        UserError, match="6 epochs are too few to halve 4 candidates: 7 are an epoch of each in 3 rungs"
    ):
        rungs(4, 6)


def test_the_better_half_keeps_its_order_and_nan_comes_last():
    assert best([0.1, 0.9, 0.5, 0.7], 2) == [1, 3]
    assert best([0.5, 0.5, 0.5], 2) == [0, 1], "of equals the first"
    assert best([math.nan, 0.0], 1) == [1]
