"""Batch statistics, BN apply + ReLU, and the block's tail, against fp64 autograd through the definition."""

import pytest
import torch
from oracle import assert_close, check, run, vectors

from fastplan.kernels import fused, reference
from fastplan.kernels.norm import Context, Norm, frozen_norm

# N, T, H, W, C: H = 7, T = 1, N = 1, channels that fill no tile, positions that are no multiple of one
SHAPES = [(2, 3, 7, 7, 64), (1, 1, 7, 5, 24), (3, 2, 9, 4, 160)]
CASES = [*((shape, torch.float32) for shape in SHAPES), (SHAPES[0], torch.bfloat16)]


def batch_norm(k, x, weight, bias, **options):
    positions = x.shape[1] * x.shape[2] * x.shape[3]
    stats = k.channel_stats(x)
    return k.bn_finalize(*stats, weight, bias, positions=positions, **options), stats[0]


def frozen(weight, bias):
    channels = torch.arange(weight.numel(), dtype=weight.dtype)
    return frozen_norm(channels.cos(), 0.5 + channels.sin().square(), weight, bias, eps=1e-5)


@pytest.mark.parametrize(("shape", "dtype"), [*CASES, ((2, 3, 20, 20, 128), torch.float32)])
def test_statistics(shape, dtype):
    x = (torch.randn(shape) * 0.01 + 1).to(dtype)  # mean 100 times the deviation
    mean, m2 = fused.channel_stats(x)
    want_mean, want_m2 = reference.channel_stats(x.double())
    assert_close("mean", mean, want_mean, torch.float32)
    assert_close("m2", m2, want_m2, torch.float32, factor=100)  # x - mean keeps 5 of fp32's 7 digits
    assert_close("var", want_m2 / x[0, ..., 0].numel(), x.double().var((1, 2, 3), correction=0), torch.float64)


