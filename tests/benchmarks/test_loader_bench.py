"""The loader's benchmark: it refuses to time what differs, counts the processors of whole trees, and prints a table."""

import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from rich.console import Console

from fastplan.benchmarks import bench_loader, bound, contest, loader_page, peers, quick, switching, videos
from fastplan.benchmarks.bench_memory import WARM_UP, growth_of
from fastplan.benchmarks.cost import measured
from fastplan.benchmarks.jobs import AUGMENT, jobs_of
from fastplan.clips import ClipSpec
from fastplan.config import NetworkConfig, RunConfig
from fastplan.data.index import VideoIndex, build_index
from fastplan.data.lists import read_videos
from fastplan.data.sampling import training_samples
from fastplan.data.synthetic import write_grey
from fastplan.errors import UserError
from fastplan.planner.states import State
from fastplan.train.precision import Precision
from numbered_videos import read_numbers

TINY = contest.Plan(videos.ENCODINGS[:1], contest.REGIMES[1:2], files=2, repeats=1, budget_s=0.01, least=1)


@pytest.fixture(scope="module")
def index(numbered: Path, tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    return build_index(read_videos(numbered), cache_dir=tmp_path_factory.mktemp("cache"), threads=2)


def test_a_row_is_measured_for_ours_for_decoding_alone_and_for_every_peer(tmp_path, monkeypatch):
    open_all = [peers.Way("PyAV", "all", peers.pyav_frames, keeps=True)]
    found = {"PyAV": peers._PEERS["PyAV"], "more": (lambda: open_all, ""), "gone": (_missing, "pip install it")}
    monkeypatch.setattr(peers, "_PEERS", found)
    (row,), missing = bench_loader.rows_of(TINY, None, tmp_path, Console(stderr=True))
    assert set(row.times) == {"fastplan", "decoding alone", "PyAV", "PyAV + DataLoader", "PyAV, kept open"}
    assert row.best_peer() in ("PyAV", "PyAV + DataLoader") and row.best_kept() == "PyAV, kept open"
    assert 0 < row.cpu_ms("decoding alone") < row.cpu_ms("fastplan")
    assert row.cpu_ms("PyAV + DataLoader") > row.cpu_ms("decoding alone"), "the work of other processes counts"
    assert "pip install it" in missing["gone"]
    table = loader_page.table([row])
    assert table.splitlines()[2].startswith("| H.264, GOP 12 | 4 segments of 4 | 4 |")
    assert "pip install it" in loader_page.explained([row], missing)


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


def test_switching_counts_the_clips_of_every_regime(index, monkeypatch):
    monkeypatch.setattr(switching, "ITERATIONS", 2)
    batches = [batch for _, batch in switching.REGIMES for _ in range(2)]
    spec, _ = switching.REGIMES[0]
    samples = training_samples(index, spec, AUGMENT, seed=0, stream="s", epoch=0, clips=sum(batches))
    assert list(switching._ours(index, samples)) == batches
    parts = list(switching._jobs_by_regime(index, samples))
    assert [size for size, jobs in parts for _ in range(2) if len(jobs) == 2 * size] == batches
    frames = [list(job.frames) for _, jobs in parts for job in jobs]
    under = [samples.under(spec).frames_MT.tolist() for spec, _ in switching.REGIMES]
    places = np.cumsum([0] + [len(jobs) for _, jobs in parts])
    assert frames == [under[k][place] for k in range(len(parts)) for place in range(places[k], places[k + 1])]


def test_the_page_of_switching_says_how_far_ahead_and_why_not_further():
    results = [switching.Result(*row) for row in (("fastplan", 60, 10, 30, 20), ("PyAV", 40, 15.5, 300, 30))]
    page = switching.page(results)
    assert "| fastplan | 60.0 (60.0-60.0) | 10.0 (10.0-10.0) | 30 ms | 20 ms | 1 |" in page
    assert "Ours gives 1.5 times the clips of PyAV, the best peer.\n2 times was the aim." in page
    assert "10.0 against 15.5 CPU ms" in page
    assert "was the aim" not in switching.page([results[0], switching.Result("PyAV", 29, 15.5, 300, 30)])


def row_of(ours: float, floor: float, peer: float, kept: float | None = None) -> contest.Row:
    costs = {contest.OURS: ours, contest.FLOOR: floor, "decord": peer}
    costs |= {} if kept is None else {f"PyAV{peers.KEPT_OPEN}": kept}
    times = {name: [(1.0, ms)] for name, ms in costs.items()}
    return contest.Row("H.264, GOP 12", "16 consecutive", 4, times=times)


def test_a_row_behind_its_aim_is_explained_by_what_decoding_alone_takes():
    assert "aim" not in loader_page.explained([row_of(6.9, 5.0, 10.0)], {})
    page = loader_page.explained([row_of(8.0, 5.0, 10.0), row_of(8.5, 7.5, 10.0)], {})
    assert "0.80 of decord, where 0.7 was the aim; decoding the packets that cannot be left out takes 0.50" in page
    assert "which leaves 2.0 ms a clip for cropping, scaling, colours and threads, and they take 3.0." in page
    assert "0.85 of decord, where 0.7 was the aim, which cannot be had with this decoder" in page


def test_peers_that_keep_every_video_open_stand_apart():
    rows = [row_of(6.9, 5.0, 10.0, kept=5.0), row_of(11.0, 5.0, 10.0, kept=22.0), row_of(6.0, 5.0, 10.0)]
    assert [line.split(" | ")[-2:] for line in loader_page.table(rows).splitlines()[2:]] == [
        ["**0.69** decord", "1.38 PyAV |"],
        ["**1.10** decord", "0.50 PyAV |"],
        ["**0.60** decord", "- |"],
    ]
    page = loader_page.explained(rows, {})
    assert "0.69" not in page, "its aim is met"
    assert "Ahead of every peer on 2 of 3 rows; of those kept open on 1 of 2." in page


def test_what_bounds_is_said_in_one_sentence(index):
    slow = bound.Bound("a", 400.0, 16, 650.0, 16, 1.62).sentence
    assert slow == (
        "decode-bound: the loader gives 400 clips/s in batches of 16, the network takes 650 in steps of 16 (state a); "
        "short side 256 and GOP 12 would give about 1.6x"
    )
    assert bound.Bound("a", 400.0, 16, 9.5, 2, 1.6).sentence == (
        "network-bound: the loader gives 400 clips/s in batches of 16, the network takes 9.5 in steps of 2 (state a); "
        "faster reading would change nothing"
    )
    samples = training_samples(index, ClipSpec(1, 16, 1, 24), AUGMENT, seed=0, stream="x", epoch=0)
    assert 1.0 <= bound.gain_of(index, samples) < 3.0, "48 pixels cannot shrink, and 16 of at most 200 frames are read"


@pytest.fixture
def slowest(tmp_path) -> VideoIndex:
    """Two classes of one video each whose pictures are large and hard to tell beforehand."""
    noise_THW = np.random.default_rng(0).integers(0, 255, (16, 480, 640), np.uint8)
    for name in "ab":
        (tmp_path / name).mkdir()
        write_grey(tmp_path / name / "v.mp4", noise_THW, encoder="libx264")
    return build_index(read_videos(tmp_path), cache_dir=tmp_path / "cache", threads=2)


def test_large_pictures_bound_a_small_network_and_small_ones_are_bound_by_a_large_one(slowest, index):
    """Real videos, loaders and networks, in the batches of the state; either side is an order of magnitude ahead."""
    config = RunConfig(device="cpu", network=NetworkConfig(name="dg_p3d_tiny"))
    reading = bound.measure(slowest, State("s", ClipSpec(1, 8, 1, 24), 0.1, batch_size=8), config, seconds=2)
    assert reading.sentence.startswith("decode-bound: ") and reading.batch == 8
    assert 0 < 10 * reading.loader < reading.network
    config = RunConfig(device="cpu", network=NetworkConfig(name="dg_p3d_50"))
    training = bound.measure(index, State("s", ClipSpec(1, 16, 1, 64), 0.1, batch_size=12), config, seconds=2)
    assert training.sentence.startswith("network-bound: ") and training.batch == 12
    assert 0 < 10 * training.network < training.loader


def test_the_first_step_of_a_network_does_not_count():
    class Late(torch.nn.Linear):
        seen: ClassVar[set[int]] = set()

        def forward(self, clips):
            time.sleep(0.02 if len(clips) in self.seen else 1.5)
            self.seen.add(len(clips))
            return (super().forward(clips),)

    fp32 = Precision("fp32", torch.device("cpu"), "")
    rate, step = bound.network_rate(Late(4, 2), torch.zeros(16, 4), fp32, seconds=8)
    assert step == 16 and 400 < rate < 16 / 0.02, "a batch in 20 ms, not in 1.5 s"
    Late.seen.clear()
    rate, step = bound.network_rate(Late(4, 2), torch.zeros(16, 4), fp32, seconds=0.1)
    assert step == 2 and 40 < rate < 2 / 0.02, "no time for more, and still not the first step"


def test_a_part_that_takes_too_long_is_stopped_and_the_sentence_comes_last(capfd):
    sentence = quick.Part("help", "bound", ("--help",), 1.0)
    endless, long = quick.Part("memory", "bench_memory", (), 0.0), quick.Part("index", "bench_index", (), 1e3)
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "fastplan.benchmarks.bound", "--help"], check=True, capture_output=True)
    start_s = time.perf_counter() - begun  # on a busy machine longer than any limit that one would write here
    assert quick.run(sentence, (endless, long), None, limit_s=quick._LAST_S + 3 * start_s + 2) == 0
    output = capfd.readouterr().out
    assert output.startswith("memory: stopped, it took too long: fastplan bench memory\n\nindex: left out, too little")
    assert output.index("kernels: not measured") < output.index("usage: fastplan bench bound")


def test_the_last_line_says_what_bounds_this_machine(numbered, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sentence = quick.SENTENCE._replace(words=("--seconds", "0.5", "--state-graph", "tiny"))
    assert quick.run(sentence, (), str(numbered), limit_s=60.0) == 0
    last = capfd.readouterr().out.strip().splitlines()[-1]
    assert re.match(r"(decode|network)-bound: the loader gives [0-9.]+ clips/s .* takes [0-9.]+ in steps of \d+ ", last)
    assert quick.run(sentence, (), str(numbered / "gone"), limit_s=60.0) == 2
    assert "there is no data at" in capfd.readouterr().err


def test_a_video_that_is_not_there_is_a_users_line(tmp_path, capsys):
    assert bench_loader.main(["--quick", "--data", str(tmp_path / "none.mp4")]) == 2
    assert capsys.readouterr().err.strip().endswith("none.mp4 (--data)")
