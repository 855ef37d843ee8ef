"""The host decoder gives exactly the frames of a full decode, wherever it begins."""

import av
import numpy as np
import pytest

from fastplan.data.decode import DecodeError, decode_clip
from fastplan.data.index import VideoInfo, probe
from numbered_videos import read_numbers, write_numbered

AWKWARD = [
    "torchcodec__nasa_13013.mp4",
    "torchcodec__nasa_13013_hdr.mp4",
    "mmaction2__test.avi",
    "vision__RATRACE_wave_f_nm_np1_fr_goo_37.avi",
    "decord__flipping_a_pancake.mkv",
    "decord__video_90.mov",
    "moviepy__no_duration.webm",
    "mdximg__100_0306.AVI",
    "mdximg__FLIR_Thermal.mp4",
    "vision__SOX5yA1l24A.mp4",
]


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4", "libvpx-vp9"])
def test_frames_by_their_own_number(tmp_path, encoder):
    file = tmp_path / ("v.webm" if encoder == "libvpx-vp9" else "v.mp4")
    write_numbered(file, 150, encoder=encoder)
    video = probe(file)
    assert isinstance(video, VideoInfo) and video.frames == 150
    for frames in ([0], [149], [70, 71, 72, 73], [140, 3, 3, 77, 149, 0], list(range(0, 150, 9))):
        clip_THWC = decode_clip(video, np.array(frames))
        assert clip_THWC.shape == (len(frames), 48, 48, 3)
        assert read_numbers(clip_THWC[..., 0].astype(np.float32)) == frames


@pytest.mark.parametrize("name", AWKWARD)
def test_real_files_equal_a_sequential_decode(shared, name):
    file = shared / "videos" / name
    video = probe(file)
    with av.open(str(file), metadata_errors="replace") as container:
        sequential = list(container.decode(video=0))
    rng = np.random.default_rng(0)
    start = video.frames * 2 // 3
    places = [np.arange(start, min(start + 5, video.frames)), np.sort(rng.integers(0, video.frames, 6))]
    for frames in places:
        clip_THWC = decode_clip(video, frames)
        for picture_HWC, index in zip(clip_THWC, frames, strict=True):
            wanted = np.rot90(
                sequential[index].to_ndarray(format="rgb24", interpolation="BILINEAR"), video.rotation // 90
            )
            assert np.array_equal(picture_HWC, wanted), f"frame {index}"


def test_a_file_that_went_away_or_shrank_is_a_decode_error(tmp_path):
    file = tmp_path / "v.mp4"
    write_numbered(file, 40)
    video = probe(file)
    write_numbered(file, 20)
    with pytest.raises(DecodeError, match="v.mp4"):
        decode_clip(video, np.array([5, 35]))
    file.unlink()
    with pytest.raises(DecodeError, match="v.mp4"):
        decode_clip(video, np.array([5]))


def test_rotation_shows_the_picture_upright(shared):
    """A phone clip stored on its side: mean brightness of a 4 x 2 grid of the picture whose letters stand upright."""
    video = probe(shared / "videos" / "decord__video_90.mov")
    picture_HW = decode_clip(video, np.array([0]))[0].mean(axis=2)
    assert picture_HW.shape == (568, 320)
    grid = picture_HW.reshape(4, 142, 2, 160).mean(axis=(1, 3))
    assert np.abs(grid - [[109, 111], [104, 105], [85, 91], [65, 87]]).max() < 2
