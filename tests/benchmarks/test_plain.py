"""The network that ours is measured beside: the same numbers in double precision, by 3-D operators alone."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fastplan.benchmarks.plain import PlainDGP3D
from fastplan.models.blocks import Bottleneck, GlobalContext
from fastplan.models.dg_p3d import DGP3DSpec
from fastplan.models.networks import NETWORKS

SPECS = {
    "tiny": NETWORKS["dg_p3d_tiny"],
    "bottleneck": DGP3DSpec(Bottleneck, (2, 1, 1, 1), (16, 16, 16, 16), stem_width=16, stem_kernel=3, bn_eps=2e-5),
    "groups, deep stem": DGP3DSpec(
        Bottleneck,
        (1, 1, 1, 1),
        (8, 8, 8, 8),
        groups=2,
        stem_width=8,
        stem_kernel=3,
        deep_stem=True,
        context_reduction=4,
    ),
}


class Operators(TorchDispatchMode):
    """Names of the operators that ran, with the dimensions of their first argument."""

    def __init__(self):
        super().__init__()
        self.ran = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if isinstance(args[0], torch.Tensor):
            self.ran.add((func.overloadpacket.__name__, args[0].ndim))
        return func(*args, **(kwargs or {}))


def pair(name):
    torch.manual_seed(0)
    ours = SPECS[name].build(5, 0.0).double().to(memory_format=torch.channels_last_3d)
    for module in ours.modules():
        if isinstance(module, GlobalContext):
            torch.nn.init.normal_(module.fc2.weight, std=0.3)
    plain = PlainDGP3D(SPECS[name], 5, dropout=0.0).double()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def step(network, clips_NCTHW):
    loss = sum(F.cross_entropy(head, torch.tensor([1, 3])) for head in network(clips_NCTHW))
    loss.backward()
    return loss


@pytest.mark.parametrize("frames", [4, 16])
@pytest.mark.parametrize("name", list(SPECS))
def test_the_same_numbers(name, frames):
    """In training, gradients and moved statistics included; then in evaluation with those statistics."""
    ours, plain = pair(name)
    clips_NCTHW = torch.randn(2, 3, frames, 33, 38, dtype=torch.float64)
    torch.testing.assert_close(step(ours, clips_NCTHW), step(plain, clips_NCTHW), rtol=1e-11, atol=1e-12)
    wanted = dict(plain.named_parameters())
    assert wanted.keys() == dict(ours.named_parameters()).keys()
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[key].grad, rtol=1e-8, atol=1e-10, msg=key)
    buffers = dict(plain.named_buffers())
    for key, value in ours.named_buffers():
        if "num_batches" not in key:
            torch.testing.assert_close(value, buffers[key], rtol=1e-11, atol=1e-12, msg=key)
    for found, want in zip(ours.eval()(clips_NCTHW), plain.eval()(clips_NCTHW), strict=True):
        torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-12)


def test_three_dimensional_operators_alone():
    ours, plain = pair("bottleneck")
    clips_NCTHW = torch.randn(2, 3, 16, 33, 38, dtype=torch.float64)
    ran = {}
    for name, network in (("ours", ours), ("plain", plain)):
        with Operators() as operators:
            step(network, clips_NCTHW)
        ran[name] = {(op, ndim) for op, ndim in operators.ran if "conv" in op or "pool" in op or "batch_norm" in op}
    assert {ndim for _, ndim in ran["plain"]} == {5} and len(ran["plain"]) >= 6
    assert {ndim for op, ndim in ran["ours"] if "batch_norm" in op or "convolution" in op} == {4}
