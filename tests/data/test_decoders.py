"""Which decoder reads a video, told file by file, and that DALI's, fed with cuts, gives the host decoder's pictures."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from test_decode_exact import H264, write, write_matrix
from test_loader import PLAIN, loader_of

from fastplan.clips import ClipSpec
from fastplan.data import batch
from fastplan.data.batch import choose_decoder
from fastplan.data.dali import ClipPipeline
from fastplan.data.decode import DecodeError, decode_clip
from fastplan.data.decoders import decoder_of, encoded_clip
from fastplan.data.index import VideoIndex, build_index, probe
from fastplan.data.lists import read_videos
from fastplan.data.lost import LostClips
from fastplan.data.mux import Cut
from fastplan.data.sampling import EpochSamples, evaluation_samples, training_samples
from fastplan.data.video import Form, VideoInfo
from fastplan.errors import UserError
from numbered_videos import write_numbered

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SIDE, FRAMES = 48, 48


@pytest.mark.parametrize(
    ("form", "on_cpu", "on_gpu"),
    [
        (Form("vp9", "yuv420p", 0, False, ""), "dali", "dali"),
        (Form("vp8", "yuv420p", 0, False, ""), "dali", "dali"),
        (Form("mjpeg", "yuvj420p", 0, False, ""), "dali", "dali"),
        (Form("h264", "yuv420p", 0, False, ""), "host", "dali"),
        (Form("hevc", "yuv420p", 0, False, ""), "host", "dali"),
        (Form("mpeg4", "yuv420p", 0, False, ""), "host", "dali"),
        (Form("h264", "yuv444p", 0, False, ""), "host", "host"),
        (Form("h264", "yuv422p", 0, False, ""), "host", "host"),
        (Form("hevc", "yuv420p10le", 0, False, ""), "host", "host"),
        (Form("mjpeg", "yuvj422p", 0, False, ""), "host", "host"),
        (Form("h264", "yuv420p", 90, False, ""), "host", "host"),
        (Form("vp9", "yuv420p", 0, True, ""), "host", "host"),
        (Form("h264", "yuv420p", 0, False, "its packets do not lie in one piece"), "host", "host"),
        (Form("pictures", "yuvj420p", 0, False, ""), "host", "host"),
        (Form("prores", "yuv422p10le", 0, False, ""), "host", "host"),
    ],
)
def test_the_decoder_of_one_video(form: Form, on_cpu: str, on_gpu: str) -> None:
    assert (decoder_of(form, on_gpu=False), decoder_of(form, on_gpu=True)) == (on_cpu, on_gpu)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of every kind: VP9, VP8 and MJPEG, H.264 in MP4, the same turned, and in MPEG-TS."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, encoder in {"a/1.webm": "libvpx-vp9", "a/2.mp4": "libx264", "b/3.webm": "libvpx"}.items():
        write_numbered(folder / name, 40, encoder=encoder)
    write_numbered(folder / "b/4.mp4", 40, encoder="libx264")
    write_matrix(folder / "b/4.mp4", -1, 0, 0, -1)
    write_numbered(folder / "b/5.avi", 40, encoder="mjpeg")
    write(folder / "b/6.ts", "libx264", **H264)
    return folder


@pytest.fixture(scope="module")
def index(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    return build_index(read_videos(folder), cache_dir=tmp_path_factory.mktemp("cache"), threads=2)


def test_what_a_run_is_told(index: VideoIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "nvdec_library", lambda: "libnvcuvid.so.1")
    for setting in ("auto", "host"):
        assert choose_decoder(index, CPU, setting)[0] == "host"
    assert "VP9 20 / 32, in 4 segments 38 / 49; MJPEG 6 / 19" in choose_decoder(index, CPU)[1]
    decoder, why = choose_decoder(index, CPU, "dali")
    assert decoder == "dali" and "3 of 6 videos" in why and "(h264 yuv420p, h264 yuv420p rotated)" in why
    decoder, why = choose_decoder(index, GPU)
    assert decoder == "dali" and "NVDEC" in why and "4 of 6 videos" in why
    assert choose_decoder(index, GPU, "host")[0] == "host"


def clips_of(index: VideoIndex, samples: EpochSamples, decoder: str, batch: int, **options: object) -> torch.Tensor:
    loader = loader_of(index, decoder=decoder, **options)
    loader.configure(samples.spec, batch)
    clips = torch.cat([b.clips_NCTHW for b in loader.epoch(samples)])
    loader.close()
    return 255 * clips


def test_a_gpu_without_nvdec_reads_videos_as_the_cpu_does(index: VideoIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers have the `video` capability only where it is asked for; DALI would blame every video."""
    monkeypatch.setattr(batch, "nvdec_library", lambda: "")
    decoder, why = choose_decoder(index, GPU)
    assert decoder == "host" and "NVIDIA_DRIVER_CAPABILITIES" in why
    with pytest.raises(UserError, match="data.decoder=dali decodes with NVDEC here, and libnvcuvid is not found"):
        choose_decoder(index, GPU, "dali")


