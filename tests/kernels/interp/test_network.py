"""Whole DG-P3D networks on the kernels against composed PyTorch: outputs, gradients, statistics, training.

In fp64, which only the interpreter runs, both sides agree to rounding, so a wrong wire shows whatever its size.
"""

import copy
from collections import Counter

import pytest
import torch
from on_off import SPECS, assert_first_of_ties_wins, assert_same, clips, every_convolution_a_gemm, pair, step
from oracle import relative_error

from fastplan.kernels import fused
from fastplan.models.blocks import Bottleneck
from fastplan.models.layers import BatchNorm
from fastplan.ops import set_kernels

EXACT = 1e-9


@pytest.mark.parametrize("name", list(SPECS))
def test_three_steps_of_training(name, monkeypatch):
    """Logits, loss, every gradient and statistic of three steps of SGD, and the weights that they lead to.

    The first pass agrees to 3e-14; a step of training on two clips multiplies such a difference by about a hundred.
    """
    every_convolution_a_gemm(monkeypatch)
    off, on = pair(name, "auto")
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9, nesterov=True) for network in (off, on)]
    for number in range(3):
        x = clips(frames=16 if number == 0 else 4)
        assert_same(step(on, x), step(off, x), EXACT * 10**number)
        for optimizer in optimizers:
            optimizer.step()
    assert_same(on.state_dict(), off.state_dict(), EXACT * 10)


def test_a_rerun_has_the_same_bits():
    x = clips(frames=4)
    first, second = (step(pair("bottleneck", "auto")[1], x) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), f"{name} differs between two runs"


def test_one_short_clip():
    """N = 1, and T = 1 behind the stem: the pool in time has nothing to do."""
    off, on = pair("bottleneck", "auto")
    x = clips(samples=1, frames=4, height=38)
    assert_same(step(on, x), step(off, x), EXACT)


@pytest.mark.parametrize("name", list(SPECS))
def test_frozen_and_evaluation(name, monkeypatch):
    """A folded BatchNorm: scale in the weight, shift and ReLU in the epilogue."""
    every_convolution_a_gemm(monkeypatch)
    off, on = pair(name, "auto")
    x = clips(frames=4)
    for network in (off, on):
        for module in network.modules():
            if isinstance(module, BatchNorm):
                module.freeze(True)
    assert_same(step(on, x), step(off, x), EXACT)
    for network in (off, on):
        network.eval()
    with torch.no_grad():
        for got, want in zip(on(x), off(x), strict=True):
            torch.testing.assert_close(got, want, rtol=EXACT, atol=EXACT)


def test_a_block_with_fixed_statistics_ends_in_its_last_convolution(monkeypatch):
    """No pass behind conv3: counted for A, B and C, with an identity and with projections of both strides."""
    _, on = pair("bottleneck", "auto")
    x, blocks = clips(frames=4), [module for module in on.modules() if isinstance(module, Bottleneck)]
    assert {(block.conv2.kind, type(block.downsample).__name__) for block in blocks} >= {
        ("A", "Sequential"), ("B", "Identity"), ("C", "Sequential")
    }  # fmt: skip
    counts = Counter()
    for name in ("bn_gc_add_relu", "conv_gc_add_relu"):
        operator = getattr(fused, name)
        counted = lambda *args, name=name, operator=operator, **options: (  # noqa: E731
            counts.update([name]) or operator(*args, **options)
        )
        monkeypatch.setattr(fused, name, counted)
    with torch.no_grad():
        on(x)
        assert counts == {"bn_gc_add_relu": len(blocks)}
        on.eval()(x)
        assert counts == {"bn_gc_add_relu": len(blocks), "conv_gc_add_relu": len(blocks)}


def test_a_block_whose_projection_alone_is_in_training():
    """Its statistics are the batch's: nothing of this block's end is folded, and the numbers are composed PyTorch's."""
    off, on = pair("bottleneck", "auto")
    for network in (off, on):
        for name, module in network.named_modules():
            if isinstance(module, BatchNorm):
                module.freeze("downsample" not in name)
    x = clips(frames=4)
    assert_same(step(on, x), step(off, x), EXACT)


def test_autocast():
    """bf16 on both sides; each rounds in its own places, so they are only as near as bf16 leaves them to fp32."""
    off, on = pair("bottleneck", "auto", torch.float32)
    x = clips(dtype=torch.float32)
    want = [head.detach() for head in copy.deepcopy(off)(x)]
    with torch.autocast("cpu", torch.bfloat16):
        composed, fused = off(x), on(x)
    for exact, plain, ours in zip(want, composed, fused, strict=True):
        assert ours.dtype == plain.dtype
        assert relative_error(ours, exact) < max(2 * relative_error(plain, exact), 0.03)


@pytest.mark.parametrize("frames", [3, 4, 11])
def test_the_first_of_ties_wins_the_pool_over_time(frames):
    assert_first_of_ties_wins(pair("tiny", "auto", torch.float32)[1], frames)


def test_switching_back():
    off, on = pair("bottleneck", "auto")
    x = clips(frames=4)
    set_kernels(on, "off")
    with torch.no_grad():
        for got, want in zip(on(x), off(x), strict=True):
            assert torch.equal(got, want)
