"""Sample plans are pure functions of seed, stream and epoch, and cover every video."""

import numpy as np

from fastplan.clips import ClipSpec
from fastplan.config import AugmentConfig
from fastplan.data.index import VideoIndex, VideoInfo
from fastplan.data.sampling import evaluation_samples, training_samples

AUGMENT = AugmentConfig()


def index_of(videos: int) -> VideoIndex:
    infos = tuple(VideoInfo(f"{i}.mp4", 30 + i, 25.0, 64, 48, "h264", 0, 0, 1) for i in range(videos))
    return VideoIndex(infos, np.arange(videos) % 3, tuple(map(str, range(videos))), ("a", "b", "c"))


def draw(index, spec=None, **more):
    options = {"seed": 0, "stream": "a->b", "epoch": 0, **more}
    return training_samples(index, spec or ClipSpec(1, 8, 1, 32), options.pop("augment", AUGMENT), **options)


def equal(a, b) -> bool:
    fields = [(a.videos_M, b.videos_M), (a.frames_MT, b.frames_MT)]
    fields += [(value, getattr(b.changes, name)) for name, value in vars(a.changes).items()]
    return all(np.array_equal(*pair) for pair in fields)


def test_the_same_numbers_give_the_same_samples_and_others_do_not():
    index = index_of(50)
    first = draw(index)
    assert equal(first, draw(index))
    for change in ({"seed": 1}, {"stream": "a->c"}, {"epoch": 1}):
        other = draw(index, **change)
        assert not np.array_equal(first.videos_M, other.videos_M)
        assert not np.array_equal(first.changes.crops_M4, other.changes.crops_M4)


def test_every_video_once_an_epoch():
    samples = draw(index_of(50))
    assert sorted(samples.videos_M) == list(range(50))


def test_epochs_of_another_length_go_on_where_the_last_one_stopped():
    """Seven epochs of 20 clips of 50 videos: every video before any comes again."""
    index = index_of(50)
    order = np.concatenate([draw(index, epoch=e, clips=20).videos_M for e in range(7)])
    assert sorted(order[:50]) == list(range(50)) == sorted(order[50:100])
    assert len(draw(index, epoch=3, clips=120)) == 120


def test_crops_have_the_configured_area_and_ratio_and_stay_inside():
    index = index_of(2000)
    crops_M4 = draw(index, augment=AugmentConfig(scale=(0.3, 0.5), ratio=(0.8, 1.25))).changes.crops_M4.astype(
        np.float64
    )
    width, height = (crops_M4[:, 2] - crops_M4[:, 0]) * 64, (crops_M4[:, 3] - crops_M4[:, 1]) * 48
    area, ratio = width * height / (64 * 48), width / height
    assert crops_M4.min() >= 0 and crops_M4.max() <= 1 + 1e-6
    assert 0.299 < area.min() < 0.31 and 0.49 < area.max() < 0.501
    assert 0.799 < ratio.min() < 0.82 and 1.22 < ratio.max() < 1.251


def test_augmentation_can_be_switched_off():
    off = AugmentConfig(flip=0.0, jitter=0.0, grey=0.0)
    samples = draw(index_of(200), augment=off)
    assert not samples.changes.flips_M.any()
    assert (samples.changes.colours_M4 == [1, 1, 1, 0]).all()
    assert 60 < draw(index_of(200)).changes.flips_M.sum() < 140


def test_colours_stay_within_their_strengths():
    colours_M4 = draw(
        index_of(3000), augment=AugmentConfig(jitter=1.0, brightness=0.2, hue=0.1, grey=0.0)
    ).changes.colours_M4
    assert 0.8 <= colours_M4[:, 0].min() < 0.81 and 1.19 < colours_M4[:, 0].max() <= 1.2 + 1e-6
    assert -36 - 1e-4 <= colours_M4[:, 3].min() < -35


def test_evaluation_takes_every_view_of_every_video_from_the_centre_square():
    index = index_of(3)
    samples = evaluation_samples(index, ClipSpec(1, 10, 1, 32), views=3)
    assert samples.videos_M.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert samples.frames_MT[:3, 0].tolist() == [0, 10, 20]
    assert np.allclose(samples.changes.crops_M4, [8 / 64, 0, 56 / 64, 1])
