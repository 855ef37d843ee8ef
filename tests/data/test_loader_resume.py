"""The stream of batches goes on as it would have, wherever it is cut and whatever the regime does meanwhile."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastplan.clips import ClipSpec
from fastplan.config import AugmentConfig
from fastplan.data.batch import ClipBatch, ClipLoader
from fastplan.data.index import build_index
from fastplan.data.lists import read_videos
from fastplan.data.sampling import EpochSamples, evaluation_samples, training_samples

CPU = torch.device("cpu")
MIXED = AugmentConfig(mixup=0.4, cutmix=0.4, erase=0.5, rand_augment=0.5)
REGIMES = [
    (ClipSpec(1, 4, 2, 24), 3),
    (ClipSpec(2, 4, 1, 32), 2),
    (ClipSpec(4, 1, 1, 24), 5),
    (ClipSpec(1, 8, 1, 40), 1),
]
CLIPS = 23


@pytest.fixture(scope="module")
def index(numbered, tmp_path_factory):
    return build_index(read_videos(numbered), cache_dir=tmp_path_factory.mktemp("cache"), threads=2)


@pytest.fixture(scope="module")
def loader(index):
    loader = ClipLoader(index, MIXED, max_batch=6, threads=2, decoder="host", device=CPU)
    yield loader
    loader.close()


def samples_of(index, epoch: int = 0, clips: int = CLIPS, **more) -> EpochSamples:
    return training_samples(index, REGIMES[0][0], MIXED, seed=5, stream="a->b", epoch=epoch, clips=clips, **more)


def same(a: ClipBatch, b: ClipBatch) -> bool:
    alike = all(
        torch.equal(x, y) for x, y in zip((a.clips_NCTHW, a.labels_N), (b.clips_NCTHW, b.labels_N), strict=True)
    )
    return alike and torch.equal(a.videos_N, b.videos_N) and torch.equal(a.targets(2), b.targets(2))


def run(
    loader: ClipLoader, samples: EpochSamples, switches: dict[int, int], stop: int | None = None
) -> list[ClipBatch]:
    """Batches up to `stop`, every switch named when the epoch begins."""
    batches = []
    stream = loader.epoch(samples)
    for number, batch in enumerate(stream):
        if number == 0:
            for at, regime in switches.items():
                if at > number + 3:
                    loader.configure(*REGIMES[regime], at=at)
        batches.append(batch)
        if stop is not None and number + 1 == stop:
            break
    stream.close()
    return batches


@given(
    first=st.integers(0, 3),
    switches=st.dictionaries(st.integers(4, 16), st.integers(0, 3), max_size=3),
    stop=st.integers(1, 12),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_resumed_epoch_goes_on_with_the_very_next_batch(index, loader, first, switches, stop):
    loader.configure(*REGIMES[first])
    whole = run(loader, samples_of(index), switches)
    assert sum(len(batch.labels_N) for batch in whole) == CLIPS
    loader.configure(*REGIMES[first])
    begun = run(loader, samples_of(index), switches, stop=stop)
    state = json.loads(json.dumps(loader.state_dict()))
    assert (state["stream"], state["epoch"], state["iteration"]) == ("a->b", 0, len(begun))
    other = loader.beside(index)
    other.load_state_dict(state)
    rest = list(other.epoch(samples_of(index)))
    assert len(begun) + len(rest) == len(whole)
    assert all(same(a, b) for a, b in zip(begun + rest, whole, strict=True))


def test_a_change_of_regime_during_an_epoch_holds_from_the_iteration_named(index, loader):
    """No sample is dropped or doubled, and what was drawn for a sample stays, but for its frames."""
    loader.configure(ClipSpec(1, 4, 1, 24), 2)
    sizes, videos, named = [], [], []
    for number, batch in enumerate(loader.epoch(samples_of(index, clips=50))):
        sizes.append((len(batch.labels_N), batch.clips_NCTHW.shape[2]))
        videos += batch.videos_N.tolist()
        if number == 1:
            named = [loader.configure(ClipSpec(2, 4, 1, 24), 5), loader.configure(ClipSpec(1, 4, 1, 24), 3, at=8)]
            with pytest.raises(ValueError, match=r"iteration 2 is under way: the earliest that may change is"):
                loader.configure(ClipSpec(1, 4, 1, 24), 3, at=2)
    assert named[0] <= 8 and named[1] == 8
    assert videos == samples_of(index, clips=50).videos_M.tolist()
    wanted = [(2, 4)] * named[0] + [(5, 8)] * (8 - named[0])
    left = 50 - sum(clips for clips, _ in wanted)
    assert left > 3
    assert sizes == wanted + [(3, 4)] * (left // 3) + ([(left % 3, 4)] if left % 3 else [])
    assert loader.configure(ClipSpec(1, 4, 1, 24), 1) == 0, "between epochs it holds for the next one"
    with pytest.raises(ValueError, match="no epoch is under way that could change at iteration 5"):
        loader.configure(ClipSpec(1, 4, 1, 24), 1, at=5)


def test_loaders_beside_each_other_may_be_read_in_turns(index, loader):
    other = loader.beside(index)
    regimes = {loader: REGIMES[1], other: REGIMES[3]}
    alone = {}
    for one, regime in regimes.items():
        one.configure(*regime)
        alone[one] = list(one.epoch(samples_of(index)))
    streams = {one: one.epoch(samples_of(index)) for one in regimes}
    turns = {one: [] for one in regimes}
    for _ in range(max(map(len, alone.values()))):
        for one, stream in streams.items():
            turns[one] += [batch for batch in [next(stream, None)] if batch is not None]
    for one in regimes:
        assert len(turns[one]) == len(alone[one])
        assert all(same(a, b) for a, b in zip(turns[one], alone[one], strict=True))


def test_another_regime_changes_only_the_frames(index):
    samples = samples_of(index)
    other = samples.under(ClipSpec(4, 2, 1, 40))
    assert np.array_equal(samples.videos_M, other.videos_M) and other.frames_MT.shape == (CLIPS, 8)
    assert all(np.array_equal(a, getattr(other.changes, name)) for name, a in vars(samples.changes).items())


def test_a_state_of_another_epoch_is_refused(index, loader):
    loader.configure(*REGIMES[0])
    run(loader, samples_of(index), {}, stop=2)
    other = loader.beside(index)
    other.load_state_dict(loader.state_dict())
    with pytest.raises(ValueError, match=r"belongs to EpochName\(seed=5, stream='a->b', epoch=0\)"):
        next(other.epoch(samples_of(index, epoch=1)))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shards_are_disjoint_equally_long_and_together_the_epoch(index, world):
    """Each rank has one of every `world` places, so equal batches of all are together one of one process.

    Clips at the same distance from either end of such a batch are one rank's, where its part of the batch is even.
    """
    spec = ClipSpec(1, 4, 1, 24)
    for epoch in range(3):
        shards = [samples_of(index, epoch=epoch, rank=rank, world=world) for rank in range(world)]
        whole = samples_of(index, epoch=epoch)
        assert {len(shard) for shard in shards} == {CLIPS // world}
        taken = np.stack([shard.mine_K for shard in shards], axis=1).reshape(-1)
        assert np.sort(taken.reshape(-1, world)).reshape(-1).tolist() == list(range(CLIPS // world * world))
        rank_of = {int(place): rank for rank, shard in enumerate(shards) for place in shard.mine_K}
        for begin in range(0, CLIPS - 4 * world + 1, 4 * world):
            ranks = [rank_of[place] for place in range(begin, begin + 4 * world)]
            assert ranks == ranks[::-1]
        for shard in shards:
            assert np.array_equal(shard.videos_M, whole.videos_M)
            assert np.array_equal(shard.frames_MT, whole.frames_MT)
            assert np.array_equal(shard.changes.crops_M4, whole.changes.crops_M4)
            assert [*shard.spares(7)] == [*whole.spares(7)] and len([*whole.spares(7)]) == CLIPS - 1
        views = [evaluation_samples(index, spec, views=2, crops=3, rank=rank, world=world) for rank in range(world)]
        seen = np.concatenate([v.videos_M[v.mine_K] for v in views])
        assert sorted(seen) == sorted(np.repeat(np.arange(len(index)), 6))
        assert len({video for v in views for video in set(v.videos_M[v.mine_K])}) == len(index)


WORKER = """
import json, sys
from pathlib import Path
import torch, torch.distributed as dist
from fastplan.clips import ClipSpec
from fastplan.config import AugmentConfig
from fastplan.data.batch import ClipLoader
from fastplan.data.index import build_index
from fastplan.data.lists import read_videos
from fastplan.data.sampling import evaluation_samples, training_samples

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
folder, cache = map(Path, sys.argv[1:])
index = build_index(read_videos(folder), cache_dir=cache / str(rank), threads=1)
loader = ClipLoader(index, AugmentConfig(), max_batch=4, threads=1, decoder="host", device=torch.device("cpu"))
spec = ClipSpec(1, 4, 1, 24)
loader.configure(spec, 2)
found = {}
mine = {"rank": rank, "world": world}
epochs = {
    "train": training_samples(index, spec, AugmentConfig(), seed=1, stream="x", epoch=0, clips=11, **mine),
    "val": evaluation_samples(index, spec, views=2, **mine),
}
for name, samples in epochs.items():
    batches = [(b.videos_N.tolist(), b.clips_NCTHW.double().sum().item()) for b in loader.epoch(samples)]
    gathered = [None] * world
    dist.all_gather_object(gathered, batches)
    found[name] = gathered
