"""The kernel benchmark's own code: its baselines compute what they are compared with, its checks find what is wrong."""

import pytest
import torch
from oracle import assert_close
from triton.runtime import interpreter

from fastplan.benchmarks import aot
from fastplan.benchmarks.gpu_check import correct, ops
from fastplan.benchmarks.kernel_cases import cases
from fastplan.kernels import fused, reference, table

CPU = torch.device("cpu")


def named(name):
    return next(case for case in cases(tiny=True) if case.name == name)


@pytest.mark.parametrize("case", cases(tiny=True), ids=lambda case: case.name)
def test_baseline_is_the_reference(case):
    inputs = {name: value.double() for name, value in case.inputs(CPU, torch.float64).items()}
    found, wanted = (correct.as_tuple(y) for y in (case.eager(inputs), case.function(reference, inputs)))
    for a, b in zip(found, wanted, strict=True):
        assert_close(case.name, a, b, torch.float64, factor=100)


def test_predicted_bytes_and_flop():
    """Layer 1, 16 samples, bf16: 16 * 4 * 56 * 56 positions of 256 channels, 4 passes; 64 -> 256 is a product of each
    position's 64 channels with 256 columns.
    """
    known = {case.name: case for case in cases()}
    tail, conv3, down = (known[name] for name in ("tail, layer 1", "conv3 after BN, layer 1", "downsample, layer 2"))
    positions = 16 * 4 * 56 * 56
    assert tail.predicted_bytes(torch.bfloat16, backward=False) == 4 * positions * 256 * 2
    assert tail.predicted_bytes(torch.bfloat16, backward=True) == 11 * positions * 256 * 2
    assert tail.flop(backward=True) == 0
    assert conv3.flop(backward=False) == 2 * positions * 64 * 256
    assert down.flop(backward=True) == 3 * 2 * positions // 4 * 256 * 512
    assert down.predicted_bytes(torch.bfloat16, backward=False) == positions // 4 * (256 + 512) * 2


@pytest.mark.parametrize("rank", range(5))
def test_every_configuration_is_correct(rank):
    case = named("conv3 after BN, layer 1")
    before = table.gemm_tiles(32, 64, 100)
    with correct.configuration(rank):
        assert table.gemm_tiles(32, 64, 100)[0] == before[rank % len(before)]
    assert correct.check(case, torch.float32, rank)["correct"]
    assert table.gemm_tiles(32, 64, 100) == before


def test_ranks_reach_every_candidate_of_every_kernel(monkeypatch):
    """All tiles that the table has for the sizes in use are the first of some rank."""
    asked = {name: set() for name in ("row_tiles", "pool_tiles", "gemm_tiles", "wgrad_tiles")}
    chosen = {name: set() for name in asked}
    for case in cases(tiny=True):
        for rank in range(case.configurations() if case.taps < 11 else 0):  # eleven taps are slow and ask like three
            with correct.configuration(rank):
                originals = {name: getattr(table, name) for name in asked}
                for name, choose in originals.items():

                    def noted(*shape, op=case.op, name=name, choose=choose):
                        candidates = choose(*shape)
                        asked[name] |= {(op, shape, tile) for tile in candidates}
                        chosen[name].add((op, shape, candidates[0]))
                        return candidates

                    monkeypatch.setattr(table, name, noted)
                inputs = case.inputs(CPU, torch.float32)
                outputs = correct.as_tuple(case.function(fused, inputs))
                correct.gradients(lambda v, case=case: case.function(fused, v), inputs, list(outputs))
                for name, choose in originals.items():
                    monkeypatch.setattr(table, name, choose)
    assert chosen == asked


def test_the_cases_launch_every_kernel(monkeypatch):
    launched, call = set(), interpreter.GridExecutor.__call__

    def noted(self, *args, **kwargs):
        launched.add(self.fn.__name__)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", noted)
    for case in cases(tiny=True):
        inputs = case.inputs(CPU, torch.float32)
        outputs = correct.as_tuple(case.function(fused, inputs))
        correct.gradients(lambda v, case=case: case.function(fused, v), inputs, list(outputs))
    assert launched == {case.kernel.__name__ for case in aot.cases()}


def test_a_wrong_operator_is_found_and_not_timed(monkeypatch):
    right = fused.bn_relu_apply
    monkeypatch.setattr(fused, "bn_relu_apply", lambda x, norm: right(x, norm) * 1.01)
    case = named("bn_relu_apply, layer 1")
    assert not correct.check(case, torch.float32)["correct"]
    rows = ops.measure(case, tiny=True)
    assert [row["direction"] for row in rows if row["arm"] == "ours"] == ["forward", "both"]
    assert all("us" not in row for row in rows)


def test_an_operator_that_changes_its_mind_is_found(monkeypatch):
    right, calls = fused.bn_relu_apply, []

    def unsteady(x, norm):
        calls.append(x)
        return right(x, norm) * (1 + 1e-7 * (len(calls) % 2))

    monkeypatch.setattr(fused, "bn_relu_apply", unsteady)
    row = correct.check(named("bn_relu_apply, layer 1"), torch.float32)
    assert row["error"] < 1e-6 and not row["repeats"] and not row["correct"]


def test_an_element_that_nothing_writes_is_found(monkeypatch):
    right = fused.bn_relu_apply

    def forgetful(x, norm):
        y = right(x, norm).clone()
        y[0, 0, 0, 0, :1] = torch.empty(1)
        return y

    monkeypatch.setattr(fused, "bn_relu_apply", forgetful)
    row = correct.check(named("bn_relu_apply, layer 1"), torch.float32)
    assert row["error"] != row["error"] and not row["correct"]
