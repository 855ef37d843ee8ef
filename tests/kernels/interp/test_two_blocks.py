"""Training two blocks in fp32 with the kernels is training them without."""

import copy

import torch
from on_off import LABELS, WIDTH, TwoBlocks
from oracle import relative_error

from fastplan.ops import set_kernels


def train(network, batches):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    losses = []
    for x in batches:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x), LABELS)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def test_three_steps():
    """Against composed PyTorch in fp64: losses to 1e-5, weights and statistics to 1e-4, and no more than four times as
    far off as composed PyTorch in fp32.
    """
    off = TwoBlocks()
    exact, on = copy.deepcopy(off).double(), copy.deepcopy(off)
    assert set_kernels(on, "auto").runs == "fused"
    batches = [torch.randn(2, WIDTH, 3, 9, 9) for _ in range(3)]
    want = train(exact, [x.double() for x in batches])
    losses = {"off": (off, train(off, batches)), "on": (on, train(on, batches))}
    for name, (trained, loss) in losses.items():
        assert relative_error(loss, want) < 1e-5, f"{name}: losses {loss} against {want}"
        for key, value in exact.state_dict().items():
            error = relative_error(trained.state_dict()[key], value) if value.is_floating_point() else 0
            assert error < 1e-4, f"{name}: {key} off by {error:.1e}"
    weights = [torch.cat([p.flatten() for p in network.parameters()]) for network in (exact, off, on)]
    drift, ours = relative_error(weights[1], weights[0]), relative_error(weights[2], weights[0])
    assert ours < 4 * drift, f"kernels drift {ours:.1e}, composed {drift:.1e}"