@pytest.mark.parametrize(("shape", "dtype"), [*CASES, ((2, 3, 20, 20, 128), torch.float32)])
def test_statistics_behind_a_norm(shape, dtype):
    """Of relu(bn(x)), which is not stored: as of what `bn_relu_apply` stores, rounded likewise."""
    x, v = torch.randn(shape).to(dtype), vectors(shape[-1], "weight", "bias")
    norm = frozen(v["weight"], v["bias"])
    mean, m2 = fused.channel_stats(x, norm=norm)
    want_mean, want_m2 = reference.channel_stats(fused.bn_relu_apply(x, norm).double())
    assert_close("mean", mean, want_mean, torch.float32)
    assert_close("m2", m2, want_m2, torch.float32)
    want_mean, _ = reference.channel_stats(x.double(), norm=Norm(*(vector.double() for vector in norm[:4])))
    assert_close("mean", mean, want_mean, dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_finalize_is_batch_norm(shape):
    """Against torch.nn.functional.batch_norm, running statistics included."""
    x, v = torch.randn(shape, dtype=torch.float64), vectors(shape[-1], "weight", "bias", "mean", "var_weight")
    v = {name: value.double() for name, value in v.items()}
    want_mean, want_var = v["mean"].clone(), v["var_weight"].clone()
    want = torch.nn.functional.batch_norm(
        x.permute(0, 4, 1, 2, 3), want_mean, want_var, v["weight"], v["bias"], True, 0.2
    ).permute(0, 2, 3, 4, 1)
    for k in (fused, reference):
        mean, var = v["mean"].clone(), v["var_weight"].clone()
        running = {"running_mean_C": mean, "running_var_C": var, "momentum": 0.2}
        norm, _ = batch_norm(k, x, v["weight"], v["bias"], **running)
        assert_close("y", k.bn_relu_apply(x, norm, relu=False), want, torch.float64)
        assert_close("running mean", mean, want_mean, torch.float64)
        assert_close("running var", var, want_var, torch.float64)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_bn_relu_apply(shape, relu, training, dtype):
    def function(k, v):
        bn = batch_norm(k, v["x"], v["weight"], v["bias"])[0] if training else frozen(v["weight"], v["bias"])
        return k.bn_relu_apply(v["x"], bn, relu=relu)

    check(function, {"x": torch.randn(shape) + 0.5, **vectors(shape[-1], "weight", "bias")}, dtype)


def tail(training, context, downsample):
    def function(k, v):
        def norm(x, weight, bias):
            return batch_norm(k, x, weight, bias)[0] if training else frozen(weight, bias)

        bn = norm(v["x"], v["weight"], v["bias"])
        gc = Context(k.channel_stats(v["x"])[0], v["fc1"], v["fc1_bias"], v["fc2"], v["fc2_bias"]) if context else None
        down = norm(v["identity"], v["id_weight"], v["id_bias"]) if downsample else None
        return k.bn_gc_add_relu(v["x"], v["identity"], bn, context=gc, identity_norm=down)

    return function


def tail_inputs(shape, context, downsample):
    channels, hidden = shape[-1], max(1, shape[-1] // 16)
    inputs = {
        "x": torch.randn(shape) + 0.3,
        "identity": torch.randn(shape),
        **vectors(channels, "weight", "bias"),
    }
    if context:
        inputs |= {"fc1": torch.randn(hidden, channels) / 4, "fc1_bias": torch.randn(hidden)}
        inputs |= {"fc2": torch.randn(channels, hidden), "fc2_bias": torch.randn(channels)}
    return inputs | (vectors(channels, "id_weight", "id_bias") if downsample else {})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("downsample", [True, False])
@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_bn_gc_add_relu(shape, context, downsample, training, dtype):
    check(tail(training, context, downsample), tail_inputs(shape, context, downsample), dtype)


def test_half_precision():
    check(tail(True, True, True), tail_inputs(SHAPES[0], True, True), torch.float16)


def test_reference_is_the_composed_block():
    """The reference against batch_norm, linear and relu as a network would write them, in fp64."""
    shape = (2, 3, 5, 7, 32)
    inputs = {name: value.double() for name, value in tail_inputs(shape, True, True).items()}

    def composed(_k, v):
        def norm(x, weight, bias):
            moved = x.permute(0, 4, 1, 2, 3)
            return torch.nn.functional.batch_norm(moved, None, None, weight, bias, True).permute(0, 2, 3, 4, 1)

        z = norm(v["x"], v["weight"], v["bias"])
        hidden = torch.relu(z.mean((1, 2, 3)) @ v["fc1"].t() + v["fc1_bias"])
        gc = hidden @ v["fc2"].t() + v["fc2_bias"]
        return torch.relu(z + gc[:, None, None, None] + norm(v["identity"], v["id_weight"], v["id_bias"]))

    gradient = torch.randn(shape, dtype=torch.float64)
    want = run(composed, reference, inputs, gradient)
    got = run(tail(True, True, True), reference, inputs, gradient)
    for name, value in want.items():
        assert_close(name, got[name], value, torch.float64)


def test_nan_is_not_hidden():
    x, v = torch.randn(1, 1, 3, 3, 16), vectors(16, "weight", "bias")
    x[0, 0, 1, 1, 3] = float("nan")
    norm = frozen(v["weight"], v["bias"])
    assert fused.bn_relu_apply(x, norm).isnan().sum() == 1
    assert fused.bn_gc_add_relu(x, torch.zeros_like(x), norm).isnan().sum() == 1


def test_gradcheck():
    inputs = {n: v.double().requires_grad_() for n, v in tail_inputs((2, 1, 2, 3, 16), True, True).items()}
    function = tail(True, True, True)
    names = list(inputs)
    assert torch.autograd.gradcheck(
        lambda *values: function(fused, dict(zip(names, values, strict=True))),
        tuple(inputs.values()),
        fast_mode=True,
    )
