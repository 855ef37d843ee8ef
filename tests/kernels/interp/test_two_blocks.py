"""Training with the kernels is training without them."""

import copy

import torch
from oracle import relative_error
from two_blocks import WIDTH, TwoBlocks, forward

from fastplan.kernels import fused, reference


def train(step, net, batches):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    losses = []
    for x, label in batches:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(step(net, x), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def test_three_steps():
    """fp32 kernels and fp32 torch.nn against torch.nn in fp64: the kernels drift no more than four times as
    far.
    """
    net = TwoBlocks()
    batches = [(torch.randn(2, WIDTH, 3, 9, 9), torch.randint(5, (2,))) for _ in range(3)]
    exact, plain, on, off = (copy.deepcopy(net) for _ in range(4))
    want = train(lambda n, x: n(x), exact.double(), [(x.double(), label) for x, label in batches])
    nthwc = [(x.permute(0, 2, 3, 4, 1).contiguous(), label) for x, label in batches]
    losses = {
        "torch.nn": (plain, train(lambda n, x: n(x), plain, batches)),
        "kernels": (on, train(lambda n, x: forward(fused, n, x), on, nthwc)),
        "reference": (off, train(lambda n, x: forward(reference, n, x), off, nthwc)),
    }
    for name, (trained, loss) in losses.items():
        assert relative_error(loss, want) < 1e-5, f"{name}: losses {loss} against {want}"
        for key, value in exact.state_dict().items():
            error = relative_error(trained.state_dict()[key], value) if value.is_floating_point() else 0
            assert error < 1e-4, f"{name}: {key} off by {error:.1e}"
    weights = [torch.cat([p.flatten() for p in n.parameters()]) for n in (exact, plain, on)]
    drift, ours = relative_error(weights[1], weights[0]), relative_error(weights[2], weights[0])
    assert ours < 4 * drift, f"kernels drift {ours:.1e}, torch.nn {drift:.1e}"
