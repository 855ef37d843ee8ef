"""Only the process that test_interpreter.py starts collects this folder."""

import os

import pytest
import torch

from fastplan.benchmarks.interpreter import leave_out_idle_work

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]
if INTERPRETED:
    leave_out_idle_work()


@pytest.fixture(autouse=True)
def several_tiles_per_program(monkeypatch):
    """Aim at 9 programs instead of 1056: reducing kernels then loop, and end in a short tile, on small
    tensors.
    """
    monkeypatch.setattr("fastplan.kernels.table.PROGRAMS", 9)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Uninitialised memory is NaN: an element that no program writes shows in every comparison."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    assert torch.zeros(1).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
