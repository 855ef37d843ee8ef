"""Run the kernels' numeric tests under the Triton interpreter.

TRITON_INTERPRET must be set before @triton.jit is evaluated, so the files of `interp/` run in three processes of their
own; they are skipped by any other pytest process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interp"
FILES = sorted(path.name for path in FOLDER.glob("test_*.py"))
SHARES = [FILES[number::3] for number in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("names", SHARES, ids=" ".join)
def test_interpreted(names):
    words = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*words, *(str(FOLDER / name) for name in names)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=540,
    )
    if run.returncode != 0:
        said = f"{run.stdout[-6000:]}\n{run.stderr[-2000:]}"
        pytest.fail(f"{', '.join(names)} under the interpreter:\n{said}", pytrace=False)


def test_there_are_interpreter_tests():
    assert all(SHARES) and sorted(name for names in SHARES for name in names) == FILES
