"""Checkpoints are whole or absent, and hold tensors only."""

import os
import pickle
import subprocess
import sys

import pytest
import torch

from fastplan.errors import UserError
from fastplan.train import checkpoint

CPU = torch.device("cpu")


def test_what_is_saved_comes_back(tmp_path):
    content = {"network": {"w": torch.randn(3, 4)}, "updates": 7, "classes": ["a", "b"]}
    checkpoint.save(tmp_path / "deep" / "x.pt", content)
    found = checkpoint.load(tmp_path / "deep" / "x.pt", CPU)
    assert torch.equal(found["network"]["w"], content["network"]["w"])
    assert (found["updates"], found["classes"]) == (7, ["a", "b"])
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["x.pt"]


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path, damage):
    file = tmp_path / "x.pt"
    checkpoint.save(file, {"w": torch.randn(100, 100)})
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[: len(whole) // 2], "text": b"hello there", "empty": b""}[damage])
    with pytest.raises(UserError, match=r"the checkpoint .*x\.pt is damaged"):
        checkpoint.load(file, CPU)


def test_a_missing_checkpoint_says_so(tmp_path):
    with pytest.raises(UserError, match=r"x\.pt is missing"):
        checkpoint.load(tmp_path / "x.pt", CPU)


class Intruder:
    def __reduce__(self):
        return os.system, ("touch intruded",)


def test_code_in_a_checkpoint_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Intruder()}, tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(pickle.dumps({"w": Intruder()}))
    for name in ("x.pt", "y.pt"):
        with pytest.raises(UserError, match="is damaged"):
            checkpoint.load(tmp_path / name, CPU)
    assert not (tmp_path / "intruded").exists()


def test_a_full_disk_loses_nothing(tmp_path):
    """A process that may not write files above 100 kB: the old checkpoint stays whole, the message says what to do."""
    file = tmp_path / "x.pt"
    checkpoint.save(file, {"w": torch.ones(3)})
    program = """
import resource, signal, sys, torch
from pathlib import Path
from fastplan.errors import UserError
from fastplan.train import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(Path(sys.argv[1]), {"w": torch.ones(1000, 1000)})
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout and "--resume" in done.stdout
    assert torch.equal(checkpoint.load(file, CPU)["w"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]
