"""Two processes with half a batch each train like one with the whole: gloo, BatchNorm statistics merged."""

import copy

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from on_off import LABELS, assert_same, clips, pair

from fastplan.benchmarks.interpreter import leave_out_idle_work
from fastplan.kernels import norm, reference
from fastplan.models.layers import BatchNorm

MODES = ("off", "auto")


def step(network, x, labels, ranks):
    """Losses, gradients and statistics of one step; gradients are averaged over ranks, as data parallelism does."""
    loss = sum(F.cross_entropy(head, labels) for head in network(x))
    loss.backward()
    found = {"loss": loss.detach()} | {f"gradient of {name}": p.grad for name, p in network.named_parameters()}
    if ranks > 1:
        for value in found.values():
            dist.all_reduce(value)
            value /= ranks
    return found | dict(network.named_buffers())


def counted(module, name):
    """The sizes with which a function that adds up over ranks is called from now on."""
    plain, sizes = getattr(module, name), []

    def wrapper(values, group):
        if group:
            sizes.append(values.numel())
        return plain(values, group)

    setattr(module, name, wrapper)
    return sizes


def rank_main(rank, store, x, out):
    torch.set_num_threads(1)
    leave_out_idle_work()
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    results, forward, backward = {}, counted(reference, "_all_reduce"), counted(norm, "sum_over_ranks")
    for mode in MODES:
        network = copy.deepcopy(pair("bottleneck", "auto")[MODES.index(mode)])
        for module in network.modules():
            if isinstance(module, BatchNorm):
                module.group = dist.group.WORLD.group_name
        half = slice(2 * rank, 2 * rank + 2)
        forward.clear(), backward.clear()
        results[mode] = step(network, x[half], LABELS.repeat(2)[half], 2)
    channels = sorted(module.num_features for module in network.modules() if isinstance(module, BatchNorm))
    assert sorted(forward) == [2 * c + 1 for c in channels], "one all-reduce for each BatchNorm"
    assert sorted(backward) == [2 * c for c in channels], "one all-reduce for each BatchNorm, backward"
    torch.save(results, f"{out}.{rank}")
    dist.destroy_process_group()


def test_two_ranks(tmp_path):
    x = clips(samples=4, frames=4)
    want = step(pair("bottleneck", "auto")[0], x, LABELS.repeat(2), 1)
    mp.spawn(rank_main, (tmp_path / "store", x, tmp_path / "out"), nprocs=2)
    for rank in range(2):
        found = torch.load(f"{tmp_path / 'out'}.{rank}")
        for mode in MODES:
            assert_same(found[mode], want, 1e-9)
