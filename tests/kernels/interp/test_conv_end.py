"""The end of a block as one GEMM: the context from the mean of its input, and every gradient, against fp64."""

import pytest
import torch
from oracle import assert_close, check, relative_error, vectors

from fastplan.kernels import fused, reference
from fastplan.kernels.norm import Context, Norm, frozen_norm
from fastplan.kernels.taps import fold_norm

# N, T, H, W: one clip of one frame with 49 positions; 210 positions a sample, no multiple of a tile
CASES = [((1, 1, 7, 7), 32, 64), ((2, 3, 7, 10), 48, 32)]
DTYPES = [torch.float32, torch.bfloat16]
ACTIVATIONS = ("x", "w", "identity")


def inputs_of(shape, source, channels, *, norm=None, projected=False):
    hidden = channels // 8
    values = {
        "x": torch.randn(*shape, source),
        "w": torch.randn(1, source, channels) / source**0.5,
        "identity": torch.randn(*shape, channels),
        "b": torch.randn(channels),
        "fc1": torch.randn(hidden, channels) / channels**0.5,
        "fc1_b": torch.randn(hidden),
        "fc2": torch.randn(channels, hidden) / hidden**0.5,
        "fc2_b": torch.randn(channels),
    }
    if norm is not None:
        values |= vectors(source, "weight", "bias")
    if projected:
        values["identity_b"] = torch.randn(channels)
    return values


def block_end(norm):
    """norm: None, or of the BN before the convolution: frozen, or of the batch."""

    def function(k, v):
        before = None
        if norm == "batch":
            positions = v["x"][0, ..., 0].numel()
            before = k.bn_finalize(*k.channel_stats(v["x"]), v["weight"], v["bias"], positions=positions)
        elif norm == "frozen":
            before = frozen_norm(torch.zeros_like(v["bias"]), torch.ones_like(v["bias"]), v["weight"], v["bias"], eps=0)
        mean, _ = k.channel_stats(v["x"], norm=before)
        context = Context(mean, v["fc1"], v["fc1_b"], v["fc2"], v["fc2_b"])
        options = {"bias_C": v["b"], "context": context, "norm": before, "identity_bias_C": v.get("identity_b")}
        return k.conv_gc_add_relu(v["x"], v["w"], v["identity"], **options)

    return function


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", [None, "frozen", "batch"])
@pytest.mark.parametrize(("case", "projected"), [(CASES[0], True), (CASES[1], False)])
def test_conv_gc_add_relu(case, projected, norm, dtype):
    inputs = inputs_of(*case, norm=norm, projected=projected)
    if dtype == torch.bfloat16 and norm is not None:
        # The last ReLU's mask follows the rounded activation, which fp64 does not have: compared where it is open.
        narrow = {name: value.to(dtype) if name in ACTIVATIONS else value for name, value in inputs.items()}
        want = block_end(norm)(reference, {name: value.double() for name, value in narrow.items()})
        assert_close("y", block_end(norm)(fused, narrow), want, dtype)
        inputs["b"] += 16
    got = check(block_end(norm), inputs, dtype, activations=ACTIVATIONS)
    assert all(got[f"d{name}"] is not None for name in inputs)


def test_several_tiles_in_every_direction():
    """3 tiles of rows, 2 of outputs, 2 steps of inputs, several splits of the weight gradient."""
    inputs = inputs_of((1, 2, 9, 9), 128, 256, norm="frozen")
    check(block_end("frozen"), inputs, torch.float32, activations=ACTIVATIONS)


