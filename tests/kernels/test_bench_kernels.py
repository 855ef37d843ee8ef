"""Without a GPU the benchmark says so; with one it is a measurement, which no test is."""

import pytest
import torch

from fastplan.benchmarks import bench_kernels


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu(capsys):
    assert bench_kernels.main([]) == 2
    assert bench_kernels.main(["--allow-missing"]) == 0
    assert "no CUDA GPU" in capsys.readouterr().out
