"""The embedded task: small encoded videos whose class shows only in their motion.

64 frames of 48 x 48, grey, in a world that wraps around at its edges: a static smooth background and three textured
sprites that move together. Twelve classes: four directions; four orders of two opposite directions that switch near
the middle; four orders of speed (slow-fast and fast-slow, to the right and to the left). No class shows in a single
frame, nor in background, size or texture. The videos are real H.264 files, made once and kept in the user's cache.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from fastplan.data.cache import make_cache

CLASSES = (
    *("right", "left", "up", "down"),
    *("right-left", "left-right", "up-down", "down-up"),
    *("speed-up-right", "slow-down-right", "speed-up-left", "slow-down-left"),
)
FRAMES = 64
SIZE_PX = 48

_FORMAT = 5  # raise it whenever the pictures change
_HEADINGS = {"right": (0, 1), "left": (0, -1), "up": (-1, 0), "down": (1, 0)}
_PATCH = 17  # side of the square in which a sprite is drawn, in pixels
# preset and tune: 2.6 ms a clip, not 4.1. mbtree: with it x264 reads memory that nobody has written where pictures are
# this small, and gives other bytes from one time to the next.
_ENCODER = {"crf": "18", "g": "12", "preset": "veryfast", "tune": "fastdecode", "mbtree": "0"}


@dataclass(frozen=True)
class TaskSpec:
    """How many videos and how hard: sprites, noise and clutter are in grey levels of 255."""

    train: int
    val: int
    test: int
    sprites: int
    noise: float
    clutter: float
    seed: int = 0


TaskName = Literal["default", "tiny"]

TASKS: dict[TaskName, TaskSpec] = {
    "default": TaskSpec(train=960, val=360, test=360, sprites=3, noise=5.0, clutter=10.0),
    "tiny": TaskSpec(train=96, val=48, test=48, sprites=5, noise=4.0, clutter=8.0),
}


def task_folder(name: TaskName, cache_dir: Path) -> Path:
    """Where a task's videos are, once they are made: `train`, `val` and `test`, each a folder per class."""
    return cache_dir / f"embedded-{name}-v{_FORMAT}"


def make_task(name: TaskName, cache_dir: Path, *, workers: int, on_video: Callable[[], None] = lambda: None) -> Path:
    """Make the videos of a task where they are missing; returns `task_folder`, which appears when it is complete.

    on_video: called once per video made.
    """
    spec, folder = TASKS[name], task_folder(name, cache_dir)
    if folder.exists():
        return folder
    make_cache(cache_dir)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=cache_dir))
    try:
        jobs = []
        for part, split in enumerate(("train", "val", "test")):
            for number in range(getattr(spec, split)):
                label = number % len(CLASSES)
                file = partial / split / CLASSES[label] / f"{number:05d}.mp4"
                file.parent.mkdir(parents=True, exist_ok=True)
                jobs.append((file, label, (spec.seed, part, number), spec))
        with ProcessPoolExecutor(max(workers, 1), mp_context=get_context("spawn")) as pool:
            for _ in pool.map(_make_file, jobs, chunksize=16):
                on_video()
        (partial / "task.json").write_text(json.dumps({"format": _FORMAT, **asdict(spec)}), encoding="utf-8")
        try:
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # else another process has finished first; both made the same videos
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def render(label: int, rng: np.random.Generator, spec: TaskSpec) -> npt.NDArray[np.uint8]:
    """One video of class `label` as uint8 grey [FRAMES, SIZE_PX, SIZE_PX]."""
    video_THW = np.repeat(_background(rng, spec.clutter)[None], FRAMES, axis=0)
    path_T2 = _path(label, rng)
    corner_T2 = np.floor(path_T2).astype(np.int64)
    sprite_TPP, mask_TPP = _sprite(rng, path_T2 - corner_T2)
    time_T11 = np.arange(FRAMES)[:, None, None]
    for place_2 in rng.integers(0, SIZE_PX, (spec.sprites, 2)):
        rows = (corner_T2[:, :1] + place_2[0] + np.arange(_PATCH)) % SIZE_PX
        columns = (corner_T2[:, 1:] + place_2[1] + np.arange(_PATCH)) % SIZE_PX
        where = (time_T11, rows[:, :, None], columns[:, None, :])
        video_THW[where] += mask_TPP * (sprite_TPP - video_THW[where])
    video_THW += rng.standard_normal(video_THW.shape) * spec.noise
    return np.clip(video_THW, 0, 255).astype(np.uint8)


