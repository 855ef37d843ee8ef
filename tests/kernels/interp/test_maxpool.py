"""BN + ReLU + max-pool: gradients against fp64, ties against torch's own max_pool3d, exactly."""

import pytest
import torch
from oracle import check, run, vectors

from fastplan.kernels import fused, reference
from fastplan.kernels.norm import Norm

SPATIAL, TEMPORAL = (1, 3, 3), (4, 1, 1)
CASES = [
    ((2, 1, 7, 7, 32), SPATIAL),
    ((1, 2, 8, 5, 24), SPATIAL),
    ((2, 4, 3, 7, 32), TEMPORAL),
    ((1, 11, 2, 3, 144), TEMPORAL),
]


def pooled(window, mode):
    def function(k, v):
        if mode == "no norm":
            return k.bn_relu_maxpool(v["x"], None, window=window)
        positions = v["x"][0, ..., 0].numel()
        norm = k.bn_finalize(*k.channel_stats(v["x"]), v["weight"], v["bias"], positions=positions)
        if mode == "frozen":
            norm = norm._replace(inv_count=None)
        return k.bn_relu_maxpool(v["x"], norm, window=window)

    return function


@pytest.mark.parametrize("mode", ["batch", "frozen", "no norm"])
@pytest.mark.parametrize(("shape", "window"), CASES)
def test_bn_relu_maxpool(shape, window, mode):
    inputs = {"x": torch.randn(shape)} | ({} if mode == "no norm" else vectors(shape[-1], "weight", "bias"))
    check(pooled(window, mode), inputs, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize(("shape", "window"), CASES)
def test_ties_go_to_the_first(shape, window, normed, dtype):
    """Small integers: most windows tie, and every operation is exact in bf16."""
    x = torch.randint(-2, 2, shape).to(dtype)
    ones, zeros = torch.ones(shape[-1]), torch.zeros(shape[-1])
    norm = Norm(ones, zeros, zeros, ones) if normed else None
    stride, padding = reference.POOLS[window]

    def composed(_k, v):
        moved = v["x"].permute(0, 4, 1, 2, 3)
        y = torch.nn.functional.max_pool3d(moved.relu() if normed else moved, window, stride, padding)
        return y.permute(0, 2, 3, 4, 1)

    gradient = torch.randint(-3, 4, composed(None, {"x": x}).shape).to(dtype)
    want = run(composed, reference, {"x": x.float()}, gradient.float())
    got = run(lambda k, v: k.bn_relu_maxpool(v["x"], norm, window=window), fused, {"x": x}, gradient)
    assert torch.equal(got["y"].float(), want["y"])
    assert torch.equal(got["dx"].float(), want["dx"])


@pytest.mark.parametrize(("shape", "window"), CASES)
def test_rounds_before_it_compares(shape, window):
    x, v = torch.randn(shape).bfloat16(), vectors(shape[-1], "weight", "bias")
    norm = Norm(v["weight"], v["bias"], v["bias"], v["weight"])
    activation = fused.bn_relu_apply(x, norm)
    assert torch.equal(
        fused.bn_relu_maxpool(x, norm, window=window), fused.bn_relu_maxpool(activation, None, window=window)
    )


@pytest.mark.parametrize(("shape", "window"), [((1, 1, 5, 3, 16), SPATIAL), ((2, 5, 1, 2, 16), TEMPORAL)])
def test_gradcheck(shape, window):
    leaves = {"x": torch.randn(shape), **vectors(16, "weight", "bias")}
    leaves = {name: value.double().requires_grad_() for name, value in leaves.items()}
    function = pooled(window, "batch")
    assert torch.autograd.gradcheck(
        lambda *values: function(fused, dict(zip(leaves, values, strict=True))), tuple(leaves.values()), fast_mode=True
    )


def test_a_nan_wins():
    x = torch.zeros(1, 1, 3, 3, 16)
    x[0, 0, 1, 1] = float("nan")
    assert fused.bn_relu_maxpool(x, None, window=SPATIAL).isnan().all()


@pytest.mark.parametrize("k", [fused, reference])
def test_errors(k):
    x = torch.zeros(1, 3, 4, 4, 16)
    with pytest.raises(ValueError, match="window"):
        k.bn_relu_maxpool(x, None, window=(2, 2, 2))
    with pytest.raises(ValueError, match="3 frames"):
        k.bn_relu_maxpool(x, None, window=TEMPORAL)
