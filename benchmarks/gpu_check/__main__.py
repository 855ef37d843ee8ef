"""One command for one GPU: is every kernel right, and what does it bring?

    make gpu-check                                          # all stages, 8 minutes
    make gpu-check ARGS="--minutes 25 --stage steps"        # one stage, with time for every torch.compile
    make gpu-check ARGS="--output FOLDER"                   # go on with what an earlier run left out
    make gpu-check ARGS="--tiny"                            # every code path on small shapes, without a GPU too

Needs no network; of the parts that may be missing, only DALI and PyAV are missed by a stage (nvdec). Results are
written as they come, to benchmarks/results/GPU-DATE: a journal for each stage, and results.json and results.md.
Exit status: 0 all right, 1 something failed or was wrong, 2 no GPU (0 with --allow-missing).
"""

import argparse
import datetime
import os
import re
import shlex
import sys
import time
from pathlib import Path

import torch

from fastplan.benchmarks.gpu_check import machine, report
from fastplan.benchmarks.gpu_check.supervise import Stage, run_stage
from fastplan.benchmarks.gpu_check.units import Record, stage_records

_HERE = "fastplan.benchmarks.gpu_check"

# Cheap ones first: what they leave of their share goes to the whole steps, whose compilers take what they get.
STAGES = {
    "correct": Stage("every kernel in every configuration against fp64", f"{_HERE}.correct", 75, shards=12),
    "ops": Stage("each operator beside eager PyTorch and torch.compile", f"{_HERE}.ops", 80),
    "nvdec": Stage("DALI's video decoder on whole files and on cuts", f"{_HERE}.nvdec", 40),
    "inference": Stage("whole inference steps of DG-P3D-50", f"{_HERE}.inference", 60),
    "steps": Stage("whole training steps of DG-P3D-50", f"{_HERE}.steps", 220),
}


def main(argv: list[str] | None = None) -> int:
    """Run the chosen stages and report."""
    given = _parser().parse_args(argv)
    interpreted = not torch.cuda.is_available()
    if interpreted and not given.tiny:
        print("no CUDA GPU here, nothing measured; --tiny runs every code path under Triton's interpreter")
        return 0 if given.allow_missing else 2
    command = shlex.join(["gpu-check", *(sys.argv[1:] if argv is None else argv)])
    facts = machine.facts(command)
    date = datetime.date.today().isoformat()
    folder = given.output or _new_folder(f"{_slug(facts['gpu'])}-{date}" + "-tiny" * given.tiny)
    folder.mkdir(parents=True, exist_ok=True)
    if fault := report.other_machine(folder, facts):
        print(f"gpu-check: {folder} holds results of {fault}; name another --output", file=sys.stderr)
        return 2
    earlier = {name: records for name in STAGES if (records := stage_records(folder, name))}
    check = report.Check(facts, date, interpreted, {"begin": machine.state()}, earlier)
    report.write(check, folder)
    begin, end = time.time(), time.time() + 60 * given.minutes
    print(f"{facts['gpu']}: {given.minutes:g} minutes, results in {folder}", flush=True)
    chosen = [name for name in STAGES if not given.stage or name in given.stage]
    for place, name in enumerate(chosen):
        left_s = max(0.0, end - time.time())
        seconds = left_s * STAGES[name].share / sum(STAGES[later].share for later in chosen[place:])
        print(f"{name}: {STAGES[name].what}, up to {seconds:.0f} s", flush=True)
        check.stages[name] = run_stage(
            name,
            _fitted(STAGES[name]),
            folder,
            seconds=seconds,
            tiny=given.tiny,
            environment=dict(os.environ) | ({"TRITON_INTERPRET": "1"} if interpreted else {}),
            on_unit=lambda record: _progress(record, time.time() - begin),
        )
        check.states[f"after {name}"] = machine.state()
        report.write(check, folder)
    print(f"\n{report.summary(check)}\nall of it: {folder / 'results.md'}", flush=True)
    return 0 if report.passed(check) else 1


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<10} {stage.what}" for name, stage in STAGES.items())
    parser = argparse.ArgumentParser(
        prog="make gpu-check",
        description=__doc__,
        epilog=f"stages:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stage", action="append", choices=tuple(STAGES), help="only this one; may be repeated")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all chosen stages together (default: 8)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="goes on with what an earlier run left there")
    parser.add_argument("--tiny", action="store_true", help="small shapes; without a GPU, under the interpreter")
    parser.add_argument("--allow-missing", action="store_true", help="exit 0 where there is no GPU")
    return parser


def _new_folder(name: str) -> Path:
    """benchmarks/results/NAME under the current folder, numbered if there is one already."""
    folder, number = Path("benchmarks/results") / name, 2
    while folder.exists():
        folder, number = folder.with_name(f"{name}-{number}"), number + 1
    return folder


def _slug(gpu: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


def _fitted(stage: Stage) -> Stage:
    """With no more processes than this machine has cores to spare."""
    return Stage(stage.what, stage.module, stage.share, min(stage.shards, max(1, len(os.sched_getaffinity(0)) - 1)))


def _progress(record: Record, elapsed_s: float) -> None:
    took = f" {record['seconds']:.1f} s" if "seconds" in record else f": {record.get('reason', '')}"
    wrong = any(row.get("correct") is False for row in record.get("rows", ()))
    print(f"  {elapsed_s:4.0f} s  {record['status']:<8}{' WRONG' if wrong else ''} {record['unit']}{took}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
