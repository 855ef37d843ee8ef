"""opcheck, torch.compile, and layouts, devices and dtypes rejected by name."""

import pytest
import torch
from on_off import WIDTH, TwoBlocks

from fastplan.kernels import fused
from fastplan.kernels.norm import Context, Norm
from fastplan.ops import set_kernels

OPS = torch.ops.fastplan


@pytest.fixture(autouse=True)
def no_poison(poisoned_memory):
    """opcheck compares two runs of what it allocates itself."""
    torch.use_deterministic_algorithms(False)


def leaf(*shape):
    return torch.randn(shape, requires_grad=True)


def norm(channels):
    return (
        leaf(channels),
        leaf(channels),
        torch.randn(channels),
        torch.rand(channels),
        torch.ones(1) / 8,
        "",
    )


def arguments():
    x, c = (1, 1, 4, 4, 16), 16
    g, index = torch.randn(1, 1, 2, 2, 16), torch.zeros(1, 1, 2, 2, 16, dtype=torch.uint8)
    plain, vector = torch.randn(x), torch.randn(c)
    context = (torch.randn(1, c), leaf(1, c), leaf(1), leaf(c, 1), leaf(c))
    none = (None,) * 5
    tail = (leaf(*x), leaf(*x), *norm(c))
    rows = torch.randn(5, c)
    return {
        "channel_stats": (plain, None, None),
        "channel_stats, after a BN": (plain, vector, vector),
        "bn_finalize": (leaf(c), leaf(c), torch.randn(2, c), torch.rand(2, c), None, 16, 1e-5),
        "bn_relu_apply": (leaf(*x), *norm(c), True),
        "bn_reduce": (plain, None, plain, vector, vector, True, 0),
        "bn_reduce, stem pool": (g, index, plain, vector, vector, True, 1),
        "bn_input_grad": (plain, None, plain, vector, vector, vector, vector, True, 0),
        "bn_input_grad, stem pool": (g, index, plain, vector, vector, vector, vector, True, 1),
        "bn_gc_add_relu": (*tail, *context, *norm(c)),
        "bn_gc_add_relu_reduce": (plain, plain, plain, plain),
        "bn_gc_add_relu_reduce, block end": (plain, plain, None, None),
        "bn_gc_add_relu_input_grads": (plain, plain, plain, rows, torch.randn(1, c)),
        "bn_relu_maxpool": (leaf(*x), *norm(c), True),
        "tap_gemm": (leaf(*x), leaf(1, c, c), leaf(c), leaf(*x), *norm(c), 1, False, True, True),
        "tap_gemm, bias per sample": (leaf(*x), leaf(1, c, c), leaf(1, c), leaf(*x), *none, "", 1, False, True, False),
        "tap_dgrad": (plain, torch.randn(1, c, c), plain, vector, vector, None, None, 1),
        "tap_dgrad, bias per sample": (plain, torch.randn(1, c, c), plain, vector, vector, torch.randn(1, c), None, 1),
        "tap_wgrad": (plain, plain, vector, vector, 1, 1),
    } | {"bn_gc_add_relu, bare": (*tail, *none, *none, "")}


@pytest.mark.parametrize("name", list(arguments()))
def test_opcheck(name):
    operator = getattr(OPS, name.split(",")[0]).default
    torch.library.opcheck(operator, arguments()[name])


def test_every_operator_is_checked():
    registered = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names()
                  if name.startswith("fastplan::")}  # fmt: skip
    assert registered == {name.split(",")[0] for name in arguments()}


def test_compiled_training_step():
    """torch.compile sees opaque operators here; one graph, the same loss and gradients."""
    net, x = TwoBlocks(), torch.randn(2, WIDTH, 2, 6, 6)
    assert set_kernels(net, "auto").runs == "fused"
    results = []
    for step in (net, torch.compile(net, backend="aot_eager", fullgraph=True)):
        net.zero_grad()
        loss = step(x).square().sum()
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in net.parameters())])
    for eager, compiled in zip(*results, strict=True):
        assert torch.allclose(eager, compiled, rtol=1e-5, atol=1e-6)


def calls():
    vectors = Norm(*torch.ones(4, 16))
    context = Context(torch.zeros(1, 16), torch.zeros(1, 16), torch.zeros(1), torch.zeros(16, 1), torch.zeros(16))
    return {
        "channel_stats": fused.channel_stats,
        "bn_relu_apply": lambda x: fused.bn_relu_apply(x, vectors),
        "bn_gc_add_relu": lambda x: fused.bn_gc_add_relu(x, x, vectors, context=context),
        "bn_relu_maxpool": lambda x: fused.bn_relu_maxpool(x, vectors, window=(1, 3, 3)),
        "tap_gemm": lambda x: fused.tap_gemm(x, torch.zeros(1, 16, 16), norm=vectors),
        "tap_gemm_fork": lambda x: fused.tap_gemm_fork(x, torch.zeros(1, 16, 16)),
        "conv_gc_add_relu": lambda x: fused.conv_gc_add_relu(
            x, torch.zeros(1, 16, 16), x, bias_C=torch.zeros(16), context=context, norm=vectors
        ),
    }


@pytest.mark.parametrize("name", list(calls()))
def test_rejects_what_it_cannot_address(name):
    call, x = calls()[name], torch.zeros(1, 2, 4, 4, 16)
    call(x)
    with pytest.raises(ValueError, match=f"{name}: .* contiguous"):
        call(torch.zeros(1, 16, 2, 4, 4).permute(0, 2, 3, 4, 1))
    with pytest.raises(ValueError, match="dimensions"):
        call(x[0])
    with pytest.raises(ValueError, match="int32"):
        call(x.int())
    with pytest.raises(ValueError, match="empty"):
        call(x[:0])


def test_rejects_vectors_that_do_not_fit():
    x = torch.zeros(1, 1, 2, 2, 16)
    with pytest.raises(ValueError, match=r"norm\.scale has shape"):
        fused.bn_relu_apply(x, Norm(*torch.ones(4, 8)))
    with pytest.raises(ValueError, match=r"norm\.scale is torch\.bfloat16"):
        fused.bn_relu_apply(x, Norm(*torch.ones(4, 16, dtype=torch.bfloat16)))
    with pytest.raises(ValueError, match="shapes differ"):
        fused.bn_gc_add_relu(x, x[:, :, :1], Norm(*torch.ones(4, 16)))


def test_one_call_of_each_public_operator_is_listed():
    assert set(calls()) | {"bn_finalize"} == set(fused.__all__)
