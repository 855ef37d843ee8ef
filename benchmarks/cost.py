"""What work costs: wall time, and CPU time of this process and everything it started."""

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastplan.errors import UserError

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass
class Cost:
    """Seconds on the clock and on the processors."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


@contextmanager
def measured() -> Iterator[Cost]:
    """The cost of the block, filled in at its end."""
    cost = Cost()
    cpu, wall = cpu_s(), time.perf_counter()
    yield cost
    cost.wall_s, cost.cpu_s = time.perf_counter() - wall, cpu_s() - cpu


def cpu_s() -> float:
    """CPU seconds so far of this process, of its children that ended and of those that live (to 10 ms each)."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(_process_s, _descendants(os.getpid())))


def reported(bench: Callable[[], None]) -> int:
    """Run a benchmark; 2 and one line on standard error for a mistake of the user's."""
    try:
        bench()
    except UserError as error:
        print(f"fastplan: {error}", file=sys.stderr)
        return 2
    return 0


def rss_bytes() -> int:
    """Memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def spread(values: list[float], digits: int = 1) -> str:
    """Median, smallest and largest, as `12.3 (11.9-13.0)`."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def processor() -> str:
    """Model and usable cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def load() -> float:
    """Processes that wanted a processor in the last minute."""
    return os.getloadavg()[0]


def _descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            yield child
            yield from _descendants(child)


def _process_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
