"""Ways into one state that race, in whole runs: paused, given up, killed, resumed and shared between workers."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from fastplan.configs import shipped
from whole_runs import assert_same_end, command, finish_here, journal_of, start, wait_for_epochs


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    """Two ways lead into u8-low, neither of them from random weights."""
    tiny = yaml.safe_load(shipped("state_graphs")["tiny"].read_text())
    edges = ["start -> c4-high", "start -> u8-high", "c4-high -> u8-low", "u8-high -> u8-low"]
    file = tmp_path_factory.mktemp("graph") / "fan.yaml"
    file.write_text(yaml.safe_dump({**tiny, "edges": edges}))
    return file


def fresh(run: Path, graph: Path, *more: str) -> list[str]:
    settings = ["plan.max_epochs=3", "plan.attempt_epochs=3", "train.bn_clips=16", "data.threads=2"]
    words = ["--state-graph", str(graph), "--device", "cpu", "--seed", "3", *settings]
    return command(run, *words, "plan.race=0.5", "plan.first_rung=1", *more)


def test_a_race_killed_while_a_way_is_paused_ends_like_one_never_stopped(graph, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    said = " ".join(finish_here(fresh(whole, graph)).split())
    assert said.count("pause: other ways") == 2 and said.count("given up: ") == 1
    trained = {edge: epoch for edge, epoch, *_ in journal_of(whole)["epochs"]}
    ways = ["start>c4-high>u8-low", "start>u8-high>u8-low"]
    assert sorted(trained.values()) == [1, 3, 3, 3] and min(trained[way] for way in ways) == 1
    behind = [edge for edge in journal_of(whole)["edges"] if edge["status"] == "behind"]
    assert len(behind) == 1 and behind[0]["trained"] == 1 and behind[0]["epochs"] == 0
    curves = {(row[0], row[1]): row[2] for row in journal_of(whole)["epochs"]}
    best = [max(curves[way, 0], curves[way, 1]) for way in ways]
    assert trained[ways[best.index(max(best))]] == 3, "the first of equals, else the better one"
    process = start(fresh(cut, graph))
    wait_for_epochs(process, 4 + 4 + 2)  # both starts, and one of the ways to its pause
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = subprocess.run(command(cut, "--resume", "--workers", "2"), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_end(cut, whole)
    assert not list((cut / "checkpoints").rglob("*.optimizer.pt"))


def test_a_way_from_the_start_that_races_ends_the_same_when_killed_while_it_is_paused(tmp_path):
    tiny = yaml.safe_load(shipped("state_graphs")["tiny"].read_text())
    tiny["states"].pop("u8-high")
    graph, whole, cut = tmp_path / "beside.yaml", tmp_path / "whole", tmp_path / "cut"
    graph.write_text(yaml.safe_dump({**tiny, "edges": ["start -> c4-high", "start -> u8-low", "c4-high -> u8-low"]}))
    more = ("plan.race_start=true", "plan.scratch_margin=0.0", "plan.max_epochs=4")
    done = subprocess.run(fresh(whole, graph, *more), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    edges = {">".join((edge["source"], edge["target"])): edge for edge in journal_of(whole)["edges"]}
    ahead = 1 + -(-4 * edges["start>c4-high"]["epochs"] // 8)  # half as many frames a clip as u8-low
    raced = {row[0]: row[1] for row in journal_of(whole)["epochs"]}
    assert "behind" in {edge["status"] for edge in edges.values()}
    if edges["start>u8-low"]["status"] == "behind":
        assert raced["start>u8-low"] == ahead
    else:
        assert raced["start>c4-high>u8-low"] == 1 and raced["start>u8-low"] >= ahead
    process = start(fresh(cut, graph, *more, "--workers", "2"))
    wait_for_epochs(process, 2 + 4)  # both edges from the start begin at once, and one of them waits after an epoch
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = subprocess.run(command(cut, "--resume"), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_end(cut, whole)


def test_a_race_that_a_budget_stopped_is_decided_with_a_larger_one(graph, tmp_path):
    run = tmp_path / "run"
    finish_here(fresh(run, graph, "--budget", "7e"))
    assert len([row for row in journal_of(run)["epochs"] if row[1]]) == 7
    assert not any(edge["status"] == "behind" for edge in journal_of(run)["edges"]), "one way was not at the rung"
    finish_here(command(run, "--resume", "--budget", "100e"))
    events = [json.loads(line) for line in (run / "log.jsonl").open()]
    ended = sorted(e["status"] for e in events if e["event"] == "edge")
    assert ended[0] == "behind" and len(ended) == 4 and set(ended[1:]) <= {"cap", "knee"}
    assert sum(e["event"] == "epoch" for e in events) == 10
