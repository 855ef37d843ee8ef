"""What can be measured in 90 seconds, and at the end, in one sentence, what bounds this machine for a state graph.

    fastplan bench [--state-graph NAME] [--data DIR|LIST|VIDEO]

Every part is a benchmark of its own in its quick form, a process each. The one that gives the sentence runs first; a
part for which there is no time left, or that cannot run here, is named in a line.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fastplan.own_python import module_command
from fastplan.report.console import make_console

LIMIT_S = 90.0
_LAST_S = 8.0  # before the limit no part runs any more


class Part(NamedTuple):
    """One benchmark. seconds: that it takes on two free cores, its videos made."""

    name: str
    module: str
    words: tuple[str, ...]
    seconds: float
    takes_data: bool = False


SENTENCE = Part("bound", "bound", ("--seconds", "16"), 24.0, takes_data=True)
PARTS = (
    Part("loader", "bench_loader", ("--quick",), 28.0, takes_data=True),
    Part("memory", "bench_memory", ("--quick",), 18.0),
    Part("index", "bench_index", ("--quick",), 14.0),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; the exit status of the first that fails."""
    parser = argparse.ArgumentParser(prog="fastplan bench", description=__doc__.splitlines()[0])
    parser.add_argument("--state-graph", default="default", metavar="NAME|FILE", help="what to train (default)")
    parser.add_argument("--data", metavar="DIR|LIST|VIDEO", help="your videos (default: made ones)")
    given = parser.parse_args(arguments)
    sentence = SENTENCE._replace(words=(*SENTENCE.words, "--state-graph", given.state_graph))
    return run(sentence, PARTS, given.data, LIMIT_S)


def run(sentence: Part, parts: Sequence[Part], data: str | None, limit_s: float) -> int:
    """Print what each of `parts` gives within the limit, in their order, and what `sentence` gave at the end."""
    end, console = time.perf_counter() + limit_s - _LAST_S, make_console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("", total=sentence.seconds + sum(part.seconds for part in parts))
        last = ""
        for part in (sentence, *parts):
            left_s = end - time.perf_counter()
            if part is not sentence and left_s < part.seconds:
                print(f"{part.name}: left out, too little is left of {limit_s:g} s: fastplan bench {part.name}\n")
                continue
            progress.update(bar, description=f"Measuring: {part.name}")
            if not console.is_terminal:
                console.print(f"{part.name}: about {part.seconds:.0f} s", highlight=False)
            words = [*part.words, *(("--data", data) if data and part.takes_data else ())]
            output = _output(part, words, None if part is sentence else left_s, progress, bar)
            if isinstance(output, int):
                return output
            if part is sentence:
                last = output
            else:
                print(
                    output.strip() or f"{part.name}: stopped, it took too long: fastplan bench {part.name}", end="\n\n"
                )
    gpu = "takes minutes" if torch.cuda.is_available() else "needs a CUDA GPU, and there is none here"
    print(f"kernels: not measured, {gpu}: fastplan bench kernels")
    print("plan: not measured, it says nothing of a machine: fastplan bench plan")
    print(f"\n{last.strip()}")
    return 0


def _output(part: Part, words: Sequence[str], left_s: float | None, progress: Progress, bar: TaskID) -> str | int:
    """What a part prints; nothing where it is stopped after `left_s`, its exit status where it fails."""
    begun, done = time.perf_counter(), progress.tasks[0].completed
    command = module_command(f"fastplan.benchmarks.{part.module}", *words)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while True:
            try:
                output, errors = process.communicate(timeout=0.25)
                break
            except subprocess.TimeoutExpired:
                passed_s = time.perf_counter() - begun
                progress.update(bar, completed=done + min(passed_s, part.seconds))
                if left_s is not None and passed_s > left_s:
                    process.terminate()
                    process.communicate()
                    return ""
    progress.update(bar, completed=done + part.seconds)
    if process.returncode:
        print(errors.rstrip(), file=sys.stderr)
        return process.returncode
    return output


if __name__ == "__main__":
    sys.exit(main())
