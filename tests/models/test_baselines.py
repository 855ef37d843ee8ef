"""Every family: equal to plain Conv3d and BatchNorm3d layers, and as its paper writes it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastplan.configs import shipped
from fastplan.errors import UserError
from fastplan.models.blocks import Basic, Bottleneck, GlobalContext
from fastplan.models.c3d import C3DSpec
from fastplan.models.dg_p3d import DGP3DSpec
from fastplan.models.interface import NetworkSpec
from fastplan.models.layers import BatchNorm, FullConv, SpatialConv, StemConv, TemporalConv, pool_space, pool_time
from fastplan.models.networks import NETWORKS, build_network
from fastplan.models.pathway import I3D_TAPS, NonLocal, PathwaySpec
from fastplan.models.r2plus1d import R2Plus1DSpec
from fastplan.models.resnets import Diffusion, ResNetSpec
from fastplan.models.s3d import S3DSpec
from fastplan.models.slowfast import SlowFastSpec
from fastplan.ops import set_kernels
from fastplan.planner.plans import Plan
from fastplan.planner.states import check_clip_lengths

ONE = (1, 1, 1, 1)
THREE = (1, 2, 1, 1)  # blocks of all three kinds
SMALL: dict[
    str, tuple[NetworkSpec, tuple[int, int]]
] = {  # every family with few blocks: its specification, and the clip it is tried on
    "dg_p3d": (DGP3DSpec(Bottleneck, THREE, groups=4, width_per_group=16, stem_kernel=3, deep_stem=True), (16, 32)),
    "dg_p3d_basic": (DGP3DSpec(Basic, THREE), (16, 32)),
    "p3d": (ResNetSpec("pseudo", layers=THREE), (8, 32)),
    "lgd_p3d": (ResNetSpec("pseudo", diffusion=True, layers=THREE), (8, 32)),
    "r2p1d": (ResNetSpec("factored", layers=ONE), (8, 32)),
    "i3d": (ResNetSpec("full", layers=ONE), (8, 32)),
    "r2plus1d": (R2Plus1DSpec(ONE), (8, 16)),
    "c3d": (C3DSpec(hidden=16), (16, 16)),
    "s3dg": (S3DSpec(gating=True), (8, 32)),
    "i3d_nln": (PathwaySpec(THREE, I3D_TAPS, 5, (2, 2), pool=2, nonlocals=frozenset({(2, 0), (3, 0)})), (16, 32)),
    "slowfast": (SlowFastSpec(ONE, alpha=4, lateral_taps=5), (8, 32)),
}
PLAIN = {
    SpatialConv: nn.Conv3d,
    TemporalConv: nn.Conv3d,
    StemConv: nn.Conv3d,
    FullConv: nn.Conv3d,
    BatchNorm: nn.BatchNorm3d,
}


@pytest.mark.parametrize("name", list(SMALL))
def test_a_network_on_views_is_the_network_of_plain_3d_layers(name):
    """In double precision and training mode: logits, running statistics and the gradient of every weight."""
    spec, (frames, size) = SMALL[name]
    torch.manual_seed(0)
    network = spec.build(4, 0.0).double().to(memory_format=torch.channels_last_3d)
    for module in network.modules():
        if isinstance(module, BatchNorm):  # nothing may hide behind a zero
            nn.init.uniform_(module.weight, 0.5, 1.5)
        elif isinstance(module, Diffusion):
            nn.init.normal_(module.to_local[1].weight)
        elif isinstance(module, GlobalContext):
            nn.init.normal_(module.fc2.weight)
    plain = copy.deepcopy(network)
    for module in plain.modules():
        module.__class__ = PLAIN.get(type(module), type(module))
    clips = torch.randn(2, 3, frames, size, size, dtype=torch.float64)
    ours, theirs = network(clips.contiguous(memory_format=torch.channels_last_3d)), plain(clips)
    assert len(ours) == len(network.classifiers())
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == (2, 4)
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    labels = torch.tensor([1, 3])
    for logits in (ours, theirs):
        sum(F.cross_entropy(head, labels) for head in logits).backward()
    for (key, ours_p), theirs_p in zip(network.named_parameters(), plain.parameters(), strict=True):
        scale = float(theirs_p.grad.abs().max())
        torch.testing.assert_close(
            ours_p.grad, theirs_p.grad, rtol=0, atol=1e-6 * scale + 1e-12, msg=lambda m, key=key: f"{key}: {m}"
        )
        assert scale > 0, key
    for (key, a), b in zip(network.named_buffers(), plain.buffers(), strict=True):
        if "running" in key:
            torch.testing.assert_close(a, b, msg=lambda m, key=key: key + m)


def test_networks_without_a_fused_form_say_so():
    assert set_kernels(build_network("slow_r50", 2), "reference").runs == "composed"
    assert set_kernels(build_network("dg_p3d_tiny", 2), "reference").runs == "reference"


def test_published_plans_name_networks_that_take_their_clips():
    for file in shipped("plans").values():
        plan = Plan.load(file)
        name = plan.config["network"]["name"]
        spec = NETWORKS[name]
        states = [leg.state for leg in plan.legs]
        check_clip_lengths(states, multiple=spec.multiple, least=spec.least, network=name)


@pytest.mark.parametrize(("taps", "kernel", "stride", "pad"), [(3, 3, 2, 1), (3, 3, 1, 1), (2, 2, 2, 0), (1, 3, 2, 1)])
def test_pooling_space_and_time_is_the_3d_pool(taps, kernel, stride, pad):
    x = torch.randn(2, 4, 8, 9, 7).contiguous(memory_format=torch.channels_last_3d)
    time_stride, time_pad = (1, 0) if taps == 1 else (stride, pad)
    wanted = F.max_pool3d(x, (taps, kernel, kernel), (time_stride, stride, stride), (time_pad, pad, pad))
    found = pool_time(pool_space(x, kernel, stride=stride, pad=pad), taps, stride=time_stride, pad=time_pad)
    assert torch.equal(found, wanted)


def test_a_non_local_block_is_its_formula():
    torch.manual_seed(0)
    block = NonLocal(8).double().eval()
    nn.init.uniform_(block.bn.weight)
    x = torch.randn(2, 8, 3, 4, 6, dtype=torch.float64)
    keys = F.max_pool3d(x, (1, 2, 2)).flatten(2).mT
    scores = block.a(x.flatten(2).mT) @ block.b(keys).mT / 4**0.5
    y = (scores.softmax(2) @ block.c(keys)).mT.unflatten(2, (3, 4, 6))
    wanted = x + block.bn(F.conv3d(y, block.out.weight))
    torch.testing.assert_close(block(x), wanted, rtol=1e-10, atol=1e-10)
    nn.init.zeros_(block.bn.weight)
    assert torch.equal(block(x), x)


def test_a_non_local_block_needs_no_matrix_of_all_pairs_of_positions():
    """The fused product alone is allowed: it raises where its inputs are not of the form that it takes."""
    block, x = NonLocal(16), torch.randn(2, 16, 4, 8, 8, requires_grad=True)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        block(x).sum().backward()


def test_lgd_answers_with_its_local_head_and_trains_both():
    network = SMALL["lgd_p3d"][0].build(4, 0.5)
    clips = torch.randn(2, 3, 4, 32, 32)
    assert len(network.train()(clips)) == 2
    assert len(network.eval()(clips)) == 1
    assert network.classifiers() == (network.fc, network.fc_global)


def test_the_slow_pathway_sees_every_alphath_frame():
    """Weights of the fast pathway's stem at zero: the other frames change nothing."""
    torch.manual_seed(0)
    network = SlowFastSpec(ONE, alpha=4, lateral_taps=5).build(4, 0.0).eval()
    nn.init.zeros_(network.fast.conv.weight)
    clips = torch.randn(1, 3, 8, 32, 32)
    changed = clips.clone()
    changed[:, :, [1, 2, 3, 5, 6, 7]] = 0
    assert torch.equal(network(clips)[0], network(changed)[0])
    changed[:, :, 4] = 0
    assert not torch.equal(network(clips)[0], network(changed)[0])


