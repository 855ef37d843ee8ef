"""The embedded task is what it says: twelve motions, told apart by motion only, the same every time."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from fastplan.data.decode import decode_clip
from fastplan.data.index import probe
from fastplan.data.synthetic import CLASSES, FRAMES, SIZE_PX, TASKS, TaskSpec, make_task, render, write_grey

QUIET = TaskSpec(1, 1, 1, sprites=1, noise=0.0, clutter=0.0)


def mean_step(video_THW, first: int, last: int) -> tuple[float, float]:
    """Mean motion (rows, columns) per frame between two frames, by phase correlation, in a world that wraps around."""
    steps = []
    for t in range(first, last):
        a, b = (np.fft.fft2(video_THW[k] - video_THW[k].mean()) for k in (t, t + 1))
        correlation = np.fft.ifft2(a.conj() * b).real
        row, column = np.unravel_index(correlation.argmax(), correlation.shape)
        steps.append([(row + SIZE_PX // 2) % SIZE_PX - SIZE_PX // 2, (column + SIZE_PX // 2) % SIZE_PX - SIZE_PX // 2])
    rows, columns = np.mean(steps, axis=0)
    return float(rows), float(columns)


@pytest.mark.parametrize("label", range(12))
def test_sprites_move_as_their_class_says(label):
    heading = {"right": (0, 1), "left": (0, -1), "up": (-1, 0), "down": (1, 0)}
    video_THW = render(label, np.random.default_rng(label), QUIET).astype(float)
    assert video_THW.shape == (FRAMES, SIZE_PX, SIZE_PX)
    early, late = mean_step(video_THW, 0, 20), mean_step(video_THW, 44, 63)
    name = CLASSES[label]
    if name.startswith(("speed-up", "slow-down")):
        along = np.array(heading[name.rsplit("-", 1)[1]])
        slow, fast = (early, late) if name.startswith("speed-up") else (late, early)
        assert np.dot(slow, along) > 0.4
        assert np.dot(fast, along) > 1.5 * np.dot(slow, along)
    else:
        first, last = (name.split("-") * 2)[:2]
        assert np.dot(early, heading[first]) > 0.9
        assert np.dot(late, heading[last]) > 0.9


def test_videos_are_pure_functions_of_their_seed():
    spec = TASKS["default"]
    first, again = (render(3, np.random.default_rng([0, 1, 2]), spec) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, render(3, np.random.default_rng([0, 1, 3]), spec))


def test_bytes_do_not_depend_on_what_lies_in_memory(tmp_path):
    """An encoder that reads what nobody has written gives other bytes where memory is filled with other values."""
    code = """
import hashlib, pathlib, sys, numpy as np
from fastplan.data.synthetic import TASKS, render, write_grey
file = pathlib.Path(sys.argv[1])
for number in range(12):
    write_grey(file, render(number, np.random.default_rng((0, 2, number)), TASKS["default"]))
    print(hashlib.sha256(file.read_bytes()).hexdigest())
"""
    found = set()
    for filling in ("0", "85", "255"):
        words = [sys.executable, "-c", code, str(tmp_path / "a.mp4")]
        environment = {**os.environ, "MALLOC_PERTURB_": filling}
        found.add(subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1 and len(set(found.pop().split())) == 12


def test_the_folder_appears_whole_and_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "tiny", TaskSpec(train=24, val=12, test=12, sprites=2, noise=4.0, clutter=8.0))
    made = []
    folder = make_task("tiny", tmp_path, workers=2, on_video=lambda: made.append(1))
    assert len(made) == 48
    assert sorted(p.name for p in (folder / "train").iterdir()) == sorted(CLASSES)
    assert len(list((folder / "train").rglob("*.mp4"))) == 24
    assert [p.name for p in tmp_path.iterdir()] == [folder.name], "no temporary folder is left"
    assert make_task("tiny", tmp_path, workers=1, on_video=lambda: made.append(1)) == folder
    assert len(made) == 48


def test_a_video_is_encoded_to_the_same_bytes_every_time(tmp_path):
    """Many times over, in processes that have encoded before: a rounding that depended on memory was found this way."""
    video_THW = render(3, np.random.default_rng(0), TASKS["default"])
    digests = set()
    for number in range(12):
        file = tmp_path / f"{number}.mp4"
        write_grey(file, video_THW)
        digests.add(hashlib.sha256(file.read_bytes()).hexdigest())
    assert len(digests) == 1
    decoded_THW = decode_clip(probe(file), np.arange(FRAMES))[..., 0].astype(float)
    assert np.sqrt(np.mean((decoded_THW - video_THW) ** 2)) < 5.0
