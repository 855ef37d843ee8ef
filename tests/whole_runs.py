"""Whole runs of the tiny graph, as real processes or in this one, and whether two of them ended alike."""

import contextlib
import ctypes
import io
import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import torch

from fastplan import cli
from fastplan.rundir import RunDir
from fastplan.train import checkpoint

SETTINGS = ["plan.max_epochs=4", "plan.attempt_epochs=4", "train.bn_clips=16", "data.threads=2"]
FASTPLAN = [sys.executable, "-m", "fastplan.cli"]
TIMES = {"seconds", "data_seconds", "checkpoint"}


def command(run: Path, *more: str) -> list[str]:
    return [*FASTPLAN, "train", "--run", str(run), *more]


def fresh(run: Path, *more: str) -> list[str]:
    return command(run, "--state-graph", "tiny", "--device", "cpu", "--seed", "3", *SETTINGS, *more)


def journal_of(run: Path) -> dict:
    """Everything the journal holds, but for who did it and the time it took."""
    db = sqlite3.connect(run / "journal.sqlite")
    edges = [json.loads(text) for (text,) in db.execute("select outcome from edges order by edge")]
    return {
        "epochs": db.execute("select edge, epoch, accuracy, loss, clip_frames from epochs order by 1, 2").fetchall(),
        "fits": db.execute("select edge, epoch, fit from fits order by 1, 2").fetchall(),
        "edges": [{k: v for k, v in edge.items() if k not in TIMES} for edge in edges],
    }


def plan_of(run: Path) -> str:
    return "".join(line for line in (run / "plan.yaml").open() if not line.startswith("seconds:"))


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(RunDir(run).network_file, torch.device("cpu"))["weights"]


def run_here(arguments: list[str]) -> subprocess.CompletedProcess:
    """A command in this process, where nothing about a process is tested: another one imports for five seconds."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = cli.main(arguments[len(FASTPLAN) :])
    return subprocess.CompletedProcess(arguments, status, output.getvalue(), errors.getvalue())


def finish_here(arguments: list[str]) -> str:
    """What a command that must succeed says, in this process."""
    done = run_here(arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start(arguments: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)


def wait_for_epochs(process: subprocess.Popen, epochs: int) -> None:
    """Read the output up to that many finished epochs, or to the last of the first lines for none."""
    wanted = b"  epoch" if epochs else b"network"
    left = max(epochs, 1)
    for line in process.stdout:
        left -= line.startswith(wanted)
        if left == 0:
            return


def assert_same_end(run: Path, reference: Path) -> None:
    """Same journal, plan and weights, bit for bit; and no epoch was trained again after it was finished."""
    assert journal_of(run) == journal_of(reference)
    assert plan_of(run) == plan_of(reference)
    ours, theirs = weights_of(run), weights_of(reference)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    events = [json.loads(line) for line in (run / "log.jsonl").open()]
    finished = Counter((e["edge"], e["epoch"]) for e in events if e["event"] == "epoch")
    assert finished and set(finished.values()) == {1}


def permissions_bind() -> None:
    """Before exec: take away what lets root read and write whatever a file's mode says; others never could."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            if ctypes.CDLL(None, use_errno=True).prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
                raise OSError(ctypes.get_errno(), "prctl")
