"""The kernel benchmark's own code: its baselines compute what they are compared with, every path runs."""

import json

import pytest
import torch
from oracle import assert_close

from fastplan.benchmarks import bench_kernels
from fastplan.benchmarks.kernel_cases import cases
from fastplan.kernels import fused, reference, table

CPU = torch.device("cpu")


@pytest.mark.parametrize("case", cases(tiny=True), ids=lambda case: case.name)
def test_baseline_is_the_reference(case):
    inputs = case.inputs(2, CPU, torch.float64)
    inputs = {name: value.double() for name, value in inputs.items()}
    assert_close(case.name, case.eager(inputs), case.function(reference, inputs), torch.float64, factor=100)


def test_predicted_bytes_of_the_tail():
    """Layer 1, 16 samples, bf16: 16 * 4 * 56 * 56 * 256 elements of 2 bytes, 3 passes (4 with the
    statistics).
    """
    tail = next(case for case in cases(tiny=False) if case.name == "tail, layer 1")
    assert tail.predicted_bytes(torch.bfloat16, backward=False) == 4 * 16 * 4 * 56 * 56 * 256 * 2
    assert tail.predicted_bytes(torch.bfloat16, backward=True) == 11 * 16 * 4 * 56 * 56 * 256 * 2


@pytest.mark.parametrize("rank", range(5))
def test_every_configuration_is_correct(rank):
    case = next(case for case in cases(tiny=True) if case.name == "conv3 after BN, layer 1")
    before = table.gemm_tiles(32, 64, 100)
    with bench_kernels.configuration(rank):
        assert table.gemm_tiles(32, 64, 100)[0] == before[rank % len(before)]
        assert bench_kernels.check(case, CPU, torch.float32) <= 1e-6
    assert table.gemm_tiles(32, 64, 100) == before


def test_a_wrong_operator_is_found_and_not_timed(monkeypatch, tmp_path):
    right = fused.bn_relu_apply
    monkeypatch.setattr(fused, "bn_relu_apply", lambda x, norm: right(x, norm) * 1.01)
    output = ["--output", str(tmp_path)]
    assert bench_kernels.main(["--tiny", "--only", "bn_relu_apply, layer 3", *output]) == 1
    rows = json.loads((tmp_path / "kernels.json").read_text())
    assert [row["direction"] for row in rows] == ["forward", "both"]
    assert all(not row["correct"] and row["ours_us"] is None for row in rows)


def test_whole_command(tmp_path):
    torch.use_deterministic_algorithms(False)  # as a user runs it
    assert bench_kernels.main(["--tiny", "--only", "dual pool", "--output", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "kernels.json").read_text())
    assert all(row["correct"] and row["ours_us"] > 0 and row["eager_us"] > 0 for row in rows)
    assert "INTERPRETED" in (tmp_path / "kernels.md").read_text()
