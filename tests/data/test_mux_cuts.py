"""Cuts decode to the frames they were cut for: by FFmpeg for every codec, by DALI where it decodes without a GPU."""

import io
from pathlib import Path

import av
import numpy as np
import nvidia.dali as dali  # noqa: TID251
import pytest
from nvidia.dali import fn  # noqa: TID251
from test_decode_exact import MADE, REAL, clips_of, write

from fastplan.data.index import VideoInfo, probe
from fastplan.data.mux import Cutter

CUT = [name for name, (encoder, way, _) in MADE.items() if way == "packets" and encoder != "libvpx"]
# Without mmaction2__test.avi, of which a plain decode loses a picture that a cut has.
SMALL = [p for p in REAL if p.stat().st_size < 700_000 and p.name != "mmaction2__test.avi"]


def planes(frame: av.VideoFrame) -> bytes:
    """What is seen of every plane, before any conversion of colour."""
    seen = []
    for plane, component in zip(frame.planes, frame.format.components, strict=False):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        seen.append(rows[:, : plane.width * ((component.bits + 7) // 8)].tobytes())
    return b"".join(seen)


def decoded(source: str | io.BytesIO) -> list[bytes]:
    with av.open(source, metadata_errors="replace") as container:
        container.streams.video[0].thread_type = "NONE"
        return [planes(frame) for frame in container.decode(video=0)]


def cutter_of(path: Path) -> Cutter:
    info = probe(path)
    assert isinstance(info, VideoInfo)
    assert info.table is not None
    return Cutter(info.place, info.table)


def assert_cuts_equal(path: Path, truth: list[bytes]) -> None:
    cutter = cutter_of(path)
    for frames_T in clips_of(len(truth)):
        if cutter.table.coding.prime and cutter.table.runs(frames_T)[0].start:
            with pytest.raises(ValueError, match="depend on the first packet"):
                cutter.cut(frames_T)
            continue
        for drop_nonref in (False, True):
            cut = cutter.cut(frames_T, drop_nonref=drop_nonref)
            pictures = decoded(io.BytesIO(cut.encoded.tobytes()))
            assert all(pictures[place] == truth[i] for place, i in zip(cut.frames_T, frames_T, strict=True))


@pytest.mark.parametrize("name", CUT)
def test_cuts_of_made_files_equal_a_sequential_decode(name: str, tmp_path: Path) -> None:
    encoder, _, options = MADE[name]
    path = tmp_path / name
    write(path, encoder, **options)
    assert_cuts_equal(path, decoded(str(path)))


def test_a_codec_that_mp4_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vp8.webm"
    write(path, "libvpx", deadline="realtime", cpu_used="8")
    with pytest.raises(ValueError, match="does not support"):
        cutter_of(path).cut(np.arange(4))


def test_a_cut_holds_only_the_groups_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write(path, "libx264", preset="veryfast", g="10", bf="0")
    cut = cutter_of(path).cut(np.arange(43, 46))
    assert len(decoded(io.BytesIO(cut.encoded.tobytes()))) == 6 and cut.frames_T.tolist() == [3, 4, 5]
    assert cut.encoded.nbytes < path.stat().st_size / 3


@pytest.mark.parametrize("name", ["vp9.webm", "mjpeg.avi", "mjpeg.mkv"])
def test_dali_decodes_cuts_as_it_decodes_the_whole_file(name: str, tmp_path: Path) -> None:
    encoder, _, options = MADE[name]
    path = tmp_path / name
    write(path, encoder, **options)
    pipeline = dali.Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1, exec_dynamic=True)
    with pipeline:
        encoded, frames = fn.external_source(name="encoded"), fn.external_source(name="frames")
        pipeline.set_outputs(fn.decoders.video(encoded, frames=frames, device="cpu", pad_mode="none"))
    pipeline.build()

    def run(encoded: np.ndarray, frames_T: np.ndarray) -> np.ndarray:
        (clip,) = pipeline.run(encoded=[encoded], frames=[frames_T.astype(np.int32)])
        return np.array(clip.at(0))

    cutter = cutter_of(path)
    whole = np.fromfile(path, np.uint8)
    for frames_T in clips_of(len(cutter.table.row_R)):
        cut = cutter.cut(frames_T)
        assert (run(cut.encoded, cut.frames_T) == run(whole, frames_T)).all(), frames_T


@pytest.mark.skipif(not REAL, reason="no folder of real videos beside the checkout (FASTPLAN_SHARED)")
@pytest.mark.parametrize("path", SMALL, ids=lambda p: p.name)
def test_cuts_of_real_files_equal_a_sequential_decode(path: Path) -> None:
    assert_cuts_equal(path, decoded(str(path)))
