"""Edges trained at the same time by worker processes: equal to the serial search, whoever is killed and when."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from fastplan.configs import shipped
from whole_runs import SETTINGS, assert_same_end, command, finish_here, fresh, journal_of, start, wait_for_epochs

DIED = b" died (killed by SIGKILL"  # the beginning of a note, which no end of a line cuts


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def workers_of(driver: int) -> list[int]:
    """A driver's workers are the children of its fork server, which is the child that has any."""
    return [worker for child in children(driver) for worker in children(child)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_two_workers_end_like_one_process_and_train_at_the_same_time(reference, tmp_path):
    run = tmp_path / "run"
    done = subprocess.run(fresh(run, "--workers", "2"), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 processes, sharing" in done.stdout
    assert_same_end(run, reference)
    events = [json.loads(line) for line in (run / "log.jsonl").open()]
    spans = {(e["edge"], e["worker"], e["time"] - e["seconds"], e["time"]) for e in events if e["event"] == "epoch"}
    assert {worker for _, worker, _, _ in spans} == {"worker 1", "worker 2"}
    assert any(a[1] != b[1] and a[2] < b[3] and b[2] < a[3] for a in spans for b in spans), "never at the same time"


@pytest.mark.slow
def test_kills_of_drivers_and_workers_change_nothing(reference, tmp_path):
    """Ten SIGKILLs at random moments: seven of workers, whose edges go on elsewhere, and three of drivers."""
    rng = random.Random(1)
    run, notes = tmp_path / "run", 0
    for life in range(4):
        process = start([*(command(run, "--resume") if life else fresh(run)), "--workers", "2"])
        for _ in range(2 if life < 3 else 1):
            wait_for_epochs(process, 2)
            time.sleep(rng.uniform(0, 0.3))
            assert process.poll() is None, process.stdout.read().decode()
            os.kill(rng.choice(workers_of(process.pid)), signal.SIGKILL)
        if life == 3:
            break
        wait_for_epochs(process, 1)
        time.sleep(rng.uniform(0, 0.3))
        orphans = workers_of(process.pid)
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        notes += output.count(DIED)
        deadline = time.monotonic() + 10
        while any(map(is_alive, orphans)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert orphans and not any(map(is_alive, orphans)), "workers outlive their driver"
    output, _ = process.communicate()
    assert process.returncode == 0, output.decode()
    assert notes + output.count(DIED), "the user is told of lost workers"
    assert_same_end(run, reference)


def test_a_budget_ends_a_search_with_a_plan_and_a_larger_one_goes_on(reference, tmp_path):
    run = tmp_path / "run"
    finish_here(fresh(run, "--budget", "6e"))
    events = [json.loads(line) for line in (run / "log.jsonl").open()]
    assert sum(e["event"] == "epoch" for e in events) == 6
    assert "best so far" in (run / "plan.yaml").read_text() and (run / "network.pt").exists()
    finish_here(command(run, "--resume", "--budget", "100e"))
    assert_same_end(run, reference)


def test_nothing_starts_from_an_edge_that_the_budget_cut_short(tmp_path):
    """An epoch of c4 would be within what is left, but a larger budget goes on with u8 first."""
    tiny = yaml.safe_load(shipped("state_graphs")["tiny"].read_text())
    tiny["states"].pop("u8-low")
    graph = tmp_path / "graph.yaml"
    graph.write_text(yaml.safe_dump({**tiny, "edges": ["start -> u8-high", "u8-high -> c4-high"]}))
    words = ["--state-graph", str(graph), "--device", "cpu", "--budget", f"{3 * 768 + 400}f", *SETTINGS]
    finish_here(command(tmp_path / "run", *words))
    assert [row[:2] for row in journal_of(tmp_path / "run")["epochs"]] == [("start>u8-high", e) for e in range(4)]
    assert "it ends in 'u8-high'" in (tmp_path / "run" / "plan.yaml").read_text()


def test_repeats_killed_and_resumed_with_workers_end_like_those_of_one_process(tmp_path):
    words = ["plan.max_epochs=2", "plan.attempt_epochs=2", "plan.repeats=1"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish_here(fresh(whole, *words))
    process = start(fresh(cut, *words))
    wait_for_epochs(process, 3 * 3 + 4)  # three edges, the first of a repeat and the beginning of its second
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = subprocess.run(command(cut, "--resume", "--workers", "2"), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_end(cut, whole)
    epochs = {(edge, epoch): values for edge, epoch, *values in journal_of(whole)["epochs"]}
    assert {edge for edge, _ in epochs if "~" in edge} == {
        "start>u8-high~1",
        "start>c4-high~1",
        "start>c4-high~1>u8-high~1",
    }
    for epoch in (0, 1):
        assert epochs["start>u8-high", epoch] != epochs["start>u8-high~1", epoch], "neither begins nor goes on alike"


def test_two_ray_workers_end_like_one_process(reference, tmp_path):
    pytest.importorskip("ray")
    run, elsewhere = tmp_path / "run", f"checkpoints=file://{tmp_path}/elsewhere"
    done = subprocess.run(fresh(run, "--workers", "ray:2", elsewhere), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_end(run, reference)
    events = [json.loads(line) for line in (run / "log.jsonl").open()]
    assert {e["worker"] for e in events if e["event"] == "epoch"} == {"ray 1", "ray 2"}
    assert len(list((tmp_path / "elsewhere").rglob("*.pt"))) == 1 and not (run / "checkpoints").exists()


def test_ray_workers_that_are_killed_for_memory_are_lost_workers(tmp_path):
    """Ray kills an actor where its machine's memory runs low; here it takes any memory for that."""
    pytest.importorskip("ray")
    environment = {**os.environ, "RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    words = fresh(tmp_path / "run", "--workers", "ray:1")
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2 and "Traceback" not in said, said
    assert "ray 1 died 4 times in a row" in said and "running low on memory" in said
