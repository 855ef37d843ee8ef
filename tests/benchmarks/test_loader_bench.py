"""The loader's benchmark: it refuses to time what differs, counts the processors of whole trees, and prints a table."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fastplan.benchmarks import bench_loader, bound, peers, switching, videos
from fastplan.benchmarks.bench_memory import WARM_UP, growth_of
from fastplan.benchmarks.cost import measured
from fastplan.benchmarks.jobs import AUGMENT, jobs_of
from fastplan.clips import ClipSpec
from fastplan.data.index import VideoIndex, build_index
from fastplan.data.lists import read_videos
from fastplan.data.sampling import training_samples
from fastplan.errors import UserError
from numbered_videos import read_numbers

TINY = bench_loader.Plan(videos.ENCODINGS[:1], bench_loader.REGIMES[1:2], files=2, repeats=1, budget_s=0.01)


@pytest.fixture(scope="module")
def index(numbered: Path, tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    return build_index(read_videos(numbered), cache_dir=tmp_path_factory.mktemp("cache"), threads=2)


def test_a_row_is_measured_for_ours_for_decoding_alone_and_for_every_peer(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "_PEERS", {"PyAV": peers._PEERS["PyAV"], "gone": (lambda: _missing(), "pip install it")})
    (row,), missing = bench_loader.rows_of(TINY, None, tmp_path, Console(stderr=True))
    assert set(row.times) == {"fastplan", "decoding alone", "PyAV", "PyAV + DataLoader"}
    assert 0 < row.cpu_ms("decoding alone") < row.cpu_ms("fastplan")
    assert row.cpu_ms("PyAV + DataLoader") > row.cpu_ms("decoding alone"), "the work of other processes counts"
    assert "pip install it" in missing["gone"]
    table = bench_loader._table([row])
    assert table.splitlines()[2].startswith("| H.264, GOP 12 | 4 segments of 4 | 4 |")
    assert "pip install it" in bench_loader._explained([row], missing)


def _missing() -> list[peers.Way]:
    raise ImportError("No module named 'gone'")


def test_a_peer_that_gives_other_frames_is_left_out(tmp_path, monkeypatch):
    def late(job: peers.Job) -> peers.Frames:
        return peers.pyav_frames(replace(job, frames=tuple(max(frame - 1, 0) for frame in job.frames)))

    wrong = [peers.Way("late", "one frame", late)]
    monkeypatch.setattr(peers, "_PEERS", {"late": (lambda: wrong, ""), "PyAV": peers._PEERS["PyAV"]})
    (row,), _ = bench_loader.rows_of(TINY, None, tmp_path, Console(stderr=True))
    assert "late" not in row.times and any(note.startswith("late (one frame) left out: picture") for note in row.notes)
    monkeypatch.setattr(peers, "_PEERS", {"late": (lambda: wrong, "")})
    with pytest.raises(UserError, match="no peer gives the same clips"):
        bench_loader.rows_of(TINY, None, tmp_path, Console(stderr=True))


def test_peers_are_asked_for_the_frames_of_the_plan(index):
    samples = training_samples(index, ClipSpec(2, 3, 1, 24), AUGMENT, seed=3, stream="x", epoch=0)
    for job, frames_T in zip(jobs_of(index, samples, 24), samples.frames_MT, strict=True):
        assert read_numbers(peers.pyav_frames(job)[..., 0].astype(np.float32)) == frames_T.tolist()


def test_the_same_videos_are_the_same_bytes(tmp_path):
    made = [videos.make(videos.ENCODINGS[5], None, tmp_path / name, 1, lambda: None) for name in "ab"]
    first, second = (next(folder.glob("a/*.avi")).read_bytes() for folder in made)
    assert first == second
    assert videos.make(videos.ENCODINGS[5], None, tmp_path / "a", 1, lambda: None) == made[0]
    with pytest.raises(UserError, match="there is no video"):
        videos.make(videos.ENCODINGS[5], tmp_path / "none.mp4", tmp_path, 1, lambda: None)


def test_cpu_time_includes_children_that_live_and_that_ended():
    spin = "import time\nwhile time.process_time() < 0.6: pass\nprint('done', flush=True)\nimport sys; sys.stdin.read()"
    with measured() as cost:
        child = subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline() == b"done\n"
    assert 0.55 < cost.cpu_s < 1.5 and cost.wall_s > 0.5
    with measured() as cost:
        child.communicate(b"")
        time.sleep(0.01)
    assert 0 <= cost.cpu_s < 0.3, "what a child used before it ended is not counted again"


def test_growth_is_that_behind_the_warm_up():
    mib = np.concatenate([np.linspace(100, 300, WARM_UP), np.full(1600, 300.0)])
    assert growth_of(mib) == 0
    mib[WARM_UP:] += np.linspace(0, 30, 1600)
    assert growth_of(mib) == pytest.approx(22.5 / 303.75, rel=0.01)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the usual way of a DataLoader is to fork")
def test_switching_counts_the_clips_of_every_regime(index, monkeypatch):
    monkeypatch.setattr(switching, "ITERATIONS", 2)
    plans = [
        training_samples(index, spec, AUGMENT, seed=0, stream="s", epoch=k, clips=2 * batch)
        for k, (spec, batch) in enumerate(switching.REGIMES)
    ]
    assert sum(switching._ours(index, plans)) == sum(2 * batch for _, batch in switching.REGIMES)


def test_what_bounds_is_said_in_one_sentence(index):
    slow = bound.Bound("a", 400.0, 650.0, 1.62).sentence
    assert slow == (
        "decode-bound: 400 clips/s against the network's 650 in state a; "
        "short side 256 and GOP 12 would give about 1.6x (estimated)"
    )
    assert bound.Bound("a", 400.0, 10.0, 1.6).sentence.startswith("network-bound: 10.0 clips/s")
    samples = training_samples(index, ClipSpec(1, 16, 1, 24), AUGMENT, seed=0, stream="x", epoch=0)
    assert 1.0 <= bound.gain_of(index, samples) < 3.0, "48 pixels cannot shrink, and 16 of at most 200 frames are read"


def test_a_video_that_is_not_there_is_a_users_line(tmp_path, capsys):
    assert bench_loader.main(["--quick", "--data", str(tmp_path / "none.mp4")]) == 2
    assert capsys.readouterr().err.strip().endswith("none.mp4 (--data)")
