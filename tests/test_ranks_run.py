"""Whole runs under torchrun: like those of one process, whoever is killed, and one paragraph for a mistake."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from fastplan.configs import shipped
from fastplan.planner.plans import Plan
from whole_runs import FASTPLAN, assert_same_end, finish_here, journal_of, start, wait_for_epochs

LOSSES = 1e-3  # relative: fp32 sums in another order, at rates at which four epochs do not blow that up


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    """Two states of the tiny graph, one that accumulates, at rates that keep fp32's last digits small."""
    tiny = yaml.safe_load(shipped("state_graphs")["tiny"].read_text())
    states = {"c4": {**tiny["states"]["c4-high"], "lr": 1e-3}, "u8": {**tiny["states"]["u8-high"], "lr": 5e-4}}
    tiny |= {"states": states, "edges": ["start -> c4", "c4 -> u8"]}
    tiny["config"]["network"]["dropout"] = 0.0
    file = tmp_path_factory.mktemp("graph") / "graph.yaml"
    file.write_text(yaml.safe_dump(tiny))
    return file


def torchrun(*words: str) -> list[str]:
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "--", "fastplan"]
    return [sys.executable, *launch, *words]


def train(run: Path, graph: Path) -> list[str]:
    settings = ["plan.max_epochs=2", "data.clips_per_epoch=32", "train.bn_clips=16", "data.threads=2"]
    return ["train", "--run", str(run), "--state-graph", str(graph), "--device", "cpu", "--seed", "3", *settings]


def finish(arguments: list[str]) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def alone(graph, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    finish_here([*FASTPLAN, *train(run, graph)])
    return run


@pytest.fixture(scope="module")
def together(graph, tmp_path_factory) -> Path:
    """A search by two ranks that was never stopped; each line is printed once."""
    run = tmp_path_factory.mktemp("together") / "run"
    output = finish(torchrun(*train(run, graph)))
    assert "2 ranks of torchrun, gloo: each takes 1/2 of every batch" in output
    assert sum(line.startswith("  epoch   2 ") for line in output.splitlines()) == 2
    assert output.count("train it again without a search") == 1
    return run


@pytest.mark.slow
def test_a_search_by_two_ranks_ends_like_one_of_one_process(alone, together):
    ours, theirs = journal_of(together), journal_of(alone)
    assert len(ours["epochs"]) == len(theirs["epochs"]) == 6
    for (*ours_at, accuracy, loss, frames), (*theirs_at, accuracy1, loss1, frames1) in zip(
        ours["epochs"], theirs["epochs"], strict=True
    ):
        assert ours_at == theirs_at and frames == frames1
        assert accuracy == pytest.approx(accuracy1, abs=1.01 / 48), "but for one of 48 videos"
        assert loss == loss1 is None or loss == pytest.approx(loss1, rel=LOSSES)  # none before training
    plans = [Plan.load(run / "plan.yaml") for run in (together, alone)]
    assert [leg.state for leg in plans[0].legs] == [leg.state for leg in plans[1].legs]
    assert {p.name for p in together.iterdir()} == {p.name for p in alone.iterdir()}
    results = [json.loads((run / "results.json").read_text())["test"] for run in (together, alone)]
    assert results[0]["videos"] == results[1]["videos"] == 48
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=0.01)
    events = [json.loads(line) for line in (together / "log.jsonl").open()]
    assert {e["worker"] for e in events if e["event"] == "epoch"} == {"2 ranks"}


def ranks_of(launcher: int) -> dict[str, int]:
    """The processes that torchrun started, by their rank."""
    found = {}
    for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found.update({v.decode()[5:]: int(pid) for v in variables if v.startswith(b"RANK=")})
    return found


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_which_goes_on_bit_for_bit(graph, together, tmp_path):
    """First a rank that follows, in the second epoch of the first edge, then the one that drives, in the other edge."""
    run = tmp_path / "run"
    for life, (rank, epochs) in enumerate([("1", 2), ("0", 2)]):
        words = ["train", "--run", str(run), "--resume"] if life else train(run, graph)
        process = start(torchrun(*words))
        wait_for_epochs(process, epochs)
        time.sleep(0.1)
        os.kill(ranks_of(process.pid)[rank], signal.SIGKILL)
        output = process.communicate(timeout=60)[0].decode()
        assert process.returncode != 0
        assert output.count("fastplan: ") <= 1 and "[rank" not in output, output
    finish(torchrun("train", "--run", str(run), "--resume"))
    assert_same_end(run, together)


def test_another_number_of_ranks_may_go_on_and_says_so(together, tmp_path):
    run = shutil.copytree(together, tmp_path / "run")
    output = finish_here([*FASTPLAN, "train", "--run", str(run), "--resume"])
    assert "begun with 2 ranks, goes on with 1" in output


@pytest.mark.slow
def test_mistakes_are_one_paragraph_and_end_all_ranks(graph, tmp_path):
    odd = tmp_path / "odd.yaml"
    odd.write_text(graph.read_text().replace("batch_size: 8", "batch_size: 9"))
    run = tmp_path / "run"
    cases = {
        "state 'u8' has a batch_size of 9 clips, which the 2 ranks": torchrun(*train(run, odd)),
        "--workers trains several edges": torchrun(*train(run, graph), "--workers", "2"),
    }
    processes = {expected: start(arguments) for expected, arguments in cases.items()}
    for expected, process in processes.items():
        output = process.communicate(timeout=120)[0].decode()
        said = [line for line in output.splitlines() if line.startswith("fastplan: ")]
        assert process.returncode != 0
        assert len(said) == 1 and expected in said[0], output
        assert "[rank" not in output, "no traceback of any rank"
        assert "exitcode  : 2 " in output, "torchrun names the status of the rank that failed"
    assert not run.exists()