@pytest.mark.parametrize("spec", [ClipSpec(1, 8, 2, SIDE), ClipSpec(4, 4, 1, SIDE)], ids=["consecutive", "segments"])
def test_both_decoders_in_one_batch_give_the_pictures_of_the_host_decoder(index: VideoIndex, spec: ClipSpec) -> None:
    samples = training_samples(index, spec, PLAIN, seed=0, stream="x", epoch=0, clips=12)
    found, wanted = (clips_of(index, samples, decoder, 6) for decoder in ("dali", "host"))
    error = (found - wanted).abs().flatten(1)
    on_host = torch.tensor([decoder_of(index.videos[v].form, on_gpu=False) == "host" for v in samples.videos_M])
    assert (error[on_host] == 0).all() and 0 < on_host.sum() < 12
    assert error.max() < 1.5  # grey pictures: converters of colour round differently


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    """Noise without colour that moves, as VP9 in groups of 12."""
    path = tmp_path / "v" / "a" / "grey.webm"
    path.parent.mkdir(parents=True)
    noise_HW = np.random.default_rng(0).integers(16, 236, (SIDE, SIDE + FRAMES), np.uint8)
    neutral_HW = np.full((SIDE // 2, SIDE), 128, np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25)
        stream.height, stream.width, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        stream.options = {"g": "12", "deadline": "realtime", "cpu-used": "8"}
        for number in range(FRAMES):
            planes = np.concatenate([noise_HW[:, number : number + SIDE], neutral_HW])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())
    return path


def index_of(path: Path) -> VideoIndex:
    """The one video in its folder, which needs a second class beside it to be a list."""
    write_numbered(path.parents[1] / "b" / "other.webm", 8, encoder="libvpx-vp9")
    return build_index(read_videos(path.parents[1]), cache_dir=path.parents[2] / "cache", threads=1).take([0])


@pytest.mark.parametrize("spec", [ClipSpec(1, 16, 1, SIDE), ClipSpec(4, 4, 1, SIDE)], ids=["consecutive", "segments"])
def test_cuts_of_vp9_give_the_pictures_of_a_full_decode(grey: Path, spec: ClipSpec) -> None:
    """Those of DALI on the whole file bit for bit, and those of the host decoder up to rounding in RGB."""
    index = index_of(grey)
    samples = training_samples(index, spec, PLAIN, seed=0, stream="x", epoch=0, clips=6)
    found_NCTHW = clips_of(index, samples, "dali", 4)
    pipeline = ClipPipeline(decoder="dali", device_id=None, compiled=True, max_batch=6, threads=1, augment=PLAIN)
    whole = [Cut(np.fromfile(grey, np.uint8), frames_T) for frames_T in samples.frames_MT]
    assert torch.equal(found_NCTHW, 255 * pipeline.run(whole, samples.changes, size=SIDE))
    truth_THWC = decode_clip(index.videos[0], np.arange(FRAMES)).astype(np.float32)
    wanted_NTHWC = truth_THWC[samples.frames_MT]
    error_NTHWC = np.abs(found_NCTHW.permute(0, 2, 3, 4, 1).numpy() - wanted_NTHWC)
    assert error_NTHWC.max() < 4 and error_NTHWC.mean() < 1, "two converters of colour; neighbours differ by ten"
    assert np.abs(truth_THWC[1:] - truth_THWC[:-1]).mean(axis=(1, 2, 3)).min() > 10, "frames are easily told apart"


def test_the_loader_sends_cuts(grey: Path) -> None:
    """A clip behind the first group is the same when nothing is left of that group."""
    index = index_of(grey)
    samples = evaluation_samples(index, ClipSpec(1, 8, 1, SIDE), views=1)
    assert samples.frames_MT.min() >= 12
    before = clips_of(index, samples, "dali", 1)
    table = index.videos[0].table
    assert table is not None
    content = bytearray(grey.read_bytes())
    begin, end = int(table.offset_P[0]), int(table.offset_P[11] + table.size_P[11])
    content[begin:end] = bytes(end - begin)
    grey.write_bytes(content)
    assert torch.equal(clips_of(index, samples, "dali", 1, lost=LostClips(0.0)), before)


def info_of(path: Path) -> VideoInfo:
    info = probe(path)
    assert isinstance(info, VideoInfo)
    return info


def test_views_of_one_video_are_one_pass_of_the_host_decoder(grey: Path) -> None:
    index = index_of(grey)
    for views, same in ((1, False), (2, True)):
        samples = evaluation_samples(index, ClipSpec(1, 8, 1, SIDE // 2), views=views)
        found, wanted = (clips_of(index, samples, decoder, 1) for decoder in ("dali", "host"))
        assert (found - wanted).abs().mean() < 1.5, "DALI's resize is another one"
        assert torch.equal(found, wanted) == same


def test_what_dali_is_given(folder: Path, grey: Path, tmp_path: Path) -> None:
    late_T, early_T = np.array([30, 31]), np.array([25, 39])
    cuts = [encoded_clip(info_of(grey), frames_T, drop_nonref=False) for frames_T in (late_T, early_T)]
    assert all(cut is not None and cut.encoded.nbytes < grey.stat().st_size / 2 for cut in cuts)
    assert [cut.frames_T.tolist() for cut in cuts if cut] == [[6, 7], [1, 5]]
    vp8 = encoded_clip(info_of(folder / "b/3.webm"), late_T, drop_nonref=False)
    assert vp8 is not None and vp8.encoded.tobytes() == (folder / "b/3.webm").read_bytes()
    assert vp8.frames_T.tolist() == late_T.tolist()
    assert encoded_clip(info_of(folder / "b/6.ts"), late_T, drop_nonref=False) is None
    part = replace(info_of(folder / "b/3.webm"), first=3, frames=20)
    in_part = encoded_clip(part, late_T - 25, drop_nonref=False)
    assert in_part is not None and in_part.frames_T.tolist() == [8, 9]
    write(b_frames := tmp_path / "b.mp4", "libx264", **H264, bf="3")
    full, sparse = (encoded_clip(info_of(b_frames), early_T, drop_nonref=drop) for drop in (False, True))
    assert full is not None and sparse is not None and sparse.encoded.nbytes < full.encoded.nbytes
    grey_info, content = info_of(grey), grey.read_bytes()
    grey.write_bytes(content + b"more")
    with pytest.raises(DecodeError, match=r"grey.webm: the file has changed"):
        encoded_clip(grey_info, late_T, drop_nonref=False)
