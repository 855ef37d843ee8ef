"""Whether the memory of `fastplan check` grows with the number of files: peak RSS of its own process, workers apart.

The files are hard links of one video of 16 frames, so what is measured is bookkeeping and not decoding. Each row is a
process of its own, with an index that is empty for the scan and full for the others. Before a peak counts, the command
must have found every file and every frame.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fastplan.data.synthetic import write_grey

_FRAMES = 16
_CLASSES = 10
_LINKS = 10_000  # ext4 allows 65,000 of one file
_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv.pop(1))
import re, resource
from pathlib import Path
from fastplan.cli import main
status = main(sys.argv[1:])
peak_kb = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print("peak", peak_kb, sum(one.ru_utime + one.ru_stime for one in used), file=sys.stderr)
sys.exit(status)
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[1000, 10_000], metavar="N", help="(1000 10000)")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="of everything, in turns (1)")
    parser.add_argument("--quick", action="store_true", help="100 and 1,000 files")
    given = parser.parse_args()
    counts = [100, 1000] if given.quick else given.files
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for _ in range(given.repeats):
        for files in counts:
            with tempfile.TemporaryDirectory() as folder:
                for title, peak_mb, cpu_s in measure(Path(folder), files):
                    found.setdefault((files, title), []).append((peak_mb, cpu_s))
    print(f"# Memory and time of fastplan check, median (least to most), n = {given.repeats}\n")
    print("| files | command | peak RSS, MB | CPU, s |\n|---|---|---|---|")
    for (files, title), pairs in found.items():
        cells = [
            f"{np.median(values):.1f} ({min(values):.1f} to {max(values):.1f})" for values in zip(*pairs, strict=True)
        ]
        print(f"| {files:,} | {title} | {' | '.join(cells)} |")
    peaks_mb = {key: np.median([peak_mb for peak_mb, _ in pairs]) for key, pairs in found.items()}
    fewest, most = min(counts), max(counts)
    if fewest < most:
        growth_kb = max(mb - peaks_mb[fewest, title] for (files, title), mb in peaks_mb.items() if files == most) * 1e3
        print(f"\nPeak RSS grows by at most {growth_kb / (most - fewest):.2f} KB a file.")


def measure(folder: Path, files: int) -> Iterator[tuple[str, float, float]]:
    """What was run, its peak in MB and CPU seconds, for a data set of so many files, made below `folder`."""
    make_links(folder / "data", files)
    words = ["check", str(folder / "data"), "data.threads=2", f"data.cache={folder / 'cache'}"]
    for title, more in (
        ("scan", []),
        ("nothing new", []),
        ("--json", ["--json"]),
        ("--fix-list", ["--fix-list", str(folder / "fixed.csv")]),
        ("--index", ["--index", str(folder / "set.parquet")]),
    ):
        done, peak_mb, cpu_s = run([*words, *more])
        if more == ["--json"]:
            frames = [video["frames"] for video in json.loads(done.stdout)["videos"]]
            right = frames == [_FRAMES] * files
        else:
            right = f"{files} files, {files * _FRAMES:,} frames; all of them decode" in done.stdout
        if not right or done.returncode:
            sys.exit(f"{title} of {files} files is wrong: {done.stdout[-500:]}{done.stderr[-500:]}")
        yield title, peak_mb, cpu_s


def run(words: list[str]) -> tuple[subprocess.CompletedProcess[str], float, float]:
    """`fastplan` with these words, its peak RSS in MB, and CPU seconds of its workers too."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), *words], capture_output=True, text=True
    )
    peak_kb, cpu_s = (float(word) for word in done.stderr.split("peak ")[1].split())
    return done, peak_kb * 1.024e-3, cpu_s


def make_links(folder: Path, files: int) -> None:
    """So many names of one video, in a folder per class; a new video every 10,000 names."""
    source = folder
    for number in range(files):
        link = folder / f"class{number % _CLASSES}" / f"v_{number:07d}.mp4"
        link.parent.mkdir(parents=True, exist_ok=True)
        if number % _LINKS == 0:
            source = link
            write_grey(link, np.full((_FRAMES, 48, 48), 90, np.uint8), encoder="libx264")
        else:
            os.link(source, link)


if __name__ == "__main__":
    main()
