"""Cropping and scaling in the decoder's own format against the long way: whole RGB pictures, then DALI's resize.

Both round at different places and the long way repeats colour samples where the short one interpolates them, so values
differ a little: `TOLERANCE` is what docs/data.md promises.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import nvidia.dali as dali  # noqa: TID251
import pytest
from nvidia.dali import fn, types  # noqa: TID251
from test_decode_exact import H264, MADE, REAL, TURNS, write, write_matrix

from fastplan.data.decode import decode_clip, decode_views
from fastplan.data.index import VideoInfo, probe
from fastplan.data.rgb import crop_box
from fastplan.data.video import no_table

MEAN, MOST = 2.0, 8  # mean difference, and what 99 % of the values differ by at most; of 255
CROPS = (((0.0, 0.0, 1.0, 1.0), 112), ((0.13, 0.22, 0.71, 0.93), 112), ((0.4, 0.05, 0.8, 0.6), 224))

Resize = Callable[[np.ndarray, tuple[int, int, int, int], int], np.ndarray]


@pytest.fixture(scope="module")
def resize() -> Resize:
    """DALI's antialiased resize of a box of a clip."""
    pipeline = dali.Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1, exec_dynamic=True)
    with pipeline:
        clip = fn.external_source(name="clip", layout="FHWC")
        box = {name: fn.external_source(name=name) for name in ("roi_start", "roi_end", "size")}
        pipeline.set_outputs(fn.resize(clip, **box, interp_type=types.DALIInterpType.INTERP_LINEAR, antialias=True))
    pipeline.build()

    def run(clip_THWC: np.ndarray, box: tuple[int, int, int, int], size: int) -> np.ndarray:
        left, top, right, bottom = box
        named = {"roi_start": (top, left), "roi_end": (bottom, right), "size": (size, size)}
        (out,) = pipeline.run(clip=[clip_THWC], **{k: [np.array(v, np.float32)] for k, v in named.items()})
        return np.array(out.at(0))

    return run


def cropped(video: VideoInfo, frames_T: np.ndarray, crop: tuple[float, ...], size: int) -> np.ndarray:
    return decode_views(video, frames_T[None], np.array([crop]), size=size)[0].transpose(0, 2, 3, 1)


def assert_close(video: VideoInfo, frames_T: np.ndarray, resize: Resize) -> None:
    whole_THWC = decode_clip(video, frames_T)
    for crop, size in CROPS:
        found = cropped(video, frames_T, crop, size)
        assert found.shape == (len(frames_T), size, size, 3)
        away = np.abs(found.astype(int) - resize(whole_THWC, crop_box(crop, video.width, video.height), size))
        assert away.mean() <= MEAN and np.percentile(away, 99) <= MOST, f"crop {crop}: mean {away.mean():.2f}"


@pytest.mark.skipif(not REAL, reason="no folder of real videos beside the checkout (FASTPLAN_SHARED)")
@pytest.mark.parametrize("path", REAL, ids=lambda p: p.name)
def test_real_files(path: Path, resize: Resize) -> None:
    video = probe(path)
    assert isinstance(video, VideoInfo)
    assert_close(video, np.random.default_rng(0).integers(0, video.frames, 2), resize)


@pytest.mark.parametrize("name", [name for name in MADE if "h264" in name or "mjpeg" in name])
def test_formats_and_odd_sizes(name: str, tmp_path: Path, resize: Resize) -> None:
    encoder, _, options = MADE[name]
    write(tmp_path / name, encoder, **options)
    video = probe(tmp_path / name)
    assert isinstance(video, VideoInfo)
    assert_close(video, np.array([30, 7, 7]), resize)


@pytest.mark.parametrize("turn", TURNS)
def test_the_crop_is_one_of_the_picture_as_shown(turn: str, tmp_path: Path, resize: Resize) -> None:
    path = tmp_path / "turned.mp4"
    write(path, "libx264", frames=14, **H264)
    write_matrix(path, *TURNS[turn][0])
    video = probe(path)
    assert isinstance(video, VideoInfo)
    assert_close(video, np.array([0, 13]), resize)


def test_order_repeats_and_the_way_of_reading_change_no_pixel(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    write(path, "libx264", **H264, bf="3")
    video = probe(path)
    assert isinstance(video, VideoInfo) and video.table is not None
    crop, frames_T = (0.1, 0.2, 0.9, 0.7), np.array([31, 4, 4, 47, 5])
    ordered = cropped(video, np.arange(50), crop, 40)
    assert (cropped(video, frames_T, crop, 40) == ordered[frames_T]).all()
    assert (cropped(replace(video, load_table=no_table), frames_T, crop, 40) == ordered[frames_T]).all()


def test_views_of_one_pass_are_those_of_many(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    write(path, "libx264", **H264, bf="3")
    video = probe(path)
    assert isinstance(video, VideoInfo)
    left, right = (0.0, 0.0, 0.6, 1.0), (0.4, 0.0, 1.0, 1.0)
    crops = (left, right, left, left)
    frames_VT = np.array([[3, 4, 5, 6], [3, 4, 5, 6], [40, 5, 5, 49], [3, 4, 5, 6]])
    clips = decode_views(video, frames_VT, np.array(crops), size=32).transpose(0, 1, 3, 4, 2)
    for view, (frames_T, crop) in enumerate(zip(frames_VT, crops, strict=True)):
        assert (clips[view] == cropped(video, frames_T, crop, 32)).all()
    assert (clips[0] != clips[1]).any()


@pytest.mark.parametrize(
    ("crop", "extent", "box"),
    [
        ((0.0, 0.0, 1.0, 1.0), (101, 67), (0, 0, 101, 67)),
        ((0.26, 0.5, 0.74, 0.9), (100, 100), (26, 50, 74, 90)),
        ((0.25, 0.5, 0.745, 0.9), (101, 67), (26, 34, 76, 60)),
        ((0.99, 0.0, 1.0, 0.001), (101, 67), (100, 0, 101, 2)),
        ((0.2, 0.2, 0.3, 0.3), (1, 2), (0, 0, 1, 2)),
    ],
)
def test_boxes_are_even_within_the_picture_and_never_empty(crop, extent, box) -> None:
    assert crop_box(crop, *extent) == box
