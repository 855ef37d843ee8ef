"""What knee rules and search levers cost, on curves whose truth is known and on recorded ones.

    python -m fastplan.benchmarks.bench_plan knees [--n 1000] [--n-slow 100] [--recorded FOLDER] [--out FILE]
    python -m fastplan.benchmarks.bench_plan levers [--n 300] [--n-published 60] [--out FILE]

Writes a Markdown table with command, machine kind and n. Needs no network, no data and no GPU.
"""

import argparse
import platform
import sys
import time
from pathlib import Path

import numpy as np
import scipy

from .replay_knees import knee_tables
from .replay_search import lever_tables

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """CPU model and the versions that the figures depend on."""
    model = platform.processor() or "unknown CPU"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = f"{names[0]} x{len(names)}" if names else model
    return f"{model}; Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"


def main(arguments: list[str]) -> None:
    """Run one bench and print its tables as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m fastplan.benchmarks.bench_plan")
    commands = parser.add_subparsers(dest="command", required=True)
    knees = commands.add_parser("knees", help="knee rules on generated and recorded curves")
    knees.add_argument("--n", type=int, default=1000)
    knees.add_argument("--n-slow", type=int, default=100, help="curves for rules that are slow to compute")
    knees.add_argument("--recorded", type=Path, default=Path("../shared/design/task/curves"))
    knees.add_argument("--out", type=Path, default=RESULTS / "knee_rules.md")
    levers = commands.add_parser("levers", help="search levers on generated worlds")
    levers.add_argument("--n", type=int, default=300)
    levers.add_argument("--n-published", type=int, default=60)
    levers.add_argument("--out", type=Path, default=RESULTS / "search_levers.md")
    given = parser.parse_args(arguments)
    begun = time.perf_counter()
    if given.command == "knees":
        title, options = "Knee rules", f"knees --n {given.n} --n-slow {given.n_slow}"
        body = knee_tables(given.n, given.n_slow, given.recorded)
    else:
        title, options = "Search levers", f"levers --n {given.n} --n-published {given.n_published}"
        body = lever_tables(given.n, given.n_published)
    head = f"# {title}\n\nCommand: `python -m fastplan.benchmarks.bench_plan {options}`\nMachine: {machine()}\n"
    seconds = f"Took {time.perf_counter() - begun:.0f} s on one core, at low priority beside other work.\n"
    given.out.write_text(f"{head}{seconds}\n{body}", encoding="utf-8")
    print(f"wrote {given.out.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
