"""The loader: exact frames through 50 changes of regime, one pipeline, and what the operators do to the pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fastplan.clips import ClipSpec
from fastplan.config import AugmentConfig
from fastplan.data import dali
from fastplan.data.augmentation import no_changes
from fastplan.data.batch import ClipLoader
from fastplan.data.decode import decode_clip
from fastplan.data.index import build_index
from fastplan.data.lists import read_videos
from fastplan.data.regimes import Regime
from fastplan.data.sampling import evaluation_samples, training_samples
from numbered_videos import read_numbers, write_numbered

PLAIN = AugmentConfig(
    scale=(1.0, 1.0),
    ratio=(1.0, 1.0),
    flip=0.0,
    jitter=0.0,
    grey=0.0,
    blur=0.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def index(numbered, tmp_path_factory):
    return build_index(read_videos(numbered), cache_dir=tmp_path_factory.mktemp("cache"), threads=2)


def loader_of(index, augment=PLAIN, **options):
    options = {"max_batch": 6, "threads": 2, "decoder": "host", "device": CPU, **options}
    return ClipLoader(index, augment, **options)


def numbers_of(batch) -> list[list[int]]:
    return [read_numbers(clip_CTHW[0].numpy()) for clip_CTHW in batch.clips_NCTHW]


@pytest.mark.parametrize(("decoder", "pipelines"), [("host", 0), ("dali", 1)])
def test_fifty_changes_of_regime_give_exactly_the_frames_of_the_plan(decoder, pipelines, index, monkeypatch):
    """Sampler, length, stride, size and batch change between epochs; every frame of every clip is the one asked for,
    in order, none dropped or doubled, and at most one pipeline is made."""
    made = set()
    build = dali.dali.Pipeline.build
    monkeypatch.setattr(dali.dali.Pipeline, "build", lambda self: (made.add(id(self)), build(self))[1])
    loader = loader_of(index, decoder=decoder)
    rng = np.random.default_rng(0)
    regimes = [(ClipSpec(1, 8, 1, 32), 4), (ClipSpec(4, 4, 1, 40), 3), (ClipSpec(8, 1, 1, 24), 6)]
    regimes += [(ClipSpec(1, 16, 3, 32), 1), (ClipSpec(2, 4, 2, 48), 5), (ClipSpec(1, 4, 1, 24), 2)]
    for swap in range(50):
        spec, batch_size = regimes[rng.integers(len(regimes))]
        samples = training_samples(index, spec, PLAIN, seed=1, stream="x", epoch=swap, clips=7)
        loader.configure(spec, batch_size)
        batches = list(loader.epoch(samples))
        assert [len(b.labels_N) for b in batches] == [min(batch_size, 7 - i) for i in range(0, 7, batch_size)]
        assert [n for b in batches for n in numbers_of(b)] == samples.frames_MT.tolist(), f"swap {swap}: {spec}"
        assert torch.cat([b.videos_N for b in batches]).tolist() == samples.videos_M.tolist()
        assert torch.cat([b.labels_N for b in batches]).tolist() == index.labels_N[samples.videos_M].tolist()
        assert batches[0].clips_NCTHW.shape[2:] == (spec.length, spec.size, spec.size)
        assert batches[0].clips_NCTHW.is_contiguous(memory_format=torch.channels_last_3d)
    assert len(made) == pipelines
    loader.close()


def test_a_regime_for_every_iteration(index):
    """Side and batch alternate; the frames are those of the plan in order, whatever the batches."""
    spec = ClipSpec(2, 4, 1, 48)
    samples = training_samples(index, spec, PLAIN, seed=1, stream="x", epoch=0, clips=9)
    regimes = [Regime(replace(spec, size=side), batch) for side, batch in ((24, 4), (36, 2), (48, 1), (24, 4))]
    loader = loader_of(index)
    loader.configure(spec, 1)
    batches = list(loader.epoch(samples, regimes=regimes))
    assert [(len(b.labels_N), b.clips_NCTHW.shape[-1]) for b in batches] == [(4, 24), (2, 36), (1, 48), (2, 24)]
    assert [n for b in batches for n in numbers_of(b)] == samples.frames_MT.tolist()
    with pytest.raises(ValueError, match="batch of 7 clips in a loader built for at most 6"):
        next(loader.epoch(samples, regimes=[Regime(spec, 7)]))
    loader.close()


def test_an_abandoned_epoch_leaves_nothing_behind(index):
    loader = loader_of(index)
    spec = ClipSpec(1, 4, 1, 32)
    samples = evaluation_samples(index, spec, views=4)
    loader.configure(spec, 2)
    for _ in range(3):
        batches = loader.epoch(samples)
        next(batches)
        batches.close()
    assert [n for b in loader.epoch(samples) for n in numbers_of(b)] == samples.frames_MT.tolist()
    loader.close()


def test_kept_clips_are_the_same_clips(index):
    loader = loader_of(index, keep_bytes=1 << 26)
    spec = ClipSpec(1, 4, 1, 32)
    loader.configure(spec, 4)
    samples = evaluation_samples(index, spec, views=2)
    first = torch.cat([b.clips_NCTHW for b in loader.epoch(samples, keep=True)])
    again = torch.cat([b.clips_NCTHW for b in loader.epoch(samples, keep=True)])
    other = evaluation_samples(index, spec, views=3)
    assert torch.equal(first, again)
    assert [n for b in loader.epoch(other, keep=True) for n in numbers_of(b)] == other.frames_MT.tolist()
    loader.close()


def test_the_operators_crop_flip_colour_and_normalise(index):
    """Against numpy on one clip: its right half, mirrored, darker, at its own size so that nothing is interpolated."""
    augment = AugmentConfig(saturation=0.0, hue=0.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    loader = loader_of(index, augment)
    spec = ClipSpec(1, 2, 1, 24)
    loader.configure(spec, 1)
    samples = evaluation_samples(index, spec, views=1)
    samples.changes.crops_M4[:] = [0.5, 0.25, 1.0, 0.75]
    samples.changes.flips_M[:] = 1
    samples.changes.colours_M4[:] = [0.5, 1.0, 1.0, 0.0]
    found_CTHW = next(iter(loader.epoch(samples))).clips_NCTHW[0].numpy()
    source_THWC = decode_clip(index.videos[0], samples.frames_MT[0]).astype(np.float32)
    wanted_THWC = source_THWC[:, 12:36, 24:48][:, :, ::-1] * 0.5
    wanted_THWC = (wanted_THWC / 255 - augment.mean) / augment.std
    assert np.abs(found_CTHW - wanted_THWC.transpose(3, 0, 1, 2)).max() < 0.02
    loader.close()


def test_hue_turns_red_to_green():
    pipeline = dali.ClipPipeline(
        decoder="host", device_id=None, compiled=True, max_batch=2, threads=1, augment=AugmentConfig(jitter=1.0)
    )
    red_TCHW = np.zeros((2, 3, 8, 8), np.uint8)
    red_TCHW[:, 0] = 200
    changes = no_changes(np.array([[0, 0, 1, 1]] * 2, np.float32))
    changes.colours_M4[1, 3] = 120
    clips = pipeline.run([red_TCHW] * 2, changes, size=8)
    assert clips[0, :, 0, 0, 0].argmax() == 0
    assert clips[1, :, 0, 0, 0].argmax() == 1


def test_dalis_own_decoder_gives_the_same_frames(tmp_path):
    """The path that a GPU takes (encoded files and frame indices), run on the CPU with a codec that DALI decodes."""
    for name, frames in (("a/1", 40), ("b/2", 60)):
        write_numbered(tmp_path / f"{name}.webm", frames, encoder="libvpx-vp9")
    index = build_index(read_videos(tmp_path), cache_dir=tmp_path, threads=1)
    loader = loader_of(index, decoder="dali")
    for spec, batch_size in ((ClipSpec(1, 8, 2, 32), 2), (ClipSpec(4, 4, 1, 48), 1)):
        loader.configure(spec, batch_size)
        samples = training_samples(index, spec, PLAIN, seed=0, stream="x", epoch=0, clips=6)
        assert [n for b in loader.epoch(samples) for n in numbers_of(b)] == samples.frames_MT.tolist()
    loader.close()


def test_what_the_loader_was_not_built_for(index):
    loader = loader_of(index)
    with pytest.raises(ValueError, match="batch of 7 clips in a loader built for at most 6"):
        loader.configure(ClipSpec(1, 4, 1, 32), 7)
    with pytest.raises(ValueError, match="configure the loader"):
        next(loader.epoch(evaluation_samples(index, ClipSpec(1, 4, 1, 32), views=1)))
    loader.close()