if rank == 0:
    print("FOUND" + json.dumps(found))
loader.close()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_under_torchrun_share_an_epoch(index, numbered, tmp_path):
    """Their batches, put together place by place, are those of one process."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
        str(numbered),
        str(tmp_path),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith("FOUND")).removeprefix("FOUND")
    )

    spec = ClipSpec(1, 4, 1, 24)
    loader = ClipLoader(index, AugmentConfig(), max_batch=1, threads=1, decoder="host", device=CPU)
    loader.configure(spec, 1)
    whole = training_samples(index, spec, AugmentConfig(), seed=1, stream="x", epoch=0, clips=11)
    single = [(b.videos_N.item(), b.clips_NCTHW.double().sum().item()) for b in loader.epoch(whole)]
    assert [len(batches) for batches in found["train"]] == [3, 3]
    for rank, batches in enumerate(found["train"]):
        part = training_samples(index, spec, AugmentConfig(), seed=1, stream="x", epoch=0, clips=11, rank=rank, world=2)
        mine = [single[place] for place in part.mine_K]
        assert [v for videos, _ in batches for v in videos] == [video for video, _ in mine]
        sums = [sum(total for _, total in mine[i : i + 2]) for i in range(0, 5, 2)]
        assert np.allclose([total for _, total in batches], sums, rtol=1e-9)
    seen = [v for batches in found["val"] for videos, _ in batches for v in videos]
    assert sorted(seen) == sorted([*range(len(index))] * 2)
    loader.close()