def test_the_context_is_that_of_the_convolution():
    """Neither of what the epilogue makes of it nor of another sample: against convolution, mean, layers and sum."""
    v = {name: value.double() for name, value in inputs_of((2, 2, 3, 3), 16, 16, projected=True).items()}
    z = v["x"] @ v["w"][0] + v["b"]
    pooled = z.mean((1, 2, 3))
    gc = (pooled @ v["fc1"].t() + v["fc1_b"]).relu() @ v["fc2"].t() + v["fc2_b"]
    assert relative_error(gc[:1], gc[1:]) > 0.1
    want = (z + gc[:, None, None, None] + v["identity"] + v["identity_b"]).relu()
    for k in (fused, reference):
        assert_close("y", block_end(None)(k, v), want, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_folded_end_is_the_unfolded_one(dtype):
    """conv3 and the projection with their BNs folded in, against `bn_gc_add_relu` of what the convolutions store."""
    shape, source, channels = (2, 2, 7, 5), 32, 64
    v = inputs_of(shape, source, channels)
    norms = [frozen_norm(*vectors(channels, "mean", "var_weight", "weight", "bias").values(), eps=1e-5) for _ in "ab"]
    projection, x0 = torch.randn(1, 16, channels) / 4, torch.randn(*shape, 16).to(dtype)
    x, context = v["x"].to(dtype), (v["fc1"], v["fc1_b"], v["fc2"], v["fc2_b"])
    (weight, bias), (down, down_bias) = fold_norm(v["w"], norms[0]), fold_norm(projection, norms[1])
    got = fused.conv_gc_add_relu(
        x,
        weight.to(dtype),
        fused.tap_gemm(x0, down.to(dtype))[0],
        bias_C=bias,
        context=Context(fused.channel_stats(x)[0], *context),
        identity_bias_C=down_bias,
    )
    y = reference.tap_gemm(x.double(), v["w"].double())[0]
    wide = [Norm(*(vector.double() for vector in norm[:4])) for norm in norms]
    pooled = Context(y.mean((1, 2, 3)), *(parameter.double() for parameter in context))
    raw = reference.tap_gemm(x0.double(), projection.double())[0]
    assert_close("y", got, reference.bn_gc_add_relu(y, raw, wide[0], context=pooled, identity_norm=wide[1]), dtype)


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_gradcheck(norm):
    inputs = inputs_of((2, 1, 3, 2), 16, 16, norm=norm, projected=True)
    leaves = {name: value.double().requires_grad_() for name, value in inputs.items()}
    function = block_end(norm)
    assert torch.autograd.gradcheck(
        lambda *values: function(fused, dict(zip(leaves, values, strict=True))), tuple(leaves.values()), fast_mode=True
    )


@pytest.mark.parametrize("frozen", [("w",), ("x", "identity"), ("b", "identity_b", "weight", "bias"), ("fc1", "fc2")])
def test_only_what_is_asked_for(frozen):
    """Leaves without a gradient change nothing in the gradients of the others."""
    inputs = inputs_of((1, 1, 3, 5), 16, 32, norm="frozen", projected=True)
    found = []
    for without in ((), frozen):
        leaves = {name: value.clone().requires_grad_(name not in without) for name, value in inputs.items()}
        block_end("frozen")(fused, leaves).square().sum().backward()
        found.append({name: value.grad for name, value in leaves.items()})
    for name, grad in found[1].items():
        assert grad is None if name in frozen else torch.equal(grad, found[0][name]), name


def test_autocast_casts_like_a_convolution():
    v = inputs_of((1, 1, 4, 4), 16, 32)
    for k in (fused, reference):
        with torch.autocast("cpu", torch.bfloat16):
            leaves = {name: value.clone().requires_grad_() for name, value in v.items()}
            y = block_end(None)(k, leaves)
            y.float().square().sum().backward()
        assert y.dtype == torch.bfloat16 and leaves["w"].grad.dtype == torch.float32
        narrow = {name: (t.bfloat16() if name in ACTIVATIONS else t).double() for name, t in v.items()}
        assert_close("y", y, block_end(None)(reference, narrow), torch.bfloat16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"w": torch.zeros(3, 16, 16)}, "3 taps"),
        ({"w": torch.zeros(1, 16, 24)}, "multiples of 16"),
        ({"identity": torch.zeros(1, 1, 2, 2, 16)}, "identity_NTHWC"),
        ({"b": torch.zeros(8)}, "bias_C"),
        ({"identity_b": torch.zeros(8)}, "identity_bias_C"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        block_end(None)(fused, inputs_of((1, 1, 4, 4), 16, 16) | changes)


def test_a_mean_of_other_samples_is_refused():
    v = inputs_of((2, 1, 4, 4), 16, 16)
    context = Context(torch.zeros(1, 16), v["fc1"], v["fc1_b"], v["fc2"], v["fc2_b"])
    with pytest.raises(ValueError, match=r"sample_mean has shape \(1, 16\)"):
        fused.conv_gc_add_relu(v["x"], v["w"], v["identity"], bias_C=v["b"], context=context)
