"""Kernels on silicon: every operator, both formats, in the configuration in use (`make gpu-check` does them all)."""

import pytest
import torch

from fastplan.benchmarks import timing
from fastplan.benchmarks.gpu_check import correct
from fastplan.benchmarks.kernel_cases import cases

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_an_operator_is_its_definition(case, dtype):
    if case.check_dtype not in (None, dtype):
        pytest.skip("rounding makes ties, which an fp64 reference resolves otherwise")
    row = correct.check(case, dtype)
    assert row["error"] <= correct.TOLERANCE[dtype] and row["repeats"]


def test_a_captured_graph_is_the_work():
    x = torch.zeros((), device="cuda")
    replay = timing.capture(lambda: x.add_(1))
    torch.cuda.synchronize()
    before = x.item()
    replay()
    replay()
    assert x.item() == before + 2
