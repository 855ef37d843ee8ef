"""kernels: reference is kernels: off, in double precision, on whole networks; what runs is said and can be switched."""

import copy

import pytest
import torch
from on_off import SPECS, assert_first_of_ties_wins, assert_same, clips, every_convolution_a_gemm, pair, step

from fastplan import ops
from fastplan.config import build_config, parse_override
from fastplan.models.blocks import PseudoConv
from fastplan.models.layers import BatchNorm
from fastplan.train.averaging import AveragedNetwork, estimate_batch_norm

EXACT = 1e-9


@pytest.fixture(params=[True, False], ids=["all GEMMs", "the table"])
def gemms(request, monkeypatch):
    if request.param:
        every_convolution_a_gemm(monkeypatch)


@pytest.mark.usefixtures("gemms")
@pytest.mark.parametrize("name", list(SPECS))
@pytest.mark.parametrize("shape", [{}, {"samples": 1, "frames": 4, "height": 38}], ids=["16 frames", "one clip of 4"])
def test_training_step(name, shape):
    off, on = pair(name, "reference")
    x = clips(**shape)
    assert_same(step(on, x), step(off, x), EXACT)


@pytest.mark.usefixtures("gemms")
@pytest.mark.parametrize("name", list(SPECS))
def test_frozen_and_evaluation(name):
    off, on = pair(name, "reference")
    x = clips()
    for network in (off, on):
        for module in network.modules():
            if isinstance(module, BatchNorm):
                module.freeze(True)
    before = copy.deepcopy(on.state_dict())
    assert_same(step(on, x), step(off, x), EXACT)
    assert all(torch.equal(before[key], value) for key, value in on.state_dict().items())
    for network in (off, on):
        network.eval()
    with torch.no_grad():
        for got, want in zip(on(x), off(x), strict=True):
            torch.testing.assert_close(got, want, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("mode", ["off", "reference"])
@pytest.mark.parametrize("frames", [3, 4, 11])
def test_the_first_of_ties_wins_the_pool_over_time(mode, frames):
    network = SPECS["tiny"].build(5, 0.0)
    ops.set_kernels(network, mode)
    assert_first_of_ties_wins(network, frames)


def test_averaging_and_estimated_statistics():
    """The averaged copy keeps the setting; statistics estimated through it are those of composed BatchNorms."""
    off, on = pair("tiny", "reference")
    batches = [clips(frames=8), clips(frames=8)]
    found = []
    for network in (off, on):
        average = AveragedNetwork(network, 1.0)
        average.update(network, 4)
        estimate_batch_norm(average.network, batches, torch.autocast("cpu", enabled=False))
        assert average.network.operators is network.operators
        found.append(average.network.state_dict())
    assert_same(found[1], found[0], EXACT)


def test_only_the_convolutions_that_pay_are_gemms(monkeypatch):
    """The operators see what the table says: counted at their entry, for A, B and C of the bottleneck network."""
    every_convolution_a_gemm(monkeypatch)
    _, on = pair("bottleneck", "reference")
    taps = []
    plain = ops.reference.tap_gemm

    def counted(x, w, **options):
        taps.append((w.shape[0], options.get("stride", 1)))
        return plain(x, w, **options)

    monkeypatch.setattr(ops.reference, "tap_gemm", counted)
    on(clips())
    blocks = [m for m in on.modules() if isinstance(m, PseudoConv)]
    merged = [m for m in blocks if m.kind == "B" and ops.gemm_pair(m.s, m.t, torch.float64).fused]
    assert len(merged) == 1  # B of layer 1; the other has a stride
    assert sum(count == 11 for count, _ in taps) == len(merged)
    assert all(stride == 1 for _, stride in taps)
    wanted = sum(ops.gemm(m.conv3, torch.float64).fused for m in on.modules() if hasattr(m, "conv3"))
    assert wanted == len(blocks) and sum(count == 1 for count, _ in taps) >= 2 * wanted


def test_one_setting_turns_everything_off():
    off, on = pair("bottleneck", "reference")
    x = clips()
    assert ops.set_kernels(on, "off").line == "PyTorch operators on channels-last views (as configured)"
    with torch.no_grad():
        for got, want in zip(on(x), off(x), strict=True):
            assert torch.equal(got, want)
    assert list(on.state_dict()) == list(off.state_dict())


def test_without_a_gpu_auto_is_composed_and_says_why():
    choice = ops.choose_kernels("auto", torch.device("cpu"))
    assert choice.runs == "composed"
    assert "the kernels run on CUDA GPUs, not on cpu" in choice.line


def test_the_setting_reads_a_bare_off():
    assert build_config([("word", parse_override("kernels=off"))]).kernels == "off"
    assert build_config([]).kernels == "auto"


def test_a_batch_of_one_value_is_refused():
    norm = BatchNorm(16)
    for operators in (None, ops.Operators(ops.reference)):
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            x = torch.zeros(1, 16, 1, 1, 1)
            norm(x) if operators is None else operators.bn_relu_pool(x, norm)
