"""CPU time of one decoded clip: packets against demuxer and seek, after both were shown to give equal frames.

    python -m fastplan.benchmarks.bench_loader VIDEO... [--clips 20]

Clips of 16 frames at full size as RGB, one thread, both ways in turns on the same random clips. Without videos, the
file of the embedded task (48 x 48, 64 frames, a keyframe every 12).
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from fastplan.clips import ClipSpec, frame_indices
from fastplan.data.decode import decode_clip
from fastplan.data.index import VideoInfo, probe
from fastplan.data.synthetic import TASKS, render, write_grey

REGIMES = {"consecutive": ClipSpec(1, 16), "4 segments of 4": ClipSpec(4, 4), "16 single": ClipSpec(16, 1)}


def timed(work: Callable[[], npt.NDArray[np.uint8]]) -> tuple[float, npt.NDArray[np.uint8]]:
    """CPU milliseconds of this thread, and what came of them."""
    begin = time.thread_time()
    clip_THWC = work()
    return 1e3 * (time.thread_time() - begin), clip_THWC


def measure(video: VideoInfo, spec: ClipSpec, clips: int) -> npt.NDArray[np.float64]:
    """CPU ms [clips, 2]: demuxer, packets. Raises `ValueError` where their frames differ."""
    rng = np.random.default_rng(0)
    by_demuxer = replace(video, load_table=lambda: None)
    rows = []
    for _ in range(clips):
        frames_T = frame_indices([video.frames], spec, rng.random((1, spec.segments)))[0]
        before, wanted_THWC = timed(lambda frames_T=frames_T: decode_clip(by_demuxer, frames_T))
        after, found_THWC = timed(lambda frames_T=frames_T: decode_clip(video, frames_T))
        if not np.array_equal(wanted_THWC, found_THWC):
            raise ValueError(f"{video.path}: frames {frames_T.tolist()} differ between packets and demuxer")
        rows.append((before, after))
    return np.array(rows)


def main() -> None:
    """Measure every video in every regime, print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--clips", type=int, default=20)
    chosen = parser.parse_args()
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":")[1].strip() for line in facts if "model name" in line), platform.machine())
    print(f"CPU ms per clip, median (10 % to 90 %) of n={chosen.clips}, {processor}, PyAV {av.__version__}\n")
    print("| video | codec, frames | clip | demuxer | packets | median ratio |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        embedded = Path(folder) / "embedded.mp4"
        write_grey(embedded, render(0, np.random.default_rng(0), TASKS["default"]))
        for path in chosen.videos or [embedded]:
            video = probe(path)
            if not isinstance(video, VideoInfo) or not video.table:
                print(f"| {path.name} | no packet table | | | | |")
                continue
            for name, spec in REGIMES.items():
                times_M2 = measure(video, spec, chosen.clips)
                low, middle, high = np.percentile(times_M2, (10, 50, 90), axis=0)
                cells = [f"{middle[k]:.1f} ({low[k]:.1f} to {high[k]:.1f})" for k in (0, 1)]
                ratio = np.median(times_M2[:, 1] / times_M2[:, 0])
                print(
                    f"| {path.name} | {video.codec}, {video.frames} | {name} | {cells[0]} | {cells[1]} | {ratio:.2f} |"
                )


if __name__ == "__main__":
    main()
