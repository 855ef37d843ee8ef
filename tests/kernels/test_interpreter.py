"""Run the kernels' numeric tests under the Triton interpreter.

TRITON_INTERPRET must be set before @triton.jit is evaluated, so each file of `interp/` runs in a process of
its own; the files are skipped by any other pytest process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interp"
FILES = sorted(path.name for path in FOLDER.glob("test_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_interpreted(name):
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", str(FOLDER / name)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=540,
    )
    if run.returncode != 0:
        pytest.fail(f"{name} under the interpreter:\n{run.stdout[-6000:]}\n{run.stderr[-2000:]}", pytrace=False)


def test_there_are_interpreter_tests():
    assert FILES
