"""Does planning pay? Schedules trained beside each other; knee rules and search levers on curves whose truth is known.

    fastplan bench plan [schedules] [--quick] [--seeds 3] [--budget 20e] [--state-graph NAME|FILE] [--data DIR|LIST]
    fastplan bench plan knees [--n 1000] [--n-slow 100] [--recorded FOLDER] [--out FILE]
    fastplan bench plan levers [--n 100] [--n-slow 60] [--out FILE]

Each writes a Markdown table with command, machine and n.
"""

import argparse
import platform
import sys
import time
from pathlib import Path

import numpy as np
import scipy

from . import bench_schedules
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


def main(arguments: list[str]) -> int:
    """Run one bench and print or write its tables as Markdown; without a name, the one that trains."""
    parser = argparse.ArgumentParser(
        prog="fastplan bench plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    schedules = commands.add_parser("schedules", help="train schedules beside each other (the default)")
    bench_schedules.add_options(schedules)
    knees = commands.add_parser("knees", help="knee rules on generated and recorded curves")
    knees.add_argument("--n", type=int, default=1000)
    knees.add_argument("--n-slow", type=int, default=100, help="curves for rules that are slow to compute")
    knees.add_argument("--recorded", type=Path, default=Path("../shared/design/task/curves"))
    knees.add_argument("--out", type=Path, default=RESULTS / "knee_rules.md")
    levers = commands.add_parser("levers", help="search levers on generated worlds")
    levers.add_argument("--n", type=int, default=100)
    levers.add_argument("--n-slow", type=int, default=60, help="worlds for levers that are slow to compute")
    levers.add_argument("--out", type=Path, default=RESULTS / "search_levers.md")
    named = arguments[:1] and arguments[0] in (*commands.choices, "-h", "--help")
    given = parser.parse_args(arguments if named else ["schedules", *arguments])
    if given.command == "schedules":
        return bench_schedules.run(given, arguments)
    begun = time.perf_counter()
    if given.command == "knees":
        title, options = "Knee rules", f"knees --n {given.n} --n-slow {given.n_slow}"
        body = knee_tables(given.n, given.n_slow, given.recorded)
    else:
        title, options = "Search levers", f"levers --n {given.n} --n-slow {given.n_slow}"
        body = lever_tables(given.n, given.n_slow)
    head = f"# {title}\n\nCommand: `python -m fastplan.benchmarks.bench_plan {options}`\nMachine: {machine()}\n"
    where = "two processes" if given.command == "levers" else "one process"
    seconds = f"Took {time.perf_counter() - begun:.0f} s in {where}, at low priority beside other work.\n"
    given.out.write_text(f"{head}{seconds}\n{body}", encoding="utf-8")
    print(f"wrote {given.out.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
