"""The whole command on tiny shapes under the interpreter, and what it says without a GPU."""

import itertools
import json
import subprocess
import sys

import pytest
import torch

from fastplan.benchmarks import bench_kernels
from fastplan.benchmarks.gpu_check import __main__ as gpu_check
from fastplan.benchmarks.gpu_check import inference, steps
from fastplan.benchmarks.gpu_check.arms import EXECUTIONS

FORMS = ("plain", "views", "ours")
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@NO_GPU
@pytest.mark.parametrize("command", [gpu_check, bench_kernels], ids=["gpu-check", "bench kernels"])
def test_without_a_gpu_it_says_so(command, capsys):
    for more, status in (([], 2), (["--allow-missing"], 0)):
        assert command.main(more) == status
        assert "no CUDA GPU here, nothing measured" in capsys.readouterr().out


def test_help_lists_the_stages(capsys):
    with pytest.raises(SystemExit):
        gpu_check.main(["--help"])
    said = capsys.readouterr().out
    assert all(f"  {name} " in said and stage.what in said for name, stage in gpu_check.STAGES.items())


@pytest.mark.parametrize("stage", [inference, steps])
def test_a_gpu_runs_every_form_in_every_way(stage):
    """Of each shape; the tiny run below has the compiler's further options for one form only."""
    names = [unit.name for unit in stage.units(False)]
    for shape, form, execution in itertools.product(("16x16", "8x64", "4x16"), FORMS, EXECUTIONS):
        assert f"{shape} {form}, {execution}" in names
    assert len(names) == 1 + 3 * (3 * len(EXECUTIONS) + 1)  # equality first; ours once more, deterministic


@NO_GPU
@pytest.mark.slow
def test_every_stage_on_tiny_shapes(tmp_path):
    words = [sys.executable, "-m", "fastplan.benchmarks.gpu_check", "--tiny", "--output", str(tmp_path)]
    run = subprocess.run(words, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["stages"]) == list(gpu_check.STAGES)
    for records in results["stages"].values():
        assert records and {record["status"] for record in records} == {"done"}
    assert results["facts"]["command"].startswith("gpu-check --tiny")
    arms = {row["arm"] for unit in results["stages"]["ops"] for row in unit["rows"] if "arm" in row}
    assert arms == {"ours", "eager", "compile"}
    for stage in ("steps", "inference"):
        rows = [row for unit in results["stages"][stage] for row in unit["rows"] if "network" in row]
        found = {(row["network"], row["execution"], row["deterministic"], row["graph"]) for row in rows}
        every = {*itertools.product(FORMS, ("eager", "compile")), *itertools.product(("plain",), EXECUTIONS)}
        every = {(*arm, False) for arm in every} | {("ours", "eager", True)}
        assert found == {(*arm, graph) for arm in every for graph in (False, True)}
        assert all(row["correct"] and row["repeats"] for row in rows)
    ways = {row["way"] for unit in results["stages"]["nvdec"] for row in unit["rows"] if "way" in row}
    assert len(ways) == 3
    report = (tmp_path / "results.md").read_text()
    assert "INTERPRETED" in report and "MEASURED = (" in report
    assert run.stdout.strip().splitlines()[-1].startswith("all of it:")

    results["facts"]["torch"] = "1.0"
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert gpu_check.main(["--tiny", "--output", str(tmp_path)]) == 2


@pytest.mark.slow
def test_torch_triton_numpy_and_numba_are_enough():
    """A GPU machine without network may have no more: all stages plan their units, nvdec says what it lacks."""
    program = """
import importlib, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nvidia", "av", "pydantic", "pyarrow", "scipy", "rich", "yaml", "matplotlib"):
            raise ImportError(f"no {name} here")
sys.meta_path.insert(0, Absent())
from fastplan.benchmarks.gpu_check.__main__ import STAGES
for name, stage in STAGES.items():
    units = importlib.import_module(stage.module).units(False)
    assert units and all(bool(unit.missing) == (name == "nvdec") for unit in units), name
    print(name, units[0].missing)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "no av here" in run.stdout or "no nvidia" in run.stdout
