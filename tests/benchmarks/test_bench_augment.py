"""The benchmark of augmentation times nothing that differs."""

from dataclasses import replace

import numpy as np
import pytest

from fastplan.benchmarks import bench_augment
from fastplan.data.dali import ClipPipeline


@pytest.fixture
def clips() -> list[np.ndarray]:
    coarse = np.random.default_rng(1).integers(0, 256, (2, 2, 3, 4, 4), np.uint8)
    return list(coarse.repeat(8, axis=3).repeat(8, axis=4))


@pytest.mark.parametrize("name", bench_augment.cases())
def test_both_ways_are_timed_in_turns_where_they_give_the_same(name, clips):
    augment, changes = bench_augment.cases()[name]
    costs = bench_augment.costs_of(augment, changes[: len(clips)], clips)
    assert {way: len(each) for way, each in costs.items()} == dict.fromkeys(bench_augment.WAYS, bench_augment.REPEATS)
    assert min(map(min, costs.values())) > 0


def test_ways_that_differ_are_not_timed(clips, monkeypatch):
    real = ClipPipeline.run

    def brighter(pipeline, source, changes, *, size):
        more = replace(changes, colours_M4=changes.colours_M4 * np.float32([1.2, 1, 1, 1]))
        return real(pipeline, source, more if pipeline._finisher is None else changes, size=size)

    monkeypatch.setattr(ClipPipeline, "run", brighter)
    augment, changes = bench_augment.cases()["colour"]
    with pytest.raises(AssertionError, match="of 255 apart"):
        bench_augment.costs_of(augment, changes[: len(clips)], clips)
