"""A whole epoch's frame indices in one call, after they were shown equal to a plain loop.

    python -m fastplan.benchmarks.bench_indices

300,000 videos x 64 frames (16 segments of 4), one core.
"""

import platform
import time
from pathlib import Path

import numpy as np

from fastplan.clips import ClipSpec, frame_indices

VIDEOS, REPEATS = 300_000, 7


def plain(duration: int, spec: ClipSpec, positions_S: np.ndarray) -> list[int]:
    """METHOD section 2 for one video whose segments are at least as long as the span."""
    segment = duration // spec.segments
    starts = [s * segment + int(p * (segment - spec.span + 1)) for s, p in enumerate(positions_S)]
    return [start + f * spec.stride for start in starts for f in range(spec.frames)]


def main() -> None:
    """Compare, time, print one line."""
    rng = np.random.default_rng(0)
    spec = ClipSpec(16, 4)
    durations_N = rng.integers(100, 400, VIDEOS)
    positions_NS = rng.random((VIDEOS, spec.segments))
    found_NT = frame_indices(durations_N, spec, positions_NS)
    for n in rng.integers(0, VIDEOS, 2000):
        assert found_NT[n].tolist() == plain(int(durations_N[n]), spec, positions_NS[n]), n
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        frame_indices(durations_N, spec, positions_NS)
        seconds.append(time.perf_counter() - begin)
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":")[1].strip() for line in facts if "model name" in line), platform.machine())
    print(
        f"{VIDEOS:,} videos x {spec.length} frames: median {1e3 * np.median(seconds):.0f} ms "
        f"({1e3 * min(seconds):.0f} to {1e3 * max(seconds):.0f}, n={REPEATS}), {processor}, numpy {np.__version__}"
    )


if __name__ == "__main__":
    main()
