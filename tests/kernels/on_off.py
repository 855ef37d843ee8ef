"""Networks that run twice: composed, and on what `set_kernels` gives. Used in both processes.

`bottleneck` has two blocks in each of its first two layers, so that it holds A, B and C with and without a stride, a
projection with and without a stride, and 11 merged taps; `tiny` has basic blocks and channels that no GEMM takes.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F

from fastplan.kernels import table
from fastplan.models.blocks import Bottleneck, GlobalContext
from fastplan.models.dg_p3d import DGP3DSpec
from fastplan.models.layers import BatchNorm
from fastplan.models.networks import NETWORKS
from fastplan.ops import set_kernels

SPECS = {
    "tiny": NETWORKS["dg_p3d_tiny"],
    "bottleneck": DGP3DSpec(
        Bottleneck, (2, 2, 1, 1), (16, 16, 16, 16), stem_width=16, stem_kernel=3, context_reduction=8
    ),
}
LABELS = torch.tensor([1, 3])
WIDTH = 32


class TwoBlocks(torch.nn.Module):
    """P3D-A with an identity, P3D-C of stride 2 with a projection, a classifier: [N, 32, T, H, W] to [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        options = {"reduction": 8, "width": 16, "groups": 1}
        self.blocks = torch.nn.Sequential(
            Bottleneck(WIDTH, 8, "A", stride=1, **options), Bottleneck(WIDTH, 8, "C", stride=2, **options)
        )
        self.fc = torch.nn.Linear(WIDTH, 5)

    def forward(self, x_NCTHW):
        return self.fc(self.blocks(x_NCTHW).mean((2, 3, 4)))


def pair(name, mode, dtype=torch.float64):
    """(off, on) of one network with the same weights; its context and its statistics are as if it were trained."""
    torch.manual_seed(0)
    network = SPECS[name].build(5, 0.0).to(dtype)
    for module in network.modules():
        if isinstance(module, GlobalContext):
            torch.nn.init.normal_(module.fc2.weight, std=0.3)
        if isinstance(module, BatchNorm):
            for values, low in ((module.weight, 0.5), (module.running_var, 0.5), (module.bias, -0.5)):
                torch.nn.init.uniform_(values, low, low + 1)
            torch.nn.init.normal_(module.running_mean, std=0.2)
    on = copy.deepcopy(network)
    choice = set_kernels(on, mode)
    assert choice.runs == ("fused" if mode == "auto" else mode), choice
    return network, on


def every_convolution_a_gemm(monkeypatch):
    """Where the table can choose: else fp32 and fp64, whose products cost more, would leave 11 taps to cuDNN."""
    monkeypatch.setattr(table, "BREAK_EVEN_FP32", float("inf"))


def clips(samples=2, frames=16, height=18, width=21, dtype=torch.float64):
    """Pictures of odd sizes after the stem and after every layer."""
    return torch.randn(samples, 3, frames, height, width, dtype=dtype)


def step(network, x_NCTHW):
    """Logits, loss, every gradient and every buffer, by name, of one pass in both directions."""
    network.zero_grad()
    heads = network(x_NCTHW)
    loss = sum(F.cross_entropy(head.float() if x_NCTHW.dtype != torch.float64 else head, LABELS[: len(x_NCTHW)])
               for head in heads)  # fmt: skip
    loss.backward()
    named = {"head 1": heads[0].detach(), "head 2": heads[1].detach(), "loss": loss.detach()}
    named |= {f"gradient of {name}": p.grad for name, p in network.named_parameters() if p.requires_grad}
    return named | {name: value.clone() for name, value in network.named_buffers()}


def assert_first_of_ties_wins(network, frames):
    """`network`'s pool over time gives a window's gradient to its first maximum alone; many of these windows tie.

    Frames that fill no window of four have none; where there are fewer than four they are one window.
    """
    x_NCTHW = torch.randint(0, 3, (2, 16, frames, 3, 5)).to(next(network.parameters()).dtype)
    x_NCTHW = x_NCTHW.to(memory_format=torch.channels_last_3d).requires_grad_()
    taps = min(4, frames)
    windows = x_NCTHW.detach()[:, :, : frames // taps * taps].unflatten(2, (-1, taps)).numpy()
    assert ((windows == windows.max(3, keepdims=True)).sum(3) > 1).mean() > 0.3
    y_NCTHW = network._pool_time(x_NCTHW)
    gradient = torch.randint(1, 4, y_NCTHW.shape).to(y_NCTHW.dtype)
    y_NCTHW.backward(gradient)
    first = windows.argmax(3)[:, :, :, None] == np.arange(taps)[:, None, None]  # of numpy's argmax it is documented
    want = torch.zeros_like(x_NCTHW)
    want[:, :, : frames // taps * taps] = (gradient[:, :, :, None] * torch.from_numpy(first)).flatten(2, 3)
    assert torch.equal(y_NCTHW.detach(), torch.from_numpy(windows.max(3)))
    assert torch.equal(x_NCTHW.grad, want)


def assert_same(got, want, tolerance):
    """Equal names; every tensor within `tolerance` of the largest gradient or of its own norm."""
    assert got.keys() == want.keys()
    scale = max((float(v.norm()) for name, v in want.items() if name.startswith("gradient")), default=0.0)
    for name, value in want.items():
        if not value.is_floating_point():
            assert torch.equal(got[name], value), name
            continue
        floor = 1e-3 * scale if name.startswith("gradient") else 1e-30
        error = float((got[name].double() - value.double()).norm()) / max(float(value.double().norm()), floor)
        assert error <= tolerance, f"{name}: relative error {error:.1e}"