def test_c3d_keeps_its_features_at_the_published_size():
    """16 frames of 112 pixels leave one position in time and 4 x 4 in space: the averages do nothing there."""
    seen = []
    with torch.device("meta"):
        network = build_network("c3d", 101)
        network.groups[4][1].register_forward_hook(lambda m, i, y: seen.append(tuple(y.shape[2:])))
        network(torch.zeros(1, 3, 16, 112, 112))
        network(torch.zeros(1, 3, 24, 80, 96))
    assert seen[0] == (2, 7, 7)  # the last pool, of 2 x 2 x 2 with a border in space, makes 1 x 4 x 4 of it
    assert network.fc6.in_features == 512 * 4 * 4


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_least_clip_passes_and_a_shorter_one_is_refused(name):
    spec = NETWORKS[name]
    with torch.device("meta"):
        network = build_network(name, 5).eval()
        heads = network(torch.zeros(2, 3, spec.least, 64, 64))
        assert all(head.shape == (2, 5) for head in heads)
        assert all(layer.out_features == 5 for layer in network.classifiers())
        if spec.least > 1:
            with pytest.raises(UserError, match=f"needs .*{spec.least}"):
                network(torch.zeros(2, 3, spec.least - 1, 64, 64))
        if spec.multiple > 1:
            with pytest.raises(UserError, match=f"a multiple of {spec.multiple}"):
                network(torch.zeros(2, 3, 2 * spec.least + 1, 64, 64))


def test_whole_networks_are_in_channels_last():
    """Weights of four and five dimensions carry the layout; a fresh network takes and keeps it."""
    network = build_network("slowfast_r50_8x8", 3)
    weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv3d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last_3d) for weight in weights)
