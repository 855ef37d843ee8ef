"""Whole runs with levers on: what they train is what the rules say about what the journal holds."""

import json
import sqlite3
from pathlib import Path

import yaml

from fastplan.configs import shipped
from fastplan.planner import Outcome, Reached, front, pick_highest
from whole_runs import command, finish_here, journal_of

SHORT = ["--device", "cpu", "--seed", "3", "plan.max_epochs=1", "plan.attempt_epochs=1", "train.bn_clips=16"]


def outcomes_of(run: Path) -> dict[str, Outcome]:
    with sqlite3.connect(run / "journal.sqlite") as db:
        return {key: Outcome(**json.loads(text)) for key, text in db.execute("select edge, outcome from edges")}


def trained(run: Path) -> set[str]:
    return {row[0] for row in journal_of(run)["epochs"]}


def test_with_width_two_an_edge_is_trained_from_every_arrival_that_is_kept(tmp_path):
    finish_here(command(tmp_path / "run", "--state-graph", "tiny", *SHORT, "plan.width=2"))
    found = outcomes_of(tmp_path / "run")
    straight = Reached("u8-high", (found["start>u8-high"],), "")
    over_c4 = Reached("u8-high", (found["start>c4-high"], found["start>c4-high>u8-high"]), "")
    kept = front([straight, over_c4], width=2, choose=pick_highest)
    starts = {"start>u8-high", "start>c4-high", "start>c4-high>u8-high"}
    assert trained(tmp_path / "run") == starts | {f"start>{'>'.join(way.names)}>u8-low" for way in kept}


def test_an_edge_from_a_state_that_is_dominated_is_skipped(tmp_path):
    """The accuracies of both starts are written into the journal of a run that its budget stopped there."""
    tiny = yaml.safe_load(shipped("state_graphs")["tiny"].read_text())
    edges = ["start -> c4-high", "start -> u8-high", "c4-high -> u8-low", "u8-high -> u8-low"]
    graph, run = tmp_path / "fan.yaml", tmp_path / "run"
    graph.write_text(yaml.safe_dump({**tiny, "edges": edges}))
    finish_here(command(run, "--state-graph", str(graph), *SHORT, "plan.skip_dominated=true", "--budget", "2e"))
    assert trained(run) == {"start>c4-high", "start>u8-high"}
    with sqlite3.connect(run / "journal.sqlite") as db:
        for key, outcome in outcomes_of(run).items():
            known = {**vars(outcome), "accuracy": 0.9 if key == "start>c4-high" else 0.5, "stderr": 0.01}
            db.execute("update edges set outcome = ? where edge = ?", (json.dumps(known), key))
    finish_here(command(run, "--resume", "--budget", "100e"))
    found = outcomes_of(run)
    assert found["start>c4-high"].cost <= found["start>u8-high"].cost, "the better one is not the cheaper one"
    assert trained(run) == {"start>c4-high", "start>u8-high", "start>c4-high>u8-low"}
