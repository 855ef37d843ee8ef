"""A missing GPU is a skip with a reason, and a failure where one was promised."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TARGET = f"{Path(__file__).parent / 'test_kernels.py'}::test_a_captured_graph_is_the_work"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(("promised", "status", "says"), [("0", 0, "1 skipped"), ("1", 1, "finds no CUDA GPU")])
def test_required_gpu(promised, status, says):
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TARGET]
    run = subprocess.run(words, env=os.environ | {"FASTPLAN_REQUIRE_GPU": promised}, capture_output=True, text=True)
    assert run.returncode == status and says in run.stdout, run.stdout + run.stderr
