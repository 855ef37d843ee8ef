"""Damaged files: probing says what is wrong, decoding gives right-shaped frames or a DecodeError; nothing crashes.

Probing and decoding run in a process of its own, so that a crash or a hang of FFmpeg fails one test with the name of
the file instead of taking the run with it.
"""

import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_decode_exact import H264, VP9, sequential, write

from fastplan.data.decode import DecodeError, decode_clip
from fastplan.data.index import BadVideo, VideoInfo, probe

LIMIT_S = 120
KINDS = ["bit flips", "truncated", "header of another file", "hole", "wrong extension", "damaged after probing"]
SOURCES = {
    "a.mp4": ("libx264", {**H264, "bf": "2"}),
    "b.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "c.webm": ("libvpx-vp9", VP9),
    "d.mkv": ("libx264", H264),
    "e.ts": ("libx264", H264),
}
PER_KIND = 10  # mutations of each source: 6 x 5 x 10 = 300 files


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name, (encoder, options) in SOURCES.items():
        write(folder / name, encoder, frames=26, **options)
    return folder


def mutate(kind: str, whole: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(whole)
    if kind in ("bit flips", "damaged after probing"):
        for at in rng.integers(0, len(data), int(rng.integers(1, 40))):
            data[at] ^= 1 << int(rng.integers(8))
    elif kind == "truncated":
        del data[int(rng.integers(0, len(data))) :]
    elif kind == "header of another file":
        end = int(rng.integers(8, 800))
        data[:end] = other[:end]
    elif kind == "hole":
        begin = int(rng.integers(0, len(data)))
        end = min(begin + int(rng.integers(1, 3000)), len(data))
        data[begin:end] = bytes(end - begin)
    return bytes(data)


def files(kind: str, sources: Path, folder: Path) -> Iterator[tuple[Path, bytes]]:
    rng = np.random.default_rng(KINDS.index(kind))
    names = list(SOURCES)
    for number, name in enumerate(names):
        whole, other = ((sources / names[k % len(names)]).read_bytes() for k in (number, number + 1))
        for repeat in range(PER_KIND):
            suffix = Path(names[(number + repeat) % len(names)] if kind == "wrong extension" else name).suffix
            yield folder / f"{number}-{repeat}{suffix}", mutate(kind, whole, other, rng)


def read_all(kind: str, sources: Path, folder: Path, log: Path) -> None:
    """Probe and decode every mutated file; each file's outcome is a line of the log."""
    with log.open("w", buffering=1) as lines:
        for path, content in files(kind, sources, folder):
            lines.write(f"{path.name} ")
            late = kind == "damaged after probing"
            path.write_bytes((sources / f"{'abcde'[int(path.name[0])]}{path.suffix}").read_bytes() if late else content)
            found = probe(path)
            if late:
                path.write_bytes(content)
            if isinstance(found, BadVideo):
                assert found.reason
                lines.write("bad\n")
                continue
            lines.write(f"{outcome(found, changed=late)}\n")


def outcome(found: VideoInfo, *, changed: bool) -> str:
    """What decoding gives; where the file is as it was probed, the frames are those of a sequential decode."""
    frames_T = np.array([found.frames - 1, 0, found.frames // 2, found.frames // 2])
    try:
        clip_THWC = decode_clip(found, frames_T)
    except DecodeError as error:
        assert found.path in str(error)
        return "error"
    assert clip_THWC.shape == (4, found.height, found.width, 3) and clip_THWC.dtype == np.uint8
    if not changed:
        truth = sequential(Path(found.path))
        assert len(truth) == found.frames
        assert all((picture == truth[i]).all() for i, picture in zip(frames_T, clip_THWC, strict=True))
    return "good"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_mutated_file_crashes_or_hangs(kind: str, sources: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    process = multiprocessing.get_context("spawn").Process(target=read_all, args=(kind, sources, tmp_path, log))
    process.start()
    process.join(LIMIT_S)
    hung = process.is_alive()
    if hung:
        process.kill()
        process.join()
    lines = log.read_text().splitlines()
    last = lines[-1] if lines else "nothing"
    assert not hung, f"more than {LIMIT_S} s, at {last}"
    assert process.exitcode == 0, f"exit status {process.exitcode} at {last}"
    outcomes = [line.split()[1] for line in lines]
    assert len(outcomes) == len(SOURCES) * PER_KIND
    if kind == "wrong extension":
        assert set(outcomes) == {"good"}  # containers are known by their content
    elif kind == "truncated":
        assert outcomes.count("bad") >= len(SOURCES)  # an MP4 without its index cannot be read at all


def test_what_is_no_video_is_bad_with_a_reason(tmp_path: Path, sources: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.avi").write_text("not a video\n" * 100)
    shutil.copy(sources / "a.mp4", tmp_path / "good.mp4")
    reasons = {name: probe(tmp_path / name) for name in ("folder.mp4", "empty.mp4", "text.avi", "gone.mp4", "good.mp4")}
    assert isinstance(reasons.pop("good.mp4"), VideoInfo)
    wanted = {"folder.mp4": "a folder", "empty.mp4": "cannot be", "text.avi": "cannot be", "gone.mp4": "no such file"}
    for name, bad in reasons.items():
        assert isinstance(bad, BadVideo) and wanted[name] in bad.reason, bad
