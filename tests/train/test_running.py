"""The clock of a training stands still while the process does, and only then; real processes are stopped."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import sys, time
from fastplan.train.running import RunningClock
clock, wall_s, begun_s = RunningClock(), time.perf_counter(), 0.0
begun_s = clock.now_s()
print("begun", flush=True)
end_s = float(sys.argv[2])
if sys.argv[1] == "compute":
    sum(range(int(end_s * 3e7)))  # one call that lets no other thread run while it lasts
elif sys.argv[1] == "wait":
    time.sleep(end_s)
else:
    sys.stdin.readline()
print(clock.now_s() - begun_s, time.perf_counter() - wall_s, flush=True)
clock.close()
"""


@pytest.fixture
def begin():
    processes = []

    def start(how: str, seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, how, str(seconds)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        return process

    yield start
    for process in processes:
        process.kill()


def test_a_stopped_process_costs_nothing(begin):
    process = begin("read", 0)
    time.sleep(1)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(6)
    os.kill(process.pid, signal.SIGCONT)
    time.sleep(0.2)
    running_s, wall_s = map(float, process.communicate("\n")[0].split())
    assert wall_s > 7
    assert 0.5 < running_s < wall_s - 5


@pytest.mark.parametrize("how", ["wait", "compute"])
def test_a_process_that_waits_or_computes_does_not_stand_still(begin, how):
    running_s, wall_s = map(float, begin(how, 5).communicate()[0].split())
    assert wall_s > 2 and abs(running_s - wall_s) < 0.1


@pytest.mark.slow
def test_an_epoch_does_not_cost_the_time_in_which_its_run_was_suspended(tmp_path: Path):
    words = ["train", "--state-graph", "tiny", "--run", str(tmp_path / "run"), "--device", "cpu"]
    words += ["plan.max_epochs=2", "test.clips=1", f"data.cache={tmp_path / 'cache'}"]
    command = [sys.executable, "-m", "fastplan", *words]
    log = tmp_path / "run" / "log.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            while not (log.exists() and '"epoch"' in log.read_text()):
                assert process.poll() is None
                time.sleep(0.05)
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(30)
            os.kill(process.pid, signal.SIGCONT)
            assert process.wait() == 0
        finally:
            process.kill()
    events = [json.loads(line) for line in log.read_text().splitlines()]
    spans_s = [after["time"] - before["time"] for before, after in itertools.pairwise(events)]
    assert max(spans_s) > 30, "it was suspended within the run"
    assert max(event["seconds"] for event in events if event["event"] == "epoch") < 20