def _background(rng: np.random.Generator, clutter: float) -> npt.NDArray[np.float64]:
    smooth = gaussian_filter(rng.standard_normal((SIZE_PX, SIZE_PX)), rng.uniform(1.5, 3.0), mode="wrap")
    return rng.uniform(100, 150) + clutter * smooth / smooth.std()


def _path(label: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Place (row, column) of the sprites in every frame, in pixels, with a slight sideways drift."""
    speed, drift = rng.uniform(1.2, 2.1), rng.uniform(-0.2, 0.2)
    switch = int(rng.integers(FRAMES // 2 - 8, FRAMES // 2 + 9))
    late_T = np.arange(FRAMES) >= switch
    name = CLASSES[label]
    if name.startswith(("speed-up", "slow-down")):
        slow_T = late_T if name.startswith("slow-down") else ~late_T
        headings = [name.rsplit("-", 1)[1]] * 2
        factor_T = np.where(slow_T, 0.55, 1.3)
    else:
        headings = (name.split("-") * 2)[:2]
        factor_T = np.ones(FRAMES)
    along_T2 = np.where(late_T[:, None], _HEADINGS[headings[1]], _HEADINGS[headings[0]])
    across_T2 = np.abs(along_T2[:, ::-1])
    step_T2 = (along_T2 * speed + across_T2 * drift) * factor_T[:, None]
    return rng.uniform(0, SIZE_PX, 2) + np.cumsum(step_T2, axis=0)


def _sprite(
    rng: np.random.Generator, fraction_T2: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Grey values and coverage [T, P, P] of a disc or square, texture and outline moved by fractions of a pixel."""
    grid = np.arange(_PATCH) - (_PATCH - 1) / 2
    y_TPP = (grid[None, :, None] - fraction_T2[:, 0, None, None]) + np.zeros((1, 1, _PATCH))
    x_TPP = (grid[None, None, :] - fraction_T2[:, 1, None, None]) + np.zeros((1, _PATCH, 1))
    distance = np.hypot(y_TPP, x_TPP) if rng.integers(2) else np.maximum(abs(y_TPP), abs(x_TPP))
    mask_TPP = np.clip(rng.uniform(5.5, 7.5) + 0.5 - distance, 0, 1)
    texture = np.zeros_like(y_TPP)
    for _ in range(3):
        wave, phase = rng.uniform(-0.9, 0.9, 2), rng.uniform(0, 2 * np.pi)
        texture += np.cos(wave[0] * y_TPP + wave[1] * x_TPP + phase)
    return 125 + rng.choice([-1, 1]) * rng.uniform(40, 75) + 16 * texture, mask_TPP


def _make_file(job: tuple[Path, int, tuple[int, ...], TaskSpec]) -> None:
    file, label, seed, spec = job
    write_grey(file, render(label, np.random.default_rng(seed), spec))


def write_grey(file: Path, video_THW: npt.NDArray[np.uint8], *, encoder: str = "libx264") -> None:
    """Encode grey pictures at 25 frames per second, H.264 with a keyframe every 12 unless another encoder is named."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream(encoder, rate=25)
        stream.height, stream.width = video_THW.shape[1:]
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1  # the same bytes however many cores there are
        stream.options = dict(_ENCODER) if encoder == "libx264" else {}
        for picture in video_THW:
            container.mux(stream.encode(_yuv_frame(picture, stream.pix_fmt)))
        container.mux(stream.encode())


def _yuv_frame(picture_HW: npt.NDArray[np.uint8], pixels: str) -> av.VideoFrame:
    """Luma from grey, neutral chroma. FFmpeg's own conversion from grey rounds differently from run to run."""
    luma_HW = picture_HW if pixels == "yuvj420p" else np.rint(16 + picture_HW * (219 / 255)).astype(np.uint8)
    chroma = np.full((picture_HW.shape[0] // 2, picture_HW.shape[1]), 128, np.uint8)
    return av.VideoFrame.from_ndarray(np.concatenate([luma_HW, chroma]), format=pixels)
