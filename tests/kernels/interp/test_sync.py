"""SyncBN: two ranks with half a batch each are one process with the whole batch."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from oracle import assert_close

from fastplan.benchmarks.interpreter import leave_out_idle_work
from fastplan.kernels import fused, reference
from fastplan.kernels.norm import Context

SHAPE = (4, 1, 5, 3, 16)
NAMES = ("y", "dx", "didentity", "dweight", "dbias", "did_weight")


def step(k, x, identity, gradient, group):
    """A block's tail with a downsample BN; parameter gradients are summed over ranks, as data parallelism
    does.
    """
    torch.manual_seed(1)
    channels = x.shape[-1]
    weight, bias, id_weight = (torch.rand(channels, dtype=x.dtype, requires_grad=True) for _ in range(3))
    fc = (torch.randn(1, channels), torch.randn(1), torch.randn(channels, 1), torch.randn(channels))
    x, identity = x.clone().requires_grad_(), identity.clone().requires_grad_()
    stats, id_stats = k.channel_stats(x), k.channel_stats(identity)
    norm = k.bn_finalize(*stats, weight, bias, positions=15, group=group)
    down = k.bn_finalize(*id_stats, id_weight, bias.detach(), positions=15, group=group)
    context = Context(stats[0], *(t.to(x.dtype) for t in fc))
    y = k.bn_gc_add_relu(x, identity, norm, context=context, identity_norm=down)
    grads = torch.autograd.grad(y, (x, identity, weight, bias, id_weight), gradient)
    for grad in grads[2:] if group else ():
        dist.all_reduce(grad)
    return (y.detach(), *grads)


def rank_main(rank, store, inputs, out):
    torch.set_num_threads(1)
    leave_out_idle_work()
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    half = [t[rank * 2 : rank * 2 + 2] for t in inputs]
    name = dist.group.WORLD.group_name
    torch.save([step(k, *half, name) for k in (fused, reference)], f"{out}.{rank}")
    dist.destroy_process_group()


def test_two_ranks(tmp_path):
    inputs = [torch.randn(SHAPE, dtype=torch.float64) + i for i in range(3)]
    want = step(reference, *inputs, "")
    mp.spawn(rank_main, (tmp_path / "store", inputs, tmp_path / "out"), nprocs=2)
    ranks = [torch.load(f"{tmp_path / 'out'}.{rank}") for rank in range(2)]
    for which, k in enumerate(("fused", "reference")):
        first, second = (ranks[rank][which] for rank in range(2))
        for i, name in enumerate(NAMES):
            got = torch.cat([first[i], second[i]]) if i < 3 else first[i]
            assert_close(f"{k} {name}", got, want[i], torch.float64)
