"""Runs a stage in processes of its own and survives whatever happens to them.

A process that dies names, by its journal, the unit that killed it, and a new process goes on behind it. At the stage's
deadline processes are killed; no unit begins that is expected to end in the last seconds before.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastplan.benchmarks.gpu_check.units import UNIT_FAILED, Journal, Record, stage_records
from fastplan.own_python import module_command

_GRACE_S = 5.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Stage:
    """what: for a person. module: has `units(tiny)`. share: of the time, relative to the stages still to come. shards:
    processes at a time; only a stage that times nothing may have several.
    """

    what: str
    module: str
    share: float
    shards: int = 1


@dataclass
class _Shard:
    words: list[str]
    journal: Journal
    log: Path
    process: subprocess.Popen[bytes] | None = None
    seen: int = 0
    failure: str = ""


def run_stage(
    name: str,
    stage: Stage,
    folder: Path,
    *,
    seconds: float,
    tiny: bool,
    environment: dict[str, str],
    on_unit: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Run ``stage`` for at most ``seconds`` and return the last record of every unit, in the order planned.

    Journals and logs are ``folder``/NAME-SHARD.jsonl and .log; units that a journal there holds as done or failed are
    not run again. ``environment``: of the processes. ``on_unit`` gets each record that ends a unit, when it is written.
    """
    deadline = time.time() + seconds  # when processes are killed; they begin nothing that ends in the last seconds
    if stage.shards > 1:
        environment = environment | {"OMP_NUM_THREADS": "1"}
    shards = []
    for number in range(stage.shards):
        words = module_command("fastplan.benchmarks.gpu_check.worker", name, stage.module, str(folder))
        words += ["--deadline", str(deadline - _GRACE_S), "--shard", f"{number}/{stage.shards}"] + ["--tiny"] * tiny
        journal, log = Journal(folder / f"{name}-{number}.jsonl"), folder / f"{name}-{number}.log"
        shards.append(_Shard(words, journal, log, seen=len(journal.records())))
    try:
        for shard in shards:
            _start(shard, environment)
        while any(shard.process for shard in shards):
            time.sleep(_POLL_S)
            for shard in shards:
                _watch(shard, environment, deadline)
                _report(shard, on_unit)
    finally:
        for shard in shards:
            if shard.process:
                _kill(shard.process)
    broken = [shard.failure for shard in shards if shard.failure]
    whole = [{"unit": "the process itself", "status": "failed", "reason": reason} for reason in broken[:1]]
    return [*stage_records(folder, name), *whole]


def _start(shard: _Shard, environment: dict[str, str]) -> None:
    with shard.log.open("ab") as log:
        shard.process = subprocess.Popen(
            shard.words, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )


def _watch(shard: _Shard, environment: dict[str, str], deadline: float) -> None:
    """Notice the end of a process; restart it behind a unit that killed it, kill it when its time is up."""
    if shard.process is None:
        return
    status = shard.process.poll()
    if status is None:
        if time.time() > deadline:
            _kill(shard.process)
            shard.process = None
            _blame(shard, "stopped at the end of the stage's time", status="skipped")
        return
    shard.process = None
    if status == 0:
        return
    if status == UNIT_FAILED:
        _start(shard, environment)
        return
    reason = f"killed by signal {signal.Signals(-status).name}" if status < 0 else last_words(shard.log)
    if _blame(shard, reason):
        _start(shard, environment)
    else:
        shard.failure = reason


def _blame(shard: _Shard, reason: str, *, status: str = "failed") -> bool:
    """Write down the unit that was under way; False where there was none, so that a restart would change nothing."""
    begun = {name: record for name, record in shard.journal.latest().items() if record["status"] == "begun"}
    for name, record in begun.items():
        shard.journal.write(unit=name, status=status, reason=reason, rows=record.get("rows", []))
    return bool(begun)


def _kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)  # it leads a process group of its own, compilers included
    process.wait()


def _report(shard: _Shard, on_unit: Callable[[Record], None]) -> None:
    records = shard.journal.records()
    for record in records[shard.seen :]:
        if record.get("status") not in (None, "begun"):
            on_unit(record)
    shard.seen = len(records)


def last_words(log: Path, *, limit: int = 300) -> str:
    """The last line of a log that is not empty, which of a traceback is the error."""
    lines: Sequence[str] = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line]
    return lines[-1].strip()[:limit] if lines else "ended without a word"
