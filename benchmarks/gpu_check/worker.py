"""Runs the units of one stage, one after another, until they are done or the time is up.

    python -m fastplan.benchmarks.gpu_check.worker STAGE MODULE FOLDER --deadline UNIX_S [--shard I/N] [--tiny]

After a CUDA error nothing in a process can be trusted, so a unit that fails takes its process along: it ends with
status `UNIT_FAILED`, and `supervise` starts another one behind the unit.
"""

import argparse
import importlib
import os
import sys
import time
import traceback
from pathlib import Path

from fastplan.benchmarks.gpu_check.units import FINISHED, UNIT_FAILED, Journal, Row, Unit, stage_records


def main(argv: list[str] | None = None) -> int:
    """Run what is left of a stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage")
    parser.add_argument("module")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--deadline", type=float, required=True)
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args(argv)
    if os.environ.get("TRITON_INTERPRET") == "1":
        importlib.import_module("fastplan.benchmarks.interpreter").leave_out_idle_work()
    shard, shards = map(int, given.shard.split("/"))
    units = importlib.import_module(given.module).units(given.tiny)
    journal = Journal(given.folder / f"{given.stage}-{shard}.jsonl")
    journal.write(planned=[unit.name for unit in units])
    finished = {r["unit"] for r in stage_records(given.folder, given.stage) if r["status"] in FINISHED}
    return run([unit for unit in units[shard::shards] if unit.name not in finished], journal, given.deadline)


def run(units: list[Unit], journal: Journal, deadline: float) -> int:
    """Run every unit that the time allows; 0, or `UNIT_FAILED` at the first that fails."""
    slowest: dict[str, float] = {}
    for unit in units:
        expected_s, left_s = slowest.get(unit.kind, unit.expected_s), deadline - time.time()
        if unit.missing:
            journal.write(unit=unit.name, status="skipped", reason=unit.missing)
            continue
        if expected_s > left_s:
            reason = f"takes about {expected_s:.0f} s, {max(left_s, 0):.0f} s were left"
            journal.write(unit=unit.name, status="skipped", reason=reason)
            continue
        journal.write(unit=unit.name, status="begun")
        begin = time.perf_counter()
        rows: list[Row] = []
        try:
            for row in unit.run():
                rows.append(row)
                journal.write(unit=unit.name, status="begun", rows=rows)
        except Exception as error:  # noqa: BLE001  (whatever it is, the process ends here and says so)
            traceback.print_exc()
            first_line = (str(error).strip() or "no message").splitlines()[0][:300]
            journal.write(unit=unit.name, status="failed", reason=f"{type(error).__name__}: {first_line}", rows=rows)
            return UNIT_FAILED
        took_s = time.perf_counter() - begin
        slowest[unit.kind] = max(took_s, slowest.get(unit.kind, 0.0))
        journal.write(unit=unit.name, status="done", seconds=round(took_s, 2), rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
