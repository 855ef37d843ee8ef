"""The convolutions as GEMMs: prologue, epilogues, statistics and every gradient, against fp64 conv3d."""

import pytest
import torch
from oracle import assert_close, check, run, vectors

from fastplan.kernels import fused, reference
from fastplan.kernels.taps import pack_p3d_b, pack_taps

# N, T, H, W; 49 and 105 positions are no multiple of a tile, T = 1 pads both neighbours
CASES = [((1, 1, 7, 7), 32, 64), ((2, 3, 7, 5), 48, 32)]
DTYPES = [torch.float32, torch.bfloat16]


def inputs_of(shape, source, channels, taps, *more):
    values = {
        "x": torch.randn(*shape, source),
        "w": torch.randn(taps, source, channels) / (taps * source) ** 0.5,
    }
    if "norm" in more:
        values |= vectors(source, "weight", "bias")
    if "epilogue" in more:
        values |= {"b": torch.randn(channels), "residual": torch.randn(*shape, channels)}
    return values


def batch_norm(k, x, weight, bias):
    return k.bn_finalize(*k.channel_stats(x), weight, bias, positions=x[0, ..., 0].numel())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "source", "channels", "taps", "stride"),
    [(*case, taps, stride) for case in CASES for taps, stride in ((1, 1), (1, 2), (3, 1), (3, 2))]
    + [((1, 2, 7, 5), 16, 32, 11, stride) for stride in (1, 2)],
)
def test_prologue_and_statistics(shape, source, channels, taps, stride, dtype):
    """Train-mode BN + ReLU before the convolution; in fp32 its statistics feed another BN behind it.

    Not in bf16: the second ReLU's mask follows the rounded convolution, which an fp64 reference does not
    have.
    """

    def function(k, v):
        norm = batch_norm(k, v["x"], v["weight"], v["bias"])
        y, mean, m2 = k.tap_gemm(v["x"], v["w"], norm=norm, stats=True, stride=stride)
        if dtype == torch.bfloat16:
            return y
        one, quarter = torch.ones_like(mean[0]), torch.full_like(mean[0], 0.25)
        after = k.bn_finalize(mean, m2, one, quarter, positions=y[0, ..., 0].numel())
        return k.bn_relu_apply(y, after)

    check(function, inputs_of(shape, source, channels, taps, "norm"), dtype, activations=("x", "w"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize(("shape", "source", "channels"), CASES)
def test_statistics_are_of_the_stored_values(shape, source, channels, taps, dtype):
    v = {name: value.to(dtype) for name, value in inputs_of(shape, source, channels, taps).items()}
    y, mean, m2 = fused.tap_gemm(v["x"], v["w"] + 0.25, stats=True)
    want_mean, want_m2 = reference.channel_stats(y.double())
    assert_close("mean", mean, want_mean, torch.float32)
    assert_close("m2", m2, want_m2, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize(("shape", "source", "channels"), CASES)
def test_folded_epilogue(shape, source, channels, taps, dtype):
    def function(k, v):
        return k.tap_gemm(v["x"], v["w"], bias_C=v["b"], residual_NTHWC=v["residual"], relu=True)[0]

    inputs = inputs_of(shape, source, channels, taps, "epilogue")
    check(function, inputs, dtype, activations=("x", "w", "residual"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("taps", [1, 3])
def test_a_bias_of_each_sample(taps, dtype):
    """Of three samples with two tiles each: every tile adds its own sample's, whose gradient is its own sample's."""

    def function(k, v):
        return k.tap_gemm(v["x"], v["w"], bias_NC=v["b"], residual_NTHWC=v["residual"], relu=True)[0]

    inputs = inputs_of((3, 2, 7, 7), 16, 32, taps, "epilogue") | {"b": torch.randn(3, 32)}
    got = check(function, inputs, dtype, activations=("x", "w", "residual"))
    assert got["db"].shape == (3, 32)


def test_several_tiles_in_every_direction():
    """3 tiles of rows, 2 of outputs, 2 steps of inputs, 2 splits of the weight gradient."""
    inputs = inputs_of((1, 2, 9, 9), 128, 256, 1, "norm")

    def function(k, v):
        norm = batch_norm(k, v["x"], v["weight"], v["bias"])
        y, mean, m2 = k.tap_gemm(v["x"], v["w"], norm=norm, stats=True)
        after = k.bn_finalize(mean, m2, torch.ones_like(mean[0]), torch.ones_like(mean[0]), positions=162)
        return k.bn_relu_apply(y, after)

    check(function, inputs, torch.float32, activations=("x", "w"))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
def test_p3d_c(dtype):
    """relu(x + t(x)); the sum is rounded once."""

    def function(k, v):
        return k.tap_gemm(v["x"], v["w"], add_input=True, relu=True)[0]

    check(function, inputs_of((2, 3, 7, 5), 32, 32, 3), dtype, activations=("x", "w"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [1, 2])
def test_fork_adds_the_identity_gradient(stride, dtype):
    """A block's entry: x feeds a convolution, whose gradient kernel adds the identity's gradient."""

    def function(k, v):
        y, mean, m2, identity = k.tap_gemm_fork(v["x"], v["w"], stats=True, stride=stride)
        z = k.bn_relu_apply(
            y, k.bn_finalize(mean, m2, v["weight"], v["bias"], positions=y[0, ..., 0].numel()), relu=False
        )
        return torch.cat([z.flatten(), identity.flatten()])

    inputs = inputs_of((2, 3, 7, 5), 32, 32, 1, "norm")
    check(function, inputs, dtype, activations=("x", "w"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fork_with_a_folded_norm(dtype):
    """A frozen BatchNorm in the entry's epilogue: bias and ReLU, beside the identity's gradient."""

    def function(k, v):
        y, mean, m2, identity = k.tap_gemm_fork(v["x"], v["w"], bias_C=v["b"], relu=True)
        assert mean is None and m2 is None
        return torch.cat([y.flatten(), identity.flatten()])

    inputs = inputs_of((2, 3, 7, 5), 32, 48, 1) | {"b": torch.randn(48)}
    check(function, inputs, dtype, activations=("x", "w"))


def test_fork_without_one_of_its_branches():
    x, w = (t.requires_grad_() for t in (torch.randn(1, 1, 4, 4, 16), torch.randn(1, 16, 16)))
    y, _, _, identity = fused.tap_gemm_fork(x, w)
    assert torch.equal(torch.autograd.grad(identity.sum(), x, retain_graph=True)[0], torch.ones_like(x))
    want = torch.autograd.grad(fused.tap_gemm(x, w)[0].sum(), (x, w))
    for name, a, b in zip(("dx", "dw"), torch.autograd.grad(y.sum(), (x, w)), want, strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_behind_a_folded_epilogue(dtype):
    """The means that a block's end asks for: of the stored values, ReLU included."""
    v = inputs_of((2, 3, 7, 5), 32, 32, 3, "epilogue")
    x, w, residual = (v[name].to(dtype) for name in ("x", "w", "residual"))
    for options in ({"bias_C": v["b"], "residual_NTHWC": residual}, {"add_input": True}):
        y, mean, m2 = fused.tap_gemm(x, w, relu=True, stats=True, **options)
        want_mean, want_m2 = reference.channel_stats(y.double())
        assert_close("mean", mean, want_mean, torch.float32)
        assert_close("m2", m2, want_m2, torch.float32)


@pytest.mark.parametrize("stride", [1, 2])
def test_p3d_b(stride):
    """Eleven taps against the two convolutions they merge, gradients of both weights included."""
    spatial, temporal = torch.randn(32, 16, 1, 3, 3) / 12, torch.randn(32, 16, 3, 1, 1) / 12

    def merged(k, v):
        return k.tap_gemm(v["x"], pack_p3d_b(v["s"], v["t"]), stride=stride)[0]

    def composed(_k, v):
        moved, steps = v["x"].permute(0, 4, 1, 2, 3), (1, stride, stride)
        y = torch.nn.functional.conv3d(moved, v["s"], None, steps, (0, 1, 1))
        return (y + torch.nn.functional.conv3d(moved, v["t"], None, steps, (1, 0, 0))).permute(0, 2, 3, 4, 1)

    inputs = {"x": torch.randn(1, 2, 7, 5, 16), "s": spatial, "t": temporal}
    got = check(merged, inputs, torch.float32)
    gradient = torch.randn_like(got["y"])
    got = run(merged, fused, inputs, gradient)
    want = run(composed, reference, {name: value.double() for name, value in inputs.items()}, gradient.double())
    for name, value in want.items():
        assert_close(name, got[name], value, torch.float32)


@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_reference_is_conv3d(taps, stride):
    x, weight = torch.randn(2, 3, 7, 5, 16).double(), torch.randn(32, 16, taps, 1, 1).double()
    moved = x.permute(0, 4, 1, 2, 3)
    want = torch.nn.functional.conv3d(moved, weight, None, (1, stride, stride), (taps // 2, 0, 0))
    got = reference.tap_gemm(x, pack_taps(weight), stride=stride)[0]
    assert_close("y", got, want.permute(0, 2, 3, 4, 1), torch.float64)


def test_padding_is_of_the_activation():
    """relu(shift) is not zero: a prologue that pads x instead of the activation fails here."""
    x, v = torch.zeros(1, 1, 1, 1, 16), torch.ones(16)
    norm = reference.bn_finalize(v[None] * 0, v[None], v, v, positions=2)
    y = fused.tap_gemm(x, torch.ones(3, 16, 16), norm=norm)[0]
    assert torch.equal(y, torch.full_like(y, 16.0))


def test_autocast_casts_like_a_convolution():
    x, w = torch.randn(1, 1, 4, 4, 16), torch.randn(1, 16, 16)
    for k in (fused, reference):
        with torch.autocast("cpu", torch.bfloat16):
            y = k.tap_gemm(x, w)[0]
        assert y.dtype == torch.bfloat16
        assert_close("y", y, reference.tap_gemm(x.bfloat16().double(), w.bfloat16().double())[0], torch.bfloat16)


@pytest.mark.parametrize("fork", [False, True])
def test_gradcheck(fork):
    inputs = inputs_of((2, 1, 3, 2), 16, 16, 3, "norm") | {"b": torch.randn(16)}
    leaves = {name: value.double().requires_grad_() for name, value in inputs.items()}
    names = list(leaves)

    def function(*values):
        v = dict(zip(names, values, strict=True))
        if fork:
            y, _, _, identity = fused.tap_gemm_fork(v["x"], v["w"], bias_C=v["b"], relu=True)
            return y + identity
        norm = batch_norm(fused, v["x"], v["weight"], v["bias"])
        return fused.tap_gemm(v["x"], v["w"], norm=norm, bias_C=v["b"], relu=True)[0]

    assert torch.autograd.gradcheck(function, tuple(leaves.values()), fast_mode=True)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 16, 16), {}, "1 or 3 or 11"),
        ((1, 16, 24), {}, "multiples of 16"),
        ((1, 16, 16), {"stride": 3}, "stride 3"),
        ((1, 16, 32), {"add_input": True}, "add_input"),
        ((1, 16, 16), {"bias_C": torch.zeros(8)}, "bias_C"),
        ((1, 16, 16), {"bias_NC": torch.zeros(2, 16)}, "bias_NC"),
        ((1, 16, 16), {"bias_C": torch.zeros(16), "bias_NC": torch.zeros(1, 16)}, "add the one to the other"),
        ((1, 16, 16), {"residual_NTHWC": torch.zeros(1, 1, 2, 2, 16)}, "residual_NTHWC"),
    ],
)
def test_errors(shape, options, message):
    with pytest.raises(ValueError, match=message):
        fused.tap_gemm(torch.zeros(1, 1, 4, 4, 16), torch.zeros(shape), **options)
