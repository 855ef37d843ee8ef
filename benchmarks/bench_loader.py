"""The loader against other ways to the same clips: the same files, frames, crops, flips and colours, two at a time.

    fastplan bench loader [--quick] [--data VIDEO] > loader.md

Contenders take turns, and every one has proven that its clips are ours before it is timed (`contest`).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import Progress

from fastplan.benchmarks import loader_page, peers, switching, videos
from fastplan.benchmarks.contest import BATCH, REGIMES, WORKERS, Contest, Plan, Row
from fastplan.benchmarks.cost import reported
from fastplan.benchmarks.data_loader import JobProcesses
from fastplan.data.index import build_index
from fastplan.data.lists import read_videos

FULL = Plan(videos.ENCODINGS, REGIMES, files=3, repeats=5, budget_s=0.3, least=2)
QUICK = Plan(videos.ENCODINGS[:2], REGIMES[:2], files=2, repeats=3, budget_s=0.2, least=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the page; 2 for a video that cannot be read, or where no peer gives our frames."""
    parser = argparse.ArgumentParser(prog="fastplan bench loader", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="H.264 alone, 16 frames, 3 repeats: a minute")
    parser.add_argument("--data", type=Path, metavar="DIR|LIST|VIDEO", help="whose pictures to encode (default: drawn)")
    given = parser.parse_args(arguments)
    return reported(lambda: bench(videos.source_of(given.data), quick=given.quick))


def bench(source: Path | None, *, quick: bool) -> None:
    """Measure and print the page. source: a video whose pictures are encoded anew; drawn ones without.

    Raises `UserError` where it cannot be read, or where no peer gives our frames.
    """
    cache, console = user_cache_path("fastplan"), Console(stderr=True)
    begun = time.perf_counter()
    plan = QUICK if quick else FULL
    rows, missing = rows_of(plan, source, cache, console)
    switched = [] if quick else switching.measure(_folder(videos.ENCODINGS[0], source, cache, plan), plan.repeats)
    minutes = (time.perf_counter() - begun) / 60
    words = f"fastplan bench loader{' --quick' if quick else ''}{f' --data {source.name}' if source else ''}"
    print(loader_page.head(words, plan, source, minutes))
    print(loader_page.table(rows))
    print(loader_page.explained(rows, missing))
    if switched:
        print(switching.page(switched))


def _folder(encoding: videos.Encoding, source: Path | None, cache: Path, plan: Plan) -> Path:
    return videos.make(encoding, source, cache / "bench", plan.files, lambda: None)


def rows_of(plan: Plan, source: Path | None, cache: Path, console: Console) -> tuple[list[Row], dict[str, str]]:
    """Measure; the rows, and the peers that are not there with advice. Raises `UserError` where frames differ."""
    torch.set_num_threads(1)
    ways, missing = peers.ways()
    rows: list[Row] = []
    with Progress(console=console, transient=True) as progress, JobProcesses(WORKERS, BATCH) as processes:
        making = progress.add_task("Making videos", total=len(plan.encodings) * plan.files)
        folders = []
        for encoding in plan.encodings:
            folders.append(_folder(encoding, source, cache, plan))
            progress.advance(making, plan.files)
        progress.remove_task(making)
        measuring = progress.add_task("Measuring", total=len(plan.encodings) * len(plan.regimes))
        for encoding, folder in zip(plan.encodings, folders, strict=True):
            index = build_index(read_videos(folder), cache_dir=cache / "index", threads=WORKERS)
            table = Contest(index, ways, processes)
            for regime in plan.regimes:
                rows.append(table.row(str(encoding), regime, plan))
                progress.advance(measuring)
            table.close()
    return rows, missing


if __name__ == "__main__":
    sys.exit(main())
